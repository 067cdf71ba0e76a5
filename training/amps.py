"""Amplifiers with loudspeakers: what makes a guitar last like a voice, and yet not be one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pedalboard as pb
from numba import njit
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, resample_poly, sosfilt

from .colour import to_reference

Array = NDArray[np.float64]
Audio = NDArray[np.float32]

KINDS = ("guitar", "bass", "organ", "keys", "horn")
DRIVE_DB = {"guitar": (0, 60), "bass": (-6, 36), "organ": (-6, 36), "keys": (-6, 30), "horn": (0, 40)}
EFFECTS = ("none", "tremolo", "phaser", "chorus", "delay")
IR_S = 0.06
FFT = 8192


@dataclass(frozen=True)
class Amp:
    """An amp as its knobs stand; drive 0 dB just leaves a signal of -24 dBFS clean.

    `stages` clip one after the other and share `drive_db`; `bias` makes them asymmetric, `sag` moves the bias with the
    level; `cabinet` is an impulse response at `sample_rate`.
    """

    sample_rate: int
    low_cut_hz: float
    drive_db: float
    stages: int
    bias: float
    sag: float
    coupling_hz: float
    miller_hz: float
    tone_db: tuple[float, float, float]
    mid_hz: float
    power_db: float
    cabinet: Audio
    wah: bool
    rotary: bool
    effect: str
    noise_db: float
    gated: bool

    @classmethod
    def random(cls, rng: np.random.Generator, kind: str, sample_rate: int) -> Amp:
        """Choose an amp of one of `KINDS`."""
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        deep = kind in ("bass", "organ", "keys")
        drive_db = rng.uniform(*DRIVE_DB[kind])
        return cls(
            sample_rate=sample_rate,
            low_cut_hz=rng.uniform(20, 50) if deep else rng.uniform(60, 250),
            drive_db=drive_db,
            stages=1 + int(drive_db > rng.uniform(10, 30)) + int(drive_db > rng.uniform(25, 45)),
            bias=rng.uniform(0, 0.4),
            sag=rng.uniform(0, 0.6),
            coupling_hz=rng.uniform(10, 40) if deep else rng.uniform(20, 180),
            miller_hz=rng.uniform(5000, 14_000),
            tone_db=(rng.uniform(-8, 6), rng.uniform(-10, 8), rng.uniform(-6, 8)),
            mid_hz=rng.uniform(350, 1000),
            power_db=rng.uniform(-6, 14),
            cabinet=cabinet(sample_rate, rng, kind),
            wah=kind in ("guitar", "keys", "horn") and bool(rng.random() < 0.12),
            rotary=kind == "organ" and bool(rng.random() < 0.85),
            effect="none" if rng.random() < 0.5 else str(rng.choice(EFFECTS)),
            noise_db=rng.uniform(-100, -80) - 0.3 * max(0.0, drive_db),
            gated=drive_db > 35 and bool(rng.random() < 0.6),
        )

    def __call__(self, x: NDArray[np.floating], rng: np.random.Generator) -> Audio:
        """Play through it: (samples,), active level -24 dBFS; silence stays silence."""
        dry = to_reference(x, self.sample_rate)
        if not np.any(dry):
            return dry
        rate = self.sample_rate
        y = sosfilt(butter(1, self.low_cut_hz, "highpass", fs=rate, output="sos"), dry) + self._noise(len(dry), rng)
        if self.wah:
            y = self._wah(y, rng)
        y = self._valves(y)
        tones: list[pb.Plugin] = [
            pb.LowShelfFilter(140, self.tone_db[0], 0.7),
            pb.PeakFilter(self.mid_hz, self.tone_db[1], 0.7),
            pb.HighShelfFilter(1800, self.tone_db[2], 0.7),
        ]
        y = pb.Chain(tones)(to_reference(y, rate), rate)
        y = self._oversampled(y, [(self.power_db + 12, 0.1 * self.bias, 0.0)])
        if self.gated:
            y = y * _gate(dry, rate)
        if self.rotary:
            y = _rotary(y, rate, rng)
        y = fftconvolve(y, self.cabinet)[: len(dry)]
        return to_reference(self._modulate(y.astype(np.float32), rng), rate)

    def _noise(self, samples: int, rng: np.random.Generator) -> Array:
        """Make what the gain is going to amplify as well: hiss, and the mains with its harmonics."""
        mains = rng.choice([50, 60]) * np.arange(samples) / self.sample_rate
        hum = sum(np.sin(2 * np.pi * (k * mains + rng.random())) / k for k in (1, 2, 3, 5))
        return 10 ** (self.noise_db / 20) * (rng.standard_normal(samples) + rng.uniform(0, 1.5) * hum)

    def _wah(self, y: Array, rng: np.random.Generator) -> Array:
        time = np.arange(len(y)) / self.sample_rate
        foot = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.15, 2.0) * time + rng.uniform(0, 6))
        out = np.empty_like(y)
        _sweep(y, 400 * 5**foot / self.sample_rate, 1 / rng.uniform(2, 5), out)
        return 2 * out + 0.2 * y

    def _valves(self, y: Array) -> Array:
        share = self.drive_db / self.stages
        # Every valve inverts: the next one bends the other side.
        biases = [self.bias * (-1) ** k for k in range(self.stages)]
        return self._oversampled(y, [(share + 12 * (k == 0), bias, self.sag) for k, bias in enumerate(biases)])

    def _oversampled(self, y: NDArray[np.floating], stages: list[tuple[float, float, float]]) -> Array:
        over = 4 if self.sample_rate < 32_000 else 2
        rate = over * self.sample_rate
        fine = resample_poly(np.asarray(y, np.float64), over, 1)
        poles = 1 - np.exp(-2 * np.pi * np.array([self.coupling_hz, self.miller_hz, 8.0]) / rate)
        for gain_db, bias, sag in stages:
            _clip(fine, 10 ** (gain_db / 20), bias, sag, poles[0], poles[1], poles[2])
        return resample_poly(fine, 1, over)

    def _modulate(self, y: Audio, rng: np.random.Generator) -> Audio:
        if self.effect == "tremolo":
            swing = np.sin(2 * np.pi * rng.uniform(2.5, 8) * np.arange(len(y)) / self.sample_rate)
            return (y * (1 - rng.uniform(0.2, 0.9) * (0.5 + 0.5 * swing))).astype(np.float32)
        plugin = {
            "phaser": pb.Phaser(rng.uniform(0.1, 1.2), rng.uniform(0.3, 0.8), feedback=rng.uniform(0, 0.5)),
            "chorus": pb.Chorus(rng.uniform(0.3, 2), rng.uniform(0.1, 0.5)),
            "delay": pb.Delay(rng.uniform(0.08, 0.5), rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.4)),
        }.get(self.effect)
        return plugin(y, self.sample_rate) if plugin else y


def amplify(x: NDArray[np.floating], sample_rate: int, rng: np.random.Generator, kind: str = "guitar") -> Audio:
    """Play a track through a random amp of one of `KINDS`: (samples,), active level -24 dBFS.

    >>> amplify(np.ones(100, np.float32), 24_000, np.random.default_rng(0), "bass").shape
    (100,)
    """
    return Amp.random(rng, kind, sample_rate)(x, rng)


def cabinet(sample_rate: int, rng: np.random.Generator, kind: str = "guitar") -> Audio:
    """Impulse response of a loudspeaker in front of a microphone in a small room, with unit energy.

    Drawn as a magnitude: the resonance of the box, the break-up of the cone, a bump of presence and the steep end
    above it. Minimum phase follows from the folded cepstrum (Oppenheim & Schafer, Discrete-Time Signal Processing,
    section 13.5); the reflection from the floor and the room are added in time.
    """
    frequency = np.maximum(np.fft.rfftfreq(FFT, 1 / sample_rate), 1.0)
    octave = np.log2(frequency)

    def bump(hz: float, gain_db: float, width: float) -> Array:
        return gain_db * np.exp(-(((octave - math.log2(hz)) / width) ** 2))

    box, top, slope = rng.uniform(80, 130), rng.uniform(3800, 5600), rng.uniform(42, 80)
    if kind in ("bass", "organ", "keys"):
        box, top = rng.uniform(45, 90), rng.uniform(3500, 6000)
    db = -10 * np.log10(1 + (0.75 * box / frequency) ** 4) + bump(box, rng.uniform(2, 8), 0.4)
    db -= 10 * np.log10(1 + (frequency / top) ** (slope / 3.01))
    for _ in range(rng.integers(4, 9)):
        db += bump(400 * 7.5 ** rng.random(), rng.uniform(-8, 6), rng.uniform(0.08, 0.5))
    db += bump(rng.uniform(1800, 3600), rng.uniform(0, 8), rng.uniform(0.3, 0.6))
    cepstrum = np.fft.irfft(np.maximum(db, -90) * math.log(10) / 20)
    cepstrum[1 : FFT // 2] *= 2
    cepstrum[FFT // 2 + 1 :] = 0
    speaker = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))

    mouth = np.zeros(round(IR_S * sample_rate))
    mouth[0] = 1
    mouth[max(1, round(rng.uniform(0.1, 1.5) * 1e-3 * sample_rate))] += rng.uniform(-0.3, 0.3)
    time = np.arange(len(mouth)) / sample_rate
    room = rng.standard_normal(len(mouth)) * np.exp(-time / rng.uniform(0.004, 0.015)) * (time > 0.002)
    mouth += rng.uniform(0, 0.06) * room
    response = np.convolve(mouth, speaker[: len(mouth)])[: len(mouth)]
    response *= np.clip(5 * (1 - time / IR_S), 0, 1)
    return (response / np.sqrt(np.sum(response**2))).astype(np.float32)


# A valve, in place: x -> high-pass(low-pass(f(g x + b) - f(b))), f(u) = tanh u above zero and 1.4 tanh(u / 1.4) below,
# which has the same slope at zero and clips later on that side. The bias b moves with `sag` times the mean level, as a
# cathode charges; the coupling high-pass takes off what this leaves of DC, the Miller low-pass rounds the edges.
@njit(cache=True, nogil=True)
def _clip(x, gain, bias, sag, coupling, miller, slow):
    level = low = dc = 0.0
    for n in range(len(x)):
        u = gain * x[n]
        level += slow * (min(abs(u), 4.0) - level)
        b = bias + sag * level * 0.25
        y = _bend(u + b) - _bend(b)
        low += miller * (y - low)
        dc += coupling * (low - dc)
        x[n] = low - dc


@njit(cache=True, nogil=True)
def _bend(u):
    return math.tanh(u) if u > 0.0 else 1.4 * math.tanh(u / 1.4)


# The band-pass of a state variable filter (trapezoidal), with gain 1 at its centre.
@njit(cache=True, nogil=True)
def _sweep(x, centre, q, out):
    s1 = s2 = 0.0
    for n in range(len(x)):
        g = math.tan(math.pi * min(centre[n], 0.45))
        band = (g * (x[n] - s2) + s1) / (1.0 + g * (g + q))
        low = s2 + g * band
        s1 = 2.0 * band - s1
        s2 = 2.0 * low - s2
        out[n] = q * band


def _gate(dry: Audio, sample_rate: int) -> Array:
    """Close when the instrument, not its noise, is silent."""
    hop = round(0.01 * sample_rate)
    frames = np.pad(np.abs(dry), (0, -len(dry) % hop)).reshape(-1, hop).max(1) > 10 ** (-55 / 20)
    held = np.convolve(frames, np.ones(8))[: len(frames)] > 0
    return np.interp(np.arange(len(dry)) / hop, np.arange(len(held)), held.astype(np.float64))


def _rotary(y: Array, sample_rate: int, rng: np.random.Generator) -> Array:
    """Turn a horn: louder towards the microphone, higher while it comes; the lever is moved now and then."""
    samples = len(y)
    lever = rng.random(samples // (4 * sample_rate) + 2) < 0.5
    knots = np.repeat(np.where(lever, rng.uniform(5.5, 7.5), rng.uniform(0.6, 1.1)), 2)
    times = np.repeat(np.arange(len(lever)) * 4.0, 2)
    times[1::2] += 3.0
    speed = np.interp(np.arange(samples) / sample_rate, times, knots)
    angle = 2 * np.pi * np.cumsum(speed) / sample_rate
    distance = 0.0006 * rng.uniform(0.5, 1) * sample_rate * (1 + np.sin(angle))
    turned = np.interp(np.arange(samples) - distance, np.arange(samples), y)
    return turned * (1 + rng.uniform(0.1, 0.5) * np.cos(angle))
