import numpy as np
import pytest
import torch
from torch import nn

from alm_plugin.models.encoder import VGGish
from alm_plugin.models.winograd import TAPS, TILE, WinogradVGGish, transforms


def lively(width, seed=0):
    torch.manual_seed(seed)
    encoder = VGGish(width, 32, final_relu=False)
    for layer in encoder.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            layer.bias = nn.Parameter(0.3 * torch.randn(len(layer.weight)))
    return encoder.eval().requires_grad_(False)


def test_the_transforms_correlate(rng):
    of_samples, of_weights, of_results = transforms()
    for _ in range(20):
        samples, weights = rng.normal(size=TILE + TAPS - 1), rng.normal(size=TAPS)
        plain = [sum(weights[k] * samples[j + k] for k in range(TAPS)) for j in range(TILE)]
        np.testing.assert_allclose(of_results @ ((of_weights @ weights) * (of_samples @ samples)), plain, atol=1e-12)


@pytest.mark.parametrize("width", [1 / 16, 0.1, 0.25])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_embeds_what_the_encoder_embeds(width, batch):
    encoder = lively(width).double()
    patches = torch.randn(batch, 96, 64, dtype=torch.float64)
    # Where edges, corners and the order of positions would show: all is silence but there.
    patches[0, :4] += 5.0
    patches[0, :, -3:] -= 5.0
    want = encoder(patches)
    assert want.std() > 0.1
    torch.testing.assert_close(WinogradVGGish(encoder)(patches), want, rtol=0, atol=1e-11)


def test_rounds_as_little_as_plain_sums():
    encoder, errors = lively(0.5), {"plain": [], "ours": []}
    for seed in range(3):
        patches = 1.5 * torch.randn(2, 96, 64, generator=torch.Generator().manual_seed(seed)) - 2.0
        exact = encoder.double()(patches.double())
        for name, network in (("plain", encoder.float()), ("ours", WinogradVGGish(encoder.float()))):
            errors[name].append(float((network(patches) - exact).abs().max() / exact.abs().max()))
    assert np.mean(errors["ours"]) < 3.0 * np.mean(errors["plain"])
    assert max(errors["ours"]) < 3e-6
