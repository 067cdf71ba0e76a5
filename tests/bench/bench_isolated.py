"""Measure isolated plugins against the same in-process: `python tests/bench/bench_isolated.py [--seconds 4] [--json]`.

Blocks of 128 samples at 48 kHz through ZamCompX2, one and eight at a time, and a mixer of eight strips with one each,
back to back and at the driver's rate. With SCHED_FIFO, where it is allowed, this process and the child are pinned to
one core and wait for each other; without it the child answers one block later. Wall time of all plugins' blocks, in
microseconds, and its ratio to in-process under the same conditions.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

from alm_plugin import External, Mixer
from alm_plugin.nodes.external import go_live, go_offline

RATE, PRIORITY = 48_000, 40
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def together(nodes: list[External], is_mixed: bool) -> Callable[[np.ndarray], object]:
    """What sends a block through all of these plugins."""
    if is_mixed:
        mixer = Mixer({str(k): [node] for k, node in enumerate(nodes)}, model="unity")
        return lambda x: mixer.process(dict.fromkeys(mixer, x), RATE, reset=False)
    for node in nodes:
        node.prepare(RATE, 2)
    if sandbox := nodes[0].sandbox:
        return lambda x: sandbox.process_many([(node, x) for node in nodes], RATE)
    return lambda x: [node.process_block(x, RATE) for node in nodes]


def play(nodes: list[External], blocks: int, samples: int, is_paced: bool, is_mixed: bool) -> np.ndarray:
    """Seconds that each block took."""
    rng = np.random.default_rng(0)
    xs = (0.1 * rng.standard_normal((64, 2, samples))).astype(np.float32)
    process, sandbox = together(nodes, is_mixed), nodes[0].sandbox
    took = np.empty(blocks)
    period_s = samples / RATE
    due = time.perf_counter()
    for k in range(blocks):
        x = xs[k % len(xs)]
        if is_paced:
            due = max(due + period_s, time.perf_counter() - period_s)
            time.sleep(max(0.0, due - time.perf_counter()))
        late = sandbox.late_blocks if sandbox else 0
        start = time.perf_counter()
        process(x)
        took[k] = time.perf_counter() - start
        if sandbox and not is_paced and (sandbox.late_blocks > late or k % 100 == 0):
            # What is late is not waited for, and what never sleeps is taken for an endless loop.
            time.sleep(0.02)
    return took[blocks // 10 :]


def prioritise(priority: int) -> bool:
    if sys.platform != "linux":
        return not priority
    policy = os.SCHED_FIFO if priority else os.SCHED_OTHER
    try:
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    samples, blocks = arguments.samples, int(arguments.seconds * RATE / arguments.samples)
    local = [External("ZamCompX2") for _ in range(8)]
    isolated = [External("ZamCompX2", isolated=True) for _ in range(8)]
    sandbox = isolated[0].sandbox
    cores = os.sched_getaffinity(0) if sys.platform == "linux" else set()
    gc.collect()
    gc.freeze()
    gc.disable()
    rows = []
    for priority in (PRIORITY, 0):
        if not prioritise(priority):
            print("SCHED_FIFO is not allowed here")
            continue
        core = max(cores) if priority and cores else None
        if sys.platform == "linux":
            os.sched_setaffinity(0, {core} if core is not None else cores)
        go_live(samples, RATE, cpu=core)
        for is_paced in (False, True):
            for count, is_mixed in ((1, False), (8, False), (8, True)):
                before = play(local[:count], blocks, samples, is_paced, is_mixed)
                late = sandbox.late_blocks
                after = play(isolated[:count], blocks, samples, is_paced, is_mixed)
                row = {"priority": priority, "paced": is_paced, "mixed": is_mixed, "plugins": count}
                for name, q in QUANTILES.items():
                    row[f"in-process {name}"] = 1e6 * float(np.quantile(before, q))
                    row[f"isolated {name}"] = 1e6 * float(np.quantile(after, q))
                    row[f"ratio {name}"] = row[f"isolated {name}"] / row[f"in-process {name}"]
                row |= {"late": sandbox.late_blocks - late, "blocks": count * blocks}
                rows.append(row | {"added samples": sandbox.added_latency_samples})
    prioritise(0)
    go_offline()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':34s}{'in-process p50/p99/p99.9':>26s}{'isolated p50/p99/p99.9':>26s}{'ratio':>18s}   late")
    for row in rows:
        name = f"{'FIFO' if row['priority'] else 'no FIFO'}, {'paced' if row['paced'] else 'back to back'}"
        what = "strip" if row["mixed"] else "plugin"
        name += f", {row['plugins']} {what}{'s' * (row['plugins'] > 1)}"
        three = ["/".join(f"{row[f'{who} {q}']:.0f}" for q in QUANTILES) for who in ("in-process", "isolated")]
        ratios = "/".join(f"{row[f'ratio {q}']:.1f}" for q in QUANTILES)
        print(f"{name:34s}{three[0]:>26s}{three[1]:>26s}{ratios:>18s}   {row['late']}/{row['blocks']}")


if __name__ == "__main__":
    main()
