"""Strips, a model and a bus: the mixer, itself a node."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import LatencyError, ModelError, ParameterError
from alm_plugin.features.clock import check_sample_rate
from alm_plugin.features.front_end import MAX_CHANNELS, as_block
from alm_plugin.models.contract import Model
from alm_plugin.models.listener import Listener
from alm_plugin.models.registry import DEFAULT, NETWORKS, RULES, load_model
from alm_plugin.nodes.bus import Bus, Fader, Group, Return
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.node import Audio, in_range, touch
from alm_plugin.nodes.strip import Strip
from alm_plugin.routing import MIX, Console
from alm_plugin.stream import Automation, Observer, Stream

B = TypeVar("B", bound=Bus)


class Buses(MutableMapping[str, B]):
    """A mixer's groups or returns by name; they may come and go at any time, those that are in use do not go."""

    def __init__(self, mixer: Mixer, kind: type[B]) -> None:
        self._mixer, self._kind = mixer, kind
        self._buses: dict[str, B] = {}

    def fill(self, what: str, buses: Mapping[str, B] | None) -> None:
        """Take in a mixer's argument."""
        if buses is not None and not isinstance(buses, Mapping):
            raise ParameterError(f"{what} must map names to {what}, got {buses!r}")
        self.update(buses or {})

    def __setitem__(self, name: str, bus: B) -> None:
        kind = self._kind.__name__
        if not isinstance(name, str) or not name:
            raise ParameterError(f"{kind.lower()} names must be non-empty strings, got {name!r}")
        if isinstance(bus, Fader) and not isinstance(bus, self._kind):
            raise ParameterError(f"{kind.lower()} {name!r} must be a {kind}, got {bus!r}")
        bus = bus if isinstance(bus, self._kind) else self._kind(bus)
        before = dict(self._buses)
        try:
            self._buses.pop(name, None)
            self._mixer._check_owner(name, bus)
            self._buses = {**before, name: bus}
            self._mixer._check_latency()
            touch()
        except (ParameterError, LatencyError):
            self._buses = before
            raise

    def __getitem__(self, name: str) -> B:
        if name not in self._buses:
            known = ", ".join(self._buses) or "nothing, as there are none"
            raise ParameterError(f"{self._kind.__name__.lower()} must be one of {known}, got {name!r}")
        return self._buses[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Bus by name, or `default`."""
        return self._buses.get(name, default)

    def __delitem__(self, name: str) -> None:
        self[name]
        before = self._buses
        try:
            self._buses = {other: bus for other, bus in before.items() if other != name}
            self._mixer._console.check()
            touch()
        except ParameterError:
            self._buses = before
            raise

    def __contains__(self, name: object) -> bool:
        return name in self._buses

    def __iter__(self) -> Iterator[str]:
        return iter(self._buses)

    def __len__(self) -> int:
        return len(self._buses)

    def __repr__(self) -> str:
        return repr(self._buses)


class Mixer:
    """Mix a band: one strip per channel, gains moved by a model, summed to a mono or stereo bus.

    The gain of a frame is predicted from what came before that frame, so nothing waits for anything: with plugins that
    add no latency the mixer adds none.

    Parameters
    ----------
    strips : mapping of str to Strip
        By channel name, 1 to 64; a list of plugins stands for a `Strip` with that pre chain.
    model : str, Path or Model
        Name, file or object; see `alm_plugin.models.registry.load_model`.
    channels : {1, 2}
        Width of the mix. Mono channels go to the centre at 0 dB; stereo ones are averaged into a mono mix.
    groups : mapping of str to Group, optional
        Channels under one hand and through one chain; a strip's `group` names its own.
    returns : mapping of str to Return, optional
        Shared effects; `sends` of strips, groups and returns lead there. A list of plugins stands for a `Group` or
        `Return` with that chain.
    strength : float
        How much of the model's gain is applied, 0 to 100 %.
    ceiling_db : float or None
        Where the bus's soft clip starts; below it samples pass untouched. None for no clip.
    zero_latency : bool
        Refuse strips whose plugins add latency.
    automation : Automation, optional
        Curves that replace the model's gains for the channels they name.

    Raises
    ------
    ParameterError, ModelError
        For arguments out of range and unknown models.
    LatencyError
        With `zero_latency`, naming the strip and plugin.

    Examples
    --------
    >>> import numpy as np
    >>> mixer = Mixer({"vocals": Strip(role="vocals"), "kick": Strip()}, model="unity")
    >>> tracks = {"vocals": np.full(480, 0.25, np.float32), "kick": np.full(480, 0.5, np.float32)}
    >>> mixer.process(tracks, 48_000)[:, 0]
    array([0.75, 0.75], dtype=float32)

    Notes
    -----
    Attributes meant to be changed at any time: `strength`, `freeze` (gains hold), `bypass_db`, `observers`, and
    those of the strips, ``mixer["vocals"].trim_db = 2``. Faults never stop the sound; `faults` counts them.
    """

    is_effect = True
    is_instrument = False

    def __init__(
        self,
        strips: Mapping[str, Strip],
        model: str | Path | Model = DEFAULT,
        channels: int = 2,
        *,
        groups: Mapping[str, Group] | None = None,
        returns: Mapping[str, Return] | None = None,
        strength: float = 100.0,
        ceiling_db: float | None = -1.0,
        zero_latency: bool = False,
        automation: Automation | None = None,
    ) -> None:
        if not isinstance(strips, Mapping):
            raise ParameterError(f"strips must map channel names to Strips, got {type(strips).__name__}")
        if not 1 <= len(strips) <= MAX_CHANNELS:
            raise ParameterError(f"strips must hold 1 to {MAX_CHANNELS} channels, got {len(strips)}")
        if channels not in (1, 2) or not isinstance(channels, int) or isinstance(channels, bool):
            raise ParameterError(f"channels must be 1 or 2, got {channels!r}")
        if ceiling_db is not None and (not isinstance(ceiling_db, Real) or not -60.0 <= ceiling_db < 0.0):
            raise ParameterError(f"ceiling_db must be in [-60, 0) or None, got {ceiling_db}")
        if automation is not None and not isinstance(automation, Automation):
            raise ParameterError(f"automation must be an Automation or None, got {automation!r}")
        self.channels = channels
        self.ceiling_db = ceiling_db
        self.zero_latency = zero_latency
        self.automation_in = automation
        self.freeze = False
        self.bypass_db = None
        self.observers: list[Observer] = []
        self.strength = strength
        self.model = model
        self._strips: dict[str, Strip] = {}
        self._groups, self._returns = Buses(self, Group), Buses(self, Return)
        for name, strip in strips.items():
            self._strips[name] = self._checked(name, strip)
        self._groups.fill("groups", groups)
        self._returns.fill("returns", returns)
        self._console.check()
        self._check_latency()
        self._stream: Stream | None = None
        self._sealed = True

    if not TYPE_CHECKING:  # type checkers find misspelt attributes without help, unless they see this

        def __setattr__(self, name: str, value: object) -> None:
            known = name.startswith("_") or name in self.__dict__ or hasattr(type(self), name)
            if "_sealed" in self.__dict__ and not known:
                raise AttributeError(f"'alm_plugin.Mixer' object has no attribute {name!r}")
            object.__setattr__(self, name, value)

    # ---- the console -------------------------------------------------------------------------------------------

    @property
    def strength(self) -> float:
        """How much of the model's gain is applied, 0 to 100 %."""
        return self._strength

    @strength.setter
    def strength(self, percent: float) -> None:
        if not isinstance(percent, Real) or not 0.0 <= percent <= 100.0:
            raise ParameterError(f"strength must be in [0, 100] %, got {percent}")
        self._strength = float(percent)

    @property
    def bypass_db(self) -> float | None:
        """Gain in dB, -60 to 24, of every channel in place of all others, to compare with; None for the mix."""
        return self._bypass_db

    @bypass_db.setter
    def bypass_db(self, gain_db: float | None) -> None:
        self._bypass_db = None if gain_db is None else in_range("bypass_db", gain_db, -60.0, 24.0)

    @property
    def model(self) -> Model:
        """What predicts the gains; set it to what `load_model` takes, and the next stream begins with that."""
        return self._model

    @model.setter
    def model(self, model: str | Path | Model) -> None:
        self._model = load_model(model)
        self._model_given = model

    @property
    def model_source(self) -> str | Path | None:
        """Name or file that `load_model` makes the model of; None for a model that came as an object of its own."""
        if isinstance(self._model_given, (str, Path)):
            return self._model_given
        name = self._model.metadata.name
        ships = type(self._model) is RULES.get(name) or (name in NETWORKS and load_model(name) is self._model)
        return name if ships else None

    @property
    def names(self) -> list[str]:
        """Channel names, in the order of the strips."""
        return list(self._strips)

    def __getitem__(self, name: str) -> Strip:
        if name not in self._strips:
            raise ParameterError(f"channel must be one of {', '.join(self._strips)}, got {name!r}")
        return self._strips[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._strips)

    def __contains__(self, name: object) -> bool:
        return name in self._strips

    def __len__(self) -> int:
        return len(self._strips)

    def __repr__(self) -> str:
        return (
            f"<alm_plugin.Mixer with {len(self)} strip{'s' * (len(self) != 1)}: {self.names} "
            f"model={self.model.metadata.name!r} channels={self.channels} at {hex(id(self))}>"
        )

    @property
    def groups(self) -> Buses[Group]:
        """Groups by name: ``mixer.groups["drums"].trim_db = -2``."""
        return self._groups

    @property
    def returns(self) -> Buses[Return]:
        """Returns by name: ``mixer.returns["hall"] = Return([Reverb(wet_level=1, dry_level=0)])``."""
        return self._returns

    @property
    def _console(self) -> Console:
        return Console(self._strips, self._groups, self._returns)

    def add(self, name: str, strip: Strip | None = None) -> Strip:
        """Add a channel, also while running; it starts at 0 dB (with its trim)."""
        if name in self._strips:
            raise ParameterError(f"channel names must be different, got {name!r} twice")
        if len(self._strips) == MAX_CHANNELS:
            raise ParameterError(f"strips must hold 1 to {MAX_CHANNELS} channels, got {MAX_CHANNELS + 1}")
        self._strips[name] = self._checked(name, Strip() if strip is None else strip)
        try:
            self._console.check()
            self._check_latency()
        except (LatencyError, ParameterError):
            del self._strips[name]
            raise
        if self._stream is not None:
            self._stream.add(name)
        return self._strips[name]

    def remove(self, name: str) -> Strip:
        """Take a channel out, also while running; mute it 10 ms earlier and nobody hears a click."""
        strip = self[name]
        if len(self._strips) == 1:
            raise ParameterError(f"strips must hold 1 to {MAX_CHANNELS} channels, got 0")
        if self._stream is not None:
            self._stream.remove(name)
        del self._strips[name]
        if self._stream is not None:
            self._stream.align()
        return strip

    def panic(self) -> None:
        """Mute every channel, group and return: begins with the next block, ends within 10 ms."""
        for fader in (*self._strips.values(), *self._groups.values(), *self._returns.values()):
            fader.mute = True

    def _checked(self, name: str, strip: Strip) -> Strip:
        """Return `strip`, or one made of a list of plugins, if its plugins are in no other strip."""
        if not isinstance(name, str) or not name:
            raise ParameterError(f"channel names must be non-empty strings, got {name!r}")
        strip = strip if isinstance(strip, Strip) else Strip(strip)
        self._check_owner(name, strip)
        return strip

    def _check_owner(self, name: str, fader: Fader) -> None:
        """Raise `ParameterError` if a strip or bus, or one of its plugins, is somewhere else in the mixer too."""
        for other, theirs in (*self._strips.items(), *self._groups.items(), *self._returns.items()):
            if theirs is fader:
                kind = type(fader).__name__
                raise ParameterError(f"every channel must have a {kind} of its own, got one for {other!r} and {name!r}")
            for plugin in _plugins(fader):
                if plugin is not None and any(plugin is their for their in _plugins(theirs)):
                    raise ParameterError(
                        f"every strip must have plugins of its own, got {plugin!r} in {other!r} and {name!r}"
                    )

    def _check_latency(self) -> None:
        """With `zero_latency`, raise `LatencyError` naming strip or bus and plugin."""
        if not self.zero_latency:
            return
        kinds = {"strip": self._strips, "group": self._groups, "return": self._returns}
        for kind, faders in kinds.items():
            for name, fader in faders.items():
                for plugin, samples in (named for chain in _chains(fader) for named in chain.latency_names):
                    raise LatencyError(
                        f"{kind} {name!r} must add no latency with zero_latency=True, got {samples} samples from "
                        f"{plugin}"
                    )

    # ---- sessions and copies -----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write a session: everything there is to set, and the gain curves of the stream so far.

        Parameters
        ----------
        folder : str or Path
            Made if it is not there. A session in it is replaced, in one step: a crash leaves one or the other.

        Raises
        ------
        ParameterError
            For what cannot be saved, by channel and plugin: your own nodes, `Convolution`, your own models. Nothing
            has been written then.
        AudioFileError
            When nothing can be written there.

        Notes
        -----
        `observers` are not part of it. `alm_plugin.session` says what is in the files.
        """
        from alm_plugin.session import save_session

        save_session(self, folder)

    @classmethod
    def load(cls, folder: str | Path, model: str | Path | Model | None = None) -> Mixer:
        """Mixer as another was when it was saved, at the start of a new stream: it makes the same samples.

        Parameters
        ----------
        folder : str or Path
            That `save` wrote to.
        model : str, Path or Model, optional
            Used instead of the session's. A file must be the one that was saved, by its sha256; it must be given, as a
            session loads no model but those that ship.

        Raises
        ------
        AlmError
            With one line that says which file and field do not fit, and what was expected.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Mixer({"kick": Strip(trim_db=-3)}, model="unity").save(folder)
        ...     Mixer.load(folder)["kick"].trim_db
        -3.0
        """
        from alm_plugin.session import load_session

        return load_session(folder, model).mixer

    # A copy has strips and plugins of its own, and neither observers nor the stream.
    def __getstate__(self) -> dict[str, Any]:
        state, source = self.__dict__ | {"_stream": None, "observers": []}, self.model_source
        if source is None:
            return state
        return state | {"_model": self._model.metadata.sha256, "_model_given": source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self._model_given, (str, Path)):
            return
        sha256 = state["_model"]
        self._model = load_model(self._model_given, sha256=sha256)
        if self._model.metadata.sha256 != sha256:
            raise ModelError(
                f"{self._model_given}: expected the model with sha256 {sha256}, got {self._model.metadata.sha256}"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Mixer:
        for model in (self._model, self._model_given):  # models remember nothing: any number of mixers can share one
            memo[id(model)] = model
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__ | {"_stream": None, "observers": []}, memo))
        return twin

    def __copy__(self) -> Mixer:
        return copy.deepcopy(self)  # the strips cannot be in both

    # ---- sound -------------------------------------------------------------------------------------------------

    def process(
        self,
        tracks: Mapping[str, NDArray] | Sequence[NDArray] | NDArray,
        sample_rate: float,
        buffer_size: int = 8192,
        reset: bool = True,
    ) -> Audio:
        """Mix a song, or the next block of one.

        Parameters
        ----------
        tracks : dict, sequence or array
            By channel name, or in the strips' order, each (samples,), (1, samples) or (2, samples); or one array
            (channels, samples), a mono channel per row. A channel missing from a dict is silent. Equal lengths.
        sample_rate : int
            8000 to 192000 Hz.
        buffer_size : int
            Longest stretch to work on at once; results do not depend on it.
        reset : bool
            Start a new stream first. For streaming call `reset()` once, then pass False.

        Returns
        -------
        (channels, samples) float32
            As long as the input. With latent plugins the mix is late by `reported_latency_samples`, in one call as in
            a stream.

        Raises
        ------
        ParameterError, AudioTypeError
            For input that does not fit. Nothing has been processed then.
        """
        sample_rate = check_sample_rate(sample_rate)
        if not isinstance(buffer_size, int) or buffer_size < 1:
            raise ParameterError(f"buffer_size must be a whole number >= 1, got {buffer_size!r}")
        blocks, samples = self._check(tracks)
        if reset:
            self.reset()
        stream = self._stream
        if stream is None:
            mind = Listener(self.model, sample_rate, [strip.role for strip in self._strips.values()])
            widths = {name: block.shape[0] for name, block in blocks.items()}
            stream = self._stream = Stream(self, sample_rate, widths, mind)
        stream.check(sample_rate, blocks)
        mix = np.empty((self.channels, samples), np.float32)
        for start in range(0, samples, buffer_size):
            stop = min(start + buffer_size, samples)
            stream.process({n: b[:, start:stop] for n, b in blocks.items()}, mix[:, start:stop])
        return mix

    __call__ = process

    def reset(self) -> None:
        """Forget the stream: the next block is the first of a new one."""
        self._stream = None

    def _check(self, tracks: Mapping[str, NDArray] | Sequence[NDArray] | NDArray) -> tuple[dict[str, Audio], int]:
        if isinstance(tracks, Mapping):
            for name in tracks:
                self[name]
            given = dict(tracks)
        else:
            if not isinstance(tracks, (np.ndarray, Sequence)):
                raise ParameterError(f"tracks must be a dict, a list or an array, got {type(tracks).__name__}")
            if isinstance(tracks, np.ndarray) and tracks.ndim != 2:
                raise ParameterError(f"tracks must have shape (channels, samples), got {tracks.shape}")
            if len(tracks) != len(self._strips):
                raise ParameterError(f"tracks must hold {len(self._strips)} channels, got {len(tracks)}")
            given = dict(zip(self._strips, tracks, strict=True))
        if not given:
            raise ParameterError("tracks must hold at least one channel, got none")
        blocks = {name: as_block(track, f"track {name!r}") for name, track in given.items()}
        first, samples = next((name, block.shape[1]) for name, block in blocks.items())
        for name, block in blocks.items():
            if block.shape[1] != samples:
                raise ParameterError(f"track {name!r} must have {samples} samples like {first!r}, got {block.shape[1]}")
        return blocks, samples

    # ---- reports -----------------------------------------------------------------------------------------------

    @property
    def reported_latency_samples(self) -> int:
        """Delay of the mix behind the input: the longest pre chain's, the longest post chain's, the longest way on."""
        strips = self._strips.values()
        if self._stream is not None:
            behind = self._stream.routing.latency_samples
        else:
            behind = self._console.arrivals()[MIX] if self._groups or self._returns else 0
        return max(s.pre_latency_samples for s in strips) + max(s.post_latency_samples for s in strips) + behind

    @property
    def automation(self) -> Automation:
        """The gains applied since the stream's start."""
        if self._stream is None:
            return Automation(np.zeros(0), {name: np.zeros(0, np.float32) for name in self._strips})
        return self._stream.automation()

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong since the stream's start, by place; empty when nothing did."""
        return {} if self._stream is None else self._stream.all_faults()

    @property
    def ceiling_samples(self) -> int:
        """Samples of the mix that the ceiling has bent since the stream's start."""
        return 0 if self._stream is None else self._stream.ceiling_samples


def _chains(fader: Fader) -> list[Chain]:
    if isinstance(fader, Strip):
        return [fader.pre, fader.post]
    return [fader.chain] if isinstance(fader, Bus) else []


def _plugins(fader: Fader) -> list[Any]:
    return [plugin for chain in _chains(fader) for plugin in chain]
