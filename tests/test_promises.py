"""The promises of the design, tested on the mixer as a user has it."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pedalboard import Chorus, Compressor, Gain, HighpassFilter, Reverb
from pedalboard_native._internal import AddLatency

from alm_plugin import Automation, Mixer, Strip
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock, boundary
from alm_plugin.models.alm import ALM
from alm_plugin.models.contract import ModelMetadata
from alm_plugin.models.dmc import DMC
from alm_plugin.models.files import TorchModel
from alm_plugin.models.loudness import Loudness

RATE = 48_000
ROOT = Path(__file__).parents[1]


def lively(network: torch.nn.Module) -> TorchModel:
    """An untrained network whose last layers are turned up, so that its gains differ and move by several dB."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise / parameter.shape[1:].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.zero_()
    return TorchModel.wrap(network.eval())


@pytest.fixture(scope="module")
def models():
    return {
        "loudness": Loudness(),
        "alm-mr": lively(ALM(width=1 / 8, clock=MULTI_RATE)),
        "alm-sr": lively(ALM(width=1 / 8, clock=SINGLE_RATE)),
        "dmc": lively(DMC(width=1 / 8)),
    }


MODELS = ["loudness", "alm-mr", "alm-sr", "dmc"]


def band(channels, seconds, seed=0, rate=RATE):
    """Noise with rests and swells, a stereo channel now and then: {name: (width, samples)}."""
    random = np.random.default_rng(seed)
    samples = int(seconds * rate)
    tracks = {}
    for channel in range(channels):
        width = 2 if channel % 3 == 2 else 1
        swell = np.interp(np.arange(samples), np.linspace(0, samples, 9), 10 ** random.uniform(-2.5, -0.3, 9))
        tone = np.sin(np.arange(samples) * random.uniform(0.01, 0.5))
        audio = swell * (0.3 * random.standard_normal((width, samples)) + tone)
        tracks[f"ch{channel}"] = (0.3 * audio).astype(np.float32)
    return tracks


def mixer_for(tracks, model, **kwargs):
    return Mixer({name: Strip() for name in tracks}, model=model, **kwargs)


def stream(mixer, tracks, sizes, rate=RATE):
    mixer.reset()
    samples = next(iter(tracks.values())).shape[1]
    out, start, turn = [], 0, 0
    while start < samples:
        size = sizes[turn % len(sizes)]
        out.append(mixer.process({n: t[:, start : start + size] for n, t in tracks.items()}, rate, reset=False))
        start += size
        turn += 1
    return np.concatenate(out, axis=1)


# ---- 1. zero latency, truly ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("at_s", [0.0, 1.2345, 1.95, 2.2])
def test_a_sample_changes_nothing_before_it_and_no_gain_of_its_own_frame(models, name, at_s):
    tracks = band(3, 4.0)
    at = int(at_s * RATE)
    mixer = mixer_for(tracks, models[name])
    mix, gains = mixer.process(tracks, RATE), mixer.automation.gains_db
    changed = {n: t.copy() for n, t in tracks.items()}
    for track in changed.values():
        track[:, at:] = 0.7 * np.sign(track[:, at:])
    mix_after, gains_after = mixer.process(changed, RATE), mixer.automation.gains_db
    np.testing.assert_array_equal(mix_after[:, :at], mix[:, :at])
    frame_ms = models[name].metadata.clock.f2_ms
    frame = next(n for n in range(10_000) if boundary(n + 1, RATE, frame_ms) > at)
    for channel in tracks:
        np.testing.assert_array_equal(gains_after[channel][: frame + 1], gains[channel][: frame + 1])
    assert any((gains_after[n] != gains[n]).any() for n in tracks), "the change must matter afterwards"


@pytest.mark.parametrize("name", MODELS)
def test_the_mixer_delays_nothing(models, name):
    click = np.zeros((1, 48_000), np.float32)
    click[0, 777] = 0.5
    mixer = mixer_for({"a": click}, models[name])
    assert np.flatnonzero(mixer.process({"a": click}, RATE)[0])[0] == 777
    assert mixer.reported_latency_samples == 0


# ---- 2. one code path ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [[1], [17], [64], [441], [2400], [1, 5000, 17]], ids=str)
def test_blocks_of_any_size_give_the_same_samples(models, name, sizes):
    tracks = band(3, 0.6 if sizes == [1] else 2.2)
    mixer = mixer_for(tracks, models[name])
    whole = mixer.process(tracks, RATE)
    curves = mixer.automation.gains_db
    np.testing.assert_array_equal(stream(mixer, tracks, sizes), whole)
    for channel in tracks:
        np.testing.assert_array_equal(mixer.automation.gains_db[channel], curves[channel])


@settings(max_examples=30, deadline=None)
@given(
    rate=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000, 96_000]),
    channels=st.integers(1, 7),
    width=st.sampled_from([1, 2]),
    # What comes in single samples alone is above, and takes long.
    sizes=st.lists(st.integers(1, 6_000), min_size=1, max_size=6).filter(lambda sizes: max(sizes) >= 100),
    buffer_size=st.integers(1, 20_000),
    seed=st.integers(0, 2**16),
)
def test_any_rate_width_count_and_blocks(rate, channels, width, sizes, buffer_size, seed):
    tracks = band(channels, 0.4, seed, rate)
    mixer = mixer_for(tracks, "loudness", channels=width)
    whole = mixer.process(tracks, rate, buffer_size)
    assert whole.shape == (width, tracks["ch0"].shape[1])
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(stream(mixer, tracks, sizes, rate), whole)


@pytest.mark.parametrize("sizes", [[1], [2], [17], [441], [3, 4000]], ids=str)
def test_chains_of_pedalboard_stream_exactly(sizes):
    tracks = band(3, 0.5 if sizes[-1] > 2 else 0.2)

    strips = {name: Strip([Compressor(-18, 3), Chorus(), Reverb()], post=[Gain(-3.0)]) for name in tracks}
    mixer = Mixer(strips)
    whole = mixer.process(tracks, RATE)
    np.testing.assert_array_equal(stream(mixer, tracks, sizes), whole)
    # JUCE's filters set memories below 1e-8 to zero at the end of every call: their last bits depend on blocks.
    mixer = Mixer({name: Strip([HighpassFilter(90)]) for name in tracks})
    whole = mixer.process(tracks, RATE)
    np.testing.assert_allclose(stream(mixer, tracks, sizes), whole, atol=1e-7)


@pytest.mark.parametrize("sizes", [[64], [480], [441, 3000]], ids=str)
def test_latent_vst3s_stream_exactly_and_stay_aligned(zam, sizes):
    from pedalboard import load_plugin

    click = np.zeros((2, 24_000), np.float32)
    click[:, 5_000] = 0.25
    limiter = load_plugin(str(zam / "ZaMaximX2.vst3"))
    mixer = Mixer({"limited": Strip([limiter]), "plain": Strip()}, model="unity")
    tracks = {"limited": click, "plain": click}
    whole = mixer.process(tracks, RATE)
    assert mixer.reported_latency_samples == 480
    assert np.abs(whole[0]).argmax() == 5_480
    assert whole[0, 5_480] > 0.4  # both, together
    np.testing.assert_array_equal(stream(mixer, tracks, sizes), whole)


def test_latency_is_made_equal_before_the_model_listens_and_again_at_the_bus():
    class Hears(Says):
        heard = ()

        def step(self, embedding, levels, mask, state):
            self.heard = (*self.heard, *levels[:, 0])
            return super().step(embedding, levels, mask, state)

    click = np.zeros((1, 9_600), np.float32)
    click[0, 2_350] = 0.9  # 100 samples later it is in the next frame
    model = Hears(0.0)
    mixer = Mixer({"a": Strip([AddLatency(100)]), "b": Strip(None, [AddLatency(30)]), "c": Strip()}, model, 1)
    mixer.ceiling_db = None
    mix = mixer.process(dict.fromkeys(mixer.names, click), RATE)[0]
    assert mixer.reported_latency_samples == 130
    assert np.flatnonzero(mix).tolist() == [2_480]
    assert mix[2_480] == pytest.approx(2.7)
    # Only from frame 1 on is anybody heard, and then all are, equally.
    assert len(model.heard) == 3 * 3
    np.testing.assert_allclose(model.heard[:3], 0.9 / 2_400**0.5, rtol=1e-5)


def test_reset_forgets_everything(models):
    tracks = band(3, 1.0)
    mixer = mixer_for(tracks, models["alm-mr"])
    first = mixer.process(tracks, RATE)
    np.testing.assert_array_equal(mixer.process(tracks, RATE), first)


# ---- 4. no clicks ----------------------------------------------------------------------------------------------------


def kinks(gain):
    """Slope changes of a sampled gain: where, and how much."""
    slope = np.diff(gain.astype(np.float64))
    return np.abs(np.diff(slope)).sum()


class Jumpy:
    """Gains that jump by up to 6 dB every frame, the most a model is meant to do."""

    def __init__(self):
        self.metadata = Loudness.metadata
        self.random = np.random.default_rng(3)

    def initial_state(self, channels):
        return {"gain_db": np.zeros(channels, np.float32)}

    def embed(self, patches, mask):
        raise NotImplementedError

    def step(self, embedding, levels, mask, state):
        gain_db = np.clip(state["gain_db"] + self.random.uniform(-6, 6, len(levels)), -12, 6).astype(np.float32)
        return gain_db, {"gain_db": gain_db}


@pytest.mark.parametrize("frequency_hz", [30.0, 100.0, 440.0, 1_000.0, 4_000.0, 10_000.0])
def test_sidebands_stay_within_what_the_ramps_must_make(frequency_hz):
    # A gain that is linear in pieces has, f Hz from the carrier, at most the spectrum
    #     sum |slope change| / (2 pi f)^2          (each corner is the double integral of an impulse).
    samples = 4 * RATE
    t = np.arange(samples) / RATE
    tone = (0.5 * np.sin(2 * np.pi * frequency_hz * t + 1.0)).astype(np.float32)[None]
    constant = np.full((1, samples), 0.5, np.float32)
    gain = Mixer({"a": Strip()}, Jumpy(), 1, ceiling_db=None).process([constant], RATE)[0] / 0.5
    out = Mixer({"a": Strip()}, Jumpy(), 1, ceiling_db=None).process([tone], RATE)[0]
    assert gain.max() / gain.min() > 4.0, "the gains must really move"
    window = np.hanning(samples)
    spectrum = np.abs(np.fft.rfft(out * window)) / RATE
    f = np.fft.rfftfreq(samples, 1 / RATE)
    distance = np.abs(f - frequency_hz)
    bound = 0.5 * kinks(gain) * RATE / (2 * np.pi * np.maximum(distance, 1.0)) ** 2
    far = distance > 300.0
    # Besides the bound: what float32 leaves of the tone itself.
    assert (spectrum[far] <= bound[far] + 2e-7).all()
    stepped = np.repeat(gain[:: RATE // 20], RATE // 20) * tone[0]
    assert (np.abs(np.fft.rfft(stepped * window)) / RATE > bound + 2e-7)[far].any(), "steps must be caught"


@pytest.mark.parametrize(("slack_ms", "ramp_ms"), [(20, 20), (5, 30), (0, 50), (49, 1)])
def test_a_gain_moves_slack_after_its_frames_start_for_the_length_of_the_ramp(slack_ms, ramp_ms):
    class Handover(Jumpy):
        def __init__(self):
            super().__init__()
            self.metadata = ModelMetadata("handover", ModelClock(slack_ms=slack_ms, ramp_ms=ramp_ms))

    samples = RATE // 2
    mixer = Mixer({"a": Strip()}, Handover(), 1, ceiling_db=None)
    got = mixer.process([np.full(samples, 0.25, np.float32)], RATE)[0] / 0.25
    ends = 10 ** (mixer.automation.gains_db["a"] / 20)
    slack, ramp = slack_ms * 48, ramp_ms * 48
    corners, factors = [0], [1.0]
    for frame in range(1, 10):
        corners += [frame * 2_400 + slack, frame * 2_400 + slack + ramp]
        factors += [ends[frame - 1], ends[frame]]
    np.testing.assert_allclose(got, np.interp(np.arange(samples), corners, factors), atol=1e-6)


# (25, 25) and (0, 50) at 11035 Hz: rounded to samples, some ramps end one after the next frame has begun.
@pytest.mark.parametrize(("slack_ms", "ramp_ms"), [(20, 20), (0, 50), (25, 25), (0, 1)])
@pytest.mark.parametrize("rate", [48_000, 11_035])
def test_gains_move_alike_in_blocks_of_any_size_and_under_observation(slack_ms, ramp_ms, rate):
    class Handover(Jumpy):
        def __init__(self):
            super().__init__()
            self.metadata = ModelMetadata("handover", ModelClock(slack_ms=slack_ms, ramp_ms=ramp_ms))

    def mix(size, *observers):
        strips = {"a": Strip(), "b": Strip(post=[Compressor(-30, 3)]), "c": Strip(pan=0.5), "d": Strip()}
        mixer = Mixer(strips, Handover())
        mixer.observers = list(observers)
        blocks = [[track[:, at : at + size] for track in tracks] for at in range(0, rate // 2, size)]
        out = np.concatenate([mixer.process(block, rate, reset=False) for block in blocks], axis=1)
        return np.concatenate([out, *mixer.automation.gains_db.values()], axis=None)

    rng = np.random.default_rng(8)
    tracks = [(0.1 * rng.standard_normal((sides, rate // 2))).astype(np.float32) for sides in (1, 1, 1, 2)]
    whole = mix(rate)
    for size in (64, 441, rate // 20, rate // 7):
        np.testing.assert_array_equal(mix(size), whole)
    np.testing.assert_array_equal(mix(441, lambda block: None), whole)  # goes another way to the mix


@pytest.mark.parametrize("what", ["mute", "panic"])
def test_mute_begins_within_the_next_block_and_ends_in_10_ms(what):
    tone = np.ones((1, 128), np.float32) * 0.5
    mixer = Mixer({"a": Strip(), "b": Strip()}, "unity", 1, ceiling_db=None)
    mixer.process([tone, tone], RATE, reset=False)
    if what == "mute":
        mixer["a"].mute = True
    else:
        mixer.panic()
    after = np.concatenate([mixer.process([tone, tone], RATE, reset=False)[0] for _ in range(10)])
    left = 0.5 if what == "mute" else 0.0
    assert after[1] < 1.0
    assert (after[480:] == left).all()
    assert np.abs(np.diff(after)).max() < 0.02
    if what == "mute":
        assert mixer.automation.gains_db["a"][0] == 0.0


# ---- 5. any channels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [5, 12])
def test_order_does_not_matter(models, name, channels, rng):
    tracks = band(channels, 4.0)
    mixer = mixer_for(tracks, models[name])
    mix, gains = mixer.process(tracks, RATE), mixer.automation.gains_db
    other = {n: tracks[n] for n in rng.permutation(list(tracks))}
    mixer = mixer_for(other, models[name])
    np.testing.assert_allclose(mixer.process(other, RATE), mix, atol=1e-5)
    for channel in tracks:
        np.testing.assert_allclose(mixer.automation.gains_db[channel], gains[channel], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_silent_or_absent_channel_is_as_if_it_had_never_been_there(models, name):
    tracks = band(4, 4.0)
    mixer = mixer_for(tracks, models[name])
    mixer.process(tracks, RATE)
    gains = mixer.automation.gains_db
    assert max(np.ptp(curve) for curve in gains.values()) > 0.5, "the gains must really move"
    more = {"silent": np.zeros_like(tracks["ch0"]), **tracks}
    wider = Mixer({name: Strip() for name in ["absent", *more]}, models[name])
    wider.process(more, RATE)
    for channel in tracks:
        np.testing.assert_allclose(wider.automation.gains_db[channel], gains[channel], atol=1e-6)
    assert not wider.automation.gains_db["silent"].any()


@pytest.mark.parametrize("name", MODELS)
def test_one_channel_and_64_channels(models, name):
    for channels in (1, 64):
        tracks = band(channels, 1.3, rate=16_000)
        mixer = mixer_for(tracks, models[name])
        assert np.isfinite(mixer.process(tracks, 16_000)).all()
        assert len(mixer.automation.gains_db) == channels
        assert mixer.faults == {}


class Counts:
    """Every active channel is worth 6 dB to all: the most that a model could make of one that leaves."""

    metadata = Loudness.metadata

    def initial_state(self, channels):
        return {}

    def embed(self, patches, mask):
        raise NotImplementedError

    def step(self, embedding, levels, mask, state):
        return np.full(len(mask), 6.0 * mask.sum() - 24.0, np.float32), state


@pytest.mark.parametrize("name", [*MODELS, "counts"])
def test_decay_into_silence_moves_no_other_by_more_than_half_a_db_a_frame(models, name):
    samples = 8 * RATE
    # Every frame and every patch of the others is the same: what moves them is the channel that decays.
    t = (np.arange(samples) + 0.5) / RATE
    steady = {f"ch{i}": 0.1 * np.sign(np.sin(200 * np.pi * (i + 1) * t))[None].astype(np.float32) for i in range(4)}
    # From full level to -90 dBFS in four seconds, then digital silence.
    decay = 10 ** (np.interp(np.arange(samples), [RATE, 5 * RATE], [0.0, -70.0]) / 20)
    decay[6 * RATE :] = 0.0
    steady["ch0"] = (steady["ch0"] * decay).astype(np.float32)
    model = Counts() if name == "counts" else models[name]
    mixer = mixer_for(steady, model)
    mixer.process(steady, RATE)
    frame_s = model.metadata.clock.f2_ms / 1000
    settled = int(2.0 / frame_s)
    for channel in ("ch1", "ch2", "ch3"):
        moves = np.abs(np.diff(mixer.automation.gains_db[channel][settled:]))
        assert moves.max() <= 0.5 * frame_s / 0.05, name


def test_channels_come_and_go_while_running(models):
    tracks = band(3, 2.0)
    mixer = mixer_for(tracks, models["alm-mr"])
    half = RATE
    first = mixer.process({n: t[:, :half] for n, t in tracks.items()}, RATE, reset=False)
    mixer.remove("ch1")
    mixer.add("late", Strip(trim_db=-6.0))
    rest = {n: t[:, half:] for n, t in tracks.items() if n != "ch1"}
    second = mixer.process({**rest, "late": tracks["ch1"][:, half:]}, RATE, reset=False)
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    curves = mixer.automation.gains_db
    assert len(mixer.automation.times_s) == 40
    assert np.isnan(curves["late"][:20]).all()
    assert curves["late"][20] == -6.0
    assert np.isfinite(curves["late"][20:]).all()
    assert np.isnan(curves["ch1"][20:]).all()
    assert mixer.faults == {}


class Apart:
    """Every channel's gain follows its own sound, past and role, by hundreds of dB, and nothing else."""

    metadata = ModelMetadata("apart", embedding_size=1)

    def initial_state(self, channels):
        return {"gain_db": np.zeros(channels), "role": np.full(channels, -1)}

    def embed(self, patches, mask):
        return patches.mean(axis=(1, 2))[:, None]

    def step(self, embedding, levels, mask, state):
        gain_db = 0.9 * state["gain_db"] + levels.sum(axis=1) + 10.0 * embedding[:, 0] + state["role"]
        return (mask * gain_db).astype(np.float32), {**state, "gain_db": gain_db}


@pytest.mark.parametrize("at", [48_000, 50_000])
def test_who_stays_does_not_notice_who_comes_and_goes(at):
    tracks = band(4, 3.0)
    tracks["ch2"][:, 30_000:90_000] = 0.0
    roles = {"ch0": "kick", "ch1": "bass", "ch2": "vocals", "ch3": "guitar"}

    def gains(names, late=()):
        mixer = Mixer({n: Strip(role=roles[n], bounds_db=(-np.inf, 60.0)) for n in names}, Apart(), strength=10.0)
        mixer.process({n: tracks[n][:, :at] for n in names}, RATE, reset=False)
        if late:
            mixer.remove("ch1")
            mixer.add("ch3", Strip(role=roles["ch3"], bounds_db=(-np.inf, 60.0)))
        names = late or names
        mixer.process({n: tracks[n][:, at:] for n in names}, RATE, reset=False)
        return mixer.automation.gains_db

    got = gains(["ch0", "ch1", "ch2"], late=["ch0", "ch2", "ch3"])
    want = gains(["ch0", "ch2"])
    for channel in want:
        assert np.ptp(want[channel]) > 1.0, "the gains must really move"
        np.testing.assert_allclose(got[channel], want[channel], atol=1e-6)
    tracks["ch3"][:, :at] = 0.0  # the newcomer is as one who has been silent so far
    frame = at // 2_400
    np.testing.assert_allclose(got["ch3"][frame:], gains(["ch3"])["ch3"][frame:], atol=1e-6)
    assert np.isnan(got["ch3"][:frame]).all()


def test_a_channel_may_appear_later_and_in_stereo(models):
    tracks = band(3, 2.0)
    mixer = mixer_for(tracks, models["alm-mr"])
    first = mixer.process({n: tracks[n][:, :RATE] for n in ("ch0", "ch1")}, RATE, reset=False)
    second = mixer.process({n: t[:, RATE:] for n, t in tracks.items()}, RATE, reset=False)
    whole = {**tracks, "ch2": tracks["ch2"] * (np.arange(2 * RATE) >= RATE)}
    want = mixer_for(tracks, models["alm-mr"]).process(whole, RATE)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), want)


def test_a_channel_that_comes_does_not_disturb_what_is_on_its_way(zam):
    from pedalboard import load_plugin

    tone = 0.1 * np.sin(np.arange(9_600) * 0.03).astype(np.float32)
    strips = {"limited": Strip([load_plugin(str(zam / "ZaMaximX2.vst3"))]), "plain": Strip()}
    mixer = Mixer(strips, "unity", 1)
    halves = np.split(tone, 2)
    out = [mixer.process({"limited": np.stack([halves[0]] * 2), "plain": halves[0]}, RATE, reset=False)]
    mixer.add("late", Strip())
    zero = np.zeros_like(halves[1])
    late = {"limited": np.stack([halves[1]] * 2), "plain": halves[1], "late": zero}
    out.append(mixer.process(late, RATE, reset=False))
    np.testing.assert_allclose(np.concatenate(out, axis=1)[0, 480:], 2 * tone[:-480], atol=1e-4)


def test_latency_that_comes_and_goes_is_lined_up_again():
    from pedalboard_native._internal import AddLatency

    def click(at):
        x = np.zeros(1_000, np.float32)
        x[at] = 0.25
        return x

    mixer = Mixer({"a": Strip([AddLatency(100)]), "b": Strip()}, "unity", 1)
    mixer.process([click(0), click(0)], RATE, reset=False)
    del mixer["a"].pre[0]
    mixer.process([click(0), click(0)], RATE, reset=False)
    out = mixer.process([click(50), click(50)], RATE, reset=False)
    assert mixer.reported_latency_samples == 0
    assert np.flatnonzero(out[0]).tolist() == [50]
    mixer["b"].pre.append(AddLatency(30))
    mixer.process([click(0), click(0)], RATE, reset=False)
    out = mixer.process([click(50), click(50)], RATE, reset=False)
    assert mixer.reported_latency_samples == 30
    assert np.flatnonzero(out[0]).tolist() == [80]
    mixer.remove("b")
    out = mixer.process([click(50)], RATE, reset=False)
    assert np.flatnonzero(out[0]).tolist() == [50]


def test_zero_latency_holds_while_running():
    from pedalboard_native._internal import AddLatency

    from alm_plugin import LatencyError

    mixer = Mixer({"a": Strip()}, "unity", zero_latency=True)
    mixer.process([np.zeros(100, np.float32)], RATE, reset=False)
    mixer["a"].pre.append(AddLatency(30))
    with pytest.raises(LatencyError, match="strip 'a' must add no latency with zero_latency=True, got 30 samples"):
        mixer.process([np.zeros(100, np.float32)], RATE, reset=False)


def test_a_role_changed_while_running_reaches_the_model():
    mixer = Mixer({"a": Strip(role="vocals"), "b": Strip(role="vocals")}, model="loudness")
    tone = np.full((2, RATE * 6), 0.1, np.float32) * np.sign(np.sin(np.arange(RATE * 6) * 0.1)).astype(np.float32)
    mixer.process(tone, RATE, reset=False)
    mixer["b"].role = "bass"
    mixer.process(tone, RATE, reset=False)
    gains = mixer.automation.gains_db
    assert gains["a"][-1] - gains["b"][-1] > 4.0


def test_a_channel_that_comes_back_keeps_its_curve():
    mixer = Mixer({"a": Strip(trim_db=-3.0), "b": Strip()}, "unity")
    mixer.process(np.zeros((2, 4_800), np.float32), RATE, reset=False)
    strip = mixer.remove("a")
    mixer.process(np.zeros((1, 4_800), np.float32), RATE, reset=False)
    mixer.add("a", strip)
    mixer.process(np.zeros((2, 4_800), np.float32), RATE, reset=False)
    np.testing.assert_array_equal(mixer.automation.gains_db["a"], [-3.0, -3.0, np.nan, np.nan, -3.0, -3.0])


# ---- 6. the human wins -----------------------------------------------------------------------------------------------


class Says:
    """A model that says the same gain for all."""

    metadata = Loudness.metadata

    def __init__(self, gain_db):
        self.gain_db = gain_db

    def initial_state(self, channels):
        return {}

    def embed(self, patches, mask):
        raise NotImplementedError

    def step(self, embedding, levels, mask, state):
        return np.full(len(levels), self.gain_db, np.float32), state


def last_gain(strip, says=10.0, strength=100.0, seconds=0.5):
    mixer = Mixer({"a": strip}, Says(says), strength=strength)
    mixer.process([np.full(int(RATE * seconds), 0.01, np.float32)], RATE)
    return float(mixer.automation.gains_db["a"][-1])


def test_the_law():
    assert last_gain(Strip()) == 10.0
    assert last_gain(Strip(), strength=50.0) == 5.0
    assert last_gain(Strip(), strength=0.0) == 0.0
    assert last_gain(Strip(trim_db=2.0), strength=50.0) == 7.0
    assert last_gain(Strip(trim_db=2.0, bounds_db=(-6.0, 6.0))) == 6.0
    assert last_gain(Strip(), says=-100.0) == -60.0
    assert last_gain(Strip(), says=100.0) == 24.0
    assert last_gain(Strip(slew_db_per_s=12.0), seconds=0.25) == pytest.approx(4 * 0.6, abs=1e-5)
    assert last_gain(Strip(lock_db=-3.0, trim_db=2.0, bounds_db=(0.0, 6.0), slew_db_per_s=1.0)) == -3.0


def test_trim_and_lock_hold_from_the_first_sample():
    tone = np.full((1, 4_800), 0.5, np.float32)
    for strip, want in ((Strip(trim_db=-6.0), 10**-0.3), (Strip(lock_db=-20.0), 0.1)):
        mix = Mixer({"a": strip}, "unity", 1).process([tone], RATE)
        np.testing.assert_allclose(mix[0], 0.5 * want, rtol=1e-6)


def test_the_models_state_advances_whatever_the_human_does(models):
    tracks = band(3, 3.0)
    free = mixer_for(tracks, models["alm-mr"])
    free.process(tracks, RATE)
    held = mixer_for(tracks, models["alm-mr"])
    held["ch1"].lock_db = -3.0
    held["ch2"].mute = True
    half = int(1.5 * RATE)
    held.process({n: t[:, :half] for n, t in tracks.items()}, RATE, reset=False)
    held["ch1"].lock_db = None
    held["ch2"].mute = False
    held.process({n: t[:, half:] for n, t in tracks.items()}, RATE, reset=False)
    for channel in tracks:
        np.testing.assert_array_equal(held.automation.gains_db[channel][31:], free.automation.gains_db[channel][31:])
    assert (held.automation.gains_db["ch1"][:30] == -3.0).all()
    assert (held.automation.gains_db["ch2"][:30] == -np.inf).all()


def test_mute_comes_last():
    tone = np.full((1, 9_600), 0.01, np.float32)
    for strip in (Strip(mute=True), Strip(mute=True, lock_db=6.0)):
        mixer = Mixer({"a": strip}, Says(10.0), automation=Automation(np.zeros(1), {"a": np.float32([3.0])}))
        assert not mixer.process([tone], RATE).any()
        assert (mixer.automation.gains_db["a"] == -np.inf).all()


def test_a_drawn_curve_comes_after_model_strength_trim_and_slew_and_before_the_lock():
    curve = Automation(np.array([0.0, 0.2]), {"a": np.float32([-6.0, -20.0])})
    strip = Strip(trim_db=5.0, slew_db_per_s=1.0, bounds_db=(-3.0, 3.0))
    mixer = Mixer({"a": strip, "b": Strip()}, Says(10.0), 1, strength=50.0, automation=curve)
    tone = np.full((2, 14_400), 0.01, np.float32)
    mixer.process(tone, RATE, reset=False)
    strip.lock_db = -1.0
    mixer.process(tone[:, :4_800], RATE, reset=False)
    gains = mixer.automation.gains_db
    assert gains["a"].tolist() == [-6.0] * 4 + [-20.0] * 2 + [-1.0] * 2
    assert gains["b"].tolist() == [0.0] + [5.0] * 7


def test_slew_is_per_second_on_any_clock():
    class Slow(Says):
        metadata = ModelMetadata("slow", SINGLE_RATE)

    mixer = Mixer({"a": Strip(slew_db_per_s=2.0)}, Slow(10.0))
    mixer.process([np.full(3 * RATE, 0.01, np.float32)], RATE)
    np.testing.assert_allclose(mixer.automation.gains_db["a"], [0.0, 1.95, 3.9, 5.85], atol=1e-5)


def test_a_frozen_mixer_listens_on_and_takes_a_lock():
    tracks = band(2, 3.0)
    free = mixer_for(tracks, "loudness")
    free.process(tracks, RATE)
    held = mixer_for(tracks, "loudness")
    held.freeze = True
    half = int(1.5 * RATE)
    held["ch1"].lock_db = -3.0
    held.process({n: t[:, :half] for n, t in tracks.items()}, RATE, reset=False)
    held["ch1"].lock_db = -4.0
    held.process({n: t[:, half : half + 2_400] for n, t in tracks.items()}, RATE, reset=False)
    held["ch1"].lock_db = None
    held.freeze = False
    held.process({n: t[:, half + 2_400 :] for n, t in tracks.items()}, RATE, reset=False)
    assert not held.automation.gains_db["ch0"][:31].any()
    assert held.automation.gains_db["ch1"][[29, 30]].tolist() == [-3.0, -4.0]
    for channel in tracks:
        np.testing.assert_array_equal(held.automation.gains_db[channel][31:], free.automation.gains_db[channel][31:])


def test_freeze_holds_the_gains():
    mixer = Mixer({"a": Strip()}, Jumpy())
    tone = np.full((1, RATE), 0.01, np.float32)
    mixer.process([tone], RATE, reset=False)
    mixer.freeze = True
    mixer.process([tone], RATE, reset=False)
    gains = mixer.automation.gains_db["a"]
    assert np.ptp(gains[:20]) > 1.0
    assert (gains[20:] == gains[19]).all()


def test_freeze_holds_a_drawn_curve_too():
    curve = Automation(np.array([0.0, 0.2]), {"a": np.float32([-6.0, -20.0])})
    mixer = Mixer({"a": Strip()}, "unity", automation=curve)
    tone = np.full((1, 4_800), 0.01, np.float32)
    mixer.process(tone, RATE, reset=False)
    mixer.freeze = True
    for _ in range(3):
        mixer.process(tone, RATE, reset=False)
    assert (mixer.automation.gains_db["a"] == -6.0).all()


# ---- 7. never silence, never noise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_bad_samples_are_mended_and_counted(bad):
    tracks = band(2, 1.0)
    clean = mixer_for(tracks, "loudness").process(tracks, RATE)
    hurt = {n: t.copy() for n, t in tracks.items()}
    hurt["ch0"][0, 20_000:20_003] = bad
    mixer = mixer_for(tracks, "loudness")
    mix = mixer.process(hurt, RATE)
    assert np.isfinite(mix).all()
    assert mixer.faults == {"input ch0": 3}
    assert not np.isnan(hurt["ch0"][0, 19_999])
    assert not abs(hurt["ch0"][0, 20_001]) < 1e6 or np.isinf(hurt["ch0"][0, 20_001]), "the caller's array is his own"
    assert np.abs(mix - clean).max() < 2.0


def test_a_plugin_that_makes_nan_does_not_spread_it():
    class Poison:
        is_effect, is_instrument, reported_latency_samples = True, False, 0

        def __init__(self):
            self.bad = False

        def reset(self):
            self.bad = False

        def process(self, x, sample_rate, buffer_size=8192, reset=True):
            # Like a filter whose memory has caught a NaN: bad until it is reset.
            self.bad = self.bad or bool((x > 0.9).any())
            return x * np.float32(np.nan) if self.bad else x.copy()

    tone = np.full((1, 24_000), 0.1, np.float32)
    tone[0, 12_000] = 0.95
    mixer = Mixer({"a": Strip([Poison()]), "b": Strip()}, "unity", 1)
    out = np.concatenate([mixer.process([b, b], RATE, reset=False) for b in np.split(tone, 50, axis=1)], axis=1)
    assert np.isfinite(out).all()
    assert mixer.faults["strip a"] > 0
    np.testing.assert_allclose(out[0, :11_000], 0.2, rtol=1e-5)
    np.testing.assert_allclose(out[0, 13_000:], 0.2, rtol=1e-5)


@pytest.mark.parametrize("where", ["pre", "post"])
@pytest.mark.parametrize("how", ["raises", "width", "type"])
def test_a_plugin_that_fails_is_left_out_and_the_sound_goes_on(where, how, caplog):
    class Fails:
        is_effect, is_instrument, reported_latency_samples = True, False, 0
        blocks = 0

        def reset(self):
            pass

        def process(self, x, sample_rate, buffer_size=8192, reset=True):
            self.blocks += 1
            if self.blocks <= 10:
                return x * np.float32(0.5)
            if how == "raises":
                raise RuntimeError("licence expired")
            return np.zeros((5, x.shape[1]), np.float32) if how == "width" else None

    mixer = Mixer({"a": Strip(**{where: [Fails()]}), "b": Strip()}, "unity", 1)
    tone = np.full(480, 0.1, np.float32)
    out = np.concatenate([mixer.process([tone, tone], RATE, reset=False)[0] for _ in range(30)])
    np.testing.assert_allclose(out[: 10 * 480], 0.15, rtol=1e-6)
    np.testing.assert_allclose(out[11 * 480 :], 0.2, rtol=1e-6)
    assert mixer.faults["strip a"] >= 20
    assert len(caplog.records) == 1


def test_a_dead_model_holds_the_gains_and_the_sound_goes_on():
    class Dies(Says):
        steps = 0

        def step(self, embedding, levels, mask, state):
            self.steps += 1
            if self.steps > 5:
                raise RuntimeError("out of memory")
            return super().step(embedding, levels, mask, state)

    mixer = Mixer({"a": Strip()}, Dies(-6.0), 1)
    mix = mixer.process([np.full(RATE, 0.1, np.float32)], RATE)
    np.testing.assert_allclose(mix[0, 10_000:], 0.1 * 10**-0.3, rtol=1e-5)
    assert mixer.faults == {"model": 15}


def test_dc_and_clipping_do_no_harm(models):
    tracks = {
        "dc": np.full((1, 2 * RATE), 0.8, np.float32),
        "clip": np.sign(band(1, 2.0)["ch0"]),
        "ok": band(1, 2.0)["ch0"],
    }
    for name in MODELS:
        mixer = mixer_for(tracks, models[name])
        mix = mixer.process(tracks, RATE)
        assert np.isfinite(mix).all()
        assert np.abs(mix).max() <= 1.0
        assert mixer.faults == {}


def test_the_ceiling_is_transparent_below_and_counted_above():
    quiet = np.linspace(-0.89, 0.89, 48_000, dtype=np.float32)[None]
    mixer = Mixer({"a": Strip()}, "unity", 1)
    np.testing.assert_array_equal(mixer.process([quiet], RATE), quiet)
    assert mixer.ceiling_samples == 0
    loud = np.linspace(-4.0, 4.0, 48_000, dtype=np.float32)[None]
    mix = mixer.process([loud], RATE)
    assert np.abs(mix).max() <= 1.0
    assert (np.diff(mix[0]) >= 0).all()
    assert mixer.ceiling_samples == (np.abs(loud) > 10 ** (-1 / 20)).sum()


def test_observers_see_everything_and_change_nothing(caplog):
    tracks = band(2, 0.5)
    seen = []

    def meddle(block):
        seen.append(block)
        block.mix[:] = 0.0

    mixer = mixer_for(tracks, "loudness")
    plain = mixer.process(tracks, RATE)
    mixer.observers.append(meddle)
    np.testing.assert_array_equal(mixer.process(tracks, RATE), plain)
    np.testing.assert_array_equal(np.concatenate([b.mix for b in seen], axis=1), plain)
    np.testing.assert_array_equal(np.concatenate([b.inputs["ch1"] for b in seen], axis=1), tracks["ch1"])
    assert [b.position for b in seen] == [0, 8192, 16_384]
    assert mixer.faults == {"observer": 3}
    assert len(caplog.records) == 1


def test_observers_see_each_stage_and_can_write_to_none():
    tracks = band(2, 0.2)
    seen = []
    mixer = Mixer({n: Strip([Gain(-6.0)], [Gain(-4.0)], lock_db=-10.0, pan=-1.0) for n in tracks}, "unity")
    mixer.observers.append(seen.append)
    mix = mixer.process({n: 50 * t for n, t in tracks.items()}, RATE)
    assert mixer.ceiling_samples > 0, "the mix that is seen is the one that leaves"
    np.testing.assert_array_equal(np.concatenate([block.mix for block in seen], axis=1), mix)
    for name, track in tracks.items():
        for stage, gain_db in (("inputs", 0.0), ("taps", -6.0), ("outputs", -20.0)):
            got = np.concatenate([getattr(block, stage)[name] for block in seen], axis=1)
            np.testing.assert_allclose(got, 50 * track * 10 ** (gain_db / 20), rtol=1e-4, atol=1e-6)
            with pytest.raises(ValueError, match="read-only"):
                getattr(seen[0], stage)[name][:] = 0.0


# ---- 8. nothing runs unseen ------------------------------------------------------------------------------------------


def test_importing_the_package_imports_no_torch():
    mixer = "alm_plugin.Mixer({'a': alm_plugin.Strip()}, 'loudness')"
    code = f"import sys, alm_plugin; {mixer}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_pickle_no_eval():
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for path in [*(ROOT / "alm_plugin").rglob("*.py"), *(ROOT / "training").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name.split(".")[0] for alias in node.names}, path
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in forbidden, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" for k in node.keywords), path
