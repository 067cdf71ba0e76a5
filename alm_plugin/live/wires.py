"""What the three processes of a live mixer share, and the model as the audio process knows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from alm_plugin.features.clock import ModelClock
from alm_plugin.ipc import Mailbox, Ring, Slot
from alm_plugin.models.contract import Array, ModelMetadata, State

RING_S = 8.0
"""Sound that a worker finds when it starts again, and that a recorder may be behind."""

COUNTS = ("frame", "late_frames", "blocks", "xruns", "lost", "failed", "mended", "fifo", "bent", "plugins", "unplugged")
"""Of `Wires.status`, in front of its rows per strip: see `alm_plugin.live.audio.Player`."""

STRIP_ROWS = ("input_peak", "output_peak", "applied_db", "model_db", "silent")
"""Of each strip: its peaks before and behind the gain, the gain, what the mind wants, and whether it is silenced."""

GAIN_ROWS = ("gain_db", "loudness_lufs", "pull_db", "reason", "ring_hz")
"""Of `Wires.gains`, behind the frame that they are for; the last three are 0 where nobody judges the model's gains."""


class Order(IntEnum):
    """What the supervisor asks of the audio process."""

    TRIM = 0
    LOCK = 1
    MUTE = 2
    SOLO = 3
    STRENGTH = 4
    FREEZE = 5
    PANIC = 6
    BYPASS = 7


@dataclass(frozen=True)
class Wires:
    """Memory that processes share; each is written by one of them.

    Attributes
    ----------
    taps : Ring
        Audio to worker: what the model hears, a row per side of a strip.
    gains : Slot
        Worker to audio: the frame that they are for, then `GAIN_ROWS`, each of all strips.
    stand : Slot
        Supervisor to worker: trims and locks in dB, NaN for none, and who is silent (3, C).
    memory : Slot
        Worker to its successor: the model's state (C, numbers).
    orders : Mailbox
        Supervisor to audio.
    status : Slot
        Audio to supervisor: `COUNTS`, then `STRIP_ROWS` of each strip, then the mix's peaks.
    tape : Ring
        Audio to supervisor: raw inputs and the mix.
    curves : Ring
        Audio to supervisor: gain in dB of each strip, a sample per frame.
    times : Ring
        Audio to supervisor: microseconds that each callback took.
    """

    taps: Ring
    gains: Slot
    stand: Slot
    memory: Slot
    orders: Mailbox
    status: Slot
    tape: Ring
    curves: Ring
    times: Ring

    @classmethod
    def of(cls, widths: Sequence[int], inputs: int, channels: int, numbers: int, sample_rate: int) -> Wires:
        """Make them for strips of these widths, whose model has so many numbers of state per channel."""
        strips, samples = len(widths), math.ceil(RING_S * sample_rate)
        return cls(
            Ring(sum(widths), samples),
            Slot(1 + len(GAIN_ROWS) * strips),
            Slot((3, strips)),
            Slot((strips, max(1, numbers))),
            Mailbox(1024),
            Slot(len(COUNTS) + len(STRIP_ROWS) * strips + channels),
            Ring(inputs + channels, samples),
            Ring(strips, 1 << 12),
            Ring(1, 1 << 16),
        )


class Far:
    """A model in another process: who it is, when it acts, and with which gains a stream begins."""

    def __init__(self, metadata: ModelMetadata, first_db: Array) -> None:
        self.metadata = metadata
        self.first_db = first_db

    @property
    def clock(self) -> ModelClock:
        """Its rates."""
        return self.metadata.clock

    def embed(self, patches: Array, mask: Array) -> Array:
        """Is for the worker."""
        raise NotImplementedError

    def step(self, embedding: Array, levels: Array, mask: Array, state: State) -> tuple[Array, State]:
        """Is for the worker."""
        raise NotImplementedError

    def initial_state(self, channels: int) -> State:
        """Gains of the first frame."""
        return {"gain_db": np.array(self.first_db, np.float32)}
