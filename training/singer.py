"""A singer: flite speaks the words on one pitch, a source-filter model sings them on the notes.

Speech on a constant, known pitch needs no pitch tracker, and flite tells where each phone ends. What is left of a
vocoder is small: spectral envelopes, a map from song time to speech time, a pulse train on the melody, and noise.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from .midi import find_program

Array = NDArray[np.float64]

VOICE = "slt"
SPEECH_HZ = 120.0
"""Low, because an envelope is seen only where the harmonics are."""

HOP_S = 0.005
FFT = 2048
BREATH_S = 0.3

VOWELS = frozenset(["aa", "ae", "ah", "ao", "aw", "ax", "ay", "eh", "er", "ey", "ih", "iy", "ow", "oy", "uh", "uw"])
DIPHTHONGS = frozenset(["aw", "ay", "ey", "ow", "oy"])
UNVOICED = frozenset(["pau", "p", "t", "k", "f", "th", "s", "sh", "ch", "hh"])
BUZZING = frozenset(["v", "z", "dh", "zh", "jh"])


class Sung(NamedTuple):
    """One sung note; times in seconds, key as in MIDI, a syllable each."""

    start: float
    end: float
    key: float


class Speech(NamedTuple):
    """Spoken words: log power envelopes (frames, bins) every `HOP_S`, phones and their bounds in seconds."""

    envelopes: Array
    phones: list[str]
    bounds: Array


def speak(words: str, sample_rate: int) -> Speech:
    """Have flite speak on one pitch, and take the envelopes on the bins of an FFT of size `FFT` at `sample_rate`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "words.wav")
        pitch = ["--setf", f"int_f0_target_mean={SPEECH_HZ}", "--setf", "int_f0_target_stddev=0"]
        command = [find_program("flite"), "-voice", VOICE, *pitch, "-psdur", "-t", words, "-o", str(path)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
        speech, speech_rate = soundfile.read(path)
    speech = np.asarray(speech, np.float64)
    phones, ends = zip(*(item.split(":") for item in told.split()), strict=True)
    narrow = envelopes(speech, speech_rate, SPEECH_HZ)
    grid = np.fft.rfftfreq(FFT, 1 / sample_rate)
    edge = 0.4 * speech_rate
    known = np.linspace(0, speech_rate / 2, narrow.shape[1])
    # flite ends below 8 kHz; a voice goes on, falling 2 dB per kHz.
    falling = np.maximum(0.0, grid - edge) / 1000 * 0.5
    wide = np.stack([np.interp(np.minimum(grid, edge), known, row) - falling for row in narrow])
    return Speech(wide, list(phones), np.array([0.0, *map(float, ends)]))


def envelopes(x: Array, sample_rate: int, pitch_hz: float, fft: int = 1024) -> Array:
    """Log power envelopes of a sound of constant pitch, (frames, bins).

    CheapTrick (Morise, Speech Communication 67, 2015): a window of three periods makes the power independent of its
    position, a smoothing over 2/3 of the pitch fills the gaps between harmonics, a lifter takes off what is left of
    them and undoes the smoothing.
    """
    window = np.hanning(int(3 * sample_rate / pitch_hz))
    window /= np.sqrt(np.sum(window**2))
    hop = round(HOP_S * sample_rate)
    padded = np.pad(x, (len(window) // 2, len(window)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[: len(x) : hop]
    power = np.abs(np.fft.rfft(frames * window, fft)) ** 2
    lag = np.minimum(np.arange(fft), fft - np.arange(fft)) / sample_rate
    smooth = np.fft.rfft(np.fft.irfft(power) * np.sinc(2 / 3 * pitch_hz * lag)).real
    lifter = np.sinc(pitch_hz * lag) * (1.18 - 0.18 * np.cos(2 * np.pi * pitch_hz * lag))
    return np.fft.rfft(np.fft.irfft(np.log(np.maximum(smooth, 1e-10))) * lifter).real


def sing(words: str, notes: Sequence[Sung], samples: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Sing a phrase in one breath, a syllable a note: (samples,).

    Raises
    ------
    ValueError
        When there is not one note for each vowel.
    """
    speech = speak(words, sample_rate)
    if sum(phone in VOWELS for phone in speech.phones) != len(notes):
        raise ValueError(f"{words!r} must have a note for each vowel of {' '.join(speech.phones)}, got {len(notes)}")
    time = np.arange(0, samples / sample_rate, HOP_S)
    source, amplitude, breath = _spoken_at(speech, notes, time)
    source = source + 0.004 * _wander(len(time), 0.1, rng)
    amplitude = amplitude * (1 + 0.06 * _wander(len(time), 0.04, rng))

    frame = np.clip(source / HOP_S, 0, len(speech.envelopes) - 1.001)
    low, part = frame.astype(int), (frame % 1.0)[:, None]
    shape = speech.envelopes[low] * (1 - part) + speech.envelopes[low + 1] * part
    # The singer's formant near 3 kHz and less bass: a voice that means to be heard.
    grid = np.fft.rfftfreq(FFT, 1 / sample_rate)
    shape += 0.9 * np.exp(-(((grid - 3100) / 900) ** 2)) + 0.5 * np.log(np.clip(grid, 60, 900) / 900)
    shape += 2 * np.log(np.maximum(amplitude, 1e-5))[:, None]

    # Noise's share of the power: a little in vowels, more with frequency; hiss above a buzz; all of it in the rest.
    vowel = 10 ** (np.clip(-38 + 34 * grid / 8000, -38, -1) / 10)
    buzz = 1 / (1 + (2200 / np.maximum(grid, 1)) ** 6)
    kind = np.array([2 if p in UNVOICED else 1 if p in BUZZING else 0 for p in speech.phones])
    kind = kind[np.clip(np.searchsorted(speech.bounds, source, "right") - 1, 0, len(kind) - 1)]
    # Never below 700 Hz: there a voice is heard through its consonants.
    audible = 1 / (1 + (700 / np.maximum(grid, 1)) ** 6)
    noise = (audible * np.stack([vowel, buzz, np.ones_like(grid)]))[kind]
    noise[breath] = 1
    noise = gaussian_filter1d(noise, 1.0, axis=0)
    return _sound(shape, noise, _melody_hz(notes, time, rng), samples, sample_rate, rng)


def _spoken_at(speech: Speech, notes: Sequence[Sung], time: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Time in the speech that sounds at each `time`, its amplitude, and where breath is taken.

    Vowels begin on their notes and are stretched in the middle; the consonants before them keep their speed and take
    their time from the vowel before. Diphthongs stay on their first sound.
    """
    vowels = [k for k, phone in enumerate(speech.phones) if phone in VOWELS]
    begin, end = speech.bounds[vowels], speech.bounds[np.add(vowels, 1)]
    first, last = speech.bounds[1], speech.bounds[-2]  # the rest is pause
    start = np.array([note.start for note in notes])
    consonants = np.append(begin, last) - np.append(first, end)
    consonants[1:-1] = np.minimum(consonants[1:-1], 0.5 * np.diff(start))
    stop = np.append(start[1:] - consonants[1:-1], notes[-1].end)

    sung, spoken = [start[0] - consonants[0]], [first]
    for k, a, b, x, y in zip(vowels, start, stop, begin, end, strict=True):
        hold = 0.45 if speech.phones[k] in DIPHTHONGS else 0.65
        edge = min(0.08, 0.3 * (b - a))
        sung += [a, a + edge, b - edge, b]
        spoken += [x, x + 0.35 * (y - x), x + hold * (y - x), y]
    sung.append(stop[-1] + consonants[-1])
    spoken.append(last)
    source = np.interp(time, sung, spoken)
    amplitude = np.interp(
        time,
        [sung[0] - 0.02, sung[0], stop[-1] - 0.15, stop[-1], sung[-1], sung[-1] + 0.04],
        [0, 1, 1, 0.5, 0.4, 0],
    )
    breath = (time > sung[0] - 0.05 - BREATH_S) & (time < sung[0] - 0.05)
    source[breath] = 0.5 * (begin[0] + end[0])
    amplitude[breath] = 0.03 * np.hanning(breath.sum())
    return source, amplitude, breath


def _melody_hz(notes: Sequence[Sung], time: Array, rng: np.random.Generator) -> Array:
    """Pitch over time: scoops into the phrase, glides between notes, vibrato on what is held, never quite still."""
    start = np.array([note.start for note in notes])
    now = np.clip(np.searchsorted(start, time + 0.03, "right") - 1, 0, None)
    key = gaussian_filter1d(np.array([note.key for note in notes], float)[now], 0.028 / HOP_S)
    held = np.clip((time - start[now] - 0.25) / 0.3, 0, 1)
    vibrato = 0.35 * held * np.sin(2 * np.pi * np.cumsum(5.5 + 0.25 * _wander(len(time), 0.2, rng)) * HOP_S)
    scoop = -1.0 * np.exp(-np.maximum(time - start[0] + 0.05, 0) / 0.07)
    unrest = 0.07 * _wander(len(time), 0.12, rng) + 0.03 * _wander(len(time), 0.02, rng)
    return 440 * 2 ** ((key + vibrato + scoop + unrest - 69) / 12)


def _wander(frames: int, time_s: float, rng: np.random.Generator) -> Array:
    """Smooth random course with unit variance."""
    course = gaussian_filter1d(rng.standard_normal(frames), time_s / HOP_S)
    return course / course.std()


def _sound(shape: Array, noise: Array, hz: Array, samples: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Pulses on the melody and noise, through minimum-phase filters.

    Parameters
    ----------
    shape : (frames, bins)
        Log power envelope every `HOP_S`.
    noise : (frames, bins)
        Share of noise in the power, 0 to 1.
    hz : (frames,)
        Pitch.
    """
    out = np.zeros(samples + 2 * FFT)
    frame_rate = sample_rate * HOP_S
    omega = 2 * np.pi * np.fft.rfftfreq(FFT)
    quiet = shape.max() - 16  # 70 dB under the loudest

    phase = np.cumsum(np.interp(np.arange(samples) / frame_rate, np.arange(len(hz)), hz) / sample_rate)
    whole = np.arange(1, int(phase[-1]))
    at = np.interp(whole, phase, np.arange(samples))
    # Between frames, for steps would be heard at the frame rate.
    low = np.minimum((at / frame_rate).astype(int), len(shape) - 2)
    for place, k, part in zip(at, low, at / frame_rate - low, strict=True):
        if shape[k].max() < quiet:
            continue
        voiced = 1 - (noise[k] * (1 - part) + noise[k + 1] * part)
        pulse = np.sqrt(sample_rate / hz[k] * voiced) * _minimum_phase(shape[k] * (1 - part) + shape[k + 1] * part)
        begin = int(place)
        out[begin : begin + FFT] += np.fft.irfft(pulse * np.exp(-1j * omega * (place - begin)))

    # Sine windows half overlapped: their squares, the powers of independent noises, add up to one.
    size = round(2 * frame_rate)
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
    for k in np.flatnonzero(shape.max(axis=1) >= quiet):
        hiss = np.fft.rfft(rng.standard_normal(size) * window, FFT)
        begin = round(k * frame_rate)
        out[begin : begin + FFT] += np.fft.irfft(hiss * np.sqrt(noise[k]) * _minimum_phase(shape[k]))
    return out[:samples]


def _minimum_phase(log_power: Array) -> NDArray[np.complex128]:
    """Spectrum with this log power whose energy comes as early as can be: its cepstrum has no negative times."""
    cepstrum = np.fft.irfft(0.5 * log_power)
    half = FFT // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    return np.exp(np.fft.rfft(cepstrum))
