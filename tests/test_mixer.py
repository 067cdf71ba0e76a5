import numpy as np
import pytest
from pedalboard import Reverb
from pedalboard_native._internal import AddLatency

from alm_plugin import AudioTypeError, Automation, LatencyError, Mixer, ModelError, ParameterError, Strip
from alm_plugin.stream import soft_clip

RATE = 48_000
ZERO = np.zeros(100, np.float32)


def two(**kwargs):
    return Mixer({"a": Strip(), "b": Strip()}, "unity", **kwargs)


def test_the_three_ways_to_hand_over_tracks(rng):
    a, b = rng.standard_normal((2, 1_000)).astype(np.float32) * 0.1
    want = np.stack([a + b, a + b])
    np.testing.assert_array_equal(two().process({"b": b, "a": a}, RATE), want)
    np.testing.assert_array_equal(two().process([a, b[None]], RATE), want)
    np.testing.assert_array_equal(two().process(np.stack([a, b]), RATE), want)
    np.testing.assert_array_equal(two()(np.stack([a, b]).astype(np.float64), RATE), want)
    np.testing.assert_array_equal(two().process({"a": a}, RATE)[0], a)


def test_a_wide_short_block_is_not_taken_for_interleaved():
    mixer = Mixer({str(i): Strip() for i in range(32)}, "unity", 1, ceiling_db=None)
    block = np.arange(32 * 16, dtype=np.float32).reshape(32, 16)
    np.testing.assert_allclose(mixer.process(block, RATE)[0], block.sum(axis=0))


def test_stereo_keeps_its_sides_and_is_averaged_into_mono(rng):
    x = rng.standard_normal((2, 500)).astype(np.float32) * 0.1
    np.testing.assert_array_equal(Mixer({"a": Strip()}, "unity").process([x], RATE), x)
    np.testing.assert_allclose(Mixer({"a": Strip()}, "unity", 1).process([x], RATE)[0], x.mean(axis=0), rtol=1e-6)


def test_pan_moves_a_channel_on_the_bus():
    x = np.full(20_000, 0.1, np.float32)
    mix = Mixer({"a": Strip(pan=-1.0)}, "unity").process([x], RATE)
    np.testing.assert_allclose(mix[0], 0.1 * np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(mix[1], 0.0, atol=1e-8)


def test_pan_moves_while_running_without_a_step():
    x = np.full(4_800, 0.1, np.float32)
    mixer = Mixer({"a": Strip()}, "unity")
    mixer.process([x], RATE, reset=False)
    mixer["a"].pan = 1.0
    mix = mixer.process([x], RATE, reset=False)
    assert mix[0, 0] == np.float32(0.1)
    assert np.abs(np.diff(mix)).max() < 2e-4
    np.testing.assert_allclose(mix[:, -1], [0.0, 0.1 * np.sqrt(2)], atol=1e-7)


def test_empty_blocks_and_blocks_without_end():
    mixer = two()
    assert mixer.process([ZERO[:0], ZERO[:0]], RATE, reset=False).shape == (2, 0)
    assert mixer.process([ZERO, ZERO], RATE, reset=False).shape == (2, 100)
    assert mixer.automation.times_s.tolist() == [0.0]


def test_automation_is_a_row_per_frame_at_its_start():
    mixer = two()
    mixer.process([np.zeros(11_026, np.float32)] * 2, 11_025)
    np.testing.assert_allclose(mixer.automation.times_s[[0, 1, 4, 20]], [0.0, 552 / 11_025, 0.2, 1.0])
    assert mixer.automation.gains_db["a"].shape == (21,)


def test_automation_before_any_sound_is_empty():
    assert two().automation.gains_db["a"].shape == (0,)


def test_names_repr_and_access():
    mixer = two()
    assert mixer.names == ["a", "b"]
    assert len(mixer) == 2
    assert "a" in mixer
    assert repr(mixer).startswith("<alm_plugin.Mixer with 2 strips: ['a', 'b'] model='unity' channels=2 at 0x")
    assert mixer.is_effect
    assert not mixer.is_instrument
    with pytest.raises(ParameterError, match="channel must be one of a, b, got 'c'"):
        mixer["c"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mixer({}), "1 to 64 channels, got 0"),
        (lambda: Mixer({str(i): Strip() for i in range(65)}), "1 to 64 channels, got 65"),
        (lambda: Mixer([Strip()]), "must map channel names"),  # type: ignore[arg-type]
        (lambda: Mixer({"": Strip()}), "non-empty strings"),
        (lambda: two(channels=3), "channels must be 1 or 2, got 3"),
        (lambda: two(strength=-1), r"strength must be in \[0, 100\] %, got -1"),
        (lambda: two(strength=float("nan")), "strength must be in"),
        (lambda: two(ceiling_db=3.0), "ceiling_db must be in"),
        (lambda: Mixer({"a": Strip()}, object()), "model must have embed, step"),  # type: ignore[arg-type]
        (lambda: two().add("a"), "channel names must be different, got 'a' twice"),
        (lambda: Mixer({"a": Strip()}).remove("a"), "1 to 64 channels, got 0"),
        (lambda: two().process([ZERO], RATE), "tracks must hold 2 channels, got 1"),
        (lambda: two().process({"c": ZERO}, RATE), "got 'c'"),
        (lambda: two().process({}, RATE), "at least one channel, got none"),
        (lambda: two().process(ZERO, RATE), r"shape \(channels, samples\), got \(100,\)"),
        (lambda: two().process([ZERO, ZERO[:7]], RATE), "track 'b' must have 100 samples like 'a', got 7"),
        (lambda: two().process([ZERO, np.zeros((3, 100))], RATE), r"got \(3, 100\)"),
        (lambda: two().process([ZERO, ZERO], 0), "sample_rate must be"),
        (lambda: two().process([ZERO, ZERO], RATE, buffer_size=0), "buffer_size must be a whole number >= 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
    with pytest.raises(ParameterError, match=says):
        make()


def test_strips_and_plugins_are_not_shared():
    strip, reverb = Strip(), Reverb()
    with pytest.raises(ParameterError, match="a Strip of its own, got one for 'a' and 'b'"):
        Mixer({"a": strip, "b": strip})
    with pytest.raises(ParameterError, match=r"plugins of its own, got <pedalboard.Reverb .* in 'a' and 'b'"):
        Mixer({"a": Strip([reverb]), "b": Strip(post=reverb)})
    mixer = Mixer({"a": Strip([reverb])})
    with pytest.raises(ParameterError, match="plugins of its own"):
        mixer.add("b", Strip([reverb]))
    assert mixer.names == ["a"]


def test_misspelt_attributes_are_refused():
    mixer = two()
    with pytest.raises(AttributeError, match="no attribute 'strenght'"):
        mixer.strenght = 50.0
    mixer.strength, mixer.freeze = 50.0, True
    assert list(mixer) == ["a", "b"]


def test_wrong_dtype_is_a_type_error():
    with pytest.raises(AudioTypeError, match="track 'b' must be an array of 32-bit or 64-bit floating point audio"):
        two().process([ZERO, ZERO.astype(np.int16)], RATE)


def test_unknown_models_are_refused():
    with pytest.raises(ModelError, match="model must be one of"):
        Mixer({"a": Strip()}, "alm-xl")


def test_a_stream_keeps_its_rate_and_widths():
    mixer = two()
    mixer.process([ZERO, ZERO], RATE, reset=False)
    with pytest.raises(ParameterError, match="sample_rate must stay 48000 Hz until reset"):
        mixer.process([ZERO, ZERO], 44_100, reset=False)
    with pytest.raises(ParameterError, match=r"track 'a' must keep 1 channel until reset\(\), got 2"):
        mixer.process([np.zeros((2, 100)), ZERO], RATE, reset=False)
    mixer.process([np.zeros((2, 100)), ZERO], 44_100)


@pytest.mark.parametrize("reset", [False, True])
def test_input_that_is_refused_leaves_the_stream_as_it_was(rng, reset):
    x = rng.standard_normal((2, 9_000)).astype(np.float32) * 0.1
    want = two().process(x, RATE)
    mixer = two()
    first = mixer.process(x[:, :5_000], RATE, reset=False)
    with pytest.raises(ParameterError):
        mixer.process([x[0], x[1, :7]], RATE, reset=reset)
    np.testing.assert_array_equal(np.concatenate([first, mixer.process(x[:, 5_000:], RATE, reset=False)], axis=1), want)
    assert len(mixer.automation.times_s) == 4


def test_a_newcomer_is_lined_up_with_the_others_and_begins_on_its_curve():
    curve = Automation(np.array([0.0, 0.1]), {"b": np.float32([-6.0, -20.0])})
    mixer = Mixer({"a": Strip([AddLatency(100)], AddLatency(30))}, "unity", 1, automation=curve)
    click = np.zeros(4_800, np.float32)
    mixer.process([click], RATE, reset=False)
    mixer.add("b")
    click[1_000] = 0.25
    mix = mixer.process([click, click], RATE, reset=False)[0]
    assert np.flatnonzero(mix).tolist() == [1_130]
    assert mix[1_130] == pytest.approx(0.25 + 0.025)
    assert np.isnan(mixer.automation.gains_db["b"][:2]).all()
    assert mixer.automation.gains_db["b"][2:].tolist() == [-20.0] * 2


def test_zero_latency_refuses_by_name(zam):
    from pedalboard import load_plugin

    limiter = load_plugin(str(zam / "ZaMaximX2.vst3"))
    with pytest.raises(LatencyError, match=r"strip 'bass' must add no latency .* got 480 samples from ZaMaximX2"):
        Mixer({"bass": Strip([limiter])}, zero_latency=True)
    mixer = two(zero_latency=True)
    with pytest.raises(LatencyError, match="480 samples"):
        mixer.add("bass", Strip([limiter]))
    assert mixer.names == ["a", "b"]


def test_soft_clip_follows_its_twin(rng):
    x = rng.uniform(-3, 3, (2, 1_000)).astype(np.float32)
    knee = 0.8
    size = np.abs(x.astype(np.float64))
    want = np.where(size > knee, np.sign(x) * (knee + (1 - knee) * np.tanh((size - knee) / (1 - knee))), x)
    assert soft_clip(x, knee) == (size > knee).sum()
    np.testing.assert_allclose(x, want, rtol=1e-6)
