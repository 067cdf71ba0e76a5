"""Parameters that follow arrays, one value per sample."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import pedalboard
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.nodes.gain import MAX_GAIN_DB, Gain, multiply_each
from alm_plugin.nodes.node import Audio, Node, Parameter
from alm_plugin.nodes.pan import Pan
from alm_plugin.units import db_to_factor

STEP_SAMPLES = 64
"""Parameters of plugins that cannot follow an array sample by sample take steps this far apart."""

Values = NDArray[np.float64]
Range = tuple[float, float]
Find = Callable[[str], tuple[tuple[Any, ...], str, Range | None]]

_ANY: Range = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))

# Setting one of these changes what a plugin holds back, or starts it anew.
_LATENCY_PARAMETERS = {"lookahead_ms", "quality", "semitones", "target_sample_rate", "vbr_quality"}


class Lane:
    """One parameter on its way along the arrays of a stream's blocks.

    Parameters
    ----------
    key : str
        What the user calls it, for messages.
    path : tuple
        What the plugin is in, from the outside, and the plugin.
    name : str
        Of the plugin's attribute.
    limits : (float, float)
        Least and most that it takes.
    first : float
        Value until the first array arrives, where something upstream delays the sound.
    """

    def __init__(self, key: str, path: tuple[Any, ...], name: str, limits: Range, first: float) -> None:
        self.key, self.path, self.name, self.limits = key, path, name, limits
        self.item = path[-1]
        self.values: Values = np.zeros(0)  # of the call that is being processed
        self._first = first
        self._last = math.nan  # what the plugin was last set to
        # Values of the block, behind as many from before as the sound is late.
        self._line: Values = np.zeros(0)
        self._late = 0

    @property
    def is_exact(self) -> bool:
        """Whether the parameter follows sample by sample."""
        return self.name in ("gain_db", "pan") and (
            type(self.item) in (Gain, Pan) or isinstance(self.item, pedalboard.Gain)
        )

    def part(self, start: int, samples: int) -> Values:
        """Return some of the call's values; behind its end the last one."""
        part = self.values[start : start + samples]
        return np.concatenate((part, np.full(samples - len(part), self.values[-1]))) if len(part) < samples else part

    def feed(self, values: Values) -> None:
        """Be given the next block's values."""
        self._line = np.concatenate((self._line[len(self._line) - self._late :], values))

    def take(self, samples: int, late: int) -> Values:
        """Return the block's values as the sound meets them, `late` samples after the stream's."""
        self._late = late
        missing = samples + late - len(self._line)
        if missing > 0:
            self._line = np.concatenate((np.full(missing, self._first), self._line))
        end = len(self._line) - late
        return self._line[end - samples : end]

    def set(self, value: float) -> None:
        """Set the plugin's attribute; only if that is new, because some plugins begin a move with each setting."""
        if value == self._last:
            return
        try:
            setattr(self.item, self.name, value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _refused(self.key, self.item, value, error) from None
        self._last = value

    def follow(self, x: Audio, values: Values) -> Audio:
        """Do to a block what the plugin does, with a value for each sample; the plugin is left at the last one."""
        if isinstance(self.item, (Gain, Pan)):
            return self.item.follow(x, values)
        out = np.empty(x.shape, np.float32)
        multiply_each(x, db_to_factor(values), out)
        setattr(self.item, self.name, float(values[-1]))
        return out


class Course:
    """Where a stream is, and the parameters that move in it.

    Attributes
    ----------
    position : int
        Samples since the stream's start.
    """

    __slots__ = ("_end", "_lanes", "position")

    def __init__(self) -> None:
        self.position = 0
        self._lanes: list[Lane] = []  # of the last automated block
        self._end = 0  # position behind it

    def open(self, automation: Mapping[str, NDArray], samples: int, find: Find, goes_on: bool) -> list[Lane]:
        """Return a lane for each array, once all of them have been checked.

        Parameters
        ----------
        automation : mapping
            Arrays by key.
        samples : int
            In each.
        find : callable
            Says what a key names: path, attribute, and range if it is not the plugin's own.
        goes_on : bool
            Whether these samples follow those before, in the same stream.
        """
        if not isinstance(automation, Mapping):
            raise ParameterError(f"automation must map names to arrays, got {type(automation).__name__}")
        is_first = not goes_on or self.position == 0
        known = {(id(lane.item), lane.name): lane for lane in self._lanes if goes_on and self._end == self.position}
        lanes: dict[tuple[int, str], Lane] = {}
        arrays = []
        for key, given in automation.items():
            if not isinstance(key, str):
                raise ParameterError(f"automation must map names like '0.gain_db' to arrays, got {key!r}")
            path, name, limits = find(key)
            same = (id(path[-1]), name)
            if same in lanes:
                raise ParameterError(f"automation must name each parameter once, got {lanes[same].key!r} and {key!r}")
            lane = known.get(same)
            limits = lane.limits if lane else limits or _limits(key, path, name)
            values = _checked(key, given, samples, path[-1], name, limits)
            arrays.append(values)
            first = values[0] if is_first and samples else float(getattr(path[-1], name))
            lanes[same] = lane or Lane(key, path, name, limits, first)
        for lane, values in zip(lanes.values(), arrays, strict=True):
            lane.values = values
        self._lanes = []  # until `keep`: a block that fails leaves none
        return list(lanes.values())

    def keep(self, lanes: list[Lane]) -> None:
        """Remember lanes for the block that follows."""
        self._lanes, self._end = lanes, self.position


# The values that count are those at the samples 0, 64, 128 ... of the stream; each holds until the next. Where a call
# ends between two of them the plugin keeps its value into the next call, so however a stream is cut, the steps are the
# same.
def in_steps(process: Callable[[Audio], Audio], x: Audio, position: int, lanes: list[tuple[Lane, Values]]) -> Audio:
    """Process a block (channels, samples) in pieces between which the lanes' parameters are set."""
    grid = np.arange(-position % STEP_SAMPLES, x.shape[1], STEP_SAMPLES)
    is_new = np.zeros(len(grid), bool)
    for lane, values in lanes:
        is_new |= values[grid] != np.concatenate(([lane._last], values[grid]))[:-1]
    pieces, start = [], 0
    for cut in grid[is_new]:
        if cut > start:
            pieces.append(process(np.ascontiguousarray(x[:, start:cut])))
        for lane, values in lanes:
            lane.set(float(values[cut]))
        start = int(cut)
    pieces.append(process(np.ascontiguousarray(x[:, start:])))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)


def enter(key: str, plugins: Iterable[Any], kind: str) -> tuple[tuple[Any, ...], str]:
    """Find what ``"2.threshold_db"`` names: the plugins on the way, and the attribute.

    Parameters
    ----------
    key : str
        Indices into lists of plugins, then an attribute, with dots between them.
    plugins : iterable
        The outermost list.
    kind : str
        What the list is called, for messages.
    """
    *indices, name = key.split(".")
    if not indices:
        raise ParameterError(f"automation must name plugin and parameter, like '0.gain_db', got {key!r}")
    path: list[Any] = []
    for index in indices:
        try:
            inside = list(plugins)
        except TypeError:
            raise ParameterError(f"automation {key!r} must name a plugin, got one that holds none: {kind}") from None
        if not index.removeprefix("-").isdecimal() or not -len(inside) <= int(index) < len(inside):
            count = f"{len(inside)} plugin{'s' * (len(inside) != 1)}"
            raise ParameterError(f"automation {key!r} must have an index into {kind} with {count}, got {index!r}")
        plugins = inside[int(index)]
        kind = type(plugins).__name__
        path.append(plugins)
    return tuple(path), name


def _limits(key: str, path: tuple[Any, ...], name: str) -> Range:
    """Range of a plugin's parameter, or `ParameterError` if it has none of that name that an array can move."""
    item = path[-1]
    numbers = _numbers(item)
    if name not in numbers:
        raise ParameterError(
            f"automation {key!r} must name a parameter of {type(item).__name__} that can be automated, "
            f"{', '.join(numbers) or 'which has none'}, got {name!r}"
        )
    for around in path[:-1]:
        if isinstance(item, pedalboard.Gain) and isinstance(around, pedalboard.Plugin):
            raise ParameterError(
                f"automation {key!r} must name a Gain in a Chain, got one in a {type(around).__name__}, where it would "
                "move in steps"
            )
    return numbers[name]


def _numbers(item: Any) -> dict[str, Range]:
    """Parameters of a plugin that an array can move, with their ranges as far as they are known."""
    if type(item) is Gain or isinstance(item, pedalboard.Gain):
        return {"gain_db": (-math.inf, MAX_GAIN_DB)}
    if type(item) is Pan:
        return {"pan": (-1.0, 1.0)}
    parameters = getattr(item, "parameters", None)
    if isinstance(parameters, Mapping):
        if isinstance(item, Node):  # an External
            return {name: (p.low, p.high) for name, p in parameters.items() if getattr(p, "low", None) is not None}
        return {
            name: (float(parameter.min_value), float(parameter.max_value))
            for name, parameter in parameters.items()
            if parameter.is_automatable and parameter.type is float
        }
    found = {name: _ANY for name in vars(item) if not name.startswith("_")} if hasattr(item, "__dict__") else {}
    for name, value in inspect.getmembers_static(type(item)):
        if isinstance(value, Parameter):
            found[name] = (value.low, value.high)
        elif isinstance(value, property) and value.fset:
            found[name] = _ANY
    return {
        name: limits
        for name, limits in sorted(found.items())
        if name not in _LATENCY_PARAMETERS and _is_number(getattr(item, name, None))
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _checked(key: str, given: Any, samples: int, item: Any, name: str, limits: Range) -> Values:
    """Return an array as float64, or raise `ParameterError`."""
    try:
        values = np.asarray(given)
    except ValueError:  # of lists of different lengths
        values = np.empty((), object)
    if values.dtype.kind not in "fiu" or values.shape != (samples,):
        got = f"shape {values.shape} of {values.dtype}" if values.ndim else repr(given)
        raise ParameterError(f"automation {key!r} must hold {samples} numbers, one for each sample, got {got}")
    values = values.astype(np.float64)
    low, high = limits
    wrong = np.flatnonzero(~((values >= low) & (values <= high)))
    if len(wrong):
        raise ParameterError(
            f"automation {key!r} must be in [{low:g}, {high:g}], got {values[wrong[0]]:g} at sample {wrong[0]}"
        )
    if samples and isinstance(item, pedalboard.Plugin) and limits == _ANY:
        # Ranges of pedalboard's plugins are only in their setters. Another instance is asked: some setters start moves.
        try:
            other = type(item)()
        except TypeError:
            return values
        for value in (values.min(), values.max()):
            try:
                setattr(other, name, float(value))
            except (ValueError, RuntimeError) as error:
                raise _refused(key, item, value, error) from None
    return values


def _refused(key: str, item: Any, value: float, error: Exception) -> ParameterError:
    return ParameterError(
        f"automation {key!r} must hold values that {type(item).__name__} takes, got {value:g}: {error}"
    )
