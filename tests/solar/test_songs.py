import numpy as np
import pytest

from alm_plugin.errors import ParameterError
from alm_plugin.features.loudness import IntegratedLoudness
from solar.mix_map import map_stems
from solar.playing import is_playing
from solar.songs import LOUDNESS_LUFS, compose

RATE = 32_000
NAMES = ("drums", "bass", "guitar", "vocals")


@pytest.fixture(scope="module")
def songs():
    return {which: compose(which, 200.0, sample_rate=RATE) for which in "abc"}


@pytest.fixture(scope="module")
def maps(songs):
    return {which: map_stems(stems, RATE) for which, stems in songs.items()}


def lufs(stem):
    meter = IntegratedLoudness(RATE, 1)
    meter.process_block(stem[None])
    return meter.lufs


@pytest.mark.parametrize("which", "abc")
def test_all_songs_have_the_same_balance(songs, which):
    assert tuple(songs[which]) == NAMES == tuple(LOUDNESS_LUFS)
    for name, stem in songs[which].items():
        assert stem.dtype == np.float32
        assert stem.shape == (200 * RATE,)
        assert lufs(stem) == pytest.approx(LOUDNESS_LUFS[name], abs=0.05)
        assert np.abs(stem).max() < 1.0
        assert abs(stem.mean()) < 1e-3


@pytest.mark.parametrize("which", "abc")
def test_there_is_much_to_learn_from_each(maps, which):
    playing = is_playing(maps[which].loudest_rms)
    combinations = {tuple(second) for second in playing.tolist()}
    assert len(combinations) >= 8
    assert (False, False, True, False) in combinations
    assert (True, True, True, True) in combinations
    assert playing.mean(axis=0).min() > 0.2
    assert playing.mean(axis=0).max() < 0.97
    # Softer and louder sections.
    heard = 20 * np.log10(maps[which].loudest_rms[:, 2][playing[:, 2]])
    assert heard.std() > 1.5


def test_who_dominates_where_is_what_the_paper_says_of_bands(maps):
    # Section 4.1: the bass in the low frequencies, the guitar in the middle; the cymbals are alone above.
    found = maps["a"]
    all_play = is_playing(found.loudest_rms).all(axis=1)
    shares = found.dominance[all_play].mean(axis=0)
    assert shares[0, :2].sum() > 0.9
    assert shares[7:16, 2].mean() > 0.3
    assert shares[20:, 0].min() > 0.8
    assert shares[4:11, 3].mean() > 0.15


def test_the_other_band_sounds_otherwise(songs, maps):
    def bright_db(which, stem):
        power = maps[which].band_power[:, stem].sum(axis=0)
        return 10 * np.log10(power[12:].sum() / power[:12].sum())

    def crest_db(which):  # of the guitar; an amplifier that is driven leaves little
        guitar = songs[which]["guitar"]
        return 20 * np.log10(np.abs(guitar).max() / np.sqrt(np.square(guitar).mean()))

    assert abs(bright_db("a", 1) - bright_db("b", 1)) < 3.0
    assert bright_db("a", 1) - bright_db("c", 1) > 4.0
    assert abs(crest_db("a") - crest_db("b")) < 2.0
    assert crest_db("c") - crest_db("a") > 3.0


def test_a_song_is_always_the_same_and_a_seed_makes_another(songs):
    again = compose("b", 200.0, sample_rate=RATE)
    for name in NAMES:
        np.testing.assert_array_equal(again[name], songs["b"][name])
    other = compose("b", 20.0, seed=1, sample_rate=RATE)
    assert all((other[name] != songs["b"][name][: 20 * RATE]).any() for name in NAMES)


def test_another_rate_is_the_same_length():
    assert {len(stem) for stem in compose("a", 2.5, sample_rate=48_000).values()} == {120_000}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("d",), "which must be one of a, b, c, got 'd'"),
        (("a", 0.5), r"seconds must be in \[1, 3600\], got 0.5"),
        (("a", float("nan")), r"seconds must be in \[1, 3600\], got nan"),
        (("a", 2.0, 0, 16_000), "sample_rate must be at least 32000"),
    ],
)
def test_songs_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        compose(*arguments)
