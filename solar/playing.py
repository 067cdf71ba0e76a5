"""Who plays: the paper's threshold, and one that is learnt from a reference."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.clock import boundary
from alm_plugin.units import factor_to_db
from solar.bands import check_rate

PAPER_THRESHOLD = 1e-3
"""RMS over 10 ms (section 6.1)."""

PART_MS = 10

LOUD_PERCENTILE = 90.0
QUIETEST_DB = -60.0
"""Level relative to a stem's loud seconds that is as good as silence."""

LEAST_GAP_DB = 8.0
TWO_CLASSES = 0.7
"""Share of the variance between two classes that says they are two: halves of a normal distribution have 0.64."""

ALWAYS_DB = -30.0
"""Threshold of a stem that never rests in its reference, relative to its loud seconds."""

FAINTEST_DB = -120.0
"""Gain under which nothing is heard but rounding."""

HYSTERESIS_DB = 3.0
FORGET_DB = 0.25
"""Per second: how fast the loudest that was heard of a stem is forgotten, where its gain is judged."""


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def measure_parts(x, ends, out):
    """`x` (stems, samples), `ends` of the parts; `out` (stems,) largest RMS of a part."""
    for stem in range(x.shape[0]):
        start = 0
        most = 0.0
        for end in ends:
            part = x[stem, start:end]
            total = 0.0
            for i in range(len(part)):
                value = np.float64(part[i])
                total += value * value
            most = max(most, total / len(part))
            start = end
        out[stem] = np.sqrt(most)


def part_ends(sample_rate: int) -> NDArray[np.int64]:
    """Where each 10 ms of a second end."""
    return np.array([boundary(part + 1, sample_rate, PART_MS) for part in range(1000 // PART_MS)])


def loudest_rms(second: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """Largest RMS of the 10 ms parts of a second: (S, sample_rate) to (S,).

    >>> second = np.zeros((2, 48_000))
    >>> second[1, 480:960] = 0.5
    >>> loudest_rms(second, 48_000).tolist()
    [0.0, 0.5]
    """
    rate = check_rate(sample_rate)
    if second.ndim != 2 or second.shape[1] != rate:
        raise ParameterError(f"second must have shape (stems, {rate}), got {second.shape}")
    out = np.empty(len(second))
    measure_parts(np.ascontiguousarray(second), part_ends(rate), out)
    return out


def is_playing(loudest_rms: ArrayLike, threshold: float = PAPER_THRESHOLD) -> NDArray[np.bool_]:
    """Say who plays as the paper does: whoever exceeds a fixed RMS somewhere in the second.

    A player who is turned down far enough does not play, by this rule.

    >>> is_playing([0.0, 2e-3]).tolist()
    [False, True]
    """
    return np.asarray(loudest_rms) > threshold


class Playing:
    """Say who plays relative to a reference: each stem has thresholds of its own, and hysteresis.

    Where a stem's levels fall into two classes, playing and resting (Otsu's method: the split that leaves the least
    variance within), its threshold lies half-way, in dB, whatever leaks into its rests. A stem that never rests there
    plays down to 30 dB under its loud seconds, one that is silent there never.

    The gain between the reference and what is heard now, be it a microphone's, is taken from the stem that has been
    the loudest so far, each measured by its loud seconds in the reference. Until others than the player have played,
    that is a guess.

    Parameters
    ----------
    loudest_rms : (T, S)
        Of the reference, `MixMap.loudest_rms`.
    player : int, optional
        The stem whose gain may be far from what it should be, and tells nothing about that of the others.

    Raises
    ------
    ParameterError
        For another shape, or a player who is none of the stems.

    Examples
    --------
    >>> reference = np.array([[0.1, 0.1], [0.1, 1e-4], [0.1, 0.1], [0.1, 1e-4]])
    >>> playing = Playing(reference)
    >>> playing.process(0.01 * reference).tolist()
    [[True, True], [True, False], [True, True], [True, False]]
    """

    def __init__(self, loudest_rms: NDArray[np.floating], player: int | None = None) -> None:
        if loudest_rms.ndim != 2 or not len(loudest_rms):
            raise ParameterError(f"loudest_rms must have shape (seconds, stems), got {loudest_rms.shape}")
        stems = loudest_rms.shape[1]
        if player is not None and not 0 <= player < stems:
            raise ParameterError(f"player must be in [0, {stems - 1}], got {player}")
        self.loud_db, self.threshold_db = np.zeros(stems), np.full(stems, np.inf)
        for stem, levels in enumerate(factor_to_db(loudest_rms).T):
            heard = levels[levels > levels.max() + QUIETEST_DB]
            if heard.size:
                self.loud_db[stem] = np.percentile(heard, LOUD_PERCENTILE)
                self.threshold_db[stem] = _threshold_db(levels - self.loud_db[stem])
        self._others = [stem for stem in range(stems) if stem != player and self.threshold_db[stem] < np.inf]
        self.reset()

    def reset(self) -> None:
        """Begin anew: nobody was heard so far."""
        self._is_on = np.zeros(len(self.loud_db), np.bool_)
        self._held_db = np.full(len(self.loud_db), -np.inf)

    def step(self, loudest_rms: ArrayLike, gain_db: float | None = None) -> NDArray[np.bool_]:
        """Who plays in the next second: (S,) to (S,); see `process`."""
        levels = factor_to_db(loudest_rms) - self.loud_db
        if gain_db is None:
            self._held_db = np.maximum(self._held_db - FORGET_DB, levels)
            held_db = float(self._held_db[self._others].max(initial=-np.inf))
            gain_db = max(held_db, FAINTEST_DB) if np.isfinite(held_db) else 0.0
        levels = levels - gain_db
        self._is_on = levels > self.threshold_db - np.where(self._is_on, HYSTERESIS_DB, 0.0)
        return self._is_on.copy()

    def process(self, loudest_rms: NDArray[np.floating], gain_db: float | None = None) -> NDArray[np.bool_]:
        """Who plays in each of some seconds: (T, S) to (T, S); `gain_db` against the reference, where it is known."""
        return np.array([self.step(second, gain_db) for second in loudest_rms]).reshape(-1, len(self.loud_db))


def _threshold_db(levels: NDArray[np.float64]) -> float:
    """Threshold of one stem from its levels (T,), relative to its loud seconds."""
    levels = np.sort(np.clip(levels, QUIETEST_DB, 0.0))
    lower = np.arange(1, len(levels))
    means = np.cumsum(levels)[:-1] / lower, np.cumsum(levels[::-1])[-2::-1] / lower[::-1]
    between = lower * lower[::-1] * (means[1] - means[0]) ** 2 / len(levels) ** 2
    if not lower.size or between.max() < TWO_CLASSES * levels.var():
        return ALWAYS_DB
    split = between.argmax()
    quiet, loud = means[0][split], means[1][split]
    return float(quiet + loud) / 2.0 if loud - quiet >= LEAST_GAP_DB else ALWAYS_DB
