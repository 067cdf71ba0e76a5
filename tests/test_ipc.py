import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin import ipc
from alm_plugin.errors import ParameterError
from alm_plugin.ipc import Mailbox, Ring, Slot

CONTEXT = multiprocessing.get_context("spawn")
WIDE = (16, 256)
MODULUS = 2**20  # float32 tells all smaller numbers apart


def samples(start, channels, count):
    """What every writer here writes: position and channel are heard in each sample."""
    position = np.arange(start, start + count)
    return ((position[None, :] + 1_000 * np.arange(channels)[:, None]) % MODULUS).astype(np.float32)


def child(target, *arguments):
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def ended(process):
    process.join(30.0)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail("the child does not end")
    return process.exitcode


# ---- ring ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    capacity=st.integers(2, 40),
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=40),
)
def test_a_ring_gives_what_its_twin_gives(capacity, moves):
    ring, stream, position, lost = Ring(2, capacity), np.zeros((2, 0), np.float32), 0, 0
    for is_write, count in moves:
        if is_write:
            ring.write(samples(stream.shape[1], 2, count))
            stream = np.hstack([stream, samples(stream.shape[1], 2, count)])
            continue
        out = np.full((2, min(count, capacity // 2)), -1.0, np.float32)
        start = ring.read(out)
        if stream.shape[1] - position < out.shape[1]:
            assert start is None
            continue
        if position < stream.shape[1] - capacity:
            lost += stream.shape[1] - capacity // 2 - position
            position = stream.shape[1] - capacity // 2
        assert start == position
        np.testing.assert_array_equal(out, stream[:, position : position + out.shape[1]])
        position += out.shape[1]
    assert (ring.position, ring.lost, ring.written) == (position, lost, stream.shape[1])
    assert ring.oldest == max(0, stream.shape[1] - capacity)


def test_blocks_may_be_any_view_of_floats_and_nothing_is_compiled_for_them():
    ring, out = Ring(2, 64), np.zeros((8, 2), np.float32).T
    ring.write(samples(0, 4, 8)[::2])
    ring.write(np.asfortranarray(samples(8, 2, 8)))
    assert ring.read(out) == 0
    np.testing.assert_array_equal(out, samples(0, 4, 8)[::2])
    assert ring.read(out) == 8
    np.testing.assert_array_equal(out, samples(8, 2, 8))
    assert all(len(kernel.signatures) == 1 for kernel in (ipc._write_ring, ipc._read_ring))
    with pytest.raises(TypeError, match="No matching definition"):
        ring.write(np.zeros((2, 8)))


def test_readers_do_not_disturb_each_other_and_may_go_back():
    ring, out = Ring(1, 64), np.zeros((1, 16), np.float32)
    first, second = ring, Ring.__new__(Ring)
    second.__setstate__(ring.__getstate__())
    ring.write(samples(0, 1, 40))
    assert [first.read(out), first.read(out), first.read(out)] == [0, 16, None]
    assert second.read(out) == 0
    second.position = 24
    assert (second.read(out), second.lost) == (24, 0)
    np.testing.assert_array_equal(out, samples(24, 1, 16))


def test_samples_that_are_just_being_overwritten_are_lost():
    ring, out = Ring(1, 8), np.zeros((1, 2), np.float32)
    ring.write(samples(0, 1, 8))
    ring._counters[0] += 1  # the writer is at it
    assert ring.oldest == 1
    assert (ring.read(out), ring.lost) == (4, 4)
    np.testing.assert_array_equal(out, samples(4, 1, 2))


def overtake(ring, stop):
    at, block = 0, np.zeros((2, 96), np.float32)
    while not stop.is_set():
        for _ in range(200):
            count = 1 + at % 96
            block[:, :count] = samples(at, 2, count)
            ring.write(block[:, :count])
            at += count


def test_a_reader_overtaken_by_another_process_gets_whole_samples_and_an_exact_count_of_the_lost():
    ring, stop, out = Ring(2, 512), CONTEXT.Event(), np.zeros((2, 256), np.float32)
    process = child(overtake, ring, stop)
    read = expected = 0
    while read < 200 or not ring.lost:
        start = ring.read(out)
        if start is None:
            assert process.is_alive()
            continue
        np.testing.assert_array_equal(out, samples(start, 2, 256))
        assert start >= expected
        expected, read = start + 256, read + 1
    stop.set()
    assert ended(process) == 0
    assert ring.position == expected == 256 * read + ring.lost


# ---- slot ------------------------------------------------------------------------------------------------------------


def publish(slot, stop):
    while not stop.is_set():
        for _ in range(200):
            slot.write(np.full(slot.shape, slot.number + 1.0))


def test_no_read_of_a_slot_is_torn_by_another_process():
    slot, stop, out = Slot(WIDE), CONTEXT.Event(), np.zeros(WIDE)
    process = child(publish, slot, stop)
    reads, last, changes = 0, 0, 0
    while changes < 300:
        number = slot.read(out)
        assert (out == number).all()
        assert number >= last
        changes += number > last
        reads, last = reads + 1, number
        assert reads % 1_000 or process.is_alive()
    stop.set()
    assert ended(process) == 0
    assert slot.read(out) == slot.number == out[0, 0]


def test_a_slot_holds_zeros_first_and_then_the_newest_as_it_was():
    slot, out = Slot((2, 3)), np.ones((2, 3))
    assert slot.read(out) == 0
    assert not out.any()
    values = np.array([[0.1, np.nan, -np.inf], [5e-324, 2.0**53, 1e300]])
    slot.write(np.zeros((2, 3)))
    assert slot.write(values) == 2
    for _ in range(2):
        assert slot.read(out) == 2
        np.testing.assert_array_equal(out, values)
    assert slot.write([[1, 2, 3], [4, 5, 6]]) == 3
    with pytest.raises(ParameterError, match=r"values must have shape \(2, 3\), got \(3,\)"):
        slot.write([1.0, 2.0, 3.0])


def test_a_reader_that_is_always_disturbed_keeps_what_it_had():
    slot, out = Slot(2), np.zeros(2)
    slot.write([1.0, 2.0])
    assert slot.read(out) == 1
    slot._counters[0] += 2  # as if it were overwritten at every try
    slot._data[:] = 7.0
    out[:] = 0.0
    assert slot.read(out) == 1
    assert out.tolist() == [1.0, 2.0]


def test_threads_of_one_process_share_a_slot_too():
    slot, out, last, stop = Slot(64), np.zeros(64), 0, threading.Event()
    thread = threading.Thread(target=publish, args=(slot, stop))
    thread.start()
    try:
        while last < 300:
            last = slot.read(out)
            assert (out == last).all()
    finally:
        stop.set()
        thread.join()


# ---- mailbox ---------------------------------------------------------------------------------------------------------


def test_a_full_mailbox_refuses_and_one_that_is_emptied_takes_again():
    mailbox = Mailbox(3)
    for turn in range(5):
        assert [mailbox.put(k, turn, k / 3) for k in range(4)] == [True, True, True, False]
        assert [mailbox.get() for _ in range(4)] == [(0, turn, 0.0), (1, turn, 1 / 3), (2, turn, 2 / 3), None]
    mailbox.put(2**53 - 1, -1, -np.inf)
    got = mailbox.get()
    assert got == (2**53 - 1, -1, -np.inf)
    assert [type(part) for part in got] == [int, int, float]


def post(mailbox, count):
    for n in range(count):
        while not mailbox.put(n % 7, -n, n / 8):
            time.sleep(0.0)


def test_commands_of_another_process_arrive_once_and_in_order():
    mailbox, count = Mailbox(8), 500
    process = child(post, mailbox, count)
    for n in range(count):
        while (command := mailbox.get()) is None:
            assert process.is_alive() or mailbox._counters[8] > n
        assert command == (n % 7, -n, n / 8)
    assert ended(process) == 0
    assert mailbox.get() is None


# ---- processes -------------------------------------------------------------------------------------------------------


def answer(ring, slot, mailbox):
    out = np.zeros((1, 4), np.float32)
    assert ring.read(out) == 0
    slot.write(out[0])
    mailbox.put(1, 2, 3.0)


def hand_on(*shared):
    raise SystemExit(ended(child(answer, *shared)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_and_theirs_get_the_same_memory_however_they_are_started(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} on {sys.platform}")
    ring, slot, mailbox, out = Ring(1, 8), Slot(4), Mailbox(1), np.zeros(4)
    ring.write(samples(0, 1, 4))
    process = multiprocessing.get_context(method).Process(target=hand_on, args=(ring, slot, mailbox))
    process.start()
    assert ended(process) == 0
    assert slot.read(out) == 1
    np.testing.assert_array_equal(out, samples(0, 1, 4)[0])
    assert mailbox.get() == (1, 2, 3.0)


PARENT = """
    import multiprocessing, os, sys, time
    import numpy as np
    from alm_plugin.ipc import Mailbox, Ring, Slot

    def run(number, ring, slot, mailbox):
        block, out = np.ones((1, 64), np.float32), np.zeros(256)
        while True:
            if number == 0:
                ring.write(block)
            else:
                slot.write(np.full(256, slot.number + 1.0))
            ring.position = max(0, ring.written - 64)
            ring.read(block)
            if block.min() != 1.0 or slot.read(out) != out[0] or out[0] != out[-1]:
                print("torn", flush=True)
            mailbox.put(0, 0, 0.0) or mailbox.get()
            time.sleep(0.001)

    if __name__ == "__main__":
        shared = Ring(1, 256), Slot(256), Mailbox(4)
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=run, args=(1, *shared))
        child.start()
        while not shared[1].number:
            time.sleep(0.01)
        print(child.pid, len(os.listdir("/dev/shm")), flush=True)
        run(0, *shared)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /dev/shm and /proc")
@pytest.mark.parametrize("first", ["creator", "child"])
def test_a_killed_process_leaves_nothing_behind_and_disturbs_nobody(first, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    before = {entry.name for entry in Path("/dev/shm").iterdir()}
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        pid = int(parent.stdout.readline().split()[0])
        assert {entry.name for entry in Path("/dev/shm").iterdir() if "pym" in entry.name} <= before
        victims = {"creator": parent.pid, "child": pid}
        survivor = next(other for name, other in victims.items() if name != first)
        os.kill(victims[first], signal.SIGKILL)
        time.sleep(0.1)
        assert state(survivor) in "RSD"
    finally:
        for number in (parent.pid, pid):
            os.kill(number, signal.SIGKILL) if state(number) else None
    said, complained = parent.communicate(timeout=30)
    assert (said, complained) == ("", "")
    assert {entry.name for entry in Path("/dev/shm").iterdir() if entry.name.startswith(("pym-", "psm_"))} <= before


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "")
    except FileNotFoundError:
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the files in /proc")
def test_memory_goes_with_the_object():
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        Ring(1, 1_000), Slot(3), Mailbox(3)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda n: Ring(n, 8), lambda n: Ring(1, n), Slot, lambda n: Slot((2, n)), Mailbox])
@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_counts_are_whole_numbers_from_one(make, number):
    with pytest.raises(ParameterError, match=f"counts in whole numbers >= 1, got {number}"):
        make(number)


def test_blocks_that_do_not_fit_a_ring_are_refused():
    ring = Ring(2, 8)
    with pytest.raises(ParameterError, match=r"block must have 2 channels, got shape \(3, 4\)"):
        ring.write(np.zeros((3, 4), np.float32))
    for shape in ((2, 5), (1, 4)):
        with pytest.raises(ParameterError, match="out must be 2 channels of at most 4 samples"):
            ring.read(np.zeros(shape, np.float32))
