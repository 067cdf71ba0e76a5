"""Songs out of nothing: bands, forms and players drawn at random, as training material for the mixer.

`compose` draws a style from the table, a tempo, a key and a form, hires a band, and lets every player decide where to
play and what. Nothing here sounds: the notes go to a synthesiser and to a singer. Bars are divided into steps, 16 in
4/4 and 12 in 3/4 and 6/8 (whose beat is the eighth); rhythms are strings with one character per step:
`X` accent, `x` normal, `o` ghost, `-` nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np

from .midi import Note
from .styles import (
    CYMBALS,
    ENERGY,
    FILLS,
    FORMS,
    GROOVES,
    HATS,
    INSTRUMENTS,
    KEYS,
    KICKS,
    MODES,
    PERCUSSION,
    PRESENCE,
    RHYTHMS,
    SIXES,
    SNARES,
    STYLES,
    TABLE,
    TOMS,
    VELOCITY,
    WALTZES,
    WEIGHT,
    Instrument,
    Style,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """What one player plays.

    Parameters
    ----------
    name : str
        Unique in the song.
    role : str
        One of `alm_plugin.models.roles.ROLES`.
    notes : tuple of Note
        Humanised, sorted by start.
    program : int, optional
        General MIDI program from 0, or kit; None for a voice.
    drums : bool
        The keys are those of General MIDI's percussion channel.
    lead : bool
        Plays the melody.
    manner : str
        lead, comp, strum, pick, power, pad, riff, hits, bass, kit, sung or spoken.
    doubles : str, optional
        Name of the part of which this one is a second take.
    """

    name: str
    role: str
    notes: tuple[Note, ...]
    program: int | None = None
    drums: bool = False
    lead: bool = False
    manner: str = "comp"
    doubles: str | None = None


@dataclass(frozen=True)
class Score:
    """A song; notes count in beats of `tempo_bpm`."""

    style: str
    tempo_bpm: float
    beats_per_bar: int
    seconds: float
    parts: tuple[Part, ...]


class Section(NamedTuple):
    """A stretch of the form; bars count from 0."""

    kind: str
    bar: int
    bars: int


class Chord(NamedTuple):
    """Pitch classes from the root up."""

    tones: tuple[int, ...]

    @property
    def root(self) -> int:
        """Pitch class that names the chord."""
        return self.tones[0]


@dataclass(frozen=True)
class Song:
    """What all players of a song share."""

    style: Style
    tempo_bpm: float
    beats_per_bar: int
    scale: tuple[int, ...]
    sections: tuple[Section, ...]
    chords: tuple[Chord, ...]  # two a bar
    swing: float
    seconds: float

    @property
    def steps(self) -> int:
        """Steps of a bar."""
        return 16 if self.beats_per_bar == 4 else 12

    @property
    def step(self) -> float:
        """Beats of a step."""
        return self.beats_per_bar / self.steps

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return self.step * 60 / self.tempo_bpm

    def chord(self, beat: float) -> Chord:
        """Chord at a beat."""
        half = int(beat / (self.beats_per_bar / 2) + 1e-6)
        return self.chords[min(max(half, 0), len(self.chords) - 1)]

    def swung(self, beat: float) -> float:
        """Move a beat of straight time to where the band feels it."""
        if self.swing == 0.5 or self.beats_per_bar == 6:
            return beat
        period = self.style.swing_beats
        whole, part = divmod(beat / period, 1.0)
        bent = part * self.swing * 2 if part < 0.5 else self.swing + (part - 0.5) * (1 - self.swing) * 2
        return (whole + bent) * period


@dataclass
class Player:
    """One musician: what is played, how, and the ideas that come back whenever a section does."""

    rng: np.random.Generator
    role: str
    manner: str
    low: int
    high: int
    presence: str
    program: int | None = None
    rhythm: str = ""
    drums: bool = False
    lead: bool = False
    follows: Player | None = None
    gate: float = 0.9
    ideas: dict[Hashable, object] = field(default_factory=dict)

    def idea(self, what: Hashable, make: Callable[[], T]) -> T:
        """Remember what `make` made, by name."""
        if what not in self.ideas:
            self.ideas[what] = make()
        return self.ideas[what]  # pyright: ignore[reportReturnType]

    def pattern(self, song: Song, section: Section) -> str:
        """Rhythm of a bar of this section."""
        return self.idea(section.kind, lambda: pick(self.rng, RHYTHMS[self.rhythm][song.beats_per_bar]))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options; `Generator.choice` is slow and turns them into NumPy's types."""
    return options[int(rng.integers(len(options)))]


# -------------------------------------------------------------------------------------------------- small generators
# Each makes the notes of one player in one section, in straight time, with velocities around 100.


def hits(pattern: str) -> list[tuple[int, int, str]]:
    """Step, steps to the next hit, and kind of every hit of a bar."""
    places = [i for i, kind in enumerate(pattern) if kind != "-"]
    return [(at, after - at, pattern[at]) for at, after in zip(places, [*places[1:], len(pattern)], strict=True)]


def near(pitch_class: int, key: int) -> int:
    """Key of a pitch class that lies nearest to `key`."""
    return key + (pitch_class - key + 6) % 12 - 6


def voicing(chord: Chord, low: int, high: int, centre: int) -> list[int]:
    """Every tone once, as close to `centre` as the range allows."""
    centre = min(max(centre, low + 6), high - 6)
    return sorted({near(tone, centre) for tone in chord.tones})


def strings(chord: Chord, low: int) -> list[int]:
    """Grip of a guitarist: the root on a low string, then wide to high."""
    grip = [low + (chord.root - low) % 12]
    for key in range(grip[0] + 5, grip[0] + 27):
        if key % 12 in chord.tones and key - grip[-1] >= 3 and len(grip) < 6:
            grip.append(key)
    return grip


def bar_hits(song: Song, player: Player, section: Section) -> Iterable[tuple[float, float, int, Chord]]:
    """Start and length in beats, velocity and chord of every hit of the player's rhythm."""
    found = hits(player.pattern(song, section))
    for bar in range(section.bar, section.bar + section.bars):
        for at, steps, kind in found:
            beat = bar * song.beats_per_bar + at * song.step
            yield beat, steps * song.step, VELOCITY[kind], song.chord(beat)


def comp(song: Song, player: Player, section: Section) -> list[Note]:
    """Chords in a rhythm: keys, clipped guitars, stabs."""
    centre = player.idea("centre", lambda: int(player.rng.integers(58, 68)))
    return [
        Note(beat, length * player.gate, key, velocity)
        for beat, length, velocity, chord in bar_hits(song, player, section)
        for key in voicing(chord, player.low, player.high, centre)
    ]


def strum(song: Song, player: Player, section: Section) -> list[Note]:
    """Down through all strings on the beat, up through the high ones off it, a few milliseconds apart."""
    spread = player.idea("spread", lambda: player.rng.uniform(0.005, 0.016) * song.tempo_bpm / 60)
    notes = []
    for beat, length, velocity, chord in bar_hits(song, player, section):
        grip = strings(chord, player.low)
        down = (beat / song.step) % 4 < 0.5 or velocity >= VELOCITY["X"]
        touched = grip if down else grip[:-4:-1]
        notes += [Note(beat + spread * k, length, key, velocity - 3 * k) for k, key in enumerate(touched)]
    return notes


def arpeggio(song: Song, player: Player, section: Section) -> list[Note]:
    """Broken chords; the contour comes back with every chord."""
    guitar = "guitar" in player.role
    order = player.idea("order", lambda: [int(k) for k in player.rng.permutation(6)])
    centre = player.idea("centre", lambda: int(player.rng.integers(60, 72)))
    notes = []
    for count, (beat, length, velocity, chord) in enumerate(bar_hits(song, player, section)):
        tones = strings(chord, player.low) if guitar else voicing(chord, player.low, player.high, centre)
        key = tones[0] if count % 8 == 0 else tones[order[count % 6] % len(tones)]
        notes.append(Note(beat, length * (2.5 if guitar else player.gate), key, velocity))
    return notes


def power(song: Song, player: Player, section: Section) -> list[Note]:
    """Fifths that ring; ghosts are palm-muted low strings."""
    notes = []
    for beat, length, velocity, chord in bar_hits(song, player, section):
        root = player.low + (chord.root - player.low) % 12
        muted = velocity == VELOCITY["o"]
        grip = (0,) if muted else (0, 7, 12)
        notes += [Note(beat, 0.4 * length if muted else 0.95 * length, root + up, velocity + 20 * muted) for up in grip]
    return notes


def pad(song: Song, player: Player, section: Section) -> list[Note]:
    """Chords held until the next."""
    centre = player.idea("centre", lambda: int(player.rng.integers(57, 70)))
    half = song.beats_per_bar / 2
    notes, start, end = [], section.bar * song.beats_per_bar, (section.bar + section.bars) * song.beats_per_bar
    while start < end:
        stop = start + half
        while stop < end and song.chord(stop) == song.chord(start) and stop - start < 4 * half:
            stop += half
        keys = voicing(song.chord(start), player.low, player.high, centre)
        keys = keys[-1:] if player.gate < 0.7 else keys  # some pads are one voice
        notes += [Note(start, (stop - start) * 0.98, key, 96) for key in keys]
        start = stop
    return notes


def riff(song: Song, player: Player, section: Section) -> list[Note]:
    """Repeat a figure of one or two bars that moves with the chords."""
    rng = player.rng

    def figure() -> list[tuple[int, int, int]]:
        out, at, total, place = [], 0, song.steps * int(rng.integers(1, 3)), 0
        while at < total:
            steps = pick(rng, (1, 2, 2, 2, 3, 4, 6))
            steps = max(steps, 2) if song.step_seconds < 0.1 else steps
            if rng.random() > 0.22 or at == 0:
                out.append((at, min(steps, total - at), place))
            place = int(np.clip(place + rng.integers(-2, 3), -3, 6))
            at += steps
        return [(total, 0, 0), *out]

    (total, _, _), *moves = player.idea(("riff", section.kind in ("chorus", "solo")), figure)
    centre = player.idea("home", lambda: int(rng.integers(player.low + 4, max(player.low + 5, player.high - 20))))
    ladder = [key for key in range(player.low, player.high + 1) if key % 12 in song.scale]
    notes = []
    for start in range(section.bar * song.steps, (section.bar + section.bars) * song.steps, total):
        for at, steps, place in moves:
            beat = (start + at) * song.step
            if start + at >= (section.bar + section.bars) * song.steps:
                break
            home = int(np.searchsorted(ladder, near(song.chord(beat).root, centre)))
            key = ladder[min(max(home + place, 0), len(ladder) - 1)]
            notes.append(Note(beat, steps * song.step * player.gate, key, 108 if at % 4 == 0 else 94))
    return notes


def section_hits(song: Song, player: Player, section: Section) -> list[Note]:
    """Stabs every other bar, and now and then a chord that swells."""
    centre = player.idea("centre", lambda: int(player.rng.integers(player.low + 8, player.high - 7)))
    held = player.idea(("held", section.kind), lambda: player.rng.random() < 0.3)
    every = player.idea(("every", section.kind), lambda: pick(player.rng, (1, 1, 2)))
    notes = []
    for beat, length, velocity, chord in bar_hits(song, player, section):
        if (int(beat / song.beats_per_bar + 1e-6) - section.bar) % every:
            continue
        length = length if held else min(length, 3 * song.step)
        notes += [Note(beat, 0.9 * length, k, velocity) for k in voicing(chord, player.low, player.high, centre)]
    return notes


def bass(song: Song, player: Player, section: Section) -> list[Note]:
    """Low notes in the manner that `player.rhythm` names."""
    rng, manner, steps = player.rng, player.rhythm, song.steps
    beat_steps = 4 if song.beats_per_bar < 6 else 2
    half = steps // 2
    slap = player.idea("slap", lambda: "X" + "".join(pick(rng, "x--o--x") for _ in range(steps - 1)))
    rhythm = {
        "roots": "X" + "-" * (half - 1) + ("x" + "-" * (half - 1) if song.beats_per_bar == 4 else "-" * half),
        "eighths": "X-x-" * (steps // 4),
        "kick": ("X-----x-x-------" if steps == 16 else "X-----x-x---")[:steps],
        "walk": ("X" + "-" * (beat_steps - 1)) * (steps // beat_steps),
        "octave": "X-x-" * (steps // 4),
        "offbeat": "--X-" * (steps // 4),
        "slap": slap,
        "sustain": "X" + "-" * (steps - 1),
        "two": "X" + "-" * (half - 1) + "x" + "-" * (half - 1),
        "dub": player.idea("dub", lambda: pick(rng, ("X--x--x-----x-x-", "----X-x-x---x---", "X-----x-X-x-----")))[
            :steps
        ],
        "tumbao": "------X-----x---"[-steps:],
    }[manner]
    notes = []
    for count, bar in enumerate(range(section.bar, section.bar + section.bars)):
        for at, length, kind in hits(rhythm):
            beat = bar * song.beats_per_bar + at * song.step
            chord = song.chord(beat)
            root = player.low + (chord.root - player.low) % 12
            key = root
            if manner == "octave" and at % 4 == 2:
                key = root + 12
            elif manner in ("two", "dub", "tumbao") and at:
                key = (
                    player.low + (pick(rng, chord.tones[:3] if manner == "dub" else chord.tones[2:3]) - player.low) % 12
                )
            elif manner == "walk" and at:
                coming = song.chord((bar + 1) * song.beats_per_bar)
                last = at + length >= steps
                tone = (coming.root + pick(rng, (-1, 1, 2))) % 12 if last else pick(rng, (*chord.tones, *song.scale))
                key = near(tone, notes[-1].key)
            elif manner == "slap" and kind != "X":
                key = root + pick(rng, (0, 0, 7, 10, 12, 12))
            elif manner == "kick" and at + length >= steps and count % 4 == 3:
                key = root + 7
            key = key - 12 if key > player.high else key + 12 if key < player.low else key
            gate = {"slap": 0.6, "walk": 0.92, "sustain": 0.98}.get(manner, player.gate)
            notes.append(Note(beat, length * song.step * gate, key, VELOCITY[kind] + 10))
    return notes


def kit(song: Song, player: Player, section: Section) -> list[Note]:
    """Groove that sections vary, a crash where one begins and a fill where it ends."""
    rng = player.rng
    names = {3: WALTZES, 6: SIXES}.get(song.beats_per_bar, song.style.grooves)
    groove = player.idea("groove", lambda: pick(rng, names))
    loud = section.kind in ("chorus", "solo")
    name = player.idea(("groove", section.kind), lambda: pick(rng, names) if rng.random() < 0.3 else groove)
    swap = player.idea(("swap", section.kind), lambda: pick(rng, "RROCH") if loud else pick(rng, "HHHHHHPF"))
    lines = [(swap if letter == "H" else letter, line) for letter, line in parse(GROOVES[name])]
    extra = player.idea(("extra", section.kind), lambda: int(rng.integers(song.steps)))
    notes = []
    last = section.bar + section.bars - 1
    fill = parse(pick(rng, FILLS)) if rng.random() < 0.75 and section.bars > 1 else []
    for bar in range(section.bar, last + 1):
        filled = bar == last and bool(fill)
        for letter, line in lines:
            for at, _, kind in hits(line):
                if filled and at >= song.steps - 12 and letter != "K":
                    continue
                notes.append(stroke(song, bar, at, letter, VELOCITY[kind]))
        if not filled and bar % 2:
            notes.append(stroke(song, bar, extra, "K", VELOCITY["x"]))
        if filled:
            first = song.steps - 12
            for letter, line in fill:
                found = hits(line[:12])
                notes += [stroke(song, bar, first + at, letter, VELOCITY[kind] + at) for at, _, kind in found]
    if section.kind != "break" and rng.random() < (0.9 if loud else 0.5):
        notes.append(stroke(song, section.bar, 0, "C", 112))
    return notes


def percussion(song: Song, player: Player, section: Section) -> list[Note]:
    """Shakers, tambourines, congas: one pattern throughout."""
    lines = player.idea("lines", lambda: parse(pick(player.rng, PERCUSSION)))
    return [
        stroke(song, bar, at, letter, VELOCITY[kind])
        for bar in range(section.bar, section.bar + section.bars)
        for letter, line in lines
        for at, _, kind in hits(line[: song.steps])
    ]


def stroke(song: Song, bar: int, at: int, letter: str, velocity: int) -> Note:
    """One hit of a drum."""
    key = KEYS[letter] if letter in KEYS else int(letter)
    return Note(bar * song.beats_per_bar + at * song.step, 2.0 if key in CYMBALS else 0.25, key, velocity)


@cache
def parse(groove: str) -> list[tuple[str, str]]:
    """Letter and line of every drum of a groove."""
    return [(line.split()[0], line.split()[1]) for line in groove.split("/")]


def melody(song: Song, player: Player, section: Section) -> list[Note]:
    """Phrases with breaths between; the rhythm and contour of a phrase come back, its tones follow the chords."""
    rng = player.rng
    bars = 2 if song.beats_per_bar * 60 / song.tempo_bpm < 3.0 else 1
    steps = bars * song.steps
    ladder = [key for key in range(player.low, player.high + 1) if key % 12 in song.scale]
    middle = len(ladder) // 2 + (2 if section.kind in ("chorus", "solo") else -1)

    def phrase() -> list[tuple[int, int, int]]:
        instrument = player.manner == "lead"
        shortest = max(1, int(np.ceil((0.1 if instrument else 0.15) / song.step_seconds)))
        at, end = pick(rng, (0, 0, 0, 2, 2, 4)), steps - max(pick(rng, (2, 3, 4, 6)), round(0.3 / song.step_seconds))
        out, lengths = [], pick(rng, ((2, 2, 3, 4), (1, 2, 2, 4), (2, 4, 4, 6), (3, 3, 4, 6, 8), (1, 1, 2, 2)))
        while at < end:
            length = min(max(pick(rng, lengths), shortest), end - at)
            length = end - at if end - at - length < shortest + 1 else length
            out.append((at, length, pick(rng, (-2, -1, -1, 0, 0, 1, 1, 2, 3))))
            at += length
        return out

    # A phrase that a section cuts short still ends in a breath.
    place, notes = middle, []
    stop = (section.bar + section.bars) * song.steps - round(0.3 / song.step_seconds)
    for count, start in enumerate(range(section.bar * song.steps, stop, steps)):
        for at, length, move in player.idea((section.kind, count % 2), phrase):
            if start + at >= stop - 1:
                break
            drift = (place < middle - 4) - (place > middle + 4)
            place = min(max(place + move + drift, 0), len(ladder) - 1)
            beat = (start + at) * song.step
            key = ladder[place]
            if at % 4 == 0 or length >= 4:
                key = min(
                    (k for k in ladder if k % 12 in song.chord(beat).tones), key=lambda k: abs(k - key), default=key
                )
            length = min(length, stop - start - at)
            notes.append(Note(beat, 0.95 * length * song.step, key, 106 if at % 8 == 0 else 96))
    return notes


def speech(song: Song, player: Player, section: Section) -> list[Note]:
    """Dense syllables around one pitch, a breath at the end of every bar or two."""
    rng, base = player.rng, (player.low + player.high) // 2
    size = max(1, round(0.17 / song.step_seconds))

    def line() -> list[tuple[int, int, int]]:
        out, at, end = (
            [],
            pick(rng, (0, 0, 1, 2)),
            song.steps - max(pick(rng, (1, 2, 2, 4)), round(0.25 / song.step_seconds)),
        )
        while at < end:
            length = min(size * pick(rng, (1, 1, 1, 1, 1, 2)), end - at)
            if rng.random() < 0.95:
                out.append((at, length, pick(rng, (-1, 0, 0, 0, 0, 1, 2))))
            at += length
        return out

    notes = []
    for bar in range(section.bar, section.bar + section.bars):
        for at, length, move in player.idea((section.kind, bar % 4), line):
            beat = bar * song.beats_per_bar + at * song.step
            notes.append(Note(beat, 0.85 * length * song.step, base + move, 108 if at % 4 == 0 else 94))
    return notes


def harmony(song: Song, player: Player, section: Section, lead: Sequence[Note]) -> list[Note]:
    """Second voice: in parallel to the lead, or long vowels where it rests or by choice."""
    parallel = player.idea(("parallel", section.kind), lambda: player.rng.random() < 0.65)
    if lead and parallel:
        up = player.idea("up", lambda: pick(player.rng, (2, 2, -2, -3, 4)))
        ladder = [key for key in range(24, 108) if key % 12 in song.scale]
        moved = []
        for note in lead:
            key = ladder[int(np.searchsorted(ladder, note.key)) + up]
            moved.append(note._replace(key=into(key, player.low, player.high), velocity=note.velocity - 6))
        return moved
    tone = player.idea("tone", lambda: int(player.rng.integers(3)))
    middle, bar_beats = (player.low + player.high) // 2, song.beats_per_bar
    starts = [bar * bar_beats for bar in range(section.bar, section.bar + section.bars)]
    keys = [into(near(song.chord(s).tones[tone], middle), player.low, player.high) for s in starts]
    return [Note(s, 0.85 * bar_beats, key, 90) for s, key in zip(starts, keys, strict=True)]


def into(key: int, low: int, high: int) -> int:
    """Shift a key by octaves into a range."""
    while key > high:
        key -= 12
    while key < low:
        key += 12
    return key


GENERATORS: dict[str, Callable[[Song, Player, Section], list[Note]]] = {
    "comp": comp,
    "strum": strum,
    "pick": arpeggio,
    "power": power,
    "pad": pad,
    "riff": riff,
    "hits": section_hits,
    "bass": bass,
    "kit": kit,
    "lead": melody,
    "sung": melody,
    "spoken": speech,
    "percussion": percussion,
}
MONOPHONIC = {"lead", "bass", "riff", "sung", "spoken"}


# ---------------------------------------------------------------------------------------------------------- the song


def compose(rng: np.random.Generator, seconds: float = 40.0, style: str | None = None) -> Score:
    """Compose a song.

    Parameters
    ----------
    rng : numpy.random.Generator
        Decides everything that the other parameters leave open.
    seconds : float
        Length, 8 or more; no note starts later.
    style : str, optional
        One of `STYLES`; drawn by default.

    Raises
    ------
    ValueError
        When `style` is unknown.
    """
    style = pick(rng, STYLES) if style is None else style
    if style not in TABLE:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    song = draw_song(rng, TABLE[style], seconds)
    band = hire(rng, song)
    plans = arrange(rng, song, band)
    parts: list[Part] = []
    names: dict[int, str] = {}
    played: dict[int, dict[Section, list[Note]]] = {}
    for player, plan in zip(band, plans, strict=True):
        source = played.get(id(player.follows))
        sheet = {section: perform(song, player, section, source) for section in plan}
        rest = [section for section in song.sections if section not in sheet]
        while rest and covered(song, [note for notes in sheet.values() for note in notes]) < 0.2:
            section = max(rest, key=lambda s: (bool(source and s in source), s.bars))
            rest.remove(section)
            sheet[section] = perform(song, player, section, source)
        played[id(player)] = sheet
        notes = humanise(song, player, sheet)
        for part in split_kit(rng, song, player, notes) if player.manner == "kit" else [as_part(player, notes)]:
            name = unique(part.role, [p.name for p in parts])
            double = player.follows is not None and player.follows.role == player.role
            parts.append(replace(part, name=name, doubles=names[id(player.follows)] if double else None))
            names[id(player)] = name
    return Score(style, song.tempo_bpm, song.beats_per_bar, seconds, tuple(parts))


def draw_song(rng: np.random.Generator, style: Style, seconds: float) -> Song:
    """Tempo, metre, key, form and chords."""
    beats_per_bar = pick(rng, style.metres)
    tempo = rng.uniform(*style.tempo)
    tempo = rng.uniform(140, 230) if beats_per_bar == 6 else tempo
    tempo = round(tempo, 1)
    bars = max(2, int(np.ceil(seconds * tempo / 60 / beats_per_bar)))
    mode, tonic = pick(rng, style.modes), int(rng.integers(12))
    scale = tuple((tonic + step) % 12 for step in MODES[mode])
    sections = draw_form(rng, bars)
    progressions = style.minor if mode in ("minor", "dorian") else style.major
    pace = pick(rng, style.pace)
    changes: dict[str, list[Chord]] = {}
    chords: list[Chord] = []
    for section in sections:
        if section.kind not in changes:
            degrees = pick(rng, progressions).split()
            changes[section.kind] = [draw_chord(rng, degree, scale, style.sevenths) for degree in degrees]
        cycle = changes[section.kind]
        chords += [cycle[int(half / 2 * pace) % len(cycle)] for half in range(2 * section.bars)]
    return Song(style, tempo, beats_per_bar, scale, sections, tuple(chords), rng.uniform(*style.swing), seconds)


def draw_form(rng: np.random.Generator, bars: int) -> tuple[Section, ...]:
    """Sections that fill so many bars; an excerpt may begin in the middle of a song."""
    forms = [form for form in FORMS if len(form) <= max(4, bars // 2)]
    kinds = pick(rng, forms)[:bars]
    weights = np.array([WEIGHT[kind] for kind in kinds]) * rng.uniform(0.8, 1.25, len(kinds))
    edges = np.round(np.cumsum(weights) / weights.sum() * bars).astype(int)
    # Short songs have sections of at least a bar; long ones change every other bar.
    edges = 2 * (edges // 2) if bars >= 4 * len(kinds) else np.maximum(edges, np.arange(1, len(kinds) + 1))
    starts = [0, *(int(edge) for edge in edges[:-1])]
    ends = [*starts[1:], bars]
    return tuple(Section(k, a, b - a) for k, a, b in zip(kinds, starts, ends, strict=True) if b > a)


def draw_chord(rng: np.random.Generator, degree: str, scale: Sequence[int], sevenths: float) -> Chord:
    """Chord on a degree of the scale, as "5" or "5d"."""
    at = int(degree[0]) - 1
    if degree.endswith("d"):
        return Chord(tuple((scale[at] + up) % 12 for up in (0, 4, 7, 10)))
    tones = 4 if rng.random() < sevenths else 3
    return Chord(tuple(scale[(at + 2 * k) % 7] for k in range(tones)))


def hire(rng: np.random.Generator, song: Song) -> list[Player]:
    """Draw the band: singers first, because others follow them."""
    style = song.style
    sung = rng.random() < style.odds.sung
    band = singers(rng, song) if sung else [soloist(rng, song, "lead")]
    if sung and rng.random() < style.odds.solo:
        band.append(soloist(rng, song, "solo"))
    if rng.random() < 0.9:
        band.append(new_player(rng, Instrument("drums", style.kits, 27, 87), "kit", "kit", drums=True))
    if rng.random() < style.odds.percussion:
        band.append(new_player(rng, Instrument("percussion", style.kits, 27, 87), "percussion", "band", drums=True))
    if rng.random() < 0.95:
        band.append(new_player(rng, INSTRUMENTS[pick(rng, style.bass_kinds)], "bass", "bass", pick(rng, style.bass)))
    size = rng.uniform(0.5, 1.35)
    seats = [seat for seat in style.seats if rng.random() < seat.chance * size]
    spare = [seat for seat in style.seats if seat not in seats]
    while len(band) + len(seats) < 3 and spare:
        seats.append(spare.pop(0))
    for seat in seats:
        presence = "hits" if seat.manner == "hits" else "band"
        rhythm = seat.rhythm or (seat.manner if seat.manner in RHYTHMS else "comp")
        player = new_player(rng, INSTRUMENTS[seat.instrument], seat.manner, presence, rhythm)
        band.append(player)
        if "guitar" in player.role and seat.manner in ("power", "strum", "riff") and rng.random() < style.odds.doubling:
            band.append(new_player(rng, INSTRUMENTS[seat.instrument], seat.manner, presence, rhythm, follows=player))
    return band[:12]  # a split kit has five channels


def singers(rng: np.random.Generator, song: Song) -> list[Player]:
    """One to three voices: a lead, then a second lead, a second take or harmonies."""
    manner = "spoken" if rng.random() < song.style.odds.spoken else "sung"
    first = new_player(rng, voice(rng), manner, "voice", lead=True)
    band = [first]
    for _ in range(pick(rng, (0, 0, 1, 1, 2))):
        kind = rng.random()
        if kind < 0.2 and not any(player.follows and player.role == "vocals" for player in band):
            same = Instrument("vocals", (), first.low, first.high)
            band.append(new_player(rng, same, manner, "voice", follows=first, lead=True))
        elif kind < 0.35:
            band.append(new_player(rng, voice(rng), "sung", "second voice", lead=True))
        else:
            harmonist = voice(rng)._replace(role="backing vocals")
            band.append(new_player(rng, harmonist, "sung", "backing", follows=first))
    return band


def voice(rng: np.random.Generator) -> Instrument:
    """Range of a singer."""
    low, high = (48, 57) if rng.random() < 0.5 else (57, 65)
    base = int(rng.integers(low, high))
    return Instrument("vocals", (), base, base + int(rng.integers(10, 13)))


def soloist(rng: np.random.Generator, song: Song, presence: str) -> Player:
    """Instrument for the melody, or for solos beside a singer."""
    # Beside a singer it is mostly the style's own: a lead guitar in rock, which a mixer must not take for a voice.
    own = presence == "solo" and rng.random() < 0.8
    instrument = INSTRUMENTS[song.style.leads[0] if own else pick(rng, song.style.leads)]
    middle = (instrument.low + instrument.high) // 2
    instrument = instrument._replace(low=max(instrument.low, middle - 14), high=min(instrument.high, middle + 12))
    return new_player(rng, instrument, "lead", presence, lead=presence == "lead")


def new_player(
    rng: np.random.Generator,
    instrument: Instrument,
    manner: str,
    presence: str,
    rhythm: str = "",
    *,
    drums: bool = False,
    lead: bool = False,
    follows: Player | None = None,
) -> Player:
    """Player with an own stream of random numbers, so that one player's whim changes nobody else."""
    program = pick(rng, instrument.programs) if instrument.programs else None
    return Player(
        np.random.default_rng(int(rng.integers(2**63))),
        *(instrument.role, manner, instrument.low, instrument.high, presence, program, rhythm, drums, lead, follows),
        gate=rng.uniform(0.5, 1.0),
    )


def arrange(rng: np.random.Generator, song: Song, band: Sequence[Player]) -> list[list[Section]]:
    """Who plays in which section: late entries, rests, early ends, and never nobody."""
    plans: list[list[Section]] = []
    for player in band:
        chance = PRESENCE[player.presence]
        plan = [section for section in song.sections if rng.random() < chance[section.kind]]
        fate = rng.random()
        if fate < 0.16 and player.presence != "voice":
            plan = [section for section in plan if section.bar >= song.sections[-1].bar / 3]
        elif fate > 0.9:
            plan = [section for section in plan if section.bar <= song.sections[-1].bar * 0.6]
        if player.follows is not None and player.role == player.follows.role:
            # A second take is there where the first is, sometimes in the choruses only.
            first = plans[next(i for i, other in enumerate(band) if other is player.follows)]
            plan = [section for section in first if fate < 0.6 or section.kind in ("chorus", "solo")]
        plans.append(plan or [max(song.sections, key=lambda section: (chance[section.kind], section.bars))])
    for section in song.sections:
        idle = [
            i for i, plan in enumerate(plans) if section not in plan and band[i].presence in ("band", "bass", "lead")
        ]
        while sum(section in plan for plan in plans) < 2 and idle:
            plans[idle.pop(int(rng.integers(len(idle))))].append(section)
    return plans


def perform(
    song: Song, player: Player, section: Section, source: dict[Section, list[Note]] | None = None
) -> list[Note]:
    """Let one player play one section, in straight time."""
    if player.follows is not None and player.role == player.follows.role:
        if source and section in source:
            return source[section]
        return perform(song, player.follows, section)
    if player.role == "backing vocals":
        spoken = player.follows is not None and player.follows.manner == "spoken"
        return harmony(song, player, section, [] if spoken or not source else source.get(section, []))
    return GENERATORS[player.manner](song, player, section)


def covered(song: Song, notes: Sequence[Note]) -> float:
    """Share of the song's seconds in which something sounds."""
    beat = 60 / song.tempo_bpm
    busy = np.zeros(int(np.ceil(song.seconds)) + 1, bool)
    for note in notes:
        busy[int(note.start * beat) : int((note.start + note.length) * beat) + 1] = True
    return float(busy[:-1].mean())


def humanise(song: Song, player: Player, sheet: dict[Section, list[Note]]) -> tuple[Note, ...]:
    """Play as a person does: loose, early or late, with accents and dynamics, within what the instrument can."""
    rng, beats = player.rng, song.tempo_bpm / 60
    late, loose = rng.normal(0, 0.007), rng.uniform(0.002, 0.013)
    mean, expression, dynamics = rng.uniform(55, 118), rng.uniform(0.5, 1.1), rng.uniform(0.3, 1.2)
    if "vocals" in player.role:
        late, loose = late + 0.01, loose + 0.01
    played = []
    # Notes struck together lean together: a chord is one movement of a hand.
    for section, notes in sorted(sheet.items(), key=lambda item: item[0].bar):
        level = mean - 98 + 98 * (1 - expression) + dynamics * ENERGY[section.kind]
        shift, last = 0.0, -1.0
        offsets, noises = rng.standard_normal(len(notes)), rng.standard_normal((2, len(notes)))
        for note, offset, tiny, force in zip(sorted(notes), offsets, *noises, strict=True):
            shift = (late + loose * offset) if note.start != last else shift
            last = note.start
            start = max(0.0, float(song.swung(note.start) + (shift + 0.0015 * tiny) * beats))
            end = max(float(song.swung(note.start + note.length) + shift * beats), start + 0.03)
            velocity = int(np.clip(round(level + expression * note.velocity + 3.5 * force), 1, 127))
            key = into(note.key, player.low, player.high)
            if start / beats < song.seconds:
                played.append(Note(start, end - start, key, velocity))
    return untangle(played, player.manner in MONOPHONIC)


def untangle(notes: Iterable[Note], monophonic: bool) -> tuple[Note, ...]:
    """End every note where its key, or with `monophonic` its voice, sounds again."""
    out: list[Note] = []
    latest: dict[int, int] = {}
    for note in sorted(notes):
        voice_ = 0 if monophonic else note.key
        if voice_ in latest:
            before = out[latest[voice_]]
            if note.start - before.start < 0.02:
                continue
            out[latest[voice_]] = before._replace(length=min(before.length, note.start - before.start))
        latest[voice_] = len(out)
        out.append(note)
    return tuple(sorted(out))


def as_part(player: Player, notes: tuple[Note, ...]) -> Part:
    """Part that a player hands in."""
    manner = "kit" if player.drums else player.manner
    return Part("", player.role, notes, player.program, player.drums, player.lead, manner)


def split_kit(rng: np.random.Generator, song: Song, player: Player, notes: tuple[Note, ...]) -> list[Part]:
    """Drums as one part, or one a microphone; overheads hear the whole kit, cymbals loudest."""
    whole = as_part(player, notes)
    if rng.random() < 0.64:
        return [whole]
    drum = rng.uniform(0.45, 0.7)
    heard = [
        note._replace(velocity=int(np.clip(note.velocity * (1.15 if note.key in CYMBALS else drum), 1, 127)))
        for note in notes
    ]
    roles = {"kick": KICKS, "snare": SNARES, "hats": HATS, "toms": TOMS}
    parts = [
        replace(whole, role=role, notes=tuple(note for note in notes if note.key in keys))
        for role, keys in roles.items()
    ]
    # A drum that is hardly struck has no microphone of its own.
    parts = [part for part in parts if covered(song, part.notes) >= 0.17]
    return [*parts, replace(whole, role="overheads", notes=tuple(heard))]


def unique(role: str, taken: Sequence[str]) -> str:
    """Name of a part: its role, with a number from the second on."""
    count = sum(name == role or name.startswith(f"{role} ") for name in taken)
    return role if count == 0 else f"{role} {count + 1}"
