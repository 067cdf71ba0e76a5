"""What this machine can do on stage: versions, processor, times, plugins, and what to do about what is wrong.

The rule for how many channels fit, for the model's clock and blocks of 128 samples at 48 kHz. Each of these has a time:

- *step*: features and step, within ``slack_ms`` less one block, for the gain is read at the block that holds the slack;
- *embed*: the embedding, computed beside the steps, and those steps, within ``embedding_lag`` frames (or within a
  stride, if that is shorter: the next one is waiting). Without a lag it is part of *step*;
- *mix*: the strips, each with a high pass and a compressor, within one block.

A number of channels fits if `MARGIN` times the median CPU time keeps all three ("idle": what the machine can do), and
fits now if also the 99th percentile of wall time does, once ("now": what other programs leave of it). Between measured
numbers times are interpolated; beyond the largest nothing is claimed.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from ctypes.util import find_library
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pedalboard import Compressor, HighpassFilter
from rich import box
from rich.console import Console
from rich.table import Table

from alm_plugin import __version__
from alm_plugin.errors import AlmError, ParameterError
from alm_plugin.features.clock import ModelClock
from alm_plugin.features.front_end import MAX_CHANNELS, FrontEnd
from alm_plugin.models.contract import MEL_BANDS, PATCH_COLUMNS, Model
from alm_plugin.models.registry import DEFAULT, load_model
from alm_plugin.nodes import external
from alm_plugin.nodes.strip import Strip

RATE = 48_000
BLOCK = 128
BLOCK_MS = 1e3 * BLOCK / RATE
STRIPS = 8
"""How many the mix path is measured with; it costs each channel the same."""

COUNTS = (1, 8, 16, 32)
"""Numbers of channels that the model is timed with."""

MARGIN = 2.0
"""How much longer than its median CPU time anything may take."""

PACKAGES = ("pedalboard", "torch", "numpy", "numba", "soundfile")
FLAGS = {"avx2": ("avx2",), "avx512": ("avx512f",), "bf16": ("avx512_bf16", "amx_bf16", "bf16")}
JACK_SERVERS = ("jackd", "jackdbus", "pipewire")

# Elsewhere the CPU time of a thread is counted in ticks longer than what is measured here.
_cpu_s = time.thread_time if os.name == "posix" else time.perf_counter

# ---- the whole -------------------------------------------------------------------------------------------------------


def examine(model: str | None = None, channels: int = 8, say: Callable[[str], object] | None = None) -> dict[str, Any]:
    """Look at this machine for some seconds; nothing is written, started or changed.

    Parameters
    ----------
    model : str, optional
        Name or file of the model to time; by default the default one, and then it is a finding if that cannot be used.
    channels : int
        How many the band has, 1 to 64.
    say : callable, optional
        Called with a line before what takes longest.

    Returns
    -------
    dict
        ``ok`` (bool: no finding fails), ``findings`` (list of ``fails``, ``what``, ``remedy``), ``versions`` (by
        package, None for one that is not there), ``cpu``, ``threads``, ``denormals``, ``timer``, ``audio``, ``plugins``
        (facts by name, None for what cannot be known here), ``model`` (``name``, ``sha256``, clock; or ``error``),
        ``times`` (list of ``what``, ``channels``, ``runs``, ``cpu_p50_ms``, ``wall_p50_ms``, ``wall_p99_ms``), and
        ``live`` (``channels_asked``, ``channels_idle``, ``channels_now``, ``measured_up_to``, and the share of its time
        that each of step, embed and mix takes with the channels asked for: ``loads_idle``, ``loads_now``).

    Raises
    ------
    ParameterError
        For a number of channels outside its range.
    ModelError
        For a `model` that cannot be loaded.
    """
    if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= MAX_CHANNELS:
        raise ParameterError(f"channels must be a whole number in [1, {MAX_CHANNELS}], got {channels!r}")
    report: dict[str, Any] = {"denormals": denormals()}  # first: whatever is loaded later might change it
    loaded: Model | None = None
    try:
        loaded = load_model(DEFAULT if model is None else model)
        about = loaded.metadata
        report["model"] = {"name": about.name, "sha256": about.sha256, **vars(about.clock)}
    except (AlmError, ImportError, OSError) as error:
        if model is not None:
            raise
        report["model"] = {"error": str(error)}
    report |= {"versions": versions(), "cpu": cpu(), "threads": threads(), "timer": timer(), "audio": audio()}
    report |= {"plugins": plugins(), "times": [], "live": None}
    if loaded is not None:
        if say:
            say(f"timing {loaded.metadata.name}, some seconds")
        try:
            report["times"] = measure(loaded, sorted({*COUNTS, channels}))
        except Exception as error:  # a user's own model may end in anything
            report["model"]["error"] = (str(error).strip() or type(error).__name__).splitlines()[-1]
        else:
            report["live"] = live(loaded.metadata.clock, report["times"], channels)
    report["findings"] = judge(report)
    report["ok"] = not any(finding["fails"] for finding in report["findings"])
    return report


# ---- the rule --------------------------------------------------------------------------------------------------------


def loads(clock: ModelClock, cost: Mapping[str, float]) -> dict[str, float]:
    """Share of its time that each of step, embed and mix takes; 1 and less is in time.

    Parameters
    ----------
    clock : ModelClock
    cost : mapping
        Milliseconds, margin included: ``features``, ``step``, ``embed``, and ``mix`` for one block.

    Examples
    --------
    >>> cost = {"features": 1.0, "step": 2.0, "embed": 132.0, "mix": 0.8}
    >>> {name: round(load, 2) for name, load in loads(ModelClock(), cost).items()}
    {'step': 0.17, 'embed': 0.5, 'mix': 0.3}
    """
    frame, embed = cost["features"] + cost["step"], cost["embed"]
    frames = min(clock.embedding_lag, clock.stride_frames)
    until_slack = clock.slack_ms - BLOCK_MS
    return {
        "step": (frame if frames else frame + embed) / until_slack if until_slack > 0.0 else np.inf,
        "embed": (embed + frames * frame) / (frames * clock.f2_ms) if frames else 0.0,
        "mix": cost["mix"] / BLOCK_MS,
    }


def cost_of(costs: Mapping[int, Mapping[str, float]], channels: int) -> dict[str, float]:
    """Cost of a number of channels, between those that were measured."""
    counts = sorted(costs)
    names = costs[counts[0]]
    return {name: float(np.interp(channels, counts, [costs[count][name] for count in counts])) for name in names}


def most_channels(clock: ModelClock, costs: Mapping[int, Mapping[str, float]]) -> int:
    """Return the largest number of channels that is in time like all smaller ones; at most the largest in `costs`."""
    for channels in range(1, max(costs) + 1):
        if not max(loads(clock, cost_of(costs, channels)).values()) <= 1.0:
            return channels - 1
    return max(costs)


def live(clock: ModelClock, times: Iterable[Mapping[str, Any]], channels: int) -> dict[str, Any]:
    """Apply the rule to the rows of `measure`."""
    by_name = {(row["what"], row["channels"]): row for row in times}
    mix, counts = by_name["mix", STRIPS], sorted({n for what, n in by_name if what == "step"})
    idle, wall = (
        {
            n: {what: margin * by_name[what, n][column] for what in ("features", "step", "embed")}
            | {"mix": margin * mix[column] * n / STRIPS}
            for n in counts
        }
        for column, margin in (("cpu_p50_ms", MARGIN), ("wall_p99_ms", 1.0))
    )
    return {
        "channels_asked": channels,
        "channels_idle": most_channels(clock, idle),
        "channels_now": min(most_channels(clock, idle), most_channels(clock, wall)),
        "measured_up_to": max(idle),
        "loads_idle": loads(clock, cost_of(idle, channels)),
        "loads_now": loads(clock, cost_of(wall, channels)),
    }


# ---- times -----------------------------------------------------------------------------------------------------------


def measure(model: Model, counts: Iterable[int]) -> list[dict[str, Any]]:
    """Time the model and the front end for each number of channels, and the mix path, on one thread as on stage."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    try:
        if torch:
            torch.set_num_threads(1)
        rows = [row for channels in counts for row in _measure_model(model, channels)]
    finally:
        if torch:
            torch.set_num_threads(before)
    rng = np.random.default_rng(0)
    blocks = (0.1 * rng.standard_normal((STRIPS, 1, BLOCK))).astype(np.float32)
    strips = [Strip([HighpassFilter(90.0), Compressor(-18.0, 3.0)]) for _ in blocks]

    def mix() -> None:
        out = np.zeros((1, BLOCK), np.float32)
        for strip, block in zip(strips, blocks, strict=True):
            out += strip.process(block, RATE, reset=False)

    return [*rows, _time("mix", STRIPS, mix, 400)]


def _measure_model(model: Model, channels: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    clock, size = model.metadata.clock, model.metadata.embedding_size
    front_end = FrontEnd(RATE, clock, channels)
    frame = (0.1 * rng.standard_normal((channels, RATE * clock.f2_ms // 1000))).astype(np.float32)
    heard = front_end.process(frame)
    mask, state = np.ones(channels, np.float32), model.initial_state(channels)
    patches = rng.normal(-3.0, 1.0, (channels, PATCH_COLUMNS, MEL_BANDS)).astype(np.float32)
    # Never asked to embed, a rule takes no time for it.
    embed = partial(model.embed, patches, mask) if size else lambda: np.zeros((channels, 0), np.float32)
    embedding = embed()

    def step() -> None:
        nonlocal state
        _, state = model.step(embedding, heard.levels[:, 0], mask, state)

    return [
        _time("features", channels, partial(front_end.process, frame), 100),
        _time("step", channels, step, 150),
        _time("embed", channels, embed, 30),
    ]


def _time(what: str, channels: int, run: Callable[[], object], runs: int, budget_s: float = 0.6) -> dict[str, Any]:
    run()
    wall, cpu = [], []
    end = time.perf_counter() + budget_s
    while len(wall) < runs and (len(wall) < 3 or time.perf_counter() < end):
        start, cpu_start = time.perf_counter(), _cpu_s()
        run()
        cpu.append(1e3 * (_cpu_s() - cpu_start))
        wall.append(1e3 * (time.perf_counter() - start))
    row = {"what": what, "channels": channels, "runs": len(wall), "cpu_p50_ms": float(np.median(cpu))}
    return row | {"wall_p50_ms": float(np.median(wall)), "wall_p99_ms": float(np.percentile(wall, 99))}


# ---- the machine -----------------------------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """Versions of what takes part, None for what is not installed."""
    found: dict[str, str | None] = {"alm": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found | {"os": platform.platform()}


def cpu() -> dict[str, Any]:
    """Processor, how busy it is, and whether programs may have real-time priority."""
    lines = [line.partition(":") for line in _read("/proc/cpuinfo").splitlines()]
    info = {name.strip(): value.strip() for name, _, value in lines}
    flags = set(info.get("flags", info.get("Features", "")).split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": info.get("model name") or platform.processor() or platform.machine(),
        "cores": usable,
        **{name: bool(flags.intersection(any_of)) if flags else None for name, any_of in FLAGS.items()},
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "real_time": _real_time(),
        "rtprio_limit": _rtprio_limit(),
    }


def _real_time() -> bool | None:
    """Whether SCHED_FIFO is granted: limits, capabilities and containers all have a say, so a thread that ends asks."""
    if not hasattr(os, "SCHED_FIFO"):
        return None
    granted = []

    def ask() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            granted.append(True)
        except OSError:
            pass

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return bool(granted)


def _rtprio_limit() -> int | None:
    try:
        import resource

        return resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    except (ImportError, AttributeError):  # not on this system
        return None


def threads() -> dict[str, Any]:
    """How many threads a calculation would use."""
    torch = sys.modules.get("torch")
    return {
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "torch": torch.get_num_threads() if torch else None,
    }


def denormals() -> dict[str, Any]:
    """Whether this thread flushes denormal numbers to zero, and how many times slower a filter is that holds them."""
    # Made of bits, and looked at as bits: where they are flushed, arithmetic and comparisons see zeros.
    tiny = np.full(4096, 1 << 16, np.uint32).view(np.float32)
    flushed = not (tiny * np.float32(0.5)).view(np.uint32).any()

    def filter_s(x: np.ndarray) -> float:
        y, start = x.copy(), _cpu_s()
        for _ in range(500):
            y *= np.float32(0.5)
            y += x
        return _cpu_s() - start

    slower = [filter_s(tiny) / max(1e-9, filter_s(np.ones_like(tiny))) for _ in range(5)]
    return {"flushed": flushed, "times_slower": float(np.median(slower))}


def timer() -> dict[str, float]:
    """Resolution of the clock, and how late a sleep of 1 ms ends."""
    late = []
    for _ in range(300):
        start = time.perf_counter()
        time.sleep(0.001)
        late.append(1e3 * (time.perf_counter() - start) - 1.0)
    p50, p99 = np.percentile(late, [50, 99])
    resolution_us = 1e6 * time.get_clock_info("perf_counter").resolution
    return {"resolution_us": resolution_us, "late_p50_ms": float(p50), "late_p99_ms": float(p99)}


def audio() -> dict[str, Any]:
    """Ways to a sound card that are there, found by looking: libraries, and servers that run (None: none seen)."""
    running = {_read(file).strip() for file in Path("/proc").glob("[0-9]*/comm")}
    return {
        "jack_server": next((name for name in JACK_SERVERS if name in running), None),
        "libjack": _has_library("jack"),
        # On macOS and Windows it comes with this package.
        "libportaudio": _has_library("portaudio") or find_spec("_sounddevice_data") is not None,
    }


def _has_library(name: str) -> bool:
    if sys.platform == "linux":  # where find_library starts compilers
        return f"lib{name}.so" in _read("/etc/ld.so.cache")
    return find_library(name) is not None


def plugins() -> dict[str, Any]:
    """Count the verdicts of the registry."""
    entries = external.read_registry()
    current = [entry for entry in entries if entry.is_current]
    return {
        "usable": sum(entry.is_ok for entry in current),
        "late": sum(bool(entry.is_ok and entry.probed_latency_samples) for entry in current),
        "bad": [{"name": entry.name, "verdict": entry.verdict} for entry in current if not entry.is_ok],
        "changed": len(entries) - len(current),
    }


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ---- what it means ---------------------------------------------------------------------------------------------------


def judge(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Say what would fail on stage, then what may, each with what to do about it."""
    failures: list[dict[str, Any]] = []
    warnings: list[dict[str, Any]] = []

    def fail(what: str, remedy: str) -> None:
        failures.append({"fails": True, "what": what, "remedy": remedy})

    def warn(what: str, remedy: str) -> None:
        warnings.append({"fails": False, "what": what, "remedy": remedy})

    machine, sound, known, fit = (report[name] for name in ("cpu", "audio", "plugins", "live"))
    if "error" in report["model"]:
        fail(f"the model cannot be used: {report['model']['error']}", "name another with --model")
    if fit and fit["channels_idle"] < fit["channels_asked"]:
        what = f"{fit['channels_asked']} channels are too many for this machine, {_most(fit, 'idle')} fit"
        fail(what, "use fewer channels, a faster machine, or --model loudness")
    elif fit and fit["channels_now"] < fit["channels_asked"]:
        what = f"{fit['channels_asked']} channels fit this machine, but {_most(fit, 'now')} while it is as busy as now"
        if machine["real_time"]:
            warn(f"{what}, unless real-time priority makes up for it", "close other programs")
        else:
            fail(what, "close other programs")

    jack = "jackd is not running"
    remedy = "start it: jackd -R -d alsa"
    if sound["jack_server"]:
        jack = f"{sound['jack_server']} is running, but libjack is not there"
        remedy = "install libjack-jackd2-0 or pipewire-jack"
    if not (sound["jack_server"] and sound["libjack"]):
        if not sound["libportaudio"]:
            fail(
                f"no way to a sound card: {jack}, and libportaudio is not there", f"{remedy}, or install libportaudio2"
            )
        elif sys.platform == "linux":  # elsewhere PortAudio is the usual way
            warn(jack, f"{remedy}, if PortAudio's latency is too long")

    if machine["real_time"] is False:
        warn(
            "no real-time priority: other programs interrupt the sound", "add your user to the audio group, log in anew"
        )
    if (report["threads"]["torch"] or 1) > 1:
        what = f"{report['threads']['torch']} OpenMP threads: on a busy machine they wait for each other"
        warn(what, "set OMP_NUM_THREADS=1")
    if machine["cores"] == 1:
        warn("one core for sound and model", "give alm a second one")
    if (machine["load"] or 0.0) > (machine["cores"] or 1):
        what = f"{machine['load']:.1f} programs want {machine['cores']} cores: wall times are longer than they need be"
        warn(what, "close other programs")
    if machine["governor"] == "powersave":
        warn("the processor saves power and may be slow when it matters", "cpupower frequency-set -g performance")
    if (late_ms := report["timer"]["late_p99_ms"]) > BLOCK_MS:
        what = f"one wake-up in a hundred is {late_ms:.1f} ms late, a block is {BLOCK_MS:.1f} ms"
        warn(what, "close other programs, or use larger blocks")
    if report["denormals"]["flushed"]:
        what = "denormal numbers are flushed to zero: last bits differ from other machines"
        warn(what, "find what switched them off: a plugin, or a library built with -ffast-math")
    if known["bad"]:
        warn(
            f"plugins that will not be loaded: {_text(known['bad'])}",
            "replace them; 'alm plugins NAME --scan' tries one again",
        )
    if known["changed"]:
        warn(f"{known['changed']} known plugins have changed or are gone", "run 'alm plugins --scan'")
    return failures + warnings


def _most(fit: Mapping[str, Any], when: str) -> str:
    most = fit[f"channels_{when}"]
    return f"{most} or more" if most == fit["measured_up_to"] else str(most)


# ---- for people ------------------------------------------------------------------------------------------------------


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print what `examine` returned."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column()
    for name in ("versions", "cpu", "threads", "denormals", "timer", "audio", "model", "plugins"):
        facts.add_row(name, ", ".join(f"{key} {_text(value)}" for key, value in report[name].items()))
    console.print(facts)
    if report["times"]:
        times = Table(box=box.SIMPLE, pad_edge=False)
        times.add_column("")
        for header in ("channels", "runs", "CPU p50 ms", "wall p50 ms", "wall p99 ms"):
            times.add_column(header, justify="right")
        for row in report["times"]:
            figures = (f"{row[column]:.3f}" for column in ("cpu_p50_ms", "wall_p50_ms", "wall_p99_ms"))
            times.add_row(row["what"], str(row["channels"]), str(row["runs"]), *figures)
        console.print(times)
    if report["live"] is not None:
        fit, clock = report["live"], report["model"]
        console.print(
            f"Channels that fit live: {_most(fit, 'idle')} on this machine when idle, {_most(fit, 'now')} as it is now."
        )
        for when in ("idle", "now"):
            shares = ", ".join(f"{name} {load:.0%}" for name, load in fit[f"loads_{when}"].items())
            console.print(f"{fit['channels_asked']} channels, {when}, take of their time: {shares}.")
        console.print(
            f"Rule: idle {MARGIN:g} x CPU p50, now also 1 x wall p99 must keep three times: features + step in slack "
            f"less a block of {BLOCK} = {clock['slack_ms'] - BLOCK_MS:.1f} ms; embed, and the steps meanwhile, in the "
            f"embedding lag of {clock['embedding_lag']} x {clock['f2_ms']} ms (or the stride, if shorter; no lag: in "
            f"the slack); mix in a block = {BLOCK_MS:.1f} ms."
        )
    console.print()
    for finding in report["findings"]:
        label, style = ("FAILS", "red") if finding["fails"] else ("warning", "yellow")
        console.print(f"{label}: {finding['what']}. Remedy: {finding['remedy']}.", style=style)
    if not report["findings"]:
        console.print("Nothing found that would fail.")


def _text(value: Any) -> str:
    if isinstance(value, list):  # of plugins
        return ", ".join(f"{entry['name']} ({entry['verdict']})" for entry in value) or "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)
