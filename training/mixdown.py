"""The mixer's own gain and sum as a differentiable operation.

Forward is the kernel that inference runs, `alm_plugin.nodes.gain.multiply`; backward is its adjoint, derived below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from alm_plugin.features.clock import ModelClock
from alm_plugin.nodes.gain import factor_at, multiply
from alm_plugin.units import ms_to_samples


def mixdown(inputs: Tensor, gain_db: Tensor, clock: ModelClock, sample_rate: int, first_db: Tensor) -> Tensor:
    """Mix channels with gain curves, as `alm_plugin.mixer.Mixer` does.

    Parameters
    ----------
    inputs : (B, C, samples) float32
    gain_db : (B, C, T)
        Gain each frame ends on; T frames of `clock` last at least as long as the inputs.
    clock : ModelClock
    sample_rate : int
    first_db : (B, C)
        Gain that the first frame begins with.

    Returns
    -------
    (B, samples)
        Differentiable with respect to `gain_db`.
    """
    factors = 10.0 ** (torch.cat([first_db.unsqueeze(-1), gain_db], -1) / 20.0)
    return _Mixdown.apply(inputs, factors, clock, sample_rate)  # pyright: ignore[reportReturnType]


class _Mixdown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, factors: Tensor, clock: ModelClock, sample_rate: int) -> Tensor:
        x, f = inputs.detach().numpy(), factors.detach().double().numpy()
        frames = f.shape[-1] - 1
        bounds = np.array([clock.boundary(n, sample_rate) for n in range(frames + 1)])
        delay, ramp = (ms_to_samples(ms, sample_rate) for ms in (clock.slack_ms, clock.ramp_ms))
        mix = np.zeros((x.shape[0], x.shape[2]), np.float32)
        _mix(x, f, bounds, delay, max(1, ramp), mix)
        ctx.saved = (x, bounds, delay, max(1, ramp), factors.dtype)
        return torch.from_numpy(mix)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        x, bounds, delay, ramp, dtype = ctx.saved
        out = np.zeros((x.shape[0], x.shape[1], len(bounds)))
        _adjoint(x, np.ascontiguousarray(gradients[0].numpy()), bounds, delay, ramp, out)
        return None, torch.from_numpy(out).to(dtype), None, None


@njit(cache=True, nogil=True)
def _mix(x, factors, bounds, delay, ramp, mix):
    batch, channels, samples = x.shape
    longest = 0
    for n in range(len(bounds) - 1):
        longest = max(longest, bounds[n + 1] - bounds[n])
    scratch = np.empty((channels, longest), np.float32)
    for b in range(batch):
        for n in range(len(bounds) - 1):
            start, stop = bounds[n], min(bounds[n + 1], samples)
            if start >= stop:
                break
            for c in range(channels):
                multiply(
                    x[b, c : c + 1, start:stop],
                    factors[b, c, n],
                    factors[b, c, n + 1],
                    -delay,
                    ramp,
                    scratch[c : c + 1],
                )
                for i in range(stop - start):
                    mix[b, start + i] += scratch[c, i]


# In frame n, with p(t) = clip((t - delay) / ramp, 0, 1) of its sample t,
#     mix(t) = sum_c x_c(t) (F_c[n] (1 - p) + F_c[n + 1] p)
# so the gradient with respect to F_c[n] collects x_c(t) (1 - p) dmix(t) from this frame and x_c(t) p dmix(t) from the
# one before it. `factor_at` between 0 and 1 is p.
@njit(cache=True, nogil=True)
def _adjoint(x, gradient, bounds, delay, ramp, out):
    batch, channels, samples = x.shape
    for b in range(batch):
        for n in range(len(bounds) - 1):
            start, stop = bounds[n], min(bounds[n + 1], samples)
            for c in range(channels):
                before, after = 0.0, 0.0
                for i in range(start, stop):
                    p = factor_at(0.0, 1.0, i - start - delay, ramp)
                    value = np.float64(x[b, c, i]) * gradient[b, i]
                    before += value * (1.0 - p)
                    after += value * p
                out[b, c, n] += before
                out[b, c, n + 1] += after
