import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from alm_plugin import load_session
from alm_plugin.export.automation import read_csv

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def is_mixed_with_its_curves(space, said):
    assert Path("song-mix.wav").stat().st_size > 100_000
    assert space["report"].faults == {}
    curves = read_csv("song-gains.csv").gains_db
    for name, gains_db in space["mixer"].automation.gains_db.items():
        np.testing.assert_array_equal(curves[name], gains_db)
    assert space["strips"]["snare"].group == "drums"


def streams_the_same_samples(space, said):
    assert (space["streamed"] == space["whole"]).all()


def moves_the_level(space, said):
    assert 0.9 < abs(space["alone"]).max() <= 1.0
    assert abs(space["alone"]).min() == 0.0


def ducks(space, said):
    gains = space["mixer"].automation.gains_db
    assert gains["voice"][-1] == 0.0
    assert gains["band"][-1] < -5.0


def breathes(space, said):
    beat, between = space["levels"]
    assert beat < 0.7 * between
    mixer, parts = space["mixer"], []
    mixer.reset()
    for start in range(0, 96_000, 441):
        tracks = {name: space[name][start : start + 441] for name in ("kick", "pad", "lead")}
        parts.append(mixer.process(tracks, 48_000, reset=False))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), space["mix"], rtol=0, atol=1e-6)


def has_plugins_where_there_are_any(space, said):
    assert space["report"].faults == {}
    twin = load_session("preset-session").mixer
    assert [repr(type(plugin)) for plugin in twin["vocals"].pre] == [repr(type(plugin)) for plugin in space["voice"]]
    for name in ("ZamEQ2", "ZamCompX2"):
        assert (f"{name}: 0 samples late" in said) == Path(f"/usr/lib/vst3/{name}.vst3").exists()
        assert (f"without it: {name}" in said) != (f"{name}: 0 samples late" in said)


def plays_on_stage(space, said):
    assert "keys: -9.0 dB, yours" in said
    assert soundfile.info("take/mix.wav").duration == pytest.approx(6.0, abs=0.1)
    assert np.abs(read_csv("take/curves.csv").gains_db["vocals"]).max() <= 4.0


def brings_them_back(space, said):
    assert "guitar: turn down" in said
    assert abs(space["trims_db"]["guitar"] + 9.5) < 3.0
    assert abs(space["trims_db"]["vocals"] - 8.0) < 3.0


def teaches(space, said):
    assert Path("dqn.safetensors").stat().st_size > 40_000


PROMISED = {
    "dqn": teaches,
    "mix_a_song": is_mixed_with_its_curves,
    "on_stage": plays_on_stage,
    "preset_and_plugin": has_plugins_where_there_are_any,
    "soundcheck": brings_them_back,
    "stream_blocks": streams_the_same_samples,
    "your_own_console": breathes,
    "your_own_model": ducks,
    "your_own_node": moves_the_level,
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_does_what_it_says(path, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert len(path.read_text().splitlines()) <= 50
    space = runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert said
    assert "nan" not in said
    PROMISED[path.stem](space, said)


def test_there_are_those_that_are_promised():
    assert [path.stem for path in EXAMPLES] == list(PROMISED)
