"""The supervisor: starts the audio and the worker process, sees that they live, and speaks with people."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AlmError, AudioFileError, LatencyError, ModelError, ParameterError
from alm_plugin.features.levels import k_weighting, lufs, measure
from alm_plugin.features.loudness import HOP_MS
from alm_plugin.live import audio, worker
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.recorder import Recorder
from alm_plugin.live.safety import Reason, StageLimits
from alm_plugin.live.stage import StageMind
from alm_plugin.live.wires import COUNTS, GAIN_ROWS, STRIP_ROWS, Far, Order, Wires
from alm_plugin.mixer import Mixer
from alm_plugin.models.listener import Listener
from alm_plugin.models.registry import load_model

logger = logging.getLogger("alm_plugin")

LOOK_S = 0.02
READY_S = 60.0
AGAIN_S = 5.0
"""Between two attempts to start a worker that does not start."""

LOUDNESS_S = 3.0
SETTINGS = ("trim_db", "lock_db", "mute", "solo")

COUNTED = {
    "lost": "the audio device was lost",
    "unplugged": "a channel was unplugged",
    "failed": "a block could not be mixed; the inputs were heard as they came",
    "mended": "samples that were no numbers were silenced",
    "plugins": "an isolated plugin failed, and was heard dry until it came back",
}
"""What to say of those `COUNTS` that are faults."""

_CONTEXT = multiprocessing.get_context("spawn")


def step_time_ms(mixer: Mixer, sample_rate: int, limits: StageLimits | None = None) -> float:
    """Milliseconds of a processor that a frame of this mixer's channels needs here, the median of some."""
    listener = Listener(mixer.model, sample_rate, [mixer[name].role for name in mixer])
    mind = listener if limits is None else StageMind(listener, sample_rate, limits)
    samples = mixer.model.metadata.clock.boundary(1, sample_rate)
    noise = (0.05 * np.random.default_rng(0).standard_normal((len(mixer), samples))).astype(np.float32)
    took = []
    for _ in range(14):
        begin = time.thread_time()
        mind.hear(list(noise[:, None]), samples)
        mind.end_frame()
        took.append(time.thread_time() - begin)
    return 1000.0 * median(took)


class Live:
    """A mixer on stage.

    The audio process runs the strips and the sum, the worker process the model; this one owns neither sound nor
    gains, so that whatever happens here is not heard. It restarts either if it dies.

    Parameters
    ----------
    mixer : Mixer
        At rest; what the operator sets is kept in it. Its model runs in the worker.
    device : DeviceSpec
    stereo : collection of str
        Strips that have two inputs, ``name L`` and ``name R``; the others have one, called like them.
    limits : StageLimits, optional
        What keeps the gains safe on a stage: they are then seen from where the operator stands, see
        `alm_plugin.live.stage.StageMind`. None, the default, plays what the mixer would play offline.
    runtime : str
        What runs a network: one of `alm_plugin.models.registry.RUNTIMES`.
    record : str or Path, optional
        Folder to record to.
    state : str or Path, optional
        File in which the operator's settings are kept, every second.

    Raises
    ------
    ParameterError, LatencyError, AudioFileError
        From `start`, before any sound: for a device that is not there or has too few channels, a block that leaves the
        worker no time, a chain that cannot run in a stream, a folder that cannot be written to.
    """

    def __init__(
        self,
        mixer: Mixer,
        device: DeviceSpec,
        *,
        stereo: Sequence[str] = (),
        limits: StageLimits | None = None,
        runtime: str = "torch",
        record: str | Path | None = None,
        state: str | Path | None = None,
    ) -> None:
        self.mixer, self.spec, self.limits = mixer, device, limits
        self.record, self.state_path = (None if path is None else Path(path) for path in (record, state))
        source = mixer.model_source
        if source is None:
            raise ParameterError(f"model must ship or be a file for another process to load it, got {mixer.model!r}")
        self._source, self._runtime = source, runtime
        if runtime != "torch":
            load_model(source, runtime)  # says what is missing before there is any sound
        self._metadata = mixer.model.metadata
        for name in stereo:
            mixer[name]
        self.inputs: list[str] = []
        self.sources: dict[str, tuple[int, ...]] = {}
        for name in mixer:
            ports = [f"{name} L", f"{name} R"] if name in stereo else [name]
            self.sources[name] = tuple(range(len(self.inputs), len(self.inputs) + len(ports)))
            self.inputs += ports
        self.outputs = ["mix"] if mixer.channels == 1 else ["mix L", "mix R"]
        self.sample_rate = self.block_size = 0
        self.ended = threading.Event()
        self.restarts = {"audio": 0, "worker": 0}
        self._panic = self._bypass = False
        self._faults: dict[str, int] = {}
        self._lock = threading.RLock()
        self._audio: Any = None
        self._worker: Any = None
        self._recorder: Recorder | None = None
        self._answers, self._plays = 0, False  # of the worker when it was started; whether there has been sound since
        self._worker_due_s = self._audio_due_s = 0.0  # not to be started again before

    # ---- starting and ending -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the device and let sound through."""
        probe = self.spec.open(self.inputs, self.outputs)
        self.sample_rate, self.block_size = probe.sample_rate, probe.block_size
        probe.stop()
        mixer, rate = self.mixer, self.sample_rate
        for name, strip in ((name, mixer[name]) for name in mixer):
            if strip.latency_names and mixer.zero_latency:
                plugin, samples = strip.latency_names[0]
                raise LatencyError(f"strip {name!r} must add no latency, got {samples} samples from {plugin}")
        clock = self._metadata.clock
        block_ms, need_ms = 1000.0 * self.block_size / rate, step_time_ms(mixer, rate, self.limits)
        if not self.spec.freewheel and block_ms + need_ms > clock.slack_ms:
            raise ParameterError(
                f"block_size must leave {self._metadata.name} {need_ms:.1f} ms of its {clock.slack_ms} ms slack for a "
                f"step, got {self.block_size} samples, which are {block_ms:.1f} ms"
            )
        state = mixer.model.initial_state(len(mixer))
        first_db = np.array(state.get("gain_db", np.zeros(len(mixer))), np.float32)
        if self.limits is not None:
            first_db[:] = 0.0  # the operator's own balance
        numbers = sum(int(np.prod(rows.shape[1:])) for rows in state.values())
        widths = [len(rows) for rows in self.sources.values()]
        self.wires = Wires.of(widths, len(self.inputs), mixer.channels, numbers, rate)
        if self.record is not None:
            self._recorder = Recorder(self.record, self.inputs, mixer.names, mixer.channels, rate, clock)
        mixer.model = Far(self._metadata, first_db)
        self._roles = [mixer[name].role for name in mixer]
        self._widths = widths
        self._status = np.zeros(self.wires.status.shape)
        self._gains = np.zeros(self.wires.gains.shape)
        self._stand()
        self._tape = np.zeros((self.wires.tape.channels, rate // 10), np.float32)
        self._row = np.zeros((len(mixer), 1), np.float32)
        self._hops: list[float] = []
        self._k = (k_weighting(rate), np.zeros((1, 2, 4)), np.array([mixer.channels]), np.zeros((1, 2)))
        try:
            self._start_worker()
            end = time.monotonic() + READY_S
            while not self.wires.gains.number:  # a model takes some seconds to load
                if not self._worker.is_alive() or time.monotonic() > end:
                    raise ModelError(f"{self._metadata.name} must be ready within {READY_S:g} s, got nothing")
                time.sleep(LOOK_S)
            self._start_audio()
        except BaseException:
            self.stop()
            raise
        self._saved = time.monotonic()
        self._watch = threading.Thread(target=self._look_after, name="supervisor", daemon=True)
        self._watch.start()

    def _start_worker(self) -> None:
        self._answers = self.wires.gains.number
        band = (self.sample_rate, self._widths, self._roles)
        model = (self._runtime, self._metadata.sha256)
        arguments = (self.wires, self._source, *band, self.limits, *model, os.getpid())
        self._worker = _CONTEXT.Process(target=worker.main, args=arguments, name="alm worker", daemon=True)
        self._worker.start()

    def _start_audio(self) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        arguments = (theirs, self.mixer, self.wires, self.spec, self.inputs, self.outputs, self.sources)
        # Not a daemon: it plays on if this process is killed.
        self._audio = _CONTEXT.Process(target=audio.main, args=arguments, name="alm audio")
        self._audio.start()
        theirs.close()
        if not self._connection.poll(READY_S):
            raise ParameterError(f"device must answer within {READY_S:g} s, got nothing")
        try:
            said = self._connection.recv()
        except EOFError:
            said = ("error", "the audio process must start, got its end")
        if said[0] == "error":
            raise ParameterError(said[1])
        self._plays = True

    def stop(self) -> None:
        """End the sound, finish the recording, keep the settings."""
        self.ended.set()
        with contextlib.suppress(OSError, AttributeError):
            self._connection.send("end")
        for process in (self._audio, self._worker):
            if process is None or process.pid is None:
                continue
            if process is self._worker:
                process.terminate()
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
        watch = getattr(self, "_watch", None)
        if watch is not None and watch is not threading.current_thread():
            watch.join()
        if self._recorder is not None:
            self._drain()
            self._recorder.close()
            self._recorder = None
        self._keep()

    def __enter__(self) -> Live:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- watching ----------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        while not self.ended.wait(LOOK_S):
            try:
                self._look()
            except Exception as error:
                if self._fault(f"the supervisor has failed: {type(error).__name__}") == 1:
                    logger.exception("the supervisor has failed: %s", error)
        with contextlib.suppress(Exception):
            self._drain()

    def _look(self) -> None:
        self._drain()
        now = time.monotonic()
        if not self._worker.is_alive() and now >= self._worker_due_s and not self.ended.is_set():
            self._revive_worker()
        if not self._audio.is_alive() and now >= self._audio_due_s and not self.ended.is_set():
            if self._plays and self._audio.exitcode == 0:  # a silent device whose source has ended
                self.ended.set()
                return
            self._revive_audio()
        if time.monotonic() - self._saved > 1.0:
            self._saved = time.monotonic()
            self._keep()

    def _revive_worker(self) -> None:
        """Start the worker again, at once if it had been at work; never with another model."""
        has_worked, is_same = self.wires.gains.number > self._answers, self._model_is_same()
        if has_worked:
            self._worker_due_s = 0.0
        if has_worked and is_same:
            self._fault("the model's process has ended and was started again; gains held meanwhile")
        else:
            if not self._worker_due_s:
                why = "ends before it answers" if is_same else "has ended and its file is not what it was"
                self._fault(f"the model's process {why}: gains hold")
            self._worker_due_s = time.monotonic() + AGAIN_S
        self._answers = self.wires.gains.number
        if is_same:
            self._start_worker()
            self.restarts["worker"] += 1

    def _model_is_same(self) -> bool:
        path = Path(self._source)
        try:
            return not path.suffix or hashlib.sha256(path.read_bytes()).hexdigest() == self._metadata.sha256
        except OSError:
            return False

    def _revive_audio(self) -> None:
        """Start the audio process again: as the operator has it, with the gains that the model gave last."""
        if self._plays:
            self._plays = False
            self._fault("the audio process has ended and was started again")
            with self._lock:  # it begins to count again
                for text, count in self._counted().items():
                    self._faults[text] = self._faults.get(text, 0) + count
                self._status[:] = 0.0
                self.wires.status.write(self._status)
        with self._lock:
            self.mixer.model = Far(self._metadata, self._gains[1 : 1 + len(self.mixer)].astype(np.float32))
            while self.wires.orders.get() is not None:  # what they ask is in the mixer
                pass
            if self._panic:
                self.wires.orders.put(Order.PANIC, 0, 1.0)
        try:
            self._start_audio()
            self.restarts["audio"] += 1
        except ParameterError as error:
            self._audio_due_s = time.monotonic() + audio.AGAIN_S
            if str(error) not in self._faults:
                self._fault(str(error))

    def _drain(self) -> None:
        """Take the tape, the curves and the status that have been written since the last look."""
        tape, taken = self.wires.tape, self.wires.tape.position
        while (start := tape.read(self._tape)) is not None:
            if start > taken and self._recorder is not None:
                self._fault("the recording has a gap of silence, as the disk was too slow")
                self._record(np.zeros((tape.channels, start - taken), np.float32))
            taken = start + self._tape.shape[1]
            self._hear(self._tape)
            self._record(self._tape)
        rest = self.wires.tape.written - self.wires.tape.position
        if self.ended.is_set() and rest > 0:
            tail = np.empty((self._tape.shape[0], rest), np.float32)
            if self.wires.tape.read(tail) is not None:
                self._record(tail)
        while (frame := self.wires.curves.read(self._row)) is not None:
            self._record(self._row[:, 0], frame)
        with self._lock:  # which no slow disk holds
            self.wires.status.read(self._status)
            self.wires.gains.read(self._gains)

    def _record(self, what: np.ndarray, frame: int | None = None) -> None:
        """Add a block of tape to the recording, or the gains of a frame."""
        if self._recorder is None:
            return
        try:
            if frame is None:
                self._recorder.write(what)
            else:
                self._recorder.write_gains(frame, what)
        except OSError as error:
            self._fault(f"recording has ended: {reason_of(error)}")
            self._recorder.close()
            self._recorder = None

    def _hear(self, tape: np.ndarray) -> None:
        coefficients, memory, widths, squares = self._k
        sides = np.zeros((1, 2, tape.shape[1]), np.float32)
        sides[0, : self.mixer.channels] = tape[-self.mixer.channels :]
        measure(sides, widths, tape.shape[1], coefficients, memory, squares)
        self._hops.append(float(squares[0, 1]) * self.mixer.channels)
        del self._hops[: -int(LOUDNESS_S * 1000 / HOP_MS)]

    def _fault(self, text: str) -> int:
        self._faults[text] = self._faults.get(text, 0) + 1
        return self._faults[text]

    # ---- what people see and set -------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Say who is there; see `alm_plugin.web.messages.Owner`."""
        strips = [{"name": name, "role": self.mixer[name].role, "group": self.mixer[name].group} for name in self.mixer]
        return {
            "title": "AiLive Mixer",
            "sample_rate": self.sample_rate,
            "block_size": self.block_size,
            "model": self._metadata.name,
            "strips": strips,
            "ranges": {"trim_db": (-24.0, 24.0), "lock_db": (-60.0, 24.0), "strength": (0.0, 100.0)},
        }

    def state(self) -> dict[str, Any]:
        """Say how everything stands; see `alm_plugin.web.messages.Owner`."""
        with self._lock:
            status = self._status
            counts = {name: int(value) for name, value in zip(COUNTS, status, strict=False)}
            rows = status[len(COUNTS) : len(COUNTS) + len(STRIP_ROWS) * len(self.mixer)].reshape(-1, len(STRIP_ROWS))
            peaks = status[len(COUNTS) + rows.size :]
            strips = []
            whys = self._whys()
            for name, (input_peak, output_peak, applied_db, model_db, silent) in zip(self.mixer, rows, strict=True):
                strip = self.mixer[name]
                strips.append(
                    {
                        "input_db": _db(input_peak),
                        "output_db": _db(output_peak),
                        "gain_db": applied_db,
                        "predicted_db": float(np.clip(model_db, -60.0, 24.0)),
                        "trim_db": strip.trim_db,
                        "lock_db": strip.lock_db,
                        "mute": strip.mute,
                        "solo": strip.solo,
                        "why": self._why(name, model_db, bool(silent), whys[name]),
                    }
                )
            clock = self._metadata.clock
            time_s = clock.boundary(counts["frame"], self.sample_rate or 48_000) / (self.sample_rate or 48_000)
            faults = dict(self._faults)
            for text, count in self._counted().items():
                faults[text] = faults.get(text, 0) + count
            return {
                "time_s": time_s,
                "strips": strips,
                "mix": {
                    "peak_db": [_db(peak) for peak in peaks] * (1 if len(peaks) == 2 else 2),
                    "loudness_lufs": float(lufs(np.mean(self._hops))) if self._hops else -math.inf,
                },
                "strength": self.mixer.strength,
                "freeze": self.mixer.freeze,
                "panic": self._panic,
                "bypass": self._bypass,
                "xruns": counts["xruns"],
                "late_frames": counts["late_frames"],
                "frames": counts["frame"],
                "faults": [{"text": text, "count": count} for text, count in faults.items()],
            }

    def _counted(self) -> dict[str, int]:
        """Say how often the audio process has met which fault."""
        counts: dict[str, float] = dict(zip(COUNTS, self._status.tolist(), strict=False))
        return {text: int(counts[name]) for name, text in COUNTED.items() if counts.get(name)}

    @property
    def is_fifo(self) -> bool:
        """Whether the audio thread has a real-time priority."""
        with self._lock:
            return bool(self._status[COUNTS.index("fifo")])

    def callback_us(self) -> dict[str, float]:
        """Percentiles of how long callbacks took, the last minutes of them."""
        ring = self.wires.times
        ring.position = max(0, ring.written - ring.capacity // 2)
        took = np.zeros((1, min(ring.written, ring.capacity // 2)), np.float32)
        if not took.size or ring.read(took) is None:
            return {"p50": 0.0, "p99": 0.0, "p99.9": 0.0, "max": 0.0}
        values = np.percentile(took, (50, 99, 99.9, 100)).tolist()
        return dict(zip(("p50", "p99", "p99.9", "max"), values, strict=True))

    def _judged(self) -> dict[str, np.ndarray]:
        """Return `GAIN_ROWS` by name, as the worker published them."""
        return dict(zip(GAIN_ROWS, self._gains[1:].reshape(len(GAIN_ROWS), -1), strict=True))

    def _whys(self) -> dict[str, str]:
        """Say by strip why the worker has its gain where it is."""
        rows = self._judged()
        trims_db = np.array([self.mixer[name].trim_db for name in self.mixer])
        power = np.where(rows["loudness_lufs"] > -69.0, 10.0 ** ((rows["loudness_lufs"] + trims_db) / 10.0), 0.0)
        whys = {}
        for index, name in enumerate(self.mixer):
            gain_db, others = rows["gain_db"][index], power.sum() - power[index]
            way = "turned up" if gain_db > 0.5 else "turned down" if gain_db < -0.5 else ""
            why = f"the model has it {way}" if way else ""
            if way and self.limits is not None and power[index] > 0.0 and others > 0.0:
                over_db = 10.0 * math.log10(power[index] / others)
                why = f"{abs(over_db):.0f} dB {'over' if over_db > 0.0 else 'under'} the others: {way}"
            reason = Reason(int(rows["reason"][index]))
            if rows["pull_db"][index] > 0.0:
                why = f"rings at {rows['ring_hz'][index]:.0f} Hz: pulled down {rows['pull_db'][index]:.0f} dB"
            elif reason == Reason.FAULT:
                why = "the model has no gain for it: held"
            elif reason == Reason.BLEED:
                why = "hears only the others: not turned up"
            elif reason == Reason.OPEN:
                why = f"{why}{', ' if why else ''}held back as many microphones are open"
            elif reason == Reason.RANGE and self.limits is not None:
                why = f"the model would go further than {self.limits.range_db:g} dB from yours"
            whys[name] = why
        return whys

    def _why(self, name: str, model_db: float, silent: bool, why: str) -> str:
        strip = self.mixer[name]
        rings = why if why.startswith("rings") else ""
        if self._panic or strip.mute:
            return "muted"
        if silent:
            return "others are in solo"
        if self._bypass:
            return "bypassed: as it came, at the mix's loudness"
        if strip.lock_db is not None:
            return f"yours, and it {rings.partition(':')[0]}: turn it down" if rings else "yours: held where you put it"
        if self.mixer.freeze:
            return rings or "frozen"
        low, high = strip.bounds_db
        wanted = self.mixer.strength / 100.0 * model_db + strip.trim_db
        if wanted > high or wanted < low:
            return f"the model wants {wanted:+.1f} dB, your limits hold it"
        return why

    def command(self, name: str, strip: int | None, value: bool | float | None) -> None:
        """Do what a page asks; see `alm_plugin.web.messages.Owner`."""
        with self._lock:
            if name in SETTINGS:
                names = self.mixer.names
                if strip is None or not 0 <= strip < len(names):
                    raise ParameterError(f"strip must be in [0, {len(names) - 1}], got {strip}")
                setattr(self.mixer[names[strip]], name, value)
                self._stand()
            elif name in ("strength", "freeze"):
                setattr(self.mixer, name, value)
            elif name == "panic":
                self._panic = bool(value)
            elif name == "bypass":
                self._bypass = bool(value)
                self.mixer.bypass_db = value = self._matched_db() if value else None
            else:
                raise ParameterError(f"command must be one of {', '.join(_ORDERS)}, got {name!r}")
            number = math.nan if value is None else float(value)
            if not self.wires.orders.put(_ORDERS[name], strip or 0, number):
                self._fault("an order was not taken, as too many were waiting")

    def _stand(self) -> None:
        """Tell the worker where the operator has the faders."""
        strips = [self.mixer[name] for name in self.mixer]
        solo = any(strip.solo for strip in strips)
        trim_db = [strip.trim_db for strip in strips]
        lock_db = [math.nan if strip.lock_db is None else strip.lock_db for strip in strips]
        self.wires.stand.write([trim_db, lock_db, [strip.mute or (solo and not strip.solo) for strip in strips]])

    def _matched_db(self) -> float:
        """Gain that, on every channel, sounds as loud as the mix does now."""
        loudness = self._judged()["loudness_lufs"]
        power = np.where(loudness > -69.0, 10.0 ** (loudness / 10.0), 0.0)
        rows = self._status[len(COUNTS) : len(COUNTS) + len(STRIP_ROWS) * len(self.mixer)]
        applied_db, silent = rows.reshape(-1, len(STRIP_ROWS))[:, [2, 4]].T
        power = np.where(silent, 0.0, power)
        mixed = (power * 10.0 ** (applied_db / 10.0)).sum()
        if power.sum() <= 0.0 or mixed <= 0.0:
            return 0.0
        return float(np.clip(10.0 * np.log10(mixed / power.sum()), -60.0, 24.0))

    # ---- the operator's settings -------------------------------------------------------------------------------

    def _keep(self) -> None:
        if self.state_path is None:
            return
        table = {
            "strength": self.mixer.strength,
            "freeze": self.mixer.freeze,
            "plays_in": self._audio.pid if self._audio is not None and self._audio.is_alive() else None,
            "strips": {name: {field: getattr(self.mixer[name], field) for field in SETTINGS} for name in self.mixer},
        }
        table = json.loads(json.dumps(table).replace("-Infinity", "null"))
        with contextlib.suppress(OSError, AudioFileError), staged(self.state_path) as temporary:
            temporary.write_text(json.dumps(table, indent=1), encoding="utf-8")


_ORDERS = {
    "trim_db": Order.TRIM,
    "lock_db": Order.LOCK,
    "mute": Order.MUTE,
    "solo": Order.SOLO,
    "strength": Order.STRENGTH,
    "freeze": Order.FREEZE,
    "panic": Order.PANIC,
    "bypass": Order.BYPASS,
}


def recall(mixer: Mixer, path: Path) -> None:
    """Set a mixer as `Live` kept it; strips that it does not have are left out.

    Raises
    ------
    ParameterError
        For a file that is not one of these.
    """
    try:
        table = json.loads(path.read_text("utf-8"))
        mixer.strength, mixer.freeze = table["strength"], bool(table["freeze"])
        settings: Mapping[str, Mapping[str, Any]] = table["strips"]
        for name in settings:
            if name in mixer:
                for field in SETTINGS:
                    setattr(mixer[name], field, settings[name][field])
    except OSError as error:
        raise ParameterError(f"{path}: expected the settings of the last time, got {reason_of(error)}") from None
    except (ValueError, KeyError, TypeError, AlmError) as error:
        raise ParameterError(f"{path}: expected the settings of the last time, got {error}") from None


def left_over(path: Path) -> int | None:
    """Process of a mixer that plays on without its supervisor, by what that one last kept in `path`; None if none."""
    try:
        pid = int(json.loads(path.read_text("utf-8"))["plays_in"])
        os.kill(pid, 0)
        # The number may be another's by now.
        return pid if b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        return None


def _db(peak: float) -> float:
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf


def end_by_signal(live: Live) -> None:
    """Have Ctrl-C, a closed terminal and a shutdown end it cleanly."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: live.ended.set())
