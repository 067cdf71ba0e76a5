"""A model's gains on stage: seen from where the operator stands, kept safe, and with a reason each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from alm_plugin.live.bleed import BleedDetector
from alm_plugin.live.ring import RingDetector
from alm_plugin.live.safety import Safety, StageLimits
from alm_plugin.models.contract import Array
from alm_plugin.models.listener import Listener

COMMON_S = 10.0
"""Memory of the gain that all channels have in common."""


class StageMind:
    """The mind of a mixer on stage; see `alm_plugin.models.listener.Mind`.

    A model may want every channel 15 dB lower, as it aims at a loudness. How loud a stage is has been settled by the
    operator, and by what feeds back: so the gain g that leaves the band as loud as the operator's own balance,
    ``10 log10(sum of P_c 10^(model_db_c / 10) / sum of P_c)`` over active channels of power P_c behind their trims, is
    taken off all of the model's gains. It is the mean of 10 s, so that who comes in moves nobody else at once. What is
    left moves the balance, and that within `StageLimits`. A stream begins with the operator's balance. What the ring
    detector takes off comes on top, at once and whatever the gain is, unless the operator holds the fader.

    Parameters
    ----------
    listener : Listener
    sample_rate : int
    limits : StageLimits
    first_db, first_pull_db : (channels,), optional
        Its `gain_db` and `pull_db` to begin with, if another mind was there before; 0 if nobody was.

    Attributes
    ----------
    gain_db : (channels,) float32
        To be added to the operator's trims.
    pull_db : (channels,) float32
        To be taken off the result, because it rings, 0 to 24.
    reasons : (channels,)
        `alm_plugin.live.safety.Reason` of each.
    """

    def __init__(
        self,
        listener: Listener,
        sample_rate: int,
        limits: StageLimits,
        first_db: ArrayLike = 0.0,
        first_pull_db: ArrayLike = 0.0,
    ) -> None:
        channels = len(listener.roles)
        self.listener, self.sample_rate, self.clock = listener, sample_rate, listener.clock
        self.ring = RingDetector(sample_rate, channels)
        self._bleed = BleedDetector(channels)
        self._safety = Safety(channels, limits, self.clock.f2_ms)
        self.reasons = self._safety.reasons
        self.gain_db = np.full(channels, first_db, np.float32)
        self.pull_db = np.full(channels, first_pull_db, np.float32)
        self.ring.pull_down_db[:] = first_pull_db
        self.stand(np.zeros(channels), np.full(channels, np.nan), np.zeros(channels, np.bool_))
        self._frame = self._heard = 0
        self._block = np.zeros((channels, 0), np.float32)
        self._common = 0.0
        self._frames_with_sound = 0

    def stand(self, trim_db: ArrayLike, lock_db: ArrayLike, silent: ArrayLike) -> None:
        """Take note of where the operator has the faders.

        Parameters
        ----------
        trim_db : (channels,)
        lock_db : (channels,)
            NaN where no hand is on the fader.
        silent : (channels,) bool
            Muted, or not among those in solo.
        """
        lock_db = np.array(lock_db, np.float64)
        self._held = ~np.isnan(lock_db)
        self._operator_db = np.where(self._held, lock_db, np.asarray(trim_db, np.float64))
        self._silent = np.array(silent, np.bool_)

    @property
    def roles(self) -> list[str | None]:
        """What the channels play."""
        return self.listener.roles

    @property
    def faults(self) -> int:
        """How often the model had no answer."""
        return self.listener.faults

    def add_channel(self, role: str | None) -> None:
        """Cannot be done: who is on stage is settled before the sound begins."""
        raise NotImplementedError("channels cannot come while the mixer is live")

    def remove_channel(self, index: int) -> None:
        """Cannot be done; see `add_channel`."""
        raise NotImplementedError("channels cannot go while the mixer is live")

    def set_role(self, index: int, role: str | None) -> None:
        """Change what a channel plays."""
        self.listener.set_role(index, role)

    def hear(self, taps: Sequence[Array], samples: int) -> None:
        """Take in a block of all channels, each (1 or 2, `samples`)."""
        self._hear_rings(self._block.shape[1])
        self._block = np.stack([tap.mean(axis=0) for tap in taps])
        self.listener.hear(taps, samples)

    def _hear_rings(self, samples: int) -> None:
        """Go on by so many samples of the block: never beyond the frame that is being judged."""
        self.ring.process(self._block[:, :samples])
        self._block = self._block[:, samples:]
        self._heard += samples

    def end_frame(self) -> None:
        """Judge the frame that has ended."""
        self.listener.end_frame()
        self._frame += 1
        self._hear_rings(self.clock.boundary(self._frame, self.sample_rate) - self._heard)
        log_mel, levels = self.listener.frame
        bleed_only = self._bleed.step(log_mel, levels) | self._silent
        safe_db = self._safety.step(
            self._operator_db + np.where(self._held, 0.0, self.listener.gain_db - self._common_db()),
            self._operator_db,
            self._operator_db + self.gain_db,
            bleed_only,
            self._held,
        )
        self.gain_db = np.zeros_like(self.gain_db)
        np.subtract(safe_db, self._operator_db, out=self.gain_db, where=~self._held, casting="same_kind")
        self.pull_db = self.ring.pull_down_db.astype(np.float32)

    def decide(self) -> None:
        """Nothing is left to be done."""

    def _common_db(self) -> float:
        counts = self.listener.active & ~self._silent & np.isfinite(self.listener.gain_db)
        power = 10.0 ** ((self.listener.loudness_lufs[counts] + self._operator_db[counts]) / 10.0)
        if power.sum() > 0.0:
            now_db = 10.0 * np.log10((power * 10.0 ** (self.listener.gain_db[counts] / 10.0)).sum() / power.sum())
            self._frames_with_sound += 1
            share = max(1.0 / self._frames_with_sound, self.clock.f2_ms / 1000.0 / COMMON_S)
            self._common += share * (float(now_db) - self._common)
        return self._common
