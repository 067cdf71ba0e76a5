import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alm_plugin import Mixer, Strip
from alm_plugin.features.clock import MULTI_RATE
from alm_plugin.stream import Automation
from training.balance import hop_powers
from training.examples import CONVERTER_PEAK, FRAME, Conditions, Examples, by_frame, make_example, speech_in
from training.song import SAMPLE_RATE, Song, Stem, load_song, save_song, songs_in

ROOT = Path(__file__).parents[2]
STEMS = (("vox", "vocals"), ("kick", "kick"), ("bass", "bass"), ("keys", "keys"), ("gtr", "guitar"))
SECONDS = 10

NOTHING = Conditions(
    seconds=8.0,
    dry=1.0,
    tone=0.0,
    fewer=0.0,
    pair=0.0,
    noise=0.0,
    hum=0.0,
    clip=0.0,
    late=0.0,
    muted=0.0,
    jump=0.0,
    talk=0.0,
)


def audio_of(seed, count, seconds=SECONDS):
    rng = np.random.default_rng(seed)
    on = np.repeat(rng.uniform(size=(count, 4 * seconds)) > 0.25, SAMPLE_RATE // 4, axis=1)
    return (0.05 * on * rng.standard_normal(on.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for number in range(3):
        stems = [Stem(name, role) for name, role in STEMS]
        save_song(folder / f"{number:05d}", "rock", stems, audio_of(number, len(STEMS)))
    return songs_in(folder)


def make(song, seed=0, **changes):
    return make_example(song, np.random.default_rng(seed), replace(NOTHING, **changes))


def in_memory(audio, roles, style="rock"):
    """A song that is in no file, so that stems may be silent."""
    stems = tuple(Stem(f"{role} {i}", role) for i, role in enumerate(roles))
    powers = np.stack([hop_powers(track, SAMPLE_RATE) for track in audio])
    return Song("made up", style, stems, audio.astype(np.float16), powers)


def assert_same(one, other):
    for name in ("inputs", "own", "true_gain_db", "playing", "own_share", "roles"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


# ---- the same number is the same example -----------------------------------------------------------------------------

ANYTHING = Conditions(seconds=6.0, dry=0.5, pair=0.5, late=0.3, muted=0.3, jump=0.3, hum=0.3, clip=0.3)


def test_a_number_is_an_example_in_any_order(songs):
    numbers = [0, 1, 2, 3, 4, 8]
    examples = Examples(songs, ANYTHING, 5)
    first = {number: examples[number] for number in numbers}
    np.random.default_rng(1).standard_normal(10)
    again = Examples(songs, ANYTHING, 5)
    for number in reversed(numbers):
        assert_same(again[number], first[number])
    assert not np.array_equal(Examples(songs, ANYTHING, 6)[3].inputs, first[3].inputs)


def test_in_another_process_too(songs, tmp_path):
    # Two of them, as what other tests have loaded into this one (VST3s that switch denormals off) shows in last bits.
    script = f"""
import sys
from pathlib import Path
import numpy as np
from training.examples import *
songs = [Path(name) for name in {[str(song) for song in songs]!r}]
examples = Examples(songs, {ANYTHING!r}, 5)
folder, *numbers = sys.argv[1:]
for number in map(int, numbers):
    e = examples[number]
    np.savez(Path(folder) / f"{{number}}.npz", inputs=e.inputs, own=e.own, true_gain_db=e.true_gain_db)
"""
    for name, numbers in (("one", ("7", "4")), ("other", ("4", "7"))):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", script, str(tmp_path / name), *numbers]
        subprocess.run(command, check=True, cwd=ROOT, timeout=120)
    here = Examples(songs, ANYTHING, 5)
    for number in (4, 7):
        with np.load(tmp_path / "one" / f"{number}.npz") as one, np.load(tmp_path / "other" / f"{number}.npz") as other:
            for name in one:
                np.testing.assert_array_equal(one[name], other[name], err_msg=name)
                np.testing.assert_allclose(getattr(here[number], name), one[name], rtol=0, atol=1e-6, err_msg=name)


def test_every_song_once_an_epoch_in_a_new_order(songs, monkeypatch):
    opened = []
    monkeypatch.setattr("training.examples.load_song", lambda path: opened.append(path.name) or load_song(path))
    examples = Examples(songs, NOTHING, 5)
    for number in range(12):
        examples[number]
    epochs = [tuple(opened[i : i + 3]) for i in range(0, 12, 3)]
    assert all(sorted(epoch) == [song.name for song in songs] for epoch in epochs)
    assert len(set(epochs)) > 1


# ---- the truth ---------------------------------------------------------------------------------------------------


def mixed(example):
    """Inputs at their true gains, through the mixer: (samples,)."""
    frames = example.true_gain_db.shape[1]
    times_s = np.array([MULTI_RATE.boundary(n, SAMPLE_RATE) for n in range(frames)]) / SAMPLE_RATE
    curves = {str(c): curve for c, curve in enumerate(example.true_gain_db)}
    strips = {name: Strip() for name in curves}
    mixer = Mixer(strips, "unity", 1, ceiling_db=None, automation=Automation(times_s, curves))
    return mixer.process(example.inputs, SAMPLE_RATE)[0]


@pytest.mark.parametrize("seed", range(4))
def test_dry_inputs_at_their_true_gains_are_the_target(songs, seed):
    example = make(load_song(songs[0]), seed)
    target = example.target
    assert np.abs(target).max() > 0.05
    plain = by_frame(example.inputs, 10 ** (example.true_gain_db / 20)).sum(axis=0)
    np.testing.assert_allclose(plain, target, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixed(example), target, rtol=0, atol=1e-5)


def test_with_jumps_only_the_ramps_differ(songs):
    example = make(load_song(songs[0]), jump=1.0)
    moves = np.flatnonzero(np.diff(example.true_gain_db, axis=1).any(axis=0)) + 1
    assert len(moves) > 2
    wrong = np.abs(mixed(example) - example.target).reshape(-1, FRAME).max(axis=1)
    assert (wrong[np.setdiff1d(np.arange(len(wrong)), moves)] < 1e-5).all()


def test_the_target_is_the_same_whatever_happens_on_stage(songs):
    """Balance on stage, staging at the desk, noise and bleed are undone, not part of the truth."""
    song = load_song(songs[0])
    one = make(song, 1, seconds=SECONDS)
    for changes in ({"pre_db": 0.0, "post_db": 0.0}, {"noise": 1.0}, {"dry": 0.0}, {"jump": 1.0}):
        other = make(song, 2, seconds=SECONDS, **changes)
        np.testing.assert_allclose(other.target, one.target, rtol=0, atol=1e-4)


def test_channels_have_their_own_sound_only_when_dry(songs):
    song = load_song(songs[0])
    dry, wet = make(song, 3), make(song, 3, dry=0.0)
    np.testing.assert_array_equal(dry.inputs, dry.own)
    assert dry.playing.any()
    np.testing.assert_allclose(dry.own_share[dry.playing], 1.0, atol=1e-5)
    assert 0.0 <= wet.own_share.min() <= wet.own_share.max() <= 1.0
    rest = 1.0 - wet.own_share[wet.playing]
    assert rest.max() > 0.01
    assert not np.array_equal(wet.inputs, wet.own)
    for example in (dry, wet):
        quiet = ~example.playing & (np.abs(example.own).reshape(*example.playing.shape, FRAME).max(axis=2) == 0)
        assert quiet.any()
        assert (example.own_share[quiet] == 0.0).all()


def test_a_share_of_the_examples_is_dry(songs):
    conditions = replace(NOTHING, seconds=1.0, dry=0.3)
    examples = Examples(songs, conditions, 1)
    dry = [np.array_equal(example.inputs, example.own) for example in (examples[n] for n in range(60))]
    assert 0.15 < np.mean(dry) < 0.45


# ---- what may happen -------------------------------------------------------------------------------------------------


def test_levels_reach_far_down_and_never_beyond_the_converter(songs):
    examples = Examples(songs, replace(NOTHING, seconds=2.0, dry=1.0, quiet=0.5), 2)
    levels = []
    for number in range(40):
        example = examples[number]
        assert np.abs(example.inputs).max() <= CONVERTER_PEAK + 1e-4
        for own, playing in zip(example.own, example.playing, strict=True):
            levels.append(10 * np.log10(np.square(own.reshape(-1, FRAME)[playing]).mean()) if playing.any() else 0)
    assert min(levels) < -55.0
    assert max(level for level in levels if level < 0) > -20.0


def test_hot_inputs_are_turned_down_or_clip(songs):
    song = in_memory(8.0 * audio_of(0, 5), [role for _, role in STEMS])
    loud = {"pre_db": 6.0, "post_db": 15.0}
    fair, driven = make(song, 3, **loud), make(song, 3, clip=1.0, **loud)
    assert np.abs(fair.inputs).max() <= CONVERTER_PEAK + 1e-4
    np.testing.assert_allclose(mixed(fair), fair.target, rtol=0, atol=1e-4)
    assert np.abs(driven.inputs).max() == 1.0
    assert (np.abs(driven.inputs) == 1.0).mean() > 1e-4
    # What is turned down is given back by the true gain.
    np.testing.assert_allclose(driven.target, fair.target, rtol=0, atol=1e-4)


def test_jumps_are_in_the_true_gains(songs):
    plain, example = make(load_song(songs[0])), make(load_song(songs[0]), jump=1.0)
    assert (np.ptp(plain.true_gain_db, axis=1) == 0.0).all()
    for curve in example.true_gain_db:
        moves = np.flatnonzero(np.diff(curve))
        assert len(moves) == 1
        assert 3.0 <= abs(np.diff(curve)[moves[0]]) <= 9.0
        assert len(curve) // 5 <= moves[0] + 1 < len(curve) - len(curve) // 5


@pytest.mark.parametrize("what", ["late", "muted"])
def test_who_is_switched_off_does_not_play(songs, what):
    song = load_song(songs[0])
    example = make(song, 4, **{what: 1.0})
    sounds = np.abs(example.inputs).reshape(*example.playing.shape, FRAME).max(axis=2) > 0
    assert (np.ptp(example.true_gain_db, axis=1) == 0.0).all()
    assert not (example.playing & ~sounds).any()
    plain = make(song, 4)
    lost = 0
    for c, row in enumerate(sounds):
        off = np.flatnonzero(plain.playing[c] & ~example.playing[c])
        lost += len(off)
        if what == "late":
            assert not row[:20].any()
            assert example.playing[c].any()
        # One stretch, and elsewhere all is as it was.
        on = np.setdiff1d(np.arange(len(row)), np.arange(off[0], off[-1] + 1) if len(off) else [])
        np.testing.assert_array_equal(example.playing[c, on], plain.playing[c, on])
        assert not row[off].any()
    assert lost > 40
    np.testing.assert_allclose(mixed(example), example.target, rtol=0, atol=1e-4)


def test_playing_is_where_the_own_source_sounds(songs):
    song = load_song(songs[0])
    example = make(song, 5, dry=0.0, noise=1.0, seconds=SECONDS)
    on = np.abs(np.asarray(song.audio, np.float32)).reshape(len(STEMS), -1, FRAME).max(axis=2) > 0
    np.testing.assert_array_equal(example.playing, on)


def test_noise_and_hum_are_heard_but_not_own(songs):
    song = load_song(songs[0])
    for what in ("noise", "hum"):
        example = make(song, 6, **{what: 1.0})
        quiet = ~example.playing
        assert (np.abs(example.inputs).reshape(*quiet.shape, FRAME).max(axis=2)[quiet] > 0).all()
        assert (np.abs(example.own).reshape(*quiet.shape, FRAME).max(axis=2)[quiet] == 0).all()


def test_some_players_are_missing_and_some_have_two_channels(songs):
    song = load_song(songs[0])
    counts = {len(make(song, seed, fewer=1.0).roles) for seed in range(20)}
    assert counts == {3, 4}
    example = make(song, 2, pair=1.0)
    assert len(example.roles) == 6
    twin = int(np.flatnonzero(example.roles[:5] == example.roles[5])[0])
    # Both at their true gains are the source twice, in phase.
    one, other = (by_frame(example.own[[c]], 10 ** (example.true_gain_db[[c]] / 20))[0] for c in (twin, 5))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mixed(example), example.target, rtol=0, atol=1e-5)


def test_a_tone_does_not_change_how_loud_a_channel_is_in_the_target(songs):
    song = load_song(songs[0])
    plain, toned = make(song, 7, seconds=SECONDS), make(song, 7, seconds=SECONDS, tone=1.0)
    for c in range(len(STEMS)):
        loudness = []
        for example in (plain, toned):
            placed = by_frame(example.own[[c]], 10 ** (example.true_gain_db[[c]] / 20))[0]
            loudness.append(10 * np.log10(hop_powers(placed, SAMPLE_RATE).mean()))
        assert loudness[0] == pytest.approx(loudness[1], abs=0.3)
    assert not np.allclose(plain.target, toned.target, atol=1e-3)


# ---- small songs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["vocals", "kick"])
def test_a_song_of_one_stem(role):
    example = make_example(in_memory(audio_of(0, 1), [role]), np.random.default_rng(0), Conditions(seconds=8.0, pair=0))
    assert example.inputs.shape == (1, 160 * FRAME)
    assert np.isfinite(example.true_gain_db).all()


def test_a_silent_stem_is_no_trouble():
    audio = audio_of(0, 4)
    audio[2] = 0.0
    roles = ["vocals", "kick", "bass", "keys"]
    for seed in range(3):
        example = make_example(in_memory(audio, roles), np.random.default_rng(seed), replace(ANYTHING, pair=0.0))
        silent = np.flatnonzero(example.roles == 7 + 2)  # bass
        for name in ("inputs", "own", "true_gain_db", "own_share"):
            assert np.isfinite(getattr(example, name)).all(), name
        assert not example.playing[silent].any()
        assert (example.own[silent] == 0.0).all()


def test_a_song_shorter_than_an_example_is_cut_to_whole_frames():
    audio = audio_of(0, 3)[:, : 3 * SAMPLE_RATE + 700]
    example = make(in_memory(audio, ["vocals", "kick", "bass"]))
    assert example.inputs.shape == (3, 60 * FRAME)
    assert example.true_gain_db.shape == example.playing.shape == example.own_share.shape == (3, 60)


# ---- talk between songs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A song with a stem that is spoken."""
    folder = tmp_path_factory.mktemp("spoken")
    stems = [Stem("vox", "vocals"), Stem("rap", "vocals", spoken=True)]
    save_song(folder / "00000", "hiphop", stems, audio_of(9, 2))
    return songs_in(folder)


def talking(songs, spoken, seed, **changes):
    conditions = replace(NOTHING, talk=1.0, **changes)
    return make_example(load_song(songs[0]), np.random.default_rng(seed), conditions, speech_in(spoken))


def test_only_what_is_spoken_is_speech(songs, spoken):
    assert speech_in(songs) == []
    assert speech_in(spoken) == [(spoken[0], 1)]
    assert Examples(spoken, NOTHING, 0).speech == []
    assert Examples(spoken, replace(NOTHING, talk=0.1), 0).speech == speech_in(spoken)


@pytest.mark.parametrize("seed", range(4))
def test_between_songs_the_band_rests_and_the_singer_is_heard_but_does_not_play(songs, spoken, seed):
    talked = talking(songs, spoken, seed, talk_db=(0.0, 0.0))
    singer = int(np.flatnonzero(talked.roles == 0)[0])
    power = np.square(talked.own).reshape(len(talked.roles), -1, FRAME).mean(axis=2)
    alone = (power[singer] > 0) & (np.delete(power, singer, axis=0) == 0).all(axis=0)
    assert alone.sum() > 20, "expected some seconds of speech alone"
    assert not talked.playing[:, alone].any()
    assert talked.playing[singer].any()
    assert talked.own_share[singer, alone].min() > 0.99
    # The gains are the song's: talk has no balance of its own.
    assert np.ptp(talked.true_gain_db, axis=1).max() == 0.0


def test_how_loud_talk_is_follows_the_singing(songs, spoken):
    loud, quiet = (talking(songs, spoken, 2, talk_db=(db, db)) for db in (0.0, -12.0))
    singer = int(np.flatnonzero(loud.roles == 0)[0])
    differ = np.abs(loud.own[singer] - quiet.own[singer]) > 1e-6
    ratio = np.sqrt(np.square(loud.own[singer, differ]).sum() / np.square(quiet.own[singer, differ]).sum())
    assert 20 * np.log10(ratio) == pytest.approx(12.0, abs=0.1)


def test_both_channels_of_a_singer_talk(songs, spoken):
    vocals = in_memory(audio_of(4, 2), ("vocals", "kick"))
    conditions = replace(NOTHING, talk=1.0, pair=1.0)
    example = make_example(vocals, np.random.default_rng(0), conditions, speech_in(spoken))
    assert example.roles.tolist() == [0, 3, 0]
    power = np.square(example.own).reshape(3, -1, FRAME).mean(axis=2)
    rests = (power[1] == 0) & ~example.playing[0] & (power[0] > 1e-9)
    assert rests.sum() > 20
    np.testing.assert_allclose(10 * np.log10(power[0, rests] / power[2, rests]).std(), 0.0, atol=0.01)


def test_nobody_talks_where_nobody_sings_or_nothing_is_said(songs, spoken):
    band = in_memory(audio_of(4, 2), ("bass", "kick"))
    for song, speech in ((band, speech_in(spoken)), (load_song(songs[0]), [])):
        one, other = (
            make_example(song, np.random.default_rng(3), replace(NOTHING, talk=share), speech) for share in (0.0, 1.0)
        )
        assert_same(one, other)
