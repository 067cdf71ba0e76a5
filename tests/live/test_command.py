import json
import subprocess
import sys

import pytest
import soundfile

from alm_plugin.cli import main
from alm_plugin.errors import ParameterError
from alm_plugin.live import command
from alm_plugin.live.devices import list_devices
from alm_plugin.live.safety import StageLimits


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


SILENT = ["--backend", "silent", "--model", "loudness", "--seconds", "1.5", "--json"]


def test_a_band_is_mixed_recorded_and_comes_back(tmp_path, capsys):
    band = ["--input", "vocals=1", "--input", "keys=2,3", "--preset", "rock"]
    assert main(["live", *band, *SILENT, "--record", str(tmp_path / "take"), "--soundcheck", "0.5"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["frames"] > 10
    assert said["faults"] == []
    assert list(said["gains_db"]) == ["vocals", "keys"]
    assert 0.0 < said["callback_us"]["p50"] < said["callback_us"]["max"]
    for name in ("vocals", "keys L", "keys R", "mix"):
        assert soundfile.info(tmp_path / "take" / f"{name}.wav").frames > 48_000
    kept = json.loads((tmp_path / "config" / "alm" / "live.json").read_text())
    assert kept["freeze"] is True
    assert main(["live", *band, *SILENT, "--resume"]) == 0
    assert json.loads((tmp_path / "config" / "alm" / "live.json").read_text())["freeze"] is True


@pytest.mark.parametrize(
    ("arguments", "limits", "runtime"),
    [
        ([], StageLimits(), "torch"),
        (["--range", "2"], StageLimits(range_db=2.0), "torch"),
        (["--no-limits", "--runtime", "onnx"], None, "onnx"),
    ],
)
def test_limits_and_runtime_reach_the_mixer(arguments, limits, runtime, monkeypatch, capfd):
    seen = []

    def live(mixer, device, **options):
        seen.append((options["limits"], options["runtime"], mixer["in 1"].slew_db_per_s))
        raise ParameterError("no sound")

    monkeypatch.setattr(command, "Live", live)
    assert main(["live", "--inputs", "2", *SILENT, *arguments]) == 2
    assert seen == [(limits, runtime, limits and 12.0)]


def test_one_that_plays_on_without_its_supervisor_is_named(tmp_path, capfd):
    code = "import sys, time; print('plays', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, "multiprocessing"], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"plays\n"
        kept = tmp_path / "config" / "alm" / "live.json"
        kept.parent.mkdir(parents=True)
        kept.write_text(json.dumps({"plays_in": other.pid}))
        assert main(["live", "--inputs", "2", *SILENT]) == 2
        assert (
            f"no other mixer may play on, got one of the last time ('kill {other.pid}' ends it)"
            in capfd.readouterr().err
        )
    finally:
        other.kill()
        other.communicate()
    assert main(["live", "--inputs", "2", *SILENT]) == 0
    assert json.loads(kept.read_text())["plays_in"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--inputs N or --input NAME=PORT must be given, got neither"),
        (["--inputs", "0"], "--inputs must be in [1, 64], got 0"),
        (["--inputs", "2", "--input", "a=1"], "--inputs must come without --input, got both"),
        (["--input", "a"], "--input must be NAME=PORT or NAME=PORT,PORT, got 'a'"),
        (["--input", "a=1,2,3"], "--input must be NAME=PORT or NAME=PORT,PORT, got 'a=1,2,3'"),
        (["--input", "a=1", "--input", "a=2"], "--input must name every channel once, got 'a' twice"),
        (["--inputs", "2", "--output", "1"], "--output must be 2 ports, got '1'"),
        (["--inputs", "2", "--range", "-1"], "range_db must be in [0, 60], got -1"),
        (["--inputs", "2", "--role", "x=bass"], "--role must name one of in 1, in 2, got 'x'"),
        (["--inputs", "2", "--backend", "silent", "--device", "x"], "name of a silent device must be 'silence'"),
        (["--inputs", "2", "--backend", "silent", "--block-size", "8192"], "block_size must leave"),
        (["--inputs", "2", "--backend", "jack", "--device", "nobody"], "JACK"),
        (["--inputs", "2", "--backend", "silent", "--resume"], "expected the settings of the last time"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_sound(arguments, said, capfd):
    assert main(["live", *arguments]) == 2
    out, err = capfd.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_devices_are_listed(capsys):
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [info["backend"] for info in found] == [info.backend for info in list_devices()]
    assert main(["devices"]) == 0
    assert "silence" in capsys.readouterr().out
