"""Which plugins there are and which of them may be hosted: folders, the scan, and the file that remembers it."""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AlmError, ParameterError, PluginError
from alm_plugin.nodes.external.entry import FORMATS, PluginEntry, fingerprint

logger = logging.getLogger("alm_plugin")

TIMEOUT_S = 20.0
"""How long a plugin may take to be loaded and tried."""

VERSION = 1
"""Of the registry's file."""

_complained: set[Path] = set()


# ---- folders ---------------------------------------------------------------------------------------------------------


def plugin_folders() -> list[Path]:
    """Where VST3 and AU plugins are installed on this system."""
    home = Path.home()
    if sys.platform == "darwin":
        roots = [home / "Library/Audio/Plug-Ins", Path("/Library/Audio/Plug-Ins")]
        return [root / kind for kind in ("VST3", "Components") for root in roots]
    if sys.platform == "win32":
        folders = {"LOCALAPPDATA": "Programs/Common/VST3", "COMMONPROGRAMFILES": "VST3"}
        return [Path(os.environ[name], rest) for name, rest in folders.items() if name in os.environ]
    return [home / ".vst3", Path("/usr/lib/vst3"), Path("/usr/local/lib/vst3")]


def plugin_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the plugins in folders and the folders in them, each folder's in alphabetical order."""
    for root in folders:
        for folder, subfolders, files in os.walk(root):
            for name in sorted([*subfolders, *files]):
                if Path(name).suffix.lower() in FORMATS:
                    yield Path(folder, name)
            # A bundle is a plugin, whatever is in it.
            subfolders[:] = sorted(name for name in subfolders if Path(name).suffix.lower() not in FORMATS)


# ---- the file --------------------------------------------------------------------------------------------------------


def registry_path() -> Path:
    """File in the user's cache; the environment variable ``ALM_PLUGIN_CACHE`` names another folder."""
    if folder := os.environ.get("ALM_PLUGIN_CACHE"):
        return Path(folder, "plugins.json")
    if sys.platform == "darwin":
        cache = Path.home() / "Library/Caches"
    elif sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "alm-plugin" / "plugins.json"


def read_registry() -> list[PluginEntry]:
    """Entries of the registry, also those of files that have changed; none if it is missing or corrupt."""
    path = registry_path()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            return []
        return [PluginEntry.from_json(entry) for entry in data["plugins"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if path not in _complained:
            _complained.add(path)
            logger.warning("%s: expected a registry of plugins, got %s; it is begun anew", path, reason_of(error))
        return []


def _remember(path: Path, entries: list[PluginEntry]) -> None:
    """Replace what the registry holds of the file at `path`."""
    kept = [entry for entry in read_registry() if entry.path != str(path)]
    _write([*kept, *entries])


def _write(entries: list[PluginEntry]) -> None:
    path = registry_path()
    data = {"version": VERSION, "plugins": [entry.to_json() for entry in sorted(entries, key=_order)]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as temporary:
            temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
    except (OSError, AlmError) as error:  # what was found out holds, if only for now
        logger.warning("%s: the registry of plugins is not written: %s", path, reason_of(error))


def _order(entry: PluginEntry) -> tuple[str, str]:
    return entry.name.casefold(), entry.path


# ---- the scan --------------------------------------------------------------------------------------------------------


def scan(
    folders: Iterable[Path | str] | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[PluginEntry]:
    """Try every plugin that is new or has changed, each in a process of its own, and remember what came of it.

    Parameters
    ----------
    folders : list of paths, optional
        Where to look; by default `plugin_folders()`.
    timeout_s : float
        How long each may take, > 0.
    progress : callable, optional
        Called with how many are done, how many there are, and the name of the next (at the end empty).

    Returns
    -------
    list of PluginEntry
        Of all plugins in the folders.
    """
    files = list(dict.fromkeys(_full(file) for file in plugin_files(map(Path, folders or plugin_folders()))))
    known = read_registry()
    for gone in {entry.path for entry in known if not Path(entry.path).exists()}:
        _remember(Path(gone), [])
    found = []
    for done, file in enumerate(files):
        if progress:
            progress(done, len(files), file.stem)
        before = [entry for entry in known if entry.path == str(file)]
        is_current = bool(before) and all(entry.is_current for entry in before)
        found += before if is_current else scan_file(file, timeout_s)
    if progress:
        progress(len(files), len(files), "")
    return sorted(found, key=_order)


def scan_file(path: Path, timeout_s: float = TIMEOUT_S) -> list[PluginEntry]:
    """Try the plugins in one file, whatever is known of them, and remember what came of it."""
    if not 0.0 < timeout_s < math.inf:
        raise ParameterError(f"timeout_s must be positive, got {timeout_s}")
    path = _full(path)
    mtime_ns, size = fingerprint(path)  # before the trial: should the file change meanwhile, the entry does not hold
    answer = _probe(path, "", timeout_s)
    answers = [_probe(path, name, timeout_s) | {"name": name} for name in answer.get("names", [])] or [answer]
    base = {"path": str(path), "mtime_ns": mtime_ns, "size": size, "name": path.stem, "channels": [], "parameters": {}}
    base |= {"reported_latency_samples": None, "probed_latency_samples": None, "depends_on_blocks": False}
    entries = [PluginEntry.from_json(base | answer) for answer in answers]
    _remember(path, entries)
    return entries


def _probe(path: Path, name: str, timeout_s: float) -> dict[str, Any]:
    """Run the probe on a plugin; whatever becomes of it, there is an answer with a verdict."""
    with tempfile.TemporaryDirectory(prefix="alm-probe-", ignore_cleanup_errors=True) as folder:
        answer = Path(folder, "answer.json")
        arguments = (str(path), name, str(answer), str(timeout_s))
        child = spawn("alm_plugin.nodes.external.probe", *arguments, stdin=DEVNULL, stdout=DEVNULL)
        try:
            status = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return {"verdict": f"timed out after {timeout_s:g} s"}
        finally:
            end(child)
        if status < 0:
            return {"verdict": f"crashed (signal {-status})"}
        try:
            return json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"verdict": f"crashed (exit status {status})"}


def spawn(module: str, *arguments: str, **options: Any) -> Popen[bytes]:
    """Run a module in a process, and session, of its own; what it complains of is not heard."""
    package = str(Path(__file__).resolve().parents[3])
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    child: Any = Popen(  # noqa: S603
        # -P: nothing in the folder we happen to be in is to be imported instead of what is meant.
        [sys.executable, "-P", "-m", module, *arguments],
        stderr=DEVNULL,
        env=os.environ | {"PYTHONPATH": search},
        start_new_session=True,
        **options,
    )
    return child


def end(child: Popen[bytes]) -> None:
    """End a child and all that it started."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        subprocess.run(  # noqa: S603
            ["taskkill", "/T", "/F", "/PID", str(child.pid)],  # noqa: S607
            stdout=DEVNULL,
            stderr=DEVNULL,
            check=False,
        )
    child.wait()


# ---- looking up ------------------------------------------------------------------------------------------------------


def known(plugin: str | Path) -> PluginEntry:
    """Return a plugin that was tried before and found good: what presets and sessions may name.

    Parameters
    ----------
    plugin : str or Path
        Its name, in capitals or not, or its path.

    Raises
    ------
    PluginError
        If the registry does not hold it, its file has changed since, or its verdict is not ``"ok"``.
    """
    entries = _matching(plugin, read_registry())
    if not entries:
        raise PluginError(f"{plugin}: expected a plugin of the registry, got none; 'alm plugins --scan' looks for all")
    current = [entry for entry in entries if entry.is_current]
    if not current:
        raise PluginError(
            f"{plugin}: expected the plugin as it was scanned, got another file; 'alm plugins --scan' looks again"
        )
    return _good(current)


def find(plugin: str | Path, timeout_s: float = TIMEOUT_S, again: bool = False) -> list[PluginEntry]:
    """Return the entries that a name or path means, after scanning the file if it is new, has changed, or `again`.

    Raises
    ------
    PluginError
        If there is no such plugin.
    """
    entries = _matching(plugin, read_registry())
    current = [entry for entry in entries if entry.is_current]
    if current and not again:
        return current
    if _is_path(plugin):
        path = _full(plugin)
        if not path.exists() or path.suffix.lower() not in FORMATS:
            raise PluginError(f"{plugin}: expected a VST3 or AU plugin, got {_what_is(path)}")
        return scan_file(path, timeout_s)
    name = str(plugin).casefold()
    files = list(plugin_files(plugin_folders()))
    paths = [Path(entry.path) for entry in entries if Path(entry.path).exists()]
    paths += [file for file in files if file.stem.casefold() == name]
    for path in dict.fromkeys(map(_full, paths)):
        found = scan_file(path, timeout_s)
        # The file is what the user named, and its only plugin is what was meant, whatever it calls itself.
        if found := _matching(plugin, found) or (found if len(found) == 1 else []):
            return found
    names = {file.stem for file in files} | {entry.name for entry in read_registry()}
    by_folded = {known_name.casefold(): known_name for known_name in names}
    close = difflib.get_close_matches(name, by_folded, 1)
    hint = f"; did you mean {by_folded[close[0]]}?" if close else ""
    raise PluginError(f"{plugin}: expected an installed plugin, got none of that name{hint}")


def find_good(plugin: str | Path) -> PluginEntry:
    """Return the entry that a name or path means, scanned if need be; PluginError if it may not be hosted."""
    return _good(find(plugin))


def _good(entries: list[PluginEntry]) -> PluginEntry:
    good = [entry for entry in entries if entry.is_ok]
    if len({entry.name for entry in good}) > 1:
        names = ", ".join(entry.name for entry in good)
        raise PluginError(f"{entries[0].path}: expected one plugin, got several; open one by name: {names}")
    if good:  # of one plugin in two formats pedalboard knows more of the VST3
        return min(good, key=lambda entry: entry.format != "VST3")
    bad = entries[0]
    raise PluginError(
        f"{bad.name} cannot be hosted, its scan says: {bad.verdict}; 'alm plugins {bad.name} --scan' tries again"
    )


def _matching(plugin: str | Path, entries: list[PluginEntry]) -> list[PluginEntry]:
    if _is_path(plugin):
        path = str(_full(plugin))
        return [entry for entry in entries if entry.path == path]
    return [entry for entry in entries if entry.name.casefold() == str(plugin).casefold()]


def _is_path(plugin: str | Path) -> bool:
    return (
        isinstance(plugin, Path)
        or any(separator in plugin for separator in filter(None, (os.sep, os.altsep)))
        or Path(plugin).suffix.lower() in FORMATS
    )


def _full(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _what_is(path: Path) -> str:
    return "another kind of file" if path.exists() else "no such file"
