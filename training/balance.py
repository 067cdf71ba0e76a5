"""The true balance of a song: every stem's loudness in the mix, from the budgets of its groups.

Nobody knows the one right mix. What is known are means: how loud the voice stands against the band (Gerdes &
Siedenburg, JASA-EL 3, 043201, 2023; Pestana & Reiss, AES 53, 2014) and how the band's loudness is shared. A target is
that mean for the song's style, without a jitter that no listener could predict.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alm_plugin.features.loudness import IntegratedLoudness, gated_lufs
from alm_plugin.models.roles import GROUP_BUDGET_LU, GROUPS, ROLE_GROUP, ROLE_OFFSET_LU, ROLES

MIX_LUFS = -24.0
"""Loudness of the whole mix: quiet enough that the peaks of a band stay below full scale without help."""

VOCAL_TO_BAND_LU = {
    "rock": 0.0,
    "punk": 0.0,
    "metal": -1.5,
    "ballad": 1.5,
    "folk": 1.5,
    "jazz": 1.5,
}
"""By style, where it is not `TYPICAL_VOCAL_TO_BAND_LU`."""

TYPICAL_VOCAL_TO_BAND_LU = 0.5


def hop_powers(stem: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    """K-weighted power every 100 ms of a mono stem (samples,), heard from both sides of a mix: (hops,)."""
    meter = IntegratedLoudness(sample_rate, 1)
    meter.process_block(np.ascontiguousarray(stem[None], np.float32))
    return 2.0 * meter.hop_powers


def true_gains_db(
    powers: NDArray[np.float64],
    roles: Sequence[str],
    leads: Sequence[bool],
    style: str = "",
    copies: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Gain of each stem that gives the true mix.

    Parameters
    ----------
    powers : (C, hops)
        `hop_powers` of every stem. Stems are taken as incoherent: their powers add up.
    roles : sequence of str
    leads : sequence of bool
        Who plays the melody and takes the vocal's budget when nobody sings.
    style : str
    copies : sequence of int, optional
        How many channels carry the same signal as this one, itself counted (a line and a microphone): those are
        coherent, their amplitudes add up.

    Returns
    -------
    (C,)
        In dB; ``-inf`` for a silent stem.

    Notes
    -----
    A group's budget is that of its members' sum, because loudness does not add up when players alternate: a loudness of
    -10 log10(n) each would be wrong for singers who take turns.
    """
    count = len(powers)
    lufs = np.array([gated_lufs(row) for row in powers])
    heard = np.isfinite(lufs)
    code = np.array([ROLES.index(role) for role in roles])
    groups = np.array([GROUPS[ROLE_GROUP[i]] for i in code], object)
    singing = heard & (groups == "vocals")
    if not singing.any():
        groups[np.array(leads, bool) & heard] = "vocals"
    many = np.ones(count) if copies is None else np.array(copies, float)

    gain_db = np.full(count, -np.inf)
    budgets = dict(GROUP_BUDGET_LU)
    band = [g for g in budgets if g not in ("vocals", "unknown") and (heard & (groups == g)).any()]
    if band and (heard & (groups == "vocals")).any():
        ratio = VOCAL_TO_BAND_LU.get(style, TYPICAL_VOCAL_TO_BAND_LU)
        shift = -ratio - 10.0 * np.log10(sum(10.0 ** (budgets[g] / 10.0) for g in band))
        for g in band:
            budgets[g] += shift
    for group in set(groups):
        members = heard & (groups == group)
        if not members.any():
            continue
        offset = np.where(groups == "vocals", 0.0, ROLE_OFFSET_LU[code])
        gain_db[members] = offset[members] - lufs[members] - 20.0 * np.log10(many[members])
        gain_db[members] += budgets[group] - _sum_lufs(powers, gain_db, members, many)
    if heard.any():
        gain_db += MIX_LUFS - _sum_lufs(powers, gain_db, heard, many)
    return gain_db


def _sum_lufs(powers: NDArray, gain_db: NDArray, members: NDArray[np.bool_], many: NDArray) -> float:
    # n coherent channels of factor f each: power (n f)^2 P, shared over their n rows.
    weight = many[members] * 10.0 ** (gain_db[members] / 10.0)
    return gated_lufs(weight @ powers[members])
