"""A live band mixer with zero added latency.

The path of the sound, and where to read on: `FrontEnd` hears (features), a `Model` decides (models), `Gain`, `Pan`,
`Chain` and `Strip` act (nodes), `Group` and `Return` gather (routing), `Mixer` puts them together, a `Preset` fills its
strips, a `Session` keeps it, `render_files` sends files through it, `Live` a band on stage.

>>> from alm_plugin import Mixer, Strip
>>> mixer = Mixer({"vocals": Strip(role="vocals"), "kick": Strip()})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from alm_plugin.errors import (
        AlmError,
        AudioFileError,
        AudioTypeError,
        LatencyError,
        ModelError,
        ParameterError,
        PluginError,
    )
    from alm_plugin.features.clock import ModelClock
    from alm_plugin.features.front_end import Features, FrontEnd
    from alm_plugin.live.audio import DeviceSpec
    from alm_plugin.live.safety import StageLimits
    from alm_plugin.live.supervisor import Live
    from alm_plugin.mixer import Mixer
    from alm_plugin.models.contract import Model, ModelMetadata
    from alm_plugin.models.registry import load_model
    from alm_plugin.nodes.bus import Group, Return
    from alm_plugin.nodes.chain import Chain
    from alm_plugin.nodes.external import External, Sandbox
    from alm_plugin.nodes.gain import Gain
    from alm_plugin.nodes.keyed import Keyed, SidechainCompressor
    from alm_plugin.nodes.node import Node
    from alm_plugin.nodes.pan import Pan
    from alm_plugin.nodes.per_channel import PerChannel
    from alm_plugin.nodes.strip import Strip
    from alm_plugin.preset import Preset, load_preset
    from alm_plugin.render import find_tracks, render_files
    from alm_plugin.session import Session, load_session, save_session
    from alm_plugin.stream import Automation

# In the order of the signal path. Each is imported when it is first asked for, so that a program which only wants one
# node does not wait for the rest, and torch is not imported before a network is loaded.
_HOME = {
    "AlmError": "errors",
    "AudioFileError": "errors",
    "AudioTypeError": "errors",
    "LatencyError": "errors",
    "ModelError": "errors",
    "ParameterError": "errors",
    "PluginError": "errors",
    "ModelClock": "features.clock",
    "FrontEnd": "features.front_end",
    "Features": "features.front_end",
    "Model": "models.contract",
    "ModelMetadata": "models.contract",
    "load_model": "models.registry",
    "Node": "nodes.node",
    "Gain": "nodes.gain",
    "Pan": "nodes.pan",
    "Chain": "nodes.chain",
    "PerChannel": "nodes.per_channel",
    "Keyed": "nodes.keyed",
    "SidechainCompressor": "nodes.keyed",
    "External": "nodes.external",
    "Sandbox": "nodes.external",
    "Strip": "nodes.strip",
    "Group": "nodes.bus",
    "Return": "nodes.bus",
    "Mixer": "mixer",
    "Automation": "stream",
    "Preset": "preset",
    "load_preset": "preset",
    "Session": "session",
    "load_session": "session",
    "save_session": "session",
    "find_tracks": "render",
    "render_files": "render",
    "DeviceSpec": "live.audio",
    "StageLimits": "live.safety",
    "Live": "live.supervisor",
}

__all__ = [
    "AlmError",
    "AudioFileError",
    "AudioTypeError",
    "Automation",
    "Chain",
    "DeviceSpec",
    "External",
    "Features",
    "FrontEnd",
    "Gain",
    "Group",
    "Keyed",
    "LatencyError",
    "Live",
    "Mixer",
    "Model",
    "ModelClock",
    "ModelError",
    "ModelMetadata",
    "Node",
    "Pan",
    "ParameterError",
    "PerChannel",
    "PluginError",
    "Preset",
    "Return",
    "Sandbox",
    "Session",
    "SidechainCompressor",
    "StageLimits",
    "Strip",
    "find_tracks",
    "load_model",
    "load_preset",
    "load_session",
    "render_files",
    "save_session",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
