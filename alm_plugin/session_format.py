"""What is in ``session.json``: a mixer as data, what such data may be, and strips, groups and returns of it again.

The same checks run before a session is written as when one is read: what is saved can be loaded.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from alm_plugin import __version__, fields
from alm_plugin.errors import AlmError, ParameterError
from alm_plugin.features.front_end import MAX_CHANNELS
from alm_plugin.mixer import Mixer
from alm_plugin.models.registry import NETWORKS, RULES, shipped
from alm_plugin.nodes import native
from alm_plugin.nodes.bus import Fader, Group, Return
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.gain import MAX_GAIN_DB, Gain
from alm_plugin.nodes.keyed import SidechainCompressor
from alm_plugin.nodes.pan import Pan
from alm_plugin.nodes.strip import Strip
from alm_plugin.preset import PLUGINS
from alm_plugin.routing import Console

VERSION = 2
"""Of the format; a newer one is refused. In 1 there were no groups and returns, and nothing of strips about them."""

MAX_DEPTH = 8
"""Lists of plugins in lists of plugins."""

MAX_PLUGINS = 256
"""In one list."""

CSV = re.compile(r"automation(-in)?-[0-9a-f]{16}\.csv")
"""Names of curves."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

_FIELDS = ("version", "made_by", "model", "channels", "strength", "ceiling_db", "zero_latency", "freeze")
_FIELDS += ("automation_in", "automation", "render", "tracks", "strips", "groups", "returns")

# By kind: where a session has them, their settings, their chains.
Kind = type[Strip] | type[Group] | type[Return]
_FADERS: dict[Kind, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    Strip: (
        "strips",
        ("role", "pan", "trim_db", "lock_db", "mute", "solo", "group", "sends", "bounds_db", "slew_db_per_s"),
        ("pre", "post"),
    ),
    Group: ("groups", ("trim_db", "mute", "solo", "sends"), ("chain",)),
    Return: ("returns", ("trim_db", "mute", "sends"), ("chain",)),
}

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
_OWN: dict[str, tuple[type, fields.Limits]] = {
    "Gain": (Gain, {"gain_db": (-math.inf, MAX_GAIN_DB), "ramp_ms": (1e-3, 1e6)}),
    "Pan": (Pan, {"pan": (-1.0, 1.0)}),
    "SidechainCompressor": (
        SidechainCompressor,
        {
            "key": (),  # the name of a channel, which need not be there
            "threshold_db": (-100.0, 24.0),
            "ratio": (1.0, 100.0),
            "attack_ms": (0.0, 5_000.0),
            "release_ms": (0.0, 5_000.0),
        },
    ),
}
LIMITS: dict[str, fields.Limits] = {
    name: {key: _WIDER.get(key, values) for key, values in limits.items()} for name, (_, limits) in PLUGINS.items()
}
LIMITS |= {
    "MP3Compressor": {"vbr_quality": (0.0, 10.0)},
    "PitchShift": {"semitones": (-72.0, 72.0)},
    "pedalboard.Gain": {"gain_db": _DB},
}
LIMITS |= {name: limits for name, (_, limits) in _OWN.items()}
LISTS = ("Chain", *native.LISTS)


# ---- a mixer as data -------------------------------------------------------------------------------------------------


def describe(mixer: Mixer) -> dict[str, Any]:
    """Return what a session says of a mixer.

    Raises
    ------
    ParameterError
        For what it cannot hold, by channel and plugin.
    """
    faders = {Strip: {name: mixer[name] for name in mixer.names}, Group: mixer.groups, Return: mixer.returns}
    Console(faders[Strip], faders[Group], faders[Return]).check()  # a mixer lives with ways that lead nowhere
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
    } | {
        place: {name: _describe_fader(name, fader, kind) for name, fader in faders[kind].items()}
        for kind, (place, _, _) in _FADERS.items()
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


def _describe_fader(name: str, fader: Fader, kind: Kind) -> dict[str, Any]:
    _, settings, chains = _FADERS[kind]
    for part, plain in ((fader, kind), *((getattr(fader, chain), Chain) for chain in chains)):
        if type(part) is not plain:
            raise ParameterError(f"{name}: a session can hold a plain {plain.__name__}, got {part!r}")
    return {setting: _finite(getattr(fader, setting)) for setting in settings} | {
        chain: [_describe_plugin(f"{name}: {chain}[{i}]", plugin) for i, plugin in enumerate(getattr(fader, chain))]
        for chain in chains
    }


def _describe_plugin(where: str, plugin: Any) -> dict[str, Any] | None:
    from alm_plugin.nodes.external import External, known
    from alm_plugin.nodes.external.isolated import Isolated

    if plugin is None:
        return None
    for name, (kind, limits) in _OWN.items():
        if type(plugin) is kind:
            return {"plugin": name} | {key: _finite(getattr(plugin, key)) for key in limits}
    if type(plugin) is Chain:
        inside = [_describe_plugin(f"{where}[{i}]", inner) for i, inner in enumerate(plugin)]
        return {"plugin": "Chain", "plugins": inside}
    if type(plugin) in (External, Isolated):
        try:
            entry = known(plugin.name)
        except AlmError as error:
            raise ParameterError(f"{where}: {error}") from None
        if entry.path != plugin.entry.path:
            raise ParameterError(f"{where}: {plugin.name} must be that at {entry.path}, got {plugin.entry.path}")
        _, (_, _, slew_ms, state, raw_values) = plugin.__reduce__()
        return {
            "external": plugin.name,
            "isolated": plugin.sandbox is not None,
            "slew_ms": slew_ms,
            "state": base64.b64encode(state).decode("ascii"),
            "raw_values": raw_values,
        }
    try:
        return native.describe(plugin)
    except TypeError:
        kinds = ", ".join([*LIMITS, *LISTS, "External"])
        hint = "; External hosts VST3 and AU" if isinstance(plugin, native.ExternalPlugin) else ""
        raise ParameterError(f"{where}: a session can hold {kinds}{hint}, got {plugin!r}") from None


def _finite(value: Any) -> Any:
    """Return a setting as JSON has it, which has no infinity."""
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value


# ---- what data may be ------------------------------------------------------------------------------------------------


def check(where: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return what is in a file, as this version has it.

    Raises
    ------
    ParameterError
        With one line: file, field, expectation, value.
    """
    version = given.get("version")
    if type(version) is not int or version < 1:
        fields.wrong(f"{where}: version", "a whole number >= 1", version)
    if version > VERSION:
        got = fields.shown(version)
        raise ParameterError(f"{where}: version must be at most {VERSION}, got {got}: made by a newer alm")
    table = _upgraded(given) if version < VERSION else given
    fields.whole_table(f"{where}: session", table, _FIELDS)
    fields.line(f"{where}: made_by", table["made_by"])
    _check_model(f"{where}: model", table["model"])
    if type(table["channels"]) is not int or table["channels"] not in (1, 2):
        fields.wrong(f"{where}: channels", "1 or 2", table["channels"])
    fields.within(f"{where}: strength", table["strength"], 0.0, 100.0)
    ceiling_db = table["ceiling_db"]
    if ceiling_db is not None and not -60.0 <= fields.number(f"{where}: ceiling_db", ceiling_db) < 0.0:
        fields.wrong(f"{where}: ceiling_db", "in [-60, 0) or null", ceiling_db)
    for name in ("zero_latency", "freeze"):
        if not isinstance(table[name], bool):
            fields.wrong(f"{where}: {name}", "true or false", table[name])
    for name in ("automation_in", "automation"):
        file = table[name]
        # A plain name: nothing leads out of the folder.
        if file is not None and not (isinstance(file, str) and CSV.fullmatch(file)):
            fields.wrong(f"{where}: {name}", "null or automation-<16 hexadecimal digits>.csv in this folder", file)
    for kind, (place, _, _) in _FADERS.items():
        faders = fields.table(f"{where}: {place}", table[place])
        if not (kind is Strip) <= len(faders) <= MAX_CHANNELS:
            what = f"1 to {MAX_CHANNELS} channels" if kind is Strip else f"at most {MAX_CHANNELS}"
            raise ParameterError(f"{where}: {place} must hold {what}, got {len(faders)}")
        for name, fader in faders.items():
            _check_fader(f"{where}: {place}.{fields.key(name)}", fader, kind)
    if table["render"] is not None:
        render = fields.whole_table(f"{where}: render", table["render"], ("sample_rate", "bits"))
        fields.whole(f"{where}: render.sample_rate", render["sample_rate"], 8_000, 192_000)
        if render["bits"] is not None and (type(render["bits"]) is not int or render["bits"] not in (16, 24, 32)):
            fields.wrong(f"{where}: render.bits", "16, 24, 32 or null", render["bits"])
    _check_tracks(f"{where}: tracks", table["tracks"], table["strips"])
    return table


def _upgraded(table: dict[str, Any]) -> dict[str, Any]:
    """Add what version 1 did not have."""
    new = {"solo": False, "group": None, "sends": {}}
    strips = table.get("strips")
    if isinstance(strips, dict):
        table = table | {
            "strips": {name: new | strip if isinstance(strip, dict) else strip for name, strip in strips.items()}
        }
    return {"groups": {}, "returns": {}} | table


def _check_model(where: str, given: object) -> None:
    table = fields.table(where, given)
    if "file" in table:
        fields.whole_table(where, table, ("file", "sha256"))
        name = fields.line(f"{where}.file", table["file"])
        if Path(name).suffix.lower() != ".safetensors":
            fields.wrong(f"{where}.file", "a .safetensors file, as others are code", name)
        if Path(name).name != name or "\\" in name:
            fields.wrong(f"{where}.file", "a file's name without folders", name)
    else:
        is_rule = table.get("name") in list(RULES)
        fields.whole_table(where, table, ("name",) if is_rule else ("name", "sha256"))
        if table["name"] not in (names := shipped()):
            fields.wrong(f"{where}.name", f"one of {', '.join(names)}", table["name"])
    if "sha256" in table:
        _check_sha256(f"{where}.sha256", table["sha256"])


def _check_fader(where: str, given: object, kind: Kind) -> None:
    _, names, chains = _FADERS[kind]
    table = fields.whole_table(where, given, (*names, *chains))
    for chain in chains:
        _check_plugins(f"{where}.{chain}", table[chain], 0)
    probe = kind()
    for name, value in _settings(where, table, kind).items():
        fields.put(where, probe, name, value)


def _settings(where: str, table: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Return settings, apart from chains, as a strip, group or return takes them."""
    found: dict[str, Any] = {}
    for name in _FADERS[kind][1]:
        here, value = f"{where}.{name}", table[name]
        if name in ("role", "group"):
            if value is not None and not isinstance(value, str):
                fields.wrong(here, f"a {name} or null", value)
        elif name == "bounds_db":
            if not isinstance(value, list) or len(value) != 2:
                fields.wrong(here, "two numbers [least, most]", value)
            value = tuple(_decibels(here, bound) for bound in value)
        elif name == "sends":
            sends = fields.table(here, value)
            value = {target: _decibels(f"{here}.{fields.key(target)}", level) for target, level in sends.items()}
        elif name not in ("mute", "solo") and not (value is None and name in ("lock_db", "slew_db_per_s")):
            value = _decibels(here, value)
        found[name] = value
    return found


def _check_plugins(where: str, given: object, depth: int) -> None:
    if not isinstance(given, list):
        fields.wrong(where, "a list of plugins", given)
    if len(given) > MAX_PLUGINS:
        raise ParameterError(f"{where} must hold at most {MAX_PLUGINS} plugins, got {len(given)}")
    if depth > MAX_DEPTH:
        raise ParameterError(f"{where} must be at most {MAX_DEPTH} lists deep, got more")
    for index, plugin in enumerate(given):
        if plugin is not None:
            _check_plugin(f"{where}[{index}]", plugin, depth)


def _check_plugin(where: str, given: object, depth: int) -> None:
    table = fields.table(where, given, 'a table {"plugin": "...", ...} or null')
    if "external" in table:
        table = {"isolated": False} | table  # which version 1 did not say
        fields.whole_table(where, table, ("external", "isolated", "slew_ms", "state", "raw_values"))
        name = fields.line(f"{where}.external", table["external"])
        if not isinstance(table["isolated"], bool):
            fields.wrong(f"{where}: {name}.isolated", "true or false", table["isolated"])
        fields.within(f"{where}: {name}.slew_ms", table["slew_ms"], 0.0, 10_000.0)
        if not isinstance(table["state"], str):
            fields.wrong(f"{where}: {name}.state", "base64", table["state"])
        for key, value in fields.table(f"{where}: {name}.raw_values", table["raw_values"]).items():
            fields.within(f"{where}: {name}.raw_values.{fields.key(key)}", value, 0.0, 1.0)
        return
    name = table.get("plugin")
    if not isinstance(name, str) or name not in (*LIMITS, *LISTS):
        fields.wrong(f"{where}.plugin", f"one of {', '.join([*LIMITS, *LISTS])}", name)
    if name in LISTS:
        fields.whole_table(where, table, ("plugin", "plugins"))
        _check_plugins(f"{where}.plugins", table["plugins"], depth + 1)
        if name != "Chain":
            for index, inner in enumerate(table["plugins"]):
                if inner is not None and inner.get("plugin") not in (*native.KINDS, *native.LISTS):
                    fields.wrong(f"{where}.plugins[{index}]", f"one of pedalboard's plugins in a {name}", inner)
        return
    limits = LIMITS[name]
    fields.whole_table(where, table, ("plugin", *limits))
    for key, values in limits.items():
        here, value = f"{where}: {name}.{key}", table[key]
        if not values:
            if value is not None and (not isinstance(value, str) or not value):
                fields.wrong(here, "the name of a channel or null", value)
        else:
            fields.limited(here, _number(value), values)


def _check_tracks(where: str, given: object, strips: Collection[str]) -> None:
    if not isinstance(given, list):
        fields.wrong(where, "a list of tracks", given)
    for index, entry in enumerate(given):
        here = f"{where}[{index}]"
        track = fields.whole_table(here, entry, ("channel", "sample_rate", "samples", "files"))
        if track["channel"] not in list(strips):
            fields.wrong(f"{here}.channel", f"one of the channels {', '.join(strips)}", track["channel"])
        fields.whole(f"{here}.sample_rate", track["sample_rate"], 8_000, 192_000)
        fields.whole(f"{here}.samples", track["samples"], 1, 2**53)
        if not isinstance(track["files"], list) or len(track["files"]) not in (1, 2):
            fields.wrong(f"{here}.files", "a list of one or two files", track["files"])
        for number, file in enumerate(track["files"]):
            place = f"{here}.files[{number}]"
            fields.whole_table(place, file, ("path", "size", "sha256"))
            fields.line(f"{place}.path", file["path"])
            fields.whole(f"{place}.size", file["size"], 1, 2**53)
            _check_sha256(f"{place}.sha256", file["sha256"])


def _check_sha256(where: str, value: object) -> None:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        fields.wrong(where, "64 hexadecimal digits", value)


def _decibels(where: str, value: object) -> float:
    return fields.number(where, _number(value), 'a number or "-inf"')


def _number(value: Any) -> Any:
    return float(value) if value in ("-inf", "inf") else value


# ---- a mixer of it again ---------------------------------------------------------------------------------------------


def build_faders(where: str, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Make strips, groups and returns, each by name, of a table that `check` has returned."""
    return {
        place: {
            name: kind(
                **{key: _build_plugins(f"{where}: {place}.{fields.key(name)}.{key}", fader[key]) for key in chains},
                **_settings(where, fader, kind),
            )
            for name, fader in table[place].items()
        }
        for kind, (place, _, chains) in _FADERS.items()
    }


def _build_plugins(where: str, tables: list[dict[str, Any] | None]) -> Chain:
    return Chain([_build_plugin(f"{where}[{index}]", table) for index, table in enumerate(tables)])


def _build_plugin(where: str, table: dict[str, Any] | None) -> Any:
    if table is None:
        return None
    with fields.one_line(where):
        if "external" in table:
            return _build_external(where, table)
        if table["plugin"] == "Chain":
            return _build_plugins(f"{where}.plugins", table["plugins"])
        if table["plugin"] in _OWN:
            kind, limits = _OWN[table["plugin"]]
            return kind(**{key: _number(table[key]) if limits[key] else table[key] for key in limits})
        return native.build(table)


def _build_external(where: str, table: dict[str, Any]) -> Any:
    from alm_plugin.nodes.external import known
    from alm_plugin.nodes.external.host import External, _restore
    from alm_plugin.nodes.external.isolated import Isolated

    entry = known(table["external"])
    for key in table["raw_values"]:
        fields.one_of(f"{where}.raw_values.{fields.key(key)}", key, entry.parameters, f"parameter of {entry.name}")
    try:
        state = base64.b64decode(table["state"], validate=True)
    except (binascii.Error, ValueError):
        fields.wrong(f"{where}.state", "base64", table["state"])
    kind = Isolated if table.get("isolated") else External
    return _restore(kind, entry, table["slew_ms"], state, table["raw_values"])
