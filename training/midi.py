"""Notes to sound: Standard MIDI Files and the FluidSynth command line."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

TICKS_PER_BEAT = 480
DRUM_CHANNEL = 9
SOUNDFONTS = Path("/usr/share/sounds")
"""Where Debian's packages put soundfonts."""
SOUNDFONT = SOUNDFONTS / "sf2/FluidR3_GM.sf2"

CHORUS_SEND = 93
PAN = 10


class Note(NamedTuple):
    """One note; start and length in beats, key and velocity as in MIDI."""

    start: float
    length: float
    key: int
    velocity: int


class Control(NamedTuple):
    """One controller move; start in beats."""

    start: float
    controller: int
    value: int


def midi_file(
    notes: Iterable[Note],
    tempo_bpm: float,
    *,
    program: int = 0,
    drums: bool = False,
    controls: Sequence[Control] = (),
) -> bytes:
    """Bytes of a Standard MIDI File (format 0) with one instrument.

    Parameters
    ----------
    notes : iterable of Note
    tempo_bpm : float
    program : int
        General MIDI program, from 0; with `drums` the number of the kit.
    drums : bool
        Channel 10 instead of channel 1.
    controls : sequence of Control

    >>> midi_file([Note(0, 1, 60, 100)], 120)[:4]
    b'MThd'
    """
    channel = DRUM_CHANNEL if drums else 0
    # Sorted by kind within a tick: a note that ends where its key is struck again must end first.
    events = [(0, 0, bytes([0xC0 | channel, program]))]
    events += [(_ticks(c.start), 1, bytes([0xB0 | channel, c.controller, c.value])) for c in controls]
    for note in notes:
        start = _ticks(note.start)
        end = max(start + 1, _ticks(note.start + note.length))
        events.append((end, 2, bytes([0x80 | channel, note.key, 0])))
        events.append((start, 3, bytes([0x90 | channel, note.key, note.velocity])))
    track = b"\x00\xff\x51\x03" + round(60e6 / tempo_bpm).to_bytes(3, "big")
    now = 0
    for at, _, message in sorted(events):
        track += _variable_length(at - now) + message
        now = at
    track += b"\x00\xff\x2f\x00"
    header = (0).to_bytes(2, "big") + (1).to_bytes(2, "big") + TICKS_PER_BEAT.to_bytes(2, "big")
    return b"MThd" + (6).to_bytes(4, "big") + header + b"MTrk" + len(track).to_bytes(4, "big") + track


def _ticks(beats: float) -> int:
    return max(0, round(beats * TICKS_PER_BEAT))


def _variable_length(value: int) -> bytes:
    """Seven bits a byte, most significant first; all but the last have the eighth bit set."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))


def play(
    midi: bytes, samples: int, sample_rate: int, *, soundfont: Path = SOUNDFONT, chorus: bool = False
) -> NDArray[np.float32]:
    """Sound of a MIDI file, (2, samples), without reverb.

    Raises
    ------
    FileNotFoundError
        When FluidSynth or the soundfont is missing.
    """
    if not soundfont.exists():
        raise FileNotFoundError(
            f"{soundfont}: expected a General MIDI soundfont (Debian: fluid-soundfont-gm), got nothing"
        )
    with tempfile.TemporaryDirectory() as folder:
        song, sound = Path(folder, "song.mid"), Path(folder, "song.wav")
        song.write_bytes(midi)
        # Loading only the samples that are played takes a quarter of the time.
        settings = "-o synth.cpu-cores=1 -o synth.dynamic-sample-loading=1"
        options = f"-ni -q -r {sample_rate} -g 0.5 -R 0 -C {int(chorus)} {settings} -O float -T wav".split()
        command = [find_program("fluidsynth"), *options, "-F", str(sound), str(soundfont), str(song)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        audio = np.asarray(soundfile.read(sound, always_2d=True)[0].T, np.float32)
    audio = audio[:, :samples]
    return np.pad(audio, ((0, 0), (0, samples - audio.shape[1])))


def find_program(name: str) -> str:
    """Path of a command line program.

    Raises
    ------
    FileNotFoundError
        When it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name}: expected the program of Debian's package {name}, got nothing on PATH")
    return found
