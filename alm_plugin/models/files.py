"""Networks in files, and networks behind the contract: all of torch's files and all of TorchScript is here.

Weights are kept as safetensors, which is data. A TorchScript file is generated from them and is code: load only one
that you made or trust. Whether from one or the other, offline or live, a network runs in its TorchScript form, so that
gains agree to the bit.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alm_plugin.data import staged
from alm_plugin.errors import ModelError, ParameterError
from alm_plugin.features.clock import MULTI_RATE, ModelClock
from alm_plugin.models.alm import ALM
from alm_plugin.models.contract import MEL_BANDS, PATCH_COLUMNS, Array, ModelMetadata, State
from alm_plugin.models.dmc import DMC
from alm_plugin.models.encoder import VGGish

KINDS = {"alm": ALM, "dmc": DMC}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
METHODS = ("embed", "step", "initial_state")
WEIGHTS_METADATA = "model"
"""Name of the entry of a safetensors file's metadata that describes its network, as JSON."""

METADATA_FILE = "metadata.json"
"""Where a TorchScript archive keeps its `ModelMetadata`."""

TORCHSCRIPT_IS_DEPRECATED = r"`torch\.jit\."
"""Beginning of the warning that every use of TorchScript gives in newer torch; it still works up to Python 3.13."""

PARITY = 1e-6
"""Largest difference, absolute and relative, allowed between a network and its TorchScript form."""


@contextmanager
def _torchscript() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", TORCHSCRIPT_IS_DEPRECATED, DeprecationWarning)
        yield


def build(config: Mapping[str, Any]) -> ALM | DMC:
    """Make an untrained network from what its `config` method returned.

    Parameters
    ----------
    config : mapping
        ``kind`` ("alm" or "dmc") and that class's arguments, ``clock`` as a mapping of `ModelClock`'s fields.

    Raises
    ------
    ModelError
        If the kind or an argument is unknown or out of range.
    """
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    if kind not in KINDS:
        raise ModelError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    try:
        if "clock" in arguments:
            arguments["clock"] = ModelClock(**arguments["clock"])
        return KINDS[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise ModelError(f"config of kind {kind!r}: {error}") from error


def save_weights(
    network: ALM | DMC,
    path: str | Path,
    *,
    name: str,
    training_data: str,
    licence: str,
    scores: Mapping[str, float],
    half: bool = False,
) -> str:
    """Write a network's weights with everything needed to load it.

    Parameters
    ----------
    network : ALM or DMC
    path : str or Path
        A ``.safetensors`` file, replaced as a whole or not at all.
    name, training_data, licence, scores
        See `alm_plugin.models.contract.ModelMetadata`.
    half : bool
        Keep 16-bit floats, in half the size; `load_weights` makes them 32-bit again.

    Returns
    -------
    str
        The file's sha256.
    """
    # safetensors knows one memory format only; `load_weights` copies into the encoder's channels-last tensors.
    tensors = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
    if half:
        tensors = {key: tensor.half() for key, tensor in tensors.items()}
    description = {
        "name": name,
        "config": network.config(),
        "training_data": training_data,
        "licence": licence,
        "scores": dict(scores),
    }
    # One entry, because safetensors writes several in random order: the same weights shall have the same sha256.
    return _write(path, safetensors.torch.save(tensors, {WEIGHTS_METADATA: json.dumps(description)}))


def load_weights(path: str | Path, sha256: str | None = None) -> tuple[ALM | DMC, ModelMetadata]:
    """Load a network that `save_weights` wrote; `sha256` as in `load_model_file`.

    Returns
    -------
    network : ALM or DMC
    metadata : ModelMetadata
        Its `sha256` is of exactly the bytes that were loaded.

    Raises
    ------
    ModelError
        If the file cannot be read, is no such file, or a tensor is missing, unknown, mis-shaped or not finite.
    """
    data = _read(path, sha256)
    try:
        tensors = safetensors.torch.load(data)
        # The library checked the header, but gives its metadata for files only: length in 8 bytes, then JSON.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:
        raise ModelError(f"{path}: not a safetensors file: {_line(error)}") from error
    try:
        description = json.loads(header["__metadata__"][WEIGHTS_METADATA])
        # The first weights are about to be overwritten, and nobody's random numbers shall be used up for them.
        with torch.random.fork_rng(devices=[]):
            network = build(description["config"])
        metadata = ModelMetadata(
            name=description["name"],
            clock=network.clock,
            embedding_size=network.embedding_size,
            training_data=description["training_data"],
            licence=description["licence"],
            scores={key: float(value) for key, value in description["scores"].items()},
            sha256=hashlib.sha256(data).hexdigest(),
        )
    except KeyError as error:
        raise ModelError(f"{path}: metadata must have {error}; was this file written by save_weights?") from error
    except (ModelError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: metadata: {_line(error)}") from error
    _fill(network, tensors, path)
    return network.eval(), metadata


def load_vggish(path: str | Path, network: VGGish | ALM | DMC) -> None:
    """Load the published VGGish weights into a full-width encoder.

    The file is ``vggish-10086976.pth``, an asset of release v0.1 of https://github.com/harritaylor/torchvggish (Apache
    2.0), 288 MB; download it once by hand. Its ``pproc.*`` tensors, if any, belong to a postprocessor that is not used.

    Parameters
    ----------
    path : str or Path
    network : VGGish, or a network with one
        Of ``width=1.0`` and ``hidden=4096``.

    Raises
    ------
    ModelError
        If the encoder is not full width, the file cannot be read, or a tensor is missing, unknown, mis-shaped or not
        finite.
    """
    encoder = network if isinstance(network, VGGish) else network.encoder
    if (encoder.width, encoder.hidden) != (1.0, 4096):
        raise ModelError(
            "network must have an encoder of width 1.0 and hidden 4096 for the published VGGish weights, "
            f"got {encoder.width} and {encoder.hidden}"
        )
    try:
        with Path(path).open("rb") as file:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(
            f"{path}: {error.strerror}; expected vggish-10086976.pth from the releases of harritaylor/torchvggish"
        ) from error
    except Exception as error:  # Whatever torch's guesses at the format end in.
        raise ModelError(f"{path}: not a file of torch weights: {_line(error)}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ModelError(f"{path}: must hold a dict of tensors, got {type(tensors).__name__}")
    if unnamed := [key for key in tensors if not isinstance(key, str)]:
        raise ModelError(f"{path}: tensors must have names, got {unnamed[0]!r}")
    _fill(encoder, {key: tensor for key, tensor in tensors.items() if not key.startswith("pproc.")}, path)


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    expected = {key: tensor.shape for key, tensor in module.state_dict().items()}
    for key, shape in expected.items():
        if key not in tensors:
            raise ModelError(f"{path}: tensor {key} must have shape {tuple(shape)}, got none")
        if tensors[key].shape != shape:
            raise ModelError(f"{path}: tensor {key} must have shape {tuple(shape)}, got {tuple(tensors[key].shape)}")
        if tensors[key].dtype not in FLOATS:
            raise ModelError(f"{path}: tensor {key} must hold floats, got {tensors[key].dtype}")
        if tensors[key].layout != torch.strided or tensors[key].device.type != "cpu":
            got = f"{tensors[key].layout} on {tensors[key].device}"
            raise ModelError(f"{path}: tensor {key} must hold its values, got {got}")
        if not tensors[key].isfinite().all():
            raise ModelError(f"{path}: tensor {key} must be finite, got NaN or infinity")
    for key, tensor in tensors.items():
        if key not in expected:
            raise ModelError(f"{path}: tensor {key} must not be there, got one of shape {tuple(tensor.shape)}")
    module.load_state_dict(tensors)


def _read(path: str | Path, sha256: str | None) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    # Of the bytes that will be used: between a look at the file and another it may have been replaced.
    if sha256 is not None and (got := hashlib.sha256(data).hexdigest()) != sha256:
        raise ModelError(f"{path}: expected the model with sha256 {sha256}, got {got}")
    return data


def _write(path: str | Path, data: bytes) -> str:
    with staged(Path(path)) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def to_torchscript(network: nn.Module) -> torch.jit.ScriptModule:
    """Compile a copy of a network, on the CPU, to TorchScript."""
    with _torchscript():
        return torch.jit.script(copy.deepcopy(network).cpu().eval().requires_grad_(False))


def for_inference(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Fold weights into the graph and fuse what can be: a seventh less work, the same bits whoever made the script."""
    with _torchscript():
        frozen = torch.jit.freeze(scripted.eval(), preserved_attrs=list(METHODS))
        return torch.jit.optimize_for_inference(frozen, ["embed", "step"])


def save_torchscript(network: ALM | DMC, path: str | Path, metadata: ModelMetadata) -> str:
    """Write a network as one TorchScript file that needs no Python to run.

    Parameters
    ----------
    network : ALM or DMC
    path : str or Path
        A ``.ts`` or ``.pt`` file, replaced as a whole or not at all.
    metadata : ModelMetadata
        Kept inside; the clock and the embedding size are taken from the network.

    Returns
    -------
    str
        The file's sha256.

    Raises
    ------
    ModelError
        If what would be written does not give the network's embeddings and gains.
    """
    metadata = replace(metadata, clock=network.clock, embedding_size=network.embedding_size)
    buffer = io.BytesIO()
    with _torchscript():
        torch.jit.save(to_torchscript(network), buffer, _extra_files={METADATA_FILE: json.dumps(asdict(metadata))})
        written = torch.jit.load(io.BytesIO(buffer.getvalue()))
    _check_parity(copy.deepcopy(network).cpu().eval(), written, metadata)
    return _write(path, buffer.getvalue())


def _check_parity(network: ALM | DMC, scripted: nn.Module, metadata: ModelMetadata) -> None:
    ours, theirs = TorchModel(network, metadata), TorchModel(scripted, metadata)
    rng = np.random.default_rng(0)
    for channels in (1, 2, 7):
        patches = rng.normal(size=(channels, PATCH_COLUMNS, MEL_BANDS)).astype(np.float32)
        mask = rng.uniform(0.1, 1.0, channels).astype(np.float32)
        levels = rng.uniform((0.0, 0.0, -70.0), (1.0, 1.0, 0.0), (channels, 3)).astype(np.float32)
        state, other = ours.initial_state(channels), theirs.initial_state(channels)
        embedding, got = ours.embed(patches, mask), theirs.embed(patches, mask)
        results = [("embed", embedding, got)]
        for _ in range(3):
            gain_db, state = ours.step(embedding, levels, mask, state)
            got, other = theirs.step(embedding, levels, mask, other)
            results += [("step", gain_db, got), *((f"state {key}", state[key], other[key]) for key in state)]
        for name, expected, got in results:
            if not np.allclose(got, expected, rtol=PARITY, atol=PARITY):
                worst = np.abs(got - expected).max()
                raise ModelError(f"TorchScript's {name} must agree within {PARITY}, got a difference of {worst:.2g}")


def load_torchscript(path: str | Path, sha256: str | None = None) -> tuple[torch.jit.ScriptModule, ModelMetadata]:
    """Load a file that `save_torchscript` wrote. TorchScript is code: the file must be trusted.

    `sha256` as in `load_model_file`.

    Returns
    -------
    scripted : ScriptModule
    metadata : ModelMetadata
        Its `sha256` is of exactly the bytes that were loaded.

    Raises
    ------
    ModelError
        If the file cannot be read, is no TorchScript, or has not the contract's methods or no metadata.
    """
    data = _read(path, sha256)
    extra: dict[str, Any] = {METADATA_FILE: ""}
    try:
        with _torchscript():
            scripted = torch.jit.load(io.BytesIO(data), map_location="cpu", _extra_files=extra)
    except Exception as error:
        raise ModelError(f"{path}: not a TorchScript file: {_line(error)}") from error
    for name in METHODS:
        if not hasattr(scripted, name):
            raise ModelError(f"{path}: must have the methods {', '.join(METHODS)}, got no {name}")
    try:
        fields = json.loads(extra[METADATA_FILE])
        fields |= {"clock": ModelClock(**fields["clock"]), "sha256": hashlib.sha256(data).hexdigest()}
        metadata = ModelMetadata(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {METADATA_FILE} must hold the fields of ModelMetadata: {_line(error)}") from error
    return scripted.eval(), metadata


class TorchModel:
    """A network behind the contract's NumPy methods (`alm_plugin.models.contract.Model`).

    The same arguments give the same bits, in every call, whatever was called before.

    Parameters
    ----------
    network : Module
        With `embed`, `step` and `initial_state` on CPU tensors.
    metadata : ModelMetadata
    """

    def __init__(self, network: nn.Module, metadata: ModelMetadata) -> None:
        self._network: Any = network
        self.metadata = metadata

    def __repr__(self) -> str:
        return f"TorchModel({self.metadata.name!r})"

    @classmethod
    def wrap(cls, network: nn.Module) -> TorchModel:
        """Adapt a network that is in no file: one of this package's, or a user's own with the contract's methods.

        Its clock is its attribute ``clock``, `MULTI_RATE` where it has none.

        Raises
        ------
        ParameterError
            If it lacks one of the methods.
        """
        for name in METHODS:
            if not hasattr(network, name):
                raise ParameterError(f"model must have the methods {', '.join(METHODS)}, got no {name}")
        metadata = ModelMetadata(type(network).__name__, getattr(network, "clock", MULTI_RATE))
        ours = isinstance(network, (ALM, DMC))
        model = cls(for_inference(to_torchscript(network)) if ours else network, metadata)
        probe = model.embed(np.zeros((1, PATCH_COLUMNS, MEL_BANDS), np.float32), np.ones(1, np.float32))
        model.metadata = replace(metadata, embedding_size=probe.shape[-1])
        return model

    def embed(self, patches: Array, mask: Array) -> Array:
        """Embed one F1 frame: log-mel `patches` (C, 96, 64), `mask` (C,) to (C, D)."""
        channels = len(mask)
        check_shape("patches", patches, (channels, PATCH_COLUMNS, MEL_BANDS))
        with _one_way_of_computing():
            return self._network.embed(_tensor(patches), _tensor(mask)).numpy()

    def step(self, embedding: Array, levels: Array, mask: Array, state: State) -> tuple[Array, State]:
        """Predict the next frame's gains; see `alm_plugin.models.contract.Model.step`."""
        channels = len(mask)
        check_shape("embedding", embedding, (channels, self.metadata.embedding_size))
        check_shape("levels", levels, (channels, 3))
        with _one_way_of_computing():
            memory = {name: torch.tensor(np.ascontiguousarray(rows)) for name, rows in state.items()}
            gain_db, memory = self._network.step(_tensor(embedding), _tensor(levels), _tensor(mask), memory)
            return gain_db.numpy(), {name: rows.numpy() for name, rows in memory.items()}

    def initial_state(self, channels: int) -> State:
        """State before the first frame."""
        with _one_way_of_computing():
            return {name: rows.numpy() for name, rows in self._network.initial_state(channels).items()}


def load_model_file(path: str | Path, sha256: str | None = None) -> TorchModel:
    """Load a model from a file.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or TorchScript as ``.ts`` or ``.pt``, which is code and must be trusted.
    sha256 : str, optional
        What the file must be; nothing of another is looked at.

    Raises
    ------
    ModelError
        If the file cannot be read, is another, or is not a model.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        network, metadata = load_weights(path, sha256)
        return TorchModel(for_inference(to_torchscript(network)), metadata)
    if suffix in (".ts", ".pt"):
        scripted, metadata = load_torchscript(path, sha256)
        return TorchModel(for_inference(scripted), metadata)
    raise ModelError(f"{path}: a model file must end in .safetensors, .ts or .pt, got {suffix!r}")


# Three things could let the same arguments give other last bits, or a call take far longer than others:
# - TorchScript's profiling executor watches a method's first calls, then compiles it for the shapes it saw, while
#   channels come and go. Without it there is one plan, made when the model was loaded (`for_inference`).
# - More threads than one split sums elsewhere, and wait for each other on a busy machine.
# - MKL's last bits depend on alignment in memory. Torch aligns to 64 bytes, NumPy to 16: hence `_tensor` copies.
@contextmanager
def _one_way_of_computing() -> Iterator[None]:
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
            yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


def _tensor(array: NDArray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array, np.float32))


def check_shape(name: str, array: NDArray, shape: tuple[int, ...]) -> None:
    """Raise `ParameterError` unless an array has this shape."""
    if array.shape != shape:
        raise ParameterError(f"{name} must have shape {shape}, got {array.shape}")
