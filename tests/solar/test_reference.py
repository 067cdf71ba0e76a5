import json
import re
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import solar.reference
from alm_plugin.errors import AlmError, AudioFileError, ModelError, ParameterError
from alm_plugin.units import db_to_factor
from solar.mix_map import map_stems, power_ratio_db, to_mono
from solar.reference import Demucs, DirectAndRoom, Ear, Multitrack, Reference, find_player
from solar.songs import compose

RATE = 32_000
TINY = {
    "sources": ["drums", "bass", "other", "vocals"], "channels": 4, "growth": 2, "nfft": 512, "depth": 3, "t_layers": 1,
    "t_heads": 2, "bottom_channels": 0, "dconv_depth": 1, "dconv_comp": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def song():
    return compose("a", 40.0, sample_rate=RATE)


@pytest.fixture(scope="module")
def demucs():
    """Demucs's modules; it is an extra."""
    pytest.importorskip("demucs.htdemucs", reason="demucs is not installed")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "solar"


def write_model(path, klass="demucs.htdemucs.HTDemucs", seed=0, **changes):
    import torch
    from demucs.htdemucs import HTDemucs
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = HTDemucs(**TINY, segment=Fraction(2))
    about = {
        "klass": klass,
        "args": "[]",
        # As Demucs's own tool writes a fraction, and an argument of older versions.
        "kwargs": json.dumps(TINY | {"segment": {"_type": "fraction", "numerator": 2, "denominator": 1}, "mask": 1}),
    }
    save_file(model.state_dict(), path, about | changes)
    return model


# ---- Demucs ----------------------------------------------------------------------------------------------------------


def test_a_model_in_a_folder_separates_as_demucs_itself_does(demucs, tmp_path, rng):
    import torch
    from demucs.api import Separator
    from demucs.apply import BagOfModels

    model = write_model(tmp_path / "955717e8.safetensors")
    ours = Demucs(tmp_path)
    assert ours.names == ("drums", "bass", "other", "vocals")
    assert ours.window_s == 2.0
    theirs = Separator.__new__(Separator)
    theirs._model, theirs._samplerate, theirs._audio_channels = BagOfModels([model]), 44_100, 2
    theirs.update_parameter(shifts=0, split=False, device="cpu", overlap=0.25, segment=None, jobs=0, progress=False,
                            callback=None, callback_arg=None)  # fmt: skip
    wav = 0.1 * rng.standard_normal((2, 88_200)).astype(np.float32)
    expected = theirs.separate_tensor(torch.from_numpy(wav))[1]
    stems = ours.separate(wav, 44_100)
    assert list(stems) == list(expected)
    for name, stem in stems.items():
        np.testing.assert_allclose(stem, expected[name].numpy(), rtol=0, atol=1e-6)
    # The same again for the same sound, mono as two equal sides, another rate in the same time.
    np.testing.assert_array_equal(ours.separate(wav, 44_100)["bass"], stems["bass"])
    assert ours.separate(wav[:1], 44_100)["bass"].shape == (2, 88_200)
    assert ours.separate(wav[:, :60_001], 48_000)["bass"].shape == (2, 60_001)
    assert np.isfinite(ours.separate(np.zeros((1, 44_100), np.float32), 44_100)["drums"]).all()


def test_a_bag_of_models_counts_as_its_yaml_says(demucs, tmp_path, rng):
    wav = 0.1 * rng.standard_normal((1, 44_100)).astype(np.float32)
    alone = []
    for seed, name in enumerate(("f7e0c4bc", "d12395a8")):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name / f"{name}.safetensors", seed=seed)
        alone.append(Demucs(tmp_path / name).separate(wav, 44_100))
        (tmp_path / name / f"{name}.safetensors").rename(tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"expected one \.safetensors file, or the \.yaml"):
        Demucs(tmp_path)
    (tmp_path / "bag.yaml").write_text("models: [f7e0c4bc, d12395a8]\nweights: [[1, 0, 1, 3], [0, 1, 1, 1]]\n")
    stems = Demucs(tmp_path).separate(wav, 44_100)
    for name, share in zip(stems, (1.0, 0.0, 0.5, 0.75), strict=True):
        expected = share * alone[0][name] + (1 - share) * alone[1][name]
        np.testing.assert_allclose(stems[name], expected, rtol=0, atol=1e-6)
    for text in (
        "models: [../f7e0c4bc, d12395a8]",
        "models: 3",
        "weights: [[1]]",
        "models: [f7e0c4bc]\nweights: [[0]]",
        "a: [",
    ):
        (tmp_path / "bag.yaml").write_text(text)
        with pytest.raises(ModelError, match=r"bag\.yaml: expected the names"):
            Demucs(tmp_path)


def test_without_weights_it_says_what_to_put_where(tmp_path):
    with pytest.raises(ModelError) as caught:
        Demucs(tmp_path)
    said = str(caught.value)
    assert said.startswith(
        f"{tmp_path}: expected a folder with Demucs's weights, got none: download a .safetensors file"
    )
    assert "huggingface.co/adefossez/HTDemucs" in said
    assert "955717e8" in said
    assert "--input multitrack" in said
    assert "\n" not in said
    (tmp_path / "955717e8.th").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=r"only pickled ones \(.th\), which are code"):
        Demucs(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"klass": "os.system"}, "klass must be one of demucs.htdemucs.HTDemucs, demucs.hdemucs.HDemucs, got 'os.s"),
        ({"klass": "demucs.demucs.Demucs"}, "klass must be one of"),
        ({"structure": '{"_class": "os.system"}'}, "expected plain weights, got quantised ones"),
        ({"kwargs": "{"}, "expected the arguments and weights of HTDemucs, got"),
        ({"kwargs": json.dumps(TINY | {"depth": 2})}, "expected the arguments and weights of HTDemucs, got"),
        ({"args": "[3]"}, "expected the arguments and weights of HTDemucs, got"),
    ],
)  # fmt: skip
def test_a_file_with_anything_else_is_refused(demucs, tmp_path, changes, said):
    write_model(tmp_path / "x.safetensors", **changes)
    with pytest.raises(ModelError, match=re.escape(said)) as caught:
        Demucs(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


def test_no_safetensors_are_refused_and_nothing_is_unpickled(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="expected safetensors"):
        Demucs(tmp_path)


def test_without_the_extra_it_says_what_to_install(demucs, tmp_path, monkeypatch):
    write_model(tmp_path / "x.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "demucs.htdemucs", None)
    with pytest.raises(AlmError, match=re.escape("pip install 'alm-plugin[demucs]'")):
        Demucs(tmp_path)


def test_a_song_through_demucs_is_calibrated_through_demucs_and_kept(demucs, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(solar.reference, "MIN_REFERENCE_S", 6)
    monkeypatch.setattr(solar.reference, "MIN_PLAYING_S", 3)
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    write_model(model_dir / "x.safetensors")
    song = sum(compose("a", 7.0).values())
    soundfile.write(tmp_path / "song.wav", song, 44_100, "FLOAT")
    heard = []
    separator = Demucs(model_dir)
    separate = separator.separate
    separator.separate = lambda wav, rate: heard.append(wav.shape) or separate(wav, rate)
    told = []
    reference = Reference(tmp_path / "song.wav", "guitar", separator, progress=lambda *done: told.append(done))
    assert reference.players == {"guitar": "other"}
    assert reference.names == ("drums", "bass", "other", "vocals")
    assert set(heard) == {(1, 88_200)}  # windows of the model, mono as a microphone
    assert told[-1] == (7, 7)
    maps = {gain_db: reference.regained(gain_db) for gain_db in (0.0, 40.0)}
    assert len(maps[0.0]) == len(maps[40.0]) == 6
    # At 0 dB it is the song itself; at 40 dB almost only what this random model takes for the player.
    np.testing.assert_allclose(maps[0.0].band_power, reference.mix_map.band_power, rtol=1e-3, atol=1e-9)
    own = separate(song[None, :88_200].astype(np.float32), 44_100)["other"]
    mixed = song[:88_200] + (db_to_factor(40.0) - 1.0) * to_mono(own)
    again = separate(mixed[None].astype(np.float32), 44_100)
    expected = map_stems({name: stem[:, 22_050:66_150] for name, stem in again.items()}, 44_100)
    np.testing.assert_allclose(maps[40.0].band_power[0], expected.band_power[0], rtol=1e-2)
    # Another day nothing is separated again; with other weights everything.
    heard.clear()
    assert len(list(cache.iterdir())) == 3
    again = Reference(tmp_path / "song.wav", "guitar", separator)
    np.testing.assert_array_equal(again.regained(40.0).band_power, maps[40.0].band_power)
    assert heard == []
    next(cache.iterdir()).write_bytes(b"broken")
    separator.fingerprint = "other"
    Reference(tmp_path / "song.wav", "guitar", separator)
    assert heard


def test_what_weights_call_their_stems_leads_nowhere_else(demucs, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(solar.reference, "MIN_REFERENCE_S", 6)
    monkeypatch.setattr(solar.reference, "MIN_PLAYING_S", 3)
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    name = "../../../../out"
    kwargs = TINY | {"sources": ["drums", "bass", name, "vocals"], "segment": 2}
    write_model(model_dir / "x.safetensors", kwargs=json.dumps(kwargs))
    song = sum(compose("a", 7.0).values())
    soundfile.write(tmp_path / "song.wav", song, 44_100, "FLOAT")
    Reference(tmp_path / "song.wav", name, Demucs(model_dir)).regained(0.0)
    kept = [path for path in tmp_path.rglob("*.safetensors") if path.parent != model_dir]
    assert len(kept) == 2
    assert {path.parent for path in kept} == {cache}


# ---- stems -----------------------------------------------------------------------------------------------------------


def test_stems_are_heard_as_they_are(song):
    reference = Reference(song, ["guitar", "Vocals"], sample_rate=RATE)
    assert reference.players == {"guitar": "guitar", "Vocals": "vocals"}
    expected = map_stems(song, RATE)
    np.testing.assert_array_equal(reference.mix_map.dominance, expected.dominance)
    for player in reference.players:
        at = reference.names.index(reference.players[player])
        for gain_db in (-12.0, 6.0):
            regained = reference.regained(gain_db, player)
            factors = np.ones(len(song))
            factors[at] = db_to_factor(2.0 * gain_db)
            np.testing.assert_allclose(regained.band_power, expected.band_power * factors[:, None], rtol=2e-4)


def test_folder_and_mapping_are_the_same_reference(song, tmp_path):
    for name, stem in song.items():
        soundfile.write(tmp_path / f"{name}.wav", np.stack([stem, stem], axis=1), RATE, "FLOAT")
    from_files = Reference(tmp_path, "guitar").mix_map
    assert from_files.names == tuple(sorted(song))
    expected = map_stems({name: song[name] for name in sorted(song)}, RATE)
    np.testing.assert_allclose(from_files.band_power, expected.band_power, rtol=1e-5)


def test_some_stems_may_be_all_that_is_heard(song):
    reference = Reference(song, "guitar", Multitrack(["vocals", "guitar"]), RATE)
    assert reference.names == ("vocals", "guitar")
    with pytest.raises(ParameterError, match=r"inputs must be stems of the reference \(.*\) or 'room', got 'kazoo'"):
        Reference(song, "guitar", Multitrack(["guitar", "kazoo"]), RATE)


def test_two_inputs_tell_the_player_from_the_band(song):
    reference = Reference(song, "guitar", DirectAndRoom("guitar"), RATE)
    assert reference.names == ("guitar", "band")
    true = {"guitar": song["guitar"], "band": sum(stem for name, stem in song.items() if name != "guitar")}
    ratio = {
        gain_db: float(np.median(power_ratio_db(reference.regained(gain_db).band_power, 0)))
        for gain_db in (-12.0, 0.0, 12.0)
    }
    assert ratio[0.0] == pytest.approx(float(np.median(power_ratio_db(map_stems(true, RATE).band_power, 0))), abs=3.0)
    assert ratio[12.0] - ratio[0.0] > 8.0
    assert ratio[0.0] - ratio[-12.0] > 4.0


@given(delay_ms=st.floats(0.0, 90.0, allow_subnormal=False), gain_db=st.floats(-15.0, 20.0, allow_subnormal=False))
@settings(max_examples=10, deadline=None)
def test_a_pickup_is_found_in_the_room_however_late_and_loud(delay_ms, gain_db):
    rng = np.random.default_rng(5)
    guitar, drums = rng.standard_normal((2, 6 * RATE)).astype(np.float32)
    lag = round(delay_ms * RATE / 1000)
    heard = db_to_factor(gain_db) * np.pad(guitar, (lag, 0))[: len(guitar)]
    stems = DirectAndRoom("guitar").separate(np.stack([guitar, heard + drums]).astype(np.float32), RATE)
    assert 20 * np.log10(np.std(stems["guitar"]) / np.std(heard)) == pytest.approx(0.0, abs=1.5)
    np.testing.assert_allclose(stems["guitar"] + stems["band"], (heard + drums)[None], rtol=0, atol=1e-3)


def test_strangers_are_not_found_in_each_other(rng):
    guitar, drums = rng.standard_normal((2, 8 * RATE)).astype(np.float32)
    stems = DirectAndRoom("guitar").separate(np.stack([guitar, drums]), RATE)
    assert 20 * np.log10(np.std(stems["guitar"])) < -22.0


# ---- the stream ------------------------------------------------------------------------------------------------------


class Halves:
    """A separator of two lines."""

    window_s = 2.5

    def separate(self, wav, sample_rate):
        return {"low": 0.25 * wav, "high": 0.75 * wav}


@pytest.mark.parametrize("separator", [Halves(), Multitrack(["x"])])
@given(sizes=st.lists(st.integers(1, 90_000), min_size=1, max_size=6), stereo=st.booleans())
@settings(max_examples=15, deadline=None)
def test_blocks_of_any_size_give_the_same_seconds(separator, sizes, stereo):
    if isinstance(separator, Multitrack):
        separator = Multitrack(["x", "y"])
    sound = 0.1 * np.random.default_rng(1).standard_normal((2, 2 if stereo else 1, sum(sizes))).astype(np.float32)
    sound = sound[: len(Ear(separator, RATE).inputs)]
    whole = Ear(separator, RATE).process(sound)
    ear = Ear(separator, RATE)
    parts = [second for part in np.split(sound, np.cumsum(sizes)[:-1], axis=2) for second in ear.process(part)]
    assert len(parts) == len(whole)
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(one.band_power, other.band_power)


class Edgy:
    """A separator that is useless in the first and last quarter of a second."""

    window_s = 2.5

    def separate(self, wav, sample_rate):
        noisy = wav.copy()
        noisy[:, : sample_rate // 4] = noisy[:, -(sample_rate // 4) :] = 9.0
        return {"a": noisy, "b": 0.5 * noisy}


def test_windows_overlap_and_lose_their_edges(rng):
    sound = 0.1 * rng.standard_normal((1, 7 * RATE)).astype(np.float32)
    seconds = Ear(Edgy(), RATE).process(sound)
    whole = sound[:, RATE // 4 : -RATE // 4]
    expected = map_stems({"a": whole, "b": 0.5 * whole}, RATE)
    assert len(seconds) == 6
    for second, other in zip(seconds, expected, strict=True):
        np.testing.assert_array_equal(second.band_power, other.band_power)


@pytest.mark.parametrize("size", [1 << 20, 1000])
def test_seconds_with_clipping_or_without_sound_are_left_out(size):
    sound = 0.1 * np.random.default_rng(0).standard_normal((2, 6 * RATE)).astype(np.float32)
    sound[0, RATE + 5] = np.nan
    sound[1, 3 * RATE + 100 : 3 * RATE + 103] = -1.0
    sound[1, 5 * RATE : 5 * RATE + 2] = 1.0  # two may be a peak that fits
    ear = Ear(Multitrack(["a", "b"]), RATE, full_scale=1.0)
    kept = [second for at in range(0, 6 * RATE, size) for second in ear.process(sound[:, at : at + size])]
    whole = map_stems(np.nan_to_num(sound), RATE)
    assert (ear.broken, ear.clipped) == (1, 1)
    np.testing.assert_array_equal([s.band_power for s in kept], whole.band_power[[0, 2, 4, 5]])
    assert len(Ear(Multitrack(["a", "b"]), RATE).process(sound)) == 5


# ---- what is refused -------------------------------------------------------------------------------------------------


def refusals():
    noise = 0.1 * np.random.default_rng(0).standard_normal(25 * RATE).astype(np.float32)
    stems = {"guitar": noise, "drums": noise[::-1].copy()}
    yield {}, {}, "reference must have at least one stem, got none"
    yield {"guitar": noise}, {}, "reference must come with a separator if it is one recording, got none: download"
    yield {name: stem[: 5 * RATE] for name, stem in stems.items()}, {}, "reference must last at least 20 s, got 5.0"
    yield stems | {"guitar": 0.0 * noise}, {}, "reference: guitar must be heard, got silence"
    yield stems, {"player": "kazoo"}, "player must be one of guitar, drums, got 'kazoo'"
    yield stems, {"player": []}, "player must be at least one, got none"
    late = np.where(np.arange(len(noise)) < 20 * RATE, np.float32(0.0), noise)
    yield stems | {"guitar": late}, {}, "reference must have at least 10 s of guitar, got 5"
    broken = noise.copy()
    broken[77] = np.nan
    yield stems | {"drums": broken}, {}, "reference: drums must be finite, got nan at sample 77"
    yield stems, {"sample_rate": 22_050}, "sample_rate must be at least 32000 Hz"
    yield stems, {"sample_rate": None}, "sample_rate must be given with a mapping of stems, got none"


@pytest.mark.parametrize(("stems", "options", "said"), list(refusals()))
def test_what_is_no_reference_is_refused(stems, options, said):
    with pytest.raises(AlmError, match=re.escape(said)) as caught:
        Reference(stems, **({"sample_rate": RATE} | options))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_reference_are_refused(tmp_path, song):
    with pytest.raises(AudioFileError, match="expected an audio file or a folder, got nothing there"):
        Reference(tmp_path / "none.wav")
    for name in ("guitar", "drums"):
        soundfile.write(tmp_path / f"{name}.wav", song[name][::2], RATE // 2)
    with pytest.raises(AudioFileError, match="expected a reference of at least 32000 Hz, got 16000"):
        Reference(tmp_path)


def test_guitar_is_the_other_where_there_is_no_guitar():
    assert find_player(["drums", "bass", "other", "vocals"], "guitar") == "other"
    assert find_player(["drums", "bass", "other", "vocals", "guitar", "piano"], " Guitar") == "guitar"
    with pytest.raises(ParameterError, match="player must be one of drums, bass, got 'guitar'"):
        find_player(["drums", "bass"], "guitar")
