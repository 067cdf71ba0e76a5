"""The command line ``alm-train``: from nothing to a trained, judged and described model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported: workers are the parallelism, a second thread only gets in their way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PRA_NUM_THREADS", "1")

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from alm_plugin import __version__
from alm_plugin.cli import Parser
from alm_plugin.data import reason_of
from alm_plugin.errors import AlmError

from .recipe import RECIPES, Recipe

DEFAULT_WORK = Path("alm-training")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 2 for input that does not fit (one line on stderr says why)."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] not in ("train", "compose", "evaluate", "-h", "--help", "--version"):
        given.insert(0, "train")
    arguments = _parser().parse_args(given)
    from .corpora import MaterialError
    from .loop import TrainingError

    try:
        return arguments.run(arguments)
    except (AlmError, TrainingError, MaterialError, FileNotFoundError) as error:
        said = str(error)
    except OSError as error:
        said = f"{error.filename or 'output'}: {reason_of(error)}"
    except KeyboardInterrupt:
        print("alm-train: stopped; the same command goes on from here", file=sys.stderr)  # noqa: T201
        return 130
    print("alm-train:", " ".join(said.split("\n")), file=sys.stderr)  # noqa: T201
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="alm-train",
        description="Compose songs, put them on simulated stages, and train AiLive Mixer's network to mix them.",
        epilog="'alm-train --recipe compact' is short for 'alm-train train --recipe compact'. Every command can be "
        "stopped at any moment and goes on where it was when given again.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="rebuild a model from Debian packages alone",
        description="Compose the songs, train in three stages, judge the result on the frozen test set, and write "
        "weights and model card to WORK/run-SEED.",
    )
    _common(train)
    train.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    train.add_argument(
        "--midi", action="append", default=[], type=Path, metavar="DIR", help="add songs from MIDI files; repeatable"
    )
    train.add_argument(
        "--songs",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="add multitracks, a folder of stems each, roles guessed from the files' names; repeatable",
    )
    train.add_argument(
        "--encoder",
        type=Path,
        metavar="RUN",
        help="a run's folder, as WORK/run-0: take its encoder, and what it has heard, instead of training one",
    )
    train.add_argument("--name", default="alm-mr", help="of the model; default: %(default)s")
    train.set_defaults(run=_train)
    compose = commands.add_parser(
        "compose",
        help="only make the songs",
        description="Compose and render the songs to train on and the frozen test set.",
    )
    _common(compose)
    compose.set_defaults(run=_compose)
    judge = commands.add_parser(
        "evaluate",
        help="judge models on the frozen test set",
        description="Play the frozen test set through models and baselines; print the table, and write it with plots "
        "to WORK/evaluation.html and .md.",
    )
    _common(judge)
    judge.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="MODEL",
        help="a name as in 'alm mix --model', or a file; several seeds of one model: FILE,FILE,FILE; repeatable; "
        "default: the shipped default",
    )
    judge.add_argument("--drift-hours", type=float, default=0.0, metavar="H", help="also play for so long; default: no")
    judge.add_argument(
        "--draws",
        type=int,
        default=4,
        metavar="N",
        help="disturbances per song; under 2 for none; default: %(default)s",
    )
    judge.add_argument("--out", type=Path, metavar="DIR", help="default: WORK")
    judge.set_defaults(run=_evaluate)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="compact", help="default: %(default)s")
    parser.add_argument(
        "--work", type=Path, default=DEFAULT_WORK, metavar="DIR", help="where everything is kept; default: %(default)s"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and no progress")


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, refresh_per_second=2) as progress:
        yield progress


def _followed(progress: Progress, description: str, total: int, items: Iterable[Any]) -> list[Any]:
    task = progress.add_task(description, total=total, said="")
    done = []
    for item in items:
        done.append(item)
        progress.advance(task)
    return done


def _material(recipe: Recipe, work: Path, workers: int, progress: Progress, kinds: Sequence[str]) -> None:
    from .corpus import build_corpus, build_voices
    from .speakers import VOICES

    (work / "voices").mkdir(parents=True, exist_ok=True)
    lacking = set(_followed(progress, "voices", len(VOICES), build_voices(work / "voices", workers))) - {""}
    if lacking:
        progress.console.print(f"fewer voices sing: not installed {', '.join(sorted(lacking))}", highlight=False)
    counts = {"train": recipe.songs, "test": recipe.test_songs}
    for kind in kinds:
        songs = build_corpus(kind, counts[kind], work / kind, seconds=recipe.seconds, workers=workers)
        _followed(progress, f"songs ({kind})", counts[kind], songs)


def _compose(arguments: argparse.Namespace) -> int:
    recipe = RECIPES[arguments.recipe]
    with _progress(arguments.json) as progress:
        _material(recipe, arguments.work, arguments.workers, progress, ("train", "test"))
    _say(arguments.json, {"songs": str(arguments.work / "train"), "test": str(arguments.work / "test")})
    return 0


class _Log(AbstractContextManager):
    """Progress on the terminal, every step in ``log.jsonl``, and in TensorBoard where it is installed."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._progress, self._tasks = progress, {}
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __call__(self, stage: str, step: int, steps: int, measured: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"stage": stage, "step": step, **measured}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in measured.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)
        if stage not in self._tasks:
            # A stage that is taken up again has no say in how fast it is.
            self._tasks[stage] = self._progress.add_task(f"train: {stage}", total=steps, completed=step - 1, said="")
        said = "  ".join(f"{name} {value:.2f}" for name, value in measured.items())
        self._progress.update(self._tasks[stage], completed=step, said=said)


def _train(arguments: argparse.Namespace) -> int:
    import torch

    from .card import write_model
    from .corpora import build_user_corpus, multitracks_in, scores_in
    from .examples import Examples
    from .loop import Clips, train
    from .recognition import recognise
    from .song import songs_in
    from .testset import CONDITIONS, SEED

    torch.set_num_threads(1)
    recipe, work = RECIPES[arguments.recipe], arguments.work
    midi = [path for folder in arguments.midi for path in scores_in(folder)]
    stems = [path for folder in arguments.songs for path in multitracks_in(folder)]
    folder = work / f"run-{arguments.seed}"
    with _progress(arguments.json) as progress, _Log(folder, progress) as log:
        _material(recipe, work, arguments.workers, progress, ("train", "test"))
        if midi or stems:
            added = build_user_corpus(
                midi,
                stems,
                work / "added",
                work / "voices",
                workers=arguments.workers,
                on_error=lambda error: progress.console.print(f"left out: {error}", highlight=False),
            )
            _followed(progress, "songs (added)", len(midi) + len(stems), added)
        songs = songs_in(work / "train")[: recipe.songs] + (songs_in(work / "added") if midi or stems else [])
        workers = max(1, arguments.workers)
        pretext, network = train(recipe, songs, arguments.seed, folder, workers, log, arguments.encoder)
        heldout = songs_in(work / "test")[: recipe.test_songs]
        clips = Clips(Examples(heldout, replace(CONDITIONS, seconds=recipe.encode.seconds), SEED))
        recognised = recognise(pretext, (clips(number) for number in range(3 * len(heldout)))).to_json()
        path = folder / f"{arguments.name}.safetensors"
        encoder = arguments.encoder.name if arguments.encoder else ""
        sha256 = write_model(network, path, recipe, arguments.seed, songs, recognised, encoder)
    _say(arguments.json, {"model": str(path), "sha256": sha256})
    return 0


def _say(as_json: bool, said: Mapping[str, Any]) -> None:
    if as_json:
        print(json.dumps(said))  # noqa: T201
    else:
        Console().print("\n".join(f"{name}: {value}" for name, value in said.items()), highlight=False)


def _evaluate(arguments: argparse.Namespace) -> int:
    import torch

    from alm_plugin.models.registry import DEFAULT, load_model

    from .card import card
    from .corpus import KINDS, fingerprint
    from .evaluate import System, evaluate, play
    from .report import markdown, write_html
    from .song import songs_in
    from .testset import TestSet

    torch.set_num_threads(1)
    recipe, work = RECIPES[arguments.recipe], arguments.work
    given = {text.split(",")[0]: [load_model(one) for one in text.split(",")] for text in arguments.model or [DEFAULT]}
    systems: dict[str, Any] = {}
    for name, models in given.items():
        systems[Path(name).stem] = models
        systems[f"{Path(name).stem}, roles said"] = [System(partial(play, model, roles=True)) for model in models]
    with _progress(arguments.json) as progress:
        _material(recipe, work, arguments.workers, progress, ("test",))
        songs = songs_in(work / "test")[: recipe.test_songs]
        digest = fingerprint(songs)
        frozen = KINDS["test"].sha256
        notes = {"test set": f"{len(songs)} songs, {digest[:16]}"}
        if digest != frozen:
            notes["test set"] += ", not the frozen one: scores cannot be compared with published ones"
        task = progress.add_task("judging", total=None, said="")
        judged = evaluate(
            systems,
            TestSet(songs, dry=False),
            TestSet(songs, dry=True),
            draws=arguments.draws,
            drift_hours=arguments.drift_hours,
            notes=notes,
            progress=lambda done, total, said: progress.update(task, completed=done, total=total, said=said),
        )
    out = arguments.out or work
    out.mkdir(parents=True, exist_ok=True)
    table = markdown(judged)
    (out / "evaluation.md").write_text(table, encoding="utf-8")
    (out / "evaluation.json").write_text(judged.to_json(), encoding="utf-8")
    write_html(judged, out / "evaluation.html")
    for name in given:
        made = Path(name).with_suffix(".json")
        if made.is_file():
            (out / f"{made.stem}.md").write_text(card(json.loads(made.read_text("utf-8")), table), encoding="utf-8")
    print(judged.to_json() if arguments.json else table)  # noqa: T201
    return 0
