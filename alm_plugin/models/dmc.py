"""DMC: gains from what every channel sounds like and the mean of all, without levels, attention or memory.

The baseline of AiLive Mixer, reduced as there to causal mono gains (AiLive Mixer, sections 2.4 and 5). ``dmc-og`` and
``dmc-b-0l`` are this one network with other weights: the latter was trained with bleed and to predict one frame ahead.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from alm_plugin.features.clock import SINGLE_RATE, ModelClock
from alm_plugin.models.alm import check_gain, embed_active, heard, in_use, init_gain_layer, to_gain_db
from alm_plugin.models.encoder import VGGish

HIDDEN = 256
"""Size of the MLP's hidden layers, as in DMC's published code (Steinmetz et al., ICASSP 2021)."""


class DMC(nn.Module):
    """Differentiable mixing console with gains only.

    Parameters
    ----------
    width, hidden
        Of the encoder, see `VGGish`.
    gain : {"exp", "relu"}
        How the last layer is read, see `alm_plugin.models.alm.to_gain_db`.
    clock : ModelClock

    Raises
    ------
    ParameterError
        If an argument is out of range or unknown.
    """

    def __init__(
        self, width: float = 0.25, hidden: int = 256, gain: str = "exp", clock: ModelClock = SINGLE_RATE
    ) -> None:
        super().__init__()
        self.width, self.hidden, self.embedding_size = width, hidden, 256
        self.gain, self.clock = check_gain(gain, ("exp", "relu")), clock
        self.encoder = VGGish(width, hidden)
        last = nn.Linear(HIDDEN, 1)
        init_gain_layer(last, gain)
        self.mlp = nn.Sequential(nn.Linear(256, HIDDEN), nn.PReLU(), nn.Linear(HIDDEN, HIDDEN), nn.PReLU(), last)

    def config(self) -> dict[str, Any]:
        """Arguments that make this network again, for `alm_plugin.models.files.build`, as JSON types."""
        return {
            "kind": "dmc",
            "width": self.width,
            "hidden": self.hidden,
            "gain": self.gain,
            "clock": asdict(self.clock),
        }

    @torch.jit.export
    def initial_state(self, channels: int) -> dict[str, Tensor]:
        """Nothing: this network remembers nothing."""
        state: dict[str, Tensor] = {}
        return state

    @torch.jit.export
    def embed(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Embed one F1 frame of every channel: `patches` (C, 96, 64), `mask` (C,) to (C, 256).

        The second half is the mean over the channels, weighted by `mask`, the same in every row.
        """
        return self.with_mean(self.encoder(patches), mask)

    @torch.jit.export
    def step(
        self, embedding: Tensor, levels: Tensor, mask: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict the next frame's gains; shapes as in `alm_plugin.models.contract.Model.step`.

        `levels` are not looked at. Where `mask` is 0 the gain is 0 dB.
        """
        return self.gains(embedding, mask), state

    def with_mean(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Join `embedded` (..., C, 128) and its mean over channels, weighted by `mask` (..., C), to (..., C, 256)."""
        weights = mask.unsqueeze(-1)
        # Where all are masked the sum is zero and so shall be the mean.
        total = weights.sum(-2, keepdim=True)
        mean = (weights * embedded).sum(-2, keepdim=True) / torch.where(total > 0, total, 1.0)
        return torch.cat([embedded, mean.expand_as(embedded)], dim=-1)

    def gains(self, embedding: Tensor, mask: Tensor) -> Tensor:
        """From (..., C, 256) and mask (..., C) to gains in dB (..., C)."""
        return torch.where(mask > 0, to_gain_db(self.mlp(embedding).squeeze(-1), self.gain), 0.0)

    @torch.jit.unused
    def embed_song(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Embed the F1 frames of whole songs; as `ALM.embed_song`, with D = 256."""
        patches, ends = heard(patches, mask, self.clock)
        x = embed_active(self.encoder, patches, ends)
        return self.with_mean(x.transpose(1, 2), ends.transpose(1, 2)).transpose(1, 2)

    @torch.jit.unused
    def head(self, embeddings: Tensor, levels: Tensor, mask: Tensor) -> Tensor:
        """Predict the gains of whole songs (B, C, T) from `embed_song`'s result; as `ALM.head`."""
        return self.gains(in_use(embeddings, mask, self.clock), mask)

    @torch.jit.unused
    def forward(self, patches: Tensor, levels: Tensor, mask: Tensor) -> Tensor:
        """Predict the gains of whole songs: ``head(embed_song(patches, mask), levels, mask)``."""
        return self.head(self.embed_song(patches, mask), levels, mask)
