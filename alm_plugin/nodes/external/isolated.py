"""A plugin in a sandbox: its name, its settings and what is heard of it are here, its code runs there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alm_plugin.errors import LatencyError, ParameterError, PluginError
from alm_plugin.nodes.external import shared
from alm_plugin.nodes.external.cover import Cover, warm_up
from alm_plugin.nodes.external.entry import PluginEntry
from alm_plugin.nodes.external.host import External
from alm_plugin.nodes.external.sandbox import HUNG_OFFLINE_S, ROUND, Child, Sandbox, common_sandbox
from alm_plugin.nodes.external.shared import CAPACITY, DONE, HEAD, LONGEST, MOST_CHANNELS, RING, SENT, SETS, Slot
from alm_plugin.nodes.node import Audio

MOST_BAD = 3
"""Blocks on end that a plugin may return with NaN or a roar in them."""

NOTED_S = 0.3
"""How long to wait for a plugin that is heard to confirm what was set last."""


class Isolated(External):
    """An `External` that runs in a `Sandbox`: what ``External(name, isolated=True)`` makes.

    The plugin is never loaded in this process: what there is to know of it the registry knows, or its child says.
    """

    def __init__(
        self,
        plugin: str | Path | PluginEntry,
        slew_ms: float = 20.0,
        scan: bool = True,
        *,
        isolated: bool | Sandbox = True,
    ) -> None:
        if not isinstance(isolated, (bool, Sandbox)):
            raise ParameterError(f"isolated must be True, False or a Sandbox, got {isolated!r}")
        self._sandbox = isolated if isinstance(isolated, Sandbox) else common_sandbox()
        super().__init__(plugin, slew_ms, scan)

    def _open(self) -> None:
        warm_up()
        self._described = dict(self._entry.parameters)
        self._places = {name: place for place, name in enumerate(self._described)}
        self._wanted: dict[str, Any] = {}  # set by any thread; the one that plays takes them out
        self._sent_in: dict[str, int] = {}  # with how many blocks it has gone, for each goal that is not confirmed
        self._values: dict[str, Any] = {name: known.default for name, known in self._described.items()}
        self._raw: dict[str, float] = {}
        self._state = b""
        self._noted: tuple[Slot | None, int] = (None, 0)
        self._sent_slew_ms = self.slew_ms
        self._latency = self._entry.reported_latency_samples or 0
        self._must_reset = False
        self._is_over = False  # a one-shot, whose latency has been taken out
        self._slot = self._sandbox.add(self)
        self._blocks = _Blocks(self._sandbox, self._slot)

    @property
    def sandbox(self) -> Sandbox:
        """The process it runs in."""
        return self._sandbox

    # ---- parameters and state --------------------------------------------------------------------------------------

    def _get(self, name: str) -> Any:
        self._refresh()
        goal = self._goals.get(name)
        return self._values[name] if goal is None else goal

    def _set(self, name: str, value: Any) -> None:
        value = self._checked(name, value)
        self._wanted[name] = value
        self._goals[name] = value
        if not self._is_streaming:
            self._tell()

    def _refresh(self) -> None:
        """Learn what the plugin has noted since."""
        if child := self._sandbox.child:
            self._remember(child.memory.slots[self._slot])

    def _remember(self, slot: Slot) -> None:
        version = slot.note_version
        if (slot, version) == self._noted or not (note := slot.read_note()):
            return
        self._noted = (slot, version)
        told, state = note
        self._raw, self._values = self._raw | told["raw_values"], self._values | told["values"]
        self._state = state or self._state
        for name, blocks in list(self._sent_in.items()):
            if blocks <= told["done"]:
                self._confirm(name)

    def _confirm(self, name: str) -> None:
        self._sent_in.pop(name, None)
        if name not in self._wanted:
            self._goals.pop(name, None)

    def _recipe(self) -> tuple[dict[str, Any], bytes]:
        """How to make the plugin as it is to be by now."""
        sent = {name: value for name, value in list(self._goals.items()) if name not in self._wanted}
        return {
            "entry": self._entry.to_json(),
            "slew_ms": self.slew_ms,
            "raw_values": self._raw,
            "values": sent,
            "stream": self._format,
        }, self._state

    def _is_hosted(self, slot: Slot) -> None:
        """Go on with an instance made by `_recipe`."""
        for name in list(self._sent_in):
            self._confirm(name)
        self._remember(slot)

    def _tell(self, then: str = "", *arguments: Any, blob: bytes = b"") -> bytes | None:
        """Have the plugin do something now, with all parameters as they are to be; None if there is no plugin."""
        values = dict(self._take_wanted(len(self._wanted)))
        message = {"slew_ms": self.slew_ms, "values": values, "is_still": not self._is_streaming}
        answer = self._sandbox.tell(self._slot, blob, then=then, arguments=arguments, **message)
        if answer is None:
            self._wanted = values | self._wanted
            return None
        self._refresh()
        for name in values:
            self._confirm(name)
        self._sent_slew_ms = self.slew_ms
        self._latency = answer[0]["latency"]
        return answer[1]

    def _must_tell(self, then: str, *arguments: Any, blob: bytes = b"") -> bytes:
        state = self._tell(then, *arguments, blob=blob)
        if state is None:
            raise PluginError(f"{self.name}: expected an answer of its process, got none")
        return state

    @property
    def raw_state(self) -> bytes:
        """All of the plugin's settings, in the bytes of its format; see `External.raw_state`.

        Of a plugin that is heard live it is that of a moment ago, which does not disturb it; where that cannot be read
        in passing, in half a millisecond, what was set since may be missing, but not from its parameters or a copy.
        """
        if self._sandbox.live and self._is_streaming:
            return self._settings()[0]
        return self._must_tell("raw_state")

    @raw_state.setter
    def raw_state(self, state: bytes) -> None:
        self._check_state(state)
        self._state = self._must_tell("put_state", blob=state)

    def load_preset(self, path: str | Path) -> None:
        """Take all settings from a .vstpreset file; see `External.load_preset`."""
        self._state = self._must_tell("load_preset", str(path))

    def save_preset(self, path: str | Path) -> None:
        """Write all settings to a .vstpreset file, which DAWs read too."""
        self._must_tell("save_preset", str(path))

    def _settings(self) -> tuple[bytes, dict[str, float]]:
        if self._sandbox.live and self._is_streaming:
            deadline_s = time.monotonic() + NOTED_S
            self._refresh()
            while self._goals and time.monotonic() < deadline_s:
                time.sleep(0.01)
                self._refresh()
        else:
            self._tell()
        return self._state or self._must_tell("raw_state"), dict(self._raw)

    def _take(self, state: bytes, raw_values: dict[str, float]) -> None:
        self._check_state(state)
        self._state, self._raw = state, raw_values
        self._sandbox.host_again(self._slot)

    # ---- sound -----------------------------------------------------------------------------------------------------

    @property
    def reported_latency_samples(self) -> int:
        """How much later, in samples, a stream comes out than it went in."""
        return self._latency + self._sandbox.added_latency_samples

    def reset(self) -> None:
        """Forget the stream so far; parameters are where they were going."""
        # Where nothing may wait it is done with the next block.
        self._must_reset = self._sandbox.live is not None or self._tell("reset") is None
        self._is_streaming = self._is_over = False
        if self._format[1]:
            self._blocks.start(*self._format, self._latency, self._sandbox.added_latency_samples)

    def prepare(self, sample_rate: int, channels: int) -> None:
        """Start a stream; see `External.prepare`."""
        self._check_width(channels)
        if channels > MOST_CHANNELS:
            raise ParameterError(f"{self.name} processes 1 or 2 channels while isolated, got {channels}")
        if self._sandbox.is_left_out(self._slot):
            self._sandbox.host_again(self._slot)
        self._blocks.catch_up()
        self._format = (sample_rate, channels)
        self._tell("prepare", sample_rate, channels)
        self._must_reset = self._is_streaming = self._is_over = False
        self._blocks.start(sample_rate, channels, self._latency, self._sandbox.added_latency_samples)

    def begin_block(self, x: Audio, sample_rate: int) -> bool:
        """Send the next block of a stream on its way, and do not wait.

        `process_block`, called with the same block, then returns the answer. In between others may begin theirs, and
        all of them are answered in one round trip.

        Returns
        -------
        bool
            Whether it is on its way: not if it is longer than 8192 samples, which `process_block` cuts.
        """
        if self._blocks.block is not None:  # nobody has asked for the block before
            self._blocks.end()
        if self._format != (sample_rate, x.shape[0]):
            self.prepare(sample_rate, x.shape[0])
        if self._is_over:
            raise LatencyError(
                f"a stream through plugins with latency must begin with reset(), not reset=True: {self.name}"
            )
        if x.shape[1] > LONGEST:
            return False
        flags = 0
        if not self._is_streaming:
            flags = shared.RESET if self._must_reset else 0
            self._is_streaming, self._must_reset = True, False
        self._blocks.begin(x, flags, self)
        return True

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block of a stream; see `Node.process_block`."""
        samples = x.shape[1]
        if samples > LONGEST:
            pieces = [x[:, start : start + LONGEST] for start in range(0, samples, LONGEST)]
            return np.concatenate([self.process_block(piece, sample_rate) for piece in pieces], axis=1)
        if self._blocks.block is not x:
            self.begin_block(x, sample_rate)
        return self._blocks.end()

    def _one_shot(self, x: Audio, sample_rate: int, buffer_size: int) -> Audio:
        if self._format != (sample_rate, x.shape[0]):
            self.prepare(sample_rate, x.shape[0])
        self.reset()
        self._blocks.start(sample_rate, x.shape[0], self._latency, 0, is_patient=True)
        latency = self._latency
        out = self._stream(np.pad(x, ((0, 0), (0, latency))), sample_rate, buffer_size)[:, latency:]
        # Where there is no latency the stream may go on from here.
        self._is_streaming, self._is_over = False, latency > 0
        self._blocks.start(sample_rate, x.shape[0], latency, self._sandbox.added_latency_samples)
        return np.ascontiguousarray(out)

    def _take_sets(self, slot: Slot, place: int, blocks: int) -> int:
        """Write what is to be set with a block, the `blocks`th, to its place in the ring; return how many there are."""
        count = 0
        if self.slew_ms != self._sent_slew_ms:
            slot.which[place, 0], slot.values[place, 0] = -1, self.slew_ms
            self._sent_slew_ms, count = self.slew_ms, 1
        if self._wanted:
            for name, value in self._take_wanted(SETS - count):
                self._sent_in[name] = blocks
                choices = self._described[name].choices
                slot.which[place, count] = self._places[name]
                slot.values[place, count] = choices.index(value) if choices else value
                count += 1
        return count

    def _take_wanted(self, most: int) -> Iterator[tuple[str, Any]]:
        # Other threads may add to them at any time.
        for name in list(self._wanted)[:most]:
            value = self._wanted.pop(name, None)
            if value is not None:
                yield name, value


class _Blocks:
    """Blocks on their way to a sandbox and back.

    Attributes
    ----------
    block : (channels, samples) float32 or None
        The one that has begun and not ended.
    """

    def __init__(self, sandbox: Sandbox, slot: int) -> None:
        self._sandbox, self._place = sandbox, slot
        self._key = object()  # of this plugin in a round
        self._child: Child | None = None
        self._slot: Slot | None = None
        self._sent = self._collected = self._needed = 0  # blocks of the child
        self._queued, self._stride = 0, 0  # since all of them were there; samples between two of them
        # Of each block in the child's ring: where in the stream, in the memory, how long, and when it must be answered.
        self._starts, self._offsets, self._lengths, self._due_s = [0] * RING, [0] * RING, [0] * RING, [0.0] * RING
        self._is_late = False
        self._deadline_s, self._hung_s = 0.0, 0.0
        self.start(48_000, 1, 0, 0)

    def start(
        self, sample_rate: int, channels: int, latency_samples: int, added_samples: int, is_patient: bool = False
    ) -> None:
        """Start a stream; `is_patient` waits for answers as long as it takes, also live."""
        self._rate, self._channels, self._added, self._is_patient = sample_rate, channels, added_samples, is_patient
        self._cover = Cover(channels, sample_rate, latency_samples, added_samples)
        self._position = self._samples = 0  # of the block that has begun, or the next; its length
        self._first = -added_samples  # position from which on the child's answers are those of this stream
        self._collected = self._needed = self._sent
        self._bad = 0
        self.block: Audio | None = None

    def catch_up(self) -> None:
        """Wait until nothing is under way."""
        if self._child and self._child is self._sandbox.child:
            self._deadline_s = time.perf_counter() + self._sandbox.hung_s
            self._wait(self._child, self._sent)

    def begin(self, x: Audio, flags: int, plugin: Isolated) -> None:
        """Send a block (channels, samples)."""
        sandbox, samples, channels = self._sandbox, x.shape[1], self._channels
        self.block, self._samples = x, samples
        if not x.flags.c_contiguous or not x.flags.writeable:  # there are kernels for no other
            x = x.copy()
        live = None if self._is_patient else sandbox.live
        if live:
            self._deadline_s, self._hung_s = ROUND.deadline_s(self._key, samples, live), sandbox.hung_s
        else:
            if sandbox.child is None:
                sandbox.wait()
            self._deadline_s, self._hung_s = time.perf_counter() + HUNG_OFFLINE_S, 0.0
        child = sandbox.child
        if child is not self._child:
            self._turn_to(child)
        slot = self._slot
        if child is None or slot is None or sandbox.is_left_out(self._place):
            self._cover.admit(x, self._position, np.empty_like(x))
            return
        size, place = channels * samples, self._sent % RING
        if size > self._stride and self._sent > self._collected:  # longer than the others that are under way
            self._wait(child, self._sent)
            self._collect(slot)
        self._queued += 1
        if self._sent == self._collected:  # always the same memory: the nearest
            self._queued, self._stride = 0, max(size, channels * live.block_samples) if live else size
        depth = min(RING, CAPACITY // self._stride)
        if size > self._stride or self._sent - self._collected >= depth:
            sandbox.give_up(child, "hung")
            self._cover.admit(x, self._position, np.empty_like(x))
            return
        offset = self._queued % depth * self._stride
        self._starts[place], self._offsets[place], self._lengths[place] = self._position, offset, samples
        self._due_s[place] = self._deadline_s + self._added / self._rate
        self._cover.admit(x, self._position, slot.x[offset : offset + size].reshape(channels, samples))
        count = plugin._take_sets(slot, place, self._sent + 1)
        HEAD.pack_into(slot.heads, place * HEAD.size, flags, channels, samples, self._rate, count, offset)
        shared.fence()
        self._sent += 1
        slot.words[SENT] = self._sent
        child.has_news = True
        if not live or live.cpu is None:  # on the same core it cannot begin before it is waited for
            child.wake()

    def end(self) -> Audio:
        """Return what is heard of the block."""
        child, slot, is_wet, y = self._child, self._slot, False, None
        end = self._position + self._samples
        if child and slot:
            needed = self._sent
            while needed > self._collected and self._starts[(needed - 1) % RING] >= end - self._added:
                needed -= 1
            child.wake()
            # What was late before this block began gets no more time: its answers are taken when they are there.
            if not self._is_late or slot.words[DONE] >= self._needed:
                self._wait(child, needed)
            self._needed = needed
            y = self._collect(slot)
            if self._collected >= needed:
                self._is_late, is_wet = False, self._position - self._added >= self._first
            else:
                self._be_late(child)
        out = np.empty((self._channels, self._samples), np.float32)
        is_fit = self._cover.play(self._position, is_wet, y, out)
        self._bad = 0 if is_fit else self._bad + 1
        if self._bad >= MOST_BAD and child:
            self._sandbox.give_up(child, "returned NaN or a roar", self._place)
            self._bad = 0
        self._position, self.block = end, None
        return out

    def _turn_to(self, child: Child | None) -> None:
        """Go on with another process."""
        self._child, self._slot = child, child.memory.slots[self._place] if child else None
        self._is_late = False
        if self._slot is None:
            return
        self._sent = self._collected = self._needed = self._slot.words[SENT]
        if self._position:
            self._first = self._position
            self._cover.renew()

    def _wait(self, child: Child, blocks: int) -> None:
        """Wait until so many blocks have been processed, the child has ended, or it is too late."""
        words, bell = child.memory.slots[self._place].words, child.bell
        while words[DONE] < blocks:
            heard = bell.heard
            left_s = self._deadline_s - time.perf_counter()
            if words[DONE] >= blocks or left_s <= 0.0 or child.is_over:
                return
            bell.wait(heard, min(left_s, 0.1))

    def _collect(self, slot: Slot) -> Audio | None:
        """Take the answers that are there; return the last one, unless they are heard later."""
        done, y = slot.words[DONE], None
        shared.fence()
        while self._collected < done:
            place = self._collected % RING
            offset, samples = self._offsets[place], self._lengths[place]
            y = slot.y[offset : offset + self._channels * samples].reshape(self._channels, samples)
            if self._added:
                self._cover.collect(y, self._starts[place])
            self._collected += 1
        return None if self._added else y

    def _be_late(self, child: Child) -> None:
        self._is_late = True
        if not child.is_over:
            self._sandbox.late_blocks += 1
            # One that answers every block, if each too late, is slow: another process would be no faster.
            if time.perf_counter() - self._due_s[self._collected % RING] >= self._hung_s:
                self._sandbox.give_up(child, "hung")
