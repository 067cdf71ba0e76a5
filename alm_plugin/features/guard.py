"""Samples that cannot be sound, mended before they spread."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LIMIT = np.float32(1e6)
"""120 dB over full scale."""


@njit(cache=True, nogil=True)
def count_bad(x):
    """NaN, infinite and monstrous samples in `x` (channels, samples)."""
    bad = 0
    for channel in range(x.shape[0]):
        for i in range(x.shape[1]):
            if not abs(x[channel, i]) <= LIMIT:
                bad += 1
    return bad


def mend(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Return `x` with NaN, infinities and what exceeds 120 dBFS replaced by 0, and how many; `x` itself if none."""
    bad = count_bad(x)
    return (np.where(np.abs(x) <= LIMIT, x, np.float32(0.0)), bad) if bad else (x, 0)
