"""Fields of files that people write: what does not fit is one line with file, field, expectation and value.

``where`` is file and field, as in ``live.toml: strip.kick.trim_db``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from alm_plugin.data import reason_of
from alm_plugin.errors import ParameterError

Limits = Mapping[str, tuple[float, float] | tuple[str, ...]]
"""By parameter: the least and the most of a number, or the choices."""


def read_text(where: str, path: Path, what: str, most_bytes: int) -> str:
    """Text of a file, which may begin with a byte order mark."""
    if not path.is_file():
        raise ParameterError(f"{where}: expected {what}, got {'a folder' if path.is_dir() else 'nothing there'}")
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise ParameterError(f"{where}: expected {what}, got {reason_of(error)}") from None
    if len(data) > most_bytes:
        raise ParameterError(f"{where}: expected {what} of at most {most_bytes / 1e6:g} MB, got more")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ParameterError(f"{where}: line {line}: expected UTF-8 text, got other bytes") from None


def table(where: str, value: object, expected: str = "a table") -> dict[str, Any]:
    """Return a table."""
    if not isinstance(value, dict):
        wrong(where, expected, value)
    return value


def whole_table(where: str, value: object, names: Collection[str]) -> dict[str, Any]:
    """Return a table that has exactly these fields."""
    found = table(where, value)
    for name in found:
        one_of(f"{where}.{key(name)}", name, names)
    for name in names:
        if name not in found:
            raise ParameterError(f"{where} must have a field {name}, got none")
    return found


def one_of(where: str, name: str, known: Collection[str], what: str = "field") -> None:
    """Refuse a name, which `where` says already, that is not known."""
    if name not in known:
        raise ParameterError(f"{where} must be one of {', '.join(known) or 'nothing'}, got an unknown {what}")


def number(where: str, value: Any, expected: str = "a number") -> float:
    """Return a number, which may be infinite."""
    # TOML's integers have 64 bits; Python would read one of any length.
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if not is_whole and (not isinstance(value, float) or math.isnan(value)):
        wrong(where, expected, value)
    return float(value)


def within(where: str, value: object, low: float, high: float) -> float:
    """Return a number in a range, both ends allowed."""
    if not low <= (given := number(where, value)) <= high:
        raise ParameterError(f"{where} must be in [{low:g}, {high:g}], got {shown(value)}")
    return given


def whole(where: str, value: object, low: int, high: int) -> None:
    """Refuse what is not a whole number in a range."""
    if type(value) is not int or not low <= value <= high:
        wrong(where, f"a whole number in [{low}, {high}]", value)


def line(where: str, value: object) -> str:
    """Return a text that can be shown."""
    if not isinstance(value, str) or not value or not value.isprintable():
        wrong(where, "one line of text", value)
    return value


def limited(where: str, value: object, limits: tuple[float, float] | tuple[str, ...]) -> None:
    """Refuse a value of a plugin's parameter outside its range or choices."""
    low, high = limits[0], limits[-1]
    if isinstance(low, str) or isinstance(high, str):
        if value not in limits:
            wrong(where, f"one of {', '.join(map(str, limits))}", value)
    else:
        within(where, value, low, high)


def put(where: str, node: object, name: str, value: Any) -> Any:
    """Set an attribute, and return what the node makes of it; its own words say what is wrong."""
    try:
        setattr(node, name, value)
    except ParameterError as error:
        raise ParameterError(f"{where}.{error}") from None
    return getattr(node, name)


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Make one line that says where of anything that a plugin raises."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split("Invoked with")[0].split()) or type(error).__name__
        raise ParameterError(reason if reason.startswith(where) else f"{where}: {reason}") from None


def wrong(where: str, expected: str, value: object) -> NoReturn:
    """Refuse a value."""
    raise ParameterError(f"{where} must be {expected}, got {shown(value)}")


def key(name: str) -> str:
    """Key of a table as it is written in TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else shown(name)


def shown(value: object) -> str:
    """Say a value nearly as TOML does, in one short line."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    except (ValueError, RecursionError):  # such a number somewhere inside, or deep nesting
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
