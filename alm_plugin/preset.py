"""Presets: TOML files that say what runs on each channel of a band, by what it plays.

``presets/bands/README.md`` has every field with unit, range and default.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import pedalboard

from alm_plugin.data import presets_dir, reason_of
from alm_plugin.errors import ParameterError
from alm_plugin.mixer import Mixer
from alm_plugin.models.registry import DEFAULT, shipped
from alm_plugin.models.roles import ROLES, check_role
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.strip import Strip

MAX_BYTES = 1_000_000
"""A preset is a page of text; what is larger was named by mistake."""

FIELDS = ("description", "model", "strip")
STRIP_FIELDS = ("pre", "post", "pan", "trim_db", "bounds_db", "slew_db_per_s")

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

Limits = Mapping[str, tuple[float, float] | tuple[str, ...]]

# A name in a file is looked up here and nowhere else. Left out are plugins that add latency or cannot run in a stream
# (MP3Compressor, Resample, PitchShift, GSMFullRateCompressor) and the one that reads files (Convolution).
PLUGINS: Mapping[str, tuple[Callable[..., Any], Limits]] = {
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
    where : str
        File and field, for errors.
    """

    name: str
    parameters: Mapping[str, float | str | bool]
    is_external: bool = False
    where: str = field(default="preset", compare=False, repr=False)

    def build(self) -> Any:
        """Make an instance; `ParameterError` names file and field if that fails."""
        try:
            if self.is_external:
                return _external(self.name, self.parameters, self.where)
            return PLUGINS[self.name][0](**self.parameters)
        except Exception as error:  # whatever a plugin raises is to be one line
            reason = " ".join(str(error).split("Invoked with")[0].split()) or type(error).__name__
            raise ParameterError(reason if reason.startswith(self.where) else f"{self.where}: {reason}") from None

    @property
    def table(self) -> dict[str, Any]:
        """The plugin as a file has it."""
        return {"external" if self.is_external else "plugin": self.name, **self.parameters}

    def __str__(self) -> str:
        values = (f" {name}={_bare(value)}" for name, value in self.parameters.items())
        return f"{self.name}{' (external)' * self.is_external}{''.join(values)}"


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
    """

    pre: tuple[PluginSettings, ...] = ()
    post: tuple[PluginSettings, ...] = ()
    pan: tuple[float, ...] = (0.0,)
    trim_db: float = 0.0
    bounds_db: tuple[float, float] = (-60.0, 24.0)
    slew_db_per_s: float | None = None

    @property
    def chains(self) -> dict[str, list[dict[str, Any]]]:
        """Both chains as a file has them."""
        chains = {"pre": self.pre, "post": self.post}
        return {name: [plugin.table for plugin in chain] for name, chain in chains.items()}


@dataclass(frozen=True)
class Preset:
    """A band by the roles of its channels; made by `load_preset`.

    Attributes
    ----------
    name, description : str
        The file's name, and what it is for in one line.
    model : str
        The model it suggests.
    strips : dict of StripSettings
        By role; ``default`` for all others.
    path : Path
        Where it was read.

    Examples
    --------
    >>> preset = load_preset("rock")
    >>> [type(plugin).__name__ for plugin in preset.strip("bass").pre]
    ['HighpassFilter', 'Compressor', 'PeakFilter']
    >>> preset.mixer({"gtr1": "guitar", "gtr2": "guitar", "tape": None}, model="unity")["gtr2"].pan
    0.4
    """

    name: str
    description: str
    model: str
    strips: Mapping[str, StripSettings]
    path: Path

    def settings(self, role: str | None) -> StripSettings:
        """Return what the preset says of a role, one of `alm_plugin.models.roles.ROLES` or None."""
        return self.strips.get(check_role(role) or "default", self.strips["default"])

    def strip(self, role: str | None = None, index: int = 0) -> Strip:
        """Make a strip, with plugins of its own.

        Parameters
        ----------
        role : str, optional
            What the channel plays.
        index : int
            How many channels of that role come before it: they take positions in turn.

        Raises
        ------
        ParameterError
            For an unknown role, and for an external plugin that is not there.
        """
        settings = self.settings(role)
        return Strip(
            [plugin.build() for plugin in settings.pre],
            [plugin.build() for plugin in settings.post],
            role=role,
            pan=settings.pan[index % len(settings.pan)],
            trim_db=settings.trim_db,
            bounds_db=settings.bounds_db,
            slew_db_per_s=settings.slew_db_per_s,
        )

    def channels(self, roles: Mapping[str, str | None]) -> dict[str, Strip]:
        """Make a strip per channel, ``{channel name: role or None}``.

        Channels of one role take its positions in turn; a lone one stays in the centre, as one side of a pair is no
        balance.
        """
        if not isinstance(roles, Mapping):
            raise ParameterError(f"roles must map channel names to roles, got {type(roles).__name__}")
        for name, role in roles.items():
            try:
                check_role(role)
            except ParameterError as error:
                raise ParameterError(f"{name}: {error}") from None
        players, seen = Counter(roles.values()), Counter()
        strips = {}
        for name, role in roles.items():
            strips[name] = self.strip(role, seen[role])
            if players[role] == 1 and len(self.settings(role).pan) > 1:
                strips[name].pan = 0.0
            seen[role] += 1
        return strips

    def mixer(self, roles: Mapping[str, str | None], **overrides: Any) -> Mixer:
        """Make a mixer of channels ``{name: role or None}``; `overrides` are a `Mixer`'s arguments, also its model."""
        options: dict[str, Any] = {"model": self.model, **overrides}
        return Mixer(self.channels(roles), **options)


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
        _one_of(f"{path}: {_key(name)}", name, FIELDS)
    description = table.get("description", "")
    if not isinstance(description, str) or not description.isprintable():
        _wrong(f"{path}: description", "one line of text", description)
    model = table.get("model", DEFAULT)
    if not isinstance(model, str) or model not in shipped():
        # No files: what a preset names runs without being asked for.
        _wrong(f"{path}: model", f"one of {', '.join(shipped())}", model)
    strips = _table(f"{path}: strip", table.get("strip", {}))
    for role in strips:
        _one_of(f"{path}: strip.{_key(role)}", role, ("default", *ROLES), "role")
    default = _strip(f"{path}: strip.default", strips.get("default", {}), StripSettings())
    settings = {"default": default}
    for role in ROLES:
        if role in strips:
            settings[role] = _strip(f"{path}: strip.{_key(role)}", strips[role], default)
    return Preset(path.stem, description, model, settings, path)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ParameterError(f"{path}: expected a preset, got {'a folder' if path.is_dir() else 'nothing there'}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ParameterError(f"{path}: expected a preset, got {reason_of(error)}") from None
    if len(data) > MAX_BYTES:
        raise ParameterError(f"{path}: expected a preset of at most {MAX_BYTES / 1e6:g} MB, got more")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ParameterError(f"{path}: line {line}: expected UTF-8 text, got other bytes") from None
    except tomllib.TOMLDecodeError as error:
        said = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        reason, line = said.groups() if said else (str(error), None)
        line = line or data.count(b"\n") + 1
        raise ParameterError(f"{path}: line {line}: expected TOML, got: {' '.join(reason.split())}") from None
    except (RecursionError, ValueError):
        raise ParameterError(f"{path}: expected TOML, got endless nesting or numbers") from None


def _strip(where: str, given: object, base: StripSettings) -> StripSettings:
    fields: dict[str, Any] = {}
    probe = Strip()
    for name, value in _table(where, given).items():
        here = f"{where}.{_key(name)}"
        _one_of(here, name, STRIP_FIELDS)
        if name in ("pre", "post"):
            if not isinstance(value, list):
                _wrong(here, 'a list of plugins [{plugin = "..."}, ...]', value)
            fields[name] = tuple(_plugin(f"{here}[{i}]", entry) for i, entry in enumerate(value))
            continue
        if name == "pan":
            positions = value if isinstance(value, list) else [value]
            if not positions:
                _wrong(here, "a number or a list of numbers", value)
            fields[name] = tuple(_set(where, probe, "pan", _number(here, pan)) for pan in positions)
        elif name == "bounds_db":
            if not isinstance(value, list) or len(value) != 2:
                _wrong(here, "two numbers [least, most]", value)
            fields[name] = _set(where, probe, name, tuple(_number(here, bound) for bound in value))
        else:
            fields[name] = _set(where, probe, name, _number(here, value))
    return replace(base, **fields)


def _set(where: str, strip: Strip, name: str, value: Any) -> Any:
    """Return what a strip makes of a value; its own words say what is wrong with it."""
    try:
        setattr(strip, name, value)
    except ParameterError as error:
        raise ParameterError(f"{where}.{error}") from None
    return getattr(strip, name)


def _plugin(where: str, given: object) -> PluginSettings:
    parameters = dict(_table(where, given, 'a table {plugin = "...", ...}'))
    if ("plugin" in parameters) == ("external" in parameters):
        got = "both" if "plugin" in parameters else "neither"
        raise ParameterError(f"{where} must name either plugin or external, got {got}")
    if "external" in parameters:
        name = parameters.pop("external")
        if not isinstance(name, str) or not name or not name.isprintable():
            _wrong(f"{where}.external", "the name of a plugin", name)
        for parameter, value in parameters.items():
            if not isinstance(value, (bool, str)):
                _number(f"{where}.{_key(parameter)}", value, "a number, a text, true or false")
        return PluginSettings(name, parameters, True, where)
    name = parameters.pop("plugin")
    if not isinstance(name, str) or name not in PLUGINS:
        _wrong(f"{where}.plugin", f"one of {', '.join(PLUGINS)}", name)
    limits = PLUGINS[name][1]
    for parameter, value in parameters.items():
        here = f"{where}.{_key(parameter)}"
        _one_of(here, parameter, limits, f"parameter of {name}")
        low, high = limits[parameter][0], limits[parameter][-1]
        if isinstance(low, str) or isinstance(high, str):
            if value not in limits[parameter]:
                _wrong(here, f"one of {', '.join(map(str, limits[parameter]))}", value)
        elif not low <= _number(here, value) <= high:
            raise ParameterError(f"{here} must be in [{low:g}, {high:g}], got {_shown(value)}")
    settings = PluginSettings(name, parameters, False, where)
    settings.build()
    return settings


def _external(name: str, parameters: Mapping[str, float | str | bool], where: str) -> Any:
    from alm_plugin.nodes.external import External

    # A file must not start what the user has not: only what is in the registry is loaded, and only parameters are set.
    plugin = External(name, scan=False)
    for parameter, value in parameters.items():
        _one_of(f"{where}.{_key(parameter)}", parameter, plugin.parameters, f"parameter of {name}")
        try:
            setattr(plugin, parameter, value)
        except ParameterError as error:
            raise ParameterError(f"{where}.{error}") from None
    return plugin


def _table(where: str, value: object, expected: str = "a table") -> dict[str, Any]:
    if not isinstance(value, dict):
        _wrong(where, expected, value)
    return value


def _number(where: str, value: Any, expected: str = "a number") -> float:
    # TOML's integers have 64 bits; Python would read one of any length.
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if not is_whole and (not isinstance(value, float) or math.isnan(value)):
        _wrong(where, expected, value)
    return float(value)


def _one_of(where: str, name: str, known: Collection[str], what: str = "field") -> None:
    if name not in known:
        raise ParameterError(f"{where} must be one of {', '.join(known) or 'nothing'}, got an unknown {what}")


def _wrong(where: str, expected: str, value: object) -> NoReturn:
    raise ParameterError(f"{where} must be {expected}, got {_shown(value)}")


def _key(name: str) -> str:
    """Key of a table as it is written in TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else _shown(name)


def _bare(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else _shown(value)


def _shown(value: object) -> str:
    """Say a value nearly as TOML does, in one short line."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    except (ValueError, RecursionError):  # such a number somewhere inside, or deep nesting
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
