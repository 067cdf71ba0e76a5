"""What hears a mixer's channels and moves their gains: the front end and a model, in step with the sound."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alm_plugin.features.front_end import FrontEnd
from alm_plugin.models.contract import LOUDNESS, Array, Model
from alm_plugin.models.predictor import Predictor


class Mind(Protocol):
    """What a stream asks for gains.

    Attributes
    ----------
    gain_db : (channels,) float32
        For the frame that is being decided.
    pull_db : (channels,) or None
        To be taken off whatever gain a channel has, at once, unless the operator has locked it; None for nothing.
    roles : list of str or None
    faults : int
        How often it had no answer; gains hold then.
    """

    gain_db: Array

    @property
    def pull_db(self) -> Array | None: ...  # noqa: D102

    @property
    def roles(self) -> list[str | None]: ...  # noqa: D102

    @property
    def faults(self) -> int: ...  # noqa: D102

    def add_channel(self, role: str | None) -> None:
        """Add a channel behind the others."""

    def remove_channel(self, index: int) -> None:
        """Forget a channel; those behind it move up."""

    def set_role(self, index: int, role: str | None) -> None:
        """Change what a channel plays."""

    def hear(self, taps: Sequence[Array], samples: int) -> None:
        """Take in a block of all channels, each (1 or 2, `samples`)."""

    def end_frame(self) -> None:
        """Know that a frame has ended, within what has been heard last."""

    def decide(self) -> None:
        """Have the gains of the frame that began last in `gain_db`."""


class Listener:
    """The mind of a mixer that waits for its model; see `Mind`.

    Parameters
    ----------
    model : Model
    sample_rate : int
    roles : sequence of str or None
        One per channel.
    """

    pull_db = None

    def __init__(
        self, model: Model, sample_rate: int, roles: Sequence[str | None], executor: Executor | None = None
    ) -> None:
        self.clock = model.metadata.clock
        self._front_end = FrontEnd(sample_rate, self.clock, len(roles))
        self._predictor = Predictor(model, roles, executor)
        self.gain_db = self._predictor.gain_db
        self.roles = self._predictor.roles
        self._row = 0

    @property
    def faults(self) -> int:
        """How often the model had no answer."""
        return self._predictor.faults

    def add_channel(self, role: str | None) -> None:
        """Add a channel behind the others."""
        self._front_end.add_channel()
        self._predictor.add_channel(role)
        self.gain_db = self._predictor.gain_db

    def remove_channel(self, index: int) -> None:
        """Forget a channel; those behind it move up."""
        self._front_end.remove_channel(index)
        self._predictor.remove_channel(index)
        self.gain_db = self._predictor.gain_db

    def set_role(self, index: int, role: str | None) -> None:
        """Change what a channel plays."""
        self._predictor.set_role(index, role)

    def hear(self, taps: Sequence[Array], samples: int) -> None:
        """Take in a block of all channels, each (1 or 2, `samples`)."""
        self._features = self._front_end.hear(list(taps), samples)
        self._row = 0

    def end_frame(self) -> None:
        """Show the model the frame that has ended."""
        self._row += 1
        log_mel, levels = self.frame
        self._predictor.step(log_mel, levels, self._features.mask[:, self._row - 1])

    def decide(self) -> None:
        """Nothing is left to be done."""

    # ---- for a worker, who has time between frames, and for those who judge -------------------------------------

    @property
    def frame(self) -> tuple[Array, Array]:
        """Log-mel (channels, columns, 64) and levels (channels, 3) of the last frame."""
        columns = self._features.log_mel.shape[1] // self._features.frames
        log_mel = self._features.log_mel[:, (self._row - 1) * columns : self._row * columns]
        return log_mel, self._features.levels[:, self._row - 1]

    @property
    def active(self) -> NDArray[np.bool_]:
        """Channels (channels,) that were active in the last frame."""
        return self._features.mask[:, self._row - 1] > 0.0

    @property
    def loudness_lufs(self) -> Array:
        """Running loudness (channels,) in the last frame."""
        return self._features.levels[:, self._row - 1, LOUDNESS]

    def memory(self) -> NDArray[np.float64]:
        """Return what the model remembers, (channels, numbers)."""
        return self._predictor.memory()

    def recall(self, memory: NDArray[np.float64]) -> None:
        """Remember what another listener's `memory` returned."""
        self._predictor.recall(memory)
