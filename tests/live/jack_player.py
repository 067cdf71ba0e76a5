"""A JACK client of its own: plays noise into one row of ports while it records another, and keeps both."""

import sys
import threading

import jack
import numpy as np

server, blocks, to, targets, sources = (
    sys.argv[1],
    int(sys.argv[2]),
    sys.argv[3],
    *(p.split(",") for p in sys.argv[4:6]),
)
client = jack.Client("player", no_start_server=True, servername=server)
size = client.blocksize
outs = [client.outports.register(f"out{k}") for k in range(len(targets))]
ins = [client.inports.register(f"in{k}") for k in range(len(sources))]
played = (0.1 * np.random.default_rng(5).standard_normal((len(targets), blocks * size))).astype(np.float32)
heard = np.zeros((len(sources), blocks * size), np.float32)
connected, done = threading.Event(), threading.Event()
block = 0


@client.set_process_callback
def process(_frames):
    global block
    now = slice(block * size, (block + 1) * size)
    for port, x in zip(outs, played, strict=True):
        port.get_array()[:] = x[now] if connected.is_set() and block < blocks else 0.0
    if connected.is_set() and block < blocks:
        for port, y in zip(ins, heard, strict=True):
            y[now] = port.get_array()
        block += 1
    elif block:
        done.set()


with client:
    for out, target in zip(outs, targets, strict=True):
        client.connect(out, target)
    for source, port in zip(sources, ins, strict=True):
        client.connect(source, port)
    connected.set()
    if not done.wait(60):
        raise SystemExit("the server does not run")
np.savez(to, played=played, heard=heard, size=size)
