"""Measure how fast the soundcheck environment steps: `python tests/bench/bench_solar_env.py [--json]`.

CPU time of this process, one thread, the median of five rounds in turn, each of 20 000 steps, reset every 60, from
a table that is full: made by `gymnasium.make` with its wrappers, bare, and 64 at once. One second of a song for all
151 gains is what filling the table costs; `exact` computes each step from the sound.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import gymnasium
import numpy as np

STEPS = 20_000


def episodes(env: gymnasium.Env, steps: int) -> Callable[[], int]:
    def run() -> int:
        done = 0
        while done < steps:
            env.reset(seed=done)
            over = False
            while not over:
                over = env.step(done % 3)[3]
                done += 1
        return done

    return run


def many(envs: gymnasium.vector.VectorEnv) -> Callable[[], int]:
    actions = np.arange(envs.num_envs) % 3

    def run() -> int:
        envs.reset(seed=0)
        for _ in range(STEPS // envs.num_envs):
            envs.step(actions)
        return STEPS // envs.num_envs * envs.num_envs

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    made = gymnasium.make("solar:Soundcheck-v0")
    stage = made.unwrapped.stage
    start = time.process_time()
    stage.fill()
    fill_ms = 1e3 * (time.process_time() - start) / len(stage.performance)
    envs = gymnasium.make_vec("solar:Soundcheck-v0", 64, "vector_entry_point")
    envs.unwrapped.stage = stage
    exact = gymnasium.make("solar:Soundcheck-v0", exact=True)
    programs = {
        "made": episodes(made, STEPS),
        "bare": episodes(made.unwrapped, STEPS),
        "64 at once": many(envs),
        "exact": episodes(exact.unwrapped, 60),
    }
    rates = {name: [] for name in programs}
    for _ in range(5):
        for name, run in programs.items():
            start = time.process_time()
            done = run()
            rates[name].append(done / (time.process_time() - start))
    result = {f"{name}, steps per second": median(found) for name, found in rates.items()}
    result["filling, ms per second of a song"] = fill_ms
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:36s} {value:12.0f}")


if __name__ == "__main__":
    main()
