"""The recording chain: on level, bounded, of many colours."""

from itertools import pairwise

import numpy as np
import pytest

from alm_plugin.models.roles import ROLES
from training.colour import LIMIT, REFERENCE_DBFS, active_rms, colour, to_reference

RATE = 24_000


def beats(sample_rate=RATE, seconds=3):
    """Noise that decays, four times a second: a crest that compressors, gates and rooms change."""
    time = np.arange(seconds * sample_rate) / sample_rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.3 * noise * np.exp(-12 * (time % 0.25))).astype(np.float32)


def test_active_level_leaves_out_the_rests():
    x = np.concatenate([np.full(RATE, 0.1), np.full(RATE, 1e-4)])
    assert active_rms(x, RATE) == pytest.approx(0.1)
    assert active_rms(np.zeros(100), RATE) == 0
    assert active_rms(np.zeros(0), RATE) == 0


def test_reference_is_a_level_and_bends_the_peaks():
    x = beats()
    y = to_reference(37 * x, RATE)
    assert 20 * np.log10(active_rms(y, RATE)) == pytest.approx(REFERENCE_DBFS, abs=1e-3)
    click = np.zeros(RATE, np.float32)
    click[100] = 1
    click[5000:6000] = 0.01
    bent = to_reference(click, RATE)
    assert 1 < np.max(np.abs(bent)) <= LIMIT


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_on_level_finite_and_repeatable(role):
    for seed, rate in enumerate([16_000, 24_000, 48_000] * 4):
        x = beats(rate, 1)
        before = x.copy()
        y = colour(x, role, rate, np.random.default_rng(seed), amped=seed % 2 == 0)
        np.testing.assert_array_equal(x, before)
        assert y.dtype == np.float32
        assert y.shape == x.shape
        assert np.max(np.abs(y)) <= LIMIT
        assert 20 * np.log10(active_rms(y, rate)) == pytest.approx(REFERENCE_DBFS, abs=0.5)
        again = colour(x, role, rate, np.random.default_rng(seed), amped=seed % 2 == 0)
        np.testing.assert_array_equal(y, again)


@pytest.mark.parametrize("role", ROLES)
def test_seeds_have_different_colours(role):
    """Third-octave spectra of ten seeds lie several dB apart."""
    x = beats()
    edges = 100 * 2 ** (np.arange(20) / 3)
    frequency = np.fft.rfftfreq(len(x), 1 / RATE)
    bands = [(frequency >= low) & (frequency < high) for low, high in pairwise(edges)]
    spectra = []
    for seed in range(10):
        power = np.abs(np.fft.rfft(colour(x, role, RATE, np.random.default_rng(seed)))) ** 2
        spectra.append([10 * np.log10(np.mean(power[band])) for band in bands])
    assert np.mean(np.std(spectra, 0)) > 2


def test_an_amped_guitar_is_not_distorted_again():
    """A tone keeps its harmonics down: whatever the chain adds, it is not a pedal."""
    tone = np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE).astype(np.float32)

    def dirty(amped):
        share = []
        for seed in range(60):
            power = np.abs(np.fft.rfft(colour(tone, "guitar", RATE, np.random.default_rng(seed), amped=amped))) ** 2
            share.append(power[900] / power[300] > 1e-2)
        return np.mean(share)

    assert dirty(amped=False) > 0.4
    assert dirty(amped=True) < 0.2


def test_silence_stays_silence_and_an_unknown_role_is_refused():
    assert not colour(np.zeros(1000, np.float32), "vocals", RATE, np.random.default_rng(0)).any()
    with pytest.raises(ValueError, match="role must be one of vocals"):
        colour(np.zeros(10, np.float32), "kazoo", RATE, np.random.default_rng(0))
