"""Songs for training: dry mono stems with what they play, kept on disk, and where they come from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .balance import hop_powers

Audio = NDArray[np.float32]

SAMPLE_RATE = 24_000
"""Of all training material: the loudness of hats and sibilants needs more than 16 kHz, nothing needs more than this."""


@dataclass(frozen=True)
class Stem:
    """What one stem is.

    Attributes
    ----------
    name, role : str
    lead : bool
        Plays the melody: takes the vocal's budget in a song that nobody sings.
    spoken : bool
        Speech, not singing.
    """

    name: str
    role: str
    lead: bool = False
    spoken: bool = False


@dataclass(frozen=True)
class Song:
    """A song's dry stems.

    Attributes
    ----------
    name, style : str
    stems : tuple of Stem
    audio : (C, samples) float16
        At `SAMPLE_RATE`, mapped from disk.
    powers : (C, hops)
        `training.balance.hop_powers` of each stem.
    """

    name: str
    style: str
    stems: tuple[Stem, ...]
    audio: NDArray[np.float16]
    powers: NDArray[np.float64]


def save_song(folder: Path, style: str, stems: Sequence[Stem], audio: Sequence[Audio]) -> None:
    """Write a song as the folder `folder`, as a whole or not at all. Silent stems are left out."""
    kept = [(stem, track) for stem, track in zip(stems, audio, strict=True) if np.abs(track).max(initial=0.0) > 1e-3]
    tracks = np.stack([track for _, track in kept])
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    np.save(staged / "audio.npy", tracks.astype(np.float16))
    np.save(staged / "powers.npy", np.stack([hop_powers(track, SAMPLE_RATE) for track in tracks]))
    description = {"style": style, "stems": [asdict(stem) for stem, _ in kept]}
    (staged / "song.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def load_song(folder: Path) -> Song:
    """Open a song that `save_song` wrote."""
    told = json.loads((folder / "song.json").read_text(encoding="utf-8"))
    stems = tuple(Stem(**stem) for stem in told["stems"])
    audio = np.load(folder / "audio.npy", mmap_mode="r", allow_pickle=False)
    powers = np.load(folder / "powers.npy", allow_pickle=False)
    return Song(folder.name, told["style"], stems, audio, powers)


def songs_in(folder: Path) -> list[Path]:
    """Folders of the songs in a corpus, in the order of their names."""
    return sorted(path.parent for path in folder.glob("*/song.json") if not path.parent.name.startswith("."))
