import math

import numpy as np
import pedalboard as pb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pedalboard_native._internal import AddLatency

from alm_plugin.errors import LatencyError, ParameterError
from alm_plugin.nodes.automation import STEP_SAMPLES
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.gain import Gain, multiply_each
from alm_plugin.nodes.node import Node, Parameter
from alm_plugin.nodes.pan import Pan, pan_factors
from alm_plugin.nodes.strip import Strip

RATE = 48_000
SAMPLES = 2_000


class Scale(Node):
    """A user's node with one parameter that steps."""

    factor = Parameter(0.0, 2.0)

    def __init__(self, factor=1.0):
        self.factor = factor
        self.label = "x"

    def process_block(self, x, sample_rate):
        return x * np.float32(self.factor)


class Picky:
    """A duck that refuses a value only when it is set."""

    amount = 0.0

    def __setattr__(self, name, value):
        if value > 1.0:
            raise ValueError("too much")
        object.__setattr__(self, name, value)

    def __init__(self):
        self.amount = 0.5

    def reset(self):
        pass

    def process(self, x, sample_rate, buffer_size=8192, reset=True):
        return x * np.float32(self.amount)


def noise(channels=2, samples=SAMPLES, seed=0):
    return np.random.default_rng(seed).normal(0.0, 0.2, (channels, samples)).astype(np.float32)


def wave(low, high, samples=SAMPLES, cycles=3.3):
    return low + (high - low) * (0.5 + 0.5 * np.sin(2 * np.pi * cycles * np.arange(samples) / samples))


def late(y, samples):
    return np.pad(y, ((0, 0), (samples, 0)))[:, : y.shape[1]]


def stream(node, x, automation, sizes, rate=RATE):
    node.reset()
    if x.shape[0] > 1:  # so that a block of one sample is not read as one channel
        node.process(np.zeros((x.shape[0], x.shape[0] + 1), np.float32), rate)
        node.reset()
    return carry_on(node, x, automation, sizes, rate)


def carry_on(node, x, automation, sizes, rate=RATE):
    out, at, k = [], 0, 0
    while at < x.shape[1]:
        stop = at + sizes[k % len(sizes)]
        block = {key: array[at:stop] for key, array in automation.items()} if automation is not None else None
        out.append(node.process(x[:, at:stop], rate, reset=False, automation=block))
        at, k = stop, k + 1
    return np.concatenate(out, axis=1)


SIZES = [(1,), (17,), (64,), (441,), (SAMPLES,), (1, 700, 63, 65)]


# ---- the samples -----------------------------------------------------------------------------------------------------


def in_steps(plugin, name, x, values):
    """What users of pedalboard do by hand."""
    out = np.empty_like(x)
    for start in range(0, x.shape[1], STEP_SAMPLES):
        setattr(plugin, name, float(values[start]))
        stop = start + STEP_SAMPLES
        out[:, start:stop] = plugin.process(x[:, start:stop], RATE, STEP_SAMPLES, reset=False)
    return out


MOVES = {
    "Compressor": (lambda: pb.Compressor(-20, 4), "threshold_db", -40.0, -5.0),
    "HighpassFilter": (lambda: pb.HighpassFilter(90), "cutoff_frequency_hz", 50.0, 4_000.0),
    "PeakFilter": (lambda: pb.PeakFilter(1_000, 0, 1), "gain_db", -12.0, 12.0),
    "Reverb": (pb.Reverb, "wet_level", 0.0, 1.0),
    "Limiter": (pb.Limiter, "threshold_db", -30.0, -3.0),
    "Delay": (lambda: pb.Delay(0.01, 0.3), "mix", 0.0, 1.0),
    "Chorus": (pb.Chorus, "depth", 0.0, 1.0),
    "Distortion": (pb.Distortion, "drive_db", 0.0, 30.0),
    "Scale": (Scale, "factor", 0.0, 2.0),
}


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_parameter_steps_every_64_samples_however_the_stream_is_cut(kind, channels):
    make, name, low, high = MOVES[kind]
    x, values = noise(channels), wave(low, high)
    want = in_steps(make(), name, x, values)
    assert (want != make()(x, RATE)).any()
    plugin = make()
    chain = Chain([pb.Gain(0), plugin])
    np.testing.assert_array_equal(chain(x, RATE, automation={f"1.{name}": values}), want)
    assert getattr(plugin, name) == pytest.approx(values[-1 - (SAMPLES - 1) % STEP_SAMPLES], rel=1e-5), "last set"
    for sizes in SIZES:
        got = stream(chain, x, {f"1.{name}": values}, sizes)
        np.testing.assert_array_equal(got, want, str(sizes))


@settings(max_examples=30, deadline=None)
@given(
    gains=st.lists(st.floats(-80.0, 60.0, allow_subnormal=False) | st.just(-math.inf), min_size=9, max_size=40),
    channels=st.integers(1, 3),
)
def test_gains_equal_their_twin(gains, channels):
    x = noise(channels, len(gains))
    want = np.empty_like(x)
    for channel in range(channels):
        for i, gain_db in enumerate(gains):
            want[channel, i] = np.float32(np.float64(x[channel, i]) * 10.0 ** (gain_db / 20.0))
    out = np.full_like(x, np.nan)
    multiply_each(x, 10.0 ** (np.array(gains) / 20.0), out)
    np.testing.assert_array_equal(out, want)
    for gain in (Gain(), pb.Gain()):
        np.testing.assert_array_equal(Chain(gain)(x, RATE, automation={"0.gain_db": np.array(gains)}), want)
        assert gain.gain_db == pytest.approx(gains[-1], rel=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_pan_follows_sample_by_sample(channels, sizes):
    x, pans = noise(channels), wave(-1.0, 1.0)
    factors = np.array([pan_factors(pan, channels) for pan in pans]).T
    chain = Chain([pan := Pan()])
    got = stream(chain, x, {"0.pan": pans}, sizes)
    np.testing.assert_allclose(got, x * factors, rtol=1e-6)
    assert pan.pan == pans[-1]
    pan.pan = -1.0
    chain.reset()
    chain.process(x, RATE, reset=False)
    carry_on(chain, x, {"0.pan": pans}, sizes)
    after = chain.process(x, RATE, reset=False)
    np.testing.assert_allclose(after, x * factors[:, -1:], rtol=1e-6, err_msg="it stays, and is there at once")


def everything():
    inner = Chain([pb.HighpassFilter(90), Gain(), Scale()])
    plugins = [
        pb.Reverb(),
        pb.Gain(-3),
        pb.Compressor(-20, 4),
        inner,
        pb.Pedalboard([pb.Limiter()]),
        None,
        Pan(),
        Gain(),
    ]
    return Chain(plugins), {
        "0.wet_level": wave(0.0, 0.8),
        "1.gain_db": wave(-20.0, 6.0, cycles=40),
        "2.threshold_db": wave(-40.0, -5.0),
        "2.ratio": wave(2.0, 8.0),
        "3.0.cutoff_frequency_hz": wave(50.0, 4_000.0),
        "3.1.gain_db": wave(-6.0, 6.0),
        "3.2.factor": wave(0.0, 2.0),
        "4.0.threshold_db": wave(-30.0, -1.0),
        "6.pan": wave(-1.0, 1.0),
        "-1.gain_db": wave(-60.0, 0.0),
    }


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 900), min_size=1, max_size=5), buffer_size=st.integers(1, 5_000))
def test_everything_at_once_however_it_is_cut(sizes, buffer_size):
    x = noise()
    chain, automation = everything()
    want = chain(x, RATE, automation=automation)
    assert not np.allclose(want, everything()[0](x, RATE), atol=0.1)
    np.testing.assert_array_equal(chain(x, RATE, buffer_size, automation=automation), want)
    np.testing.assert_array_equal(stream(chain, x, automation, sizes), want)


def test_a_value_that_stands_still_is_a_setting():
    x = noise()
    for make, name, low, _ in MOVES.values():
        plugin, moved = make(), make()
        setattr(plugin, name, low)
        got = Chain([moved])(x, RATE, automation={f"0.{name}": np.full(SAMPLES, low)})
        if not isinstance(plugin, (pb.Reverb, pb.Limiter, pb.Delay)):  # they move there in their own time
            np.testing.assert_array_equal(got, plugin(x, RATE))


def test_a_value_that_stands_still_is_set_once():
    class Counted(Scale):
        """Like an `External`, which begins a move with each setting."""

        calls = 0

        def __setattr__(self, name, value):
            type(self).calls += name == "factor"
            object.__setattr__(self, name, value)

    chain = Chain([Counted()])
    chain[0].other = 0.0
    Counted.calls = 0
    automation = {"0.factor": np.repeat([0.5, 0.7], SAMPLES // 2), "0.other": np.arange(SAMPLES)}
    stream(chain, noise(), automation, (441,))
    assert Counted.calls == 2
    assert chain[0].other == SAMPLES - 1 - (SAMPLES - 1) % STEP_SAMPLES


def test_arrays_of_whole_numbers_and_lists_are_fine_and_are_left_alone():
    x = noise(1, 100)
    gains = np.arange(-100, 0)
    want = Chain(Gain())(x, RATE, automation={"0.gain_db": gains})
    np.testing.assert_array_equal(Chain(Gain())(x, RATE, automation={"0.gain_db": gains.tolist()}), want)
    np.testing.assert_array_equal(gains, np.arange(-100, 0))


def test_layouts_are_the_audios():
    x, gains = noise(2, 500), {"0.gain_db": wave(-20, 0, 500)}
    chain = Chain([pb.Gain()])
    want = chain(x, RATE, automation=gains)
    np.testing.assert_array_equal(chain(x.T, RATE, automation=gains), want.T)
    np.testing.assert_array_equal(chain(x[0].astype(np.float64), RATE, automation=gains), want[0])
    assert chain(np.zeros((2, 0), np.float32), RATE, automation={"0.gain_db": np.zeros(0)}).shape == (2, 0)


# ---- clicks: the bound is derived in test_gain.py --------------------------------------------------------------------


def ramps(seed=5, frame=2_400, ramp=960, frames=40):
    """A gain in straight lines up to 6 dB per 50 ms, in dB per sample, and the sum of its changes of slope."""
    moves = np.random.default_rng(seed).uniform(-6.0, 6.0, frames - 1)
    gains_db = np.concatenate([[0.0], np.clip(np.cumsum(moves), -12.0, 12.0)])
    gains_db[-1] = 0.0
    factors = 10.0 ** (gains_db / 20.0)
    corners = np.concatenate(
        [[0], *(np.array([k, k + ramp / frame]) * frame for k in range(1, frames)), [frames * frame]]
    )
    line = np.interp(np.arange(frames * frame), corners, np.repeat(factors, 2)[: len(corners)])
    return 20.0 * np.log10(line), 2 * np.abs(np.diff(factors)).sum() / ramp


def excess(out, slope_changes, cycles, seconds):
    """Sideband energy over the bound, the worst bin more than 200 Hz from the tone."""
    samples = out.shape[1]
    bins = np.arange(samples // 2)

    def bound_of(m):
        return slope_changes / np.maximum(4 * np.sin(np.pi * m / samples) ** 2, 1e-30)

    bound = 0.5 * (bound_of(bins - cycles) + bound_of(bins + cycles)) + 4e-7 * math.sqrt(samples)
    energy = np.abs(np.fft.fft(out[0].astype(np.float64))[: samples // 2])
    return (energy - bound)[np.abs(bins - cycles) >= 200 * seconds].max()


@pytest.mark.parametrize("frequency_hz", [30, 100, 440, 1_000, 4_000, 10_000])
def test_no_clicks(frequency_hz):
    gains_db, slope_changes = ramps()
    samples, seconds = len(gains_db), 2
    cycles = frequency_hz * seconds
    tone = np.sin(2 * np.pi * cycles * np.arange(samples) / samples).astype(np.float32)[None]
    for node, key in (
        (Chain([pb.Invert(), pb.Gain(-6), pb.Invert()]), "1.gain_db"),
        (Chain([pb.Invert(), Gain(), pb.Invert()]), "1.gain_db"),
        (Strip(trim_db=-6), "gain_db"),
    ):
        assert excess(node(tone, RATE, automation={key: gains_db}), slope_changes, cycles, seconds) <= 0.0
        assert excess(stream(node, tone, {key: gains_db}, (441,)), slope_changes, cycles, seconds) <= 0.0
    by_hand = in_steps(pb.Gain(), "gain_db", tone, gains_db)
    assert excess(by_hand, slope_changes, cycles, seconds) > 0.0, "steps must be seen"


def test_nothing_steps_where_automation_begins_and_ends():
    one = np.ones((1, 480), np.float32)
    for gain in (Gain(-6.0), pb.Gain(-6)):
        chain = Chain([pb.Gain(0), gain, pb.Gain(0)])
        chain.reset()
        fall = np.linspace(-6.0, -12.0, 480)
        rise = np.linspace(-12.0, 3.0, 480)
        out = [chain(one, RATE, reset=False)]
        out += [chain(one, RATE, reset=False, automation={"1.gain_db": curve}) for curve in (fall, rise)]
        out += [chain(one, RATE, reset=False) for _ in range(2)]
        out = np.concatenate(out, axis=1)[0]
        assert np.abs(np.diff(out)).max() < 0.006
        assert out[-1] == pytest.approx(10**0.15, rel=1e-6)


# ---- latency ---------------------------------------------------------------------------------------------------------

BEHIND = {
    "in another stretch": lambda plugin: ([AddLatency(100), Scale(1.0), plugin], "2", 100),
    "in the same stretch": lambda plugin: ([AddLatency(70), pb.Gain(0), AddLatency(30), plugin], "3", 100),
    "nested": lambda plugin: ([AddLatency(99), Chain([AddLatency(1), plugin])], "1.1", 100),
    "in front too": lambda plugin: ([AddLatency(100), plugin, AddLatency(30)], "1", 130),
    "in front only": lambda plugin: ([plugin, AddLatency(30)], "0", 30),
}


@pytest.mark.parametrize("place", BEHIND)
@pytest.mark.parametrize("kind", ["pedalboard", "ours"])
def test_a_gain_meets_the_samples_its_values_came_with(place, kind):
    x, gains = noise(), wave(-30.0, 6.0, cycles=50)
    want = (x * 10.0 ** (gains / 20.0)).astype(np.float32)
    for sizes in SIZES:
        plugins, index, latency = BEHIND[place](pb.Gain() if kind == "pedalboard" else Gain())
        chain = Chain(plugins)
        np.testing.assert_array_equal(chain(x, RATE, automation={f"{index}.gain_db": gains}), want)
        got = stream(chain, x, {f"{index}.gain_db": gains}, sizes)
        np.testing.assert_array_equal(got, late(want, latency), str(sizes))
    chain(x, RATE, automation={f"{index}.gain_db": gains})
    with pytest.raises(LatencyError, match="must begin with reset"):
        chain(x, RATE, reset=False, automation={f"{index}.gain_db": gains})


@pytest.mark.parametrize("place", BEHIND)
def test_a_stepping_parameter_meets_them_within_64_samples(place):
    x, scales = np.ones((1, SAMPLES), np.float32), wave(0.1, 1.0)
    plugins, index, latency = BEHIND[place](Scale())
    chain = Chain(plugins)
    out = chain(x, RATE, automation={f"{index}.factor": scales})[0]
    slope = np.abs(np.diff(scales)).max()
    np.testing.assert_allclose(out, scales, atol=STEP_SAMPLES * slope)
    streamed = stream(chain, x, {f"{index}.factor": scales}, (441,))
    np.testing.assert_array_equal(streamed, late(out[None], latency))
    assert chain.reported_latency_samples == latency


def test_a_native_parameter_behind_latency_is_late_too():
    x = noise()
    switch = np.where(np.arange(SAMPLES) < 960, -60.0, 0.0)
    plain = in_steps(pb.Compressor(0, 20), "threshold_db", x, switch)
    for plugins in ([AddLatency(128), pb.Compressor(0, 20)], [AddLatency(128), Scale(), pb.Compressor(0, 20)]):
        chain = Chain(plugins)
        automation = {f"{len(plugins) - 1}.threshold_db": switch}
        np.testing.assert_array_equal(chain(x, RATE, automation=automation), plain)
        for sizes in SIZES:
            np.testing.assert_array_equal(stream(chain, x, automation, sizes), late(plain, 128))


def test_automation_that_begins_in_a_latent_stream_waits_for_its_samples():
    x = np.ones((1, 480), np.float32)
    scale = Scale(0.5)
    chain = Chain([AddLatency(128), scale])
    chain.reset()
    for _ in range(2):
        chain(x, RATE, reset=False)
    out = chain(x, RATE, reset=False, automation={"1.factor": np.full(480, 2.0)})[0]
    # The third block begins at 960 and its sound comes at 1088, a multiple of 64.
    np.testing.assert_array_equal(out, [0.5] * 128 + [2.0] * 352)


def test_what_cannot_stream_cannot_be_automated():
    shift = pb.PitchShift(2)
    with pytest.raises(LatencyError, match="PitchShift cannot run in a stream"):
        Chain([pb.Gain(), shift])(noise(), RATE, automation={"0.gain_db": np.zeros(SAMPLES)})


def test_a_latent_mp3_in_front():
    x, gains = noise(2, 9_600), wave(-20, 0, 9_600)
    chain = Chain([pb.MP3Compressor(), pb.Gain(), pb.Reverb()])
    want = chain(x, RATE, automation={"1.gain_db": gains})
    assert want.shape == x.shape
    latency = chain.reported_latency_samples
    for sizes in ((64,), (441, 3)):
        got = stream(chain, x, {"1.gain_db": gains}, sizes)
        np.testing.assert_array_equal(got, late(want, latency), str(sizes))


# ---- what stays ------------------------------------------------------------------------------------------------------


def test_parameters_stay_where_they_were_set_last():
    x = noise(2, 200)
    compressor, gain, ours, pan = pb.Compressor(), pb.Gain(), Gain(), Pan()
    values = np.linspace(-40.0, -10.0, 200)
    Chain([compressor, gain, ours, pan])(
        x,
        RATE,
        automation={"0.threshold_db": values, "1.gain_db": values, "2.gain_db": values, "3.pan": values / 40.0},
    )
    assert compressor.threshold_db == pytest.approx(values[192])
    assert (gain.gain_db, ours.gain_db, pan.pan) == (-10.0, -10.0, -0.25)


def test_what_is_not_named_is_left_alone():
    x = noise()
    chain = Chain([pb.HighpassFilter(90), pb.Gain(-6), Gain(-3.0), pb.Reverb()])
    want = chain(x, RATE)
    np.testing.assert_array_equal(chain(x, RATE, automation={}), want)
    np.testing.assert_array_equal(chain(x, RATE, automation={"0.cutoff_frequency_hz": np.full(SAMPLES, 90.0)}), want)
    np.testing.assert_allclose(chain(x, RATE, automation={"1.gain_db": np.full(SAMPLES, -6.0)}), want, atol=1e-6)
    assert chain[1].gain_db == -6.0
    np.testing.assert_array_equal(chain(x, RATE), want)


def test_a_stream_with_automation_now_and_then():
    x = noise()
    gains = wave(-12.0, 0.0)
    chain = Chain([pb.Reverb(), gain := pb.Gain(), pb.Delay(0.01, 0.5)])
    chain.reset()
    got, curve = [], np.zeros(SAMPLES)
    for k, start in enumerate(range(0, SAMPLES, 200)):
        block = slice(start, start + 200)
        curve[block] = gains[block] if k % 2 else gain.gain_db
        automation = {"1.gain_db": gains[block]} if k % 2 else None
        got.append(chain.process(x[:, block], RATE, reset=False, automation=automation))
    want = pb.Reverb()(x, RATE) * 10.0 ** (curve / 20.0)
    want = pb.Delay(0.01, 0.5)(want.astype(np.float32), RATE)
    np.testing.assert_allclose(np.concatenate(got, axis=1), want, atol=1e-6)


def test_the_grid_is_the_streams_not_the_calls():
    x = np.ones((1, 300), np.float32)
    chain = Chain([Scale(0.5)])
    chain.process(x[:, :100], RATE)
    values = np.arange(200) / 200.0
    out = chain.process(x[:, :200], RATE, reset=False, automation={"0.factor": values})[0]
    changes = np.flatnonzero(np.diff(out)) + 1
    np.testing.assert_array_equal(changes + 100, [128, 192, 256])
    np.testing.assert_array_equal(out[[0, 28, 92, 156]], np.float32([0.5, *values[[28, 92, 156]]]))


def test_the_list_may_change_between_blocks():
    x = noise()
    chain = Chain([pb.Reverb(), gain := pb.Gain()])
    chain.prepare(RATE, 2)
    first = chain.process(x[:, :480], RATE, reset=False, automation={"1.gain_db": np.full(480, -6.0)})
    chain.insert(0, pb.Gain(0))
    second = chain.process(x[:, 480:], RATE, reset=False, automation={"2.gain_db": np.full(SAMPLES - 480, -6.0)})
    want = pb.Reverb()(x, RATE) * 10**-0.3
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), want, atol=1e-6)
    assert gain.gain_db == -6.0


def test_without_automation_nothing_is_different_afterwards():
    x = noise()
    chain, automation = everything()
    plain = everything()[0](x, RATE)
    chain(x, RATE, automation=automation)
    fresh, _ = everything()
    for index, names in (
        (0, ["wet_level"]),
        (1, ["gain_db"]),
        (2, ["threshold_db", "ratio"]),
        (6, ["pan"]),
        (7, ["gain_db"]),
    ):
        for name in names:
            setattr(chain[index], name, getattr(fresh[index], name))
    chain[3][0].cutoff_frequency_hz, chain[3][1].gain_db, chain[3][2].factor = 90, 0.0, 1.0
    chain[4][0].threshold_db = pb.Limiter().threshold_db
    chain.reset()
    np.testing.assert_array_equal(chain(x, RATE), plain)
    np.testing.assert_array_equal(stream(chain, x, None, (441,)), plain)


# ---- refusals --------------------------------------------------------------------------------------------------------

GOOD = np.full(480, -6.0)
BAD = np.where(np.arange(480) == 17, np.nan, -6.0)
REFUSED = [
    ({"1.gain_db": -3.0}, r"automation '1.gain_db' must hold 480 numbers, one for each sample, got -3.0"),
    ({"1.gain_db": np.zeros(479)}, r"must hold 480 numbers, one for each sample, got shape \(479,\) of float64"),
    ({"1.gain_db": np.zeros((1, 480))}, r"must hold 480 numbers, one for each sample, got shape \(1, 480\)"),
    ({"1.gain_db": np.zeros(480, bool)}, r"must hold 480 numbers, one for each sample, got shape \(480,\) of bool"),
    ({"1.gain_db": ["a"] * 480}, "must hold 480 numbers, one for each sample"),
    ({"1.gain_db": [[1], [2, 3]]}, "must hold 480 numbers, one for each sample"),
    ({"1.gain_db": BAD}, r"automation '1.gain_db' must be in \[-inf, 60\], got nan at sample 17"),
    ({"1.gain_db": GOOD + 99}, r"automation '1.gain_db' must be in \[-inf, 60\], got 93 at sample 0"),
    ({"2.gain_db": GOOD + 99}, r"automation '2.gain_db' must be in \[-inf, 60\], got 93 at sample 0"),
    ({"0.threshold_db": BAD}, "automation '0.threshold_db' must be in .*, got nan at sample 17"),
    ({"0.threshold_db": GOOD * math.inf}, "automation '0.threshold_db' must be in .*, got -inf at sample 0"),
    (
        {"0.ratio": GOOD},
        "automation '0.ratio' must hold values that Compressor takes, got -6: Compressor ratio must be a value >= 1.0",
    ),
    ({"3.factor": GOOD}, r"automation '3.factor' must be in \[0, 2\], got -6 at sample 0"),
    ({"9.gain_db": GOOD}, "automation '9.gain_db' must have an index into Chain with 9 plugins, got '9'"),
    ({"-10.gain_db": GOOD}, "must have an index into Chain with 9 plugins, got '-10'"),
    ({"x.gain_db": GOOD}, "must have an index into Chain with 9 plugins, got 'x'"),
    ({"4.7.gain_db": GOOD}, "automation '4.7.gain_db' must have an index into Chain with 1 plugin, got '7'"),
    ({"0.0.gain_db": GOOD}, "automation '0.0.gain_db' must name a plugin, got one that holds none: Compressor"),
    ({"gain_db": GOOD}, "automation must name plugin and parameter, like '0.gain_db', got 'gain_db'"),
    (
        {"0.treshold_db": GOOD},
        "automation '0.treshold_db' must name a parameter of Compressor that can be automated, "
        "attack_ms, ratio, release_ms, threshold_db, got 'treshold_db'",
    ),
    ({"2.ramp_ms": -GOOD}, "must name a parameter of Gain that can be automated, gain_db, got 'ramp_ms'"),
    ({"3.label": GOOD}, "must name a parameter of Scale that can be automated, factor, got 'label'"),
    ({"4.gain_db": GOOD}, "must name a parameter of Chain that can be automated, which has none, got 'gain_db'"),
    ({"5.gain_db": GOOD}, "must name a parameter of NoneType that can be automated, which has none"),
    ({"6.0.gain_db": GOOD}, "must name a Gain in a Chain, got one in a Pedalboard, where it would move in steps"),
    ({"7.target_sample_rate": -GOOD}, "must name a parameter of Resample that can be automated, which has none"),
    ({"8.mode": GOOD}, "must name a parameter of LadderFilter .*, cutoff_hz, drive, resonance, got 'mode'"),
    ({3: GOOD}, "automation must map names like '0.gain_db' to arrays, got 3"),
    ([GOOD], "automation must map names to arrays, got list"),
    ({"1.gain_db": GOOD, "-8.gain_db": GOOD}, "must name each parameter once, got '1.gain_db' and '-8.gain_db'"),
]


def crowd():
    return [
        pb.Compressor(-20, 4),
        pb.Gain(-1),
        Gain(-1.0),
        Scale(),
        Chain([Gain()]),
        None,
        pb.Pedalboard([pb.Gain()]),
        pb.Resample(),
        pb.LadderFilter(),
    ]


@pytest.mark.parametrize(("automation", "message"), REFUSED)
@pytest.mark.parametrize("reset", [False, True])
def test_refused_before_anything_is_processed(automation, message, reset):
    x = noise(2, 480)
    chain, other = Chain(crowd()), Chain(crowd())
    for node in (chain, other):
        node.reset()
        node.process(x, RATE, reset=False)
    good = {"0.threshold_db": GOOD}
    with pytest.raises(ParameterError, match=message) as caught:
        chain(x, RATE, reset=reset, automation=good | automation if isinstance(automation, dict) else automation)
    assert "\n" not in str(caught.value)
    assert chain[0].threshold_db == -20.0
    np.testing.assert_array_equal(chain(x, RATE, reset=False), other(x, RATE, reset=False))


def test_other_nodes_say_where_automation_goes():
    with pytest.raises(ParameterError, match="automation must be given to a Chain or a Strip, got it for a Gain"):
        Gain()(noise(), RATE, automation={"gain_db": np.zeros(SAMPLES)})


def test_a_plugin_that_refuses_in_the_middle_is_named_and_the_stream_goes_on():
    x = np.ones((1, 480), np.float32)
    picky, gain, ours = Picky(), pb.Gain(-20), Gain(-20.0)
    chain = Chain([gain, ours, picky])
    chain.reset()
    values = np.where(np.arange(480) < 200, 0.25, 3.0)
    automation = {"0.gain_db": np.full(480, -6.0), "1.gain_db": np.zeros(480), "2.amount": values}
    with pytest.raises(
        ParameterError, match=r"automation '2.amount' must hold values that Picky takes, got 3: too much"
    ):
        chain(x, RATE, reset=False, automation=automation)
    assert picky.amount == 0.25
    assert gain.gain_db == -6.0
    for automation in (None, {"2.amount": np.full(480, 0.25)}, {"0.gain_db": np.full(480, -6.0)}):
        out = chain(x, RATE, reset=False, automation=automation)
        np.testing.assert_allclose(out, 0.25 * 10**-0.3, rtol=1e-6)


# ---- strips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_strip_however_it_is_cut(sizes, channels):
    x = noise(channels)
    strip = Strip([pb.HighpassFilter(90), pb.Gain(), pb.Compressor(-20, 4)], [pb.Reverb(), Gain()], trim_db=-3)
    automation = {
        "pre.2.threshold_db": wave(-40.0, -5.0),
        "1.gain_db": wave(-12.0, 0.0),
        "gain_db": wave(-30.0, 6.0),
        "post.0.wet_level": wave(0.0, 0.5),
        "post.1.gain_db": wave(-6.0, 6.0),
        "pan": wave(-1.0, 1.0),
    }
    want = strip(x, RATE, automation=automation)
    assert not strip.faults
    strip.lock_db = None
    np.testing.assert_array_equal(stream(strip, x, automation, sizes), want)
    chain = Chain([*strip.pre, Gain(), *strip.post, *([Pan()] if channels == 2 else [])])
    keys = ["2.threshold_db", "1.gain_db", "3.gain_db", "4.wet_level", "5.gain_db", "6.pan"]
    same = dict(zip(keys, automation.values(), strict=True))
    np.testing.assert_array_equal(
        chain(x, RATE, automation=same if channels == 2 else {k: same[k] for k in keys[:-1]}), want
    )


def test_pre_is_what_is_meant_without_a_word():
    x, values = noise(), wave(-40, -5)
    named, unnamed = (Strip([pb.Compressor(-20, 4)], [pb.Compressor(-20, 4)]) for _ in range(2))
    want = named(x, RATE, automation={"pre.0.threshold_db": values})
    np.testing.assert_array_equal(unnamed(x, RATE, automation={"0.threshold_db": values}), want)
    assert unnamed.post[0].threshold_db == -20.0
    with pytest.raises(ParameterError, match=r"once, got '0.ratio' and 'pre.0.ratio'"):
        named(x, RATE, automation={"0.ratio": values + 50, "pre.0.ratio": values + 50})


def test_a_strips_gain_replaces_trim_and_lock_and_stays():
    one = np.ones((1, 480), np.float32)
    for parameters in ({"trim_db": 6.0}, {"lock_db": 6.0}):
        strip = Strip(**parameters)
        out = strip(one, RATE, automation={"gain_db": np.linspace(0.0, -20.0, 480)})
        assert (out[0, 0], out[0, -1]) == (1.0, np.float32(0.1))
        assert strip.lock_db == -20.0
        np.testing.assert_array_equal(strip(one, RATE, reset=False), np.float32(0.1))
    strip.lock_db = None
    out = np.concatenate([strip(one, RATE, reset=False) for _ in range(3)], axis=1)
    assert np.abs(np.diff(out)).max() < 2e-3
    assert out[0, -1] == 1.0


def test_mute_comes_last_and_pan_of_mono_waits_for_a_bus():
    one = np.ones((1, 480), np.float32)
    strip = Strip(mute=True)
    assert not strip(one, RATE, automation={"gain_db": np.zeros(480), "pan": np.linspace(0, 0.5, 480)}).any()
    assert strip.pan == 0.5
    strip = Strip(trim_db=-20)
    np.testing.assert_array_equal(strip(one, RATE, automation={"pan": np.zeros(480)}), np.float32(0.1))


def test_a_strips_values_meet_their_samples_behind_latency():
    x, gains, pans = noise(), wave(-30, 6, cycles=50), wave(-1, 1, cycles=30)
    strip = Strip([AddLatency(100)], [AddLatency(30), pb.Gain()])
    automation = {"gain_db": gains, "post.1.gain_db": gains, "pan": pans}
    factors = np.array([pan_factors(pan, 2) for pan in pans]).T * 10.0 ** (gains / 10.0)
    for out in (strip(x, RATE, automation=automation), stream(strip, x, automation, (441,))):
        np.testing.assert_allclose(out, late(x * factors, 130), rtol=1e-5, atol=1e-9)


def test_a_strip_carries_on_when_a_plugin_refuses():
    one = np.ones((1, 480), np.float32)
    strip = Strip([Picky()])
    out = strip(one, RATE, automation={"0.amount": np.full(480, 3.0), "gain_db": np.full(480, -20.0)})
    np.testing.assert_array_equal(out, np.float32(0.1))
    assert strip.faults == 1


@pytest.mark.parametrize(
    ("automation", "message"),
    [
        ({"volume": GOOD}, "must name gain_db, pan, or plugin and parameter, like 'pre.0.threshold_db', got 'volume'"),
        ({"post.0.mix": GOOD}, "must have an index into Chain with 0 plugins, got '0'"),
        ({"pre.ratio": GOOD}, "must name plugin and parameter"),
        ({"gain_db": GOOD + 31}, r"automation 'gain_db' must be in \[-inf, 24\], got 25 at sample 0"),
        ({"pan": GOOD}, r"automation 'pan' must be in \[-1, 1\], got -6 at sample 0"),
        ({"0.ratio": GOOD}, "automation '0.ratio' must hold values that Compressor takes, got -6"),
    ],
)
def test_strips_refuse_before_anything_is_processed(automation, message):
    x = noise(1, 480)
    strip, other = Strip([pb.Compressor()]), Strip([pb.Compressor()])
    for node in (strip, other):
        node.process(x, RATE)
    with pytest.raises(ParameterError, match=message):
        strip(x, RATE, reset=False, automation=automation)
    np.testing.assert_array_equal(strip(x, RATE, reset=False), other(x, RATE, reset=False))


# ---- VST3 ------------------------------------------------------------------------------------------------------------


def test_a_vst3_steps_too(zam):
    x, values = noise(), np.round(wave(-40.0, -5.0, cycles=1.0))
    vst3 = pb.load_plugin(str(zam / "ZamCompX2.vst3"))
    chain = Chain([pb.Gain(0), vst3])
    want = chain(x, RATE, automation={"1.threshold_db": values})
    assert np.abs(want - Chain(pb.load_plugin(str(zam / "ZamCompX2.vst3")))(x, RATE)).max() > 0.01
    np.testing.assert_array_equal(stream(chain, x, {"1.threshold_db": values}, (441, 17)), want)
    for name, message in (
        ("threshhold_db", "must name a parameter of VST3Plugin that can be automated, .*threshold_db"),
        ("current_program", "must name a parameter"),
        ("buffer_size_frames", "must name a parameter"),
    ):
        with pytest.raises(ParameterError, match=message):
            chain(x, RATE, automation={f"1.{name}": np.full(SAMPLES, 99.0)})
    with pytest.raises(ParameterError, match=r"'1.ratio' must be in \[1, 20\], got 99"):
        chain(x, RATE, automation={"1.ratio": np.full(SAMPLES, 99.0)})
