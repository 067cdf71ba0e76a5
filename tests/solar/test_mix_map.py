import json
import warnings
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from alm_plugin.errors import AlmError, AudioFileError, AudioTypeError, ParameterError
from alm_plugin.units import db_to_factor
from solar.bands import band_power, spectra
from solar.dominance import dominance
from solar.mix_map import FLOOR_POWER, Mapper, MixMap, Second, loudness_ratio_db, map_stems, power_ratio_db, to_mono
from solar.playing import loudest_rms
from solar.songs import compose

RATE = 32_000
NAMES = ("drums", "bass", "guitar", "vocals")


@pytest.fixture(scope="module")
def song():
    return compose("a", 5.5, sample_rate=RATE)


def same(a, b):
    """To the bit."""
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        for field in fields(Second):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_a_second_is_what_each_step_says_of_it(song):
    x = np.stack(list(song.values()))[:, 2 * RATE : 3 * RATE]
    (second,) = Mapper(NAMES, RATE).process(x)
    power = np.abs(spectra(x, RATE)) ** 2
    shares, valid = dominance(power)
    np.testing.assert_array_equal(second.dominance, shares)
    np.testing.assert_array_equal(second.valid, valid)
    np.testing.assert_allclose(second.band_power, band_power(power), rtol=1e-5)
    np.testing.assert_array_equal(second.loudest_rms, loudest_rms(x, RATE))


@given(st.lists(st.sampled_from([0, 1, 17, 441, 31_999, 32_000, 32_001, 70_000]), max_size=30))
@settings(max_examples=15, deadline=None)
def test_blocks_of_any_size_give_the_same_seconds(song, sizes):
    mapper = Mapper(NAMES, RATE)
    want = mapper.process(song)
    assert len(want) == 5
    mapper.reset()
    got, done, total = [], 0, len(song["bass"])
    for size in [*sizes, total]:
        got += mapper.process({name: stem[done : done + size] for name, stem in song.items()})
        done = min(done + size, total)
    same(got, want)


def test_a_reset_forgets_the_remainder_and_a_mapping_may_be_in_any_order(song):
    mapper = Mapper(NAMES, RATE)
    want = mapper.process(song)
    mapper.reset()
    same(mapper.process(dict(reversed(song.items()))), want)
    mapper.reset()
    same(mapper.process([stem.astype(np.float64) for stem in song.values()]), want)


def test_stereo_is_as_loud_however_it_is_panned_and_however_wide(rng, song):
    guitar, wide = song["guitar"], rng.standard_normal((2, 5 * RATE)).astype(np.float32)
    mono = map_stems({"a": wide[0], "b": wide[1]}, RATE)
    for left, right in ((1.0, 1.0), (np.sqrt(2.0), 0.0), (0.6, np.sqrt(2.0 - 0.36)), (1.0, -1.0), (0.0, -np.sqrt(2.0))):
        panned = np.stack([left * guitar, right * guitar]).astype(np.float32)
        a, b = (map_stems({"a": one, "b": guitar}, RATE) for one in (panned, guitar))
        np.testing.assert_allclose(a.band_power, b.band_power, rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(a.loudest_rms, b.loudest_rms, rtol=1e-4)
    both = map_stems({"a": wide, "b": wide[1]}, RATE)
    # Within what two noises differ.
    np.testing.assert_allclose(both.band_power[:, 0].sum(axis=1), mono.band_power[:, 0].sum(axis=1), rtol=0.03)
    assert to_mono(np.zeros((2, 5))).tolist() == [0.0] * 5


def test_the_side_that_stands_for_a_stem_does_not_depend_on_the_blocks(rng):
    x = rng.standard_normal((2, 2, 3 * RATE)).astype(np.float32)
    x[0, 1, : RATE // 2] = -x[0, 0, : RATE // 2]  # half a second of it cancels
    want = Mapper(["a", "b"], RATE).process([x[0], x[1, :1]])
    mapper = Mapper(["a", "b"], RATE)
    got = [s for part in np.split(x, 96, axis=2) for s in mapper.process([part[0], part[1, :1]])]
    same(got, want)


def test_bad_samples_are_counted_and_taken_for_silence(song):
    mapper = Mapper(NAMES, RATE)
    broken = {name: stem[:RATE].copy() for name, stem in song.items()}
    broken["guitar"][100:105] = [np.nan, np.inf, -np.inf, 1e30, 0.0]
    (got,) = mapper.process(broken)
    assert mapper.bad_samples == 4
    broken["guitar"][100:105] = 0.0
    (want,) = Mapper(NAMES, RATE).process(broken)
    same([got], [want])
    mapper.reset()
    assert mapper.bad_samples == 0


def test_silence_is_a_second_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = map_stems(np.zeros((2, RATE)), RATE)
        assert found.names == ("1", "2")
        assert len(found) == 1
        assert not found.valid.any()
        for ratio in (power_ratio_db, loudness_ratio_db):
            assert ratio(found.band_power, 1).tolist() == [0.0]


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        (np.zeros((3, 10)), "stems must be 4 .*, got 3"),
        ({"drums": np.zeros(9)}, "stems must be drums, bass, guitar, vocals, got drums"),
        ([np.zeros(9)] * 3 + [np.zeros(10)], r"one length, got 9 and 10 samples \(vocals\)"),
        (np.zeros((4, 3, 10)), r"drums must have shape .*, got \(3, 10\)"),
        ([np.zeros((2, 9))] * 4, r"keep their channels, \[1, 1, 1, 1\] since the reset, got \[2, 2, 2, 2\]"),
        (np.zeros((4, 10), np.int16), "drums must be an array of 32-bit or 64-bit floating point audio, got int16"),
    ],
)
def test_stems_that_do_not_fit_are_refused_in_one_line(stems, message):
    mapper = Mapper(NAMES, RATE)
    mapper.process(np.zeros((4, 7)))
    with pytest.raises((ParameterError, AudioTypeError), match=message) as error:
        mapper.process(stems)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "rate"), [(["a"], RATE), (["a"] * 2, RATE), ([str(i) for i in range(17)], RATE), (["a", "b"], 16_000)]
)
def test_mappers_that_cannot_be_are_refused(names, rate):
    with pytest.raises(ParameterError, match=r"^(names|stems|sample_rate) must "):
        Mapper(names, rate)


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_a_map_is_a_sequence_of_seconds(song):
    found = map_stems(song, RATE)
    assert found.names == NAMES
    seconds = Mapper(NAMES, RATE).process(song)
    same(list(found), seconds)
    same([found[3]], [seconds[3]])
    same(list(found[1:4]), seconds[1:4])
    assert found[1:4].names == NAMES
    same(list(MixMap.of(NAMES, seconds)), seconds)
    empty = MixMap.of(NAMES, [])
    assert (len(empty), empty.band_power.shape) == (0, (0, 4, 24))


def test_a_map_comes_back_from_its_file(song, tmp_path):
    found = map_stems(song, RATE)
    found.save(tmp_path / "a.map")
    again = MixMap.load(tmp_path / "a.map")
    assert again.names == NAMES
    same(list(again), list(found))
    assert [path.name for path in tmp_path.iterdir()] == ["a.map"]
    MixMap.of(NAMES, []).save(tmp_path / "a.map")
    assert len(MixMap.load(tmp_path / "a.map")) == 0


def test_files_that_are_no_map_are_refused_in_one_line(song, tmp_path):
    path = tmp_path / "a.map"

    def refused():
        with pytest.raises(AudioFileError, match=r"a\.map: expected a map of a mix, got ") as error:
            MixMap.load(path)
        assert "\n" not in str(error.value)

    refused()
    for content in (b"", b"RIFF" * 100, b"\x80" * 1000):
        path.write_bytes(content)
        refused()
    found = map_stems(song, RATE)
    tensors = {field.name: np.ascontiguousarray(getattr(found, field.name)) for field in fields(Second)}
    for change, names in (({"valid": tensors["valid"][1:]}, NAMES), ({}, NAMES[1:]), ({"more": np.zeros(1)}, NAMES)):
        save_file(tensors | change, path, {"names": json.dumps(names)})
        refused()
    for metadata in ({"names": "7"}, {"names": "[[]]"}, {"names": "{"}, None):
        save_file(tensors, path, metadata)
        refused()
    with pytest.raises(AlmError, match="nowhere"):
        found.save(tmp_path / "nowhere" / "a.map")


# ---- ratios ----------------------------------------------------------------------------------------------------------


def test_ratios_rise_by_a_db_per_db_and_know_no_scale(song):
    power = map_stems(song, RATE).band_power + 1e-6
    for ratio in (power_ratio_db, loudness_ratio_db):
        want = ratio(power, 2)
        assert want.shape == (5,)
        louder = power.copy()
        louder[:, 2] *= db_to_factor(7.0) ** 2
        np.testing.assert_allclose(ratio(louder, 2) - want, 7.0, atol=1e-3)
        np.testing.assert_allclose(ratio(100.0 * power, 2), want, atol=1e-3)
        assert ratio(power[0], 2) == pytest.approx(want[0])


def test_power_ratio_is_what_it_says():
    power = np.zeros((3, 24))
    power[0, 3], power[1, 3], power[2, 20] = 0.1, 0.02, 0.08
    assert power_ratio_db(power, 0) == pytest.approx(0.0, abs=1e-6)
    assert power_ratio_db(power, 1) == pytest.approx(10 * np.log10(0.02 / 0.18), abs=1e-6)


def test_loudness_counts_many_bands_for_more_than_one_strong_one_and_hears_as_the_ear_does():
    narrow, wide = np.zeros((2, 24)), np.zeros((2, 24))
    narrow[0, 8] = narrow[1, 8] = wide[1, 8] = 1e-2
    wide[0, 6:11] = 1e-2 / 5
    assert loudness_ratio_db(narrow, 0) == pytest.approx(0.0, abs=1e-6)
    assert power_ratio_db(wide, 0) == pytest.approx(0.0, abs=1e-6)
    # Five bands, each 0.2 ** 0.3 as loud.
    assert 10 ** (0.03 * loudness_ratio_db(wide, 0)) == pytest.approx(5 * 0.2**0.3, rel=0.02)
    low = np.zeros((2, 24))
    low[0, 0] = low[1, 15] = 1e-2
    assert loudness_ratio_db(low, 0) < -5.0


def test_ratios_are_finite_where_one_side_is_silent():
    power = np.zeros((2, 24))
    power[0, 3] = 1.0
    assert power_ratio_db(power, 0) == pytest.approx(-10 * np.log10(24 * FLOOR_POWER), abs=0.01)
    assert loudness_ratio_db(power, 1) < -60.0
