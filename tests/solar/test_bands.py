import numpy as np
import pytest

from alm_plugin.errors import ParameterError
from solar.bands import BARK_HZ, N_BINS, band_power, spectra


def test_the_bands_are_zwickers():
    assert BARK_HZ[:2] == (20, 100)
    assert len(BARK_HZ) == 25
    # One Bark is 100 Hz wide below 500 Hz and about a fifth of its frequency above (Zwicker 1961).
    widths = np.diff(BARK_HZ)
    assert (widths[1:4] == 100).all()
    middles = np.sqrt(np.array(BARK_HZ[5:-1]) * np.array(BARK_HZ[6:]))
    assert np.all((widths[5:] / middles > 0.14) & (widths[5:] / middles < 0.27))


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
def test_spectra_follow_the_definition(rng, rate):
    x = rng.standard_normal((2, 3, rate))
    hann = np.sin(np.pi * np.arange(rate) / rate) ** 2
    want = np.fft.rfft(x * hann)[..., :N_BINS] * np.sqrt(32 / 3) / rate
    got = spectra(x, rate)
    assert got.shape == (2, 3, N_BINS)
    assert got.dtype == np.complex64
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("hz", [1_000.0, 1_000.5, 12_345.67])
def test_a_sine_has_power_1_and_any_sound_twice_its_mean_square(rng, hz):
    t = np.arange(44_100) / 44_100
    sine = band_power(np.abs(spectra(np.sin(2 * np.pi * hz * t)[None], 44_100)) ** 2)
    assert sine.sum() == pytest.approx(1.0, rel=1e-4)
    # White noise up to 22050 Hz: the bands hold 15480 Hz of it.
    noise = rng.standard_normal((8, 44_100))
    power = band_power(np.abs(spectra(noise, 44_100)) ** 2)
    assert power.sum(axis=1).mean() == pytest.approx(2 * 15_480 / 22_050, rel=0.02)


def test_each_bin_is_in_one_band():
    power = np.zeros((1, N_BINS), np.float32)
    for k, band in ((19, None), (20, 0), (99, 0), (100, 1), (11_999, 22), (12_000, 23), (15_499, 23)):
        power[:] = 0.0
        power[0, k] = 1.0
        got = band_power(power)[0]
        assert got.sum() == (band is not None)
        if band is not None:
            assert got[band] == 1.0


@pytest.mark.parametrize("rate", [31_999, 22_050, 16_000, 44_100.5, 192_001, "44100"])
def test_rates_that_do_not_do_are_refused_by_name(rate):
    with pytest.raises(ParameterError, match=r"^sample_rate must be .*, got "):
        spectra(np.zeros((1, 44_100)), rate)


def test_a_second_has_to_last_a_second():
    with pytest.raises(ParameterError, match="48000 samples each, got 44100"):
        spectra(np.zeros((1, 44_100)), 48_000)
