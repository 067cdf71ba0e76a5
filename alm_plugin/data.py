"""Files: where those are that come with the package, and how new ones are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """Temporary name beside `path`, which takes its place when all went well and is gone when not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".part{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
