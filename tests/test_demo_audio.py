"""The bundled demo: what `presets/demo` promises, and that `training.demo` makes it again."""

import shutil
import tomllib

import numpy as np
import pyloudnorm
import pytest
import soundfile

from alm_plugin.data import presets_dir
from alm_plugin.models.roles import GROUP_BUDGET_LU, GROUPS, ROLE_GROUP, ROLES, guess_role
from alm_plugin.units import db_to_factor

DEMO = presets_dir() / "demo"
TRACKS = ("vocals", "guitar", "acoustic", "keys", "bass", "kick", "snare", "overheads")


def read(name):
    return soundfile.read(DEMO / f"{name}.ogg", always_2d=True)[0].T


def group(role):
    return GROUPS[ROLE_GROUP[ROLES.index(role)]]


def rms_db(x):
    return 10 * np.log10(np.mean(np.square(x)) + 1e-20)


def loudness(tracks):
    """Of the stereo sum, mono on both sides."""
    mix = sum(np.broadcast_to(track, (2, track.shape[1])) for track in tracks)
    return pyloudnorm.Meter(44_100).integrated_loudness(mix.T)


@pytest.fixture(scope="module")
def truth():
    return tomllib.loads((DEMO / "demo.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def desk():
    return {name: read(name) for name in TRACKS}


@pytest.fixture(scope="module")
def mixed(desk, truth):
    return {name: track * db_to_factor(truth["tracks"][name]["true_gain_db"]) for name, track in desk.items()}


def test_it_is_small_and_holds_nothing_else():
    assert {path.name for path in DEMO.iterdir()} == {"demo.toml", *(f"{name}.ogg" for name in TRACKS)}
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 3_000_000


@pytest.mark.parametrize("name", TRACKS)
def test_a_track_is_sound(name, desk, truth):
    track = desk[name]
    assert soundfile.info(DEMO / f"{name}.ogg").samplerate == truth["sample_rate"] == 44_100
    assert track.shape == (2 if name in ("keys", "overheads") else 1, 21 * 44_100)
    assert np.isfinite(track).all()
    assert np.abs(track).max() <= db_to_factor(-1.0)
    assert rms_db(track) > -50


def test_the_truth_is_told_in_full(truth):
    assert {"title", "tempo_bpm", "seed", "sample_rate", "song_lufs", "licence", "credits"} < set(truth)
    assert truth["licence"] == "GPL-3.0-or-later"
    assert "FluidR3 GM (MIT" in truth["credits"]
    assert set(truth["tracks"]) == set(TRACKS)
    for name, track in truth["tracks"].items():
        assert set(track) == {"role", "true_gain_db", "disturbance_db"}
        assert track["role"] == guess_role(name)
        assert track["true_gain_db"] == -track["disturbance_db"]
    disturbances = [track["disturbance_db"] for track in truth["tracks"].values()]
    assert min(disturbances) <= -10
    assert max(disturbances) >= 10


def test_the_vocal_is_buried_until_the_true_gains_bring_it_back(desk, mixed):
    def vocal_to_band(tracks):
        return loudness([tracks["vocals"]]) - loudness([tracks[name] for name in TRACKS if name != "vocals"])

    assert vocal_to_band(desk) < -8
    # 1.9 LU by the budgets, less the bleed that the band gains by its own microphones.
    assert vocal_to_band(mixed) == pytest.approx(1.6, abs=0.3)


def test_true_gains_give_the_budgets(mixed, truth):
    # Bleed adds to both sides of each difference, and a little to the whole.
    assert loudness(mixed.values()) == pytest.approx(truth["song_lufs"], abs=0.5)
    lead = loudness([mixed["vocals"]])
    for wanted in ("drums", "bass", "harmony"):
        members = [mixed[name] for name, track in truth["tracks"].items() if group(track["role"]) == wanted]
        assert loudness(members) - lead == pytest.approx(GROUP_BUDGET_LU[wanted], abs=1.0)


def test_players_enter_and_rest(desk):
    second = slice(44_100, 2 * 44_100)
    for direct in ("keys", "bass"):
        assert rms_db(desk[direct][:, second]) < -90
    for microphone in ("vocals", "kick", "snare"):  # hears the others
        resting = rms_db(desk[microphone][:, second])
        assert -90 < resting < rms_db(desk[microphone]) - 10
    guitar = desk["guitar"]
    assert rms_db(guitar[:, 5 * 44_100 : 7 * 44_100]) < rms_db(guitar[:, 2 * 44_100 : 3 * 44_100]) - 6


# ---- how it is made --------------------------------------------------------------------------------------------------


def needs(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def test_midi_file_is_the_standard_one():
    midi = pytest.importorskip("training.midi")
    notes = [midi.Note(0, 1, 60, 100), midi.Note(1, 1, 60, 90)]
    assert midi.midi_file(notes, 120, program=4).hex(" ") == (
        "4d 54 68 64 00 00 00 06 00 00 00 01 01 e0 "  # MThd: format 0, one track, 480 ticks a beat
        "4d 54 72 6b 00 00 00 20 "
        "00 ff 51 03 07 a1 20 00 c0 04 "  # 500000 us a beat, program 4
        "00 90 3c 64 83 60 80 3c 00 00 90 3c 5a "  # struck again only after it ended
        "83 60 80 3c 00 00 ff 2f 00"
    )


def test_the_singer_is_in_tune():
    needs("flite")
    singer = pytest.importorskip("training.singer")
    notes = [singer.Sung(1.0, 1.4, 64), singer.Sung(1.4, 1.8, 67), singer.Sung(1.8, 2.8, 71)]
    song = singer.sing("turn me up", notes, 3 * 44_100, 44_100, np.random.default_rng(1))
    for note in notes:
        held = song[int((note.end - 0.25) * 44_100) : int((note.end - 0.1) * 44_100)]
        spectrum = np.abs(np.fft.rfft(held * np.hanning(len(held)), 1 << 17))
        hz = 440 * 2 ** ((note.key - 69) / 12)
        near = np.arange(int(hz * 0.8 / 44_100 * (1 << 17)), int(hz * 1.25 / 44_100 * (1 << 17)))
        sung = near[np.argmax(spectrum[near])] * 44_100 / (1 << 17)
        assert 1200 * np.log2(sung / hz) == pytest.approx(0, abs=50)
    with pytest.raises(ValueError, match="must have a note for each vowel of pau t er n"):
        singer.sing("turn me up", notes[:2], 3 * 44_100, 44_100, np.random.default_rng(1))


def test_the_same_demo_is_built_again(desk, truth):
    needs("fluidsynth", "flite")
    demo = pytest.importorskip("training.demo", reason="the extra 'train' is not installed")
    if not demo.SOUNDFONT.exists():
        pytest.skip("not installed: fluid-soundfont-gm")
    rebuilt = demo.spoil(demo.balance(dict(demo.compose(truth["seed"], demo.SOUNDFONT))))
    assert tuple(rebuilt) == TRACKS
    for name, track in rebuilt.items():
        assert loudness([track]) == pytest.approx(loudness([desk[name]]), abs=0.2)
    assert demo.description(truth["seed"]) == (DEMO / "demo.toml").read_text(encoding="utf-8")
