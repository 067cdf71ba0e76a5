import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from alm_plugin.models.roles import ROLES
from training import corpora
from training.colour import REFERENCE_DBFS, active_rms
from training.compose import Part, Score
from training.corpora import (
    MaterialError,
    build_user_corpus,
    multitracks_in,
    read_midi,
    role_of,
    score_from_midi,
    scores_in,
    stems_of,
)
from training.song import SAMPLE_RATE, Stem, load_song

BEAT = 480
Strike = tuple[float, float, int]  # beat, beats, key


def write_midi(path: Path, parts: dict[tuple[int, int], Sequence[Strike]], meta: Sequence = (), **file) -> Path:
    """File with a track for each (channel, program), and one of tempi and other messages: (beat, message)."""
    midi = mido.MidiFile(ticks_per_beat=BEAT, **file)
    timed = [list(meta)]
    for (channel, program), strikes in parts.items():
        rows: list = [(0.0, mido.Message("program_change", channel=channel, program=program))]
        for beat, beats, key in strikes:
            rows.append((beat, mido.Message("note_on", channel=channel, note=key, velocity=80)))
            rows.append((beat + beats, mido.Message("note_off", channel=channel, note=key)))
        timed.append(rows)
    for rows in timed:
        track, now = mido.MidiTrack(), 0
        for beat, message in sorted(rows, key=lambda row: row[0]):
            track.append(message.copy(time=round(beat * BEAT) - now))
            now = round(beat * BEAT)
        midi.tracks.append(track)
    midi.save(path)
    return path


def tempo(beat: float, bpm: float):
    return beat, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm))


def every(beats: float, keys: Sequence[int], until: float = 120.0, length: float = 0.9) -> list[Strike]:
    return [(beat, beats * length, keys[i % len(keys)]) for i, beat in enumerate(np.arange(0, until, beats))]


CHORDS = [strike for key in (60, 64, 67) for strike in every(2, [key])]
BAND: dict[tuple[int, int], Sequence[Strike]] = {
    (0, 33): every(1, [33, 40]),
    (1, 0): CHORDS,
    (2, 29): CHORDS,
    (3, 73): every(1, [84, 86, 88, 83], length=1.1),
    (9, 0): [*every(1, [36, 38]), *every(0.5, [42]), *every(4, [45, 47])],
}


def song(path: Path, seed: int = 0, seconds: float = 40.0, **band) -> Score:
    return score_from_midi(write_midi(path / "song.mid", band.pop("parts", BAND), **band), rng(seed), seconds)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def many(path: Path, count: int = 60) -> list[Score]:
    write_midi(path / "song.mid", BAND)
    return [score_from_midi(path / "song.mid", rng(seed), 30.0) for seed in range(count)]


def onsets_s(score: Score, part: Part) -> np.ndarray:
    return np.array([note.start for note in part.notes]) * 60 / score.tempo_bpm


# ---- MIDI ------------------------------------------------------------------------------------------------------------


def test_a_tempo_change_keeps_real_time(tmp_path: Path):
    # 20 beats of a second each, then of a quarter of a second: 40 s hold 20 + 80 of them.
    parts = {k: every(1, [60], until=100) for k in ((0, 0), (1, 25), (2, 48))}
    score = song(tmp_path, seconds=39.9, parts=parts, meta=[tempo(0, 60), tempo(20, 240)])
    assert score.tempo_bpm == pytest.approx((20 + 19.9 * 4) / 39.9 * 60)
    for part in score.parts:
        expected = [*np.arange(20.0), *np.arange(20, 39.9, 0.25)]
        # A singer's notes are no shorter than the file's here.
        np.testing.assert_allclose(onsets_s(score, part), expected, atol=2e-3)


def test_the_stretch_is_where_most_play_and_begins_with_a_bar(tmp_path: Path):
    late = {k: [s for s in strikes if s[0] >= 60] for k, strikes in BAND.items()}
    for seed in range(25):
        score = song(tmp_path, seed, 20.0, parts={**late, (5, 48): every(4, [60])})
        assert len({p.program for p in score.parts if p.program is not None and not p.drums}) >= 3
        # The strings strike with every bar, whoever sings them.
        assert min(part.notes[0].start for part in score.parts) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("program", "role"),
    [
        *((0, "piano"), (4, "keys"), (16, "organ"), (24, "acoustic guitar"), (26, "guitar"), (31, "guitar")),
        *((32, "bass"), (39, "bass"), (40, "strings"), (52, "synth"), (56, "brass"), (79, "brass"), (80, "synth")),
        *((103, "synth"), (105, "acoustic guitar"), (118, "percussion"), (119, None), (127, None)),
    ],
)
def test_roles_come_from_programs(program: int, role: str | None):
    assert role_of(program) == role


def test_every_program_has_a_known_role():
    assert {role_of(program) for program in range(128)} <= {*ROLES, None}


def test_parts_have_unique_names_and_fitting_manners(tmp_path: Path):
    for score in many(tmp_path, 20):
        names = [part.name for part in score.parts]
        assert len(set(names)) == len(names)
        assert 3 <= len(names) <= 16
        manner = {(part.program, part.role): part.manner for part in score.parts}
        assert manner[33, "bass"] == "bass"
        assert manner[29, "guitar"] == "power"
        assert manner[0, "piano"] == "comp"
        assert {part.manner for part in score.parts if part.drums} == {"kit"}


def test_drums_are_whole_or_split(tmp_path: Path):
    split = []
    for score in many(tmp_path, 90):
        roles = {part.role: part for part in score.parts if part.drums}
        split.append("drums" not in roles)
        if split[-1]:
            assert set(roles) == {"kick", "snare", "hats", "toms", "overheads"}
            assert {note.key for note in roles["kick"].notes} == {36}
            assert {note.key for note in roles["overheads"].notes} == {36, 38, 42, 45, 47}
        else:
            assert set(roles) == {"drums"}
    assert 0.25 < np.mean(split) < 0.47


def test_drums_on_many_tracks_are_one_kit(tmp_path: Path):
    tracks = {(0, 33): BAND[0, 33], (1, 0): CHORDS, (9, 0): every(1, [36]), (9, 8): every(1, [38])}
    parts = song(tmp_path, 1, parts=tracks).parts
    kits = [part for part in parts if part.role in ("drums", "overheads")]
    assert [{note.key for note in part.notes} for part in kits] == [{36, 38}]


def test_the_melody_is_sung_by_one_voice_within_its_range(tmp_path: Path):
    scores = many(tmp_path, 60)
    sung = [score for score in scores if any(part.role == "vocals" for part in score.parts)]
    assert 0.5 < len(sung) / len(scores) < 0.8
    for score in sung:
        assert 73 not in [part.program for part in score.parts]
        first, *others = [part for part in score.parts if part.manner == "sung"]
        assert (first.lead, first.program, first.doubles) == (True, None, None)
        keys = [note.key for note in first.notes]
        assert (min(keys) >= 48 and max(keys) <= 67) or (min(keys) >= 57 and max(keys) <= 76)
        assert {key % 12 for key in keys} == {0, 2, 4, 11}
        for part in [first, *others]:
            for note, after in zip(part.notes, part.notes[1:], strict=False):
                assert note.start + note.length <= after.start + 1e-9
        for other in others:
            assert other.role == "backing vocals" or other.doubles == first.name
    backing = [part for score in sung for part in score.parts if part.role == "backing vocals"]
    assert 0.1 < len(backing) / len(sung) < 0.5
    assert any(part.doubles for score in sung for part in score.parts)


def test_the_harmony_is_a_third_below_in_the_songs_own_scale(tmp_path: Path):
    for score in many(tmp_path, 60):
        voices = {part.role: part for part in score.parts if part.manner == "sung"}
        if "backing vocals" in voices:
            pairs = zip(voices["vocals"].notes, voices["backing vocals"].notes, strict=True)
            steps = {(one.key % 12, (one.key - other.key) % 12) for one, other in pairs}
            # Under D it is B, under E C and under B G; under C an A or an Ab, neither of them played.
            assert {(2, 3), (4, 4), (11, 4)} <= steps
            assert {step for _, step in steps} <= {3, 4}


def test_what_is_not_sung_leads_on_its_instrument(tmp_path: Path):
    played = [s for s in many(tmp_path, 40) if not any(part.role == "vocals" for part in s.parts)]
    assert played
    for score in played:
        assert [part.program for part in score.parts if part.lead] == [73]


def test_a_singers_notes_are_long_enough_and_the_top_ones(tmp_path: Path):
    trill = [(beat + k / 16, 1 / 16, 72 + k % 2) for beat in np.arange(0, 120, 4.0) for k in range(8)]
    held = [(beat + 1, 2.5, 76) for beat in np.arange(0, 120, 4.0)] + [(b + 1, 2.5, 65) for b in np.arange(0, 120, 4.0)]
    band = {(0, 33): BAND[0, 33], (1, 89): CHORDS, (3, 73): [*trill, *held]}
    scores = [song(tmp_path, seed, 30.0, parts=band) for seed in range(12)]
    voices = [(score, part) for score in scores for part in score.parts if part.role == "vocals"]
    assert voices
    for score, part in voices:
        lengths = np.array([note.length for note in part.notes]) * 60 / score.tempo_bpm
        assert lengths.min() >= 0.12 - 1e-9
        assert 65 % 12 not in {note.key % 12 for note in part.notes}
        assert 76 % 12 in {note.key % 12 for note in part.notes}


def test_volume_and_expression_become_velocity(tmp_path: Path):
    def turn(beat: float, controller: int, value: int):
        return beat, mido.Message("control_change", channel=1, control=controller, value=value)

    path = write_midi(tmp_path / "a.mid", BAND, [turn(0, 7, 90), turn(20.5, 11, 64), turn(40.5, 7, 45)])
    notes = next(notes for voice, notes in read_midi(path).voices.items() if voice.channel == 1)
    force = {round(note.start * 2): note.velocity for note in notes}
    # A note that sounds while its channel is turned is as loud as at its loudest.
    assert [force[beat] for beat in (0, 20, 22, 40, 42)] == [80, 80, 40, 40, 20]


def test_the_pedal_holds_notes(tmp_path: Path):
    pedal = [(b, mido.Message("control_change", channel=1, control=64, value=v)) for b, v in ((0.1, 127), (3.0, 0))]
    path = write_midi(tmp_path / "a.mid", {(1, 0): [(0, 1, 60), (4, 1, 62)]}, pedal)
    notes = next(iter(read_midi(path).voices.values()))
    assert [note.length for note in notes] == pytest.approx([1.5, 0.5])


def test_a_part_that_hardly_plays_is_dropped(tmp_path: Path):
    score = song(tmp_path, parts={**BAND, (5, 19): [(0, 1, 60), (100, 1, 60)]})
    assert "organ" not in [part.role for part in score.parts]


def test_no_more_than_sixteen_parts(tmp_path: Path):
    channels = [*range(9), *range(10, 16)] * 2
    crowd = dict.fromkeys(zip(channels, range(0, 90, 3), strict=True), CHORDS)
    for seed in range(6):
        assert len(song(tmp_path, seed, parts={**crowd, **BAND}).parts) == 16


def test_files_that_are_no_song_are_refused_in_one_line(tmp_path: Path):
    def refusal(path: Path) -> str:
        with pytest.raises(MaterialError) as caught:
            score_from_midi(path, rng(), 40.0)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{path}: expected ")
        return str(caught.value)

    whole = write_midi(tmp_path / "whole.mid", BAND).read_bytes()
    for name, data in {"empty": b"", "text": b"no MIDI at all", "cut": whole[: len(whole) // 2]}.items():
        (tmp_path / f"{name}.mid").write_bytes(data)
        assert "a Standard MIDI File, got" in refusal(tmp_path / f"{name}.mid")
    two = {key: BAND[key] for key in ((0, 33), (1, 0))}
    assert "3 parts that play for 40 s, got 2" in refusal(write_midi(tmp_path / "two.mid", two))
    short = {key: every(1, [60], 20.0) for key in ((0, 33), (1, 0), (2, 0))}
    assert "40 s of music, got 9.9" in refusal(write_midi(tmp_path / "short.mid", short))
    assert "40 s of music, got 0.0" in refusal(write_midi(tmp_path / "none.mid", {}))
    assert "play together" in refusal(write_midi(tmp_path / "loose.mid", BAND, type=2))
    endless = {**BAND, (5, 0): [(20_000.0, 1, 60)]}
    assert "at most 7200 s" in refusal(write_midi(tmp_path / "endless.mid", endless))


def test_broken_bytes_never_raise_anything_else(tmp_path: Path):
    whole, dice = bytearray(write_midi(tmp_path / "whole.mid", BAND).read_bytes()), rng(1)
    for _ in range(100):
        broken = bytearray(whole)
        for at in dice.integers(0, len(broken), 6):
            broken[at] = dice.integers(256)
        (tmp_path / "broken.mid").write_bytes(broken)
        with contextlib.suppress(MaterialError):
            score_from_midi(tmp_path / "broken.mid", rng(), 30.0)


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_scores_are_found_below_a_folder(tmp_path: Path):
    for name in ("b.mid", "a.MIDI", "sub/c.mid", ".trash/d.mid", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in scores_in(tmp_path)] == ["a.MIDI", "b.mid", "sub/c.mid"]


@pytest.mark.parametrize(("find", "what"), [(scores_in, r"\.mid"), (multitracks_in, r"2 audio files")])
def test_folders_with_nothing_in_them_are_refused(tmp_path: Path, find, what: str):
    (tmp_path / "one.wav").touch()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(MaterialError, match=f"{folder.name}: expected .*{what}.* got none"):
            find(folder)


def test_multitracks_are_folders_with_two_files_or_more(tmp_path: Path):
    for name in ("one/kick.wav", "one/bass.flac", "two/x/a.ogg", "two/x/b.mp3", "three/a.wav", "two/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert multitracks_in(tmp_path) == [tmp_path / "one", tmp_path / "two" / "x"]
    assert multitracks_in(tmp_path / "one") == [tmp_path / "one"]


# ---- multitracks -----------------------------------------------------------------------------------------------------


def tone(seconds: float, rate: int, hz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    return peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def write_song(folder: Path, seconds: float = 9.0, rate: int = 44_100, **stems) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sounds = {name: tone(seconds, rate, hz) for name, hz in (("Kick", 80), ("bass", 110), ("gtr 1", 330))}
    for name, sound in {**sounds, **stems}.items():
        soundfile.write(folder / f"{name}.wav", sound, rate, "FLOAT")
    return folder


def test_stems_are_mono_at_the_training_rate_and_level(tmp_path: Path):
    right = np.stack([np.zeros(9 * 44_100), tone(9, 44_100, 1000)], axis=1)
    takes = list(stems_of(write_song(tmp_path, LeadVox=right), rng(), 4.0))
    assert len(takes) == 2
    for stems, audio in takes:
        assert [stem.role for stem in stems] == ["kick", "vocals", "bass", "guitar"]
        assert [stem.lead for stem in stems] == [False, True, False, False]
        for x in audio:
            assert (x.shape, x.dtype) == ((4 * SAMPLE_RATE,), np.float32)
            # A stretch that begins with the file hears the resampler start.
            assert 20 * np.log10(active_rms(x, SAMPLE_RATE)) == pytest.approx(REFERENCE_DBFS, abs=0.05)
        spectrum = np.abs(np.fft.rfft(audio[1] * np.hanning(len(audio[1]))))
        assert spectrum.argmax() / 4.0 == pytest.approx(1000, abs=0.5)


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000, 96_000])
def test_resampling_keeps_level_and_time(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpora, "to_reference", lambda x, _: x)
    click = tone(8, rate, 1000)
    click[: round(5.0 * rate)] *= 0.1
    [(_, audio)] = stems_of(write_song(tmp_path, 8.0, rate, Snare=click), rng(), 8.0)
    snare = audio[1]
    assert np.sqrt(np.mean(snare[6 * SAMPLE_RATE : 7 * SAMPLE_RATE] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    step = np.flatnonzero(np.abs(snare) > 0.2)[0] / SAMPLE_RATE
    assert step == pytest.approx(5.0, abs=1e-3)


def test_stems_that_do_not_play_are_left_out_of_the_stretch(tmp_path: Path):
    late = tone(9, 44_100)
    late[: 44_100 * 5] *= 1e-4
    first, second = stems_of(write_song(tmp_path, organ=late), rng(), 4.0)
    assert "organ" not in [stem.name for stem in first[0]]
    assert "organ" in [stem.name for stem in second[0]]


def test_without_a_singer_the_lead_leads(tmp_path: Path):
    [(stems, _)] = stems_of(write_song(tmp_path, LeadGuitar=tone(9, 44_100)), rng(), 8.0)
    assert [stem.name for stem in stems if stem.lead] == ["LeadGuitar"]


def test_names_without_a_role_are_reported(tmp_path: Path):
    errors: list[MaterialError] = []
    folder = write_song(tmp_path, **{"track 7": tone(9, 44_100)})
    [(stems, _)] = stems_of(folder, rng(), 8.0, errors.append)
    assert len(stems) == 3
    assert [str(error).endswith("left out 'track 7'") for error in errors] == [True]


def _nan(path: Path) -> None:
    sound = tone(9, 44_100)
    sound[300_000] = np.nan
    soundfile.write(path, sound, 44_100, "FLOAT")


SPOILT = {
    "corrupt": (lambda path: path.write_bytes(b"RIFF and then nothing"), r"Kick\.wav: expected audio"),
    "strange": (lambda path: path.write_bytes(b"something else"), r"Kick\.wav: expected audio .* got something else"),
    "empty": (lambda path: path.write_bytes(b""), r"Kick\.wav: expected audio, got an empty file"),
    "nan": (_nan, r"Kick\.wav: expected finite samples, got nan at sample 300000"),
    "missing": (Path.unlink, "expected 3 stems whose names tell a role, got 2"),
    "silent": (lambda path: soundfile.write(path, np.zeros(396_900), 44_100), "play together for 4 s, got fewer"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_song_is_one_line(tmp_path: Path, kind: str):
    spoil, message = SPOILT[kind]
    folder = write_song(tmp_path)
    spoil(folder / "Kick.wav")
    with pytest.raises(MaterialError, match=message) as caught:
        list(stems_of(folder, rng(), 4.0))
    assert "\n" not in str(caught.value)


def test_a_song_that_is_too_short_is_refused(tmp_path: Path):
    with pytest.raises(MaterialError, match=r"expected 40.2 s of music, got 9.0"):
        list(stems_of(write_song(tmp_path), rng()))


# ---- corpus ----------------------------------------------------------------------------------------------------------


def build(midi: Sequence[Path], songs: Sequence[Path], out: Path) -> tuple[list[Path], list[str]]:
    errors: list[str] = []

    def tell(error: MaterialError) -> None:
        errors.append(str(error))

    made = build_user_corpus(midi, songs, out, out / "voices", workers=1, on_error=tell, seconds=4.0)
    return list(made), errors


def test_a_bad_song_spoils_nothing_else(tmp_path: Path):
    good, bad = write_song(tmp_path / "good"), write_song(tmp_path / "bad one")
    _nan(bad / "Kick.wav")
    (tmp_path / "broken.mid").write_bytes(b"MThd")
    made, errors = build([tmp_path / "broken.mid"], [bad, good], tmp_path / "out")
    assert [path.name[:5] + path.name[-3:] for path in made] == ["good--00", "good--01"]
    assert [error.split(": ")[0] for error in errors] == [str(tmp_path / "broken.mid"), str(bad / "Kick.wav")]
    # Of the bad song not even the stretch before the bad sample.
    assert sorted((tmp_path / "out").iterdir()) == sorted(made)
    told = load_song(made[0])
    assert (told.style, [stem.role for stem in told.stems]) == ("multitrack", ["kick", "bass", "guitar"])
    assert told.audio.shape == (3, 4 * SAMPLE_RATE)


def test_nothing_usable_gives_nothing(tmp_path: Path):
    assert build([], [], tmp_path / "out") == ([], [])


def test_what_is_there_is_kept_and_what_was_broken_off_is_finished(tmp_path: Path):
    songs = [write_song(tmp_path / name) for name in ("a", "b")]
    first, _ = build([], songs[:1], tmp_path / "out")
    stamps = [(path / "audio.npy").stat().st_mtime_ns for path in first]
    shutil.rmtree(songs[0])
    (tmp_path / "out" / ".b-torn").mkdir()
    every_one, errors = build([], songs, tmp_path / "out")
    assert (every_one[:2], errors) == (first, [])
    assert len(every_one) == 4
    assert [(path / "audio.npy").stat().st_mtime_ns for path in first] == stamps
    # An interruption leaves later stretches without the first.
    shutil.rmtree(every_one[2])
    again, errors = build([], songs, tmp_path / "out")
    assert (again, errors) == (every_one, [])


def test_songs_of_one_name_do_not_meet(tmp_path: Path):
    made, _ = build([], [write_song(tmp_path / name / "stems") for name in ("a", "b")], tmp_path / "out")
    assert len({path.name for path in made}) == 4


def test_midi_is_rendered_with_the_training_material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    heard = []

    def render(score, rng, material, bank):
        heard.append((material, bank))
        for part in score.parts:
            yield Stem(part.name, part.role, part.lead), tone(score.seconds, SAMPLE_RATE).astype(np.float32)

    monkeypatch.setattr(corpora, "render", render)
    monkeypatch.setattr(corpora, "bank_in", lambda folder, heldout: (folder, heldout))
    errors: list[MaterialError] = []
    path = write_midi(tmp_path / "My song!.mid", BAND)
    add = (corpora._add_midi, path, tmp_path / "out", tmp_path / "voices", 8.0)
    (first, errors), (second, _) = corpora._add(*add), corpora._add(*add)
    assert first == second
    assert first[0].name.startswith("My_song_-")
    assert errors == []
    assert heard == [(corpora.KINDS["train"], (tmp_path / "voices", False))]
    song_ = load_song(first[0])
    assert song_.style == "midi"
    assert song_.audio.shape == (len(song_.stems), 8 * SAMPLE_RATE)
