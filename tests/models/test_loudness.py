import numpy as np
import pytest

from alm_plugin.features.levels import running_loudness
from alm_plugin.models.contract import Model
from alm_plugin.models.loudness import FALL_DB_PER_S, LEAD_LUFS, RISE_DB_PER_S, Loudness
from alm_plugin.models.predictor import Predictor
from alm_plugin.models.unity import Unity


def power(lufs):
    return 10 ** ((np.asarray(lufs, np.float64) + 0.691) / 10)


def run(lufs, roles=None, mask=None, frames=None):
    """Gains (frames, channels) of the rule for steady or given loudness (frames, channels)."""
    lufs = np.atleast_2d(np.asarray(lufs, np.float32))
    if frames:
        lufs = np.repeat(lufs, frames, axis=0)
    mask = np.ones_like(lufs) if mask is None else mask
    predictor = Predictor(Loudness(), roles or [None] * lufs.shape[1])
    gains = []
    for now, active in zip(lufs, mask, strict=True):
        levels = np.stack([np.sqrt(power(now)), power(now), now], axis=1).astype(np.float32)
        gains.append(predictor.step(np.zeros((len(now), 5, 64), np.float32), levels, active.astype(np.float32)))
    return np.array(gains)


@pytest.mark.parametrize("model", [Loudness(), Unity()])
def test_rules_speak_the_contract(model):
    assert isinstance(model, Model)


def test_equal_loudness_without_roles():
    lufs = np.array([-12.0, -30.0, -23.0, -40.0])
    gains = run(lufs, frames=200)[-1]
    np.testing.assert_allclose(gains + lufs, LEAD_LUFS - 10 * np.log10(4), atol=0.1)


def test_group_budgets_with_roles():
    roles = ["vocals", "kick", "snare", "overheads", "bass", "guitar", "keys", "backing vocals"]
    out = run([-20.0] * 8, roles, frames=300)[-1] - 20.0
    group = lambda *members: 10 * np.log10(sum(10 ** (out[roles.index(m)] / 10) for m in members))  # noqa: E731
    assert group("vocals") == pytest.approx(LEAD_LUFS, abs=0.1)
    assert group("kick", "snare", "overheads") == pytest.approx(LEAD_LUFS - 5.0, abs=0.1)
    assert group("bass") == pytest.approx(LEAD_LUFS - 8.0, abs=0.1)
    assert group("guitar", "keys") == pytest.approx(LEAD_LUFS - 6.2, abs=0.1)
    assert group("backing vocals") == pytest.approx(LEAD_LUFS - 11.0, abs=0.1)
    assert out[1] - out[3] == pytest.approx(3.0, abs=0.01)


def test_gain_staging_is_undone_in_time_without_jumps():
    gains = run([-10.0, -40.0], frames=200)
    moves = np.diff(gains, axis=0)
    assert moves.max() <= RISE_DB_PER_S / 20 + 1e-5
    assert moves.min() >= -FALL_DB_PER_S / 20 - 1e-5
    assert gains[20, 0] - 10.0 == pytest.approx(LEAD_LUFS - 10 * np.log10(2), abs=0.3)
    assert gains[100, 1] - 40.0 == pytest.approx(LEAD_LUFS - 10 * np.log10(2), abs=0.3)


def test_a_rest_is_not_turned_up():
    # 10 s of playing, 3 s of bleed 25 dB below, playing again.
    lufs = np.concatenate([np.full(200, -20.0), np.full(60, -45.0), np.full(40, -20.0)])[:, None]
    gains = run(lufs)
    assert np.abs(gains[200:, 0] - gains[199, 0]).max() < 1.0


def test_a_gain_knob_turned_down_for_good_is_followed():
    lufs = np.concatenate([np.full(200, -20.0), np.full(60 * 20 * 5, -34.0)])[:, None]
    gains = run(lufs)
    assert gains[-1, 0] - gains[199, 0] == pytest.approx(14.0, abs=1.0)


def test_a_channel_that_leaves_moves_no_other_by_half_a_db_a_frame():
    frames = 200
    mask = np.ones((frames, 4))
    mask[100:120, 3] = np.linspace(1, 0, 20)
    mask[120:, 3] = 0
    gains = run([-20.0] * 4, mask=mask, frames=frames)
    assert np.abs(np.diff(gains[99:, :3], axis=0)).max() < 0.5
    assert np.abs(np.diff(gains[99:, 3])).max() < 1e-6 or mask[99:, 3].min() == 0


def test_an_entry_after_bleed_is_brought_down_at_once():
    lufs = np.concatenate([np.full(60, -50.0), np.full(40, -20.0)])[:, None]
    out = (run(lufs) + lufs)[:, 0]
    assert out[60:].max() < LEAD_LUFS + 15.0
    assert out[80:].max() < LEAD_LUFS + 3.0


def frames_of(lufs_per_frame):
    """Levels (frames, 1, 3) with the running loudness that the front end gives."""
    powers = power(lufs_per_frame)
    levels = np.zeros((len(powers), 1, 3), np.float32)
    levels[:, 0, 0], levels[:, 0, 1] = np.sqrt(powers), powers
    for frame in range(len(powers)):
        out = np.empty(1)
        running_loudness(np.pad(powers[max(0, frame - 59) : frame + 1], (0, 1))[None], out)
        levels[frame, 0, 2] = out[0]
    return levels


def gains_of(lufs_per_frame):
    predictor = Predictor(Loudness(), [None])
    columns, active = np.zeros((1, 5, 64), np.float32), np.ones(1, np.float32)
    return np.array([predictor.step(columns, levels, active)[0] for levels in frames_of(lufs_per_frame)])


@pytest.mark.parametrize("frames", [1, 3])
def test_a_pop_moves_nothing(frames):
    gains = gains_of(np.concatenate([np.full(100, -40.0), np.full(frames, -3.0), np.full(200, -40.0)]))
    assert np.abs(gains[100:] - gains[99]).max() < 1.0


def test_feedback_is_brought_down_and_forgotten_within_seconds():
    gains = gains_of(np.concatenate([np.full(400, -30.0), np.full(20, -8.0), np.full(600, -30.0)]))
    assert gains[419] < gains[399] - 10.0
    assert abs(gains[419 + 20 * 20] - gains[399]) < 3.0


def test_a_drum_that_enters_after_bleed_is_brought_down():
    hits = np.full(200, -60.0)
    hits[0::10] = hits[1::10] = -18.0
    gains = gains_of(np.concatenate([np.full(60, -48.0), hits]))
    loudness = frames_of(np.concatenate([np.full(60, -48.0), hits]))[:, 0, 2]
    assert gains[60 + 60] + loudness[60 + 60] < LEAD_LUFS + 3.0


def test_an_open_microphone_is_not_turned_up():
    assert np.abs(gains_of(np.full(400, -60.0))).max() == 0.0


def test_channels_follow_a_permutation(rng):
    lufs = rng.uniform(-40, -10, (50, 6))
    roles = ["vocals", "kick", "bass", None, "guitar", "guitar"]
    order = rng.permutation(6)
    gains = run(lufs, roles)
    np.testing.assert_allclose(run(lufs[:, order], [roles[i] for i in order]), gains[:, order], atol=1e-5)


def test_a_masked_channel_is_as_if_it_were_not_there(rng):
    lufs = rng.uniform(-40, -10, (50, 3))
    mask = np.ones((50, 3))
    mask[:, 1] = 0
    np.testing.assert_array_equal(run(lufs, mask=mask)[:, [0, 2]], run(lufs[:, [0, 2]]))


def test_a_channel_half_gone_counts_half_and_padding_counts_for_nothing():
    gains = run([-20.0, -20.0], mask=np.tile([1.0, 0.5], (300, 1)), frames=300)
    assert gains[-1, 0] - 20.0 == pytest.approx(LEAD_LUFS - 10 * np.log10(1.5), abs=0.05)
    model = Loudness()
    levels = np.float32([[0.06, 0.0037, -24.3]] * 2)
    padded, _ = model.step(np.zeros((2, 0)), levels, np.float32([1.0, 0.0]), model.initial_state(2))
    alone, _ = model.step(np.zeros((1, 0)), levels[:1], np.float32([1.0]), model.initial_state(1))
    assert padded[0] == alone[0] == pytest.approx(-0.7, abs=1e-4)


def test_a_tom_fill_does_not_pull_the_other_drums_down():
    mask = np.ones((300, 2))
    mask[:200, 1] = 0.0
    gains = run([-20.0, -20.0], ["kick", "toms"], mask, frames=300)
    assert np.abs(np.diff(gains[199:, 0])).max() < 0.1
    assert gains[210, 0] - gains[199, 0] > -0.5


def test_what_cannot_be_heard_is_left_where_it_is():
    # Active by its RMS, but all of it rumble: its loudness stays at the gate.
    assert not run([-70.0, -20.0], frames=100)[:, 0].any()


def test_channels_without_a_role_share_a_budget_of_their_own():
    out = run([-20.0] * 4, ["vocals", None, "keys", None], frames=300)[-1] - 20.0
    assert out[0] == pytest.approx(LEAD_LUFS, abs=0.1)
    assert out[1] == pytest.approx(out[3], abs=1e-5)
    assert out[1] == pytest.approx(run([-20.0] * 2, frames=300)[-1, 0] - 20.0, abs=0.1)
