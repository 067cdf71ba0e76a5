"""Material of the user's own: folders of MIDI files, played and sung like composed songs, and folders of multitracks.

Every file that is no usable song is one `MaterialError` of one line; the others go on. MIDI is read into real time and
written back at one tempo, so that a score's beats need not be the file's.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple, cast

import mido
import numpy as np
from numpy.typing import NDArray

from alm_plugin.data import reason_of
from alm_plugin.errors import AlmError, AudioFileError, ParameterError
from alm_plugin.models.roles import guess_role
from alm_plugin.render import READABLE, Track, TrackReader, find_tracks

from .colour import to_reference
from .compose import Part, Player, Score, Song, covered, into, split_kit, unique, untangle
from .corpus import KINDS, bank_in, render, single_thread
from .midi import DRUM_CHANNEL, Note
from .song import SAMPLE_RATE, Stem, save_song

Audio = NDArray[np.float32]

SECONDS = 40.2
LEAST_PARTS, MOST_PARTS = 3, 16
LEAST_SHARE = 0.15
"""Of a stretch that a part must play in."""


class MaterialError(AlmError, ValueError):
    """A file or folder that training cannot use: which, what was expected, what was got."""


OnError = Callable[[MaterialError], None]

# ----------------------------------------------------------------------------------------------------- MIDI: reading

PROGRAMS = (
    *((3, "piano"), (15, "keys"), (23, "organ"), (25, "acoustic guitar"), (31, "guitar"), (39, "bass")),
    *((46, "strings"), (47, "percussion"), (51, "strings"), (54, "synth"), (55, "strings"), (79, "brass")),
    *((103, "synth"), (107, "acoustic guitar"), (108, "keys"), (109, "brass"), (110, "strings"), (111, "brass")),
    *((113, "percussion"), (114, "keys"), (118, "percussion"), (127, None)),
)
"""Last General MIDI program of each run, from 0, and its role; choirs are synths, sound effects are nothing."""

LONGEST_S = 7200.0
FASTEST = 60_000
"""Microseconds a beat."""
TEMPI = (30.0, 300.0)


def role_of(program: int) -> str | None:
    """Role of a General MIDI program, from 0.

    >>> role_of(29), role_of(33), role_of(52), role_of(127)
    ('guitar', 'bass', 'synth', None)
    """
    return next(role for last, role in PROGRAMS if program <= last)


class Voice(NamedTuple):
    """Who plays a note; drums are one, whatever their track."""

    track: int
    channel: int
    program: int

    @property
    def role(self) -> str | None:
        """Role, None for sound effects."""
        return "drums" if self.channel == DRUM_CHANNEL else role_of(self.program)


KIT = Voice(-1, DRUM_CHANNEL, 0)


@dataclass(frozen=True)
class Performance:
    """A MIDI file in real time.

    Attributes
    ----------
    voices : dict of Voice to list of Note
        Start and length in seconds.
    clock : (2, K)
        Beats, and the seconds at which they fall; straight in between.
    bars : list of (float, int)
        Seconds at which each bar begins, and its beats.
    """

    voices: dict[Voice, list[Note]]
    clock: NDArray[np.float64]
    bars: list[tuple[float, int]]

    @property
    def seconds(self) -> float:
        """When the last note ends."""
        return max((note.start + note.length for notes in self.voices.values() for note in notes), default=0.0)


def scores_in(folder: Path) -> list[Path]:
    """Every MIDI file below a folder, sorted; `MaterialError` if there is none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".mid", ".midi") and _is_seen(p, folder))
    if not found:
        raise MaterialError(f"{folder}: expected a folder with .mid or .midi files, got none")
    return found


def _is_seen(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_midi(path: Path) -> Performance:
    """Read a MIDI file; `MaterialError` if it is none, or is longer than two hours."""
    try:
        file = mido.MidiFile(path, clip=True)
    except Exception as error:  # mido lets through whatever its parser stumbles on
        raise MaterialError(f"{path}: expected a Standard MIDI File, got {reason_of(error)}") from None
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise MaterialError(f"{path}: expected tracks that play together, in beats, got another kind of MIDI file")
    events: list[tuple[float, int, Any]] = []
    for number, track in enumerate(file.tracks):
        beats = np.cumsum([message.time for message in track]) / file.ticks_per_beat
        events += [(float(beat), number, message) for beat, message in zip(beats, track, strict=True)]
    events.sort(key=lambda event: event[0])
    clock = _clock([(beat, message.tempo) for beat, _, message in events if message.type == "set_tempo"], events)
    if clock[1, -1] > LONGEST_S:
        raise MaterialError(f"{path}: expected at most {LONGEST_S:.0f} s, got {clock[1, -1]:.0f}")
    seconds = np.interp([beat for beat, _, _ in events], *clock)
    voices = _voices([(float(at), number, message) for at, (_, number, message) in zip(seconds, events, strict=True)])
    return Performance(voices, clock, _bars(events, clock))


def _clock(tempi: Sequence[tuple[float, int]], events: Sequence[tuple[float, int, Any]]) -> NDArray[np.float64]:
    end = (events[-1][0] if events else 0.0) + 1.0
    changes = [(0.0, 500_000), *tempi]
    beats = np.array([beat for beat, _ in changes] + [end])
    lengths = np.diff(beats) * np.array([max(tempo, FASTEST) for _, tempo in changes]) / 1e6
    return np.stack([beats, np.concatenate([[0.0], np.cumsum(lengths)])])


def _bars(events: Sequence[tuple[float, int, Any]], clock: NDArray[np.float64]) -> list[tuple[float, int]]:
    metres = [(b, 4.0 * m.numerator / m.denominator) for b, _, m in events if m.type == "time_signature"]
    metres = [(0.0, 4.0), *metres]
    ends = [beat for beat, _ in metres[1:]] + [clock[0, -1]]
    bars = []
    for (begin, beats), end in zip(metres, ends, strict=True):
        beats = max(beats, 1.0)
        starts = np.interp(np.arange(begin, end, beats), *clock)
        bars += [(float(start), max(1, round(beats))) for start in starts]
    return bars


@dataclass
class _Channel:
    program: int = 0
    volume: int = 100
    expression: int = 127
    pedal: bool = False
    ringing: set[tuple[int, int]] = field(default_factory=set)

    @property
    def gain(self) -> int:
        return self.volume * self.expression


@dataclass
class _Strike:
    voice: Voice
    at: float
    velocity: int
    gain: int


def _voices(events: Sequence[tuple[float, int, Any]]) -> dict[Voice, list[Note]]:
    """Follow every channel: notes ring on while the pedal is down and speak as loud as their channel is turned up."""
    channels = defaultdict(_Channel)
    sounding: dict[int, dict[tuple[int, int], _Strike]] = defaultdict(dict)  # by channel, then by track and key
    heard: dict[Voice, list[tuple[_Strike, float, int]]] = defaultdict(list)

    def end(number: int, key: tuple[int, int], now: float) -> None:
        channels[number].ringing.discard(key)
        if strike := sounding[number].pop(key, None):
            heard[strike.voice].append((strike, now, key[1]))

    for now, track, message in events:
        if message.type not in ("program_change", "control_change", "note_on", "note_off"):
            continue
        number = message.channel
        channel = channels[number]
        match message.type, getattr(message, "control", None):
            case "program_change", _:
                channel.program = message.program
            case "control_change", 7 | 11 as control:
                setattr(channel, "volume" if control == 7 else "expression", message.value)
                for strike in sounding[number].values():  # a swell is as loud as it gets
                    strike.gain = max(strike.gain, channel.gain)
            case "control_change", 64:
                channel.pedal = message.value >= 64
                for key in () if channel.pedal else tuple(channel.ringing):
                    end(number, key, now)
            case "note_on", _ if message.velocity > 0:
                key = track, message.note
                end(number, key, now)
                voice = KIT if number == DRUM_CHANNEL else Voice(track, number, channel.program)
                sounding[number][key] = _Strike(voice, now, message.velocity, channel.gain)
            case "note_on" | "note_off", _ if channel.pedal:
                channel.ringing.add((track, message.note))
            case "note_on" | "note_off", _:
                end(number, (track, message.note), now)
    for number, strikes in sounding.items():
        for key in tuple(strikes):
            end(number, key, events[-1][0])
    if drums := heard.pop(KIT, None):
        heard[KIT._replace(program=channels[DRUM_CHANNEL].program)] = drums
    return {voice: _levelled(notes) for voice, notes in heard.items() if voice.role}


def _levelled(heard: Sequence[tuple[_Strike, float, int]]) -> list[Note]:
    # Every stem is brought to a level of its own: of a channel's volume only the moves count.
    top = max(1, *(strike.gain for strike, _, _ in heard))
    return sorted(
        Note(strike.at, max(end - strike.at, 0.03), key, max(1, round(strike.velocity * strike.gain / top)))
        for strike, end, key in heard
    )


# --------------------------------------------------------------------------------------------------- MIDI: arranging

SUNG, HARMONY, DOUBLE = 0.65, 0.3, 0.2
SINGERS = ((48, 67, 54.0), (57, 76, 66.0))
"""Lowest and highest key of a man and of a woman, and the mean that a melody is brought to."""
SHORTEST_S = 0.12
TOGETHER_S = 0.03


def score_from_midi(path: Path, rng: np.random.Generator, seconds: float = SECONDS) -> Score:
    """Take a stretch of a MIDI file where most parts play, and hand its melody to a singer, mostly.

    Parameters
    ----------
    path : Path
    rng : numpy.random.Generator
    seconds : float

    Returns
    -------
    Score
        3 to 16 parts at the stretch's mean tempo, in the file's real time.

    Raises
    ------
    MaterialError
        For no MIDI file, one that is too short, or fewer than 3 parts that play.
    """
    performance = read_midi(path)
    start, metre = _stretch(path, performance, rng, seconds)
    first, last = np.interp([start, start + seconds], performance.clock[1], performance.clock[0])
    score = Score("midi", float(np.clip((last - first) * 60 / seconds, *TEMPI)), metre, seconds, ())
    kit: list[Part] = []
    band: list[Part] = []
    for voice, notes in performance.voices.items():
        notes = _cut(notes, start, seconds, score.tempo_bpm)
        role = voice.role
        if role is None or _share(score, notes) < LEAST_SHARE:
            continue
        if role == "drums":
            player = Player(rng, "drums", "kit", 0, 127, "band", voice.program, drums=True)
            kit = split_kit(rng, cast(Song, score), player, notes)
        else:
            band.append(Part("", role, notes, voice.program, manner=_manner(role, voice.program, notes)))
    count = len(band) + bool(kit)
    if count < LEAST_PARTS:
        raise MaterialError(f"{path}: expected {LEAST_PARTS} parts that play for {seconds:g} s, got {count}")
    melodies = [part for part in band if part.role not in ("bass", "percussion")]
    voices: list[Part] = []
    if melodies:
        melody = max(melodies, key=lambda part: _tunefulness(score, part))
        band.remove(melody)
        band.sort(key=lambda part: -_share(score, part.notes))
        sung = rng.random() < SUNG
        voices = _singers(score, melody, [melody, *band], rng) if sung else [replace(melody, lead=True)]
    named: list[Part] = []
    for part in [*kit, *voices, *band][:MOST_PARTS]:
        named.append(replace(part, name=unique(part.role, [other.name for other in named])))
    return replace(score, parts=tuple(named))


def _stretch(path: Path, performance: Performance, rng: np.random.Generator, seconds: float) -> tuple[float, int]:
    """Second and metre of a bar from which on nearly as many parts play as anywhere."""
    starts = [bar for bar in performance.bars if bar[0] + seconds <= performance.seconds]
    if not starts:
        raise MaterialError(f"{path}: expected {seconds:g} s of music, got {performance.seconds:.1f}")
    busy = np.zeros((len(performance.voices), int(np.ceil(performance.seconds)) + 2))
    for row, notes in zip(busy, performance.voices.values(), strict=True):
        for note in notes:
            row[int(note.start) + 1 : int(note.start + note.length) + 2] = 1.0
    busy = busy.cumsum(axis=1)
    begin = np.array([int(start) for start, _ in starts])
    playing = ((busy[:, begin + int(seconds)] - busy[:, begin]) / int(seconds) >= LEAST_SHARE).sum(axis=0)
    return starts[int(rng.choice(np.flatnonzero(playing >= playing.max() - 1)))]


def _cut(notes: Sequence[Note], start: float, seconds: float, tempo_bpm: float) -> tuple[Note, ...]:
    """Take the notes of a stretch, in its beats; what lasts into it begins with it."""
    beats, out = tempo_bpm / 60, []
    for note in notes:
        begin, end = max(note.start, start), min(note.start + note.length, start + seconds)
        if end - begin >= 0.02 and (note.start >= start - 1e-6 or end - begin > 0.3):
            out.append(Note((begin - start) * beats, (end - begin) * beats, note.key, note.velocity))
    return untangle(out, monophonic=False)


def _share(score: Score, notes: Sequence[Note]) -> float:
    # The composer asks a song for its tempo and length only, here and for splitting a kit; a score has both.
    return covered(cast(Song, score), notes)


def _polyphony(notes: Sequence[Note]) -> float:
    """Mean number of notes that sound while any does."""
    total, union, until = 0.0, 0.0, 0.0
    for note in sorted(notes):
        end = note.start + note.length
        total, union, until = total + note.length, union + max(0.0, end - max(note.start, until)), max(until, end)
    return total / union


def _manner(role: str, program: int, notes: Sequence[Note]) -> str:
    if role == "bass":
        return "bass"
    if _polyphony(notes) < 1.2:
        return "lead"
    if "guitar" in role:
        return "power" if program in (29, 30) else "strum"
    return "comp"


def _tunefulness(score: Score, part: Part) -> float:
    """Higher for one voice, high up, most of the time, neither faster nor slower than one sings."""
    keys, share = [note.key for note in part.notes], _share(score, part.notes)
    pace = len(keys) / (share * score.seconds)
    strange = max(0.0, pace - 4, 2 - 4 * pace) / 2
    height = float(np.clip((np.median(keys) - 60) / 12, -2, 1.5))
    return height + 2 * share - 2 * min(_polyphony(part.notes) - 1, 2) - strange


def _singers(score: Score, melody: Part, band: Sequence[Part], rng: np.random.Generator) -> list[Part]:
    """Melody as a singer takes it, with luck a second take and a voice a third below."""
    low, high, mean = SINGERS[int(rng.integers(2))]
    notes = _singable(melody.notes, score.tempo_bpm / 60)
    octaves = 12 * round((mean - np.mean([note.key for note in notes])) / 12)
    notes = tuple(note._replace(key=into(note.key + octaves, low, high)) for note in notes)
    lead = Part("", "vocals", notes, lead=True, manner="sung")
    voices = [lead]
    if rng.random() < DOUBLE:
        voices.append(replace(lead, doubles="vocals"))
    if rng.random() < HARMONY:
        weight = np.zeros(12)
        for note in chain.from_iterable(part.notes for part in band):
            weight[note.key % 12] += note.length
        third = {k: 3 if weight[(k - 3) % 12] > weight[(k - 4) % 12] else 4 for k in range(12)}
        below = tuple(n._replace(key=into(n.key - third[n.key % 12], low, high)) for n in notes)
        voices.append(Part("", "backing vocals", below, manner="sung"))
    return voices


def _singable(notes: Sequence[Note], beats_per_s: float) -> tuple[Note, ...]:
    """One voice, the top one, in notes long enough to be sung: shorter ones melt into a neighbour."""
    top: list[Note] = []
    for note in sorted(notes):
        if top and note.start - top[-1].start < TOGETHER_S * beats_per_s:
            top[-1] = max(top[-1], note, key=lambda n: n.key)
        elif not top or note.key > top[-1].key or top[-1].start + top[-1].length - note.start < 0.1 * beats_per_s:
            top.append(note)
    shortest, out = SHORTEST_S * beats_per_s, []
    for note in untangle(top, monophonic=True):
        if out and note.start < out[-1].start + shortest:
            longer = max(out[-1], note, key=lambda n: n.length)
            out[-1] = longer._replace(start=out[-1].start, length=note.start + note.length - out[-1].start)
            continue
        if out:
            out[-1] = out[-1]._replace(length=max(out[-1].length, shortest))
        out.append(note)
    out[-1] = out[-1]._replace(length=max(out[-1].length, shortest))
    return tuple(out)


# -------------------------------------------------------------------------------------------------------- multitracks

QUIET = 1e-3
"""RMS of a second below which a stem does not play: what is left are hiss and bleed, not to be brought to a level."""


def multitracks_in(folder: Path) -> list[Path]:
    """Folders with two audio files or more, `folder` and those below it, sorted; `MaterialError` if there is none."""
    counts: dict[Path, int] = defaultdict(int)
    for path in folder.rglob("*"):
        if path.suffix.lower() in READABLE and _is_seen(path, folder):
            counts[path.parent] += 1
    found = sorted(parent for parent, count in counts.items() if count >= 2)
    if not found:
        raise MaterialError(f"{folder}: expected a folder with 2 audio files ({', '.join(READABLE)}) or more, got none")
    return found


def stems_of(
    folder: Path, rng: np.random.Generator, seconds: float = SECONDS, on_error: OnError | None = None
) -> Iterator[tuple[list[Stem], list[Audio]]]:
    """Cut a multitrack into stretches; never more than one is in memory.

    Parameters
    ----------
    folder : Path
    rng : numpy.random.Generator
        Where the first stretch begins.
    seconds : float
    on_error : callable, optional
        Is told of files left out because their names tell no role.

    Yields
    ------
    stems, audio : list of Stem, list of (samples,) float32
        Those that play in this stretch, 3 or more: mono at `SAMPLE_RATE`, at the reference level.

    Raises
    ------
    MaterialError
        For a file that is corrupt, empty or not finite, or a song of which no stretch can be used.
    """
    samples = round(seconds * SAMPLE_RATE)
    usable = 0
    try:
        known = _known(folder, on_error)
        longest = max(track.samples_at(SAMPLE_RATE) for track in known)
        if longest < samples:
            raise MaterialError(f"{folder}: expected {seconds:g} s of music, got {longest / SAMPLE_RATE:.1f}")
        with ExitStack() as stack:
            readers = {stem: TrackReader(track, SAMPLE_RATE, stack) for track, stem in known.items()}
            skipped = int(rng.integers(longest % samples + 1))
            for reader in readers.values():
                _mono(reader, skipped)
            for _ in range(longest // samples):
                takes = {stem: _mono(reader, samples) for stem, reader in readers.items()}
                takes = {stem: take for stem, take in takes.items() if _plays(take)}
                if len(takes) >= LEAST_PARTS:
                    usable += 1
                    yield list(takes), [to_reference(take, SAMPLE_RATE) for take in takes.values()]
    except (AudioFileError, ParameterError) as error:
        raise MaterialError(str(error)) from None
    if not usable:
        raise MaterialError(f"{folder}: expected {LEAST_PARTS} stems that play together for {seconds:g} s, got fewer")


def _known(folder: Path, on_error: OnError | None) -> dict[Track, Stem]:
    """Tracks of a folder whose names tell their roles. Where nobody sings, the one that is called so leads."""
    roles = {track: guess_role(track.name) for track in find_tracks(folder)}
    sung = "vocals" in roles.values()
    known = {
        track: Stem(track.name, role, role == "vocals" if sung else bool(re.search("lead|solo", track.name.lower())))
        for track, role in roles.items()
        if role is not None
    }
    unknown = ", ".join(repr(track.name) for track in roles if track not in known)
    if unknown and on_error:
        on_error(MaterialError(f"{folder}: expected names that tell what plays (kick, vocals), left out {unknown}"))
    if len(known) < LEAST_PARTS:
        raise MaterialError(f"{folder}: expected {LEAST_PARTS} stems whose names tell a role, got {len(known)}")
    return known


def _mono(reader: TrackReader, samples: int) -> Audio:
    # In small steps: a reader copies what it has ready with every block.
    steps = [min(SAMPLE_RATE, samples - at) for at in range(0, samples, SAMPLE_RATE)]
    return np.concatenate([np.zeros(0, np.float32), *(reader.read(step).mean(axis=0) for step in steps)])


def _plays(x: Audio) -> bool:
    pieces = np.array_split(x, max(1, len(x) // SAMPLE_RATE))
    return float(np.mean([np.mean(np.square(piece)) > QUIET**2 for piece in pieces])) >= LEAST_SHARE


# ------------------------------------------------------------------------------------------------------------- corpus


def build_user_corpus(
    midi: Sequence[Path],
    songs: Sequence[Path],
    folder: Path,
    bank_folder: Path,
    *,
    workers: int = 2,
    on_error: OnError,
    seconds: float = SECONDS,
) -> Iterator[Path]:
    """Write the user's songs into a corpus; yields each when it is there.

    Parameters
    ----------
    midi, songs : sequence of Path
        From `scores_in` and `multitracks_in`.
    folder : Path
        Of the corpus. Songs that are there already are kept.
    bank_folder : Path
        Of the voices.
    workers : int
    on_error : callable
        Is told of every song, or part of one, that cannot be used.
    seconds : float

    Yields
    ------
    Path
        One song; a multitrack gives one for each stretch. None at all if nothing can be used.
    """
    jobs = [(_add_midi, path) for path in midi] + [(_add_multitrack, path) for path in songs]
    with ProcessPoolExecutor(workers, initializer=single_thread) as pool:
        rest = (repeat(folder), repeat(bank_folder), repeat(seconds))
        for written, errors in pool.map(_add, *zip(*jobs, strict=True), *rest) if jobs else ():
            for error in errors:
                on_error(error)
            yield from written


def _add(
    add: Callable[..., list[Path]], path: Path, folder: Path, bank_folder: Path, seconds: float
) -> tuple[list[Path], list[MaterialError]]:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    stem = path.resolve().stem if path.is_file() else path.resolve().name
    name = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)}-{digest}"
    rng = np.random.default_rng([KINDS["train"].seed, int(digest, 16)])
    errors: list[MaterialError] = []
    try:
        return add(path, folder / name, bank_folder, rng, seconds, errors.append), errors
    except MaterialError as error:
        return [], [*errors, error]


def _add_midi(
    path: Path, out: Path, bank_folder: Path, rng: np.random.Generator, seconds: float, on_error: OnError
) -> list[Path]:
    if not (out / "song.json").exists():
        score = score_from_midi(path, rng, seconds)
        material = KINDS["train"]
        stems, audio = zip(*render(score, rng, material, bank_in(bank_folder, material.heldout)), strict=True)
        save_song(out, score.style, stems, audio)
    return [out]


def _add_multitrack(
    path: Path, out: Path, bank_folder: Path, rng: np.random.Generator, seconds: float, on_error: OnError
) -> list[Path]:
    first = out.with_name(f"{out.name}-00")
    if not (first / "song.json").exists():
        # Moved into place when the whole song has proved sound, the first stretch last: if it is there, all are.
        staged = out.with_name(f".{out.name}")
        shutil.rmtree(staged, ignore_errors=True)
        try:
            for number, (stems, audio) in enumerate(stems_of(path, rng, seconds, on_error)):
                save_song(staged / f"{out.name}-{number:02d}", "multitrack", stems, audio)
            for song in sorted(staged.iterdir(), reverse=True):
                shutil.rmtree(out.with_name(song.name), ignore_errors=True)
                song.rename(out.with_name(song.name))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return sorted(out.parent.glob(f"{out.name}-[0-9]*"))
