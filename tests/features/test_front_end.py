import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin.errors import AudioTypeError, ParameterError
from alm_plugin.features import log_mel
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE
from alm_plugin.features.front_end import FrontEnd


def vggish_log_mel(x: np.ndarray) -> np.ndarray:
    """VGGish's definition, written out: columns that end at 160, 320, ... with zeros before the start."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    x = np.concatenate([np.zeros(240), x])
    columns = [x[160 * j : 160 * j + 400] * window for j in range((len(x) - 240) // 160)]
    magnitude = np.abs(np.fft.rfft(columns, 512))
    mel = lambda f: 1127.0 * np.log(1.0 + f / 700.0)  # noqa: E731
    edges = np.linspace(mel(125.0), mel(7_500.0), 66)
    weights = np.zeros((257, 64))
    for k in range(1, 257):
        m = mel(k * 8_000.0 / 256)
        for b in range(64):
            low, centre, high = edges[b : b + 3]
            weights[k, b] = max(0.0, min((m - low) / (centre - low), (high - m) / (high - centre)))
    return np.log(magnitude @ weights + 0.01)


def blocks_of(x, sizes):
    start = 0
    for size in sizes:
        yield x[:, start : start + size]
        start += size


def joined(front_end, x, sizes):
    heard = [front_end.process(block) for block in blocks_of(x, sizes)]
    return tuple(np.concatenate([getattr(f, name) for f in heard], axis=1) for name in ("log_mel", "levels", "mask"))


def test_log_mel_is_vggishs(rng):
    x = rng.standard_normal(16_000) * np.linspace(0.0, 0.5, 16_000)
    got = FrontEnd(16_000).process(x[None]).log_mel[0]
    np.testing.assert_allclose(got, vggish_log_mel(x.astype(np.float32)), atol=2e-5)


def test_single_rate_columns_cover_exactly_their_frame(rng):
    x = rng.standard_normal(15_600 * 3).astype(np.float32) * 0.1
    got = FrontEnd(16_000, SINGLE_RATE).process(x[None]).log_mel[0]
    assert got.shape == (3 * 96, 64)
    for frame in range(3):
        # Windows start on the frame's first sample: with 80 zeros before, those are columns 2 to 97 of the 10 ms grid.
        own = vggish_log_mel(np.concatenate([np.zeros(80), x[15_600 * frame : 15_600 * (frame + 1)]]))
        np.testing.assert_allclose(got[96 * frame : 96 * (frame + 1)], own[2:98], atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000]),
    st.integers(1, 4),
    st.sampled_from([MULTI_RATE, SINGLE_RATE]),
    st.lists(st.integers(0, 5_000), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_blocks_of_any_size_give_the_same_values(sample_rate, channels, clock, sizes, random):
    x = np.random.default_rng(random.getrandbits(32)).standard_normal((channels, sum(sizes))).astype(np.float32)
    whole = joined(FrontEnd(sample_rate, clock, channels), x, [x.shape[1]])
    for got, want in zip(joined(FrontEnd(sample_rate, clock, channels), x, sizes), whole, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", [1, 17, 64, 441])
def test_small_blocks_give_the_same_values(rng, size):
    x = rng.standard_normal((2, 11_025)).astype(np.float32)
    whole = joined(FrontEnd(11_025), x, [x.shape[1]])
    for got, want in zip(joined(FrontEnd(11_025), x, [size] * (x.shape[1] // size + 1)), whole, strict=True):
        np.testing.assert_array_equal(got, want)


def test_channels_do_not_touch_each_other(rng):
    x = rng.standard_normal((3, 24_000)).astype(np.float32)
    together = FrontEnd(48_000).process(x)
    alone = FrontEnd(48_000).process(x[1:2])
    np.testing.assert_array_equal(together.levels[1], alone.levels[0])
    np.testing.assert_array_equal(together.mask[1], alone.mask[0])
    np.testing.assert_allclose(together.log_mel[1], alone.log_mel[0], atol=1e-6)


def test_stereo_of_one_signal_is_heard_as_mono(rng):
    x = rng.standard_normal(24_000).astype(np.float32)
    mono, stereo = FrontEnd(48_000).process([x]), FrontEnd(48_000).process([np.stack([x, x])])
    np.testing.assert_allclose(stereo.levels, mono.levels, rtol=1e-6)
    np.testing.assert_allclose(stereo.log_mel, mono.log_mel, atol=1e-6)


def test_anti_phase_is_not_silence(rng):
    x = rng.standard_normal(24_000).astype(np.float32) * 0.1
    mono, opposed = FrontEnd(48_000).process([x]), FrontEnd(48_000).process([np.stack([x, -x])])
    np.testing.assert_allclose(opposed.levels, mono.levels, rtol=1e-6)
    np.testing.assert_allclose(opposed.log_mel, mono.log_mel, atol=1e-6)


def test_sides_that_nearly_cancel_are_heard_as_the_louder(rng):
    x = rng.standard_normal(24_000).astype(np.float32) * 0.1
    left, both = FrontEnd(48_000).process([x]), FrontEnd(48_000).process([np.stack([x, -0.95 * x])])
    np.testing.assert_allclose(both.log_mel, left.log_mel, atol=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("left", "right", "heard"), [(1.0, 0.3, 0.65), (1.0, -0.6, 0.2), (1.0, -0.85, 1.0)])
def test_sides_are_heard_as_their_mean_or_the_louder_and_measured_by_the_mean_of_their_powers(
    rng, left, right, heard, swapped
):
    # Of (L + R) / 2 there is 20 dB less than of L and R where R is about -0.82 L.
    x = rng.standard_normal(24_000).astype(np.float32) * 0.1
    sides = np.stack([left * x, right * x]).astype(np.float32)
    both, mono = FrontEnd(48_000).process([sides[::-1] if swapped else sides]), FrontEnd(48_000).process([x])
    np.testing.assert_allclose(both.log_mel, FrontEnd(48_000).process([heard * x]).log_mel, atol=1e-5)
    power = (left**2 + right**2) / 2
    np.testing.assert_allclose(both.levels[:, :, 0], mono.levels[:, :, 0] * power**0.5, rtol=1e-5)
    np.testing.assert_allclose(both.levels[:, :, 1], mono.levels[:, :, 1] * power, rtol=1e-5)


def test_a_mono_channel_that_becomes_stereo_has_been_so_before(rng):
    x = rng.standard_normal(24_000).astype(np.float32)
    other = rng.standard_normal(24_000).astype(np.float32)
    sides = np.stack([x, np.where(np.arange(24_000) // 7_000 == 1, other, x)])
    want = FrontEnd(48_000).process([sides])
    front_end = FrontEnd(48_000)
    parts = [front_end.process([x[:7_000]]), front_end.process([sides[:, 7_000:14_000]])]
    parts.append(front_end.process([x[14_000:]]))
    np.testing.assert_array_equal(np.concatenate([p.levels for p in parts], axis=1)[:, 2:], want.levels[:, 2:])
    np.testing.assert_array_equal(np.concatenate([p.log_mel for p in parts], axis=1)[:, 10:], want.log_mel[:, 10:])


@pytest.mark.parametrize("cut", [7_000, 7_200])
def test_channels_that_stay_do_not_notice_others_come_and_go(rng, cut):
    x = [rng.standard_normal((1 + (c == 3), 36_000)).astype(np.float32) for c in range(4)]
    x[2][:, 20_000:] = 0.0  # within its two seconds of grace
    apart = [FrontEnd(48_000).process([track]) for track in x]
    front_end = FrontEnd(48_000)
    heard = [front_end.process([x[c][:, :cut] for c in (0, 1, 3)])]
    front_end.add_channel()
    heard.append(front_end.process([x[c][:, cut : 2 * cut] for c in (0, 1, 3, 2)]))
    front_end.remove_channel(1)
    heard.append(front_end.process([x[c][:, 2 * cut :] for c in (0, 3, 2)]))
    for name in ("log_mel", "levels", "mask"):
        for channel, rows in ((0, (0, 0, 0)), (3, (2, 2, 1))):
            got = np.concatenate([getattr(f, name)[row] for f, row in zip(heard, rows, strict=True)])
            np.testing.assert_allclose(got, getattr(apart[channel], name)[0], atol=1e-6)
        # The newcomer, once what it played before it came has been forgotten.
        late = FrontEnd(48_000).process([np.where(np.arange(36_000) < cut, 0.0, x[2]).astype(np.float32)])
        got = np.concatenate([getattr(f, name)[row] for f, row in zip(heard[1:], (3, 2), strict=True)])
        np.testing.assert_allclose(got, getattr(late, name)[0][-len(got) :], atol=1e-6)


def test_an_added_channel_was_silent_before(rng):
    x = rng.standard_normal((2, 24_000)).astype(np.float32)
    late = x.copy()
    late[1, :7_000] = 0.0
    together = FrontEnd(48_000).process(late)
    front_end = FrontEnd(48_000)
    first = front_end.process(x[:1, :7_000])
    front_end.add_channel()
    second = front_end.process(x[:, 7_000:])
    np.testing.assert_allclose(second.log_mel[1], together.log_mel[1, first.log_mel.shape[1] :], atol=1e-6)
    np.testing.assert_array_equal(second.levels[1], together.levels[1, first.frames :])
    front_end.remove_channel(0)
    third = front_end.process(np.zeros((1, 4_800), np.float32))
    assert third.levels[0, 0, 2] == pytest.approx(second.levels[1, -1, 2], abs=1.0)


def test_nan_is_heard_as_silence_and_forgotten(rng):
    x = rng.standard_normal((1, 9_600)).astype(np.float32)
    hurt, silent = x.copy(), x.copy()
    hurt[0, 3_000:3_100], silent[0, 3_000:3_100] = np.nan, 0.0
    np.testing.assert_array_equal(FrontEnd(48_000).process(hurt).levels, FrontEnd(48_000).process(silent).levels)


def test_reset_starts_again(rng):
    x = rng.standard_normal((2, 10_000)).astype(np.float32)
    front_end = FrontEnd(44_100)
    first = front_end.process(x)
    front_end.reset()
    again = front_end.process(x)
    np.testing.assert_array_equal(again.log_mel, first.log_mel)
    np.testing.assert_array_equal(again.levels, first.levels)
    assert again.first_frame == 0


def test_golden_torchvggish(rng):
    vggish_input = pytest.importorskip("torchvggish.vggish_input", reason="torchvggish is only in the bench extra")
    x = rng.standard_normal(16_000 * 2) * 0.1
    want = vggish_input.mel_features.log_mel_spectrogram(
        x,
        audio_sample_rate=16_000,
        log_offset=0.01,
        window_length_secs=0.025,
        hop_length_secs=0.010,
        num_mel_bins=64,
        lower_edge_hertz=125,
        upper_edge_hertz=7_500,
    )
    # Its first column starts at sample 0; the grid here has columns that end on multiples of 160, half a hop away.
    got = FrontEnd(16_000).process(np.concatenate([np.zeros(80), x])[None].astype(np.float32)).log_mel[0]
    count = min(len(want), len(got) - 2)
    np.testing.assert_allclose(got[2 : 2 + count], want[:count], atol=2e-5)


def test_the_window_is_periodic():
    assert log_mel.WINDOW_SHAPE[0] == 0.0
    assert log_mel.WINDOW_SHAPE[200] == 1.0
    assert log_mel.WINDOW_SHAPE[399] == log_mel.WINDOW_SHAPE[1]


@pytest.mark.parametrize(
    ("tracks", "error", "says"),
    [
        (np.zeros((65, 10), np.float32), ParameterError, r"channels must be in \[1, 64\], got 65"),
        (np.zeros((0, 10), np.float32), ParameterError, r"channels must be in \[1, 64\], got 0"),
        (np.zeros((2, 10), np.int16), AudioTypeError, "track 0 must be an array of 32-bit or 64-bit"),
        ([np.zeros(10), np.zeros(11)], ParameterError, "track 1 must have 10 samples like track 0, got 11"),
        ([np.zeros((3, 10))], ParameterError, r"must have shape .* got \(3, 10\)"),
        ([[0.0, 1.0]], AudioTypeError, "got list"),
    ],
)
def test_what_does_not_fit_is_refused(tracks, error, says):
    with pytest.raises(error, match=says):
        FrontEnd(48_000).process(tracks)
