"""What is known of a plugin: data only, as the registry keeps it and a probe reports it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK = "ok"

FORMATS = {".vst3": "VST3", ".component": "AU"}


@dataclass(frozen=True)
class PluginParameter:
    """A parameter's values.

    Attributes
    ----------
    low, high : float, optional
        Range of a number; None for switches and lists.
    choices : tuple of str
        Values of a list, else empty.
    unit : str
        ``"dB"``, ``"ms"``; empty if the plugin does not say.
    default : float, bool or str
        Value in a plugin freshly loaded.
    """

    low: float | None
    high: float | None
    choices: tuple[str, ...]
    unit: str
    default: float | bool | str


@dataclass(frozen=True)
class PluginEntry:
    """A plugin as it was when it was tried.

    Attributes
    ----------
    name : str
        As the plugin calls itself; for one that never answered, as its file is called.
    path : str
        Of the file or bundle.
    mtime_ns, size : int
        Of the file, or of all files in the bundle: the entry holds as long as these do.
    verdict : str
        ``"ok"``, or what is wrong: ``"timed out after 20 s"``, ``"crashed (signal 11)"``.
    channels : tuple of int
        Widths it processes, of 1 and 2.
    reported_latency_samples, probed_latency_samples : int, optional
        At 48 kHz: what it says, and where the peak of an impulse comes out; None where it was not found out.
    depends_on_blocks : bool
        Whether its samples change with the length of the blocks it is handed: its own doing, which no host can undo
        without delay.
    parameters : dict of PluginParameter
        By name.
    """

    name: str
    path: str
    mtime_ns: int
    size: int
    verdict: str
    channels: tuple[int, ...] = ()
    reported_latency_samples: int | None = None
    probed_latency_samples: int | None = None
    depends_on_blocks: bool = False
    parameters: dict[str, PluginParameter] = field(default_factory=dict)

    @property
    def format(self) -> str:
        """``"VST3"`` or ``"AU"``."""
        return FORMATS[Path(self.path).suffix.lower()]

    @property
    def is_ok(self) -> bool:
        """Whether it may be hosted."""
        return self.verdict == OK

    @property
    def is_current(self) -> bool:
        """Whether the file still is what was tried."""
        return fingerprint(Path(self.path)) == (self.mtime_ns, self.size)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as `from_json` reads it."""
        return asdict(self) | {"format": self.format}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PluginEntry:
        """Make an entry of what `to_json` returned; KeyError, TypeError or ValueError for anything else."""
        parameters = {
            str(name): PluginParameter(
                _number(values["low"]),
                _number(values["high"]),
                tuple(map(str, values["choices"])),
                str(values["unit"]),
                _scalar(values["default"]),
            )
            for name, values in data["parameters"].items()
        }
        entry = cls(
            str(data["name"]),
            str(data["path"]),
            int(data["mtime_ns"]),
            int(data["size"]),
            str(data["verdict"]),
            tuple(map(int, data["channels"])),
            _whole(data["reported_latency_samples"]),
            _whole(data["probed_latency_samples"]),
            bool(data["depends_on_blocks"]),
            parameters,
        )
        _ = entry.format  # a KeyError for a file that is no plugin
        return entry


def fingerprint(path: Path) -> tuple[int, int]:
    """Modification time in ns and size of a file, or the latest and the sum of a bundle's files; (0, 0) of nothing."""
    # A bundle's own time says nothing: it stays when the binary inside is replaced.
    files = [path]
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    try:
        stats = [file.stat() for file in files]
    except OSError:
        return 0, 0
    return max((stat.st_mtime_ns for stat in stats), default=0), sum(stat.st_size for stat in stats)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _scalar(value: Any) -> float | bool | str:
    if not isinstance(value, (float, int, bool, str)):
        raise TypeError(f"default must be a number, a switch or a text, got {value!r}")
    return value
