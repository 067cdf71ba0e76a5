"""What a model of gains is: `embed` what a channel plays, `step` once per frame, carry an explicit state.

Everything that predicts gains speaks this contract: neural networks, the loudness rule, unity, and a user's own class.
Arrays are NumPy float32; the network's torch tensors stay inside `alm_plugin.models.files`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alm_plugin.features import log_mel
from alm_plugin.features.clock import MULTI_RATE, ModelClock
from alm_plugin.features.front_end import PATCH_COLUMNS as PATCH_COLUMNS

Array = NDArray[np.float32]
State = dict[str, NDArray]
"""Named arrays, each with the channel as its first dimension: rows can be frozen, permuted, added and removed."""

MEL_BANDS = log_mel.BANDS
RMS, POWER, LOUDNESS = 0, 1, 2
"""Columns of `levels`: RMS (linear), K-weighted mean square (linear), gated K-weighted running loudness (LUFS)."""


@dataclass(frozen=True)
class ModelMetadata:
    """What a model says of itself.

    Attributes
    ----------
    name : str
        Its name, as in ``alm mix --model``.
    clock : ModelClock
        The rates it was built for.
    embedding_size : int
        D of `embed`'s result; 0 where the model listens to levels only and is never asked to embed.
    training_data, licence : str
        Where its weights come from and what they may be used for.
    scores : dict
        Measured numbers, by name.
    sha256 : str
        Digest of the weights file; empty for models without weights.
    """

    name: str
    clock: ModelClock = MULTI_RATE
    embedding_size: int = 0
    training_data: str = "none"
    licence: str = "GPL-3.0-or-later"
    scores: dict[str, float] = field(default_factory=dict)
    sha256: str = ""


@runtime_checkable
class Model(Protocol):
    """The contract. C is any number of channels >= 1, in any order; results must follow a permutation of them.

    The mixer passes only channels that are active, so `mask` is > 0 there; batches in training are padded, and there a
    channel whose mask is 0 must change nothing for the others.
    """

    metadata: ModelMetadata

    def embed(self, patches: Array, mask: Array) -> Array:
        """Embed one F1 frame: log-mel `patches` (C, 96, 64), `mask` (C,) in [0, 1], to (C, D)."""
        ...

    def step(self, embedding: Array, levels: Array, mask: Array, state: State) -> tuple[Array, State]:
        """Predict the next frame's gains.

        Parameters
        ----------
        embedding : (C, D)
            The newest embedding whose lag has passed; zeros for a channel that has none yet.
        levels : (C, 3)
            RMS (linear), K-weighted mean square (linear), running loudness (LUFS) of the frame that has ended.
        mask : (C,)
            1 for an active channel, falling towards 0 in the second second of its silence.
        state : dict of arrays (C, ...)
            What `initial_state` or the previous step returned; never changed in place.

        Returns
        -------
        gain_db : (C,)
        state : dict of arrays (C, ...)
        """
        ...

    def initial_state(self, channels: int) -> State:
        """State before the first frame.

        A row named ``role`` (C,) int64 is filled by the mixer, see `models.roles`. A row named ``gain_db`` (C,) says
        with which gains the first frame plays, 0 dB where there is none.
        """
        ...
