"""What may happen on a stage, done on purpose to the whole engine: what is heard, kept and said of it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import soundfile
from pedalboard import Compressor

from alm_plugin import External, Mixer, Strip
from alm_plugin.data import presets_dir
from alm_plugin.export.automation import read_csv
from alm_plugin.live import supervisor
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.devices import Jack
from alm_plugin.live.recorder import Recorder
from alm_plugin.live.supervisor import Live

RATE, BLOCK = 48_000, 128
NAMES = ("vocals", "kick", "keys")
HERTZ, LEVELS = (220, 110, 330), (0.1, 0.2, 0.05)
GONE = "the model's process has ended and was started again; gains held meanwhile"


def band(model="loudness", plugin=None, **kwargs):
    strips = {"vocals": Strip([plugin or Compressor(-20, 3)], role="vocals"), "kick": Strip(), "keys": Strip()}
    return Mixer(strips, model, **kwargs)


def tones(*broken):
    """A second of tones, of which the next is the continuation; `broken` samples of the kick's are what they say."""
    t = np.arange(RATE) / RATE
    x = np.array([[level] for level in LEVELS]) * np.sin(2 * np.pi * np.array([[f] for f in HERTZ]) * t)
    x = x.astype(np.float32)
    for at, value in broken:
        x[1, at] = value
    return x


class Again:
    """The same blocks again and again."""

    def __init__(self, tape):
        self.tape = tape

    def __iter__(self):
        while True:
            for start in range(0, self.tape.shape[1], BLOCK):
                yield self.tape[:, start : start + BLOCK]


def on(tape):
    return DeviceSpec("silent", None, RATE, BLOCK, source=Again(tape))


def until(condition, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it does not happen")


def frames(live, more):
    """Wait for more frames of sound."""
    end = live.state()["frames"] + more
    until(lambda: live.state()["frames"] >= end)


def gains(live):
    return [strip["gain_db"] for strip in live.state()["strips"]]


def faults(live):
    return {fault["text"]: fault["count"] for fault in live.state()["faults"]}


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def steps(x):
    return np.abs(np.diff(x)).max()


def recorded(take, tape):
    """Inputs, mix and curves of a recording; none of what was played is missing up to its end."""
    inputs = {name: read(take / f"{name}.wav")[0] for name in NAMES}
    mix, curves = read(take / "mix.wav"), read_csv(take / "curves.csv")
    for x, row in zip(inputs.values(), tape, strict=True):
        np.testing.assert_array_equal(x, np.resize(row, mix.shape[1]))
    assert abs(len(curves.times_s) * RATE / 20 - mix.shape[1]) <= RATE / 20
    return inputs, mix, curves


def assert_in_bounds(mix, inputs, curves):
    """No sample leaves its bounds, no step is larger than those of what came in, as loud as it was at most."""
    assert np.isfinite(mix).all()
    assert np.abs(mix).max() <= 1.0
    loudest = 10.0 ** (np.max(list(curves.gains_db.values()), axis=1) / 20.0)
    assert steps(mix) <= 1.05 * (loudest * [steps(np.where(np.abs(x) < 1e6, x, 0.0)) for x in inputs]).sum()


def assert_heard(take, tape):
    """What was recorded is whole, and is heard as offline would have played it with these gains."""
    inputs, mix, curves = recorded(take, tape)
    assert_in_bounds(mix, inputs.values(), curves)
    until_end = len(curves.times_s) * RATE // 20
    want = band("unity", automation=curves).process(inputs, RATE, BLOCK)
    np.testing.assert_array_equal(mix[:, :until_end], want[:, :until_end])


# ---- processes that end ----------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_comes_back_and_gains_hold_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "AGAIN_S", 0.5)
    tape = tones()
    with Live(band(), on(tape), record=tmp_path / "take") as live:
        frames(live, 30)
        os.kill(live._worker.pid, signal.SIGKILL)
        until(lambda: live.restarts["worker"] == 1)
        assert faults(live) == {GONE: 1}
        # Once more before it has answered: nothing says that the next one will, so that one is given time.
        os.kill(live._worker.pid, signal.SIGKILL)
        until(lambda: live.restarts["worker"] == 2)
        frames(live, 3)  # until its last gains are heard
        number, before = live.wires.gains.number, gains(live)
        frames(live, 5)
        assert live.wires.gains.number == number
        assert gains(live) == before
        until(lambda: live.wires.gains.number > number)
        np.testing.assert_allclose(gains(live), before, atol=0.5)
        assert faults(live) == {GONE: 1, "the model's process ends before it answers: gains hold": 1}
        assert live.state()["late_frames"] > 0
    assert_heard(tmp_path / "take", tape)


def test_a_model_whose_file_becomes_garbage_goes_on_until_its_worker_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "AGAIN_S", 0.1)
    tape, file = tones(), tmp_path / "own.safetensors"
    weights = (presets_dir() / "models" / "alm-mr.safetensors").read_bytes()
    file.write_bytes(weights)
    with Live(band(file), on(tape), record=tmp_path / "take") as live:
        frames(live, 20)
        with file.open("r+b") as there:  # in place: whoever had it mapped would see it
            there.write(np.random.default_rng(0).bytes(len(weights) // 2))
            there.truncate()
        number = live.wires.gains.number
        until(lambda: live.wires.gains.number > number + 20)
        assert faults(live) == {}
        os.kill(live._worker.pid, signal.SIGKILL)
        until(lambda: faults(live))
        frames(live, 3)  # until its last gains are heard
        number, before = live.wires.gains.number, gains(live)
        frames(live, 20)
        assert live.wires.gains.number == number
        assert gains(live) == before
        once = {"the model's process has ended and its file is not what it was: gains hold": 1}
        assert faults(live) == once
        assert live.restarts["worker"] == 0
    assert_heard(tmp_path / "take", tape)


def test_an_audio_process_that_is_killed_is_started_again_as_it_was(tmp_path):
    tape, mixer = tones((5, np.nan), (6, np.inf)), band()
    mixer["kick"].slew_db_per_s = 12.0  # from 0 dB it would take a while
    with Live(mixer, on(tape), record=tmp_path / "take") as live:
        frames(live, 5)
        live.command("lock_db", 0, -9.0)
        live.command("panic", None, True)
        frames(live, 20)
        before, broken = gains(live), faults(live)["samples that were no numbers were silenced"]
        os.kill(live._audio.pid, signal.SIGKILL)
        until(lambda: live.restarts["audio"] == 1)
        frames(live, 2)
        np.testing.assert_allclose(gains(live), before, atol=1.0)
        assert not any(strip["output_db"] > -np.inf for strip in live.state()["strips"])
        live.command("panic", None, False)
        frames(live, 10)
        assert gains(live)[0] == -9.0
        said = faults(live)
        assert said.pop("samples that were no numbers were silenced") > broken
        assert said == {"the audio process has ended and was started again": 1}
    inputs = [read(tmp_path / "take" / f"{name}.wav")[0] for name in NAMES]
    mix, curves = read(tmp_path / "take" / "mix.wav"), read_csv(tmp_path / "take" / "curves.csv")
    # The second one hears the tape from its beginning.
    again = next(k for k in range(0, mix.shape[1], BLOCK) if inputs[0][k] != tape[0, k % RATE])
    for part in (slice(again), slice(again, None)):
        for x, row in zip(inputs, tape, strict=True):
            np.testing.assert_array_equal(x[part], np.resize(row, len(x[part])))
        assert_in_bounds(mix[:, part], [x[part] for x in inputs], curves)


PLAYS = """
import sys, time
from pathlib import Path
from alm_plugin import Mixer, Strip
from alm_plugin.live.audio import DeviceSpec
from alm_plugin.live.supervisor import Live
if __name__ == "__main__":
    device = DeviceSpec("jack", sys.argv[1], channel_map={})
    live = Live(Mixer({"ch0": Strip(), "ch1": Strip()}, "unity"), device, record=Path(sys.argv[2]))
    live.start()
    print(live._audio.pid, live._worker.pid, flush=True)
    time.sleep(120)
"""


def test_when_the_supervisor_is_killed_the_sound_goes_on(jackd, tmp_path):
    (tmp_path / "plays.py").write_text(PLAYS)
    arguments = [sys.executable, tmp_path / "plays.py", jackd.name, tmp_path / "take"]
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    audio, worker = (psutil.Process(int(pid)) for pid in run.stdout.readline().split())
    file = tmp_path / "take" / "ch0.wav"
    try:
        with ThreadPoolExecutor() as thread:
            playing = thread.submit(
                jackd.play, tmp_path, ["alm:ch0", "alm:ch1"], ["alm:mix L", "alm:mix R"], 3 * RATE // BLOCK
            )
            until(lambda: any(read(file)[0]))
            size = file.stat().st_size
            until(lambda: file.stat().st_size > size + 4 * RATE)
            run.kill()
            run.wait()
            kept = file.stat().st_size
            until(lambda: is_over(worker))
            played, heard, _ = playing.result()
        assert not is_over(audio)
    finally:
        run.kill()
        run.stdout.close()
        audio.terminate()
    until(lambda: is_over(audio))
    want = played.sum(axis=0)[:-BLOCK]
    blocks = (heard[:, BLOCK:] == want).all(axis=0).reshape(-1, BLOCK).all(axis=1)
    assert blocks.mean() >= 0.98
    assert np.abs(heard).max() <= 1.0
    # All that was written is there to be read.
    took = read(file)[0]
    assert 4 * len(took) > kept - 4 * RATE // 10 - 100
    first = took.tolist().index(played[0, 0])
    np.testing.assert_array_equal(took[first:], played[0, : len(took) - first])


def is_over(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_isolated_plugin_that_is_killed_or_stopped_comes_back(zam, tmp_path):
    tape, plugin = tones(), zam / "ZamComp.vst3"
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    with Live(band("unity", External(plugin, isolated=True)), on(tape), record=tmp_path / "take") as live:

        def children():
            there = psutil.Process(live._audio.pid).children()
            return sorted(
                (p for p in there if p.pid not in own and "alm_plugin.nodes.external.child" in p.cmdline()),
                key=lambda p: p.create_time(),
            )

        said = {}
        for count, fault in enumerate((signal.SIGKILL, signal.SIGSTOP), 1):
            until(lambda: len(children()) == 2)
            playing, spare = children()
            frames(live, 20)
            playing.send_signal(fault)
            said = {"an isolated plugin failed, and was heard dry until it came back": count}
            until(lambda said=said: faults(live) == said)
            until(lambda spare=spare: len(children()) == 2 and children()[0] == spare)
        frames(live, 20)
        assert faults(live) == said
        assert live.restarts == {"audio": 0, "worker": 0}
    inputs, mix, curves = recorded(tmp_path / "take", tape)
    assert_in_bounds(mix, inputs.values(), curves)
    want = band("unity", External(plugin)).process(inputs, RATE, BLOCK)
    assert steps(mix) <= 1.05 * steps(want)
    np.testing.assert_allclose(mix[:, -RATE // 4 :], want[:, -RATE // 4 :], atol=1e-3)


# ---- sound that is none, and none at all -----------------------------------------------------------------------------


@pytest.fixture
def looker(jackd):
    """A client that connects others."""
    import jack

    client = jack.Client("looker", servername=jackd.name, no_start_server=True)
    yield client
    client.close()


def test_a_channel_and_a_device_are_unplugged_and_plugged_in_again(jackd, looker, tmp_path):
    names = ["ch0", "ch1"]
    mixer = Mixer({name: Strip() for name in names}, "unity")
    ports = [f"alm:{name}" for name in names], ["alm:mix L", "alm:mix R"]
    with Live(mixer, DeviceSpec("jack", jackd.name, channel_map={}), record=tmp_path / "take") as live:
        with ThreadPoolExecutor() as thread:
            playing = thread.submit(jackd.play, tmp_path, *ports, 8 * RATE // BLOCK)  # as a slow machine needs
            until(lambda: live.state()["strips"][1]["input_db"] > -40)
            frames(live, 10)  # whoever looks ten times a second has seen the plug
            looker.disconnect("player:out1", "alm:ch1")
            until(lambda: faults(live) == {"a channel was unplugged": 1})
            until(lambda: live.state()["strips"][1]["input_db"] < -40)
            looker.connect("player:out1", "alm:ch1")
            until(lambda: live.state()["strips"][1]["input_db"] > -40)
            _, heard, _ = playing.result()
        said = {"a channel was unplugged": 3}  # with the player its two ports have gone
        until(lambda: faults(live) == said)
        assert np.abs(heard).max() <= 1.0
        looker.close()
        jackd.kill()
        until(lambda: faults(live) == said | {"the audio device was lost": 1})
        assert live.state()["strips"][0]["input_db"] == -np.inf
        jackd.start()
        frames(live, 5)
        assert faults(live) == said | {"the audio device was lost": 1}
        played, heard, _ = jackd.play(tmp_path, *ports, 200)
        want = played.sum(axis=0)[:-BLOCK]
        assert (heard[:, BLOCK:] == want).all(axis=0).reshape(-1, BLOCK).all(axis=1).mean() >= 0.98
    # On the tape is all that came in, gaps and all, and the mix of it.
    inputs, mix = [read(tmp_path / "take" / f"{name}.wav")[0] for name in names], read(tmp_path / "take" / "mix.wav")
    np.testing.assert_array_equal(mix, np.tile(np.sum(inputs, axis=0), (2, 1)))


def test_an_input_that_loses_its_last_port_is_counted_once(jackd, looker):
    with Jack(["a", "b", "c"], ["left"], jackd.name, channel_map={"a": 1, "b": 2}) as device:
        device.start(lambda x, y: y.fill(0.0))
        looker.connect("system:capture_3", "alm:a")
        until(lambda: device._plugged == {"a", "b"})
        looker.disconnect("system:capture_1", "alm:a")
        looker.disconnect("system:capture_2", "alm:b")
        until(lambda: device.unplugged)
        looker.connect("system:capture_2", "alm:b")
        until(lambda: device._plugged == {"a", "b"})
        assert device.unplugged == 1


# ---- pages and disks -------------------------------------------------------------------------------------------------


def opened(page):
    """A page's connection."""
    from websockets.sync.client import connect
    from websockets.typing import Origin

    address = urlsplit(page.url).netloc
    return connect(f"ws://{address}/live", origin=Origin(f"http://{address}"), compression=None, proxy=None)


def pour(link):
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        while True:
            link.send('{"name": "strength", "strip": null, "value": 100}')


def test_broken_samples_are_silenced_and_a_page_that_floods_is_closed(tmp_path):
    from alm_plugin.web.console import console
    from alm_plugin.web.server import Page

    values = (np.nan, np.inf, -np.inf, 1e30)
    tape = tones(*((20_000 + 700 * k + i, values[k % 4]) for k in range(8) for i in range(k + 1)))
    with Live(band(), on(tape), record=tmp_path / "take") as live, Page(console(live)) as page:
        with opened(page) as other, opened(page) as flood:
            pouring = threading.Thread(target=pour, args=[flood])
            pouring.start()
            other.send('{"name": "lock_db", "strip": 0, "value": -7}')
            until(lambda: gains(live)[0] == -7.0)
            pouring.join(60)
            assert not pouring.is_alive()
            frames(live, 5)
            said = ""
            while '"text":"a page that sent too much was closed","count":1}' not in said:
                said = str(other.recv(timeout=20))
        assert np.isfinite(live.state()["mix"]["peak_db"]).all()
    kick = read(tmp_path / "take" / "kick.wav")[0]
    broken = np.count_nonzero(~(np.abs(kick) < 1e9))
    assert broken >= 36
    assert faults(live) == {"samples that were no numbers were silenced": broken}
    assert_heard(tmp_path / "take", tape)


@pytest.fixture
def full(tmp_path):
    """A folder on a disk of 1 MB; where none can be mounted, one whose files may have 256 KB once that is called."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    ):
        yield folder, lambda: None
        subprocess.run(["umount", folder], check=True)
        return
    resource = pytest.importorskip("resource", reason="this system limits neither disks nor files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_ends_the_recording_and_not_the_sound(full):
    folder, fill = full
    tape = tones()
    with Live(band(), on(tape), record=folder / "take") as live:
        fill()
        until(lambda: faults(live))
        frames(live, 20)
        ((text, count),) = faults(live).items()
    assert text in ("recording has ended: no space left on device", "recording has ended: file too large")
    assert count == 1
    # All is there for which there was room, and whole.
    assert sum(file.stat().st_size for file in (folder / "take").iterdir()) > 0.6 * 2**20
    for file in (folder / "take").glob("*.wav"):
        assert 58 + read(file).nbytes == file.stat().st_size
    inputs = [read(folder / "take" / f"{name}.wav")[0] for name in NAMES]
    for x, row in zip(inputs, tape, strict=True):
        np.testing.assert_array_equal(x, np.resize(row, len(x)))
    mix, curves = read(folder / "take" / "mix.wav"), read_csv(folder / "take" / "curves.csv")
    assert_in_bounds(mix, inputs, curves)
    assert len(curves.times_s) > 0.8 * mix.shape[1] / RATE * 20


def test_a_disk_that_is_too_slow_leaves_a_gap_as_long_as_what_it_missed(tmp_path, monkeypatch):
    monkeypatch.setattr("alm_plugin.live.wires.RING_S", 0.4)
    write, tape = Recorder.write, tones()

    def slow(self, x):
        if RATE < self.samples < 1.2 * RATE:
            time.sleep(1.0)
        write(self, x)

    monkeypatch.setattr(Recorder, "write", slow)
    with Live(band("unity"), on(tape), record=tmp_path / "take") as live:
        frames(live, 60)
    ((text, count),) = faults(live).items()
    assert text == "the recording has a gap of silence, as the disk was too slow"
    assert count >= 1
    mix = read(tmp_path / "take" / "mix.wav")
    for name, row in zip(NAMES, tape, strict=True):
        x = read(tmp_path / "take" / f"{name}.wav")[0]
        assert x.shape == mix.shape[1:]
        was = np.resize(row, len(x))
        there = x == was
        assert 0.1 < np.mean(~there) < 0.9
        assert not x[~there].any()
