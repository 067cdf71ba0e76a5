"""Play for hours through the live mixer: `python tests/bench/soak.py [--hours 3] [--channels 8] [--json]`.

The demo's stems, each in a loop of its own length, go through the three processes on the silent clock, which waits for
the worker and for nothing else. Told in the end: memory of the three after the first minute and at the end, blocks and
samples that were lost on the way to a recorder, late frames, and in how many frames the gains were not those of a
`Mixer` that heard the same sound offline, bit by bit. That one runs beside them; nothing of the song stays in memory.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import soundfile
from pedalboard import Compressor, HighpassFilter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from alm_plugin import Mixer, Strip
from alm_plugin.data import presets_dir
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.recorder import Recorder
from alm_plugin.live.supervisor import Live
from alm_plugin.live.wires import COUNTS

RATE, BLOCK = 44_100, 128
STEMS = ("vocals", "kick", "bass", "guitar", "snare", "keys", "acoustic", "overheads")


class Song:
    """Stems in loops, channel by channel: the pauses between differ, so that the band is never where it was.

    Parameters
    ----------
    channels, samples : int
    """

    def __init__(self, channels: int, samples: int) -> None:
        self.samples = samples
        self.tapes = []
        for channel in range(channels):
            stem = soundfile.read(presets_dir() / "demo" / f"{STEMS[channel % len(STEMS)]}.ogg", dtype="float32")[0]
            pause = np.zeros(RATE + 31_013 * channel, np.float32)
            self.tapes.append(np.concatenate([stem.mean(axis=1) if stem.ndim > 1 else stem, pause]))

    def block(self, start: int, samples: int) -> np.ndarray:
        """Return what is played from `start` on, (channels, samples)."""
        at = np.arange(start, start + samples)
        return np.stack([tape.take(at, mode="wrap") for tape in self.tapes])

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.samples, BLOCK):
            yield self.block(start, BLOCK)


def band(channels: int) -> Mixer:
    roles = ["acoustic guitar" if stem == "acoustic" else stem for stem in STEMS]
    strips = {
        f"{k} {roles[k % len(roles)]}": Strip([HighpassFilter(90), Compressor(-18, 3)], role=roles[k % len(roles)])
        for k in range(channels)
    }
    return Mixer(strips, "alm-mr")


def offline(song: Song, path: Path, done: Any) -> None:
    """Keep the gains that a mixer has offline, a row per frame, and tell how many samples are `done`."""
    mixer = band(len(song.tapes))
    for start in range(0, song.samples, 256 * BLOCK):
        block = song.block(start, min(256 * BLOCK, song.samples - start))
        # In blocks as live: JUCE's high-pass rounds a little at the end of each.
        mixer.process(block, RATE, BLOCK, reset=False)
        done.value = start
    np.save(path, np.stack(list(mixer.automation.gains_db.values()), axis=1))


class Gains:
    """A recorder that keeps the gains, and counts the rest.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.samples = 0

    def write(self, tape: np.ndarray) -> None:
        self.samples += tape.shape[1]

    def write_gains(self, frame: int, gains_db: np.ndarray) -> None:
        self._file.write(gains_db.tobytes())

    def close(self) -> None:
        self._file.close()


def memory_mb(live: Live) -> dict[str, float]:
    """Resident memory of each process in MB."""
    pids = {"supervisor": os.getpid(), "audio": live._audio.pid, "worker": live._worker.pid}
    return {name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in pids.items()}


def play(song: Song, path: Path, bar: Progress) -> dict[str, Any]:
    """Play it, keep the gains, and tell how it went."""
    live = Live(band(len(song.tapes)), DeviceSpec("silent", None, RATE, BLOCK, source=cast(Any, song), freewheel=True))
    gains, task, memory = Gains(path), bar.add_task("live", total=song.samples), {}
    live._recorder = cast(Recorder, gains)
    begin = time.monotonic()
    with live:
        while not live.ended.wait(1.0):
            at_s = live.state()["time_s"]
            bar.update(task, completed=at_s * RATE)
            with contextlib.suppress(psutil.NoSuchProcess):
                now = memory_mb(live)
                if at_s >= 60.0 and all(now.values()):
                    memory = {"after a minute": memory.get("after a minute", now), "at the end": now}
        bar.update(task, completed=song.samples)
        took_s = time.monotonic() - begin
    state, blocks = live.state(), -(-song.samples // BLOCK)
    return {
        "hours": song.samples / RATE / 3600.0,
        "channels": len(song.tapes),
        "times_real_time": song.samples / RATE / took_s,
        "memory_mb": memory,
        "blocks": blocks,
        "lost_blocks": blocks - int(live._status[COUNTS.index("blocks")]),
        "lost_samples_of_a_recording": blocks * BLOCK - gains.samples,
        "frames": state["frames"],
        "late_frames": state["late_frames"],
        "faults": state["faults"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    song = Song(arguments.channels, int(arguments.hours * 3600) * RATE)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with tempfile.TemporaryDirectory() as folder, bar:
        heard, wanted = Path(folder) / "live", Path(folder) / "offline.npy"
        context = multiprocessing.get_context("spawn")
        done = context.Value("q")
        twin = context.Process(target=offline, args=(song, wanted, done))
        twin.start()
        try:
            report = play(song, heard, bar)
            task = bar.add_task("offline", total=song.samples)
            while twin.is_alive():
                twin.join(1.0)
                bar.update(task, completed=done.value)
            bar.update(task, completed=song.samples)
        finally:
            twin.kill()
        gains_db = np.fromfile(heard, np.float32).reshape(-1, arguments.channels)
        want_db = np.load(wanted)
    same = (gains_db[: len(want_db)] == want_db[: len(gains_db)]).all(axis=1)
    report["frames_as_offline"] = int(same.sum())
    report["gains_moved_db"] = float(np.ptp(want_db, axis=0).min())
    if arguments.json:
        print(json.dumps(report))
        return
    r = report
    print(f"{r['hours']:g} h of {r['channels']} channels, {r['times_real_time']:.1f} times real time")
    print(f"{r['lost_blocks']} of {r['blocks']} blocks lost, {r['lost_samples_of_a_recording']} samples of a recording")
    print(f"{r['late_frames']} of {r['frames']} frames late, {r['frames_as_offline']} with the gains of offline")
    print(f"the channel that moved least moved by {r['gains_moved_db']:.1f} dB")
    for name, mb in r["memory_mb"].get("after a minute", {}).items():
        end_mb = r["memory_mb"]["at the end"][name]
        print(f"{name}: {mb:.1f} MB, {end_mb:.1f} at the end: {100 * (end_mb / mb - 1):+.2f} % (asked +1)")
    for fault in r["faults"]:
        print(f"{fault['count']} x {fault['text']}")


if __name__ == "__main__":
    main()
