"""Samples that are not numbers, mended before they spread."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def count_bad(x):
    """NaN and infinite samples in `x` (channels, samples)."""
    bad = 0
    for channel in range(x.shape[0]):
        for i in range(x.shape[1]):
            if not np.isfinite(x[channel, i]):
                bad += 1
    return bad


def mend(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Return `x` with NaN and infinities replaced by 0, and how many there were; `x` itself if there were none."""
    bad = count_bad(x)
    return (np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), bad) if bad else (x, 0)
