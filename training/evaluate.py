"""Judge whatever predicts gains on examples whose true gains are known, as a user would hear it.

A *system* turns an example into gain curves (C, frames) in dB, one value per 50 ms. Models are played through the
mixer, frame by frame, without knowing what comes; baselines are rules; the oracle is the truth itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from auraloss.freq import MultiResolutionSTFTLoss
from numpy.typing import NDArray

from alm_plugin.errors import ModelError
from alm_plugin.features.clock import MULTI_RATE
from alm_plugin.features.front_end import FrontEnd
from alm_plugin.mixer import Mixer
from alm_plugin.models.contract import Model
from alm_plugin.models.loudness import LEAD_LUFS, Loudness
from alm_plugin.models.predictor import Predictor
from alm_plugin.models.roles import ROLES
from alm_plugin.nodes.strip import Strip
from alm_plugin.units import db_to_factor, factor_to_db, ms_to_samples

from .balance import gated_lufs, hop_powers
from .examples import CONVERTER_PEAK, FRAME, Audio, Example, Examples
from .song import SAMPLE_RATE

Curves = NDArray[np.float32]
Player = Callable[[Example], Curves]
Level = Literal["own", "fitted", "per song"]
Progress = Callable[[int, int, str], None]


class Songs(Protocol):
    """What is read by index: a list, or the `First` of `training.examples.Examples`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class First:
    """The first `count` of examples without end, made when asked for: a test set that need not fit into memory."""

    examples: Examples
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Example:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.examples[index]


FRAME_S = MULTI_RATE.f2_ms / 1000.0
FROM_FRAME = round(2.0 / FRAME_S)
"""Nobody can know a band's loudness at once: errors count from here on."""

MOVE_DB = 3.0
ENTRY_FRAME, ENTRY_DB, ENTRY_STAYS = round(3.0 / FRAME_S), 3.0, round(0.5 / FRAME_S)
DISTURBANCE_DB, DISTURBED_FROM = 12.0, round(5.0 / FRAME_S)
FFT_SIZES = (512, 1024, 4096)
SINGERS = ("vocals", "backing vocals")

ORACLE = "oracle"
SUBJECT_OF_LAST_RESORT = "group priors, oracle roles"
NOT_LIVE = (ORACLE, "oracle role, whole clip", "equal loudness, whole clip")
"""Systems that know the truth or the future: shown for comparison, never the best."""


# ---- systems ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """Something that predicts gains.

    Attributes
    ----------
    curves : callable
        Example to gains (C, frames) in dB.
    level : {"own", "fitted", "per song"}
        Who answers for the level of the whole mix: the system; or one constant fitted on all examples; or that one,
        and for the MR-STFT, which a wrong level would drown, a constant for each song.
    """

    curves: Player
    level: Level = "own"


def play(model: Model, example: Example, controls: Mapping[str, Any] | None = None, *, roles: bool = False) -> Curves:
    """Gains that a model applies while an example is mixed by `alm_plugin.Mixer`.

    Parameters
    ----------
    model : Model
    example : Example
    controls : dict, optional
        `Strip`'s ``bounds_db`` and ``slew_db_per_s``.
    roles : bool
        Tell the model the true roles.

    Returns
    -------
    (C, frames) float32
        Slower clocks are held between their frames.

    Raises
    ------
    ModelError
        When the model failed; the mixer would hold its gains and say nothing.
    """
    strips = {
        f"{c}": Strip(role=ROLES[code] if roles and code >= 0 else None, **(controls or {}))
        for c, code in enumerate(example.roles)
    }
    mixer = Mixer(strips, model, channels=1, ceiling_db=None)
    mixer.process(example.inputs, SAMPLE_RATE)
    if mixer.faults:
        raise ModelError(f"model {model.metadata.name} must play without faults, got {mixer.faults}")
    automation = mixer.automation
    starts = np.arange(example.true_gain_db.shape[1]) * FRAME_S
    rows = np.searchsorted(automation.times_s, starts + 1e-6, side="right") - 1
    return np.stack([automation.gains_db[name][rows] for name in strips])


def baselines(examples: Iterable[Example]) -> dict[str, System]:
    """Systems that everything is measured against; `examples` are what the oracle role's levels are the means of."""
    unity = System(lambda e: np.zeros_like(e.true_gain_db), "per song")
    levels = role_levels(examples)

    def of_role(example: Example) -> Curves:
        target = np.array([levels.get(int(code), levels[-1]) for code in example.roles])
        return _to_level(example, target)

    return {
        "raw": unity,
        "equal loudness": System(lambda e: play(Loudness(), e), "per song"),
        "equal loudness, whole clip": System(lambda e: _to_level(e, np.full(len(e.roles), LEAD_LUFS)), "per song"),
        "group priors, oracle roles": System(lambda e: play(Loudness(), e, roles=True), "fitted"),
        "oracle role, whole clip": System(of_role, "fitted"),
        ORACLE: System(lambda e: e.true_gain_db),
    }


def role_levels(examples: Iterable[Example]) -> dict[int, float]:
    """Mean loudness of each role's channels in the true mix, LUFS, by code; -1 for all channels."""
    heard: dict[int, list[float]] = {-1: []}
    for example in examples:
        power = own_powers(example) * _per_hop(example.true_gain_db)
        for code, row in zip(example.roles, power, strict=True):
            if math.isfinite(lufs := gated_lufs(row)):
                heard.setdefault(int(code), []).append(lufs)
                if code >= 0:
                    heard[-1].append(lufs)
    return {code: float(np.mean(levels)) if levels else LEAD_LUFS for code, levels in heard.items()}


def _to_level(example: Example, target_lufs: NDArray) -> Curves:
    lufs = np.array([gated_lufs(hop_powers(channel, SAMPLE_RATE)) for channel in example.inputs])
    gain_db = np.where(np.isfinite(lufs), target_lufs - np.nan_to_num(lufs, neginf=0.0), 0.0)
    return np.repeat(gain_db[:, None], example.true_gain_db.shape[1], axis=1).astype(np.float32)


# ---- one song --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelScores:
    """Gain error of one channel, the song's offset removed, in dB: its mean, and the mean of its size."""

    role: str
    bias_db: float
    error_db: float


@dataclass(frozen=True)
class SongScores:
    """One system on one song; NaN where a song has nothing to measure. See `judge_curves` for the formulas.

    Attributes
    ----------
    gain_error_db, absolute_error_db, offset_db : float
    channels : tuple of ChannelScores
    vocal_to_band_lu, true_vocal_to_band_lu : float
    stft, stft_ratio : float
    moves_per_s : float
    peak_dbfs : float
        Of the mix before any ceiling.
    entry_s : tuple of float
        For each late entry; ``inf`` when the gain never arrived.
    disturbance_db : float
    """

    gain_error_db: float
    absolute_error_db: float
    offset_db: float
    channels: tuple[ChannelScores, ...]
    vocal_to_band_lu: float
    true_vocal_to_band_lu: float
    stft: float
    stft_ratio: float
    moves_per_s: float
    peak_dbfs: float
    entry_s: tuple[float, ...]
    disturbance_db: float = math.nan


@dataclass(frozen=True)
class Truth:
    """What is the same for every system that is judged on an example."""

    counted: NDArray[np.bool_]
    powers: NDArray[np.float64]
    target: Audio
    floor: float

    @classmethod
    def of(cls, example: Example) -> Truth:
        """Measure an example."""
        target = example.target
        floor = mr_stft(mixed(example.inputs, example.true_gain_db), target)
        return cls(_counted(example), own_powers(example), target, floor)


def judge(
    system: System | Model | Player, example: Example, *, controls: Mapping[str, Any] | None = None
) -> SongScores:
    """Play one example and measure it; `controls` are `Strip`'s limits for a model, as `play` takes them."""
    system = as_system(system, controls)
    return judge_curves(system.curves(example), example, level=system.level)


def judge_curves(
    curves: Curves, example: Example, truth: Truth | None = None, *, shift_db: float = 0.0, level: Level = "own"
) -> SongScores:
    """Measure gain curves against an example's truth.

    Parameters
    ----------
    curves : (C, frames)
    example : Example
    truth : Truth, optional
        Of this example, when it is judged many times.
    shift_db : float
        Fitted constant, added to `curves` first.
    level : {"own", "fitted", "per song"}

    Returns
    -------
    SongScores
    """
    truth = truth or Truth.of(example)
    curves = np.asarray(curves + np.float32(shift_db), np.float32)
    # d(c, n) = gain - true over counted frames: from 2 s on, and from the channel's first playing frame on.
    # offset = median d;  gain error = mean |d - offset|;  absolute error = mean |d|.
    difference = curves.astype(np.float64) - example.true_gain_db
    counted = difference[truth.counted]
    offset = float(np.median(counted)) if counted.size else math.nan
    error = difference - offset
    channels = tuple(
        ChannelScores(ROLES[code] if code >= 0 else "unknown", float(e[k].mean()), float(np.abs(e[k]).mean()))
        for code, e, k in zip(example.roles, error, truth.counted, strict=True)
        if k.any()
    )
    # MR-STFT of the mix against the true mix without bleed; its floor is what the true gains leave: the bleed.
    mix = mixed(example.inputs, curves)
    heard = mix * np.float32(db_to_factor(-offset)) if level == "per song" and counted.size else mix
    stft = mr_stft(heard, truth.target)
    # Moves: steps |g(n) - g(n-1)| > 3 dB, n >= 1, per channel and second, from the very first on.
    moves = np.abs(np.diff(curves.astype(np.float64), axis=1)) > MOVE_DB
    return SongScores(
        gain_error_db=_mean(np.abs(counted - offset)),
        absolute_error_db=_mean(np.abs(counted)),
        offset_db=offset,
        channels=channels,
        vocal_to_band_lu=vocal_to_band_lu(truth.powers, curves, example.roles),
        true_vocal_to_band_lu=vocal_to_band_lu(truth.powers, example.true_gain_db, example.roles),
        stft=stft,
        stft_ratio=stft / truth.floor if truth.floor > 1e-3 else math.nan,
        moves_per_s=float(moves.sum()) / (curves.size * FRAME_S),
        peak_dbfs=float(factor_to_db(np.abs(mix).max(initial=0.0))),
        entry_s=entries_s(error, example.playing),
    )


def mixed(inputs: Audio, curves: Curves) -> Audio:
    """Mix (samples,) that the mixer makes of inputs (C, samples) with these curves, ramps and all."""
    slack, ramp = (ms_to_samples(ms, SAMPLE_RATE) for ms in (MULTI_RATE.slack_ms, MULTI_RATE.ramp_ms))
    moved = np.clip((np.arange(FRAME) - slack) / ramp, 0.0, 1.0).astype(np.float32)
    mix = np.zeros((curves.shape[1], FRAME), np.float32)
    for channel, curve in zip(inputs, curves, strict=True):
        factor = db_to_factor(curve).astype(np.float32)[:, None]
        before = np.concatenate([factor[:1], factor[:-1]])
        mix += channel.reshape(mix.shape) * (before + (factor - before) * moved)
    return mix.reshape(-1)


def mr_stft(mix: Audio, target: Audio) -> float:
    """Multi-resolution STFT loss (Yamamoto et al., 2019) from 2 s on; NaN for a silent target."""
    x, y = (torch.from_numpy(np.ascontiguousarray(a[FROM_FRAME * FRAME :]))[None, None] for a in (mix, target))
    if x.shape[-1] < max(FFT_SIZES) or not y.any():
        return math.nan
    with torch.no_grad():
        return float(_STFT(x, y))


_STFT = MultiResolutionSTFTLoss(list(FFT_SIZES), [n // 4 for n in FFT_SIZES], list(FFT_SIZES))


def own_powers(example: Example) -> NDArray[np.float64]:
    """K-weighted power of each channel's own source, every 100 ms: (C, hops)."""
    return np.stack([hop_powers(own, SAMPLE_RATE) for own in example.own])


def _per_hop(curves: NDArray) -> NDArray[np.float64]:
    hops = curves.shape[1] // 2
    return np.square(db_to_factor(curves[:, : 2 * hops])).reshape(len(curves), hops, 2).mean(axis=2)


# For g the gains, P the powers of the channels' own sources (bleed is nobody's voice), from 2 s on:
#     vocal to band = L( sum over singers of g^2 P ) - L( sum over the others of g^2 P ),   L the gated loudness.
# The error is that of the gains minus that of the true gains.
def vocal_to_band_lu(powers: NDArray[np.float64], curves: Curves, roles: NDArray[np.int64]) -> float:
    """Loudness of the singers minus that of the band, in LU; NaN where one of the two is missing."""
    heard = (powers * _per_hop(curves))[:, FROM_FRAME // 2 :]
    singer = np.array([code >= 0 and ROLES[code] in SINGERS for code in roles])
    vocal, band = gated_lufs(heard[singer].sum(axis=0)), gated_lufs(heard[~singer].sum(axis=0))
    return vocal - band if math.isfinite(vocal) and math.isfinite(band) else math.nan


# With e the first playing frame (later than 3 s) and f >= e the first frame with |error| <= 3 dB in f .. f + 9:
#     entry = 50 ms * number of playing frames in [e, f),
# because a gain need not move while nobody plays. Channels that enter in the last 0.5 s are not judged.
def entries_s(error: NDArray[np.float64], playing: NDArray[np.bool_]) -> tuple[float, ...]:
    """Seconds of playing until the gain has arrived, for each channel that enters late."""
    found = []
    for row, plays in zip(error, playing, strict=True):
        entry = int(plays.argmax())
        if not plays.any() or entry <= ENTRY_FRAME or len(row) - entry < ENTRY_STAYS:
            continue
        near = np.abs(row[entry:]) <= ENTRY_DB
        stays = np.convolve(near, np.ones(ENTRY_STAYS), "valid") > ENTRY_STAYS - 0.5
        arrived = stays.any()
        found.append(float(plays[entry : entry + stays.argmax()].sum()) * FRAME_S if arrived else math.inf)
    return tuple(found)


# Each draw turns every channel by U(-12, 12) dB; one that would pass 0 dBFS is turned down until it does not. With
# b(c) = mean over playing frames from 5 s on of (gain + turn), minus its mean over the channels:
#     disturbance = mean over channels of sd over draws of b(c).       0: the mix does not care; unity: all of it.
def disturbance_db(curves: Player, example: Example, draws: int, rng: np.random.Generator) -> float:
    """How much of a disturbance of the inputs' levels is left in the balance, in dB."""
    counted = example.playing & (np.arange(example.playing.shape[1]) >= DISTURBED_FROM)
    channels = counted.any(axis=1)
    if channels.sum() < 2 or draws < 2:
        return math.nan
    balances = []
    for turn_db in disturbances_db(example, draws, rng):
        level_db = curves(disturbed(example, turn_db)).astype(np.float64) + turn_db[:, None]
        mean = np.where(counted, level_db, 0.0).sum(axis=1)[channels] / counted.sum(axis=1)[channels]
        balances.append(mean - mean.mean())
    return float(np.std(balances, axis=0, ddof=1).mean())


def disturbances_db(example: Example, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how far each channel is turned, (draws, C)."""
    peak = np.abs(example.inputs).max(axis=1, initial=0.0)
    room_db = -factor_to_db(np.maximum(peak, 1e-6) / CONVERTER_PEAK)
    return np.minimum(rng.uniform(-DISTURBANCE_DB, DISTURBANCE_DB, (draws, len(peak))), room_db)


def disturbed(example: Example, turn_db: NDArray[np.float64]) -> Example:
    """Return the same song with its channels turned by `turn_db` (C,) at the desk."""
    factor = db_to_factor(turn_db).astype(np.float32)[:, None]
    return replace(
        example,
        inputs=example.inputs * factor,
        own=example.own * factor,
        true_gain_db=(example.true_gain_db - turn_db[:, None]).astype(np.float32),
    )


# ---- hours -----------------------------------------------------------------------------------------------------------


def drift(model: Model, example: Example, hours: float) -> float:
    """How far gains wander while a song repeats for hours.

    Parameters
    ----------
    model : Model
    example : Example
        Repeated; cut to a whole number of the model's F1 strides.
    hours : float

    Returns
    -------
    float
        Mean gain over the last whole repetitions that make up 60 s, minus that over the second repetition: the
        largest size over the channels, in dB. Whole repetitions, because gains that follow the song are no drift.
    """
    clock = model.metadata.clock
    frames = int(example.inputs.shape[1] / SAMPLE_RATE * 1000.0) // clock.f2_ms // clock.stride_frames
    frames *= clock.stride_frames
    if not frames:
        raise ValueError(f"example must last at least {clock.f1_stride_ms} ms, got {example.inputs.shape[1]} samples")
    front_end = FrontEnd(SAMPLE_RATE, clock)
    loop = example.inputs[:, : clock.boundary(frames, SAMPLE_RATE)]
    passes = [front_end.process(loop) for _ in range(2)]
    loop_s = frames * clock.f2_ms / 1000.0
    last = math.ceil(60.0 / loop_s)
    loops = max(math.ceil(hours * 3600.0 / loop_s), 2 + last)

    predictor = Predictor(_Remembering(model), [None] * len(loop))
    means = np.zeros((loops, len(loop)))
    for i in range(loops):
        features = passes[min(i, 1)]  # from the second pass on the song's end is what its start follows
        columns = features.log_mel.shape[1] // frames
        for n in range(frames):
            heard = features.log_mel[:, n * columns : (n + 1) * columns]
            means[i] += predictor.step(heard, features.levels[:, n], features.mask[:, n])
    if predictor.faults:
        raise ModelError(f"model {model.metadata.name} must play without faults, got {predictor.faults}")
    means /= frames
    return float(np.abs(means[-last:].mean(axis=0) - means[1]).max())


class _Remembering:
    """A model that embeds what it has embedded before from memory: most of the work of a song that repeats."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.metadata = model.metadata
        self.step = model.step
        self.initial_state = model.initial_state
        self._known: dict[int, NDArray[np.float32]] = {}

    def embed(self, patches: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        key = hash((patches.tobytes(), mask.tobytes()))
        if key not in self._known:
            self._known[key] = np.asarray(self.model.embed(patches, mask), np.float32)
        return self._known[key]


# ---- all songs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """Curves of one song, for a plot: every fourth frame."""

    song: int
    label: str
    step_s: float
    roles: list[str]
    gains_db: list[list[float]]
    true_db: list[list[float]]


@dataclass(frozen=True)
class Evaluation:
    """Scores of every system on every song.

    Attributes
    ----------
    bleed, dry : dict
        By system: for each seed of a model (rules have one) the songs' scores.
    drift_db : dict
        By model: one number per seed.
    shift_db : dict
        By system: the constants fitted and added, one per seed; 0 where a system answers for its own level.
    subject : str
        The system that `shown` and the plots are of.
    shown : list of Shown
        Its best, median and worst song with bleed.
    notes : dict
        What a report says of the run.
    """

    bleed: dict[str, list[list[SongScores]]]
    dry: dict[str, list[list[SongScores]]]
    drift_db: dict[str, list[float]]
    shift_db: dict[str, list[float]]
    subject: str
    shown: list[Shown]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """Names, in the order of the table."""
        return list(self.bleed)

    def songs(self, name: str) -> list[SongScores]:
        """Scores of a system with bleed, each song's from the first seed."""
        return self.bleed[name][0]

    def to_json(self) -> str:
        """Everything as JSON; NaN is null, infinity a string."""
        return json.dumps(_plain(asdict(self)), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Read what `to_json` wrote."""
        told = json.loads(text)
        for split in ("bleed", "dry"):
            told[split] = {
                name: [[_song(row) for row in songs] for songs in seeds] for name, seeds in told[split].items()
            }
        for table in ("drift_db", "shift_db"):
            told[table] = {name: [_number(x) for x in seeds] for name, seeds in told[table].items()}
        told["shown"] = [Shown(**shown) for shown in told["shown"]]
        return cls(**told)


def evaluate(
    systems: Mapping[str, System | Model | Player | Sequence[Model]],
    bleed: Songs,
    dry: Songs = (),
    *,
    controls: Mapping[str, Any] | None = None,
    with_baselines: bool = True,
    draws: int = 4,
    drift_hours: float = 0.0,
    notes: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge systems and baselines on songs with and without bleed.

    Parameters
    ----------
    systems : dict
        By name. A sequence holds one model trained from several seeds.
    bleed, dry : sequence of Example, or `First`
        Read one at a time, three times over.
    controls : dict, optional
        `Strip`'s limits for the caller's models, as `play` takes them.
    with_baselines : bool
        Judge `baselines` too.
    draws : int
        Disturbances per song with bleed; under 2 for none.
    drift_hours : float
        How long to repeat the first song with bleed for `drift` of the caller's models; 0 for not at all.
    notes : dict, optional
        What a report should say of the run: data, seeds, machine.
    progress : callable, optional
        Called with songs done, songs in all, what was done.

    Returns
    -------
    Evaluation
    """
    lists: dict[str, list[System]] = {}
    if with_baselines:
        lists |= {name: [system] for name, system in baselines(_each(bleed, dry)).items()}
    for name, given in systems.items():
        lists[name] = [as_system(one, controls) for one in (given if isinstance(given, Sequence) else [given])]
    runs = [(name, seed) for name, seeds in lists.items() for seed in range(len(seeds))]
    total, done = 2 * (len(bleed) + len(dry)), 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, what)

    # First every curve, then the scores: a fitted constant needs all songs.
    curves: dict[tuple[str, int], list[Curves]] = {run: [] for run in runs}
    offsets: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    left_db: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    for song, example in enumerate(_each(bleed, dry)):
        counted = _counted(example)
        for name, seed in runs:
            player = lists[name][seed].curves
            played = player(example)
            curves[name, seed].append(played)
            if counted.any():
                offsets[name, seed].append(float(np.median((played - example.true_gain_db)[counted])))
            # The same draws for every system.
            rng = np.random.default_rng([20261121, song])
            left = disturbance_db(player, example, draws, rng) if song < len(bleed) else math.nan
            left_db[name, seed].append(left)
        tell(f"played song {song + 1}")
    shift = {
        (name, seed): -_median(offsets[name, seed]) if lists[name][seed].level != "own" else 0.0 for name, seed in runs
    }
    scores: dict[tuple[str, int], list[SongScores]] = {run: [] for run in runs}
    for song, example in enumerate(_each(bleed, dry)):
        truth = Truth.of(example)
        for run in runs:
            level = lists[run[0]][run[1]].level
            judged = judge_curves(curves[run][song], example, truth, shift_db=shift[run], level=level)
            scores[run].append(replace(judged, disturbance_db=left_db[run][song]))
        tell(f"judged song {song + 1}")

    subject = next(iter(systems), SUBJECT_OF_LAST_RESORT)
    drift_db = {
        name: [drift(model, bleed[0], drift_hours) for model in models]
        for name, given in systems.items()
        if drift_hours > 0.0 and len(bleed) and (models := _models(given))
    }
    return Evaluation(
        bleed={name: [scores[name, s][: len(bleed)] for s in range(len(seeds))] for name, seeds in lists.items()},
        dry={name: [scores[name, s][len(bleed) :] for s in range(len(seeds))] for name, seeds in lists.items()},
        drift_db=drift_db,
        shift_db={name: [shift[name, s] for s in range(len(seeds))] for name, seeds in lists.items()},
        subject=subject,
        shown=_shown(scores[subject, 0][: len(bleed)], curves[subject, 0], shift[subject, 0], bleed),
        notes=dict(notes or {}),
    )


def as_system(given: System | Model | Player, controls: Mapping[str, Any] | None = None) -> System:
    """Return a system for a model, or for a function from example to curves."""
    if isinstance(given, System):
        return given
    if isinstance(given, Model):
        model = given
        return System(lambda example: play(model, example, controls))
    return System(cast(Player, given))


def _models(given: object) -> list[Model]:
    return [one for one in (given if isinstance(given, Sequence) else [given]) if isinstance(one, Model)]


def _counted(example: Example) -> NDArray[np.bool_]:
    frames = np.arange(example.playing.shape[1])
    first = np.where(example.playing.any(axis=1), example.playing.argmax(axis=1), len(frames))
    return (frames >= FROM_FRAME) & (frames >= first[:, None])


def _each(*lists: Songs) -> Iterator[Example]:
    for songs in lists:
        for index in range(len(songs)):
            yield songs[index]


def _shown(scores: list[SongScores], curves: list[Curves], shift: float, examples: Songs) -> list[Shown]:
    order = [i for i in np.argsort([s.gain_error_db for s in scores]) if math.isfinite(scores[i].gain_error_db)]
    if not order:
        return []
    chosen: dict[int, str] = {}
    for label, at in (("best", 0), ("median", len(order) // 2), ("worst", -1)):
        chosen.setdefault(int(order[at]), label)
    every = 4
    shown = []
    for song, label in chosen.items():
        example = examples[song]
        roles = [ROLES[code] if code >= 0 else "unknown" for code in example.roles]
        applied, true = (
            g[:, ::every].astype(float).round(2).tolist() for g in (curves[song] + shift, example.true_gain_db)
        )
        shown.append(Shown(song, label, every * FRAME_S, roles, applied, true))
    return shown


# ---- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; NaN where nothing was measured."""

    value: float
    low: float
    high: float


Statistic = Callable[[Sequence[SongScores]], float]


def estimate(rows: Sequence[Sequence[SongScores]], statistic: Statistic, resamples: int = 1000) -> Estimate:
    """Statistic over songs with its percentile bootstrap interval.

    Parameters
    ----------
    rows : sequence, one per seed, of the same songs' scores
        Seeds and songs are drawn anew independently of each other: a new training run, a new audience.
    statistic : callable
        Scores to a number.
    resamples : int
    """
    songs = len(rows[0]) if rows else 0
    value = statistic([s for row in rows for s in row]) if songs else math.nan
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(0)
    drawn = np.empty(resamples)
    for i in range(resamples):
        seeds, chosen = rng.integers(len(rows), size=len(rows)), rng.integers(songs, size=songs)
        drawn[i] = statistic([rows[s][c] for s in seeds for c in chosen])
    # "inverted_cdf" takes one of the values, so that "never" (infinity) needs no arithmetic.
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975], method="inverted_cdf")
    return Estimate(value, float(low), float(high))


def mean_of(value: Callable[[SongScores], float]) -> Statistic:
    """Mean over the songs that have this value."""
    return lambda songs: _mean([x for song in songs if not math.isnan(x := value(song))])


def entry_quantile(q: float) -> Statistic:
    """Quantile over all late entries, of all songs together."""

    def statistic(songs: Sequence[SongScores]) -> float:
        found = [x for song in songs for x in song.entry_s]
        return float(np.quantile(found, q, method="inverted_cdf")) if found else math.nan

    return statistic


def never_share(songs: Sequence[SongScores]) -> float:
    """Share of late entries whose gain never arrived, in %."""
    return 100.0 * _mean([math.isinf(x) for song in songs for x in song.entry_s])


def vocal_error_lu(song: SongScores) -> float:
    """Vocal to band, too loud (+) or buried (-)."""
    return song.vocal_to_band_lu - song.true_vocal_to_band_lu


def by_role(songs: Sequence[SongScores]) -> dict[str, ChannelScores]:
    """Mean bias and error of each role's channels, in the order of the roles."""
    found = {}
    for role in (*ROLES, "unknown"):
        if rows := [c for song in songs for c in song.channels if c.role == role]:
            found[role] = ChannelScores(role, _mean([c.bias_db for c in rows]), _mean([c.error_db for c in rows]))
    return found


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    if isinstance(x, float) and not math.isfinite(x):
        return None if math.isnan(x) else str(x)
    return x


def _number(x: Any) -> float:
    return math.nan if x is None else float(x)


def _song(row: dict[str, Any]) -> SongScores:
    channels = tuple(ChannelScores(c["role"], _number(c["bias_db"]), _number(c["error_db"])) for c in row["channels"])
    entry_s = tuple(_number(x) for x in row["entry_s"])
    numbers = {key: _number(value) for key, value in row.items() if key not in ("channels", "entry_s")}
    return SongScores(channels=channels, entry_s=entry_s, **numbers)
