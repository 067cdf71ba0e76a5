"""pedalboard's own plugins as data, and back: they can be neither copied nor pickled (pedalboard issue 96)."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import numpy as np
import pedalboard
from pedalboard import ExternalPlugin, Pedalboard  # pyright: ignore[reportPrivateImportUsage]

# Explicitly: a plugin whose class and parameters are not all that it is made of (`Convolution` holds a file, VST3 and
# AU plugins a state) would come back as something else.
_NAMES = (
    *("Bitcrush", "Chorus", "Clipping", "Compressor", "Delay", "Distortion", "HighShelfFilter", "HighpassFilter"),
    *("Invert", "LadderFilter", "Limiter", "LowShelfFilter", "LowpassFilter", "MP3Compressor", "NoiseGate"),
    *("PeakFilter", "Phaser", "PitchShift", "Reverb"),
)

# Two have the names of nodes of ours.
KINDS: dict[str, Any] = {name: getattr(pedalboard, name) for name in _NAMES} | {"pedalboard.Gain": pedalboard.Gain}
"""Plugins that `describe` takes, by the name it gives them."""

LISTS: dict[str, Any] = {
    "Pedalboard": Pedalboard,
    "Mix": pedalboard.Mix,
    "pedalboard.Chain": pedalboard.Chain,
}
"""Plugins that hold others."""


def describe(plugin: Any) -> dict[str, Any]:
    """Name and parameters of a plugin, from which `build` makes one that sounds the same.

    Parameters
    ----------
    plugin : pedalboard plugin
        Of one of `KINDS`, or of `LISTS` with such plugins and None inside.

    Returns
    -------
    dict
        ``plugin``, and parameters by name; for lists ``plugins``.

    Raises
    ------
    TypeError
        For any other.

    Examples
    --------
    >>> describe(pedalboard.Compressor(-18.1, 3))
    {'plugin': 'Compressor', 'attack_ms': 1.0, 'ratio': 3.0, 'release_ms': 100.0, 'threshold_db': -18.1}
    >>> build(describe(pedalboard.PeakFilter(900, -3.3))).gain_db == pedalboard.PeakFilter(900, -3.3).gain_db
    True

    Notes
    -----
    Shelving and peak filters keep their gain as a factor and tell it in dB, rounded. What was set with up to 5 decimals
    comes back exactly; else the factor may differ in its last bit.
    """
    for name, kind in LISTS.items():
        if type(plugin) is kind:
            return {"plugin": name, "plugins": [inner if inner is None else describe(inner) for inner in plugin]}
    for name, kind in KINDS.items():
        if type(plugin) is kind:
            probe = kind()
            return {"plugin": name} | {key: _value(probe, key, getattr(plugin, key)) for key in _parameters(kind)}
    hint = "External hosts VST3 and AU plugins" if isinstance(plugin, ExternalPlugin) else _known()
    raise TypeError(f"{plugin!r} cannot be described: {hint}")


def build(table: dict[str, Any]) -> Any:
    """Make a plugin of what `describe` returned."""
    name = table["plugin"]
    if name in LISTS:
        return LISTS[name]([inner if inner is None else build(inner) for inner in table["plugins"]])
    plugin = KINDS[name]()
    for key in _parameters(KINDS[name]):
        value = table[key]
        setattr(plugin, key, plugin.Mode.__members__[value] if key == "mode" else value)
    return plugin


def _parameters(kind: Any) -> list[str]:
    return [name for name, value in inspect.getmembers_static(kind) if isinstance(value, property) and value.fset]


def _value(probe: Any, key: str, value: Any) -> float | str:
    """Return what to set so that `value` is read: the shortest number, which is what a person has set."""
    if key == "mode":
        return value.name
    neighbours = [np.float32(value)] * 2
    candidates = [float(f"{value:.{digits}g}") for digits in range(1, 10)]
    for _ in range(2):
        neighbours = [np.nextafter(x, np.float32(end)) for x, end in zip(neighbours, (-np.inf, np.inf), strict=True)]
        candidates += map(float, neighbours)
    for candidate in candidates:
        with suppress(ValueError):  # one unit outside the range
            setattr(probe, key, candidate)
        if getattr(probe, key) == value:
            return candidate
    return value


def _known() -> str:
    return f"only {', '.join([*KINDS, *LISTS])} can"
