"""Instruments that no soundfont has: plucked strings as waveguides, bows, winds and synthesizers as filtered sources.

Each call hires another player with another instrument. A lead player joins notes, bends, slides and shakes them, and
holds some with an e-bow or with feedback from the amp: sustained, gliding, and not a voice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.signal import butter, iirpeak, lfilter, resample_poly, sosfilt

from .midi import Note

Array = NDArray[np.float64]

KINDS = ("electric", "acoustic", "bass", "drone", "bowed", "blown", "synth")
MANNERS = ("comp", "lead")
PLUCKED = KINDS[:4]
PEAK = 0.5
RELEASE_S = 0.25

# Where wood and air resonate, in Hz; every instrument stands up to 15 % beside them.
BODIES = {
    "acoustic": ((105, 210, 430, 900),),
    "bowed": ((280, 460, 550, 1000, 2500, 3200), (180, 350, 600, 1400, 2100), (95, 190, 240, 470, 1500, 2000)),
    "blown": ((600, 1400, 2600), (1200, 2200), (500, 900, 2400), (800, 4000)),
}


class Run(NamedTuple):
    """Notes that one string, bow or breath plays in a row; times in seconds."""

    onsets: list[float]
    keys: list[int]
    velocities: list[int]
    end: float


class Hand(NamedTuple):
    """How a player reaches a pitch and keeps it; probabilities per note, semitones, Hz and seconds."""

    tuning: float
    join: float
    bend: float
    slide: float
    fretted: bool
    vibrato: float
    vibrato_hz: float
    vibrato_after: float
    late: float
    strum: float


def play(
    notes: Sequence[Note],
    tempo_bpm: float,
    samples: int,
    sample_rate: int,
    rng: np.random.Generator,
    kind: str,
    *,
    manner: str = "comp",
) -> NDArray[np.float32]:
    """Play a part on one instrument: (samples,), with a peak of `PEAK`.

    Parameters
    ----------
    notes : sequence of Note
        What sounds after the end is left out.
    tempo_bpm : float
    samples, sample_rate : int
    rng : numpy Generator
        Chooses player and instrument.
    kind : one of `KINDS`
    manner : {"comp", "lead"}
        A lead joins, bends and shakes notes; on an electric it holds some of them.

    Raises
    ------
    ValueError
        For an unknown kind or manner.

    >>> from training.midi import Note
    >>> play([Note(0, 1, 57, 100)], 120, 12_000, 24_000, np.random.default_rng(0), "electric").shape
    (12000,)
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if manner not in MANNERS:
        raise ValueError(f"manner must be one of {', '.join(MANNERS)}, got {manner!r}")
    # Twice the rate: edges of saws alias an octave later, and interpolated strings keep their treble.
    over = 2 if sample_rate < 32_000 else 1
    rate = over * sample_rate
    hand = _hand(kind, manner, rng)
    runs = _runs(notes, 60 / tempo_bpm, hand, rng)
    out = np.zeros(over * samples)
    (_pluck if kind in PLUCKED else _blow)(runs, hand, kind, manner, rate, rng, out)
    for frequency in BODIES[kind][rng.integers(len(BODIES[kind]))] if kind in BODIES else ():
        centre = min(frequency * rng.uniform(0.85, 1.15), 0.4 * rate)
        out = out + rng.uniform(0.4, 2.5) * _resonance(out, centre, rng.uniform(2, 7), rate)
    if over > 1:
        out = resample_poly(out, 1, over)
    peak = np.max(np.abs(out), initial=0.0)
    return (out * (PEAK / peak) if peak > 1e-9 else np.zeros(samples)).astype(np.float32)


def _resonance(x: Array, frequency: float, q: float, rate: int) -> Array:
    b, a = iirpeak(frequency, q, fs=rate)
    return np.asarray(lfilter(b, a, x))


def _hand(kind: str, manner: str, rng: np.random.Generator) -> Hand:
    lead = manner == "lead" or kind == "drone"
    string = kind in PLUCKED
    breath = kind in ("bowed", "blown")
    return Hand(
        tuning=float(np.clip(rng.normal(0, 0.03), -0.08, 0.08)),
        join=rng.uniform(0.2, 0.8) if lead else rng.uniform(0, 0.4) * breath,
        bend=rng.uniform(0, 0.5) * lead * string,
        slide=rng.uniform(0, 0.4) * lead + rng.uniform(0, 0.3) * breath,
        fretted=kind in ("electric", "acoustic", "bass") and bool(rng.random() < 0.8),
        vibrato=rng.uniform(0.05, 0.6) if lead else rng.uniform(0, 0.25) * breath,
        vibrato_hz=rng.uniform(3.8, 6.8),
        vibrato_after=rng.uniform(0.05, 0.5),
        late=rng.uniform(0.001, 0.012),
        strum=rng.uniform(0.002, 0.022) if string else 0.002,
    )


def _runs(notes: Sequence[Note], beat: float, hand: Hand, rng: np.random.Generator) -> list[Run]:
    """Join what one hand would join: notes that follow each other without a gap and lie near."""
    runs: list[Run] = []
    start, strum = -1.0, 0.0
    for note in sorted(notes):
        strum = strum + hand.strum if note.start == start else 0.0
        start = note.start
        begin, end = start * beat, (start + note.length) * beat
        last = runs[-1] if runs else None
        near = last is not None and abs(begin - last.end) < 0.04 and 0 < abs(note.key - last.keys[-1]) <= 7
        if last is not None and near and rng.random() < hand.join:
            onsets = [*last.onsets, max(begin, last.onsets[-1])]
            runs[-1] = Run(onsets, [*last.keys, note.key], [*last.velocities, note.velocity], end)
        else:
            begin = max(0.0, begin + strum + rng.normal(0, hand.late))
            runs.append(Run([begin], [note.key], [note.velocity], max(end, begin + 0.03)))
    return runs


def _pitch(run: Run, length: int, rate: int, hand: Hand, rng: np.random.Generator, highest: float) -> Array:
    """Frequency in Hz over a run, (length,)."""
    time = np.arange(length) / rate
    key = np.full(length, run.keys[0] + hand.tuning)
    onsets = np.array(run.onsets) - run.onsets[0]
    ends = np.append(onsets[1:], run.end - run.onsets[0])
    for k, (onset, end) in enumerate(zip(onsets, ends, strict=True)):
        slides = rng.random() < hand.slide
        step = run.keys[k] - run.keys[k - 1] if k else 0
        if not k and slides:  # from nowhere
            step = -rng.integers(2, 6)
            key -= step
        if step:
            moved = step * _rise(time, onset, rng.uniform(0.06, 0.2) if slides else 0.012)
            key += np.round(moved) * 0.7 + moved * 0.3 if slides and hand.fretted else moved
        if end - onset > 0.3:
            if rng.random() < hand.bend:
                bent = _rise(time, onset + rng.uniform(0, 0.12), rng.uniform(0.07, 0.3))
                # Up to the note from below, or away from it and back.
                back = _rise(time, onset + rng.uniform(0.4, 0.8) * (end - onset), 0.15) if rng.random() < 0.3 else 1.0
                key += rng.integers(1, 3) * (bent - back) * (time >= onset) * (time < end)
            depth = hand.vibrato * rng.uniform(0, 1) * _rise(time, onset + hand.vibrato_after, 0.3) * (time < end)
            swing = np.sin(2 * np.pi * hand.vibrato_hz * rng.uniform(0.9, 1.1) * (time - onset))
            # A finger can only stretch a fretted string: its vibrato lies above the note.
            key += depth * (0.5 + 0.5 * swing if hand.fretted else swing)
    return np.clip(440 * 2 ** ((key - 69) / 12), 20.0, highest)


def _rise(time: Array, start: float, duration: float) -> Array:
    """From 0 to 1 without a corner."""
    part = np.clip((time - start) / duration, 0, 1)
    return part * part * (3 - 2 * part)


def _pluck(
    runs: list[Run], hand: Hand, kind: str, manner: str, rate: int, rng: np.random.Generator, out: Array
) -> None:
    """Strings of one instrument, then its pickup."""
    ring_s = rng.uniform(1.5, 5) if kind == "acoustic" else rng.uniform(4, 12)
    damping = rng.uniform(0.01, 0.25) * (0.5 if kind == "drone" else 1)
    pick, pickup = rng.uniform(0.06, 0.3), rng.uniform(0.07, 0.3)
    click_s, rattle = rng.uniform(0.1, 0.5) * 1e-3, rng.uniform(0.02, 0.3)
    muting = rng.choice([0, 0, 0.3, 0.9]) if kind in ("electric", "bass") and manner == "comp" else 0.0
    holding = 1.0 if kind == "drone" else rng.uniform(0, 0.7) * (kind == "electric" and manner == "lead")
    line = np.empty(1 << math.ceil(math.log2(rate / 20 + 8)))
    for run in runs:
        start = round(run.onsets[0] * rate)
        release = round((run.end - run.onsets[0]) * rate)
        length = min(release + round(RELEASE_S * rate), len(out) - start)
        if length < 2:
            continue
        pitch = _pitch(run, length, rate, hand, rng, rate / 8)
        force = np.zeros(length)
        for k, (onset, velocity) in enumerate(zip(run.onsets, run.velocities, strict=True)):
            at = round((onset - run.onsets[0]) * rate)
            if at >= length:
                break
            # Joined notes are picked again, or only hammered.
            hit = (velocity / 100) ** 1.5 * (1.0 if k == 0 or rng.random() < 0.4 else 0.25)
            click = hit * _click(rate / pitch[at], click_s * rate * 100 / max(velocity, 1), rattle, pick, rng)
            force[at : at + len(click)] += click[: length - at]
        muted = rng.random() < muting
        decay_s = rng.uniform(0.08, 0.35) if muted else ring_s * (150 / pitch[0]) ** 0.3
        damped = min(0.5, damping + 0.2 * muted)
        loops = np.array([10 ** (-3 / (pitch[0] * decay_s)), 10 ** (-3 / (pitch[0] * 0.06))])
        harmonic, drive, wait = 1, 0.0, 0
        if run.end - run.onsets[0] > 0.5 and rng.random() < holding:
            if rng.random() < 0.4:  # The amp answers, in an octave or a fifth above it that the pickup hears.
                harmonic = rng.choice([h for h in (2, 3, 4) if abs(math.sin(math.pi * h * pickup)) > 0.5])
                wait = round(rng.uniform(0.2, 1.0) * rate)
            kept = loops[0] * (1 - damped * (1 - math.cos(2 * math.pi * harmonic * pitch.max() / rate)))
            drive = 0.06 + 2 * (1 / kept - 1)
        target = 0.3 * (run.velocities[0] / 100) ** 3
        line[:] = 0.0
        string = (force, rate / pitch, loops, release, damped, pickup)
        _vibrate(*string, float(harmonic), drive, target, wait, rate, line, out[start : start + length])
    low = {"acoustic": 8000.0, "bass": rng.uniform(700, 5000)}.get(kind, rng.uniform(1800, 5500))
    resonance = rng.uniform(0.5, 3) if kind in ("electric", "drone") else 0.0
    if resonance:
        out += resonance * _resonance(out, min(low, 0.4 * rate), 2.0, rate)
    out[:] = sosfilt(butter(2, min(low, 0.4 * rate), fs=rate, output="sos"), out)


def _click(period: float, width: float, rattle: float, pick: float, rng: np.random.Generator) -> Array:
    """Make what a pick gives a string: a bump and noise, twice, as a wave comes back inverted from the bridge.

    The comb 1 - z^(-pick period) has its zeros at the harmonics with a node under the pick.
    """
    bump = np.hanning(max(3, round(2 * width)) + 2)[1:-1]
    noise = rng.standard_normal(max(2, int(period))) * np.hanning(max(2, int(period)))
    back = max(1, round(pick * period))
    click = np.zeros(max(len(bump), len(noise)) + back)
    for at, sign in ((0, 1.0), (back, -1.0)):
        click[at : at + len(bump)] += sign * bump
        click[at : at + len(noise)] += sign * rattle * noise
    return click * math.sqrt(period / np.sum(click**2))


# The string. Two travelling waves in one loop (Karplus & Strong 1983; Jaffe & Smith, CMJ 7(2), 1983):
#   y[n] = force[n] + r (1 + k B) (d/2 w[n] + (1 - d) w[n-1] + d/2 w[n-2]),   w[n] = y(n - (P - 1)),
# P the period in samples, read between samples by a cubic (Lagrange); the three taps are symmetric, so they delay by
# exactly one sample and leave the pitch alone. r is the loss in a period. B is a band-pass, 1 with no phase at a
# harmonic: an e-bow or the amp's feedback, whose gain k falls with the power of the string until it just replaces the
# losses. A pickup at the part p of the string hears y[n] - y(n - p P).
@njit(cache=True, nogil=True)
def _vibrate(force, period, loops, release, damping, pickup, harmonic, drive, target, wait, rate, line, out):
    mask = len(line) - 1
    w1 = w2 = power = s1 = s2 = 0.0
    slow = 1.0 / (0.03 * rate)
    swell = 1.0 / (0.4 * rate)
    q = 0.7
    for n in range(len(out)):
        delay = max(period[n] - 1.0, 2.0)
        whole = int(delay)
        t = delay - whole
        a = line[(n - whole + 1) & mask]
        b = line[(n - whole) & mask]
        c = line[(n - whole - 1) & mask]
        d = line[(n - whole - 2) & mask]
        w = (
            -a * t * (t - 1) * (t - 2) / 6
            + b * (t + 1) * (t - 1) * (t - 2) / 2
            - c * (t + 1) * t * (t - 2) / 2
            + d * (t + 1) * t * (t - 1) / 6
        )
        s = (1.0 - damping) * w1 + 0.5 * damping * (w + w2)
        w2 = w1
        w1 = w
        if drive > 0.0:
            g = math.tan(math.pi * min(harmonic / period[n], 0.45))
            band = (g * (s - s2) + s1) / (1.0 + g * (g + q))
            low = s2 + g * band
            s1 = 2.0 * band - s1
            s2 = 2.0 * low - s2
            if wait <= n < release:
                s += drive * min(1.0, (n - wait) * swell) * max(0.0, 1.0 - power / target) * q * band
        y = force[n] + (loops[0] if n < release else loops[1]) * s
        line[n & mask] = y
        power += slow * (y * y - power)
        back = pickup * period[n]
        whole = int(back)
        t = back - whole
        out[n] += y - (1.0 - t) * line[(n - whole) & mask] - t * line[(n - whole - 1) & mask]


def _blow(runs: list[Run], hand: Hand, kind: str, manner: str, rate: int, rng: np.random.Generator, out: Array) -> None:
    """Whatever is driven as long as it sounds: bows, winds, oscillators."""
    lead = manner == "lead"
    if kind == "synth":
        attack = rng.uniform(0.003, 0.03) if lead or rng.random() < 0.5 else rng.uniform(0.1, 0.6)
        detunes = rng.normal(0, rng.uniform(0.02, 0.12), 1 if rng.random() < 0.3 else rng.integers(2, 4))
        pulse, width = rng.choice([0.0, 1.0, rng.uniform()]), rng.uniform(0.15, 0.5)
        breath, scratch, bright, q = 0.0, 0.0, rng.uniform(1, 12), rng.uniform(0.25, 1.6)
    else:
        bowed = kind == "bowed"
        attack, detunes = rng.uniform(0.02, 0.12), np.zeros(1) if lead or not bowed else rng.normal(0, 0.05, 2)
        pulse, width = (0.0, 0.5) if bowed else (rng.choice([0.0, rng.uniform(0, 0.9)]), rng.uniform(0.2, 0.5))
        breath, scratch = rng.uniform(0.005, 0.06), rng.uniform(0, 0.6)
        bright, q = rng.uniform(8, 25) if bowed else rng.uniform(1, 12), 1.4
    release_s = rng.uniform(0.03, RELEASE_S)
    sweep, floor = rng.uniform(-0.5, 0.8) * (kind == "synth"), rng.uniform(0.3, 1)
    ratio, index = rng.choice([1, 2, 3, 0.5]), rng.uniform(0.5, 4)
    fm = kind == "synth" and rng.random() < 0.25
    for run in runs:
        start = round(run.onsets[0] * rate)
        held = run.end - run.onsets[0]
        length = min(round((held + release_s) * rate), len(out) - start)
        if length < 2:
            continue
        pitch = _pitch(run, length, rate, hand, rng, rate / 8)
        time = np.arange(length) / rate
        level = _rise(time, 0, min(attack, 0.5 * held)) * (1 - _rise(time, held, release_s))
        level *= 1 + rng.uniform(-0.2, 0.4) * np.sin(np.pi * np.clip(time / held, 0, 1))
        for onset in np.array(run.onsets[1:]) - run.onsets[0]:
            level *= 1 - rng.uniform(0.1, 0.7) * np.exp(-(((time - onset) / 0.02) ** 2))
        level *= (run.velocities[0] / 100) ** 1.3
        # Harmonics grow with the level; a synthesizer's with its own envelope.
        cutoff = pitch * (1 + bright * (level if not sweep else floor + sweep * np.exp(-time / (2 * attack + 0.1))))
        cutoff = np.clip(cutoff, 60.0, 0.4 * rate)
        air = rng.standard_normal(length) * (breath + breath * 6 * scratch * np.exp(-time / 0.05))
        for detune in detunes:
            cycles = pitch * 2 ** (detune / 12) / rate
            if fm:
                phase = 2 * np.pi * (np.cumsum(cycles) + rng.random())
                out[start : start + length] += level * np.sin(phase + index * level * np.sin(ratio * phase))
            else:
                _oscillate(
                    cycles, cutoff / rate, level, air, pulse, width, q, rng.random(), out[start : start + length]
                )


# An oscillator and its filter. A saw 2p - 1 whose step is rounded over a sample on either side (PolyBLEP, Välimäki &
# Huovilainen, IEEE SPM 24(2), 2007), minus `pulse` times the same saw `width` of a period later: a rectangle for
# pulse 1. Then the low-pass of a state variable filter (trapezoidal, Zavalishin, 2012), damping q = 1/Q.
@njit(cache=True, nogil=True)
def _oscillate(cycles, cutoff, level, air, pulse, width, q, phase, out):
    s1 = s2 = 0.0
    for n in range(len(out)):
        step = cycles[n]
        phase += step
        phase -= math.floor(phase)
        x = air[n] + _saw(phase, step)
        if pulse > 0.0:
            later = phase + width
            x -= pulse * _saw(later - math.floor(later), step)
        g = math.tan(math.pi * cutoff[n])
        band = (g * (x - s2) + s1) / (1.0 + g * (g + q))
        low = s2 + g * band
        s1 = 2.0 * band - s1
        s2 = 2.0 * low - s2
        out[n] += level[n] * low


@njit(cache=True, nogil=True)
def _saw(phase, step):
    x = 2.0 * phase - 1.0
    if phase < step:
        t = phase / step - 1.0
        x += t * t
    elif phase > 1.0 - step:
        t = (phase - 1.0) / step + 1.0
        x -= t * t
    return x
