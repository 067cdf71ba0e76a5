"""Where a channel stands between left and right."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.nodes.gain import Ramp, multiply_each, warm_up
from alm_plugin.nodes.node import Audio, Node, in_range
from alm_plugin.units import ms_to_samples

RAMP_MS = 20.0


# Constant power, 0 dB in the centre: with theta = (pan + 1) pi / 4,
#
#     left  = sqrt(2) cos(theta) = sqrt(1 + cos(2 theta)) = sqrt(1 - sin(pan pi / 2))
#     right = sqrt(2) sin(theta) = sqrt(1 - cos(2 theta)) = sqrt(1 + sin(pan pi / 2))
#
# The last form is exactly 1 in the centre and exactly 0 at the far side. A stereo signal has its own left and right:
# there nothing is raised, the side turned away from only falls.
def pan_factors(pan: float, channels: int) -> tuple[float, float]:
    """Amplitude factors of left and right for a mono (`channels` 1) or stereo (2) signal; `pan` in [-1, 1].

    >>> pan_factors(0.0, 1), pan_factors(-1.0, 2)
    ((1.0, 1.0), (1.0, 0.0))
    """
    s = math.sin(pan * math.pi / 2.0)
    left, right = math.sqrt(1.0 - s), math.sqrt(1.0 + s)
    return (left, right) if channels == 1 else (min(1.0, left), min(1.0, right))


class Pan(Node):
    """Place a mono signal between left and right, or balance a stereo one.

    Parameters
    ----------
    pan : float
        -1 (left) to 1 (right). A mono signal keeps its power, at 0 dB in the centre, and comes out as (2, samples):
        the one exception to "same layout out". A stereo signal only loses the side turned away from. Setting it moves
        there within 20 ms.

    Raises
    ------
    ParameterError
        For a pan outside its range, and signals of more than 2 channels.

    Examples
    --------
    >>> import numpy as np
    >>> Pan(-1.0)(np.ones(2, np.float32), 48_000)
    array([[1.4142135, 1.4142135],
           [0.       , 0.       ]], dtype=float32)
    >>> Pan(-1.0)(np.ones((2, 3), np.float32), 48_000)
    array([[1., 1., 1.],
           [0., 0., 0.]], dtype=float32)
    """

    def __init__(self, pan: float = 0.0) -> None:
        warm_up()
        self._ramps = (Ramp(), Ramp())
        self._channels = 0
        self.pan = pan

    @property
    def pan(self) -> float:
        """Position, -1 (left) to 1 (right), where the last move ends."""
        return self._pan

    @pan.setter
    def pan(self, pan: float) -> None:
        self._pan = in_range("pan", pan, -1.0, 1.0)
        self._must_begin = True

    @property
    def is_unity(self) -> bool:
        """Whether samples pass untouched: in the centre since the last block, with no move under way."""
        left, right = self._ramps
        return self._channels > 0 and not self._must_begin and left.is_unity and right.is_unity

    def reset(self) -> None:
        """Be at `pan`, whatever move was under way."""
        self._channels = 0

    def output_channels(self, channels: int) -> int:
        """2."""
        if channels not in (1, 2):
            raise ParameterError(f"pan takes a signal of 1 or 2 channels, got {channels}")
        return 2

    def follow(self, x: Audio, pans: NDArray[np.float64]) -> Audio:
        """Place a block (1 or 2, samples), with a position for each of its samples; the last one stays."""
        if x.shape[0] > 2:
            raise ParameterError(f"pan takes a signal of 1 or 2 channels, got {x.shape[0]}")
        # `pan_factors` of arrays.
        s = np.sin(pans * math.pi / 2.0)
        sides = np.sqrt(1.0 - s), np.sqrt(1.0 + s)
        out = np.empty((2, x.shape[1]), np.float32)
        for side in range(2):
            factors = sides[side] if x.shape[0] == 1 else np.minimum(sides[side], 1.0)
            multiply_each(x[side % x.shape[0]][None], factors, out[side : side + 1])
        self.pan = float(pans[-1])
        self.reset()  # it is there already: no ramp
        return out

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Place the next block (1 or 2, samples): (2, samples); see `Node.process_block`."""
        channels = x.shape[0]
        out = np.empty((self.output_channels(channels), x.shape[1]), np.float32)
        if self._must_begin or channels != self._channels:
            length = max(1, ms_to_samples(RAMP_MS, sample_rate))
            for ramp, factor in zip(self._ramps, pan_factors(self._pan, channels), strict=True):
                if channels == self._channels:
                    ramp.begin(factor, 0, length)
                else:
                    ramp.jump(factor)
            self._channels = channels
            self._must_begin = False
        x = np.ascontiguousarray(x)
        self._ramps[0].apply(x[:1], out[:1])
        self._ramps[1].apply(x[-1:], out[1:])
        return out
