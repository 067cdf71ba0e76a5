import numpy as np
import pytest
import torch

from alm_plugin import Mixer, Strip
from alm_plugin.features.clock import MULTI_RATE, ModelClock
from alm_plugin.stream import Automation
from alm_plugin.units import ms_to_samples
from training.mixdown import mixdown

RATES = (24_000, 44_100)
CLOCKS = {"mr": MULTI_RATE, "no-slack": ModelClock(slack_ms=0, ramp_ms=50), "late": ModelClock(slack_ms=45, ramp_ms=5)}


def case(batch, channels, frames, sample_rate, seed=0, dtype=torch.float64, cut=7):
    rng = np.random.default_rng(seed)
    samples = MULTI_RATE.boundary(frames, sample_rate) - cut
    inputs = torch.from_numpy(0.2 * rng.standard_normal((batch, channels, samples)).astype(np.float32))
    gain_db = torch.from_numpy(rng.uniform(-20.0, 6.0, (batch, channels, frames))).to(dtype)
    first_db = torch.from_numpy(rng.uniform(-20.0, 6.0, (batch, channels))).to(dtype)
    return inputs, gain_db, first_db


def slow(inputs, gain_db, first_db, clock, sample_rate):
    """The same mix, sample by sample, in torch's own differentiable operations and double precision."""
    factors = 10.0 ** (torch.cat([first_db[..., None], gain_db], -1).double() / 20.0)
    samples = inputs.shape[-1]
    delay, ramp = (ms_to_samples(ms, sample_rate) for ms in (clock.slack_ms, clock.ramp_ms))
    frame, place = [], []
    for n in range(gain_db.shape[-1]):
        start = -(-n * sample_rate * clock.f2_ms // 1000)
        stop = min(-(-(n + 1) * sample_rate * clock.f2_ms // 1000), samples)
        for i in range(start, stop):
            frame.append(n)
            place.append(min(max((i - start - delay) / ramp, 0.0), 1.0))
    frame, p = torch.tensor(frame), torch.tensor(place, dtype=torch.float64)
    curve = factors[..., frame] * (1.0 - p) + factors[..., frame + 1] * p
    return (inputs.double() * curve).sum(1)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("sample_rate", [*RATES, 11_025])
def test_it_is_the_mix_of_a_slow_twin(sample_rate, clock):
    inputs, gain_db, first_db = case(2, 3, 9, sample_rate)
    mix = mixdown(inputs, gain_db, clock, sample_rate, first_db)
    assert mix.dtype == torch.float32
    expected = slow(inputs, gain_db, first_db, clock, sample_rate)
    torch.testing.assert_close(mix.double(), expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sample_rate", RATES)
def test_it_is_the_mix_of_the_mixer(sample_rate, dtype):
    inputs, gain_db, _ = case(1, 4, 12, sample_rate, 1, torch.float32)
    gain_db[0, 2, 3:8] = gain_db[0, 2, 3]  # one that stays where it is
    names = ["a", "b", "c", "d"]
    times_s = np.array([MULTI_RATE.boundary(n, sample_rate) for n in range(12)]) / sample_rate
    curves = Automation(times_s, {name: gain_db[0, c].numpy() for c, name in enumerate(names)})
    mixer = Mixer({name: Strip() for name in names}, "unity", 1, ceiling_db=None, automation=curves)
    played = mixer.process(inputs[0].numpy(), sample_rate)[0]
    # The mixer begins where its curve does.
    mix = mixdown(inputs, gain_db.to(dtype), MULTI_RATE, sample_rate, gain_db[..., 0].to(dtype))[0]
    assert np.abs(played).max() > 0.1
    np.testing.assert_allclose(mix.numpy(), played, rtol=0, atol=1e-6)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("sample_rate", RATES)
def test_its_gradient_is_that_of_the_slow_twin(sample_rate, clock):
    inputs, gain_db, first_db = case(2, 3, 7, sample_rate, 2)
    direction = torch.randn(inputs.shape[0], inputs.shape[2], generator=torch.Generator().manual_seed(3))
    gradients = []
    for mix in (mixdown, None):
        leaves = gain_db.clone().requires_grad_(), first_db.clone().requires_grad_()
        if mix is None:
            result = slow(inputs, *leaves, clock, sample_rate) * direction.double()
        else:
            result = mixdown(inputs, leaves[0], clock, sample_rate, leaves[1]) * direction
        result.sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
        assert expected.abs().min() > 1e-5


def test_its_gradient_is_what_a_small_step_makes():
    # The mix is linear in each factor: so large a step that float32 sums do not matter is exact, in the factor.
    inputs, gain_db, first_db = case(1, 2, 5, 24_000, 4)
    direction = torch.randn(1, inputs.shape[2], generator=torch.Generator().manual_seed(5)).double()
    leaf = gain_db.clone().requires_grad_()

    def along(gains):
        return (mixdown(inputs, gains, MULTI_RATE, 24_000, first_db).double() * direction).sum()

    along(leaf).backward()
    for c in range(2):
        for t in range(5):
            up, down = gain_db.clone(), gain_db.clone()
            up[0, c, t] += 0.05
            down[0, c, t] -= 0.05
            slope = (along(up) - along(down)) / 0.1
            assert leaf.grad[0, c, t].item() == pytest.approx(slope.item(), rel=1e-3, abs=2e-4), (c, t)


def test_gradients_in_single_precision_are_usable():
    inputs, gain_db, first_db = case(2, 3, 6, 24_000, 6, torch.float32)
    leaf = gain_db.clone().requires_grad_()
    mixdown(inputs, leaf, MULTI_RATE, 24_000, first_db).square().mean().backward()
    twin = gain_db.double().requires_grad_()
    slow(inputs, twin, first_db, MULTI_RATE, 24_000).square().mean().backward()
    assert leaf.grad.dtype == torch.float32
    torch.testing.assert_close(leaf.grad.double(), twin.grad, rtol=1e-4, atol=1e-8)


def test_gains_after_the_end_change_nothing():
    inputs, gain_db, first_db = case(1, 2, 6, 24_000, 7, cut=2 * 1200 + 5)
    leaf = gain_db.clone().requires_grad_()
    mix = mixdown(inputs, leaf, MULTI_RATE, 24_000, first_db)
    mix.sum().backward()
    assert mix.shape == (1, 4 * 1200 - 5)
    assert (leaf.grad[..., 4:] == 0.0).all()
    assert (leaf.grad[..., :4] != 0.0).all()
