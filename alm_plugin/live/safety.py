"""What a model may do to a band on stage: limits around where the operator stands, and why a gain is where it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.front_end import MAX_CHANNELS
from alm_plugin.nodes.node import in_range

Floats = NDArray[np.float64]


class Reason(IntEnum):
    """Why a channel's gain is where it is: the strongest of what has a hand in it."""

    MODEL = 0
    """The model wants it so."""
    FAULT = 1
    """The model's gain, or the operator's, is not a number: it holds."""
    RANGE = 2
    """The model would go further from where the operator stands."""
    BLEED = 3
    """The model would boost a channel that holds only bleed or noise."""
    OPEN = 4
    """Too many microphones are open for the gain that they all would have."""


@dataclass(frozen=True)
class StageLimits:
    """What is safe on stage.

    Attributes
    ----------
    range_db : float
        Furthest that a gain may be from where the operator stands, either way, 0 to 60.
    slew_db_per_s : float
        How fast a gain may move, 0.1 to 1000.
    boost_bleed : bool
        Whether a channel that holds only bleed or noise may stand above where the operator has it.
    open_gain_db : float or None
        Number of open microphones (NOM): how far the gain of all open channels together may exceed what the operator
        gives to all channels, open or not, -60 to 60; None for no limit. At 0 the model can share out the gain before
        feedback that the operator has found to be there, and add nothing to it: among n channels one that is open alone
        has 10 log10(n) dB to spare, and none has when all are open.

    Raises
    ------
    ParameterError
        For values outside their range.
    """

    range_db: float = 6.0
    slew_db_per_s: float = 12.0
    boost_bleed: bool = False
    open_gain_db: float | None = 0.0

    def __post_init__(self) -> None:
        in_range("range_db", self.range_db, 0.0, 60.0)
        in_range("slew_db_per_s", self.slew_db_per_s, 0.1, 1_000.0)
        if not isinstance(self.boost_bleed, bool):
            raise ParameterError(f"boost_bleed must be True or False, got {self.boost_bleed!r}")
        if self.open_gain_db is not None:
            in_range("open_gain_db", self.open_gain_db, -60.0, 60.0)


# The open channels' total gain is that of their sum if they hold unrelated signals: sum 10^(g/10). Taking r dB off each
# takes r dB off the sum, except where a channel stands on its floor f. Those give no more, so the others must give
#     r = 10 log10( sum over others of 10^(g/10)  /  (limit - sum over the floored of 10^(f/10)) ),
# which floors further ones, until none is added. If even all floors are too much, all open channels go there.
@njit(cache=True, nogil=True)
def nom_reduction_db(gains_db, floors_db, is_open, limit):
    """Reduction in dB, >= 0, equal for all, that brings the power sum of the open channels to `limit` or less."""
    reduction_db, deepest_db = 0.0, 0.0
    for _ in range(len(gains_db) + 1):
        free, floored = 0.0, 0.0
        for c in range(len(gains_db)):
            if not is_open[c] or gains_db[c] == -np.inf:
                continue
            deepest_db = max(deepest_db, gains_db[c] - floors_db[c])
            if gains_db[c] - reduction_db > floors_db[c]:
                free += 10.0 ** (gains_db[c] / 10.0)
            else:
                floored += 10.0 ** (floors_db[c] / 10.0)
        if free == 0.0:
            return min(reduction_db, deepest_db)
        if free * 10.0 ** (-reduction_db / 10.0) + floored <= limit * (1.0 + 1e-12):
            break
        reduction_db = 10.0 * np.log10(free / (limit - floored)) if limit > floored else np.inf
    return reduction_db


def limit_open_gain(gains_db: ArrayLike, is_open: ArrayLike, limit_db: float) -> Floats:
    """Lower all gains by the same, so that the open channels' total gain is `limit_db` or less.

    With n open channels at equal gain that is the classic ``-10 log10(n)`` of the number of open microphones.

    Parameters
    ----------
    gains_db : (channels,)
    is_open : (channels,) bool
        Others are lowered too, that they do not stand out when they open.
    limit_db : float
        Of the total, ``10 log10(sum of 10^(gain_db / 10))``.

    Returns
    -------
    (channels,)

    Examples
    --------
    >>> limit_open_gain([0.0, 0.0, -3.0], [True, True, False], limit_db=0.0).round(1)
    array([-3., -3., -6.])
    """
    gains_db, is_open = np.asarray(gains_db, np.float64), np.asarray(is_open, np.bool_)
    if gains_db.ndim != 1 or is_open.shape != gains_db.shape:
        raise ParameterError(f"is_open must be as long as gains_db, got {is_open.shape} and {gains_db.shape}")
    floors_db = np.full_like(gains_db, -np.inf)
    return gains_db - nom_reduction_db(gains_db, floors_db, is_open, 10.0 ** (limit_db / 10.0))


@njit(cache=True, nogil=True)
def make_room(gains_db, floors_db, is_open, limit, reasons):
    """Lower all gains by the same, but none below its floor, until the open channels' power sum is within `limit`."""
    reduction_db = nom_reduction_db(gains_db, floors_db, is_open, limit)
    for c in range(len(gains_db)):
        if reduction_db > 0.0 and gains_db[c] > floors_db[c]:
            gains_db[c] = max(gains_db[c] - reduction_db, floors_db[c])
            reasons[c] = Reason.OPEN


# Room is made twice: for where the gains are going, which keeps the model's balance among them, and for where they are
# on the way, since those who come down may take longer than those who rise.
@njit(cache=True, nogil=True)
def safe_gains(
    wanted_db, operator_db, previous_db, bleed_only, held,
    range_db, step_db, boost_bleed, open_gain,
    targets_db, floors_db, is_open, out_db, reasons,
):  # fmt: skip
    """One frame; `targets_db`, `floors_db` and `is_open` are scratch, the last two are results."""
    total = 0.0
    for c in range(len(out_db)):
        reasons[c] = Reason.MODEL
        before = previous_db[c]
        operator = operator_db[c]
        if np.isnan(operator):
            operator = 0.0 if np.isnan(before) else before
            reasons[c] = Reason.FAULT
        if np.isnan(before):
            before = operator
        reach_db = 0.0 if held[c] else range_db
        low, high = operator - reach_db, operator + reach_db
        before = min(max(before, low), high)
        wanted = wanted_db[c]
        if np.isnan(wanted):
            wanted = before
            reasons[c] = Reason.FAULT
        if bleed_only[c] and not boost_bleed and wanted > operator:
            wanted = operator
            reasons[c] = Reason.BLEED
        elif not low <= wanted <= high:
            wanted = min(max(wanted, low), high)
            reasons[c] = Reason.MODEL if held[c] else Reason.RANGE
        out_db[c], targets_db[c], floors_db[c] = before, wanted, low
        is_open[c] = not bleed_only[c]
        total += 10.0 ** (operator / 10.0)
    limit = open_gain * total
    make_room(targets_db, floors_db, is_open, limit, reasons)
    for c in range(len(out_db)):
        before = out_db[c]
        out_db[c] = min(max(targets_db[c], before - step_db), before + step_db)
        floors_db[c] = max(floors_db[c], before - step_db)
    make_room(out_db, floors_db, is_open, limit, reasons)


class Safety:
    """Make a model's gains safe, frame by frame.

    In this order: not further than `range_db` from the operator, not above the operator on bleed, all open channels
    together not over the limit, not faster than the slew. Where two collide the range goes before the slew, as in
    `Strip.law`: what the operator moves is followed; and the slew before the limit of open gain, which a channel that
    opens may pass until the others have made room. What the operator holds stays where it is, and counts.

    Parameters
    ----------
    channels : int
        1 to 64.
    limits : StageLimits
    frame_ms : float
        Time between steps, 1 to 1000.

    Attributes
    ----------
    reasons : (channels,) uint8
        A `Reason` each, of the last step; belongs to this object.

    Raises
    ------
    ParameterError
        For arguments outside their range, and arrays of another length.

    Examples
    --------
    >>> safety = Safety(2, StageLimits(slew_db_per_s=20.0, open_gain_db=None))
    >>> safety.step([9.0, 9.0], [0.0, 0.0], [2.0, 0.0], [False, True]).round(1)
    array([3., 0.])
    >>> [Reason(reason).name for reason in safety.reasons]
    ['RANGE', 'BLEED']
    """

    def __init__(self, channels: int, limits: StageLimits | None = None, frame_ms: float = 50.0) -> None:
        if not 1 <= channels <= MAX_CHANNELS:
            raise ParameterError(f"channels must be in [1, {MAX_CHANNELS}], got {channels}")
        self.channels = channels
        self.limits = limits or StageLimits()
        self._frame_s = in_range("frame_ms", frame_ms, 1.0, 1_000.0) / 1000.0
        self._targets_db, self._floors_db = np.zeros((2, channels))
        self._open = np.zeros(channels, np.bool_)
        self.reasons = np.zeros(channels, np.uint8)
        self._none_held = np.zeros(channels, np.bool_)
        none = np.zeros(channels)
        self.step(none, none, none, np.ones(channels, np.bool_))  # compiles the kernels, or loads them

    def step(
        self,
        wanted_db: ArrayLike,
        operator_db: ArrayLike,
        previous_db: ArrayLike,
        bleed_only: ArrayLike,
        held: ArrayLike | None = None,
    ) -> Floats:
        """Gains of the next frame.

        Parameters
        ----------
        wanted_db : (channels,)
            The model's. Where it is NaN the gain holds.
        operator_db : (channels,)
            Where the operator stands; ``-inf`` is silence. NaN: where the gain is.
        previous_db : (channels,)
            What the last step returned; NaN for a channel that has just come: it begins where the operator stands.
        bleed_only : (channels,) bool
            As `BleedDetector.step` says; all other channels count as open.
        held : (channels,) bool, optional
            Faders that the operator has locked where he stands.

        Returns
        -------
        (channels,)
        """
        arrays = {
            "wanted_db": np.asarray(wanted_db, np.float64),
            "operator_db": np.asarray(operator_db, np.float64),
            "previous_db": np.asarray(previous_db, np.float64),
            "bleed_only": np.asarray(bleed_only, np.bool_),
            "held": self._none_held if held is None else np.asarray(held, np.bool_),
        }
        for name, array in arrays.items():
            if array.shape != (self.channels,):
                raise ParameterError(f"{name} must have shape ({self.channels},), got {array.shape}")
        limits, out_db = self.limits, np.empty(self.channels)
        safe_gains(
            arrays["wanted_db"],
            arrays["operator_db"],
            arrays["previous_db"],
            arrays["bleed_only"],
            arrays["held"],
            float(limits.range_db),
            limits.slew_db_per_s * self._frame_s,
            limits.boost_bleed,
            np.inf if limits.open_gain_db is None else 10.0 ** (limits.open_gain_db / 10.0),
            self._targets_db,
            self._floors_db,
            self._open,
            out_db,
            self.reasons,
        )
        return out_db
