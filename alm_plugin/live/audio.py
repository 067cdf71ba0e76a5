"""The audio process: blocks from a device through the mixer and back. It knows no torch, no file, no lock."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import AlmError, ParameterError
from alm_plugin.live.devices import Device, Silent, open_device
from alm_plugin.live.wires import GAIN_ROWS, Far, Order, Wires
from alm_plugin.mixer import Mixer
from alm_plugin.models.contract import Array
from alm_plugin.stream import Stream

PRIORITY = 20
"""Of the audio thread under SCHED_FIFO: above all that is not sound, below a JACK server's own."""

LEAST_PRIORITY = 2
"""Under SCHED_FIFO that a thread which plays has, whoever made it: isolated plugins run below."""

FALL_DB_PER_S = 20.0
ORDERS_PER_BLOCK = 64
AGAIN_S = 1.0
"""Between two attempts to open a device that is lost."""


@dataclass(frozen=True)
class DeviceSpec:
    """What `open_device` is asked for, in the process that opens it.

    Attributes
    ----------
    backend, name, sample_rate, block_size, channel_map
        See `open_device`.
    source : (inputs, samples) array, or iterable of blocks (inputs, block_size), optional
        What a silent device hears.
    freewheel : bool
        Whether a silent device runs as fast as the worker answers.
    """

    backend: str
    name: str | None = None
    sample_rate: int | None = None
    block_size: int | None = None
    channel_map: Mapping[str, str | int] | None = None
    source: NDArray[np.float32] | Iterable[NDArray[np.float32]] | None = None
    freewheel: bool = False

    def open(self, inputs: Sequence[str], outputs: Sequence[str]) -> Device:
        """Open it; raises as `open_device` does."""
        if self.backend == "silent":
            return Silent(
                inputs,
                outputs,
                self.name,
                self.sample_rate,
                self.block_size,
                self.channel_map,
                source=self.source,
                freewheel=self.freewheel,
            )
        return open_device(
            self.backend,
            self.name,
            inputs=inputs,
            outputs=outputs,
            sample_rate=self.sample_rate,
            block_size=self.block_size,
            channel_map=self.channel_map,
        )


@njit(cache=True, nogil=True)
def hold_peaks(x, keep, peaks):
    """Raise `peaks` (rows,) to those of a block `x` (rows, samples); they fall by the factor `keep` meanwhile."""
    for row in range(x.shape[0]):
        peak = peaks[row] * keep
        for i in range(x.shape[1]):
            size = abs(x[row, i])
            if size > peak:
                peak = size
        peaks[row] = peak


class FarMind:
    """A mind in another process: writes down what is to be heard, reads the gains that come back.

    A frame whose gains have not come keeps those that came last, and is counted.

    Parameters
    ----------
    wires : Wires
    first_db : (channels,)
        Gains of the first frame.
    widths : sequence of int
        Sides of each strip.
    roles : sequence of str or None
    keep : float
        Factor by which peaks fall per block.
    longest, samples_per_frame : int
        Most samples in a block, and in a frame.
    patient : bool
        Wait for the gains, however long it takes: for a device that does not run in real time.
    """

    def __init__(
        self,
        wires: Wires,
        first_db: Array,
        widths: Sequence[int],
        roles: Sequence[str | None],
        keep: float,
        longest: int,
        samples_per_frame: int,
        patient: bool = False,
    ) -> None:
        self.gain_db = np.array(first_db, np.float32)
        self.pull_db = np.zeros(len(widths), np.float32)
        self.roles = list(roles)
        self.late = 0
        self.frame = 0
        # One that takes over counts from where the worker is, which keeps its own frames.
        clock_frames = wires.taps.written // samples_per_frame
        self._behind = clock_frames - 1 if clock_frames else 0
        self.gives_up = threading.Event()
        self._wires, self._keep, self._patient = wires, keep, patient
        self.sides = [slice(sum(widths[:k]), sum(widths[: k + 1])) for k in range(len(widths))]
        self.peaks = np.zeros(sum(widths))  # of all strips' sides, falling slowly
        self._block = np.zeros((sum(widths), longest), np.float32)
        self._came = np.zeros(wires.gains.shape)
        self._rows = dict(zip(GAIN_ROWS, self._came[1:].reshape(len(GAIN_ROWS), -1), strict=True))

    @property
    def faults(self) -> int:
        """Frames whose gains came too late."""
        return self.late

    def add_channel(self, role: str | None) -> None:
        """Cannot be done: the other process has been told who is there."""
        raise NotImplementedError("channels cannot come while the mixer is live")

    def remove_channel(self, index: int) -> None:
        """Cannot be done; see `add_channel`."""
        raise NotImplementedError("channels cannot go while the mixer is live")

    def set_role(self, index: int, role: str | None) -> None:
        """Cannot be done; see `add_channel`."""
        self.roles[index] = role

    def hear(self, taps: Sequence[Array], samples: int) -> None:
        """Write down a block for the worker."""
        block = self._block[:, :samples]
        np.concatenate(taps, out=block)
        self._wires.taps.write(block)
        hold_peaks(block, self._keep, self.peaks)

    def end_frame(self) -> None:
        """Count the frames."""
        self.frame += 1

    def decide(self) -> None:
        """Read the gains of this frame, or keep the last."""
        if not self.frame:
            return
        self._wires.gains.read(self._came)
        due = self.frame + self._behind
        while self._patient and self._came[0] < due and not self.gives_up.is_set():
            time.sleep(0.0002)
            self._wires.gains.read(self._came)
        if self._came[0] < due:
            self.late += 1
        if self._came[0]:
            self.gain_db[:] = self._rows["gain_db"]
            self.pull_db[:] = self._rows["pull_db"]


@dataclass
class Player:
    """What is called back for each block.

    Parameters
    ----------
    mixer : Mixer
        Its model is `Far`.
    wires : Wires
    device : Device
    sources : dict of tuple of int
        By strip: the device's inputs, one, or two that are neighbours.
    patient : bool
        See `FarMind`.
    """

    mixer: Mixer
    wires: Wires
    device: Device
    sources: Mapping[str, tuple[int, ...]]
    patient: bool = False
    failed: int = 0
    lost: int = 0
    is_fifo: bool = False
    _muted_before: dict[str, bool] | None = field(default=None, repr=False)
    _blocks: dict[str, Array] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        rate, block = self.device.sample_rate, self.device.block_size
        far = self.mixer.model
        if not isinstance(far, Far):
            raise ParameterError(f"model must be in another process, got {far!r}")
        self._period_s = block / rate
        self._keep = 10.0 ** (-FALL_DB_PER_S * self._period_s / 20.0)
        widths = {name: len(inputs) for name, inputs in self.sources.items()}
        roles = [self.mixer[name].role for name in self.mixer]
        self._strips = [self.mixer[name] for name in self.mixer]
        frame = far.clock.boundary(1, rate)
        self.mind = FarMind(
            self.wires, far.first_db, list(widths.values()), roles, self._keep, block, frame, self.patient
        )
        self._obey()  # what waits holds from the first sample on
        self.stream = Stream(self.mixer, rate, widths, self.mind, keeps_curves=False)
        self._tape = np.zeros((self.wires.tape.channels, block), np.float32)
        self._out = self._tape[-self.mixer.channels :]
        self._out_peaks = np.zeros(self.mixer.channels)
        self._took = np.zeros((1, 1), np.float32)
        self._gains = np.zeros((len(self._strips), 1), np.float32)
        self._sandboxes = {node.sandbox for node in _isolated(self.mixer)}
        self._told = 0
        self._rate = rate
        # Everything that compiles or loads when it is first called, is called now.
        hold_peaks(np.zeros((1, 1), np.float32), 1.0, np.zeros(1))

    def __call__(self, x: Array, y: Array) -> None:
        """Mix a block of the device's inputs `x` (inputs, samples) to its outputs `y`."""
        begin = time.perf_counter_ns()
        if self.device.blocks == 0:  # a thread of its own after every start
            self._become_real_time()
        if self._blocks is None:  # the device hands over the same arrays every time
            self._blocks = {name: x[rows[0] : rows[-1] + 1] for name, rows in self.sources.items()}
        self._obey()
        try:
            self.stream.check(self._rate, self._blocks)
            self.stream.process(self._blocks, self._out)
        except Exception:  # whatever it is, the sound goes on, as it came in
            self.failed += 1
            self._out[:] = 0.25 * np.nan_to_num(x).sum(axis=0)
        y[:] = self._out
        hold_peaks(self._out, self._keep, self._out_peaks)
        self._tape[: len(x)] = x
        self.wires.tape.write(self._tape)
        if self.mind.frame != self._told:
            self._told = self.mind.frame
            self.tell()
            self.wires.curves.write(self._gains)
        self._took[0, 0] = (time.perf_counter_ns() - begin) / 1000.0
        self.wires.times.write(self._took)

    def _become_real_time(self) -> None:
        """Ask for SCHED_FIFO, unless the driver's thread has it, or nobody waits for this one."""
        if self.patient or not hasattr(os, "sched_setscheduler"):
            return
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK not in (os.SCHED_FIFO, os.SCHED_RR):
                os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
            self.is_fifo = True

    def _obey(self) -> None:
        for _ in range(ORDERS_PER_BLOCK):
            order = self.wires.orders.get()
            if order is None:
                return
            kind, index, value = order
            try:
                self._do(Order(kind), index, value)
            except (AlmError, ValueError, IndexError):
                self.failed += 1

    def _do(self, order: Order, index: int, value: float) -> None:
        mixer = self.mixer
        if order == Order.STRENGTH:
            mixer.strength = value
        elif order == Order.FREEZE:
            mixer.freeze = bool(value)
        elif order == Order.BYPASS:
            mixer.bypass_db = None if math.isnan(value) else value
        elif order == Order.PANIC:
            self._panic(bool(value))
        else:
            strip = self._strips[index]
            if order == Order.TRIM:
                strip.trim_db = value
            elif order == Order.LOCK:
                strip.lock_db = None if math.isnan(value) else value
            elif order == Order.MUTE:
                if self._muted_before is None:
                    strip.mute = bool(value)
                else:
                    self._muted_before[mixer.names[index]] = bool(value)
            elif order == Order.SOLO:
                strip.solo = bool(value)

    def _panic(self, panic: bool) -> None:
        faders: dict[str, Any] = {name: self.mixer[name] for name in self.mixer}
        faders |= {f"group {name}": group for name, group in self.mixer.groups.items()}
        faders |= {f"return {name}": bus for name, bus in self.mixer.returns.items()}
        if panic and self._muted_before is None:
            self._muted_before = {name: fader.mute for name, fader in faders.items()}
            self.mixer.panic()
        elif not panic and self._muted_before is not None:
            for name, mute in self._muted_before.items():
                faders[name].mute = mute
            self._muted_before = None

    def tell(self) -> None:
        """Publish where everything is: after every frame, and at the end."""
        stream, mind = self.stream, self.mind
        # Numbers in a list, turned into an array once: cold, a call of numpy costs more than a strip here.
        status: list[float] = [
            mind.frame,
            mind.late,
            self.device.blocks,
            self.device.xruns,
            self.lost,
            self.failed,
            sum(count for place, count in stream.faults.items() if place.startswith("input ")),
            self.is_fifo,
            stream.ceiling_samples,
            sum(len(sandbox.faults) for sandbox in self._sandboxes),
            self.device.unplugged,
        ]
        peaks, models_db, gains_db = mind.peaks.tolist(), mind.gain_db.tolist(), []
        for name, strip, sides, model_db in zip(self.mixer, self._strips, mind.sides, models_db, strict=True):
            peak, silent, applied_db = max(peaks[sides]), strip.is_silent, stream.applied_db[name]
            status += (peak, 0.0 if silent else peak * strip.gain.present_factor, applied_db, model_db, silent)
            gains_db.append(-math.inf if silent else applied_db)
        status += self._out_peaks.tolist()
        self._gains[:, 0] = gains_db
        self.wires.status.write(status)


def _isolated(mixer: Mixer) -> list[Any]:
    """Find the hosted plugins that run in a process of their own."""
    if "alm_plugin.nodes.external.isolated" not in sys.modules:
        return []
    from alm_plugin.nodes.external.isolated import Isolated

    strips = [chain for name in mixer for chain in (mixer[name].pre, mixer[name].post)]
    chains = [*strips, *(bus.chain for buses in (mixer.groups, mixer.returns) for bus in buses.values())]
    return [plugin for chain in chains for plugin in chain if isinstance(plugin, Isolated)]


def _hurry(device: Device) -> None:
    """Have isolated plugins answer within a block; below whatever priority the thread that plays will have."""
    from alm_plugin.nodes.external import go_live

    priority = 0
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(LEAST_PRIORITY))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            priority = LEAST_PRIORITY
    go_live(device.block_size, device.sample_rate, priority=priority)


def main(
    connection: Connection,
    mixer: Mixer,
    wires: Wires,
    spec: DeviceSpec,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sources: Mapping[str, tuple[int, ...]],
) -> None:
    """Be the audio process until told to end; first says ``("ready", sample_rate, block_size)`` or ``("error", line)``.

    When its supervisor dies it plays on, as everything stands, until somebody ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ends = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ends.set())
    try:
        device = spec.open(inputs, outputs)
        if not spec.freewheel and _isolated(mixer):
            _hurry(device)
        player = Player(mixer, wires, device, sources, spec.freewheel)
        gc.collect()
        gc.freeze()
        gc.disable()

        def lost(reason: str) -> None:
            player.lost += 1
            device.stop()
            player.mind.peaks[:] = 0.0
            player.tell()  # no block will, for now
            while not ends.wait(AGAIN_S):
                with contextlib.suppress(AlmError):
                    device.start(player, lost)
                    return

        device.start(player, lost)
    except AlmError as error:
        connection.send(("error", str(error)))
        return
    connection.send(("ready", device.sample_rate, device.block_size))
    alone = False
    while not ends.wait(0.05):
        if alone:
            continue
        try:
            if connection.poll() and connection.recv() == "end":
                break
        except (EOFError, OSError):
            alone = True
        if isinstance(device, Silent) and device.join(0.0):
            break
    ends.set()
    player.mind.gives_up.set()
    device.stop()
    player.tell()
    with contextlib.suppress(OSError):
        connection.send(("ended", player.stream.position))
