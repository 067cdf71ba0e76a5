import numpy as np
import pytest

from alm_plugin.features import resample
from alm_plugin.features.front_end import FrontEnd

RATES = [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000, 44_099]


def twin(x: np.ndarray, sample_rate: int, outputs: int) -> np.ndarray:
    """Slow and obvious: the windowed sinc evaluated anew at every output's own time."""
    table = resample.design(sample_rate)
    length = table.taps.shape[1]
    y = np.zeros(outputs)
    for m in range(outputs):
        at = m * sample_rate / 16_000
        for j in range(length):
            i = int(np.floor(at + 1e-9)) - j
            if 0 <= i < len(x):
                age = (at - i) / sample_rate
                u = min(1.0, abs(age - 0.001) / 0.001)
                cutoff = min(8_500.0, sample_rate / 2 + 500.0) - (50.0 - 7.95) / (14.36 * 0.002) / 2
                y[m] += x[i] * np.sinc(2 * cutoff * (age - 0.001)) * np.i0(0.1102 * 41.3 * np.sqrt(1 - u * u))
    return y


def run(x: np.ndarray, sample_rate: int, outputs: int) -> np.ndarray:
    table = resample.design(sample_rate)
    pad = table.taps.shape[1]
    out = np.empty((1, outputs), np.float32)
    line = np.concatenate([np.zeros(pad, np.float32), x.astype(np.float32)])[None]
    resample.resample(line, -pad, 0, table.up, table.down, table.taps, out)
    return out[0]


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 48_000, 44_099])
def test_kernel_follows_its_twin(rng, sample_rate):
    x = rng.standard_normal(sample_rate // 100)
    n = 16_000 // 120
    got, want = run(x, sample_rate, n), twin(x, sample_rate, n)
    # The twin does not normalise its taps; a constant input shows by how much.
    ones = twin(np.ones_like(x), sample_rate, n)
    np.testing.assert_allclose(got[40:], want[40:] / ones[40:], atol=2e-2)
    constant = run(np.ones_like(x), sample_rate, n)
    np.testing.assert_allclose(constant[40:], 1.0, atol=1e-6)


@pytest.mark.parametrize("sample_rate", RATES)
def test_tones_that_count_pass_one_millisecond_late(sample_rate):
    seconds = 0.2
    for frequency_hz in (125.0, 1_000.0, min(6_900.0, sample_rate / 2 - 1_300.0)):
        t = np.arange(int(seconds * sample_rate)) / sample_rate
        y = run(np.sin(2 * np.pi * frequency_hz * t), sample_rate, int(16_000 * seconds) - 1)
        want = np.sin(2 * np.pi * frequency_hz * (np.arange(len(y)) / 16_000 - resample.DELAY_S))
        assert np.abs(y[100:] - want[100:]).max() < 0.012  # 0.1 dB


@pytest.mark.parametrize("sample_rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("frequency_hz", [8_600.0, 9_500.0, 12_000.0, 15_900.0, 20_000.0])
def test_what_would_fold_into_the_mel_bands_is_gone(sample_rate, frequency_hz):
    t = np.arange(sample_rate // 5) / sample_rate
    y = run(np.sin(2 * np.pi * frequency_hz * t), sample_rate, 3_000)
    assert 20 * np.log10(np.abs(y[100:]).max()) < -47.0


def test_16_khz_is_left_alone(rng):
    x = rng.standard_normal(800).astype(np.float32)
    np.testing.assert_array_equal(run(x, 16_000, 800), x)


@pytest.mark.parametrize("sample_rate", RATES)
def test_a_sample_changes_nothing_before_itself(rng, sample_rate):
    x = rng.standard_normal(sample_rate // 10).astype(np.float32)
    late = x.copy()
    at = sample_rate // 20 + 3
    late[at] += 1.0
    n = 16_000 // 11
    changed = np.flatnonzero(run(x, sample_rate, n) != run(late, sample_rate, n))
    assert changed[0] >= at * 16_000 / sample_rate
    assert changed[-1] <= (at / sample_rate + 2 * resample.DELAY_S) * 16_000 + 1


def test_every_frame_gives_800_samples_at_any_rate():
    for sample_rate in RATES:
        front_end = FrontEnd(sample_rate)
        features = front_end.process(np.zeros((1, sample_rate), np.float32))
        assert features.log_mel.shape == (1, 100, 64)
        assert features.frames == 20
