"""Sessions: a folder with all there is to set on a mixer, from which it comes back and makes the same samples.

``session.json`` has everything but gain curves, which lie beside it as CSV: ``automation-*.csv`` those that the saved
stream played with, ``automation-in-*.csv`` those that were given to the mixer. They are named by their content, and
``session.json`` names them: it is replaced last and in one step, so that the folder always holds a whole session.

A session starts nothing that the user has not: plugins come from explicit lists or from the registry of those that
have been tried, models must ship or be given by the user and have the session's sha256, and nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alm_plugin import fields, session_format
from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AlmError, AudioFileError, ModelError, ParameterError
from alm_plugin.export.automation import RANGE_DB, read_csv, write_csv
from alm_plugin.mixer import Mixer
from alm_plugin.models.contract import Model
from alm_plugin.models.registry import NETWORKS, RULES, load_model
from alm_plugin.stream import Automation

FILE = "session.json"
MAX_BYTES = 64_000_000
"""Of ``session.json``: states of plugins are in it."""

MAX_CSV_BYTES = 256_000_000
"""64 channels for an hour are 50 MB."""


class AudioTrack(Protocol):
    """What a session says of a channel's audio; `alm_plugin.render.Track` is one."""

    @property
    def name(self) -> str:
        """Channel."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """One file, or left and right."""
        ...

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...

    @property
    def frames(self) -> int:
        """Samples per side."""
        ...


@dataclass(frozen=True)
class SessionFile:
    """An audio file as it was when the session was saved."""

    channel: str
    path: Path
    size: int
    sha256: str
    sample_rate: int
    samples: int


@dataclass(frozen=True)
class Session:
    """What `load_session` returns.

    Attributes
    ----------
    mixer : Mixer
        At the start of a new stream.
    automation : Automation or None
        The gains that the stream had played with when it was saved. As the mixer's `automation_in` they are played
        again, whatever the model says.
    files : tuple of SessionFile
        The audio that was mixed, if the session says; see `check_files`.
    sample_rate, bits : int or None
        Of the file that was mixed to.
    """

    mixer: Mixer
    automation: Automation | None
    files: tuple[SessionFile, ...]
    sample_rate: int | None
    bits: int | None

    def check_files(self) -> list[Path]:
        """Paths of the audio, after a look whether all of it is still there and the same.

        Raises
        ------
        AudioFileError
            Naming the first file that is not, and what was expected.
        """
        for file in self.files:
            what = f"{file.samples} samples at {file.sample_rate} Hz, {file.size} bytes, as channel {file.channel!r}"
            if not file.path.is_file():
                raise AudioFileError(f"{file.path}: expected {what}, got nothing there")
            size = file.path.stat().st_size
            if size != file.size:
                raise AudioFileError(f"{file.path}: expected {what}, got {size} bytes")
            if (digest := _digest(file.path)) != file.sha256:
                raise AudioFileError(
                    f"{file.path}: expected {what}, with sha256 {file.sha256[:12]}, got other audio, {digest[:12]}"
                )
        return [file.path for file in self.files]


# ---- saving ----------------------------------------------------------------------------------------------------------


def check_saveable(mixer: Mixer) -> None:
    """Raise `ParameterError` for what a session cannot hold, by channel and plugin."""
    session_format.check("session", session_format.describe(mixer))


def save_session(
    mixer: Mixer,
    folder: str | Path,
    tracks: Iterable[AudioTrack] = (),
    sample_rate: int | None = None,
    bits: int | None = None,
) -> None:
    """Write a session.

    Parameters
    ----------
    mixer : Mixer
    folder : str or Path
        Made if it is not there; other files in it are left alone.
    tracks : list of Track
        The audio that was mixed: paths relative to the folder, lengths and sha256 are kept.
    sample_rate, bits : int, optional
        Of the file that was mixed to.

    Raises
    ------
    ParameterError, AudioFileError
        As `Mixer.save`; the folder is then as it was.
    """
    folder = Path(folder)
    path = folder / FILE
    table = session_format.describe(mixer)
    if sample_rate is not None:
        table["render"] = {"sample_rate": sample_rate, "bits": bits}
    table["tracks"] = [_describe_track(track, folder) for track in tracks]
    session_format.check(str(path), table)
    before = {old.name for old in folder.iterdir()} if folder.is_dir() else None
    try:
        folder.mkdir(exist_ok=True)
        table["automation_in"] = _write_curves(mixer.automation_in, folder, "automation-in")
        table["automation"] = _write_curves(_audible(mixer.automation), folder, "automation")
        with staged(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump(table, file, indent=1, allow_nan=False)
            _flush(file)
    except BaseException as error:
        with suppress(OSError):
            _remove_curves(folder, before or set())
            if before is None:
                folder.rmdir()
        if isinstance(error, OSError):
            raise AudioFileError(f"{folder}: expected a folder to write to, got {reason_of(error)}") from None
        raise
    with suppress(OSError):
        _remove_curves(folder, {table["automation_in"], table["automation"]})


def _remove_curves(folder: Path, kept: Collection[str | None]) -> None:
    for path in folder.iterdir():
        if session_format.CSV.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def _describe_track(track: AudioTrack, folder: Path) -> dict[str, Any]:
    files = []
    for path in track.paths:
        try:
            files.append({"path": _relative(path, folder), "size": path.stat().st_size, "sha256": _digest(path)})
        except OSError as error:
            raise AudioFileError(f"{path}: expected a track of the session, got {reason_of(error)}") from None
    return {"channel": track.name, "sample_rate": track.sample_rate, "samples": track.frames, "files": files}


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()


def _audible(automation: Automation) -> Automation | None:
    """Curves of a stream as CSV takes them: what is under -120 dB is silence."""
    if not automation.times_s.size:
        return None
    floor = RANGE_DB[0]
    curves = {name: np.where(curve < floor, np.float32(-np.inf), curve) for name, curve in automation.gains_db.items()}
    return Automation(automation.times_s, curves)


def _write_curves(automation: Automation | None, folder: Path, stem: str) -> str | None:
    if automation is None or not automation.times_s.size:
        return None
    with tempfile.TemporaryDirectory(prefix=".alm-", dir=folder) as temporary:
        path = Path(temporary, f"{stem}.csv")
        write_csv(automation, path)
        # Curves may come from anywhere: what CSV does not bring back is not saved.
        try:
            is_same, got = _are_equal(automation, read_csv(path)), "others"
        except AudioFileError as error:
            is_same, got = False, str(error).removeprefix(f"{path}: ")
        if not is_same:
            raise ParameterError(
                f"{stem}: expected curves that are the same after a way through CSV (microseconds, float32), got {got}"
            )
        data = path.read_bytes()
        with path.open("ab") as file:
            _flush(file)
        name = f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.csv"
        path.replace(folder / name)
    return name


def _are_equal(first: Automation, second: Automation) -> bool:
    return (
        first.gains_db.keys() == second.gains_db.keys()
        and np.allclose(first.times_s, second.times_s, rtol=0.0, atol=1e-6)
        and all(np.array_equal(curve, second.gains_db[name], equal_nan=True) for name, curve in first.gains_db.items())
    )


def _flush(file: Any) -> None:
    """Have a file on disk before its name is: else a power cut may leave the name of nothing."""
    file.flush()
    os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_session(folder: str | Path, model: str | Path | Model | None = None) -> Session:
    """Read a session, all of it or nothing.

    Parameters
    ----------
    folder : str or Path
    model : str, Path or Model, optional
        See `Mixer.load`.

    Returns
    -------
    Session

    Raises
    ------
    ParameterError, AudioFileError, ModelError
        With one line: file, field, expectation, value.

    Examples
    --------
    >>> load_session("nowhere")
    Traceback (most recent call last):
        ...
    alm_plugin.errors.ParameterError: nowhere/session.json: expected a session, got nothing there
    """
    folder = Path(folder)
    path = folder / FILE
    where = path.as_posix()
    table = session_format.check(where, _read(path, where))
    curves = {name: _read_curves(where, folder, name, table[name]) for name in ("automation_in", "automation")}
    chosen = _model(f"{where}: model", table["model"], model)
    faders = session_format.build_faders(where, table)
    try:
        mixer = Mixer(
            model=chosen,
            channels=table["channels"],
            strength=table["strength"],
            ceiling_db=table["ceiling_db"],
            zero_latency=table["zero_latency"],
            automation=curves["automation_in"],
            **faders,
        )
    except AlmError as error:
        raise type(error)(f"{where}: {error}") from None
    mixer.freeze = table["freeze"]
    files = tuple(
        SessionFile(
            track["channel"],
            Path(os.path.normpath(folder / file["path"])),
            file["size"],
            file["sha256"],
            track["sample_rate"],
            track["samples"],
        )
        for track in table["tracks"]
        for file in track["files"]
    )
    render = table["render"] or {"sample_rate": None, "bits": None}
    return Session(mixer, curves["automation"], files, render["sample_rate"], render["bits"])


def _read(path: Path, where: str) -> dict[str, Any]:
    text = fields.read_text(where, path, "a session", MAX_BYTES)
    try:
        return fields.table(where, json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant))
    except json.JSONDecodeError as error:
        raise ParameterError(f"{where}: line {error.lineno}: expected JSON, got: {error.msg}") from None
    except RecursionError:
        raise ParameterError(f"{where}: expected JSON, got endless nesting") from None
    except ParameterError as error:
        raise error if str(error).startswith(where) else ParameterError(f"{where}: {error}") from None
    except ValueError:
        raise ParameterError(f"{where}: expected JSON, got an endless number") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ParameterError(f"expected every field once, got {fields.shown(twice)} twice")
    return table


def _refuse_constant(name: str) -> None:
    raise ParameterError(f"expected JSON, got the number {name}")


def _read_curves(where: str, folder: Path, field: str, name: str | None) -> Automation | None:
    if name is None:
        return None
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise ParameterError(f"{where}: {field} must be a file in this folder, got {name}, which is not")
    if path.stat().st_size > MAX_CSV_BYTES:
        raise ParameterError(f"{where}: {field} must have at most {MAX_CSV_BYTES / 1e6:g} MB, got more in {name}")
    return read_csv(path)


def _model(where: str, saved: dict[str, str], given: str | Path | Model | None) -> str | Path | Model:
    """Return what `load_model` is to be given."""
    if given is None and "file" in saved:
        raise ModelError(
            f"{where} is the file {saved['file']}, which does not ship: give its path, "
            f"Mixer.load(folder, model=PATH) or --model PATH; its sha256 must be {saved['sha256']}"
        )
    if given is None:
        ours = load_model(saved["name"]).metadata.sha256
        if ours != saved.get("sha256", ""):
            raise ModelError(
                f"{where}.sha256 must be that of the {saved['name']} that ships here, {ours[:12]}, got "
                f"{saved.get('sha256', 'none')[:12]}; --model {saved['name']} uses this one all the same"
            )
        return saved["name"]
    if not isinstance(given, (str, Path)) or str(given) in (*RULES, *NETWORKS):
        return given
    # Data, and the same data: read before anything is made of it.
    path = Path(given)
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{where} must be given as a .safetensors file, got {given}")
    try:
        digest = _digest(path)
    except OSError as error:
        raise ModelError(f"{given}: expected the model of the session, got {reason_of(error)}") from None
    expected = saved.get("sha256", "none")
    if digest != expected:
        raise ModelError(f"{given}: expected the session's model, with sha256 {expected[:12]}, got {digest[:12]}")
    return path
