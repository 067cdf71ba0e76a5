"""A stage: every microphone hears its own source first, and everyone else a little later and weaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import ArrayLike, NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.units import db_to_factor

Audio = NDArray[np.float32]
Floats = NDArray[np.float64]
Point = tuple[float, float, float]

SOUND_M_S = 343.0
_SINC = 40  # samples on either side of an arrival, as in pyroomacoustics


@dataclass(frozen=True)
class Stage:
    """C sources and M microphones in a box; positions in metres.

    Attributes
    ----------
    size : tuple of float
        Of the room.
    absorption : float
        Share of the energy that a wall takes.
    sources : (C, 3)
    microphones : (M, 3)
        Of a direct channel too, whose microphone is not used.
    look : (M, 3)
        Where the microphones point, unit vectors.
    pattern : (M,)
        Polar pattern p, whose gain is ``p + (1 - p) cos(angle)``: 1 omni, 0.5 cardioid, 0.37 super, 0.25 hyper.
    level_db : (C,)
        Of the source on stage, 1 m away, when its dry signal is as given; ``-inf`` makes no sound there.
    direct : (C,) bool
        Sources on a direct line, which hears no one else.
    owner : (M,) int or None
        Source that a microphone is there for; None: one microphone for each source, in their order.
    order : int
        Most walls that a sound may meet on its way.
    """

    size: Point
    absorption: float
    sources: Floats
    microphones: Floats
    look: Floats
    pattern: Floats
    level_db: Floats
    direct: NDArray[np.bool_]
    owner: NDArray[np.int64] | None = None
    order: int = 3

    def __post_init__(self) -> None:
        owner = self.owners
        C, M = len(self.sources), len(owner)
        wanted = {"sources": (C, 3), "microphones": (M, 3), "look": (M, 3), "pattern": (M,), "level_db": (C,)}
        for name, shape in (wanted | {"direct": (C,)}).items():
            if getattr(self, name).shape != shape:
                raise ParameterError(f"{name} must have shape {shape}, got {getattr(self, name).shape}")
        if not np.isfinite(self.level_db[owner[~self.direct[owner]]]).all():
            raise ParameterError(f"level_db must be finite where a microphone listens, got {self.level_db}")

    @property
    def owners(self) -> NDArray[np.int64]:
        """Source of each microphone, (M,)."""
        return np.arange(len(self.sources)) if self.owner is None else self.owner

    def hearing(self, signal_db: ArrayLike) -> Stage:
        """Give the same stage for dry signals that have these levels instead of equal ones.

        Bleed follows from what a source does on stage, not from how hot its recording is.
        """
        return replace(self, level_db=self.level_db - np.asarray(signal_db, np.float64))


class Habit(NamedTuple):
    """How a role stands on stage; metres, dB, degrees, and shares of one.

    `extent_m` is how far behind its surface a source's acoustic centre lies: no drum is a point, and a microphone at
    its skin does not hear it infinitely loud. `part` is a place in the kit, `direct` how often a line replaces the
    microphone, `mute` how many of those have no amplifier on stage.
    """

    level_db: float
    distance_m: tuple[float, float]
    extent_m: float = 0.1
    height_m: tuple[float, float] = (0.5, 1.0)
    elevation: float = 0.0
    direct: float = 0.0
    mute: float = 0.0
    part: Point | None = None
    front: bool = False


# Levels at 1 m as musicians play in a loud band, +-4 dB. The kit's parts stand 0.3 to 1 m apart.
HABITS: dict[str | None, Habit] = {
    "vocals": Habit(80, (0.02, 0.08), 0.02, (1.4, 1.7), front=True),
    "backing vocals": Habit(78, (0.02, 0.08), 0.02, (1.4, 1.7)),
    "drums": Habit(101, (0.6, 1.1), 0.0, elevation=80, part=(0.0, 0.0, 0.8)),
    "kick": Habit(99, (0.03, 0.12), 0.2, part=(0.0, -0.4, 0.4)),
    "snare": Habit(101, (0.03, 0.12), 0.15, elevation=45, part=(0.25, 0.1, 0.7)),
    "hats": Habit(95, (0.05, 0.15), 0.15, elevation=60, part=(0.65, 0.1, 0.95)),
    "toms": Habit(99, (0.03, 0.12), 0.15, elevation=45, part=(-0.3, -0.1, 0.8)),
    "overheads": Habit(99, (0.6, 1.1), 0.0, elevation=80, part=(0.0, 0.1, 1.1)),
    "percussion": Habit(92, (0.1, 0.4), 0.1, (0.8, 1.2), 30),
    "bass": Habit(96, (0.03, 0.15), 0.15, (0.3, 0.8), direct=0.6, mute=0.5),
    "guitar": Habit(99, (0.03, 0.15), 0.08, (0.3, 0.8), direct=0.1, mute=1.0),
    "acoustic guitar": Habit(78, (0.15, 0.4), 0.0, (0.8, 1.1), direct=0.35, front=True),
    "keys": Habit(88, (0.05, 0.2), 0.1, direct=0.8, mute=0.7),
    "piano": Habit(85, (0.15, 0.5), 0.15, (0.8, 1.0), 30, direct=0.3, mute=0.7),
    "organ": Habit(92, (0.1, 0.4), 0.15, direct=0.8, mute=0.5),
    "strings": Habit(82, (0.05, 0.3), 0.05, (1.0, 1.5), 30),
    "brass": Habit(97, (0.1, 0.4), 0.05, (1.0, 1.5)),
    "synth": Habit(88, (0.05, 0.2), 0.1, direct=0.8, mute=0.9),
    None: Habit(88, (0.05, 0.3)),
}
_PATTERNS, _PATTERN_SHARES = (1.0, 0.5, 0.37, 0.25), (0.1, 0.55, 0.2, 0.15)
_ROOMS = ((6.0, 5.0, 2.8), (18.0, 14.0, 7.0))
_MARGIN_M = 1.4
_CANDIDATES = 16


def random_stage(roles: Sequence[str | None], rng: np.random.Generator) -> Stage:
    """Put a band of 1 to 64 channels into a random room, each with one microphone or a direct line.

    The kit stands at the back, singers and acoustic guitars in front, everyone as far from the others as there is room
    for. `level_db` is for dry signals of equal power; for others see `Stage.hearing`.

    >>> stage = random_stage(["vocals", "drums"], np.random.default_rng(0))
    >>> responses(stage, 16_000, "images").shape[:2]
    (2, 2)
    """
    if not 1 <= len(roles) <= 64:
        raise ParameterError(f"roles must be 1 to 64, got {len(roles)}")
    habits = [HABITS[role] for role in roles]
    C = len(habits)
    size = rng.uniform(*_ROOMS)
    sources = _places(habits, size, rng)
    low, high = np.array([habit.distance_m for habit in habits]).T
    distance = low * (high / low) ** rng.random(C) + [habit.extent_m for habit in habits]
    elevation = np.radians([habit.elevation for habit in habits] + rng.uniform(-20, 20, C))
    azimuth = np.radians(rng.uniform(-150, -30, C))  # from the side of the audience
    flat = np.cos(elevation)
    way = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=1)
    direct = rng.random(C) < [habit.direct for habit in habits]
    mute = direct & (rng.random(C) < [habit.mute for habit in habits])
    level_db = [habit.level_db for habit in habits] + rng.uniform(-4, 4, C)
    return Stage(
        size=(float(size[0]), float(size[1]), float(size[2])),
        absorption=float(rng.uniform(0.25, 0.7)),
        sources=sources,
        microphones=sources + distance[:, None] * way,
        look=-way,
        pattern=rng.choice(_PATTERNS, C, p=_PATTERN_SHARES),
        level_db=np.where(mute, -np.inf, level_db),
        direct=direct,
    )


def _places(habits: Sequence[Habit], size: Floats, rng: np.random.Generator) -> Floats:
    """Best of some random candidates for each, that farthest from those who stand there already; the kit first."""
    width, depth = (min(room - 2 * _MARGIN_M, most) for room, most in zip(size[:2], (10.0, 6.0), strict=True))
    left, back = (size[0] - width) / 2, size[1] - _MARGIN_M
    kit = np.array([size[0] / 2 + rng.uniform(-0.1, 0.1) * width, back, 0.0])
    places = np.full((len(habits), 3), np.inf)
    for i in sorted(range(len(habits)), key=lambda i: habits[i].part is None):
        habit = habits[i]
        if habit.part is not None:
            spread_m = 0.05 * np.sqrt(sum(other.part == habit.part for other in habits))
            candidates = kit + habit.part + np.clip(spread_m * rng.standard_normal((_CANDIDATES, 3)), -0.2, 0.2)
        else:
            deep = 0.35 * depth if habit.front else 0.8 * depth
            low = (left, back - depth, habit.height_m[0])
            candidates = rng.uniform(low, (left + width, back - depth + deep, habit.height_m[1]), (_CANDIDATES, 3))
        nearest = np.linalg.norm(candidates[:, None] - places[np.isfinite(places[:, 0])], axis=2).min(1, initial=99.0)
        places[i] = candidates[nearest.argmax()]
    return places


def responses(
    stage: Stage,
    sample_rate: int,
    backend: str = "pyroomacoustics",
    *,
    longest_ms: float | None = 120.0,
    tail: np.random.Generator | None = None,
) -> Audio:
    """Response of every microphone to every source.

    A microphone's time starts when its own source arrives, and its gain is such that the whole of its own path,
    reflections too, has an energy of one: a dry signal is neither delayed nor scaled. Bleed keeps its level, and its
    distance in time; from a source nearer than the own one it arrives together with the own one, never before.

    Parameters
    ----------
    stage : Stage
    sample_rate : int
    backend : {"pyroomacoustics", "images"}
        What follows the sound: pyroomacoustics, or its twin here, which is faster and needs nothing.
    longest_ms : float or None
        Responses end here, or sooner where nothing louder than -60 dB follows; None keeps all.
    tail : Generator or None
        Draws the diffuse sound that comes after the last image; None leaves it out.

    Returns
    -------
    (M, C, taps)
        A direct channel's row is its own source, unchanged; the column of a source that makes no sound is zero.
    """
    if backend not in _BACKENDS:
        raise ParameterError(f"backend must be one of {', '.join(_BACKENDS)}, got {backend!r}")
    owners = stage.owners
    paths = _Paths.on(stage, sample_rate)
    wet, loud = paths.wet, paths.loud
    if not len(wet):
        return np.eye(len(stage.sources), dtype=np.float32)[owners, :, None]
    heard = _BACKENDS[backend](stage, paths, sample_rate)
    if tail is not None:
        heard = _with_tail(heard, stage, paths, sample_rate, tail)
    if longest_ms is not None:
        heard = heard[:, :, : _useful(heard, round(longest_ms * sample_rate / 1000))]
    own = loud == owners[wet, None]
    levels = db_to_factor(stage.level_db[loud] - stage.level_db[owners[wet], None])
    levels *= np.where(own, 1.0, paths.moved[:, None])
    levels /= np.linalg.norm(heard[own], axis=1)[:, None]
    heard *= levels[:, :, None].astype(np.float32)
    full = np.zeros((len(owners), len(stage.sources), heard.shape[2]), np.float32)
    full[np.arange(len(owners)), owners, 0] = 1.0
    full[np.ix_(wet, loud)] = heard
    return full


class _Paths(NamedTuple):
    """What is followed: W microphones that are on, S sources that sound, and the samples `begin` (W, S) to leave out.

    Microphones are moved to a whole number of samples from their sources, so that an own path begins with one sample
    and not with a sinc; `moved` (W,) is the true distance over that one, a factor that bleed then lacks.
    """

    wet: NDArray[np.int64]
    loud: NDArray[np.int64]
    microphones: Floats
    moved: Floats
    begin: NDArray[np.int64]

    @staticmethod
    def on(stage: Stage, sample_rate: int) -> _Paths:
        wet, loud = np.flatnonzero(~stage.direct[stage.owners]), np.flatnonzero(np.isfinite(stage.level_db))
        own = stage.sources[stage.owners[wet]]
        way = stage.microphones[wet] - own
        distance = np.linalg.norm(way, axis=1)
        samples = np.maximum(np.rint(distance * sample_rate / SOUND_M_S), 1.0)
        snapped = samples * SOUND_M_S / sample_rate
        microphones = own + way / distance[:, None] * snapped[:, None]
        arrival = np.linalg.norm(microphones[:, None] - stage.sources[loud], axis=2) * sample_rate / SOUND_M_S
        begin = np.minimum(samples[:, None], np.floor(arrival + 1e-6)).astype(np.int64)
        return _Paths(wet, loud, microphones, distance / snapped, begin)


def _pyroomacoustics(stage: Stage, paths: _Paths, sample_rate: int) -> Audio:
    import pyroomacoustics as pra

    walls = pra.Material(stage.absorption)
    box = pra.ShoeBox(stage.size, fs=sample_rate, materials=walls, max_order=stage.order)
    for source in stage.sources[paths.loud]:
        box.add_source(source)
    for microphone, m in zip(paths.microphones, paths.wet, strict=True):
        p = float(stage.pattern[m])
        directivity = pra.directivities.CardioidFamily(stage.look[m], p) if p < 1 else None
        box.add_microphone(microphone, directivity=directivity)
    box.compute_rir()
    # Every response is late by half of the sinc that stands for an arrival between two samples.
    begin = paths.begin + pra.constants.get("frac_delay_length") // 2
    rirs = box.rir or []
    heard = np.zeros((*begin.shape, max(len(rir) for row in rirs for rir in row)), np.float32)
    for w, row in enumerate(rirs):
        for s, rir in enumerate(row):
            heard[w, s, : len(rir) - begin[w, s]] = rir[begin[w, s] :]
    return heard


def _images(stage: Stage, paths: _Paths, sample_rate: int) -> Audio:
    # A wall mirrors room and source; n walls met along an axis put the image into the n-th room that way, at
    #     n L + x  for even n,  n L + (L - x)  for odd n              (Allen & Berkley, 1979, eq. 9).
    reach = np.arange(-stage.order, stage.order + 1)
    rooms = np.stack(np.meshgrid(reach, reach, reach), axis=-1).reshape(-1, 3)
    walls = np.abs(rooms).sum(axis=1)
    rooms, walls = rooms[walls <= stage.order], walls[walls <= stage.order]
    source = stage.sources[paths.loud, None]
    images = rooms * np.array(stage.size) + np.where(rooms % 2 == 0, source, stage.size - source)
    way = images - paths.microphones[:, None, None]
    distance = np.linalg.norm(way, axis=-1)
    p = stage.pattern[paths.wet, None, None]
    gain = (1 - stage.absorption) ** (walls / 2) / distance
    gain *= p + (1 - p) * np.einsum("wskx,wx->wsk", way, stage.look[paths.wet]) / distance
    arrival = distance * sample_rate / SOUND_M_S - paths.begin[:, :, None]
    heard = np.zeros((*paths.begin.shape, int(arrival.max()) + _SINC), np.float32)
    _arrive(arrival, gain, heard)
    return heard


@njit(cache=True, nogil=True)
def _arrive(arrival, gain, out):
    """Add a windowed sinc for each arrival (W, S, K) to ``out`` (W, S, T), less what of it comes before time 0."""
    # sin(pi (n - f)) = -(-1)^n sin(pi f): one sine does for all taps n of an arrival f after a sample.
    for w in range(arrival.shape[0]):
        for s in range(arrival.shape[1]):
            for k in range(arrival.shape[2]):
                whole = int(np.floor(arrival[w, s, k]))
                f = arrival[w, s, k] - whole
                if f < 1e-6:
                    out[w, s, whole] += gain[w, s, k]
                    continue
                sine = gain[w, s, k] * np.sin(np.pi * f) / np.pi
                for n in range(max(1 - _SINC, -whole), _SINC):
                    x = n - f
                    window = 1.0 - (x / _SINC) ** 2
                    out[w, s, whole + n] += (sine if n % 2 else -sine) * window * window / x


_BACKENDS = {"pyroomacoustics": _pyroomacoustics, "images": _images}


def _with_tail(heard: Audio, stage: Stage, paths: _Paths, sample_rate: int, rng: np.random.Generator) -> Audio:
    """Add noise that decays as Eyring says and has, all in all, the diffuse field's energy after the last image.

    Where the direct sound 1 m away has an energy of 1, the diffuse field has 16 pi / A, A being the absorbing area
    (Kuttruff, Room Acoustics, section 5.1); a microphone takes in p^2 + (1 - p)^2 / 3 of it.
    """
    x, y, z = stage.size
    volume, surface = x * y * z, 2 * (x * y + y * z + z * x)
    area = -surface * np.log(1 - stage.absorption)
    decay_s = 4 * volume / (area * SOUND_M_S)
    start = int((stage.order + 1) * 4 * volume / surface / SOUND_M_S * sample_rate)
    taps = max(heard.shape[2], start + int(np.log(1e6) * decay_s * sample_rate))
    time = np.arange(taps)
    envelope = np.exp(-time / (2 * decay_s * sample_rate)) * (time >= start)
    p = stage.pattern[paths.wet]
    energy = 16 * np.pi / area * (p**2 + (1 - p) ** 2 / 3) / (decay_s * sample_rate)
    late = rng.standard_normal((*heard.shape[:2], taps), np.float32)
    late *= (np.sqrt(energy)[:, None, None] * envelope).astype(np.float32)
    late[:, :, : heard.shape[2]] += heard
    return late


def _useful(heard: Audio, longest: int) -> int:
    """Taps up to the last that is less than 60 dB under its response's largest, at most `longest`."""
    loud = np.abs(heard[:, :, :longest])
    audible = np.any(loud > 1e-3 * np.max(loud, axis=2, keepdims=True), axis=(0, 1))
    return int(np.flatnonzero(audible)[-1]) + 1


def bleed(dry: Audio, responses: Audio) -> Audio:
    """Record on stage: ``recorded[m] = sum over s of responses[m, s] * dry[s]``, as long as `dry`.

    Parameters
    ----------
    dry : (C, N)
    responses : (M, C, taps)

    Returns
    -------
    (M, N)
        Exact where a microphone hears without delay, as a direct line does.
    """
    M, C, taps = responses.shape
    if dry.ndim != 2 or len(dry) != C:
        raise ParameterError(f"dry must be ({C}, samples), got {dry.shape}")
    N = dry.shape[1]
    late = np.any(responses[:, :, 1:], axis=(1, 2))
    wet, at_once = np.flatnonzero(late), np.flatnonzero(~late)
    recorded = np.empty((M, N), np.float32)
    recorded[at_once] = responses[at_once, :, 0] @ dry
    heard = np.flatnonzero(np.any(responses[wet], axis=(0, 2)))
    if not len(wet) or not N:
        return recorded
    # Overlap-save: a block's first taps - 1 results are wrapped around, and thrown away.
    block = 1 << min(max(4 * taps, 4096), taps - 1 + N).bit_length()
    hop = block - taps + 1
    spectra = scipy.fft.rfft(responses[np.ix_(wet, heard)], block, axis=2)
    window = np.zeros((len(heard), block), np.float32)
    total = np.empty((len(wet), block // 2 + 1), np.complex64)
    for start in range(0, N, hop):
        known = dry[heard, max(0, start - taps + 1) : start + hop]
        before = max(0, taps - 1 - start)
        # The last block keeps the end of the one before: it sounds only after N.
        window[:, before : before + known.shape[1]] = known
        _accumulate(spectra, scipy.fft.rfft(window, axis=1), total)
        part = np.asarray(scipy.fft.irfft(total, block, axis=1))
        end = min(N, start + hop)
        recorded[wet, start:end] = part[:, taps - 1 : taps - 1 + end - start]
    return recorded


@njit(cache=True, nogil=True, fastmath={"contract"})
def _accumulate(spectra, heard, out):
    """Sum over s of ``spectra`` (W, S, F) times ``heard`` (S, F) into ``out`` (W, F)."""
    for w in range(spectra.shape[0]):
        out[w] = 0
        for s in range(spectra.shape[1]):
            for f in range(spectra.shape[2]):
                out[w, f] += spectra[w, s, f] * heard[s, f]


@dataclass(frozen=True)
class Seat:
    """Where a source stands, what picks it up, and how loud it is on stage.

    Attributes
    ----------
    position : tuple of float
        In metres.
    microphones : tuple of tuple of float
        Omnidirectional, one for each channel of the source's signal; none for a direct line, which hears no one else.
    stage_db : float
        Level on stage above that in the mix: drums are loud in the room, a voice is not.
    """

    position: Point
    microphones: tuple[Point, ...] = ()
    stage_db: float = 0.0


def seated(seats: Sequence[Seat], sample_rate: int, size: Point = (9.0, 7.0, 3.5), absorption: float = 0.4) -> Stage:
    """Stage of hand-placed seats, whose microphones move to the nearest whole number of samples."""
    owner = np.repeat(np.arange(len(seats)), [len(seat.microphones) for seat in seats])
    stage = Stage(
        size=size,
        absorption=absorption,
        sources=np.array([seat.position for seat in seats]),
        microphones=np.array([point for seat in seats for point in seat.microphones]).reshape(-1, 3),
        look=np.tile((0.0, 0.0, 1.0), (len(owner), 1)),
        pattern=np.ones(len(owner)),
        level_db=np.array([seat.stage_db for seat in seats]),
        direct=np.array([not seat.microphones for seat in seats]),
        owner=owner,
    )
    return replace(stage, microphones=_Paths.on(stage, sample_rate).microphones)


def perform(stems: Sequence[Audio], seats: Sequence[Seat], sample_rate: int) -> list[Audio]:
    """Record on stage: dry `stems` (channels, samples) in, what the microphones hear out, in the same shapes.

    A microphone hears its own channel of its own source, and the mean of the channels of every other.
    """
    stage = seated(seats, sample_rate)
    counts = np.array([len(stem) for stem in stems])
    seat_of = np.repeat(np.arange(len(seats)), counts)
    picked_up = np.flatnonzero(~stage.direct[seat_of])
    own = np.arange(len(stage.owners)), stage.owners
    alone = responses(stage, sample_rate, longest_ms=None)
    heard = alone[:, seat_of] / counts[seat_of, None].astype(np.float32)
    heard[stage.owners[:, None] == seat_of] = 0
    heard[own[0], picked_up] = alone[own]
    out = np.concatenate(stems)
    out[picked_up] = bleed(out, heard)
    return np.split(out, np.cumsum(counts)[:-1])
