"""Integrated loudness of a programme (ITU-R BS.1770-5), measured as it streams by."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from alm_plugin.features.clock import boundary
from alm_plugin.features.levels import FLOOR_POWER, RELATIVE_GATE_LU, k_weighting, lufs, measure

HOP_MS = 100
HOPS_PER_BLOCK = 4


class IntegratedLoudness:
    """Gated loudness of a mono or stereo stream: 400 ms blocks, three quarters overlapping, gates -70 LUFS and -10 LU.

    Parameters
    ----------
    sample_rate : int
    channels : {1, 2}
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate = sample_rate
        self.channels = channels
        self._coefficients = k_weighting(sample_rate)
        self._state = np.zeros((1, 2, 4))
        self._widths = np.array([channels])
        self._hop = np.zeros((1, 2, boundary(1, sample_rate, HOP_MS)), np.float32)
        self._squares = np.zeros((1, 2))
        self._powers = array("f")
        self._position = 0

    def process_block(self, x: NDArray[np.float32]) -> None:
        """Hear the next block (channels, samples)."""
        done = 0
        while done < x.shape[1]:
            hop = len(self._powers)
            start = boundary(hop, self.sample_rate, HOP_MS)
            end = boundary(hop + 1, self.sample_rate, HOP_MS)
            take = min(end - self._position, x.shape[1] - done)
            at = self._position - start
            self._hop[0, : self.channels, at : at + take] = x[:, done : done + take]
            done += take
            self._position += take
            if self._position == end:
                measure(self._hop, self._widths, end - start, self._coefficients, self._state, self._squares)
                # BS.1770 adds the channels' powers; `measure` gives their mean.
                self._powers.append(self._squares[0, 1] * self.channels)

    @property
    def hop_powers(self) -> NDArray[np.float64]:
        """K-weighted power, summed over the channels, of every complete 100 ms so far: (hops,)."""
        return np.array(self._powers, np.float64)

    @property
    def lufs(self) -> float:
        """Loudness of everything heard, ``-inf`` while no block has passed the gates."""
        return gated_lufs(self.hop_powers)


def gated_lufs(hop_powers: NDArray[np.float64]) -> float:
    """Integrated loudness of a programme from its K-weighted power every 100 ms, (hops,)."""
    if len(hop_powers) < HOPS_PER_BLOCK:
        return -np.inf
    blocks = np.convolve(hop_powers, np.full(HOPS_PER_BLOCK, 1.0 / HOPS_PER_BLOCK), "valid")
    blocks = blocks[blocks > FLOOR_POWER]
    if not blocks.size:
        return -np.inf
    blocks = blocks[blocks > blocks.mean() * 10.0 ** (RELATIVE_GATE_LU / 10.0)]
    return float(lufs(blocks.mean()))
