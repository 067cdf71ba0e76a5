import numpy as np
import pyloudnorm
import pytest
from scipy.signal import lfilter

from alm_plugin.features import activity, levels
from alm_plugin.features.front_end import FrontEnd
from alm_plugin.features.loudness import IntegratedLoudness


def test_k_weighting_is_the_table_of_bs_1770_at_48_khz():
    shelf, high_pass = levels.k_weighting(48_000)
    np.testing.assert_allclose(
        shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285, -1.69065929318241, 0.73248077421585], atol=1e-8
    )
    np.testing.assert_allclose(high_pass, [1.0, -2.0, 1.0, -1.99004745483398, 0.99007225036621], atol=1e-8)


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 48_000, 96_000])
def test_measure_follows_scipy(rng, sample_rate):
    x = rng.standard_normal((3, 2, sample_rate)).astype(np.float32)
    widths = np.array([1, 2, 2])
    coefficients = levels.k_weighting(sample_rate)
    out = np.empty((3, 2))
    levels.measure(x, widths, sample_rate, coefficients, np.zeros((3, 2, 4)), out)
    y = x.astype(np.float64)
    for b0, b1, b2, a1, a2 in coefficients:
        y = lfilter([b0, b1, b2], [1.0, a1, a2], y, axis=-1)
    for channel, width in enumerate(widths):
        np.testing.assert_allclose(out[channel, 0], (x[channel, :width].astype(np.float64) ** 2).mean(), rtol=1e-9)
        np.testing.assert_allclose(out[channel, 1], (y[channel, :width] ** 2).mean(), rtol=1e-6)


def test_a_full_scale_sine_at_997_hz_is_minus_3_01_lufs():
    # BS.1770-5: "a 0 dB FS, 997 Hz sine wave applied to the left input: -3.01 LKFS".
    t = np.arange(48_000 * 4) / 48_000
    features = FrontEnd(48_000).process(np.sin(2 * np.pi * 997 * t).astype(np.float32)[None])
    assert features.levels[0, -1, 2] == pytest.approx(-3.01, abs=0.02)
    assert features.levels[0, -1, 0] == pytest.approx(np.sqrt(0.5), rel=1e-3)


def slow_loudness(powers):
    def lufs(p):
        return -0.691 + 10 * np.log10(p)

    passed = [p for p in powers if p > 0 and lufs(p) > -70.0]
    if not passed:
        return -70.0
    gate = lufs(np.mean(passed)) - 10.0
    return lufs(np.mean([p for p in passed if lufs(p) > gate]))


def test_running_loudness_follows_its_twin(rng):
    for loudest in (0.0, -6.0) * 25:  # the quieter ones around the absolute gate
        powers = 10.0 ** rng.uniform(-9.0, loudest, 60)
        out = np.empty(1)
        levels.running_loudness(powers[None], out)
        assert out[0] == pytest.approx(slow_loudness(powers), abs=1e-9)


def test_running_loudness_forgets_after_three_seconds():
    loud = np.full(48_000, 0.5, np.float32) * np.sin(np.arange(48_000) * 0.2).astype(np.float32)
    quiet = np.zeros(48_000 * 4, np.float32)
    features = FrontEnd(48_000).process(np.concatenate([loud, quiet])[None])
    loudness = features.levels[0, :, 2]
    # Frames 0 to 19 are loud, and the filter rings on a little in frame 20: 60 frames on, nothing of that is left.
    assert loudness[20:79].min() > -12.0
    assert loudness[79] < -12.0
    assert loudness[80] == -70.0


@pytest.mark.parametrize("sample_rate", [44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_integrated_loudness_follows_pyloudnorm(rng, sample_rate, channels):
    # What is below -70 LUFS counts for nothing, not even for the relative gate that leaves the first second out.
    x = rng.standard_normal((channels, sample_rate * 6)) * np.repeat([0.08, 0.5, 1e-5, 1e-5, 1e-5, 0.2], sample_rate)
    meter = IntegratedLoudness(sample_rate, channels)
    for start in range(0, x.shape[1], 7_777):
        meter.process_block(x[:, start : start + 7_777].astype(np.float32))
    want = pyloudnorm.Meter(sample_rate, filter_class="DeMan").integrated_loudness(x.T)
    assert meter.lufs == pytest.approx(want, abs=0.02)


def test_nothing_measures_as_minus_infinity():
    meter = IntegratedLoudness(48_000, 1)
    assert meter.lufs == -np.inf
    meter.process_block(np.zeros((1, 48_000), np.float32))
    assert meter.lufs == -np.inf


def tone(power: float, samples: int) -> np.ndarray:
    return np.full((1, samples), np.sqrt(power), np.float32)


def test_activity_opens_at_67_holds_at_70_and_fades_over_the_second_second():
    def masks(*dbfs_per_frame):
        front_end = FrontEnd(16_000)
        x = np.concatenate([tone(10 ** (db / 10), 800) for db in dbfs_per_frame], axis=1)
        return front_end.process(x).mask[0]

    assert not masks(*[-68.0] * 10).any()
    assert masks(-66.0)[0] == 1.0
    held = masks(-66.0, *[-69.0] * 60)
    assert (held == 1.0).all()
    fading = masks(-66.0, *[-71.0] * 45)
    assert (fading[:21] == 1.0).all()
    np.testing.assert_allclose(fading[21:41], np.arange(19, -1, -1) / 20.0, atol=1e-6)
    assert not fading[41:].any()
    assert not masks(-66.0, *[-71.0] * 45, -69.0)[-1]


def test_a_new_channel_is_closed():
    assert activity.hold_frames(50) == 40
    assert activity.hold_frames(975) == 2
    assert FrontEnd(48_000).process(np.zeros((2, 4_800), np.float32)).mask.max() == 0.0
