"""Models by name or file."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import cast

from alm_plugin.data import presets_dir
from alm_plugin.errors import ModelError, ParameterError
from alm_plugin.models.contract import Model
from alm_plugin.models.loudness import Loudness
from alm_plugin.models.unity import Unity

NETWORKS = ("alm-mr", "alm-sr", "dmc-og", "dmc-b-0l")
"""Names that stand for trained weights in ``presets/models``."""

RULES = {"loudness": Loudness, "unity": Unity}
DEFAULT = "alm-mr"

RUNTIMES = ("torch", "onnx")
"""What can run a network: TorchScript, the reference, or ONNX Runtime, an extra, within 1e-4 dB of it for less work."""


def shipped() -> list[str]:
    """Names that `load_model` takes in this installation."""
    return [*RULES, *(name for name in NETWORKS if _weights(name).is_file())]


def _weights(name: str) -> Path:
    return presets_dir() / "models" / f"{name}.safetensors"


@cache
def _shipped(path: Path, runtime: str) -> Model:
    # Models remember nothing: any number of mixers can share one.
    return _from_file(path, runtime)


def _from_file(path: Path, runtime: str, sha256: str | None = None) -> Model:
    if runtime == "onnx":
        from alm_plugin.models.onnx_runtime import load_onnx_model

        return load_onnx_model(path, sha256)
    from alm_plugin.models.files import load_model_file

    return load_model_file(path, sha256)


def load_model(model: str | Path | Model, runtime: str = "torch", sha256: str | None = None) -> Model:
    """Model by name, by file, or a user's own object.

    Parameters
    ----------
    model : str, Path or Model
        One of ``loudness``, ``unity``, a network's name, a ``.safetensors`` or TorchScript file, an object that speaks
        `alm_plugin.models.contract.Model`, or a torch module with its three methods.
    runtime : {"torch", "onnx"}
        What runs a network that is given by name or as ``.safetensors``; see `RUNTIMES`. Rules run as they are.
    sha256 : str, optional
        What a file must be; nothing of another is looked at.

    Raises
    ------
    ModelError
        For a name that is unknown or has no weights here, a file that is another or not a model, or a runtime that is
        not installed or cannot run this file.
    ParameterError
        For an object without `embed`, `step`, `initial_state` and `metadata`, or one that `runtime` would have to
        change; for an unknown `runtime`.
    """
    if runtime not in RUNTIMES:
        raise ParameterError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if isinstance(model, (str, Path)):
        name = str(model)
        if name in RULES:
            return RULES[name]()
        path = Path(model)
        if name in NETWORKS:
            path = _weights(name)
            if not path.is_file():
                raise ModelError(
                    f"model {name!r} has no trained weights in this version: expected one of {', '.join(shipped())} "
                    f"or a file, got {name!r}"
                )
        elif not path.suffix and not path.exists():
            raise ModelError(f"model must be one of {', '.join([*RULES, *NETWORKS])} or a file, got {name!r}")
        return _shipped(path, runtime) if name in NETWORKS else _from_file(path, runtime, sha256)
    if runtime != "torch":
        raise ParameterError(f"runtime {runtime} takes a model by name or file, got {model!r}")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module) and not isinstance(model, Model):
        from alm_plugin.models.files import TorchModel

        return TorchModel.wrap(model)
    for name in ("embed", "step", "initial_state", "metadata"):
        if not hasattr(model, name):
            raise ParameterError(
                f"model must have embed, step, initial_state and metadata, got {model!r} without {name}"
            )
    return cast(Model, model)
