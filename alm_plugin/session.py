"""Sessions: a folder with all there is to set on a mixer, from which it comes back and makes the same samples.

``session.json`` has everything but gain curves, which lie beside it as CSV: ``automation-*.csv`` those that the saved
stream played with, ``automation-in-*.csv`` those that were given to the mixer. They are named by their content, and
``session.json`` names them: it is replaced last and in one step, so that the folder always holds a whole session.

A session starts nothing that the user has not: plugins come from explicit lists or from the registry of those that
have been tried, models must ship or be given by the user and have the session's sha256, and nothing in it is code.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alm_plugin import __version__
from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AlmError, AudioFileError, ModelError, ParameterError
from alm_plugin.export.automation import RANGE_DB, read_csv, write_csv
from alm_plugin.features.front_end import MAX_CHANNELS
from alm_plugin.mixer import Automation, Mixer
from alm_plugin.models.contract import Model
from alm_plugin.models.registry import NETWORKS, RULES, load_model, shipped
from alm_plugin.nodes import native
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.gain import MAX_GAIN_DB, Gain
from alm_plugin.nodes.pan import Pan
from alm_plugin.nodes.strip import Strip
from alm_plugin.preset import PLUGINS, Limits, _key, _number, _one_of, _set, _shown, _table, _wrong

VERSION = 1
"""Of the format; a newer one is refused, an older one would be read."""

FILE = "session.json"
MAX_BYTES = 64_000_000
"""Of ``session.json``: states of plugins are in it."""

MAX_CSV_BYTES = 256_000_000
"""64 channels for an hour are 50 MB."""

MAX_DEPTH = 8
"""Lists of plugins in lists of plugins."""

MAX_PLUGINS = 256
"""In one list."""

_CSV = re.compile(r"automation(-in)?-[0-9a-f]{16}\.csv")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_FIELDS = ("version", "made_by", "model", "channels", "strength", "ceiling_db", "zero_latency", "freeze")
_FIELDS += ("automation_in", "automation", "render", "tracks", "strips")
_STRIP_FIELDS = ("role", "pan", "trim_db", "lock_db", "mute", "bounds_db", "slew_db_per_s", "pre", "post")

# Presets are for every rate and every ear; whoever set up a session may have gone further. These are the ranges in
# which pedalboard's plugins do what they say, and none of them grows without end.
_CUTOFF, _MS, _DB = (1.0, 96_000.0), (0.0, 60_000.0), (-200.0, 120.0)
_WIDER: dict[str, tuple[float, float]] = {
    "attack_ms": _MS,
    "bit_depth": (0.0, 32.0),
    "centre_delay_ms": (1.0, 100.0),
    "centre_frequency_hz": _CUTOFF,
    "cutoff_frequency_hz": _CUTOFF,
    "cutoff_hz": _CUTOFF,
    "drive_db": _DB,
    "feedback": (-1.0, 1.0),
    "gain_db": _DB,
    "q": (0.001, 1_000.0),
    "rate_hz": (0.0, 100.0),
    "ratio": (1.0, 1e9),
    "release_ms": _MS,
    "threshold_db": _DB,
}
_LIMITS: dict[str, Limits] = {
    name: {key: _WIDER.get(key, values) for key, values in limits.items()} for name, (_, limits) in PLUGINS.items()
}
_LIMITS |= {
    "Gain": {"gain_db": (-math.inf, MAX_GAIN_DB), "ramp_ms": (1e-3, 1e6)},
    "MP3Compressor": {"vbr_quality": (0.0, 10.0)},
    "Pan": {"pan": (-1.0, 1.0)},
    "PitchShift": {"semitones": (-72.0, 72.0)},
    "pedalboard.Gain": {"gain_db": _DB},
}
_LISTS = ("Chain", *native.LISTS)


class AudioTrack(Protocol):
    """What a session says of a channel's audio; `alm_plugin.render.Track` is one."""

    @property
    def name(self) -> str:
        """Channel."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """One file, or left and right."""
        ...

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...

    @property
    def frames(self) -> int:
        """Samples per side."""
        ...


@dataclass(frozen=True)
class SessionFile:
    """An audio file as it was when the session was saved."""

    channel: str
    path: Path
    size: int
    sha256: str
    sample_rate: int
    samples: int


@dataclass(frozen=True)
class Session:
    """What `load_session` returns.

    Attributes
    ----------
    mixer : Mixer
        At the start of a new stream.
    automation : Automation or None
        The gains that the stream had played with when it was saved. As the mixer's `automation_in` they are played
        again, whatever the model says.
    files : tuple of SessionFile
        The audio that was mixed, if the session says; see `check_files`.
    sample_rate, bits : int or None
        Of the file that was mixed to.
    """

    mixer: Mixer
    automation: Automation | None
    files: tuple[SessionFile, ...]
    sample_rate: int | None
    bits: int | None

    def check_files(self) -> list[Path]:
        """Paths of the audio, after a look whether all of it is still there and the same.

        Raises
        ------
        AudioFileError
            Naming the first file that is not, and what was expected.
        """
        for file in self.files:
            what = f"{file.samples} samples at {file.sample_rate} Hz, {file.size} bytes, as channel {file.channel!r}"
            if not file.path.is_file():
                raise AudioFileError(f"{file.path}: expected {what}, got nothing there")
            size = file.path.stat().st_size
            if size != file.size:
                raise AudioFileError(f"{file.path}: expected {what}, got {size} bytes")
            if (digest := _digest(file.path)) != file.sha256:
                raise AudioFileError(
                    f"{file.path}: expected {what}, with sha256 {file.sha256[:12]}, got other audio, {digest[:12]}"
                )
        return [file.path for file in self.files]


# ---- saving ----------------------------------------------------------------------------------------------------------


def check_saveable(mixer: Mixer) -> None:
    """Raise `ParameterError` for what a session cannot hold, by channel and plugin."""
    _check("session", _describe(mixer))


def save_session(
    mixer: Mixer,
    folder: str | Path,
    tracks: Iterable[AudioTrack] = (),
    sample_rate: int | None = None,
    bits: int | None = None,
) -> None:
    """Write a session.

    Parameters
    ----------
    mixer : Mixer
    folder : str or Path
        Made if it is not there; other files in it are left alone.
    tracks : list of Track
        The audio that was mixed: paths relative to the folder, lengths and sha256 are kept.
    sample_rate, bits : int, optional
        Of the file that was mixed to.

    Raises
    ------
    ParameterError, AudioFileError
        As `Mixer.save`; the folder is then as it was.
    """
    folder = Path(folder)
    path = folder / FILE
    table = _describe(mixer)
    if sample_rate is not None:
        table["render"] = {"sample_rate": sample_rate, "bits": bits}
    table["tracks"] = [_describe_track(track, folder) for track in tracks]
    _check(str(path), table)
    before = {old.name for old in folder.iterdir()} if folder.is_dir() else None
    try:
        folder.mkdir(exist_ok=True)
        table["automation_in"] = _write_curves(mixer.automation_in, folder, "automation-in")
        table["automation"] = _write_curves(_audible(mixer.automation), folder, "automation")
        with staged(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump(table, file, indent=1, allow_nan=False)
            _flush(file)
    except BaseException as error:
        with suppress(OSError):
            _remove_curves(folder, before or set())
            if before is None:
                folder.rmdir()
        if isinstance(error, OSError):
            raise AudioFileError(f"{folder}: expected a folder to write to, got {reason_of(error)}") from None
        raise
    with suppress(OSError):
        _remove_curves(folder, {table["automation_in"], table["automation"]})


def _remove_curves(folder: Path, kept: Collection[str | None]) -> None:
    for path in folder.iterdir():
        if _CSV.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def _describe(mixer: Mixer) -> dict[str, Any]:
    return {
        "version": VERSION,
        "made_by": f"alm-plugin {__version__}",
        "model": _describe_model(mixer),
        "channels": mixer.channels,
        "strength": mixer.strength,
        "ceiling_db": None if mixer.ceiling_db is None else float(mixer.ceiling_db),
        "zero_latency": mixer.zero_latency,
        "freeze": mixer.freeze,
        "automation_in": None,
        "automation": None,
        "render": None,
        "tracks": [],
        "strips": {name: _describe_strip(name, mixer[name]) for name in mixer.names},
    }


def _describe_model(mixer: Mixer) -> dict[str, str]:
    source, sha256 = mixer.model_source, mixer.model.metadata.sha256
    if source is None:
        raise ParameterError(f"model must ship or be a .safetensors file for a session to name it, got {mixer.model!r}")
    if str(source) in RULES:
        return {"name": str(source)}
    if str(source) in NETWORKS:
        return {"name": str(source), "sha256": sha256}
    if Path(source).suffix.lower() != ".safetensors":
        raise ParameterError(
            f"model must ship or be a .safetensors file for a session to name it, got {source}, which is code"
        )
    return {"file": Path(source).name, "sha256": sha256}


def _describe_strip(name: str, strip: Strip) -> dict[str, Any]:
    chains = {"pre": strip.pre, "post": strip.post}
    for part, kind in ((strip, Strip), (strip.pre, Chain), (strip.post, Chain)):
        if type(part) is not kind:
            raise ParameterError(f"{name}: a session can hold a plain {kind.__name__}, got {part!r}")
    return {
        "role": strip.role,
        "pan": strip.pan,
        "trim_db": strip.trim_db,
        "lock_db": _finite(strip.lock_db),
        "mute": strip.mute,
        "bounds_db": [_finite(bound) for bound in strip.bounds_db],
        "slew_db_per_s": _finite(strip.slew_db_per_s),
    } | {
        key: [_describe_plugin(f"{name}: {key}[{i}]", plugin) for i, plugin in enumerate(chain)]
        for key, chain in chains.items()
    }


def _describe_plugin(where: str, plugin: Any) -> dict[str, Any] | None:
    from alm_plugin.nodes.external import External, known

    if plugin is None:
        return None
    if type(plugin) is Gain:
        return {"plugin": "Gain", "gain_db": _finite(plugin.gain_db), "ramp_ms": plugin.ramp_ms}
    if type(plugin) is Pan:
        return {"plugin": "Pan", "pan": plugin.pan}
    if type(plugin) is Chain:
        inside = [_describe_plugin(f"{where}[{i}]", inner) for i, inner in enumerate(plugin)]
        return {"plugin": "Chain", "plugins": inside}
    if type(plugin) is External:
        try:
            entry = known(plugin.name)
        except AlmError as error:
            raise ParameterError(f"{where}: {error}") from None
        if entry.path != plugin.entry.path:
            raise ParameterError(f"{where}: {plugin.name} must be that at {entry.path}, got {plugin.entry.path}")
        _, (_, _, slew_ms, state, raw_values) = plugin.__reduce__()
        state = base64.b64encode(state).decode("ascii")
        return {"external": plugin.name, "slew_ms": slew_ms, "state": state, "raw_values": raw_values}
    try:
        return native.describe(plugin)
    except TypeError:
        kinds = ", ".join([*_LIMITS, *_LISTS, "External"])
        hint = "; External hosts VST3 and AU" if isinstance(plugin, native.ExternalPlugin) else ""
        raise ParameterError(f"{where}: a session can hold {kinds}{hint}, got {plugin!r}") from None


def _describe_track(track: AudioTrack, folder: Path) -> dict[str, Any]:
    files = []
    for path in track.paths:
        try:
            files.append({"path": _relative(path, folder), "size": path.stat().st_size, "sha256": _digest(path)})
        except OSError as error:
            raise AudioFileError(f"{path}: expected a track of the session, got {reason_of(error)}") from None
    return {"channel": track.name, "sample_rate": track.sample_rate, "samples": track.frames, "files": files}


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()


def _finite(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return str(value) if value is not None and math.isinf(value) else value


def _audible(automation: Automation) -> Automation | None:
    """Curves of a stream as CSV takes them: what is under -120 dB is silence."""
    if not automation.times_s.size:
        return None
    floor = RANGE_DB[0]
    curves = {name: np.where(curve < floor, np.float32(-np.inf), curve) for name, curve in automation.gains_db.items()}
    return Automation(automation.times_s, curves)


def _write_curves(automation: Automation | None, folder: Path, stem: str) -> str | None:
    if automation is None or not automation.times_s.size:
        return None
    with tempfile.TemporaryDirectory(prefix=".alm-", dir=folder) as temporary:
        path = Path(temporary, f"{stem}.csv")
        write_csv(automation, path)
        # Curves may come from anywhere: what CSV does not bring back is not saved.
        try:
            is_same, got = _are_equal(automation, read_csv(path)), "others"
        except AudioFileError as error:
            is_same, got = False, str(error).removeprefix(f"{path}: ")
        if not is_same:
            raise ParameterError(
                f"{stem}: expected curves that are the same after a way through CSV (microseconds, float32), got {got}"
            )
        data = path.read_bytes()
        with path.open("ab") as file:
            _flush(file)
        name = f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.csv"
        path.replace(folder / name)
    return name


def _are_equal(first: Automation, second: Automation) -> bool:
    return (
        first.gains_db.keys() == second.gains_db.keys()
        and np.allclose(first.times_s, second.times_s, rtol=0.0, atol=1e-6)
        and all(np.array_equal(curve, second.gains_db[name], equal_nan=True) for name, curve in first.gains_db.items())
    )


def _flush(file: Any) -> None:
    """Have a file on disk before its name is: else a power cut may leave the name of nothing."""
    file.flush()
    os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_session(folder: str | Path, model: str | Path | Model | None = None) -> Session:
    """Read a session, all of it or nothing.

    Parameters
    ----------
    folder : str or Path
    model : str, Path or Model, optional
        See `Mixer.load`.

    Returns
    -------
    Session

    Raises
    ------
    ParameterError, AudioFileError, ModelError
        With one line: file, field, expectation, value.

    Examples
    --------
    >>> load_session("nowhere")
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: nowhere/session.json: expected a session, got nothing there
    """
    folder = Path(folder)
    path = folder / FILE
    where = path.as_posix()
    table = _read(path, where)
    _check(where, table)
    curves = {name: _read_curves(where, folder, name, table[name]) for name in ("automation_in", "automation")}
    chosen = _model(f"{where}: model", table["model"], model)
    strips = {name: _build_strip(f"{where}: strips.{_key(name)}", strip) for name, strip in table["strips"].items()}
    try:
        mixer = Mixer(
            strips,
            chosen,
            table["channels"],
            strength=table["strength"],
            ceiling_db=table["ceiling_db"],
            zero_latency=table["zero_latency"],
            automation=curves["automation_in"],
        )
    except AlmError as error:
        raise type(error)(f"{where}: {error}") from None
    mixer.freeze = table["freeze"]
    files = tuple(
        SessionFile(
            track["channel"],
            Path(os.path.normpath(folder / file["path"])),
            file["size"],
            file["sha256"],
            track["sample_rate"],
            track["samples"],
        )
        for track in table["tracks"]
        for file in track["files"]
    )
    render = table["render"] or {"sample_rate": None, "bits": None}
    return Session(mixer, curves["automation"], files, render["sample_rate"], render["bits"])


def _read(path: Path, where: str) -> dict[str, Any]:
    if not path.is_file():
        raise ParameterError(f"{where}: expected a session, got {'a folder' if path.is_dir() else 'nothing there'}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ParameterError(f"{where}: expected a session, got {reason_of(error)}") from None
    if len(data) > MAX_BYTES:
        raise ParameterError(f"{where}: expected a session of at most {MAX_BYTES / 1e6:g} MB, got more")
    try:
        return _table(
            where, json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_refuse_constant)
        )
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ParameterError(f"{where}: line {line}: expected UTF-8 text, got other bytes") from None
    except json.JSONDecodeError as error:
        raise ParameterError(f"{where}: line {error.lineno}: expected JSON, got: {error.msg}") from None
    except RecursionError:
        raise ParameterError(f"{where}: expected JSON, got endless nesting") from None
    except ParameterError as error:
        raise error if str(error).startswith(where) else ParameterError(f"{where}: {error}") from None
    except ValueError:
        raise ParameterError(f"{where}: expected JSON, got an endless number") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ParameterError(f"expected every field once, got {_shown(twice)} twice")
    return table


def _refuse_constant(name: str) -> None:
    raise ParameterError(f"expected JSON, got the number {name}")


# What may be in a session. The same checks run before one is written: what is saved can be loaded.


def _check(where: str, table: dict[str, Any]) -> None:
    version = table.get("version")
    if type(version) is not int or version < 1:
        _wrong(f"{where}: version", "a whole number >= 1", version)
    if version > VERSION:
        raise ParameterError(f"{where}: version must be at most {VERSION}, got {_shown(version)}: made by a newer alm")
    _fields(f"{where}: session", table, _FIELDS)
    _line(f"{where}: made_by", table["made_by"])
    _check_model(f"{where}: model", table["model"])
    if type(table["channels"]) is not int or table["channels"] not in (1, 2):
        _wrong(f"{where}: channels", "1 or 2", table["channels"])
    _within(f"{where}: strength", table["strength"], 0.0, 100.0)
    if table["ceiling_db"] is not None and not -60.0 <= _number(f"{where}: ceiling_db", table["ceiling_db"]) < 0.0:
        _wrong(f"{where}: ceiling_db", "in [-60, 0) or null", table["ceiling_db"])
    for name in ("zero_latency", "freeze"):
        if not isinstance(table[name], bool):
            _wrong(f"{where}: {name}", "true or false", table[name])
    for name in ("automation_in", "automation"):
        # A plain name: nothing leads out of the folder.
        if table[name] is not None and not (isinstance(table[name], str) and _CSV.fullmatch(table[name])):
            _wrong(f"{where}: {name}", "null or automation-<16 hexadecimal digits>.csv in this folder", table[name])
    strips = _table(f"{where}: strips", table["strips"])
    if not 1 <= len(strips) <= MAX_CHANNELS:
        raise ParameterError(f"{where}: strips must hold 1 to {MAX_CHANNELS} channels, got {len(strips)}")
    for name, strip in strips.items():
        _check_strip(f"{where}: strips.{_key(name)}", strip)
    if table["render"] is not None:
        render = _fields(f"{where}: render", table["render"], ("sample_rate", "bits"))
        _whole(f"{where}: render.sample_rate", render["sample_rate"], 8_000, 192_000)
        if render["bits"] is not None and (type(render["bits"]) is not int or render["bits"] not in (16, 24, 32)):
            _wrong(f"{where}: render.bits", "16, 24, 32 or null", render["bits"])
    _check_tracks(f"{where}: tracks", table["tracks"], strips)


def _check_model(where: str, given: object) -> None:
    table = _table(where, given)
    if "file" in table:
        _fields(where, table, ("file", "sha256"))
        name = _line(f"{where}.file", table["file"])
        if Path(name).suffix.lower() != ".safetensors":
            _wrong(f"{where}.file", "a .safetensors file, as others are code", name)
        if Path(name).name != name or "\\" in name:
            _wrong(f"{where}.file", "a file's name without folders", name)
    else:
        is_rule = table.get("name") in list(RULES)
        _fields(where, table, ("name",) if is_rule else ("name", "sha256"))
        if table["name"] not in (names := shipped()):
            _wrong(f"{where}.name", f"one of {', '.join(names)}", table["name"])
    if "sha256" in table:
        _sha256(f"{where}.sha256", table["sha256"])


def _check_strip(where: str, given: object) -> None:
    table = _fields(where, given, _STRIP_FIELDS)
    for name in ("pre", "post"):
        _check_plugins(f"{where}.{name}", table[name], 0)
    if table["role"] is not None and not isinstance(table["role"], str):
        _wrong(f"{where}.role", "a role or null", table["role"])
    if not isinstance(table["bounds_db"], list) or len(table["bounds_db"]) != 2:
        _wrong(f"{where}.bounds_db", "two numbers [least, most]", table["bounds_db"])
    probe = Strip()
    for name, value in _strip_values(where, table).items():
        _set(where, probe, name, value)


def _strip_values(where: str, table: dict[str, Any]) -> dict[str, Any]:
    """Return a strip's settings, apart from its chains, as a `Strip` takes them."""
    values: dict[str, Any] = {name: _decibels(f"{where}.{name}", table[name]) for name in ("pan", "trim_db")}
    for name in ("lock_db", "slew_db_per_s"):
        values[name] = None if table[name] is None else _decibels(f"{where}.{name}", table[name])
    values["bounds_db"] = tuple(_decibels(f"{where}.bounds_db", bound) for bound in table["bounds_db"])
    return values | {"role": table["role"], "mute": table["mute"]}


def _check_plugins(where: str, given: object, depth: int) -> None:
    if not isinstance(given, list):
        _wrong(where, "a list of plugins", given)
    if len(given) > MAX_PLUGINS:
        raise ParameterError(f"{where} must hold at most {MAX_PLUGINS} plugins, got {len(given)}")
    if depth > MAX_DEPTH:
        raise ParameterError(f"{where} must be at most {MAX_DEPTH} lists deep, got more")
    for index, plugin in enumerate(given):
        if plugin is not None:
            _check_plugin(f"{where}[{index}]", plugin, depth)


def _check_plugin(where: str, given: object, depth: int) -> None:
    table = _table(where, given, 'a table {"plugin": "...", ...} or null')
    if "external" in table:
        _fields(where, table, ("external", "slew_ms", "state", "raw_values"))
        name = _line(f"{where}.external", table["external"])
        _within(f"{where}: {name}.slew_ms", table["slew_ms"], 0.0, 10_000.0)
        if not isinstance(table["state"], str):
            _wrong(f"{where}: {name}.state", "base64", table["state"])
        for key, value in _table(f"{where}: {name}.raw_values", table["raw_values"]).items():
            _within(f"{where}: {name}.raw_values.{_key(key)}", value, 0.0, 1.0)
        return
    name = table.get("plugin")
    if not isinstance(name, str) or name not in (*_LIMITS, *_LISTS):
        _wrong(f"{where}.plugin", f"one of {', '.join([*_LIMITS, *_LISTS])}", name)
    if name in _LISTS:
        _fields(where, table, ("plugin", "plugins"))
        _check_plugins(f"{where}.plugins", table["plugins"], depth + 1)
        if name != "Chain":
            for index, inner in enumerate(table["plugins"]):
                if inner is not None and inner.get("plugin") not in (*native.KINDS, *native.LISTS):
                    _wrong(f"{where}.plugins[{index}]", f"one of pedalboard's plugins in a {name}", inner)
        return
    limits = _LIMITS[name]
    _fields(where, table, ("plugin", *limits))
    for key, values in limits.items():
        here = f"{where}: {name}.{key}"
        low, high = values[0], values[-1]
        if isinstance(low, str) or isinstance(high, str):
            if table[key] not in values:
                _wrong(here, f"one of {', '.join(map(str, values))}", table[key])
        elif low == -math.inf:
            if _decibels(here, table[key]) > high:
                _wrong(here, f"at most {high:g}", table[key])
        else:
            _within(here, table[key], low, high)


def _check_tracks(where: str, given: object, strips: Mapping[str, Any]) -> None:
    if not isinstance(given, list):
        _wrong(where, "a list of tracks", given)
    for index, entry in enumerate(given):
        here = f"{where}[{index}]"
        track = _fields(here, entry, ("channel", "sample_rate", "samples", "files"))
        if track["channel"] not in list(strips):
            _wrong(f"{here}.channel", f"one of the channels {', '.join(strips)}", track["channel"])
        _whole(f"{here}.sample_rate", track["sample_rate"], 8_000, 192_000)
        _whole(f"{here}.samples", track["samples"], 1, 2**53)
        if not isinstance(track["files"], list) or len(track["files"]) not in (1, 2):
            _wrong(f"{here}.files", "a list of one or two files", track["files"])
        for number, file in enumerate(track["files"]):
            place = f"{here}.files[{number}]"
            _fields(place, file, ("path", "size", "sha256"))
            _line(f"{place}.path", file["path"])
            _whole(f"{place}.size", file["size"], 1, 2**53)
            _sha256(f"{place}.sha256", file["sha256"])


def _fields(where: str, given: object, names: Sequence[str]) -> dict[str, Any]:
    """Return a table that has exactly these fields."""
    table = _table(where, given)
    for name in table:
        _one_of(f"{where}.{_key(name)}", name, names)
    for name in names:
        if name not in table:
            raise ParameterError(f"{where} must have a field {name}, got none")
    return table


def _within(where: str, value: object, low: float, high: float) -> None:
    if not low <= _number(where, value) <= high:
        raise ParameterError(f"{where} must be in [{low:g}, {high:g}], got {_shown(value)}")


def _decibels(where: str, value: object) -> float:
    return float(value) if value in ("-inf", "inf") else _number(where, value, 'a number or "-inf"')


def _whole(where: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        _wrong(where, f"a whole number in [{low}, {high}]", value)


def _line(where: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        _wrong(where, "one line of text", value)
    return value


def _sha256(where: str, value: object) -> None:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        _wrong(where, "64 hexadecimal digits", value)


# What is made of it.


def _read_curves(where: str, folder: Path, field: str, name: str | None) -> Automation | None:
    if name is None:
        return None
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise ParameterError(f"{where}: {field} must be a file in this folder, got {name}, which is not")
    if path.stat().st_size > MAX_CSV_BYTES:
        raise ParameterError(f"{where}: {field} must have at most {MAX_CSV_BYTES / 1e6:g} MB, got more in {name}")
    return read_csv(path)


def _model(where: str, saved: dict[str, str], given: str | Path | Model | None) -> str | Path | Model:
    """Return what `load_model` is to be given."""
    if given is None and "file" in saved:
        raise ModelError(
            f"{where} is the file {saved['file']}, which does not ship: give its path, "
            f"Mixer.load(folder, model=PATH) or --model PATH; its sha256 must be {saved['sha256']}"
        )
    if given is None:
        ours = load_model(saved["name"]).metadata.sha256
        if ours != saved.get("sha256", ""):
            raise ModelError(
                f"{where}.sha256 must be that of the {saved['name']} that ships here, {ours[:12]}, got "
                f"{saved.get('sha256', 'none')[:12]}; --model {saved['name']} uses this one all the same"
            )
        return saved["name"]
    if not isinstance(given, (str, Path)) or str(given) in (*RULES, *NETWORKS):
        return given
    # Data, and the same data: read before anything is made of it.
    path = Path(given)
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{where} must be given as a .safetensors file, got {given}")
    try:
        digest = _digest(path)
    except OSError as error:
        raise ModelError(f"{given}: expected the model of the session, got {reason_of(error)}") from None
    expected = saved.get("sha256", "none")
    if digest != expected:
        raise ModelError(f"{given}: expected the session's model, with sha256 {expected[:12]}, got {digest[:12]}")
    return path


def _build_strip(where: str, table: dict[str, Any]) -> Strip:
    chains = {name: _build_plugins(f"{where}.{name}", table[name]) for name in ("pre", "post")}
    return Strip(**chains, **_strip_values(where, table))


def _build_plugins(where: str, tables: list[dict[str, Any] | None]) -> Chain:
    return Chain([_build_plugin(f"{where}[{index}]", table) for index, table in enumerate(tables)])


def _build_plugin(where: str, table: dict[str, Any] | None) -> Any:
    if table is None:
        return None
    try:
        if "external" in table:
            return _build_external(where, table)
        if table["plugin"] == "Chain":
            return _build_plugins(f"{where}.plugins", table["plugins"])
        if table["plugin"] == "Gain":
            return Gain(_decibels(where, table["gain_db"]), table["ramp_ms"])
        if table["plugin"] == "Pan":
            return Pan(table["pan"])
        return native.build(table)
    except Exception as error:  # whatever a plugin raises is to be one line
        reason = " ".join(str(error).split("Invoked with")[0].split()) or type(error).__name__
        raise ParameterError(reason if reason.startswith(where) else f"{where}: {reason}") from None


def _build_external(where: str, table: dict[str, Any]) -> Any:
    from alm_plugin.nodes.external import known
    from alm_plugin.nodes.external.host import External, _restore

    entry = known(table["external"])
    for key in table["raw_values"]:
        _one_of(f"{where}.raw_values.{_key(key)}", key, entry.parameters, f"parameter of {entry.name}")
    try:
        state = base64.b64decode(table["state"], validate=True)
    except (binascii.Error, ValueError):
        _wrong(f"{where}.state", "base64", table["state"])
    return _restore(External, entry, table["slew_ms"], state, table["raw_values"])
