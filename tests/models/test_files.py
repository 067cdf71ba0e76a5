import hashlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from alm_plugin.errors import ModelError, ParameterError
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock
from alm_plugin.models import files
from alm_plugin.models.alm import ALM
from alm_plugin.models.contract import Model, ModelMetadata
from alm_plugin.models.dmc import DMC
from alm_plugin.models.encoder import VGGish
from alm_plugin.models.files import TorchModel
from alm_plugin.models.registry import load_model

ABOUT = {"training_data": "synthetic songs", "licence": "CC0-1.0", "scores": {"gain_error_db": 2.5}}


def randomised(network, seed=0):
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def alm():
    return randomised(ALM(0.0625, 32, levels="all", clock=ModelClock(embedding_lag=4)))


@pytest.fixture(scope="module")
def dmc():
    return randomised(DMC(0.0625, 32, gain="relu"))


@pytest.fixture(params=["alm", "dmc"])
def network(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def weights(alm, tmp_path):
    path = tmp_path / "mine.safetensors"
    files.save_weights(alm, path, name="mine", **ABOUT)
    return path


def altered(path, change):
    """Rewrite a safetensors file after `change` has been at its tensors and its description."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors, description = safetensors.torch.load(data), json.loads(header["__metadata__"]["model"])
    change(tensors, description)
    path.write_bytes(safetensors.torch.save(tensors, {"model": json.dumps(description)}))
    return path


def song(channels, seed=0):
    rng = np.random.default_rng(seed)
    patches = rng.normal(0.0, 2.0, (channels, 96, 64)).astype(np.float32)
    levels = rng.uniform((0.001, 0.001, -70.0), (1.0, 1.0, 0.0), (channels, 3)).astype(np.float32)
    return patches, levels, rng.uniform(0.2, 1.0, channels).astype(np.float32)


def answers(model, channels, seed=0):
    """Everything a model says about a few frames, as bytes."""
    patches, levels, mask = song(channels, seed)
    state = model.initial_state(channels)
    embedding = model.embed(patches, mask)
    said = [embedding]
    for _ in range(3):
        gain_db, state = model.step(embedding, levels, mask, state)
        said += [gain_db, *state.values()]
    return b"".join(array.tobytes() for array in said)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "network",
    [
        ALM(0.125, 16, 64, "relu", "rms-linear", SINGLE_RATE),
        ALM(0.0625, 8, levels="all"),
        DMC(0.0625, 24, "relu", MULTI_RATE),
    ],
)
def test_build_remakes_a_network(network):
    again = files.build(json.loads(json.dumps(network.config())))
    assert again.config() == network.config()
    assert again.clock == network.clock
    shapes = [(key, tensor.shape) for key, tensor in network.state_dict().items()]
    assert [(key, tensor.shape) for key, tensor in again.state_dict().items()] == shapes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "kind must be one of alm, dmc, got None"),
        ({"kind": "rnn"}, "kind must be one of alm, dmc, got 'rnn'"),
        ({"kind": "alm", "width": 7}, r"config of kind 'alm': width must be in \(0, 1\], got 7"),
        ({"kind": "alm", "width": "wide"}, "config of kind 'alm': .*"),
        ({"kind": "dmc", "levels": "all"}, "config of kind 'dmc': .*unexpected keyword argument 'levels'"),
        ({"kind": "alm", "clock": {"f1_ms": 960}}, "config of kind 'alm': f1_ms must be 975 .*"),
        ({"kind": "alm", "clock": {"bpm": 120}}, "config of kind 'alm': .*unexpected keyword argument 'bpm'"),
        ({"kind": "alm", "clock": 50}, "config of kind 'alm': .*"),
    ],
)
def test_build_names_what_is_wrong(config, message):
    with pytest.raises(ModelError, match=message) as error:
        files.build(config)
    one_line(error)


def test_weights_round_trip(network, tmp_path):
    path = tmp_path / "x.safetensors"
    digest = files.save_weights(network, path, name="x", **ABOUT)
    before = torch.random.get_rng_state()
    again, metadata = files.load_weights(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.config() == network.config()
    assert again.state_dict().keys() == network.state_dict().keys()
    for key, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert again.encoder.features[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    expected = ModelMetadata("x", network.clock, network.embedding_size, sha256=digest, **ABOUT)
    assert metadata == expected


def test_same_weights_give_the_same_file(alm, tmp_path):
    digests = {files.save_weights(alm, tmp_path / f"{n}.safetensors", name="x", **ABOUT) for n in range(8)}
    assert len(digests) == 1


def test_a_failed_write_leaves_the_old_file(alm, weights, monkeypatch):
    before = weights.read_bytes()

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        files.save_weights(alm, weights, name="other", **ABOUT)
    assert weights.read_bytes() == before
    assert list(weights.parent.iterdir()) == [weights]


def test_tensor_faults_are_named(weights):
    whole = weights.read_bytes()
    key = "context2.attended.weight"

    def replace(value):
        return lambda tensors, description: tensors.update({key: value})

    faults = {
        f"tensor {key} must have shape (128, 128), got none": lambda tensors, description: tensors.pop(key),
        f"tensor {key} must have shape (128, 128), got (128, 64)": replace(torch.zeros(128, 64)),
        f"tensor {key} must hold floats, got torch.int32": replace(torch.zeros(128, 128, dtype=torch.int32)),
        f"tensor {key} must hold floats, got torch.float8_e4m3fn": replace(
            torch.zeros(128, 128).to(torch.float8_e4m3fn)
        ),
        f"tensor {key} must be finite, got NaN or infinity": replace(torch.full((128, 128), torch.nan)),
        "tensor extra must not be there, got one of shape (2,)": lambda tensors, _: tensors.update(
            extra=torch.zeros(2)
        ),
    }
    for message, change in faults.items():
        weights.write_bytes(whole)
        with pytest.raises(ModelError) as error:
            files.load_weights(altered(weights, change))
        assert one_line(error) == f"{weights}: {message}"


def test_half_precision_weights_are_taken(weights, alm):
    files.load_weights(
        altered(weights, lambda tensors, _: tensors.update({key: t.half() for key, t in tensors.items()}))
    )
    network, _ = files.load_weights(weights)
    assert network.project.weight.dtype == torch.float32
    torch.testing.assert_close(network.project.weight, alm.project.weight, rtol=1e-3, atol=1e-3)


def test_description_faults_are_named(weights):
    whole = weights.read_bytes()
    faults = {
        "metadata must have 'licence'; was this file written by save_weights?": lambda _, d: d.pop("licence"),
        "metadata: kind must be one of alm, dmc, got 'x'": lambda _, d: d["config"].update(kind="x"),
        "metadata: config of kind 'alm': width must be in (0, 1], got 2": lambda _, d: d["config"].update(width=2),
        "metadata: 'list' object has no attribute 'items'": lambda _, d: d.update(scores=[]),
    }
    for message, change in faults.items():
        weights.write_bytes(whole)
        with pytest.raises(ModelError) as error:
            files.load_weights(altered(weights, change))
        assert one_line(error) == f"{weights}: {message}"
    header = json.dumps({"__metadata__": {"model": "[" * 100_000}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="metadata: maximum recursion depth exceeded") as error:
        files.load_weights(weights)
    one_line(error)


@pytest.mark.parametrize(("suffix", "runtime"), [("safetensors", "torch"), ("safetensors", "onnx"), ("ts", "torch")])
def test_nothing_of_another_file_than_the_one_that_was_meant_is_looked_at(weights, alm, tmp_path, suffix, runtime):
    path = tmp_path / f"own.{suffix}"
    if suffix == "ts":
        digest = files.save_torchscript(alm, path, files.load_weights(weights)[1])
    else:
        path.write_bytes(weights.read_bytes())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_model(path, runtime, digest).metadata.sha256 == digest
    path.write_bytes(b"no model at all")
    with pytest.raises(ModelError, match=f"expected the model with sha256 {digest}, got "):
        load_model(path, runtime, digest)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ModelError, match=r"x.safetensors: No such file or directory") as error:
        files.load_weights(path)
    one_line(error)
    for junk in (b"", b"junk", b"\xff" * 200, json.dumps({"a": 1}).encode()):
        path.write_bytes(junk)
        with pytest.raises(ModelError, match=r"x.safetensors: not a safetensors file: ") as error:
            files.load_weights(path)
        one_line(error)
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(ModelError, match=r"x.safetensors: metadata must have '__metadata__'") as error:
        files.load_weights(path)
    one_line(error)


def published():
    """Names and shapes of the published file; expanded from single numbers, so that files of it are small."""
    return {key: torch.zeros(1).expand(tensor.shape) for key, tensor in VGGish().state_dict().items()}


@pytest.fixture(scope="module")
def full_width():
    return VGGish()


def test_vggish_weights_round_trip(full_width, tmp_path):
    random = torch.Generator().manual_seed(6)
    tensors = {key: torch.rand(tensor.shape, generator=random) for key, tensor in full_width.state_dict().items()}
    path = tmp_path / "vggish-10086976.pth"
    # The published file is of 2019: it has the format before the zip archives.
    others = {"pproc.pca_eigen_vectors": torch.eye(128), "pproc.pca_means": torch.zeros(128, 1)}
    torch.save(tensors | others, path, _use_new_zipfile_serialization=False)
    try:
        files.load_vggish(path, full_width)
    finally:
        path.unlink()
    for key, tensor in full_width.state_dict().items():
        assert torch.equal(tensor, tensors[key]), key


def test_vggish_tensor_faults_are_named(full_width, tmp_path):
    path = tmp_path / "vggish.pth"
    key = "features.11.weight"
    faults = {
        f"tensor {key} must have shape (512, 256, 3, 3), got none": lambda tensors: tensors.pop(key),
        f"tensor {key} must have shape (512, 256, 3, 3), got (512, 512, 3, 3)": lambda tensors: tensors.update(
            {key: torch.zeros(1).expand(512, 512, 3, 3)}
        ),
        "tensor head.weight must not be there, got one of shape (3,)": lambda tensors: tensors.update(
            {"head.weight": torch.zeros(3)}
        ),
        f"tensor {key} must hold its values, got torch.sparse_coo on cpu": lambda tensors: tensors.update(
            {key: torch.zeros(512, 256, 3, 3).to_sparse()}
        ),
        f"tensor {key} must hold its values, got torch.strided on meta": lambda tensors: tensors.update(
            {key: torch.zeros(512, 256, 3, 3, device="meta")}
        ),
        "tensors must have names, got 1": lambda tensors: tensors.update({1: torch.zeros(3)}),
    }
    before = full_width.features[0].weight.clone()
    tensors = published()
    for message, change in faults.items():
        changed = dict(tensors)
        change(changed)
        torch.save(changed, path)
        with pytest.raises(ModelError) as error:
            files.load_vggish(path, full_width)
        assert one_line(error) == f"{path}: {message}"
    assert torch.equal(full_width.features[0].weight, before)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_other_vggish_files_are_refused(full_width, alm, tmp_path):
    path = tmp_path / "vggish.pth"
    with pytest.raises(ModelError, match=r"No such file.*; expected vggish-10086976.pth from the releases of") as error:
        files.load_vggish(path, full_width)
    one_line(error)
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"vggish.pth: not a file of torch weights: ") as error:
        files.load_vggish(path, full_width)
    one_line(error)
    trace = tmp_path / "was-here"
    torch.save({"features.0.weight": Malicious(trace)}, path)
    with pytest.raises(ModelError, match=r"vggish.pth: not a file of torch weights: ") as error:
        files.load_vggish(path, full_width)
    one_line(error)
    assert not trace.exists()
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ModelError, match=r"vggish.pth: must hold a dict of tensors, got list"):
        files.load_vggish(path, full_width)
    with pytest.raises(ModelError, match=r"width 1.0 and hidden 4096 .*, got 0.0625 and 32"):
        files.load_vggish(path, alm)


def test_both_files_give_the_same_bits_and_the_networks_numbers(network, tmp_path):
    path, metadata = tmp_path / "x.ts", ModelMetadata("x", **ABOUT)
    digest = files.save_torchscript(network, path, metadata)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert files.save_torchscript(network, tmp_path / "y.ts", metadata) == digest
    loaded = files.load_model_file(path)
    expected = ModelMetadata("x", network.clock, network.embedding_size, sha256=digest, **ABOUT)
    assert loaded.metadata == expected

    files.save_weights(network, tmp_path / "x.safetensors", name="x", **ABOUT)
    from_weights = files.load_model_file(tmp_path / "x.safetensors")
    eager = TorchModel(network, expected)
    for channels in (1, 2, 5):
        assert answers(loaded, channels) == answers(from_weights, channels)
        ours, plain = (np.frombuffer(answers(model, channels), np.float32) for model in (loaded, eager))
        assert np.abs(ours - plain).max() <= 1e-4 * np.abs(plain).max()


def test_torchscript_is_a_copy(dmc):
    network = files.build(dmc.config())
    model = TorchModel.wrap(network)
    before = answers(model, 2)
    with torch.no_grad():
        network.mlp[0].weight.zero_()
    assert answers(model, 2) == before
    assert network.training
    assert network.mlp[0].weight.requires_grad


def test_torchscript_that_disagrees_is_not_written(alm, tmp_path, monkeypatch):
    compile_as_is = files.to_torchscript

    def slightly_other(network):
        scripted = compile_as_is(network)
        with torch.no_grad():
            scripted.mlp[6].bias.add_(1e-5)
        return scripted

    monkeypatch.setattr(files, "to_torchscript", slightly_other)
    with pytest.raises(ModelError, match="TorchScript's step must agree within 1e-06, got a difference of "):
        files.save_torchscript(alm, tmp_path / "x.ts", ModelMetadata("x"))
    assert not list(tmp_path.iterdir())


class Half(nn.Module):
    @torch.jit.export
    def embed(self, patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return patches.mean([1, 2]).unsqueeze(-1) * mask.unsqueeze(-1)

    @torch.jit.export
    def initial_state(self, channels: int) -> dict[str, torch.Tensor]:
        return {"count": torch.zeros(channels, dtype=torch.int64)}


class Whole(Half):
    @torch.jit.export
    def step(
        self, embedding: torch.Tensor, levels: torch.Tensor, mask: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return -6.0 * mask, {"count": state["count"] + 1}


def test_other_torchscript_files_are_refused(tmp_path):
    path = tmp_path / "x.ts"
    with pytest.raises(ModelError, match=r"x.ts: No such file or directory"):
        files.load_torchscript(path)
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"x.ts: not a TorchScript file: ") as error:
        files.load_torchscript(path)
    one_line(error)

    def write(module, **extra):
        with warnings.catch_warnings(action="ignore"):
            torch.jit.save(torch.jit.script(module), path, _extra_files=extra)

    write(Half())
    with pytest.raises(ModelError, match=r"x.ts: must have the methods embed, step, initial_state, got no step"):
        files.load_torchscript(path)
    for extra in ({}, {"metadata.json": "{}"}, {"metadata.json": '{"clock": {"bpm": 1}}'}):
        write(Whole(), **extra)
        with pytest.raises(ModelError, match=r"x.ts: metadata.json must hold the fields of ModelMetadata: ") as error:
            files.load_torchscript(path)
        one_line(error)
    with pytest.raises(ModelError, match=r"x.onnx: a model file must end in .safetensors, .ts or .pt, got '.onnx'"):
        files.load_model_file(tmp_path / "x.onnx")


def test_speaks_the_contract(network):
    model = TorchModel.wrap(network)
    assert isinstance(model, Model)
    assert model.metadata.clock == network.clock
    assert model.metadata.embedding_size == network.embedding_size
    patches, levels, mask = song(3)
    state = model.initial_state(3)
    given = [patches, levels, mask, *state.values()]
    copies = [array.copy() for array in given]
    embedding = model.embed(patches, mask)
    gain_db, after = model.step(embedding, levels, mask, state)
    assert (embedding.dtype, gain_db.dtype, gain_db.shape) == (np.float32, np.float32, (3,))
    assert after.keys() == state.keys()
    assert all(after[name].shape == rows.shape for name, rows in state.items())
    assert all(np.array_equal(array, copy) for array, copy in zip(given, copies, strict=True))
    # Results are the caller's own.
    gain_db += 1.0
    embedding += 1.0


def test_a_users_own_module_is_wrapped_as_it_is():
    model = TorchModel.wrap(Whole())
    assert model.metadata == ModelMetadata("Whole", MULTI_RATE, embedding_size=1)
    gain_db, state = model.step(model.embed(*song(2)[::2]), *song(2)[1:], model.initial_state(2))
    assert gain_db == pytest.approx(-6.0 * song(2)[2])
    assert state["count"].dtype == np.int64
    assert (state["count"] == 1).all()
    with pytest.raises(ParameterError, match="model must have the methods embed, step, initial_state, got no step"):
        TorchModel.wrap(Half())


def test_shapes_are_checked(alm):
    model = TorchModel.wrap(alm)
    patches, levels, mask = song(3)
    embedding, state = np.zeros((3, 128), np.float32), model.initial_state(3)
    with pytest.raises(ParameterError, match=r"patches must have shape \(3, 96, 64\), got \(3, 64, 96\)"):
        model.embed(patches.transpose(0, 2, 1), mask)
    with pytest.raises(ParameterError, match=r"embedding must have shape \(3, 128\), got \(3, 64\)"):
        model.step(embedding[:, :64], levels, mask, state)
    with pytest.raises(ParameterError, match=r"levels must have shape \(3, 3\), got \(2, 3\)"):
        model.step(embedding, levels[:2], mask, state)


def test_repeats_are_bit_identical_whatever_comes_between(alm):
    model = TorchModel.wrap(alm)
    first = {channels: answers(model, channels) for channels in (1, 2, 3, 8)}
    for repeat in range(30):
        for channels in (1, 2, 3, 8) if repeat % 2 else (8, 3, 5, 2, 1):
            said = answers(model, channels)
            assert said == first.setdefault(channels, said)
    assert answers(TorchModel.wrap(alm), 8) == first[8]


def test_bits_do_not_depend_on_where_arrays_lie(alm):
    model = TorchModel.wrap(alm)

    def shifted(array, floats):
        room = np.empty(array.size + 32, np.float32)
        start = -(room.ctypes.data // 4) % 16 + floats
        view = room[start : start + array.size].reshape(array.shape)
        view[...] = array
        view.flags.writeable = False
        return view

    for channels in (1, 2, 3):
        patches, levels, mask = song(channels)
        hidden = np.random.default_rng(1).normal(size=(channels, 128)).astype(np.float32)
        results = set()
        for floats in range(16):
            arrays = [shifted(array, floats) for array in (patches, levels, mask, hidden)]
            embedding = model.embed(arrays[0], arrays[2])
            gain_db, state = model.step(shifted(embedding, floats), arrays[1], arrays[2], {"hidden": arrays[3]})
            results.add(embedding.tobytes() + gain_db.tobytes() + state["hidden"].tobytes())
        assert len(results) == 1


def test_runs_on_one_thread_and_leaves_torch_as_it_was(alm):
    model = TorchModel.wrap(alm)
    expected = answers(model, 8)
    seen = []
    spy = TorchModel(Spy(seen), model.metadata)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert answers(model, 8) == expected
        with pytest.raises(RuntimeError, match="out of order"):
            spy.initial_state(1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, True, False)]
    assert not torch.is_inference_mode_enabled()
    assert torch._C._get_graph_executor_optimize()


class Spy(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def initial_state(self, channels):
        optimised = torch._C._get_graph_executor_optimize()
        self.seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled(), optimised))
        raise RuntimeError("out of order")


def test_only_torchscripts_own_warning_is_silenced(alm):
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scripted = files.to_torchscript(alm)
        assert not caught
        with files._torchscript():
            torch.jit.save(scripted, buffer)
            warnings.warn("something else", DeprecationWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else"]
