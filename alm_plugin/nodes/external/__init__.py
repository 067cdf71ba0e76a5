"""Other people's plugins, VST3 and AU: tried in a child process, remembered, hosted as nodes, here or in a sandbox."""

from alm_plugin.nodes.external.entry import PluginEntry, PluginParameter
from alm_plugin.nodes.external.host import External
from alm_plugin.nodes.external.registry import TIMEOUT_S, find, known, read_registry, registry_path, scan
from alm_plugin.nodes.external.sandbox import Sandbox, go_live, go_offline

__all__ = [
    "TIMEOUT_S",
    "External",
    "PluginEntry",
    "PluginParameter",
    "Sandbox",
    "find",
    "go_live",
    "go_offline",
    "known",
    "read_registry",
    "registry_path",
    "scan",
]
