"""A soundcheck against a reference recording: who is heard in which band, and what a player should turn.

The path of the sound, and where to read on: seconds become spectra in `bands`, `dominance` says who is heard in each
band, `playing` who plays at all, `late` and `leaks` what each stem holds of others; a `MixMap` keeps that of a whole
song, `analyse` shows it. A `Reference` is the map of the mix that is wanted, a predictor (`Table`, `Networks`) says
what it would be now, a policy (`Rule`, `GainTracker`) what to turn. `performance`, `env` and `simulate` are where that
is tried out, `Solar` and `page` where it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solar.mix_map import Mapper, MixMap, Second, map_stems
    from solar.playing import Playing
    from solar.plugin import Solar
    from solar.policy import Rule
    from solar.predictor import Networks, Table
    from solar.reference import Demucs, Multitrack, Reference
    from solar.tracker import GainTracker, Recommendation

# In the order of the signal path; imported when first asked for, as in `alm_plugin`.
_HOME = {
    "Playing": "playing",
    "Second": "mix_map",
    "MixMap": "mix_map",
    "Mapper": "mix_map",
    "map_stems": "mix_map",
    "Reference": "reference",
    "Multitrack": "reference",
    "Demucs": "reference",
    "Table": "predictor",
    "Networks": "predictor",
    "Rule": "policy",
    "GainTracker": "tracker",
    "Recommendation": "tracker",
    "Solar": "plugin",
}

__all__ = [
    "Demucs",
    "GainTracker",
    "Mapper",
    "MixMap",
    "Multitrack",
    "Networks",
    "Playing",
    "Recommendation",
    "Reference",
    "Rule",
    "Second",
    "Solar",
    "Table",
    "map_stems",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Where gymnasium is installed, `gymnasium.make("solar:Soundcheck-v0")` imports this package and looks the name up.
if find_spec("gymnasium") is not None:
    from gymnasium.envs.registration import register

    for _name, _options in (("Soundcheck-v0", {}), ("SoundcheckDb-v0", {"decibels": True})):
        register(
            _name,
            entry_point="solar.env:SoundcheckEnv",
            vector_entry_point="solar.env:SoundcheckVectorEnv",
            kwargs=_options,
        )
