"""What goes over the wire between a page and the owner of the sound.

A page sends ``{"name": ..., "strip": ..., "value": ...}`` and nothing else. It is sent, each as one JSON text:

- ``{"type": "hello", "about": ...}``: `Owner.describe`, on connecting and whenever it changes;
- ``{"type": "state", "heard": n, "state": ...}``: `Owner.state`, taken after the first n messages of this page took
  effect, so that a page knows from when on its own wish is part of the truth, or has been overruled;
- ``{"type": "error", "text": ...}``: one line on what was wrong with a message of this page;
- ``{"type": "full", "text": ...}``: so many pages are open that this one is not served.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from alm_plugin.errors import ParameterError


class Owner(Protocol):
    """Who owns the sound.

    All three are called in the server's thread, many times per second: they must be safe there, and return at once.
    """

    def describe(self) -> dict[str, Any]:
        """Say what stays: names, ranges; with ``strips``, a list, where commands are for one strip."""
        ...

    def state(self) -> dict[str, Any]:
        """Say what is. A setting that `command` took is part of the next state, even if its sound comes later."""
        ...

    def command(self, name: str, strip: int | None, value: bool | float | None) -> None:
        """Do what a page asks, or raise `ParameterError`."""
        ...


@dataclass(frozen=True)
class Command:
    """What a page may ask by one name: a switch, or a number within `range`.

    Parameters
    ----------
    strip : bool
        Whether it is for one strip.
    range : (float, float), optional
        Least and most of a number, both allowed; None for a switch (true or false).
    nullable : bool
        Whether null is a value too.
    """

    strip: bool = False
    range: tuple[float, float] | None = None
    nullable: bool = False

    def __post_init__(self) -> None:
        if self.range is not None and not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise ParameterError(f"range must be two rising finite numbers, got {self.range!r}")

    def check(self, name: str, value: Any) -> bool | float | None:
        """Return `value` if it may be asked for, else raise `ParameterError`."""
        if value is None and self.nullable:
            return None
        if self.range is None:
            if isinstance(value, bool):
                return value
            expected = "true or false"
        else:
            low, high = self.range
            # NaN is in no range; a whole number may be too large for a float, so it is compared first.
            if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
                return float(value)
            expected = f"a number in [{low:g}, {high:g}]"
        raise ParameterError(f"{name} must be {expected}{' or null' * self.nullable}, got {_shown(value)}")


@dataclass(frozen=True)
class App:
    """What `alm_plugin.web.server.Page` serves: a page among the static assets, who answers it, what it may ask."""

    index: str
    owner: Owner
    commands: Mapping[str, Command]


def read(text: str, commands: Mapping[str, Command], strips: int) -> tuple[str, int | None, bool | float | None]:
    """Read a page's message.

    Parameters
    ----------
    text : str
        What came, whatever it is.
    commands : mapping
        What may come, by name.
    strips : int
        How many there are.

    Returns
    -------
    (str, int or None, bool or float or None)
        Name, strip and value, as `Owner.command` takes them.

    Raises
    ------
    ParameterError
        For anything else.

    Examples
    --------
    >>> read('{"name": "mute", "strip": 2, "value": true}', {"mute": Command(strip=True)}, 8)
    ('mute', 2, True)
    >>> read('{"name": "mute", "strip": 9, "value": true}', {"mute": Command(strip=True)}, 8)
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: strip must be in [0, 7], got 9
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):  # so deep only on purpose
        raise ParameterError(f"message must be JSON, got {_shown(text)}") from None
    if not isinstance(message, dict) or message.keys() != {"name", "strip", "value"}:
        raise ParameterError(f"message must hold name, strip and value, got {_shown(message)}")
    name, strip = message["name"], message["strip"]
    if not isinstance(name, str) or name not in commands:
        raise ParameterError(f"name must be one of {', '.join(commands)}, got {_shown(name)}")
    command = commands[name]
    if not command.strip:
        if strip is not None:
            raise ParameterError(f"strip must be null for {name}, got {_shown(strip)}")
    elif not isinstance(strip, int) or isinstance(strip, bool) or not 0 <= strip < strips:
        raise ParameterError(f"strip must be in [0, {strips - 1}], got {_shown(strip)}")
    return name, strip, command.check(name, message["value"])


def encode(value: Any) -> str:
    """Make JSON of what an owner says, with thousandths: what is not finite becomes null.

    >>> encode({"input_db": float("-inf"), "gain_db": -3.14159})
    '{"input_db":null,"gain_db":-3.142}'
    """
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
