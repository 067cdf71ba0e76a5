"""What every device does: call back for each block, and say once when it is lost."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.clock import check_sample_rate

Block = NDArray[np.float32]
Callback = Callable[[Block, Block], object]
OnLost = Callable[[str], object]

MAX_BLOCK_SIZE = 8_192
_LOOK_S = 0.1


@dataclass(frozen=True)
class DeviceInfo:
    """A device that can be opened, or why there is none.

    Attributes
    ----------
    backend, name : str
        As `open_device` takes them.
    inputs, outputs : int
        Ports that it has.
    sample_rate : int or None
        In Hz, what it runs at unless told otherwise.
    note : str
        If not empty, this backend has no device, and this is what to do about it.
    """

    backend: str
    name: str
    inputs: int = 0
    outputs: int = 0
    sample_rate: int | None = None
    note: str = ""


class Device(ABC):
    """An audio device, open but silent until it is started; in a ``with`` statement it is stopped at the end.

    Attributes
    ----------
    backend, name : str
        What `open_device` was asked for, or has found.
    inputs, outputs : tuple of str
        Names of the channels.
    sample_rate, block_size : int
        In Hz and samples. They stay what they are: a device that changes them is lost.
    xruns : int
        Times that the driver has found somebody late, since it was made.
    blocks : int
        Blocks that were called back for, since the last start.
    unplugged : int
        Times that a channel has lost the last port it was connected to, while the device itself went on.
    """

    backend: str

    def __init__(
        self,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str,
        sample_rate: int | None,
        block_size: int | None,
        channel_map: Mapping[str, str | int] | None,
    ) -> None:
        self.name = name
        self.inputs, self.outputs = _names("inputs", inputs), _names("outputs", outputs)
        if both := set(self.inputs) & set(self.outputs):
            raise ParameterError(f"inputs and outputs must have different names, got {min(both)!r} in both")
        if sample_rate is not None:
            sample_rate = check_sample_rate(sample_rate)
        if block_size is not None and (
            isinstance(block_size, bool) or not isinstance(block_size, int) or not 1 <= block_size <= MAX_BLOCK_SIZE
        ):
            raise ParameterError(f"block_size must be a whole number in [1, {MAX_BLOCK_SIZE}], got {block_size!r}")
        self._wanted = sample_rate, block_size
        self.sample_rate = self.block_size = 0
        self._map = _checked_map(channel_map, self.inputs, self.outputs)
        self.xruns = self.blocks = self.unplugged = 0
        self._x = self._y = np.zeros((0, 0), np.float32)
        self._fault: str | None = None
        self._callback: Callback | None = None
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self._watcher: threading.Thread | None = None
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    @abstractmethod
    def found(cls) -> list[DeviceInfo]:
        """Devices of this backend, or one entry that says why there is none."""

    def start(self, callback: Callback, on_lost: OnLost | None = None) -> None:
        """Let sound through, after opening the device again if it was stopped.

        Parameters
        ----------
        callback : callable
            Called as ``callback(inputs, outputs)`` for each block in the driver's thread with two arrays, (channels,
            block_size) float32, the same ones each time, also after another start; it has to fill `outputs`. If it
            raises, the device is lost.
        on_lost : callable, optional
            Called once as ``on_lost(reason)`` in a thread of its own, where `stop` and `start` may be called, when the
            device is unplugged, its server has gone, or it changes its rate or block size. From then on `callback` is
            not called.

        Raises
        ------
        ParameterError
            If the device is not there, or is not what it was.
        """
        with self._lock:
            if self._watcher is not None:
                raise ParameterError("the device is started already")
            self._open()
            if not self._x.size:
                self._x = np.zeros((len(self.inputs), self.block_size), np.float32)
                self._y = np.zeros((len(self.outputs), self.block_size), np.float32)
            self._callback, self._fault, self.blocks = callback, None, 0
            self._stopping.clear()
            try:
                self._begin()
            except BaseException:
                self._close()
                raise
            self._watcher = threading.Thread(target=self._watch, args=(on_lost,), name="device watch", daemon=True)
            self._watcher.start()

    def stop(self) -> None:
        """End the sound and close the device. Once this returns, `callback` is not called any more."""
        with self._lock:
            self._stopping.set()
            self._close()
            self._callback = None
            watcher, self._watcher = self._watcher, None
        if watcher not in (None, threading.current_thread()):
            watcher.join()

    def _watch(self, on_lost: OnLost | None) -> None:
        while not self._stopping.wait(_LOOK_S):
            self._look()
            if self._fault is not None:
                if on_lost is not None:
                    on_lost(self._fault)
                return

    def _run(self) -> None:
        """Make `_y` of `_x`, in the driver's thread."""
        if self._fault is None and self._callback is not None:
            try:
                self._callback(self._x, self._y)
            except Exception as error:
                self._fault = f"the callback has failed: {type(error).__name__}: {error}"
            else:
                self.blocks += 1
                return
        self._y.fill(0.0)

    def _settle(self, what: str, sample_rate: int, block_size: int) -> None:
        """Take over what the device runs at, or raise if something else was asked for, or is what it was before."""
        for name, wanted, before, runs_at, unit in (
            ("sample_rate", self._wanted[0], self.sample_rate, sample_rate, "Hz"),
            ("block_size", self._wanted[1], self.block_size, block_size, "samples"),
        ):
            if (wanted or before or runs_at) != runs_at:
                raise ParameterError(f"{name} must be {runs_at} {unit}, what {what} runs at, got {wanted or before}")
        self.sample_rate, self.block_size = sample_rate, block_size

    @abstractmethod
    def _open(self) -> None:
        """Open the device, unless it is; raise if it is not what it has to be."""

    @abstractmethod
    def _begin(self) -> None:
        """Have `_run` called."""

    @abstractmethod
    def _close(self) -> None:
        """End that, and let go of the device, if it is open; whether it still answers or not."""

    def _look(self) -> None:  # noqa: B027 - most drivers tell by themselves
        """Set `_fault` if the device looks lost."""


def load(backend: str, module: str, remedy: str) -> Any:
    """Import what a backend needs, or raise `ParameterError` with what to install."""
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        raise ParameterError(f"backend {backend!r} cannot be used here ({error}): {remedy}") from None


def port_number(port: str | int) -> int | None:
    """Return the number of a port that is given by number; None for one that has a name."""
    return int(port) if isinstance(port, int) or port.isdecimal() else None


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names or not all(isinstance(name, str) and name for name in names):
        raise ParameterError(f"{what} must be names of channels, at least one, got {names!r}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ParameterError(f"{what} must have different names, got {twice!r} twice")
    return tuple(names)


def _checked_map(
    channel_map: Mapping[str, str | int] | None, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> dict[str, str | int]:
    if channel_map is None:
        return {name: number for names in (inputs, outputs) for number, name in enumerate(names, 1)}
    for channel, port in channel_map.items():
        if channel not in inputs + outputs:
            raise ParameterError(f"channel_map must name channels ({', '.join(inputs + outputs)}), got {channel!r}")
        number = port_number(port) if isinstance(port, int | str) else 0
        if isinstance(port, bool) or port == "" or (number is not None and number < 1):
            raise ParameterError(f"channel_map: {channel} must be a port's name or number from 1, got {port!r}")
    return dict(channel_map)
