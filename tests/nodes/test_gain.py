import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin.errors import ParameterError
from alm_plugin.nodes.gain import Gain, Ramp, factor_at, multiply, multiply_and_add

RATE = 48_000


def slow_ramp(x, start, end, t, length):
    """What `multiply` says, one sample at a time."""
    out = np.empty_like(x)
    for channel in range(x.shape[0]):
        for i in range(x.shape[1]):
            part = min(max((t + i) / length, 0.0), 1.0)
            factor = start + (end - start) * part if part < 1.0 else end
            out[channel, i] = np.float32(np.float64(x[channel, i]) * factor)
    return out


# A VST3 built with -ffast-math, as Debian's are, leaves its thread without subnormal numbers, and Hypothesis minds.
factors = st.floats(0.0, 1000.0, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(
    start=factors,
    end=factors,
    t=st.integers(-50, 50),
    length=st.integers(1, 60),
    shape=st.tuples(st.integers(1, 3), st.integers(0, 40)),
)
def test_the_kernel_equals_its_twin(start, end, t, length, shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    out = np.full_like(x, np.nan)
    multiply(x, start, end, t, length, out)
    np.testing.assert_array_equal(out, slow_ramp(x, start, end, t, length))
    for wide in (x, x[:1]):
        before = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        total = before.copy()
        multiply_and_add(wide, start, end, t, length, total)
        np.testing.assert_array_equal(total, before + slow_ramp(wide, start, end, t, length))
    assert factor_at(start, end, length, length) == end
    assert factor_at(start, end, min(t, 0), length) == start


moves = st.lists(
    st.tuples(
        st.integers(0, 3_000),  # when
        st.sampled_from(["set", "schedule", "jump"]),
        st.sampled_from([-math.inf, -60.0, -6.0, 0.0, 3.3, 60.0]),
        st.integers(0, 900),
        st.integers(1, 900),
    ),
    max_size=6,
)


def play(x, plan, sizes):
    """A gain under a plan of moves, in blocks of `sizes` cut where a move happens."""
    gain = Gain(-3.0, ramp_ms=7.0)
    plan = sorted(plan, key=lambda move: move[0])
    out, at, k = [], 0, 0
    while at < x.shape[1]:
        while plan and plan[0][0] <= at:
            _, what, gain_db, delay, length = plan.pop(0)
            if what == "set":
                gain.gain_db = gain_db
            elif what == "schedule":
                gain.schedule(gain_db, delay, length)
            else:
                gain.jump(gain_db)
        stop = min(at + sizes[k % len(sizes)], x.shape[1], plan[0][0] if plan else x.shape[1])
        k += 1
        out.append(gain.process_block(x[:, at:stop], RATE))
        at = stop
    return np.concatenate(out, axis=1)


@settings(max_examples=80, deadline=None)
@given(plan=moves, sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5))
def test_samples_do_not_depend_on_the_blocks(plan, sizes):
    x = np.random.default_rng(2).standard_normal((2, 3_000)).astype(np.float32)
    np.testing.assert_array_equal(play(x, plan, sizes), play(x, plan, [3_000]))


@pytest.mark.parametrize("size", [1, 17, 64, 441, 2400])
def test_fixed_blocks_of_a_moving_gain(size):
    x = np.random.default_rng(3).standard_normal((2, 9_000)).astype(np.float32)
    whole, cut = Gain(), Gain()
    for gain in (whole, cut):
        gain.schedule(-9.0, 100, 7_000)
    want = whole.process(x, RATE, 9_000, reset=False)
    np.testing.assert_array_equal(cut.process(x, RATE, size, reset=False), want)


def test_schedule_waits_then_moves_in_a_line_then_stays():
    gain = Gain()
    gain.schedule(20 * math.log10(0.5), 10, 20)
    out = gain.process(np.ones(50), RATE, reset=False)
    np.testing.assert_array_equal(out[:11], 1.0)
    np.testing.assert_allclose(out[10:31], np.linspace(1.0, 0.5, 21), rtol=1e-6)
    np.testing.assert_array_equal(out[30:], np.float32(0.5))


def test_a_move_that_interrupts_another_starts_where_that_was():
    gain = Gain()
    gain.schedule(-math.inf, 0, 100)
    first = gain.process(np.ones(50), RATE, reset=False)
    assert gain.present_factor == 0.5
    assert gain.present_gain_db == pytest.approx(20 * math.log10(0.5))
    gain.schedule(0.0, 10, 100)
    rest = gain.process(np.ones(200), RATE, reset=False)
    np.testing.assert_array_equal(rest[:11], 0.5)
    assert rest[10] < rest[11] < rest[109] < rest[110] == 1.0
    out = np.concatenate([first, rest])
    assert np.abs(np.diff(out)).max() <= 0.01 + 1e-7, "no step anywhere"


def test_setting_moves_within_ramp_ms_at_the_streams_rate():
    for rate in (8_000, 44_100, 48_000):
        gain = Gain(ramp_ms=10.0)
        gain.gain_db = -math.inf
        out = gain.process(np.ones(2_000), rate, reset=False)
        assert np.flatnonzero(out == 0.0)[0] == round(rate / 100)
        assert out[0] == 1.0
        assert 0.0 < out[round(rate / 200)] < 1.0


def test_reset_is_at_the_gain_at_once():
    gain = Gain()
    gain.gain_db = -20.0
    np.testing.assert_array_equal(gain(np.ones(9), RATE), np.float32(0.1))
    gain.gain_db = 0.0
    gain.jump(-40.0)
    np.testing.assert_allclose(gain.process(np.ones(9), RATE, reset=False), 0.01)
    assert gain.gain_db == gain.present_gain_db == -40.0


def test_unity_is_a_copy():
    x = np.array([[1.5, -0.0, np.nan, np.inf, 1e-42]], np.float32)
    gain = Gain()
    assert gain.is_unity
    out = gain.process_block(x, RATE)
    assert out is not x
    assert not np.shares_memory(out, x)
    assert out.tobytes() == x.tobytes()
    gain.gain_db = -6.0
    assert not gain.is_unity
    gain.process_block(np.zeros((1, RATE), np.float32), RATE)
    gain.gain_db = 0.0
    gain.process_block(np.zeros((1, RATE), np.float32), RATE)
    assert gain.is_unity


def test_silence_is_silent():
    gain = Gain(-math.inf)
    assert gain.present_factor == 0.0
    assert gain.present_gain_db == -math.inf
    assert not gain(np.ones(100), RATE).any()


@pytest.mark.parametrize("bad", [60.1, math.nan, math.inf, "6", None])
def test_gain_range(bad):
    with pytest.raises(ParameterError, match=r"gain_db must be in \[-inf, 60\], got"):
        Gain(bad)
    gain = Gain(-1.0)
    for change in (lambda: gain.jump(bad), lambda: gain.schedule(bad, 0, 1), lambda: setattr(gain, "gain_db", bad)):
        with pytest.raises(ParameterError, match="gain_db"):
            change()
    assert gain.gain_db == -1.0
    assert gain.is_unity is False
    np.testing.assert_array_equal(gain.process(np.ones(4), RATE, reset=False), np.float32(10**-0.05))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_ramp_range(bad):
    with pytest.raises(ParameterError, match="ramp_ms must be positive, got"):
        Gain(ramp_ms=bad)


@pytest.mark.parametrize(("delay", "length"), [(-1, 5), (0, 0)])
def test_schedule_range(delay, length):
    with pytest.raises(ParameterError, match="delay_samples must be >= 0 and ramp_samples >= 1"):
        Gain().schedule(0.0, delay, length)


# ---- clicks ----------------------------------------------------------------------------------------------------------
#
# The tone sin(2 pi c n / N), c whole, through a gain g[n] of period N has at bin k of its DFT
#     Y[k] = (G[k - c] - G[k + c]) / 2j.
# A gain made of straight lines has a second difference d[n] = g[n+1] - 2 g[n] + g[n-1] that is zero but at the corners,
# where it is the change of slope s_j, and D[m] = -4 sin^2(pi m / N) G[m]. So, whatever the phases,
#     |G[m]| <= sum |s_j| / (4 sin^2(pi m / N)).
# A gain that steps has only a first difference like that, and falls like a click, with 1 / sin(pi m / N).

SECONDS = 2
SAMPLES = SECONDS * RATE
FRAME, SLACK, RAMP = 2_400, 960, 960


def random_walk():
    """One gain per frame, each at most 6 dB from the last, the end where the start was."""
    moves = np.random.default_rng(5).uniform(-6.0, 6.0, SAMPLES // FRAME - 1)
    gains = np.concatenate([[0.0], np.clip(np.cumsum(moves), -12.0, 12.0)])
    gains[-1] = 0.0
    return gains


def moved(x, gains, ramp=RAMP):
    gain = Gain()
    gain.jump(gains[0])
    out = np.empty_like(x)
    for frame, gain_db in enumerate(gains):
        if frame:
            gain.schedule(gain_db, SLACK, ramp)
        for start in range(frame * FRAME, (frame + 1) * FRAME, 480):
            out[:, start : start + 480] = gain.process_block(x[:, start : start + 480], RATE)
    return out


@pytest.mark.parametrize("frequency_hz", [30, 100, 440, 1_000, 4_000, 10_000])
def test_no_clicks(frequency_hz):
    gains = random_walk()
    factors = 10 ** (gains / 20)
    assert factors.max() / factors.min() > 4.0
    cycles = frequency_hz * SECONDS
    tone = np.sin(2 * np.pi * cycles * np.arange(SAMPLES) / SAMPLES).astype(np.float32)[None]
    slope_changes = 2 * np.abs(np.diff(factors)).sum() / RAMP  # each ramp has a corner at either end

    bins = np.arange(SAMPLES // 2)

    def bound_of(m):
        return slope_changes / np.maximum(4 * np.sin(np.pi * m / SAMPLES) ** 2, 1e-30)

    bound = 0.5 * (bound_of(bins - cycles) + bound_of(bins + cycles))
    away = np.abs(bins - cycles) >= 200 * SECONDS
    noise = 1e-7 * math.sqrt(SAMPLES) * factors.max()  # float32 samples

    def excess(out):
        energy = np.abs(np.fft.fft(out[0].astype(np.float64))[: SAMPLES // 2])
        return (energy - bound - noise)[away].max()

    assert excess(moved(tone, gains)) <= 0.0
    assert excess(moved(tone, gains, ramp=1)) > 0.0, "a step must be seen"
    assert excess(moved(tone, gains, ramp=RAMP // 8)) > 0.0, "and so must a ramp that is much too short"


def test_ramp_stays_at_its_end_for_ever():
    ramp = Ramp()
    ramp.begin(0.3, 5, 10)
    x = np.ones((1, 7), np.float32)
    for _ in range(9):
        ramp.apply(x, x.copy())
    assert ramp.is_settled
    assert ramp.t == ramp.length
    assert ramp.present == 0.3
