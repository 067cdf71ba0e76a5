"""Three songs to try things on, made of nothing but numbers: drums, bass, guitar and vocals, for tests and simulations.

"a" and "b" are by one band, in other keys and tempos and with other parts. "c" is by another, whose instruments sound
otherwise. All change between sections in which all play or one or two rest, play softer and louder, and leave gaps. In
each song the stems have the same loudness, so that a balance learnt from one is right for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.loudness import IntegratedLoudness
from alm_plugin.units import db_to_factor
from solar.bands import check_rate

Audio = NDArray[np.float32]
Floats = NDArray[np.float64]

LOUDNESS_LUFS = {"drums": -20.0, "bass": -21.0, "guitar": -20.5, "vocals": -19.0}

STEPS = 16
"""Sixteenths of a bar."""

# Who plays, and how strongly.
SECTIONS = {
    "guitar": ({"guitar"}, 0.6),
    "intro": ({"drums", "bass", "guitar"}, 0.7),
    "verse": ({"drums", "bass", "guitar", "vocals"}, 0.5),
    "chorus": ({"drums", "bass", "guitar", "vocals"}, 1.0),
    "solo": ({"drums", "bass", "guitar"}, 0.9),
    "rhythm": ({"drums", "bass"}, 0.7),
    "break": ({"drums", "vocals"}, 0.5),
    "duet": ({"guitar", "vocals"}, 0.5),
    "low": ({"bass", "vocals"}, 0.4),
}
SOFT_DB = -9.0
"""How much softer strength 0 is than 1."""

# Formants in Hz, and their levels in dB: a, e, i, o, u.
VOWELS = (
    ((800, 1150, 2900, 3900, 4950), (0, -6, -32, -20, -50)),
    ((400, 1600, 2700, 3300, 4950), (0, -24, -30, -35, -60)),
    ((350, 1700, 2700, 3700, 4950), (0, -20, -30, -36, -60)),
    ((450, 800, 2830, 3800, 4950), (0, -9, -16, -28, -55)),
    ((325, 700, 2530, 3500, 4950), (0, -12, -30, -40, -64)),
)


@dataclass(frozen=True)
class _Band:
    drive: float  # of the guitar's amplifier; 0: none
    bright: float  # how slowly the strings' harmonics fall
    mouth: float  # formants relative to those of `VOWELS`
    voice: int  # MIDI note in whose octave the vocals sing
    drums: float  # pitch of the drums


@dataclass(frozen=True)
class _Song:
    band: _Band
    bpm: float
    root: int  # MIDI note of the bass
    scale: tuple[int, ...]
    verse: tuple[int, ...]  # degrees of the scale, a bar each
    chorus: tuple[int, ...]
    order: tuple[tuple[str, int], ...]  # sections and their bars


MINOR, MAJOR = (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 5, 7, 9, 11)
_LOUD = _Band(drive=9.0, bright=0.75, mouth=1.0, voice=55, drums=1.0)
_CLEAN = _Band(drive=0.0, bright=0.5, mouth=1.17, voice=64, drums=1.25)
_SONGS = {
    "a": _Song(
        _LOUD, 112.0, 40, MINOR, (0, 5, 2, 6), (5, 6, 0, 0),
        (("guitar", 4), ("intro", 4), ("verse", 12), ("chorus", 8), ("rhythm", 5), ("verse", 8), ("chorus", 8),
         ("solo", 10), ("break", 6), ("guitar", 4), ("duet", 6), ("chorus", 8), ("low", 5), ("intro", 6)),
    ),
    "b": _Song(
        _LOUD, 94.0, 45, MINOR, (0, 6, 5, 6), (0, 2, 6, 3),
        (("intro", 5), ("verse", 8), ("chorus", 8), ("duet", 4), ("verse", 8), ("solo", 8), ("rhythm", 4),
         ("chorus", 8), ("break", 4), ("guitar", 4), ("verse", 4), ("low", 4), ("chorus", 8)),
    ),
    "c": _Song(
        _CLEAN, 126.0, 38, MAJOR, (0, 4, 5, 3), (3, 0, 4, 0),
        (("duet", 4), ("verse", 12), ("chorus", 8), ("intro", 4), ("low", 5), ("verse", 12), ("chorus", 8),
         ("rhythm", 6), ("solo", 12), ("guitar", 6), ("break", 6), ("chorus", 12), ("verse", 8)),
    ),
}  # fmt: skip


def compose(which: str, seconds: float = 200.0, seed: int = 0, sample_rate: int = 44_100) -> dict[str, Audio]:
    """Make a song, always the same one from the same arguments.

    Parameters
    ----------
    which : {"a", "b", "c"}
    seconds : float
        At least 1.
    seed : int
        Of everything that is left to chance: melodies, rests, touch; not of chords, sections and instruments.
    sample_rate : int
        32000 to 192000 Hz.

    Returns
    -------
    dict of (samples,) float32
        Drums, bass, guitar and vocals, at -20, -21, -20.5 and -19 LUFS if `seconds` are enough for each to be heard.

    Raises
    ------
    ParameterError
        For another song, length or rate.

    Examples
    --------
    >>> stems = compose("b", 4.0)
    >>> {name: stem.shape for name, stem in stems.items()}["bass"]
    (176400,)
    """
    if which not in _SONGS:
        raise ParameterError(f"which must be one of {', '.join(_SONGS)}, got {which!r}")
    if not 1.0 <= seconds <= 3600.0:
        raise ParameterError(f"seconds must be in [1, 3600], got {seconds}")
    rate = check_rate(sample_rate)
    song, samples = _SONGS[which], round(seconds * rate)
    players: dict[str, Callable[..., Floats]] = {"drums": _drums, "bass": _bass, "guitar": _guitar, "vocals": _vocals}
    stems = {}
    for number, (name, play) in enumerate(players.items()):
        sound = play(song, rate, samples, np.random.default_rng([seed, ord(which), number])).astype(np.float32)
        meter = IntegratedLoudness(rate, 1)
        meter.process_block(sound[None])
        if np.isfinite(meter.lufs):
            sound *= np.float32(db_to_factor(LOUDNESS_LUFS[name] - meter.lufs))
        stems[name] = sound
    return stems


# ---- score -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bar:
    start: int  # sample
    step: float  # samples of a sixteenth
    section: str
    gain: float
    chord: int  # degree of the scale


def _bars(song: _Song, name: str, rate: int, samples: int, rng: np.random.Generator) -> Iterator[_Bar]:
    """Bars in which `name` plays, with a touch that differs by some dB from bar to bar."""
    step = 60.0 / song.bpm / 4.0 * rate
    bar = 0
    while True:
        for section, bars in song.order:
            players, strength = SECTIONS[section]
            for number in range(bars):
                start = round(bar * STEPS * step)
                if start >= samples:
                    return
                gain = float(db_to_factor(SOFT_DB * (1.0 - strength) + rng.normal(0.0, 1.0)))
                chords = song.chorus if section in ("chorus", "solo") else song.verse
                if name in players:
                    yield _Bar(start, step, section, gain, chords[number % len(chords)])
                bar += 1


def _hz(song: _Song, degree: int, octave: int = 0) -> float:
    octaves, degree = divmod(degree, len(song.scale))
    return 440.0 * 2.0 ** ((song.root + song.scale[degree] - 69) / 12.0 + octaves + octave)


def _add(out: Floats, at: float, sound: Floats, gain: float) -> None:
    start = round(at)
    part = out[start : start + len(sound)]
    part += gain * sound[: len(part)]


# ---- sounds ----------------------------------------------------------------------------------------------------------

TABLE = 2048
TOP_HZ = 15_000.0


def _wave(hz: float, weights: Callable[[Floats], Floats], rng: np.random.Generator) -> Floats:
    """One period whose harmonics have the amplitudes that `weights` gives for their frequencies in Hz."""
    numbers = np.arange(1, min(int(TOP_HZ / hz), TABLE // 2 - 1) + 1)
    spectrum = np.zeros(TABLE // 2 + 1, np.complex128)
    spectrum[numbers] = weights((hz * numbers).astype(np.float64)) * np.exp(2j * np.pi * rng.random(len(numbers)))
    wave = TABLE / 2.0 * np.fft.irfft(spectrum)
    return np.append(wave, wave[0])


def _read(wave: Floats, turns: Floats) -> Floats:
    return np.interp(turns % 1.0 * TABLE, np.arange(TABLE + 1), wave)


def _between(sound: Floats, rate: int, low_hz: float, high_hz: float) -> Floats:
    """Let through what lies between two frequencies; outside it falls by 12 dB per octave."""
    f = np.fft.rfftfreq(len(sound), 1.0 / rate)
    shape = 1.0 / np.sqrt((1.0 + (f / high_hz) ** 4) * (1.0 + (low_hz / np.maximum(f, 1.0)) ** 4))
    return np.fft.irfft(np.fft.rfft(sound) * shape, len(sound))


def _fall(samples: int, rate: int, seconds: float) -> Floats:
    """Decay to 1/e in so many seconds, with a beginning and an end that do not click."""
    t = np.arange(samples) / rate
    return np.exp(-t / seconds) * np.minimum(1.0, np.minimum(t, t[::-1]) / 0.003)


def _burst(rate: int, seconds: float, low_hz: float, high_hz: float, fall_s: float, rng: np.random.Generator) -> Floats:
    samples = round(seconds * rate)
    return _between(rng.standard_normal(samples), rate, low_hz, high_hz) * _fall(samples, rate, fall_s)


def _pluck(hz: float, seconds: float, rate: int, bright: float, fall_s: float, rng: np.random.Generator) -> Floats:
    """Pluck a string: the higher its harmonics, the faster they fall."""
    samples = round(seconds * rate)
    turns = hz * np.arange(samples) / rate
    sound = np.zeros(samples)
    for low, high, fall in ((0.5, 2.5, 1.0), (2.5, 8.5, 0.5), (8.5, 1_000.0, 0.2)):

        def weights(f: Floats, low: float = low, high: float = high) -> Floats:
            return ((f > low * hz) & (f < high * hz)) * (hz / f) ** (2.0 - bright)

        sound += _read(_wave(hz, weights, rng), turns) * _fall(samples, rate, fall * fall_s)
    pick = _burst(rate, 0.02, 1_500.0, 6_000.0, 0.004, rng)[:samples]
    sound[: len(pick)] += bright * pick
    return sound


# ---- players ---------------------------------------------------------------------------------------------------------


def _drums(song: _Song, rate: int, samples: int, rng: np.random.Generator) -> Floats:
    pitch = song.band.drums
    t = np.arange(round(0.35 * rate)) / rate
    kick = np.sin(2.0 * np.pi * pitch * (48.0 * t + 3.0 * (1.0 - np.exp(-t / 0.03)))) * _fall(len(t), rate, 0.11)
    skin = np.sin(2.0 * np.pi * pitch * 185.0 * t) * _fall(len(t), rate, 0.06)
    toms = [np.sin(2.0 * np.pi * pitch * hz * t) * _fall(len(t), rate, 0.13) for hz in (130.0, 100.0, 75.0)]
    # Four of each, so that no two strokes in a row are the same.
    clicks = [_burst(rate, 0.02, 2_000.0, 6_000.0, 0.004, rng) for _ in range(4)]
    snares = [_burst(rate, 0.3, 900.0, 7_000.0 * pitch, 0.07, rng) for _ in range(4)]
    hats = [_burst(rate, 0.08, 7_000.0, 16_000.0, 0.02, rng) for _ in range(4)]
    rides = [_burst(rate, 0.7, 4_000.0 * pitch, 12_000.0, 0.2, rng) for _ in range(4)]
    crash = _burst(rate, 2.5, 2_500.0, 14_000.0, 0.7, rng)

    out = np.zeros(samples)
    pattern: tuple[set[int], set[int]] = (set(), set())
    last = ""
    for bar in _bars(song, "drums", rate, samples, rng):
        strong = bar.section in ("chorus", "solo")
        if bar.section != last:
            kicks = {0, 8, *rng.choice([3, 6, 7, 10, 11, 14], 2, replace=False)}
            ghosts = set(rng.choice([7, 9, 15], int(rng.integers(0, 3)), replace=False))
            pattern, last = (kicks, ghosts), bar.section
            if strong:
                _add(out, bar.start, crash, 0.5 * bar.gain)
        cymbals, every, level = (rides, 2, 0.22) if strong else (hats, 1 if bar.section == "rhythm" else 2, 0.3)
        is_fill = rng.random() < 0.15
        for step in range(STEPS):
            at = bar.start + step * bar.step + rng.normal(0.0, 0.003) * rate
            gain, which = bar.gain * float(db_to_factor(rng.normal(0.0, 1.5))), int(rng.integers(4))
            if at < 0.0:
                continue
            if is_fill and step >= 12:
                _add(out, at, toms[min(step - 12, 2)], 0.8 * gain)
                _add(out, at, snares[which], 0.2 * gain)
                continue
            if step in pattern[0]:
                _add(out, at, kick, gain)
                _add(out, at, clicks[which], 0.3 * gain)
            if step in (4, 12):
                _add(out, at, skin, 0.5 * gain)
                _add(out, at, snares[which], 0.6 * gain)
            elif step in pattern[1]:
                _add(out, at, snares[which], 0.12 * gain)
            if step % every == 0:
                _add(out, at, cymbals[which], level * gain * (1.0 if step % 4 == 0 else 0.6))
    return np.tanh(2.0 * out)  # as a desk's bus would, or a few strokes would tower over the rest


def _bass(song: _Song, rate: int, samples: int, rng: np.random.Generator) -> Floats:
    timbre = np.random.default_rng(1)

    @cache
    def note(degree: int, steps: int) -> Floats:
        seconds = steps * 15.0 / song.bpm
        return _pluck(_hz(song, degree), seconds, rate, 0.5 * song.band.bright, 0.9, timbre)

    out = np.zeros(samples)
    rhythms = ((2,) * 8, (4, 2, 2, 4, 4), (6, 2, 6, 2), (3, 3, 2, 3, 3, 2), (8, 4, 4))
    rhythm, last = rhythms[0], ""
    for bar in _bars(song, "bass", rate, samples, rng):
        if bar.section != last:
            rhythm, last = rhythms[int(rng.integers(len(rhythms)))], bar.section
        step = 0
        for number, steps in enumerate(rhythm):
            way = 0 if number == 0 or rng.random() < 0.6 else int(rng.choice([2, 4, -1, 7]))
            gain = bar.gain * float(db_to_factor(rng.normal(0.0, 1.0)))
            _add(out, bar.start + step * bar.step, note(bar.chord + way, steps), gain)
            step += steps
    return out


def _guitar(song: _Song, rate: int, samples: int, rng: np.random.Generator) -> Floats:
    timbre = np.random.default_rng(2)
    band = song.band

    def amplify(sound: Floats) -> Floats:
        if band.drive:
            sound = np.tanh(band.drive * sound) / 2.0
        return _between(sound, rate, 110.0, 5_000.0 if band.drive else 7_500.0)

    @cache
    def chord(degree: int, steps: int, is_muted: bool) -> Floats:
        seconds = steps * 15.0 / song.bpm
        strings = (0, 4, 7) if band.drive else (0, 2, 4, 7, 9)
        fall_s, bright = (0.09, 0.5 * band.bright) if is_muted else (1.6, band.bright)
        sound = np.zeros(round((seconds + 0.1) * rate))
        for number, string in enumerate(strings):
            _add(
                sound,
                0.008 * number * rate,
                _pluck(_hz(song, degree + string, 1), seconds, rate, bright, fall_s, timbre),
                1.0,
            )
        return amplify(sound / len(strings))

    @cache
    def lead(degree: int, steps: int) -> Floats:
        samples = round(steps * 15.0 / song.bpm * rate)
        t = np.arange(samples) / rate
        hz = _hz(song, degree, 2)
        turns = hz * t + 0.004 * hz * np.minimum(t / 0.3, 1.0) * np.sin(2.0 * np.pi * 5.5 * t) / (2.0 * np.pi * 5.5)
        wave = _wave(hz, lambda f: (hz / f) ** 1.2, timbre)
        return (1.3 if band.drive else 0.5) * amplify(_read(wave, turns) * _fall(samples, rate, 1.5))

    out = np.zeros(samples)
    degree = 7
    for bar in _bars(song, "guitar", rate, samples, rng):
        if bar.section == "verse" and rng.random() < 0.12:
            continue
        if bar.section == "solo":
            step = 0
            while step < STEPS:
                steps = int(rng.choice([1, 2, 2, 3, 4, 6]))
                degree = int(np.clip(degree + rng.integers(-3, 4), 0, 16))
                if rng.random() < 0.9:
                    _add(out, bar.start + step * bar.step, lead(degree, steps), bar.gain)
                step += steps
            continue
        long = bar.section in ("chorus", "intro")
        rhythm = [(8, False), (8, False)] if long else [(2, rng.random() < 0.6) for _ in range(8)]
        if not band.drive:
            rhythm = [(4, False), (2, False), (2, True), (4, False), (4, False)]
        step = 0
        for steps, is_muted in rhythm:
            gain = bar.gain * float(db_to_factor(rng.normal(0.0, 1.0)))
            _add(out, bar.start + step * bar.step, chord(bar.chord, steps, bool(is_muted)), gain)
            step += steps
    return out


def _vocals(song: _Song, rate: int, samples: int, rng: np.random.Generator) -> Floats:
    timbre = np.random.default_rng(3)
    sibilants = [_burst(rate, 0.11, 5_000.0, 11_000.0, 0.05, timbre) for _ in range(4)]
    breath = _between(timbre.standard_normal(4 * rate), rate, 1_500.0, 9_000.0)
    octave = round((song.band.voice - song.root) / 12)

    @cache
    def wave(degree: int, vowel: int) -> Floats:
        formants, levels_db = VOWELS[vowel]
        hz = _hz(song, degree, octave)

        def weights(f: Floats) -> Floats:
            peaks = [
                db_to_factor(level_db) / (1.0 + ((f - song.band.mouth * formant) / (60.0 + 0.04 * formant)) ** 2)
                for formant, level_db in zip(formants, levels_db, strict=True)
            ]
            return (hz / f) ** 0.6 * (np.sum(peaks, axis=0) + 0.002)

        return _wave(hz, weights, timbre)

    def sing(degree: int, vowel: int, seconds: float) -> Floats:
        samples = round(seconds * rate)
        t = np.arange(samples) / rate
        hz = _hz(song, degree, octave)
        # From a little below, then with a vibrato that grows.
        deviation = -0.03 * np.exp(-t / 0.04) + 0.008 * np.minimum(t / 0.6, 1.0) * np.sin(2.0 * np.pi * 5.3 * t)
        sound = _read(wave(degree, vowel), np.cumsum(hz * (1.0 + deviation)) / rate)
        start = int(rng.integers(len(breath) - samples)) if samples < len(breath) else 0
        air = np.resize(breath[start:], samples)
        return (sound + 0.012 * air) * np.minimum(1.0, np.minimum(t / 0.03, t[::-1] / 0.06))

    out = np.zeros(samples)
    degree, left = 2, 0
    for bar in _bars(song, "vocals", rate, samples, rng):
        left -= 1
        if left < -1 or (left < 0 and rng.random() < 0.6):
            left = int(rng.integers(2, 5))  # bars of a phrase, after one or two of rest
        if left <= 0:
            continue
        step = int(rng.choice([0, 0, 2, 4]))
        while step < STEPS:
            steps = int(rng.choice([2, 2, 3, 4, 6]))
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 9 if bar.section == "chorus" else 6))
            at = bar.start + step * bar.step
            gain = bar.gain * float(db_to_factor(rng.normal(0.0, 1.5)))
            _add(out, at, sing(degree, int(rng.integers(len(VOWELS))), steps * bar.step / rate), gain)
            if rng.random() < 0.4:
                _add(out, at, sibilants[int(rng.integers(4))], 0.1 * gain)
            step += steps + int(rng.random() < 0.3)
    return out
