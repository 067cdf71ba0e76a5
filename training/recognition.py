"""What an encoder takes for what: the first question to ask when a mix is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alm_plugin.models.roles import ROLES

from .loop import OWN_ENOUGH, Clip, Pretext

SINGERS = [ROLES.index("vocals"), ROLES.index("backing vocals")]


@dataclass(frozen=True)
class Recognition:
    """Of patches in which a channel's own source is to be heard.

    Attributes
    ----------
    probability : (roles, roles)
        Mean probability of a role (column), given the true one (row); NaN where there was none.
    counts : (roles,)
        Patches of each true role.
    """

    probability: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def right(self) -> float:
        """Mean probability of the true role, every role counted alike."""
        return float(np.nanmean(np.diag(self.probability)))

    def sung(self, role: str) -> float:
        """Mean probability that a role is taken for a voice."""
        return float(self.probability[ROLES.index(role), SINGERS].sum())

    def to_json(self) -> dict[str, object]:
        """How often each role is recognised, and how often taken for a voice."""
        heard = [(i, role) for i, role in enumerate(ROLES) if self.counts[i]]
        return {
            "right": round(self.right, 3),
            "recognised": {role: round(float(self.probability[i, i]), 3) for i, role in heard},
            "taken_for_a_voice": {role: round(self.sung(role), 3) for _, role in heard},
        }


@torch.no_grad()
def recognise(pretext: Pretext, clips: Iterable[Clip]) -> Recognition:
    """Ask an encoder for the role of every patch."""
    count = len(ROLES)
    total, counts = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
    for clip in clips:
        asked = clip.own_share > OWN_ENOUGH
        if asked.any():
            roles, _ = pretext(clip.patches[asked])
            total.index_add_(0, clip.roles[asked], roles.softmax(-1).double())
            counts += torch.bincount(clip.roles[asked], minlength=count)
    mean = (total / counts.clamp(min=1).unsqueeze(-1)).numpy()
    mean[counts.numpy() == 0] = np.nan
    return Recognition(mean, counts.numpy())
