"""A VST3 or AU plugin as a node: any width it can be brought to, parameters that move without steps, state."""

from __future__ import annotations

import copy
import ctypes
import difflib
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pedalboard

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import ParameterError, PluginError
from alm_plugin.nodes.automation import STEP_SAMPLES
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.external.entry import PluginEntry, PluginParameter
from alm_plugin.nodes.external.registry import find_good, known
from alm_plugin.nodes.node import Audio, Node, Parameter, in_range
from alm_plugin.units import ms_to_samples

if TYPE_CHECKING:
    from alm_plugin.nodes.external.sandbox import Sandbox

# ---- pedalboard's plugins --------------------------------------------------------------------------------------------


def plugin_names(path: Path) -> list[str]:
    """Names of the plugins in a file."""
    return _kind(path).get_plugin_names_for_file(str(path))


def load(path: Path, name: str) -> Any:
    """Load one of the plugins in a file, as pedalboard does."""
    with _float_state_kept():
        return _kind(path)(str(path), plugin_name=name)


def automatable(plugin: Any) -> dict[str, Any]:
    """Return the parameters that a host may move, by name; pedalboard's list also holds meters and its own settings."""
    parameters = {name: parameter for name, parameter in plugin.parameters.items() if parameter.is_automatable}
    # As attributes ours come first: a parameter that has the name of one is told from it by an underscore.
    return {f"{name}_" if hasattr(External, name) else name: parameter for name, parameter in parameters.items()}


def describe(parameters: dict[str, Any]) -> dict[str, PluginParameter]:
    """Say which values pedalboard's parameters take, and which they have now, as their defaults."""
    described = {}
    for name, parameter in parameters.items():
        is_number, is_text = parameter.type is float, parameter.type is str
        described[name] = PluginParameter(
            float(parameter.min_value) if is_number else None,
            float(parameter.max_value) if is_number else None,
            tuple(parameter.valid_values) if is_text else (),
            (parameter.units or "").strip(),
            _value(parameter),
        )
    return described


def _kind(path: Path) -> Any:
    name = "AudioUnitPlugin" if path.suffix.lower() == ".component" else "VST3Plugin"
    kind = getattr(pedalboard, name, None)
    if kind is None:
        raise PluginError(f"{path}: expected a format that is hosted on {sys.platform}, got {name}")
    return kind


def _value(parameter: Any) -> float | bool | str:
    raw = parameter.raw_value
    if parameter.type is bool:
        return raw >= 0.5
    if parameter.type is str:
        return str(parameter.string_value)
    with suppress(ValueError):
        return float(parameter.string_value)
    # With a unit behind the number, say: pedalboard has read the values at 1000 places.
    return next((value for (_, high), value in parameter.ranges.items() if raw < high), parameter.max_value)


@contextmanager
def _float_state_kept() -> Iterator[None]:
    """Undo what a plugin does to the thread: many turn denormal numbers off, which changes our own samples."""
    libm, state = _libm(), ctypes.create_string_buffer(256)
    if libm is None:
        yield
        return
    libm.fegetenv(state)
    try:
        yield
    finally:
        libm.fesetenv(state)


@cache
def _libm() -> Any:
    try:
        libm = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
        return libm if libm.fegetenv and libm.fesetenv else None
    except (OSError, AttributeError):
        return None


# ---- the node --------------------------------------------------------------------------------------------------------


@dataclass
class _Move:
    """A parameter on its way, in steps of its raw value (0 to 1)."""

    start: float
    end: float
    steps: int
    step: int = 0


class External(Node):
    """A VST3 or AU plugin, used like pedalboard's own and safe to name on a stage.

    A plugin that was never seen is first tried in a child process, where it may hang or crash; the verdict is kept in
    the registry until the file changes. Parameters are attributes, named as pedalboard names them, with their ranges
    checked; set while a stream runs they move there in small steps.

    Parameters
    ----------
    plugin : str, Path or PluginEntry
        Name, in capitals or not, or path of an installed plugin.
    slew_ms : float
        How long a parameter that is set in a stream takes to get there, 0 to 10000.
    scan : bool
        With False only a plugin that the registry already holds is loaded: for names that the user has not typed.
    isolated : bool or Sandbox
        Run it in another process, in one with all others that are isolated or in a `Sandbox` of its own: it sounds the
        same, and the sound goes on when it crashes or hangs.

    Raises
    ------
    PluginError
        If there is no such plugin, or it timed out, crashed or lied when it was tried.
    ParameterError
        For values outside a parameter's range, and signals that the plugin cannot process (isolated, of more than 2
        channels).
    AttributeError
        For names that are no parameter's.

    Examples
    --------
    >>> compressor = External("ZamCompX2")  # doctest: +SKIP
    >>> compressor.threshold_db = -20  # doctest: +SKIP
    >>> compressor.ratio = 99  # doctest: +SKIP
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: ratio must be in [1, 20], got 99
    >>> compressor.treshold_db = -20  # doctest: +SKIP
    Traceback (most recent call last):
        ...
    AttributeError: ZamCompX2 has no parameter 'treshold_db', did you mean 'threshold_db'?

    Notes
    -----
    A plugin for mono only processes each side of a stereo signal by an instance of its own, with equal parameters. One
    for stereo only hears a mono signal on both sides, and the mean of what it returns is taken.

    Steps of a move fall on every 64th sample of the stream, counted from its start: the samples are the same however
    the stream is cut. Switches and lists change in one step. A parameter that the plugin names like an attribute of
    nodes has an underscore behind it (``reset_``).
    """

    slew_ms = Parameter(0.0, 10_000.0)

    def __new__(cls, *_: Any, isolated: bool | Sandbox = False, **__: Any) -> External:
        """Make one, of the kind that its place asks for."""
        if isolated is False or cls is not External:
            return object.__new__(cls)
        from alm_plugin.nodes.external.isolated import Isolated

        return object.__new__(Isolated)

    def __init__(
        self,
        plugin: str | Path | PluginEntry,
        slew_ms: float = 20.0,
        scan: bool = True,
        *,
        isolated: bool | Sandbox = False,
    ) -> None:
        self.slew_ms = slew_ms
        self._entry = plugin if isinstance(plugin, PluginEntry) else (find_good if scan else known)(plugin)
        self._goals: dict[str, Any] = {}  # what was set and has not been reached
        self._format = (0, 0)
        self._is_streaming = False
        self._open()

    def _open(self) -> None:
        self._wanted: dict[str, float] = {}  # raw values, set by any thread; the one that plays takes them out
        self._moves: dict[str, _Move] = {}
        self._plugins: list[Any] = []
        self._parameters: list[dict[str, Any]] = []
        self._chains: list[Chain] = []
        self._widths: list[int] = []
        self._is_doubled = False
        self._add_instance()
        self._described = describe(self._parameters[0])
        self._position = 0  # in the stream, in samples
        self._is_told = True  # the plugin has processed something since a parameter was set

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self._entry.name

    @property
    def entry(self) -> PluginEntry:
        """What the registry knows of it."""
        return self._entry

    @property
    def parameters(self) -> dict[str, PluginParameter]:
        """What may be set, with ranges, units and defaults."""
        return dict(self._described)

    @property
    def sandbox(self) -> Sandbox | None:
        """The process it runs in, if it is isolated."""
        return None

    # ---- parameters ------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._check_name(name)
        return self._get(name)

    # Type checkers are to see these: only the plugin knows its parameters.
    def __setattr__(self, name: str, value: Any) -> None:
        if not self._sealed or name.startswith("_") or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            self._check_name(name)
            self._set(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._described})

    def _check_name(self, name: str) -> None:
        if name not in self._described:
            close = difflib.get_close_matches(name, self._described, 1, 0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"only {', '.join(self._described) or 'none'}"
            raise AttributeError(f"{self.name} has no parameter {name!r}, {hint}")

    def _get(self, name: str) -> Any:
        goal = self._goals.get(name)
        return _value(self._parameters[0][name]) if goal is None else goal

    def _set(self, name: str, value: Any) -> None:
        value = self._checked(name, value)
        raw = float(self._parameters[0][name].get_raw_value_for(value))
        if self._is_streaming:
            self._goals[name] = value
            self._wanted[name] = raw
        else:
            self._write(name, raw)

    def _checked(self, name: str, value: Any) -> float | bool | str:
        described = self._described[name]
        if described.choices:
            if value not in described.choices:
                close = difflib.get_close_matches(str(value), described.choices, 1)
                hint = f"{close[0]!r} perhaps" if close else ", ".join(described.choices[:8])
                raise ParameterError(
                    f"{name} must be one of its {len(described.choices)} values, {hint}, got {value!r}"
                )
            return value
        if described.low is None or described.high is None:
            if not isinstance(value, (bool, np.bool_)):
                raise ParameterError(f"{name} must be True or False, got {value!r}")
            return bool(value)
        return in_range(name, value, described.low, described.high)

    def _write(self, name: str, raw: float) -> None:
        for parameters in self._parameters:
            parameters[name].raw_value = raw
        self._is_told = False

    def _arrive(self) -> None:
        """Be where all parameters are going."""
        for name, move in self._moves.items():
            self._write(name, move.end)
        self._moves.clear()
        while self._wanted:
            self._write(*self._wanted.popitem())
        self._goals.clear()

    def _step(self, sample_rate: int) -> None:
        """Take one step with each parameter that is on the move."""
        while self._wanted:
            name, raw = self._wanted.popitem()
            is_number = self._described[name].low is not None
            steps = ms_to_samples(self.slew_ms, sample_rate) // STEP_SAMPLES if is_number else 1
            self._moves[name] = _Move(self._parameters[0][name].raw_value, raw, max(1, steps))
        for name, move in list(self._moves.items()):
            move.step += 1
            if move.step < move.steps:
                self._write(name, move.start + (move.end - move.start) * (move.step / move.steps))
                continue
            self._write(name, move.end)
            del self._moves[name]
            if name not in self._wanted:
                self._goals.pop(name, None)

    # ---- state -----------------------------------------------------------------------------------------------------

    @property
    def raw_state(self) -> bytes:
        """All of the plugin's settings, in the bytes of its format.

        Set it to what another instance of the same plugin returned. Bytes that are no state raise `ParameterError` and
        change nothing.
        """
        return self._told().raw_state

    @raw_state.setter
    def raw_state(self, state: bytes) -> None:
        self._check_state(state)
        self._arrive()
        for plugin in self._plugins:
            plugin.raw_state = state

    def _check_state(self, state: object) -> None:
        if not isinstance(state, bytes) or not state or (self._entry.format == "VST3" and not _is_vst3_state(state)):
            size = f"{len(state)} bytes of something else" if isinstance(state, bytes) else type(state).__name__
            raise ParameterError(f"raw_state must be a state of {self.name}, got {size}")

    def load_preset(self, path: str | Path) -> None:
        """Take all settings from a .vstpreset file.

        Raises
        ------
        PluginError
            If the file cannot be read or is no preset of this plugin; nothing has changed then.
        """
        try:
            preset = Path(path).read_bytes()
        except OSError as error:
            raise PluginError(f"{path}: expected a .vstpreset file, got {reason_of(error)}") from None
        # The header: "VST3", version, the plugin's identity, where the list of chunks begins (vstpresetfile.h).
        own = self._preset()
        if len(preset) < 48 or preset[:4] != b"VST3" or b"List" not in preset[48:]:
            raise PluginError(f"{path}: expected a preset of {self.name}, got another kind of file")
        if preset[8:40] != own[8:40]:
            raise PluginError(f"{path}: expected a preset of {self.name}, got one of another plugin")
        self._arrive()
        try:
            self._plugins[0].load_preset(str(path))
        except RuntimeError:
            raise PluginError(f"{path}: expected a preset of {self.name}, got one that it does not take") from None
        for plugin in self._plugins[1:]:
            plugin.raw_state = self._plugins[0].raw_state

    def save_preset(self, path: str | Path) -> None:
        """Write all settings to a .vstpreset file, which DAWs read too."""
        preset = self._preset()
        with staged(Path(path)) as temporary:
            temporary.write_bytes(preset)

    def _preset(self) -> bytes:
        if self._entry.format != "VST3":
            raise PluginError(f"{self.name}: expected a VST3 plugin for .vstpreset files, got {self._entry.format}")
        return self._told().preset_data

    def _told(self) -> Any:
        """Return an instance whose state has all parameters in it: a plugin is told of them with its next block."""
        if self._is_told and not self._wanted and not self._moves:
            return self._plugins[0]
        if self._is_streaming:  # silence would be heard; another instance may hear it
            return copy.deepcopy(self)._told()
        self._begin(*(self._format if self._format[1] else (48_000, self._entry.channels[0])))
        self._through(np.zeros((self._format[1], STEP_SAMPLES), np.float32))
        self.reset()
        return self._plugins[0]

    def _raw_values(self) -> dict[str, float]:
        """Where all parameters are, or are going."""
        return {name: self._raw_value(name) for name in self._parameters[0]}

    def _raw_value(self, name: str) -> float:
        if (wanted := self._wanted.get(name)) is not None:
            return wanted
        move = self._moves.get(name)
        return move.end if move else self._parameters[0][name].raw_value

    def _settings(self) -> tuple[bytes, dict[str, float]]:
        """State, which may lack what was set last, and where all parameters are, or are going."""
        return self._plugins[0].raw_state, self._raw_values()

    def _take(self, state: bytes, raw_values: dict[str, float]) -> None:
        """Be set as an instance whose `_settings` these are."""
        self.raw_state = state
        _put(self._parameters[0], raw_values)
        self._is_told = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._entry, self.slew_ms, *self._settings())

    def __deepcopy__(self, memo: dict[int, Any]) -> External:
        restore, arguments = self.__reduce__()
        return restore(*arguments)

    # ---- sound -----------------------------------------------------------------------------------------------------

    @property
    def reported_latency_samples(self) -> int:
        """How much later, in samples, a stream comes out than it went in."""
        return self._chains[0].reported_latency_samples

    def reset(self) -> None:
        """Forget the stream so far; parameters are where they were going."""
        self._arrive()
        with _float_state_kept():  # some plugins are loaded anew
            for chain in self._chains:
                chain.reset()
        self._position, self._is_streaming = 0, False

    def prepare(self, sample_rate: int, channels: int) -> None:
        """Start a stream.

        Raises
        ------
        ParameterError
            For a width that the plugin cannot be brought to.
        """
        self._arrive()
        self._begin(sample_rate, channels)
        with _float_state_kept():
            for chain, width in zip(self._chains, self._widths, strict=True):
                chain.prepare(sample_rate, width)
        self._position, self._is_streaming = 0, False

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block of a stream; see `Node.process_block`."""
        if self._format != (sample_rate, x.shape[0]):
            self.prepare(sample_rate, x.shape[0])
        self._is_streaming = True
        if self._wanted or self._moves:
            return self._process_moving(x)
        self._position += x.shape[1]
        return self._through(x)

    def _process_moving(self, x: Audio) -> Audio:
        pieces, start = [], 0
        while start < x.shape[1]:
            if self._position % STEP_SAMPLES == 0:
                self._step(self._format[0])
            end = x.shape[1]
            if self._wanted or self._moves:
                end = min(end, start + STEP_SAMPLES - self._position % STEP_SAMPLES)
            pieces.append(self._through(np.ascontiguousarray(x[:, start:end])))
            self._position += end - start
            start = end
        return np.concatenate(pieces, axis=1)

    def _one_shot(self, x: Audio, sample_rate: int, buffer_size: int) -> Audio:
        self._arrive()
        if self._format != (sample_rate, x.shape[0]):
            self._begin(sample_rate, x.shape[0])
        with _float_state_kept():
            outs = [
                chain._one_shot(part, sample_rate, buffer_size)
                for chain, part in zip(self._chains, self._split(x), strict=True)
            ]
        self._position, self._is_streaming, self._is_told = x.shape[1], False, True
        return self._join(outs)

    def _begin(self, sample_rate: int, channels: int) -> None:
        """Have as many instances as so many channels need."""
        self._check_width(channels)
        accepted = self._entry.channels
        instances = channels if channels not in accepted and 1 in accepted else 1
        while len(self._plugins) < instances:
            self._add_instance()
        del self._plugins[instances:], self._parameters[instances:], self._chains[instances:]
        self._is_doubled = channels == 1 and 1 not in accepted
        self._widths = [2] if self._is_doubled else [channels // instances] * instances
        self._format = (sample_rate, channels)

    def _check_width(self, channels: int) -> None:
        accepted = self._entry.channels
        if channels not in accepted and not (channels == 1 and 2 in accepted) and 1 not in accepted:
            raise ParameterError(f"{self.name} processes 1 or 2 channels, got {channels}")

    def _add_instance(self) -> None:
        try:
            plugin = load(Path(self._entry.path), self._entry.name)
        except (ImportError, ValueError, RuntimeError) as error:
            raise PluginError(f"{self.name} cannot be loaded: {' '.join(str(error).split())}") from None
        parameters = automatable(plugin)
        if self._plugins:
            plugin.raw_state = self._plugins[0].raw_state
            _put(parameters, self._raw_values())
        self._plugins.append(plugin)
        self._parameters.append(parameters)
        self._chains.append(Chain(plugin))

    def _through(self, x: Audio) -> Audio:
        self._is_told = True
        sample_rate = self._format[0]
        if len(self._chains) == 1 and not self._is_doubled:
            return self._chains[0].process_block(x, sample_rate)
        parts = zip(self._chains, self._split(x), strict=True)
        return self._join([chain.process_block(part, sample_rate) for chain, part in parts])

    def _split(self, x: Audio) -> list[Audio]:
        """Cut a signal into what each instance hears."""
        if self._is_doubled:
            return [np.repeat(x, 2, axis=0)]
        return [x] if len(self._chains) == 1 else [x[i : i + 1] for i in range(len(x))]

    def _join(self, outs: list[Audio]) -> Audio:
        """Undo `_split`."""
        if self._is_doubled:
            return np.float32(0.5) * (outs[0][:1] + outs[0][1:])
        return outs[0] if len(outs) == 1 else np.concatenate(outs)

    def __repr__(self) -> str:
        return f"<alm_plugin.External {self.name!r}{' isolated' * (self.sandbox is not None)} at {hex(id(self))}>"


def _restore(
    kind: type[External], entry: PluginEntry, slew_ms: float, state: bytes, raw_values: dict[str, float]
) -> External:
    """Make an `External` as another was; the file is known to be good, so nothing is scanned."""
    node = kind(entry, slew_ms)
    node._take(state, raw_values)
    return node


def _put(parameters: dict[str, Any], raw_values: dict[str, float]) -> None:
    # Only where it matters: choosing a program that is chosen already would load it again.
    for name, raw in raw_values.items():
        if name in parameters and not math.isclose(parameters[name].raw_value, raw, abs_tol=1e-7):
            parameters[name].raw_value = raw


# JUCE writes a VST3's state as XML of base64 behind "VC2!" and the length of the XML (juce_VST3PluginFormat.cpp,
# AudioProcessor::copyXmlToBinary), and takes anything else for no state at all, without a word.
_STATE = re.compile(rb"<\?xml [^>]*\?>\s*<VST3PluginState>(.*)</VST3PluginState>\s*", re.DOTALL)
_PART = re.compile(rb"\s*<(\w+)>(\d{1,9})\.([A-Za-z0-9+.]*)</\1>\s*")


def _is_vst3_state(state: bytes) -> bool:
    # Some JUCE versions count the closing zero, some write more of them.
    body = state[8:].rstrip(b"\0")
    if state[:4] != b"VC2!" or not 0 <= int.from_bytes(state[4:8], "little") - len(body) <= 1:
        return False
    whole = _STATE.fullmatch(body)
    if not whole or not whole[1].strip():
        return False
    inside, at = whole[1], 0
    while at < len(inside):
        part = _PART.match(inside, at)
        if not part or len(part[3]) != math.ceil(int(part[2]) * 8 / 6):
            return False
        at = part.end()
    return True
