"""Other people's plugins, VST3 and AU: tried in a child process, remembered in a registry, hosted as nodes."""

from alm_plugin.nodes.external.entry import PluginEntry, PluginParameter
from alm_plugin.nodes.external.host import External
from alm_plugin.nodes.external.registry import TIMEOUT_S, find, known, read_registry, registry_path, scan

__all__ = [
    "TIMEOUT_S",
    "External",
    "PluginEntry",
    "PluginParameter",
    "find",
    "known",
    "read_registry",
    "registry_path",
    "scan",
]
