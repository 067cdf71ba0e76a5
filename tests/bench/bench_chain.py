"""Measure a `Chain` against `pedalboard.Pedalboard`: `python tests/bench/bench_chain.py [--rounds 41] [--json]`.

Eight strips of high-pass, compressor and gain, mono, 48 kHz, a stream of blocks of 128 samples. CPU time of this
process, one thread, medians of rounds in which the programs take turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from pedalboard import Compressor, Gain, HighpassFilter, Pedalboard

from alm_plugin import Chain

RATE, BLOCK, STRIPS = 48_000, 128, 8
MOST = 1.5


def plugins() -> list:
    return [HighpassFilter(90), Compressor(-18, 3), Gain(-3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    blocks = int(arguments.seconds * RATE / BLOCK)
    x = (0.1 * np.random.default_rng(0).standard_normal((blocks, STRIPS, BLOCK))).astype(np.float32)
    fade = {"2.gain_db": np.linspace(-6.0, 0.0, BLOCK)}
    boards = [Pedalboard(plugins()) for _ in range(STRIPS)]
    chains, moved = ([Chain(plugins()) for _ in range(STRIPS)] for _ in range(2))

    def play(nodes: list, **options: object) -> Callable[[], object]:
        def run() -> None:
            for block in x:
                for node, channel in zip(nodes, block, strict=True):
                    node(channel, RATE, reset=False, **options)

        return run

    programs = {
        "Pedalboard": play(boards),
        "Chain": play(chains),
        "Chain, gain automated": play(moved, automation=fade),
    }
    spent: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(arguments.rounds + 1):
        for name, run in programs.items():
            start = time.process_time()
            run()
            if turn:
                spent[name].append(time.process_time() - start)
    times = {name: median(rounds) for name, rounds in spent.items()}
    result = {f"{name}, us per block of {STRIPS}": 1e6 * s / blocks for name, s in times.items()}
    result["Chain over Pedalboard"] = times["Chain"] / times["Pedalboard"]
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:45s} {value:8.2f}")
    print(f"asked: at most {MOST}")


if __name__ == "__main__":
    main()
