"""The command line: ``alm demo``, ``mix``, ``presets``, ``live``, ``devices``, ``plugins`` and ``doctor``."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from alm_plugin import __version__, doctor
from alm_plugin.data import presets_dir, reason_of
from alm_plugin.errors import AlmError, AudioFileError, ParameterError
from alm_plugin.export.automation import read_csv, write_csv
from alm_plugin.export.heard import Heard
from alm_plugin.export.page import plain
from alm_plugin.export.report import write_report
from alm_plugin.live import command as live
from alm_plugin.mixer import Mixer
from alm_plugin.models.registry import DEFAULT, NETWORKS, RULES
from alm_plugin.models.roles import ROLES, guess_role
from alm_plugin.nodes import external
from alm_plugin.nodes.bus import Group
from alm_plugin.nodes.strip import Strip
from alm_plugin.preset import Preset, load_preset, presets
from alm_plugin.render import RenderReport, Track, find_tracks, render_files
from alm_plugin.session import check_saveable, load_session, save_session
from alm_plugin.stream import Automation

SETTLED_S = 5.0
"""What `alm demo` judges: the gains from here on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 for a doctor with bad news, 2 for input that does not fit (one line)."""
    return run(_parser(), argv)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run the command that a parser finds: what ``run`` among its arguments returns; see `main`."""
    arguments = parser.parse_args(argv)
    try:
        with _ending_cleanly():
            return arguments.run(arguments)
    except AlmError as error:
        said = str(error)
    except OSError as error:
        said = f"{error.filename or 'output'}: {reason_of(error)}"
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped, nothing written", file=sys.stderr)  # noqa: T201
        return 130
    print(f"{parser.prog}:", " ".join(said.split("\n")), file=sys.stderr)  # noqa: T201
    return 2


def train(argv: Sequence[str] | None = None) -> int:
    """Run ``alm-train``: its package lies beside this one in a checkout, and inside it when installed."""
    try:
        from alm_plugin.training.cli import main as run  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "alm_plugin.training":
            raise
        from training.cli import main as run
    return run(argv)


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Let a closed terminal or a shutdown end a command as Ctrl-C does: with nothing half-written left behind."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


class Parser(argparse.ArgumentParser):
    """Arguments that do not fit are one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what does not fit, and end."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="alm",
        description="Mix a live band with zero added latency: a chain of plugins per channel, gains moved by a model.",
        epilog="Start with 'alm demo'. 'alm COMMAND --help' says more.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="mix the bundled band",
        description="Mix the bundled live band, eight badly gain-staged channels with bleed, and say how close the mix "
        "comes to the balance it was recorded with.",
    )
    _add_common(demo, default=Path("demo-mix.wav"), help="default: %(default)s")
    demo.set_defaults(run=_demo)

    mix = commands.add_parser(
        "mix",
        help="mix a folder of stems, or files",
        description="Mix stems into one file. Every file is a channel named like the file; mono files ending in "
        "L and R are one stereo channel. Rates, lengths and widths may differ.",
        epilog="For example: alm mix stems/ -o mix.wav --preset rock --trim vocals=+1 --trim drums=-2 --solo drums",
    )
    mix.add_argument("stems", nargs="*", type=Path, metavar="FOLDER_OR_FILE", help="wav, flac, aiff, mp3, ogg")
    channels = mix.add_argument_group(
        "channels",
        f"NAME is a channel's; --trim, --mute and --solo take one of the preset's groups too, if no channel is called "
        f"that. All can be given more than once. Roles: {', '.join(ROLES)}.",
    )
    for option, metavar, text in (
        ("--role", "NAME=ROLE", "what it plays; otherwise guessed from its name; 'none' forgets the guess"),
        ("--trim", "NAME=DB", "add to its gain, and to the preset's trim"),
        ("--lock", "NAME=DB", "hold its gain"),
        ("--mute", "NAME", "leave it out of the mix; the gains of the others stay what they are"),
        ("--solo", "NAME", "leave all others out: it is heard as it stands among them, with its echo and reverb"),
    ):
        channels.add_argument(option, action="append", default=[], metavar=metavar, help=text)
    mixing, writing = _add_common(mix, required=True, help="wav, flac, aiff or ogg")
    mixing.add_argument(
        "--preset",
        metavar="PRESET",
        help="plugins, and more, by role: a name that 'alm presets' lists, or a .toml file; its model is used unless "
        "--model is given",
    )
    mixing.add_argument("--strength", type=float, metavar="0..100", help="%% of the model's gains; default: 100")
    mixing.add_argument(
        "--automation-in", type=Path, metavar="CSV", help="take gains from a file, as they are, not from the model"
    )
    mixing.add_argument("--mono", action="store_true", help="mix to one channel instead of two")
    writing.add_argument("--sample-rate", type=int, metavar="HZ", help="of the mix; default: the highest of the stems'")
    writing.add_argument("--bits", type=int, choices=(16, 24, 32), help="32 is float; default: 32, for FLAC 24")
    writing.add_argument("--stems-out", type=Path, metavar="DIR", help="write each channel as it stands in the mix")
    keeping = mix.add_argument_group("sessions")
    keeping.add_argument(
        "--session",
        type=Path,
        metavar="DIR",
        help="keep all that was set in a folder; with no stems given: make the mix that is kept there again",
    )
    keeping.add_argument(
        "--stems",
        nargs="+",
        type=Path,
        dest="moved",
        metavar="FOLDER_OR_FILE",
        help="with a session to make again: where its audio is now",
    )
    # None says that no model was asked for: then it is the preset's.
    mix.set_defaults(run=_mix, model=None)

    shelf = commands.add_parser(
        "presets",
        help="list presets, or show one",
        description="List presets, those that ship and your own, or say what one puts on the channels of each role.",
    )
    shelf.add_argument("preset", nargs="?", metavar="NAME_OR_FILE", help="the one to show")
    shelf.add_argument("--json", action="store_true", help="print JSON instead of a table")
    shelf.set_defaults(run=_presets)

    live.add(commands)

    plugins = commands.add_parser(
        "plugins",
        help="list VST3 and AU plugins, show or scan them",
        description="List the plugins that are known, or say which parameters one has. A scan tries each that is new "
        "or has changed in a process of its own, where it may hang or crash.",
    )
    plugins.add_argument("plugin", nargs="?", metavar="NAME_OR_PATH", help="the one to show; scanned if it is new")
    plugins.add_argument("--scan", action="store_true", help="look for plugins; with NAME_OR_PATH try that one again")
    plugins.add_argument(
        "--folder",
        action="append",
        type=Path,
        metavar="DIR",
        help="scan this one instead of where plugins are installed; repeatable",
    )
    plugins.add_argument(
        "--timeout", type=float, default=external.TIMEOUT_S, metavar="S", help="for each plugin; default: %(default)g"
    )
    plugins.add_argument("--json", action="store_true", help="print JSON instead of a table")
    plugins.set_defaults(run=_plugins)
    checkup = commands.add_parser(
        "doctor",
        help="say what this machine can do on stage",
        description="Look at this machine for some seconds: versions, processor, audio, times, plugins, how many "
        "channels fit live, and what to do about what is wrong. Exit status 1 if something would fail on stage.",
    )
    checkup.add_argument("--model", metavar="MODEL", help=f"the one to time, as for mix; default: {DEFAULT}")
    checkup.add_argument("--channels", type=int, default=8, metavar="N", help="of the band; default: %(default)s")
    checkup.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    checkup.set_defaults(run=_doctor)
    return parser


def _add_common(
    parser: argparse.ArgumentParser, **output: Any
) -> tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]:
    mixing, writing = parser.add_argument_group("mixing"), parser.add_argument_group("what is written")
    writing.add_argument("-o", "--output", type=Path, **output)
    mixing.add_argument(
        "--model",
        default=DEFAULT,
        metavar="MODEL",
        help=f"{', '.join([*NETWORKS, *RULES])} or a file (.safetensors, TorchScript); default: {DEFAULT}",
    )
    writing.add_argument("--automation", type=Path, metavar="CSV", help="write the gain curves, a row per model frame")
    writing.add_argument(
        "--report", type=Path, metavar="HTML", help="write a page to see and hear what was done: curves, A/B players"
    )
    writing.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return mixing, writing


def _demo(arguments: argparse.Namespace) -> int:
    folder = presets_dir() / "demo"
    with (folder / "demo.toml").open("rb") as file:
        truth = tomllib.load(file)["tracks"]
    tracks = find_tracks([folder])
    mixer = Mixer({t.name: Strip(role=truth[t.name]["role"]) for t in tracks}, model=arguments.model)
    report = _run(tracks, mixer, arguments)
    true_db = {name: float(track["true_gain_db"]) for name, track in truth.items()}
    distance = _distances(mixer.automation, true_db)
    if arguments.json:
        _print_json(report, arguments, distance)
        return 0
    console = _console()
    _print_table(console, report, true_db)
    console.print(
        f"Distance to the true balance, mean over the channels: "
        f"{distance['before_db']:.1f} dB before, {distance['after_db']:.1f} dB after."
    )
    return 0


def _distances(automation: Automation, true_db: dict[str, float]) -> dict[str, float]:
    """Mean |dB| between the gains and the true ones, an offset common to all channels apart."""
    true = np.array(list(true_db.values()))
    settled = automation.times_s >= min(SETTLED_S, automation.times_s[-1])
    applied = np.array([automation.gains_db[name][settled].mean() for name in true_db])

    def spread(error: np.ndarray) -> float:
        return float(np.abs(error - np.median(error)).mean())

    return {"before_db": spread(-true), "after_db": spread(applied - true)}


def _mix(arguments: argparse.Namespace) -> int:
    if not arguments.stems:
        return _mix_again(arguments)
    if arguments.moved is not None:
        raise ParameterError(f"--stems must come with a --session to make again, got {arguments.stems[0]} to mix, too")
    tracks = find_tracks(arguments.stems)
    names = [track.name for track in tracks]
    roles: dict[str, str | None] = {name: guess_role(name) for name in names}
    for name, role in _pairs("--role", arguments.role):
        _known("--role", name, names)
        roles[name] = None if role == "none" else role
    automation = None if arguments.automation_in is None else read_csv(arguments.automation_in)
    for name in [] if automation is None else automation.gains_db:
        _known(f"{arguments.automation_in}: column", name, names)
    options: dict[str, Any] = {} if arguments.model is None else {"model": arguments.model}
    mixer = (Preset() if arguments.preset is None else load_preset(arguments.preset)).mixer(
        roles,
        channels=1 if arguments.mono else 2,
        strength=100.0 if arguments.strength is None else arguments.strength,
        automation=automation,
        **options,
    )
    _move(mixer, arguments)
    if arguments.session is not None:  # before the work
        if not arguments.session.parent.is_dir() or (arguments.session.exists() and not arguments.session.is_dir()):
            raise ParameterError(f"--session must be a folder, or one to be made, got {str(arguments.session)!r}")
        check_saveable(mixer)
    report = _run(tracks, mixer, arguments)
    if arguments.session is not None:
        save_session(mixer, arguments.session, tracks, report.sample_rate, arguments.bits)
    _print_report(report, arguments)
    return 0


def _mix_again(arguments: argparse.Namespace) -> int:
    if arguments.session is None:
        raise ParameterError("stems must be given, or the --session of a mix to make again, got neither")
    for name in ("preset", "mono", "strength", "trim", "lock", "mute", "solo", "role"):
        given = getattr(arguments, name)
        if given is not None and given is not False and given != []:
            raise ParameterError(f"--{name} must come with stems, got it for a session, which has its own")
    session = load_session(arguments.session, arguments.model)
    if arguments.moved is None and not session.files:
        raise ParameterError(f"{arguments.session}: expected a session that names its audio, got none: use --stems")
    try:
        tracks = find_tracks(session.check_files() if arguments.moved is None else arguments.moved)
    except AudioFileError as error:
        hint = "; --stems says where it is now, or takes it as it is" if arguments.moved is None else ""
        raise AudioFileError(f"{error}{hint}") from None
    names = [track.name for track in tracks]
    if sorted(names) != sorted(session.mixer.names):
        expected = ", ".join(session.mixer.names)
        raise ParameterError(f"stems must be the session's channels {expected}, got {', '.join(names)}")
    if arguments.automation_in is not None:
        session.mixer.automation_in = read_csv(arguments.automation_in)
        for name in session.mixer.automation_in.gains_db:
            _known(f"{arguments.automation_in}: column", name, names)
    arguments.sample_rate = arguments.sample_rate or session.sample_rate
    arguments.bits = arguments.bits or session.bits
    _print_report(_run(tracks, session.mixer, arguments), arguments)
    return 0


def _print_report(report: RenderReport, arguments: argparse.Namespace) -> None:
    if arguments.json:
        _print_json(report, arguments)
    else:
        _print_table(_console(), report)


def _move(mixer: Mixer, arguments: argparse.Namespace) -> None:
    """Do what a person wants of channels and groups."""
    for name, trim_db in _numbers("--trim", arguments.trim).items():
        path = _path(mixer, "--trim", name)
        for other in [] if mixer.automation_in is None else mixer.automation_in.gains_db:
            if name in (other, mixer[other].group):
                raise ParameterError(f"--trim {name} must not meet a curve of {other}: edit that, got {trim_db:+g}")
        with _naming(name):
            path.trim_db += trim_db
    for name, lock_db in _numbers("--lock", arguments.lock).items():
        _known("--lock", name, mixer.names)
        with _naming(name):
            mixer[name].lock_db = lock_db
    for name in arguments.mute:
        _path(mixer, "--mute", name).mute = True
    for name in arguments.solo:
        _path(mixer, "--solo", name).solo = True


def _path(mixer: Mixer, option: str, name: str) -> Strip | Group:
    if name in mixer:
        return mixer[name]
    if name not in mixer.groups:
        groups = f", or of its groups {', '.join(mixer.groups)}" if mixer.groups else ""
        raise ParameterError(f"{option} must name one of the channels {', '.join(mixer.names)}{groups}, got {name!r}")
    return mixer.groups[name]


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except ParameterError as error:
        raise ParameterError(f"{name}: {error}") from None


def _presets(arguments: argparse.Namespace) -> int:
    if arguments.preset is not None:
        preset = load_preset(arguments.preset)
        if arguments.json:
            kinds = {"strips": preset.strips, "groups": preset.groups, "returns": preset.returns}
            tables = {kind: {name: part.table for name, part in parts.items()} for kind, parts in kinds.items()}
            print(json.dumps(plain(vars(preset) | tables), indent=2))  # noqa: T201
        else:
            _print_preset(_console(), preset)
        return 0
    rows = []
    for name in presets():
        try:
            preset = load_preset(name)
        except AlmError as error:  # one that is broken hides no other
            rows.append({"name": name, "error": str(error)})
        else:
            rows.append({"name": name, "description": preset.description, "model": preset.model, "path": preset.path})
    if arguments.json:
        print(json.dumps(plain(rows), indent=2))  # noqa: T201
        return 0
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("preset", no_wrap=True)
    table.add_column("for")
    for row in rows:
        table.add_row(row["name"], row.get("description", row.get("error")), style="yellow" if "error" in row else None)
    console = _console()
    console.print(table)
    console.print("'alm presets NAME' shows one, 'alm mix STEMS --preset NAME -o mix.wav' uses it.")
    return 0


def _plugins(arguments: argparse.Namespace) -> int:
    console = _console()
    if arguments.plugin is not None:
        entries = external.find(arguments.plugin, arguments.timeout, again=arguments.scan)
    elif arguments.scan or arguments.folder:
        entries = _scan(arguments)
    else:
        entries = [entry for entry in external.read_registry() if entry.is_current]
    if arguments.json:
        print(json.dumps(plain([entry.to_json() for entry in entries]), indent=2))  # noqa: T201
        return 0
    if not entries:
        is_scan = arguments.scan or arguments.folder
        console.print("no plugins found" if is_scan else "no plugins known yet: run 'alm plugins --scan'")
        return 0
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("plugin", no_wrap=True)
    table.add_column("format")
    table.add_column("channels")
    table.add_column("latency reported", justify="right")
    table.add_column("probed", justify="right")
    table.add_column("verdict")
    for entry in entries:
        latencies = (entry.reported_latency_samples, entry.probed_latency_samples)
        table.add_row(
            entry.name,
            entry.format,
            " ".join({1: "mono", 2: "stereo"}[width] for width in entry.channels) or "-",
            *("-" if samples is None else str(samples) for samples in latencies),
            entry.verdict + ", samples depend on the block size" * entry.depends_on_blocks,
            style=None if entry.is_ok else "yellow",
        )
    console.print(table)
    if arguments.plugin is not None:
        for entry in entries:
            _print_parameters(console, entry)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    # No bar: its thread would be in the way of what is timed.
    say = None if arguments.json else _console(stderr=True).print
    report = doctor.examine(arguments.model, arguments.channels, say)
    if arguments.json:
        print(json.dumps(plain(report), indent=2))  # noqa: T201
    else:
        doctor.show(report, _console())
    return 0 if report["ok"] else 1


def _scan(arguments: argparse.Namespace) -> list[external.PluginEntry]:
    for folder in arguments.folder or []:
        if not folder.is_dir():
            raise ParameterError(f"--folder must be a folder, got {str(folder)!r}")
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=_console(stderr=True),
        disable=arguments.json,
    )
    with bar:
        task = bar.add_task("scanning", total=None)
        return external.scan(
            arguments.folder,
            arguments.timeout,
            lambda done, total, name: bar.update(
                task, completed=done, total=total, description=f"scanning {name}".strip()
            ),
        )


def _print_parameters(console: Console, entry: external.PluginEntry) -> None:
    table = Table(title=entry.path, box=box.SIMPLE, pad_edge=False)
    for header in ("parameter", "range", "unit", "default"):
        table.add_column(header)
    for name, parameter in entry.parameters.items():
        values = ", ".join(parameter.choices) or "on, off"
        if parameter.low is not None and parameter.high is not None:
            values = f"{parameter.low:g} to {parameter.high:g}"
        default = f"{parameter.default:g}" if isinstance(parameter.default, float) else str(parameter.default)
        table.add_row(name, values, parameter.unit or "-", default)
    console.print(table)


def _run(tracks: list[Track], mixer: Mixer, arguments: argparse.Namespace) -> RenderReport:
    options = {name: getattr(arguments, name, None) for name in ("sample_rate", "bits")}
    stems_dir = getattr(arguments, "stems_out", None)
    also = {}
    if arguments.automation is not None:
        also[arguments.automation] = lambda temporary, report: write_csv(mixer.automation, temporary)
    with ExitStack() as stack:
        if arguments.report is not None:
            heard = Heard(mixer)
            mixer.observers.append(heard)
            also[arguments.report] = lambda temporary, report: write_report(temporary, report, mixer.automation, heard)
        if stems_dir is not None:
            stems_dir.mkdir(parents=True, exist_ok=True)
        bar = Progress(
            TextColumn("mixing"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=_console(stderr=True),
            disable=arguments.json,
        )
        task = bar.add_task("mix", total=None)

        def show(done: int, total: int) -> None:
            if not bar.live.is_started:  # not earlier: an error before the first block is to be the only line
                bar.start()
                stack.callback(bar.stop)
            bar.update(task, completed=done, total=total)

        report = render_files(
            tracks,
            arguments.output,
            mixer,
            stems_dir=stems_dir,
            also=also,
            progress=show,
            **options,
        )
    return report


def _known(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise ParameterError(f"{what} must name one of the channels {', '.join(names)}, got {name!r}")


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise ParameterError(f"{option} must be NAME=VALUE, got {text!r}")
        pairs.append((name, value))
    return pairs


def _numbers(option: str, given: Sequence[str]) -> dict[str, float]:
    numbers = {}
    for name, text in _pairs(option, given):
        try:
            numbers[name] = float(text)
        except ValueError:
            raise ParameterError(f"{option} {name} must be a number of dB, got {text!r}") from None
    return numbers


def _console(stderr: bool = False) -> Console:
    # Names are printed as they are, brackets and colons too.
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def _print_table(console: Console, report: RenderReport, true_db: dict[str, float] | None = None) -> None:
    title = f"{report.output}: {report.seconds:.1f} s, {report.sample_rate} Hz, model {report.model}"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False)
    table.add_column("channel")
    table.add_column("role")
    for header in ("in LUFS", "gain dB", "from", "to", *(["true dB"] if true_db else []), "out LUFS"):
        table.add_column(header, justify="right", no_wrap=True)
    # The balance is what counts: true gains are shown at the level that the mix was given.
    offset = 0.0
    if true_db:
        offset = float(np.median([c.mean_gain_db - true_db[c.name] for c in report.channels]))
    for channel in report.channels:
        cells = [
            channel.name,
            channel.role or "-",
            _level(channel.input_lufs),
            f"{channel.mean_gain_db:+.1f}",
            f"{channel.least_gain_db:+.1f}",
            f"{channel.most_gain_db:+.1f}",
        ]
        if true_db:
            cells.append(f"{true_db[channel.name] + offset:+.1f}")
        table.add_row(*cells, _level(channel.output_lufs))
    console.print(table)
    console.print(f"Mix: {_level(report.loudness_lufs)} LUFS, peak {_level(report.peak_dbfs)} dBFS.")
    if report.ceiling_samples:
        console.print(f"The ceiling bent {report.ceiling_samples} samples above -1 dBFS.")
    for place, count in report.faults.items():
        console.print(f"{place}: {count} faults; the sound went on.", style="yellow")


def _print_preset(console: Console, preset: Preset) -> None:
    console.print(f"{preset.name}: {preset.description}\n{preset.path}\nmodel {preset.model}", soft_wrap=True)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("role")
    table.add_column("plugins before the gain, > behind it")
    table.add_column("leads to, dB")
    for header in ("pan", "trim dB", "bounds dB", "dB/s"):
        table.add_column(header, justify="right")
    for role, strip in preset.strips.items():
        table.add_row(
            "all others" if role == "default" else role,
            "\n".join([*map(str, strip.pre), *(f"> {plugin}" for plugin in strip.post)]) or "-",
            "\n".join([*([strip.group] if strip.group else []), *_sends(strip.sends)]) or "-",
            " ".join(f"{pan:g}" for pan in strip.pan),
            f"{strip.trim_db:+g}",
            " ".join(f"{bound:+g}" for bound in strip.bounds_db),
            "-" if strip.slew_db_per_s is None else f"{strip.slew_db_per_s:g}",
        )
    console.print(table)
    if not preset.groups and not preset.returns:
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for header in ("bus", "", "plugins", "leads to, dB"):
        table.add_column(header)
    table.add_column("trim dB", justify="right")
    for kind, buses in (("group", preset.groups), ("return", preset.returns)):
        for name, bus in buses.items():
            plugins = "\n".join(map(str, bus.chain)) or "-"
            table.add_row(name, kind, plugins, "\n".join(_sends(bus.sends)) or "-", f"{bus.trim_db:+g}")
    console.print(table)


def _sends(sends: Mapping[str, float]) -> list[str]:
    return [f"{name} {level_db:+g}" for name, level_db in sends.items()]


def _level(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "silent"


def _print_json(report: RenderReport, arguments: argparse.Namespace, truth: dict[str, float] | None = None) -> None:
    result: dict[str, Any] = asdict(report) | {"automation": arguments.automation, "report": arguments.report}
    if truth is not None:
        result["distance_to_true_balance"] = truth
    print(json.dumps(plain(result), indent=2))  # noqa: T201
