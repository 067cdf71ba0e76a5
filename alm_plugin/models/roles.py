"""What a channel plays, and how loud a group of such channels stands in a mix."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError

# Loudness of a whole group relative to the lead vocal's, in LU: vocal and band about equal (Pestana & Reiss, 2014;
# Gerdes & Siedenburg, 2023), the band's power shared 40 % drums, 20 % bass, 30 % harmony, 10 % backing vocals.
GROUP_BUDGET_LU = {"vocals": 0.0, "drums": -5.0, "bass": -8.0, "harmony": -6.2, "backing": -11.0, "unknown": 0.0}

# Role: group, and loudness within the group relative to its leading members.
_ROLES = {
    "vocals": ("vocals", 0.0),
    "backing vocals": ("backing", 0.0),
    "drums": ("drums", 0.0),
    "kick": ("drums", 0.0),
    "snare": ("drums", 0.0),
    "hats": ("drums", -6.0),
    "toms": ("drums", -4.0),
    "overheads": ("drums", -3.0),
    "percussion": ("drums", -6.0),
    "bass": ("bass", 0.0),
    "guitar": ("harmony", 0.0),
    "acoustic guitar": ("harmony", 0.0),
    "keys": ("harmony", 0.0),
    "piano": ("harmony", 0.0),
    "organ": ("harmony", 0.0),
    "strings": ("harmony", 0.0),
    "brass": ("harmony", 0.0),
    "synth": ("harmony", 0.0),
}

ROLES = tuple(_ROLES)
"""Every role, in the order of its code; -1 is the code of no role."""

GROUPS = tuple(GROUP_BUDGET_LU)
ROLE_GROUP = np.array([GROUPS.index(group) for group, _ in _ROLES.values()])
ROLE_OFFSET_LU = np.array([offset for _, offset in _ROLES.values()])

# In this order: "bass drum" is a kick, "backing vox" no lead, "steel guitar" no steel drum.
_HINTS = (
    ("backing vocals", r"b(ac)?k(in)?g?[ _-]*v(o[cx]|ox)?|bgv|bv\d*|backing|choir|harmon(y|ies)[ _-]*v"),
    ("kick", r"kick|kik|bd|bass[ _-]*drum|bombo"),
    ("snare", r"snare|sn|sd|snr"),
    ("hats", r"hi?[ _-]*hats?|hh|hats?"),
    ("toms", r"(floor|rack)?[ _-]*toms?\d*"),
    ("overheads", r"over[ _-]*heads?|ohs?|cymbals?|crash|ride"),
    ("percussion", r"perc(ussion)?|tambo(urine)?|shaker|conga|bongo|cowbell|claps?"),
    ("drums", r"drums?|kit|drumkit|beat|room"),
    ("bass", r"bass|bassguitar|bs|contrabass|upright"),
    ("acoustic guitar", r"ac(oustic)?[ _-]*(gtr|guitar)?|agtr|ac[ _-]*gtr|nylon"),
    ("guitar", r".*guitars?|e?gtrs?|gt|git(arre)?|leadguitar|.*gtr"),
    ("piano", r"piano|pno|grand|upright[ _-]*piano"),
    ("organ", r"organ|hammond|b3"),
    ("strings", r"strings?|violins?|viola|cello|fiddle"),
    ("brass", r"brass|horns?|trumpet|tpt|trombone|sax(ophone)?|tenor[ _-]*sax"),
    ("synth", r"synths?|pad|lead[ _-]*synth|arp|sequencer"),
    ("keys", r"keys?|keyboards?|rhodes|wurli(tzer)?|e?piano|clav(inet)?"),
    ("vocals", r"(lead)?[ _-]*(vocals?|vox|voc|voice|singer|lv|sing)"),
)


def check_role(role: str | None) -> str | None:
    """Return `role` if it is one of `ROLES` or None, else raise `ParameterError` with the list."""
    if role is None or role in ROLES:
        return role
    raise ParameterError(f"role must be one of {', '.join(ROLES)}, got {role!r}")


def guess_role(name: str) -> str | None:
    """Role that a channel's name speaks of, or None.

    >>> guess_role("03_LeadVox"), guess_role("Kick In"), guess_role("gtr1"), guess_role("track 7")
    ('vocals', 'kick', 'guitar', None)
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.sub(r"[^a-z]+", " ", spaced.lower()).strip()
    for role, pattern in _HINTS:
        if re.search(rf"(^|\s)({pattern})(\s|$)", words):
            return role
    return None


def role_codes(roles: Sequence[str | None]) -> NDArray[np.int64]:
    """Codes of roles, -1 for None."""
    return np.array([-1 if role is None else ROLES.index(role) for role in roles], np.int64)
