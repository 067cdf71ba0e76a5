"""The child process that loads a plugin for the first time: whatever the plugin does, it does it here.

``python -m alm_plugin.nodes.external.probe PATH NAME ANSWER TIMEOUT_S`` writes one JSON object to the file ANSWER: of a
file that holds several plugins ``{"names": [...]}`` if NAME is empty, else the entry of one, without its fingerprint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from alm_plugin.errors import LatencyError, ParameterError
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.external.entry import OK
from alm_plugin.nodes.external.host import automatable, describe, load, plugin_names
from alm_plugin.nodes.node import Audio

SAMPLE_RATE = 48_000

TOLERANCE_SAMPLES = 16
"""How far an impulse may be off: filters smear it."""


def judge(plugin: Any) -> dict[str, Any]:
    """Find out what a plugin processes, and whether it does what it says.

    Returns
    -------
    dict
        Fields of a `PluginEntry`: `verdict`, `channels`, and if these are any good the latencies and
        `depends_on_blocks`.
    """
    found: dict[str, Any] = {"verdict": OK, "channels": []}
    if getattr(plugin, "is_instrument", False):
        return found | {"verdict": "is an instrument, not an effect"}
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, SAMPLE_RATE)).astype(np.float32)
    noise[:, SAMPLE_RATE // 2 :] = 0.0
    refusals = []
    for channels in (1, 2):
        chain = Chain(plugin)
        try:
            out = chain(noise[:channels], SAMPLE_RATE)
        except (ParameterError, LatencyError) as error:
            refusals.append(str(error))
            continue
        if out.shape != (channels, SAMPLE_RATE):
            return found | {"verdict": f"returned {out.shape} for a signal of {(channels, SAMPLE_RATE)}"}
        if not np.isfinite(out).all():
            return found | {"verdict": "returned NaN or infinity for noise of -20 dBFS"}
        found["channels"].append(channels)
    if not found["channels"]:
        return found | {"verdict": f"processes neither mono nor stereo: {refusals[0]}"}
    channels = found["channels"][0]
    found["depends_on_blocks"] = _depends_on_blocks(plugin, noise[:channels, : SAMPLE_RATE // 10])
    return found | _judge_latency(plugin, channels)


def _depends_on_blocks(plugin: Any, x: Audio) -> bool:
    # Each twice: of a plugin that does not repeat itself, a difference says nothing about blocks.
    whole, again, cut, cut_again = (_stream(plugin, x, sizes) for sizes in ([x.shape[1]],) * 2 + ([64, 17, 441],) * 2)
    repeats = np.array_equal(whole, again) and np.array_equal(cut, cut_again)
    return repeats and not np.array_equal(whole, cut)


def _stream(plugin: Any, x: Audio, sizes: list[int]) -> Audio:
    chain, outs, start = Chain(plugin), [], 0
    chain.prepare(SAMPLE_RATE, x.shape[0])
    for size in cycle(sizes):
        if start >= x.shape[1]:
            break
        outs.append(chain.process_block(np.ascontiguousarray(x[:, start : start + size]), SAMPLE_RATE))
        start += size
    return np.concatenate(outs, axis=1)


def _judge_latency(plugin: Any, channels: int) -> dict[str, Any]:
    chain = Chain(plugin)
    silence = np.zeros((channels, SAMPLE_RATE), np.float32)
    impulse, at = silence.copy(), SAMPLE_RATE // 2
    impulse[:, at] = 0.5
    # Hum and hiss that a plugin adds by itself are not the impulse.
    response = np.abs(_one_shot(chain, impulse) - _one_shot(chain, silence)).max(axis=0)
    peak, reported = float(response.max()), chain.reported_latency_samples
    found = {"reported_latency_samples": reported, "probed_latency_samples": None}
    if peak == 0.0:  # a gate may swallow an impulse
        return found
    # One shot is compensated for what was reported. A filter of linear phase begins before its peak, one of minimum
    # phase peaks after it begins: so the truth lies between the two, and a report outside is none.
    begins, peaks = int(np.argmax(response > 1e-4 * peak)) - at, int(np.argmax(response)) - at
    probed = reported + peaks
    if begins > TOLERANCE_SAMPLES or peaks < -TOLERANCE_SAMPLES:
        found["verdict"] = f"reports a latency of {reported} samples, but an impulse takes {probed}"
    return found | {"probed_latency_samples": probed}


def _one_shot(chain: Chain, x: Audio) -> Audio:
    return chain(x, SAMPLE_RATE)


def _answer(path: Path, name: str) -> dict[str, Any]:
    try:
        names = plugin_names(path)
        if not name and len(names) > 1:
            return {"names": names}
        name = name or names[0]
        plugin = load(path, name)
        found: dict[str, Any] = {"name": name, "parameters": describe(automatable(plugin))}
        return found | judge(plugin)
    except Exception as error:  # a plugin may fail in any way
        return {"verdict": f"cannot be loaded: {' '.join(str(error).split())}"}


def main(path: str, name: str, answer: str, timeout_s: str) -> None:
    """Write the answer, and end without the destructors that the plugin left behind."""
    if hasattr(signal, "alarm"):  # should the parent be gone by then
        signal.alarm(int(float(timeout_s)) + 10)
    found = _answer(Path(path), name)
    found["parameters"] = {key: vars(parameter) for key, parameter in found.get("parameters", {}).items()}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
