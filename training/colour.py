"""A recording chain drawn at random: so that one soundfont is not one sound."""

from __future__ import annotations

import numpy as np
import pedalboard as pb
from numpy.typing import NDArray

from alm_plugin.models.roles import ROLES

Audio = NDArray[np.float32]

REFERENCE_DBFS = -24.0
FRAME_S = 0.05
ACTIVE_DB = 30.0
SILENCE = 1e-6
LIMIT = 1.4

DRUMS = frozenset(["drums", "kick", "snare", "hats", "toms", "overheads", "percussion"])
VOICES = frozenset(["vocals", "backing vocals"])
LOW = frozenset(["bass", "kick", "drums", "toms", "organ", "synth", "keys", "piano"])
DISTORTED = {
    "guitar": (0.65, 38.0),
    "bass": (0.5, 20.0),
    "synth": (0.3, 18.0),
    "organ": (0.4, 18.0),
    "keys": (0.3, 15.0),
}
"""Roles that are often played through something dirty: how often, and to how many dB of drive."""


def active_rms(x: NDArray[np.floating], sample_rate: int) -> float:
    """RMS of the frames of 50 ms that lie within 30 dB of the loudest.

    >>> active_rms(np.concatenate([np.full(4800, 0.5), np.zeros(4800)]), 24_000)
    0.5
    """
    hop = round(FRAME_S * sample_rate)
    padded = np.pad(x, (0, -len(x) % hop)).reshape(-1, hop)
    power = np.einsum("fh,fh->f", padded, padded, dtype=np.float64) / hop
    loudest = np.max(power, initial=0.0)
    return float(np.sqrt(np.mean(power[power >= loudest * 10 ** (-ACTIVE_DB / 10)]))) if loudest > 0 else 0.0


def to_reference(x: NDArray[np.floating], sample_rate: int) -> Audio:
    """Bring the active level to -24 dBFS and bend peaks above 1 to at most 1.4; silence stays silence."""
    level = active_rms(x, sample_rate)
    if level < SILENCE:
        return np.zeros(len(x), np.float32)
    y = (x * (10 ** (REFERENCE_DBFS / 20) / level)).astype(np.float32)
    knee = LIMIT - 1
    over = np.abs(y) > 1
    y[over] = np.sign(y[over]) * (1 + knee * np.tanh((np.abs(y[over]) - 1) / knee))
    return y


def colour(x: Audio, role: str, sample_rate: int, rng: np.random.Generator, *, amped: bool = False) -> Audio:
    """Record a track through a random chain: (samples,) at the reference active level.

    Parameters
    ----------
    x : ndarray, (samples,), float32
    role : one of `ROLES`
    sample_rate : int
    rng : numpy Generator
    amped : bool
        It comes out of an amp already: no more distortion.

    Raises
    ------
    ValueError
        For an unknown role.
    """
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
    if active_rms(x, sample_rate) < SILENCE:
        return np.zeros(len(x), np.float32)
    chain = _character(role, sample_rate, rng, amped) + _channel(role, sample_rate, rng)
    y = pb.Chain(chain)(to_reference(x, sample_rate), sample_rate)
    y = to_reference(y, sample_rate)
    if rng.random() < 0.5:
        hiss = 10 ** ((REFERENCE_DBFS + rng.uniform(-75, -42)) / 20)
        y += np.float32(hiss) * rng.standard_normal(len(y), np.float32)
    return to_reference(y, sample_rate)


def _character(role: str, sample_rate: int, rng: np.random.Generator, amped: bool) -> list[pb.Plugin]:
    """Choose what the source goes through before the desk: distortion, crushing, a telephone, modulation."""

    def happens(probability: float) -> bool:
        return bool(rng.random() < probability)

    top = 0.45 * sample_rate
    chain: list[pb.Plugin] = []
    often, most = DISTORTED.get(role, (0.1, 10.0))
    if role in DISTORTED and not amped and happens(often):
        # The pedal asks for the level of a line.
        chain += [pb.Gain(12), pb.PeakFilter(rng.uniform(500, 1200), rng.uniform(0, 8), 0.7)]
        chain += [pb.Distortion(rng.uniform(3, most))]
        if role in ("guitar", "bass"):
            chain += [pb.LowpassFilter(min(rng.uniform(2500, 7000), top)) for _ in range(3)]
            chain += [pb.PeakFilter(rng.uniform(1500, 3500), rng.uniform(-4, 7), 1.0)]
    elif role in DRUMS:
        if happens(0.25):  # crushed
            chain += [
                pb.Compressor(rng.uniform(-45, -30), rng.uniform(6, 20), rng.uniform(0.5, 5), rng.uniform(30, 120))
            ]
        if happens(0.3):
            chain += [pb.Gain(12), pb.Distortion(rng.uniform(2, 14))]
        if happens(0.2):
            chain += [
                pb.NoiseGate(rng.uniform(-50, -32), rng.uniform(2, 10), rng.uniform(0.5, 2), rng.uniform(40, 200))
            ]
    elif role in VOICES:
        if happens(0.5):  # the microphone is near, or far
            chain += [pb.LowShelfFilter(rng.uniform(120, 300), rng.uniform(-4, 8), 0.7)]
        if happens(0.4):  # less harsh
            chain += [pb.PeakFilter(rng.uniform(2500, 5000), rng.uniform(-8, -1), rng.uniform(1, 3))]
        if happens(0.08):  # a telephone
            chain += [pb.HighpassFilter(rng.uniform(250, 600)) for _ in range(2)]
            chain += [pb.LowpassFilter(rng.uniform(2500, 5000)) for _ in range(2)]
        if happens(0.15):
            chain += [pb.Gain(12), pb.Distortion(rng.uniform(2, 16))]
    elif not amped and happens(often):
        chain += [pb.Gain(12), pb.Distortion(rng.uniform(2, most))]
    if role not in DRUMS and happens(0.08 if role in VOICES else 0.18):
        chain.append(_modulation(rng))
    return chain


def _modulation(rng: np.random.Generator) -> pb.Plugin:
    match rng.integers(3):
        case 0:
            return pb.Chorus(rng.uniform(0.3, 2.5), rng.uniform(0.1, 0.5), mix=rng.uniform(0.2, 0.5))
        case 1:
            return pb.Phaser(rng.uniform(0.2, 1.5), rng.uniform(0.2, 0.7), mix=rng.uniform(0.2, 0.5))
        case _:
            return pb.Delay(rng.uniform(0.06, 0.45), rng.uniform(0, 0.4), rng.uniform(0.08, 0.35))


def _channel(role: str, sample_rate: int, rng: np.random.Generator) -> list[pb.Plugin]:
    """Set the desk: high-pass, three to five bands of EQ, compressor, tape, room; each only sometimes."""
    top = 0.45 * sample_rate
    chain: list[pb.Plugin] = []
    if rng.random() < 0.5:
        chain.append(pb.HighpassFilter(rng.uniform(20, 50) if role in LOW else rng.uniform(30, 160)))
    if rng.random() < 0.85:
        chain.append(pb.LowShelfFilter(rng.uniform(80, 350), rng.uniform(-9, 7), 0.7))
        chain.append(pb.HighShelfFilter(rng.uniform(1800, 6000), rng.uniform(-9, 9), 0.7))
        for _ in range(rng.integers(1, 4)):
            centre = min(float(np.exp(rng.uniform(np.log(150), np.log(7000)))), top)
            chain.append(pb.PeakFilter(centre, rng.uniform(-9, 9), rng.uniform(0.5, 3)))
    if rng.random() < 0.55:
        chain.append(
            pb.Compressor(rng.uniform(-42, -18), rng.uniform(1.5, 8), rng.uniform(0.5, 30), rng.uniform(40, 300))
        )
    if rng.random() < 0.2:
        chain += [pb.Gain(12), pb.Distortion(rng.uniform(0, 6)), pb.LowpassFilter(min(rng.uniform(6000, 16_000), top))]
    if rng.random() < (0.1 if role in ("bass", "kick") else 0.5):
        wet = rng.uniform(0.02, 0.3)
        chain.append(pb.Reverb(rng.uniform(0.02, 0.65), rng.uniform(0.2, 0.95), wet, 0.7))
    return chain
