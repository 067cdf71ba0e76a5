"""Plugins in series: pedalboard's, VST3/AU and our own nodes, in one shot and as a stream."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np
import pedalboard
from numpy.typing import NDArray

from alm_plugin.errors import LatencyError, ParameterError
from alm_plugin.nodes import native
from alm_plugin.nodes.automation import Course, Lane, Range, enter, in_steps
from alm_plugin.nodes.node import Audio, Node, checked, touch

LONGEST_PIECE = 8192
"""Samples that a native plugin is handed at once, at most (pedalboard's own default)."""

GRID = 16
"""Samples that a native plugin is always handed at once if its latency depends on how many there are."""

MAX_LATENCY_S = 0.5
"""Probed latency, in seconds, that makes no sense in a stream: `PitchShift` needs more than a second."""

ANY_FORMAT = (48_000, 2)
"""Sample rate and channels for which latency is told before a stream has said what it is."""


class Chain(Node, MutableSequence):
    """Plugins in series, in a list that may change at any time.

    Holds whatever processes audio: pedalboard's plugins, `Pedalboard` and `Mix`, VST3 and AU plugins, our nodes and
    yours, other chains, and None, which does nothing. Native plugins side by side run in one native call.

    In one shot (``reset=True``) the result is compensated for latency, and for native plugins the same samples as
    pedalboard's. In a stream (`reset()`, then ``reset=False``) every block comes back whole, late by
    `reported_latency_samples`, with the same samples however the stream is cut.

    Parameters
    ----------
    plugins : list or plugin, optional
        In the order of the signal.

    Raises
    ------
    TypeError
        For something that is not a plugin.
    ParameterError
        For instruments, for one instance in two places, and, with the first audio, for a plugin that cannot process
        that many channels.
    LatencyError
        In a stream, for a plugin that cannot run in one: `PitchShift` needs more than a second of sound before it
        answers, `GSMFullRateCompressor` and a `Mix` of different latencies lose their memory between blocks.

    Examples
    --------
    >>> import numpy as np
    >>> from pedalboard import Compressor, HighpassFilter, Pedalboard, Reverb
    >>> from alm_plugin.nodes.gain import Gain
    >>> chain = Chain([HighpassFilter(90), Compressor(-18, 3), Gain(-6)])
    >>> chain(np.zeros((2, 480), np.float32), 48_000).shape
    (2, 480)
    >>> chain.append(Pedalboard([Reverb()]))
    >>> chain.reset()
    >>> [chain(np.zeros((2, n), np.float32), 48_000, reset=False).shape for n in (64, 1, 2)]
    [(2, 64), (2, 1), (2, 2)]

    A `Pedalboard` cannot hold our nodes; nest the other way round, as above:

    >>> Pedalboard([Gain(-6)])
    Traceback (most recent call last):
        ...
    TypeError: __init__(): incompatible constructor arguments...

    Parameters follow arrays, one value for each sample of the block:

    >>> fade = np.linspace(0, -60, 480)
    >>> out = chain(np.ones((2, 480), np.float32), 48_000, automation={"1.threshold_db": fade / 2, "2.gain_db": fade})
    >>> chain[2].gain_db, round(chain[1].threshold_db, 1)  # the last ones that were set
    (-60.0, -28.1)

    Notes
    -----
    `process` takes ``automation={"2.threshold_db": array}``: index, with more of them for what is inside other lists
    (``"0.1.cutoff_hz"``), and parameter; arrays as long as the block, in one shot as in a stream. Before anything is
    processed `ParameterError` tells of arrays that do not fit, hold NaN or leave the range, and of keys that name no
    number an array can move: switches, and what changes a plugin's latency, cannot.

    The `gain_db` of a `Gain`, ours or pedalboard's, and the `pan` of a `Pan` follow sample by sample: no steps
    but the array's. Anything else is set at the samples 0, 64, 128 ... of the stream, to the array's value there, which
    holds until the next, also from one call into the next: the samples are the same however the stream is cut. An
    `External` moves on from each value to the next within its `slew_ms`; 0 makes it follow at once.

    A value meets the sample that it came in with: behind plugins with latency it is used that much later. Inside a
    `Pedalboard` or `Mix` that is told from its input. In a stream what has not been used when automation ends never is.

    Parameters stay where they were set last. A pedalboard `Gain` is heard at the array's gain without being run; its
    first automation in a stream cuts the native stretch there, and latent plugins in that stretch start anew: begin it
    with the stream. A plugin that refuses a value later than that raises `ParameterError` in the middle of a block.
    """

    def __init__(self, plugins: Iterable[Any] | Any = None) -> None:
        if plugins is None:
            plugins = []
        elif not isinstance(plugins, Iterable) or isinstance(plugins, (pedalboard.Plugin, Node)):
            plugins = [plugins]
        self._items = [_check_plugin(plugin) for plugin in plugins]
        _refuse_twins(self._items)
        self._latencies: dict[int, _Latency] = {}
        self._stages: list[_Native | _Single] = []
        self._format = ANY_FORMAT
        # One thread may change the list while another plays it: so not a flag, which both would write.
        self._version = 0
        self._version_built = 0  # of the items in the stages
        self._is_running = False  # the stages hold a stream of this format
        self._is_over = False  # the stages hold the end of a one-shot, whose latency has been taken out
        self._is_ready = False  # for the next block, as far as these go
        self._begun: _Begun | None = None
        self._course = Course()
        self._apart: list[Any] = []  # pedalboard's Gains that have been automated: each is a stage of its own

    # ---- a list --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __contains__(self, plugin: object) -> bool:
        return any(plugin is item for item in self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __setitem__(self, index: Any, plugin: Any) -> None:
        # Twins are looked for only when sound comes: chain[0], chain[1] = chain[1], chain[0] has them for a moment.
        self._items[index] = map(_check_plugin, plugin) if isinstance(index, slice) else _check_plugin(plugin)
        self._changed()

    def __delitem__(self, index: Any) -> None:
        del self._items[index]
        self._changed()

    def insert(self, index: int, value: Any) -> None:
        """Put a plugin before the one at `index`."""
        _refuse_twins([*self._items, _check_plugin(value)])
        self._items.insert(index, value)
        self._changed()

    def reverse(self) -> None:
        """Turn the order round."""
        self._items.reverse()
        self._changed()

    def __repr__(self) -> str:
        count = f"{len(self)} plugin{'s' * (len(self) != 1)}"
        return f"<alm_plugin.{type(self).__name__} with {count}: {self._items} at {hex(id(self))}>"

    def _changed(self) -> None:
        self._version += 1
        touch()

    @property
    def version(self) -> int:
        """Grows with every change of the list."""
        return self._version

    # ---- copies --------------------------------------------------------------------------------------------------

    # A copy has plugins of its own, and none of the stream.
    def __getstate__(self) -> dict[str, Any]:
        items = [native.describe(item) if isinstance(item, pedalboard.Plugin) else item for item in self._items]
        return self.__dict__ | Chain().__dict__ | {"_items": items}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._items = [native.build(item) if isinstance(item, dict) else item for item in self._items]

    def __copy__(self) -> Chain:
        return copy.deepcopy(self)  # the plugins cannot be in both

    # ---- a node --------------------------------------------------------------------------------------------------

    def prepare(self, sample_rate: int, channels: int) -> None:
        """Start a stream: measure latencies anew, reset every plugin, get ready for blocks of any size.

        Raises
        ------
        ParameterError
            For a plugin that cannot process so many channels, by name.
        LatencyError
            For a plugin that cannot run in a stream, by name.
        """
        self._latencies.clear()
        self._start(sample_rate, channels)
        self._refuse()

    def reset(self) -> None:
        """Forget the stream so far; the next block starts a new one, with latencies measured anew."""
        for item in self._items:
            if item is not None:
                item.reset()
        self._latencies.clear()
        self._is_running = self._is_ready = False
        self._begun = None

    def restart(self) -> None:
        """Reset every plugin between two blocks of a stream that goes on, without measuring anything."""
        self._begun = None
        for stage in self._stages:
            stage.restart()

    @property
    def can_begin(self) -> bool:
        """Whether it holds an isolated plugin, which `begin_block` need not wait for."""
        return any(item.can_begin if isinstance(item, Chain) else _begins(item) for item in self._items)

    def begin_block(self, x: Audio, sample_rate: int) -> bool:
        """Process the next block of a running stream as far as an isolated plugin, send it there, and do not wait.

        `go_on` takes it further, `process_block`, called with the same block, returns it. In between others may begin
        theirs, and all of them are answered in one round trip. What is changed meanwhile holds from the next block on;
        what a plugin raises, `process_block` raises.

        Returns
        -------
        bool
            Whether there is something to wait for.
        """
        self._let_go()
        is_known = self._version == self._version_built and self._format == (sample_rate, x.shape[0])
        if not self._is_ready or not is_known or not x.shape[1]:
            return False
        self._course.position += x.shape[1]
        self._begun = _Begun(self._stages, x, sample_rate)
        return self._begun.go_on()

    def go_on(self) -> bool:
        """Wait for the plugin that has the block, and go on to the next isolated one; False if there is none."""
        return self._begun is not None and self._begun.go_on()

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block of a stream; see `Node.process_block`."""
        if self._begun:
            if self._begun.block is x:
                begun, self._begun = self._begun, None
                return begun.finish()
            self._let_go()
        if not self._is_ready or self._version != self._version_built or self._format != (sample_rate, x.shape[0]):
            self._follow(sample_rate, x.shape[0])
        samples = x.shape[1]
        if not samples:
            return x
        self._course.position += samples
        for stage in self._stages:
            x = stage.process(x, sample_rate)
        return x

    def automate_block(self, x: Audio, sample_rate: int, lanes: list[Lane], late: int = 0, depth: int = 0) -> Audio:
        """`process_block` with parameters that move; see `process`.

        Parameters
        ----------
        x : (channels, samples) float32
        sample_rate : int
        lanes : list of Lane
            Each has been fed this block's values.
        late : int
            Samples that the sound has been delayed by before it comes here.
        depth : int
            Where in their paths the lanes are: `path[depth]` is one of this chain's plugins.
        """
        self._let_go()
        if not self._is_ready or self._version != self._version_built or self._format != (sample_rate, x.shape[0]):
            self._follow(sample_rate, x.shape[0])
        gains = [lane.path[depth] for lane in lanes if isinstance(lane.path[depth], pedalboard.Gain)]
        if {id(gain) for gain in gains} - {id(gain) for gain in self._apart}:
            self._apart = gains + self._apart
            self._build()
        position, samples = self._course.position, x.shape[1]
        self._course.position += samples
        for stage in self._stages:
            own = [lane for lane in lanes if any(lane.path[depth] is plugin for plugin in stage.plugins)]
            if own and samples:
                x = stage.automate(x, sample_rate, own, position, late, depth)
            elif samples:
                x = stage.process(x, sample_rate)
            late += stage.latency
        return x

    def _automated(
        self, x: Audio, sample_rate: int, buffer_size: int, reset: bool, automation: Mapping[str, NDArray]
    ) -> Audio:
        goes_on = not reset and self._is_running and self._format == (sample_rate, x.shape[0])
        samples, latency = x.shape[1], 0
        lanes = self._course.open(automation, samples, self.find_parameter, goes_on)
        if reset:
            self.prepare(sample_rate, x.shape[0])
            latency = self._latency
        # In one shot latency is taken out, as without automation: silence behind the sound pushes out what is inside.
        x = np.pad(x, ((0, 0), (0, latency))) if latency else x
        pieces = []
        for start in range(0, samples + latency, buffer_size):
            piece = np.ascontiguousarray(x[:, start : start + buffer_size])
            for lane in lanes:
                lane.feed(lane.part(start, piece.shape[1]))
            pieces.append(self.automate_block(piece, sample_rate, lanes))
        self._course.keep(lanes)
        if latency:
            self._is_over, self._is_ready = True, False
        return np.ascontiguousarray(np.concatenate(pieces, axis=1)[:, latency:])

    def find_parameter(self, key: str) -> tuple[tuple[Any, ...], str, Range | None]:
        """Plugins on the way to what a key of `automation` names, and the attribute; for `Course.open`."""
        return *enter(key, self._items, type(self).__name__), None

    def output_channels(self, channels: int) -> int:
        """Width of the output for an input of `channels`: a `Pan` makes two of one."""
        for item in self._items:
            channels = item.output_channels(channels) if isinstance(item, Node) else channels
        return channels

    @property
    def reported_latency_samples(self) -> int:
        """How much later, in samples, a stream comes out than it went in; measured where plugins do not say."""
        self._know()
        self._refuse()
        return self._latency

    @property
    def latency_names(self) -> list[tuple[str, int]]:
        """Plugins that delay a stream, with their samples: ``[("ZaMaximX2", 480)]``."""
        self._know()
        self._refuse()
        return [named for stage in self._stages for named in stage.latency_names]

    def _one_shot(self, x: Audio, sample_rate: int, buffer_size: int) -> Audio:
        if not self._is_running or self._version != self._version_built or self._format != (sample_rate, x.shape[0]):
            self._start(sample_rate, x.shape[0])
        self._begun = None
        self._course.position = x.shape[1]
        for stage in self._stages:
            x = stage.one_shot(x, sample_rate, buffer_size)
        # Plugins without latency can go on from here as a stream: a first block with reset=True is a common idiom.
        self._is_over = self._latency > 0
        self._is_ready = False
        return x

    def _let_go(self) -> None:
        """Take a block that nobody has asked for all the way: no plugin is to miss it."""
        if self._begun:
            while self._begun.go_on():
                pass
            self._begun = None

    def _follow(self, sample_rate: int, channels: int) -> None:
        """Catch up with what has happened since the last block."""
        if not self._is_running or self._format != (sample_rate, channels):
            self._start(sample_rate, channels)
        elif self._version != self._version_built:
            self._build()
        self._refuse()
        if self._is_over:
            names = ", ".join(name for name, _ in self.latency_names)
            raise LatencyError(
                f"a stream through plugins with latency must begin with reset(), not reset=True: {names}"
            )
        self._is_ready = True

    @property
    def _latency(self) -> int:
        return sum(stage.latency for stage in self._stages)

    def _know(self) -> None:
        """Know latencies, also before the first block."""
        if self._is_running:
            # What is under way leaves its past in the stages that it has begun in: others would not have it.
            if self._version != self._version_built and self._begun is None:
                self._build()
        else:
            sample_rate, channels = self._format
            try:
                self._start(sample_rate, channels)
            except ParameterError:
                self._start(sample_rate, 3 - channels if channels < 3 else 2)

    def _refuse(self) -> None:
        for stage in self._stages:
            for name, reason in stage.refused:
                raise LatencyError(f"{name} cannot run in a stream: {reason}")

    def _start(self, sample_rate: int, channels: int) -> None:
        if self._format[0] != sample_rate:
            self._latencies.clear()
        self._is_running = self._is_ready = False
        self._begun = None
        self._stages = []
        self._apart = []
        self._course.position = 0
        self._format = sample_rate, channels
        self._build()
        self._is_running, self._is_over = True, False

    def _build(self) -> None:
        """Make stages of the items; plugins and stages that were there before keep their past where they can."""
        version, items = self._version, list(self._items)
        _refuse_twins(items)
        sample_rate, channels = self._format
        before = self._stages
        stages: list[_Native | _Single] = []
        latencies: dict[int, _Latency] = {}
        present = [item for item in items if item is not None]
        apart = {id(gain) for gain in self._apart}
        for kind, run in groupby(
            present, lambda item: (isinstance(item, pedalboard.Plugin), id(item) if id(item) in apart else 0)
        ):
            plugins = list(run)
            if not kind[0]:
                for node in plugins:
                    kept = [stage for stage in before if stage.plugins[0] is node and stage.channels == channels]
                    stages.append(kept[0] if kept else _Single(node, sample_rate, channels))
                    channels = node.output_channels(channels) if isinstance(node, Node) else channels
                continue
            for plugin in plugins:
                known = self._latencies.get(id(plugin))
                if known is None or known.plugin is not plugin or known.channels != channels:
                    known = _measure_latency(plugin, sample_rate, channels)
                latencies[id(plugin)] = known
            stages.append(_Native(plugins, [latencies[id(p)] for p in plugins], sample_rate, channels, before))
        self._latencies = latencies
        self._stages = stages
        self._version_built = version


class _Begun:
    """A block on its way through stages, which stops where an isolated plugin has it."""

    def __init__(self, stages: list[_Native | _Single], x: Audio, sample_rate: int) -> None:
        self.block = self._x = x
        self._error: Exception | None = None
        self._way = self._walk(stages, sample_rate)

    def _walk(self, stages: list[_Native | _Single], sample_rate: int) -> Iterator[None]:
        for stage in stages:
            if stage.begin and stage.begin(self._x, sample_rate):
                yield
            self._x = stage.process(self._x, sample_rate)

    def go_on(self) -> bool:
        """Go as far as the next such plugin; False if the block is through."""
        try:
            return next(self._way, self) is None
        except Exception as error:  # a plugin may fail in any way; who asks for the block hears of it
            self._error = error
            return False

    def finish(self) -> Audio:
        """Return what becomes of the block, or raise what is raised."""
        while self.go_on():
            pass
        try:
            if self._error:
                raise self._error
        finally:
            self._error = None  # its traceback holds this one
        return self._x


class _Latency(NamedTuple):
    """What is known of a native plugin's latency at a number of channels."""

    plugin: Any
    channels: int
    parts: list[tuple[str, int]]  # name and samples of each plugin inside that has any
    is_constant: bool  # whatever the blocks; else the plugin must be handed GRID samples at a time
    refused: list[tuple[str, str]]  # name of each that cannot run in a stream, and why

    @property
    def samples(self) -> int:
        return sum(samples for _, samples in self.parts)


class _Native:
    """Native plugins side by side, as one.

    In a stream a native plugin keeps its first samples, as many as its latency, to itself, and returns that much less.
    Together the samples it does return are in line with the input. So: as many zeros as the latency go into a queue,
    what the plugins return behind them, and every block is taken from the front; it never runs dry.
    """

    begin = None

    def __init__(
        self,
        plugins: list[Any],
        latencies: list[_Latency],
        sample_rate: int,
        channels: int,
        before: list[_Native | _Single],
    ) -> None:
        self.plugins = plugins
        self.channels = channels
        self.latency_names = [part for latency in latencies for part in latency.parts]
        self.latency = sum(latency.samples for latency in latencies)
        self.refused = [named for latency in latencies for named in latency.refused]
        self._process = _compile(plugins, sample_rate, channels).process
        self._ahead = [0, *accumulate(latency.samples for latency in latencies)]  # latency in front of each plugin
        self._latent = [p for p, latency in zip(plugins, latencies, strict=True) if latency.samples]
        self._is_on_grid = not all(latency.is_constant for latency in latencies)
        self._longest = LONGEST_PIECE
        self._clear()
        natives = [stage for stage in before if isinstance(stage, _Native) and stage.channels == channels]
        kept = [stage for stage in natives if stage._latent == self._latent]
        if self._latent and not kept:
            # What is inside latent plugins that came or went cannot be lined up with the rest.
            self.restart()
            return
        if self._latent:
            self._rest, self._queue = kept[0]._rest, kept[0]._queue
        stayed = {id(plugin): stage for stage in natives for plugin in stage.plugins}
        for plugin in plugins:
            if id(plugin) not in stayed:
                _reset([plugin])
            elif stayed[id(plugin)]._piece:
                self._longest = min(self._longest, stayed[id(plugin)]._piece)

    def process(self, x: Audio, sample_rate: int) -> Audio:
        if not self._piece:
            # A plugin that meets a longer piece than any before loses its memory (JucePlugin.h, ExternalPlugin.h:
            # prepare()), in the middle of the stream. The first block of a stream is the longest it will meet.
            self._piece = min(self._longest, x.shape[1])
        return self._process_late(x, sample_rate) if self.latency else self._process(x, sample_rate, self._piece, False)

    def _process_late(self, x: Audio, sample_rate: int) -> Audio:
        samples = x.shape[1]
        if self._is_on_grid:
            x = np.concatenate((self._rest, x), axis=1)
            whole = x.shape[1] // GRID * GRID
            x, self._rest = x[:, :whole], x[:, whole:]
        if x.size:
            self._queue = np.concatenate((self._queue, self._process(x, sample_rate, self._piece, False)), axis=1)
        late = samples - self._queue.shape[1]
        if late > 0:  # a plugin's latency has grown; its stream goes on behind a gap
            self._queue = np.pad(self._queue, ((0, 0), (late, 0)))
        out, self._queue = self._queue[:, :samples], self._queue[:, samples:]
        return np.ascontiguousarray(out)

    def automate(self, x: Audio, sample_rate: int, lanes: list[Lane], position: int, late: int, depth: int) -> Audio:
        if lanes[0].is_exact:  # a Gain that stands apart
            return lanes[0].follow(x, lanes[0].take(x.shape[1], late))
        at = {id(plugin): late + ahead for plugin, ahead in zip(self.plugins, self._ahead, strict=False)}
        moves = [(lane, lane.take(x.shape[1], at[id(lane.path[depth])])) for lane in lanes]
        return in_steps(lambda piece: self.process(piece, sample_rate), x, position, moves)

    def one_shot(self, x: Audio, sample_rate: int, buffer_size: int) -> Audio:
        self._piece = min(self._longest, buffer_size, x.shape[1])
        return self._process(x, sample_rate, buffer_size, True)

    def restart(self) -> None:
        _reset(self.plugins)
        self._clear()

    def _clear(self) -> None:
        self._piece = GRID if self._is_on_grid else 0  # samples handed at once; 0: not known yet
        self._rest = np.zeros((self.channels, 0), np.float32)
        self._queue = np.zeros((self.channels, self.latency), np.float32)


class _Single:
    """One of our nodes, or anything else with `process` and `reset`."""

    def __init__(self, node: Any, sample_rate: int, channels: int) -> None:
        self.plugins = [node]
        self.channels = channels
        self._node = node
        self._process_block = getattr(node, "process_block", self._stranger)
        self.begin: Callable[[Audio, int], bool] | None = node.begin_block if _begins(node) else None
        if isinstance(node, Chain):
            node.reset()
            node._start(sample_rate, channels)
        elif isinstance(node, Node):
            node.prepare(sample_rate, channels)
        else:
            node.reset()

    def _stranger(self, x: Audio, sample_rate: int) -> Audio:
        return self._node.process(x, sample_rate, x.shape[1], False)

    @property
    def refused(self) -> list[tuple[str, str]]:
        return (
            [named for stage in self._node._stages for named in stage.refused] if isinstance(self._node, Chain) else []
        )

    @property
    def latency(self) -> int:
        if isinstance(self._node, Chain):
            self._node._know()
            return self._node._latency
        return int(getattr(self._node, "reported_latency_samples", 0))

    @property
    def latency_names(self) -> list[tuple[str, int]]:
        if isinstance(self._node, Chain):
            return self._node.latency_names
        # A hosted plugin has a name of its own.
        name = getattr(self._node, "name", type(self._node).__name__)
        return [(str(name), self.latency)] if self.latency else []

    def process(self, x: Audio, sample_rate: int) -> Audio:
        return checked(self._node, self._process_block(x, sample_rate), x.shape[1])

    def automate(self, x: Audio, sample_rate: int, lanes: list[Lane], position: int, late: int, depth: int) -> Audio:
        if isinstance(self._node, Chain):
            return self._node.automate_block(x, sample_rate, lanes, late, depth + 1)
        if lanes[0].is_exact:
            return lanes[0].follow(x, lanes[0].take(x.shape[1], late))
        moves = [(lane, lane.take(x.shape[1], late)) for lane in lanes]
        return in_steps(lambda piece: self.process(piece, sample_rate), x, position, moves)

    def one_shot(self, x: Audio, sample_rate: int, buffer_size: int) -> Audio:
        if isinstance(self._node, Chain):
            return self._node._one_shot(x, sample_rate, buffer_size)
        # Latency is taken out here: that much silence goes in behind the sound, that much is cut off in front.
        self._node.reset()
        samples, latency = x.shape[1], self.latency
        x = np.pad(x, ((0, 0), (0, latency))) if latency else x
        pieces = [
            self.process(np.ascontiguousarray(x[:, start : start + buffer_size]), sample_rate)
            for start in range(0, samples + latency, buffer_size)
        ]
        return np.ascontiguousarray(np.concatenate(pieces, axis=1)[:, latency:])

    def restart(self) -> None:
        if isinstance(self._node, Chain):
            self._node.restart()
        else:
            self._node.reset()


def _check_plugin(plugin: Any) -> Any:
    """Return `plugin` if a chain can hold it."""
    if plugin is None:
        return plugin
    processes = all(callable(getattr(plugin, name, None)) for name in ("process", "reset"))
    if not processes or isinstance(plugin, type):
        raise TypeError(
            f"Chain only holds plugins: pedalboard's, VST3/AU, or objects with process() and reset(), got {plugin!r}"
        )
    if not getattr(plugin, "is_effect", True):
        raise ParameterError(
            "Provided plugin is an instrument plugin that does not accept audio input. Instrument plugins cannot be "
            f"added to Pedalboard, Mix, or Chain objects: {plugin!r}"
        )
    return plugin


def _begins(node: object) -> bool:
    return hasattr(type(node), "begin_block")


def _leaves(plugins: Iterable[Any]) -> Iterator[Any]:
    """Plugins, and those inside them."""
    for plugin in plugins:
        if plugin is not None:
            yield plugin
            if isinstance(plugin, (pedalboard.Chain, pedalboard.Mix, Chain)):
                yield from _leaves(plugin)


def _refuse_twins(plugins: Iterable[Any]) -> None:
    seen: dict[int, Any] = {}  # with the plugins themselves: what a board gives out may be gone a moment later
    for plugin in _leaves(plugins):
        if id(plugin) in seen:
            raise ParameterError(
                "The same plugin instance is being used multiple times in the same chain of plugins, which would cause "
                f"undefined results: {plugin!r}"
            )
        seen[id(plugin)] = plugin


def _compile(plugins: list[Any], sample_rate: int, channels: int) -> pedalboard.Chain:
    """Board that takes blocks of any length for (channels, samples)."""
    # It reads (2, 1) as mono and refuses (2, 2) until it has seen a longer block. That one must not touch the plugins,
    # so they come into the board after it.
    board = pedalboard.Chain([])
    board.process(np.zeros((channels, channels + 1), np.float32), sample_rate, channels + 1, False)
    for plugin in plugins:
        board.append(plugin)
    return board


def _reset(plugins: list[Any]) -> None:
    """Reset plugins, one by one: reset() on their board would also make that forget its layout."""
    for plugin in plugins:
        plugin.reset()


def _measure_latency(plugin: Any, sample_rate: int, channels: int) -> _Latency:
    """Learn a native plugin's latency, and that it can process so many channels; leaves it reset."""
    if isinstance(plugin, pedalboard.Chain):
        inside = [_measure_latency(p, sample_rate, channels) for p in plugin if p is not None]
        return _Latency(
            plugin,
            channels,
            [part for latency in inside for part in latency.parts],
            all(latency.is_constant for latency in inside),
            [named for latency in inside for named in latency.refused],
        )
    name = getattr(plugin, "name", type(plugin).__name__)
    is_constant, samples, refused = True, 0, []
    try:
        if hasattr(plugin, "reported_latency_samples"):
            _silence_kept_by(plugin, sample_rate, channels, 512, 512)
            samples = plugin.reported_latency_samples
        elif _silence_kept_by(plugin, sample_rate, channels, 1024, 17):
            samples = _silence_kept_by(plugin, sample_rate, channels, sample_rate, 512)
            if samples > MAX_LATENCY_S * sample_rate:
                refused = [(name, f"within {MAX_LATENCY_S:g} s of sound nothing comes out of it")]
            elif not _is_block_invariant(plugin, sample_rate, channels, samples + 4096):
                refused = [(name, "its samples depend on the blocks")]
            else:
                kept = [
                    _silence_kept_by(plugin, sample_rate, channels, samples + 4096, piece)
                    for piece in (GRID, 7, 17, 37, 64, 441)
                ]
                # On the grid as many as GRID - 1 samples wait for the others of their piece.
                is_constant = len(set(kept)) == 1
                samples = kept[0] if is_constant else kept[0] + GRID - 1
    except (ValueError, RuntimeError) as error:
        raise ParameterError(
            f"{name} cannot process {channels} channel{'s' * (channels > 1)} at {sample_rate} Hz: {error}"
        ) from None
    finally:
        _reset([plugin])
    return _Latency(plugin, channels, [(name, samples)] if samples else [], is_constant, refused)


def _silence_kept_by(plugin: Any, sample_rate: int, channels: int, samples: int, piece: int) -> int:
    """How many of `samples` zeros, in pieces, do not come out of a plugin again."""
    _reset([plugin])
    silence = np.zeros((channels, samples), np.float32)
    return samples - _compile([plugin], sample_rate, channels).process(silence, sample_rate, piece, False).shape[1]


def _is_block_invariant(plugin: Any, sample_rate: int, channels: int, samples: int) -> bool:
    """Whether a plugin makes of noise in many calls what it makes of it in one."""
    # pedalboard prepares plugins anew in every call. GSMFullRateCompressor is then at the start of a frame again, and a
    # Mix forgets what it holds back of its faster branches.
    x = np.random.default_rng(0).normal(0.0, 0.1, (channels, samples)).astype(np.float32)
    board = _compile([plugin], sample_rate, channels)
    _reset([plugin])
    whole = board.process(x, sample_rate, GRID, False)
    _reset([plugin])
    calls = [board.process(x[:, start : start + GRID], sample_rate, GRID, False) for start in range(0, samples, GRID)]
    return np.array_equal(whole, np.concatenate(calls, axis=1))
