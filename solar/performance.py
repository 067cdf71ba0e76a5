"""A band whose player stands at the wrong gain, heard through a channel that leaks: what simulations listen to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.units import db_to_factor
from solar.bands import N_BANDS, N_BINS, check_rate, spectra
from solar.dominance import check_stems, dominance
from solar.leaks import GROUPS, measure_leaks, no_leaks, sum_groups
from solar.mix_map import MixMap, Second
from solar.playing import is_playing, part_ends

Stems = dict[str, NDArray[np.float32]]

MOST_GAIN_DB = 75
"""Where a gain error ends, in either direction."""

KINDS = {"clean": None, "mild": (-20.0, -66.0, 0.0), "bad": (-13.0, -50.0, 2.5)}
"""By name: mean of the bleed of each pair of stems in dB, noise in dBFS, standard deviation of the equaliser in dB."""

BLEED_SPREAD_DB = 4.0
EQ_HZ = np.geomspace(30.0, N_BINS, 10)
"""Where the equalisation is drawn; it is straight over the logarithm of the frequency between."""


@dataclass(frozen=True)
class Channel:
    """What lies between the instruments and the stems that are heard: a separator's or a stage's leaks, linearly.

    Attributes
    ----------
    leak : (S, S) float64
        Factor with which each stem (column) is heard in each other (row).
    noise : float
        RMS of what is added to each stem.
    eq : (S, 15500) float64 or None
        Factor of each bin of each stem.
    """

    leak: NDArray[np.float64]
    noise: float = 0.0
    eq: NDArray[np.float64] | None = None

    @classmethod
    def draw(cls, kind: str, stems: int, rng: np.random.Generator) -> Channel:
        """One at random.

        Parameters
        ----------
        kind : {"clean", "mild", "bad"}
            Clean lets everything through as it is. Mild leaks -20 +- 4 dB from each stem into each other and adds noise
            of -66 dBFS; bad leaks -13 +- 4 dB, adds -50 dBFS, and equalises each stem by 2.5 dB (standard deviation).
        stems : int
        rng : numpy.random.Generator

        Returns
        -------
        Channel
        """
        if kind not in KINDS:
            raise ParameterError(f"condition must be one of {', '.join(KINDS)}, got {kind!r}")
        leak = np.eye(stems)
        if (numbers := KINDS[kind]) is None:
            return cls(leak)
        bleed_db, noise_dbfs, eq_db = numbers
        levels = bleed_db + rng.uniform(-BLEED_SPREAD_DB, BLEED_SPREAD_DB, (stems, stems))
        leak = np.where(leak > 0.0, 1.0, db_to_factor(levels) * rng.choice([-1.0, 1.0], (stems, stems)))
        eq = None
        if eq_db:
            at = np.log(np.maximum(np.arange(N_BINS), EQ_HZ[0]))
            drawn = rng.normal(0.0, eq_db, (stems, len(EQ_HZ)))
            eq = db_to_factor([np.interp(at, np.log(EQ_HZ), curve) for curve in drawn])
        return cls(leak, float(db_to_factor(noise_dbfs)), eq)


class Performance:
    """Some stems, second by second, for any gain of one of them.

    Every stem is heard as ``base + g * solo``: all that the other instruments leave in it, and what the player does.
    Powers are so quadratic in ``g``, and three numbers of each band and second are enough for all gains, exactly. Only
    who dominates has to be counted anew; that is done once for each whole dB.

    Parameters
    ----------
    stems : dict of (samples,) float32
        By name; 2 to 16.
    sample_rate : int
    player : str
        Whose gain is not what it should be.
    channel : Channel, optional
        Through which all are heard; by default as they are.
    seed : int
        Of the channel's noise.

    Raises
    ------
    ParameterError
        For less than a second, another player, or what `Mapper` would refuse.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> stems = {name: 0.1 * rng.standard_normal(88_200).astype(np.float32) for name in ("bass", "guitar")}
    >>> take = Performance(stems, 44_100, "guitar")
    >>> len(take), take.at(0, 20.0).dominance[5].tolist()
    (2, [0.0, 1.0])
    """

    def __init__(
        self, stems: Stems, sample_rate: int, player: str, channel: Channel | None = None, seed: int = 0
    ) -> None:
        rate = check_rate(sample_rate)
        check_stems(len(stems))
        if player not in stems:
            raise ParameterError(f"player must be one of {', '.join(stems)}, got {player!r}")
        seconds = min(len(stem) for stem in stems.values()) // rate
        if not seconds:
            raise ParameterError("stems must last at least a second, got less")
        self.names, self.player = tuple(stems), tuple(stems).index(player)
        self.sample_rate, self.seconds = rate, seconds
        self._stems = np.stack([stem[: seconds * rate] for stem in stems.values()]).reshape(-1, seconds, rate)
        self._channel = channel or Channel(np.eye(len(stems)))
        self._seed = seed
        self._shares = np.full((seconds, 2 * MOST_GAIN_DB + 1, N_BANDS, len(stems)), np.nan, np.float32)
        self._valid = np.zeros(self._shares.shape[:3], np.bool_)
        self._leaks: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def __len__(self) -> int:
        return self.seconds

    def heard(self, second: int) -> NDArray[np.float32]:
        """Sound of one second, (2, S, sample_rate): without the player, and of the player alone."""
        own = self._channel.leak[:, self.player, None] * self._stems[self.player, second]
        base = self._channel.leak @ self._stems[:, second] - own
        if self._channel.noise:
            rng = np.random.default_rng([self._seed, second])
            base += self._channel.noise * rng.standard_normal(base.shape, np.float32)
        both = np.stack([base, own])
        if self._channel.eq is not None:
            # Of a second by itself, as if it went round: curves this smooth ring for some ms only.
            spectrum = np.fft.rfft(both)
            spectrum[..., :N_BINS] *= self._channel.eq
            spectrum[..., N_BINS:] *= self._channel.eq[:, -1:]
            both = np.fft.irfft(spectrum, self.sample_rate)
        return both.astype(np.float32)

    @cached_property
    def _spectra(self) -> NDArray[np.complex64]:
        """(T, 2, S, bins)."""
        return np.stack([spectra(self.heard(second), self.sample_rate) for second in range(self.seconds)])

    @cached_property
    def _terms(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Of 1, g and g^2: products of groups of bins (3, T, G, S, S) and mean squares of 10 ms (3, T, S, parts)."""
        ends = part_ends(self.sample_rate)
        starts = np.r_[0, ends[:-1]]
        stems = len(self.names)
        products = np.empty((3, self.seconds, len(GROUPS) - 1, stems, stems), np.float32)
        parts = []
        for second in range(self.seconds):
            heard = self.heard(second)
            base, own = spectra(heard, self.sample_rate)
            multiply(base, own, GROUPS, products[:, second])
            base, own = heard.astype(np.float64)
            squares = np.stack([base * base, 2.0 * base * own, own * own])
            parts.append(np.add.reduceat(squares, starts, axis=-1) / (ends - starts))
        return products, np.stack(parts, axis=1)

    @cached_property
    def _cross_terms(self) -> NDArray[np.float64]:
        """Of 1, g and g^2: (3, T, 24, S, S)."""
        return sum_groups(self._terms[0])

    def cross_power(self, second: int | slice, gain_db: float) -> NDArray[np.float64]:
        """Power of each band and pair of stems, (24, S, S) or (T, 24, S, S), with the player at `gain_db`."""
        return _at(self._cross_terms[:, second], gain_db)

    def leaks(self, second: int, gain_db: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Find what the second says of leaks, (24, S, S) twice, with the player at `gain_db`, rounded to whole dB."""
        at = second, int(np.clip(round(gain_db), -MOST_GAIN_DB, MOST_GAIN_DB))
        if at not in self._leaks:
            self._leaks[at] = measure_leaks(_at(self._terms[0][:, second], at[1]).astype(np.float32))
        return self._leaks[at]

    def loudest_rms(self, second: int | slice, gain_db: float) -> NDArray[np.float64]:
        """Largest RMS of the 10 ms parts, (S,) or (T, S)."""
        return np.sqrt(np.maximum(_at(self._terms[1][:, second], gain_db), 0.0).max(axis=-1))

    def plays(self, second: int) -> bool:
        """Whether the player plays, as he knows himself: by what he would leave at the right gain."""
        return bool(is_playing(np.sqrt(self._terms[1][2, second, self.player].max())))

    def dominance(self, second: int, gain_db: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Shares (24, S), and where they are valid (24,), with the player at `gain_db`, rounded to whole dB."""
        step = int(np.clip(round(gain_db), -MOST_GAIN_DB, MOST_GAIN_DB))
        at = second, step + MOST_GAIN_DB
        if np.isnan(self._shares[at][0, 0]):
            base, own = self._spectra[second]
            self._shares[at], self._valid[at] = dominance(_square(base + np.float32(db_to_factor(step)) * own))
        return self._shares[at], self._valid[at]

    def fill(self) -> None:
        """Count who dominates for all gains at once, some 60 ms for a second; the sound is not needed any more then."""
        for second in range(self.seconds):
            for gain_db in range(-MOST_GAIN_DB, MOST_GAIN_DB + 1):
                self.dominance(second, gain_db)
        self.__dict__.pop("_spectra", None)

    def at(self, second: int, gain_db: float, *, count: bool = True) -> Second:
        """Everything about one second with the player at `gain_db`: either who dominates, or, not counting, leaks."""
        shares, valid = self.dominance(second, gain_db) if count else (self._shares[0, 0], self._valid[0, 0])
        leak, weight = no_leaks(len(self.names)) if count else self.leaks(second, gain_db)
        cross, rms = self.cross_power(second, gain_db), self.loudest_rms(second, gain_db)
        return Second(shares.astype(np.float64), valid, cross, rms, leak, weight)

    def map(self, gain_db: float = 0.0, *, count: bool = True) -> MixMap:
        """Map of it all with the player at `gain_db`."""
        return MixMap.of(self.names, [self.at(second, gain_db, count=count) for second in range(self.seconds)])


def _square(spectrum: NDArray[np.complex64]) -> NDArray[np.float32]:
    return spectrum.real**2 + spectrum.imag**2


def _at(terms: NDArray[np.floating], gain_db: float) -> NDArray[Any]:
    g = float(db_to_factor(gain_db))
    return terms[0] + g * terms[1] + g * g * terms[2]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def multiply(base, own, groups, out):
    """Products of ``base + g own``, (stems, bins): `out` (3, groups, stems, stems), of 1, g and g^2."""
    for g in range(len(groups) - 1):
        for i in range(base.shape[0]):
            for j in range(i, base.shape[0]):
                one = both = square = np.float32(0.0)
                for k in range(groups[g], groups[g + 1]):
                    x, y, u, v = base[i, k], base[j, k], own[i, k], own[j, k]
                    one += x.real * y.real + x.imag * y.imag
                    both += x.real * v.real + x.imag * v.imag + u.real * y.real + u.imag * y.imag
                    square += u.real * v.real + u.imag * v.imag
                out[0, g, i, j] = out[0, g, j, i] = one
                out[1, g, i, j] = out[1, g, j, i] = both
                out[2, g, i, j] = out[2, g, j, i] = square
