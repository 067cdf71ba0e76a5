"""What several tests share."""

import os

# Before torch is imported: networks this small only lose by a second thread, on a busy machine a hundredfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def zam() -> Path:
    """Folder of Debian's zam-plugins (VST3)."""
    folder = Path("/usr/lib/vst3")
    if not (folder / "ZamCompX2.vst3").exists():
        pytest.skip("Debian's zam-plugins are not installed")
    return folder
