"""``alm-train`` as a user runs it, with the recipe that takes seconds."""

import json
import shutil

import pytest
import torch

from alm_plugin.cli import train as alm_train
from alm_plugin.models.files import load_weights
from training import corpus, speakers
from training.corpus import KINDS, SOUNDS
from training.midi import SOUNDFONTS

# Two of either kind, and one that need not be installed: to let all sing takes as long as everything else together.
FEW = [speakers.VOICES[0], *[voice for voice in speakers.VOICES if voice.program == "espeak-ng"][1:5]]
FONTS = {font for kind in KINDS.values() for font in (*kind.soundfonts, *kind.kits)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    missing = [SOUNDS[font] for font in sorted(FONTS) if not (SOUNDFONTS / font).is_file()]
    missing += [program for program in ("fluidsynth", "espeak-ng") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"Debian packages are not installed: {', '.join(missing)}")
    work = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        for module in (speakers, corpus):
            patch.setattr(module, "VOICES", FEW)
        assert alm_train(["--recipe", "smoke", "--work", str(work), "--workers", "1", "--json"]) == 0
        yield work


def test_a_model_comes_out_of_debian_packages(trained, capsys):
    network, metadata = load_weights(trained / "run-0" / "alm-mr.safetensors")
    assert network.gain == "memory"
    assert metadata.name == "alm-mr"
    assert "4 songs composed" in metadata.training_data
    steps = [json.loads(line) for line in (trained / "run-0" / "log.jsonl").read_text().splitlines()]
    assert [step["stage"] for step in steps if step["step"] == 1][:1] == ["encode"]
    assert {"encode", "gains", "mix"} == {step["stage"] for step in steps}


def test_given_again_it_has_nothing_left_to_do(trained, capsys):
    lines = (trained / "run-0" / "log.jsonl").read_text()
    weights = (trained / "run-0" / "alm-mr.safetensors").read_bytes()
    assert alm_train(["train", "--recipe", "smoke", "--work", str(trained), "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"].endswith("alm-mr.safetensors")
    assert (trained / "run-0" / "log.jsonl").read_text() == lines
    assert (trained / "run-0" / "alm-mr.safetensors").read_bytes() == weights


def test_another_seed_can_hear_with_a_trained_encoder(trained, capsys):
    command = ["--recipe", "smoke", "--work", str(trained), "--workers", "1", "--json"]
    heard = {path: path.stat().st_mtime_ns for path in (trained / "run-0" / "heard").iterdir()}
    assert alm_train([*command, "--seed", "1", "--encoder", str(trained / "run-0")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (trained / "run-0" / "heard").iterdir()} == heard
    assert not (trained / "run-1" / "encode.pt").exists()
    one, other = (load_weights(trained / f"run-{seed}" / "alm-mr.safetensors")[0].state_dict() for seed in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one if name.startswith("encoder."))
    assert not torch.equal(one["gru.weight_hh_l0"], other["gru.weight_hh_l0"])
    made = json.loads((trained / "run-1" / "alm-mr.json").read_text())
    assert (made["seed"], made["encoder"]) == (1, "run-0")
    capsys.readouterr()
    assert alm_train([*command, "--seed", "2", "--encoder", str(trained / "run-1")]) == 2
    assert capsys.readouterr().err.count("encode.pt") == 1


def test_it_is_judged_and_described(trained, tmp_path, capsys):
    model = str(trained / "run-0" / "alm-mr.safetensors")
    command = ["evaluate", "--recipe", "smoke", "--work", str(trained), "--model", model, "--out", str(tmp_path)]
    assert alm_train(command) == 0
    table = capsys.readouterr().out
    assert "gain error, bleed" in table
    assert "alm-mr, roles said" in table
    assert {path.name for path in tmp_path.iterdir()} == {
        "evaluation.md",
        "evaluation.json",
        "evaluation.html",
        "alm-mr.md",
    }
    assert "not the frozen one" in (tmp_path / "evaluation.html").read_text()
    assert "gain error, bleed" in (tmp_path / "alm-mr.md").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--midi", "nowhere"], "nowhere"),
        (["evaluate", "--model", "nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_status_2(given, said, tmp_path, capsys):
    assert alm_train([*given, "--recipe", "smoke", "--work", str(tmp_path / "work"), "--workers", "1", "--json"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_unknown_recipe(capsys):
    with pytest.raises(SystemExit) as ended:
        alm_train(["--recipe", "gourmet"])
    assert ended.value.code == 2
    assert "gourmet" in capsys.readouterr().err
