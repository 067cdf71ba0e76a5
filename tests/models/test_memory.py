import math

import numpy as np
import pytest
import torch

from alm_plugin.models.alm import ALM
from alm_plugin.models.files import _torchscript
from alm_plugin.models.memory import LoudnessMemory

FRAME_S = 0.05
OFFSET_LU = -0.691


def outputs(frames, channels=1, belongs=0.0, write=0.0, forget=-30.0, dtype=torch.float64):
    """What a network says that always says the same."""
    return torch.tensor([belongs, write, forget], dtype=dtype).expand(frames, channels, 3).clone()


def power_of(lufs):
    return 10.0 ** ((lufs - OFFSET_LU) / 10.0)


def run(account, said, power, mask=None, state=None):
    """Gains (T, C) frame by frame, and the memory at the end."""
    power = torch.as_tensor(power, dtype=said.dtype).expand(said.shape[:2])
    mask = torch.ones(said.shape[:2], dtype=said.dtype) if mask is None else mask
    state = account.fresh(said[0, :, 0]) if state is None else state
    memory, gain_db, gains = state["memory"], state["gain_db"], []
    for t in range(len(said)):
        gain_db, memory = account(said[t], power[t], mask[t], memory, gain_db)
        gains.append(gain_db)
    return torch.stack(gains), {"memory": memory, "gain_db": gain_db}


def test_a_channel_comes_to_where_it_belongs():
    account = LoudnessMemory(FRAME_S)
    lufs = torch.tensor([-20.0, -45.0, -32.0], dtype=torch.float64)
    said = outputs(400, 3)
    said[:, 2, 0] = 0.5  # 5 LU above the typical
    gains, _ = run(account, said, power_of(lufs))
    expected = torch.tensor([-12.0, 13.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(gains[-1], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("offset_db", [10.0, -10.0, 3.7])
def test_a_louder_input_gets_less_by_as_much(offset_db):
    account = LoudnessMemory(FRAME_S)
    rng = torch.Generator().manual_seed(1)
    said = torch.randn(800, 4, 3, generator=rng, dtype=torch.float64)
    said[..., 2] -= 3.0
    power = power_of(-30.0 + 3.0 * torch.randn(800, 4, generator=rng, dtype=torch.float64))
    gains, _ = run(account, said, power)
    louder, _ = run(account, said, power * 10 ** (offset_db / 10))
    # Where neither climbs or falls as fast as it may.
    settled = slice(100, None)
    torch.testing.assert_close(louder[settled], gains[settled] - offset_db, rtol=0, atol=1e-3)
    assert gains[settled].std() > 0.05


def test_it_is_the_mean_of_what_was_written():
    """A slow, obvious twin: weighted means over everything heard."""
    account = LoudnessMemory(FRAME_S)
    account.rise_db = account.fall_db = 1e9
    rng = np.random.default_rng(2)
    said = rng.normal(size=(60, 1, 3)) + np.array([0.0, 0.0, 2.0])
    power = power_of(rng.uniform(-60.0, -20.0, (60, 1)))
    gains, _ = run(account, torch.from_numpy(said), power)

    def sigmoid(x):
        return 1.0 / (1.0 + math.exp(-x))

    for t in range(60):
        weight = []
        for past in range(t + 1):
            w = 0.001 + 0.999 * sigmoid(said[past, 0, 1] + 1.0) ** 2
            for later in range(past + 1, t + 1):
                w *= math.exp(-0.05 / 60.0) * (1.0 - 0.05 * sigmoid(said[later, 0, 2] - 4.0))
            weight.append(w)
        heard, weight = sum(weight), np.array(weight) / sum(weight)
        belongs = weight @ (-32.0 + 10.0 * said[: t + 1, 0, 0])
        loudness = OFFSET_LU + 10.0 * math.log10(weight @ (power[: t + 1, 0] + 1e-9))
        assert gains[t, 0].item() == pytest.approx(
            min(np.clip(belongs - loudness, -43.0, 30.0), -12.0 + heard), abs=1e-9
        )


def test_it_holds_where_nothing_is_written():
    account = LoudnessMemory(FRAME_S)
    _, state = run(account, outputs(400), power_of(-25.0))
    # Bleed 25 dB under the channel itself, for ten seconds.
    gains, _ = run(account, outputs(200, write=-30.0), power_of(-50.0), state=state)
    assert (gains - state["gain_db"]).abs().max() < 0.01
    # The network need not even say so in a silence: a mask is enough, and then nothing moves at all.
    mask = torch.zeros(200, 1, dtype=torch.float64)
    gains, after = run(account, outputs(200, belongs=3.0), 0.0, mask, state)
    assert (gains == state["gain_db"]).all()
    assert torch.equal(after["memory"], state["memory"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moves_are_limited_whatever_comes(dtype):
    account = LoudnessMemory(FRAME_S)
    rng = torch.Generator().manual_seed(3)
    said = 8.0 * torch.randn(2000, 3, 3, generator=rng, dtype=dtype)
    power = power_of(torch.randint(-120, 20, (2000, 3), generator=rng).to(dtype))
    mask = (torch.rand(2000, 3, generator=rng) > 0.2).to(dtype)
    gains, _ = run(account, said, power, mask)
    moves = torch.diff(gains, dim=0, prepend=account.fresh(gains[0])["gain_db"][None])
    assert moves.max().item() == pytest.approx(1.0, abs=1e-5)
    assert moves.min().item() == pytest.approx(-2.5, abs=1e-5)
    assert gains.min() >= -43.0
    assert gains.max() <= 30.0


def test_bounds_are_reached_and_kept():
    account = LoudnessMemory(FRAME_S)
    for lufs, bound in ((30.0, -43.0), (-95.0, 30.0)):
        gains, _ = run(account, outputs(200), power_of(lufs))
        assert gains[-1].item() == bound


def test_three_hours_do_not_wear_it_out():
    dtype = torch.float32  # as it plays
    with _torchscript():
        account = torch.jit.script(LoudnessMemory(FRAME_S))
    said, power, mask = outputs(1, 4, dtype=dtype)[0], power_of(torch.full((4,), -27.0, dtype=dtype)), torch.ones(4)
    said[1, 1], said[2, 1], said[3, 2] = 4.0, -30.0, 1.0  # eager, reluctant, forgetful
    state = LoudnessMemory(FRAME_S).fresh(said[:, 0])
    memory, gain_db = state["memory"], state["gain_db"]
    with torch.inference_mode():
        for _ in range(216_000):
            before = memory, gain_db
            gain_db, memory = account(said, power, mask, memory, gain_db)
            if all(map(torch.equal, before, (memory, gain_db))):
                break  # for good: what it hears does not change
    # Who has hardly been heard has earned no more: a thousandth of each of the last minute's frames.
    torch.testing.assert_close(gain_db, torch.tensor([-5.0, -5.0, -12.0 + 1.2, -5.0]), rtol=0, atol=0.01)


def test_after_three_hours_it_still_follows():
    """What was heard long ago fades: in a minute to 1/e, not never."""
    account = LoudnessMemory(FRAME_S)
    _, state = run(account, outputs(12_000), power_of(-25.0))
    gains, _ = run(account, outputs(2400), power_of(-35.0), state=state)
    passed_s = torch.arange(1, 2401, dtype=torch.float64) * FRAME_S
    share = torch.exp(-passed_s / 60.0)
    expected = -32.0 - (OFFSET_LU + 10 * torch.log10(share * power_of(-25.0) + (1 - share) * power_of(-35.0)))
    torch.testing.assert_close(gains[:, 0], expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_that_never_writes_and_always_forgets_gets_an_answer(dtype):
    account = LoudnessMemory(FRAME_S)
    said = outputs(600, write=-200.0, forget=200.0, dtype=dtype).requires_grad_()
    for power, settled in ((power_of(-10.0), -22.0), (power_of(-40.0), -11.98), (0.0, -11.98)):
        gains, state = run(account, said, power)
        assert gains.isfinite().all()
        assert gains[-1].item() == pytest.approx(settled, abs=0.01)
        assert state["memory"].isfinite().all()
        gains.sum().backward()
        assert said.grad.isfinite().all()


def test_a_rise_is_earned_by_being_heard():
    account = LoudnessMemory(FRAME_S)
    hardly, _ = run(account, outputs(20, write=-4.0), power_of(-50.0))
    well, _ = run(account, outputs(60, write=4.0), power_of(-50.0))
    assert hardly[-1].item() == pytest.approx(-12.0 + 20 / (1 + math.exp(3.0)) ** 2, abs=0.05)
    assert well[-1].item() == pytest.approx(18.0, abs=0.01)  # -32 - -50


def test_a_fresh_memory_is_where_hot_inputs_do_not_clip():
    account = LoudnessMemory(FRAME_S)
    state = account.fresh(torch.zeros(3, 128))
    assert state["memory"].shape == (3, 3)
    assert state["gain_db"].tolist() == [-12.0] * 3
    assert ALM(0.0625, 32, gain="memory").initial_state(3).keys() == {"hidden", "memory", "gain_db"}


def test_the_clock_sets_how_fast_it_fades():
    assert LoudnessMemory(0.975).fade == pytest.approx(LoudnessMemory(0.05).fade ** 19.5)
    assert LoudnessMemory(0.05).fade ** 1200 == pytest.approx(math.exp(-1.0))


def test_who_comes_in_far_too_loud_is_turned_down_at_once():
    account = LoudnessMemory(FRAME_S)
    _, state = run(account, outputs(1200), power_of(-50.0))
    before = state["gain_db"].item()
    assert before == pytest.approx(18.0, abs=0.01)
    gains, _ = run(account, outputs(12), power_of(-10.0), state=state)
    # As fast as a gain may fall, to where no frame is louder than -14 LUFS; a mean alone would stay far above.
    assert gains[:8, 0].tolist() == pytest.approx([before - 2.5 * (t + 1) for t in range(8)])
    assert gains[-1].item() == pytest.approx(-4.0, abs=0.01)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_stretch_is_its_frames_one_after_the_other_and_so_is_its_gradient(scale):
    account = LoudnessMemory(FRAME_S)
    rng = torch.Generator().manual_seed(4)
    said = scale * torch.randn(300, 6, 3, generator=rng, dtype=torch.float64)
    level = torch.linspace(-70.0, 5.0, 6, dtype=torch.float64)
    power = power_of(level + 4.0 * torch.randn(300, 6, generator=rng, dtype=torch.float64))
    mask = (torch.rand(300, 6, generator=rng) > 0.2).double()
    came = torch.randn(300, 6, generator=rng, dtype=torch.float64)
    slow, fast = said.clone().requires_grad_(), said.clone().requires_grad_()
    gains, state = run(account, slow, power, mask)
    (gains * came).sum().backward()
    fresh = account.fresh(said[0, :, 0])
    stretch, memory = account.stretch(fast.transpose(0, 1), power.t(), mask.t(), fresh["memory"], fresh["gain_db"])
    (stretch.t() * came).sum().backward()
    torch.testing.assert_close(stretch.t(), gains, rtol=0, atol=1e-9)
    torch.testing.assert_close(memory, state["memory"], rtol=0, atol=1e-9)
    assert slow.grad.abs().max() > 1.0
    torch.testing.assert_close(fast.grad, slow.grad, rtol=0, atol=1e-9)
