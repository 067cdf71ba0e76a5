"""From scores to sound: a corpus of songs that anyone can rebuild from Debian packages alone.

Song number n of a corpus depends on its kind, its seed and n only. `KINDS` are the material to train on and the frozen
test set, which shares nothing with it: other seeds, another soundfont, other voices.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .amps import amplify
from .balance import gated_lufs
from .colour import colour
from .compose import STYLES, Part, Score, compose
from .midi import SOUNDFONTS, midi_file, play
from .singer import Sung
from .song import SAMPLE_RATE, Stem, load_song, save_song
from .speakers import VOICES, Voice
from .strings import play as play_model
from .voices import Bank, Singer, build_bank, sing

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Material:
    """What a corpus is made of.

    Attributes
    ----------
    soundfonts : tuple of str
        Files to draw instruments from, one of them per part.
    kits : tuple of str
        Files to draw drum kits from, one of them per song.
    heldout : bool
        Sung by the voices that are kept for the test set, or by the others.
    seed : int
    modelled : float
        Share of guitars and basses, and half that of other melody instruments, that come from physical models instead.
    sha256 : str
        `fingerprint` of the songs, where they are frozen.
    """

    soundfonts: tuple[str, ...]
    kits: tuple[str, ...]
    heldout: bool
    seed: int
    modelled: float = 0.5
    sha256: str = ""


FROZEN_SHA256 = "e76b337fe62b31eccb60225dfd2338845c49bf11dd1dd48defc1b45c2a7a19a2"
"""`fingerprint` of the 48 songs that every published score is about."""

KINDS = {
    "train": Material(
        ("sf2/FluidR3_GM.sf2", "sf2/MuseScore_General_Full.sf2", "sf2/sf_GMbank.sf2"),
        (
            "sf2/FluidR3_GM.sf2",
            "sf2/MuseScore_General_Full.sf2",
            "sf2/sf_GMbank.sf2",
            "sf2/Black_Pearl_4_LV2.sf2",
            "sf2/Red_Zeppelin_4_LV2.sf2",
        ),
        heldout=False,
        seed=1,
    ),
    "test": Material(("sf2/TimGM6mb.sf2",), ("sf2/TimGM6mb.sf2",), heldout=True, seed=90_001, sha256=FROZEN_SHA256),
}

SOUNDS = {
    "sf2/FluidR3_GM.sf2": "fluid-soundfont-gm (MIT)",
    "sf2/MuseScore_General_Full.sf2": "musescore-general-soundfont-lossless (MIT)",
    "sf2/sf_GMbank.sf2": "csound-soundfont (LGPL-2.1+)",
    "sf2/Black_Pearl_4_LV2.sf2": "avldrums.lv2-soundfont (CC-BY-SA-3.0)",
    "sf2/Red_Zeppelin_4_LV2.sf2": "avldrums.lv2-soundfont (CC-BY-SA-3.0)",
    "sf2/TimGM6mb.sf2": "timgm6mb-soundfont (GPL-2+)",
}
"""Debian package and licence of every soundfont."""

SINGLE_KIT = frozenset(["sf2/Black_Pearl_4_LV2.sf2", "sf2/Red_Zeppelin_4_LV2.sf2"])
"""Soundfonts that hold one drum kit, as an instrument."""

MODELS = {
    "guitar": ("electric",),
    "acoustic guitar": ("acoustic",),
    "bass": ("bass",),
    "strings": ("bowed",),
    "brass": ("blown",),
    "synth": ("synth",),
}
AMPED = {"guitar": 0.9, "bass": 0.5, "organ": 0.5, "keys": 0.25, "brass": 0.1, "synth": 0.1, "strings": 0.08}
AMP_KINDS = {"guitar": "guitar", "bass": "bass", "organ": "organ", "keys": "keys"}


def render(score: Score, rng: np.random.Generator, material: Material, bank: Bank) -> Iterator[tuple[Stem, Audio]]:
    """Play a score: every stem and its sound (samples,), coloured, at a reference level."""
    samples = round(score.seconds * SAMPLE_RATE)
    kit = str(rng.choice(material.kits))
    singers: dict[str, Singer] = {}
    for part in score.parts:
        amped = False
        if part.program is None:
            sound = _sung(part, score, samples, rng, bank, singers)
        elif part.drums:
            single = kit in SINGLE_KIT
            midi = midi_file(part.notes, score.tempo_bpm, program=0 if single else part.program or 0, drums=not single)
            sound = play(midi, samples, SAMPLE_RATE, soundfont=SOUNDFONTS / kit).mean(axis=0)
        else:
            sound, amped = _played(part, score, samples, rng, material)
        yield (
            Stem(part.name, part.role, part.lead, part.manner == "spoken"),
            colour(sound, part.role, SAMPLE_RATE, rng, amped=amped),
        )


def _sung(
    part: Part, score: Score, samples: int, rng: np.random.Generator, bank: Bank, singers: dict[str, Singer]
) -> Audio:
    beat_s = 60.0 / score.tempo_bpm
    notes = [Sung(n.start * beat_s, (n.start + n.length) * beat_s, n.key) for n in part.notes]
    spoken = part.manner == "spoken"
    if part.doubles in singers:
        singer = singers[part.doubles]
        detune, late_s = 0.08 * rng.standard_normal(), 0.01 + 0.02 * rng.standard_normal()
    else:
        # The part was written for a man or for a woman.
        singer = bank.singer(rng, "m" if np.mean([note.key for note in notes]) < 59.5 else "f")
        detune, late_s = 0.0, 0.0
    singers[part.name] = singer
    return sing(bank, singer, notes, samples, SAMPLE_RATE, rng, spoken=spoken, detune=detune, late_s=late_s)


def _played(part: Part, score: Score, samples: int, rng: np.random.Generator, material: Material) -> tuple[Audio, bool]:
    modelled = material.modelled * (1.0 if part.role in ("guitar", "acoustic guitar", "bass") else 0.5)
    if part.role in MODELS and rng.random() < modelled:
        kind = str(rng.choice(MODELS[part.role]))
        manner = "lead" if part.manner in ("lead", "riff") else "comp"
        sound = play_model(part.notes, score.tempo_bpm, samples, SAMPLE_RATE, rng, kind, manner=manner)
    else:
        soundfont = SOUNDFONTS / str(rng.choice(material.soundfonts))
        midi = midi_file(part.notes, score.tempo_bpm, program=part.program or 0)
        sound = play(midi, samples, SAMPLE_RATE, soundfont=soundfont).mean(axis=0)
        # General MIDI's overdriven and distorted guitars have an amp already.
        if part.role == "guitar" and part.program in (29, 30) and rng.random() < 0.6:
            return sound, True
    if rng.random() < AMPED.get(part.role, 0.0):
        return amplify(sound, SAMPLE_RATE, rng, AMP_KINDS.get(part.role, "horn")), True
    return sound, False


@cache
def bank_in(folder: Path, heldout: bool) -> Bank:
    """Return the bank of voices in a folder, opened once."""
    return Bank(folder, heldout)


def compose_song(kind: str, index: int, folder: Path, bank_folder: Path, seconds: float) -> Path:
    """Write one song of a corpus to ``folder/<index>``, unless it is there already."""
    out = folder / f"{index:05d}"
    if (out / "song.json").exists():
        return out
    material = KINDS[kind]
    rng = np.random.default_rng(np.random.SeedSequence([material.seed, index]))
    score = compose(rng, seconds, STYLES[index % len(STYLES)])
    stems, audio = zip(*render(score, rng, material, bank_in(bank_folder, material.heldout)), strict=True)
    save_song(out, score.style, stems, audio)
    return out


def build_corpus(
    kind: str, count: int, folder: Path, *, seconds: float = 40.0, workers: int = 2, first: int = 0
) -> Iterator[Path]:
    """Compose the songs ``first`` to ``first + count - 1`` of a corpus into `folder`; yields each when it is there.

    Parameters
    ----------
    kind : {"train", "test"}
    count : int
    folder : Path
        Songs that are there already are kept: an interrupted build goes on where it was. The voices' bank is in its
        parent's ``voices``.
    seconds : float
    workers, first : int

    Raises
    ------
    FileNotFoundError
        When a program, a soundfont or every voice is missing, naming the Debian package.
    """
    material = KINDS[kind]
    for font in sorted({*material.soundfonts, *material.kits}):
        if not (SOUNDFONTS / font).is_file():
            raise FileNotFoundError(f"{SOUNDFONTS / font}: expected the file of Debian's {SOUNDS[font]}, got nothing")
    bank = folder.parent / "voices"
    with ProcessPoolExecutor(workers, initializer=single_thread) as pool:
        yield from pool.map(
            compose_song,
            *zip(*((kind, index, folder, bank, seconds) for index in range(first, first + count)), strict=True),
        )


def build_voices(folder: Path, workers: int = 2) -> Iterator[str]:
    """Fill the bank of voices in `folder`; yields, voice by voice, the Debian packages it lacks, or nothing."""
    with ProcessPoolExecutor(workers, initializer=single_thread) as pool:
        for voice, lacking in zip(VOICES, pool.map(_build_voice, repeat(folder), VOICES), strict=True):
            yield voice.package if lacking else ""


def _build_voice(folder: Path, voice: Voice) -> bool:
    return bool(build_bank(folder, SAMPLE_RATE, voices=[voice]))


def single_thread() -> None:
    """Begin a worker process with one thread: the processes are the parallelism."""
    os.environ["OMP_NUM_THREADS"] = "1"


def fingerprint(folders: Sequence[Path]) -> str:
    """Digest of songs as they are on disk: names, roles, and every stem's loudness to a tenth of an LU.

    Loudness and not samples, because those differ in their last bits from one machine to the next.
    """
    digest = hashlib.sha256()
    for folder in folders:
        song = load_song(folder)
        for stem, powers in zip(song.stems, song.powers, strict=True):
            digest.update(f"{song.name} {song.style} {stem.name} {stem.role} {gated_lufs(powers):.1f}\n".encode())
    return digest.hexdigest()
