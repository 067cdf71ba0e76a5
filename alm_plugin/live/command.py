"""``alm live`` and ``alm devices``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table

from alm_plugin.errors import ParameterError
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.devices import BACKENDS, list_devices
from alm_plugin.live.safety import StageLimits
from alm_plugin.live.supervisor import Live, end_by_signal, left_over, recall
from alm_plugin.models.registry import NETWORKS, RULES, RUNTIMES
from alm_plugin.models.roles import guess_role
from alm_plugin.preset import Preset, load_preset, user_bands_dir

SOUNDCHECK_S = 30.0


def add(commands: argparse._SubParsersAction) -> None:
    """Add both to the commands of ``alm``."""
    live = commands.add_parser(
        "live",
        help="mix a band on stage",
        description="Open an audio interface, mix what comes in, and play the mix, until Ctrl-C. With --page a console "
        "in a browser shows every channel and lets you take any of them over.",
        epilog="example: alm live --input vocals=1 --input kick=2 --input keys=3,4 --preset rock --page. The settings "
        "of the last time come back with --resume.",
    )
    live.add_argument("--inputs", type=int, metavar="N", help="channels named 'in 1' to 'in N', one port each")
    live.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=PORT[,PORT]",
        help="a channel and its port, or the two of a stereo one; ports by number, with JACK also by name; repeatable",
    )
    live.add_argument("--output", metavar="PORT,PORT", help="ports that the mix goes to; default: 1,2")
    live.add_argument("--backend", choices=list(BACKENDS), help="default: jack if a server runs, else portaudio")
    live.add_argument("--device", metavar="NAME", help="of those that 'alm devices' lists; default: the system's")
    live.add_argument("--sample-rate", type=int, metavar="HZ", help="default: what the device runs at")
    live.add_argument("--block-size", type=int, metavar="SAMPLES", help="default: JACK's, else 128")
    live.add_argument("--preset", metavar="PRESET", help="plugins by role, as for mix")
    live.add_argument("--role", action="append", default=[], metavar="NAME=ROLE", help="as for mix; repeatable")
    live.add_argument("--model", metavar="MODEL", help=f"{', '.join([*NETWORKS, *RULES])} or a .safetensors file")
    live.add_argument(
        "--runtime",
        choices=list(RUNTIMES),
        default="torch",
        help="what runs the network; onnx needs the onnx extra, and less of a core; default: torch",
    )
    live.add_argument("--strength", type=float, metavar="0..100", help="%% of the model's gains; default: 100")
    live.add_argument(
        "--range",
        type=float,
        default=StageLimits.range_db,
        metavar="DB",
        help="furthest that the model moves a channel from where you stand; default: 6",
    )
    live.add_argument("--no-limits", action="store_true", help="play what 'alm mix' would: no range, no ring detector")
    live.add_argument("--mono", action="store_true", help="mix to one channel instead of two")
    live.add_argument(
        "--soundcheck",
        type=float,
        nargs="?",
        const=SOUNDCHECK_S,
        metavar="S",
        help=f"mix for so many seconds ({SOUNDCHECK_S:g} if you do not say), then freeze",
    )
    live.add_argument("--record", type=Path, metavar="DIR", help="keep every input, the mix and the gain curves")
    live.add_argument("--resume", action="store_true", help="begin with the settings of the last time")
    live.add_argument("--page", action="store_true", help="serve the console to a browser on this machine")
    live.add_argument("--port", type=int, default=0, metavar="N", help="of the page; default: one that is free")
    live.add_argument("--lan", action="store_true", help="let others in the network open the page, with a token")
    live.add_argument("--seconds", type=float, metavar="S", help="end by itself")
    live.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")
    live.set_defaults(run=_live)

    devices = commands.add_parser(
        "devices",
        help="list audio devices",
        description="List what 'alm live' can open, and what is missing if it cannot.",
    )
    devices.add_argument("--json", action="store_true", help="print JSON instead of a table")
    devices.set_defaults(run=_devices)


def _devices(arguments: argparse.Namespace) -> int:
    found = list_devices()
    if arguments.json:
        print(json.dumps([asdict(info) for info in found], indent=2))  # noqa: T201
        return 0
    table = Table(box=box.SIMPLE, pad_edge=False)
    for header in ("backend", "device"):
        table.add_column(header, no_wrap=header == "backend")
    for header in ("inputs", "outputs", "Hz"):
        table.add_column(header, justify="right")
    for info in found:
        numbers = ("-",) * 3 if info.note else (str(info.inputs), str(info.outputs), str(info.sample_rate or "-"))
        table.add_row(info.backend, info.note or info.name, *numbers, style="yellow" if info.note else None)
    Console().print(table)
    return 0


def _channels(arguments: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, str | int]]:
    """Ports of each channel, and the device's map of names to ports."""
    channels: dict[str, list[str]] = {}
    for text in arguments.input:
        name, equals, rest = text.partition("=")
        given = [port.strip() for port in rest.split(",")]
        if not name or not equals or not 1 <= len(given) <= 2 or "" in given:
            raise ParameterError(f"--input must be NAME=PORT or NAME=PORT,PORT, got {text!r}")
        if name in channels:
            raise ParameterError(f"--input must name every channel once, got {name!r} twice")
        channels[name] = given
    if arguments.inputs is not None:
        if channels:
            raise ParameterError("--inputs must come without --input, got both")
        if not 1 <= arguments.inputs <= 64:
            raise ParameterError(f"--inputs must be in [1, 64], got {arguments.inputs}")
        channels = {f"in {number}": [str(number)] for number in range(1, arguments.inputs + 1)}
    if not channels:
        raise ParameterError("--inputs N or --input NAME=PORT must be given, got neither")
    ports: dict[str, str | int] = {}
    for name, given in channels.items():
        sides = [name] if len(given) == 1 else [f"{name} L", f"{name} R"]
        ports |= dict(zip(sides, given, strict=True))
    outputs = ["mix"] if arguments.mono else ["mix L", "mix R"]
    given = (arguments.output or ("1" if arguments.mono else "1,2")).split(",")
    if len(given) != len(outputs):
        raise ParameterError(f"--output must be {len(outputs)} ports, got {arguments.output!r}")
    return channels, ports | dict(zip(outputs, given, strict=True))


def _backend() -> str:
    """Name the first one that has a device."""
    for info in list_devices():
        if info.backend != "silent" and not info.note:
            return info.backend
    notes = "; ".join(f"{info.backend}: {info.note}" for info in list_devices() if info.note)
    raise ParameterError(f"--backend must have a device, got none ({notes}); 'silent' runs without one")


def _live(arguments: argparse.Namespace) -> int:
    channels, ports = _channels(arguments)
    roles = {name: guess_role(name) for name in channels}
    for text in arguments.role:
        name, _, role = text.partition("=")
        if name not in roles:
            raise ParameterError(f"--role must name one of {', '.join(roles)}, got {name!r}")
        roles[name] = None if role == "none" else role
    options: dict[str, Any] = {} if arguments.model is None else {"model": arguments.model}
    preset = Preset() if arguments.preset is None else load_preset(arguments.preset)
    mixer = preset.mixer(roles, channels=1 if arguments.mono else 2, zero_latency=True, **options)
    if arguments.strength is not None:
        mixer.strength = arguments.strength
    limits = None if arguments.no_limits else StageLimits(arguments.range)
    if limits is not None:
        for name in mixer:
            mixer[name].slew_db_per_s = mixer[name].slew_db_per_s or limits.slew_db_per_s
    last = user_bands_dir().parent / "live.json"
    if pid := left_over(last):
        raise ParameterError(f"no other mixer may play on, got one of the last time ('kill {pid}' ends it)")
    if arguments.resume:
        recall(mixer, last)
    last.parent.mkdir(parents=True, exist_ok=True)
    device = DeviceSpec(
        arguments.backend or _backend(), arguments.device, arguments.sample_rate, arguments.block_size, ports
    )
    stereo = [name for name, given in channels.items() if len(given) == 2]
    live = Live(
        mixer, device, stereo=stereo, limits=limits, runtime=arguments.runtime, record=arguments.record, state=last
    )
    console = Console(stderr=True)
    if not arguments.json and not arguments.resume and last.is_file():
        console.print("the settings of the last time come back with --resume", highlight=False)
    with ExitStack() as stack:
        stack.enter_context(live)
        end_by_signal(live)
        said: dict[str, Any] = {}
        if arguments.page or arguments.lan:
            from alm_plugin.web.console import console as page_of
            from alm_plugin.web.server import Page

            page = stack.enter_context(Page(page_of(live), port=arguments.port, lan=arguments.lan))
            said["page"] = page.url
            if not arguments.json:
                console.print(f"console: {page.url}", highlight=False)
                if arguments.lan:
                    console.print(page.qr(), highlight=False)
        _attend(live, arguments, console)
        state = live.state()
    if arguments.json:
        print(json.dumps(said | _summary(live, state)))  # noqa: T201
    else:
        summary = _summary(live, state)
        took = summary["callback_us"]
        console.print(
            f"{summary['seconds']:.1f} s, {summary['xruns']} xruns, {summary['late_frames']} of {summary['frames']} "
            f"frames late, callback {took['p50']:.0f} us (p99.9 {took['p99.9']:.0f}) of {summary['period_us']:.0f}",
            highlight=False,
        )
    return 0


def _attend(live: Live, arguments: argparse.Namespace, console: Console) -> None:
    """Show how it goes, and see to the soundcheck, until it ends."""
    begin = time.monotonic()
    checking = arguments.soundcheck is not None
    with Screen(console=console, auto_refresh=False, transient=True) as screen:
        while not live.ended.wait(0.2):
            passed = time.monotonic() - begin
            if checking and passed >= arguments.soundcheck:
                live.command("freeze", None, True)
                checking = False
                if not arguments.json:
                    console.print("soundcheck done: gains are frozen", highlight=False)
            if arguments.seconds is not None and passed >= arguments.seconds:
                live.ended.set()
            if not arguments.json and sys.stderr.isatty():
                screen.update(_table(live), refresh=True)


def _table(live: Live) -> Table:
    state = live.state()
    table = Table(box=box.SIMPLE, pad_edge=False)
    for header in ("channel", "in", "gain", "why"):
        table.add_column(header, justify="right" if header in ("in", "gain") else "left", no_wrap=True)
    for about, strip in zip(live.describe()["strips"], state["strips"], strict=True):
        table.add_row(about["name"], f"{strip['input_db']:.0f}", f"{strip['gain_db']:+.1f}", strip["why"])
    table.caption = (
        f"{state['mix']['loudness_lufs']:.1f} LUFS, {state['xruns']} xruns, {state['late_frames']} late; Ctrl-C ends"
    )
    return table


def _summary(live: Live, state: dict[str, Any]) -> dict[str, Any]:
    percentiles = live.callback_us()
    return {
        "seconds": state["time_s"],
        "sample_rate": live.sample_rate,
        "block_size": live.block_size,
        "frames": state["frames"],
        "late_frames": state["late_frames"],
        "xruns": state["xruns"],
        "callback_us": percentiles,
        "period_us": 1e6 * live.block_size / live.sample_rate,
        "real_time_priority": live.is_fifo,
        "gains_db": {
            about["name"]: round(float(strip["gain_db"]), 2) if abs(strip["gain_db"]) < 1e3 else None
            for about, strip in zip(live.describe()["strips"], state["strips"], strict=True)
        },
        "faults": state["faults"],
        "recorded_to": None if live.record is None else os.fspath(live.record),
    }
