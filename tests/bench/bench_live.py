"""Measure the live mixer: `python tests/bench/bench_live.py [--seconds 20] [--json]`.

Eight strips of high-pass and compressor on a real JACK server without a sound card (`jackd -d dummy`), 48 kHz, blocks
of 128: how long callbacks take, how many frames are late, and xruns. Beside them those of a client in Python that does
nothing, alone in the same server for half of the time before and half after: what it takes for longer than usual, the
machine takes. Of every callback there is the time that passed, the processor time of its thread, and how often the
system took the processor away from it. Then the share of a core that the worker takes for 8 and for 32 channels that
all play.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pedalboard import Compressor, HighpassFilter

from alm_plugin import Mixer, Strip
from alm_plugin.ipc import Ring
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.devices import Block, Callback, Device
from alm_plugin.live.supervisor import Live

RATE, BLOCK = 48_000, 128
PERIOD_US = 1e6 * BLOCK / RATE
ASKED = 0.15


@contextmanager
def server(name: str) -> Iterator[str]:
    """Run a JACK server in real time."""
    dummy = ["-d", "dummy", f"-r{RATE}", f"-p{BLOCK}", "-C64", "-P2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["jackd", "-n", name, "-R", "-P10", "-p512", *dummy], **quiet)
    time.sleep(2.0)
    try:
        yield name
    finally:
        process.terminate()
        process.wait()


class Noise:
    """Blocks of noise on so many channels, without an end."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __iter__(self) -> Iterator[np.ndarray]:
        tape = (0.05 * np.random.default_rng(0).standard_normal((self.channels, RATE))).astype(np.float32)
        while True:
            for start in range(0, RATE - BLOCK, BLOCK):
                yield tape[:, start : start + BLOCK]


def band(channels: int) -> Mixer:
    strips = {f"ch {k}": Strip([HighpassFilter(90), Compressor(-18, 3)]) for k in range(channels)}
    return Mixer(strips, "alm-mr")


@dataclass(frozen=True)
class Watched(DeviceSpec):
    """A device whose callbacks are measured, in whatever process they run.

    Attributes
    ----------
    costs : Ring
        Of each: microseconds that passed, microseconds of its thread's processor time, times it was switched away.
    """

    costs: Ring = None  # pyright: ignore[reportAssignmentType]

    def open(self, inputs: Sequence[str], outputs: Sequence[str]) -> Device:
        device = super().open(inputs, outputs)
        start: Any = device.start
        device.start = lambda callback, on_lost=None: start(self._measured(callback), on_lost)
        return device

    def _measured(self, callback: Callback) -> Callback:
        cost = np.zeros((3, 1), np.float32)

        def run(x: Block, y: Block) -> None:
            switched = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
            wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            callback(x, y)
            cost[1] = (time.thread_time_ns() - cpu_ns) / 1000.0
            cost[0] = (time.perf_counter_ns() - wall_ns) / 1000.0
            cost[2] = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - switched
            self.costs.write(cost)

        return run

    def taken(self) -> np.ndarray:
        """Costs (3, callbacks) since this was asked last."""
        out = np.zeros((3, min(self.costs.written - self.costs.position, self.costs.capacity // 2)), np.float32)
        self.costs.read(out)
        return out


def summary(costs: np.ndarray) -> dict:
    wall, cpu, switched = costs
    late = wall > ASKED * PERIOD_US
    table = {"callbacks": len(wall), "over": int(late.sum()), "switched": int(switched.sum())}
    # Where the processor time alone is within what is asked, something else has taken the rest.
    table["over in processor time"] = int((cpu > ASKED * PERIOD_US).sum())
    for name, took in (("wall", wall), ("cpu", cpu)):
        values = np.percentile(took, (50, 99, 99.9, 100)).tolist()
        table[f"{name}_us"] = dict(zip(("p50", "p99", "p99.9", "max"), values, strict=True))
    return table


def on_jack(server: str, seconds: float) -> dict:
    spec = Watched("jack", server, costs=Ring(3, 1 << 18))
    with Live(band(8), spec) as live:
        time.sleep(3.0)
        spec.taken()
        time.sleep(seconds)
        state = live.state()
        return summary(spec.taken()) | {
            "xruns": state["xruns"],
            "late_frames": state["late_frames"],
            "frames": state["frames"],
            "real_time_priority": live.is_fifo,
        }


def nothing(server: str, seconds: float) -> tuple[np.ndarray, int]:
    """Costs and xruns of a client that only fills its outputs."""
    spec = Watched("jack", server, costs=Ring(3, 1 << 18))
    device = spec.open([f"in {k}" for k in range(8)], ["out L", "out R"])
    gc.collect()
    gc.disable()
    device.start(lambda x, y: y.fill(0.0))
    time.sleep(seconds)
    device.stop()
    gc.enable()
    return spec.taken(), device.xruns


def worker_share(channels: int, seconds: float) -> float:
    """Share of a core that the worker takes."""
    device = DeviceSpec("silent", None, RATE, BLOCK, source=Noise(channels))
    with Live(band(channels), device) as live:
        time.sleep(3.0)
        worker = psutil.Process(live._worker.pid)
        begin, at = sum(worker.cpu_times()[:2]), live.state()["time_s"]
        time.sleep(seconds)
        return (sum(worker.cpu_times()[:2]) - begin) / max(1e-9, live.state()["time_s"] - at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = str(Path(folder))
        with server(f"alm-bench-{os.getpid()}") as name:
            before, xruns = nothing(name, arguments.seconds / 2)
            report = on_jack(name, arguments.seconds)
            after, more = nothing(name, arguments.seconds / 2)
        report["nothing"] = summary(np.concatenate([before, after], axis=1)) | {"xruns": xruns + more}
        report["worker_share"] = {channels: worker_share(channels, arguments.seconds) for channels in (8, 32)}
        report["load"] = os.getloadavg()[0]
    if arguments.json:
        print(json.dumps(report))
        return
    priority = "with" if report["real_time_priority"] else "without"
    print(f"us of a period of {PERIOD_US:.0f}, {priority} SCHED_FIFO      p50     p99   p99.9     max")
    for who, table in (("mixer", report), ("a client that does nothing", report["nothing"])):
        for kind, unit in (("wall", "time"), ("cpu", "processor time")):
            took = table[f"{kind}_us"]
            print(f"{f'{who}, {unit}':44s}" + "".join(f"{value:8.0f}" for value in took.values()))
    for kind, unit in (("wall", "time"), ("cpu", "processor time")):
        share = report[f"{kind}_us"]["p99.9"] / PERIOD_US
        print(f"p99.9 is {100 * share:.1f} % of the period in {unit} (asked {100 * ASKED:.0f} %)")
    print(
        f"{report['over']} of {report['callbacks']} callbacks took longer, {report['over in processor time']} in",
        end=" ",
    )
    print(f"processor time; {report['switched']} times the processor was taken away", end=" ")
    print(f"({report['nothing']['switched']} times from the client that does nothing)")
    print(f"{report['late_frames']} of {report['frames']} frames late, {report['xruns']} xruns", end=" ")
    print(f"(a client that does nothing: {report['nothing']['xruns']})")
    for channels, share in report["worker_share"].items():
        print(f"worker, {channels} channels: {100 * share:.1f} % of a core")
    print(f"load {report['load']:.1f}")


if __name__ == "__main__":
    main()
