"""The three processes together: what is heard, what is kept, and what is refused before any sound."""

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pedalboard import Compressor

from alm_plugin import LatencyError, Mixer, ParameterError, Strip
from alm_plugin.export.automation import read_csv
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.recorder import Recorder, WavFile
from alm_plugin.live.supervisor import Live, recall

RATE, BLOCK = 48_000, 128


def band(model="loudness", **kwargs):
    strips = {"vocals": Strip([Compressor(-20, 3)], role="vocals"), "kick": Strip(), "keys": Strip(pan=0.3)}
    return Mixer(strips, model, **kwargs)


def music(seconds, channels, seed=0):
    rng = np.random.default_rng(seed)
    beat = np.abs(np.sin(np.arange(int(seconds * RATE)) * np.pi * 2 / RATE))
    return (0.1 * beat * rng.standard_normal((channels, len(beat)))).astype(np.float32)


def until(condition, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it does not happen")


def free(source, **kwargs):
    return DeviceSpec("silent", sample_rate=RATE, block_size=BLOCK, source=source, freewheel=True, **kwargs)


REAL_TIME = DeviceSpec("silent", sample_rate=RATE, block_size=BLOCK)


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


# ---- the same as offline ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["unity", "loudness", "alm-mr"])
def test_live_is_offline_to_the_bit(tmp_path, model):
    x = music(3, 4)
    live = Live(band(model), free(x), stereo=["keys"], record=tmp_path / "take")
    with live:
        assert live.ended.wait(60)
    state = live.state()
    assert (state["late_frames"], state["faults"]) == (0, [])
    offline = band(model)
    want = offline.process({"vocals": x[0], "kick": x[1], "keys": x[2:]}, RATE, BLOCK)
    np.testing.assert_array_equal(read(tmp_path / "take" / "mix.wav"), want)
    for row, name in enumerate(("vocals", "kick", "keys L", "keys R")):
        np.testing.assert_array_equal(read(tmp_path / "take" / f"{name}.wav")[0], x[row])
    curves = read_csv(tmp_path / "take" / "curves.csv")
    frames = len(curves.times_s)
    assert frames == 60
    for name, curve in curves.gains_db.items():
        np.testing.assert_array_equal(curve, offline.automation.gains_db[name][:frames])


def test_the_audio_process_has_no_torch():
    with Live(band("alm-mr"), REAL_TIME) as live:
        until(lambda: live.state()["frames"] > 2)
        maps = {p.name: Path(f"/proc/{p.pid}/maps").read_text() for p in (live._audio, live._worker)}
    assert "libtorch" in maps["alm worker"]
    assert "libtorch" not in maps["alm audio"]


def test_a_jack_client_hears_what_offline_would_have_played(jackd, tmp_path):
    names = [f"ch{k}" for k in range(8)]
    mixer = Mixer({name: Strip([Compressor(-20, 3)]) for name in names}, "loudness")
    live = Live(mixer, DeviceSpec("jack", jackd.name, channel_map={}), record=tmp_path / "take")
    with live:
        targets = [f"alm:{name}" for name in names]
        played, heard, size = jackd.play(tmp_path, targets, ["alm:mix L", "alm:mix R"], 400)
        state = live.state()
    assert size == BLOCK
    # What came in while it played, mixed again with the gains that were recorded.
    inputs = {name: read(tmp_path / "take" / f"{name}.wav")[0] for name in names}
    curves = read_csv(tmp_path / "take" / "curves.csv")
    offline = Mixer({name: Strip([Compressor(-20, 3)]) for name in names}, "loudness", automation=curves)
    want = offline.process(inputs, RATE, BLOCK)
    took = read(tmp_path / "take" / "mix.wav")
    frames = len(curves.times_s) * RATE // 20
    exact = (took[:, :frames] == want[:, :frames]).all(axis=0)
    assert exact.mean() > 0.98
    # The other client got those samples, one period after it had sent what is in them: JACK's, not the mixer's.
    first = inputs["ch0"].tolist().index(played[0, 0])
    np.testing.assert_array_equal(inputs["ch0"][first : first + 10 * BLOCK], played[0, : 10 * BLOCK])
    blocks = [
        np.array_equal(heard[:, k * BLOCK : (k + 1) * BLOCK], took[:, first + (k - 1) * BLOCK : first + k * BLOCK])
        for k in range(1, 400)
    ]
    assert np.mean(blocks) >= 0.98
    assert state["frames"] > 10


# ---- the operator ----------------------------------------------------------------------------------------------------


def test_what_the_operator_sets_is_heard_and_shown():
    with Live(band("unity"), DeviceSpec("silent", None, RATE, BLOCK, source=_Tone())) as live:
        until(lambda: live.state()["frames"] > 5)
        quiet = live.state()["strips"][0]
        assert quiet["gain_db"] == 0.0
        live.command("trim_db", 0, -6.0)
        live.command("lock_db", 1, -20.0)
        live.command("mute", 2, True)
        until(lambda: [s["gain_db"] for s in live.state()["strips"]] == [-6.0, -20.0, 0.0])
        until(lambda: heard(live) == [True, True, False])
        assert live.state()["strips"][1]["why"].startswith("yours")
        live.command("solo", 0, True)
        until(lambda: heard(live) == [True, False, False])
        assert live.state()["strips"][1]["why"] == "others are in solo"
        live.command("solo", 0, False)
        live.command("panic", None, True)
        until(lambda: live.state()["mix"]["peak_db"][0] < -60)
        assert heard(live) == [False, False, False]
        live.command("panic", None, False)
        until(lambda: heard(live) == [True, True, False])
        live.command("lock_db", 1, None)
        live.command("mute", 2, False)
        until(lambda: [s["gain_db"] for s in live.state()["strips"]] == [-6.0, 0.0, 0.0])
        live.command("bypass", None, True)
        until(lambda: len({s["gain_db"] for s in live.state()["strips"]}) == 1)
        assert -6.0 < live.state()["strips"][0]["gain_db"] < 0.0
        live.command("bypass", None, False)
        until(lambda: [s["gain_db"] for s in live.state()["strips"]] == [-6.0, 0.0, 0.0])
        assert live.state()["mix"]["loudness_lufs"] > -40
        with pytest.raises(ParameterError, match="trim_db must be in"):
            live.command("trim_db", 0, 99.0)
        with pytest.raises(ParameterError, match=r"strip must be in \[0, 2\], got 7"):
            live.command("mute", 7, True)


def heard(live):
    return [s["output_db"] > -np.inf for s in live.state()["strips"]]


class _Tone:
    """Blocks of a tone, without an end, on three channels."""

    def __iter__(self):
        t = np.arange(RATE)
        tones = 0.1 * np.sin(2 * np.pi * np.array([[220], [110], [330]]) * t / RATE).astype(np.float32)
        while True:
            for start in range(0, RATE, BLOCK):
                yield tones[:, start : start + BLOCK]


def test_settings_are_kept_and_come_back(tmp_path):
    with Live(band("unity"), REAL_TIME, state=tmp_path / "last.json") as live:
        live.command("trim_db", 0, 2.5)
        live.command("lock_db", 1, -7.0)
        live.command("strength", None, 40.0)
    mixer = band("unity")
    recall(mixer, tmp_path / "last.json")
    assert (mixer["vocals"].trim_db, mixer["kick"].lock_db, mixer.strength) == (2.5, -7.0, 40.0)
    (tmp_path / "last.json").write_text("{}")
    with pytest.raises(ParameterError, match=r"last.json: expected the settings of the last time"):
        recall(mixer, tmp_path / "last.json")


# ---- before any sound ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (DeviceSpec("silent", None, RATE, 4_096), "block_size must leave unity .* got 4096 samples, which are 85.3 ms"),
        (DeviceSpec("tape"), "backend must be one of jack, portaudio, silent, got 'tape'"),
        (DeviceSpec("silent", None, 7_000), "sample_rate must be"),
    ],
)
def test_what_does_not_fit_is_said_before_any_sound(device, said):
    with pytest.raises(ParameterError, match=said):
        Live(band("unity"), device).start()


def test_a_model_of_ones_own_has_to_be_a_file():
    class Own:
        metadata = band("unity").model.metadata
        embed = step = initial_state = lambda *_: None

    with pytest.raises(ParameterError, match="model must ship or be a file"):
        Live(band(Own()), REAL_TIME)


def test_latent_chains_are_refused_on_stage_by_name():
    from pedalboard_native._internal import AddLatency

    mixer = Mixer({"a": Strip([AddLatency(100)])}, "unity")
    mixer.zero_latency = True
    with pytest.raises(LatencyError, match="strip 'a' must add no latency, got 100 samples"):
        Live(mixer, REAL_TIME).start()


# ---- recordings ------------------------------------------------------------------------------------------------------


def test_a_wav_file_is_whole_after_every_block(tmp_path, rng):
    x = rng.standard_normal((2, 5_000)).astype(np.float32)
    file = WavFile(tmp_path / "x.wav", 2, RATE)
    for start in range(0, 5_000, 1_000):
        np.testing.assert_array_equal(read(tmp_path / "x.wav"), x[:, :start])
        file.write(x[:, start : start + 1_000])
    file.close()
    np.testing.assert_array_equal(read(tmp_path / "x.wav"), x)
    assert soundfile.info(tmp_path / "x.wav").subtype == "FLOAT"


def test_a_wav_file_that_is_full_goes_on_in_another(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("alm_plugin.live.recorder._LARGEST", 4_000)
    x = rng.standard_normal((1, 2_000)).astype(np.float32)
    file = WavFile(tmp_path / "x.wav", 1, RATE)
    for start in range(0, 2_000, 100):
        file.write(x[:, start : start + 100])
    file.close()
    parts = [read(tmp_path / f"{name}.wav") for name in ("x", "x 2")]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), x)


def test_a_recording_is_never_written_over(tmp_path):
    from alm_plugin import AudioFileError
    from alm_plugin.features.clock import MULTI_RATE

    Recorder(tmp_path, ["a"], ["a"], 2, RATE, MULTI_RATE).close()
    with pytest.raises(AudioFileError, match="expected a folder without recordings"):
        Recorder(tmp_path, ["a"], ["a"], 2, RATE, MULTI_RATE)
