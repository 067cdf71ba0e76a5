"""Account of how loud a channel is, kept by a network: what turns its outputs into gains."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alm_plugin.features.levels import OFFSET_LU

OUTPUTS = 3
"""Numbers a network gives per channel and frame: where the channel belongs, how much to write, how much to forget."""

SUMS = 3
"""Numbers in a channel's memory: sums of power, of offset and of weight."""


# What a channel's loudness is, is a question of when it plays and when its microphone only hears the others. So the
# network says, frame by frame, how much to write (w), how much to forget (f), and where the channel belongs (o, LUFS):
#
#     memory = keep * memory + w * (power, o, 1)          keep = e^(-frame / 60 s) (1 - f)
#     gain   = O - L,    O = sum w o / sum w,    L = -0.691 + 10 log10(sum w power / sum w)
#
# A channel that is 10 dB louder gets 10 dB less by construction, in silence and under bleed the gain holds (w = 0), and
# moves become smaller the longer a channel has been heard (1/n averaging).
class LoudnessMemory(nn.Module):
    """Gains from outputs and levels; it has no weights of its own.

    Parameters
    ----------
    frame_s : float
        Seconds per frame.

    Attributes
    ----------
    fade : float
        Factor by which a memory fades in a frame in any case, in a minute to 1/e; a network may forget faster.
    most_forget : float
        Most that a network can forget per frame: at 50 ms, what it knew fades within a second or two.
    least_write : float
        Weight of a frame that the network does not want to remember, so that there is always an answer.
    typical_lufs : float
        Where a channel stands in a mix before anything has been learnt.
    rise_db, fall_db : float
        Most that a gain moves in a frame. Up slowly: who has not played yet is heard as the bleed in his microphone,
        and his entry must not find the gain that would make that loud.
    least_db, most_db : float
        Bounds of the gain.
    start_db : float
        Gain before anything has been heard: nobody knows how hot the inputs are, and all of a band at 0 dB clips.
    earned_db : float
        How far above that a gain may rise for every frame's weight in the memory: who has hardly been heard is not
        turned up for what may be his neighbours.
    """

    def __init__(self, frame_s: float) -> None:
        super().__init__()
        self.fade = math.exp(-frame_s / 60.0)
        self.least_write, self.most_forget = 1e-3, 0.05
        self.typical_lufs, self.scale_lu = -32.0, 10.0
        self.rise_db, self.fall_db = 1.0, 2.5
        self.least_db, self.most_db, self.start_db, self.earned_db = -43.0, 30.0, -12.0, 1.0
        self.sums, self.offset_lu = SUMS, OFFSET_LU

    def fresh(self, like: Tensor) -> dict[str, Tensor]:
        """Memory of nothing for as many channels as `like` (C, ...) has rows."""
        channels = like.shape[0]
        return {"memory": like.new_zeros((channels, self.sums)), "gain_db": like.new_full((channels,), self.start_db)}

    def forward(
        self, outputs: Tensor, power: Tensor, mask: Tensor, memory: Tensor, last_db: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take in one frame.

        Parameters
        ----------
        outputs : (..., 3)
        power : (...)
            K-weighted mean square.
        mask : (...)
            Where it is 0, memory and gain stay as they are.
        memory : (..., 3)
        last_db : (...)
            The last frame's gains.

        Returns
        -------
        gain_db : (...)
        memory : (..., 3)
        """
        offset, write, forget = outputs.unbind(-1)
        write = self.least_write + (1.0 - self.least_write) * torch.sigmoid(write + 1.0)
        keep = self.fade * (1.0 - self.most_forget * torch.sigmoid(forget - 4.0))
        offset = self.typical_lufs + self.scale_lu * offset
        new = write.unsqueeze(-1) * torch.stack([power + 1e-9, offset, torch.ones_like(power)], -1)
        following = keep.unsqueeze(-1) * memory + new
        total, offsets, weight = following.unbind(-1)
        wanted = offsets / weight - 10.0 * torch.log10(total / weight) - self.offset_lu
        wanted = wanted.clamp(self.least_db, self.most_db)
        wanted = torch.minimum(wanted, self.start_db + self.earned_db * weight)
        gain_db = last_db + (wanted - last_db).clamp(-self.fall_db, self.rise_db)
        active = mask > 0
        return torch.where(active, gain_db, last_db), torch.where(active.unsqueeze(-1), following, memory)
