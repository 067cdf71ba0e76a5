import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from alm_plugin.models.alm import ALM
from alm_plugin.models.files import load_weights
from training.card import LICENCE, LIMITS, SOUNDS, card, training_data, write_model
from training.corpus import KINDS, fingerprint
from training.recipe import RECIPES
from training.song import SAMPLE_RATE, Stem, save_song, songs_in
from training.speakers import VOICES

RECIPE = replace(RECIPES["smoke"], songs=2)
RECOGNITION = {"taken_for_a_voice": {"vocals": 0.93, "guitar": 0.12}}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for n in range(2):
        audio = (0.05 * np.random.default_rng(n).standard_normal(2 * SAMPLE_RATE)).astype(np.float32)
        save_song(folder / f"{n:05d}", "rock", [Stem("vox", "vocals")], [audio])
    return songs_in(folder)


@pytest.fixture
def written(songs, tmp_path):
    torch.manual_seed(0)
    network = ALM(0.0625, 32, gain="memory", levels="all", roles=True)
    path = tmp_path / "alm-test.safetensors"
    return network, path, write_model(network, path, RECIPE, 7, songs, RECOGNITION)


def test_weights_are_those_of_the_network_in_half_precision(written):
    network, path, sha256 = written
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    loaded, metadata = load_weights(path)
    assert metadata.sha256 == sha256
    assert (metadata.name, metadata.licence) == ("alm-test", LICENCE)
    assert metadata.training_data == training_data(RECIPE, [None] * 2)
    assert loaded.config() == network.config()
    for name, rows in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], rows.half().float()), name
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters()) + 20_000


def test_beside_them_lies_what_made_them(written, songs):
    _, path, sha256 = written
    made = json.loads(path.with_suffix(".json").read_text())
    assert made["sha256"] == sha256
    assert made["seed"] == 7
    assert made["songs"] == 2
    assert made["songs_sha256"] == fingerprint(songs)
    assert made["recipe"]["gains"]["batch"] == RECIPE.gains.batch
    assert made["recognition"] == RECOGNITION


def test_training_data_names_songs_of_the_users_own():
    plain, more = training_data(RECIPE, [None] * 2), training_data(RECIPE, [None] * 5)
    assert plain.startswith("2 songs composed by alm-train (recipe smoke)")
    assert "user" not in plain
    assert more == plain + "; 3 songs of the user's own"


def test_the_card_says_everything(written):
    _, path, sha256 = written
    text = card(json.loads(path.with_suffix(".json").read_text()), "| measure | got |\n|---|---|\n| error | 1.23 |")
    assert text.startswith("# Model card: alm-test\n")
    assert sha256 in text
    assert "| error | 1.23 |" in text
    assert "vocals 0.93, guitar 0.12" in text
    assert "alm-train --recipe smoke --seed 7" in text
    for limit in LIMITS:
        assert limit in text
    for kind in KINDS.values():
        for font in (*kind.soundfonts, *kind.kits):
            assert SOUNDS[font] in text
    for voice in VOICES:
        assert f"{voice.package} ({voice.licence})" in text
    for stage in ("encode", "gains", "mix"):
        for key, value in json.loads(path.with_suffix(".json").read_text())["recipe"][stage].items():
            assert f"{key} {value}" in text
    assert "{" not in text
    assert "None" not in text
