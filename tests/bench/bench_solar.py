"""Measure SoLAR's dominance: `python tests/bench/bench_solar.py [--rounds 5] [--json]`.

60 s of four stems at 44.1 kHz. The straightforward loop is what a reader of the paper's section 4.1 writes: for each
second and band a percentile over the stems' amplitudes, for each stem a count of what is above it, and a division;
before that, an STFT. Ours is `dominance` on the same powers, and `map_stems` for everything from samples to shares,
band powers and who plays. The FFTs alone are scipy's, of 32-bit floats: no window, no power, nothing else. CPU time of
this process, one thread, the least of rounds in which the programs take turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time

import numpy as np
from scipy.fft import rfft
from scipy.signal import stft

from solar.bands import BARK_HZ, N_BINS
from solar.dominance import dominance
from solar.mix_map import map_stems
from solar.songs import compose

RATE, SECONDS = 44_100, 60
LEAST, MOST = 20.0, 2.0


def amplitudes_of(stems: np.ndarray) -> np.ndarray:
    """(stems, bins, seconds)."""
    return np.abs([stft(stem, RATE, "hann", RATE, 0, boundary=None, padded=False)[2] for stem in stems])


def straightforward(amplitudes: np.ndarray) -> np.ndarray:
    """Section 4.1: (seconds, 24, stems)."""
    out = np.zeros((amplitudes.shape[2], 24, len(amplitudes)))
    for second in range(len(out)):
        for band in range(24):
            part = amplitudes[:, BARK_HZ[band] : BARK_HZ[band + 1], second]
            threshold = np.percentile(part, 95)
            counts = []
            for stem in part:
                count = 0
                for amplitude in stem:
                    if amplitude > threshold:
                        count += 1
                counts.append(count)
            if sum(counts):
                out[second, band] = np.array(counts) / sum(counts)
    return out


def transforms(stems: np.ndarray) -> None:
    for second in range(SECONDS):
        rfft(stems[:, second * RATE : (second + 1) * RATE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stems = np.stack(list(compose("a", SECONDS, sample_rate=RATE).values()))
    amplitudes = amplitudes_of(stems)
    powers = np.ascontiguousarray(np.square(amplitudes[:, :N_BINS]).transpose(2, 0, 1), np.float32)
    programs = {
        "FFTs alone": lambda: transforms(stems),
        "map_stems": lambda: map_stems(stems, RATE),
        "dominance": lambda: [dominance(power) for power in powers],
        "straightforward STFT": lambda: amplitudes_of(stems),
        "straightforward loop": lambda: straightforward(amplitudes),
    }
    unlike = np.abs(straightforward(amplitudes) - map_stems(stems, RATE).dominance)
    spent: dict[str, float] = {}
    for turn in range(arguments.rounds + 1):
        for name, run in programs.items():
            start = time.process_time()
            run()
            if turn:
                spent[name] = min(spent.get(name, np.inf), time.process_time() - start)
    whole = spent["straightforward STFT"] + spent["straightforward loop"]
    result = {f"{name}, ms": 1e3 * s for name, s in spent.items()}
    result["straightforward loop over dominance"] = spent["straightforward loop"] / spent["dominance"]
    result["straightforward STFT and loop over map_stems"] = whole / spent["map_stems"]
    result["map_stems over FFTs alone"] = spent["map_stems"] / spent["FFTs alone"]
    result["share of bands that differ"] = float((unlike.max(axis=2) > 1e-9).mean())
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:46s} {value:10.4f}")
    print(f"asked: loop over dominance at least {LEAST:g}, map_stems over FFTs at most {MOST:g}")


if __name__ == "__main__":
    main()
