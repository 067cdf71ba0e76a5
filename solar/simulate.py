"""``solar simulate``: let policies soundcheck a player who starts off by up to 60 dB, and see how far off he ends."""

from __future__ import annotations

import argparse
import html
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AudioFileError, ParameterError
from alm_plugin.export.page import number, page, signed
from solar.mix_map import Second
from solar.performance import MOST_GAIN_DB, Channel, Performance, Stems
from solar.playing import is_playing
from solar.policy import Dqn, Predictor, Rule
from solar.predictor import Networks, Table
from solar.reference import find_player, stems_of
from solar.songs import compose
from solar.tracker import Calibration, GainTracker

SAMPLE_RATE = 44_100
SECONDS, STARTS_DB = 60, 60.0
CONDITIONS = {
    "clean": ("b", "clean"),
    "mild": ("b", "mild"),
    "bad": ("b", "bad"),
    "other": ("c", "clean"),
    "other-mild": ("c", "mild"),
    "other-bad": ("c", "bad"),
}
"""Song that is played, and what both it and the reference, song "a", are heard through."""

DRAWS = 8
"""Of the channels of a condition that leaks."""

RULE_STEP_DB, DQN_STEP_DB = 2.0, 3.0
"""The paper does not say by how much a player turns. With 2 dB its rule does best; the network was taught with 3."""

CALIBRATION_DB = (-40.0, -20.0, -10.0, 0.0, 10.0, 20.0, 40.0)
SETTLED_DB = 3.0
RESAMPLES = 1000
KNOB_CONDITIONS = "clean", "mild", "bad"
"""Under which the page shows what becomes of a hand that misses."""

Shown = Callable[[int, int], None]
"""Called with episodes done and episodes in all."""


class Policy(Protocol):
    """What decides, once a second."""

    def begin(self, rng: np.random.Generator) -> None:
        """Forget the last episode."""
        ...

    def act(self, take: Performance, second: int, delta_db: float) -> tuple[float, bool]:
        """Change that is asked for in dB, 0 for none, and whether only of a player who is playing."""
        ...

    def moved(self, change_db: float) -> None:
        """Know that the player has followed."""
        ...


class Fixed:
    """Always the same, or with a step a random one of down, stay and up: the paper's baselines."""

    def __init__(self, step_db: float = 0.0) -> None:
        self.step_db = step_db

    def begin(self, rng: np.random.Generator) -> None:
        """Take what chance there is from `rng`."""
        self._rng = rng

    def act(self, take: Performance, second: int, delta_db: float) -> tuple[float, bool]:
        """Hear nothing."""
        return self.step_db * int(self._rng.integers(-1, 2)), False

    def moved(self, change_db: float) -> None:
        """Forget it."""


class Deciding(Fixed):
    """A rule or network that hears one second, whoever plays in it being who is loud enough."""

    def __init__(self, decide: Callable[[Second, NDArray[np.bool_]], int], step_db: float) -> None:
        super().__init__(step_db)
        self._decide = decide

    def act(self, take: Performance, second: int, delta_db: float) -> tuple[float, bool]:
        """Hear one second."""
        heard = take.at(second, delta_db)
        return self.step_db * self._decide(heard, is_playing(heard.loudest_rms)), False


class Tracking:
    """`GainTracker`, told when the player has turned, but not by how much he missed."""

    def __init__(self, calibration: Calibration) -> None:
        self.tracker = GainTracker(calibration)

    def begin(self, rng: np.random.Generator) -> None:
        """Forget everything."""
        self.tracker.reset()

    def act(self, take: Performance, second: int, delta_db: float) -> tuple[float, bool]:
        """Hear one second more."""
        self.tracker.observe(take.at(second, delta_db, count=False))
        said = self.tracker.recommendation()
        return said.change_db, said.state == "cant-hear"

    def moved(self, change_db: float) -> None:
        """Expect another error."""
        self.tracker.moved(change_db)


def _dqn(predictor: Predictor, stems: int) -> Policy:
    network = Dqn()
    if network.inputs != 24 * stems:
        raise ParameterError(f"policy must be another than dqn for {stems} stems, which it was not taught with")

    def decide(heard: Second, playing: NDArray[np.bool_]) -> int:
        return network.decide((heard.dominance - predictor.predict(playing)).astype(np.float32))

    return Deciding(decide, DQN_STEP_DB)


POLICIES = ("tracker", "paper", "random", "stay", "dqn")


def make_policy(name: str, reference: Performance) -> Policy:
    """Policy that has learnt from a reference.

    Parameters
    ----------
    name : {"tracker", "paper", "random", "stay", "dqn"}
    reference : Performance
        With its player at the right gain.

    Raises
    ------
    ParameterError
        For another name.
    """
    if name == "tracker":
        maps = {gain_db: reference.map(gain_db, count=False) for gain_db in CALIBRATION_DB}
        return Tracking(Calibration(maps, reference.names[reference.player]))
    if name in ("random", "stay"):
        return Fixed(RULE_STEP_DB if name == "random" else 0.0)
    if name not in POLICIES:
        raise ParameterError(f"policy must be one of {', '.join(POLICIES)}, got {name!r}")
    song = reference.map()
    predictor = (Table() if name == "dqn" else Networks()).fit(song, is_playing(song.loudest_rms))
    if name == "dqn":
        return _dqn(predictor, len(reference.names))
    return Deciding(Rule(predictor, reference.player).decide, RULE_STEP_DB)


@dataclass(frozen=True)
class Episode:
    """How a soundcheck went.

    Attributes
    ----------
    final_db : float
        Gain error at its end.
    moves : int
        How often the player was told to turn.
    settle_s : int
        From when on the error stayed within 3 dB; its length if never.
    reward : float
        The paper's, summed, if it was asked for; else NaN.
    """

    final_db: float
    moves: int
    settle_s: int
    reward: float = math.nan


def play(
    take: Performance,
    policy: Policy,
    rng: np.random.Generator,
    knob_error: float = 0.0,
    seconds: int = SECONDS,
    predictor: Predictor | None = None,
) -> Episode:
    """Play one episode.

    The player turns at once and by what he is told, but for an error of `knob_error` in either direction, evenly
    distributed. Who is told that he cannot be heard turns up only if he is playing just then.
    """
    start = int(rng.integers(len(take) - seconds + 1))
    delta_db = float(rng.uniform(-STARTS_DB, STARTS_DB))
    hand = np.random.default_rng(rng.integers(2**63))
    policy.begin(rng)
    errors, moves, reward = np.empty(seconds), 0, 0.0 if predictor else math.nan
    for k in range(seconds):
        change_db, if_playing = policy.act(take, start + k, delta_db)
        if change_db:
            moves += 1
            missed = 1.0 + knob_error * hand.uniform(-1.0, 1.0)
            if not if_playing or take.plays(start + k):
                delta_db = float(np.clip(delta_db + change_db * missed, -MOST_GAIN_DB, MOST_GAIN_DB))
                policy.moved(change_db)
        errors[k] = abs(delta_db)
        if predictor:
            heard = take.at(start + k, delta_db)
            reward -= float(np.abs(heard.dominance - predictor.predict(is_playing(heard.loudest_rms))).sum())
    off = np.flatnonzero(errors > SETTLED_DB)
    return Episode(delta_db, moves, int(off[-1]) + 1 if off.size else 0, reward)


@dataclass(frozen=True)
class Band:
    """Somebody's stems, and whose gain is wrong."""

    stems: Stems
    sample_rate: int
    player: str

    def through(self, kind: str, seed: tuple[int, ...]) -> Performance:
        """Heard through a channel, drawn from `seed`."""
        channel = Channel.draw(kind, len(self.stems), np.random.default_rng(seed))
        return Performance(self.stems, self.sample_rate, self.player, channel, seed=seed[-1])


def takes(reference: Band, performance: Band, kind: str, seed: int) -> Iterator[tuple[Performance, Performance]]:
    """Draw channels of one kind for reference and performance, each pair anew."""
    for draw in range(1 if kind == "clean" else DRAWS):
        yield reference.through(kind, (seed, 0, draw)), performance.through(kind, (seed, 1, draw))


def run(
    policy: str,
    condition: str = "clean",
    episodes: int = 200,
    *,
    knob_error: float = 0.0,
    seed: int = 0,
    bands: tuple[Band, Band] | None = None,
    progress: Shown | None = None,
) -> dict[str, Any]:
    """Simulate soundchecks.

    Parameters
    ----------
    policy : {"tracker", "paper", "random", "stay", "dqn"}
    condition : {"clean", "mild", "bad", "other", "other-mild", "other-bad"}
        The reference is song "a"; "b" is played, or where it says other, "c", by other instruments. In all that leaks,
        episodes are spread over pairs of channels; see `Channel.draw`.
    episodes : int
        Of 60 s.
    knob_error : float
        In [0, 1): how far, relatively, the player misses at the most.
    seed : int
        Of the songs, channels and episodes.
    bands : (Band, Band), optional
        Reference and performance other than the songs.
    progress : callable, optional
        Called with episodes done and in all.

    Returns
    -------
    dict
        ``policy``, ``condition``, ``episodes``, ``draws``, ``knob_error``, ``final_gain_error_db`` (``median``, ``p95``
        and ``max`` of the magnitude), ``bias_db``, ``moves_per_minute``, ``settle_s`` (median), and ``interval`` with
        the same measures' 2.5th and 97.5th percentiles over channels drawn anew (bootstrap; over episodes, where there
        is one channel).

    Raises
    ------
    ParameterError
        For anything not in the lists above.
    """
    if condition not in CONDITIONS:
        raise ParameterError(f"condition must be one of {', '.join(CONDITIONS)}, got {condition!r}")
    if episodes < 1:
        raise ParameterError(f"episodes must be at least 1, got {episodes}")
    if not 0.0 <= knob_error < 1.0:
        raise ParameterError(f"knob_error must be in [0, 1), got {knob_error}")
    if policy not in POLICIES:
        raise ParameterError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    song, kind = CONDITIONS[condition]
    reference, performance = bands or (_song("a", seed), _song(song, seed))
    draws = 1 if kind == "clean" else DRAWS
    found: list[list[Episode]] = []
    done = 0
    for draw, (learnt, take) in enumerate(takes(reference, performance, kind, seed)):
        if len(take) < SECONDS:
            raise ParameterError(f"performance must last at least {SECONDS} s, got {len(take)}")
        player = make_policy(policy, learnt)
        found.append([])
        for episode in range(draw, episodes, draws):
            found[-1].append(play(take, player, np.random.default_rng([seed, episode]), knob_error))
            done += 1
            if progress:
                progress(done, episodes)
    told = {"policy": policy, "condition": condition, "episodes": episodes, "draws": draws, "knob_error": knob_error}
    return told | _summary([draw for draw in found if draw])


def _song(which: str, seed: int) -> Band:
    return Band(compose(which, seed=seed, sample_rate=SAMPLE_RATE), SAMPLE_RATE, "guitar")


def _summary(draws: list[list[Episode]]) -> dict[str, Any]:
    table = [np.array([[abs(e.final_db), e.final_db, e.moves, e.settle_s] for e in draw]) for draw in draws]

    def measure(rows: NDArray[np.float64]) -> list[float]:
        final = rows[:, 0]
        per_minute = 60.0 / SECONDS * rows[:, 2].mean()
        return [*np.percentile(final, [50, 95, 100]), rows[:, 1].mean(), per_minute, float(np.median(rows[:, 3]))]

    units = table if len(table) > 1 else list(table[0][:, None])
    rng = np.random.default_rng(0)
    resampled = [
        measure(np.concatenate([units[k] for k in rng.integers(len(units), size=len(units))])) for _ in range(RESAMPLES)
    ]

    def named(values: list[Any]) -> dict[str, Any]:
        median, p95, most, bias, moves, settle = values
        error = {"median": median, "p95": p95, "max": most}
        return {"final_gain_error_db": error, "bias_db": bias, "moves_per_minute": moves, "settle_s": settle}

    ends = np.percentile(resampled, [2.5, 97.5], axis=0).T.round(2).tolist()
    return named([round(float(v), 2) for v in measure(np.concatenate(table))]) | {"interval": named(ends)}


# ---- a page ----------------------------------------------------------------------------------------------------------

SHOWN_DB = (-75, -60, -40, -20, -12, -6, -3, 0, 3, 6, 12, 20, 40, 60)


def rewards(take: Performance, predictor: Predictor) -> list[tuple[int, float, float]]:
    """Sum the paper's reward per minute for a gain error that stays, literally, and with those who play in the song."""
    rows = []
    for delta_db in SHOWN_DB:
        literal = intended = 0.0
        for second in range(len(take)):
            heard = take.at(second, delta_db)
            plays = is_playing(np.stack([heard.loudest_rms, take.loudest_rms(second, 0.0)]))
            off = np.abs(heard.dominance - predictor.predict(plays)).sum(axis=(1, 2))
            literal, intended = literal - off[0], intended - off[1]
        rows.append((delta_db, 60.0 * literal / len(take), 60.0 * intended / len(take)))
    return rows


def write_page(
    path: Path, results: list[dict[str, Any]], table: list[tuple[int, float, float]], means: Mapping
) -> None:
    """Write the results of all policies under all conditions, with the paper's reward.

    Raises
    ------
    AudioFileError
        When it cannot be written.
    """

    def cells(*values: str, tag: str = "td") -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    def shown(result: dict[str, Any], name: str) -> str:
        low, high = result["interval"]["final_gain_error_db"][name]
        return f"{number(result['final_gain_error_db'][name], 1)} ({number(low, 1)} to {number(high, 1)})"

    first = cells("condition", "policy", "median", "95 %", "largest", "told per minute", "settled, s", tag="th")
    rows = [
        cells(
            r["condition"] + (f", knob ±{100 * r['knob_error']:.0f} %" if r["knob_error"] else ""),
            r["policy"], *(shown(r, name) for name in ("median", "p95", "max")),
            number(r["moves_per_minute"], 1), number(r["settle_s"], 0),
        )
        for r in results
    ]  # fmt: skip
    body = [
        "<h1>Soundchecks, simulated</h1>",
        f"<p>Every episode lasts {SECONDS} s and begins somewhere in a song, the player off by up to {STARTS_DB:.0f} "
        "dB. Shown is how far off he is in the end, in dB, with the interval of 95 % over channels drawn anew. "
        "The paper's rule is taken literally: its networks, its threshold of playing, ±3 bands, "
        f"{RULE_STEP_DB:g} dB each second."
        "</p>",
        f"<figure><table>{first}{''.join(rows)}</table></figure>",
        "<h2>The paper's reward</h2>",
        "<p>Per minute, for a gain error that stays. Taken literally, silence is rewarded as well as the right gain, "
        "because who cannot be heard is not expected to be; with those expected who play in the song, it is not.</p>",
        "<figure><table>",
        cells("gain error, dB", "literally", "as intended", tag="th"),
        *(cells(signed(db, 0), number(literal, 0), number(intended, 0)) for db, literal, intended in table),
        "</table></figure><h2>The paper's comparison</h2>",
        "<p>Mean reward of an episode, taken literally, on the song that taught the policies and on another.</p>",
        "<figure><table>",
        cells("policy", *next(iter(means.values())), tag="th"),
        *(cells(name, *(number(value, 0) for value in by_song.values())) for name, by_song in means.items()),
        "</table></figure>",
    ]
    style = "table { border-collapse: collapse; font-variant-numeric: tabular-nums } figure { overflow-x: auto }"
    style += " td, th { padding: 3px 14px 3px 0; text-align: left; font-weight: 400; white-space: nowrap }"
    style += " th { color: var(--soft) }"
    try:
        with staged(path) as temporary:
            temporary.write_bytes(page("Soundchecks, simulated", "".join(body), style))
    except OSError as error:
        raise AudioFileError(f"{path}: expected to write it whole, got {reason_of(error)}") from None


def _report(path: Path, episodes: int, seed: int, progress: Shown) -> None:
    cases = [(p, c, 0.0) for c in CONDITIONS for p in ("tracker", "paper")]
    cases += [("tracker", c, 0.5) for c in KNOB_CONDITIONS] + [(p, "clean", 0.0) for p in POLICIES[2:]]
    few = max(1, episodes // 10)
    total = len(cases) * episodes + 2 * len(POLICIES) * few
    results = []
    for policy, condition, knob_error in cases:
        before = len(results) * episodes

        def shown(done: int, _: int, before: int = before) -> None:
            progress(before + done, total)

        results.append(run(policy, condition, episodes, knob_error=knob_error, seed=seed, progress=shown))
    learnt = _song("a", seed).through("clean", (seed,))
    song = learnt.map()
    predictor = Networks().fit(song, is_playing(song.loudest_rms))
    means: dict[str, dict[str, float]] = {}
    done = len(cases) * episodes
    for title, take in (("song a", learnt), ("song b", _song("b", seed).through("clean", (seed,)))):
        for policy in POLICIES:
            player = make_policy(policy, learnt)
            scores = []
            for episode in range(few):
                rng = np.random.default_rng([seed, episode])
                scores.append(play(take, player, rng, predictor=predictor).reward)
                done += 1
                progress(done, total)
            means.setdefault(policy, {})[title] = float(np.mean(scores))
    write_page(path, results, rewards(learnt, predictor), means)


# ---- the command -----------------------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add ``simulate`` to the commands of ``solar``."""
    parser = commands.add_parser(
        "simulate",
        help="measure how well a policy soundchecks",
        description="Let a policy soundcheck a guitarist who starts off by up to 60 dB, for a minute at a time, and "
        "say how far off he ends. The reference is a little song that is made on the spot, another is played.",
        epilog="examples: solar simulate --policy tracker --condition bad --knob-error 0.5; solar simulate --report "
        "all.html. Conditions: clean; mild and bad leak; other has other instruments than the reference.",
    )
    parser.add_argument("--policy", choices=POLICIES, default="tracker", help="default: %(default)s")
    parser.add_argument("--condition", choices=list(CONDITIONS), default="clean", help="default: %(default)s")
    parser.add_argument("--episodes", type=int, default=200, metavar="N", help="of a minute; default: %(default)s")
    parser.add_argument("--knob-error", type=float, default=0.0, metavar="0..1", help="how far a hand misses, at most")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of songs, channels and episodes")
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="stems of your own, in the balance that is wanted"
    )
    parser.add_argument("--performance", type=Path, metavar="DIR", help="stems of another song of yours, likewise")
    parser.add_argument(
        "--player", default="guitar", metavar="NAME", help="of the stem, of yours; default: %(default)s"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write a page on all policies and conditions instead"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.seed < 0:
        raise ParameterError(f"--seed must be at least 0, got {arguments.seed}")
    bands = _bands(arguments)
    bar = Progress(
        TextColumn("simulating"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    task = bar.add_task("simulate", total=None)

    def show(done: int, total: int) -> None:
        if not bar.live.is_started:  # not earlier: an error before is to be the only line
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        if arguments.report is not None:
            if bands is not None:
                raise ParameterError("--report must come without --reference, got both")
            if not arguments.report.parent.is_dir():
                raise AudioFileError(f"{arguments.report}: expected an existing folder, got {arguments.report.parent}")
            if arguments.episodes < 1:
                raise ParameterError(f"episodes must be at least 1, got {arguments.episodes}")
            _report(arguments.report, arguments.episodes, arguments.seed, show)
            print(arguments.report)  # noqa: T201
            return 0
        result = run(
            arguments.policy,
            arguments.condition,
            arguments.episodes,
            knob_error=arguments.knob_error,
            seed=arguments.seed,
            bands=bands,
            progress=show,
        )
    finally:
        if bar.live.is_started:
            bar.stop()
    if arguments.json:
        print(json.dumps(result))  # noqa: T201
        return 0
    error = result["final_gain_error_db"]
    print(  # noqa: T201
        f"{result['policy']}, {result['condition']}: off by {error['median']:.1f} dB in the median, "
        f"{error['p95']:.1f} in 95 %, {error['max']:.1f} at most; told {result['moves_per_minute']:.1f} times a "
        f"minute; within {SETTLED_DB:g} dB after {result['settle_s']:.0f} s"
    )
    return 0


def _bands(arguments: argparse.Namespace) -> tuple[Band, Band] | None:
    """Stems of the user's own."""
    folders = arguments.reference, arguments.performance
    if folders == (None, None):
        return None
    if None in folders:
        raise ParameterError("--reference and --performance must be given together, got one of them")
    if arguments.condition not in ("clean", "mild", "bad"):
        raise ParameterError(f"--condition must be clean, mild or bad for stems of your own, got {arguments.condition}")
    bands = []
    for folder in folders:
        stems, rate = stems_of(folder)
        bands.append(Band(stems, rate, find_player(tuple(stems), arguments.player)))
    reference, performance = bands
    if set(reference.stems) != set(performance.stems):
        raise ParameterError(
            f"--performance must have the stems {', '.join(reference.stems)}, got {', '.join(performance.stems)}"
        )
    ordered = {name: performance.stems[name] for name in reference.stems}
    return reference, Band(ordered, performance.sample_rate, performance.player)
