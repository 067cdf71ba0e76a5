"""Files: where those are that come with the package, and how new ones are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alm_plugin.errors import AudioFileError


def presets_dir() -> Path:
    """Folder with ``bands``, ``demo`` and ``models``.

    Raises
    ------
    FileNotFoundError
        When the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "presets", package.parent / "presets"):
        if (folder / "demo").is_dir():
            return folder
    raise FileNotFoundError(f"presets not found in or beside {package}: expected presets/demo, got neither")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Temporary name beside `path`, which takes its place when all went well and is gone when not.

    Raises
    ------
    AudioFileError
        When nothing can be written there.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=".alm-", suffix=f".part{path.suffix}", dir=path.parent)
    except OSError as error:
        raise AudioFileError(f"{path}: expected a place to write to, got {reason_of(error)}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        try:
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except OSError as error:
            raise AudioFileError(f"{path}: expected to write it, got {reason_of(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def reason_of(error: Exception) -> str:
    """Say what an error says last, in a few words: the file is named elsewhere."""
    text = getattr(error, "strerror", None) or str(error).rsplit(": ", 1)[-1]
    return text.strip().rstrip(".").lower() or type(error).__name__
