"""Measure the live mixer: `python tests/bench/bench_live.py [--seconds 20] [--json]`.

Eight strips of high-pass and compressor on a real JACK server without a sound card (`jackd -d dummy`), 48 kHz, blocks
of 128: how long callbacks take, how many frames are late, xruns beside those of a client that does nothing in a server
of its own. Then the share of a core that the worker takes for 8 and for 32 channels that all play.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from pedalboard import Compressor, HighpassFilter

from alm_plugin import Mixer, Strip
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.devices import Jack
from alm_plugin.live.supervisor import Live

RATE, BLOCK = 48_000, 128


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


def on_jack(seconds: float) -> dict:
    with server(f"alm-bench-{os.getpid()}") as name, Live(band(8), DeviceSpec("jack", name)) as live:
        time.sleep(seconds)
        state = live.state()
        return {
            "callback_us": live.callback_us(),
            "period_us": 1e6 * BLOCK / RATE,
            "xruns": state["xruns"],
            "late_frames": state["late_frames"],
            "frames": state["frames"],
            "real_time_priority": live.is_fifo,
        }


def nothing(seconds: float) -> int:
    """Count the xruns of a client that only copies."""
    with server(f"alm-bench-nothing-{os.getpid()}") as name:
        device = Jack([f"in {k}" for k in range(8)], ["out L", "out R"], name)
        device.start(lambda x, y: y.fill(0.0))
        time.sleep(seconds)
        device.stop()
        return device.xruns


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
        report = on_jack(arguments.seconds)
        report["xruns_of_a_client_that_does_nothing"] = nothing(arguments.seconds)
        report["worker_share"] = {channels: worker_share(channels, arguments.seconds) for channels in (8, 32)}
        report["load"] = os.getloadavg()[0]
    if arguments.json:
        print(json.dumps(report))
        return
    took, period = report["callback_us"], report["period_us"]
    print(f"callback p50 {took['p50']:.0f}, p99 {took['p99']:.0f}, p99.9 {took['p99.9']:.0f} us", end=" ")
    print(f"of {period:.0f}: p99.9 is {100 * took['p99.9'] / period:.1f} % (asked 15 %)")
    print(f"{report['late_frames']} of {report['frames']} frames late, {report['xruns']} xruns", end=" ")
    print(f"(a client that does nothing: {report['xruns_of_a_client_that_does_nothing']})")
    for channels, share in report["worker_share"].items():
        print(f"worker, {channels} channels: {100 * share:.1f} % of a core")
    print(f"load {report['load']:.1f}")


if __name__ == "__main__":
    main()
