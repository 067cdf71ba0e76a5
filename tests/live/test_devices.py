import os
import subprocess
import sys
import threading
import time
from importlib import import_module

import numpy as np
import pytest

from alm_plugin.errors import ParameterError
from alm_plugin.live.devices import Jack, PortAudio, Silent, list_devices, open_device
from alm_plugin.live.devices import portaudio as portaudio_module

INS, OUTS = [f"in{k}" for k in range(8)], [f"out{k}" for k in range(8)]


def pass_through(x, y):
    y[:] = x


def until(condition):
    for _ in range(3_000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it does not happen")


def usable(module):
    try:
        import_module(module)
    except (ImportError, OSError) as error:
        pytest.skip(f"{module} cannot be used: {error}")


class Lost(list):
    """What `on_lost` was told, and in which thread."""

    def __call__(self, reason):
        self.append((reason, threading.current_thread().name))

    def once(self):
        """Wait for a reason; that there is only one shows after some more looks."""
        until(lambda: self)
        time.sleep(0.5)
        ((reason, thread),) = self
        assert thread == "device watch"
        return reason


@pytest.fixture
def portaudio(jackd, monkeypatch):
    """PortAudio's way to a JACK server."""
    usable("sounddevice")
    monkeypatch.setenv("JACK_DEFAULT_SERVER", jackd.name)


@pytest.fixture(params=["jack", "portaudio"])
def backend(request, jackd, monkeypatch):
    """Both ways to a JACK server, as the default one."""
    monkeypatch.setenv("JACK_DEFAULT_SERVER", jackd.name)
    if request.param == "portaudio":
        request.getfixturevalue("portaudio")
    return request.param


# ---- silence ---------------------------------------------------------------------------------------------------------


def played(device, callback=pass_through):
    """What a free-wheeling device of `Silent` plays until its source ends."""
    heard = []
    device._sink = lambda block: heard.append(block.copy())
    device.start(callback)
    assert device.join(30.0)
    device.stop()
    return np.hstack(heard)


def test_free_wheeling_plays_every_sample_once_and_asks_before_each_block(rng):
    x, asked = rng.standard_normal((2, 1_000)).astype(np.float32), []
    device = Silent(["a", "b"], ["c", "d"], block_size=64, source=x, freewheel=True, wait=lambda: asked.append(1))
    for _ in range(2):  # and again, from the start
        y = played(device)
        np.testing.assert_array_equal(y[:, :1_000], x)
        assert y.shape == (2, 1_024)
        assert not y[:, 1_000:].any()
        assert device.blocks == 16
    assert len(asked) == 32
    assert device.xruns == 0


def test_the_source_may_be_blocks_and_silence_has_no_end(rng):
    blocks = [rng.standard_normal((1, 32)).astype(np.float32) for _ in range(5)]
    device = Silent(["a"], ["b"], block_size=32, source=(block for block in blocks), freewheel=True)
    np.testing.assert_array_equal(played(device), np.hstack(blocks))
    endless = Silent(["a"], ["b"], freewheel=True)
    endless.start(pass_through)
    until(lambda: endless.blocks > 100)
    assert not endless.join(0.0)
    endless.stop()
    assert endless.join(0.0)


def test_the_clock_is_never_early_and_counts_when_it_was_held_up():
    times = []

    def late_once(x, y):
        times.append(time.perf_counter())
        y.fill(0.0)
        if len(times) == 5:
            time.sleep(0.1)

    device = Silent(["a"], ["b"], sample_rate=48_000, block_size=480, source=np.zeros((1, 20 * 480), np.float32))
    device.start(late_once)
    assert device.join(30.0)
    device.stop()
    assert len(times) == device.blocks == 20
    assert times[-1] - times[0] >= 0.19
    assert device.xruns >= 1


def test_a_source_of_other_width_is_refused_and_one_that_fails_is_a_lost_device():
    with pytest.raises(ParameterError, match=r"source must have 2 channels, got shape \(3, 64\)"):
        Silent(["a", "b"], ["c"], source=np.zeros((3, 64), np.float32))
    lost = Lost()
    device = Silent(["a"], ["b"], source=iter([np.zeros((5, 128), np.float32)]), freewheel=True)
    device.start(pass_through, lost)
    assert lost.once().startswith("the silent device has failed: ValueError: could not broadcast")
    device.stop()


# ---- what all of them do ---------------------------------------------------------------------------------------------


def test_a_callback_that_fails_is_silent_from_then_on_and_said_once():
    calls, heard, lost = [], [], Lost()

    def fail(x, y):
        calls.append(1)
        y.fill(1.0)
        if len(calls) == 3:
            raise ValueError("no such thing")

    device = Silent(["a"], ["b"], sink=lambda block: heard.append(block.copy()))
    device.start(fail, lost)
    assert lost.once() == "the callback has failed: ValueError: no such thing"
    device.stop()
    assert [block.max() for block in heard] == [1.0, 1.0, 0.0]
    assert (len(calls), device.blocks) == (3, 2)


def test_whoever_is_told_may_stop_and_start_again():
    device, told, again = Silent(["a"], ["b"]), [], threading.Event()

    def reopen(reason):
        told.append(reason)
        device.stop()
        device.start(lambda x, y: again.set(), told.append)

    def fail(x, y):
        raise OSError("once")

    device.start(fail, reopen)
    assert again.wait(30.0)
    device.stop()
    device.stop()
    assert told == ["the callback has failed: OSError: once"]
    until(lambda: not {"device watch", "silent clock"} & {thread.name for thread in threading.enumerate()})


def test_a_started_device_cannot_be_started():
    device = Silent(["a"], ["b"])
    device.start(pass_through)
    try:
        with pytest.raises(ParameterError, match="the device is started already"):
            device.start(pass_through)
    finally:
        device.stop()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backend": "alsa"}, "backend must be one of jack, portaudio, silent, got 'alsa'"),
        ({"name": "loud"}, "name of a silent device must be 'silence' or nothing, got 'loud'"),
        ({"inputs": []}, r"inputs must be names of channels, at least one, got \[\]"),
        ({"outputs": "left"}, "outputs must be names of channels, at least one"),
        ({"inputs": ["a", ""]}, "inputs must be names of channels"),
        ({"inputs": ["a", "b", "a"]}, "inputs must have different names, got 'a' twice"),
        ({"outputs": ["a", "left"]}, "inputs and outputs must have different names, got 'a' in both"),
        ({"sample_rate": 4_000}, "sample_rate must be a whole number in"),
        ({"sample_rate": 0}, "sample_rate must be a whole number in"),
        ({"block_size": 0}, r"block_size must be a whole number in \[1, 8192\], got 0"),
        ({"block_size": 12.5}, "block_size must be a whole number"),
        ({"channel_map": {"c": 1}}, r"channel_map must name channels \(a, b, left\), got 'c'"),
        ({"channel_map": {"a": 0}}, "channel_map: a must be a port's name or number from 1, got 0"),
        ({"channel_map": {"a": -1}}, "channel_map: a must be a port's name or number from 1, got -1"),
        ({"channel_map": {"a": ""}}, "channel_map: a must be a port's name or number from 1, got ''"),
        ({"channel_map": {"a": 1.5}}, "channel_map: a must be a port's name or number from 1, got 1.5"),
    ],
)
def test_what_does_not_fit_any_device_is_one_line(changes, said):
    arguments = {"backend": "silent", "inputs": ["a", "b"], "outputs": ["left"], **changes}
    with pytest.raises(ParameterError, match=said) as error:
        open_device(**arguments)
    assert "\n" not in str(error.value)


def test_nothing_is_imported_before_it_is_needed():
    code = "import sys, alm_plugin.live.devices; print({'torch', 'jack', 'sounddevice'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("set()\n", "")


def test_without_their_libraries_backends_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jack", None)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    devices = list_devices()
    assert [(device.backend, bool(device.note)) for device in devices] == [
        ("jack", True),
        ("portaudio", True),
        ("silent", False),
    ]
    for device, library in zip(devices, ("libjack-jackd2-0", "libportaudio2"), strict=False):
        assert f"apt-get install {library}" in device.note
        with pytest.raises(ParameterError, match=r"cannot be used here .*: pip install 'alm-plugin\[live\]'"):
            open_device(device.backend, inputs=INS, outputs=OUTS)


# ---- a real server ---------------------------------------------------------------------------------------------------


def test_without_a_server_there_is_one_line_and_nothing_else(monkeypatch, capfd):
    usable("jack")
    monkeypatch.setenv("JACK_DEFAULT_SERVER", "alm-test-none")
    (info,) = Jack.found()
    assert info.note == ("JACK server 'alm-test-none' is not running: start it (jackd, or PipeWire with pipewire-jack)")
    with pytest.raises(ParameterError, match="JACK server 'alm-test-other' is not running"):
        open_device("jack", "alm-test-other", inputs=INS, outputs=OUTS)
    assert capfd.readouterr() == ("", "")


def test_devices_are_listed_as_they_are(backend):
    (info,) = [info for info in list_devices() if info.backend == backend]
    assert (info.inputs, info.outputs, info.sample_rate, info.note) == (10, 9, 48_000, "")
    assert info.name == {"jack": os.environ["JACK_DEFAULT_SERVER"]}.get(backend, "system, JACK Audio Connection Kit")
    with open_device(backend, info.name, inputs=INS, outputs=OUTS, sample_rate=48_000, block_size=128) as device:
        assert (device.sample_rate, device.block_size, device.blocks) == (48_000, 128, 0)


def test_another_client_hears_what_it_plays_sample_by_sample(backend, jackd, tmp_path):
    lost = Lost()
    with open_device(backend, inputs=INS, outputs=OUTS) as device:
        assert (device.sample_rate, device.block_size) == (48_000, 128)
        device.start(pass_through, lost)
        ours = ("alm:in{}", "alm:out{}") if backend == "jack" else ("PortAudio:in_{}", "PortAudio:out_{}")
        targets, sources = ([form.format(k) for k in range(8)] for form in ours)
        sent, heard, size = jackd.play(tmp_path, targets, sources, 375)
    assert lost == []
    # JACK has to break the ring of clients somewhere, which costs a block; PortAudio delays by another.
    delay = (1 if backend == "jack" else 2) * size
    exact = (heard[:, delay:] == sent[:, :-delay]).reshape(8, -1, size).all((0, 2)).mean()
    print(f"{backend}: {exact:.2%} of blocks exact, {device.xruns} xruns")
    assert np.abs(sent).max() > 0.3
    assert exact >= 0.98


def test_a_killed_jack_server_is_said_once_and_comes_back(jackd):
    lost = Lost()
    with Jack(INS, OUTS, jackd.name) as device:
        for _ in range(2):
            device.start(pass_through, lost)
            until(lambda: device.blocks > 10)
            jackd.kill()
            assert lost.once() == f"JACK server {jackd.name!r} has gone (JACK server has been closed)"
            device.stop()
            with pytest.raises(ParameterError, match="is not running"):
                device.start(pass_through, lost)
            jackd.start()
            lost.clear()
        device.start(pass_through, lost)
        until(lambda: device.blocks > 10)
    assert lost == []


def test_a_jack_server_that_changes_its_block_size_is_lost_to_us(jackd):
    import jack

    lost, sizes = Lost(), set()
    other = jack.Client("other", servername=jackd.name, no_start_server=True)
    with Jack(INS, OUTS, jackd.name) as device:
        device.start(lambda x, y: sizes.add((x.shape, y.shape)), lost)
        until(lambda: device.blocks > 10)
        other.blocksize = 256
        assert lost.once() == "the block size has changed from 128 to 256 samples"
        device.stop()
        assert sizes == {((8, 128), (8, 128))}
        with pytest.raises(
            ParameterError, match=r"block_size must be 256 samples, what JACK server .* runs at, got 128"
        ):
            device.start(pass_through)
        other.blocksize = 128
        device.start(pass_through)
        until(lambda: device.blocks > 10)
    other.close()


def test_portaudio_says_once_that_its_server_was_killed_and_goes_on_living(portaudio, jackd):
    # In a process of its own: PortAudio waits ten minutes for a JACK server that has gone.
    code = """
import sys, time
from alm_plugin.errors import ParameterError
from alm_plugin.live.devices import PortAudio
device, lost = PortAudio(["a"], ["b"]), []
for _ in range(2):
    device.stop()
    device.start(lambda x, y: y.fill(0.0), lost.append)
    while device.blocks < 10:
        time.sleep(0.01)
print("runs", flush=True)
while not lost:
    time.sleep(0.01)
time.sleep(0.5)
device.stop()
try:
    device.start(print)
except ParameterError as error:
    print(lost, error)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "runs\n"
        jackd.kill()
        said = "['the driver has stopped'] PortAudio waits for a device that has gone: start this program again\n"
        assert child.communicate(timeout=60)[0] == said
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()


def connections(server):
    import jack

    client = jack.Client("looker", servername=server, no_start_server=True)
    try:
        return {
            port.name: [other.name for other in client.get_all_connections(port)] for port in client.get_ports("^alm")
        }
    finally:
        client.close()


def test_ports_are_connected_in_order_or_as_the_map_says(jackd):
    with Jack(["kick", "vocals"], ["left", "right"], jackd.name) as device:
        device.start(pass_through)
        assert connections(jackd.name) == {
            "alm:kick": ["system:capture_1"],
            "alm:vocals": ["system:capture_2"],
            "alm:left": ["system:playback_1"],
            "alm:right": ["system:playback_2"],
        }
    wires = {"vocals": 10, "kick": "capture_3", "right": "system:playback_9"}
    with Jack(["kick", "vocals"], ["left", "right"], jackd.name, channel_map=wires) as device:
        device.start(pass_through)
        assert connections(jackd.name) == {
            "alm:kick": ["system:capture_3"],
            "alm:vocals": ["system:capture_10"],
            "alm:left": [],
            "alm:right": ["system:playback_9"],
        }
    assert connections(jackd.name) == {}


def test_portaudio_picks_and_adds_the_ports_of_the_map(portaudio):
    wires = {"a": 3, "b": 3, "left": 2, "right": "2"}
    heard, status = np.full((4, 2), 9.0, np.float32), type("Status", (), {"input_overflow": 1, "output_underflow": 0})
    with PortAudio(["a", "b", "c"], ["left", "right", "rest"], channel_map=wires, block_size=4) as device:
        assert device._stream.channels == (3, 2)
        device.start(lambda x, y: np.add(x, [[1.0], [2.0], [4.0]], out=y))
        device._stream.stop()
        xruns = device.xruns
        device._process(np.tile(np.float32([10.0, 20.0, 30.0]), (4, 1)), heard, 4, None, status)
        assert heard.tolist() == [[0.0, 31.0 + 32.0]] * 4
        assert device._x[:, 0].tolist() == [30.0, 30.0, 0.0]
        assert device.xruns == xruns + 1


def test_a_driver_that_only_falls_silent_is_lost(portaudio, monkeypatch):
    monkeypatch.setattr(portaudio_module, "STALL_S", 0.3)
    lost = Lost()
    with PortAudio(INS, OUTS) as device:
        device.start(pass_through, lost)
        until(lambda: device.blocks > 10)
        with monkeypatch.context() as patch:
            patch.setattr(device, "_run", lambda: None)  # no more blocks
            assert lost.once() == "no sound for 0.3 s"
        device.stop()
        device.start(pass_through)
        until(lambda: device.blocks > 10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sample_rate": 44_100}, "sample_rate must be 48000 Hz, what .* runs at, got 44100"),
        ({"inputs": [f"in{k}" for k in range(11)]}, "channel 'in10' needs port 11, but .* has 10 inputs"),
        ({"outputs": [f"out{k}" for k in range(10)]}, "channel 'out9' needs port 10, but .* has 9 outputs"),
        ({"channel_map": {"in0": 64}}, "channel 'in0' needs port 64, but .* has 10 inputs"),
    ],
)
def test_what_the_device_is_not_is_one_line(backend, changes, said):
    with pytest.raises(ParameterError, match=said) as error:
        open_device(backend, **{"inputs": INS, "outputs": OUTS, **changes})
    assert "\n" not in str(error.value)


def test_other_block_sizes_and_ports_than_there_are_one_line(jackd):
    with pytest.raises(ParameterError, match=r"block_size must be 128 samples, what JACK server .* runs at, got 64"):
        Jack(INS, OUTS, jackd.name, block_size=64)
    with pytest.raises(
        ParameterError, match=r"channel 'in0' needs port 'mic' of JACK .*: there are system:capture_1, "
    ):
        Jack(INS, OUTS, jackd.name, channel_map={"in0": "mic"})
    with pytest.raises(
        ParameterError, match=r"channel 'out0' needs port 'capture_1' of JACK .*: there are system:play"
    ):
        Jack(INS, OUTS, jackd.name, channel_map={"out0": "capture_1"})
    with pytest.raises(ParameterError, match="port registration failed"):
        Jack(["x" * 400], OUTS, jackd.name)


def test_portaudio_devices_that_are_not_there_are_one_line(portaudio):
    for name, said in (
        ("scarlett", "input needs a device, one and no more, called 'scarlett': there are 0 system, JACK"),
        ("77", "input needs a device, one and no more, called '77': there are 0 system, JACK"),
    ):
        with pytest.raises(ParameterError, match=said):
            PortAudio(INS, OUTS, name)
    with pytest.raises(ParameterError, match="channel_map: PortAudio's ports have numbers, got in0: 'capture_1'"):
        PortAudio(INS, OUTS, channel_map={"in0": "capture_1"})
    assert PortAudio._users == 0
