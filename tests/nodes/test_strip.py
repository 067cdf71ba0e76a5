import math

import numpy as np
import pedalboard as pb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pedalboard_native._internal import AddLatency

from alm_plugin.errors import LatencyError, ParameterError
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.node import Node
from alm_plugin.nodes.pan import Pan, pan_factors
from alm_plugin.nodes.strip import Strip

RATE = 48_000


def noise(channels=1, samples=9_600):
    return np.random.default_rng(1).normal(0.0, 0.2, (channels, samples)).astype(np.float32)


def late(y, samples):
    return np.pad(y, ((0, 0), (samples, 0)))[:, : y.shape[1]]


class Poison(Node):
    """A filter in which a NaN or an infinity stays, as it does in an IIR filter's memory."""

    def __init__(self):
        self.resets = 0
        self.reset()

    def reset(self):
        self._memory = np.float32(0.0)
        self.resets += 1

    def process_block(self, x, sample_rate):
        out = np.empty_like(x)
        with np.errstate(invalid="ignore"):
            for i in range(x.shape[1]):
                self._memory = x[0, i] + 0.0 * self._memory
                out[:, i] = self._memory
        return out


# ---- alone -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("settings", "factor"), [({}, 1), ({"trim_db": -20}, 0.1), ({"trim_db": 6, "lock_db": -40}, 0.01)]
)
def test_alone_it_is_pre_gain_post(channels, settings, factor):
    x = noise(channels)
    strip = Strip([pb.HighpassFilter(90)], [pb.Reverb()], **settings)
    want = pb.Reverb()((pb.HighpassFilter(90)(x, RATE) * factor).astype(np.float32), RATE)
    out = strip(x, RATE)
    assert out.shape == x.shape
    np.testing.assert_allclose(out, want, atol=1e-6)
    for sizes in (1, 441, 2_400):
        strip.reset()
        blocks = [strip(x[:, i : i + sizes], RATE, reset=False) for i in range(0, 9_600, sizes)]
        assert sizes > 1 or channels == 1 or blocks[0].shape == (2, 1)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), out)


def test_alone_it_is_late_in_one_shot_as_in_a_stream():
    x = noise(2)
    strip = Strip([AddLatency(100)], AddLatency(30))
    assert (strip.pre_latency_samples, strip.post_latency_samples, strip.reported_latency_samples) == (100, 30, 130)
    assert strip.latency_names == [("AddLatency", 100), ("AddLatency", 30)]
    np.testing.assert_array_equal(strip(x, RATE), late(x, 130))
    np.testing.assert_array_equal(strip(x, RATE, 7), late(x, 130))


def test_alone_stereo_is_balanced_and_mono_stays_mono():
    x = noise(2)
    np.testing.assert_array_equal(Strip(pan=-0.4)(x, RATE), Pan(-0.4)(x, RATE))
    np.testing.assert_array_equal(Strip(pan=-0.4)(x[:1], RATE), x[:1])


def test_alone_trim_and_lock_move_without_a_step():
    one = np.ones((1, 480), np.float32)
    strip = Strip()
    strip.process(one, RATE)
    strip.trim_db = -20.0
    out = np.concatenate([strip.process(one, RATE, reset=False) for _ in range(3)], axis=1)
    assert np.abs(np.diff(out)).max() < 1e-3
    assert out[0, -1] == np.float32(0.1)
    strip.lock_db = -math.inf
    for _ in range(3):
        out = strip.process(one, RATE, reset=False)
    assert out[0, -1] == 0.0


# ---- for the mixer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_tap_finish_bus(channels):
    x = noise(channels)
    strip = Strip([pb.HighpassFilter(90)], [pb.Gain(-6)], pan=0.25)
    strip.prepare(RATE, channels)
    strip.gain.jump(-20.0)
    tap = strip.tap(x)
    np.testing.assert_array_equal(tap, pb.HighpassFilter(90)(x, RATE))
    kept = tap.copy()
    done = np.concatenate([strip.finish(tap[:, :1_000]), strip.finish(tap[:, 1_000:])], axis=1)  # not contiguous
    np.testing.assert_array_equal(tap, kept)
    np.testing.assert_allclose(done, tap * 10**-1.3, rtol=1e-5)
    left, right = pan_factors(0.25, channels)
    bus = strip.to_bus(done, 2)
    np.testing.assert_allclose(bus, [done[0] * left, done[-1] * right], rtol=1e-6)
    mono = strip.to_bus(done, 1)
    assert mono.shape == (1, 9_600)
    assert mono.dtype == np.float32
    np.testing.assert_allclose(mono[0], done.mean(axis=0), rtol=1e-5, atol=1e-9)


def test_an_empty_strip_in_the_centre_is_bit_exact():
    x = noise()
    strip = Strip()
    strip.prepare(RATE, 1)
    np.testing.assert_array_equal(strip.to_bus(strip.finish(strip.tap(x)), 2), np.broadcast_to(x, (2, 9_600)))


def test_prepare_starts_afresh():
    strip = Strip([pb.Reverb()], mute=True, trim_db=-6.0)
    strip.prepare(RATE, 1)
    first = strip.tap(noise())
    assert not strip.finish(first).any(), "muted from the first sample"
    strip.to_bus(first, 2)
    strip.mute = False
    strip.pan = 1.0
    strip.gain.gain_db = 12.0
    strip.faults = 5
    strip.prepare(RATE, 1)
    assert not strip.to_bus(first, 2)[0].any(), "on the right from the first sample"
    np.testing.assert_array_equal(strip.tap(noise()), first)
    np.testing.assert_allclose(strip.finish(first), first * 10**-0.3, rtol=1e-6)
    assert strip.faults == 0


@pytest.mark.parametrize("block", [1, 64, 2_400])
@pytest.mark.parametrize("rate", [8_000, 48_000, 96_000])
def test_mute_begins_at_once_and_ends_within_10_ms(block, rate):
    strip = Strip()
    strip.prepare(rate, 1)
    one = np.ones((1, block), np.float32)
    assert (strip.finish(one) == 1.0).all()
    for wanted, end in ((True, 0.0), (False, 1.0)):
        strip.mute = wanted
        assert strip.mute is wanted
        out = np.concatenate([strip.finish(one) for _ in range(-(-rate // 50 // block))], axis=1)[0]
        assert out[1] != 1.0 - end, "the ramp's first step"
        moving = np.flatnonzero(out != end)
        assert moving[0] == 0
        assert moving[-1] < rate // 100
        assert np.abs(np.diff(out)).max() <= 1.01 / (rate * 0.005), "a ramp, not a step"
        assert (out[rate // 100 :] == end).all()


def test_mute_is_apart_from_the_gain():
    strip = Strip(mute=True)
    strip.prepare(RATE, 1)
    strip.gain.jump(-6.0)
    strip.mute = True
    assert strip.gain.gain_db == -6.0
    assert not strip.finish(noise()).any()


@pytest.mark.parametrize("chain", ["pre", "post"])
def test_chains_that_change_the_width_are_refused(chain):
    strip = Strip(**{chain: [Pan()]})
    with pytest.raises(ParameterError, match=f"{chain} must keep 1 channel, got 2"):
        strip.prepare(RATE, 1)
    strip.prepare(RATE, 2)


def test_widths():
    with pytest.raises(ParameterError, match="a strip takes a signal of 1 or 2 channels, got 3"):
        Strip()(np.zeros((3, 9), np.float32), RATE)


def test_what_cannot_stream_is_refused_when_the_stream_starts():
    with pytest.raises(LatencyError, match="PitchShift cannot run in a stream"):
        Strip([pb.PitchShift(1)]).prepare(RATE, 1)


def test_a_vst3_of_another_width_is_refused_when_the_stream_starts(zam):
    strip = Strip([pb.load_plugin(str(zam / "ZamCompX2.vst3"))])
    with pytest.raises(ParameterError, match="ZamCompX2 cannot process 1 channel"):
        strip.prepare(RATE, 1)
    strip.prepare(RATE, 2)
    assert strip.tap(noise(2)).shape == (2, 9_600)


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["pre", "post"])
def test_what_is_no_number_does_not_stay(bad, place):
    poison = Poison()
    strip = Strip(**{place: [poison]})
    strip.prepare(RATE, 2)
    send = strip.tap if place == "pre" else strip.finish
    x = noise(2, 480)
    hurt = x.copy()
    hurt[0, 400] = bad
    resets = poison.resets
    out = send(hurt)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out[:, :400], x[[0, 0], :400])
    assert not out[:, 400:].any()
    assert strip.faults == 160
    assert poison.resets == resets + 1
    np.testing.assert_array_equal(send(x), x[[0, 0]])
    assert strip.faults == 160
    assert not np.isfinite(hurt[0, 400]), "the caller's block is left alone"


def test_a_pedalboard_filter_recovers():
    strip = Strip([pb.HighpassFilter(90), AddLatency(100)])
    strip.prepare(RATE, 1)
    hurt = noise(1, 480)
    hurt[0, 0] = np.nan
    assert np.isfinite(strip.tap(hurt)).all()
    assert strip.faults > 300
    np.testing.assert_array_equal(strip.tap(noise()), late(pb.HighpassFilter(90)(noise(), RATE), 100))


# ---- what the human sets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("trim_db", 99, r"trim_db must be in \[-60, 24\], got 99"),
        ("trim_db", math.nan, "trim_db must be in"),
        ("trim_db", -math.inf, "trim_db must be in"),
        ("lock_db", 24.1, r"lock_db must be in \[-inf, 24\], got 24.1"),
        ("lock_db", math.nan, "lock_db must be in"),
        ("pan", 2.0, r"pan must be in \[-1, 1\], got 2.0"),
        ("role", "voclas", "role must be one of vocals, .* got 'voclas'"),
        ("mute", "no", "mute must be True or False, got 'no'"),
        ("bounds_db", (6, -6), r"bounds_db must be two rising gains in \[-inf, 60\], got \(6, -6\)"),
        ("bounds_db", (-6, 61), "bounds_db must be"),
        ("bounds_db", (-6,), "bounds_db must be"),
        ("bounds_db", 6, "bounds_db must be"),
        ("slew_db_per_s", 0.0, "slew_db_per_s must be positive or None, got 0.0"),
        ("slew_db_per_s", math.nan, "slew_db_per_s must be positive"),
        ("slew_db_per_s", "x", "slew_db_per_s must be positive or None, got 'x'"),
    ],
)
def test_ranges(name, bad, message):
    with pytest.raises(ParameterError, match=message):
        Strip(**{name: bad})
    strip = Strip()
    before = getattr(strip, name)
    with pytest.raises(ParameterError, match=message):
        setattr(strip, name, bad)
    assert getattr(strip, name) == before


def test_a_misspelt_attribute_is_refused():
    with pytest.raises(
        AttributeError, match="has no attribute 'trim', only bounds_db, faults, group, lock_db, mute, pan, post"
    ):
        Strip().trim = 3.0


def test_chains_can_be_given_in_many_ways_and_changed():
    chain = Chain([pb.Gain()])
    strip = Strip(chain, pb.Reverb())
    assert strip.pre is chain
    assert len(strip.post) == 1
    strip.pre += [Gain()]
    assert strip.pre is chain
    assert len(strip.pre) == 2
    strip.pre = None
    assert len(strip.pre) == 0
    x = noise()
    strip.post = [pb.Gain(-20)]
    np.testing.assert_allclose(strip(x, RATE), 0.1 * x, rtol=1e-5)


def test_repr():
    text = repr(Strip([pb.Gain()], role="bass", trim_db=2))
    assert text.startswith("<alm_plugin.Strip pre=<alm_plugin.Chain with 1 plugin: [<pedalboard.Gain")
    said = "lock_db=None mute=False solo=False group=None sends={} bounds_db=(-60.0, 24.0) slew_db_per_s=None at 0x"
    assert f"role='bass' trim_db=2.0 {said}" in text


def slow_law(strip, model_db, strength, previous_db, frame_s):
    gain_db = np.clip(strength / 100 * model_db + strip.trim_db, *strip.bounds_db)
    if previous_db is not None and strip.slew_db_per_s is not None:
        previous_db = np.clip(previous_db, *strip.bounds_db)
        step = strip.slew_db_per_s * frame_s
        gain_db = previous_db + np.clip(gain_db - previous_db, -step, step)
    return gain_db if strip.lock_db is None else strip.lock_db


decibels = st.floats(-100.0, 60.0, allow_subnormal=False)


@given(
    model_db=decibels,
    strength=st.floats(0.0, 100.0, allow_subnormal=False),
    trim_db=st.floats(-60.0, 24.0, allow_subnormal=False),
    previous_db=st.none() | decibels | st.just(-math.inf),
    slew=st.none() | st.floats(0.1, 100.0),
    lock_db=st.none() | st.floats(-80.0, 24.0, allow_subnormal=False),
    bounds=st.tuples(st.floats(-60.0, 0.0, allow_subnormal=False), st.floats(0.0, 24.0, allow_subnormal=False)),
)
def test_the_law(model_db, strength, trim_db, previous_db, slew, lock_db, bounds):
    strip = Strip(trim_db=trim_db, slew_db_per_s=slew, lock_db=lock_db, bounds_db=bounds)
    got = strip.law(model_db, strength, previous_db, 0.05)
    assert got == pytest.approx(slow_law(strip, model_db, strength, previous_db, 0.05), abs=1e-9)


def test_the_law_by_example():
    assert Strip().law(10.0, 100.0, None, 0.05) == 10.0
    assert Strip().law(10.0, 50.0, None, 0.05) == 5.0
    assert Strip(trim_db=2).law(10.0, 50.0) == 7.0
    assert Strip(bounds_db=(-6, 6)).law(10.0) == 6.0
    assert Strip(slew_db_per_s=12).law(10.0, 100.0, 0.0, 0.05) == pytest.approx(0.6)
    assert Strip(slew_db_per_s=12).law(-10.0, 100.0, 0.0, 0.05) == pytest.approx(-0.6)
    assert Strip(slew_db_per_s=12).law(10.0, 100.0, None, 0.05) == 10.0
    assert Strip(lock_db=-3, trim_db=9, bounds_db=(0, 6), slew_db_per_s=1).law(10.0, 100.0, 0.0) == -3.0
    # A silent lock that is let go must not hold the gain at silence: slewed from the lowest bound.
    assert Strip(slew_db_per_s=12).law(0.0, 100.0, -math.inf, 0.05) == pytest.approx(-59.4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_model_that_says_nothing_sensible_holds_the_gain(bad):
    assert Strip(trim_db=3).law(bad, 100.0, -7.5, 0.05) == -7.5
    assert Strip(trim_db=3).law(bad, 100.0, None, 0.05) == 3.0
    assert Strip(lock_db=-1).law(bad, 100.0, -7.5, 0.05) == -1.0
