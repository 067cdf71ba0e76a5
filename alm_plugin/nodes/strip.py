"""One channel of a mixer: plugins, the gain that is moved, the human's say in it, mute, plugins, pan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.models.roles import check_role
from alm_plugin.nodes.automation import Course, Lane, Range
from alm_plugin.nodes.bus import Fader, Switch
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.gain import MAX_GAIN_DB, Gain
from alm_plugin.nodes.node import Audio, in_range, touch
from alm_plugin.nodes.pan import Pan


class Strip(Fader):
    """One channel: pre chain, gain, mute, post chain, pan.

    In a `Mixer` features are taken behind the pre chain and the model moves the gain. Alone it is a node like any
    other: `lock_db`, or else `trim_db`, is its gain, a stereo signal is balanced by `pan`, a mono one stays mono. With
    latent plugins it is late by `reported_latency_samples`, in one shot as in a stream.

    Parameters
    ----------
    pre, post : list, plugin or Chain, optional
        Plugins before and behind the gain. None may change the number of channels.
    pan : float
        -1 (left) to 1 (right); see `Pan`.
    role : str, optional
        What the channel plays; one of `alm_plugin.models.roles.ROLES`.
    trim_db : float
        Added to the model's gain, -60 to 24.
    lock_db : float, optional
        Replaces the gain, ``-inf`` to 24.
    mute : bool
        Silence, begun with the next sample processed and complete within 10 ms.
    solo : bool
        In a mixer: only channels in solo are heard.
    group : str, optional
        Name of one of the mixer's groups; see `alm_plugin.nodes.bus.Group`.
    sends : mapping of str to float
        Levels in dB, ``-inf`` to 24, at which the channel, as it stands in the mix, is also sent to the mixer's
        returns, by name.
    bounds_db : (float, float)
        Least and most gain of model and trim together.
    slew_db_per_s : float, optional
        How fast the gain may change, > 0; None for no limit.

    Raises
    ------
    ParameterError
        For values outside their range.

    Examples
    --------
    >>> from pedalboard import Compressor, HighpassFilter
    >>> strip = Strip([HighpassFilter(90), Compressor(-18, 3)], role="vocals", trim_db=2)
    >>> strip.law(model_db=-6.0, strength=50.0)
    -1.0
    >>> strip.trim_db = 99
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: trim_db must be in [-60, 24], got 99

    Notes
    -----
    Alone it takes ``automation``, as `Chain` does: ``{"pre.2.threshold_db": array}``, or ``"2.threshold_db"`` for the
    same, ``"post.0.mix"``, ``"pan"``, and ``"gain_db"``, which replaces lock and trim, and leaves `lock_db` at its last
    value.

    All attributes may change at any time, also the chains: ``strip.pre.append(Reverb())``. `faults` counts, since
    the stream's start, samples that were NaN or infinite behind a chain (they are silenced, and the chain is reset,
    because a NaN in a filter's memory stays there) and blocks in which a plugin raised (the strip is heard without that
    chain).
    """

    solo = Switch()

    def __init__(
        self,
        pre: Iterable[Any] | Any = None,
        post: Iterable[Any] | Any = None,
        *,
        pan: float = 0.0,
        role: str | None = None,
        trim_db: float = 0.0,
        lock_db: float | None = None,
        mute: bool = False,
        solo: bool = False,
        group: str | None = None,
        sends: Mapping[str, float] | None = None,
        bounds_db: tuple[float, float] = (-60.0, 24.0),
        slew_db_per_s: float | None = None,
    ) -> None:
        self.pre = pre
        self.post = post
        self._pan = Pan(pan)
        self.role = role
        super().__init__(trim_db, mute, sends)
        self.solo = solo
        self.group = group
        self.lock_db = lock_db
        self._gain = Gain(self._own_gain_db)
        self.bounds_db = bounds_db
        self.slew_db_per_s = slew_db_per_s
        self._course = Course()  # of a stream without a mixer

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_course": Course()}

    # ---- what the human sets -----------------------------------------------------------------------------------

    @property
    def pre(self) -> Chain:
        """Plugins before the gain."""
        return self._pre

    @pre.setter
    def pre(self, plugins: Iterable[Any] | Any) -> None:
        self._pre = plugins if isinstance(plugins, Chain) else Chain(plugins)
        touch()

    @property
    def post(self) -> Chain:
        """Plugins behind the gain."""
        return self._post

    @post.setter
    def post(self, plugins: Iterable[Any] | Any) -> None:
        self._post = plugins if isinstance(plugins, Chain) else Chain(plugins)
        touch()

    @property
    def gain(self) -> Gain:
        """The gain that a mixer moves."""
        return self._gain

    @property
    def pan(self) -> float:
        """Position, -1 (left) to 1 (right); moves there within 20 ms."""
        return self._pan.pan

    @pan.setter
    def pan(self, pan: float) -> None:
        self._pan.pan = pan

    @property
    def role(self) -> str | None:
        """What the channel plays."""
        return self._role

    @role.setter
    def role(self, role: str | None) -> None:
        self._role = check_role(role)

    @property
    def lock_db(self) -> float | None:
        """Gain in dB that replaces all others, or None."""
        return self._lock_db

    @lock_db.setter
    def lock_db(self, lock_db: float | None) -> None:
        self._lock_db = None if lock_db is None else in_range("lock_db", lock_db, -math.inf, 24.0)

    @property
    def group(self) -> str | None:
        """Name of the group that the channel is in, or None."""
        return self._group

    @group.setter
    def group(self, group: str | None) -> None:
        if group is not None and (not isinstance(group, str) or not group):
            raise ParameterError(f"group must be a name or None, got {group!r}")
        self._group = group
        touch()

    @property
    def bounds_db(self) -> tuple[float, float]:
        """Least and most gain, in dB, of model and trim together."""
        return self._bounds_db

    @bounds_db.setter
    def bounds_db(self, bounds_db: tuple[float, float]) -> None:
        try:
            low, high = (in_range("bounds_db", bound, -math.inf, MAX_GAIN_DB) for bound in bounds_db)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not low <= high:
            raise ParameterError(f"bounds_db must be two rising gains in [-inf, {MAX_GAIN_DB:g}], got {bounds_db!r}")
        self._bounds_db = (low, high)

    @property
    def slew_db_per_s(self) -> float | None:
        """How fast the gain may change, or None."""
        return self._slew_db_per_s

    @slew_db_per_s.setter
    def slew_db_per_s(self, slew_db_per_s: float | None) -> None:
        if slew_db_per_s is not None and (not isinstance(slew_db_per_s, Real) or not slew_db_per_s > 0.0):
            raise ParameterError(f"slew_db_per_s must be positive or None, got {slew_db_per_s!r}")
        self._slew_db_per_s = None if slew_db_per_s is None else float(slew_db_per_s)

    def law(
        self,
        model_db: float,
        strength: float = 100.0,
        previous_db: float | None = None,
        frame_s: float = 0.05,
    ) -> float:
        """Gain that the human lets the model have: ``slew(clip(strength * model_db + trim_db, bounds))``, or the lock.

        Parameters
        ----------
        model_db : float
            What the model wants. If it is not a number the previous gain holds.
        strength : float
            How much of that is applied, 0 to 100 %.
        previous_db : float, optional
            The law's previous result; None at the start of a stream, where nothing is slewed.
        frame_s : float
            Seconds between the previous result and this one.

        Returns
        -------
        float
            In dB. Mute is not part of it.
        """
        if self._lock_db is not None:
            return self._lock_db
        if not math.isfinite(model_db):
            if previous_db is not None:
                return previous_db
            model_db = 0.0
        low, high = self._bounds_db
        gain_db = min(max(strength / 100.0 * model_db + self.trim_db, low), high)
        if previous_db is None or self._slew_db_per_s is None:
            return gain_db
        # A lock may have left the gain outside the bounds, even at silence, from which no slew leads back.
        previous_db = min(max(previous_db, low), high)
        step = self._slew_db_per_s * frame_s
        return min(max(gain_db, previous_db - step), previous_db + step)

    # ---- what the mixer calls, block by block ------------------------------------------------------------------

    def prepare(self, sample_rate: int, channels: int) -> None:
        """Start a stream of 1 or 2 channels: everything is reset, gain and mute are where they have been set.

        Raises
        ------
        ParameterError
            For a width that the strip or one of its plugins does not take.
        LatencyError
            For a plugin that cannot run in a stream.
        """
        if channels not in (1, 2):
            raise ParameterError(f"a strip takes a signal of 1 or 2 channels, got {channels}")
        for name, chain in (("pre", self._pre), ("post", self._post)):
            if chain.output_channels(channels) != channels:
                raise ParameterError(
                    f"{name} must keep {channels} channel{'s' * (channels > 1)}, got {chain.output_channels(channels)}"
                )
            chain.prepare(sample_rate, channels)
        self._gain.jump(self._own_gain_db)
        self.silence(self.mute, at_once=True)
        self._pan.reset()
        self.faults = 0
        self._course.position = 0
        self._format = (sample_rate, channels)

    def tap(self, x: Audio) -> Audio:
        """Send a block (channels, samples) through the pre chain: what features are taken of."""
        return self._guarded(self._pre, x)

    def finish(self, x: Audio) -> Audio:
        """Send what `tap` returned through gain, mute and post chain."""
        if not self._gain.is_unity:
            x = self._gain.process_block(x, self._format[0])
        return self._guarded(self._post, self._muted(x))

    @property
    def is_plain(self) -> bool:
        """Whether the gain is all that there is behind the tap, on a stereo bus."""
        return self._mute_gain.is_unity and self._pan.is_unity and not self._post

    def to_bus(self, x: Audio, channels: int) -> Audio:
        """Make what `finish` returned fit a bus: panned to 2 channels, or (left + right) / 2 for 1.

        In the centre a mono signal stays (1, samples), to be added to both sides.
        """
        if channels == 2:
            if self._pan.is_unity:
                return x
            return self._pan.process_block(x, self._format[0])
        return x if x.shape[0] == 1 else np.float32(0.5) * (x[:1] + x[1:])

    @property
    def pre_latency_samples(self) -> int:
        """Delay of the pre chain."""
        return self._pre.reported_latency_samples

    @property
    def post_latency_samples(self) -> int:
        """Delay of the post chain."""
        return self._post.reported_latency_samples

    @property
    def chains(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Something that differs after any change of the chains."""
        return (id(self._pre), self._pre.version), (id(self._post), self._post.version)

    @property
    def latency_names(self) -> list[tuple[str, int]]:
        """Plugins with latency, and their samples."""
        return self._pre.latency_names + self._post.latency_names

    # ---- alone -------------------------------------------------------------------------------------------------

    @property
    def reported_latency_samples(self) -> int:
        """Delay of both chains."""
        return self.pre_latency_samples + self.post_latency_samples

    @property
    def _own_gain_db(self) -> float:
        return self.trim_db if self._lock_db is None else self._lock_db

    def reset(self) -> None:
        """Forget the stream so far."""
        self._pre.reset()
        self._post.reset()
        self._format = (0, 0)

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block (1 or 2, samples) without a mixer; see `Node.process_block`."""
        if self._format != (sample_rate, x.shape[0]):
            self.prepare(sample_rate, x.shape[0])
        self._course.position += x.shape[1]
        self._go_to_own_gain()
        x = self.finish(self.tap(x))
        return x if x.shape[0] == 1 else self._pan.process_block(x, sample_rate)

    def _go_to_own_gain(self) -> None:
        if self._gain.gain_db != self._own_gain_db:
            self._gain.gain_db = self._own_gain_db

    def _automated(
        self, x: Audio, sample_rate: int, buffer_size: int, reset: bool, automation: Mapping[str, NDArray]
    ) -> Audio:
        goes_on = not reset and self._format == (sample_rate, x.shape[0])
        lanes = self._course.open(automation, x.shape[1], self._find_parameter, goes_on)
        if reset:
            self.reset()
        if self._format != (sample_rate, x.shape[0]):
            self.prepare(sample_rate, x.shape[0])
        pieces = []
        for start in range(0, x.shape[1], buffer_size):
            piece = np.ascontiguousarray(x[:, start : start + buffer_size])
            for lane in lanes:
                lane.feed(lane.part(start, piece.shape[1]))
            pieces.append(self._automate_block(piece, lanes))
        self._course.keep(lanes)
        return np.concatenate(pieces, axis=1)

    def _automate_block(self, x: Audio, lanes: list[Lane]) -> Audio:
        samples = x.shape[1]
        self._course.position += samples
        x = self._guarded(self._pre, x, [lane for lane in lanes if lane.path[0] is self._pre])
        late = self.pre_latency_samples
        gain = next((lane for lane in lanes if lane.item is self._gain), None)
        if gain:
            x = gain.follow(x, gain.take(samples, late))
            self._lock_db = self._gain.gain_db
        else:
            self._go_to_own_gain()
            x = self._gain.process_block(x, self._format[0])
        x = self._muted(x)
        x = self._guarded(self._post, x, [lane for lane in lanes if lane.path[0] is self._post], late)
        pan = next((lane for lane in lanes if lane.item is self._pan), None)
        if not pan:
            return x if x.shape[0] == 1 else self._pan.process_block(x, self._format[0])
        pans = pan.take(samples, late + self.post_latency_samples)
        if x.shape[0] == 1:
            self._pan.pan = float(pans[-1])
            return x
        return pan.follow(x, pans)

    def _find_parameter(self, key: str) -> tuple[tuple[Any, ...], str, Range | None]:
        if key == "gain_db":
            return (self._gain,), key, (-math.inf, 24.0)  # the range of lock_db, where it ends
        if key == "pan":
            return (self._pan,), key, None
        place, _, rest = key.partition(".")
        chain = self._post if place == "post" else self._pre
        if not rest:
            raise ParameterError(
                f"automation must name gain_db, pan, or plugin and parameter, like 'pre.0.threshold_db', got {key!r}"
            )
        path, name, _ = chain.find_parameter(rest if place in ("pre", "post") else key)
        return (chain, *path), name, None
