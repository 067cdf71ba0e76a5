import json
import os
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from alm_plugin import Automation, Mixer, ParameterError, Strip, __version__
from alm_plugin.cli import _distances, main
from alm_plugin.data import presets_dir
from alm_plugin.errors import AlmError, AudioFileError
from alm_plugin.export.automation import read_csv, write_csv
from alm_plugin.models.loudness import Loudness


@pytest.fixture
def stems(tmp_path):
    """Three seconds of a band: loud kick, quiet vocals, a stereo guitar at another rate."""
    random = np.random.default_rng(0)
    folder = tmp_path / "stems"
    folder.mkdir()
    soundfile.write(folder / "vocals.wav", 0.01 * random.standard_normal(3 * 48_000), 48_000)
    soundfile.write(folder / "kick.wav", 0.2 * random.standard_normal(3 * 48_000), 48_000)
    soundfile.write(folder / "gtr.flac", 0.05 * random.standard_normal((3 * 44_100, 2)), 44_100)
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_demo_mixes_the_bundled_band_and_says_how_close_it_came(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("demo") == 0
    said = capsys.readouterr()
    for name in tomllib.loads((presets_dir() / "demo" / "demo.toml").read_text())["tracks"]:
        assert name in said.out
    assert "Distance to the true balance" in said.out
    assert "mixing" in said.err
    mix, rate = soundfile.read(tmp_path / "demo-mix.wav")
    assert 15.0 < len(mix) / rate < 25.0
    assert 0.01 < np.sqrt(np.mean(mix**2)) < 0.3
    assert np.abs(mix).max() <= 1.0


def test_demo_comes_much_closer_than_the_raw_faders(tmp_path, capsys):
    assert run("demo", "-o", tmp_path / "mix.wav", "--json") == 0
    distance = json.loads(capsys.readouterr().out)["distance_to_true_balance"]
    assert distance["before_db"] > 5.0
    assert distance["after_db"] < 0.5 * distance["before_db"]


def test_the_demos_distance_is_that_of_settled_gains_whatever_their_common_level():
    true_db = {"a": -6.0, "b": 0.0, "c": 3.0}
    times_s = np.arange(0.0, 10.0, 0.05)
    gains_db = {name: np.where(times_s < 5.0, 0.0, gain - 4.0).astype(np.float32) for name, gain in true_db.items()}
    distance = _distances(Automation(times_s, gains_db), true_db)
    assert distance == {"before_db": pytest.approx(3.0), "after_db": pytest.approx(0.0, abs=1e-5)}


def test_mix_prints_one_json_object(stems, tmp_path, capsys):
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--json", "--trim", "vocals=+2", "--lock", "kick=-3") == 0
    said = capsys.readouterr()
    assert said.err == ""
    report = json.loads(said.out)
    assert report["model"] == "alm-mr"
    assert report["sample_rate"] == 48_000
    assert report["seconds"] == pytest.approx(3.0)
    channels = {channel["name"]: channel for channel in report["channels"]}
    assert channels["kick"]["last_gain_db"] == -3.0
    # Noise 14 dB under the guitar: the network need not believe that it sings, but raises it.
    assert channels["vocals"]["last_gain_db"] > channels["gtr"]["last_gain_db"] + 9.0
    assert (channels["gtr"]["role"], channels["vocals"]["role"]) == ("guitar", "vocals")


def test_roles_guessed_from_names_reach_the_model(stems, tmp_path, capsys):
    differences = []
    for options in ([], ["--role", "vocals=none", "--role", "gtr=none"]):
        assert run("mix", stems, "-o", tmp_path / "mix.wav", "--json", "--model", "loudness", *options) == 0
        channels = {channel["name"]: channel for channel in json.loads(capsys.readouterr().out)["channels"]}
        differences.append(channels["vocals"]["last_gain_db"] - channels["gtr"]["last_gain_db"])
    # Noise 14 dB under the guitar: the rule brings it level, and above it when told that it is the voice.
    assert differences[1] == pytest.approx(14.0, abs=1.5)
    assert differences[0] > differences[1] + 2.0


def test_trim_adds_to_the_models_gain(stems, tmp_path, capsys):
    gains = []
    for trim in ("0", "+2.5"):
        run("mix", stems, "-o", tmp_path / "mix.wav", "--json", "--trim", f"vocals={trim}")
        channels = json.loads(capsys.readouterr().out)["channels"]
        gains.append(next(c["last_gain_db"] for c in channels if c["name"] == "vocals"))
    assert gains[1] - gains[0] == pytest.approx(2.5, abs=1e-5)


def test_roles_strength_mono_rate_and_depth(stems, tmp_path, capsys):
    arguments = ["--role", "gtr=bass", "--role", "kick=none", "--strength", "0", "--mono", "--bits", "16"]
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--json", *arguments, "--sample-rate", "32000") == 0
    channels = {c["name"]: c for c in json.loads(capsys.readouterr().out)["channels"]}
    assert (channels["gtr"]["role"], channels["kick"]["role"]) == ("bass", None)
    assert channels["vocals"]["last_gain_db"] == 0.0
    info = soundfile.info(tmp_path / "mix.wav")
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (32_000, 1, "PCM_16", 96_000)


def test_solo_and_mute_are_two_halves_of_a_mix_and_move_no_gain(stems, tmp_path, capsys):
    def mixed(*options):
        assert run("mix", stems, "-o", tmp_path / "mix.wav", "--json", "--lock", "kick=-9", *options) == 0
        report = json.loads(capsys.readouterr().out)
        return soundfile.read(tmp_path / "mix.wav", dtype="float32")[0], {c["name"]: c for c in report["channels"]}

    whole, before = mixed()
    solo, alone = mixed("--solo", "vocals", "--solo", "gtr")
    muted, others = mixed("--mute", "vocals", "--mute", "gtr")
    np.testing.assert_allclose(solo + muted, whole, rtol=0, atol=1e-6)
    assert min(np.abs(solo).max(), np.abs(muted).max()) > 0.01
    assert {name for name, channel in alone.items() if channel["last_gain_db"] is None} == {"kick"}
    assert {name for name, channel in others.items() if channel["last_gain_db"] is None} == {"vocals", "gtr"}
    assert alone["gtr"]["last_gain_db"] == before["gtr"]["last_gain_db"]
    # Muted comes last, and a solo of somebody else changes nothing about that.
    assert np.abs(mixed("--solo", "vocals", "--mute", "vocals")[0]).max() == 0.0


@pytest.fixture
def trio(tmp_path):
    path = tmp_path / "trio.toml"
    path.write_text(
        'model = "unity"\n[strip.vocals]\ngroup = "all"\n[strip.guitar]\ngroup = "all"\n'
        '[strip.kick]\ngroup = "vocals"\n[group.all]\ntrim_db = 1\n[group.vocals]\ntrim_db = -1\n[group.none]\n'
    )
    return path


@pytest.mark.parametrize(
    ("options", "gains_db"),
    [
        ([], {"gtr": 1.0, "kick": -1.0, "vocals": 1.0}),
        (["--trim", "all=-2", "--trim", "gtr=+0.5"], {"gtr": -0.5, "kick": -1.0, "vocals": -1.0}),
        (["--trim", "all=-2", "--trim", "all=-3"], {"gtr": -2.0, "kick": -1.0, "vocals": -2.0}),  # the last counts
        (["--mute", "all"], {"gtr": None, "kick": -1.0, "vocals": None}),
        (["--solo", "all"], {"gtr": 1.0, "kick": None, "vocals": 1.0}),
        # A channel comes before a group of that name.
        (["--trim", "vocals=-2", "--solo", "vocals"], {"gtr": None, "kick": None, "vocals": -1.0}),
    ],
)
def test_trim_mute_and_solo_of_groups(stems, tmp_path, trio, capsys, options, gains_db):
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--preset", trio, "--json", *options) == 0
    channels = json.loads(capsys.readouterr().out)["channels"]
    assert {channel["name"]: channel["last_gain_db"] for channel in channels} == gains_db


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--trim", "none=2"],
            "--trim must name one of the channels gtr, kick, vocals, or of its groups all, vocals, got 'none'",
        ),
        (
            ["--solo", "drums"],
            "--solo must name one of the channels gtr, kick, vocals, or of its groups all, vocals, got",
        ),
        (["--lock", "all=-3"], "--lock must name one of the channels gtr, kick, vocals, got 'all'"),
        (["--trim", "all=24"], "all: trim_db must be in [-60, 24], got 25"),
        (["--automation-in", "c.csv", "--trim", "all=2"], "--trim all must not meet a curve of gtr: edit that, got +2"),
    ],
)
def test_groups_that_do_not_fit(stems, tmp_path, trio, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    Path("c.csv").write_text("time_s,gtr\n0,0\n")
    assert run("mix", stems, "-o", "mix.wav", "--preset", trio, *options) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not Path("mix.wav").exists()


def test_table_for_people(stems, tmp_path, capsys):
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--stems-out", tmp_path / "out") == 0
    said = capsys.readouterr()
    for word in ("vocals", "kick", "gtr", "LUFS"):
        assert word in said.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["gtr.wav", "kick.wav", "vocals.wav"]


def test_automation_goes_out_and_comes_back_with_the_same_samples(stems, tmp_path):
    first, second, curves = tmp_path / "1.wav", tmp_path / "2.wav", tmp_path / "gains.csv"
    assert run("mix", stems, "-o", first, "--automation", curves, "--strength", "70", "--trim", "kick=0.7") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.wav", "gains.csv", "stems"]
    lines = curves.read_text().splitlines()
    assert lines[0] == "time_s,gtr,kick,vocals"
    assert len(lines) == 1 + 60
    assert [line.split(",")[0] for line in lines[1:4]] == ["0.000000", "0.050000", "0.100000"]
    assert run("mix", stems, "-o", second, "--automation-in", curves, "--model", "unity") == 0
    np.testing.assert_array_equal(soundfile.read(second)[0], soundfile.read(first)[0])


def test_an_edited_curve_replaces_only_what_it_names(stems, tmp_path, capsys):
    (tmp_path / "gains.csv").write_text("time_s,kick\n0,-6\n1.5,-inf\n2.0,\n")
    arguments = ["--automation-in", tmp_path / "gains.csv", "--automation", tmp_path / "out.csv"]
    arguments += ["--model", "loudness"]
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--json", *arguments) == 0
    curves = read_csv(tmp_path / "out.csv").gains_db
    assert (curves["kick"][:30] == -6.0).all()
    assert (curves["kick"][30:40] == -np.inf).all()
    assert np.isfinite(curves["kick"][40:]).all()
    assert curves["vocals"][-1] > 5.0


def test_a_channel_that_was_not_there_has_empty_cells(tmp_path):
    mixer = Mixer({"a": Strip()}, "unity")
    tone = np.full((2, 4_800), 0.1, np.float32)
    mixer.process(tone[:1], 48_000, reset=False)
    mixer.add("b", Strip(mute=True))
    mixer.process(tone, 48_000, reset=False)
    write_csv(mixer.automation, tmp_path / "gains.csv")
    text = (tmp_path / "gains.csv").read_text()
    assert text == ("time_s,a,b\n0.000000,0.0,\n0.050000,0.0,\n0.100000,0.0,-inf\n0.150000,0.0,-inf\n")
    # As a spreadsheet saves it.
    (tmp_path / "gains.csv").write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig")
    back = read_csv(tmp_path / "gains.csv")
    for name, curve in mixer.automation.gains_db.items():
        np.testing.assert_array_equal(back.gains_db[name], curve)


def test_curves_that_cannot_be_written_leave_the_old_ones(tmp_path, monkeypatch):
    (tmp_path / "gains.csv").write_text("yesterday's")
    curves = Automation(np.zeros(1), {"a": np.zeros(1, np.float32)})
    monkeypatch.setattr("csv.writer", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(AudioFileError, match=r"gains\.csv: expected to write it whole, got no space left on"):
        write_csv(curves, tmp_path / "gains.csv")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["yesterday's"]


@pytest.mark.parametrize(("time_s", "want"), [(0.0, None), (0.0999995, -1.0), (0.15, -1.0), (0.2, None), (9.0, -3.0)])
def test_a_curve_holds_until_its_next_row(time_s, want):
    curve = Automation(np.array([0.1, 0.2, 0.3]), {"a": np.float32([-1.0, np.nan, -3.0])})
    assert curve.at("a", time_s) == want
    assert curve.at("b", time_s) is None


def test_csv_keeps_every_bit(tmp_path, rng):
    mixer = Mixer({"a, b": Strip(), 'say "c"': Strip()})
    mixer.process([rng.standard_normal(50_000) * 0.1, rng.standard_normal(50_000) * 0.01], 44_100)
    write_csv(mixer.automation, tmp_path / "gains.csv")
    back = read_csv(tmp_path / "gains.csv")
    assert list(back.gains_db) == ["a, b", 'say "c"']
    for name, curve in mixer.automation.gains_db.items():
        np.testing.assert_array_equal(back.gains_db[name], curve)
    np.testing.assert_allclose(back.times_s, mixer.automation.times_s, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a header time_s,<channel>"),
        ("seconds,kick\n0,1\n", "expected a header time_s,<channel>"),
        ("time_s,kick,kick\n0,1,2\n", "without repeats"),
        ("time_s,kick\n", "at least one row of gains, got none"),
        ("time_s,kick\n0\n", "line 2 must have 2 cells, got 1"),
        ("time_s,kick\n0,loud\n", r"line 2: kick must be a gain in \[-120, 60\] dB or -inf, got 'loud'"),
        ("time_s,kick\n0,nan\n", "got 'nan'"),
        ("time_s,kick\n0,61\n", "got '61'"),
        ("time_s,kick\n0,0\n0,0\n", "line 3: time_s must rise, got 0"),
        ("time_s,kick\n-1,0\n", "time_s must be a number of seconds >= 0, got '-1'"),
    ],
)
def test_bad_csv_is_named_by_line(tmp_path, text, says):
    (tmp_path / "gains.csv").write_text(text)
    with pytest.raises(AudioFileError, match=says):
        read_csv(tmp_path / "gains.csv")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "alm-xl"], "model must be one of"),
        (["--model", "missing.safetensors"], "missing.safetensors"),
        (["--trim", "violin=+2"], "--trim must name one of the channels gtr, kick, vocals, got 'violin'"),
        (["--trim", "vocals"], "--trim must be NAME=VALUE, got 'vocals'"),
        (["--trim", "vocals=loud"], "--trim vocals must be a number of dB, got 'loud'"),
        (["--trim", "vocals=99"], "trim_db must be in"),
        (["--trim", "vocals=nan"], "trim_db must be in"),
        (["--lock", "vocals=99"], "vocals: lock_db must be"),
        (["--solo", "violin"], "--solo must name one of the channels gtr, kick, vocals, got 'violin'"),
        (["--mute", ""], "--mute must name one of the channels gtr, kick, vocals, got ''"),
        (["--role", "vocals=kazoo"], "vocals: role must be one of"),
        (["--strength", "101"], "strength must be in [0, 100] %, got 101"),
        (["--sample-rate", "0"], "sample_rate must be a whole number in [8000, 192000] Hz, got 0"),
        (["--automation-in", "none.csv"], "none.csv: expected a CSV file"),
        (["--automation", "no/such/gains.csv"], "expected an existing folder"),
        (["--stems-out", "stems/kick.wav"], "stems/kick.wav: file exists"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(stems, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert run("mix", stems, "-o", "mix.wav", *arguments) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.startswith("alm: ")
    assert said.err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stems"]


def test_a_mix_that_is_stopped_says_so_and_leaves_nothing(stems, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Mixer, "process", stop)
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--automation", tmp_path / "gains.csv") == 130
    assert capsys.readouterr().err == "alm: stopped, nothing written\n"
    assert [p.name for p in tmp_path.iterdir()] == ["stems"]


def test_json_of_silence_is_json(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(48_000), 48_000)
    assert run("mix", tmp_path / "a.wav", "-o", tmp_path / "mix.wav", "--json", "--lock", "a=-inf") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["loudness_lufs"] is report["peak_dbfs"] is report["channels"][0]["last_gain_db"] is None


def test_faults_and_a_bent_mix_are_said(stems, tmp_path, monkeypatch, capsys):
    def dead(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Loudness, "step", dead)
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--lock", "kick=24", "--model", "loudness") == 0
    said = capsys.readouterr().out
    assert "The ceiling bent" in said
    assert "model: 60 faults; the sound went on." in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "mix.wav", "--stems-out", "stems"], "kick.wav: expected an output that is none of the tracks"),
        (["-o", "mix.wav", "--automation", "stems/kick.wav"], "none of the tracks, got track 'kick'"),
        (["-o", "mix.wav", "--automation", "mix.wav"], "mix.wav: expected outputs to differ, got this one twice"),
        (["-o", "kick.wav", "--stems-out", "."], "kick.wav: expected outputs to differ, got this one twice"),
        (["-o", "mix.wav", "--automation", "stems"], "stems: expected a file, got a folder"),
        (["-o", "mix.wav", "--automation", ""], ".: expected a file, got a folder"),
    ],
)
def test_outputs_overwrite_neither_tracks_nor_each_other(stems, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    (stems / "gtr.flac").unlink()
    before = {path.name: path.read_bytes() for path in stems.iterdir()}
    assert run("mix", "stems", *arguments) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in stems.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stems"]


def test_wrong_options_are_one_line_and_status_2(stems, capsys):
    with pytest.raises(SystemExit) as left:
        run("mix", stems, "-o", "mix.wav", "--bits", "8")
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("alm mix: argument --bits: invalid choice")
    assert said.count("\n") == 1


def test_a_trim_and_a_curve_for_one_channel_contradict(stems, tmp_path, capsys):
    (tmp_path / "gains.csv").write_text("time_s,kick\n0,0\n\n")
    arguments = ["--automation-in", tmp_path / "gains.csv", "--trim", "kick=6"]
    assert run("mix", stems, "-o", tmp_path / "mix.wav", *arguments) == 2
    assert "--trim kick must not meet a curve of kick: edit that, got +6" in capsys.readouterr().err


def test_names_are_printed_as_they_are(tmp_path, capsys):
    soundfile.write(tmp_path / "[red]:smile:.wav", 0.1 * np.ones(4_800), 48_000)
    assert run("mix", tmp_path, "-o", tmp_path / "[bold]mix.wav") == 0
    said = capsys.readouterr().out
    assert "[red]:smile:" in said
    assert "[bold]mix.wav" in said.replace("\n", "").replace(" ", "")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_closed_terminal_leaves_nothing_half_written(tmp_path, name, capsys, monkeypatch, request):
    soundfile.write(tmp_path / "a.wav", np.zeros(480_000), 48_000)
    process = Mixer.process

    def closed(self, *arguments, **options):
        if self.automation.times_s.size > 20:
            os.kill(os.getpid(), getattr(signal, name))
        return process(self, *arguments, **options)

    monkeypatch.setattr(Mixer, "process", closed)
    # Started in the background, a shell's child begins with interrupts ignored.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handler = signal.getsignal(getattr(signal, name))
    assert run("mix", tmp_path / "a.wav", "-o", tmp_path / "mix.wav") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "alm: stopped, nothing written"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    assert signal.getsignal(getattr(signal, name)) == handler


def test_bad_files_are_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(b"RIFFjunk")
    assert run("mix", tmp_path / "a.wav", "-o", tmp_path / "mix.wav") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "a.wav: expected audio" in said.err
    assert not (tmp_path / "mix.wav").exists()


def test_a_curve_for_a_channel_that_is_not_there(stems, tmp_path, capsys):
    (tmp_path / "gains.csv").write_text("time_s,violin\n0,0\n")
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--automation-in", tmp_path / "gains.csv") == 2
    assert "column must name one of the channels gtr, kick, vocals, got 'violin'" in capsys.readouterr().err


def test_untrained_networks_are_not_passed_off_as_models(stems, tmp_path, capsys):
    shipped = {path.stem for path in (presets_dir() / "models").glob("*.safetensors")}
    for name in {"alm-mr", "alm-sr", "dmc-og", "dmc-b-0l"} - shipped:
        assert run("mix", stems, "-o", tmp_path / "mix.wav", "--model", name) == 2
        assert f"model '{name}' has no trained weights in this version" in capsys.readouterr().err


def test_help_and_version_of_the_installed_command():
    for arguments, word in ((["--help"], "demo"), (["mix", "--help"], "--automation-in"), (["--version"], __version__)):
        command = [sys.executable, "-c", "import sys; from alm_plugin.cli import main; sys.exit(main())", *arguments]
        assert word in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_error_is_an_alm_error():
    assert issubclass(ParameterError, AlmError)
    assert issubclass(ParameterError, ValueError)
