"""What every later step needs of a band, second by second and without its sound; and the map of a whole song."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import overload

import numpy as np
import safetensors
from numba import njit
from numpy.typing import NDArray
from safetensors.numpy import save

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AudioFileError, ParameterError
from alm_plugin.features.front_end import CANCELLED, as_block
from alm_plugin.features.guard import mend
from alm_plugin.features.levels import k_weighting
from solar.bands import BARK_HZ, EDGES, N_BANDS, N_BINS, check_rate, transform, window
from solar.dominance import check_stems, count_strongest, scratch_for
from solar.late import LateLeaks
from solar.leaks import GROUPS, measure_leaks, no_leaks, sum_groups, sum_products
from solar.playing import measure_parts, part_ends

Audio = NDArray[np.floating]
Stems = Mapping[str, Audio] | Sequence[Audio] | Audio

FLOOR_POWER = 1e-12
"""Added to the powers of which ratios are taken, -120 dB under a sine of amplitude 1: ratios stay finite."""

LOUDNESS_EXPONENT = 0.3
"""Of specific loudness over intensity (E. Zwicker, H. Fastl, "Psychoacoustics", 1999, section 8.7, rounds 0.23 up to
the 0.3 of Stevens' law for sones over phons)."""


@dataclass(frozen=True)
class Second:
    """One second of S stems.

    Attributes
    ----------
    dominance : (24, S) float64
        Share of each stem in each critical band; see `solar.dominance.dominance`.
    valid : (24,) bool
        Where somebody is heard; elsewhere the shares are 0.
    cross_power : (24, S, S) float64
        Power of each stem, and real part of that which two have in common; 1 for a sine of amplitude 1.
    loudest_rms : (S,) float64
        Largest RMS of the 10 ms parts.
    leak, leak_weight : (24, S, S) float32
        What each stem (row) holds of each other (column), as a factor, and the inverse of the variance with which that
        was found; see `solar.leaks`. A weight of 0: nothing is known.
    """

    dominance: NDArray[np.float64]
    valid: NDArray[np.bool_]
    cross_power: NDArray[np.float64]
    loudest_rms: NDArray[np.float64]
    leak: NDArray[np.float32]
    leak_weight: NDArray[np.float32]

    @property
    def band_power(self) -> NDArray[np.float64]:
        """Power of each stem, (S, 24)."""
        return np.diagonal(self.cross_power, axis1=-2, axis2=-1).T


@dataclass(frozen=True)
class MixMap:
    """Seconds of a song in order: `len(map)`, ``map[3]`` is a `Second`, ``map[3:5]`` another map.

    Attributes
    ----------
    names : tuple of str
        Of the S stems.
    dominance : (T, 24, S) float64
    valid : (T, 24) bool
    cross_power : (T, 24, S, S) float64
    loudest_rms : (T, S) float64
    leak, leak_weight : (T, 24, S, S) float32

    Examples
    --------
    >>> noise = 0.1 * np.random.default_rng(0).standard_normal((2, 3 * 48_000))
    >>> song = map_stems({"bass": noise[0], "guitar": noise[1]}, 48_000)
    >>> len(song), song.names, song[1:].dominance.shape, song[0].band_power.shape
    (3, ('bass', 'guitar'), (2, 24, 2), (2, 24))
    """

    names: tuple[str, ...]
    dominance: NDArray[np.float64]
    valid: NDArray[np.bool_]
    cross_power: NDArray[np.float64]
    loudest_rms: NDArray[np.float64]
    leak: NDArray[np.float32]
    leak_weight: NDArray[np.float32]

    @property
    def band_power(self) -> NDArray[np.float64]:
        """Power of each stem, (T, S, 24)."""
        return np.diagonal(self.cross_power, axis1=-2, axis2=-1).swapaxes(-2, -1)

    @classmethod
    def of(cls, names: Sequence[str], seconds: Sequence[Second]) -> MixMap:
        """Map of seconds, of which there may be none."""
        shapes = _shapes(len(seconds), len(names))
        stacked = {
            name: np.array([getattr(second, name) for second in seconds], dtype).reshape(shape)
            for name, (dtype, shape) in shapes.items()
        }
        return cls(tuple(names), **stacked)

    def __len__(self) -> int:
        return len(self.valid)

    @overload
    def __getitem__(self, part: int) -> Second: ...
    @overload
    def __getitem__(self, part: slice) -> MixMap: ...
    def __getitem__(self, part: int | slice) -> Second | MixMap:
        values = {field.name: getattr(self, field.name)[part] for field in fields(Second)}
        return MixMap(self.names, **values) if isinstance(part, slice) else Second(**values)

    def __iter__(self) -> Iterator[Second]:
        return (self[second] for second in range(len(self)))

    def ordered(self, names: Sequence[str]) -> MixMap:
        """Return the same map with its stems in another order."""
        order = [self.names.index(name) for name in names]
        pairs = (..., *np.ix_(order, order))
        return MixMap(
            tuple(names),
            self.dominance[..., order],
            self.valid,
            self.cross_power[pairs],
            self.loudest_rms[:, order],
            self.leak[pairs],
            self.leak_weight[pairs],
        )

    def save(self, path: str | Path) -> None:
        """Write it, as safetensors.

        Raises
        ------
        AudioFileError
            When it cannot be written.
        """
        path = Path(path)
        tensors = {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(Second)}
        data = save(tensors, {"names": json.dumps(self.names)})
        try:
            with staged(path) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise AudioFileError(f"{path}: expected to write it whole, got {reason_of(error)}") from None

    @classmethod
    def load(cls, path: str | Path) -> MixMap:
        """Read what `save` has written.

        Raises
        ------
        AudioFileError
            For anything else.
        """
        try:
            with safetensors.safe_open(path, "numpy") as file:
                names = tuple(json.loads((file.metadata() or {}).get("names", "[]")))
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError, ValueError, TypeError) as error:
            raise AudioFileError(f"{path}: expected a map of a mix, got {reason_of(error)}") from None
        shapes = _shapes(len(values.get("valid", ())), len(names))
        if {name: (v.dtype, v.shape) for name, v in values.items()} != shapes:
            raise AudioFileError(f"{path}: expected a map of a mix, got something else")
        return cls(names, **values)


def _shapes(seconds: int, stems: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    floats = np.dtype(np.float64)
    return {
        "dominance": (floats, (seconds, N_BANDS, stems)),
        "valid": (np.dtype(np.bool_), (seconds, N_BANDS)),
        "cross_power": (floats, (seconds, N_BANDS, stems, stems)),
        "loudest_rms": (floats, (seconds, stems)),
        "leak": (np.dtype(np.float32), (seconds, N_BANDS, stems, stems)),
        "leak_weight": (np.dtype(np.float32), (seconds, N_BANDS, stems, stems)),
    }


class Mapper:
    """A stream of stems to seconds: blocks of any size give the same seconds, to the bit.

    Parameters
    ----------
    names : sequence of str
        Of 2 to 16 stems.
    sample_rate : int
        32000 to 192000 Hz; all give the same, since a window lasts a second at each.
    leaks : bool
        Find what each stem holds of the others, too, which takes longer than all else.
    late : bool
        Take out what each microphone hears of others late, of all but who dominates; see `solar.late`.

    Attributes
    ----------
    bad_samples : int
        NaN, infinite or monstrous samples that were taken for 0, since the last reset.

    Raises
    ------
    ParameterError
        For another rate or number of stems, or a name used twice.

    Examples
    --------
    >>> mapper = Mapper(["bass", "guitar"], 48_000)
    >>> [len(mapper.process(np.zeros((2, 30_000)))) for _ in range(4)]
    [0, 1, 0, 1]
    """

    def __init__(self, names: Sequence[str], sample_rate: int, leaks: bool = False, late: bool = False) -> None:
        check_stems(len(names))
        if len(set(names)) < len(names):
            raise ParameterError(f"names must differ, got {', '.join(names)}")
        self.names, self.sample_rate = tuple(names), check_rate(sample_rate)
        stems = len(names)
        self._left, self._right, self._scratch = np.zeros((3, stems, self.sample_rate), np.float32)
        self._window, self._ends = window(self.sample_rate), part_ends(self.sample_rate)
        self._spectrum = np.empty((stems, self.sample_rate // 2 + 1), np.complex64)
        self._power = np.empty((stems, N_BINS), np.float32)
        self._products = np.empty((len(GROUPS) - 1, stems, stems), np.float32)
        self._candidates, self._leaks, self._takes_out = scratch_for(stems, np.float32), leaks, late
        self.reset()
        self._second()  # compiles what the first second would otherwise wait for

    def reset(self) -> None:
        """Begin anew: what was left of a second is forgotten, and what is known of microphones."""
        self._filled = 0
        self._late = LateLeaks(len(self.names)) if self._takes_out else None
        self._widths: list[int] | None = None
        self.bad_samples = 0

    def process(self, stems: Stems) -> list[Second]:
        """Hear the next block.

        Parameters
        ----------
        stems : (S, samples), or a sequence or mapping of S arrays (samples,), (1, samples) or (2, samples)
            float32 or float64. A mapping is taken by the mapper's names.

        Returns
        -------
        list of Second
            Those it completed.

        Raises
        ------
        AudioTypeError
            For anything but floats.
        ParameterError
            For another shape, stems of different lengths, a mono stem that turns stereo or the reverse, or names that
            are not the mapper's.
        """
        blocks = self._blocks(stems)
        seconds = []
        done = 0
        while done < blocks[0].shape[1]:
            take = min(self.sample_rate - self._filled, blocks[0].shape[1] - done)
            for stem, block in enumerate(blocks):
                for side, channel in zip((self._left, self._right), block, strict=False):
                    side[stem, self._filled : self._filled + take] = channel[done : done + take]
            done += take
            self._filled += take
            if self._filled == self.sample_rate:
                seconds.append(self._second())
                self._filled = 0
        return seconds

    def _blocks(self, stems: Stems) -> list[NDArray[np.float32]]:
        if isinstance(stems, Mapping):
            if stems.keys() != set(self.names):
                raise ParameterError(f"stems must be {', '.join(self.names)}, got {', '.join(stems) or 'none'}")
            stems = [stems[name] for name in self.names]
        if len(stems) != len(self.names):
            raise ParameterError(f"stems must be {len(self.names)} ({', '.join(self.names)}), got {len(stems)}")
        blocks = []
        for name, stem in zip(self.names, stems, strict=True):
            block, bad = mend(as_block(stem, name))
            self.bad_samples += bad
            if block.shape[1] != (blocks or [block])[0].shape[1]:
                raise ParameterError(
                    f"stems must be of one length, got {blocks[0].shape[1]} and {block.shape[1]} samples ({name})"
                )
            blocks.append(block)
        widths = [len(block) for block in blocks]
        if self._widths not in (None, widths):
            raise ParameterError(f"stems must keep their channels, {self._widths} since the reset, got {widths}")
        self._widths = widths
        return blocks

    def _second(self) -> Second:
        stems = len(self.names)
        mono = self._left
        for stem, width in enumerate(self._widths or ()):
            if width == 2:
                mono[stem] = to_mono(np.stack([self._left[stem], self._right[stem]]))
        shares, valid, rms = np.empty((N_BANDS, stems)), np.empty(N_BANDS, np.bool_), np.empty(stems)
        measure_parts(mono, self._ends, rms)
        transform(mono, self._window, self._scratch, self._spectrum)
        square(self._spectrum, self._power)
        spectrum = self._spectrum if self._late is None else self._late.take_out(self._spectrum[:, :N_BINS])
        sum_products(spectrum, GROUPS, self._products)
        cross = sum_groups(self._products)
        bands = np.ascontiguousarray(np.diagonal(cross, axis1=1, axis2=2).T)
        count_strongest(self._power, bands, EDGES, self._candidates, shares, valid)
        leak, weight = measure_leaks(self._products) if self._leaks else no_leaks(stems)
        return Second(shares, valid, cross, rms, leak, weight)


@njit(cache=True, nogil=True)
def square(spectrum, power):
    """`spectrum` (stems, >= bins), `power` (stems, bins)."""
    for stem in range(power.shape[0]):
        for k in range(power.shape[1]):
            z = spectrum[stem, k]
            power[stem, k] = z.real * z.real + z.imag * z.imag


def to_mono(sides: Audio) -> NDArray[np.float32]:
    """One channel that stands for two: (L + R) / 2, or the louder side where they cancel, with the sides' mean power.

    So a stem is as loud here wherever it is panned and however wide it is.

    >>> to_mono(np.array([[1.0, -1.0], [-1.0, 1.0]])).tolist()
    [1.0, -1.0]
    >>> float(np.square(to_mono(np.array([[1.0, -1.0], [0.0, 0.0]]))).mean().round(6))
    0.5
    """
    left, right = np.square(sides, dtype=np.float64).sum(axis=1)
    mean = 0.5 * (left + right)
    mono = 0.5 * (sides[0] + sides[1])
    power = np.square(mono, dtype=np.float64).sum()
    if power < CANCELLED * mean:
        mono, power = (sides[0], left) if left >= right else (sides[1], right)
    return (mono * np.sqrt(mean / power) if power > 0.0 else mono).astype(np.float32)


def map_stems(stems: Stems, sample_rate: int, names: Sequence[str] | None = None) -> MixMap:
    """Map of a song.

    Parameters
    ----------
    stems : mapping, or sequence or (S, samples) with `names`
        As for `Mapper.process`. What is left after the last whole second is left out.
    sample_rate : int
        32000 to 192000 Hz.
    names : sequence of str, optional
        Of the stems; by default the mapping's, else "1", "2" and so on.

    Returns
    -------
    MixMap

    Raises
    ------
    AudioTypeError, ParameterError
        As `Mapper` and `Mapper.process`.
    """
    if names is None:
        names = tuple(stems) if isinstance(stems, Mapping) else [str(1 + stem) for stem in range(len(stems))]
    mapper = Mapper(names, sample_rate)
    return MixMap.of(mapper.names, mapper.process(stems))


# ---- one stem against the others -------------------------------------------------------------------------------------


def _ear_weights() -> NDArray[np.float64]:
    """Power gain (24,) of the K-weighting filter in the middle of each band."""
    rate = 48_000
    edges = np.array(BARK_HZ, np.float64)
    z = np.exp(-2j * np.pi * np.sqrt(edges[1:] * edges[:-1]) / rate)
    weights = np.ones(N_BANDS)
    for b0, b1, b2, a1, a2 in k_weighting(rate):
        weights *= np.abs((b0 + b1 * z + b2 * z * z) / (1.0 + a1 * z + a2 * z * z)) ** 2
    return weights


EAR_WEIGHTS = _ear_weights()


def power_ratio_db(band_power: NDArray[np.float64], player: int) -> NDArray[np.float64]:
    """Level of one stem against all others together, in dB.

    Parameters
    ----------
    band_power : (..., S, 24)
    player : int
        Which stem.

    Returns
    -------
    (...) float64
        Rises by 1 with every dB of the player's gain.

    Examples
    --------
    >>> power = np.ones((3, 24))
    >>> round(float(power_ratio_db(power, 0)), 2)
    -3.01
    """
    own, others = _against(band_power, player)
    return 10.0 * np.log10(own.sum(axis=-1) / others.sum(axis=-1))


def loudness_ratio_db(band_power: NDArray[np.float64], player: int) -> NDArray[np.float64]:
    """Loudness of one stem against all others together, each heard alone, in dB.

    Loudness is the sum over the bands of ear-weighted power to the 0.3 (S. S. Stevens): that a band is 20 dB stronger
    makes it four times as loud, so that many bands count for more than one strong one. The weighting is BS.1770's.

    Parameters
    ----------
    band_power : (..., S, 24)
    player : int
        Which stem.

    Returns
    -------
    (...) float64
        Rises by 1 with every dB of the player's gain.

    Examples
    --------
    >>> power = np.ones((3, 24))
    >>> round(float(loudness_ratio_db(power, 0)), 2)
    -3.01
    """
    own, others = ((EAR_WEIGHTS * power) ** LOUDNESS_EXPONENT for power in _against(band_power, player))
    return 10.0 / LOUDNESS_EXPONENT * np.log10(own.sum(axis=-1) / others.sum(axis=-1))


def _against(band_power: NDArray[np.float64], player: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    own = band_power[..., player, :]
    others = np.delete(band_power, player, axis=-2).sum(axis=-2)
    return own + FLOOR_POWER, others + FLOOR_POWER
