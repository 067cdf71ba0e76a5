import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_says_something(path, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(path)])
    space = runpy.run_path(str(path))
    said = capsys.readouterr().out
    assert said
    assert "nan" not in said
    if path.stem == "mix_a_song":
        assert (tmp_path / "song-mix.wav").stat().st_size > 100_000
        assert space["report"].faults == {}
    if path.stem == "stream_blocks":
        assert (space["streamed"] == space["whole"]).all()
    if path.stem == "your_own_node":
        assert 0.9 < abs(space["alone"]).max() <= 1.0
        assert abs(space["alone"]).min() == 0.0
    if path.stem == "your_own_model":
        gains = space["mixer"].automation.gains_db
        assert gains["voice"][-1] == 0.0
        assert gains["band"][-1] < -5.0

    if path.stem == "preset_and_plugin":
        assert space["report"].faults == {}
        assert ("ZamCompX2: " in said) == Path("/usr/lib/vst3/ZamCompX2.vst3").exists()


def test_there_are_those_that_are_promised():
    promised = ["mix_a_song", "preset_and_plugin", "stream_blocks", "your_own_model", "your_own_node"]
    assert [path.stem for path in EXAMPLES] == promised
