"""No hardware: a clock, and what it plays and hears in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from alm_plugin.errors import ParameterError
from alm_plugin.live.devices.device import Block, Device, DeviceInfo

SAMPLE_RATE = 48_000
BLOCK_SIZE = 128


class Silent(Device):
    """A device that keeps time, or runs as fast as it can.

    Parameters
    ----------
    inputs, outputs, sample_rate, block_size
        See `open_device`; 48 kHz and 128 samples by default.
    name, channel_map : optional
        There is one, and it has nothing to connect to.
    source : (inputs, samples) float32, or iterable of blocks (inputs, block_size), optional
        What is heard; by default silence without an end. Where an array ends within a block there is silence.
    sink : callable, optional
        Called with each block of output; it has to copy what it keeps.
    freewheel : bool
        Call back as fast as possible.
    wait : callable, optional
        Called before each block when free-wheeling, to wait for somebody slower; `stop` waits for it.
    """

    backend = "silent"

    def __init__(
        self,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str | None = None,
        sample_rate: int | None = None,
        block_size: int | None = None,
        channel_map: Mapping[str, str | int] | None = None,
        *,
        source: Block | Iterable[Block] | None = None,
        sink: Callable[[Block], object] | None = None,
        freewheel: bool = False,
        wait: Callable[[], object] | None = None,
    ) -> None:
        if name not in (None, "silence"):
            raise ParameterError(f"name of a silent device must be 'silence' or nothing, got {name!r}")
        self._source, self._sink, self._freewheel, self._wait = source, sink, freewheel, wait
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        super().__init__(inputs, outputs, "silence", sample_rate, block_size, channel_map)

    @classmethod
    def found(cls) -> list[DeviceInfo]:
        """Return the one that there is."""
        return [DeviceInfo("silent", "silence", 64, 64, SAMPLE_RATE)]

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the source has ended or the device was stopped; return whether it has."""
        return self._ended.wait(timeout_s)

    def _open(self) -> None:
        self.sample_rate, self.block_size = self._wanted[0] or SAMPLE_RATE, self._wanted[1] or BLOCK_SIZE
        if isinstance(self._source, np.ndarray) and self._source.shape[:-1] != (len(self.inputs),):
            raise ParameterError(f"source must have {len(self.inputs)} channels, got shape {self._source.shape}")

    def _begin(self) -> None:
        self._ended.clear()
        self._thread = threading.Thread(target=self._play, name="silent clock", daemon=True)
        self._thread.start()

    def _play(self) -> None:
        period_s = self.block_size / self.sample_rate
        due_s = time.perf_counter()
        try:
            for block in self._blocks():
                if self._freewheel:
                    if self._wait is not None:
                        self._wait()
                    late_s = 0.0
                else:
                    late_s = time.perf_counter() - due_s
                    if late_s < 0.0 and self._stopping.wait(-late_s):
                        return
                    if late_s > period_s:
                        self.xruns += 1
                        due_s += late_s
                    due_s += period_s
                if self._stopping.is_set() or self._fault is not None:
                    return
                self._x[:] = block
                self._run()
                if self._sink is not None:
                    self._sink(self._y)
        except Exception as error:
            self._fault = f"the silent device has failed: {type(error).__name__}: {error}"
        finally:
            self._ended.set()

    def _blocks(self) -> Iterator[Block | float]:
        if self._source is None:
            while True:
                yield 0.0
        if not isinstance(self._source, np.ndarray):
            yield from self._source
            return
        for start in range(0, self._source.shape[1], self.block_size):
            block = self._source[:, start : start + self.block_size]
            if block.shape[1] < self.block_size:
                block = np.pad(block, ((0, 0), (0, self.block_size - block.shape[1])))
            yield block

    def _close(self) -> None:
        thread, self._thread = self._thread, None
        if thread not in (None, threading.current_thread()):
            thread.join()
