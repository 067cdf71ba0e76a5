import inspect

import numpy as np
import pedalboard as pb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pedalboard_native._internal import AddLatency

from alm_plugin.errors import LatencyError, ParameterError
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.node import Node
from alm_plugin.nodes.pan import Pan
from alm_plugin.nodes.strip import Strip

RATE = 48_000

# Every built-in plugin without latency, with state to lose where it has any.
PLAIN = {
    "Bitcrush": lambda: pb.Bitcrush(6),
    "Chorus": pb.Chorus,
    "Clipping": pb.Clipping,
    "Compressor": lambda: pb.Compressor(-30, 4),
    "Delay": lambda: pb.Delay(0.01, 0.5, 0.5),
    "Distortion": pb.Distortion,
    "Gain": lambda: pb.Gain(-3),
    "HighShelfFilter": lambda: pb.HighShelfFilter(2_000, 6),
    "HighpassFilter": lambda: pb.HighpassFilter(200),
    "LadderFilter": lambda: pb.LadderFilter(pb.LadderFilter.Mode.LPF24, 800, 0.5),
    "Limiter": lambda: pb.Limiter(-20),
    "LowpassFilter": lambda: pb.LowpassFilter(500),
    "NoiseGate": lambda: pb.NoiseGate(-30),
    "PeakFilter": lambda: pb.PeakFilter(1_000, 6, 3),
    "Phaser": pb.Phaser,
    "Reverb": pb.Reverb,
}


class Sag(Node):
    """A node with a memory: follows the level, slowly."""

    def __init__(self):
        self.reset()

    def reset(self):
        self._level = 0.0

    def process_block(self, x, sample_rate):
        assert x.shape[1], "a node is never handed an empty block"
        out = np.empty_like(x)
        for i in range(x.shape[1]):
            self._level += 0.01 * (float(np.abs(x[:, i]).max()) - self._level)
            out[:, i] = x[:, i] * (1.0 - 0.5 * self._level)
        return out


class Late(Node):
    """A node with latency."""

    def __init__(self, samples=7):
        self.samples = samples
        self.prepare(RATE, 1)

    def prepare(self, sample_rate, channels):
        self._past = np.zeros((channels, self.samples), np.float32)

    def reset(self):
        self._past[:] = 0.0

    @property
    def reported_latency_samples(self):
        return self.samples

    def process_block(self, x, sample_rate):
        line = np.concatenate([self._past, x], axis=1)
        self._past = line[:, x.shape[1] :]
        return line[:, : x.shape[1]]


def noise(channels=2, samples=9_600, seed=0):
    rng = np.random.default_rng(seed)
    fade = 0.1 + 0.4 * (1 + np.sin(np.arange(samples) / 900))
    return (rng.standard_normal((channels, samples)) * 0.4 * fade).astype(np.float32)


def stream(chain, x, sizes, rate=RATE, by_block=False):
    if not by_block:
        chain.reset()
    out, at, k = [], 0, 0
    while at < x.shape[1]:
        block = x[:, at : at + sizes[k % len(sizes)]]
        if by_block:
            out.append(chain.process_block(np.ascontiguousarray(block), rate))
        else:
            out.append(chain.process(block, rate, reset=False))
        assert out[-1].shape == block.shape
        assert out[-1].dtype == np.float32
        at += block.shape[1]
        k += 1
    return np.concatenate(out, axis=1)


def late(y, samples):
    """`y`, `samples` later."""
    return np.pad(y, ((0, 0), (samples, 0)))[:, : y.shape[1]]


SIZES = [(1,), (2,), (17,), (64,), (441,), (2400,), (9_600,), (1, 2, 17, 64, 441, 2400), (64, 480, 3)]


# ---- one shot --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("channels", [1, 2])
def test_one_shot_is_pedalboards(name, channels):
    x = noise(channels)
    want = PLAIN[name]()(x, RATE)
    chain = Chain(PLAIN[name]())
    for _ in range(2):
        np.testing.assert_array_equal(chain(x, RATE), want)
    np.testing.assert_array_equal(chain(x.T, RATE, 100).T, want)
    np.testing.assert_array_equal(chain(x[0], RATE), PLAIN[name]()(x[0], RATE))


@pytest.mark.parametrize(
    "plugins",
    [
        lambda: [pb.HighpassFilter(90), pb.Compressor(-18, 3), pb.Reverb()],
        lambda: [AddLatency(100), pb.Reverb(), AddLatency(13)],
        lambda: [pb.Pedalboard([pb.Gain(3), AddLatency(100)]), pb.Mix([pb.Gain(-3), AddLatency(30)])],
        lambda: [pb.Resample(8_000), pb.Chorus()],
        lambda: [pb.MP3Compressor()],
        lambda: [pb.GSMFullRateCompressor()],
        lambda: [pb.PitchShift(3)],
        lambda: [None, pb.Gain(3), None],
        lambda: [],
    ],
)
def test_one_shot_of_native_chains_is_pedalboards(plugins):
    x = noise()
    np.testing.assert_array_equal(Chain(plugins())(x, RATE), pb.Pedalboard(plugins())(x, RATE))


def test_one_shot_takes_the_latency_of_nodes_out():
    x = noise()
    np.testing.assert_array_equal(Chain([Late(7), AddLatency(100), Chain([Late(3)])])(x, RATE, 1000), x)


def test_one_shot_through_our_nodes():
    x = noise()
    want = pb.Reverb()(Sag()(pb.HighpassFilter(90)(x, RATE), RATE), RATE)
    np.testing.assert_array_equal(Chain([pb.HighpassFilter(90), Sag(), pb.Reverb()])(x, RATE, 500), want)


def test_a_strip_in_a_chain_is_compensated_too():
    x = noise()
    np.testing.assert_array_equal(Chain([pb.Gain(0), Strip([AddLatency(100)])])(x, RATE), x)


# ---- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_streams_of_plain_plugins_equal_the_whole(name, channels):
    x = noise(channels)
    want = PLAIN[name]()(x, RATE)
    chain = Chain(PLAIN[name]())
    sizes = SIZES if channels == 2 else [(1,), (441,), (17, 2400)]
    for size in sizes:
        for by_block in (False, True):
            if by_block:
                chain.prepare(RATE, channels)
            got = stream(chain, x, size if by_block else (channels + 1, *size), by_block=by_block)
            np.testing.assert_array_equal(got, want, str((size, by_block)))
    assert chain.reported_latency_samples == 0
    assert chain.latency_names == []


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 2])
def test_streams_of_mixed_chains_equal_the_whole(sizes, channels):
    x = noise(channels, 4_800)
    plugins = [pb.HighpassFilter(90), pb.Delay(0.01, 0.3), Sag(), Gain(-3.0), pb.Reverb(), Chain([pb.Chorus()])]
    chain = Chain(plugins)
    want = chain(x, RATE)
    chain.prepare(RATE, channels)
    np.testing.assert_array_equal(stream(chain, x, sizes, by_block=True), want)


def test_tails_survive_from_block_to_block():
    chain = Chain([pb.Reverb()])
    x = np.zeros((2, 4_800), np.float32)
    x[:, 0] = 1.0
    assert np.abs(stream(chain, x, (480,))[:, 2_400:]).max() > 1e-3


def test_a_first_block_with_reset_is_as_good_as_reset():
    x = noise()
    chain = Chain([pb.HighpassFilter(90), pb.Reverb(), Sag()])
    want = chain(x, RATE)
    blocks = np.split(x, 20, axis=1)
    got = [chain(block, RATE, reset=k == 0) for k, block in enumerate(blocks)]
    np.testing.assert_array_equal(np.concatenate(got, axis=1), want)


def test_but_not_with_latency():
    chain = Chain([AddLatency(100)])
    chain(noise(), RATE)
    with pytest.raises(LatencyError, match=r"must begin with reset\(\), not reset=True: AddLatency"):
        chain(noise(), RATE, reset=False)
    chain.reset()
    chain(noise(), RATE, reset=False)


LATENT = {
    "AddLatency": (lambda: [AddLatency(100)], 100),
    "two": (lambda: [AddLatency(100), pb.Reverb(), AddLatency(13)], 113),
    "in a board": (lambda: [pb.Pedalboard([pb.Gain(3), pb.Pedalboard([AddLatency(100)])]), AddLatency(1)], 101),
    "Mix": (lambda: [pb.Mix([AddLatency(30), pb.Pedalboard([pb.Gain(-3), AddLatency(30)])])], 30),
    "Resample": (lambda: [pb.Resample(8_000)], None),
    "Resample and more": (lambda: [pb.Chorus(), pb.Resample(44_100), AddLatency(10), pb.Reverb()], None),
    "MP3": (lambda: [pb.MP3Compressor()], None),
    "around a node": (lambda: [AddLatency(100), Gain(-3.0), AddLatency(10), Late(5)], 115),
}


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("channels", [1, 2])
def test_latent_streams_are_whole_late_and_the_same(name, channels):
    plugins, latency = LATENT[name]
    x = noise(channels, 12_000)
    chain = Chain(plugins())
    want = chain(x, RATE)
    reported = chain.reported_latency_samples
    assert latency is None or reported == latency
    assert sum(samples for _, samples in chain.latency_names) == reported
    # The end of a one-shot lacks what the plugins have not let out; a stream's end is cut before that.
    for sizes in [*SIZES, (5_000, 1, 7)]:
        chain.prepare(RATE, channels)
        got = stream(chain, x, sizes, by_block=True)
        np.testing.assert_array_equal(got, late(want, reported), str(sizes))


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 3_000), min_size=1, max_size=6), name=st.sampled_from(sorted(LATENT)))
def test_latent_streams_in_any_blocks(sizes, name):
    x = noise(2, 6_000)
    chain = Chain(LATENT[name][0]())
    want = chain(x, RATE)
    chain.prepare(RATE, 2)
    got = stream(chain, x, sizes, by_block=True)
    np.testing.assert_array_equal(got, late(want, chain.reported_latency_samples))


@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
def test_latency_is_measured_at_the_streams_rate(rate):
    chain = Chain([pb.Resample(8_000), pb.MP3Compressor()]) if rate == 44_100 else Chain([pb.Resample(16_000)])
    x = noise(1, rate // 2)
    want = chain(x, rate)
    got = stream(chain, x, (500,), rate)
    np.testing.assert_array_equal(got, late(want, chain.reported_latency_samples))


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (lambda: pb.PitchShift(2), "PitchShift cannot run in a stream: within 0.5 s of sound nothing comes out of it"),
        (pb.GSMFullRateCompressor, "GSMFullRateCompressor cannot run in a stream: its samples depend on the blocks"),
        (lambda: pb.Mix([pb.Gain(), AddLatency(30)]), "Mix cannot run in a stream: its samples depend on the blocks"),
        (lambda: pb.Pedalboard([pb.Gain(), pb.PitchShift(2)]), "PitchShift cannot run in a stream"),
        (lambda: Chain([pb.PitchShift(2)]), "PitchShift cannot run in a stream"),
    ],
)
def test_who_cannot_stream_is_refused_by_name(plugin, message):
    chain = Chain([pb.Gain(0), plugin()])
    want = pb.Pedalboard([plugin() if not isinstance(chain[1], Chain) else pb.PitchShift(2)])(noise(), RATE)
    for _ in range(2):
        np.testing.assert_array_equal(chain(noise(), RATE), want)  # one shot is well
        for what in (
            lambda: chain.prepare(RATE, 2),
            lambda: chain.process_block(noise(), RATE),
            lambda: chain(noise(), RATE, reset=False),
            lambda: chain.latency_names,
            lambda: chain.reported_latency_samples,
        ):
            with pytest.raises(LatencyError, match=message):
                what()
    chain.pop()
    np.testing.assert_array_equal(chain(noise(), RATE, reset=False), noise())


def test_latency_is_told_before_the_first_block():
    assert Chain([AddLatency(100), pb.Gain()]).reported_latency_samples == 100
    assert Chain([AddLatency(100), pb.Gain()]).latency_names == [("AddLatency", 100)]
    assert Chain([Chain([Late(3)]), Strip([AddLatency(5)]), Late(2)]).latency_names == [
        ("Late", 3),
        ("Strip", 5),
        ("Late", 2),
    ]


def test_a_pan_widens_what_follows():
    x = noise(1)
    chain = Chain([pb.HighpassFilter(90), Pan(-0.3), pb.Reverb()])
    want = pb.Reverb()(Pan(-0.3)(pb.HighpassFilter(90)(x, RATE), RATE), RATE)
    np.testing.assert_array_equal(chain(x, RATE), want)
    assert chain.output_channels(1) == 2
    chain.prepare(RATE, 1)
    got = [chain.process_block(block, RATE) for block in np.split(x, 4800, axis=1)]  # (1, 2) in, (2, 2) out
    np.testing.assert_array_equal(np.concatenate(got, axis=1), want)


def test_a_stream_may_change_its_width_and_rate():
    chain = Chain([pb.Reverb(), pb.Resample(8_000)])
    stream(chain, noise(2), (480,))
    for channels, rate in ((1, RATE), (2, 16_000), (2, 44_100)):
        got = stream(chain, noise(channels), (480,), rate, by_block=True)
        want = pb.Resample(8_000)(pb.Reverb()(noise(channels), rate), rate)
        np.testing.assert_array_equal(got, late(want, chain.reported_latency_samples))


def test_latency_is_measured_anew_for_every_stream():
    resample = pb.Resample(8_000)
    chain = Chain([resample])
    before = chain.reported_latency_samples
    for start in (lambda: chain.prepare(RATE, 2), chain.reset):
        resample.target_sample_rate = 3_000 if resample.target_sample_rate == 8_000 else 12_345
        start()
        got = stream(chain, noise(), (480,), by_block=True)
        after = chain.reported_latency_samples
        assert abs(after - before) > 100
        np.testing.assert_array_equal(got, late(pb.Resample(resample.target_sample_rate)(noise(), RATE), after))


def test_empty_blocks_pass():
    chain = Chain([pb.Reverb(), AddLatency(10), Sag()])
    assert chain(np.zeros((2, 0), np.float32), RATE, reset=False).shape == (2, 0)
    assert chain.process_block(np.zeros((2, 0), np.float32), RATE).shape == (2, 0)
    want = Sag()(late(pb.Reverb()(noise(), RATE), 10), RATE)
    np.testing.assert_array_equal(stream(chain, noise(), (480,), by_block=True), want)


def test_a_latency_that_grows_in_a_running_stream_leaves_blocks_whole():
    resample = pb.Resample(8_000)
    chain = Chain([resample])
    stream(chain, noise(), (480,))
    resample.target_sample_rate = 1_000
    out = stream(chain, noise(), (480,), by_block=True)
    assert np.abs(out[:, -2_400:]).max() > 0.01, "sound goes on behind the gap"


def test_restart_forgets_without_ending_the_stream():
    x = noise(2, 2_400)
    chain = Chain([pb.Reverb(), AddLatency(100), Sag(), Chain([pb.Delay(0.01)])])
    chain.prepare(RATE, 2)
    want = chain.process_block(x, RATE)
    chain.restart()
    np.testing.assert_array_equal(stream(chain, x, (7, 480), by_block=True), want)


# ---- VST3 ------------------------------------------------------------------------------------------------------------


def load(zam, name):
    return pb.load_plugin(str(zam / f"{name}.vst3"))


def test_vst3_one_shot_and_latency(zam):
    x = noise()
    want = load(zam, "ZaMaximX2")(x, RATE)
    chain = Chain([load(zam, "ZaMaximX2")])
    assert chain.latency_names == [("ZaMaximX2", 480)]
    assert chain.reported_latency_samples == 480
    np.testing.assert_array_equal(chain(x, RATE), want)
    for sizes in SIZES:
        np.testing.assert_array_equal(stream(chain, x, (3, *sizes)), late(want, 480), str(sizes))


def test_a_fresh_vst3_is_in_line_from_its_first_block(zam):
    x = np.zeros((2, 4_800), np.float32)
    x[:, 1_000] = 0.5
    chain = Chain([load(zam, "ZaMaximX2")])
    out = np.concatenate([chain.process(b, RATE, reset=False) for b in np.split(x, 10, axis=1)], axis=1)
    assert np.abs(out[0]).argmax() == 1_480


@pytest.mark.parametrize("name", ["ZamCompX2", "ZamGateX2"])
def test_vst3_streams_whose_blocks_grow(zam, name):
    x = noise()
    want = load(zam, name)(x, RATE)
    chain = Chain([load(zam, name), pb.Gain(0)])
    for sizes in [(1,), (17,), (64, 441, 2400)]:
        chain.prepare(RATE, 2)
        np.testing.assert_array_equal(stream(chain, x, sizes, by_block=True), want)


def test_vst3_of_another_width_is_refused_by_name(zam):
    mono, stereo = load(zam, "ZamComp"), load(zam, "ZamCompX2")
    with pytest.raises(
        ParameterError, match=r"ZamComp cannot process 2 channels at 48000 Hz: .* expects 1 input channels"
    ):
        Chain([pb.Gain(), mono]).prepare(RATE, 2)
    with pytest.raises(
        ParameterError, match=r"ZamCompX2 cannot process 1 channel at 48000 Hz: .* expects 2 input channels"
    ):
        Chain([stereo])(noise(1), RATE)
    assert Chain([mono]).latency_names == []
    assert Chain([mono])(noise(1), RATE).shape == (1, 9_600)
    assert Chain([mono, Pan(), stereo])(noise(1), RATE).shape == (2, 9_600)


# ---- a list ----------------------------------------------------------------------------------------------------------


def test_is_a_list_of_plugins():
    a, b, c, d = pb.Gain(1), pb.Gain(2), Gain(3.0), pb.Gain(4)
    chain = Chain([a, None, b])
    assert len(chain) == 3
    assert list(chain) == [a, None, b]
    assert list(reversed(chain)) == [b, None, a]
    assert chain[0] is a
    assert chain[-1] is b
    assert chain[1:] == [None, b]
    assert b in chain
    assert c not in chain
    assert chain.index(b) == 2
    chain.insert(1, c)
    chain.append(d)
    assert list(chain) == [a, c, None, b, d]
    chain.remove(None)
    assert chain.pop() is d
    assert chain.pop(0) is a
    chain.extend([a, d])
    assert list(chain) == [c, b, a, d]
    del chain[0]
    chain[1:] = [c]
    assert list(chain) == [b, c]
    chain += [a]
    chain[0], chain[1] = chain[1], chain[0]
    assert list(chain) == [c, b, a]
    chain.reverse()
    assert list(chain) == [a, b, c]
    chain.clear()
    assert len(chain) == 0
    with pytest.raises(IndexError):
        chain[0]
    with pytest.raises(ValueError):  # noqa: PT011  (as from a list)
        chain.remove(a)


@pytest.mark.parametrize("one", [pb.Reverb(), pb.Pedalboard([pb.Gain()]), Gain(), Chain([Gain()]), Strip()])
def test_takes_one_plugin_for_a_list_of_one(one):
    assert list(Chain(one)) == [one]


def test_repr():
    gain = pb.Gain(1)
    chain = Chain(gain)
    assert repr(chain) == f"<alm_plugin.Chain with 1 plugin: [{gain!r}] at {hex(id(chain))}>"
    assert "with 0 plugins: []" in repr(Chain())


@pytest.mark.parametrize("bad", [3, "Reverb", pb.Reverb, lambda x: x, object()])
def test_refuses_what_is_no_plugin(bad):
    for what in (lambda: Chain([bad]), lambda: Chain().append(bad), lambda: Chain([None]).__setitem__(0, bad)):
        with pytest.raises(TypeError, match="Chain only holds plugins"):
            what()


def test_refuses_instruments():
    class Synth(Gain):
        is_effect, is_instrument = False, True

    with pytest.raises(ValueError, match="Provided plugin is an instrument plugin that does not accept audio input"):
        Chain([Synth()])


def test_refuses_one_plugin_in_two_places():
    gain = pb.Gain()
    message = "The same plugin instance is being used multiple times"
    for what in (
        lambda: Chain([gain, gain]),
        lambda: Chain([gain]).append(gain),
        lambda: Chain([pb.Pedalboard([gain]), Chain([gain])]),
    ):
        with pytest.raises(ParameterError, match=message):
            what()
    chain = Chain([gain, None])
    chain[1] = gain
    with pytest.raises(ParameterError, match=message):
        chain(noise(), RATE)


def test_a_board_with_many_short_lived_wrappers_is_no_crowd_of_twins():
    board = pb.Pedalboard([pb.Pedalboard([pb.Gain(0), pb.Gain(0), pb.Gain(0)]) for _ in range(20)])
    x = noise()
    np.testing.assert_array_equal(Chain([board])(x, RATE), x)


def test_duck_types_are_welcome():
    class Duck:
        """Neither a Node nor pedalboard's: only process and reset."""

        def __init__(self):
            self.calls = []

        def reset(self):
            self.calls.append("reset")

        def process(self, input_array, sample_rate, buffer_size=8192, reset=True):
            self.calls.append((input_array.shape, sample_rate, reset))
            return input_array * 0.5

    duck = Duck()
    chain = Chain([pb.Gain(0), duck])
    np.testing.assert_array_equal(stream(chain, noise(), (4_800,)), noise() * np.float32(0.5))
    assert duck.calls[-3:] == ["reset", ((2, 4_800), RATE, False), ((2, 4_800), RATE, False)]


def test_a_pedalboard_refuses_our_nodes():
    with pytest.raises(TypeError):
        pb.Pedalboard([Gain()])


# ---- pedalboard's conventions, for what holds plugins ----------------------------------------------------------------

HOLDERS = [Chain, Strip]


@pytest.mark.parametrize("holder", HOLDERS)
def test_process_is_called_like_pedalboards(holder):
    names = list(inspect.signature(holder.process).parameters)
    assert names[:5] == ["self", "input_array", "sample_rate", "buffer_size", "reset"]
    node, x = holder([pb.Reverb()]), noise()
    want = pb.Reverb()(x, RATE)
    for got in (
        node(x, RATE),
        node.process(x, RATE, 100, True),
        node(input_array=x, sample_rate=float(RATE), buffer_size=100, reset=True),
    ):
        np.testing.assert_array_equal(got, want)
    assert not np.array_equal(node.process(x, RATE, 8192, False), want), "its tail goes on"


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("plugins", [[], [pb.Gain(0)], [Gain()], [pb.Gain(-6), Gain(-6.0)]])
def test_floats_in_new_float32_out_in_the_same_layout(holder, plugins):
    node, x = holder(plugins), noise(2, 300)
    want = node(x, RATE)
    for audio in (x, x.T, np.asfortranarray(x), x.astype(np.float64), x[:, ::2], x[:1], x[0], x[:1].T):
        kept = audio.copy()
        out = node(audio, RATE)
        assert out.shape == audio.shape
        assert out.dtype == np.float32
        assert out.flags.c_contiguous
        assert not np.shares_memory(out, audio)
        np.testing.assert_array_equal(audio, kept)
    np.testing.assert_array_equal(node(x.T, RATE), want.T)
    np.testing.assert_array_equal(node(x[0], RATE), want[0])
    for bad in (x.astype(np.float16), x.astype(np.int16), x.tolist()):
        with pytest.raises(TypeError, match="only supports 32-bit and 64-bit floating point audio for processing"):
            node(bad, RATE)


@pytest.mark.parametrize("holder", HOLDERS)
def test_looks_like_a_plugin(holder):
    node = holder([pb.Gain()])
    assert node.is_effect is True
    assert node.is_instrument is False
    assert node.reported_latency_samples == 0
    node.reset()
    with pytest.raises(AttributeError, match=f"'alm_plugin.{holder.__name__}' object has no attribute 'gain_bd'"):
        node.gain_bd = 3.0


@pytest.mark.parametrize("holder", HOLDERS)
def test_is_no_pedalboard_plugin_and_cannot_be_hidden_in_one(holder):
    node = holder([pb.Gain(0)])
    assert not isinstance(node, pb.Plugin)
    for around in (pb.Pedalboard, pb.Mix):
        with pytest.raises(TypeError):
            around([node])
    x = noise()
    np.testing.assert_array_equal(Chain([pb.Pedalboard([pb.Reverb()]), node])(x, RATE), pb.Reverb()(x, RATE))


def test_a_strip_refuses_what_a_chain_refuses():
    class Synth(Gain):
        is_effect, is_instrument = False, True

    with pytest.raises(ValueError, match="Instrument plugins cannot be added to Pedalboard, Mix, or Chain objects"):
        Strip(post=[Synth()])
    with pytest.raises(TypeError, match="Chain only holds plugins"):
        Strip().pre.append(3)


# ---- mutation while running ------------------------------------------------------------------------------------------


def blocks_of(x, count):
    return [np.ascontiguousarray(block) for block in np.split(x, count, axis=1)]


def test_who_stays_keeps_its_memory():
    x = noise()
    blocks = blocks_of(x, 20)
    reverb, sag = pb.Reverb(), Sag()
    chain = Chain([reverb, sag])
    chain.prepare(RATE, 2)
    got = [chain.process_block(b, RATE) for b in blocks[:5]]
    chain.insert(0, pb.Gain(0))  # the same native stretch
    got += [chain.process_block(b, RATE) for b in blocks[5:9]]
    chain.insert(2, Gain(0.0))  # two stretches
    chain.append(pb.Gain(0))
    got += [chain.process_block(b, RATE) for b in blocks[9:14]]
    del chain[0], chain[-1]
    got += [chain.process_block(b, RATE) for b in blocks[14:]]
    want = Chain([pb.Reverb(), Sag()])(x, RATE)
    np.testing.assert_array_equal(np.concatenate(got, axis=1), want)


def test_who_comes_starts_afresh():
    reverb = pb.Reverb()
    reverb(noise(), RATE, reset=False)  # a tail from elsewhere
    chain = Chain([pb.Gain(0)])
    chain.prepare(RATE, 2)
    chain.process_block(noise(), RATE)
    chain.append(reverb)
    assert not chain.process_block(np.zeros((2, 480), np.float32), RATE).any()
    chain.process_block(noise(), RATE)
    chain.remove(reverb)
    chain.process_block(noise(), RATE)
    chain.append(reverb)  # its own tail is from long ago
    assert not chain.process_block(np.zeros((2, 480), np.float32), RATE).any()


@pytest.mark.parametrize("cuts", [(480, 500, 5_000), (480, 5_000, 5_100), (20, 500, 9_000)], ids=str)
def test_blocks_may_grow_after_a_mutation(cuts):
    x = noise()
    chain = Chain([pb.Reverb()])
    chain.prepare(RATE, 2)
    got = [chain.process_block(np.ascontiguousarray(x[:, : cuts[0]]), RATE)]
    chain.append(pb.Delay(0.01, 0.5, 0.5))
    for start, stop in zip(cuts, (*cuts[1:], 9_600), strict=True):
        got.append(chain.process_block(np.ascontiguousarray(x[:, start:stop]), RATE))
    want = pb.Reverb()(x, RATE)
    want[:, cuts[0] :] = pb.Delay(0.01, 0.5, 0.5)(np.ascontiguousarray(want[:, cuts[0] :]), RATE)
    np.testing.assert_array_equal(np.concatenate(got, axis=1), want)


def test_latency_survives_a_plain_newcomer():
    x = noise()
    blocks = blocks_of(x, 20)
    chain = Chain([AddLatency(700), pb.Gain(0)])
    chain.prepare(RATE, 2)
    got = [chain.process_block(b, RATE) for b in blocks[:1]]  # not yet filled
    chain.append(pb.Gain(0))
    got += [chain.process_block(b, RATE) for b in blocks[1:6]]
    chain.insert(1, Gain(0.0))
    got += [chain.process_block(b, RATE) for b in blocks[6:]]
    np.testing.assert_array_equal(np.concatenate(got, axis=1), late(x, 700))


def test_latency_that_comes_and_goes_leaves_blocks_whole():
    x = noise()
    blocks = blocks_of(x, 20)
    chain = Chain([pb.Gain(0)])
    chain.prepare(RATE, 2)
    got = [chain.process_block(b, RATE) for b in blocks[:5]]
    chain.append(AddLatency(100))
    assert chain.reported_latency_samples == 100
    got += [chain.process_block(b, RATE) for b in blocks[5:10]]
    chain.pop()
    assert chain.reported_latency_samples == 0
    got += [chain.process_block(b, RATE) for b in blocks[10:]]
    out = np.concatenate(got, axis=1)
    np.testing.assert_array_equal(out[:, :2_400], x[:, :2_400])
    np.testing.assert_array_equal(out[:, 2_400:4_800], late(x[:, 2_400:4_800], 100))
    np.testing.assert_array_equal(out[:, 4_800:], x[:, 4_800:])


def test_latency_beside_latency_that_stays():
    x = noise()
    blocks = blocks_of(x, 20)
    chain = Chain([AddLatency(100)])
    chain.prepare(RATE, 2)
    got = [chain.process_block(b, RATE) for b in blocks[:5]]
    chain.append(AddLatency(13))
    got += [chain.process_block(b, RATE) for b in blocks[5:10]]
    del chain[0]
    got += [chain.process_block(b, RATE) for b in blocks[10:]]
    out = np.concatenate(got, axis=1)
    np.testing.assert_array_equal(out[:, :2_400], late(x[:, :2_400], 100))
    np.testing.assert_array_equal(out[:, 2_400:4_800], late(x[:, 2_400:4_800], 113))
    np.testing.assert_array_equal(out[:, 4_800:], late(x[:, 4_800:], 13))


def test_a_change_of_parameters_is_heard_at_the_next_block():
    gain = pb.Gain(0)
    chain = Chain([gain])
    one = np.ones((2, 9), np.float32)
    assert chain.process_block(one, RATE)[0, 0] == 1.0
    gain.gain_db = -20
    assert chain.process_block(one, RATE)[0, -1] == pytest.approx(0.1)
