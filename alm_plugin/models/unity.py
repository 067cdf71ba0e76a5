"""The model that changes nothing: every gain stays at 0 dB, the mix is the plain sum."""

from __future__ import annotations

import numpy as np

from alm_plugin.models.contract import Array, ModelMetadata, State


class Unity:
    """0 dB for everyone; what everything else is measured against."""

    metadata = ModelMetadata("unity")

    def embed(self, patches: Array, mask: Array) -> Array:
        """Nothing to embed: (C, 0)."""
        return np.zeros((len(patches), 0), np.float32)

    def step(self, embedding: Array, levels: Array, mask: Array, state: State) -> tuple[Array, State]:
        """Return zeros (C,)."""
        return np.zeros(len(levels), np.float32), state

    def initial_state(self, channels: int) -> State:
        """Nothing to remember."""
        return {}
