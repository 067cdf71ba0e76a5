"""What a process shares with the child that runs its isolated plugins: memory, and the bells that wake each other."""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import platform
import struct
import sys
import tempfile
import threading
import zlib
from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np

SLOTS = 32
"""Plugins in one child."""

RING = 256
"""Blocks that a plugin may be behind: it still gets every one of them, else it would go on from a gap."""

LONGEST = 8192
"""Samples in a block."""

MOST_CHANNELS = 2

SETS = 64
"""Parameters that are set with one block; more wait for the next."""

# ---- layout ----------------------------------------------------------------------------------------------------------
#
# Words of 64 bits, those that one side writes and the other waits for on cache lines of their own; a page of them, then
# a message, then the slots. Pages that nobody touches take no memory.

_LINE = 8
TO_CHILD, TO_PARENT, CURRENT, ASKED, ANSWERED = (_LINE * i for i in range(5))
SENT, DONE = 0, _LINE
HEAD = struct.Struct("<6q")
RESET = 1

CAPACITY = 4 * LONGEST * MOST_CHANNELS
"""Samples of all channels, in a slot's ring."""

_PAGE = 4096
_MESSAGE = 1 << 24
_NOTE = 1 << 20
_PARTS = (2 * _LINE * 8, RING * HEAD.size, RING * SETS * 8, RING * SETS * 8, CAPACITY * 4, CAPACITY * 4, _NOTE)
_STARTS = np.cumsum([0, *(math.ceil(size / _PAGE) * _PAGE for size in _PARTS)]).tolist()
_SIZE = _PAGE + _MESSAGE + SLOTS * _STARTS[-1]


class Memory:
    """Memory that two processes share and that goes with them: it has no name anywhere, or one that dies with it.

    Parameters
    ----------
    token : str
        What the other side's `token` says; empty to make one.
    """

    def __init__(self, token: str = "") -> None:
        self.fd = -1
        if sys.platform == "win32":
            token = token or f"alm-{os.getpid()}-{os.urandom(8).hex()}"
            self._map = mmap.mmap(-1, _SIZE, tagname=token)
        elif token:
            self._map = mmap.mmap(int(token), _SIZE)
            os.close(int(token))
        else:
            self.fd = _nameless_file()
            os.ftruncate(self.fd, _SIZE)
            self._map = mmap.mmap(self.fd, _SIZE)
            token = str(self.fd)
        self.token = token
        whole = memoryview(self._map)
        self.words = whole[:_PAGE].cast("q")
        self._message = whole[_PAGE : _PAGE + _MESSAGE]
        first = _PAGE + _MESSAGE
        self.slots = [Slot(whole[first + k * _STARTS[-1] : first + (k + 1) * _STARTS[-1]]) for k in range(SLOTS)]

    def close_file(self) -> None:
        """Give up the file, once the child has it; the memory stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def write_message(self, message: dict[str, Any], blob: bytes = b"") -> None:
        """Leave a message for the other side; ValueError if it is too long."""
        data = _pack(message, blob)
        if len(data) > _MESSAGE:
            raise ValueError(f"expected at most {_MESSAGE} bytes, got {len(data)}")
        self._message[: len(data)] = data

    def read_message(self) -> tuple[dict[str, Any], bytes]:
        """Return the other side's message."""
        return _unpack(self._message)

    def word_at(self, word: int) -> ctypes.c_int32:
        """Return the lower half of a word, for the kernel to watch."""
        return ctypes.c_int32.from_buffer(self._map, word * 8)


class Slot:
    """One plugin's part of the memory.

    Attributes
    ----------
    words : memoryview of int64
        At `SENT` and `DONE` how many blocks have been sent and processed.
    heads : memoryview of bytes
        Of each block in the ring a `HEAD`: flags, channels, samples, rate, number of parameters set, and where in `x`
        and `y` it is.
    which, values : (RING, SETS) int64, float64
        The parameters, by their place in the entry, and their values.
    x, y : (CAPACITY,) float32
        What goes in and comes out.
    """

    def __init__(self, part: memoryview) -> None:
        words, heads, which, values, x, y, note = (
            part[start : start + size] for start, size in zip(_STARTS, _PARTS, strict=False)
        )
        self.words, self.heads = words.cast("q"), heads
        self.which = np.frombuffer(which, np.int64).reshape(RING, SETS)
        self.values = np.frombuffer(values, np.float64).reshape(RING, SETS)
        self.x, self.y = np.frombuffer(x, np.float32), np.frombuffer(y, np.float32)
        self._note = note
        self._version = self._note[:8].cast("q")

    @property
    def note_version(self) -> int:
        """Grows with every note; odd while one is written."""
        return self._version[0]

    def write_note(self, message: dict[str, Any], blob: bytes) -> None:
        """Replace the note; without the blob if it is too long."""
        data = _pack(message, blob)
        if len(data) > _NOTE - 24:
            data = _pack(message)
        if len(data) > _NOTE - 24:
            return
        self._version[0] += 1
        self._note[8:24] = struct.pack("<qq", len(data), zlib.crc32(data))
        self._note[24 : 24 + len(data)] = data
        self._version[0] += 1

    def read_note(self) -> tuple[dict[str, Any], bytes] | None:
        """Return the note, or None if there is none or it is being written."""
        length, crc = struct.unpack("<qq", self._note[8:24])
        if not 0 < length <= _NOTE - 24:
            return None
        data = bytes(self._note[24 : 24 + length])
        return _unpack(memoryview(data)) if zlib.crc32(data) == crc else None


def _nameless_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("alm-sandbox")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _pack(message: dict[str, Any], blob: bytes = b"") -> bytes:
    text = json.dumps(message).encode()
    return struct.pack("<qq", len(text), len(blob)) + text + blob


def _unpack(data: memoryview) -> tuple[dict[str, Any], bytes]:
    text, blob = struct.unpack("<qq", data[:16])
    return json.loads(bytes(data[16 : 16 + text])), bytes(data[16 + text : 16 + text + blob])


def fence() -> None:
    """Let no write before this be seen behind one after it: not every processor keeps that order by itself."""
    if not _KEEPS_ORDER:
        lock = threading.Lock()
        lock.acquire()
        lock.release()  # what is before stays before
        lock.acquire()  # what is behind stays behind


_KEEPS_ORDER = platform.machine() in ("x86_64", "AMD64", "i686")


# ---- bells -----------------------------------------------------------------------------------------------------------

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}.get(platform.machine()) if sys.platform == "linux" else None
_WAIT, _WAKE = 0, 1

HAS_FUTEX = _FUTEX is not None
"""Whether this system lets two processes wake each other through memory alone."""


class Futex:
    """Bells as counters in shared memory, waited for in the kernel.

    Take `heard`, look whether there is something to do, and if not `wait(heard)`: a bell rung in between ends the wait
    at once.
    """

    def __init__(self, memory: Memory, mine: int, theirs: int) -> None:
        self._mine, self._theirs = memory.word_at(mine), memory.word_at(theirs)
        self._at_mine, self._at_theirs = ctypes.addressof(self._mine), ctypes.addressof(self._theirs)
        self._counter = count(1)  # of one process, for all of its threads
        library = ctypes.CDLL(None)
        self._wake, self._sleep = library["syscall"], library["syscall"]
        self._wake.argtypes, self._sleep.argtypes = [ctypes.c_long] * 4, [ctypes.c_long] * 5

    @property
    def heard(self) -> int:
        """How often the bell has been rung for this side."""
        return self._mine.value

    def ring(self) -> None:
        """Wake the other side."""
        self._theirs.value = next(self._counter) & 0x3FFFFFFF
        self._wake(_FUTEX, self._at_theirs, _WAKE, 0x7FFFFFFF)

    def wait(self, heard: int, timeout_s: float) -> None:
        """Wait until the bell has been rung again, or for so long."""
        seconds = int(timeout_s)
        time = (ctypes.c_long * 2)(seconds, int((timeout_s - seconds) * 1e9))
        self._sleep(_FUTEX, self._at_mine, _WAIT, heard, ctypes.addressof(time))


class ChildPipe:
    """A child's bells as bytes in pipes."""

    heard = 0

    def __init__(self, inlet: int, outlet: int) -> None:
        self._inlet, self._outlet = inlet, outlet

    def ring(self) -> None:
        """Wake the parent."""
        os.write(self._outlet, b"!")

    def wait(self, heard: int, timeout_s: float) -> None:
        """Wait for the parent, however long; end with it."""
        if not os.read(self._inlet, 4096):
            os._exit(0)


class ParentPipe:
    """A parent's bells as bytes in pipes; a thread reads them and says so by `hear`."""

    def __init__(self) -> None:
        self.heard = 0
        self.outlet = -1  # once there is a child
        self._condition = threading.Condition()

    def ring(self) -> None:
        """Wake the child."""
        if self.outlet >= 0:
            with suppress(OSError):  # it is gone, or so far behind that it need not be woken
                os.write(self.outlet, b"!")

    def hear(self) -> None:
        """Be woken."""
        with self._condition:
            self.heard += 1
            self._condition.notify_all()

    def wait(self, heard: int, timeout_s: float) -> None:
        """Wait until `hear` has been called again, or for so long."""
        with self._condition:
            if self.heard == heard:
                self._condition.wait(timeout_s)
