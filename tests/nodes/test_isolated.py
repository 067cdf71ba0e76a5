import contextlib
import copy
import gc
import itertools
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pedalboard as pb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alm_plugin.errors import LatencyError, ParameterError, PluginError
from alm_plugin.mixer import Mixer
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.external import External, Sandbox, child, find, go_live, go_offline
from alm_plugin.nodes.external import sandbox as sandboxes
from alm_plugin.nodes.external.cover import Cover
from alm_plugin.nodes.external.isolated import _Blocks
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.keyed import SidechainCompressor
from alm_plugin.nodes.node import Node
from alm_plugin.nodes.strip import Strip

RATE = 48_000

# Name, width of the signal, something to set, latency. The mono compressor has two instances, the stereo limiter hears
# a mono signal on both sides.
CASES = {
    "ZamCompX2": ("ZamCompX2", 2, {"threshold_db": -30.0, "makeup_db": 6.0}, 0),
    "ZaMaximX2": ("ZaMaximX2", 2, {"threshold_db": -12.0}, 480),
    "ZamComp": ("ZamComp", 2, {"threshold_db": -30.0}, 0),
    "ZaMaximX2, mono": ("ZaMaximX2", 1, {"threshold_db": -12.0}, 480),
}

# A child with plugins that do on command what they should not: FAULT PID in the file that DRILL names.
DRILL = """
import os, sys, time
from pathlib import Path
from alm_plugin.nodes.external import child, host

real, order = host.External.process_block, Path(os.environ["DRILL"])

def process_block(self, x, sample_rate):
    y = real(self, x, sample_rate)
    fault, pid = order.read_text().split()
    if int(pid) == os.getpid():
        while fault == "loop":
            pass
        if fault == "slow":
            time.sleep(1.5e-3)
            return y
        return y * {"nan": float("nan"), "loud": 1e3}[fault]
    return y

host.External.process_block = process_block
child.QUICK_S = float(os.environ.get("QUICK_S", child.QUICK_S))
child.main(*sys.argv[1:])
"""


@pytest.fixture(scope="module", autouse=True)
def registry(zam, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALM_PLUGIN_CACHE", str(tmp_path_factory.mktemp("registry")))
        yield


@pytest.fixture(scope="module")
def box():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture
def live():
    yield go_live
    go_offline()


@pytest.fixture
def drill(tmp_path, monkeypatch):
    order = tmp_path / "order"
    order.write_text("none 0")
    (tmp_path / "drill_child.py").write_text(DRILL)
    monkeypatch.setenv("DRILL", str(order))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sandboxes, "CHILD", "drill_child")
    return order


@pytest.fixture
def patience(monkeypatch):
    """Live, but nothing is late on any machine."""
    monkeypatch.setattr(sandboxes, "SHARE", 1e5)
    monkeypatch.setattr(sandboxes, "HUNG_S", 60.0)
    monkeypatch.setattr(sandboxes, "HUNG_WITHOUT_PRIORITY_S", 60.0)


def noise(channels=2, samples=2_400, seed=0):
    rng = np.random.default_rng(seed)
    fade = 0.1 + 0.4 * (1 + np.sin(np.arange(samples) / 900))
    return (rng.standard_normal((channels, samples)) * 0.4 * fade).astype(np.float32)


def tone(samples):
    t = np.arange(samples) / RATE
    left = 0.3 * np.sin(2 * np.pi * 220 * t + 0.3) + 0.2 * np.sin(2 * np.pi * 1_370 * t + 1.1)
    return np.stack([left, 0.7 * left]).astype(np.float32)


def cut(x, sizes):
    at = 0
    for size in itertools.cycle(sizes):
        if at >= x.shape[1]:
            return
        yield np.ascontiguousarray(x[:, at : at + size])
        at += size


def stream(node, x, sizes):
    node.prepare(RATE, x.shape[0])
    return np.concatenate([node.process_block(block, RATE) for block in cut(x, sizes)], axis=1)


def late(y, samples):
    return np.pad(y, ((0, 0), (samples, 0)))[:, : y.shape[1]]


def made(name, values=None, **options):
    node = External(name, **options)
    for key, value in (values or {}).items():
        setattr(node, key, value)
    return node


def both(name, values=None, **options):
    """The same plugin here and in a sandbox."""
    return made(name, values), made(name, values, **{"isolated": True} | options)


def values_of(node):
    return {name: getattr(node, name) for name in node.parameters}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, step=lambda: time.sleep(0.005)):
    """Do something until a condition holds; for ever is a minute."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        step()


# ---- the same samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_isolated_samples_are_the_same(box, case):
    name, channels, values, latency = CASES[case]
    here, there = both(name, values, isolated=box)
    assert (there.sandbox, here.sandbox) == (box, None)
    assert isinstance(there, External)
    assert repr(there).startswith(f"<alm_plugin.External '{name}' isolated at 0x")
    x = noise(channels, 12_000)
    want = here(x, RATE)
    assert not np.array_equal(want, x)
    np.testing.assert_array_equal(there(x, RATE), want)
    assert there.reported_latency_samples == here.reported_latency_samples == latency
    for size in (64, 128, 256, 12_000):
        np.testing.assert_array_equal(stream(there, x, [size]), stream(here, x, [size]))
    np.testing.assert_array_equal(there(x.T.astype(float), RATE).T, here(x.T.astype(float), RATE).T)


def test_there_may_be_up_to_two_channels(box):
    here, there = both("ZamComp", isolated=box)
    assert here(noise(3), RATE).shape == (3, 2_400)
    with pytest.raises(ParameterError, match=r"^ZamComp processes 1 or 2 channels while isolated, got 3$"):
        there(noise(3), RATE)
    with pytest.raises(ParameterError, match=r"^ZamCompX2 processes 1 or 2 channels, got 3$"):
        made("ZamCompX2", isolated=box)(noise(3), RATE)


MOVES = {300: {"makeup_db": 9.0, "slew_ms": 5.0}, 700: {"threshold_db": -30.0, "makeup_db": 1.0}, 710: {"knee_db": 4.0}}


@pytest.fixture
def pairs(box):
    return {name: both(name, isolated=box) for name in ("ZamComp", "ZamCompX2")}


@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.sampled_from([1, 17, 64, 128, 441]), min_size=1, max_size=3),
    resets=st.booleans(),
    name=st.sampled_from(["ZamComp", "ZamCompX2"]),
)
@example(sizes=[128], resets=True, name="ZamCompX2")
def test_parameters_that_move_in_a_stream_move_the_same(pairs, sizes, resets, name):
    outs = []
    for node in pairs[name]:
        node.prepare(RATE, 2)
        node.slew_ms = 20.0
        for parameter, known in node.parameters.items():
            setattr(node, parameter, known.default)
        pieces = []
        for start, end in itertools.pairwise([0, *MOVES, 2_000]):
            for parameter, value in MOVES.get(start, {}).items():
                setattr(node, parameter, value)
                assert math.isclose(getattr(node, parameter), value, abs_tol=0.01)
            if resets and start == 700:
                node.reset()
                node.ratio = 8.0  # at once
            pieces += [node.process_block(block, RATE) for block in cut(noise(2, 2_000)[:, start:end], sizes)]
        outs.append(np.concatenate(pieces, axis=1))
    np.testing.assert_array_equal(outs[1], outs[0])


def test_automation_reaches_it(box):
    x, fade = noise(2, 4_800), np.linspace(-30.0, -5.0, 4_800)
    for holder in (Chain, Strip):
        for options in ({"reset": True}, {"reset": False, "buffer_size": 441}):
            here, there = both("ZaMaximX2", isolated=box)
            outs = [holder([node])(x, RATE, automation={"0.threshold_db": fade}, **options) for node in (here, there)]
            np.testing.assert_array_equal(outs[1], outs[0])
            assert math.isclose(here.threshold_db, -5.0, abs_tol=0.5)
            assert math.isclose(there.threshold_db, here.threshold_db, abs_tol=1e-3)


def test_a_stream_may_follow_one_shot_only_without_latency(box):
    outs = []
    for node in both("ZamCompX2", isolated=box):
        node(noise(), RATE)
        node.makeup_db = 12.0  # between streams: at once
        outs.append(node(noise(), RATE, reset=False))
    np.testing.assert_array_equal(outs[1], outs[0])
    limiter = made("ZaMaximX2", isolated=box)
    limiter(noise(), RATE)
    with pytest.raises(LatencyError, match=r"must begin with reset\(\), not reset=True: ZaMaximX2"):
        limiter(noise(), RATE, reset=False)
    limiter.reset()
    limiter(noise(), RATE, reset=False)


def test_many_are_processed_together_and_any_may_begin_early(box):
    heres, theres = zip(*(both(name, values, isolated=box) for name, _, values, _ in CASES.values()), strict=True)
    for node in heres + theres:
        node.prepare(RATE, 2)
    for block in cut(noise(2, 1_280), [128]):
        want = [node.process_block(block, RATE) for node in heres]
        np.testing.assert_array_equal(Sandbox.process_many([(node, block) for node in theres], RATE), want)
    for block in cut(noise(2, 1_280, seed=1), [128]):
        for node in theres[::2]:
            node.begin_block(block, RATE)
        want = [node.process_block(block, RATE) for node in heres]
        np.testing.assert_array_equal([node.process_block(block, RATE) for node in theres], want)


@pytest.mark.parametrize("mechanism", ["futex", "pipe"])
def test_live_samples_are_the_same_or_a_block_later(monkeypatch, live, patience, mechanism):
    if mechanism == "futex" and not sandboxes.HAS_FUTEX:
        pytest.skip("this system has no futex")
    monkeypatch.setattr(sandboxes, "HAS_FUTEX", mechanism == "futex")
    here, there = both("ZaMaximX2", isolated=Sandbox())
    x = noise(2, 6_400)
    for is_pipelined, added in ((False, 0), (True, 128)):
        live(128, RATE, is_pipelined=is_pipelined)
        assert there.sandbox.added_latency_samples == added
        assert there.reported_latency_samples == 480 + added
        for sizes in ([128], [17, 128, 1], [441, 64, 1_000, 200]):
            np.testing.assert_array_equal(stream(there, x, sizes), late(stream(here, x, sizes), added), str(sizes))
        for node in (here, there):  # in the middle of a stream, which goes on
            node.reset()
            node.threshold_db = -20.0 + is_pipelined
        outs = [[node.process_block(block, RATE) for block in cut(x, [128])] for node in (here, there)]
        want, out = (np.concatenate(blocks, axis=1) for blocks in outs)
        np.testing.assert_array_equal(out, late(want, added))
        np.testing.assert_array_equal(there(x, RATE), here(x, RATE))
        assert len(there.sandbox.pids) == 2  # a spare one
    assert not there.sandbox.faults
    go_offline()
    assert there.reported_latency_samples == 480
    until(lambda: len(there.sandbox.pids) == 1)


# ---- the same samples, asked for together ----------------------------------------------------------------------------


class Hook(Node):
    """A node at which something happens, once."""

    action = None

    def process_block(self, x, sample_rate):
        action, self.action = self.action, None
        if action:
            action()
        return x


class Desk:
    """A mixer, heard behind its pre chains."""

    def __init__(self, chains, sandbox=None):
        self.mixer, self.sandbox = Mixer(chains, model="unity"), sandbox
        self.mixer.observers.append(lambda block: self.taps.update(block.taps))
        self.taps = {}

    def prepare(self, sample_rate, channels):
        self.mixer.reset()

    def process_block(self, x, sample_rate):
        tracks = {name: np.roll(x, 7 * k, axis=1) for k, name in enumerate(self.mixer)}
        self.mixer.process(tracks, sample_rate, reset=False)
        return np.concatenate([self.taps[name] for name in self.mixer])


@pytest.fixture
def rack(box):
    """Plugins for four chains of up to two, and a fifth of one: here, in one sandbox, and in two."""
    other = Sandbox()
    names = ["ZamCompX2", "ZaMaximX2", "ZamComp"] * 3
    places = [[False] * 9, [box] * 9, [box, other] * 4 + [box]]
    yield [
        [made(name, {"threshold_db": -30.0 + k}, isolated=place[k]) for k, name in enumerate(names)] for place in places
    ]
    other.close()


PARTS = {
    "native": lambda: pb.Compressor(-30, 4),
    "node": lambda: Gain(-3.0),
    "keyed": lambda: SidechainCompressor("b", -40.0, 4.0),
}


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    lists=st.lists(
        st.lists(st.sampled_from(["far", "far", *PARTS]), max_size=4).filter(lambda parts: parts.count("far") < 3),
        min_size=2,
        max_size=4,
    ),
    sizes=st.lists(st.sampled_from([1, 17, 64, 441, 1_000]), min_size=1, max_size=4),
    place=st.sampled_from([1, 2]),
    edited=st.integers(0, 3),
)
@example(lists=[["far"], ["native", "far"], ["keyed", "far", "far"], ["node"]], sizes=[128], place=1, edited=1)
@example(lists=[["far", "native"], ["far", "keyed", "far"], ["native"], ["far"]], sizes=[441, 17], place=2, edited=1)
def test_strips_that_are_answered_together_sound_the_same(rack, lists, sizes, place, edited):
    desks, hooks, pres = [], [Hook(), Hook()], []
    for plugins, hook in zip((rack[0], rack[place]), hooks, strict=True):
        left = iter(plugins)
        chains = [[next(left) if part == "far" else PARTS[part]() for part in parts] for parts in lists]
        desks.append(Desk(dict(zip("abcd", chains, strict=False)) | {"last": [hook, next(left)]}))
        pres.append(desks[-1].mixer["abcd"[edited % len(lists)]].pre)
    here, there = desks
    is_begun = "far" in lists[edited % len(lists)]
    for k, block in enumerate(cut(noise(2, 3_000), sizes)):
        if k == 2:  # what has begun when the chain changes goes on as it began
            edits = [lambda pre=pre: pre.insert(len(pre) // 2, Gain(-1.0)) for pre in pres]
            hooks[1].action = edits[1]
            if is_begun:
                hooks[0].action = edits[0]
            else:
                edits[0]()
        want, out = (desk.process_block(block, RATE) for desk in desks)
        np.testing.assert_array_equal(out, want)
    assert here.mixer.faults == there.mixer.faults == {}


def test_strips_are_asked_together(box, monkeypatch):
    log = []

    def logged(kind, name):
        real = getattr(kind, name)

        def call(self, *arguments):
            log.append(name)
            return real(self, *arguments)

        monkeypatch.setattr(kind, name, call)

    a, b, c, d, e = (made("ZamCompX2", isolated=box) for _ in range(5))
    desk = Desk({"a": [a], "b": [pb.Reverb(), b, c], "c": [pb.Reverb()], "d": [Chain([d]), e]})
    desk.process_block(noise(), RATE)
    logged(_Blocks, "begin")
    logged(_Blocks, "end")
    desk.process_block(noise(), RATE)
    # The first of each, then the second.
    assert log == ["begin"] * 3 + ["end", "end", "begin", "end", "begin"] + ["end"] * 2


# ---- parameters and state --------------------------------------------------------------------------------------------


def test_it_is_told_from_outside_like_any_other(box, tmp_path):
    here, there = both("ZamCompX2", {"threshold_db": -31.3, "ratio": 7}, isolated=box)
    assert values_of(there) == values_of(here)
    assert there.parameters == here.parameters
    for name, value, error in (
        ("ratio", 99, ParameterError),
        ("ratio", "4", ParameterError),
        ("treshold_db", 1, AttributeError),
    ):
        said = []
        for node in (here, there):
            with pytest.raises(error) as caught:
                setattr(node, name, value)
            said.append(str(caught.value))
        assert said[0] == said[1]
    assert values_of(there) == values_of(here)
    assert there.raw_state == here.raw_state
    here.save_preset(tmp_path / "a.vstpreset")
    there.save_preset(tmp_path / "b.vstpreset")
    assert (tmp_path / "a.vstpreset").read_bytes() == (tmp_path / "b.vstpreset").read_bytes()
    other = made("ZamCompX2", isolated=box)
    other.load_preset(tmp_path / "a.vstpreset")
    assert values_of(other) == values_of(here)
    other = made("ZamCompX2", isolated=box)
    other.raw_state = here.raw_state
    assert values_of(other) == values_of(here)
    with pytest.raises(
        ParameterError, match=r"^raw_state must be a state of ZamCompX2, got 4 bytes of something else$"
    ):
        other.raw_state = b"junk"
    with pytest.raises(PluginError, match=r"none.vstpreset: expected a .vstpreset file, got no such file"):
        other.load_preset(tmp_path / "none.vstpreset")
    assert values_of(other) == values_of(here)
    with pytest.raises(ParameterError, match=r"^isolated must be True, False or a Sandbox, got 'yes'$"):
        External("ZamCompX2", isolated="yes")


def test_what_one_parameter_does_to_others_is_seen(box):
    here, there = both("ZamCompX2", isolated=box)
    program = here.parameters["current_program"].choices[1]
    assert values_of(there) == values_of(here)
    for node in (here, there):
        node.current_program = program
    assert values_of(there) == values_of(here)
    there.prepare(RATE, 2)
    there.process_block(noise(), RATE)
    there.current_program = "Zero"
    there.process_block(noise(), RATE)
    assert there.current_program == "Zero"
    with pytest.raises(
        ParameterError, match=r"^current_program must be one of its \d values, 'Zero' perhaps, got 'Zer'"
    ):
        there.current_program = "Zer"


def test_copies_are_isolated_too():
    here, there = both("ZamComp", {"threshold_db": -30.0}, slew_ms=7.0)
    stream(there, noise(), [480])
    there.makeup_db = here.makeup_db = 9.0  # on its way in one of them
    for twin in (copy.deepcopy(there), pickle.loads(pickle.dumps(there))):
        assert twin.slew_ms == 7.0
        assert twin.sandbox is there.sandbox
        assert values_of(twin) == values_of(here)
        np.testing.assert_array_equal(twin(noise(), RATE), here(noise(), RATE))


# ---- faults ----------------------------------------------------------------------------------------------------------


LOUD = {"threshold_db": -30.0, "makeup_db": 6.0}


class Concert:
    """Plugins at their driver's pace: what is heard of them, and what they make when nothing happens to them."""

    PERIOD = 4_800  # of the tone

    def __init__(self, here, node, **options):
        self.here, self.node = here, node
        self.sandbox = self.node.sandbox
        go_live(128, RATE, **options)
        self.x, self.at = np.tile(tone(self.PERIOD), 2), 0
        self.here.prepare(RATE, 2)
        self.node.prepare(RATE, 2)
        self.heard, self.wanted = [], []
        self.play(150)
        # A compressor's first attack is a larger step than any after it.
        del self.heard[:75], self.wanted[:75]

    def play(self, blocks=1):
        for _ in range(blocks):
            time.sleep(128 / RATE)
            x = np.ascontiguousarray(self.x[:, self.at : self.at + 128])
            self.at = (self.at + 128) % self.PERIOD
            self.heard.append(self.node.process_block(x, RATE))
            self.wanted.append(self.here.process_block(x, RATE))

    def back(self, faults):
        """Play until the plugin is heard again after so many faults, and another one is spare."""
        until(lambda: len(self.sandbox.faults) == faults and len(self.sandbox.pids) == 2, self.play)
        self.play(60)  # warm-up and fade

    @property
    def step(self):
        steps = [np.abs(np.diff(np.concatenate(blocks, axis=1))).max() for blocks in (self.heard, self.wanted)]
        return steps[0] / steps[1]


@pytest.fixture
def fifo():
    """SCHED_FIFO for this thread; nothing where it is not allowed."""
    if sys.platform != "linux":
        yield 0
        return
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(40))
    yield os.sched_getparam(0).sched_priority
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_the_sound_goes_on_through_every_fault(drill, live, fifo, caplog):
    concert = Concert(*both("ZamCompX2", LOUD, isolated=Sandbox()), is_pipelined=False)
    node, sandbox = concert.node, concert.sandbox
    assert sandbox.added_latency_samples == 0
    assert sandbox.has_priority == (fifo > 0)
    if fifo:
        assert {os.sched_getparam(pid).sched_priority for pid in sandbox.pids} == {fifo - 1}
    for plugin in (concert.here, node):
        plugin.ratio = 6.0
    concert.play(60)
    state, values = concert.here.raw_state, values_of(node)
    assert math.isclose(values["ratio"], 6.0, abs_tol=0.01)
    for count, fault in enumerate(["kill", "stop", "loop", "nan", "loud"], 1):
        pid, spare = sandbox.pids
        if fault == "kill":
            os.kill(pid, signal.SIGKILL)
        elif fault == "stop":
            os.kill(pid, signal.SIGSTOP)
        else:
            drill.write_text(f"{fault} {pid}")
        concert.back(count)
        assert sandbox.pids[0] == spare
        assert not is_running(pid)
        assert (node.raw_state, values_of(node)) == (state, values)
        concert.play(7 * count)  # the next one at another phase
    until(lambda: np.allclose(concert.heard[-1], concert.wanted[-1], atol=1e-3), concert.play)
    assert concert.step < 1.05
    assert [line.removeprefix("ZamCompX2 ").partition(":")[0] for line in sandbox.faults] == [
        "crashed (signal 9)",
        "hung",
        "hung",
        "returned NaN or a roar",
        "returned NaN or a roar",
    ]
    assert [message for message in caplog.messages if "heard dry" in message] == sandbox.faults


def test_a_plugin_that_is_late_for_some_blocks_gets_them_all(live, fifo, monkeypatch):
    monkeypatch.setattr(sandboxes, "HUNG_S", 60.0)
    monkeypatch.setattr(sandboxes, "HUNG_WITHOUT_PRIORITY_S", 60.0)
    concert = Concert(*both("ZaMaximX2", {"threshold_db": -12.0}, isolated=Sandbox()), is_pipelined=False)
    for _ in range(2):
        os.kill(concert.sandbox.pids[0], signal.SIGSTOP)
        concert.play(4)
        os.kill(concert.sandbox.pids[0], signal.SIGCONT)
        concert.play(20)
    assert concert.sandbox.late_blocks >= 8
    # Its memory has no gap: heard again, it makes the samples that it would have made.
    until(lambda: np.array_equal(concert.heard[-1], concert.wanted[-1]), concert.play)
    assert concert.step < 1.05
    assert not concert.sandbox.faults


def test_one_that_answers_every_block_too_late_is_not_hung(drill, live, fifo, monkeypatch):
    monkeypatch.setattr(sandboxes, "SHARE", 0.0)  # .7 ms
    monkeypatch.setattr(sandboxes, "HUNG_S", 1.0)
    monkeypatch.setattr(sandboxes, "HUNG_WITHOUT_PRIORITY_S", 1.0)
    concert = Concert(*both("ZamCompX2", LOUD, isolated=Sandbox()), is_pipelined=False)
    sandbox = concert.sandbox
    drill.write_text(f"slow {sandbox.pids[0]}")
    late = sandbox.late_blocks
    concert.play(600)
    assert sandbox.late_blocks - late > 500  # for longer than what hangs is waited for
    assert not sandbox.faults
    drill.write_text("none 0")
    until(lambda: np.array_equal(concert.heard[-1], concert.wanted[-1]), concert.play)
    assert concert.step < 1.05


def test_all_of_a_block_is_waited_for_once_and_a_new_plugin_as_long_as_any(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr(sandboxes.time, "perf_counter", lambda: now_s)
    driver, waits = sandboxes._Live(128, 48_000, 0, None, None), sandboxes._Round()
    first = waits.deadline_s("a", 64, driver)
    assert 0 < first < 64 / 48_000
    now_s = 1e-3
    assert waits.deadline_s("b", 128, driver) == waits.deadline_s("a", 64, driver) == first
    now_s = 128 / 48_000
    assert math.isclose(waits.deadline_s("a", 64, driver), now_s + first)
    now_s = 1.0  # it played a while ago, and now another does for the first time
    assert math.isclose(waits.deadline_s("c", 64, driver), now_s + first)


def three(**options):
    """Strips with plugins in one sandbox, and what they are to sound like; the last of them begins with a hook."""
    sandbox, hooks = Sandbox(), [Hook(), Hook()]
    names = ["ZamCompX2", "ZaMaximX2", "ZamCompX2"]
    pairs = [both(name, {"threshold_db": -30.0 + 3 * k}, isolated=sandbox) for k, name in enumerate(names)]
    desks = [
        Desk({"a": [plugins[0]], "b": [pb.HighpassFilter(20), plugins[1]], "c": [hook, plugins[2]]}, sandbox)
        for plugins, hook in zip(zip(*pairs, strict=True), hooks, strict=True)
    ]
    return Concert(*desks, **options), hooks[1]


def test_a_fault_while_several_are_under_way_is_one_fault(live, fifo):
    concert, hook = three(is_pipelined=False)
    sandbox = concert.sandbox
    for count, number in enumerate([signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL], 1):
        pid, spare = sandbox.pids
        hook.action = lambda pid=pid, number=number: os.kill(pid, number)
        concert.back(count)
        assert sandbox.pids[0] == spare
        concert.play(7 * count)
    until(lambda: np.allclose(concert.heard[-1], concert.wanted[-1], atol=1e-3), concert.play)
    assert concert.step < 1.05
    assert [next(f for f in ("crashed (signal 9)", "hung") if f in line) for line in sandbox.faults] == [
        "crashed (signal 9)",
        "hung",
        "crashed (signal 9)",
    ]
    assert concert.node.mixer.faults == {}


def test_a_block_that_is_late_is_late_for_each_plugin_that_had_begun_it(live, fifo, monkeypatch):
    monkeypatch.setattr(sandboxes, "HUNG_S", 60.0)
    monkeypatch.setattr(sandboxes, "HUNG_WITHOUT_PRIORITY_S", 60.0)
    concert, hook = three(is_pipelined=False)
    late = concert.sandbox.late_blocks
    hook.action = lambda pid=concert.sandbox.pids[0]: os.kill(pid, signal.SIGSTOP)
    concert.play(4)
    # Two of the three may have been answered before it stopped.
    assert 3 * 4 - 2 <= concert.sandbox.late_blocks - late <= 3 * 4
    os.kill(concert.sandbox.pids[0], signal.SIGCONT)
    concert.play(20)
    # Their memory has no gap.
    until(lambda: np.array_equal(concert.heard[-1], concert.wanted[-1]), concert.play)
    assert concert.step < 1.05
    assert not concert.sandbox.faults


def test_without_fifo_a_block_of_latency_is_declared(live, caplog):
    with caplog.at_level(logging.WARNING, "alm_plugin"):
        concert = Concert(*both("ZamCompX2", LOUD, isolated=Sandbox()), priority=0)
    assert caplog.messages == ["isolated plugins answer 128 samples later: expected SCHED_FIFO for them, got none"]
    assert not concert.sandbox.has_priority
    assert concert.sandbox.added_latency_samples == concert.node.reported_latency_samples == 128
    os.kill(concert.sandbox.pids[0], signal.SIGKILL)
    concert.back(1)
    assert concert.step < 1.05
    assert Chain([concert.node]).latency_names == [("ZamCompX2", 128)]


@pytest.mark.parametrize(
    ("took_s", "is_whole"), [([0, 1], True), ([0, 1, 1], True), ([0, 1, 1, 1], False), ([1], False)]
)
def test_one_slow_moment_does_not_make_a_slow_plugin(took_s, is_whole, monkeypatch):
    monkeypatch.setattr(child, "QUICK_S", 0.1)
    (entry,) = find("ZamCompX2")
    notes = []
    slot = SimpleNamespace(words=[0] * 64, write_note=lambda message, state: notes.append(state))
    hosted = child._Hosted(entry, 0.0, slot)
    hosted._takes_s.extend(took_s)
    hosted.set({"ratio": 6.0})
    hosted._touched.add("ratio")
    hosted._is_noted = False
    hosted.note()
    assert [bool(state) for state in notes] == [is_whole]


@pytest.mark.parametrize("is_quick", [True, False])
def test_offline_a_crash_costs_a_moment(drill, monkeypatch, is_quick):
    monkeypatch.setenv("QUICK_S", "60" if is_quick else "0")  # whether all settings can be noted between blocks
    sandbox = Sandbox()
    here, there = both("ZamCompX2", {"makeup_db": 6.0, "ratio": 3.0}, isolated=sandbox)
    x, outs = tone(RATE), []
    for node in (here, there):
        node.prepare(RATE, 2)
        blocks = []
        for k, block in enumerate(cut(x, [480])):
            if k == 10:
                node.threshold_db = -35.0
            if k in (30, 31) and node is there:
                time.sleep(0.1)  # time for a note
            if k == 50:
                node.makeup_db = 9.0  # which the one that crashes never hears of
            if k == 50 and node is there:
                os.kill(sandbox.pids[0], signal.SIGKILL)
            blocks.append(node.process_block(block, RATE))
        outs.append(np.concatenate(blocks, axis=1))
    want, out = outs
    np.testing.assert_array_equal(out[:, : 50 * 480], want[:, : 50 * 480])
    np.testing.assert_allclose(out[:, -9_600:], want[:, -9_600:], atol=0.003)
    assert np.abs(np.diff(out[:, 9_600:])).max() < 1.05 * np.abs(np.diff(want[:, 9_600:])).max()
    assert sandbox.faults == ["ZamCompX2 crashed (signal 9): heard dry until another process goes on"]
    for name, value in values_of(here).items():
        assert getattr(there, name) == pytest.approx(value, abs=1e-3), name
    np.testing.assert_array_equal(there(x, RATE), here(x, RATE))


def test_one_that_fails_again_and_again_is_left_out_until_its_next_stream(drill, monkeypatch):
    monkeypatch.setattr(sandboxes, "MOST_FAULTS", 1)
    sandbox = Sandbox()
    here, bad = both("ZamCompX2", {"threshold_db": -30.0}, isolated=sandbox)
    good = made("ZaMaximX2", isolated=sandbox)
    good_here = made("ZaMaximX2")
    for node in (here, bad, good, good_here):
        node.prepare(RATE, 2)
    x = tone(4_800)
    bad.process_block(x, RATE)
    drill.write_text(f"nan {sandbox.pids[0]}")
    for _ in range(3):
        bad.process_block(x, RATE)
    for _ in range(5):
        out = bad.process_block(x, RATE)
    assert sandbox.faults == ["ZamCompX2 returned NaN or a roar: heard dry until its next stream"]
    factor = float(out[0, 100] / x[0, 100])
    np.testing.assert_allclose(out, factor * x, atol=1e-6)  # dry, and as loud as it was
    np.testing.assert_array_equal(stream(good, x, [480]), stream(good_here, x, [480]))
    np.testing.assert_array_equal(stream(bad, x, [480]), stream(here, x, [480]))


def test_one_that_crashes_while_it_is_loaded_is_refused(tmp_path, box):
    # It was good when it was tried.
    (entry,) = find("ZamCompX2")
    good, want = made("ZaMaximX2", isolated=box), made("ZaMaximX2")(noise(), RATE)
    (tmp_path / "Gone.vst3").mkdir()
    gone = type(entry)(**vars(entry) | {"path": str(tmp_path / "Gone.vst3")})
    with pytest.raises(PluginError, match=r"^ZamCompX2 cannot be loaded: "):
        External(gone, isolated=box)
    np.testing.assert_array_equal(good(noise(), RATE), want)


def test_a_closed_sandbox_is_heard_dry():
    sandbox = Sandbox()
    node = made("ZamCompX2", isolated=sandbox)
    pids = sandbox.pids
    x = noise()
    node(x, RATE)
    sandbox.close()
    until(lambda: not any(map(is_running, pids)))
    node.prepare(RATE, 2)
    np.testing.assert_array_equal(node.process_block(x, RATE), x)
    with pytest.raises(PluginError, match=r"^ZamCompX2: expected a sandbox with room, got a closed one$"):
        External("ZamCompX2", isolated=sandbox)
    with pytest.raises(PluginError, match=r"^ZamCompX2: expected an answer of its process, got none$"):
        _ = node.raw_state
    assert not sandbox.faults


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_and_memory_go_with_the_plugins(live):
    def maps():
        return [line for line in Path("/proc/self/maps").read_text().splitlines() if "alm-sandbox" in line]

    def files():
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # plugins of other tests, that would get a spare process too
    maps_before, files_before = len(maps()), files()
    node = made("ZamCompX2", isolated=Sandbox())
    live(128, RATE)
    node(noise(), RATE)
    pids = node.sandbox.pids
    assert len(pids) == 2
    assert len(maps()) > maps_before
    del node
    gc.collect()
    until(lambda: not any(map(is_running, pids)))
    until(lambda: len(maps()) <= maps_before)
    until(lambda: files() <= files_before)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
def test_children_end_with_their_parent_and_leave_nothing():
    script = """
import sys, threading, time
from alm_plugin.nodes.external import External, go_live
def make():  # in a thread that ends: its children do not end with it
    global node
    node = External("ZamCompX2", isolated=True)
    go_live(128, 48_000, priority=0)
thread = threading.Thread(target=make)
thread.start()
thread.join()
time.sleep(0.2)
print(*node.sandbox.pids, flush=True)
time.sleep(600)
"""
    before = set(os.listdir("/dev/shm"))  # noqa: PTH208
    options = {"stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
    with subprocess.Popen([sys.executable, "-c", script], **options) as parent:
        pids = parent.stdout.readline().split()
        assert len(pids) == 2
        assert all(map(is_running, pids))
        parent.kill()
        parent.wait()
    until(lambda: not any(map(is_running, pids)))
    left = set(os.listdir("/dev/shm")) - before  # noqa: PTH208
    assert not [name for name in left if "alm" in name or "psm" in name]


# ---- the cover -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(
    size=st.sampled_from([32, 128, 441]),
    answers=st.lists(st.sampled_from(["wet", "wet", "wet", "none", "nan", "roar", "new"]), min_size=40, max_size=80),
    latency=st.sampled_from([0, 100]),
    is_pipelined=st.booleans(),
    gain=st.sampled_from([0.5, -1.5, 1.0]),
)
def test_gaps_make_no_steps_and_nothing_unfit_is_heard(size, answers, latency, is_pipelined, gain):
    steady, added = RATE // 4 // size, size * is_pipelined
    answers = ["wet"] * steady + answers + ["wet"] * steady
    x = tone(size * len(answers))
    # The plugin's gain moves, and is another on each side, so that no factor fits.
    gains = gain * np.array([[1.0], [0.8]]) * 10 ** (np.sin(np.arange(x.shape[1]) * (4 * np.pi / RATE)) / 20)
    y = (gains * late(x, latency)).astype(np.float32)
    cover, outs, unheard = Cover(2, RATE, latency, added), [], 0
    for k, answer in enumerate(answers):
        block = slice(k * size, (k + 1) * size)
        sent, out = np.empty((2, 2, size), np.float32)
        cover.admit(x[:, block].copy(), k * size, sent)
        np.testing.assert_array_equal(sent, x[:, block])
        # What is heard of this answer now or, pipelined, with the next block.
        is_of = answers[min(k + is_pipelined, len(answers) - 1)]
        given = y[:, block] * np.float32({"nan": np.nan, "roar": 1e4}.get(is_of, 1.0))
        if answer == "new":
            cover.renew()
            unheard = RATE // 10 + latency + added
        if unheard > 0 and answer in ("wet", "new") and not is_pipelined:
            given = noise(2, size)
            unheard -= size
        if is_pipelined:
            cover.collect(given, k * size)
        is_fit = cover.play(k * size, answer != "none", None if is_pipelined else given, out)
        assert is_fit == (answer not in ("nan", "roar"))
        outs.append(out)
    out, want = np.concatenate(outs, axis=1), late(y, added)
    for part in (slice(0, steady * size), slice(-size, None)):
        np.testing.assert_array_equal(out[:, part], want[:, part])
    begun = latency + added + 1
    assert np.abs(np.diff(out[:, begun:])).max() < 1.05 * np.abs(np.diff(want[:, begun:])).max()


def test_what_is_no_sound_does_not_go_in():
    cover = Cover(1, RATE, 0, 0)
    sent = np.empty((1, 4), np.float32)
    cover.admit(np.array([[1.0, np.nan, np.inf, -1.0]], np.float32), 0, sent)
    np.testing.assert_array_equal(sent, [[1.0, 0.0, 0.0, -1.0]])
    out = np.empty((1, 4), np.float32)
    cover.play(0, False, None, out)
    assert np.isfinite(out).all()
