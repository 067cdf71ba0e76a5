"""What is wrong with a mix, as numbers to make small."""

from __future__ import annotations

from dataclasses import dataclass

import auraloss
import torch
from torch import Tensor

from alm_plugin.models.roles import GROUPS, ROLE_GROUP

from .heard import Heard
from .song import SAMPLE_RATE

VOCALS = torch.tensor([GROUPS[g] == "vocals" for g in ROLE_GROUP] + [False])
"""By role code; the last is that of no role."""

HUBER_DB = 1.0
RESTING = 0.3
"""Weight of a channel in frames in which it does not play: its gain should hold where it belongs."""

UNHEARD = 0.3
"""Weight of a gain above the true one before a channel has ever played: none can know it, but must not boost it."""


@dataclass(frozen=True)
class GainLoss:
    """Parts of `gain_loss`, each a mean in dB.

    Attributes
    ----------
    error : Tensor
        Distance from the true gains.
    vocals : Tensor
        Distance of the vocals' mean error from the band's, songs that have both.
    roughness : Tensor
        How far gains move per frame.
    memory : Tensor
        Cross entropy, in nats, between what a loudness memory writes down and the share of the sound that is the
        channel's own playing; 0 for networks without one.
    """

    error: Tensor
    vocals: Tensor
    roughness: Tensor
    memory: Tensor


def gain_loss(gain_db: Tensor, heard: Heard, start: int = 0, write: Tensor | None = None) -> GainLoss:
    """Compare gains with the truth.

    Parameters
    ----------
    gain_db : (B, C, T)
        As a network returns them: entry t is meant for frame ``start + t + 1``.
    heard : Heard
        A batch.
    start : int
        Frame of the batch that `gain_db` begins with.
    write : (B, C, T), optional
        Logits of what a memory writes down in frames ``start + t``.
    """
    frames = min(gain_db.shape[-1], heard.true_gain_db.shape[-1] - start - 1)
    window = slice(start + 1, start + 1 + frames)
    gain_db = gain_db[..., :frames]
    error_db = gain_db - heard.true_gain_db[..., window]
    # Masked frames hold the last gain whatever a network says.
    active = (heard.mask[..., window] > 0) & (heard.roles >= 0).unsqueeze(-1)
    entered = heard.playing.int().cummax(-1).values[..., window].bool()
    plays = heard.playing.any(-1, keepdim=True)
    weight = torch.where(heard.playing[..., window], 1.0, RESTING) * (active & entered)
    wait = UNHEARD * (active & ~entered & plays)
    size = torch.nn.functional.huber_loss(error_db, torch.zeros_like(error_db), reduction="none", delta=HUBER_DB)
    too_loud = torch.relu(error_db)
    error = (weight * size + wait * too_loud).sum() / (weight + wait).sum().clamp(min=1.0)

    singing = VOCALS[heard.roles].unsqueeze(-1)
    means = []
    for members in (weight * singing, weight * ~singing):
        total = members.sum(1)
        means.append(((members * error_db).sum(1) / total.clamp(min=1e-6), total > 0))
    (voice, sung), (band, played) = means
    both = sung & played
    vocals = ((voice - band).abs() * both).sum() / both.sum().clamp(min=1)

    moves = (gain_db[..., 1:] - gain_db[..., :-1]).abs() * active[..., 1:]
    roughness = moves.sum() / active[..., 1:].sum().clamp(min=1)

    memory = torch.zeros(())
    if write is not None:
        window = slice(start, start + write.shape[-1])
        own = torch.where(heard.playing[..., window], heard.own_share[..., window], 0.0)
        listens = (heard.mask[..., window] > 0) & (heard.roles >= 0).unsqueeze(-1)
        each = torch.nn.functional.binary_cross_entropy_with_logits(write, own, reduction="none")
        memory = (each * listens).sum() / listens.sum().clamp(min=1)
    return GainLoss(error, vocals, roughness, memory)


def multi_resolution_stft(sample_rate: int = SAMPLE_RATE) -> torch.nn.Module:
    """Loss between mixes (B, 1, samples): windows of 10, 20 and 80 ms, hops of a quarter (AiLive Mixer, section 4)."""
    windows = [round(sample_rate * ms / 1000) for ms in (10, 20, 80)]
    return auraloss.freq.MultiResolutionSTFTLoss(
        fft_sizes=[2 ** (w - 1).bit_length() for w in windows],
        hop_sizes=[w // 4 for w in windows],
        win_lengths=windows,
    )
