"""The worker process: every frame of what the audio process heard, in order, through the model."""

from __future__ import annotations

import gc
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alm_plugin.live.safety import StageLimits
from alm_plugin.live.stage import StageMind
from alm_plugin.live.wires import GAIN_ROWS, Wires
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
    limits : StageLimits, optional
        What keeps the gains safe; None publishes them as the model wants them.
    """

    def __init__(
        self,
        wires: Wires,
        model: Model,
        sample_rate: int,
        widths: Sequence[int],
        roles: Sequence[str | None],
        limits: StageLimits | None = None,
    ) -> None:
        self.wires, self.model, self.sample_rate, self.roles, self.limits = wires, model, sample_rate, roles, limits
        self.clock = model.metadata.clock
        stops = np.cumsum(widths)
        self.sides = [slice(int(stop - width), int(stop)) for stop, width in zip(stops, widths, strict=True)]
        self._block = np.empty((int(stops[-1]), self.clock.boundary(1, sample_rate)), np.float32)
        self._rows = np.zeros((len(GAIN_ROWS), len(widths)))
        self._rows[GAIN_ROWS.index("loudness_lufs")] = -70.0
        self._stand = np.zeros(wires.stand.shape)
        # Embeddings may take far longer than a step may be late, and are not needed before some frames have gone by.
        self._embeds = ThreadPoolExecutor(1)
        # Every so many frames a frame begins with a whole sample: there a front end may start.
        self._whole = 1000 // math.gcd(1000, self.clock.f2_ms * sample_rate)
        self._begin(0)
        if wires.taps.written:
            self._take_over()
        else:  # ready, and nothing heard
            self._publish()

    def _begin(self, frame: int) -> None:
        self.listener = Listener(self.model, self.sample_rate, self.roles, self._embeds)
        self.mind: Listener | StageMind = self.listener
        if self.limits is not None:
            # One that takes over goes on from the gains that are heard.
            before = np.zeros(self.wires.gains.shape)
            self.wires.gains.read(before)
            rows = dict(zip(GAIN_ROWS, before[1:].reshape(self._rows.shape), strict=True))
            self.mind = StageMind(self.listener, self.sample_rate, self.limits, rows["gain_db"], rows["pull_db"])
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
        if isinstance(self.mind, StageMind) and self.wires.stand.read(self._stand):
            self.mind.stand(*self._stand)
        self.mind.hear([block[sides] for sides in self.sides], samples)
        self.mind.end_frame()
        self.frame += 1
        active = self.listener.active
        self._rows[GAIN_ROWS.index("loudness_lufs"), active] = self.listener.loudness_lufs[active]
        self._publish()
        if self.frame % 20 == 0 and (memory := self.listener.memory()).size:
            self.wires.memory.write(memory)
        return True

    def _publish(self) -> None:
        self._rows[GAIN_ROWS.index("gain_db")] = self.mind.gain_db
        if isinstance(self.mind, StageMind):
            self._rows[GAIN_ROWS.index("pull_db")] = self.mind.pull_db
            self._rows[GAIN_ROWS.index("reason")] = self.mind.reasons
            self._rows[GAIN_ROWS.index("ring_hz")] = self.mind.ring.frequencies_hz
        self.wires.gains.write(np.concatenate([[self.frame], self._rows.reshape(-1)]))

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Work until `goes_on` is False."""
        while goes_on():
            if not self.step():
                time.sleep(POLL_S)


def main(
    wires: Wires,
    model: str | Path,
    sample_rate: int,
    widths: Sequence[int],
    roles: Sequence[str | None],
    limits: StageLimits | None,
    runtime: str,
    sha256: str,
    parent: int,
) -> None:
    """Be the worker process, as long as its parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    loaded = load_model(model, runtime, sha256)
    worker = Worker(wires, loaded, sample_rate, widths, roles, limits)
    gc.collect()
    gc.freeze()
    worker.run(lambda: os.getppid() == parent)
