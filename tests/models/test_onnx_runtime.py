import sys

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from alm_plugin import Mixer, Strip, load_model
from alm_plugin.errors import ModelError, ParameterError
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE
from alm_plugin.models import files
from alm_plugin.models.alm import ALM
from alm_plugin.models.contract import Model, ModelMetadata
from alm_plugin.models.dmc import DMC
from alm_plugin.models.files import TorchModel
from alm_plugin.models.onnx_runtime import OnnxModel
from alm_plugin.models.predictor import Predictor

PARITY_DB = 1e-4


def lively(network, seed=0):
    """Give a small network weights with which every input moves the gains."""
    torch.manual_seed(seed)
    for layer in [*network.encoder.modules(), *network.mlp]:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
    if network.gain == "relu":  # away from zero, where its dB are infinitely steep
        nn.init.normal_(network.mlp[-1].weight, 0.0, 0.02)
        nn.init.constant_(network.mlp[-1].bias, 1.0)
    return network.eval()


def both(network):
    metadata = ModelMetadata("x", network.clock, network.embedding_size)
    return TorchModel(network, metadata), OnnxModel(network, metadata)


NETWORKS = {
    "alm": lambda: ALM(0.0625, 32),
    "alm-memory-roles": lambda: ALM(0.0625, 32, gain="memory", levels="all", roles=True),
    "alm-as-printed": lambda: ALM(0.0625, 32, 64, "relu", "rms-linear", SINGLE_RATE),
    "dmc": lambda: DMC(0.0625, 32),
    "dmc-relu-multi-rate": lambda: DMC(0.0625, 32, "relu", MULTI_RATE),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return lively(NETWORKS[request.param]())


@pytest.fixture(scope="module")
def small():
    network = lively(NETWORKS["alm-memory-roles"]())
    return OnnxModel(network, ModelMetadata("small", network.clock, network.embedding_size))


def song(channels, seed=0):
    rng = np.random.default_rng(seed)
    patches = rng.normal(0.0, 2.0, (channels, 96, 64)).astype(np.float32)
    levels = rng.uniform((0.001, 0.001, -70.0), (1.0, 1.0, 0.0), (channels, 3)).astype(np.float32)
    return patches, levels, rng.uniform(0.2, 1.0, channels).astype(np.float32)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_speaks_the_contract_for_any_number_of_channels(network):
    ours, theirs = both(network)
    assert isinstance(theirs, Model)
    moved = []
    for channels in (1, 2, 3, 9, 64):
        patches, levels, mask = song(channels, channels)
        state, other = ours.initial_state(channels), theirs.initial_state(channels)
        embedding, got = ours.embed(patches, mask), theirs.embed(patches, mask)
        np.testing.assert_allclose(got, embedding, rtol=0, atol=1e-5 * np.abs(embedding).max())
        if "role" in state:
            state["role"] = np.arange(channels) % 19 - 1
            other["role"] = state["role"].copy()
        for frame in range(8):
            mask[-1] = float(frame % 3 > 0)
            given = [embedding, levels, mask, *other.values()]
            copies = [array.copy() for array in given]
            gain_db, state = ours.step(embedding, levels, mask, state)
            got, after = theirs.step(embedding, levels, mask, other)
            assert all(np.array_equal(array, copy) for array, copy in zip(given, copies, strict=True))
            assert (got.dtype, got.shape) == (np.float32, (channels,))
            np.testing.assert_allclose(got, gain_db, rtol=0, atol=PARITY_DB)
            moved.append(np.ptp(got[mask > 0]) if channels > 2 else 0.0)
            assert list(after) == list(state)
            for name, rows in state.items():
                assert (after[name].dtype, after[name].shape) == (rows.dtype, rows.shape)
                np.testing.assert_allclose(after[name], rows, rtol=1e-4, atol=1e-5)
            other = after
    assert max(moved) > 0.5, "the gains must differ"


def listened(model, channels, frames):
    """Gains (frames, channels) of a band whose channels come, go, and change what they play."""
    rng = np.random.default_rng(5)
    predictor = Predictor(model, ["vocals", None, "kick", "bass", None][:channels])
    colour, gains = rng.normal(0.0, 1.0, (channels, 1, 64)), []
    resting = np.zeros(channels, int)
    for _ in range(frames):
        colour = 0.98 * colour + 0.2 * rng.normal(0.0, 1.0, colour.shape)
        columns = (colour - 1.5 + rng.normal(0.0, 0.5, (channels, 5, 64))).astype(np.float32)
        rms = 10.0 ** (-1.3 + 0.5 * colour[:, 0, 0] + 0.1 * rng.normal(size=channels))
        levels = np.stack([rms, rms**2, 20.0 * np.log10(rms)], axis=1).clip(-70.0, 1.0).astype(np.float32)
        resting = np.where((resting == 0) & (rng.random(channels) < 0.01), 40, np.maximum(resting - 1, 0))
        gains.append(predictor.step(columns, levels, (resting == 0).astype(np.float32)))
    assert predictor.faults == 0
    return np.array(gains)


def test_the_shipped_model_agrees_over_a_long_stream():
    frames = 1200
    want, got = (listened(load_model("alm-mr", runtime=runtime), 5, frames) for runtime in ("torch", "onnx"))
    assert np.ptp(want, axis=0).min() > 6.0, "the gains must really move"
    assert np.abs(got - want).max() <= PARITY_DB


def test_blocks_of_any_size_give_the_same_bits(small):
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, 1, 20_000)).astype(np.float32)
    noise[1, :, 5_000:] = 0.0
    mixer = Mixer({str(n): Strip(role=role) for n, role in enumerate(("vocals", None, "bass"))}, small)
    whole = mixer.process(list(noise), 16_000)
    assert np.ptp(mixer.automation.gains_db["0"]) > 1.0
    gains_db = {name: curve.copy() for name, curve in mixer.automation.gains_db.items()}
    for size in (441, 2_400, 977):
        mixer.reset()
        starts = range(0, 20_000, size)
        parts = [mixer.process([c[:, s : s + size] for c in noise], 16_000, reset=False) for s in starts]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        for name, curve in mixer.automation.gains_db.items():
            np.testing.assert_array_equal(curve, gains_db[name])


def test_bits_depend_neither_on_what_came_before_nor_on_where_arrays_lie(small):
    def answers(channels, floats=0):
        def shifted(array):
            room = np.empty(array.size + 32, np.float32)
            start = -(room.ctypes.data // 4) % 16 + floats
            view = room[start : start + array.size].reshape(array.shape)
            view[...] = array
            view.flags.writeable = False
            return view

        patches, levels, mask = map(shifted, song(channels))
        embedding = small.embed(patches, mask)
        gain_db, state = small.step(shifted(embedding), levels, mask, small.initial_state(channels))
        return b"".join(array.tobytes() for array in (embedding, gain_db, *state.values()))

    first = {channels: answers(channels) for channels in (1, 2, 3, 8)}
    for floats in range(16):
        for channels in (8, 2, 1, 3):
            assert answers(channels, floats) == first[channels]


def test_runs_on_this_thread_and_says_nothing(small, capfd):
    before = psutil.Process().num_threads()
    network = lively(NETWORKS["alm"]())
    model = OnnxModel(network, ModelMetadata("x", network.clock, network.embedding_size))
    patches, levels, mask = song(8)
    embedding = model.embed(patches, mask)
    model.step(embedding, levels, mask, model.initial_state(8))
    assert psutil.Process().num_threads() == before
    assert capfd.readouterr() == ("", "")


def test_takes_what_torch_takes(small):
    patches, levels, mask = song(3)
    embedding = small.embed(patches, mask)
    other = small.embed(np.asfortranarray(patches.astype(np.float64)), mask.astype(np.float64))
    np.testing.assert_array_equal(other, embedding)
    want, _ = small.step(embedding, levels, mask, small.initial_state(3))
    wide = np.repeat(levels.astype(np.float64), 2, axis=0)[::2]
    np.testing.assert_array_equal(small.step(embedding[:, ::-1][:, ::-1], wide, mask, small.initial_state(3))[0], want)


def test_shapes_are_checked(small):
    patches, levels, mask = song(3)
    embedding, state = np.zeros((3, 128), np.float32), small.initial_state(3)
    with pytest.raises(ParameterError, match=r"patches must have shape \(3, 96, 64\), got \(3, 64, 96\)"):
        small.embed(patches.transpose(0, 2, 1), mask)
    with pytest.raises(ParameterError, match=r"embedding must have shape \(3, 128\), got \(3, 64\)"):
        small.step(embedding[:, :64], levels, mask, state)
    with pytest.raises(ParameterError, match=r"levels must have shape \(3, 3\), got \(2, 3\)"):
        small.step(embedding, levels[:2], mask, state)


def test_is_loaded_by_name_and_from_weights(tmp_path):
    assert load_model("alm-mr", runtime="onnx") is load_model("alm-mr", runtime="onnx")
    assert load_model("alm-mr", runtime="onnx").metadata == load_model("alm-mr").metadata
    network = lively(NETWORKS["dmc"]())
    path = tmp_path / "mine.safetensors"
    digest = files.save_weights(network, path, name="mine", training_data="none", licence="CC0-1.0", scores={})
    model = load_model(path, runtime="onnx")
    assert isinstance(model, OnnxModel)
    assert (repr(model), model.metadata.sha256) == ("OnnxModel('mine')", digest)
    patches, _, mask = song(2)
    want = load_model(path).embed(patches, mask)
    np.testing.assert_allclose(model.embed(patches, mask), want, rtol=0, atol=1e-5 * want.max())
    assert type(load_model("loudness", runtime="onnx")) is type(load_model("loudness"))


def test_what_it_cannot_run_is_named(tmp_path, small):
    with pytest.raises(ParameterError, match="runtime must be one of torch, onnx, got 'tpu'"):
        load_model("alm-mr", runtime="tpu")
    with pytest.raises(ParameterError, match=r"runtime onnx takes a model by name or file, got OnnxModel\('small'\)"):
        load_model(small, runtime="onnx")
    path = tmp_path / "x.ts"
    # Neither TorchScript nor a graph from elsewhere, which would be code, is even opened.
    for name in ("x.ts", "x.onnx"):
        path = tmp_path / name
        with pytest.raises(ModelError, match=r"runtime onnx needs weights as \.safetensors, got '\.") as error:
            load_model(path, runtime="onnx")
        assert one_line(error).startswith(str(path))
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"x\.safetensors: not a safetensors file: ") as error:
        load_model(path, runtime="onnx")
    one_line(error)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_said_in_one_line(missing, monkeypatch):
    from alm_plugin.models import registry

    registry._shipped.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "alm_plugin.models.onnx_runtime")
    with pytest.raises(ModelError, match=r"needs the onnx extra \(pip install 'alm-plugin\[onnx\]'\), got ") as error:
        load_model("alm-mr", runtime="onnx")
    assert missing in one_line(error)
    assert load_model("alm-mr").metadata.name == "alm-mr"
