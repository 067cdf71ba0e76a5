"""What a console's paths have in common, and the two kinds of bus that channels lead to: groups and returns."""

from __future__ import annotations

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from alm_plugin.errors import ParameterError
from alm_plugin.features.guard import mend
from alm_plugin.nodes.automation import Lane
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.node import Audio, Node, Parameter, in_range, touch

logger = logging.getLogger("alm_plugin")

MUTE_RAMP_MS = 5.0
SEND_RANGE_DB = (-math.inf, 24.0)


class Switch:
    """True or False: ``solo = Switch()`` in a path's class. Mixers notice when it is thrown."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, path: Any, owner: type) -> bool:
        return self if path is None else path.__dict__[f"_{self._name}"]  # pyright: ignore[reportReturnType]

    def __set__(self, path: Any, value: bool) -> None:
        if not isinstance(value, (bool, np.bool_)):
            raise ParameterError(f"{self._name} must be True or False, got {value!r}")
        path.__dict__[f"_{self._name}"] = bool(value)
        touch()


class Sends(MutableMapping[str, float]):
    """Levels in dB, by return, at which a path is also sent there: behind its gain, mute and pan; ``-inf`` to 24.

    >>> sends = Sends({"hall": -12})
    >>> sends["hall"] = 40
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: sends['hall'] must be in [-inf, 24], got 40
    """

    def __init__(self, levels_db: Mapping[str, float] | None = None) -> None:
        self._levels_db: dict[str, float] = {}
        if levels_db is not None and not isinstance(levels_db, Mapping):
            raise ParameterError(f"sends must map names of returns to dB, got {levels_db!r}")
        self.update(levels_db or {})

    def __setitem__(self, name: str, level_db: float) -> None:
        if not isinstance(name, str) or not name:
            raise ParameterError(f"sends must be to names of returns, got {name!r}")
        self._levels_db[name] = in_range(f"sends[{name!r}]", level_db, *SEND_RANGE_DB)
        touch()

    def __getitem__(self, name: str) -> float:
        return self._levels_db[name]

    def __delitem__(self, name: str) -> None:
        del self._levels_db[name]
        touch()

    def __iter__(self) -> Iterator[str]:
        return iter(self._levels_db)

    def __len__(self) -> int:
        return len(self._levels_db)

    def __repr__(self) -> str:
        return repr(self._levels_db)


class Fader(Node):
    """What strips, groups and returns share: trim, mute, sends, and plugins whose failure does not stop the sound."""

    trim_db = Parameter(-60.0, 24.0)

    def __init__(self, trim_db: float, mute: bool, sends: Mapping[str, float] | None) -> None:
        self.trim_db = trim_db
        self._mute_gain = Gain(ramp_ms=MUTE_RAMP_MS)
        self.mute = mute
        self._sends = Sends(sends)
        self.faults = 0
        self._format = (0, 0)

    # A copy has plugins of its own, and none of the stream.
    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"faults": 0, "_format": (0, 0)}

    def __copy__(self) -> Any:
        return copy.deepcopy(self)  # the plugins cannot be in both

    @property
    def mute(self) -> bool:
        """Whether it is silent, or about to be."""
        return self._mute

    @mute.setter
    def mute(self, mute: bool) -> None:
        if not isinstance(mute, (bool, np.bool_)):
            raise ParameterError(f"mute must be True or False, got {mute!r}")
        self._mute = bool(mute)
        self.silence(self._mute)
        touch()

    @property
    def sends(self) -> Sends:
        """Levels in dB by return."""
        return self._sends

    @sends.setter
    def sends(self, levels_db: Mapping[str, float] | None) -> None:
        levels_db = Sends(levels_db)
        # The same object as before, by which a mixer knows what fades out.
        self._sends.clear()
        self._sends.update(levels_db)

    def silence(self, silent: bool, at_once: bool = False) -> None:
        """Be silent or heard from the next sample on, within 5 ms or `at_once`, as at the start of a stream."""
        if silent != self.is_silent:
            self._mute_gain.gain_db = -math.inf if silent else 0.0
        if at_once:
            self._mute_gain.reset()

    @property
    def is_silent(self) -> bool:
        """Whether it is silent, or about to be, for whatever reason."""
        return self._mute_gain.gain_db != 0.0

    def _muted(self, x: Audio) -> Audio:
        return x if self._mute_gain.is_unity else self._mute_gain.process_block(x, self._format[0])

    def _guarded(self, chain: Chain, x: Audio, lanes: list[Lane] | None = None, late: int = 0) -> Audio:
        if not chain:
            return x
        try:
            if lanes:
                out, bad = mend(chain.automate_block(x, self._format[0], lanes, late, 1))
            else:
                out, bad = mend(chain.process_block(x, self._format[0]))
            if out.shape != x.shape:
                raise ParameterError(f"expected a block of {x.shape}, got {out.shape}")
        except Exception as error:  # a plugin may fail in any way; the sound goes on without it
            if not self.faults:
                logger.warning("a plugin failed, the sound goes on without its chain: %s", error)
            self.faults += 1
            return x
        if bad:
            self.faults += bad
            chain.restart()
        return out


class Bus(Fader):
    """Where paths meet; see `Group` and `Return`, which differ in where their trim is."""

    def __init__(
        self,
        chain: Iterable[Any] | Any = None,
        *,
        trim_db: float = 0.0,
        mute: bool = False,
        sends: Mapping[str, float] | None = None,
    ) -> None:
        self.chain = chain
        super().__init__(trim_db, mute, sends)
        self._trim_gain = Gain(self.trim_db)

    @property
    def chain(self) -> Chain:
        """Plugins that all of it goes through."""
        return self._chain

    @chain.setter
    def chain(self, plugins: Iterable[Any] | Any) -> None:
        self._chain = plugins if isinstance(plugins, Chain) else Chain(plugins)
        touch()

    @property
    def reported_latency_samples(self) -> int:
        """Delay of the chain."""
        return self._chain.reported_latency_samples

    def prepare(self, sample_rate: int, channels: int) -> None:
        """Start a stream: everything is reset, trim and mute are where they have been set.

        Raises
        ------
        ParameterError
            For a width that one of the plugins does not take.
        LatencyError
            For a plugin that cannot run in a stream.
        """
        if self._chain.output_channels(channels) != channels:
            raise ParameterError(
                f"chain must keep {channels} channel{'s' * (channels > 1)}, got {self._chain.output_channels(channels)}"
            )
        self._chain.prepare(sample_rate, channels)
        self.silence(self.mute, at_once=True)
        self._trim_gain.jump(self.trim_db)
        self.faults = 0
        self._format = (sample_rate, channels)

    @abstractmethod
    def leave(self, x: Audio) -> Audio:
        """Make of what came together here, a block (channels, samples), what goes on; called by a mixer."""

    def reset(self) -> None:
        """Forget the stream so far."""
        self._chain.reset()
        self._format = (0, 0)

    def _trimmed(self, x: Audio) -> Audio:
        if self._trim_gain.gain_db != self.trim_db:
            self._trim_gain.gain_db = self.trim_db
        return x if self._trim_gain.is_unity else self._trim_gain.process_block(x, self._format[0])

    def _ready(self, x: Audio, sample_rate: int) -> None:
        if self._format != (sample_rate, x.shape[0]):
            self.prepare(sample_rate, x.shape[0])


class Group(Bus):
    """Channels under one hand, as a console's VCA group, and through one chain, as its subgroup.

    Strips are in a group by name, ``Strip(group="drums")``. Its `trim_db` moves the gains of all of them, locked ones
    too, so that their sends follow and its own plugins hear the difference; mute and solo are theirs as well. A mixer
    adds the trim behind a strip's law: bounds and slew are the strip's own business.

    Parameters
    ----------
    chain : list, plugin or Chain, optional
        Plugins that the sum of its channels goes through, as wide as the mix.
    trim_db : float
        Added to its channels' gains, -60 to 24.
    mute, solo : bool
        Of all its channels.
    sends : mapping of str to float
        Levels in dB at which what leaves the group is also sent to returns.

    Raises
    ------
    ParameterError
        For values outside their range.

    Examples
    --------
    >>> from pedalboard import Compressor
    >>> drums = Group([Compressor(-16, 2, 30, 200)], trim_db=-1.5)
    >>> drums.trim_db
    -1.5

    Notes
    -----
    Alone it is a node like any other, its trim before the chain.
    """

    solo = Switch()

    def __init__(
        self,
        chain: Iterable[Any] | Any = None,
        *,
        trim_db: float = 0.0,
        mute: bool = False,
        solo: bool = False,
        sends: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(chain, trim_db=trim_db, mute=mute, sends=sends)
        self.solo = solo

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block (channels, samples) without a mixer; see `Node.process_block`."""
        self._ready(x, sample_rate)
        return self._muted(self._guarded(self._chain, self._trimmed(x)))

    def leave(self, x: Audio) -> Audio:
        """Send the sum of its channels, whose gains have the trim already, through the chain."""
        return self._muted(self._guarded(self._chain, x))


class Return(Bus):
    """A shared effect: what paths send to it goes through its chain and joins the mix.

    Parameters
    ----------
    chain : list, plugin or Chain, optional
        Such as a reverb that is all wet, ``Reverb(wet_level=1, dry_level=0)``; as wide as the mix.
    trim_db : float
        How loud it is, -60 to 24; moves within 20 ms.
    mute : bool
    sends : mapping of str to float
        Levels in dB at which it is also sent to other returns; not in a circle.

    Raises
    ------
    ParameterError
        For values outside their range.

    Examples
    --------
    >>> from pedalboard import Reverb
    >>> hall = Return([Reverb(room_size=0.8, wet_level=1.0, dry_level=0.0)], trim_db=-3)
    >>> hall.sends
    {}

    Notes
    -----
    Returns are heard whatever is in solo: a singer in solo keeps her hall, and only hers.
    """

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block (channels, samples); see `Node.process_block`."""
        self._ready(x, sample_rate)
        return self.leave(x)

    def leave(self, x: Audio) -> Audio:
        """Send what came together here through chain, trim and mute."""
        return self._muted(self._trimmed(self._guarded(self._chain, x)))
