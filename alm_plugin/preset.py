"""Presets: TOML files that say what runs on each channel of a band, by what it plays.

``presets/bands/README.md`` has every field with unit, range and default.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pedalboard

from alm_plugin import fields
from alm_plugin.data import presets_dir
from alm_plugin.errors import ParameterError
from alm_plugin.mixer import Mixer
from alm_plugin.models.registry import DEFAULT, shipped
from alm_plugin.models.roles import ROLES, check_role
from alm_plugin.nodes.bus import SEND_RANGE_DB, Group, Return
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.keyed import SidechainCompressor
from alm_plugin.nodes.strip import Strip
from alm_plugin.routing import Console

MAX_BYTES = 1_000_000
"""A preset is a page of text; what is larger was named by mistake."""

FIELDS = ("description", "model", "strip", "group", "return")
STRIP_FIELDS = ("pre", "post", "pan", "trim_db", "bounds_db", "slew_db_per_s", "group", "sends")
BUS_FIELDS = ("chain", "trim_db", "sends")

LADDER_MODES = ("LPF12", "HPF12", "BPF12", "LPF24", "HPF24", "BPF24")


def _ladder(mode: str = "LPF12", **parameters: float) -> pedalboard.LadderFilter:
    return pedalboard.LadderFilter(pedalboard.LadderFilter.Mode.__members__[mode], **parameters)


# pedalboard takes a cutoff of -3 Hz, a NaN, an attack of -1 ms, and an echo that never ends: ranges are checked here.
# Its first-order filters turn into noise at cutoffs above half the sample rate, and a mix may run at 8 kHz.
_CUTOFF = (20.0, 20_000.0)
_FIRST_ORDER = {"cutoff_frequency_hz": (10.0, 3_900.0)}
_BELL = {"cutoff_frequency_hz": _CUTOFF, "gain_db": (-24.0, 24.0), "q": (0.1, 10.0)}
_DYNAMICS = {"threshold_db": (-100.0, 0.0), "ratio": (1.0, 100.0), "attack_ms": (0.0, 1_000.0)}
_DYNAMICS |= {"release_ms": (1.0, 5_000.0)}
_SHARE = (0.0, 1.0)
_FEEDBACK = (0.0, 0.95)
_RATE = (0.0, 20.0)

# A name in a file is looked up here and nowhere else. Left out are plugins that add latency or cannot run in a stream
# (MP3Compressor, Resample, PitchShift, GSMFullRateCompressor) and the one that reads files (Convolution).
PLUGINS: Mapping[str, tuple[Callable[..., Any], fields.Limits]] = {
    "Bitcrush": (pedalboard.Bitcrush, {"bit_depth": (1.0, 32.0)}),
    "Chorus": (
        pedalboard.Chorus,
        {"rate_hz": _RATE, "depth": _SHARE, "centre_delay_ms": (1.0, 50.0), "feedback": _FEEDBACK, "mix": _SHARE},
    ),
    "Clipping": (pedalboard.Clipping, {"threshold_db": (-60.0, 0.0)}),
    "Compressor": (pedalboard.Compressor, _DYNAMICS),
    "Delay": (pedalboard.Delay, {"delay_seconds": (0.0, 10.0), "feedback": _FEEDBACK, "mix": _SHARE}),
    "Distortion": (pedalboard.Distortion, {"drive_db": (0.0, 60.0)}),
    "Gain": (Gain, {"gain_db": (-60.0, 24.0), "ramp_ms": (1.0, 1_000.0)}),
    "HighShelfFilter": (pedalboard.HighShelfFilter, _BELL),
    "HighpassFilter": (pedalboard.HighpassFilter, _FIRST_ORDER),
    "Invert": (pedalboard.Invert, {}),
    "LadderFilter": (
        _ladder,
        {"mode": LADDER_MODES, "cutoff_hz": _CUTOFF, "resonance": _SHARE, "drive": (1.0, 10.0)},
    ),
    "Limiter": (pedalboard.Limiter, {"threshold_db": (-60.0, 0.0), "release_ms": (1.0, 5_000.0)}),
    "LowShelfFilter": (pedalboard.LowShelfFilter, _BELL),
    "LowpassFilter": (pedalboard.LowpassFilter, _FIRST_ORDER),
    "NoiseGate": (pedalboard.NoiseGate, _DYNAMICS),
    "PeakFilter": (pedalboard.PeakFilter, _BELL),
    "Phaser": (
        pedalboard.Phaser,
        {"rate_hz": _RATE, "depth": _SHARE, "centre_frequency_hz": _CUTOFF, "feedback": _FEEDBACK, "mix": _SHARE},
    ),
    "Reverb": (
        pedalboard.Reverb,
        dict.fromkeys(("room_size", "damping", "wet_level", "dry_level", "width", "freeze_mode"), _SHARE),
    ),
    "SidechainCompressor": (SidechainCompressor, {"key": ("default", *ROLES), **_DYNAMICS}),
}
"""By name in a file: what makes it, and the least and most, or the choices, of each parameter."""


@dataclass(frozen=True)
class PluginSettings:
    """A plugin that a preset names.

    Attributes
    ----------
    name : str
        Of `PLUGINS`, or in the user's registry of plugins if `is_external`.
    parameters : dict
        Those that differ from the plugin's defaults.
    is_external : bool
        Whether it is a VST3 or AU.
    isolated : bool
        Whether that runs in a process of its own.
    where : str
        File and field, for errors.
    """

    name: str
    parameters: Mapping[str, float | str | bool]
    is_external: bool = False
    isolated: bool = False
    where: str = field(default="preset", compare=False, repr=False)

    def build(self) -> Any:
        """Make an instance; `ParameterError` names file and field if that fails."""
        with fields.one_line(self.where):
            if self.is_external:
                return _external(self.name, self.parameters, self.isolated, self.where)
            return PLUGINS[self.name][0](**self.parameters)

    @property
    def key(self) -> str | None:
        """Role of the channel that it listens to, ``default`` for one whose role the preset does not name, or None."""
        return None if self.is_external else self.parameters.get("key")  # pyright: ignore[reportReturnType]

    @property
    def table(self) -> dict[str, Any]:
        """The plugin as a file has it."""
        isolated = {"isolated": True} if self.isolated else {}
        return {"external" if self.is_external else "plugin": self.name, **isolated, **self.parameters}

    def __str__(self) -> str:
        values = (f" {name}={_bare(value)}" for name, value in self.parameters.items())
        return f"{self.name}{' (external)' * self.is_external}{' (isolated)' * self.isolated}{''.join(values)}"


@dataclass(frozen=True)
class StripSettings:
    """What a preset says of the channels of one role; the defaults are those of a `Strip`.

    Attributes
    ----------
    pre, post : tuple of PluginSettings
        Before and behind the gain.
    pan : tuple of float
        Positions, -1 (left) to 1 (right), that channels of the same role take in turn.
    trim_db : float
    bounds_db : (float, float)
    slew_db_per_s : float or None
    group : str or None
    sends : dict of float
        Levels in dB by return.
    """

    pre: tuple[PluginSettings, ...] = ()
    post: tuple[PluginSettings, ...] = ()
    pan: tuple[float, ...] = (0.0,)
    trim_db: float = 0.0
    bounds_db: tuple[float, float] = (-60.0, 24.0)
    slew_db_per_s: float | None = None
    group: str | None = None
    sends: Mapping[str, float] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, Any]:
        """The strip as a file has it."""
        return vars(self) | {name: [plugin.table for plugin in getattr(self, name)] for name in ("pre", "post")}


@dataclass(frozen=True)
class BusSettings:
    """What a preset says of a group or return; the defaults are those of a `Group` and `Return`.

    Attributes
    ----------
    chain : tuple of PluginSettings
    trim_db : float
    sends : dict of float
        Levels in dB by return.
    """

    chain: tuple[PluginSettings, ...] = ()
    trim_db: float = 0.0
    sends: Mapping[str, float] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, Any]:
        """The bus as a file has it."""
        return vars(self) | {"chain": [plugin.table for plugin in self.chain]}


@dataclass(frozen=True)
class Preset:
    """A band by the roles of its channels; made by `load_preset`. ``Preset()`` is the plain mixer.

    Attributes
    ----------
    name, description : str
        The file's name, and what it is for in one line.
    model : str
        The model it suggests.
    strips : dict of StripSettings
        By role; ``default`` for all others.
    groups, returns : dict of BusSettings
    path : Path
        Where it was read.

    Examples
    --------
    >>> preset = load_preset("rock")
    >>> [type(plugin).__name__ for plugin in preset.strip("bass").pre]
    ['HighpassFilter', 'Compressor', 'PeakFilter']
    >>> mixer = preset.mixer({"gtr1": "guitar", "gtr2": "guitar", "snare top": "snare", "tape": None}, model="unity")
    >>> mixer["gtr2"].pan, mixer["snare top"].group, list(mixer.groups), list(mixer.returns)
    (0.4, 'drums', ['drums'], ['plate'])
    """

    name: str = ""
    description: str = ""
    model: str = DEFAULT
    strips: Mapping[str, StripSettings] = field(default_factory=lambda: {"default": StripSettings()})
    groups: Mapping[str, BusSettings] = field(default_factory=dict)
    returns: Mapping[str, BusSettings] = field(default_factory=dict)
    path: Path = Path()

    def settings(self, role: str | None) -> StripSettings:
        """Return what the preset says of a role, one of `alm_plugin.models.roles.ROLES` or None."""
        return self.strips.get(check_role(role) or "default", self.strips["default"])

    def strip(self, role: str | None = None, index: int = 0, keys: Mapping[str, str] | None = None) -> Strip:
        """Make a strip, with plugins of its own, for a mixer that has its group and returns.

        Parameters
        ----------
        role : str, optional
            What the channel plays.
        index : int
            How many channels of that role come before it: they take positions in turn.
        keys : mapping of str to str, optional
            By role, the channel that plugins with a `key` listen to. Those for which there is none are left out.

        Raises
        ------
        ParameterError
            For an unknown role, and for an external plugin that is not there.
        """
        settings = self.settings(role)
        return Strip(
            _build(settings.pre, keys or {}),
            _build(settings.post, keys or {}),
            role=role,
            pan=settings.pan[index % len(settings.pan)],
            trim_db=settings.trim_db,
            bounds_db=settings.bounds_db,
            slew_db_per_s=settings.slew_db_per_s,
            group=settings.group,
            sends=settings.sends,
        )

    def channels(self, roles: Mapping[str, str | None]) -> dict[str, Strip]:
        """Make a strip per channel, ``{channel name: role or None}``; groups and returns they lead to come by `mixer`.

        Channels of one role take its positions in turn; a lone one stays in the centre, as one side of a pair is no
        balance. A plugin's `key` becomes the first channel of that role; where the band has none, and on that channel
        itself, the plugin is left out.
        """
        keys = self._keys(roles)
        players, seen = Counter(roles.values()), Counter()
        strips = {}
        for name, role in roles.items():
            others = {role: channel for role, channel in keys.items() if channel != name}
            strips[name] = self.strip(role, seen[role], others)
            if players[role] == 1 and len(self.settings(role).pan) > 1:
                strips[name].pan = 0.0
            seen[role] += 1
        return strips

    def mixer(self, roles: Mapping[str, str | None], **overrides: Any) -> Mixer:
        """Make a mixer of channels ``{name: role or None}``; `overrides` are a `Mixer`'s arguments, also its model.

        It has those groups and returns of the preset that one of its channels leads to.
        """
        strips, keys = self.channels(roles), self._keys(roles)
        groups = {strip.group for strip in strips.values()}
        groups = {name: bus for name, bus in self.groups.items() if name in groups}
        heard, ways = set(), [*strips.values(), *groups.values()]
        while ways:
            new = set(ways.pop().sends) - heard
            heard |= new
            ways += [self.returns[name] for name in new]
        options: dict[str, Any] = {
            "model": self.model,
            "groups": {name: Group(**_options(bus, keys)) for name, bus in groups.items()},
            "returns": {name: Return(**_options(bus, keys)) for name, bus in self.returns.items() if name in heard},
            **overrides,
        }
        return Mixer(strips, **options)

    def _keys(self, roles: Mapping[str, str | None]) -> dict[str, str]:
        """By role, the first channel of it; by ``default``, the first whose role is not named."""
        if not isinstance(roles, Mapping):
            raise ParameterError(f"roles must map channel names to roles, got {type(roles).__name__}")
        keys: dict[str, str] = {}
        for name, role in roles.items():
            try:
                check_role(role)
            except ParameterError as error:
                raise ParameterError(f"{name}: {error}") from None
            if role is not None:
                keys.setdefault(role, name)
            if role not in self.strips:
                keys.setdefault("default", name)
        return keys


def _build(chain: Iterable[PluginSettings], keys: Mapping[str, str]) -> list[Any]:
    made = []
    for settings in chain:
        if settings.key is None:
            made.append(settings.build())
        elif settings.key in keys:
            made.append(replace(settings, parameters={**settings.parameters, "key": keys[settings.key]}).build())
    return made


def _options(bus: BusSettings, keys: Mapping[str, str]) -> dict[str, Any]:
    return {"chain": _build(bus.chain, keys), "trim_db": bus.trim_db, "sends": bus.sends}


# ---- where they are --------------------------------------------------------------------------------------------------


def user_bands_dir() -> Path:
    """Folder of the user's own presets: they are found by name like those that ship, and come first."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "alm" / "bands"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "alm" / "bands"
    # The XDG specification has relative paths ignored.
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".config") / "alm" / "bands"


def presets() -> list[str]:
    """Names that `load_preset` takes: those that ship and the user's own.

    >>> "rock" in presets()
    True
    """
    return sorted(_paths())


def _paths() -> dict[str, Path]:
    found = {}
    for folder in (presets_dir() / "bands", user_bands_dir()):
        for path in folder.glob("*.toml"):
            if path.is_file() and not path.name.startswith(".") and path.name.isprintable():
                found[path.stem] = path
    return found


def load_preset(preset: str | Path) -> Preset:
    """Preset by name or file.

    Parameters
    ----------
    preset : str or Path
        One of `presets`, or a file that ends in ``.toml``.

    Returns
    -------
    Preset
        Checked as a whole; external plugins are looked for only when strips are made.

    Raises
    ------
    ParameterError
        For an unknown name, a file that cannot be read, and anything in it that is not known or out of range: one line
        with file, field, expectation and value.

    Examples
    --------
    >>> load_preset("jazz").model
    'alm-mr'
    >>> load_preset("../../etc/passwd")
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: preset must be one of acoustic, ... or a .toml file, got '../../etc/passwd'
    """
    if not isinstance(preset, (str, Path)):
        raise ParameterError(f"preset must be a name or a .toml file, got {preset!r}")
    if str(preset).endswith(".toml"):
        path = Path(preset)
    else:
        # Only what a listing of the two folders shows: a name cannot lead out of them.
        known = _paths()
        if str(preset) not in known:
            raise ParameterError(
                f"preset must be one of {', '.join(sorted(known))} or a .toml file, got {str(preset)!r}"
            )
        path = known[str(preset)]
    table = _read(path)
    for name in table:
        fields.one_of(f"{path}: {fields.key(name)}", name, FIELDS)
    description = table.get("description", "")
    if not isinstance(description, str) or not description.isprintable():
        fields.wrong(f"{path}: description", "one line of text", description)
    model = table.get("model", DEFAULT)
    if not isinstance(model, str) or model not in shipped():
        # No files: what a preset names runs without being asked for.
        fields.wrong(f"{path}: model", f"one of {', '.join(shipped())}", model)
    tables = {name: fields.table(f"{path}: {name}", table.get(name, {})) for name in ("strip", "group", "return")}
    strips, known = tables["strip"], (tables["group"], tables["return"])
    for role in strips:
        fields.one_of(f"{path}: strip.{fields.key(role)}", role, ("default", *ROLES), "role")
    default = _strip(f"{path}: strip.default", strips.get("default", {}), StripSettings(), *known)
    settings = {"default": default}
    for role in ROLES:
        if role in strips:
            settings[role] = _strip(f"{path}: strip.{fields.key(role)}", strips[role], default, *known)
    groups, returns = (
        {
            fields.line(f"{path}: {kind}", name): _bus(f"{path}: {kind}.{fields.key(name)}", bus, tables["return"])
            for name, bus in tables[kind].items()
        }
        for kind in ("group", "return")
    )
    try:
        Console({}, {}, {name: Return(sends=bus.sends) for name, bus in returns.items()}).check()
    except ParameterError as error:
        raise ParameterError(f"{path}: return: {error}") from None
    return Preset(path.stem, description, model, settings, groups, returns, path)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    text = fields.read_text(str(path), path, "a preset", MAX_BYTES)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        reason, line = said.groups() if said else (str(error), None)
        line = line or text.count("\n") + 1
        raise ParameterError(f"{path}: line {line}: expected TOML, got: {' '.join(reason.split())}") from None
    except (RecursionError, ValueError):
        raise ParameterError(f"{path}: expected TOML, got endless nesting or numbers") from None


def _strip(
    where: str, given: object, base: StripSettings, groups: Collection[str], returns: Collection[str]
) -> StripSettings:
    found: dict[str, Any] = {}
    probe = Strip()
    for name, value in fields.table(where, given).items():
        here = f"{where}.{fields.key(name)}"
        fields.one_of(here, name, STRIP_FIELDS)
        if name in ("pre", "post"):
            found[name] = _chain(here, value)
        elif name == "pan":
            positions = value if isinstance(value, list) else [value]
            if not positions:
                fields.wrong(here, "a number or a list of numbers", value)
            found[name] = tuple(fields.put(where, probe, "pan", fields.number(here, pan)) for pan in positions)
        elif name == "bounds_db":
            if not isinstance(value, list) or len(value) != 2:
                fields.wrong(here, "two numbers [least, most]", value)
            found[name] = fields.put(where, probe, name, tuple(fields.number(here, bound) for bound in value))
        elif name == "group":
            if value != "" and (not isinstance(value, str) or value not in groups):
                fields.wrong(here, f'one of {", ".join(groups) or "nothing"} or "" for none', value)
            found[name] = value or None
        elif name == "sends":
            found[name] = _sends(here, value, returns)
        else:
            found[name] = fields.put(where, probe, name, fields.number(here, value))
    return replace(base, **found)


def _bus(where: str, given: object, returns: Collection[str]) -> BusSettings:
    found: dict[str, Any] = {}
    for name, value in fields.table(where, given).items():
        here = f"{where}.{fields.key(name)}"
        fields.one_of(here, name, BUS_FIELDS)
        if name == "chain":
            found[name] = _chain(here, value)
        elif name == "sends":
            found[name] = _sends(here, value, returns)
        else:
            found[name] = fields.put(where, Return(), name, fields.number(here, value))
    return BusSettings(**found)


def _sends(where: str, given: object, returns: Collection[str]) -> dict[str, float]:
    sends = {}
    for name, value in fields.table(where, given, "a table {NAME_OF_A_RETURN = level in dB, ...}").items():
        here = f"{where}.{fields.key(name)}"
        fields.one_of(here, name, returns, "return")
        sends[name] = fields.within(here, value, *SEND_RANGE_DB)
    return sends


def _chain(where: str, given: object) -> tuple[PluginSettings, ...]:
    if not isinstance(given, list):
        fields.wrong(where, 'a list of plugins [{plugin = "..."}, ...]', given)
    return tuple(_plugin(f"{where}[{i}]", entry) for i, entry in enumerate(given))


def _plugin(where: str, given: object) -> PluginSettings:
    parameters = dict(fields.table(where, given, 'a table {plugin = "...", ...}'))
    if ("plugin" in parameters) == ("external" in parameters):
        got = "both" if "plugin" in parameters else "neither"
        raise ParameterError(f"{where} must name either plugin or external, got {got}")
    if "external" in parameters:
        name = parameters.pop("external")
        if not isinstance(name, str) or not name or not name.isprintable():
            fields.wrong(f"{where}.external", "the name of a plugin", name)
        isolated = parameters.pop("isolated", False)
        if not isinstance(isolated, bool):
            fields.wrong(f"{where}.isolated", "true or false", isolated)
        for parameter, value in parameters.items():
            if not isinstance(value, (bool, str)):
                fields.number(f"{where}.{fields.key(parameter)}", value, "a number, a text, true or false")
        return PluginSettings(name, parameters, True, isolated, where)
    name = parameters.pop("plugin")
    if not isinstance(name, str) or name not in PLUGINS:
        fields.wrong(f"{where}.plugin", f"one of {', '.join(PLUGINS)}", name)
    limits = PLUGINS[name][1]
    for parameter, value in parameters.items():
        here = f"{where}.{fields.key(parameter)}"
        fields.one_of(here, parameter, limits, f"parameter of {name}")
        fields.limited(here, value, limits[parameter])
    settings = PluginSettings(name, parameters, where=where)
    settings.build()
    return settings


def _external(name: str, parameters: Mapping[str, float | str | bool], isolated: bool, where: str) -> Any:
    from alm_plugin.nodes.external import External

    # A file must not start what the user has not: only what is in the registry is loaded, and only parameters are set.
    plugin = External(name, scan=False, isolated=isolated)
    for parameter, value in parameters.items():
        fields.one_of(f"{where}.{fields.key(parameter)}", parameter, plugin.parameters, f"parameter of {name}")
        fields.put(where, plugin, parameter, value)
    return plugin


def _bare(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else fields.shown(value)
