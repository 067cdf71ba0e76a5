"""What bands play, as tables: instruments, rhythms, grooves, harmony, styles and forms, for `training.compose`.

Bars are divided into steps, 16 in 4/4 and 12 in 3/4 and 6/8 (whose beat is the eighth); rhythms are strings with one
character per step: `X` accent, `x` normal, `o` ghost, `-` nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# ---------------------------------------------------------------------------------------------------- tables: sound


class Instrument(NamedTuple):
    """Role, General MIDI programs to draw from, lowest and highest key."""

    role: str
    programs: Sequence[int]
    low: int
    high: int


INSTRUMENTS = {
    "clean guitar": Instrument("guitar", (26, 27, 27, 28), 40, 79),
    "driven guitar": Instrument("guitar", (29, 30), 36, 76),
    "lead guitar": Instrument("guitar", (26, 27, 29, 29, 30, 30, 31), 52, 86),
    "acoustic guitar": Instrument("acoustic guitar", (24, 25, 25), 40, 79),
    "bass": Instrument("bass", (33, 33, 34, 35, 36, 37), 28, 55),
    "upright": Instrument("bass", (32, 32, 35), 28, 55),
    "synth bass": Instrument("bass", (38, 39), 24, 52),
    "piano": Instrument("piano", (0, 0, 1, 2, 3), 36, 88),
    "keys": Instrument("keys", (4, 5, 6, 11), 53, 88),
    "clav": Instrument("keys", (7, 6), 45, 79),
    "organ": Instrument("organ", (16, 16, 17, 18, 19, 20), 40, 88),
    "strings": Instrument("strings", (44, 48, 48, 49, 50, 51), 48, 91),
    "pizzicato": Instrument("strings", (45, 46), 48, 86),
    "violin": Instrument("strings", (40, 40, 41), 55, 91),
    "cello": Instrument("strings", (42,), 40, 72),
    "section": Instrument("brass", (61, 61, 62, 63), 48, 79),
    "trumpet": Instrument("brass", (56, 59, 60), 55, 81),
    "trombone": Instrument("brass", (57, 58), 40, 67),
    "sax": Instrument("brass", (64, 65, 66, 67), 50, 78),
    "pad": Instrument("synth", tuple(range(88, 96)), 43, 84),
    "arp": Instrument("synth", (80, 81, 84, 86, 88, 90), 48, 91),
    "synth lead": Instrument("synth", tuple(range(80, 88)), 55, 91),
}

KEYS = {
    **{"K": 36, "X": 37, "S": 38, "L": 39, "H": 42, "P": 44, "O": 46, "R": 51, "B": 53, "C": 49, "Z": 52},
    **{"F": 43, "M": 47, "T": 50},
}
"""Letters of the grooves: kick, cross stick, snare, clap, hats closed, pedal, open; ride, bell, crash, china; toms."""

KICKS, SNARES, HATS, TOMS = {35, 36}, {37, 38, 39, 40}, {42, 44, 46}, {41, 43, 45, 47, 48, 50}
CYMBALS = {49, 51, 52, 53, 55, 57, 59}

PERCUSSION = (
    "54 ----X-------X---",
    "54 x-x-X-x-x-x-X-x-",
    "70 xoxoXoxoxoxoXoxo",
    "69 X-x-X-x-X-x-X-x-",
    "62 --x---x---x---x-/63 ------X-------XX/64 ----------x-----",
    "60 x--x--x-x--x--x-/61 --o-x---o-o-x---",
    "56 X---x---X---x---",
    "75 X--x--x---x-x---/70 x-x-x-x-x-x-x-x-",
    "39 ----X-------X---",
)

# --------------------------------------------------------------------------------------------------- tables: rhythm

# By the beats of a bar.
RHYTHMS: dict[str, dict[int, tuple[str, ...]]] = {
    "comp": {
        4: ("X-----x-----x---", "X-------x-x-----", "X---x---X---x---", "X--x--x---x-x---", "--x---X---x--x--"),
        3: ("X---x---x---", "X-----x-----", "----x---x---"),
        6: ("X-----x-----", "X---x-x---x-"),
    },
    "strum": {
        4: ("X---x-x---x-x-x-", "X---x-xox-x-x-xo", "X-x-X-x-X-x-X-x-", "X-----x-x-x-x---", "X--xx-x-X--xx-x-"),
        3: ("X---x-x-x-x-", "X-x-x-x-x-x-"),
        6: ("X---x-x-x-x-", "X-x-x-X-x-x-"),
    },
    "power": {
        4: ("X-------X-------", "X-x-x-x-x-x-x-x-", "X-----x-X-----x-", "X---x---x-x-x---"),
        3: ("X---x---x---", "X-------x-x-"),
        6: ("X-----X-----", "X-x-x-X-x-x-"),
    },
    "chug": {
        4: ("XooXooXoooXoXooo", "X-oox-ooX-oox-oo", "XoooXoooXoooXooo", "X-o-o-X-o-o-X-o-"),
        3: ("XooXooXoXooo", "X-oox-oox-oo"),
        6: ("XoooooXooooo", "X-oo-oX-oo-o"),
    },
    "pick": {
        4: ("x-x-x-x-x-x-x-x-", "X-x-x-X-x-x-X-x-", "X---x---x---x---"),
        3: ("X-x-x-x-x-x-",),
        6: ("X-x-x-X-x-x-",),
    },
    "arp": {4: ("xxxxxxxxxxxxxxxx", "X-xx-xX-xx-xX-xx"), 3: ("xxxxxxxxxxxx",), 6: ("xxxxxxxxxxxx",)},
    "skank": {4: ("----X-------X---", "--X---X---X---X-"), 3: ("----X---X---",), 6: ("----X-----X-",)},
    "funk": {
        4: ("xo-xoxo-xo-xo-xo", "--xo--xo--xo-xX-", "X--o-xo---xo--x-"),
        3: ("xo-xoxo-xoxo",),
        6: ("xo-xoxxo-xox",),
    },
    "montuno": {4: ("X-xx-x-x-xx-x-x-", "X-x-xx-x-x-xx-x-"), 3: ("X-xx-x-xx-x-",), 6: ("X-xx-xX-xx-x",)},
    "boom": {4: ("X---x---X---x---", "X---x-x-X---x-x-"), 3: ("X---x---x---",), 6: ("X---x-X---x-",)},
    "hits": {
        4: ("X--X------------", "--------------XX", "X-----X---------", "----------X-XX--", "X---------X-----"),
        3: ("X-----X-----", "----------XX"),
        6: ("X---------XX", "X-----X-----"),
    },
}

# By the beats of a bar; the lines of 4/4 that a style may draw are named in the table of styles.
GROOVES: dict[str, str] = {
    "backbeat": "K X-----x-X-------/S ----X-------X---/H X-x-X-x-X-x-X-x-",
    "straight": "K X-------X-x-----/S ----X-------X---/H X-x-X-x-X-x-X-x-",
    "driving": "K X-----x-X-x---x-/S ----X-------X--o/H X-X-X-X-X-X-X-X-",
    "four": "K X---X---X---X---/S ----X-------X---/H --X---X---X---X-",
    "house": "K X---X---X---X---/L ----X-------X---/O --X---X---X---X-/H x-o-x-o-x-o-x-o-",
    "breakbeat": "K X-x-------x-----/S ----X--o-o--X--o/H x-x-x-x-x-x-x-x-",
    "halftime": "K X-----x---------/S --------X-------/H X-x-X-x-X-x-X-x-",
    "sixteen": "K X-------X--x----/S ----X-------X---/H XoxoXoxoXoxoXoxo",
    "funk": "K X-x---x---x--x--/S ----X--o-o--X--o/H x-xox-x-x-xoxo--/O --------------x-",
    "funk two": "K X--x--x-----x---/S -o--X--o-o-oX---/H xxxxxxxxxxxxxxxx",
    "soul": "K X-----xx--x-----/S ----X-------X---/H X-x-X-x-X-x-X-xo",
    "ride": "R X---X-x-X---X-x-/P ----x-------x---/K o---o---o---o---/S ------o-------o-",
    "ride two": "R X---X-x-X---X-x-/P ----x-------x---/K ----------x-----/S -------o---o----",
    "brushes": "R x---X-o-x---X-o-/P ----x-------x---/X ------o-----o---/K o-------o-------",
    "train": "K X---x---X---x---/S o-o-X-ooo-o-X-oo/H ----x-------x---",
    "two step": "K X-------X-------/S ----X-------X---/H x-x-x-x-x-x-x-x-",
    "one drop": "K --------X-------/X --------X-------/H x-x-x-x-x-x-x-xo",
    "steppers": "K X---X---X---X---/X ----x---X--o----/H x-x-x-xox-x-x-x-",
    "double kick": "K XxxxXxxxXxxxXxxx/S ----X-------X---/R X---X---X---X---",
    "gallop": "K X-xxX-xxX-xxX-xx/S ----X-------X---/H X---X---X---X---",
    "blast": "K X-X-X-X-X-X-X-X-/S -X-X-X-X-X-X-X-X/R X-X-X-X-X-X-X-X-",
    "slow": "K X---------x-----/X ----X-------X---/H x---x---x---x---",
    "slow snare": "K X-----x---------/S ----X-------X---/H x-o-x-o-x-o-x-o-",
    "songo": "K ---x--X----x--X-/X X--x--x---x-x---/R x-x-x-x-x-x-x-x-/F --------------x-",
    "bossa": "K X-----xxX-----xx/X X--x--x---x--x--/H xoxoxoxoxoxoxoxo",
    "punk": "K X---X-x-X---X-x-/S --X---X---X---X-/H X-X-X-X-X-X-X-X-",
    "d-beat": "K X-----x-X-x---x-/S ----X-------X---/C X---X---X---X---",
    "shuffle": "K X-----x-X-------/S ----X-------X---/R X-x-X-x-X-x-X-x-",
    "trap": "K X-----x---x-----/L --------X-------/H x-x-xxx-x-x-xxxx",
    "boom bap": "K X-x----x-xx-----/S ----X--o----X---/H x-x-x-x-x-x-x-x-",
    "stomp": "K X---X---X---X---/54 ----x-------x---",
    "waltz": "K X-----------/S ----x---x---/H X-x-x-x-x-x-",
    "waltz rock": "K X-------x---/S ----X-------/H X-x-X-x-X-x-",
    "waltz ride": "R X---X-x-x---/P ----x---x---/K o-----------/X ------o-----",
    "six": "K X-----------/S ------X-----/H X-x-x-X-x-x-",
    "six busy": "K X---x---x-x-/S ------X----o/R X-x-x-X-x-x-",
}
WALTZES, SIXES = ("waltz", "waltz rock", "waltz ride"), ("six", "six busy")

FILLS = (
    "S xxxx------------/T ----xx----------/M ------xx--------/F --------xxXX----",
    "S ----XoXoXoXX----",
    "S X-X-------------/T ---xx-----------/M -----xx---------/F -------xX-X-----",
    "T X-x-------------/M ----X-x---------/F --------X-xx----",
    "F x-x-x-x-X-X-X---/S x-x-x-x-X-X-X---",
    "S --------X--X----",
)
"""Over the last three beats of a section, so they read like a bar of three."""

VELOCITY = {"o": 62, "x": 94, "X": 110}

# -------------------------------------------------------------------------------------------------- tables: harmony

MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}

# Degrees of the mode; "d" asks for a dominant seventh whatever the mode says.
MAJOR = ("1 5 6 4", "1 4 5 4", "1 6 4 5", "4 1 5 6", "1 3 4 5", "1 4 1 5", "6 4 1 5", "1 2 4 1")
MINOR = ("1 6 3 7", "1 7 6 7", "1 4 6 5d", "1 6 4 5d", "1 3 7 4", "1 1 6 7")
BLUES = ("1d 1d 1d 1d 4d 4d 1d 1d 5d 4d 1d 5d", "1d 4d 1d 5d", "1d 4d 1d 1d")
TURNS = ("2 5d 1 6d", "1 6d 2 5d", "3 6d 2 5d", "1 4 3 6d 2 5d 1 1", "2 5d 1 1")
MINOR_TURNS = ("1 4 7 3 6 2 5d 1", "1 6 2 5d", "1 1 4 5d")
VAMPS = ("1 4", "1d 4d", "1 7", "1 1 4 4", "1 2")

# ----------------------------------------------------------------------------------------------------- tables: style


class Seat(NamedTuple):
    """A place in the band: instrument, manner, chance that it is taken, rhythms (default: those of the manner)."""

    instrument: str
    manner: str
    chance: float
    rhythm: str = ""


def seats(text: str) -> tuple[Seat, ...]:
    """Read "instrument: manner [rhythm] chance, ...".

    >>> seats("organ: comp skank 0.7")
    (Seat(instrument='organ', manner='comp', chance=0.7, rhythm='skank'),)
    """
    rows = (row.split(": ") for row in text.split(", "))
    split = ((instrument, *how.split()) for instrument, how in rows)
    return tuple(Seat(instrument, how[0], float(how[-1]), "".join(how[1:-1])) for instrument, *how in split)


class Odds(NamedTuple):
    """Chances of a singer, of one who speaks, of a soloist beside a singer, of percussion, of second takes."""

    sung: float = 0.8
    spoken: float = 0.04
    solo: float = 0.15
    percussion: float = 0.25
    doubling: float = 0.1


@dataclass(frozen=True)
class Style:
    """One row of the table of styles."""

    tempo: tuple[float, float]
    grooves: tuple[str, ...]
    bass: tuple[str, ...]
    seats: tuple[Seat, ...]
    leads: tuple[str, ...]
    modes: tuple[str, ...] = ("major", "major", "minor")
    major: tuple[str, ...] = MAJOR
    minor: tuple[str, ...] = MINOR
    sevenths: float = 0.0
    pace: tuple[float, ...] = (1.0,)  # chords a bar
    metres: tuple[int, ...] = (4,)
    swing: tuple[float, float] = (0.5, 0.5)  # where the off-beat falls
    swing_beats: float = 1.0  # period that swings
    bass_kinds: tuple[str, ...] = ("bass",)
    kits: tuple[int, ...] = (0, 8)
    odds: Odds = field(default_factory=Odds)


TABLE = {
    "rock": Style(
        tempo=(92, 152),
        grooves=("backbeat", "straight", "driving", "halftime", "d-beat"),
        bass=("roots", "eighths", "kick"),
        seats=seats(
            "driven guitar: power 0.95, clean guitar: riff 0.5, driven guitar: riff 0.35, organ: pad 0.35, "
            "acoustic guitar: strum 0.3, piano: comp 0.25, strings: pad 0.1"
        ),
        leads=("lead guitar", "lead guitar", "organ", "sax"),
        modes=("major", "minor", "mixolydian"),
        metres=(4,) * 9 + (6,),
        kits=(0, 8, 16),
        odds=Odds(solo=0.36, doubling=0.4),
    ),
    "pop": Style(
        tempo=(88, 132),
        grooves=("backbeat", "four", "sixteen", "straight", "halftime"),
        bass=("roots", "eighths", "octave", "kick"),
        seats=seats(
            "piano: comp 0.55, acoustic guitar: strum 0.5, clean guitar: pick 0.45, pad: pad 0.5, "
            "keys: comp 0.4, arp: pick arp 0.35, strings: pad 0.3, section: hits 0.15, "
            "clean guitar: comp funk 0.25"
        ),
        leads=("synth lead", "lead guitar", "piano", "sax", "violin"),
        metres=(4,) * 14 + (6,),
        bass_kinds=("bass", "bass", "synth bass"),
        kits=(0, 8, 24),
        odds=Odds(spoken=0.1, doubling=0.2),
    ),
    "funk": Style(
        tempo=(90, 122),
        grooves=("funk", "funk two", "breakbeat", "four"),
        bass=("slap", "octave", "slap"),
        seats=seats(
            "clean guitar: comp funk 0.95, clav: comp funk 0.55, section: hits 0.6, sax: hits 0.35, "
            "trumpet: riff 0.3, organ: pad 0.35, keys: comp 0.4, clean guitar: riff 0.35"
        ),
        leads=("sax", "trumpet", "lead guitar", "synth lead", "organ"),
        modes=("dorian", "mixolydian", "minor"),
        major=VAMPS,
        minor=VAMPS,
        sevenths=0.9,
        swing=(0.5, 0.58),
        swing_beats=0.5,
        odds=Odds(spoken=0.12, percussion=0.5),
    ),
    "jazz": Style(
        tempo=(96, 200),
        grooves=("ride", "ride two", "brushes"),
        bass=("walk", "walk", "walk", "sustain"),
        seats=seats(
            "piano: comp 0.75, clean guitar: comp 0.45, keys: comp 0.2, sax: pad 0.25, section: hits 0.3, "
            "trombone: riff 0.15, strings: pad 0.12"
        ),
        leads=("sax", "sax", "trumpet", "trombone", "piano", "lead guitar", "keys"),
        modes=("major", "major", "dorian", "minor"),
        major=TURNS,
        minor=MINOR_TURNS,
        sevenths=1.0,
        pace=(1.0, 1.0, 2.0),
        metres=(4,) * 5 + (3,),
        swing=(0.58, 0.67),
        bass_kinds=("upright",),
        kits=(32, 40, 0),
        odds=Odds(sung=0.65, spoken=0.0, solo=0.45, percussion=0.08),
    ),
    "country": Style(
        tempo=(84, 150),
        grooves=("train", "two step", "backbeat", "shuffle"),
        bass=("two", "two", "walk", "roots"),
        seats=seats(
            "acoustic guitar: strum boom 0.9, clean guitar: riff 0.55, clean guitar: pick 0.35, "
            "violin: pad 0.3, piano: comp 0.4, acoustic guitar: pick 0.35, organ: pad 0.2"
        ),
        leads=("lead guitar", "violin", "piano", "lead guitar"),
        modes=("major", "major", "mixolydian"),
        metres=(4,) * 6 + (3,),
        swing=(0.5, 0.6),
        bass_kinds=("bass", "upright"),
        odds=Odds(solo=0.3),
    ),
    "reggae": Style(
        tempo=(66, 92),
        grooves=("one drop", "steppers", "one drop"),
        bass=("dub",),
        seats=seats(
            "clean guitar: comp skank 0.95, organ: comp skank 0.7, clean guitar: riff 0.35, section: hits 0.4, "
            "keys: comp 0.3, trombone: riff 0.3, piano: comp skank 0.3"
        ),
        leads=("trombone", "sax", "organ", "lead guitar"),
        modes=("major", "minor", "dorian"),
        major=(*VAMPS, "1 4 5 4", "1 5 6 4"),
        swing=(0.5, 0.62),
        odds=Odds(spoken=0.12, percussion=0.5),
    ),
    "metal": Style(
        tempo=(96, 190),
        grooves=("double kick", "gallop", "blast", "driving", "halftime"),
        bass=("eighths", "kick", "eighths"),
        seats=seats(
            "driven guitar: power chug 1, driven guitar: riff 0.55, driven guitar: power 0.4, pad: pad 0.2, "
            "strings: pad 0.15, clean guitar: pick 0.2"
        ),
        leads=("lead guitar",),
        modes=("minor", "minor", "dorian"),
        metres=(4,) * 11 + (6,),
        kits=(16, 8),
        odds=Odds(spoken=0.3, solo=0.36, percussion=0.0, doubling=0.7),
    ),
    "ballad": Style(
        tempo=(56, 84),
        grooves=("slow", "slow snare", "halftime", "sixteen"),
        bass=("sustain", "roots", "sustain"),
        seats=seats(
            "piano: comp 0.7, strings: pad 0.6, acoustic guitar: pick 0.55, pad: pad 0.35, keys: pick 0.3, "
            "cello: riff 0.2, clean guitar: pick 0.3, organ: pad 0.25"
        ),
        leads=("lead guitar", "piano", "violin", "sax", "cello"),
        sevenths=0.3,
        metres=(4, 4, 4, 6, 3),
        odds=Odds(spoken=0.0, solo=0.22),
    ),
    "electronic": Style(
        tempo=(104, 142),
        grooves=("house", "four", "breakbeat", "trap", "house"),
        bass=("octave", "eighths", "offbeat", "sustain"),
        seats=seats(
            "arp: pick arp 0.85, pad: pad 0.75, synth lead: riff 0.5, arp: comp skank 0.4, keys: comp 0.3, "
            "piano: comp montuno 0.3, strings: pad 0.2, arp: pick 0.3"
        ),
        leads=("synth lead", "synth lead", "synth lead", "piano", "sax"),
        modes=("minor", "minor", "dorian", "major"),
        bass_kinds=("synth bass",),
        kits=(24, 25),
        odds=Odds(sung=0.68, spoken=0.12, solo=0.25, percussion=0.4),
    ),
    "folk": Style(
        tempo=(76, 126),
        grooves=("stomp", "two step", "slow", "train"),
        bass=("two", "roots", "sustain"),
        seats=seats(
            "acoustic guitar: pick 0.8, acoustic guitar: strum 0.7, violin: riff 0.4, cello: pad 0.3, "
            "piano: comp 0.25, organ: pad 0.2, pizzicato: pick 0.15"
        ),
        leads=("violin", "piano", "cello", "lead guitar"),
        modes=("major", "dorian", "minor"),
        metres=(4, 4, 4, 3, 6),
        bass_kinds=("bass", "upright"),
        odds=Odds(spoken=0.0, percussion=0.4, doubling=0.2),
    ),
    "soul": Style(
        tempo=(70, 112),
        grooves=("soul", "backbeat", "sixteen", "slow snare"),
        bass=("kick", "slap", "roots"),
        seats=seats(
            "organ: pad 0.55, keys: comp 0.6, clean guitar: comp skank 0.65, section: hits 0.6, sax: riff 0.3, "
            "strings: pad 0.35, piano: comp 0.35, trumpet: hits 0.2"
        ),
        leads=("sax", "organ", "trumpet", "lead guitar", "keys"),
        major=(*MAJOR, *TURNS),
        minor=(*MINOR, *MINOR_TURNS),
        sevenths=0.7,
        metres=(4,) * 7 + (6,),
        swing=(0.5, 0.6),
        swing_beats=0.5,
        odds=Odds(percussion=0.4),
    ),
    "latin": Style(
        tempo=(84, 120),
        grooves=("songo", "bossa", "bossa"),
        bass=("tumbao", "tumbao", "two"),
        seats=seats(
            "piano: comp montuno 0.7, acoustic guitar: comp 0.6, section: hits 0.55, trombone: riff 0.3, "
            "trumpet: riff 0.25, keys: comp 0.3, strings: pad 0.15"
        ),
        leads=("trumpet", "sax", "piano", "trombone", "lead guitar"),
        modes=("minor", "dorian", "major"),
        major=(*TURNS, *VAMPS),
        minor=(*MINOR, *MINOR_TURNS),
        sevenths=0.6,
        bass_kinds=("bass", "upright"),
        odds=Odds(percussion=0.9),
    ),
    "punk": Style(
        tempo=(150, 200),
        grooves=("punk", "d-beat", "driving", "straight"),
        bass=("eighths", "roots", "eighths"),
        seats=seats("driven guitar: power 1, driven guitar: power chug 0.4, driven guitar: riff 0.4, organ: comp 0.1"),
        leads=("lead guitar", "lead guitar", "sax"),
        kits=(0, 16),
        odds=Odds(spoken=0.12, solo=0.3, percussion=0.05, doubling=0.5),
    ),
    "blues": Style(
        tempo=(64, 132),
        grooves=("shuffle", "backbeat", "slow snare"),
        bass=("walk", "roots", "two"),
        seats=seats(
            "clean guitar: comp 0.75, piano: comp 0.5, organ: pad 0.5, driven guitar: riff 0.45, "
            "sax: hits 0.2, section: hits 0.2"
        ),
        leads=("lead guitar", "lead guitar", "sax", "organ"),
        modes=("mixolydian", "mixolydian", "dorian"),
        major=BLUES,
        minor=("1 1 4 1", "1 4 1 5d"),
        metres=(4,) * 7 + (6,),
        swing=(0.6, 0.67),
        odds=Odds(solo=0.42, percussion=0.1),
    ),
    "hiphop": Style(
        tempo=(76, 104),
        grooves=("boom bap", "trap", "breakbeat", "boom bap"),
        bass=("sustain", "slap", "kick"),
        seats=seats(
            "keys: comp 0.7, pad: pad 0.4, piano: riff 0.4, strings: riff 0.3, arp: pick 0.35, "
            "clean guitar: riff 0.3, section: hits 0.25"
        ),
        leads=("synth lead", "piano", "sax", "trumpet"),
        modes=("minor", "dorian"),
        sevenths=0.5,
        swing=(0.5, 0.6),
        swing_beats=0.5,
        bass_kinds=("synth bass", "bass"),
        kits=(25, 24, 8),
        odds=Odds(sung=0.92, spoken=0.75, percussion=0.3),
    ),
}

STYLES = tuple(TABLE)
"""Every style that `compose` knows."""

# ------------------------------------------------------------------------------------------------------ tables: form

FORMS = (
    ("intro", "verse", "chorus", "outro"),
    ("intro", "verse", "chorus", "break", "chorus"),
    ("intro", "verse", "chorus", "solo", "chorus", "outro"),
    ("verse", "chorus", "verse", "chorus", "outro"),
    ("chorus", "verse", "break", "chorus"),
    ("verse", "break", "chorus", "solo"),
    ("intro", "verse", "verse", "chorus", "break", "chorus", "outro"),
    ("break", "verse", "chorus", "solo", "break", "chorus"),
)
WEIGHT = {"intro": 1.0, "verse": 2.0, "chorus": 2.0, "solo": 1.5, "break": 1.0, "outro": 1.0}
ENERGY = {"intro": -7, "verse": -5, "chorus": 6, "solo": 3, "break": -12, "outro": -3}

# Chance that a player plays in a section.
PRESENCE = {
    "kit": {"intro": 0.5, "verse": 0.96, "chorus": 1.0, "solo": 1.0, "break": 0.3, "outro": 0.7},
    "bass": {"intro": 0.4, "verse": 0.93, "chorus": 1.0, "solo": 1.0, "break": 0.35, "outro": 0.75},
    "voice": {"intro": 0.06, "verse": 1.0, "chorus": 1.0, "solo": 0.12, "break": 0.4, "outro": 0.4},
    "second voice": {"intro": 0.0, "verse": 0.45, "chorus": 0.85, "solo": 0.1, "break": 0.3, "outro": 0.4},
    "backing": {"intro": 0.08, "verse": 0.25, "chorus": 1.0, "solo": 0.15, "break": 0.35, "outro": 0.5},
    "lead": {"intro": 0.6, "verse": 0.95, "chorus": 1.0, "solo": 1.0, "break": 0.4, "outro": 0.7},
    "solo": {"intro": 0.6, "verse": 0.25, "chorus": 0.55, "solo": 1.0, "break": 0.3, "outro": 0.6},
    "hits": {"intro": 0.5, "verse": 0.4, "chorus": 0.95, "solo": 0.6, "break": 0.2, "outro": 0.6},
    "band": {"intro": 0.55, "verse": 0.75, "chorus": 0.92, "solo": 0.85, "break": 0.35, "outro": 0.65},
}
