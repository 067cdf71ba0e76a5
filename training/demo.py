"""Compose, render and spoil the bundled demo: ``python -m training.demo --out presets/demo``.

A band plays a song of 21 seconds. Its dry stems are balanced by the group budgets that mixes are judged by: the demo's
truth. A stage adds bleed, bad gain staging hides the truth, and `demo.toml` tells it.

Needs the extra ``train`` and Debian's fluidsynth, fluid-soundfont-gm and flite.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
from numpy.typing import NDArray
from pedalboard import Compressor, Distortion, HighpassFilter, LowpassFilter, PeakFilter
from rich.progress import Progress

from alm_plugin.models.roles import GROUP_BUDGET_LU, GROUPS, ROLE_GROUP, ROLE_OFFSET_LU, ROLES
from alm_plugin.nodes.chain import Chain
from alm_plugin.units import db_to_factor

from . import demo_song as song
from .midi import SOUNDFONT, Control, Note, midi_file, play
from .singer import Sung, sing
from .stage import Seat, perform

Audio = NDArray[np.float32]

SAMPLE_RATE = 44_100
SAMPLES = 21 * SAMPLE_RATE
DAMPING_S = 0.5
SONG_LUFS = -23.0
SEED = 20261121
VORBIS_QUALITY = 0.7

CREDITS = (
    "Composed and rendered by the project. Instruments: FluidR3 GM (MIT, Frank Wen and others) through FluidSynth. "
    "Voice: synthesised by the project from words spoken by flite's voice slt (Carnegie Mellon University, free)."
)


@dataclass(frozen=True)
class Player:
    """What a player plays, on what, where, and how wrong the channel's gain is set.

    Attributes
    ----------
    role : str
    seat : Seat
    disturbance_db : float
    part : callable or None
        Gives the notes; None sings.
    program : int
        General MIDI program, or kit.
    late_ms : float
        Behind the beat.
    controls : callable or None
        Gives the controller moves, and switches FluidSynth's chorus on.
    stereo : bool
    board : Chain or None
        Amplifier and cabinet, or what a sound engineer would not go without.
    """

    role: str
    seat: Seat
    disturbance_db: float
    part: Callable[[], list[Note]] | None = None
    program: int = 0
    late_ms: float = 0.0
    controls: Callable[[], list[Control]] | None = None
    stereo: bool = False
    board: Chain | None = None


AMPLIFIER = Chain(
    [
        HighpassFilter(110),
        PeakFilter(900, 5, 0.8),
        Distortion(12),
        HighpassFilter(90),
        PeakFilter(2400, 4, 1.0),
        LowpassFilter(4500),
        LowpassFilter(5200),
    ]
)
PREAMP = Chain([HighpassFilter(100), Compressor(-24, 3.0, 5.0, 120.0)])

# Metres: x from stage right, y from the front edge, z up. The kit is at the back, the singer in front of it. Levels on
# stage are such that drums reach the front microphones 17 to 25 dB, and each other's 7 to 15 dB, under their sources.
BAND = {
    "vocals": Player("vocals", Seat((4.5, 1.5, 1.60), ((4.5, 1.44, 1.58),), 4.0), -11.0, board=PREAMP),
    "guitar": Player(
        "guitar", Seat((7.0, 3.6, 0.6), ((7.0, 3.5, 0.6),), 17.0), 10.0, song.guitar, 27, late_ms=4, board=AMPLIFIER
    ),
    "acoustic": Player("acoustic guitar", Seat((2.0, 1.6, 1.0), ((2.0, 1.48, 1.0),), 18.0), -7.0, song.acoustic, 25),
    "keys": Player(
        "keys", Seat((1.6, 3.4, 0.8), (), 8.0), 4.0, song.keys, 4, late_ms=6, controls=song.keys_controls, stereo=True
    ),
    "bass": Player("bass", Seat((2.8, 4.8, 0.5), (), 12.0), 5.0, song.bass, 33, late_ms=3),
    "kick": Player("kick", Seat((4.5, 4.6, 0.4), ((4.5, 4.45, 0.4),), 19.0), 7.0, song.kick),
    "snare": Player("snare", Seat((4.9, 5.0, 0.7), ((4.95, 4.95, 0.78),), 22.0), -5.0, song.snare, late_ms=5),
    "overheads": Player(
        "overheads",
        Seat((4.5, 5.1, 1.2), ((4.1, 5.1, 1.6), (4.9, 5.1, 1.6)), 27.0),
        6.0,
        song.overheads,
        stereo=True,
    ),
}


def compose(seed: int, soundfont: Path) -> Iterator[tuple[str, Audio]]:
    """Each player's name and dry stem, (1 or 2, `SAMPLES`), at no particular level."""
    for name, player in BAND.items():
        # A stream for each: a change in one part leaves the others as they are.
        rng = np.random.default_rng([seed, *name.encode()])
        if player.part is None:
            stem = _vocals(rng)
        else:
            midi = midi_file(
                song.humanise(player.part(), rng, player.late_ms),
                song.TEMPO_BPM,
                program=player.program,
                drums=_group(player.role) == "drums",
                controls=player.controls() if player.controls else (),
            )
            stem = play(midi, SAMPLES, SAMPLE_RATE, soundfont=soundfont, chorus=player.controls is not None)
            stem = stem if player.stereo else stem.mean(axis=0, keepdims=True)
        if player.board is not None:
            stem = player.board(stem / np.abs(stem).max(), SAMPLE_RATE)
        yield name, stem * _damping()


def _damping() -> Audio:
    """Fade of what still rings at the end."""
    return np.clip(np.arange(SAMPLES, 0, -1) / (DAMPING_S * SAMPLE_RATE), 0, 1).astype(np.float32)


def _vocals(rng: np.random.Generator) -> Audio:
    beat_s = 60 / song.TEMPO_BPM
    track = np.zeros(SAMPLES)
    for words, syllables, end in song.WORDS:
        # A second before the first vowel: room for its consonants and a breath.
        begin = round((syllables[0][0] * beat_s - 1) * SAMPLE_RATE)
        bounds = np.array([*(beat for beat, _ in syllables), end]) * beat_s - begin / SAMPLE_RATE
        notes = [Sung(a, b, key) for a, b, (_, key) in zip(bounds, bounds[1:], syllables, strict=False)]
        samples = min(round((bounds[-1] + 0.6) * SAMPLE_RATE), SAMPLES - begin)
        track[begin : begin + samples] += sing(words, notes, samples, SAMPLE_RATE, rng)
    return track[None].astype(np.float32)


def balance(stems: Mapping[str, Audio]) -> dict[str, Audio]:
    """Bring the stems to their levels in the true mix, which has `SONG_LUFS`.

    A member's loudness in its group is its role's offset; a group's is its budget, that of the members' sum because
    loudness does not add up when players alternate.
    """
    balanced: dict[str, Audio] = {}
    for group, budget in GROUP_BUDGET_LU.items():
        members = {name: stem for name, stem in stems.items() if _group(BAND[name].role) == group}
        if not members:
            continue
        for name, stem in members.items():
            members[name] = _at_loudness(stem, [stem], float(ROLE_OFFSET_LU[ROLES.index(BAND[name].role)]))
        together = list(members.values())
        balanced |= {name: _at_loudness(stem, together, budget) for name, stem in members.items()}
    everyone = list(balanced.values())
    return {name: _at_loudness(balanced[name], everyone, SONG_LUFS) for name in stems}


def _group(role: str) -> str:
    return GROUPS[ROLE_GROUP[ROLES.index(role)]]


def _at_loudness(stem: Audio, heard: list[Audio], lufs: float) -> Audio:
    """Give the stem the gain that brings the sum of what is `heard` to a loudness."""
    return stem * np.float32(db_to_factor(lufs - loudness(heard)))


def loudness(stems: list[Audio]) -> float:
    """Gated integrated loudness of the stereo sum in LUFS; mono goes to both sides, as in a mix."""
    mix = np.zeros((2, stems[0].shape[1]))
    for stem in stems:
        mix += stem
    return float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(mix.T))


def spoil(stems: Mapping[str, Audio]) -> dict[str, Audio]:
    """Put the stems on stage, and set every gain wrong by its player's disturbance: what arrives at the desk."""
    recorded = perform(list(stems.values()), [BAND[name].seat for name in stems], SAMPLE_RATE)
    return {
        name: audio * np.float32(db_to_factor(BAND[name].disturbance_db))
        for name, audio in zip(stems, recorded, strict=True)
    }


def write_ogg(path: Path, audio: Audio) -> None:
    """Write Ogg Vorbis, a second at a time because libsndfile's encoder wants its blocks on the stack."""
    with soundfile.SoundFile(
        path, "w", SAMPLE_RATE, len(audio), format="OGG", subtype="VORBIS", compression_level=1 - VORBIS_QUALITY
    ) as file:
        for start in range(0, audio.shape[1], SAMPLE_RATE):
            file.write(audio[:, start : start + SAMPLE_RATE].T)


def description(seed: int) -> str:
    """Text of `demo.toml`."""
    lines = [
        "# Written by `python -m training.demo`. The sum of the files, each with its true_gain_db, is the true mix and",
        "# what the microphones heard of the others.",
        f"title = {json.dumps(song.TITLE)}",
        f"tempo_bpm = {song.TEMPO_BPM}",
        f"seed = {seed}",
        f"sample_rate = {SAMPLE_RATE}",
        f"song_lufs = {SONG_LUFS}",
        'licence = "GPL-3.0-or-later"',
        f"credits = {json.dumps(CREDITS)}",
    ]
    for name, player in BAND.items():
        lines += ["", f"[tracks.{name}]", f"role = {json.dumps(player.role)}"]
        lines += [f"true_gain_db = {-player.disturbance_db}", f"disturbance_db = {player.disturbance_db}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rebuild the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("presets/demo"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        build(arguments.out, arguments.seed, arguments.soundfont)
    except FileNotFoundError as error:
        parser.exit(1, f"{error}\n")


def build(out: Path, seed: int, soundfont: Path) -> None:
    """Write the tracks and `demo.toml` to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with Progress() as bar:
        task = bar.add_task("playing", total=2 * len(BAND) + 1)
        stems = {}
        for name, stem in compose(seed, soundfont):
            stems[name] = stem
            bar.advance(task)
        bar.update(task, description="on stage")
        desk = spoil(balance(stems))
        bar.update(task, description="writing", advance=1)
        for name, audio in desk.items():
            write_ogg(out / f"{name}.ogg", audio)
            bar.advance(task)
    (out / "demo.toml").write_text(description(seed), encoding="utf-8")


if __name__ == "__main__":
    main()
