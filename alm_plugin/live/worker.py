"""The worker process: every frame of what the audio process heard, in order, through the model."""

from __future__ import annotations

import gc
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alm_plugin.live.wires import Wires
from alm_plugin.models.contract import Model
from alm_plugin.models.listener import Listener
from alm_plugin.models.registry import load_model

POLL_S = 0.0005
WARM_UP_S = 2.0
"""Sound of the past that a worker hears first when it takes over, at the speed at which it can."""


class Worker:
    """A listener that reads its sound from a ring and publishes its gains.

    Parameters
    ----------
    wires : Wires
    model : Model
    sample_rate : int
    widths : sequence of int
        Sides of each strip.
    roles : sequence of str or None
    """

    def __init__(
        self, wires: Wires, model: Model, sample_rate: int, widths: Sequence[int], roles: Sequence[str | None]
    ) -> None:
        self.wires, self.model, self.sample_rate, self.roles = wires, model, sample_rate, roles
        self.clock = model.metadata.clock
        stops = np.cumsum(widths)
        self.sides = [slice(int(stop - width), int(stop)) for stop, width in zip(stops, widths, strict=True)]
        self._block = np.empty((int(stops[-1]), self.clock.boundary(1, sample_rate)), np.float32)
        self._loudness = np.full(len(widths), -70.0)
        # Every so many frames a frame begins with a whole sample: there a front end may start.
        self._whole = 1000 // math.gcd(1000, self.clock.f2_ms * sample_rate)
        self._begin(0)
        if wires.taps.written:
            self._take_over()
        else:  # ready, and nothing heard
            self._publish()

    def _begin(self, frame: int) -> None:
        self.listener = Listener(self.model, self.sample_rate, self.roles)
        self.frame = frame
        self.wires.taps.position = self.clock.boundary(frame, self.sample_rate)

    def _take_over(self) -> None:
        """Go on where another worker ended, or was overtaken: from a while ago, with what it had written down."""
        ring = self.wires.taps
        since = max(ring.oldest, ring.written - int(WARM_UP_S * self.sample_rate))
        frame = -(-since * 1000 // (self.clock.f2_ms * self.sample_rate) // self._whole) * self._whole
        while self.clock.boundary(frame, self.sample_rate) < since:
            frame += self._whole
        self._begin(frame)
        memory = np.empty(self.wires.memory.shape)
        if self.wires.memory.read(memory):
            self.listener.recall(memory)

    def step(self) -> bool:
        """Hear one frame and publish the gains of the next; False if it has not ended yet."""
        ring = self.wires.taps
        start = self.clock.boundary(self.frame, self.sample_rate)
        samples = self.clock.boundary(self.frame + 1, self.sample_rate) - start
        block = self._block[:, :samples]
        position = ring.read(block)
        if position is None:
            return False
        if position != start:
            self._take_over()
            return True
        self.listener.hear([block[sides] for sides in self.sides], samples)
        self.listener.end_frame()
        self.frame += 1
        active = self.listener.active
        self._loudness[active] = self.listener.loudness_lufs[active]
        self._publish()
        if self.frame % 20 == 0 and (memory := self.listener.memory()).size:
            self.wires.memory.write(memory)
        return True

    def _publish(self) -> None:
        self.wires.gains.write(np.concatenate([[self.frame], self.listener.gain_db, self._loudness]))

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Work until `goes_on` is False."""
        while goes_on():
            # A step that is due comes first; what embeddings need is done in parts in between.
            if not self.step() and not self.listener.work():
                time.sleep(POLL_S)


def main(
    wires: Wires, model: str | Path, sample_rate: int, widths: Sequence[int], roles: Sequence[str | None], parent: int
) -> None:
    """Be the worker process, as long as its parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    loaded = load_model(model)
    worker = Worker(wires, loaded, sample_rate, widths, roles)
    gc.collect()
    gc.freeze()
    worker.run(lambda: os.getppid() == parent)
