"""Measure what runs a network: `python tests/bench/bench_runtime.py [--seconds 60] [--json]`.

TorchScript and ONNX Runtime take turns at the same sound, as the live worker shows it to them: frame by frame,
embeddings in a thread beside. CPU time of this process as the share of a core that real time would take, the median of
rounds of 3 s; the longest step of a round, the median of them; and how far the two runtimes' gains, with all that they
remember, ever are from each other. What the worker's waiting for frames takes is beside it.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import onnxruntime
import torch

from alm_plugin import load_model
from alm_plugin.live.worker import POLL_S
from alm_plugin.models.alm import ALM
from alm_plugin.models.contract import Model, ModelMetadata
from alm_plugin.models.files import TorchModel, for_inference, to_torchscript
from alm_plugin.models.listener import Listener
from alm_plugin.models.onnx_runtime import OnnxModel

RATE, ROUND_S = 48_000, 3.0


def shipped() -> dict[str, Model]:
    return {runtime: load_model("alm-mr", runtime) for runtime in ("torch", "onnx")}


def full_width() -> dict[str, Model]:
    """A network with the published VGGish in it, untrained: speed does not depend on the values of weights."""
    torch.manual_seed(0)
    network = ALM(1.0, 4096, gain="memory", levels="all", roles=True).eval()
    metadata = ModelMetadata("full width", network.clock, network.embedding_size)
    return {
        "torch": TorchModel(for_inference(to_torchscript(network)), metadata),
        "onnx": OnnxModel(network, metadata),
    }


def band(channels: int, samples: int) -> np.ndarray:
    """Noise that comes and goes on every channel, and whose colour and level never rest."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((channels, 1, samples)).astype(np.float32)
    noise[..., 1:] += rng.uniform(-0.9, 0.9, (channels, 1, 1)).astype(np.float32) * noise[..., :-1]
    time_s = np.arange(samples, dtype=np.float32) / RATE
    speed_hz = rng.uniform(0.1, 2.0, (channels, 1, 1)).astype(np.float32)
    return 0.05 * noise * (1.05 + np.sin(2.0 * np.float32(np.pi) * speed_hz * time_s))


def measure(models: dict[str, Model], channels: int, seconds: float) -> dict:
    tape = band(channels, int(4 * ROUND_S * RATE))
    clock = models["torch"].metadata.clock
    listeners = {
        name: Listener(model, RATE, [None] * channels, ThreadPoolExecutor(1)) for name, model in models.items()
    }
    spent, longest = ({name: [] for name in models} for _ in range(2))
    apart_db = 0.0
    per_round, frame = int(1000 * ROUND_S) // clock.f2_ms, 0
    for turn in range(1 + round(seconds / ROUND_S)):
        gains = {}
        for name, listener in listeners.items():
            gains[name], calls = [], []
            begin = time.process_time()
            for n in range(frame, frame + per_round):
                start, stop = clock.boundary(n, RATE), clock.boundary(n + 1, RATE)
                at = start % tape.shape[-1]
                listener.hear(list(tape[..., at : at + stop - start]), stop - start)
                call = time.thread_time()
                listener.end_frame()
                calls.append(time.thread_time() - call)
                gains[name].append(listener.gain_db.copy())
            if turn:  # the first warms up
                spent[name].append((time.process_time() - begin) / ROUND_S)
                longest[name].append(1000.0 * max(calls))
        apart_db = max(apart_db, float(np.abs(np.subtract(gains["torch"], gains["onnx"])).max()))
        frame += per_round
    assert not any(listener.faults for listener in listeners.values())
    return {
        "share": {name: median(shares) for name, shares in spent.items()},
        "longest_call_ms": {name: median(calls) for name, calls in longest.items()},
        "apart_db": apart_db,
    }


def waiting() -> float:
    """Share of a core that looking for a frame takes, if there never is one."""
    begin, started = time.process_time(), time.monotonic()
    while time.monotonic() < started + 3.0:
        time.sleep(POLL_S)
    return (time.process_time() - begin) / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small, report = shipped(), {}
    for name, models, channels in (("alm-mr", small, 8), ("alm-mr", small, 32), ("full width", full_width(), 8)):
        report[f"{name}, {channels} channels"] = measure(models, channels, arguments.seconds)
    about = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "load": os.getloadavg()[0]}
    if arguments.json:
        print(json.dumps(report | about | {"waiting": waiting()}))
        return
    for name, result in report.items():
        share = ", ".join(f"{runtime} {100 * share:.1f} %" for runtime, share in result["share"].items())
        longest = ", ".join(f"{runtime} {ms:.1f} ms" for runtime, ms in result["longest_call_ms"].items())
        print(f"{name}: {share} of a core; longest step {longest}; gains at most {result['apart_db']:.1e} dB apart")
    print(f"waiting for frames: {100 * waiting():.1f} % of a core")
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
