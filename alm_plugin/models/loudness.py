"""The rule to beat: every channel to its share of the mix's loudness, causally, by K-weighted loudness.

Live mixers by rule work like this (Perez-Gonzalez & Reiss, "Automatic gain and fader control for live mixing", WASPAA
2009): measure each channel's accumulated loudness, steer it to its target. Without roles the target is the same for
all; with roles each group (vocals, drums, bass, harmony) has a budget that its members share, because tables of offsets
per channel bury the vocal as channels are added.
"""

from __future__ import annotations

import numpy as np

from alm_plugin.features.levels import OFFSET_LU
from alm_plugin.models.contract import LOUDNESS, POWER, Array, ModelMetadata, State
from alm_plugin.models.roles import GROUP_BUDGET_LU, GROUPS, ROLE_GROUP, ROLE_OFFSET_LU

LEAD_LUFS = -25.0
"""Loudness of the lead vocal; a full band doubles that, bleed adds to it, and peaks need 15 dB or more above."""

MEMORY_S = 10.0
"""Time constant of a channel's accumulated loudness, once that much has been heard."""

SHARE_MEMORY_S = 5.0
"""Time constant of a channel's share of its group, so that a tom fill does not pull the kick down."""

AUDIBLE_LUFS = -55.0
"""Under this a channel is an open microphone, not a player: nothing is learnt from it and its gain stays."""

RESTING_LU = -10.0
"""A channel this far under its accumulated loudness rests, or carries only its neighbours: the longer it has been heard
playing, the less that counts."""

ENTRY_LU, ENTRY_FRAMES = 10.0, 4
"""A channel this far over its accumulated loudness in so many frames, one forgotten a second, has come in; in fewer it
was a knock or a pop."""

RISE_DB_PER_S, FALL_DB_PER_S = 3.0, 30.0
"""Up slowly: who has not played yet is heard as the bleed in his microphone, and his entry must not find the gain that
would make that loud. Down fast: what is too loud is too loud now."""

_BUDGET_LU = np.array([GROUP_BUDGET_LU[group] for group in GROUPS])
_UNKNOWN = GROUPS.index("unknown")


class Loudness:
    """Causal equal K-weighted loudness; with roles, group budgets.

    State, a row per channel: `role` (its code, -1 for none), `power` (accumulated gated power), `heard` (frames of
    playing in it), `louder` (frames of a possible entry), `share_lu` (smoothed share of the group), `gain_db` (last
    gain).
    """

    metadata = ModelMetadata("loudness", training_data="none: a rule", licence="GPL-3.0-or-later")

    def embed(self, patches: Array, mask: Array) -> Array:
        """Nothing to embed: (C, 0)."""
        return np.zeros((len(patches), 0), np.float32)

    def initial_state(self, channels: int) -> State:
        """Nothing heard, 0 dB."""
        return {
            "role": np.full(channels, -1, np.int64),
            "power": np.zeros(channels),
            "heard": np.zeros(channels),
            "louder": np.zeros(channels),
            "share_lu": np.zeros(channels),
            "gain_db": np.zeros(channels),
        }

    def step(self, embedding: Array, levels: Array, mask: Array, state: State) -> tuple[Array, State]:
        """Move each gain towards target - loudness; see `alm_plugin.models.contract.Model.step`."""
        frame_s = self.metadata.clock.f2_ms / 1000.0
        lufs = levels[:, LOUDNESS].astype(np.float64)
        power = 10.0 ** (lufs / 10.0)
        audible = (lufs > AUDIBLE_LUFS) & (mask > 0.0)
        # Who is suddenly that much louder, and stays it, has only been heard as a neighbour's bleed: his averaging
        # starts anew. Until that is clear nothing is learnt: the running loudness remembers a pop for three seconds.
        entry = 10.0 ** (ENTRY_LU / 10.0) * state["power"]
        now = 10.0 ** (OFFSET_LU / 10.0) * levels[:, POWER]
        louder = np.where(now > entry, state["louder"] + 1.0, np.maximum(state["louder"] - frame_s, 0.0))
        entered = audible & (louder >= ENTRY_FRAMES)
        unclear = (power > entry) & ~entered & (state["heard"] > 0.0)
        rest = 10.0 ** (RESTING_LU / 10.0) * state["power"]
        learning = audible & ~unclear
        heard = np.where(entered, 0.0, state["heard"]) + (learning & (now >= rest))
        # 1/n averaging until the memory is full, then exponential forgetting; at rest more slowly, down to a tenth.
        weight = np.where(
            power < rest,
            np.maximum(0.5 / np.maximum(heard, 1.0), 0.1 * frame_s / MEMORY_S),
            np.maximum(1.0 / np.maximum(heard, 1.0), frame_s / MEMORY_S),
        )
        weight *= learning
        accumulated = state["power"] + weight * (power - state["power"])

        share = self._shares_lu(state["role"], mask)
        pace = np.maximum(1.0 / np.maximum(heard, 1.0), frame_s / SHARE_MEMORY_S) * audible
        share = state["share_lu"] + pace * (share - state["share_lu"])

        loudness = 10.0 * np.log10(np.maximum(accumulated, 1e-12))
        wanted = np.where(heard > 0, LEAD_LUFS + share - loudness, state["gain_db"])
        move = np.clip(wanted - state["gain_db"], -FALL_DB_PER_S * frame_s, RISE_DB_PER_S * frame_s)
        gain_db = state["gain_db"] + move
        following = {
            "role": state["role"],
            "power": accumulated,
            "heard": heard,
            "louder": np.where(entered, 0.0, louder),
            "share_lu": share,
            "gain_db": gain_db,
        }
        return gain_db.astype(np.float32), following

    @staticmethod
    def _shares_lu(role: np.ndarray, mask: Array) -> np.ndarray:
        # In a group of members with offsets o_i and activity m_i, member i gets the budget plus
        #     10 log10( 10^(o_i/10) / sum_j m_j 10^(o_j/10) ),
        # which for n equal members is -10 log10(n). Channels without a role are a group of their own.
        known = role >= 0
        group = np.where(known, ROLE_GROUP[role], _UNKNOWN)
        offset = np.where(known, 10.0 ** (ROLE_OFFSET_LU[role] / 10.0), 1.0)
        total = np.bincount(group, weights=mask * offset, minlength=len(GROUPS))
        return _BUDGET_LU[group] + 10.0 * np.log10(offset / np.maximum(total[group], offset * 1e-6))
