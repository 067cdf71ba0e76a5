"""Measure what the README claims: `python tests/bench/bench.py [BENCH ...] [--json]`.

Every figure is CPU time of this process (`time.process_time`), one thread, the median of several rounds in which the
compared programs take turns; ratios are of figures from the same run. Networks carry untrained weights: speed does not
depend on their values.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import soundfile
import torch
from pedalboard import Compressor, Gain, HighpassFilter, Pedalboard

from alm_plugin import FrontEnd, Mixer, Strip, find_tracks, render_files
from alm_plugin.features.clock import MULTI_RATE
from alm_plugin.models.alm import ALM
from alm_plugin.models.files import TorchModel

RATE = 48_000


def band(channels: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Noise that no channel's mask closes on."""
    return (0.1 * np.random.default_rng(0).standard_normal((channels, int(seconds * rate)))).astype(np.float32)


def cpu_s(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def take_turns(rounds: int, **programs: Callable[[], object]) -> dict[str, float]:
    """Median CPU seconds of each program after one round to warm up."""
    times = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, run in programs.items():
            spent = cpu_s(run)
            if turn:
                times[name].append(spent)
    return {name: median(spent) for name, spent in times.items()}


def front_end() -> dict[str, float]:
    """Front end against torchvggish on 44.1 kHz audio, resampling included; ours also measures levels and activity."""
    from torchvggish import vggish_input

    audio = band(8, 20.0, 44_100)
    ours = FrontEnd(44_100)

    def hear() -> None:
        ours.reset()
        ours.process(audio)

    def peer() -> None:
        for channel in audio:
            vggish_input.waveform_to_examples(channel, 44_100, return_tensor=False)

    spent = take_turns(5, ours=hear, torchvggish=peer)
    per_second = {name: 1e3 * s / 160 for name, s in spent.items()}
    return {
        "ours_ms_per_channel_second": per_second["ours"],
        "torchvggish_ms_per_channel_second": per_second["torchvggish"],
        "times_less_cpu": per_second["torchvggish"] / per_second["ours"],
    }


def network(width: float) -> TorchModel:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return TorchModel.wrap(ALM(width=width, hidden=4096 if width == 1 else 256, clock=MULTI_RATE).eval())


def mix() -> dict[str, dict[str, float]]:
    """Eight channels at 48 kHz, offline: times faster than real time, and where the time goes."""
    seconds = 20.0
    audio = band(8, seconds)
    results = {}
    for name, model, rounds in (
        ("loudness", "loudness", 5),
        ("alm-mr width/8", network(1 / 8), 5),
        ("alm-mr width/4", network(1 / 4), 5),
        ("alm-mr full width", network(1.0), 3),
    ):
        mixer = Mixer({str(i): Strip() for i in range(8)}, model)
        total = take_turns(rounds, run=lambda mixer=mixer: mixer.process(audio, RATE))["run"]
        shares = {}
        front_end = FrontEnd(RATE)
        shares["front end"] = cpu_s(lambda front_end=front_end: front_end.process(audio))
        if not isinstance(model, str):
            patches, ones = np.zeros((8, 96, 64), np.float32), np.ones(8, np.float32)
            levels, state = np.full((8, 3), 0.1, np.float32), model.initial_state(8)
            embedding = model.embed(patches, ones)
            calls = int(seconds / 0.3)
            spent = cpu_s(lambda: [model.embed(patches, ones) for _ in range(calls)])  # noqa: B023
            shares["embed"] = spent
            shares["step"] = cpu_s(
                lambda: [model.step(embedding, levels, ones, state) for _ in range(int(seconds * 20))]  # noqa: B023
            )
        shares["rest"] = total - sum(shares.values())
        results[name] = {"times_real_time": seconds / total} | {f"{k} %": 100 * v / total for k, v in shares.items()}
    return results


def overhead() -> dict[str, float]:
    """Against the plain sum of the same pedalboard chains with fixed gains: 8 channels, whole and in blocks of 128."""
    audio = band(8, 10.0)

    def chains() -> list[list]:
        return [[HighpassFilter(90), Compressor(-18, 3)] for _ in range(8)]

    boards = [Pedalboard([*chain, Gain(-3.0)]) for chain in chains()]
    mixers = {
        name: Mixer({str(i): Strip(chain) for i, chain in enumerate(chains())}, name) for name in ("unity", "loudness")
    }

    def plain_whole() -> None:
        np.sum([board(channel, RATE) for board, channel in zip(boards, audio, strict=True)], axis=0)

    def plain_blocks() -> None:
        for start in range(0, audio.shape[1], 128):
            block = audio[:, start : start + 128]
            sum(board(channel, RATE, reset=False) for board, channel in zip(boards, block, strict=True))

    def whole(mixer: Mixer) -> Callable[[], object]:
        return lambda: mixer.process(audio, RATE)

    def blocks(mixer: Mixer) -> Callable[[], object]:
        def run() -> None:
            mixer.reset()
            for start in range(0, audio.shape[1], 128):
                mixer.process(audio[:, start : start + 128], RATE, reset=False)

        return run

    spent = take_turns(
        5,
        plain_whole=plain_whole,
        plain_blocks=plain_blocks,
        **{f"{name}_whole": whole(mixer) for name, mixer in mixers.items()},
        **{f"{name}_blocks": blocks(mixer) for name, mixer in mixers.items()},
    )
    return {f"{name} ms per s": 100 * s for name, s in spent.items()} | {
        "unity over plain, whole": spent["unity_whole"] / spent["plain_whole"],
        "loudness over plain, whole": spent["loudness_whole"] / spent["plain_whole"],
        "unity over plain, 128 samples": spent["unity_blocks"] / spent["plain_blocks"],
        "loudness over plain, 128 samples": spent["loudness_blocks"] / spent["plain_blocks"],
    }


def channels() -> dict[str, float]:
    """1 to 64 channels with the width/4 network: CPU milliseconds per second of audio and channel."""
    model = network(1 / 4)
    results = {}
    for count in (1, 2, 4, 8, 16, 32, 64):
        audio = band(count, 6.0)
        mixer = Mixer({str(i): Strip() for i in range(count)}, model)
        spent = take_turns(3, run=lambda mixer=mixer, audio=audio: mixer.process(audio, RATE))["run"]
        results[f"{count} channels, ms per channel second"] = 1e3 * spent / 6.0 / count
    return results


def length() -> dict[str, dict[str, float]]:
    """Files of 10 s to 1 h, 8 channels at 48 kHz, through `render`: time and memory."""
    model = network(1 / 4)
    results = {}
    process = psutil.Process()
    for seconds in (10, 10, 60, 600, 3600):  # the first only warms up
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            audio = np.tile(band(1, 10.0)[0], -(-seconds // 10))
            for i in range(8):
                soundfile.write(folder / f"{i}.flac", audio, RATE)
            del audio
            tracks = find_tracks([folder])
            mixer = Mixer({track.name: Strip() for track in tracks}, model)
            peak = 0

            def watch(done: int, total: int) -> None:
                nonlocal peak
                peak = max(peak, process.memory_info().rss)

            spent = cpu_s(lambda: render_files(tracks, folder / "mix.flac", mixer, progress=watch))  # noqa: B023
        results[f"{seconds} s"] = {"cpu_s": spent, "times_real_time": seconds / spent, "peak_mb": peak / 1e6}
    return results


BENCHES = {"front-end": front_end, "mix": mix, "overhead": overhead, "channels": channels, "length": length}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bench", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    for name in arguments.bench or BENCHES:
        results[name] = BENCHES[name]()
        if not arguments.json:
            print(f"\n{name}: {(BENCHES[name].__doc__ or '').strip()}")
            for key, value in results[name].items():
                shown = value if isinstance(value, float) else "  ".join(f"{k} {v:.3g}" for k, v in value.items())
                print(f"  {key}: {shown:.3g}" if isinstance(shown, float) else f"  {key}: {shown}")
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
