import runpy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike

from alm_plugin.errors import ParameterError
from alm_plugin.features.front_end import FrontEnd
from alm_plugin.live import bleed, ring
from alm_plugin.live.bleed import BleedDetector
from alm_plugin.live.ring import RingDetector
from alm_plugin.live.safety import Reason, Safety, StageLimits, limit_open_gain

BENCH = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "bench" / "bench_safety.py")))
RATE = BENCH.RATE


# ---- ring ------------------------------------------------------------------------------------------------------


def growing_tone(hz, db_per_s, seconds, rate, rng, from_db=-60.0):
    t = np.arange(int(seconds * rate)) / rate
    tone = 10 ** ((from_db + db_per_s * t) / 20) * np.sin(2 * np.pi * hz * t)
    return (np.clip(tone, -1, 1) + 3e-4 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize(("hz", "db_per_s"), [(120.0, 40.0), (1_234.0, 15.0), (2_500.0, 300.0)])
def test_a_tone_that_grows_evenly_rings_where_it_is(rng, rate, hz, db_per_s):
    x = growing_tone(hz, db_per_s, 50 / db_per_s, rate, rng)
    x = np.concatenate([3e-4 * rng.standard_normal(4 * rate), x]).astype(np.float32)
    detector = RingDetector(rate, 1)
    assert detector.process(x[None])[0] > 0
    assert detector.frequencies_hz[0] == pytest.approx(hz, abs=4.0)


@pytest.mark.parametrize("db_per_s", [0.0, -30.0, 1_000.0])
def test_a_tone_that_stays_fades_or_is_struck_does_not(rng, db_per_s):
    x = growing_tone(1_000, db_per_s, 1.0, RATE, rng, -20.0)
    assert RingDetector(RATE, 1).process(x[None])[0] == 0


@pytest.mark.parametrize("ramp_s", [0.001, 0.05])
def test_a_tone_that_jumps_is_a_note(rng, ramp_s):
    t = np.arange(2 * RATE) / RATE
    level_db = np.interp(t, (1.0, 1.0 + ramp_s), (-40, -20))
    x = 10 ** (level_db / 20) * np.sin(2 * np.pi * 1_000 * t) + 3e-4 * rng.standard_normal(len(t))
    assert RingDetector(RATE, 1).process(x[None].astype(np.float32))[0] == 0


def test_blocks_of_any_size_are_heard_alike(rng):
    # Two rings with quiet between them, on one of three channels; the state is looked at wherever all have been cut.
    once = np.concatenate([growing_tone(700, 60, 0.8, 44_100, rng), 1e-4 * rng.standard_normal(3 * 44_100)])
    x = 1e-4 * rng.standard_normal((3, 2 * len(once)))
    x[1] = np.tile(once, 2)
    x = x.astype(np.float32)
    whole, cut = RingDetector(44_100, 3), RingDetector(44_100, 3)
    step = 44_100 // 4
    for start in range(0, x.shape[1], step):
        whole.process(x[:, start : start + step])
        sizes = rng.choice([1, 17, 64, 441, 2_400], 400)
        edges = np.minimum(np.concatenate([[0], np.cumsum(sizes)]), min(step, x.shape[1] - start)) + start
        for a, b in pairwise(edges):
            cut.process(x[:, a:b])
        np.testing.assert_array_equal(whole.pull_down_db, cut.pull_down_db)
    np.testing.assert_array_equal(whole.rings, cut.rings)
    assert whole.rings[1] >= 2
    assert whole.rings[[0, 2]].tolist() == [0, 0]
    cut.reset()
    assert not cut.pull_down_db.any()
    assert cut.process(x)[1] == whole.pull_down_db[1]


def test_channels_are_heard_each_by_itself(rng):
    x = np.stack([growing_tone(hz, 50, 1.0, RATE, rng) for hz in (300, 900, 2_000)] + [np.zeros(RATE, np.float32)])
    order = [2, 0, 3, 1]
    a, b = RingDetector(RATE, 4), RingDetector(RATE, 4)
    np.testing.assert_array_equal(a.process(x)[order], b.process(x[order]))
    np.testing.assert_array_equal(a.frequencies_hz[order], b.frequencies_hz)
    assert (a.rings > 0).tolist() == [True, True, True, False]


def test_the_pull_down_is_held_let_go_and_held_longer_if_it_rings_again(rng):
    detector = RingDetector(RATE, 1)
    curve = []

    def hear(x):
        for start in range(0, len(x), 160):
            curve.append(float(detector.process(x[None, start : start + 160])[0]))
            if start and curve[-1] > curve[-2]:  # the loop is broken
                return

    for quiet_s in (8, 30, 8):
        hear(growing_tone(800, 60, 0.8, RATE, rng))
        hear(np.zeros(quiet_s * RATE, np.float32))
    pulled_db = np.array(curve)
    down = np.flatnonzero(np.diff(pulled_db, prepend=0) > 0)
    assert len(down) == 3
    # Soon after it is held for twice as long; long after it is not.
    for start, hold_s in zip(down, (3, 6, 3), strict=True):
        free = start + 100 * hold_s + 1
        assert (pulled_db[start:free] == ring.STEP_DB).all()
        np.testing.assert_allclose(np.diff(pulled_db[free - 1 : free + 398]), -ring.RELEASE_DB_PER_S / 100)
        assert not pulled_db[free + 400 : free + 450].any()


def test_one_that_rings_on_is_pulled_down_further_but_not_without_end(rng):
    detector = RingDetector(RATE, 1)
    assert detector.process(growing_tone(1_000, 40, 1.4, RATE, rng)[None])[0] == ring.DEEPEST_DB


def test_nan_is_heard_as_silence(rng):
    x = np.tile(growing_tone(900, 40, 1.5, RATE, rng), (2, 1))
    x[0, 1_000:1_200] = np.nan
    x[0, 1_500] = np.inf
    detector = RingDetector(RATE, 2)
    assert (detector.process(x) > 0).all()


def test_spectra_follow_numpy(rng):
    x = rng.standard_normal((2, ring.WINDOW)).astype(np.float32)
    bins = ring.WINDOW // 2 + 1
    out = np.empty((2, bins), np.float32)
    ring.power_spectra(x, ring._SHAPE, np.empty_like(x), np.empty((2, bins), np.complex64), out)
    np.testing.assert_allclose(
        out, np.abs(np.fft.rfft(x * np.hanning(ring.WINDOW + 1)[:-1] * 4 / 1024)) ** 2, rtol=2e-3
    )


# A loop is swept over 0 dB. `ring` says how far above the programme it would stand when its channel is pulled down.
@pytest.mark.parametrize(
    ("stem", "start_s", "room", "sweep_db_per_s"),
    [("vocals", 8, 0, 12.0), ("vocals", 4, 1, 3.0), ("acoustic", 2, 2, 3.0), ("vocals", 4, 3, 1.0)],
)
def test_a_loop_is_pulled_down_within_half_a_second_and_before_6_db(stem, start_s, room, sweep_db_per_s):
    found = BENCH.ring(0.7 * BENCH.demo(stem)[start_s * RATE :][: 9 * RATE], room, sweep_db_per_s)
    assert found["late_s"] <= 0.5
    assert found["growth_db"] <= 6.0
    assert found["highest_db"] <= 6.0
    assert found["deepest_db"] <= 12.0


@pytest.mark.parametrize("room", [0, 1])
def test_a_loop_that_grows_slowly_is_found_too(room):
    dry = np.random.default_rng(3).standard_normal(13 * RATE).astype(np.float32) * 0.003
    found = BENCH.ring(dry, room, 0.5, most_db=2.5)
    assert found["late_s"] <= 0.5
    assert found["growth_db"] <= 6.0


def test_swells_are_not_taken_for_feedback():
    made = BENCH.swells(15.0, seed=7) | {stem: BENCH.demo(stem)[: 15 * RATE] for stem in BENCH.STEMS}
    assert not any(BENCH.false_alarms(made).values())
    looped = {name: BENCH.in_safe_loop(x, BENCH.room(1)) for name, x in made.items()}
    assert not any(BENCH.false_alarms(looped).values())


# ---- bleed -----------------------------------------------------------------------------------------------------


def stream(audio, rate=RATE):
    heard = FrontEnd(rate).process(audio)
    columns = heard.log_mel.shape[1] // heard.frames
    for n in range(heard.frames):
        yield heard.log_mel[:, n * columns : (n + 1) * columns], heard.levels[:, n]


def test_bleed_is_told_from_players_on_simulated_stages():
    found = BENCH.judge_bleed((*BENCH.staged(100 + seed, 20.0, 12.0), RATE) for seed in range(2))
    assert found["frames beyond 3 s of rest, %"] > 20
    assert found["wrongly allowed boost, dB"] < 2.5
    assert found["wrongly refused boost, dB"] < 0.5
    assert found["own frames called bleed, %"] < 2


def test_nobody_in_a_rhythm_without_bleed_is_taken_for_bleed():
    found = BENCH.judge_bleed([BENCH.demo_song(12.0)])
    assert found["wrongly refused boost, dB"] < 0.5
    heard = BENCH.hear_bleed(BENCH.demo_song(12.0))
    strummed_and_struck = [BENCH.STEMS.index(stem) for stem in ("acoustic", "kick", "snare")]
    assert not heard.said[strummed_and_struck, 4 * 20 :].any()


def in_turns(plays, strokes=1.0, loud=0.03):
    """Two players of noise, who hear each other; the first in the frames in which he plays."""
    rng, frame = np.random.default_rng(2), RATE // 20
    own = 0.1 * rng.standard_normal((2, len(plays) * frame))
    own[0] *= np.repeat(plays, frame) * strokes
    heard = own + loud * np.roll(own[::-1], 80, axis=1)
    detector = BleedDetector(2)
    return np.array([detector.step(*features) for features in stream(heard.astype(np.float32))])


def test_a_resting_player_is_bleed_within_3_seconds_and_himself_again_with_his_first_frame():
    plays = np.ones(400)
    plays[80:180] = plays[260:330] = 0
    said = in_turns(plays)
    assert not said[:80].any()
    for rests, plays_again in ((80, 180), (260, 330)):
        assert not said[rests : rests + 40, 0].any()
        assert said[rests + 60 : plays_again, 0].all()
        assert not said[plays_again : plays_again + 40, 0].any()
    assert not said[:, 1].any()


def test_a_drum_between_its_strokes_is_not_bleed():
    plays = np.zeros(400)
    plays[::30] = plays[1::30] = 1
    assert not in_turns(plays).any()


def slow_bleed(frames):
    """Features (frames, channels, 6), and how sure it still is of each player; as `BleedDetector` has it."""
    C = len(frames[0][1])
    transfers, own, together = np.full((C, C, 8), 0.3), np.ones(C), np.zeros((C, C))
    recent, tops, levels, sounded = np.full((10, C), -90.0), np.full(C, -90.0), np.zeros((C, 8)), np.zeros(C, bool)
    smooth, held, certain, came = np.zeros((C, 8)), np.zeros((C, 8)), np.zeros(C), np.zeros(C, bool)
    features, sure = [], []
    for n, (log_mel, measured) in enumerate(frames):
        power = measured[:, 1].astype(np.float64)
        there, before = power >= 1e-10, sounded
        sounded = there
        magnitude = np.exp(log_mel.astype(np.float64)) - 0.01
        bands = (magnitude**2).reshape(C, -1, 8, 8).mean(axis=(1, 3)) + 1e-7
        moves, levels = 10 * np.log10(bands) - levels, 10 * np.log10(bands)
        moves[~(there & before)] = 0
        both = np.outer(there, there)
        together = np.where(both, 0.9 * together + 0.1 * moves @ moves.T, together)
        recent[n % 10] = 10 * np.log10(power + 1e-9)
        tops = np.maximum(recent.max(axis=0), tops - 0.02)
        held = np.maximum(bands, 0.5 * held)
        smooth[there & came] += 0.3 * (bands - smooth)[there & came]
        smooth[there & ~came] = bands[there & ~came]
        certain[there & ~came] = 1
        came |= there
        found = np.zeros((C, 6))
        for c in range(C):
            alike = heard = 0.0
            if there[c]:
                alike, explained = -1.0, np.zeros(8)
                for s in np.flatnonzero(there):
                    if s == c:
                        continue
                    ratio, old = smooth[c] / smooth[s], transfers[c, s].copy()
                    forgotten = np.where(smooth[s] > 1e-6, np.minimum(1.0015 * old, 1), old)
                    transfers[c, s] = np.where(ratio < old, old + 0.3 * (ratio - old), forgotten)
                    explained = np.maximum(explained, 3 * transfers[c, s] * held[s])
                    alike = max(alike, together[c, s] / np.sqrt(together[c, c] * together[s, s] + 1e-9))
                share = np.maximum(bands[c] - explained, 0).sum() / bands[c].sum()
                heard = own[c] = own[c] + 0.3 * (share - own[c])
            level, rest = recent[n % 10, c], recent[:, c].max() - tops[c]
            changes = np.log10(together[c, c] + 0.1)
            product = alike * np.clip(-rest / 10, 0, 1)
            found[c] = [np.clip(level, -60, -30), max(rest, -20), heard, alike, product, changes]
        odds = bleed._WEIGHTS[0] + found @ bleed._WEIGHTS[1:]
        certain = np.clip(certain + np.where(there, np.maximum(0.3 * odds, -1 / 45), -1 / 45), 0, 1)
        features.append(found)
        sure.append(certain.copy())
    return np.array(features), np.array(sure)


def test_the_bleed_kernel_follows_its_twin():
    audio, _ = BENCH.staged(5, 6.0)
    audio[2, : 2 * RATE] = audio[4, 3 * RATE : 4 * RATE] = 0
    frames = list(stream(audio))
    detector = BleedDetector(len(audio))
    features, sure = slow_bleed(frames)
    for frame, features_now, sure_now in zip(frames, features, sure, strict=True):
        said = detector.step(*frame)
        np.testing.assert_allclose(detector.features, features_now, rtol=1e-4, atol=1e-4)
        odds = bleed._WEIGHTS[0] + features_now @ bleed._WEIGHTS[1:]
        np.testing.assert_allclose(detector.scores, odds, atol=1e-3)
        np.testing.assert_allclose(detector._heard, sure_now, atol=1e-3)
        np.testing.assert_array_equal(said, detector._heard == 0)
    assert 0.02 < (sure == 0).mean() < 0.5


def test_a_channel_that_goes_and_comes_back_is_known_again_and_nan_is_heard_as_silence():
    audio, _ = BENCH.staged(8, 8.0)
    gone = slice(4 * RATE, 7 * RATE)
    broken = audio.copy()
    audio[1, gone], broken[1, gone] = 0, np.nan
    detector, other = BleedDetector(len(audio)), BleedDetector(len(audio))
    learnt, own = detector._transfers[1], 0.0
    for n, (features, same) in enumerate(zip(stream(audio), stream(broken), strict=True)):
        said = detector.step(*features)
        np.testing.assert_array_equal(other.step(*same), said)
        np.testing.assert_array_equal(other.scores, detector.scores)
        if n == 80:
            learnt, own = detector._transfers[1].copy(), detector._own[1]
        if 80 <= n < 140:
            assert said[1] or n < 82 + bleed.REST_FRAMES
            np.testing.assert_array_equal(detector._transfers[1], learnt)
            assert detector._own[1] == own


def test_bleed_follows_a_permutation_and_silent_channels_change_nothing():
    audio, _ = BENCH.staged(6, 5.0)
    order = [3, 0, 6, 1, 5, 2, 4]
    more = np.concatenate([audio, np.zeros_like(audio[:2])])
    whole, shuffled, wider = BleedDetector(7), BleedDetector(7), BleedDetector(9)
    for (mel, levels), (wide_mel, wide_levels) in zip(stream(audio), stream(more), strict=True):
        whole.step(mel, levels)
        shuffled.step(mel[order], levels[order])
        said = wider.step(wide_mel, wide_levels)
        np.testing.assert_allclose(shuffled.scores, whole.scores[order], atol=1e-9)
        np.testing.assert_array_equal(wider.scores[:7], whole.scores)
        assert said[7:].all()
    np.testing.assert_array_equal(wider._transfers[:7, :7], whole._transfers)
    whole.reset()
    mel, levels = next(stream(audio))
    np.testing.assert_array_equal(whole.step(mel, levels), BleedDetector(7).step(mel, levels))


# ---- number of open microphones --------------------------------------------------------------------------------


def total_db(gains_db, is_open):
    return 10 * np.log10(np.sum(10 ** (np.asarray(gains_db)[np.asarray(is_open, bool)] / 10)) + 1e-300)


@pytest.mark.parametrize("n", [1, 2, 8, 32])
def test_n_open_microphones_lose_10_log_n(n):
    np.testing.assert_allclose(limit_open_gain(np.zeros(n), np.ones(n, bool), 0.0), -10 * np.log10(n))


gains = st.floats(-40, 20, allow_subnormal=False)
channels = st.integers(1, 12)


@given(st.data(), channels, st.floats(-30, 30, allow_subnormal=False))
@settings(max_examples=100, deadline=None)
def test_open_gain_stays_in_its_limit_by_equal_reduction(data, n, limit_db):
    wanted = data.draw(arrays(np.float64, n, elements=gains))
    is_open = data.draw(arrays(bool, n))
    got = limit_open_gain(wanted, is_open, limit_db)
    reduction = wanted - got
    np.testing.assert_allclose(reduction, reduction[0], atol=1e-9)
    assert reduction[0] >= 0
    assert total_db(got, is_open) <= limit_db + 1e-6
    if total_db(wanted, is_open) > limit_db:
        assert total_db(got, is_open) == pytest.approx(limit_db, abs=1e-6)
    else:
        np.testing.assert_array_equal(got, wanted)


# ---- limits ----------------------------------------------------------------------------------------------------


def slow_safety(limits, wanted, operator, previous, bleed_only, held, step):
    """Gains of a frame as the docstring of `Safety` has it; all numbers finite."""
    reach_db = np.where(held, 0.0, limits.range_db)
    low, high = operator - reach_db, operator + reach_db
    before = np.clip(previous, low, high)
    target = np.clip(wanted, low, np.where(bleed_only & (not limits.boost_bleed), operator, high))
    most = np.inf if limits.open_gain_db is None else total_db(operator, np.ones(len(operator))) + limits.open_gain_db

    def with_room(gains_db, floor):
        """All lowered by the same, found by halving."""
        reductions = [0.0, max((gains_db - floor)[~bleed_only], default=0.0)]
        for _ in range(100):
            middle = np.mean(reductions)
            over = total_db(np.maximum(gains_db - middle, floor), ~bleed_only) > most + 1e-9
            reductions[0 if over else 1] = middle
        return (
            np.maximum(gains_db - reductions[1], floor) if total_db(gains_db, ~bleed_only) > most + 1e-9 else gains_db
        )

    gains_db = np.clip(with_room(target, low), before - step, before + step)
    return with_room(gains_db, np.maximum(low, before - step))


@st.composite
def stages(draw):
    n = draw(channels)

    def row(low, high):
        return draw(arrays(np.float64, n, elements=st.floats(low, high, allow_subnormal=False)))

    limits = StageLimits(
        range_db=draw(st.sampled_from([0.0, 3.0, 6.0])),
        slew_db_per_s=draw(st.sampled_from([3.0, 12.0, 200.0])),
        boost_bleed=draw(st.booleans()),
        open_gain_db=draw(st.sampled_from([None, -3.0, 0.0, 4.0])),
    )
    frames = [
        (row(-30, 30), row(-20, 10), draw(arrays(bool, n)), draw(arrays(bool, n)))
        for _ in range(draw(st.integers(1, 5)))
    ]
    return limits, row(-25, 15), frames


@given(stages())
@settings(max_examples=150, deadline=None)
def test_safety_follows_its_twin_and_a_permutation(stage):
    limits, previous, frames = stage
    n = len(previous)
    order = np.random.default_rng(n).permutation(n)
    safety, shuffled = Safety(n, limits), Safety(n, limits)
    for args in frames:
        args = (*args[:2], previous, *args[2:])
        got = safety.step(*args)
        np.testing.assert_allclose(shuffled.step(*(x[order] for x in args)), got[order], atol=1e-9)
        np.testing.assert_allclose(got, slow_safety(limits, *args, limits.slew_db_per_s / 20), atol=1e-4)
        previous = got


@given(stages())
@settings(max_examples=150, deadline=None)
def test_what_safety_promises(stage):
    limits, previous, frames = stage
    safety = Safety(len(previous), limits)
    step = limits.slew_db_per_s / 20
    operator = frames[0][1]  # who stands still: what an operator moves is followed at once, slew or not
    previous = np.clip(previous, operator - limits.range_db, operator + limits.range_db)
    most = None if limits.open_gain_db is None else total_db(operator, np.ones(len(operator))) + limits.open_gain_db
    for wanted, _, bleed_only, held in frames:
        got = safety.step(wanted, operator, previous, bleed_only, held)
        assert (got[held] == operator[held]).all()
        assert (np.abs(got - operator) <= limits.range_db + 1e-9).all()
        assert ((np.abs(got - previous) <= step + 1e-9) | held).all()
        assert ((got <= operator + 1e-9) | (got < previous + 1e-9) | ~bleed_only | limits.boost_bleed).all()
        if most is not None:
            at_once = np.where(held, operator, np.maximum(operator - limits.range_db, previous - step))
            assert total_db(got, ~bleed_only) <= max(most, total_db(at_once, ~bleed_only)) + 1e-6
        previous = got


def run(
    safety: Safety, frames: int, wanted: ArrayLike, operator: ArrayLike = 0.0, bleed_only: ArrayLike = False,
    held: ArrayLike = False, previous: ArrayLike = 0.0,
):  # fmt: skip
    def row(x):
        return np.broadcast_to(x, safety.channels)

    gains_db = row(previous)
    for _ in range(frames):
        gains_db = safety.step(row(wanted), row(operator), gains_db, row(bleed_only), row(held))
    return gains_db


def test_the_defaults_are_those_of_a_stage():
    safety = Safety(1, StageLimits(open_gain_db=None))
    assert run(safety, 1, 20.0)[0] == pytest.approx(0.6)
    assert run(safety, 100, 20.0)[0] == pytest.approx(6.0)
    assert safety.reasons[0] == Reason.RANGE
    assert run(safety, 100, -20.0)[0] == pytest.approx(-6.0)
    assert run(safety, 100, 20.0, bleed_only=True)[0] == 0.0
    assert safety.reasons[0] == Reason.BLEED
    assert run(safety, 100, -3.0, bleed_only=True)[0] == pytest.approx(-3.0)
    assert safety.reasons[0] == Reason.MODEL
    # One who has been boosted and rests comes down as fast as anything moves.
    assert run(safety, 1, 5.0, bleed_only=True, previous=5.0)[0] == pytest.approx(4.4)


def test_open_microphones_share_the_gain_that_the_operator_gives():
    safety = Safety(4)
    np.testing.assert_allclose(
        run(safety, 50, [6.0, 6.0, 0.0, 0.0], bleed_only=[False, False, True, True]), [3, 3, -3, -3], atol=0.05
    )
    assert (safety.reasons == Reason.OPEN).all()
    # The model's balance is kept.
    np.testing.assert_allclose(np.diff(run(Safety(2), 50, [6.0, 1.0])), -5.0)
    # Two more open: no gain moves by more than the slew allows, and soon there is room for them.
    before = np.array([3.0, 3.0, -3.0, -3.0])
    first = run(safety, 1, [6.0, 6.0, 0.0, 0.0], previous=before)
    assert (np.abs(first - before) <= 0.6 + 1e-9).all()
    after = run(safety, 20, [6.0, 6.0, 0.0, 0.0], previous=first)
    assert total_db(after, np.ones(4)) == pytest.approx(10 * np.log10(4), abs=1e-6)


def test_a_held_fader_stays_and_takes_its_part_of_the_room():
    got = run(Safety(2), 50, [6.0, 6.0], operator=[0.0, 3.0], held=[False, True])
    # All that both faders give, less what the held one takes, is what the other had.
    np.testing.assert_allclose(got, [0.0, 3.0], atol=1e-6)
    safety = Safety(2, StageLimits(open_gain_db=None))
    np.testing.assert_allclose(run(safety, 50, [6.0, 6.0], operator=[0.0, 3.0], held=[False, True]), [6.0, 3.0])
    assert safety.reasons.tolist() == [Reason.MODEL] * 2


def test_what_is_not_a_number_holds():
    safety = Safety(3, StageLimits(open_gain_db=None))
    got = safety.step([np.nan, 0.0, np.nan], [0.0, np.nan, np.nan], [-2.0, 1.5, np.nan], [False] * 3)
    np.testing.assert_allclose(got, [-2.0, 0.9, 0.0])
    assert safety.reasons.tolist() == [Reason.FAULT] * 3
    got = safety.step([np.inf, -np.inf, 3.0], [0.0, 0.0, -np.inf], [0.0, 0.0, 0.0], [False] * 3)
    np.testing.assert_allclose(got, [0.6, -0.6, -np.inf])
    # An operator whose fader is closed leaves the others their room.
    got = run(Safety(2), 50, [6.0, 6.0], operator=[0.0, -np.inf])
    np.testing.assert_allclose(got, [0.0, -np.inf])


def test_what_the_operator_moves_is_followed_at_once():
    safety = Safety(1, StageLimits(open_gain_db=None))
    assert safety.step([3.0], [-20.0], [3.0], [False])[0] == -14.0
    assert safety.step([3.0], [3.0], [-np.inf], [False])[0] == pytest.approx(-3.0 + 0.6)
    assert safety.step([3.0], [0.0], [np.nan], [False])[0] == pytest.approx(0.6)


# ---- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StageLimits(range_db=-1.0), "range_db must be in [0, 60], got -1.0"),
        (lambda: StageLimits(slew_db_per_s=0.0), "slew_db_per_s must be in [0.1, 1000], got 0.0"),
        (lambda: StageLimits(open_gain_db=float("nan")), "open_gain_db must be in [-60, 60], got nan"),
        (lambda: StageLimits(boost_bleed=1), "boost_bleed must be True or False, got 1"),  # pyright: ignore[reportArgumentType]
        (lambda: Safety(0), "channels must be in [1, 64], got 0"),
        (lambda: Safety(2, frame_ms=0), "frame_ms must be in [1, 1000], got 0"),
        (lambda: Safety(2).step([0], [0, 0], [0, 0], [0, 0]), "wanted_db must have shape (2,), got (1,)"),
        (lambda: limit_open_gain([0, 0], [True], 0), "is_open must be as long as gains_db, got (1,) and (2,)"),
        (lambda: RingDetector(48_000, 65), "channels must be in [1, 64], got 65"),
        (lambda: RingDetector(100, 1), "sample_rate must be a whole number in [8000, 192000] Hz, got 100"),
        (
            lambda: RingDetector(48_000, 2).process(np.zeros((1, 9), np.float32)),
            "x must have shape (2, samples), got (1, 9)",
        ),
        (lambda: BleedDetector(0), "channels must be in [1, 64], got 0"),
        (
            lambda: BleedDetector(2).step(np.zeros((2, 5, 63), np.float32), np.zeros((2, 3), np.float32)),
            "log_mel must have shape (2, columns, 64), got (2, 5, 63)",
        ),
        (
            lambda: BleedDetector(2).step(np.zeros((2, 5, 64), np.float32), np.zeros((1, 3), np.float32)),
            "levels must have shape (2, 3), got (1, 3)",
        ),
    ],
)
def test_bad_input_is_one_clear_line(make, message):
    with pytest.raises(ParameterError) as caught:
        make()
    assert str(caught.value) == message
