import copy
import gc
import inspect
import weakref

import numpy as np
import pedalboard as pb
import pytest
from hypothesis import example, given, settings
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


class Far(Sag):
    """A node whose block is elsewhere from when it begins until it is asked for."""

    def reset(self):
        super().reset()
        self._begun = None

    def begin_block(self, x, sample_rate):
        assert self._begun is None, "nobody asks for a block"
        self._begun = x
        return True

    def process_block(self, x, sample_rate):
        assert self._begun is None or self._begun is x, "another block is asked for"
        self._begun = None
        return super().process_block(x, sample_rate)


class SnapError(Exception):
    """What `Brittle` raises."""


class Brittle(Sag):
    """A node that may raise, and counts what it hears."""

    is_broken, heard = False, 0

    def process_block(self, x, sample_rate):
        self.heard += 1
        if self.is_broken:
            raise SnapError("snap")
        return super().process_block(x, sample_rate)


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


# ---- blocks that begin early -----------------------------------------------------------------------------------------

PARTS = {
    "native": lambda: pb.HighpassFilter(200),
    "tail": pb.Reverb,
    "latent": lambda: AddLatency(30),
    "node": Sag,
    "late": lambda: Late(5),
    "far": Far,
    "nested": lambda: Chain([pb.Chorus(), Far(), AddLatency(5), Far()]),
    "nested, near": lambda: Chain([Sag(), pb.Gain(-3)]),
}
PART = st.sampled_from(sorted(PARTS)) | st.just("far")
TURN = st.fixed_dictionaries(
    {
        "samples": st.sampled_from([1, 17, 64, 441]),
        "steps": st.integers(0, 3),  # taken early
        "is_asked": st.sampled_from([True, True, False]),
        "edit": st.none() | PART | st.sampled_from(["del", "turn"]),
    }
)


def edit(chain, how):
    middle = len(chain) // 2
    if how == "turn":
        chain.reverse()
    elif how == "del":
        del chain[middle : middle + 1]
    else:
        chain.insert(middle, PARTS[how]())


def turn(samples=64, steps=1, is_asked=True, edit=None):
    return {"samples": samples, "steps": steps, "is_asked": is_asked, "edit": edit}


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(PART, max_size=4), turns=st.lists(TURN, min_size=2, max_size=8))
@example(parts=["latent", "far", "latent"], turns=[turn(), turn(), turn(edit="node"), turn(), turn()])
@example(parts=["tail", "far", "tail"], turns=[turn(), turn(is_asked=False), turn(17), turn()])
@example(parts=["far", "nested", "far"], turns=[turn(), turn(steps=3, edit="turn"), turn(steps=2), turn(steps=3)])
@example(parts=["far"], turns=[turn(), turn(edit="del"), turn(edit="far"), turn(is_asked=False), turn(steps=0)])
def test_blocks_that_begin_early_are_the_same(parts, turns):
    early, plain = (Chain([PARTS[part]() for part in parts]) for _ in range(2))
    x, start, is_running = noise(2, 8 * 441), 0, False
    for step in turns:
        block, start = np.ascontiguousarray(x[:, start : start + step["samples"]]), start + step["samples"]
        has_begun = is_running and step["steps"] > 0
        if step["steps"]:
            waits = early.begin_block(block, RATE)
            assert waits == (has_begun and early.can_begin)
            for _ in range(step["steps"] - 1):
                early.go_on()
        if step["edit"]:
            edit(early, step["edit"])
            if has_begun:
                assert early.reported_latency_samples == plain.reported_latency_samples, "until the next block"
            else:
                edit(plain, step["edit"])
        if has_begun or step["is_asked"]:  # what has begun is heard by all plugins, asked for or not
            want = plain.process_block(block, RATE)
        if step["is_asked"]:
            np.testing.assert_array_equal(early.process_block(block, RATE), want)
        if has_begun and step["edit"]:
            edit(plain, step["edit"])
        is_running = not (has_begun and step["edit"]) and (step["is_asked"] or (is_running and not step["edit"]))
    block = np.ascontiguousarray(x[:, -64:])
    np.testing.assert_array_equal(early.process_block(block, RATE), plain.process_block(block, RATE))
    assert early.latency_names == plain.latency_names


def test_each_isolated_plugin_is_a_stop():
    sag = Brittle()
    chain = Chain([pb.HighpassFilter(90), Far(), Chain([Far()]), sag, Chain([Chain([]), Far()])])
    x = noise(2, 64)
    assert not chain.begin_block(x, RATE), "it is not running"
    chain.process_block(x, RATE)
    assert chain.begin_block(x, RATE)
    assert [chain.go_on() for _ in range(4)] == [True, True, False, False]
    assert sag.heard == 2
    chain.process_block(x, RATE)
    assert sag.heard == 2
    assert not chain.go_on()
    assert not chain.begin_block(x[:, :0], RATE)
    assert not chain.begin_block(x[:1], RATE)
    assert chain.can_begin
    assert not Chain([pb.Reverb(), None, Chain([Sag()])]).can_begin


def test_what_is_raised_early_is_heard_of_by_who_asks():
    chain, plain = (Chain([Brittle(), Brittle(), Far(), Brittle()]) for _ in range(2))
    x = noise(2, 64)
    for node in (chain, plain):
        node.process_block(x, RATE)
    for place in (1, 3):
        chain[place].is_broken = plain[place].is_broken = True
        chain.begin_block(x, RATE)
        chain.go_on()
        for node in (chain, plain):
            with pytest.raises(SnapError, match=r"^snap$"):
                node.process_block(x, RATE)
        chain[place].is_broken = plain[place].is_broken = False
        assert chain.begin_block(x, RATE)
        np.testing.assert_array_equal(chain.process_block(x, RATE), plain.process_block(x, RATE))
    assert [chain[k].heard for k in (0, 1, 3)] == [plain[k].heard for k in (0, 1, 3)]


def test_what_is_raised_early_is_not_kept():
    chain = Chain([Far(), Brittle()])
    x = noise(2, 64)
    chain.process_block(x, RATE)
    chain[1].is_broken = True
    errors = []
    gc.disable()  # as in the thread that plays
    try:
        chain.begin_block(x, RATE)
        chain.go_on()
        try:
            chain.process_block(x, RATE)
        except SnapError as error:
            errors.append(weakref.ref(error))
        assert errors
        assert errors[0]() is None
    finally:
        gc.enable()


def test_what_has_begun_does_not_outlive_its_stream():
    chain, x, other = Chain([pb.Delay(0.001, 0.5), Far(), Sag()]), noise(2, 64), noise(2, 64, seed=1)
    want, after = chain.process_block(x, RATE), chain.process_block(x, RATE)
    starts = {
        "reset": chain.reset,
        "prepare": lambda: chain.prepare(RATE, 2),
        "restart": chain.restart,
        "one shot": lambda: np.testing.assert_array_equal(chain(x, RATE), want),
    }
    for name, start in starts.items():
        chain.process_block(other, RATE)
        assert chain.begin_block(x, RATE)
        np.testing.assert_array_equal(copy.copy(chain).process_block(x, RATE), want)
        start()
        np.testing.assert_array_equal(chain.process_block(x, RATE), after if name == "one shot" else want, name)


@pytest.mark.parametrize("is_asked", [True, False])
def test_automation_goes_on_behind_what_has_begun(is_asked):
    early, plain = (Chain([Far(), pb.Compressor(-30, 4)]) for _ in range(2))
    x = noise(2, 50)
    for chain in (early, plain):
        chain.process_block(x, RATE)
        if chain is early:
            chain.begin_block(x, RATE)
        if is_asked or chain is plain:
            chain.process_block(x, RATE)
    outs = [
        chain(noise(), RATE, reset=False, automation={"1.threshold_db": np.linspace(-60.0, 0.0, 9_600)})
        for chain in (early, plain)
    ]
    np.testing.assert_array_equal(*outs)
