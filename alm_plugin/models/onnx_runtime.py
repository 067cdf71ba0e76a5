"""Networks run by ONNX Runtime instead of TorchScript: the same weights, within 1e-4 dB, for less work.

The graphs are made from a network in memory and die with it: no ONNX file is ever read or written.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alm_plugin.errors import ModelError
from alm_plugin.models.alm import ALM
from alm_plugin.models.contract import MEL_BANDS, PATCH_COLUMNS, Array, ModelMetadata, State
from alm_plugin.models.dmc import DMC
from alm_plugin.models.files import check_shape, load_weights
from alm_plugin.models.winograd import WinogradVGGish

try:
    import onnx  # noqa: F401  (torch's exporter needs it)
    import onnxruntime
except ImportError as error:
    raise ModelError(f"runtime onnx needs the onnx extra (pip install 'alm-plugin[onnx]'), got {error}") from None

OPSET = 17
"""The first with layer normalisation."""

Run = Callable[[Mapping[str, NDArray]], Sequence[Any]]


class OnnxModel:
    """A network behind the contract's NumPy methods (`alm_plugin.models.contract.Model`), on one thread.

    The same arguments give the same bits, but not `alm_plugin.models.files.TorchModel`'s.

    Parameters
    ----------
    network : ALM or DMC
    metadata : ModelMetadata

    Examples
    --------
    >>> from alm_plugin import load_model
    >>> load_model("alm-mr", runtime="onnx")
    OnnxModel('alm-mr')
    """

    def __init__(self, network: ALM | DMC, metadata: ModelMetadata) -> None:
        self.metadata = metadata
        network = copy.deepcopy(network).cpu().eval()
        network.add_module("encoder", WinogradVGGish(network.encoder))
        # Three channels, because what is one or two by chance the exporter may take for a constant.
        with torch.no_grad():
            fresh = network.initial_state(3)
        self._first = {name: rows[:1].numpy().copy() for name, rows in fresh.items()}
        patches, mask = torch.zeros(3, PATCH_COLUMNS, MEL_BANDS), torch.ones(3)
        self._embed = _graph(_Embed(network), {"patches": patches, "mask": mask}, ["embedding"])
        given = {"embedding": torch.zeros(3, network.embedding_size), "levels": torch.ones(3, 3), "mask": mask}
        state = {f"before {name}": rows for name, rows in fresh.items()}
        after = [f"after {name}" for name in fresh]
        self._step = _graph(_Step(network, list(fresh)), given | state, ["gain_db", *after])

    def __repr__(self) -> str:
        return f"OnnxModel({self.metadata.name!r})"

    def embed(self, patches: Array, mask: Array) -> Array:
        """Embed one F1 frame: log-mel `patches` (C, 96, 64), `mask` (C,) to (C, D)."""
        check_shape("patches", patches, (len(mask), PATCH_COLUMNS, MEL_BANDS))
        return self._embed({"patches": _floats(patches), "mask": _floats(mask)})[0]

    def step(self, embedding: Array, levels: Array, mask: Array, state: State) -> tuple[Array, State]:
        """Predict the next frame's gains; see `alm_plugin.models.contract.Model.step`."""
        check_shape("embedding", embedding, (len(mask), self.metadata.embedding_size))
        check_shape("levels", levels, (len(mask), 3))
        before = {f"before {name}": rows for name, rows in state.items()}
        given = {"embedding": _floats(embedding), "levels": _floats(levels), "mask": _floats(mask)}
        gain_db, *after = self._step(given | before)
        return gain_db, dict(zip(self._first, after, strict=True))

    def initial_state(self, channels: int) -> State:
        """State before the first frame."""
        return {name: np.repeat(row, channels, axis=0) for name, row in self._first.items()}


def load_onnx_model(path: str | Path, sha256: str | None = None) -> OnnxModel:
    """Load weights to be run by ONNX Runtime.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file.
    sha256 : str, optional
        What the file must be; nothing of another is looked at.

    Raises
    ------
    ModelError
        If the file cannot be read, is another, or is not one of weights.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise ModelError(f"{path}: runtime onnx needs weights as .safetensors, got {Path(path).suffix!r}")
    return OnnxModel(*load_weights(path, sha256))


class _Embed(nn.Module):
    def __init__(self, network: ALM | DMC) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor, mask: Tensor) -> Tensor:
        return self.network.embed(patches, mask)


class _Step(nn.Module):
    """A step whose state comes and goes as tensors in a row: ONNX knows no dicts."""

    def __init__(self, network: ALM | DMC, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, embedding: Tensor, levels: Tensor, mask: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(self.names, before, strict=True))
        gain_db, state = self.network.step(embedding, levels, mask, state)
        return (gain_db, *(state[name] for name in self.names))


def _graph(module: nn.Module, arguments: Mapping[str, Tensor], results: Sequence[str]) -> Run:
    """Make a graph of a module, for any number of channels."""
    graph = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # Newer torch says that this exporter, the one that needs no more packages, is not the default any longer.
        warnings.simplefilter("ignore", DeprecationWarning)
        # What it says of sizes that it takes for constants, and of a GRU whose batch changes, the tests disprove.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        torch.onnx.export(
            module,
            tuple(arguments.values()),
            graph,  # pyright: ignore[reportArgumentType]
            input_names=list(arguments),
            output_names=list(results),
            dynamic_axes={name: {0: "channels"} for name in (*arguments, *results)},
            opset_version=OPSET,
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
    # An input that the network does not look at is not in the graph.
    names = [one.name for one in session.get_inputs()]
    return lambda given: session.run(None, {name: given[name] for name in names})


def _floats(array: NDArray) -> Array:
    return np.ascontiguousarray(array, np.float32)
