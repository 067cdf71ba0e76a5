"""A choir of many voices for training: speech from Debian's packages, re-pitched and stretched onto melodies.

WORLD (Morise, Yokomori and Ozawa, IEICE Trans. E99-D, 2016) takes speech apart into pitch, spectral envelope and
aperiodicity. `build_bank` does so once for every voice; `sing` walks through the envelopes syllable by syllable, at
the speed the notes ask for, and lets WORLD put them together on the melody's pitch.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from .midi import find_program
from .singer import Sung
from .speakers import VOICES, WEIGHTS, Sex, Voice

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    pyworld: Any = importlib.import_module("pyworld")  # compiled, without types

Array = NDArray[np.float64]

HOP_S = 0.005
FFT = 1024
STORED_BINS = 257
"""Of the envelopes: half as fine as in synthesis, for WORLD has smoothed them over a pitch's width anyway."""
STORED_BANDS = 33
"""Of the aperiodicity, which WORLD estimates every 3 kHz only."""
LONGEST_SPEECH_S = 32.0

FESTIVAL_VOICES = Path("/usr/share/festival/voices")
ASTERISK_SOUNDS = Path("/usr/share/asterisk/sounds")


class Syllable(NamedTuple):
    """Frames: consonants from `begin`, vowel from `vowel`, loudest at `nucleus`, consonants from `after` to `end`."""

    begin: int
    vowel: int
    nucleus: int
    after: int
    end: int


class Reading(NamedTuple):
    """Speech taken apart; a frame every `HOP_S`."""

    envelopes: Array
    """(frames, `STORED_BINS`) log power, 0 Hz to Nyquist."""
    aperiodicity: Array
    """(frames, `STORED_BANDS`) 0 to 1."""
    hz: Array
    """(frames,) pitch, 0 where unvoiced."""
    syllables: list[Syllable]
    sample_rate: int


def build_bank(
    folder: Path,
    sample_rate: int,
    *,
    voices: Sequence[Voice] = VOICES,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Speak and analyse every text of every voice into `folder`, one file each, unless it is there already.

    Several processes may fill one folder.

    Parameters
    ----------
    folder : Path
    sample_rate : int
        At which the voices will sing.
    voices : sequence of Voice
    progress : callable, optional
        Called with the name of each file made.

    Returns
    -------
    list of str
        Names of voices left out because they are not installed or do not speak.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for voice in voices:
        for k, text in enumerate(voice.texts):
            path = folder / f"{voice.name}.{k}.npz"
            if path.exists():
                continue
            try:
                speech, speech_rate = _speak(voice, text)
            except (FileNotFoundError, subprocess.CalledProcessError):
                missing.append(voice.name)
                break
            _write(path, analyse(speech, speech_rate, sample_rate))
            if progress is not None:
                progress(path.name)
    return missing


def _speak(voice: Voice, text: str) -> tuple[Array, int]:
    """Speech of one text; FileNotFoundError when the program or the voice is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        spoken = b""
        if voice.program == "festival":
            if not any(FESTIVAL_VOICES.glob(f"*/{voice.voice}")):
                raise FileNotFoundError(
                    f"{voice.name}: expected {voice.voice} in {FESTIVAL_VOICES}, of {voice.package}"
                )
            command = [find_program("text2wave"), "-eval", f"(voice_{voice.voice})", "-o", str(path)]
            by_language = {"czech": "iso-8859-2", "hindi": "utf-8", "msu": "utf-8"}  # the rest reads latin-1
            spoken = text.encode(by_language.get(voice.voice.split("_")[0], "iso-8859-1"))
        elif voice.program == "flite":
            program = find_program("flite")
            known = subprocess.run([program, "-lv"], check=True, capture_output=True, text=True).stdout  # noqa: S603
            if voice.voice not in known.split():
                raise FileNotFoundError(f"{voice.name}: expected a voice of flite, got {voice.voice!r}")
            command = [program, "-voice", voice.voice, "-t", text, "-o", str(path)]
        elif voice.program == "espeak-ng":
            command = [find_program("espeak-ng"), "-v", voice.voice, "-s", "150", "-w", str(path), text]
        else:
            prompt = ASTERISK_SOUNDS / voice.voice / f"{text}.g722"
            if not prompt.exists():
                raise FileNotFoundError(f"{voice.name}: expected {prompt}, of Debian's package {voice.package}")
            command = [find_program("ffmpeg"), "-loglevel", "error", "-f", "g722", "-i", str(prompt), str(path)]
        subprocess.run(command, check=True, capture_output=True, input=spoken)  # noqa: S603
        if not path.exists():  # festival reports success whatever happens
            raise FileNotFoundError(f"{voice.name}: {voice.program} said nothing; is all of {voice.package} installed?")
        speech, rate = soundfile.read(path)
    return np.asarray(speech, np.float64)[: round(LONGEST_SPEECH_S * rate)], rate


def analyse(speech: Array, speech_rate: int, sample_rate: int) -> Reading:
    """Take speech apart at its own rate and lay it out for `sample_rate`; above its band it falls 3 dB per kHz."""
    speech = np.ascontiguousarray(speech / np.abs(speech).max())
    hz, times = pyworld.dio(speech, speech_rate, frame_period=1000 * HOP_S)
    hz = pyworld.stonemask(speech, hz, times, speech_rate)
    narrow = np.log(pyworld.cheaptrick(speech, hz, times, speech_rate) + 1e-12)
    rough = pyworld.d4c(speech, hz, times, speech_rate)

    edge = min(0.45 * speech_rate, sample_rate / 2)
    known = np.linspace(0, speech_rate / 2, narrow.shape[1])
    grid = np.linspace(0, sample_rate / 2, STORED_BINS)
    falling = np.maximum(0.0, grid - edge) / 1000 * 0.3 * np.log(10)
    envelopes = np.stack([np.interp(np.minimum(grid, edge), known, row) for row in narrow]) - falling
    bands = np.linspace(0, sample_rate / 2, STORED_BANDS)
    aperiodicity = np.stack([np.interp(bands, known, row) for row in rough])
    aperiodicity[:, bands > edge] = 1
    vowel_power = np.exp(envelopes[:, (grid > 200) & (grid < 4000)]).sum(axis=1)
    return Reading(envelopes, aperiodicity, hz, _syllables(np.sqrt(vowel_power) * (hz > 0)), sample_rate)


def _syllables(loudness: Array) -> list[Syllable]:
    """Syllables around the peaks of the voiced amplitude, parted where it is least."""
    smooth = gaussian_filter1d(loudness, 3)
    nuclei, _ = find_peaks(smooth, height=0.12 * smooth.max(), distance=22, prominence=0.04 * smooth.max())
    between = [a + int(np.argmin(smooth[a:b])) for a, b in itertools.pairwise(nuclei)]
    found = []
    for nucleus, left, right in zip(nuclei.tolist(), [0, *between], [*between, len(smooth) - 1], strict=True):
        begin, end = max(left, nucleus - 28), min(right, nucleus + 40)
        quiet = (smooth < 0.55 * smooth[nucleus]) | (loudness == 0)
        before, beyond = np.flatnonzero(quiet[begin:nucleus]), np.flatnonzero(quiet[nucleus + 1 : end])
        vowel = begin + int(before[-1]) + 1 if len(before) else begin
        after = nucleus + 1 + int(beyond[0]) if len(beyond) else end
        found.append(Syllable(begin, vowel, nucleus, after, end))
    return found


def _write(path: Path, reading: Reading) -> None:
    """Write so that nobody ever sees half a file under the final name."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder, path.name)
        np.savez_compressed(
            part,
            envelopes=reading.envelopes.astype(np.float16),
            aperiodicity=reading.aperiodicity.astype(np.float16),
            hz=reading.hz.astype(np.float32),
            syllables=np.array(reading.syllables, np.int32),
            sample_rate=np.int32(reading.sample_rate),
        )
        part.replace(path)


@functools.lru_cache(maxsize=8)
def _read(path: Path) -> Reading:
    with np.load(path, allow_pickle=False) as file:
        syllables = [Syllable(*row) for row in file["syllables"].tolist()]
        envelopes, aperiodicity, hz = (file[name].astype(np.float64) for name in ("envelopes", "aperiodicity", "hz"))
        return Reading(envelopes, aperiodicity, hz, syllables, int(file["sample_rate"]))


@dataclass(frozen=True, kw_only=True)
class Singer:
    """Whose speech, through which throat, in which manner."""

    item: str
    """File in the bank."""
    style: Literal["plain", "shouted", "breathy"] = "plain"
    length: float = 1.0
    """Of the vocal tract, against the speaker's."""
    tilt_db: float = 0.0
    """At 4 kHz against 500 Hz."""
    ring_db: float = 0.0
    """Singer's formant."""
    ring_hz: float = 3000.0
    ring_width_hz: float = 500.0
    breath: float = 0.0
    """Noise in vowels, 0 to 1."""
    rasp: float = 0.0
    """Depth of the beat at half the pitch, and how far the sound is saturated."""
    vibrato: float = 0.0
    """Semitones to each side."""
    vibrato_hz: float = 5.5
    scoop: float = 0.0
    """Semitones below the note where a phrase begins."""
    legato: bool = True
    glide_s: float = 0.02
    unrest: float = 1.0
    """Of the pitch; 1 is a fair singer."""
    dynamics_db: float = 2.0
    """Spread from note to note."""
    consonants_db: float = 0.0
    start: int = 0
    """Syllable to begin with."""


class Bank:
    """The voices in a folder that `build_bank` filled.

    Parameters
    ----------
    folder : Path
    heldout : bool or None
        Only voices held out for the frozen test set, only the others, or (None) all.

    Raises
    ------
    FileNotFoundError
        When no such voice is there.
    """

    def __init__(self, folder: Path, heldout: bool | None) -> None:
        self.folder = folder
        self.items: dict[Voice, list[str]] = {}
        for voice in VOICES:
            files = sorted(path.name for path in folder.glob(f"{voice.name}.*.npz"))
            if files and heldout in (None, voice.heldout):
                self.items[voice] = files
        if not self.items:
            raise FileNotFoundError(f"{folder}: expected files of build_bank with heldout={heldout}, got none")

    def reading(self, item: str) -> Reading:
        """Speech of one file."""
        return _read(self.folder / item)

    def singer(self, rng: np.random.Generator, sex: Sex | None = None) -> Singer:
        """Somebody new; of the other sex where the bank has nobody else."""
        voices = [voice for voice in self.items if sex in (None, voice.sex)] or list(self.items)
        weights = np.array([WEIGHTS[voice.program] for voice in voices])
        files = self.items[voices[rng.choice(len(voices), p=weights / weights.sum())]]
        plain = {
            "item": str(rng.choice(files)),
            "length": rng.uniform(0.88, 1.14),
            "tilt_db": rng.uniform(-5, 7),
            "ring_db": rng.uniform(0, 9),
            "ring_hz": rng.uniform(2400, 3500),
            "breath": rng.uniform(0, 0.25),
            "rasp": rng.uniform(0.2, 0.7) * (rng.random() < 0.3),
            "vibrato": float(rng.choice([0, 0.15, 0.35, 0.6])),
            "vibrato_hz": rng.uniform(4.8, 6.6),
            "scoop": rng.uniform(0, 1.2),
            "legato": bool(rng.random() < 0.6),
            "glide_s": rng.uniform(0.012, 0.04),
            "unrest": rng.uniform(0.6, 1.6),
            "dynamics_db": rng.uniform(1, 4.5),
            "consonants_db": rng.uniform(-6, 4),
            "start": int(rng.integers(1000)),
        }
        shouted = {
            "style": "shouted",
            "tilt_db": rng.uniform(6, 14),
            "ring_db": rng.uniform(5, 11),
            "ring_width_hz": rng.uniform(700, 1200),
            "breath": rng.uniform(0, 0.35),
            "rasp": rng.uniform(0.35, 0.9),
            "vibrato": 0.0,
            "scoop": rng.uniform(0.5, 3),
            "legato": False,
            "unrest": rng.uniform(1.5, 4),
            "dynamics_db": rng.uniform(0.5, 2),
        }
        breathy = {
            "style": "breathy",
            "tilt_db": rng.uniform(-9, -1),
            "ring_db": rng.uniform(0, 3),
            "breath": rng.uniform(0.35, 0.8),
            "rasp": 0.0,
            "consonants_db": rng.uniform(0, 6),
        }
        manner = rng.random()
        return Singer(**plain | (shouted if manner < 0.15 else breathy if manner < 0.25 else {}))


class _Sound(NamedTuple):
    """A syllable and the notes it is sung on; times in seconds."""

    source: Syllable
    notes: list[Sung]
    begin: float
    """Where its consonants start, ahead of the first note."""
    end: float
    level_db: float


def sing(
    bank: Bank,
    singer: Singer,
    notes: Sequence[Sung],
    samples: int,
    sample_rate: int,
    rng: np.random.Generator,
    *,
    spoken: bool = False,
    detune: float = 0.0,
    late_s: float = 0.0,
) -> NDArray[np.float32]:
    """Sing a melody: (samples,), silent but for the notes, consonants and breaths before them, and short tails.

    What sounds has an RMS of 0.1, or less where its peak would pass full scale.

    Parameters
    ----------
    bank : Bank
    singer : Singer
    notes : sequence of Sung
        One voice; a note that overlaps the next is cut.
    samples, sample_rate : int
        The bank's sample rate.
    rng : numpy.random.Generator
    spoken : bool
        Rap or talk: speech's own melody, around the notes.
    detune : float
        Semitones.
    late_s : float

    Raises
    ------
    ValueError
        When the bank was built for another sample rate.
    """
    reading = bank.reading(singer.item)
    if reading.sample_rate != sample_rate:
        raise ValueError(
            f"sample_rate: expected {reading.sample_rate}, for which the bank was built, got {sample_rate}"
        )
    out = np.zeros(samples)
    moved = [Sung(n.start + late_s, n.end + late_s, n.key + detune) for n in sorted(notes)]
    syllable = singer.start
    for phrase in _phrases(moved, samples / sample_rate):
        sounds = _assign(reading, singer, phrase, syllable, spoken, rng)
        syllable += len(sounds)
        begin, sound = _render(reading, singer, sounds, spoken, rng)
        a, b = max(0, begin), min(samples, begin + len(sound))
        out[a:b] += sound[a - begin : b - begin]
    loud = np.abs(out) > 1e-4
    if loud.any():
        out *= 0.1 / np.sqrt(np.mean(out[loud] ** 2))
        out *= min(1.0, 0.99 / np.abs(out).max())
    return out.astype(np.float32)


def _phrases(notes: Sequence[Sung], length_s: float) -> list[list[Sung]]:
    """Part the notes, one at a time and within the song, where there is time for a rest."""
    phrases: list[list[Sung]] = []
    ends = [*(note.start for note in notes[1:]), np.inf]
    for note, following in zip(notes, ends, strict=False):
        cut = Sung(max(0.0, note.start), min(note.end, following, length_s), note.key)
        if cut.end - cut.start < 0.04:
            continue
        if phrases and cut.start - phrases[-1][-1].end < 0.35:
            phrases[-1].append(cut)
        else:
            phrases.append([cut])
    return phrases


def _assign(
    reading: Reading, singer: Singer, phrase: list[Sung], first: int, spoken: bool, rng: np.random.Generator
) -> list[_Sound]:
    """Give each note a syllable, now and then one for several; consonants take their time from the vowel before."""
    sounds: list[_Sound] = []
    for note in phrase:
        last = sounds[-1] if sounds else None
        gap = note.start - last.notes[-1].end if last else np.inf
        if last and gap < 0.08 and not spoken and len(last.notes) < 4 and rng.random() < 0.15:
            sounds[-1] = last._replace(notes=[*last.notes, note], end=note.end)
            continue
        source = reading.syllables[(first + len(sounds)) % len(reading.syllables)]
        room = note.start - last.notes[-1].start if last else 1.0
        start = max(0.0, note.start + float(np.clip(rng.normal(0, 0.01), -0.02, 0.02)))
        begin = start - min(HOP_S * (source.vowel - source.begin), 0.14, 0.35 * room)
        if last:
            linked = not spoken and gap < (0.15 if singer.legato else 0.03)
            sounds[-1] = last._replace(end=begin if linked else min(last.end, begin))
        nucleus_db = 10 * np.log10(np.exp(reading.envelopes[source.nucleus]).sum())
        level_db = float(np.clip(rng.normal(0, singer.dynamics_db), -9, 6)) - 0.7 * nucleus_db
        # Nobody who speaks holds a syllable for much longer than it is.
        end = min(note.end, start + 2 * HOP_S * (source.end - source.vowel)) if spoken else note.end
        sounds.append(_Sound(source, [note._replace(start=start)], begin, end, level_db))
    return sounds


def _render(
    reading: Reading, singer: Singer, sounds: list[_Sound], spoken: bool, rng: np.random.Generator
) -> tuple[int, Array]:
    """Sound of a phrase, and the sample of the song where it begins."""
    sample_rate = reading.sample_rate
    breath_s = rng.uniform(0.15, 0.3) if rng.random() < (0.95 if singer.style == "breathy" else 0.7) else 0.0
    begin = round((sounds[0].begin - breath_s - 0.1) * sample_rate)
    time = begin / sample_rate + np.arange(0, sounds[-1].end - begin / sample_rate + 0.3, HOP_S)
    source = _source(sounds, time, spoken)
    breath = (time > sounds[0].begin - 0.05 - breath_s) & (time < sounds[0].begin - 0.05)
    source[breath] = sounds[0].source.nucleus
    source = np.clip(source, 0, len(reading.hz) - 1.001)
    low, part = source.astype(int), (source % 1.0)[:, None]
    voiced = (reading.hz[np.round(source).astype(int)] > 0) & ~breath

    # A longer throat has every formant lower.
    grid = np.linspace(0, sample_rate / 2, FFT // 2 + 1)
    throat = np.minimum(grid * singer.length, sample_rate / 2)
    shape = _resampled(reading.envelopes[low] * (1 - part) + reading.envelopes[low + 1] * part, throat, sample_rate)
    noise = _resampled(
        reading.aperiodicity[low] * (1 - part) + reading.aperiodicity[low + 1] * part, throat, sample_rate
    )

    starts = np.array([sound.notes[0].start for sound in sounds])
    now = np.clip(np.searchsorted(starts - 0.03, time, "right") - 1, 0, None)
    level_db = np.array([sound.level_db for sound in sounds])
    effort_db = gaussian_filter1d((level_db - level_db.mean())[now] * 0.4, 4)
    level_db = gaussian_filter1d(level_db[now], 4) + np.where(voiced, 0, singer.consonants_db)
    octaves = np.log2(np.maximum(grid, 100) / 500)
    colour_db = singer.tilt_db * np.clip(octaves, -1, 3) / 3
    colour_db += singer.ring_db * np.exp(-(((grid - singer.ring_hz) / singer.ring_width_hz) ** 2))
    gain_db = level_db[:, None] + colour_db + np.clip(effort_db[:, None] * np.clip(octaves, 0, 3), -9, 9)
    gain_db[breath] += 6 * np.clip(octaves, -2, 2) - 20
    noise = np.clip(noise + singer.breath * np.clip(grid / 4000, 0, 1), 0.001, 1)
    noise[breath] = 1

    hz = np.where(voiced, _melody_hz(reading, singer, sounds, source, time, spoken, rng), 0)
    sound = pyworld.synthesize(hz, np.exp(shape + gain_db * np.log(10) / 10), noise, sample_rate, 1000 * HOP_S)
    loudness = _loudness(singer, sounds, time)
    loudness[breath] = 10 ** (rng.uniform(-12, 0) / 20) * np.hanning(breath.sum()) ** 0.7
    frame = np.arange(len(sound)) / (HOP_S * sample_rate)
    sound *= np.interp(frame, np.arange(len(time)), loudness)
    if singer.rasp:
        sound = _rasped(sound, np.cumsum(np.interp(frame, np.arange(len(time)), hz)) / sample_rate, singer.rasp, rng)
    return begin, sound


def _resampled(rows: Array, hz: Array, sample_rate: int) -> Array:
    """Rows that go from 0 Hz to Nyquist, at other frequencies."""
    place = np.minimum(hz / (sample_rate / 2) * (rows.shape[1] - 1), rows.shape[1] - 1.001)
    low, part = place.astype(int), place % 1.0
    return np.take(rows, low, axis=1) * (1 - part) + np.take(rows, low + 1, axis=1) * part


def _source(sounds: list[_Sound], time: Array, spoken: bool) -> Array:
    """Frame of the speech that sounds at each time: vowels begin on their notes and are stretched in the middle."""
    at: list[float] = []
    frames: list[float] = []
    sway = np.zeros(len(time))
    for source, notes, begin, end, _ in sounds:
        start, length = notes[0].start, end - notes[0].start
        at += [begin, start]
        frames += [source.begin, source.vowel]
        if spoken:
            at.append(end)
            frames.append(source.end)
            continue
        rise = min(HOP_S * (source.nucleus - source.vowel), 0.35 * length)
        fall = min(HOP_S * (source.after - source.nucleus), 0.25 * length)
        coda = min(HOP_S * (source.end - source.after), 0.3 * length)
        hold = start + rise, end - coda - fall
        creep = min(8.0, 0.4 * (source.after - source.nucleus))
        at += [*hold, end - coda, end]
        frames += [source.nucleus, source.nucleus + creep, source.after, source.end]
        # To and fro, lest a held vowel freeze.
        reach = min(4.0, 0.4 * (source.nucleus - source.vowel))
        ramp = np.clip(np.minimum(time - hold[0], hold[1] - time) / 0.1, 0, 1)
        sway -= ramp * reach * (1 - np.cos(2 * np.pi * 0.9 * (time - hold[0]))) / 2
    return np.interp(time, at, frames) + sway


def _loudness(singer: Singer, sounds: list[_Sound], time: Array) -> Array:
    """Amplitude over time: one while a syllable lasts; who does not sing legato lets go between them."""
    loudness = np.zeros(len(time))
    for sound, following in zip(sounds, [*sounds[1:], None], strict=True):
        closing = 0.03 if following and singer.legato else 0.07
        end = sound.end if singer.legato else sound.end - min(0.03, 0.2 * (sound.end - sound.begin))
        edges = np.minimum((time - sound.begin) / 0.02 + 1, (end - time) / closing + 1)
        loudness = np.maximum(loudness, np.clip(edges, 0, 1))
    return loudness


def _melody_hz(
    reading: Reading,
    singer: Singer,
    sounds: list[_Sound],
    source: Array,
    time: Array,
    spoken: bool,
    rng: np.random.Generator,
) -> Array:
    """Pitch over time: scoops into phrases, glides, late vibrato, drift; or speech's own course around the notes."""
    notes = [note for sound in sounds for note in sound.notes]
    starts = np.array([note.start for note in notes])
    now = np.clip(np.searchsorted(starts - 0.5 * singer.glide_s, time, "right") - 1, 0, None)
    aimed = np.array([note.key for note in notes]) + rng.normal(0, 0.06 * singer.unrest, len(notes))
    key = gaussian_filter1d(aimed[now], singer.glide_s / HOP_S)
    unrest = singer.unrest * (0.06 * _wander(len(time), 0.15, rng) + 0.02 * _wander(len(time), 0.02, rng))
    if spoken:
        pitched = np.flatnonzero(reading.hz > 0)
        course = 12 * np.log2(reading.hz[pitched] / np.median(reading.hz[pitched]))
        key += gaussian_filter1d(np.clip(np.interp(source, pitched, course), -6, 6), 2)  # octave errors are larger
    else:
        held = np.clip((time - starts[now] - 0.2) / 0.3, 0, 1)
        speed = singer.vibrato_hz + 0.2 * _wander(len(time), 0.2, rng)
        key += singer.vibrato * held * np.sin(2 * np.pi * (np.cumsum(speed) * HOP_S + rng.random()))
        for sound in sounds:
            deep = singer.scoop * (1.0 if sound is sounds[0] else rng.random() ** 2)
            since = time - sound.notes[0].start
            key -= deep * np.exp(-np.maximum(since / 0.05, -since / 0.02))
    return 440 * 2 ** ((key + unrest - 69) / 12)


def _wander(frames: int, time_s: float, rng: np.random.Generator) -> Array:
    """Smooth random course with unit variance."""
    course = gaussian_filter1d(rng.standard_normal(frames), time_s / HOP_S)
    return course / (course.std() + 1e-9)


def _rasped(sound: Array, cycles: Array, rasp: float, rng: np.random.Generator) -> Array:
    """Beat at half the pitch, as rough folds do, and soft saturation."""
    beat = 1 + rasp * np.sin(np.pi * cycles + np.cumsum(rng.normal(0, 0.004, len(sound))))
    scale = 3 * np.sqrt(np.mean(sound**2)) + 1e-9
    return np.tanh(sound * beat * (1 + rasp) / scale) * scale
