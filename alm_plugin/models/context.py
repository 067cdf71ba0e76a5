"""Inter-channel context: one transformer encoder layer that runs along the channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alm_plugin.errors import ParameterError


class ContextBlock(nn.Module):
    """One post-norm transformer encoder layer over a set of channels (AiLive Mixer, section 2.1).

    There is no positional encoding: permuting the channels permutes the result.

    Parameters
    ----------
    size : int
        D, the number of features per channel; a multiple of `heads`.
    heads : int
        Number of attention heads.
    feedforward : int
        Hidden size of the feed-forward part. The paper names none; PyTorch's default of 2048 would make each block as
        large as the rest of the network.

    Raises
    ------
    ParameterError
        If `size` is not a positive multiple of `heads`.
    """

    def __init__(self, size: int = 128, heads: int = 2, feedforward: int = 256) -> None:
        super().__init__()
        if heads < 1 or size < 1 or size % heads:
            raise ParameterError(f"size must be a positive multiple of heads = {heads}, got {size}")
        self.heads = heads
        self.scale = 1.0 / math.sqrt(size // heads)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.attended = nn.Linear(size, size)
        self.attention_norm = nn.LayerNorm(size)
        self.feedforward = nn.Sequential(nn.Linear(size, feedforward), nn.ReLU(), nn.Linear(feedforward, size))
        self.feedforward_norm = nn.LayerNorm(size)
        # As in nn.MultiheadAttention.
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.attended.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Let every channel of a set look at the others.

        Parameters
        ----------
        x : (..., C, D)
        mask : (..., C), in [0, 1]
            Weight of each channel as a key. At 0 a channel contributes exactly nothing to the others, and it gets there
            without a step.

        Returns
        -------
        (..., C, D)
            Finite for every mask; a set that is masked altogether is treated as if it was not masked.
        """
        query, key, value = self.query_key_value(x).unflatten(-1, [3, self.heads, -1]).transpose(-4, -2).unbind(-3)
        # Attention of channel i to channel j, with s_ij = q_i k_j / sqrt(d):
        #     a_ij = m_j exp(s_ij) / sum_l m_l exp(s_il) = softmax_j(s_ij + log m_j)
        # where log 0 = -inf makes it exactly 0, unless all are masked: that would be 0 / 0.
        alive = mask.amax(-1, keepdim=True) > 0
        bias = torch.where(alive, mask.log(), 0.0)[..., None, None, :]
        attention = torch.softmax(query @ key.transpose(-2, -1) * self.scale + bias, dim=-1)
        x = self.attention_norm(x + self.attended((attention @ value).transpose(-3, -2).flatten(-2)))
        return self.feedforward_norm(x + self.feedforward(x))
