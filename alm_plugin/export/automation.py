"""Gain curves as CSV: ``time_s,<channel>,...``, one row per model frame, dB."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AudioFileError
from alm_plugin.stream import Automation

RANGE_DB = (-120.0, 60.0)


def write_csv(automation: Automation, path: str | Path) -> None:
    """Write curves; each number has the digits that bring back the same float32. An absent channel's cell is empty."""
    path = Path(path)
    try:
        with staged(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["time_s", *automation.gains_db])
            for row, time_s in enumerate(automation.times_s):
                gains = (curve[row] for curve in automation.gains_db.values())
                writer.writerow([f"{time_s:.6f}", *("" if np.isnan(gain) else str(gain) for gain in gains)])
    except OSError as error:
        raise AudioFileError(f"{path}: expected to write it whole, got {reason_of(error)}") from None


def read_csv(path: str | Path) -> Automation:
    """Read curves back, edited or not.

    Times must rise but need not lie on the model's frames: a gain holds until the next row. An empty cell leaves that
    moment to the model, ``-inf`` is silence.

    Raises
    ------
    AudioFileError
        Naming line and column of what does not fit.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "something else"
        raise AudioFileError(f"{path}: expected a CSV file of gain curves, got {reason}") from None
    while rows and not any(rows[-1]):
        rows.pop()
    header = rows[0] if rows else []
    names = header[1:]
    if not names or header[0] != "time_s" or len(set(names)) != len(names) or "" in names:
        raise AudioFileError(
            f"{path}: expected a header time_s,<channel>,... without repeats, got {','.join(header)!r}"
        )
    if len(rows) < 2:
        raise AudioFileError(f"{path}: expected at least one row of gains, got none")
    values = np.full((len(rows) - 1, len(header)), np.nan)
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(header):
            raise AudioFileError(f"{path}: line {number} must have {len(header)} cells, got {len(cells)}")
        for column, cell in enumerate(cells):
            values[number - 2, column] = _number(cell, header[column], number, path)
    times = values[:, 0]
    falling = np.flatnonzero(np.diff(times) <= 0)
    if falling.size:
        raise AudioFileError(f"{path}: line {falling[0] + 3}: time_s must rise, got {times[falling[0] + 1]:g}")
    return Automation(times, {name: values[:, i].astype(np.float32) for i, name in enumerate(header) if i})


def _number(cell: str, column: str, line: int, path: Path) -> float:
    text = cell.strip()
    if not text and column != "time_s":
        return np.nan
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if column == "time_s":
        if math.isfinite(value) and value >= 0.0:
            return value
        raise AudioFileError(f"{path}: line {line}: time_s must be a number of seconds >= 0, got {cell!r}")
    if value == -np.inf or RANGE_DB[0] <= value <= RANGE_DB[1]:
        return value
    raise AudioFileError(
        f"{path}: line {line}: {column} must be a gain in [{RANGE_DB[0]:g}, {RANGE_DB[1]:g}] dB or -inf, got {cell!r}"
    )
