import json
import re

import pytest
import soundfile

from alm_plugin import __version__
from solar.cli import main
from solar.songs import compose

COMMANDS = ("analyse", "soundcheck", "simulate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stems")
    for name, stem in compose("a", 30.0).items():
        soundfile.write(folder / f"{name}.wav", stem, 44_100)
    return folder


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_says_what_for(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main(["--help"] if command is None else [command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: solar {'' if command is None else command}")
    if command is None:
        assert all(re.search(rf"^\s+{name}\s+\w", said, re.MULTILINE) for name in COMMANDS)
        return
    # Every option says something, and there is an example.
    options = re.findall(r"^  (--?[\w-]+.*(?:\n {8,}.*)*)", said, re.MULTILINE)
    assert all(len(re.split(r"\s{2,}|\n", option, maxsplit=1)) == 2 for option in options)


def test_soundcheck_shows_how_it_is_used(capsys):
    with pytest.raises(SystemExit):
        main(["soundcheck", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for example in ("--model-dir htdemucs", "--input multitrack --player guitar --player vocals", "--channel room=2"):
        assert example in said


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"solar {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "solar: the following arguments are required: COMMAND"),
        (["dance"], "solar: argument COMMAND: invalid choice: 'dance'"),
        (["soundcheck"], "solar soundcheck: the following arguments are required: --reference"),
        (["soundcheck", "--reference", "nowhere", "--input", "nowhere"], "solar: nowhere: expected an audio file or a"),
        (["analyse", "nowhere"], "solar: nowhere: expected an audio file or a folder"),
        (["simulate", "--policy", "luck"], "solar simulate: argument --policy: invalid choice: 'luck'"),
    ],
)
def test_what_does_not_fit_is_one_line_and_status_2(capsys, arguments, said):
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_a_soundcheck_prints_one_object(folder, capsys):
    assert main(["soundcheck", "--reference", str(folder), "--input", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == {"seconds", "broken_s", "clipped_s", "late_s", "players", "said"}
    assert said["seconds"] == 30
    assert abs(said["players"]["guitar"]["error_db"]) <= 2.0


def test_it_can_be_stopped(folder, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("solar.soundcheck.Reference", stop)
    assert main(["soundcheck", "--reference", str(folder), "--input", str(folder), "--json"]) == 130
    assert capsys.readouterr().err == "solar: stopped, nothing written\n"
