import pytest
import torch

from alm_plugin.models.roles import ROLES
from training.heard import Heard
from training.losses import HUBER_DB, RESTING, UNHEARD, gain_loss, multi_resolution_stft

FRAMES = 20
BAND = ("vocals", "kick", "bass", "piano")


def truth(roles=BAND, batch=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    C = len(roles)
    true_gain_db = 10.0 * torch.randn(batch, C, 1, generator=rng).expand(-1, -1, FRAMES).clone()
    return Heard(
        torch.zeros(batch, C, 1, 128),
        torch.zeros(batch, C, FRAMES, 3),
        torch.ones(batch, C, FRAMES),
        true_gain_db,
        torch.ones(batch, C, FRAMES, dtype=torch.bool),
        torch.ones(batch, C, FRAMES),
        torch.tensor([[-1 if role is None else ROLES.index(role) for role in roles]] * batch),
    )


def error_of(error_db, heard, start=0):
    """Loss of gains that are off by `error_db` (..., FRAMES)."""
    gains = torch.roll(heard.true_gain_db + error_db, -1, -1)  # entry t is meant for frame t + 1
    gains[..., -1] = 77.0  # meant for a frame that is not there
    return gain_loss(gains[..., start:], heard, start)


def flat(heard, *per_channel):
    return torch.tensor(per_channel)[None, :, None].expand_as(heard.true_gain_db).clone()


@pytest.mark.parametrize("start", [0, 7])
def test_the_truth_costs_nothing(start):
    heard = truth(batch=3)
    loss = error_of(torch.zeros(()), heard, start)
    assert loss.error < 1e-6
    assert loss.vocals < 1e-5
    assert loss.roughness < 1e-6


def test_entry_t_is_meant_for_frame_t_plus_1():
    heard = truth()
    heard.true_gain_db[..., 10:] += 6.0
    gains = heard.true_gain_db
    assert error_of(torch.zeros(()), heard).error < 1e-6
    late = gain_loss(gains, heard).error  # as if entry t was meant for frame t: late by one
    assert late.item() == pytest.approx((6.0 - 0.5) / (FRAMES - 1), rel=1e-5)


def test_a_snippet_is_a_stretch_of_the_whole():
    heard = truth(batch=2)
    error_db = torch.randn(2, 4, FRAMES, generator=torch.Generator().manual_seed(1))
    gains = torch.roll(heard.true_gain_db + error_db, -1, -1)
    parts = [gain_loss(gains[..., s : s + 5], heard, s).error for s in (0, 5, 10)]
    whole = gain_loss(gains[..., :15], heard).error
    assert (sum(parts) / 3).item() == pytest.approx(whole.item(), rel=1e-5)


def test_it_grows_with_the_error_and_is_in_db_beyond_one():
    heard = truth()
    errors = [error_of(flat(heard, *[e] * 4), heard).error.item() for e in (0.0, 0.1, 0.5, 1.0, 3.0, 10.0)]
    assert errors == sorted(errors)
    assert errors[-1] - errors[-2] == pytest.approx(7.0, rel=1e-5)
    assert errors[1] == pytest.approx(0.5 * 0.1**2 / HUBER_DB, rel=1e-3)
    assert error_of(flat(heard, *[-3.0] * 4), heard).error.item() == pytest.approx(errors[-2], rel=1e-5)


def test_masked_frames_and_padded_channels_do_not_count():
    heard = truth((*BAND, None))
    wrong = flat(heard, 1.0, 1.0, 1.0, 1.0, 50.0)
    wrong[:, 2, 5:9] = -60.0
    heard.mask[:, 2, 5:9] = 0.0
    expected = error_of(flat(truth(), 1.0, 1.0, 1.0, 1.0), truth()).error
    loss = error_of(wrong, heard)
    assert loss.error.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss.vocals < 1e-4


def test_a_channel_at_rest_counts_less():
    heard = truth(("piano", "bass"))
    heard.playing[:, 0, 10:] = False
    wrong = flat(heard, 0.0, 0.0)
    wrong[:, 0, 10:] = 5.5
    size = 5.5 - 0.5
    resting = FRAMES - 10
    weight = (FRAMES - 1) + (9 + RESTING * resting)
    assert error_of(wrong, heard).error.item() == pytest.approx(RESTING * resting * size / weight, rel=1e-4)


def test_before_it_enters_a_channel_must_only_not_be_too_loud():
    heard = truth(("piano", "bass"))
    heard.playing[:, 0, :12] = False
    early = flat(heard, 0.0, 0.0)
    early[:, 0, :12] = -20.0
    assert error_of(early, heard).error < 1e-6
    early[:, 0, :12] = 8.0
    weight = (FRAMES - 1) + 8 + 11 * UNHEARD
    assert error_of(early, heard).error.item() == pytest.approx(11 * UNHEARD * 8.0 / weight, rel=1e-4)
    # In a snippet too: what has entered before it has entered.
    late = flat(heard, 0.0, 0.0)
    late[:, 0, 15:] = -20.0
    assert error_of(late, heard, 14).error > 1.0


def test_who_never_plays_does_not_count():
    heard = truth(("piano", "bass"))
    heard.playing[:, 0] = False
    assert error_of(flat(heard, 30.0, 0.0), heard).error < 1e-6


def test_vocals_and_band_apart_are_caught():
    heard = truth()
    assert error_of(flat(heard, 3.0, 3.0, 3.0, 3.0), heard).vocals < 1e-4
    assert error_of(flat(heard, 3.0, -1.0, -1.0, -1.0), heard).vocals.item() == pytest.approx(4.0, rel=1e-4)
    # Errors that cancel within the band leave the vocals where they belong.
    assert error_of(flat(heard, 0.0, 3.0, -1.5, -1.5), heard).vocals < 1e-4
    backing = truth(("vocals", "backing vocals", "bass"))
    assert error_of(flat(backing, 0.0, 2.0, -2.0), backing).vocals < 1e-4  # they are part of the band


@pytest.mark.parametrize("roles", [("kick", "bass"), ("vocals", "vocals"), ("kick", None)])
def test_where_one_of_the_two_is_missing_there_is_no_such_error(roles):
    heard = truth(roles)
    loss = error_of(flat(heard, 4.0, -4.0), heard)
    assert loss.vocals == 0.0
    # Nor in frames in which nobody has sung yet.
    heard = truth(("vocals", "bass"))
    heard.playing[:, 0] = False
    assert error_of(flat(heard, 4.0, -4.0), heard).vocals == 0.0


def test_roughness_is_the_mean_move():
    heard = truth(("piano", "bass"))
    step = torch.tensor([0.0, 1.0]).repeat(FRAMES // 2)
    gains = heard.true_gain_db + torch.stack([step, 0.0 * step])
    assert gain_loss(gains, heard).roughness.item() == pytest.approx(0.5, rel=1e-4)
    heard.mask[:, 0] = 0.0
    assert gain_loss(gains, heard).roughness == 0.0


def test_nothing_to_compare_is_no_error_and_no_nan():
    heard = truth()
    for nothing in (heard._replace(mask=0.0 * heard.mask), heard._replace(roles=torch.full_like(heard.roles, -1))):
        gains = (heard.true_gain_db + 9.0).requires_grad_()
        loss = gain_loss(gains, nothing)
        total = loss.error + loss.vocals + loss.roughness
        assert total == 0.0
        total.backward()
        assert (gains.grad == 0.0).all()
    for first in (0, FRAMES - 2):  # one frame alone has no move
        loss = gain_loss(heard.true_gain_db[..., :1], heard, first)
        assert torch.isfinite(loss.error + loss.vocals + loss.roughness)


def test_gradients_point_to_the_truth():
    heard = truth()
    error_db = torch.tensor([4.0, -4.0, 0.5, -2.0])[None, :, None]
    gains = (heard.true_gain_db + error_db).requires_grad_()
    gain_loss(gains, heard).error.backward()
    inner = gains.grad[..., : FRAMES - 1]
    assert torch.equal(inner.sign(), error_db.sign().expand_as(inner))
    assert (gains.grad[..., FRAMES - 1] == 0.0).all()


def test_equal_mixes_have_no_distance_and_others_have():
    distance = multi_resolution_stft()
    mix = 0.1 * torch.randn(2, 1, 24_000, generator=torch.Generator().manual_seed(0))
    assert distance(mix, mix) < 1e-6
    steps = [distance(mix * 10 ** (db / 20), mix).item() for db in (0.5, 1.0, 3.0, 6.0)]
    assert steps == sorted(steps)
    assert steps[0] > 0.01
    quiet = mix.clone().requires_grad_()
    distance(quiet * 0.5, mix).backward()
    assert quiet.grad.isfinite().all()


def test_a_memory_is_told_to_write_what_is_the_channels_own_playing():
    heard = truth((*BAND, None))
    heard.own_share[:, 1] = 0.25
    heard.playing[:, 2] = False
    heard.mask[:, 3, 5:] = 0.0
    own = torch.tensor([1.0, 0.25, 0.0, 1.0])

    def memory(logits, start=0):
        write = torch.tensor([*logits, 50.0])[None, :, None].expand(1, 5, FRAMES)[..., start:]
        return gain_loss(heard.true_gain_db[..., start:], heard, start, write).memory.item()

    best = torch.special.entr(own) + torch.special.entr(1 - own)
    weight = torch.tensor([20.0, 20.0, 20.0, 5.0])
    perfect = torch.logit(own, eps=1e-6).tolist()
    assert memory(perfect) == pytest.approx((best * weight).sum().item() / 65.0, abs=1e-4)
    # Wrong in a masked frame or a padded channel costs nothing; anywhere else it costs.
    for wrong in range(4):
        assert memory([*perfect[:wrong], -perfect[wrong] + 0.5, *perfect[wrong + 1 :]]) > memory(perfect) + 0.05
    assert memory(perfect, 5) == pytest.approx(best.sum().item() * 15 / 45.0, abs=1e-4)
    assert gain_loss(heard.true_gain_db, heard).memory == 0.0
