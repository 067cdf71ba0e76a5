import shutil
import subprocess

import numpy as np
import pytest
from scipy.signal import lfilter

pytest.importorskip("pyworld", reason="singing needs pyworld")

from training import voices
from training.singer import Sung
from training.voices import VOICES, Bank, Singer, Voice, build_bank, sing

SR = 24000
LEARNT, HELDOUT = "espeak-es+m1", "espeak-es-419+f2"
SPOKEN = [voice for voice in VOICES if voice.name in (LEARNT, HELDOUT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    folder = tmp_path_factory.mktemp("bank")
    assert build_bank(folder, SR, voices=SPOKEN) == []
    return folder


@pytest.fixture
def bank(folder):
    return Bank(folder, None)


def exact(name):
    """A singer without whims."""
    return Singer(item=f"{name}.0.npz", dynamics_db=0.0, unrest=0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def pitch_hz(x):
    lags = np.correlate(x, x, "full")[len(x) - 1 :] / np.arange(len(x), 0, -1)
    first, last = SR // 700, SR // 70
    lag = first + int(np.argmax(lags[first:last] > 0.9 * lags[first:last].max()))
    while lags[lag + 1] > lags[lag]:
        lag += 1
    a, b, c = lags[lag - 1 : lag + 2]
    return SR / (lag + 0.5 * (a - c) / (a - 2 * b + c))


def part(x, begin_s, end_s):
    return x[round(begin_s * SR) : round(end_s * SR)]


@pytest.mark.parametrize(("name", "keys"), [(LEARNT, (45, 52, 49)), (HELDOUT, (57, 64, 69))])
@pytest.mark.parametrize(("detune", "late_s"), [(0.0, 0.0), (-1.5, 0.2)])
def test_sung_pitch_follows_the_notes(bank, name, keys, detune, late_s):
    notes = [Sung(1 + 1.2 * k, 2.1 + 1.2 * k, key) for k, key in enumerate(keys)]
    x = sing(bank, exact(name), notes, 6 * SR, SR, rng(), detune=detune, late_s=late_s)
    for note in notes:
        heard = pitch_hz(part(x, note.start + late_s + 0.35, note.end + late_s - 0.35))
        assert 12 * np.log2(heard / 440) + 69 == pytest.approx(note.key + detune, abs=0.6)


def test_consonants_stand_between_notes_and_vowels_on_them(bank):
    notes = [Sung(1 + 0.5 * k, 1.48 + 0.5 * k, 50) for k in range(16)]
    frames = part(sing(bank, exact(LEARNT), notes, 10 * SR, SR, rng()), 1, 9).reshape(16, 50, SR // 100)
    power = np.abs(np.fft.rfft(frames * np.hanning(SR // 100))) ** 2
    hissing = power[..., 25:].sum(axis=-1) > power[..., :25].sum(axis=-1)  # 2.5 kHz
    assert not hissing[:, 12:30].any()
    assert hissing[:, 35:].any(axis=1).sum() >= 4


def test_vibrato_begins_late_and_moves_the_pitch(bank):
    singer = Singer(item=f"{LEARNT}.0.npz", unrest=0.0, vibrato=0.6, vibrato_hz=5.0)
    x = sing(bank, singer, [Sung(0.5, 3.0, 57)], 4 * SR, SR, rng())
    keys = [12 * np.log2(pitch_hz(part(x, t, t + 0.05)) / 220) for t in np.arange(0.6, 2.5, 0.02)]
    assert np.ptp(keys[:5]) < 0.25
    assert 0.7 < np.ptp(keys[30:]) < 1.6


def test_silent_where_there_are_no_notes(bank):
    x = sing(bank, exact(LEARNT), [Sung(2, 3, 50), Sung(5, 6, 52)], 8 * SR, SR, rng())
    for begin, end in ((0, 1.3), (3.35, 4.3), (6.35, 8)):
        assert not part(x, begin, end).any()
    for begin in (2, 5):
        assert np.sqrt(np.mean(part(x, begin, begin + 1) ** 2)) > 0.03


def test_no_notes_no_sound(bank):
    assert not sing(bank, exact(LEARNT), [], SR, SR, rng()).any()


def test_notes_at_and_over_the_edges_keep_the_length(bank):
    x = sing(
        bank,
        exact(LEARNT),
        [Sung(-1, 0.4, 50), Sung(0.3, 0.9, 52), Sung(1.8, 9, 50), Sung(4, 5, 50)],
        2 * SR,
        SR,
        rng(),
    )
    assert x.shape == (2 * SR,)
    assert x.dtype == np.float32
    assert part(x, 1.85, 2).any()


def test_same_seed_same_song(bank):
    notes = [Sung(0.5, 0.9, 50), Sung(0.9, 2.0, 52)]
    singer = bank.singer(rng(3))
    assert singer == bank.singer(rng(3))
    first, again, other = (sing(bank, singer, notes, 3 * SR, SR, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_speech_neither_holds_notes_nor_pitch(bank):
    notes = [Sung(0.5, 3.0, 50)]
    sung, spoken = (sing(bank, exact(LEARNT), notes, 4 * SR, SR, rng(), spoken=spoken) for spoken in (False, True))
    assert np.abs(part(sung, 2.0, 2.5)).max() > 0.05
    assert not part(spoken, 2.0, 2.5).any()
    assert np.abs(spoken).max() > 0.05


def test_every_singer_is_finite_and_within_full_scale(bank):
    notes = [Sung(0.5 + 0.4 * k, 0.88 + 0.4 * k, 48 + k % 5) for k in range(10)]
    styles = set()
    for seed in range(40):
        singer = bank.singer(rng(seed))
        styles.add(singer.style)
        x = sing(bank, singer, notes, 5 * SR, SR, rng(seed), spoken=seed % 5 == 0)
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= 1
        assert 0.02 < np.sqrt(np.mean(part(x, 0.5, 4.5) ** 2)) < 0.3
    assert styles == {"plain", "shouted", "breathy"}


def test_shouting_is_brighter_than_plain_singing(bank):
    def centroid(**manner):
        x = sing(bank, Singer(item=f"{LEARNT}.0.npz", **manner), [Sung(0.5, 2.5, 55)], 3 * SR, SR, rng())
        power = np.abs(np.fft.rfft(x)) ** 2
        return np.sum(power * np.fft.rfftfreq(len(x), 1 / SR)) / power.sum()

    assert centroid(tilt_db=10, ring_db=8, rasp=0.6) > 1.3 * centroid()


def test_singers_come_in_every_manner(bank):
    singers = [bank.singer(rng(seed)) for seed in range(400)]
    assert 0.09 < np.mean([singer.style == "shouted" for singer in singers]) < 0.22
    assert 0.05 < np.mean([singer.style == "breathy" for singer in singers]) < 0.16
    assert {bank.singer(rng(seed), sex="f").item for seed in range(20)} == {f"{HELDOUT}.0.npz"}


def test_heldout_and_training_voices_share_nobody(folder):
    learnt, heldout = Bank(folder, False), Bank(folder, True)
    assert [voice.name for voice in learnt.items] == [LEARNT]
    assert [voice.name for voice in heldout.items] == [HELDOUT]
    # Of espeak-ng's voices the variant is the throat.
    groups = [{(v.program, v.voice.split("+")[-1]) for v in VOICES if v.heldout is held} for held in (False, True)]
    assert not groups[0] & groups[1]
    assert {v.sex for v in VOICES if v.heldout} == {"m", "f"}
    assert len({v.name for v in VOICES}) == len(VOICES)


def test_a_bank_without_voices_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="build_bank"):
        Bank(tmp_path, None)


def test_another_sample_rate_is_refused(bank):
    with pytest.raises(ValueError, match="24000"):
        sing(bank, exact(LEARNT), [], 100, 48000, rng())


def test_what_is_in_the_bank_is_not_made_again(folder, monkeypatch):
    monkeypatch.setattr(voices, "analyse", None)
    made = []
    assert build_bank(folder, SR, voices=SPOKEN, progress=made.append) == []
    assert made == []
    assert {path.name for path in folder.iterdir()} == {f"{HELDOUT}.0.npz", f"{LEARNT}.0.npz"}


def test_a_broken_write_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(path, **arrays):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        build_bank(tmp_path, SR, voices=SPOKEN[:1])
    assert list(tmp_path.iterdir()) == []


def test_voices_that_are_not_installed_are_told(tmp_path, monkeypatch):
    absent = [
        Voice("a", "festival", "nobody_diphone", "m", ("Hello",), "festvox-nobody", ""),
        Voice("b", "asterisk", "xx_XX_f_Nobody", "f", ("hello",), "asterisk-core-sounds-xx", ""),
        Voice("c", "espeak-ng", "nosuch", "f", ("Hello",), "espeak-ng", ""),
        Voice("d", "flite", "nosuch", "f", ("Hello",), "flite", ""),
    ]
    assert build_bank(tmp_path, SR, voices=absent) == ["a", "b", "c", "d"]
    monkeypatch.setenv("PATH", "")
    assert build_bank(tmp_path, SR, voices=SPOKEN) == [voice.name for voice in SPOKEN]
    assert list(tmp_path.iterdir()) == []


def test_festival_that_says_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(voices, "FESTIVAL_VOICES", tmp_path)
    monkeypatch.setattr(voices, "find_program", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    (tmp_path / "xx" / "mute_diphone").mkdir(parents=True)
    mute = Voice("mute", "festival", "mute_diphone", "m", ("Hello",), "festvox-mute", "")
    assert build_bank(tmp_path / "bank", SR, voices=[mute]) == ["mute"]


def test_brightness_goes_on_above_the_source(folder):
    rate = 16000
    pulses = np.zeros(2 * rate)
    pulses[:: rate // 125] = 1
    buzz = lfilter([1], [1, -0.9], pulses) + 1e-3 * rng().standard_normal(len(pulses))
    reading = voices.analyse(buzz, rate, SR)
    hz = np.linspace(0, SR / 2, reading.envelopes.shape[1])
    level_db = 10 / np.log(10) * reading.envelopes[100:300].mean(axis=0)
    above = hz > 0.46 * rate
    np.testing.assert_allclose(np.diff(level_db[above]) / np.diff(hz[above]) * 1000, -3, atol=0.1)
    assert np.abs(np.diff(level_db[hz > 5000])).max() < 1
    bands = np.linspace(0, SR / 2, reading.aperiodicity.shape[1])
    assert (reading.aperiodicity[:, bands > 0.46 * rate] == 1).all()
    assert reading.aperiodicity[100:300, bands < 3000].mean() < 0.5
