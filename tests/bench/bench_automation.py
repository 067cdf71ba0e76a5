"""Measure the steps that automation adds: `python tests/bench/bench_automation.py [--json]`.

Ours is `Chain.process(automation=...)`, upstream's way a Python loop that sets the attribute before each block of 64 or
512 samples. On 440 Hz, 48 kHz: a gain in straight lines, up to 6 dB in 20 ms, on `pedalboard.Gain`; a threshold between
-40 and -10 dB, three times a second, on `Compressor`.

Added step: largest second difference of the output over the tone's own, because a straight line has none and a step is
one. Sidebands: the highest bin more than 200 Hz from the tone over the bound for gains in straight lines (derived in
tests/nodes/test_gain.py), in dB; below 0 is within.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
from numpy.typing import NDArray
from pedalboard import Compressor, Gain

from alm_plugin import Chain

RATE, SECONDS, FREQUENCY_HZ = 48_000, 2, 440
SAMPLES, CYCLES = RATE * SECONDS, FREQUENCY_HZ * SECONDS
FRAME, RAMP = 2_400, 960

Audio = NDArray[np.float32]


def gain_curve() -> tuple[NDArray, float]:
    """Gains in dB, one per sample, and the sum of the changes of slope of their factors."""
    moves = np.random.default_rng(5).uniform(-6.0, 6.0, SAMPLES // FRAME - 1)
    factors = 10.0 ** (np.concatenate([[0.0], np.clip(np.cumsum(moves), -12.0, 12.0)]) / 20.0)
    factors[-1] = 1.0
    at = np.arange(SAMPLES)
    part = np.minimum(at % FRAME / RAMP, 1.0)
    before = np.concatenate([[1.0], factors])[at // FRAME]
    line = before + (factors[at // FRAME] - before) * part
    return 20.0 * np.log10(line), 2.0 * np.abs(np.diff(factors)).sum() / RAMP


def upstream(plugin: Gain | Compressor, name: str, x: Audio, values: NDArray, block: int) -> Audio:
    pieces = []
    for start in range(0, x.shape[1], block):
        setattr(plugin, name, float(values[start]))
        pieces.append(plugin.process(x[:, start : start + block], RATE, block, reset=False))
    return np.concatenate(pieces, axis=1)


def ours(plugin: Gain | Compressor, name: str, x: Audio, values: NDArray) -> Audio:
    return Chain([plugin])(x, RATE, automation={f"0.{name}": values})


def step(x: Audio) -> float:
    return float(np.abs(np.diff(x[0].astype(np.float64), 2)).max())


def over_bound_db(out: Audio, slope_changes: float) -> float:
    bins = np.arange(SAMPLES // 2)

    def bound_of(m: NDArray) -> NDArray:
        return slope_changes / np.maximum(4.0 * np.sin(np.pi * m / SAMPLES) ** 2, 1e-30)

    bound = 0.5 * (bound_of(bins - CYCLES) + bound_of(bins + CYCLES)) + 4e-7 * math.sqrt(SAMPLES)
    level = np.abs(np.fft.fft(out[0].astype(np.float64))[: SAMPLES // 2])
    return float(20.0 * np.log10((level / bound)[np.abs(bins - CYCLES) >= 200 * SECONDS].max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    at = np.arange(SAMPLES)
    tone = np.sin(2 * np.pi * CYCLES * at / SAMPLES).astype(np.float32)[None]
    gains_db, slope_changes = gain_curve()
    thresholds_db = -25.0 + 15.0 * np.cos(2 * np.pi * 3 * at / RATE)
    gained = {
        "ours": ours(Gain(), "gain_db", tone, gains_db),
        "upstream, 64": upstream(Gain(), "gain_db", tone, gains_db, 64),
        "upstream, 512": upstream(Gain(), "gain_db", tone, gains_db, 512),
    }
    pressed = {
        "ours": ours(Compressor(-10, 4), "threshold_db", tone, thresholds_db),
        "upstream, 64": upstream(Compressor(-10, 4), "threshold_db", tone, thresholds_db, 64),
        "upstream, 512": upstream(Compressor(-10, 4), "threshold_db", tone, thresholds_db, 512),
    }
    loudest = tone * np.float32(10 ** (gains_db.max() / 20))
    result = {f"Gain, {name}: step over the tone's own": step(out) / step(loudest) for name, out in gained.items()}
    result |= {
        f"Gain, {name}: sidebands over the bound, dB": over_bound_db(out, slope_changes) for name, out in gained.items()
    }
    result |= {f"Compressor, {name}: step over the tone's own": step(out) / step(tone) for name, out in pressed.items()}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:60s} {value:9.3f}")


if __name__ == "__main__":
    main()
