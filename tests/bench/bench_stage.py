"""Measure bleed: `python tests/bench/bench_stage.py [--channels 8] [--seconds 20] [--rate 16000] [--json]`.

CPU time of this process, one thread, median of rounds in which the programs take turns on the same stages, without
direct lines. `simulate` is what pyroomacoustics offers by itself: the same room, then a convolution for each pair.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PRA_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from statistics import median

import numpy as np
import pyroomacoustics as pra

from training.stage import Stage, bleed, random_stage, responses

ROLES = ("vocals", "acoustic guitar", "guitar", "bass", "kick", "snare", "hats", "overheads")


def cpu_s(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def simulate(stage: Stage, dry: np.ndarray, rate: int) -> np.ndarray:
    """`room.simulate()` on the same stage; what it lacks are levels, calibration and alignment."""
    room = pra.ShoeBox(stage.size, fs=rate, materials=pra.Material(stage.absorption), max_order=stage.order)
    for source, signal in zip(stage.sources, dry, strict=True):
        room.add_source(source, signal=signal)
    for at, look, p in zip(stage.microphones, stage.look, stage.pattern, strict=True):
        room.add_microphone(at, directivity=pra.directivities.CardioidFamily(look, float(p)) if p < 1 else None)
    room.simulate()
    return room.mic_array.signals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    C, rate = arguments.channels, arguments.rate
    dry = rng.standard_normal((C, int(arguments.seconds * rate))).astype(np.float32)
    programs: dict[str, Callable[[Stage], object]] = {
        "responses, pyroomacoustics": lambda stage: responses(stage, rate),
        "responses, images": lambda stage: responses(stage, rate, "images"),
        "responses + bleed, pyroomacoustics": lambda stage: bleed(dry, responses(stage, rate)),
        "responses + bleed, images": lambda stage: bleed(dry, responses(stage, rate, "images")),
        "room.simulate()": lambda stage: simulate(stage, dry, rate),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(arguments.rounds + 1):
        stage = random_stage(list(islice(cycle(ROLES), C)), rng)
        stage = replace(stage, direct=np.zeros(C, bool), level_db=np.maximum(stage.level_db, 80.0))
        for name, run in programs.items():
            spent = cpu_s(lambda run=run, stage=stage: run(stage))
            if turn:
                times[name].append(spent)
    result = {f"{name}, CPU-s": median(spent) for name, spent in times.items()}
    for backend in ("pyroomacoustics", "images"):
        ours = f"responses + bleed, {backend}"
        result[f"times less CPU than simulate, {backend}"] = median(times["room.simulate()"]) / median(times[ours])
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:50s} {value:10.4f}")


if __name__ == "__main__":
    main()
