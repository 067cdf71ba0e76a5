"""Account of how loud a channel is, kept by a network: what turns its outputs into gains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
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
    write_bias, forget_bias : float
        Logits of both where a network says 0.
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
    loudest_lufs : float
        No frame of a channel belongs louder than that in a mix: who comes in far too loud is turned down at once, and
        not only as far as one frame among many moves a mean.
    """

    def __init__(self, frame_s: float) -> None:
        super().__init__()
        self.fade = math.exp(-frame_s / 60.0)
        self.least_write, self.most_forget = 1e-3, 0.05
        self.write_bias, self.forget_bias = 1.0, -4.0
        self.typical_lufs, self.scale_lu = -32.0, 10.0
        self.rise_db, self.fall_db = 1.0, 2.5
        self.least_db, self.most_db, self.start_db, self.earned_db = -43.0, 30.0, -12.0, 1.0
        self.loudest_lufs = -14.0
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
        write, keep, offset = self.read(outputs)
        new = write.unsqueeze(-1) * torch.stack([power + 1e-9, offset, torch.ones_like(power)], -1)
        following = keep.unsqueeze(-1) * memory + new
        total, offsets, weight = following.unbind(-1)
        wanted = offsets / weight - 10.0 * torch.log10(total / weight) - self.offset_lu
        wanted = wanted.clamp(self.least_db, self.most_db)
        wanted = torch.minimum(wanted, self.start_db + self.earned_db * weight)
        loudest = self.loudest_lufs - self.offset_lu - 10.0 * torch.log10(power + 1e-9)
        wanted = torch.minimum(wanted, loudest.clamp(min=self.least_db))
        gain_db = last_db + (wanted - last_db).clamp(-self.fall_db, self.rise_db)
        active = mask > 0
        return torch.where(active, gain_db, last_db), torch.where(active.unsqueeze(-1), following, memory)

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split `outputs` (..., 3) into weight to write with, factor to keep and offset in LUFS, each (...)."""
        offset, write, forget = outputs.unbind(-1)
        # Squared: of what is its neighbours' a network writes down a sixth, and half a minute of that is a lot.
        write = self.least_write + (1.0 - self.least_write) * torch.sigmoid(write + self.write_bias).square()
        keep = self.fade * (1.0 - self.most_forget * torch.sigmoid(forget + self.forget_bias))
        return write, keep, self.typical_lufs + self.scale_lu * offset

    @torch.jit.unused
    def stretch(
        self, outputs: Tensor, power: Tensor, mask: Tensor, memory: Tensor, last_db: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take in many frames, for training: `forward` for one after the other, at a fraction of the time.

        Parameters
        ----------
        outputs : (..., T, 3)
        power, mask : (..., T)
        memory : (..., 3)
        last_db : (...)

        Returns
        -------
        gain_db : (..., T)
        memory : (..., 3)
            Gradients do not pass through it.
        """
        bounds = (self.least_db, self.most_db, self.start_db, self.earned_db, self.rise_db, self.fall_db)
        limits = np.array([*bounds, self.loudest_lufs, self.offset_lu])
        return _Stretch.apply(*self.read(outputs), power + 1e-9, mask, memory, last_db, limits)  # pyright: ignore[reportReturnType]


class _Stretch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        write: Tensor,
        keep: Tensor,
        offset: Tensor,
        power: Tensor,
        mask: Tensor,
        memory: Tensor,
        last_db: Tensor,
        limits: np.ndarray,
    ) -> tuple[Tensor, Tensor]:
        shape = write.shape
        given = torch.stack([x.detach().double() for x in (write, keep, offset, power, mask)])
        given = given.reshape(5, -1, shape[-1]).numpy()
        sums = np.empty((given.shape[1], shape[-1] + 1, SUMS))
        sums[:, 0] = memory.detach().double().reshape(-1, SUMS).numpy()
        gain_db, free = np.empty(given.shape[1:]), np.empty(given.shape[1:], np.uint8)
        _account(given, sums, last_db.detach().double().reshape(-1).numpy(), limits, gain_db, free)
        ctx.saved = (given, sums, limits[3], free, shape, write.dtype)
        after = torch.from_numpy(sums[:, -1].copy()).to(memory.dtype).reshape(memory.shape)
        ctx.mark_non_differentiable(after)
        return torch.from_numpy(gain_db).to(last_db.dtype).reshape(shape), after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given, sums, earned_db, free, shape, dtype = ctx.saved
        came = np.ascontiguousarray(gradients[0].double().reshape(-1, shape[-1]).numpy())
        back = np.zeros((3, *came.shape))
        _adjoint(given, sums, earned_db, free, came, back)
        return (*torch.from_numpy(back).to(dtype).reshape(3, *shape), *[None] * 5)


HELD, BOUND, EARNING, WANTED = range(4)
"""What a frame's gain depends on: the last gain, nothing, the weight in the memory, or all of the memory."""


@njit(cache=True, nogil=True)
def _account(given, sums, last_db, limits, gain_db, free):
    write, keep, offset, power, mask = given
    least_db, most_db, start_db, earned_db, rise_db, fall_db, loudest_lufs, offset_lu = limits
    for n in range(write.shape[0]):
        last = last_db[n]
        for t in range(write.shape[1]):
            if mask[n, t] <= 0.0:
                sums[n, t + 1] = sums[n, t]
                gain_db[n, t], free[n, t] = last, HELD
                continue
            w, k = write[n, t], keep[n, t]
            total = sums[n, t + 1, 0] = k * sums[n, t, 0] + w * power[n, t]
            offsets = sums[n, t + 1, 1] = k * sums[n, t, 1] + w * offset[n, t]
            weight = sums[n, t + 1, 2] = k * sums[n, t, 2] + w
            wanted, on = offsets / weight - 10.0 * np.log10(total / weight) - offset_lu, WANTED
            if not least_db <= wanted <= most_db:
                wanted, on = min(max(wanted, least_db), most_db), BOUND
            earned = start_db + earned_db * weight
            if earned < wanted:
                wanted, on = earned, EARNING
            loudest = max(least_db, loudest_lufs - offset_lu - 10.0 * np.log10(power[n, t]))
            if loudest < wanted:
                wanted, on = loudest, BOUND
            if wanted > last + rise_db:
                last += rise_db
                free[n, t] = HELD
            elif wanted < last - fall_db:
                last -= fall_db
                free[n, t] = HELD
            else:
                last, free[n, t] = wanted, on
            gain_db[n, t] = last


# With S = (P, O, W) after a frame, d the gradient with respect to its gain g, and D that with respect to S from behind:
#
#     g = O / W - 10 log10(P / W)    D += d (-10 / (ln 10 P),  1 / W,  -O / W^2 + 10 / (ln 10 W))
#     g = start + earned W           D += d (0, 0, earned)
#     g = last +- limit, or held     d passes to the last gain
#     S = k S' + w (p, o, 1)         dw = D . (p, o, 1)    do = D_O w    dk = D . S'    D' = k D
@njit(cache=True, nogil=True)
def _adjoint(given, sums, earned_db, free, came, back):
    write, keep, offset, power, mask = given
    to_write, to_keep, to_offset = back
    decade = 10.0 / np.log(10.0)
    for n in range(write.shape[0]):
        d, back_p, back_o, back_w = 0.0, 0.0, 0.0, 0.0
        for t in range(write.shape[1] - 1, -1, -1):
            d += came[n, t]
            if mask[n, t] <= 0.0:
                continue
            total, offsets, weight = sums[n, t + 1]
            if free[n, t] == WANTED:
                back_p -= d * decade / total
                back_o += d / weight
                back_w += d * (decade / weight - offsets / (weight * weight))
            elif free[n, t] == EARNING:
                back_w += d * earned_db
            if free[n, t] != HELD:
                d = 0.0
            w, k = write[n, t], keep[n, t]
            to_write[n, t] = back_p * power[n, t] + back_o * offset[n, t] + back_w
            to_offset[n, t] = back_o * w
            to_keep[n, t] = back_p * sums[n, t, 0] + back_o * sums[n, t, 1] + back_w * sums[n, t, 2]
            back_p, back_o, back_w = k * back_p, k * back_o, k * back_w
