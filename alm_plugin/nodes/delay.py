"""A fixed delay, for lining channels up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Delay:
    """Delay a stream by a whole number of samples.

    Parameters
    ----------
    samples : int
        >= 0; with 0 blocks pass through untouched.
    channels : int
    """

    def __init__(self, samples: int, channels: int) -> None:
        self.samples, self.channels = samples, channels
        self._past = np.zeros((channels, samples), np.float32)

    def process_block(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the block (channels, samples) that entered `samples` ago."""
        if not self.samples:
            return x
        line = np.concatenate([self._past, x], axis=1)
        self._past = line[:, x.shape[1] :]
        return line[:, : x.shape[1]]
