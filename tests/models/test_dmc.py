import pytest
import torch
from torch import nn

from alm_plugin.errors import ParameterError
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock
from alm_plugin.models.dmc import DMC


def small(clock=SINGLE_RATE, **arguments):
    return DMC(0.0625, 32, clock=clock, **arguments)


def lively(network):
    """Give a small network weights with which every input moves the gains by several dB."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
    nn.init.normal_(network.mlp[-1].weight, 0.0, 0.03)
    return network.eval()


def song(channels, frames, clock, dtype):
    """Random patches (C, K, 96, 64), levels (C, T, 3), and a mask (C, T) that goes on and off."""
    random = torch.Generator().manual_seed(1)
    patches = 2.0 * torch.randn(channels, -(-frames // clock.stride_frames), 96, 64, generator=random, dtype=dtype)
    on = torch.rand(channels, -(-frames // 5), generator=random, dtype=dtype)
    mask = torch.where(on < 0.4, 0.0, on).repeat_interleave(5, 1)[:, :frames]
    return patches, torch.rand(channels, frames, 3, generator=random, dtype=dtype), mask


def stream(network, patches, levels, mask):
    """Gains (C, T) frame by frame, as the live worker does it: the network sees active channels only."""
    stride, lag = network.clock.stride_frames, network.clock.embedding_lag
    embedding = torch.zeros(len(mask), 256, dtype=patches.dtype)
    gains = torch.zeros_like(mask)
    on_its_way = {}
    for frame in range(mask.shape[1]):
        active = mask[:, frame] > 0
        if not active.any():
            assert frame % stride
            assert frame not in on_its_way
            continue
        if frame % stride == 0:
            rows = network.embed(patches[active, frame // stride], mask[active, frame])
            on_its_way[frame + lag] = (active, rows)
        if frame in on_its_way:
            renewed, rows = on_its_way.pop(frame)
            embedding[renewed] = rows
        gains[active, frame] = network.step(embedding[active], levels[active, frame], mask[active, frame], {})[0]
    return gains


CLOCKS = [SINGLE_RATE, MULTI_RATE, ModelClock(f1_stride_ms=100, embedding_lag=3)]


@torch.no_grad()
@pytest.mark.parametrize("clock", CLOCKS, ids=["sr", "mr", "stride-2-lag-3"])
def test_parallel_is_streaming(clock):
    network = lively(small(clock)).double()
    parts = song(6, 61, clock, torch.float64)
    streamed = stream(network, *parts)
    assert streamed[streamed != 0].std() > 2.0
    torch.testing.assert_close(network(*(part[None] for part in parts))[0], streamed, rtol=0, atol=1e-9)


@torch.no_grad()
def test_parallel_is_streaming_in_single_precision():
    network = lively(small())
    network.mlp[-1].weight.mul_(0.2)
    parts = song(6, 100, SINGLE_RATE, torch.float32)
    streamed = stream(network, *parts)
    assert streamed[streamed != 0].std() > 0.5
    torch.testing.assert_close(network(*(part[None] for part in parts))[0], streamed, rtol=0, atol=1e-5)


@torch.no_grad()
def test_embedding_is_own_and_weighted_mean():
    network = lively(small())
    patches, mask = 2.0 * torch.randn(4, 96, 64), torch.tensor([1.0, 0.5, 0.0, 1.0])
    own = network.encoder(patches)
    embedding = network.embed(patches, mask)
    assert embedding.shape == (4, 256)
    assert torch.equal(embedding[:, :128], own)
    expected = (own[0] + 0.5 * own[1] + own[3]) / 2.5
    torch.testing.assert_close(embedding[:, 128:], expected.expand(4, -1), rtol=1e-5, atol=1e-6)
    assert (embedding[0, 128:] - own.mean(0)).abs().max() > 0.01


@torch.no_grad()
def test_masked_channels_change_nothing_and_stay_at_0_db():
    network = lively(small()).double()
    patches = 2.0 * torch.randn(5, 96, 64, dtype=torch.float64)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.3], dtype=torch.float64)
    active = mask > 0
    nothing = torch.zeros(5, 3, dtype=torch.float64)
    gain_db, state = network.step(network.embed(patches, mask), nothing, mask, network.initial_state(5))
    assert state == {}
    assert (gain_db[~active] == 0.0).all()
    alone = network.embed(patches[active], mask[active])
    expected, _ = network.step(alone, nothing[active], mask[active], {})
    assert expected.std() > 1.0
    torch.testing.assert_close(gain_db[active], expected, rtol=0, atol=1e-9)
    assert network.embed(patches, 0.0 * mask).isfinite().all()


@torch.no_grad()
def test_follows_a_permutation_and_ignores_levels():
    network = lively(small())
    patches, mask, order = 2.0 * torch.randn(4, 96, 64), torch.ones(4), torch.tensor([2, 0, 3, 1])
    gain_db, _ = network.step(network.embed(patches, mask), torch.rand(4, 3), mask, {})
    moved, _ = network.step(network.embed(patches[order], mask), torch.rand(4, 3), mask, {})
    torch.testing.assert_close(moved, gain_db[order], rtol=0, atol=1e-5)


def test_parameter_count_and_unknown_gain():
    assert sum(parameter.numel() for parameter in DMC().mlp.parameters()) == 2 * (256 * 256 + 256) + 257 + 2
    with pytest.raises(ParameterError, match="gain must be one of exp, relu, got 'dB'"):
        small(gain="dB")
    assert DMC().clock == SINGLE_RATE
    assert small(MULTI_RATE).config()["clock"]["f2_ms"] == 50
