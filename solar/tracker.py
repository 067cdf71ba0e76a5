"""How far a player is from the gain of the reference: a Bayesian filter, and what it has to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.units import db_to_factor
from solar.bands import EDGES, N_BINS
from solar.leaks import Unmixing
from solar.mix_map import FLOOR_POWER, MixMap, Second, loudness_ratio_db, power_ratio_db
from solar.playing import Playing

Floats = NDArray[np.float64]

ERRORS_DB = np.arange(-75, 76)
"""The grid of gain errors."""

STARTS_DB = 62.0
"""Errors beyond are not expected at the start."""

STEP_DB = 3
"""Between the errors for which a calibration is measured."""

FEATURE_DB = np.arange(-60, 61)
"""The grid of features, one bin each."""

WIDTH_DB = 2.0
"""Of the kernel that makes densities of a reference's seconds."""

SURPRISE = 0.03
"""Probability that a feature is nothing the reference knows of."""

SHRINK_S, LEAST_S, MOST_CLASSES = 3.0, 3, 10
"""A class of seconds is as good as its seconds, next to so many of all; fewer make no class of their own."""

SPARE = 0.03
"""Of the time, for seconds that are like no class, in which the player plays, and as much in which he does not."""

LEAK_DB = -22.0, -17.0
"""What the player's stem may still get of the others, and they of his, in all, and nobody knows: another channel."""

RESIDUE = 0.03
"""Share of what is taken for a leak that may be none."""

WEIGHT = 0.3
"""Exponent of the likelihoods: neither seconds nor features are independent."""

COMPOSED_S = 100
"""Of seconds that the reference does not have, put together from those that it has."""

FAINT_DB = 25.0, 60.0
"""Under what a stem has in seconds in which it plays: what it has where it rests, be it hum or a stage's noise."""

ALONE_DB = -10.0
"""Whose error is less is not heard alone, but not at all."""

FORGET_DB = 0.5
"""Per second: how fast it is forgotten how loud the others have been."""

MIX = 0.1
"""Share of each channel that becomes any channel in a second: none of those tried is exactly the one that is."""

STAY = 0.85
"""Probability that the next second is of the same class for that reason alone."""

DIFFUSION = 0.3
"""Probability that the error moves by a step of the grid in a second."""

TELEPORT = 5e-4
"""Probability that it becomes any other: somebody turned a knob and did not say."""

KNOB_ERROR = 0.5
"""A hand turns a knob by anything between half and one and a half of what was asked for."""

OBEYED = 0.1
"""Probability of a second that a recommendation is followed in it, while nobody says so."""
OBEYED_S = 15

SILENT_DB = 2.0
"""Errors within are right."""

MOST_UP_DB = 30.0
"""Never more at once: too loud is worse than too soft."""

PER_MINUTE, GAP_S, LISTEN_S = 4, 5, 5
GAIN, LEAST_DB = 0.45, 0.5
"""Speak if the error to be expected becomes so many times what it is, and by so much less."""

LEAKING_DB = 10.0
"""Who turns down by more takes with him what leaked of him, which may have been most of the others, or of himself."""

LOST_DB, REST_S = 25.0, 12
"""Whoever has turned is given so many seconds to be heard before he is told again, if nothing is certain."""

CANT_HEAR_S, CANT_HEAR_DB, CANT_HEAR = 8, 25.0, 3
"""Who was not heard for so many seconds may try so many dB, and is asked so often a minute at most."""

AWAY_S, BACK_S = 45, 3
"""Who was heard, and is not any more, rests; until he has for longer than songs let anybody, or is back for a while."""

INAUDIBLE_DB = -20.0
"""Whose error is less is not heard next to the others."""

HEARD, INAUDIBLE, PLAYS = 0.95, 0.8, 0.9
"""Probabilities from which on it counts that somebody is heard, is not, and plays."""

MISHEARD = 0.05
"""What else was probable becomes so much less when somebody turns up because he cannot be heard."""


@dataclass(frozen=True)
class Recommendation:
    """What to tell a player.

    Attributes
    ----------
    player : str
    state : {"blank", "up", "down", "cant-hear"}
        Blank: nothing is to be done, or not known yet.
    change_db : float
        By how much to turn; 0 if blank. Where a player cannot be heard, what he may try if he is playing.
    confidence : float
        Probability that this is the right way to turn; if blank, that the error is within 3 dB.
    low_db, high_db : float
        The error lies between, with a probability of 0.9; positive is too loud.
    """

    player: str
    state: Literal["blank", "up", "down", "cant-hear"]
    change_db: float
    confidence: float
    low_db: float
    high_db: float


def features(band_power: Floats, player: int) -> Floats:
    """Find what the filter looks at: the player's power and loudness ratio, each other's share of the others, in dB.

    The shares say which part of a song it is; of two stems there are none.

    Parameters
    ----------
    band_power : (..., S, 24)
    player : int

    Returns
    -------
    (..., 2) or (..., S + 1), within +-60 dB

    Examples
    --------
    >>> power = np.ones((3, 24))
    >>> power[0] *= 2.0
    >>> features(power, 0).round(1).tolist()
    [0.0, 0.0, -3.0, -3.0]
    """
    others = np.delete(band_power.sum(axis=-1), player, axis=-1) + FLOOR_POWER
    shares = 10.0 * np.log10(others / others.sum(axis=-1, keepdims=True)) if others.shape[-1] > 1 else others[..., :0]
    ratios = power_ratio_db(band_power, player), loudness_ratio_db(band_power, player)
    return np.clip(np.concatenate([np.stack(ratios, axis=-1), shares], axis=-1), FEATURE_DB[0], FEATURE_DB[-1])


def others_db(band_power: Floats, player: int) -> Floats:
    """Level of all but the player, (...).

    Who plays alone and who is too loud both drown what is in the other stems; but alone these fall silent, next to what
    they were before.
    """
    return 10.0 * np.log10(np.delete(band_power.sum(axis=-1), player, axis=-1).sum(axis=-1) + FLOOR_POWER)


class _Known(NamedTuple):
    """Seconds of the reference that are alike, and all in which the player does the same, of which a few are added."""

    plays: bool
    seconds: NDArray[np.bool_]
    pool: NDArray[np.bool_]


class _Composed(NamedTuple):
    """Seconds that the reference need not have, in which these stems play."""

    plays: bool
    present: NDArray[np.bool_]


class Calibration:
    """What a reference sounds like with its player at any wrong gain, through several channels.

    Its seconds fall into classes, by who plays; some classes more are composed, of those who play alone, in pairs, or
    all but one. Of each class, feature and gain error it keeps a density, smoothed from the reference's own seconds
    with the player's stem re-gained: through the reference's channel as measured, and through others that leak
    otherwise or are noisy, because a performance's is never exactly the reference's.

    Parameters
    ----------
    maps : mapping of float to MixMap
        By gain of the player in dB: the same seconds of the reference, re-gained and heard through the same channel
        (separator). 0 is among them; between them levels are interpolated, beyond them continued.
    player : str
        Name of the stem.

    Attributes
    ----------
    player : int
    log_likelihood : (features, 121, channels, classes, 151) float32
    plays : (classes,) bool
        Whether the player does.
    share : (classes,) float64
        Of the time.

    Raises
    ------
    ParameterError
        Without 0 dB, for another player, or for one that never plays.
    """

    def __init__(self, maps: Mapping[float, MixMap], player: str) -> None:
        if 0.0 not in maps or len(maps) < 2:
            raise ParameterError(f"maps must be of 0 dB and other gains, got {', '.join(map(str, maps)) or 'none'}")
        reference = maps[0.0]
        if player not in reference.names:
            raise ParameterError(f"player must be one of {', '.join(reference.names)}, got {player!r}")
        self.name, self.player, self.stems = player, reference.names.index(player), len(reference.names)
        # What the others leave in the player's stem does not grow with his gain, so that at the highest he stands clear
        # of it; the others do of him at the lowest.
        playing = _playing(maps[min(maps)])
        playing[:, self.player] = _playing(maps[max(maps)])[:, self.player]
        if not playing[:, self.player].any():
            raise ParameterError(f"the reference must have {player} playing in it, got silence")
        gains_db = ERRORS_DB[::STEP_DB].astype(np.float64)
        unmixing = Unmixing(len(reference.names))
        for song in maps.values():
            unmixing.hear(song.leak, song.leak_weight)
        own = {gain_db: unmixing.own_power(song.cross_power) for gain_db, song in maps.items()}
        measured = _interpolated(own, gains_db)
        classes = self._classes(playing, measured[_step(0.0)])
        between = np.stack([np.interp(ERRORS_DB, gains_db, row) for row in np.eye(len(gains_db))])
        kernel = np.exp(-0.5 * ((FEATURE_DB[:, None] - FEATURE_DB) / WIDTH_DB) ** 2)
        tables = [self._densities(heard, classes) @ kernel for heard in self._channels(measured)]
        table = np.stack(tables)  # channels, features, classes, gains, bins
        table /= table.sum(axis=-1, keepdims=True)
        table = np.einsum("cfkgb,ge->fbcke", table, between)
        self.log_likelihood = np.log((1.0 - SURPRISE) * table + SURPRISE / len(FEATURE_DB)).astype(np.float32)

    def _classes(self, playing: NDArray[np.bool_], power: Floats) -> list[_Known | _Composed]:
        """Classes of the reference by who plays, and everybody, the player alone, with one other, without one."""
        own = playing[:, self.player]
        _, which, seconds = np.unique(playing, axis=0, return_inverse=True, return_counts=True)
        kept = [which.ravel() == k for k in np.argsort(-seconds)[:MOST_CLASSES] if seconds[k] >= LEAST_S]
        known = [_Known(bool(own[of].any()), of, own if own[of].any() else ~own) for of in kept]
        one = np.eye(self.stems, dtype=np.bool_)
        sets = np.unique(np.vstack([one, ~one, one | True]) | one[self.player], axis=0)
        composed = [_Composed(plays, present) for plays in (True, False) for present in sets]
        self.plays = np.array([each.plays for each in known + composed])
        share = [float(np.count_nonzero(of)) for of in kept] + len(composed) * [SPARE * len(own) / len(sets)]
        self.share = np.array(share) / sum(share)
        rng = np.random.default_rng(0)
        playing = playing | ~playing.any(axis=0)  # of who never plays, any second
        self._drawn = np.stack([rng.choice(np.flatnonzero(stem), COMPOSED_S) for stem in playing.T], axis=1)
        self._faint = 10.0 ** (-0.1 * rng.uniform(*FAINT_DB, self._drawn.shape))
        self._hum = 10.0 ** (-0.1 * rng.uniform(*FAINT_DB, playing.shape))
        self._loud = (power.sum(axis=-1) * playing).sum(axis=0) / np.count_nonzero(playing, axis=0)
        return known + composed

    def _channels(self, measured: Floats) -> Iterator[Floats]:
        """Band powers (gains, T, S, 24) as measured, and as through other channels."""
        yield measured
        # Without what the player's stem holds of the others even at the lowest gain, and they of him at higher ones.
        stems = measured.shape[2]
        dry = np.repeat(measured[:1], len(measured), axis=0)
        floor = measured[0, :, self.player]
        dry[:, :, self.player] = np.maximum(measured[:, :, self.player] - floor, RESIDUE * floor)
        yield dry
        own_db, others_db = LEAK_DB
        leak = np.full((stems, stems), db_to_factor(own_db + others_db))
        leak[self.player] = db_to_factor(2.0 * own_db)
        leak[:, self.player] = db_to_factor(2.0 * others_db) / (stems - 1)
        np.fill_diagonal(leak, 1.0)
        yield np.einsum("ij,gtjb->gtib", leak, dry)
        # Everybody hums and hisses on a stage, in rests as well, more or less; in a studio nobody does.
        white = np.diff(EDGES) / N_BINS
        yield dry + (self._hum * self._loud)[..., None] * white

    def _densities(self, heard: Floats, classes: Sequence[_Known | _Composed]) -> Floats:
        """Count the seconds in each bin: (features, classes, gains, bins)."""
        gains = len(heard)
        levels = others_db(heard, self.player)
        whole = self._bins(heard, levels - _held(levels))
        all_db = _held(others_db(self._composed(heard, _Composed(True, np.ones(self.stems, np.bool_))), self.player))
        out = np.empty((whole.shape[-1], len(classes), gains, len(FEATURE_DB)))
        for k, one in enumerate(classes):
            # Whose player rests is heard at any gain as at the lowest: what hums and rings on says nothing of it.
            if isinstance(one, _Known):
                of = whole if one.plays else whole[:1]
                out[:, k] = _count(of[:, one.seconds], gains)
                out[:, k] += SHRINK_S / np.count_nonzero(one.pool) * _count(of[:, one.pool], gains)
            else:
                power = self._composed(heard, one)
                levels = others_db(power, self.player)
                # The others may have fallen silent just now, or not have played at all.
                fallen = levels - all_db[: len(levels)], levels - _held(levels)
                out[:, k] = sum(_count(self._bins(power, each), gains) for each in fallen)
        return out

    def _composed(self, heard: Floats, one: _Composed) -> Floats:
        """Band powers of a class that is not in the reference, (gains or 1, N, S, 24).

        Each stem is as in one of the seconds in which it plays, or faint. The player's holds as much of the others as
        they are louder or softer now, and theirs what they hold of him.
        """
        base, drawn = heard[0], self._drawn
        own = np.where(one.present[:, None], 1.0, self._faint[..., None]) * base[drawn, np.arange(self.stems)]
        there = base[drawn[:, self.player]]
        others = (np.delete(power, self.player, axis=1).sum(axis=1) for power in (own, there))
        own[:, self.player] = there[:, self.player] * next(others) / (next(others) + FLOOR_POWER)
        if not one.plays:
            hums = slice(0, COMPOSED_S // 2), self.player
            own[hums] += self._faint[hums][:, None] * heard[_step(0.0), drawn[hums], self.player]
            return own[None]
        if np.count_nonzero(one.present) == 1:
            heard = np.maximum(heard, heard[_step(ALONE_DB)])
        return np.maximum(heard[:, drawn[:, self.player]] - there, 0.0) + own

    def _bins(self, power: Floats, fallen: Floats) -> NDArray[np.int64]:
        """Bins of the features of whole seconds, (gains, T, features)."""
        found = np.concatenate([features(power, self.player), np.maximum(fallen, FEATURE_DB[0])[..., None]], axis=-1)
        return np.rint(found).astype(np.int64) - FEATURE_DB[0]


def _step(gain_db: float) -> int:
    return round((gain_db - float(ERRORS_DB[0])) / STEP_DB)


def _count(bins: NDArray[np.int64], gains: int) -> Floats:
    """Count (gains or 1, T, features) to (features, gains, bins)."""
    size = len(FEATURE_DB)
    at = bins + size * np.arange(gains)[:, None, None]
    counts = [np.bincount(each.ravel(), minlength=gains * size) for each in np.moveaxis(at, 2, 0)]
    return np.stack(counts).reshape(-1, gains, size).astype(np.float64)


def _held(levels: Floats) -> Floats:
    """Loudest so far, slowly forgotten: (..., T)."""
    held = levels.copy()
    for second in range(1, levels.shape[-1]):
        held[..., second] = np.maximum(held[..., second - 1] - FORGET_DB, levels[..., second])
    return held


def _playing(song: MixMap) -> NDArray[np.bool_]:
    return Playing(song.loudest_rms).process(song.loudest_rms, gain_db=0.0)


def _interpolated(powers: Mapping[float, Floats], gains_db: Floats) -> Floats:
    """Band powers (gains, T, S, 24), straight in dB over gains in dB."""
    at = np.array(sorted(powers))
    levels = np.log(np.stack([powers[gain] for gain in at.tolist()]) + FLOOR_POWER)
    i = np.clip(np.searchsorted(at, gains_db) - 1, 0, len(at) - 2)
    part = ((gains_db - at[i]) / (at[i + 1] - at[i]))[:, None, None, None]
    return np.exp(levels[i] + part * (levels[i + 1] - levels[i]))


class GainTracker:
    """A filter over gain error, class of the second, and channel.

    Parameters
    ----------
    calibration : Calibration
    knob_error : float
        In [0, 1): how far, relatively, a hand misses.

    Examples
    --------
    >>> from solar.performance import Performance
    >>> from solar.songs import compose
    >>> song = Performance(compose("a", 20.0, sample_rate=32_000), 32_000, "guitar")
    >>> tracker = GainTracker(Calibration({db: song.map(db, count=False) for db in (-30.0, 0.0, 30.0)}, "guitar"))
    >>> for second in range(9, 16):
    ...     tracker.observe(song.at(second, 12.0, count=False))
    >>> abs(tracker.error_db - 12.0) <= 2.0, tracker.recommendation().state
    (True, 'down')

    Attributes
    ----------
    probabilities : (151,) float64
        Of the errors -75 to 75 dB.
    """

    def __init__(self, calibration: Calibration, knob_error: float = KNOB_ERROR) -> None:
        if not 0.0 <= knob_error < 1.0:
            raise ParameterError(f"knob_error must be in [0, 1), got {knob_error}")
        self.calibration, self.knob_error = calibration, knob_error
        channels, classes = calibration.log_likelihood.shape[2:4]
        start = np.where(np.abs(ERRORS_DB) <= STARTS_DB, 1.0, 1e-3)
        start /= start.sum()
        self._start = np.ones((channels, 1, 1)) / channels * calibration.share[:, None] * start
        self._change = STAY * np.eye(classes) + (1.0 - STAY) * calibration.share[:, None]
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._p = self._start.copy()
        self._unmixing = Unmixing(self.calibration.stems)
        self._heard_s = 0
        self._spoken: list[int] = []
        self._asked_db = 0.0
        self._was_heard = False
        self._held_db = -np.inf
        self._unheard_s = self._back_s = 0
        self._loudest_s = -CANT_HEAR_S

    def observe(self, second: Second) -> None:
        """Hear the next second."""
        p = np.einsum("kj,cje->cke", self._change, self._p)
        p = (1.0 - MIX) * p + MIX * p.mean(axis=0)
        side = 0.5 * DIFFUSION * p
        p -= 2.0 * side
        p[..., 1:] += side[..., :-1]
        p[..., :-1] += side[..., 1:]
        p = (1.0 - TELEPORT) * p + TELEPORT * self._start
        if self._asked_db:
            asked = p[:, self._asked]
            p[:, self._asked] = (1.0 - OBEYED) * asked + OBEYED * self._shifted(asked, self._asked_db)
            if self._heard_s - self._spoken[-1] >= OBEYED_S:
                self._asked_db = 0.0
        player = self.calibration.player
        self._unmixing.hear(second.leak, second.leak_weight)
        power = self._unmixing.own_power(second.cross_power)
        level_db = float(others_db(power, player))
        self._held_db = max(self._held_db - FORGET_DB, level_db)
        fallen_db = max(level_db - self._held_db, float(FEATURE_DB[0]))
        found = np.rint([*features(power, player), fallen_db]).astype(int) - FEATURE_DB[0]
        table = self.calibration.log_likelihood
        likelihood = WEIGHT * table[np.arange(len(table)), found].sum(axis=0)
        p *= np.exp(likelihood - np.max(likelihood))
        self._p = p / p.sum()
        self._heard_s += 1
        if power_ratio_db(second.band_power, player) > 0.0:
            self._loudest_s = self._heard_s
        self._was_heard |= self._heard_s >= LISTEN_S and self._audible >= HEARD
        self._back_s = self._back_s + 1 if self._audible >= 0.5 else 0
        if not self._back_s:
            self._unheard_s += 1
        elif self._back_s >= BACK_S:
            self._unheard_s = 0

    def moved(self, change_db: float) -> None:
        """Know that the player's gain has been turned by about so much."""
        p = self._p
        if self._asked_db and not self._asked.all():  # who turns up because he cannot be heard does play
            p = np.where(self._asked[:, None] & (ERRORS_DB < INAUDIBLE_DB), p, MISHEARD * p)
            p /= p.sum()
        self._p = self._shifted(p, change_db)
        self._asked_db = 0.0
        if change_db < -LEAKING_DB:
            self._held_db, self._was_heard = -np.inf, False

    def _shifted(self, p: Floats, change_db: float) -> Floats:
        factors = np.linspace(1.0 - self.knob_error, 1.0 + self.knob_error, 9 if self.knob_error else 1)
        out = np.full_like(p, 1e-12)
        for x in change_db * factors:
            whole = int(np.floor(x))
            for step, part in ((whole, 1.0 - x + whole), (whole + 1, x - whole)):
                if part > 0.0:
                    at = np.clip(np.arange(len(ERRORS_DB)) - step, 0, len(ERRORS_DB) - 1)
                    inside = (np.arange(len(ERRORS_DB)) - step == at) * part / len(factors)
                    out += inside * p[..., at]
        return out / out.sum() * p.sum()

    @property
    def probabilities(self) -> Floats:  # noqa: D102 - of the class
        return self._p.sum(axis=(0, 1))

    def quantile(self, q: float) -> float:
        """Error in dB under which a share `q` of the probability lies."""
        total = np.cumsum(self.probabilities)
        return float(ERRORS_DB[min(int(np.searchsorted(total, q * total[-1])), len(ERRORS_DB) - 1)])

    @property
    def _audible(self) -> float:
        """Probability that the player plays loud enough to be heard."""
        return float(self._p[:, self.calibration.plays][..., ERRORS_DB >= INAUDIBLE_DB].sum())

    @property
    def error_db(self) -> float:
        """The gain error to be expected: the median."""
        return self.quantile(0.5)

    @property
    def spread_db(self) -> float:
        """Width of the middle two thirds."""
        return self.quantile(5 / 6) - self.quantile(1 / 6)

    def recommendation(self) -> Recommendation:
        """Ask what to say now, once after each second that was heard; what is not blank counts as said."""
        p, error_db = self.probabilities, self.error_db
        low_db, high_db = self.quantile(0.05), self.quantile(0.95)
        state: Literal["blank", "up", "down", "cant-hear"] = "blank"
        change_db, confidence = 0.0, float(p[np.abs(ERRORS_DB) <= 3.0].sum())
        silent = 1.0 - self._audible
        recent = [at for at in self._spoken if at > self._heard_s - 60]
        quiet_s = self._heard_s - self._spoken[-1] if self._spoken else self._heard_s
        if self._heard_s >= LISTEN_S and quiet_s >= GAP_S and len(recent) < PER_MINUTE:
            now = float((p * np.abs(ERRORS_DB)).sum())
            then = float((p * np.abs(ERRORS_DB - error_db)).sum())
            is_lost = bool(self._spoken) and high_db - low_db > LOST_DB and quiet_s < REST_S
            is_known = not is_lost and abs(error_db) > SILENT_DB and then <= GAIN * now and now - then >= LEAST_DB
            patience_s = AWAY_S if self._was_heard else CANT_HEAR_S
            # Whose own microphone has most is not too soft, whatever else is not understood.
            is_soft = self._heard_s - self._loudest_s >= CANT_HEAR_S
            if is_known and (error_db > 0.0 or not self._unheard_s):
                state, change_db = ("down" if error_db > 0.0 else "up"), min(-error_db, MOST_UP_DB)
                confidence = float(p[ERRORS_DB * error_db > 0.0].sum())
            elif (
                is_known
                and is_soft
                and not self._was_heard
                and not self._asked_db
                and float(self._p[:, self.calibration.plays].sum()) >= PLAYS
            ):
                state, change_db, confidence = "cant-hear", min(-error_db, MOST_UP_DB), silent
            elif (
                is_soft
                and min(self._unheard_s, quiet_s) >= patience_s
                and len(recent) < CANT_HEAR
                and silent >= INAUDIBLE
            ):
                state, change_db, confidence = "cant-hear", CANT_HEAR_DB, silent
        if state != "blank":
            self._spoken.append(self._heard_s)
            self._asked_db = change_db
            # Who rests does not turn up because he cannot be heard.
            self._asked = self.calibration.plays if state == "cant-hear" else np.ones_like(self.calibration.plays)
        return Recommendation(self.calibration.name, state, change_db, confidence, low_db, high_db)
