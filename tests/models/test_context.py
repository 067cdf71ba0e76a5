import math

import pytest
import torch
from torch import nn

from alm_plugin.errors import ParameterError
from alm_plugin.models.context import ContextBlock


@pytest.fixture
def block():
    torch.manual_seed(2)
    block = ContextBlock(32, 2, 48)
    with torch.no_grad():
        # Sharp attention: at its initial weights a transformer attends almost evenly, and hides mistakes.
        block.query_key_value.weight.mul_(2.5)
        for parameter in block.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return block.double()


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def twin_of(block):
    """PyTorch's own layer with the same weights."""
    size, heads = block.attended.in_features, block.heads
    twin = nn.TransformerEncoderLayer(size, heads, block.feedforward[0].out_features, 0.0, batch_first=True).double()
    ours = block.state_dict()
    names = {
        "self_attn.in_proj_": "query_key_value.",
        "self_attn.out_proj.": "attended.",
        "linear1.": "feedforward.0.",
        "linear2.": "feedforward.2.",
        "norm1.": "attention_norm.",
        "norm2.": "feedforward_norm.",
    }
    twin.load_state_dict({theirs + w: ours[own + w] for theirs, own in names.items() for w in ("weight", "bias")})
    return twin


def test_is_pytorchs_layer_where_masks_are_0_or_1(block):
    x = randn(5, 7, 32)
    mask = torch.ones(5, 7, dtype=torch.float64)
    mask[1, 3], mask[2, :6], mask[3, ::2] = 0, 0, 0
    expected = twin_of(block)(x, src_key_padding_mask=mask == 0)
    torch.testing.assert_close(block(x, mask), expected, rtol=1e-10, atol=1e-10)
    unmasked = block(x, torch.ones_like(mask))
    assert (unmasked - expected)[1:4].abs().max() > 0.05


@torch.no_grad()
def test_soft_mask_weighs_keys(block):
    x, mask = randn(6, 32), torch.tensor([1.0, 0.5, 0.0, 0.01, 1.0, 0.9], dtype=torch.float64)
    query, key, value = (part.view(6, 2, 16) for part in block.query_key_value(x).split(32, -1))
    mixed = torch.zeros(6, 2, 16, dtype=torch.float64)
    for i in range(6):
        for head in range(2):
            weights = [mask[j] * math.exp(query[i, head] @ key[j, head] / 4.0) for j in range(6)]
            for j in range(6):
                mixed[i, head] += weights[j] / sum(weights) * value[j, head]
    expected = block.attention_norm(x + block.attended(mixed.view(6, 32)))
    expected = block.feedforward_norm(expected + block.feedforward(expected))
    torch.testing.assert_close(block(x, mask), expected, rtol=1e-10, atol=1e-10)


def test_follows_a_permutation(block):
    block.float()
    x, mask, order = torch.randn(3, 9, 32), torch.rand(3, 9), torch.randperm(9)
    torch.testing.assert_close(block(x[:, order], mask[:, order]), block(x, mask)[:, order], rtol=0, atol=1e-5)


def test_masked_channel_contributes_exactly_nothing(block):
    block.float()
    x, mask = torch.randn(6, 32), torch.tensor([1.0, 1.0, 0.0, 0.7, 1.0, 0.0])
    active = mask > 0
    disturbed = torch.where(active[:, None], x, 1e3 * torch.randn_like(x))
    assert torch.equal(block(disturbed, mask)[active], block(x, mask)[active])
    torch.testing.assert_close(block(x[active], mask[active]), block(x, mask)[active], rtol=0, atol=1e-6)


def test_fading_out_makes_no_step(block):
    x = randn(4, 32)
    fade = torch.cat([torch.linspace(1, 0, 21), torch.zeros(1)]).double()
    masks = torch.ones(22, 4, dtype=torch.float64)
    masks[:, 2] = fade
    others = block(x.expand(22, -1, -1), masks)[:, [0, 1, 3]]
    whole = (others[0] - others[-1]).abs().max()
    steps = (others[1:] - others[:-1]).abs().amax((1, 2))
    assert whole > 0.1
    # Weight m / (m + rest) of an even fade falls evenly where the rest is heavy, and at most that unevenly here.
    assert steps.max() < 0.2 * whole
    torch.testing.assert_close(others[-1], block(x[[0, 1, 3]], masks[0, :3]), rtol=1e-10, atol=1e-10)


def test_all_masked_is_finite_and_so_are_gradients(block):
    x = randn(2, 3, 32).requires_grad_()
    mask = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    result = block(x, mask)
    assert result.isfinite().all()
    result.square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


@pytest.mark.parametrize(("size", "heads"), [(30, 4), (0, 2), (8, 0)])
def test_size_must_be_a_multiple_of_heads(size, heads):
    with pytest.raises(ParameterError, match=f"size must be a positive multiple of heads = {heads}, got {size}"):
        ContextBlock(size, heads)
