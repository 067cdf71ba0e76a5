"""What the processes of a live mixer share: a ring of audio, slots of numbers, mailboxes of commands. Nobody waits.

Each is made by one process and handed on as an argument of a `multiprocessing` child, however that is started; a child
that is started again gets the same ones. One thread writes, and in a mailbox one reads; a ring and a slot may have any
number of readers, for those write nothing. The memory has no name, so that nothing is left behind, whoever is killed:
the system takes it back with the last process that holds it.
"""

from __future__ import annotations

from math import prod
from multiprocessing.heap import Arena
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from alm_plugin.errors import ParameterError

# Counters of samples, values or commands since the beginning, each on a cache line of its own: how many the writer has
# begun to write, how many are whole, how many the reader of a mailbox has taken.
_BEGUN, _WHOLE, _TAKEN = 0, 8, 16
_HEADER_BYTES = 256
_PAGE_BYTES = 4_096

# ---- the order of memory ---------------------------------------------------------------------------------------------


# A writer stores BEGUN, then the data, then WHOLE; a reader loads WHOLE, then the data, then BEGUN. What was copied is
# whole if WHOLE says that it had been written and BEGUN that nothing had begun to overwrite it:
#
#     position + samples <= WHOLE (before)        and        BEGUN (after) - capacity <= position
#
# That needs stores seen in the order in which they were made, and loads made in the order in which they stand. x86
# (TSO) keeps both, and the fence only tells the compiler; on ARM it is a `dmb ish`. Counters are aligned 64-bit words,
# which both load and store as one.
def _typed_fence(_typing: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.void(), generate


_fence: Any = intrinsic(_typed_fence)

# The kernels below keep the interpreter's lock: asking for it back would be a wait. Their types are fixed, so that no
# other is ever compiled in a real-time thread.

# ---- ring ------------------------------------------------------------------------------------------------------------

_NOT_YET = -1
_TRIES = 8


@njit("void(int64[::1], float32[:, ::1], float32[:, :])", cache=True)
def _write_ring(counters, data, block):
    capacity, samples = data.shape[1], block.shape[1]
    start = counters[_WHOLE]
    counters[_BEGUN] = start + samples
    _fence()
    skipped = max(0, samples - capacity)
    at = (start + skipped) % capacity
    turn = min(skipped + capacity - at, samples)
    for channel in range(data.shape[0]):
        for i in range(skipped, turn):
            data[channel, at + i - skipped] = block[channel, i]
        for i in range(turn, samples):
            data[channel, i - turn] = block[channel, i]
    _fence()
    counters[_WHOLE] = start + samples


@njit("int64(int64[::1], float32[:, ::1], int64, float32[:, :])", cache=True)
def _read_ring(counters, data, position, out):
    """Return the oldest sample that is still whole; what was copied is if that is not after `position`."""
    capacity, samples = data.shape[1], out.shape[1]
    if counters[_WHOLE] - position < samples:
        return _NOT_YET
    _fence()
    at = position % capacity
    turn = min(capacity - at, samples)
    for channel in range(data.shape[0]):
        for i in range(turn):
            out[channel, i] = data[channel, at + i]
        for i in range(turn, samples):
            out[channel, i] = data[channel, i - turn]
    _fence()
    return max(0, counters[_BEGUN] - capacity)


# ---- slot ------------------------------------------------------------------------------------------------------------


# A ring of two values. While one is written the other is whole, so a reader is only disturbed by a writer that comes by
# twice while it copies; then there is a newer value, and it takes that.
@njit("void(int64[::1], float64[:, ::1], float64[::1])", cache=True)
def _write_slot(counters, data, values):
    number = counters[_WHOLE] + 1
    counters[_BEGUN] = number
    _fence()
    for i in range(values.shape[0]):
        data[number & 1, i] = values[i]
    _fence()
    counters[_WHOLE] = number


@njit("int64(int64[::1], float64[:, ::1], float64[::1])", cache=True)
def _read_slot(counters, data, out):
    for _ in range(_TRIES):
        number = counters[_WHOLE]
        _fence()
        for i in range(out.shape[0]):
            out[i] = data[number & 1, i]
        _fence()
        if counters[_BEGUN] - 2 < number:
            return number
    return _NOT_YET


# ---- mailbox ---------------------------------------------------------------------------------------------------------


@njit("boolean(int64[::1], float64[:, ::1], float64, float64, float64)", cache=True)
def _put(counters, data, kind, index, value):
    number = counters[_WHOLE]
    if number - counters[_TAKEN] >= data.shape[0]:
        return False
    _fence()
    at = number % data.shape[0]
    data[at, 0], data[at, 1], data[at, 2] = kind, index, value
    _fence()
    counters[_WHOLE] = number + 1
    return True


@njit("boolean(int64[::1], float64[:, ::1], float64[::1])", cache=True)
def _take(counters, data, out):
    number = counters[_TAKEN]
    if counters[_WHOLE] == number:
        return False
    _fence()
    out[:] = data[number % data.shape[0]]
    _fence()
    counters[_TAKEN] = number + 1
    return True


# ---- what is handed on -----------------------------------------------------------------------------------------------


_State = tuple[Arena, tuple[int, ...]]


class _Shared:
    """Counters and an array in memory that children share.

    Not `multiprocessing.shared_memory`: that has names, which outlive a killed process or are tidied up with a warning,
    and before Python 3.13 by any process that had opened one.
    """

    _dtype: type[np.floating]

    def __init__(self, *shape: int) -> None:
        for n in shape:
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise ParameterError(f"{type(self).__name__} counts in whole numbers >= 1, got {n!r}")
        self.__setstate__((Arena(_HEADER_BYTES + prod(shape) * np.dtype(self._dtype).itemsize), shape))

    def __getstate__(self) -> _State:
        return self._arena, self._shape

    def __setstate__(self, state: _State) -> None:
        self._arena, self._shape = state
        # Look at every page: a first look costs a fault, and not later, when there is no time for it.
        np.frombuffer(self._arena.buffer, np.uint8)[::_PAGE_BYTES].sum()
        self._counters = np.frombuffer(self._arena.buffer, np.int64, _HEADER_BYTES // 8)
        data = np.frombuffer(self._arena.buffer, self._dtype, prod(self._shape), _HEADER_BYTES)
        self._data = data.reshape(self._shape)


class Ring(_Shared):
    """The last samples of a stream, for readers that may fall behind.

    Parameters
    ----------
    channels : int
    capacity : int
        Samples that it holds. A reader loses none as long as it is less than this, less one block, behind.

    Attributes
    ----------
    position : int
        Next sample that `read` gives here, counted from the start of the stream; may be set. Each process has its own.
    lost : int
        Samples that were overwritten before they were read here.

    Examples
    --------
    >>> ring = Ring(channels=1, capacity=8)
    >>> out = np.empty((1, 2), np.float32)
    >>> ring.write(np.ones((1, 3), np.float32))
    >>> ring.read(out), out.tolist()
    (0, [[1.0, 1.0]])
    >>> ring.read(out) is None, ring.written, ring.position
    (True, 3, 2)
    """

    _dtype = np.float32

    def __init__(self, channels: int, capacity: int) -> None:
        super().__init__(channels, capacity)

    def __setstate__(self, state: _State) -> None:
        super().__setstate__(state)
        self.channels, self.capacity = self._shape
        self.position = self.lost = 0

    @property
    def written(self) -> int:
        """Samples written since the start of the stream."""
        return int(self._counters[_WHOLE])

    @property
    def oldest(self) -> int:
        """First sample that is not overwritten, nor about to be."""
        return max(0, int(self._counters[_BEGUN]) - self.capacity)

    def write(self, block: NDArray[np.float32]) -> None:
        """Add `block` (channels, samples), over the oldest samples, whether those have been read or not."""
        if block.shape[0] != self.channels:
            raise ParameterError(f"block must have {self.channels} channels, got shape {block.shape}")
        _write_ring(self._counters, self._data, block)

    def read(self, out: NDArray[np.float32]) -> int | None:
        """Fill `out` with the next samples.

        Parameters
        ----------
        out : (channels, samples), float32
            Holds no more than half the capacity.

        Returns
        -------
        int or None
            Number of the first sample in `out`: what `position` was, or more if the writer had overtaken this reader,
            which then goes on half the capacity behind the writer. None when not all of `out` has been written yet;
            what it holds then means nothing.
        """
        samples = out.shape[1]
        if out.shape[0] != self.channels or samples > self.capacity // 2:
            raise ParameterError(
                f"out must be {self.channels} channels of at most {self.capacity // 2} samples, got shape {out.shape}"
            )
        for _ in range(_TRIES):
            oldest = _read_ring(self._counters, self._data, self.position, out)
            if oldest == _NOT_YET:
                return None
            start = self.position
            if start >= oldest:
                self.position += samples
                return start
            self.position = max(oldest, self.written - self.capacity // 2)
            self.lost += self.position - start
        return None


class Slot(_Shared):
    """Numbers that one process publishes, all at once, and others read, all of one kind.

    Parameters
    ----------
    shape : int or tuple of int
        Of the array; its numbers are float64, which holds samples, gains and counts as they are.

    Examples
    --------
    >>> slot = Slot(2)
    >>> slot.write([0.5, 1.0])
    1
    >>> out = np.empty(2)
    >>> slot.read(out), out.tolist()
    (1, [0.5, 1.0])
    """

    _dtype = np.float64

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        super().__init__(2, *(shape if isinstance(shape, tuple) else (shape,)))

    def __setstate__(self, state: _State) -> None:
        super().__setstate__(state)
        self.shape = self._shape[1:]
        self._data = self._data.reshape(2, -1)
        self._copy, self._last, self._number = np.zeros(self._data.shape[1]), np.zeros(self.shape), 0

    def write(self, values: ArrayLike) -> int:
        """Publish `values` (shape), and return their number: 1 for the first."""
        array = np.ascontiguousarray(values, np.float64)
        if array.shape != self.shape:
            raise ParameterError(f"values must have shape {self.shape}, got {array.shape}")
        _write_slot(self._counters, self._data, array.reshape(-1))
        return self.number

    def read(self, out: NDArray[np.float64]) -> int:
        """Copy the newest values to `out` (shape) and return their number; zeros and 0 before the first.

        A reader that is disturbed too often to get a whole copy gets what it had the last time.
        """
        number = _read_slot(self._counters, self._data, self._copy)
        if number != _NOT_YET:
            self._number = number
            self._last[...] = self._copy.reshape(self.shape)
        np.copyto(out, self._last)
        return self._number

    @property
    def number(self) -> int:
        """How often values have been published."""
        return int(self._counters[_WHOLE])


class Mailbox(_Shared):
    """Commands from one process to another, in order; a full one takes no more.

    Parameters
    ----------
    capacity : int
        Commands that it holds.

    Examples
    --------
    >>> mailbox = Mailbox(capacity=1)
    >>> mailbox.put(kind=3, index=0, value=-6.0), mailbox.put(3, 1, 0.0)
    (True, False)
    >>> mailbox.get(), mailbox.get()
    ((3, 0, -6.0), None)
    """

    _dtype = np.float64

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, 3)

    def __setstate__(self, state: _State) -> None:
        super().__setstate__(state)
        self._out = np.zeros(3)

    def put(self, kind: int, index: int, value: float) -> bool:
        """Add a command, or return False if there is no room; `kind` and `index` are whole numbers below 2^53."""
        return _put(self._counters, self._data, kind, index, value)

    def get(self) -> tuple[int, int, float] | None:
        """Take out the oldest command; None if there is none."""
        if not _take(self._counters, self._data, self._out):
            return None
        kind, index, value = self._out.tolist()
        return int(kind), int(index), value
