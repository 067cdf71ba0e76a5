import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pedalboard import Gain

from alm_plugin.errors import ParameterError
from solar.mix_map import map_stems
from solar.performance import KINDS, MOST_GAIN_DB, Channel, Performance

RATE = 32_000


def band(seconds, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(seconds * RATE) / RATE
    stems = {
        "drums": 0.2 * rng.standard_normal(t.size) * (np.sin(2 * np.pi * 2 * t) > 0.5),
        "guitar": 0.1 * np.sign(np.sin(2 * np.pi * 220 * t)) * (t > 1.0),
        "vocals": 0.1 * np.sin(2 * np.pi * (440 + 5 * np.sin(t)) * t),
    }
    return {name: stem.astype(np.float32) for name, stem in stems.items()}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(list(KINDS)), st.integers(-MOST_GAIN_DB, MOST_GAIN_DB), st.integers(0, 99))
def test_it_is_what_a_map_of_the_sound_would_be(kind, gain_db, seed):
    take = Performance(band(2), RATE, "guitar", Channel.draw(kind, 3, np.random.default_rng(seed)), seed)
    sound = np.concatenate([a + Gain(gain_db).process(b, RATE) for a, b in map(take.heard, range(2))], axis=1)
    heard, expected = take.map(gain_db), map_stems(sound, RATE, take.names)
    # Sums of float32 in another order; where the player cancels a leak, little of much is left.
    scale = np.square(10 ** (max(gain_db, 0) / 20))
    np.testing.assert_allclose(heard.band_power, expected.band_power, rtol=1e-3, atol=1e-9 * scale)
    np.testing.assert_allclose(heard.loudest_rms, expected.loudest_rms, rtol=1e-3, atol=1e-6 * scale**0.5)
    assert np.abs(heard.dominance - expected.dominance).max() <= 0.1
    assert np.abs(heard.dominance - expected.dominance).mean() <= 1e-3


def test_the_player_alone_is_turned():
    take = Performance(band(2), RATE, "guitar")
    assert take.names[take.player] == "guitar"
    quiet, loud = take.map(-20.0), take.map(20.0)
    np.testing.assert_allclose(loud.band_power[1, 1], 1e4 * quiet.band_power[1, 1], rtol=1e-9)
    np.testing.assert_array_equal(np.delete(loud.band_power, 1, 1), np.delete(quiet.band_power, 1, 1))
    assert (loud.dominance[..., 1] >= quiet.dominance[..., 1]).all()


def test_filling_changes_nothing_and_forgets_the_spectra():
    channel = Channel.draw("mild", 3, np.random.default_rng(1))
    lazy, filled = (Performance(band(2), RATE, "guitar", channel, 1) for _ in range(2))
    filled.fill()
    assert "_spectra" not in vars(filled)
    for gain_db in (-MOST_GAIN_DB, -12, 0, 31, MOST_GAIN_DB):
        np.testing.assert_array_equal(lazy.dominance(1, gain_db)[0], filled.dominance(1, gain_db + 0.4)[0])


def test_the_player_knows_when_he_plays():
    take = Performance(band(2), RATE, "guitar", Channel.draw("bad", 3, np.random.default_rng(0)))
    assert [take.plays(second) for second in range(2)] == [False, True]


def test_channels_are_as_bad_as_they_are_called():
    rng = np.random.default_rng(0)
    clean, mild, bad = (Channel.draw(kind, 6, rng) for kind in KINDS)
    np.testing.assert_array_equal(clean.leak, np.eye(6))
    assert clean.noise == 0.0
    between = ~np.eye(6, dtype=bool)
    for channel, mean_db, noise_dbfs in ((mild, -20.0, -66.0), (bad, -13.0, -50.0)):
        levels = 20 * np.log10(np.abs(channel.leak[between]))
        assert np.all(np.abs(levels - mean_db) <= 4.0)
        assert levels.std() > 1.5
        assert (np.diag(channel.leak) == 1.0).all()
        assert 20 * np.log10(channel.noise) == pytest.approx(noise_dbfs)
    assert mild.eq is None
    assert bad.eq is not None
    assert 1.5 < (20 * np.log10(bad.eq)).std() < 3.5


def test_noise_is_as_loud_as_it_is_called():
    silence = {name: np.zeros(RATE, np.float32) for name in ("a", "b")}
    take = Performance(silence, RATE, "a", Channel(np.eye(2), noise=1e-3))
    assert np.sqrt(np.mean(np.square(take.heard(0)[0]))) == pytest.approx(1e-3, rel=0.02)
    assert not take.heard(0)[1].any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ParameterError, match="player must be one of drums, guitar, vocals, got 'bass'"):
        Performance(band(1), RATE, "bass")
    with pytest.raises(ParameterError, match="at least a second"):
        Performance({name: np.zeros(5, np.float32) for name in "ab"}, RATE, "a")
    with pytest.raises(ParameterError, match="condition must be one of clean, mild, bad, got 'worse'"):
        Channel.draw("worse", 3, np.random.default_rng(0))
