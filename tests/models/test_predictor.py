import logging
from concurrent.futures import Executor, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock
from alm_plugin.models.contract import ModelMetadata
from alm_plugin.models.predictor import Predictor


class Spy:
    """Embeds the first band of the last column; gains are the embedding plus a count of steps."""

    def __init__(self, clock: ModelClock = MULTI_RATE) -> None:
        self.metadata = ModelMetadata("spy", clock, embedding_size=2)
        self.patches = []
        self.seen = []

    def embed(self, patches, mask):
        self.patches.append(patches.copy())
        return np.stack([patches[:, -1, 0], np.ones(len(patches))], axis=1).astype(np.float32)

    def step(self, embedding, levels, mask, state):
        self.seen.append(embedding.copy())
        return embedding[:, 0] + levels[:, 0], {"steps": state["steps"] + 1}

    def initial_state(self, channels):
        return {"steps": np.zeros(channels)}


def columns(channels, frame, count=5):
    """Columns that say in every band which frame and channel they are."""
    values = 100.0 * np.arange(channels)[:, None, None] + frame + np.arange(count)[None, :, None] / 10
    return np.broadcast_to(values, (channels, count, 64)).astype(np.float32)


def levels(channels):
    return np.zeros((channels, 3), np.float32)


@pytest.mark.parametrize("lag", [0, 1, 6, 14])
def test_embedding_of_f1_frame_k_is_used_from_step_6k_plus_lag(lag):
    model = Spy(ModelClock(embedding_lag=lag))
    predictor = Predictor(model, [None])
    for frame in range(40):
        predictor.step(columns(1, frame), levels(1), np.ones(1, np.float32))
    for frame, embedding in enumerate(model.seen):
        k = (frame - lag) // 6
        want = 0.0 if frame < lag else np.float32(6 * k + 0.4)
        assert embedding[0, 0] == want, frame


def test_f1_frame_k_ends_with_frame_6k_and_starts_in_silence():
    model = Spy()
    predictor = Predictor(model, [None])
    for frame in range(151):
        predictor.step(columns(1, frame), levels(1), np.ones(1, np.float32))
    assert len(model.patches) == 26
    heard = np.concatenate([np.full((96, 64), np.float32(np.log(0.01))), *(columns(1, f)[0] for f in range(151))])
    for k, patch in enumerate(model.patches):
        end = 96 + 5 * (6 * k + 1)
        np.testing.assert_array_equal(patch[0], heard[end - 96 : end])


def test_single_rate_embeds_every_frame_whole():
    model = Spy(SINGLE_RATE)
    predictor = Predictor(model, [None])
    for frame in range(3):
        predictor.step(columns(1, frame, 96), levels(1), np.ones(1, np.float32))
    np.testing.assert_array_equal(model.patches[2][0], columns(1, 2, 96)[0])
    assert model.seen[2][0, 0] == np.float32(2 + 9.5)


def test_masked_channels_hold_and_are_not_shown():
    model = Spy()
    predictor = Predictor(model, [None, None, None])
    mask = np.array([1.0, 0.0, 0.5], np.float32)
    level = levels(3)
    level[:, 0] = [1.0, 2.0, 3.0]
    gain_db = predictor.step(columns(3, 0), level, mask)
    assert gain_db.tolist() == [1.0, 0.0, 3.0]
    assert model.patches[0].shape[0] == 2
    assert predictor._state["steps"].tolist() == [1.0, 0.0, 1.0]


def test_a_pause_keeps_the_embedding_and_the_state():
    model = Spy(ModelClock(embedding_lag=0))
    predictor = Predictor(model, [None, None])
    for frame in range(25):
        mask = np.array([1.0, 0.0 if 5 <= frame < 20 else 1.0], np.float32)
        predictor.step(columns(2, frame), levels(2), mask)
    assert model.seen[20][1, 0] == np.float32(100.0 + 18.4 - 18.0)  # still F1 frame 0's
    assert model.seen[24][1, 0] == np.float32(124.4)
    assert predictor._state["steps"].tolist() == [25.0, 10.0]


def test_nothing_is_asked_when_all_are_silent():
    model = Spy()
    predictor = Predictor(model, [None])
    for frame in range(10):
        predictor.step(columns(1, frame), levels(1), np.zeros(1, np.float32))
    assert not model.seen
    assert not model.patches


def test_channels_come_and_go():
    model = Spy(ModelClock(embedding_lag=3))
    predictor = Predictor(model, [None, None])
    for frame in range(8):
        predictor.step(columns(2, frame), levels(2), np.ones(2, np.float32))
    predictor.remove_channel(0)
    predictor.add_channel("vocals")
    for frame in range(8, 11):
        predictor.step(columns(2, frame), levels(2), np.ones(2, np.float32))
    # The embedding on its way when channel 0 left belongs to what was channel 1; the newcomer has none yet.
    assert model.seen[-1][:, 0].tolist() == [np.float32(106.4), 0.0]
    assert predictor._state["steps"].tolist() == [11.0, 3.0]


class Broken(Spy):
    def __init__(self, fails_at, how):
        super().__init__(ModelClock(embedding_lag=0))
        self.fails_at, self.how = fails_at, how

    def step(self, embedding, levels, mask, state):
        gain_db, following = super().step(embedding, levels, mask, state)
        if len(self.seen) - 1 == self.fails_at:
            if self.how == "raises":
                raise RuntimeError("no more memory")
            if self.how == "shape":
                return np.zeros((7,)), following
            if self.how == "state":
                return gain_db, {"steps": np.zeros(99)}
            gain_db = gain_db * np.nan
        return gain_db, following


@pytest.mark.parametrize("how", ["raises", "nan", "shape", "state"])
def test_a_failing_model_holds_counts_and_says_so_once(how, caplog):
    model = Broken(4, how)
    predictor = Predictor(model, [None])
    gains = []
    with caplog.at_level(logging.WARNING):
        for frame in range(8):
            gains.append(predictor.step(columns(1, frame), np.full((1, 3), frame, np.float32), np.ones(1, np.float32)))
    assert gains[4] == gains[3]
    assert gains[5] != gains[4]
    assert predictor.faults == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_a_failing_embedding_leaves_the_last_one_in_use(how):
    class Deaf(Spy):
        def embed(self, patches, mask):
            rows = super().embed(patches, mask)
            if len(self.patches) != 2:
                return rows
            if how == "raises":
                raise RuntimeError("no more memory")
            return rows * np.nan

    model = Deaf(ModelClock(embedding_lag=0))
    predictor = Predictor(model, [None])
    for frame in range(13):
        assert np.isfinite(predictor.step(columns(1, frame), levels(1), np.ones(1, np.float32))).all()
    assert [e[0, 0] for e in model.seen] == [np.float32(0.4)] * 12 + [np.float32(12.4)]
    assert predictor.faults == 1


def test_a_model_that_keeps_failing_is_counted_each_time_and_named_once(caplog):
    class Dead(Spy):
        def step(self, embedding, levels, mask, state):
            raise RuntimeError("no more memory")

    predictor = Predictor(Dead(), [None])
    for frame in range(5):
        predictor.step(columns(1, frame), levels(1), np.ones(1, np.float32))
    assert predictor.faults == 5
    assert [record.message for record in caplog.records] == ["model spy failed, gains hold: no more memory"]


def test_a_state_that_made_a_gain_infinite_starts_afresh_but_keeps_its_role():
    class Sick(Spy):
        def initial_state(self, channels):
            return {"memory": np.zeros(channels), "role": np.full(channels, -1)}

        def step(self, embedding, levels, mask, state):
            memory = state["memory"] + levels[:, 0]
            return memory.astype(np.float32), {**state, "memory": memory}

    predictor = Predictor(Sick(), ["kick", "vocals"])
    mask = np.ones(2, np.float32)
    gains = []
    for heard in (1.0, np.inf, 2.0, 2.0):
        level = levels(2)
        level[1, 0] = heard
        gains.append(predictor.step(columns(2, 0), level, mask)[1])
    assert gains == [1.0, 1.0, 2.0, 4.0]
    assert predictor._state["role"].tolist() == [3, 0]
    assert predictor.faults == 1


def test_who_stays_keeps_what_he_had_when_others_come_and_go():
    class Apart(Spy):
        """Gains of everything that a channel has had and been, and of nothing else."""

        def embed(self, patches, mask):
            return np.stack([patches.mean(axis=(1, 2)), patches[:, 0, 0]], axis=1)

        def initial_state(self, channels):
            return {"sum": np.zeros(channels), "role": np.full(channels, -1)}

        def step(self, embedding, levels, mask, state):
            total = state["sum"] + levels[:, 0] + embedding.sum(axis=1) + state["role"]
            return total.astype(np.float32), {**state, "sum": total}

    roles = ["kick", "bass", "vocals", "guitar"]
    together, alone = Predictor(Apart(), roles[:3]), [Predictor(Apart(), [role]) for role in roles[:3]]
    there = [0, 1, 2]
    for frame in range(40):
        if frame == 8:
            together.remove_channel(there.index(1))
            there.remove(1)
        if frame == 20:
            together.add_channel(roles[3])
            there.append(3)
        if frame == 31:
            together.remove_channel(there.index(0))
            there.remove(0)
        level = np.full((4, 3), frame, np.float32)
        # The vocals rest when the band changes: their gain is the one they had.
        mask = np.float32([1.0, 1.0, frame not in (8, 20, 31), 1.0])
        got = together.step(columns(4, frame)[there], level[there], mask[there])
        for row, channel in enumerate(there):
            if channel != 3:  # who came later has F1 frames of his own
                want = alone[channel].step(columns(4, frame)[[channel]], level[[channel]], mask[[channel]])
                assert got[row] == want[0], (frame, channel)
        assert together.roles == [roles[channel] for channel in there]


def test_a_new_channel_has_heard_silence():
    model = Spy()
    predictor = Predictor(model, [None])
    predictor.step(columns(1, 0), levels(1), np.ones(1, np.float32))
    predictor.add_channel(None)
    for frame in range(1, 7):
        predictor.step(columns(2, frame), levels(2), np.ones(2, np.float32))
    np.testing.assert_array_equal(model.patches[1][1, :66], np.float32(np.log(0.01)))
    np.testing.assert_array_equal(model.patches[1][1, 66:71], columns(2, 1)[1])


class Reluctant(Executor):
    """Does nothing before somebody waits for it."""

    def submit(self, fn, /, *args):
        return SimpleNamespace(result=lambda: fn(*args))


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, Reluctant])
def test_where_embeddings_are_computed_changes_nothing(rng, executor):
    with executor() as elsewhere:
        apart, plain = Predictor(Spy(), [None] * 20, elsewhere), Predictor(Spy(), [None] * 20)
        for frame in range(60):
            mask = (rng.random(20) < 0.9).astype(np.float32)
            got = apart.step(columns(20, frame), levels(20), mask)
            np.testing.assert_array_equal(got, plain.step(columns(20, frame), levels(20), mask))
            if frame in (31, 45):  # in the middle of what is under way
                for one in (apart, plain):
                    one.remove_channel(3)
                    one.add_channel(None)
            np.testing.assert_array_equal(apart._embedding, plain._embedding)


def test_all_channels_are_embedded_together():
    # One model's context is of all who play: a part of them has another.
    model = Spy()
    Predictor(model, [None] * 20).step(columns(20, 0), levels(20), np.ones(20, np.float32))
    assert [len(patches) for patches in model.patches] == [20]


def test_reset_starts_again():
    predictor = Predictor(Spy(ModelClock(embedding_lag=3)), [None, "bass"])

    def play():
        return [predictor.step(columns(2, f), levels(2) + f, np.float32([1.0, f > 4])) for f in range(10)]

    first = play()
    predictor.reset()
    np.testing.assert_array_equal(play(), first)


def test_roles_reach_a_model_that_asks_for_them():
    class Asks(Spy):
        def initial_state(self, channels):
            return {"steps": np.zeros(channels), "role": np.full(channels, -1)}

    predictor = Predictor(Asks(), ["kick", None])
    predictor.add_channel("vocals")
    assert predictor._state["role"].tolist() == [3, -1, 0]
