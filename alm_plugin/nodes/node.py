"""What a node is: the base class of our own, and of a user's."""

from __future__ import annotations

import inspect
import itertools
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import AudioTypeError, ParameterError
from alm_plugin.features.clock import check_sample_rate

Audio = NDArray[np.float32]
T = TypeVar("T")


def in_range(name: str, value: float, low: float, high: float) -> float:
    """Return `value` as a float, or raise `ParameterError` naming the parameter and its range."""
    if not isinstance(value, Real) or not low <= value <= high:
        raise ParameterError(f"{name} must be in [{low:g}, {high:g}], got {value!r}")
    return float(value)


class Parameter:
    """A number with a range: ``rate_hz = Parameter(0.1, 20.0)`` in a node's class, ``self.rate_hz = 5.0`` anywhere.

    Parameters
    ----------
    low, high : float
        Both allowed; anything outside raises `ParameterError`.

    Examples
    --------
    >>> class Tremolo:
    ...     depth = Parameter(0.0, 1.0)
    >>> Tremolo().depth = 2.0
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: depth must be in [0, 1], got 2.0
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, node: Any, owner: type) -> float:
        return self if node is None else node.__dict__[f"_{self._name}"]  # pyright: ignore[reportReturnType]

    def __set__(self, node: Any, value: float) -> None:
        node.__dict__[f"_{self._name}"] = in_range(self._name, value, self.low, self.high)


_touches = itertools.count(1)
_touched = 0


def touch() -> None:
    """Have every mixer look, before its next block, whether somebody has changed its console."""
    global _touched
    _touched = next(_touches)


def touched() -> int:
    """Return a number that is another one after every `touch`, so that blocks in between need not look at all."""
    return _touched


class _NodeType(ABCMeta):
    """Seals a node when its constructor is done: from then on a misspelt attribute is an error, not a new attribute."""

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        node = type.__call__(cls, *args, **kwargs)
        node._sealed = True
        return node


class Node(metaclass=_NodeType):
    """A piece of a signal path that is used like a pedalboard plugin, alone or in a `Chain`.

    To write one, subclass it, take parameters in the constructor, and write `process_block`; `reset` too if the node
    remembers anything between blocks. The rest, from layouts to `__repr__`, comes from here.

    Examples
    --------
    >>> import numpy as np
    >>> class Smear(Node):
    ...     '''Average each sample with the one before.'''
    ...
    ...     def __init__(self, amount=0.5):
    ...         self.amount = amount
    ...         self.reset()
    ...
    ...     def reset(self):
    ...         self._last = 0.0
    ...
    ...     def process_block(self, x, sample_rate):
    ...         late = np.empty_like(x)
    ...         late[:, 0], late[:, 1:] = self._last, x[:, :-1]
    ...         self._last = x[:, -1].copy()
    ...         return x + self.amount * (late - x)
    >>> smear = Smear()
    >>> smear(np.array([0.0, 1.0, 0.0, 0.0], np.float32), 48_000)
    array([0. , 0.5, 0.5, 0. ], dtype=float32)
    >>> smear.ammount = 0.1
    Traceback (most recent call last):
        ...
    AttributeError: 'alm_plugin.Smear' object has no attribute 'ammount', only amount

    Notes
    -----
    A `pedalboard.Pedalboard` cannot hold a node (pedalboard's plugins are compiled and cannot be subclassed); the other
    way round works: ``Chain([Pedalboard([Reverb()]), Smear()])``.
    """

    is_effect = True
    is_instrument = False
    _sealed = False
    # Of the last array: its rate, its shape, and its layout, which is a hint for reading the next one's.
    __rate = 0
    __shape: tuple[int, ...] | None = None
    __layout: tuple[int, bool] = (0, False)

    @abstractmethod
    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block of a stream.

        Parameters
        ----------
        x : (channels, samples) float32
            At least one sample; not to be written to.
        sample_rate : int
            In Hz.

        Returns
        -------
        (channels, samples) float32
            As long as `x`: `x` itself or a new array. The samples of a stream must not depend on how it is cut.
        """

    def reset(self) -> None:
        """Forget the stream so far: the next block is the first of a new one."""

    def prepare(self, sample_rate: int, channels: int) -> None:
        """Get ready for a stream, before its first block; called by what the node is in. By default a reset."""
        self.reset()

    def output_channels(self, channels: int) -> int:
        """Width of the output for an input of `channels`; the same unless a node says otherwise."""
        return channels

    @property
    def reported_latency_samples(self) -> int:
        """How much later, in samples, a stream comes out than it went in."""
        return 0

    def process(
        self,
        input_array: NDArray,
        sample_rate: float,
        buffer_size: int = 8192,
        reset: bool = True,
        automation: Mapping[str, NDArray] | None = None,
    ) -> Audio:
        """Process audio, as `pedalboard.Plugin.process` does.

        Parameters
        ----------
        input_array : (samples,), (channels, samples) or (samples, channels)
            32-bit or 64-bit floats. Of two dimensions the one that matches the channels seen last is the channels',
            otherwise the smaller one.
        sample_rate : float
            Whole number of Hz, 8000 to 192000.
        buffer_size : int
            Longest block, in samples, to process at once; >= 1. Results do not depend on it.
        reset : bool
            Forget the past first. For streaming call `reset()` once, then pass False.
        automation : mapping of str to (samples,) array, optional
            Parameters that move, with a value for each sample: for `Chain` and `Strip`, which say how.

        Returns
        -------
        float32 array
            New, of the same layout and length; the input is left alone.

        Raises
        ------
        AudioTypeError
            For anything but an array of 32-bit or 64-bit floats.
        ParameterError
            For other shapes, rates and buffer sizes, and for automation that does not fit. Nothing has been
            processed then.
        """
        if sample_rate != self.__rate:
            self.__rate = check_sample_rate(sample_rate)
        if (not isinstance(buffer_size, int) and not isinstance(buffer_size, np.integer)) or buffer_size < 1:
            raise ParameterError(f"buffer_size must be a whole number >= 1, got {buffer_size!r}")
        if not isinstance(input_array, np.ndarray) or input_array.dtype.char not in "fd":
            got = input_array.dtype if isinstance(input_array, np.ndarray) else type(input_array).__name__
            raise AudioTypeError(
                f"{type(self).__name__} only supports 32-bit and 64-bit floating point audio for processing, got {got}"
            )
        if input_array.shape != self.__shape:
            layout = _read_layout(input_array.shape, self.__layout)
            if not input_array.size:
                if reset:
                    self.reset()
                return np.zeros(input_array.shape, np.float32)
            self.__shape, self.__layout = input_array.shape, layout
        is_flat, is_turned = input_array.ndim == 1, self.__layout[1]
        # A copy in any case: what a node does to its block must not reach the caller's array.
        x = np.array(input_array.T if is_turned else input_array, np.float32, order="C", ndmin=2)
        if automation is not None:
            out = self._automated(x, self.__rate, buffer_size, reset, automation)
        elif reset:
            out = self._one_shot(x, self.__rate, buffer_size)
        elif x.shape[1] <= buffer_size:
            out = checked(self, self.process_block(x, self.__rate), x.shape[1])
        else:
            out = self._stream(x, self.__rate, buffer_size)
        if is_turned:
            return np.ascontiguousarray(out.T)
        return out[0] if is_flat and len(out) == 1 else out

    __call__ = process

    def _one_shot(self, x: Audio, sample_rate: int, buffer_size: int) -> Audio:
        self.reset()
        return self._stream(x, sample_rate, buffer_size)

    def _stream(self, x: Audio, sample_rate: int, buffer_size: int) -> Audio:
        samples = x.shape[1]
        if samples <= buffer_size:
            return checked(self, self.process_block(x, sample_rate), samples)
        pieces = []
        for start in range(0, samples, buffer_size):
            piece = np.ascontiguousarray(x[:, start : start + buffer_size])
            pieces.append(checked(self, self.process_block(piece, sample_rate), piece.shape[1]))
        return np.concatenate(pieces, axis=1)

    def _automated(
        self, x: Audio, sample_rate: int, buffer_size: int, reset: bool, automation: Mapping[str, NDArray]
    ) -> Audio:
        raise ParameterError(f"automation must be given to a Chain or a Strip, got it for a {type(self).__name__}")

    if not TYPE_CHECKING:  # type checkers find misspelt attributes without help, unless they see this

        def __setattr__(self, name: str, value: object) -> None:
            if (
                self._sealed
                and not name.startswith("_")
                and name not in self.__dict__
                and not hasattr(type(self), name)
            ):
                raise AttributeError(
                    f"{_full_name(type(self))!r} object has no attribute {name!r}, only {', '.join(self._settable())}"
                )
            object.__setattr__(self, name, value)

    def _settable(self) -> list[str]:
        names = {name for name in self.__dict__ if not name.startswith("_")}
        for name, value in inspect.getmembers_static(type(self)):
            if isinstance(value, Parameter) or (isinstance(value, property) and value.fset):
                names.add(name)
        return sorted(names)

    def __repr__(self) -> str:
        parameters = list(inspect.signature(type(self).__init__).parameters)[1:]
        values = "".join(f" {name}={getattr(self, name)!r}" for name in parameters if hasattr(self, name))
        return f"<{_full_name(type(self))}{values} at {hex(id(self))}>"


def checked(node: object, out: Audio, samples: int) -> Audio:
    """Return what a node made of a block as float32, or raise `ParameterError` if it is not (channels, `samples`)."""
    if not isinstance(out, np.ndarray) or out.ndim != 2 or out.shape[1] != samples:
        got = out.shape if isinstance(out, np.ndarray) else type(out).__name__
        raise ParameterError(f"{type(node).__name__} must return blocks of (channels, {samples}), got {got}")
    return out if out.dtype == np.float32 else out.astype(np.float32)


# pedalboard's own rule (BufferUtils.h), so that an array means the same to both.
def _read_layout(shape: tuple[int, ...], last: tuple[int, bool]) -> tuple[int, bool]:
    """Channels of an array, and whether they are its last dimension; `last` is the answer for the array before."""
    if len(shape) == 1:
        return 1, False
    if len(shape) != 2:
        raise ParameterError(f"input_array must have 1 or 2 dimensions, got {len(shape)}")
    rows, columns = shape
    if rows == columns and rows > 1:
        if not last[0]:
            raise ParameterError(
                f"input_array must not be square before its layout is known, got {shape}; provide a longer array first"
            )
        return rows, last[1]
    if last[0] and last[0] in shape:
        return last[0], rows != last[0]
    # No channels make no sense, no samples do.
    is_turned = 0 < columns < rows or rows == 0
    return (columns if is_turned else rows), is_turned


def _full_name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
