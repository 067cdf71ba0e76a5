"""Where the files that come with the package are: `presets` beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

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
