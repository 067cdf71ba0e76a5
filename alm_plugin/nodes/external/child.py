"""The child process in which isolated plugins run: one thread, which plays blocks, does what it is told, and sleeps.

``python -m alm_plugin.nodes.external.child MEMORY PARENT MECHANISM`` is how `Sandbox` starts it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np

from alm_plugin.errors import AlmError
from alm_plugin.nodes.external import shared
from alm_plugin.nodes.external.entry import PluginEntry
from alm_plugin.nodes.external.host import External, _put
from alm_plugin.nodes.external.shared import ChildPipe, Futex, Memory, Slot

NOTE_S, QUICK_S = 0.05, 5e-4
"""How often, at most, settings are noted for the plugin that may have to take this one's place; and how long it may
take to note all of them, else between blocks only those are that have been set."""

TRIES = 3
"""So often in a row it must take longer, once it did not: that the machine holds up a process is not its plugin's."""

SPINNING_S = 0.2
"""Computing without a pause for so long with priority, a plugin is in an endless loop: the kernel ends it."""


class _Hosted:
    """A plugin, and what is known of it on the other side."""

    def __init__(self, entry: PluginEntry, slew_ms: float, slot: Slot) -> None:
        self.node = External(entry, slew_ms)
        self.entry, self.slot = entry, slot
        self._names = list(entry.parameters)
        self._touched: set[str] = set()  # since all was noted
        self._noted_s = 0.0
        self._takes_s: deque[float] = deque(maxlen=TRIES)
        self._is_noted = True

    def put(self, state: bytes, raw_values: dict[str, float], values: dict[str, Any]) -> None:
        """Take the settings of the instance before this one."""
        if state:
            self.node.raw_state = state
        _put(self.node._parameters[0], raw_values)
        self.node._is_told = False
        self.set(values)

    def set(self, values: dict[str, Any]) -> None:
        """Set parameters."""
        for name, value in values.items():
            setattr(self.node, name, value)

    def play(self) -> bool:
        """Process the next block, if there is one."""
        slot, words = self.slot, self.slot.words
        done = words[shared.DONE]
        if words[shared.SENT] == done:
            return False
        shared.fence()
        place = done % shared.RING
        flags, channels, samples, rate, count, offset = shared.HEAD.unpack_from(slot.heads, place * shared.HEAD.size)
        size = channels * samples
        x = slot.x[offset : offset + size].reshape(channels, samples).copy()
        y = slot.y[offset : offset + size].reshape(channels, samples)
        try:
            for i in range(count):
                self._set_coded(int(slot.which[place, i]), float(slot.values[place, i]))
            if flags & shared.RESET:
                self.node.reset()
            y[:] = self.node.process_block(x, rate)
        except Exception:  # a plugin may fail in any way; the other side hears that this is no sound
            y[:] = np.nan
        self._is_noted = self._is_noted and not count and not self.node._moves
        shared.fence()
        words[shared.DONE] = done + 1
        return True

    def _set_coded(self, which: int, value: float) -> None:
        if which < 0:
            self.node.slew_ms = value
            return
        name = self._names[which]
        self._touched.add(name)
        described = self.entry.parameters[name]
        if described.choices:
            setattr(self.node, name, described.choices[int(value)])
        else:
            setattr(self.node, name, bool(value) if described.low is None else value)

    def note(self, is_urgent: bool = False) -> None:
        """Leave the settings where the other side finds them, should this be the last thing this process does."""
        now = time.monotonic()
        if not is_urgent and (self._is_noted or now - self._noted_s < NOTE_S):
            return
        node, state = self.node, b""
        # A program that is chosen sets others.
        sets_others = any(self.entry.parameters[name].choices for name in self._touched)
        is_whole = is_urgent or sets_others or min(self._takes_s, default=0.0) < QUICK_S
        if is_whole:
            self._touched.clear()
            state, raw_values = node._settings()
        else:
            raw_values = {name: node._raw_value(name) for name in self._touched}
        values = {name: getattr(node, name) for name in (self._names if is_whole else self._touched)}
        message = {"done": self.slot.words[shared.DONE], "raw_values": raw_values, "values": values}
        self.slot.write_note(message, state)
        self._noted_s, self._is_noted = now, not (node._moves or node._wanted)
        if is_whole:
            self._takes_s.append(time.monotonic() - now)


class _Child:
    def __init__(self, memory: Memory, bell: Futex | ChildPipe, parent: int) -> None:
        self._memory, self._bell, self._parent = memory, bell, parent
        self._hosted: dict[int, _Hosted] = {}
        self._priority, self._cpu = 0, None
        self._cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

    def run(self) -> None:
        """Do what there is to do, for ever."""
        words, bell = self._memory.words, self._bell
        words[shared.CURRENT] = -1
        gc.disable()  # between blocks nothing makes garbage that it takes to find
        while True:
            heard = bell.heard
            has_worked = False
            if words[shared.ASKED] != words[shared.ANSWERED]:
                shared.fence()
                self._obey()
                shared.fence()
                words[shared.ANSWERED] += 1
                has_worked = True
            for place, hosted in self._hosted.items():
                words[shared.CURRENT] = place
                while hosted.play():
                    has_worked = True
            words[shared.CURRENT] = -1
            if has_worked:
                bell.ring()
            for hosted in self._hosted.values():
                hosted.note()
            bell.wait(heard, 0.5)
            if bell.heard == heard and os.getppid() != self._parent:
                os._exit(0)

    def _obey(self) -> None:
        message, blob = self._memory.read_message()
        self._memory.words[shared.CURRENT] = message.get("slot", -1)
        self._relax()
        answer, state = {}, b""
        try:
            answer, state = getattr(self, f"_do_{message.pop('do')}")(blob, **message)
        except AlmError as error:
            answer = {"error": type(error).__name__, "what": str(error)}
        except Exception as error:  # a plugin may fail in any way
            answer = {"error": "PluginError", "what": " ".join(str(error).split()) or type(error).__name__}
        self._hurry()
        self._memory.write_message(answer, state)

    # ---- what it is told -------------------------------------------------------------------------------------------

    def _do_host(
        self,
        blob: bytes,
        slot: int,
        entry: dict[str, Any],
        slew_ms: float,
        raw_values: dict[str, float],
        values: dict[str, Any],
        stream: tuple[int, int],
    ) -> tuple[dict[str, Any], bytes]:
        """Have a plugin with these settings, ready for a stream."""
        wanted = PluginEntry.from_json(entry)
        hosted = self._hosted.get(slot)
        if hosted is None or hosted.entry != wanted:
            hosted = _Hosted(wanted, slew_ms, self._memory.slots[slot])
        hosted.node.slew_ms = slew_ms
        hosted.put(blob, raw_values, values)
        if stream[1]:
            hosted.node.prepare(*stream)
        self._hosted[slot] = hosted
        gc.collect()
        gc.freeze()
        return self._say(hosted), b""

    def _do_drop(self, blob: bytes, slot: int) -> tuple[dict[str, Any], bytes]:
        """Have a plugin no longer."""
        self._hosted.pop(slot, None)
        words = self._memory.slots[slot].words
        words[shared.SENT] = words[shared.DONE] = 0
        return {}, b""

    def _do_tell(
        self,
        blob: bytes,
        slot: int,
        slew_ms: float,
        values: dict[str, Any],
        is_still: bool,
        then: str,
        arguments: tuple[Any, ...],
    ) -> tuple[dict[str, Any], bytes]:
        """Have parameters set, and something done to the plugin."""
        hosted = self._hosted[slot]
        node = hosted.node
        node.slew_ms = slew_ms
        if is_still:
            node._is_streaming = False
        hosted.set(values)
        if then == "put_state":
            node.raw_state = blob
        elif then and then != "raw_state":
            getattr(node, then)(*arguments)
        state = node.raw_state if then in ("raw_state", "put_state", "load_preset") else b""
        return self._say(hosted), state

    def _do_live(self, blob: bytes, priority: int, cpu: int | None) -> tuple[dict[str, Any], bytes]:
        """Have a priority, or 0 for none, from the next block on."""
        self._priority, self._cpu = priority, cpu
        return {"has_priority": self._hurry()}, b""

    def _say(self, hosted: _Hosted) -> dict[str, Any]:
        hosted.note(is_urgent=True)
        return {"latency": hosted.node.reported_latency_samples}

    # ---- priority --------------------------------------------------------------------------------------------------

    # What takes long is done without priority, on any core, and no thread or process that a plugin makes inherits it.
    def _hurry(self) -> bool:
        if sys.platform != "linux" or not self._priority:
            return False
        import resource

        try:
            spinning_us = int(SPINNING_S * 1e6)
            resource.setrlimit(resource.RLIMIT_RTTIME, (spinning_us, spinning_us))
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(self._priority))
        except (OSError, ValueError):
            return False
        if self._cpu is not None:
            with suppress(OSError):
                os.sched_setaffinity(0, {self._cpu})
        return True

    def _relax(self) -> None:
        if sys.platform == "linux" and self._priority:
            os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
            os.sched_setaffinity(0, self._cpus)


def main(token: str, parent: str, mechanism: str) -> None:
    """Be a child until the parent is gone."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            os._exit(0)
    # Pipes of our own: what a plugin prints or reads is nobody's business.
    inlet, outlet = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    memory = Memory(token)
    bell = Futex(memory, shared.TO_CHILD, shared.TO_PARENT) if mechanism == "futex" else ChildPipe(inlet, outlet)
    os.write(outlet, b"!")  # there is somebody
    _Child(memory, bell, int(parent)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
