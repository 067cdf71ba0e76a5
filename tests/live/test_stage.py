import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from scipy.fft import irfft, rfft

from alm_plugin import Mixer, Strip
from alm_plugin.features.clock import MULTI_RATE
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.safety import Reason, StageLimits
from alm_plugin.live.stage import StageMind
from alm_plugin.live.supervisor import Live
from alm_plugin.models.contract import ModelMetadata
from alm_plugin.models.listener import Listener
from alm_plugin.stream import Stream

RATE, FRAME = 16_000, 800
BENCH = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "bench" / "bench_safety.py")))


class Wants:
    """A model that wants the gains it was given, from a frame on."""

    metadata = ModelMetadata("wants", MULTI_RATE)

    def __init__(self, *gains_db):
        self.gains_db = np.array(gains_db, np.float32)

    def embed(self, patches, mask):
        return np.zeros((len(patches), 0), np.float32)

    def step(self, embedding, levels, mask, state):
        return state["wants_db"], state

    def initial_state(self, channels):
        return {"wants_db": self.gains_db}


def stage(*wants_db, limits=None, model=None):
    roles = [None] * len(wants_db or range(4))
    return StageMind(Listener(model or Wants(*wants_db), RATE, roles), RATE, limits or StageLimits())


def players(rng, channels, seconds):
    """Unrelated sounds, all of one loudness."""
    return (0.05 * rng.standard_normal((channels, int(seconds * RATE)))).astype(np.float32)


def frames(mind, x):
    for start in range(0, x.shape[1] - FRAME + 1, FRAME):
        mind.hear([row[None, start : start + FRAME] for row in x], FRAME)
        mind.end_frame()
        yield mind


def test_a_model_that_wants_everyone_lower_moves_nobody(rng):
    mind = stage(-15.0, -15.0, -15.0, -15.0)
    assert not mind.gain_db.any()
    for now in frames(mind, players(rng, 4, 2.0)):
        np.testing.assert_allclose(now.gain_db, 0.0, atol=1e-5)


def test_the_balance_moves_within_the_range_and_the_slew_and_leaves_the_loudness(rng):
    x = players(rng, 4, 4.0)
    mind = stage(-6.0, -12.0, -30.0, -12.0, limits=StageLimits(open_gain_db=None))
    before = mind.gain_db.copy()
    for now in frames(mind, x):
        assert (np.abs(now.gain_db - before) <= 12.0 / 20 + 1e-5).all()
        assert (np.abs(now.gain_db) <= 6.0).all()
        before = now.gain_db.copy()
    # -6, -12, -12 and -30 dB are 0, -6, -6 and -24; 10 log10 of their mean power is -4.2.
    common_db = 10 * np.log10(np.mean(10.0 ** (np.array([-6, -12, -30, -12]) / 10)))
    np.testing.assert_allclose(mind.gain_db, [-6 - common_db, -12 - common_db, -6.0, -12 - common_db], atol=0.2)
    assert mind.reasons[2] == Reason.RANGE


def test_trims_are_the_operators_and_count_in_what_all_have_in_common(rng):
    x = players(rng, 2, 4.0)
    mind = stage(0.0, -10.0, limits=StageLimits(open_gain_db=None))
    mind.stand([-60.0, 0.0], [np.nan, np.nan], [False, False])
    for _ in frames(mind, x):
        pass
    # The first is trimmed away: what is heard is the second, so it is the second that does not move.
    np.testing.assert_allclose(mind.gain_db, [6.0, 0.0], atol=0.05)


@pytest.mark.parametrize("lock_db", [-20.0, 12.0, -np.inf])
def test_a_held_fader_is_left_alone_and_the_others_know_where_it_is(rng, lock_db):
    x = players(rng, 3, 4.0)
    mind = stage(6.0, 6.0, 0.0)
    mind.stand(np.zeros(3), [lock_db, np.nan, np.nan], [False] * 3)
    for now in frames(mind, x):
        assert now.gain_db[0] == 0.0
        assert np.isfinite(now.gain_db).all()
    assert mind.gain_db[1] > mind.gain_db[2]


def test_who_comes_in_moves_nobody_at_once(rng):
    x = players(rng, 3, 8.0)
    x[0, : 4 * RATE] = 0  # a loud one that the model wants far lower
    x[0] *= 10
    mind = stage(-20.0, 0.0, 0.0, limits=StageLimits(open_gain_db=None))
    heard = np.array([now.gain_db.copy() for now in frames(mind, x)])
    assert np.abs(heard[79, 1:]).max() < 0.1
    assert np.abs(heard[84, 1:] - heard[79, 1:]).max() < 3.0


def test_gains_do_not_depend_on_blocks_and_never_on_the_future(rng):
    n = np.arange(4 * RATE)
    ring = 10 ** ((30 * n / RATE - 130) / 20) * np.sin(2 * np.pi * 1_000 * n / RATE)
    x = (np.stack([ring, 0 * ring, 0 * ring]) + 0.01 * players(rng, 3, 4)).astype(np.float32)

    def curves(x, size):
        mixer = Mixer({name: Strip() for name in "abc"}, Wants(3.0, -3.0, 0.0))
        mind = StageMind(Listener(mixer.model, RATE, [None] * 3), RATE, StageLimits())
        stream = Stream(mixer, RATE, dict.fromkeys("abc", 1), mind)
        for start in range(0, x.shape[1], size):
            block = x[:, start : start + size]
            blocks = {name: np.ascontiguousarray(row[None]) for name, row in zip("abc", block, strict=True)}
            stream.check(RATE, blocks)
            stream.process(blocks, np.zeros((2, block.shape[1]), np.float32))
        return np.stack(list(stream.automation().gains_db.values()))

    whole = curves(x, x.shape[1])
    assert whole.min() < -5.0  # it rang
    for size in (17, 128, 4_410):
        np.testing.assert_array_equal(curves(x, size), whole)
    s = 56_123
    other = x.copy()
    other[:, s:] = players(rng, 3, 4)[:, s:]
    np.testing.assert_array_equal(curves(other, x.shape[1])[:, : s // FRAME + 1], whole[:, : s // FRAME + 1])


# A microphone hears its own loudspeaker through a room; the operator pushes the fader until it rings. All that is
# between the first sound of the ring and the gain is in the loop: hops, frames, slack, ramp.
@pytest.mark.parametrize(("stem", "start_s", "room"), [("vocals", 8, 0), ("vocals", 4, 1), ("acoustic", 2, 2)])
@pytest.mark.parametrize("held", [False, True])
def test_a_ring_is_pulled_down_before_6_db_unless_the_operator_holds_the_fader(stem, start_s, room, held):
    size, seconds = 64, 7
    dry = 0.7 * BENCH.demo(stem)[start_s * RATE :][: seconds * RATE]
    response = BENCH.room(room)
    n = 1 << (len(response) + size - 1).bit_length()
    spectrum = rfft(response, n)
    pulls = []
    gains_db = np.minimum(-3.0 + 3.0 * np.maximum(np.arange(len(dry)) / RATE - 1, 0), 4.0)

    def play(limits):
        pulls.clear()
        mixer = Mixer({"voice": Strip()}, "unity", channels=1, ceiling_db=None)
        listener = Listener(mixer.model, RATE, [None])
        mind = listener if limits is None else StageMind(listener, RATE, limits)
        stream = Stream(mixer, RATE, {"voice": 1}, mind)
        coming, heard, mix = np.zeros(len(dry) + n + size), np.zeros(len(dry)), np.zeros((1, size), np.float32)
        for start in range(0, len(dry) - size + 1, size):
            here = slice(start, start + size)
            # A microphone cannot hear more than full scale.
            heard[here] = np.clip(dry[here] + coming[here], -1, 1)
            block = {"voice": heard[None, here].astype(np.float32)}
            if limits is not None:
                mind.stand([gains_db[start]], [gains_db[start] if held else np.nan], [False])
            mixer["voice"].trim_db = gains_db[start]
            mixer["voice"].lock_db = gains_db[start] if held else None
            stream.check(RATE, block)
            stream.process(block, mix)
            coming[start + size : start + size + n] += irfft(rfft(mix[0], n) * spectrum, n)
            pulls.append(0.0 if mind.pull_db is None else float(mind.pull_db[0]))
        return heard, mind

    programme_db = 10 * np.log10(np.mean(np.square(dry, dtype=np.float64)))
    wild, _ = play(None)
    assert (np.abs(wild) >= 1).any()  # it does ring
    tame, mind = play(StageLimits())
    over_db = BENCH.level_db(tame - dry) - programme_db
    if held:
        np.testing.assert_array_equal(tame, wild)
        assert mind.pull_db[0] > 0
        return
    first = np.flatnonzero(np.abs(wild) >= 1)[0]
    audible = np.flatnonzero(BENCH.level_db(wild - dry)[:first] - programme_db < 0)[-1]
    assert over_db.max() <= 6.0
    down = np.flatnonzero(np.array(pulls) > 0)[0] * size
    assert down <= audible + RATE // 2


def test_live_on_a_stage_is_the_same_stage_offline(tmp_path):
    rng, rate = np.random.default_rng(1), 48_000
    x = (0.1 * rng.standard_normal((3, 3 * rate)) * [[1.0], [0.1], [0.003]]).astype(np.float32)
    names = ("vocals", "kick", "room")

    def band():
        return Mixer({name: Strip() for name in names}, "loudness")

    spec = DeviceSpec("silent", sample_rate=rate, block_size=128, source=x, freewheel=True)
    live = Live(band(), spec, limits=StageLimits(), record=tmp_path / "take")
    with live:
        assert live.ended.wait(60)
    state = live.state()
    assert (state["late_frames"], state["faults"]) == (0, [])
    offline = band()
    mind = StageMind(Listener(offline.model, rate, [None] * 3), rate, StageLimits())
    stream = Stream(offline, rate, dict.fromkeys(names, 1), mind)
    mix = np.zeros((2, x.shape[1]), np.float32)
    blocks = {name: row[None] for name, row in zip(names, x, strict=True)}
    stream.check(rate, blocks)
    stream.process(blocks, mix)
    took = soundfile.read(tmp_path / "take" / "mix.wav", dtype="float32", always_2d=True)[0].T
    np.testing.assert_array_equal(took, mix)
    whys = [strip["why"] for strip in state["strips"]]
    assert all(whys), whys
    assert max(abs(strip["gain_db"]) for strip in state["strips"]) > 1.0
