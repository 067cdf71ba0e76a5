"""Children that run isolated plugins: started, told, waited for, and replaced when a plugin takes one down."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

from alm_plugin import errors
from alm_plugin.data import reason_of
from alm_plugin.errors import AlmError, ParameterError, PluginError
from alm_plugin.features.clock import check_sample_rate
from alm_plugin.nodes.external import shared
from alm_plugin.nodes.external.registry import TIMEOUT_S, end, spawn
from alm_plugin.nodes.external.shared import Futex, Memory, ParentPipe
from alm_plugin.nodes.node import Audio

if TYPE_CHECKING:
    from alm_plugin.nodes.external.isolated import Isolated

logger = logging.getLogger("alm_plugin")

CHILD = "alm_plugin.nodes.external.child"

HAS_FUTEX = shared.HAS_FUTEX

SHARE, RESERVE_S = 0.5, 150e-6
"""How much of a block's period plugins are waited for, less what the rest of a block without an answer may take."""

HUNG_S, HUNG_WITHOUT_PRIORITY_S, HUNG_OFFLINE_S = 0.05, 0.5, 10.0
"""How late a plugin may be; without priority it may only be that the machine is busy."""

MOST_FAULTS, FAULTS_S = 8, 60.0
"""A plugin that fails so often within so long is left out."""

SWITCH_S = 1e-4
"""How long a thread may keep others from Python: by default 5 ms, in which more than one block is lost."""


# ---- live ------------------------------------------------------------------------------------------------------------


@dataclass
class _Live:
    block_samples: int
    sample_rate: int
    priority: int
    cpu: int | None
    is_pipelined: bool | None
    has_warned: bool = False

    def warn(self) -> None:
        if not self.has_warned:
            self.has_warned, later = True, self.block_samples
            logger.warning("isolated plugins answer %d samples later: expected SCHED_FIFO for them, got none", later)


_live: _Live | None = None
_switch_s = 0.0  # what was before it was live
_sandboxes: weakref.WeakSet[Sandbox] = weakref.WeakSet()


def go_live(
    block_samples: int,
    sample_rate: float,
    *,
    priority: int | None = None,
    cpu: int | None = None,
    is_pipelined: bool | None = None,
) -> None:
    """Have isolated plugins answer in time, or be heard dry: call it before streams are prepared, and not while heard.

    Holds for all isolated plugins of this process, also those made later, until `go_offline`. A spare child is kept
    ready. Python's switch interval becomes 0.1 ms: its threads must not keep the one that plays waiting.

    Parameters
    ----------
    block_samples : int
        In a driver's block, 1 to 8192.
    sample_rate : float
        In Hz.
    priority : int, optional
        SCHED_FIFO priority of the thread that plays, 0 if it has none; by default that of the calling thread. Children
        run one below it.
    cpu : int, optional
        Core for the children. The one that the playing thread is pinned to is best: the round trip is shortest, and
        with less priority they can never keep that thread from it.
    is_pipelined : bool, optional
        Ask for a block's answer with the next block: another block of latency, which the plugins report. By default
        only where the children get no SCHED_FIFO, with a warning.
    """
    global _live, _switch_s
    if not isinstance(block_samples, int) or not 1 <= block_samples <= shared.LONGEST:
        raise ParameterError(f"block_samples must be a whole number in [1, {shared.LONGEST}], got {block_samples!r}")
    if priority is None:
        priority = _own_priority()
    _live = _Live(block_samples, check_sample_rate(sample_rate), priority, cpu, is_pipelined)
    _switch_s = _switch_s or sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    for sandbox in list(_sandboxes):
        sandbox._go(_live)


def go_offline() -> None:
    """Have isolated plugins waited for as long as they take."""
    global _live, _switch_s
    _live = None
    sys.setswitchinterval(_switch_s or sys.getswitchinterval())
    _switch_s = 0.0
    for sandbox in list(_sandboxes):
        sandbox._go(None)


def _own_priority() -> int:
    if sys.platform != "linux" or os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_FIFO:
        return 0
    return os.sched_getparam(0).sched_priority


def _be_ordinary() -> None:
    """Give up, in this thread, what it has inherited from one that plays: what it starts would have it too."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            if _live and _live.cpu is not None:
                os.sched_setaffinity(0, range(os.cpu_count() or 1))


class _Round:
    """One block of the driver's: however many plugins there are, and pieces of the block, they are waited for once."""

    def __init__(self) -> None:
        self._samples: dict[object, int] = {}  # that each plugin has had of it
        self._began_s = 0.0

    def deadline_s(self, plugin: object, samples: int, live: _Live) -> float:
        """When to wait no longer; a plugin that has had all of the block begins the next."""
        now_s, period_s = time.perf_counter(), live.block_samples / live.sample_rate
        had = self._samples.get(plugin, 0)
        # One that is new was not in the last block, however long ago that was.
        if had + samples > live.block_samples or now_s - self._began_s >= period_s:
            self._samples.clear()
            self._began_s, had = now_s, 0
        self._samples[plugin] = had + samples
        return self._began_s + max(SHARE * period_s - RESERVE_S, 0.25 * period_s)


ROUND = _Round()


# ---- a process -------------------------------------------------------------------------------------------------------


class GoneError(Exception):
    """A child has ended without an answer."""

    def __init__(self, child: Child) -> None:
        super().__init__()
        self.child = child


class Child:
    """A process that runs plugins.

    Attributes
    ----------
    memory, bell
        What is shared with it.
    is_over : bool
        Whether it has ended.
    fault : str
        Why it has, or will.
    guilty : int
        Slot of the plugin that it is ended for, or -1.
    has_news : bool
        Whether blocks have been sent since it was woken last.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.memory = Memory()
        self.memory.words[shared.CURRENT] = -1
        self._pipe = ParentPipe()
        self.bell = Futex(self.memory, shared.TO_PARENT, shared.TO_CHILD) if HAS_FUTEX else self._pipe
        self.is_over, self.fault, self.guilty, self.has_news = False, "", -1, False
        self.process: Popen[bytes] | None = None
        self._sandbox = weakref.ref(sandbox)
        # To Linux the end of the thread that started a child is the end of its parent: this one stays as long as it.
        threading.Thread(target=self._attend, name="alm-sandbox", daemon=True).start()

    @property
    def current(self) -> int:
        """Slot of the plugin that is being processed, or -1."""
        return self.memory.words[shared.CURRENT]

    def wake(self) -> None:
        """Have it look for news, if there are any."""
        if self.has_news:
            self.has_news = False
            self.bell.ring()

    def condemn(self, fault: str, guilty: int = -1) -> None:
        """End it, without waiting until it has."""
        process = self.process
        if process and process.poll() is not None:
            return  # it has ended by itself
        if not self.fault:
            self.fault, self.guilty = fault, guilty
        if process:
            with suppress(OSError):  # it is gone already
                if os.name == "posix":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()

    def call(self, do: str, blob: bytes = b"", **message: Any) -> tuple[dict[str, Any], bytes]:
        """Have it do something between two blocks, and wait for the answer; for one thread at a time.

        Raises
        ------
        AlmError
            What was raised there.
        GoneError
            If it ends instead.
        """
        words, deadline_s = self.memory.words, time.monotonic() + TIMEOUT_S
        try:
            self.memory.write_message({"do": do} | message, blob)
        except ValueError as error:
            raise PluginError(f"an isolated plugin cannot be told so much: {error}") from None
        shared.fence()
        words[shared.ASKED] += 1
        self.bell.ring()
        while True:
            heard = self.bell.heard
            if words[shared.ANSWERED] == words[shared.ASKED]:
                break
            if self.is_over:
                raise GoneError(self)
            if time.monotonic() > deadline_s:
                self.condemn(f"did not answer within {TIMEOUT_S:g} s")
            self.bell.wait(heard, 0.1)
        shared.fence()
        answer, state = self.memory.read_message()
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["what"])
        return answer, state

    def _attend(self) -> None:
        _be_ordinary()
        try:
            arguments = (self.memory.token, str(os.getpid()), "pipe" if self.bell is self._pipe else "futex")
            inherited: Any = {"pass_fds": (self.memory.fd,)} if self.memory.fd >= 0 else {}
            with spawn(CHILD, *arguments, stdin=PIPE, stdout=PIPE, bufsize=0, **inherited) as process:
                self._listen(process)
        except OSError as error:
            self.fault = f"could not be started: {reason_of(error)}"
        self.memory.close_file()
        self.is_over = True
        self._pipe.hear()
        if sandbox := self._sandbox():
            sandbox._bury(self)

    def _listen(self, process: Popen[bytes]) -> None:
        self.process = process
        if process.stdin is None or process.stdout is None:  # they are pipes
            return
        if self.fault:  # before there was anybody to be ended
            self.condemn(self.fault)
        if os.name == "posix":
            os.set_blocking(process.stdin.fileno(), False)
        self._pipe.outlet = process.stdin.fileno()
        while process.stdout.read(4096):
            self.memory.close_file()
            self._pipe.hear()
        self._pipe.outlet = -1
        end(process)
        status = process.returncode
        self.fault = self.fault or (f"crashed (signal {-status})" if status < 0 else f"ended (exit status {status})")


# ---- the sandbox -----------------------------------------------------------------------------------------------------


class Sandbox:
    """A process for isolated plugins, and another when one of them takes it down.

    ``External(name, isolated=True)`` puts all plugins of a program into one. In a sandbox of its own, ``External(name,
    isolated=Sandbox())``, a plugin cannot take the others with it; that costs another round trip per block.

    Attributes
    ----------
    faults : list of str
        A line, as it was logged, for each time that the process was replaced.
    late_blocks : int
        Blocks that were heard dry because an answer came late.

    Notes
    -----
    Offline a plugin is waited for as long as it takes, up to 10 s, and its samples are those that it makes without a
    sandbox. Live (`go_live`) all of them together are waited for half of a block's period at most.

    Where there is no answer the dry signal is heard, as late and as loud as the plugin's, with no step on the way there
    or back. A plugin that is late gets all blocks that it has missed. One that crashes, answers a block 50 ms
    late (500 without SCHED_FIFO) or not at all, or returns NaN or a roar three blocks on end, ends with its process;
    another process, live one that is there already, goes on with the same settings: 100 ms unheard, then faded in
    within 20. What fails eight times in a minute is heard dry until its next stream.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.late_blocks = 0
        self.child: Child | None = None  # what blocks go to; None while it is being replaced
        self._serving: Child | None = None  # the same, or the one that has failed, until it is replaced
        self._spare: Child | None = None
        self._has_priority = False
        self._live = _live
        self._plugins: dict[int, weakref.ref[Isolated]] = {}
        self._failed_s: dict[int, list[float]] = {}
        # For everything but blocks, which take no lock.
        self._changed = threading.Condition(threading.RLock())
        self._children: set[Child] = set()
        self._end = weakref.finalize(self, _end_all, self._children)
        _sandboxes.add(self)

    @property
    def added_latency_samples(self) -> int:
        """How much later its plugins answer than without it: live, a block of samples where it is pipelined, else 0."""
        live = self._live
        if live is None:
            return 0
        is_pipelined = not self._has_priority if live.is_pipelined is None else live.is_pipelined
        return live.block_samples if is_pipelined else 0

    @property
    def has_priority(self) -> bool:
        """Whether its process runs with SCHED_FIFO."""
        return self._has_priority

    @property
    def pids(self) -> list[int]:
        """Numbers of its processes: the one that plays, and the spare one."""
        children = (self.child, self._spare)
        return [child.process.pid for child in children if child and child.process and not child.is_over]

    def close(self) -> None:
        """End its processes; its plugins are heard dry from now on."""
        self._end()
        with self._changed:
            self.child = self._serving = self._spare = None
            self._changed.notify_all()

    @staticmethod
    def process_many(blocks: Iterable[tuple[Isolated, Audio]], sample_rate: int) -> list[Audio]:
        """Process a block for each of several plugins, with one round trip per sandbox."""
        blocks = list(blocks)
        for plugin, x in blocks:
            plugin.begin_block(x, sample_rate)
        return [plugin.process_block(x, sample_rate) for plugin, x in blocks]

    # ---- for its plugins -------------------------------------------------------------------------------------------

    @property
    def live(self) -> _Live | None:
        """How sound is played, if live."""
        return self._live

    @property
    def hung_s(self) -> float:
        """How late a plugin may be."""
        if self._live is None:
            return HUNG_OFFLINE_S
        return HUNG_S if self._has_priority else HUNG_WITHOUT_PRIORITY_S

    @property
    def is_open_to_more(self) -> bool:
        """Whether a plugin may join: loading one holds up the others, and must not while they are heard live."""
        plugins = self._hosted()
        is_heard = self._live is not None and any(plugin._is_streaming for plugin in plugins.values())
        return self._end.alive and len(plugins) < shared.SLOTS and not is_heard

    def add(self, plugin: Isolated) -> int:
        """Host a plugin and return its slot.

        Raises
        ------
        PluginError
            If it cannot be loaded or there is no room.
        """
        with self._changed:
            taken = self._hosted()
            slot = next((slot for slot in range(shared.SLOTS) if slot not in taken), -1)
            if slot < 0 or not self._end.alive:
                got = f"one with {len(taken)} plugins" if self._end.alive else "a closed one"
                raise PluginError(f"{plugin.name}: expected a sandbox with room, got {got}")
            self._failed_s.pop(slot, None)
            self._await()
            child = self.child
            try:
                child = self.child = self._serving = child or self._start({})
                for each in filter(None, (child, self._spare)):
                    each.call("drop", slot=slot)
                    self._host(each, slot, plugin)
                plugin._is_hosted(child.memory.slots[slot])
            except GoneError as gone:
                raise PluginError(f"{plugin.name} cannot be loaded: it {gone.child.fault}") from None
            self._plugins[slot] = weakref.ref(plugin)
            if self._live and not self._spare:
                self._keep_spare()
            return slot

    def tell(self, slot: int, blob: bytes = b"", **message: Any) -> tuple[dict[str, Any], bytes] | None:
        """Tell a plugin something and wait for the answer; None if there is nobody left to give one.

        Raises
        ------
        AlmError
            What the plugin raised.
        """
        with self._changed:
            for _ in range(2):
                self._await()
                if self.child and not self.is_left_out(slot):
                    with suppress(GoneError):
                        return self.child.call("tell", blob, slot=slot, **message)
        return None

    def host_again(self, slot: int) -> None:
        """Have a plugin as it is to be by now, also one that was left out."""
        with self._changed:
            self._failed_s.pop(slot, None)
            self._await()
            if self.child:
                with suppress(GoneError):
                    self._host(self.child, slot, self._hosted()[slot])
                    self._hosted()[slot]._is_hosted(self.child.memory.slots[slot])

    def is_left_out(self, slot: int) -> bool:
        """Whether a plugin has failed too often."""
        return len(self._failed_s.get(slot, ())) >= MOST_FAULTS

    def wait(self) -> None:
        """Wait while the process is being replaced."""
        with self._changed:
            self._await()

    def give_up(self, child: Child, fault: str, guilty: int = -1) -> None:
        """Have a process replaced; does not wait."""
        child.condemn(fault, guilty)
        if self.child is child:
            self.child = None

    # ---- children --------------------------------------------------------------------------------------------------

    def _hosted(self) -> dict[int, Isolated]:
        return {slot: plugin for slot, ref in sorted(self._plugins.items()) if (plugin := ref()) is not None}

    def _await(self) -> None:
        if self.child and self.child.is_over:
            self.child = None
        self._changed.wait_for(lambda: self._serving is None or self.child is not None, 2 * TIMEOUT_S)

    def _start(self, plugins: dict[int, Isolated], child: Child | None = None) -> Child:
        """Start a process, or take one, and see to it that plugins are in it; `GoneError` if one of them ends it."""
        child = child or Child(self)
        self._children.add(child)
        for slot, plugin in plugins.items():
            if not self.is_left_out(slot):
                try:
                    self._host(child, slot, plugin)
                except AlmError as error:
                    child.condemn(f"cannot be loaded again ({error})", slot)
                    raise GoneError(child) from None
        self._prioritise(child)
        return child

    def _host(self, child: Child, slot: int, plugin: Isolated) -> None:
        message, state = plugin._recipe()
        child.call("host", state, slot=slot, **message)

    def _prioritise(self, child: Child) -> None:
        live = self._live
        priority = max(live.priority - 1, 0) if live else 0
        answer, _ = child.call("live", priority=priority, cpu=live.cpu if live else None)
        self._has_priority = answer["has_priority"]
        if live and live.is_pipelined is None and not self._has_priority:
            live.warn()

    def _keep_spare(self) -> None:
        with suppress(GoneError):  # the next fault then takes longer
            self._spare = self._start(self._hosted())

    def _go(self, live: _Live | None) -> None:
        """Be live or not."""
        with self._changed:
            self._live = live
            self._await()
            if self.child:
                with suppress(GoneError):
                    self._prioritise(self.child)
            if live and not self._spare and self._hosted():
                self._keep_spare()
            elif not live and self._spare:
                self._spare.condemn("is not needed")
                self._spare = None

    def _bury(self, child: Child) -> None:
        """Replace a process that has ended: in the thread that attended to it."""
        with self._changed:
            self._children.discard(child)
            if child is self._spare:
                self._spare = None
            if child is not self._serving or not self._end.alive:
                return
            self.child = None
            plugins = self._hosted()
            for slot, plugin in plugins.items():
                plugin._remember(child.memory.slots[slot])
            faults, heir = [self._blame(child, plugins)] if plugins else [], None
            while heir is None and not all(map(self.is_left_out, plugins)):
                spare, self._spare = self._spare, None
                try:
                    heir = self._start(plugins, spare)
                except GoneError as gone:
                    faults.append(self._blame(gone.child, plugins))
            for slot, plugin in plugins.items():
                if heir:
                    plugin._is_hosted(heir.memory.slots[slot])
            self.child = self._serving = heir
            self._changed.notify_all()
            for fault in faults:
                logger.warning(fault)
            self.faults += faults
            if heir and self._live:
                self._keep_spare()

    def _blame(self, child: Child, plugins: dict[int, Isolated]) -> str:
        """Count a fault, of all plugins if it is nobody's, and say it."""
        guilty = child.guilty if child.guilty >= 0 else child.current
        slots = [guilty] if guilty in plugins else list(plugins)
        now_s = time.monotonic()
        for slot in slots:
            failed_s = [at_s for at_s in self._failed_s.get(slot, ()) if now_s - at_s < FAULTS_S]
            self._failed_s[slot] = [*failed_s, now_s]
        until = "its next stream" if all(map(self.is_left_out, slots)) else "another process goes on"
        return f"{', '.join(plugins[slot].name for slot in slots)} {child.fault}: heard dry until {until}"


def common_sandbox() -> Sandbox:
    """Return the sandbox of all plugins that do not have one of their own."""
    global _common
    sandbox = _common() if _common else None
    if sandbox is None or not sandbox.is_open_to_more:
        sandbox = Sandbox()
        _common = weakref.ref(sandbox)
    return sandbox


_common: weakref.ref[Sandbox] | None = None


def _end_all(children: set[Child]) -> None:
    for child in list(children):
        child.condemn("is not needed")
