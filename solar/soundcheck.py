"""The soundcheck itself: an input, the trackers, and a page that is black unless somebody has something to turn."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from alm_plugin.errors import ParameterError
from alm_plugin.export.page import plain
from alm_plugin.live.devices import BACKENDS, Device, Silent, list_devices, open_device
from alm_plugin.live.devices.device import Block
from alm_plugin.render import Track, TrackReader, find_tracks
from alm_plugin.units import factor_to_db
from alm_plugin.web.messages import App
from solar.page import Screen, page
from solar.plugin import GAINS_DB, Listening, Solar, urgency
from solar.reference import ROOM, WITHOUT_WEIGHTS, Audio, Demucs, DirectAndRoom, Ear, Multitrack, Reference, Separator
from solar.tracker import Recommendation

TICK_S = 0.1
FULL_SCALE = 0.999
"""Converters differ in their last code."""

SILENT_DB, QUIET_DB = -80.0, -30.0
"""Peaks of an input that is not connected, and of a microphone that is too far away or turned too low, in dBFS."""

LOOK_BACK_S = 3.0
"""What the level check judges."""

NOTE_S = 10.0
"""For so long nothing is recommended after an input has failed."""

RETRY_S = 2.0
DEVICE_BLOCK = 1024

NOTES = {
    "lost": "The input is gone: plug it in again.",
    "broken": "What comes in is no sound: choose another input.",
    "clipped": "The microphone clips: turn its input down.",
    "silent": "Nothing comes in: switch the microphone on.",
}


@dataclass(frozen=True)
class Input:
    """Something to listen to: a device, or files.

    Attributes
    ----------
    name : str
        For the input picker.
    ports : int
        How many a single microphone may be chosen from.
    open : callable
        Returns the device, open, when called with the port of a single microphone.
    is_recording : bool
        It ends, and begins when the soundcheck does; until then it is played over and over.
    """

    name: str
    ports: int
    open: Callable[[int], Device]
    is_recording: bool = False


class Soundcheck:
    """Listen to an input, and say on a page what to turn.

    Parameters
    ----------
    solar : Solar
        Who knows the reference.
    inputs : sequence of Input
        What the page offers; the first is opened, and has to be there.
    title : str
    started : bool
        Whether to begin without the level check.

    Attributes
    ----------
    ended : threading.Event
        Set when there is nothing more to hear: a recording is over.
    shown : list of (float, Recommendation)
        What was shown so far, and after how many seconds.
    """

    def __init__(
        self, solar: Solar, inputs: Sequence[Input], title: str = "Soundcheck", *, started: bool = False
    ) -> None:
        self.solar, self.inputs, self.title = solar, list(inputs), title
        self.ended = threading.Event()
        self.shown: list[tuple[float, Recommendation]] = []
        self._begun_s = time.monotonic()
        self._lock = threading.Lock()
        self._started = started
        self._screens = {player: Screen() for player in solar.trackers}
        self._wanted = self._open = (0, 1)
        self._device: Device | None = None
        self._listening: Listening | None = None
        self._levels: deque[tuple[float, float, str]] = deque()
        self._failed: dict[str, float] = {}
        self._error, self._retry_s = "", 0.0
        self._is_anew = False  # the input is to be opened anew
        self._thread = threading.Thread(target=self._run, name="soundcheck", daemon=True)

    def __enter__(self) -> Soundcheck:
        self._begin()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._thread.join()
        self._end()

    @property
    def app(self) -> App:
        """What `alm_plugin.web.server.Page` serves."""
        return page(self)

    # ---- what the page asks ----------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Say what stays."""
        return {
            "title": self.title,
            "strips": [{"name": player} for player in self._screens],
            "inputs": [{"name": each.name, "ports": each.ports} for each in self.inputs],
        }

    def state(self) -> dict[str, Any]:
        """Say what is."""
        with self._lock:
            shown = [screen.shown for screen in self._screens.values()]
            now = time.monotonic()
            level_db = self._levels[-1][1] if self._levels else -np.inf
            return {
                "started": self._started,
                "shown": [said and {"state": said.state, "change_db": said.change_db} for said in shown],
                "order": sorted(range(len(shown)), key=lambda k: -1.0 if (said := shown[k]) is None else urgency(said))[
                    ::-1
                ],
                "level_db": level_db,
                "verdict": self._verdict(now),
                "note": self._note(now),
                "input": self._wanted[0],
                "port": self._wanted[1],
            }

    def command(self, name: str, strip: int | None, value: bool | float | None) -> None:
        """Do what a page asks."""
        with self._lock:
            if name == "done" and strip is not None:
                screen = list(self._screens.values())[strip]
                if screen.shown is not None and screen.shown.state != "cant-hear":
                    self.solar.moved(screen.shown.player, screen.shown.change_db)
                screen.done()
            elif name == "start":
                self._start(bool(value))
            elif name in ("input", "port"):
                number, port = self._wanted
                number, port = (int(value or 0), 1) if name == "input" else (number, int(value or 1))
                if not number < len(self.inputs):
                    raise ParameterError(f"input must be in [0, {len(self.inputs) - 1}], got {number}")
                if not port <= self.inputs[number].ports:
                    raise ParameterError(f"port must be in [1, {self.inputs[number].ports}], got {port}")
                self._wanted = number, port

    def _start(self, on: bool) -> None:
        if on and not self._started:
            self.solar.reset()
            self._screens = {player: Screen() for player in self._screens}
            self._is_anew = self.inputs[self._wanted[0]].is_recording
        self._started = on

    # ---- the input -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        number, port = self._open = self._wanted
        self._is_anew = False
        self._device = device = self.inputs[number].open(port)
        ear = Ear(self.solar.reference.separator, device.sample_rate)  # only to refuse what it cannot hear
        fresh_s = max(4.0, 1.5 * ear.hop_s)
        with self._lock:
            self._levels.clear()
            self._failed.clear()
            self.solar.reset()
        rate = device.sample_rate
        self._listening = listening = Listening(
            len(device.inputs), rate, lambda sound: self._hear(sound, rate), fresh_s, self.solar.forget
        )

        def hear(inputs: Block, outputs: Block) -> None:
            listening.write(inputs)
            outputs.fill(0.0)

        device.start(hear, self._lost)

    def _end(self) -> None:
        if self._device is not None:
            self._device.stop()
        if self._listening is not None:
            self._listening.stop()
        self._device = self._listening = None

    def _lost(self, reason: str) -> None:
        with self._lock:
            self._error = reason

    def _run(self) -> None:
        while not self.ended.wait(TICK_S):
            now = time.monotonic()
            if self._wanted != self._open or self._is_anew or (self._error and now >= self._retry_s):
                self._again(now)
            device = self._device
            if isinstance(device, Silent) and device.join(0.0):
                with self._lock:
                    self._is_anew |= not self._started
                    is_over = not self._is_anew
                if is_over:
                    if self._listening is not None:
                        self._listening.wait()
                    self.ended.set()
            self._show(time.monotonic())

    def _again(self, now: float) -> None:
        self._end()
        try:
            self._begin()
            self._error = ""
        except ParameterError as error:
            self._error, self._retry_s = str(error), now + RETRY_S

    def _hear(self, sound: Audio, sample_rate: int) -> None:
        now = time.monotonic()
        finite = np.isfinite(sound).all()
        peaks = np.abs(sound).max(axis=1) if finite else np.ones(len(sound))
        clips = (np.count_nonzero(np.abs(sound) >= FULL_SCALE, axis=1) >= 3).any()
        loudest_db, quietest_db = float(factor_to_db(peaks.max())), float(factor_to_db(peaks.min()))
        fault = "broken" if not finite else "clipped" if clips else ""
        with self._lock:
            self._levels.append((now, loudest_db, fault))
            while self._levels[0][0] < now - LOOK_BACK_S:
                self._levels.popleft()
            if fault:
                self._failed[fault] = now
            if quietest_db > SILENT_DB or "heard" not in self._failed:
                self._failed["heard"] = now
            started = self._started
        if started:
            self.solar.hear(sound[:, None], sample_rate)

    def _verdict(self, now: float) -> str:
        if self._error:
            return "silent"
        faults = {fault for _, _, fault in self._levels}
        if fault := next((fault for fault in ("broken", "clipped") if fault in faults), ""):
            return fault
        loudest_db = max((level_db for _, level_db, _ in self._levels), default=-np.inf)
        return "silent" if loudest_db < SILENT_DB else "quiet" if loudest_db < QUIET_DB else "good"

    def _note(self, now: float) -> str:
        """Return what is to be done about the input, or nothing."""
        if self._error:
            return f"{NOTES['lost']} ({self._error})"
        if not self._started:
            return ""
        for fault in ("broken", "clipped"):
            if now - self._failed.get(fault, -np.inf) < NOTE_S:
                return NOTES[fault]
        return NOTES["silent"] if now - self._failed.get("heard", now) > NOTE_S else ""

    # ---- the page --------------------------------------------------------------------------------------------------

    def _show(self, now: float) -> None:
        said = self.solar.recommendations
        with self._lock:
            good = self._started and not self._note(now)
            for player, screen in self._screens.items():
                before = screen.shown
                shown = screen.step(now, said.get(player) if good else None, self.solar.trackers[player].error_db)
                if shown is not None and shown is not before:
                    self.shown.append((now - self._begun_s, shown))


# ---- the command -----------------------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add it to the commands of ``solar``."""
    check = commands.add_parser(
        "soundcheck",
        help="listen to a band, and show what to turn",
        description="Listen to a band and compare it with a recording of the mix that is wanted. A page in a browser "
        "is black unless somebody has something to turn; then it says so, readable from across the room. Put a phone "
        "with it at every amplifier (--lan), or the laptop in front of the band.",
        epilog="examples: "
        "(1) one microphone in the room, taken apart by Demucs, whose weights you have put into a folder: "
        "solar soundcheck --reference song.wav --player guitar --input portaudio --model-dir htdemucs. "
        "(2) an input for every stem of the reference, nothing else needed: "
        "solar soundcheck --reference stems/ --input multitrack --player guitar --player vocals. "
        "(3) your own pickup on port 1 and a microphone in the room on port 2: "
        "solar soundcheck --reference stems/ --input portaudio --channel guitar=1 --channel room=2.",
    )
    check.add_argument(
        "--reference", type=Path, required=True, metavar="FILE_OR_FOLDER", help="the mix that is wanted, or its stems"
    )
    check.add_argument(
        "--player", action="append", metavar="NAME", help="whom to tell: a stem; repeatable; default: guitar"
    )
    check.add_argument(
        "--input",
        metavar="WHERE",
        help="jack or portaudio: a microphone, unless --channel says more; multitrack: an input for every stem of the "
        "reference, in its order; or a recording, or a folder of stems, to be heard instead. Default: what there is",
    )
    check.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=PORT",
        help="an input and its port, from 1: a stem of the reference, or 'room', which hears all; repeatable",
    )
    check.add_argument("--device", metavar="NAME", help="of those that 'alm devices' lists; default: the system's")
    check.add_argument("--sample-rate", type=int, metavar="HZ", help="default: what the device runs at")
    check.add_argument(
        "--model-dir",
        type=Path,
        metavar="DIR",
        help="folder with Demucs's weights (.safetensors), which are never downloaded by themselves",
    )
    check.add_argument("--port", type=int, default=0, metavar="N", help="of the page; default: one that is free")
    check.add_argument("--lan", action="store_true", help="let others in the network open the page, with a token")
    check.add_argument("--seconds", type=float, metavar="S", help="end by itself")
    check.add_argument(
        "--json", action="store_true", help="no page: print one JSON object at the end; files are heard at full speed"
    )
    check.set_defaults(run=_soundcheck)


def _soundcheck(arguments: argparse.Namespace) -> int:
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    is_file = arguments.input is not None and arguments.input not in (*BACKENDS, "multitrack")
    channels = _channels(arguments, is_file)
    separator = _separator(arguments, list(channels))
    solar = _solar(arguments, separator, console)
    inputs = _inputs(arguments, channels, is_file)
    if is_file and arguments.json:
        _hear_file(solar, arguments)
        print(json.dumps(plain(solar.report())))  # noqa: T201
        return 0
    title = f"Soundcheck: {arguments.reference.stem}"
    with ExitStack() as stack:
        check = stack.enter_context(Soundcheck(solar, inputs, title, started=arguments.json))
        if not arguments.json:
            from alm_plugin.web.server import Page

            served = stack.enter_context(Page(check.app, port=arguments.port, lan=arguments.lan))
            console.print(f"page: {served.url}")
            if arguments.lan:
                console.print(served.qr())
        end_s = None if arguments.seconds is None else time.monotonic() + arguments.seconds
        done = 0
        with suppress(KeyboardInterrupt):
            while not check.ended.wait(TICK_S) and (end_s is None or time.monotonic() < end_s):
                for time_s, said in check.shown[done:]:
                    done += 1
                    if not arguments.json:
                        console.print(_line(time_s, said))
        if arguments.json:
            print(json.dumps(plain(solar.report())))  # noqa: T201
    return 0


def _line(time_s: float, said: Recommendation) -> str:
    minutes, seconds = divmod(int(time_s), 60)
    what = "can't be heard" if said.state == "cant-hear" else f"turn {said.state} {abs(said.change_db):.0f} dB"
    return f"{minutes}:{seconds:02} {said.player}: {what}"


def _solar(arguments: argparse.Namespace, separator: Separator | None, console: Console) -> Solar:
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True,
        disable=arguments.json,
    )  # fmt: skip
    with bar:
        task = bar.add_task("listening to the reference", total=None)
        reference = Reference(
            arguments.reference,
            arguments.player or ["guitar"],
            separator,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        for player in reference.players:
            for gain_db in GAINS_DB:
                bar.update(task, description=f"trying {player} at {gain_db:+g} dB")
                reference.regained(gain_db, player)  # which it remembers
        return Solar(reference, full_scale=FULL_SCALE)


def _channels(arguments: argparse.Namespace, is_file: bool) -> dict[str, str]:
    """Ports by the name of the input."""
    channels: dict[str, str] = {}
    for text in arguments.channel:
        name, equals, port = text.rpartition("=")
        if not equals or not name or not port:
            raise ParameterError(f"--channel must be NAME=PORT, got {text!r}")
        if name in channels:
            raise ParameterError(f"--channel must name every input once, got {name!r} twice")
        channels[name] = port
    if channels:
        if is_file:
            raise ParameterError("--channel must come with a device, got it with a file")
        return channels
    path = arguments.reference if arguments.input == "multitrack" else Path(arguments.input) if is_file else None
    names = [] if path is None else [track.name for track in find_tracks(path)]
    if len(names) < 2 and arguments.input == "multitrack":
        raise ParameterError("--input multitrack must come with a folder of stems as --reference, got one recording")
    return {name: str(port) for port, name in enumerate(names, 1)} if len(names) > 1 else {ROOM: "1"}


def _separator(arguments: argparse.Namespace, inputs: Sequence[str]) -> Separator | None:
    if len(inputs) == 1:
        if inputs[0] != ROOM:
            raise ParameterError(f"--channel must name another input, a stem or {ROOM!r}, got {inputs[0]!r} alone")
        if arguments.model_dir is None:
            raise ParameterError(f"--model-dir must be given for one microphone, got none: {WITHOUT_WEIGHTS}")
        return Demucs(arguments.model_dir)
    if arguments.model_dir is not None:
        raise ParameterError(f"--model-dir must come with one microphone, got inputs {', '.join(inputs)}")
    if ROOM not in inputs:
        return Multitrack(inputs)
    if len(inputs) != 2:
        raise ParameterError(f"--channel must name stems alone, or one and {ROOM!r}, got {', '.join(inputs)}")
    return DirectAndRoom(next(name for name in inputs if name != ROOM))


def _inputs(arguments: argparse.Namespace, channels: dict[str, str], is_file: bool) -> list[Input]:
    """Return what the page offers, first the one that was asked for."""
    names = list(channels)
    if is_file:
        tracks = find_tracks(Path(arguments.input))
        return [Input(arguments.input, 1, lambda port: _player(tracks, names), is_recording=True)]

    def opened(backend: str, device: str | None, port: int) -> Device:
        return open_device(
            backend,
            device,
            inputs=names,
            outputs=["nothing"],
            sample_rate=arguments.sample_rate,
            block_size=DEVICE_BLOCK if backend == "portaudio" else None,
            channel_map=channels | ({ROOM: port} if len(names) == 1 and port > 1 else {}),
        )

    ports = max([len(names), *(int(port) for port in channels.values() if port.isdecimal())])
    there = [info for info in list_devices() if not info.note and info.inputs >= ports and info.backend != "silent"]
    backend = arguments.input if arguments.input in BACKENDS else (there[0].backend if there else "")
    if not backend:
        notes = "; ".join(f"{info.backend}: {info.note}" for info in list_devices() if info.note)
        raise ParameterError(f"--input must be a device with {ports} inputs, a file or a folder, got none ({notes})")
    device = arguments.device
    named = [info for info in there if info.backend == backend and (device or "").lower() in info.name.lower()]
    # Of PortAudio's devices nobody says which is the system's default, nor how many ports that has.
    known = named[0] if named and (device or backend == "jack") else None
    ports = known.inputs if known is not None and len(names) == 1 else 1
    inputs = [Input(f"{backend}: {device or 'default'}", ports, partial(opened, backend, device))]
    for info in there:
        if info is not known:
            ports = info.inputs if len(names) == 1 else 1
            inputs.append(Input(f"{info.backend}: {info.name}", ports, partial(opened, info.backend, info.name)))
    return inputs


def _player(tracks: Sequence[Track], names: Sequence[str]) -> Device:
    rate = max(track.sample_rate for track in tracks)
    source = _blocks(tracks, names, rate, DEVICE_BLOCK)
    return Silent(names, ["nothing"], sample_rate=rate, block_size=DEVICE_BLOCK, source=source)


def _blocks(tracks: Sequence[Track], names: Sequence[str], sample_rate: int, samples: int) -> Iterator[Audio]:
    """Blocks (names, samples) of files; of a single name, whatever it is, the file that there is."""
    with ExitStack() as stack:
        readers = {track.name: TrackReader(track, sample_rate, stack) for track in tracks}
        ordered = [readers[name] for name in names] if len(names) > 1 else list(readers.values())
        for _ in range(0, max(track.samples_at(sample_rate) for track in tracks), samples):
            yield np.stack([reader.read(samples).mean(axis=0) for reader in ordered])


def _hear_file(solar: Solar, arguments: argparse.Namespace) -> None:
    tracks = find_tracks(Path(arguments.input))
    rate = max(track.sample_rate for track in tracks)
    for second, sound in enumerate(_blocks(tracks, solar.inputs, rate, rate)):
        if arguments.seconds is not None and second >= arguments.seconds:
            break
        solar.hear(sound[:, None], rate)
