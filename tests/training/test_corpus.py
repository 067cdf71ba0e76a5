import json
import shutil

import numpy as np
import pytest

from training import corpus
from training.compose import compose
from training.corpus import FROZEN_SHA256, KINDS, compose_song, fingerprint
from training.midi import SOUNDFONTS
from training.recipe import RECIPES
from training.song import SAMPLE_RATE, Stem, load_song, save_song, songs_in
from training.testset import TestSet


def noise(seed, level=0.05, seconds=6):
    return (level * np.random.default_rng(seed).standard_normal(seconds * SAMPLE_RATE)).astype(np.float32)


def write(folder, *stems, style="rock"):
    save_song(folder, style, [stem for stem, _ in stems], [audio for _, audio in stems])
    return folder


@pytest.fixture
def song(tmp_path):
    return write(tmp_path / "00000", (Stem("vox", "vocals", lead=True), noise(0)), (Stem("kick", "kick"), noise(1)))


def test_a_song_comes_back_as_it_was_written(song):
    loaded = load_song(song)
    assert (loaded.name, loaded.style) == ("00000", "rock")
    assert loaded.stems == (Stem("vox", "vocals", lead=True), Stem("kick", "kick"))
    np.testing.assert_allclose(loaded.audio[1], noise(1), atol=2e-4)
    assert loaded.powers.shape == (2, 60)


def test_silent_stems_are_left_out_with_their_names(tmp_path):
    stems = (Stem("vox", "vocals"), noise(0)), (Stem("kick", "kick"), noise(1, 1e-5)), (Stem("bass", "bass"), noise(2))
    loaded = load_song(write(tmp_path / "a", *stems))
    assert [stem.name for stem in loaded.stems] == ["vox", "bass"]
    assert len(loaded.audio) == len(loaded.powers) == 2
    np.testing.assert_allclose(loaded.audio[1], noise(2), atol=2e-4)


def test_a_song_is_there_as_a_whole_or_not_at_all(song, monkeypatch):
    before = load_song(song).audio[:].copy()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(corpus.np, "save", full)
        with pytest.raises(OSError, match="No space"):
            write(song, (Stem("other", "bass"), noise(5)))
    np.testing.assert_array_equal(load_song(song).audio, before)
    assert songs_in(song.parent) == [song]
    write(song, (Stem("other", "bass"), noise(5)))
    assert load_song(song).stems[0].name == "other"
    assert [path.name for path in song.parent.iterdir()] == ["00000"]


def test_the_fingerprint_tells_songs_apart_but_not_their_last_bits(tmp_path):
    def of(name="vox", role="vocals", style="rock", level=0.05, folder="00000", last=0.0):
        path = tmp_path / str(len(list(tmp_path.iterdir()))) / folder
        path.parent.mkdir()
        audio = noise(0, level) + np.float32(last)
        return fingerprint([write(path, (Stem(name, role), audio), style=style)])

    one = of()
    assert one == of(last=1e-7)
    others = [of(name="v"), of(role="bass"), of(style="jazz"), of(level=0.06), of(folder="00001")]
    assert len({one, *others}) == 6


def test_the_order_of_songs_counts(tmp_path):
    songs = [write(tmp_path / f"{n:05d}", (Stem("vox", "vocals"), noise(n))) for n in range(2)]
    assert songs_in(tmp_path) == songs
    assert fingerprint(songs) != fingerprint(songs[::-1])


def test_training_and_test_songs_share_nothing():
    train, test = KINDS["train"], KINDS["test"]
    assert not set(train.soundfonts + train.kits) & set(test.soundfonts + test.kits)
    assert (train.heldout, test.heldout) == (False, True)
    # Neither does any song's own seed occur twice.
    many = {seed for kind in KINDS.values() for seed in range(kind.seed, kind.seed + 3000)}
    assert len(many) == 6000
    assert test.sha256 == FROZEN_SHA256
    assert train.sha256 == ""
    assert RECIPES["compact"].test_songs == 48


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Builds songs of short scores; what is rendered is noise, so that no soundfont is needed."""

    def render(score, rng, material, bank):
        for part in score.parts:
            yield Stem(part.name, part.role, part.lead), (0.05 * rng.standard_normal(3 * SAMPLE_RATE)).astype("f4")

    monkeypatch.setattr(corpus, "render", render)
    monkeypatch.setattr(corpus, "bank_in", lambda folder, heldout: None)
    return lambda kind, index, name: compose_song(kind, index, tmp_path / name, tmp_path / "voices", 20.0)


def test_a_songs_number_and_kind_decide_everything(built):
    one = built("train", 4, "a")
    for other in (built("train", 3, "b"), built("train", 5, "b")):
        assert fingerprint([other]) != fingerprint([one])
    again = built("train", 4, "b")
    np.testing.assert_array_equal(load_song(again).audio, load_song(one).audio)
    assert load_song(again).stems == load_song(one).stems
    assert load_song(built("test", 4, "c")).audio.shape != load_song(one).audio.shape or not np.array_equal(
        load_song(built("test", 4, "c")).audio, load_song(one).audio
    )


def test_songs_that_are_there_are_kept(built):
    path = built("train", 4, "a")
    (path / "song.json").write_text(json.dumps({"style": "mine", "stems": []}))
    assert built("train", 4, "a") == path
    assert load_song(path).style == "mine"
    (path / "song.json").unlink()  # half a song is none
    assert load_song(built("train", 4, "a")).style != "mine"


def test_a_score_is_played_part_by_part():
    if not (SOUNDFONTS / "sf2/TimGM6mb.sf2").exists() or shutil.which("fluidsynth") is None:
        pytest.skip("Debian's fluidsynth and timgm6mb-soundfont are not installed")
    rng = np.random.default_rng(3)
    score = compose(rng, 12.0, "rock")
    score = corpus.Score(**{**score.__dict__, "parts": tuple(p for p in score.parts if p.program is not None)})
    played = list(corpus.render(score, np.random.default_rng(1), KINDS["test"], None))
    assert [stem.name for stem, _ in played] == [part.name for part in score.parts]
    for stem, audio in played:
        assert audio.shape == (round(score.seconds * SAMPLE_RATE),)
        assert audio.dtype == np.float32, stem
        assert np.isfinite(audio).all()
        assert np.abs(audio).max() < 8.0
    assert sum(np.abs(audio).max() > 0.01 for _, audio in played) >= len(played) - 1


def test_the_frozen_examples_depend_on_their_place_alone(tmp_path):
    stems = ("vocals", "kick", "bass", "keys")
    songs = [
        write(tmp_path / f"{n:05d}", *((Stem(r, r), noise(10 * n + i)) for i, r in enumerate(stems))) for n in range(3)
    ]
    wet, dry = TestSet(songs, dry=False), TestSet(songs, dry=True)
    assert len(wet) == len(dry) == 3
    second = wet[1].inputs
    np.testing.assert_array_equal(TestSet(songs, dry=False)[1].inputs, second)
    np.testing.assert_array_equal(wet[-2].inputs, second)
    for e in (*wet, *dry):
        assert (np.ptp(e.true_gain_db, axis=1) == 0.0).all()  # no gain jumps
    with pytest.raises(IndexError):
        wet[3]
