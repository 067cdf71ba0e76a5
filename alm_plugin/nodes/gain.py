"""The gain, and the ramp on which every gain in this package moves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.nodes.node import Audio, Node, in_range
from alm_plugin.units import db_to_factor, factor_to_db, ms_to_samples

MAX_GAIN_DB = 60.0


# A ramp is two factors, a length R and the number t of samples since its start (negative: it has not begun),
#
#     factor(t) = start                             t <= 0
#               = start + (end - start) t / R       0 < t < R
#               = end                               R <= t
#
# which says every sample's factor without its neighbours: however a stream is cut, the samples are the same.
@njit(cache=True, nogil=True)
def factor_at(start, end, t, length):
    """Amplitude factor of a ramp `t` samples after its start."""
    if t <= 0:
        return start
    if t >= length:
        return end
    return start + (end - start) * (t / length)


@njit(cache=True, nogil=True)
def multiply(x, start, end, t, length, out):
    """Write `x` (channels, samples) times the ramp to `out`; `t` is that of the first sample."""
    samples = x.shape[1]
    first = min(max(-t, 0), samples)
    last = min(max(length - t, first), samples)
    for channel in range(x.shape[0]):
        for i in range(first):
            out[channel, i] = x[channel, i] * start
        for i in range(first, last):
            out[channel, i] = x[channel, i] * factor_at(start, end, t + i, length)
        for i in range(last, samples):
            out[channel, i] = x[channel, i] * end


@njit(cache=True, nogil=True)
def multiply_and_add(x, start, end, t, length, out):
    """Add what `multiply` makes of `x` (1 or channels, samples) to `out` (channels, samples): the same samples."""
    settled = min(max(length - t, 0), out.shape[1])
    for channel in range(out.shape[0]):
        row = channel if x.shape[0] > 1 else 0
        for i in range(settled):
            out[channel, i] += np.float32(x[row, i] * factor_at(start, end, t + i, length))
        for i in range(settled, out.shape[1]):
            out[channel, i] += np.float32(x[row, i] * end)


@njit(cache=True, nogil=True)
def multiply_each(x, factors, out):
    """Write `x` (channels, samples) times `factors` (samples,) to `out`."""
    for channel in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[channel, i] = x[channel, i] * factors[i]


class Ramp:
    """An amplitude factor that moves in straight lines; where it is in a stream, and where it goes.

    Attributes
    ----------
    start, end : float
        Factors, >= 0.
    t, length : int
        Samples since the ramp's start (negative before it), and from its start to its end (>= 1).
    """

    __slots__ = ("end", "length", "start", "t")

    def __init__(self, factor: float = 1.0) -> None:
        self.jump(factor)

    def jump(self, factor: float) -> None:
        """Be at a factor from the next sample on."""
        self.start = self.end = factor
        self.t = self.length = 1

    def begin(self, factor: float, delay: int, length: int) -> None:
        """From where it is now: hold for `delay` samples, then move to `factor` in `length`."""
        self.start, self.end = self.present, factor
        self.t, self.length = -delay, length

    @property
    def present(self) -> float:
        """Factor of the next sample."""
        if self.t >= self.length:
            return self.end
        return factor_at(self.start, self.end, self.t, self.length)

    @property
    def is_settled(self) -> bool:
        """Whether it has arrived."""
        return self.t >= self.length

    @property
    def is_unity(self) -> bool:
        """Whether it has arrived at 1."""
        return self.end == 1.0 and self.t >= self.length

    def apply(self, x: Audio, out: Audio) -> None:
        """Write `x` (channels, samples), C-contiguous, times the factor to `out`, and move on."""
        if self.end == 1.0 and self.t >= self.length:
            np.copyto(out, x)
            return
        multiply(x, self.start, self.end, self.t, self.length, out)
        self.t = min(self.t + x.shape[1], self.length)

    def add(self, x: Audio, out: Audio) -> None:
        """Add `x` (1 or channels, samples) times the factor to `out` (channels, samples), and move on."""
        multiply_and_add(x, self.start, self.end, self.t, self.length, out)
        self.t = min(self.t + x.shape[1], self.length)


def warm_up() -> None:
    """Compile the kernels, or load them: the first call of each costs more than a block of audio may take."""
    ramp = Ramp()
    ramp.begin(1.0, 0, 2)
    x = np.zeros((1, 1), np.float32)
    ramp.apply(x, x.copy())
    multiply_each(x, np.zeros(1), x.copy())
    part = np.zeros((2, 2), np.float32)[:, :1]
    for block in (x, part):
        ramp.add(block, x)
        ramp.add(block, part)


class Gain(Node):
    """A gain that moves without clicks: per sample, linear in amplitude.

    Parameters
    ----------
    gain_db : float
        In dB, up to 60; ``-inf`` is silence. Setting it begins a ramp from where the gain is, with the next sample
        processed.
    ramp_ms : float
        Duration of that ramp, > 0.

    Raises
    ------
    ParameterError
        For values outside their range.

    Examples
    --------
    >>> import numpy as np
    >>> gain = Gain(ramp_ms=0.5)
    >>> block = np.ones(4, np.float32)
    >>> gain(block, 8_000)
    array([1., 1., 1., 1.], dtype=float32)
    >>> gain.gain_db = -np.inf
    >>> gain(block, 8_000, reset=False), gain(block, 8_000, reset=False)
    (array([1.  , 0.75, 0.5 , 0.25], dtype=float32), array([0., 0., 0., 0.], dtype=float32))
    """

    def __init__(self, gain_db: float = 0.0, ramp_ms: float = 20.0) -> None:
        warm_up()
        self._ramp = Ramp()
        self._must_begin = False
        self.ramp_ms = ramp_ms
        self.jump(gain_db)

    @property
    def gain_db(self) -> float:
        """Gain in dB where the last move ends."""
        return self._gain_db

    @gain_db.setter
    def gain_db(self, gain_db: float) -> None:
        self._gain_db = in_range("gain_db", gain_db, -math.inf, MAX_GAIN_DB)
        self._must_begin = True

    @property
    def ramp_ms(self) -> float:
        """Duration, in ms, of the ramps that setting `gain_db` begins."""
        return self._ramp_ms

    @ramp_ms.setter
    def ramp_ms(self, ramp_ms: float) -> None:
        if not 0.0 < ramp_ms < math.inf:
            raise ParameterError(f"ramp_ms must be positive, got {ramp_ms}")
        self._ramp_ms = float(ramp_ms)

    @property
    def present_factor(self) -> float:
        """Amplitude factor that the next sample will be multiplied by."""
        return self._ramp.present

    @property
    def present_gain_db(self) -> float:
        """Gain in dB of the next sample."""
        if self._ramp.is_settled and not self._must_begin:
            return self._gain_db
        return float(factor_to_db(self._ramp.present))

    @property
    def is_unity(self) -> bool:
        """Whether samples pass untouched: at 0 dB, with no move under way."""
        return self._ramp.is_unity and not self._must_begin

    def jump(self, gain_db: float) -> None:
        """Be at a gain from the next sample on, without a ramp: for the start of a stream."""
        self.gain_db = gain_db
        self.reset()

    def schedule(self, gain_db: float, delay_samples: int, ramp_samples: int) -> None:
        """Hold the present gain for `delay_samples` (>= 0), then move to `gain_db` within `ramp_samples` (>= 1)."""
        if delay_samples < 0 or ramp_samples < 1:
            raise ParameterError(
                f"delay_samples must be >= 0 and ramp_samples >= 1, got {delay_samples} and {ramp_samples}"
            )
        gain_db = in_range("gain_db", gain_db, -math.inf, MAX_GAIN_DB)
        schedule([self], [gain_db], int(delay_samples), int(ramp_samples))

    def reset(self) -> None:
        """Be at `gain_db`, whatever move was under way."""
        self._must_begin = False
        self._ramp.jump(float(db_to_factor(self._gain_db)))

    def _follow(self, sample_rate: int) -> None:
        if self._must_begin:
            self.schedule(self._gain_db, 0, max(1, ms_to_samples(self._ramp_ms, sample_rate)))

    def follow(self, x: Audio, gains_db: NDArray[np.float64]) -> Audio:
        """Multiply a block (channels, samples) by a gain in dB for each of its samples; the last one stays."""
        self.jump(float(gains_db[-1]))
        out = np.empty(x.shape, np.float32)
        multiply_each(np.ascontiguousarray(x), db_to_factor(gains_db), out)
        return out

    def add_block(self, x: Audio, out: Audio, sample_rate: int) -> None:
        """Add what `process_block` makes of the next block (1 or channels, samples) to `out` (channels, samples)."""
        self._follow(sample_rate)
        self._ramp.add(x, out)

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Multiply the next block (channels, samples); see `Node.process_block`."""
        self._follow(sample_rate)
        out = np.empty(x.shape, np.float32)
        self._ramp.apply(np.ascontiguousarray(x), out)
        return out


def schedule(gains: Sequence[Gain], gains_db: Sequence[float], delay_samples: int, ramp_samples: int) -> None:
    """`Gain.schedule` for several, each to its own of `gains_db`: what numpy costs is paid once for all."""
    for gain, gain_db, factor in zip(gains, gains_db, db_to_factor(gains_db).tolist(), strict=True):
        if not gain_db <= MAX_GAIN_DB:
            in_range("gain_db", gain_db, -math.inf, MAX_GAIN_DB)
        vars(gain).update(_gain_db=gain_db, _must_begin=False)
        gain._ramp.begin(factor, delay_samples, ramp_samples)
