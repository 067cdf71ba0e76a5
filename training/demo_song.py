"""The bundled demo's song: a singer whom the band buries, 41 beats of G major for eight tracks.

Two bars of intro, four of verse, four of chorus and a last chord. Players come in one after another and some rest
again, because a mixer has to cope with both. Times are in beats; a bar has four.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .midi import CHORUS_SEND, PAN, Control, Note

TITLE = "Turn Me Up"
TEMPO_BPM = 126.0
LOOSE_MS = 5.0

LAST_BEAT = 40
"""Where the last chord falls."""

VERSE, CHORUS = 8, 24

KICK, SNARE, CLOSED_HAT, OPEN_HAT, CRASH, RIDE = 36, 38, 42, 46, 49, 51
TOMS = (50, 47, 43)


class Chord(NamedTuple):
    """Bass note, the keys' voicing and the acoustic guitar's strings, from low to high."""

    bass: int
    keys: tuple[int, ...]
    strings: tuple[int, ...]


G = Chord(31, (55, 59, 62, 66), (43, 47, 50, 55, 62, 67))
D = Chord(38, (54, 57, 62, 64), (50, 57, 62, 66))
D_F = Chord(30, (54, 57, 62, 64), (42, 50, 57, 62, 66))
EM = Chord(28, (55, 59, 62, 67), (40, 47, 52, 55, 62, 67))
C = Chord(36, (55, 60, 62, 64), (48, 52, 55, 62, 64))

CHANGES = (
    *((0, G), (4, D)),
    *((8, G), (12, D_F), (16, EM), (20, C), (22, D)),
    *((24, C), (28, D), (32, EM), (36, C), (38, D)),
    (LAST_BEAT, G),
)

WORDS = (
    ("under all of this sound", ((8.5, 62), (9, 62), (9.5, 64), (10.5, 62), (11, 59), (11.5, 62)), 12.25),
    ("I have lost my way", ((13, 62), (13.5, 64), (14, 66), (15, 64), (15.5, 64)), 16.75),
    ("no one ever can hear", ((17.5, 64), (18, 64), (18.5, 67), (19, 66), (19.5, 64), (20, 67)), 20.5),
    ("a single word I say", ((21, 64), (21.25, 66), (21.75, 67), (22, 69), (22.5, 67), (23, 69)), 23.7),
    ("turn me up", ((24, 71), (24.75, 69), (25.5, 67)), 27.25),
    ("turn me up", ((28, 69), (28.75, 67), (29.5, 66)), 31),
    ("bring my voice to the light", ((31.5, 64), (32, 67), (32.5, 71), (33.5, 71), (34, 69), (34.5, 67)), 35.5),
    ("and hear me sing tonight", ((36, 64), (36.5, 67), (37.25, 69), (38, 72), (39, 69), (40, 71)), 42.3),
)
"""Each phrase's words, the beat and key of each syllable, and the beat where the last one ends."""


def chord_at(beat: float) -> Chord:
    """Chord that sounds at a beat.

    >>> chord_at(13.5).bass
    30
    """
    return next(chord for start, chord in reversed(CHANGES) if start <= beat)


def kick() -> list[Note]:
    """On one and before three in the verse, busier in the chorus."""
    beats = [6, 7.5]
    beats += [bar + beat for bar in (8, 12, 16) for beat in (0, 1.5, 2.5)] + [20, 21.5]
    beats += [bar + beat for bar in (24, 28, 32) for beat in (0, 1.5, 2, 3.5)] + [36, 37.5, 38, 39.5, LAST_BEAT]
    return [Note(beat, 0.5, KICK, 122 if beat % 2 == 0 else 106) for beat in beats]


def snare() -> list[Note]:
    """Two and four, ghost notes in between, a roll into the chorus and into the end."""
    notes = [Note(beat, 0.5, SNARE, 118 if beat >= CHORUS else 108) for beat in range(9, LAST_BEAT, 2) if beat != 23]
    notes += [Note(beat, 0.25, SNARE, 38) for beat in (10.25, 11.75, 14.25, 18.25, 19.75, 26.25, 30.25, 34.25)]
    for start, first in ((7, 80), (22.5, 84), (39, 88)):
        notes += [Note(start + k / 4, 0.25, SNARE, first + 10 * k) for k in range(4)]
    return notes


def overheads() -> list[Note]:
    """Hats count in and keep time, toms fill, the ride and crashes carry the chorus."""
    notes = [Note(beat, 0.5, CLOSED_HAT, 96) for beat in range(4)]
    for half in range(8, 2 * 22):
        notes.append(Note(half / 2, 0.25, CLOSED_HAT, (114, 84)[half % 2]))
    notes += [Note(beat, 0.5, OPEN_HAT, 104) for beat in (15.5, 19.5)]
    for beat in range(CHORUS, LAST_BEAT - 1):
        notes += [Note(beat, 0.5, RIDE, 112), Note(beat + 0.5, 0.5, RIDE, 90)]
    notes += [Note(beat, 3, CRASH, 98) for beat in (VERSE, CHORUS, 32, LAST_BEAT)]
    for start in (6.5, 23, 39.25):
        notes += [Note(start + k / 4, 0.5, TOMS[k], 96 + 6 * k) for k in range(3)]
    return notes


def bass() -> list[Note]:
    """Rests in the intro, locks to the kick in the verse, runs in eighths in the chorus."""
    notes = [Note(7.5, 0.4, 30, 96)]
    for bar in range(VERSE, CHORUS, 4):
        for beat, length in ((0, 1.4), (1.5, 0.8), (2.5, 0.9), (3.5, 0.45)):
            root = chord_at(bar + beat).bass
            notes.append(Note(bar + beat, length, root + (12 if beat == 3.5 and root < 34 else 0), 104))
    for half in range(2 * CHORUS, 2 * LAST_BEAT):
        root = chord_at(half / 2).bass
        step = {6: 7, 7: 12 if root < 34 else 7}.get(half % 8, 0)
        notes.append(Note(half / 2, 0.46, root + step, 112 if half % 2 == 0 else 98))
    return [*notes, Note(LAST_BEAT, 2.2, 31, 112)]


def guitar() -> list[Note]:
    """Play a lick over the intro, nothing under the first words, muted eighths, then open power chords."""
    lick = (
        (0, 1, 67),
        (1, 0.5, 69),
        (1.5, 1.5, 71),
        (3, 0.5, 74),
        (3.5, 1, 71),
        (4.5, 1, 69),
        (5.5, 0.5, 67),
        (6, 1.8, 66),
    )
    notes = [Note(start, length, key, 104) for start, length, key in lick]
    notes += [note for half in range(32, 46) for note in _power(half / 2, 0.2, 84 if half % 2 else 96)]
    for bar in range(CHORUS, LAST_BEAT, 4):
        for beat, length in ((0, 1.45), (1.5, 0.45), (2, 0.95), (3, 0.45), (3.5, 0.45)):
            notes += _power(bar + beat, length, 112)
    return notes + _power(LAST_BEAT, 2.4, 116)


def _power(start: float, length: float, velocity: int) -> list[Note]:
    root = chord_at(start).bass + 12
    root += 12 if root < 40 else 0  # the lowest string is E2
    return [Note(start, length, root + up, velocity) for up in (0, 7, 12)]


def acoustic() -> list[Note]:
    """Strums eighths almost throughout: down on the beat through all strings, up through the high ones."""
    notes = []
    for beat in np.arange(0, LAST_BEAT, 0.5):
        if beat % 4 in (0.5, 2.0):
            continue
        down = beat % 1 == 0
        strings = chord_at(beat).strings if down else chord_at(beat).strings[:-4:-1]
        accent = 100 if beat % 4 in (0, 3) else 84
        notes += [Note(beat + 0.022 * k, 0.55, key, accent - 3 * k) for k, key in enumerate(strings)]
    return notes + [Note(LAST_BEAT + 0.03 * k, 2.6, key, 100) for k, key in enumerate(G.strings)]


def keys() -> list[Note]:
    """From the verse's second half: long chords, then off-beats in the chorus."""
    notes = []
    for start, length in ((16, 3.8), (20, 1.9), (22, 1.9)):
        notes += [Note(start + 0.01 * k, length, key, 82) for k, key in enumerate(chord_at(start).keys)]
    for bar in range(CHORUS, LAST_BEAT, 4):
        for beat, length in ((0, 1.2), (1.5, 0.4), (2.5, 0.9), (3.5, 0.4)):
            notes += [Note(bar + beat, length, key + 12 * (key < 57), 96) for key in chord_at(bar + beat).keys]
    return notes + [Note(LAST_BEAT + 0.02 * k, 2.6, key, 92) for k, key in enumerate(G.keys)]


def keys_controls() -> list[Control]:
    """Chorus, and the slow panning of a stage piano's tremolo."""
    beats = np.arange(0, LAST_BEAT + 3, 0.125)
    pans = np.round(64 + 26 * np.sin(2 * np.pi * beats / 2)).astype(int)
    return [Control(0, CHORUS_SEND, 90), *(Control(b, PAN, int(p)) for b, p in zip(beats, pans, strict=True))]


def humanise(notes: list[Note], rng: np.random.Generator, late_ms: float = 0.0) -> list[Note]:
    """Play the notes as a person does: each a little off in time and force, all a little late."""
    per_beat_ms = 60_000 / TEMPO_BPM
    played = []
    for note in notes:
        start = note.start + (late_ms + LOOSE_MS * rng.standard_normal()) / per_beat_ms
        velocity = int(np.clip(note.velocity + 4 * rng.standard_normal(), 1, 127))
        played.append(note._replace(start=max(0.0, start), velocity=velocity))
    return played
