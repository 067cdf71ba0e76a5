"""A JACK server for tests, and somebody who plays and listens there."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

CAPTURES, PLAYBACKS = 10, 9


class Server:
    """`jackd` without a sound card. It waits for its clients (-S), so that a busy machine loses no blocks."""

    def __init__(self):
        self.name = f"alm-test-{os.getpid()}"
        self.process = None

    def start(self, block_size=128):
        import jack

        jack.set_error_function(lambda message: None)
        jack.set_info_function(lambda message: None)
        dummy = ["-d", "dummy", "-r48000", f"-p{block_size}", f"-C{CAPTURES}", f"-P{PLAYBACKS}"]
        self.process = subprocess.Popen(
            ["jackd", "-n", self.name, "-S", "-p", "256", *dummy], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            try:
                jack.Client("probe", no_start_server=True, servername=self.name).close()
                return
            except jack.JackOpenError:
                assert self.process.poll() is None, "jackd has ended"
                time.sleep(0.05)
        pytest.fail("jackd does not answer")

    def kill(self):
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is not None:
            self.start()  # so that it tidies up what the killed one has left; there is room for eight such
        self.process.terminate()
        self.process.wait()

    def play(self, folder, targets, sources, blocks):
        """Play noise into `targets` and record `sources`, ports both, in a process of its own: sent, heard, size."""
        player = Path(__file__).with_name("jack_player.py")
        arguments = [self.name, str(blocks), folder / "heard.npz", ",".join(targets), ",".join(sources)]
        subprocess.run([sys.executable, player, *arguments], check=True, timeout=120)
        with np.load(folder / "heard.npz") as data:
            return data["played"], data["heard"], int(data["size"])


@pytest.fixture
def jackd():
    if shutil.which("jackd") is None:
        pytest.skip("jackd is not installed (Debian: jackd2)")
    pytest.importorskip("jack", reason="JACK-Client is not installed")
    server = Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()
