"""A page to see and hear what a mix has done: curves, loudness, and players that switch between before and after."""

# ruff: noqa: RUF001  (minus signs are what a reader of a page expects)

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AudioFileError
from alm_plugin.export.heard import Heard, Players
from alm_plugin.export.page import clock, data, number, page, signed
from alm_plugin.features.levels import FLOOR_LUFS, FLOOR_POWER, OFFSET_LU, RELATIVE_GATE_LU
from alm_plugin.features.loudness import HOP_MS, HOPS_PER_BLOCK, gated_lufs
from alm_plugin.render import ChannelReport, RenderReport
from alm_plugin.stream import Automation

Powers = NDArray[np.float64]

HOP_S = HOP_MS / 1000.0
SHORT_TERM_HOPS = 30
SINGERS = ("vocals", "backing vocals")

COLUMNS = 1200
"""Points of a curve on the page, at most; each keeps the least and the most of what it stands for."""

FLOOR_DB = -90.0
"""What silence is drawn as."""

LEAST_GAIN_DB = -36.0
"""Where the axis of gains ends: below, a curve runs along its foot."""

JUMP_DB = 3.0
LATE_S, HELD_DB, MOST = 3.0, 0.5, 0.5
"""A channel came in late after this, its gain held if it moved less than this, it plays seldom if less than this."""


# ---- numbers ---------------------------------------------------------------------------------------------------------


def loudness(powers: Powers) -> Powers:
    """Loudness in LUFS of K-weighted powers, without any gate; ``-inf`` for silence."""
    with np.errstate(divide="ignore"):
        return OFFSET_LU + 10.0 * np.log10(powers)


def short_term(powers: Powers) -> Powers:
    """Loudness of the last 3 s, from 3 s on, every 100 ms; of a shorter sound, of all of it once."""
    return loudness(_means(powers, min(SHORT_TERM_HOPS, len(powers))))


def plays(powers: Powers) -> NDArray[np.bool_]:
    """Whether a channel plays, every 100 ms: the 400 ms up to then pass the gates of its loudness.

    BS.1770's second gate lies 10 LU under what passes the first, and so far above what leaks into a microphone.
    """
    found = np.zeros(len(powers), bool)
    if len(powers) >= HOPS_PER_BLOCK:
        blocks = _means(powers, HOPS_PER_BLOCK)
        loud = blocks > FLOOR_POWER
        if loud.any():
            found[HOPS_PER_BLOCK - 1 :] = loud & (blocks > blocks[loud].mean() * 10.0 ** (RELATIVE_GATE_LU / 10.0))
    return found


def _means(powers: Powers, hops: int) -> Powers:
    return np.convolve(powers, np.full(hops, 1.0 / hops), "valid") if hops else np.zeros(0)


def jumps(automation: Automation, name: str) -> list[float]:
    """Find the times in seconds at which a gain moves by more than 3 dB from one frame to the next."""
    curve = automation.gains_db[name].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return automation.times_s[1:][np.abs(np.diff(curve)) > JUMP_DB].tolist()


@dataclass(frozen=True)
class Facts:
    """What the sentence about a channel is made of.

    Attributes
    ----------
    name : str
    plays : float
        Share of the time in which it plays; 0 where nothing of it passed -70 LUFS.
    against : str or None
        What it is compared with: the band for a singer, else the loudest channel; None for that one itself.
    before_lu, after_lu : float
        Above what it is compared with, before and after; NaN where one of the two is silent.
    gain_db, least_db, most_db : float
        Mean, least and most of the gain while it plays, apart from mutes; NaN where it is muted throughout.
    muted : float
        Share of the frames in which it plays that are muted.
    entry_s : float
        When it first plays.
    moved_db : float
        How far the gain moved before that.
    jumps_s : list of float
    """

    name: str
    plays: float
    against: str | None
    before_lu: float
    after_lu: float
    gain_db: float
    least_db: float
    most_db: float
    muted: float
    entry_s: float
    moved_db: float
    jumps_s: list[float]


def facts(report: RenderReport, automation: Automation) -> list[Facts]:
    """Collect what can be said about each channel."""
    loudest = max(report.channels, key=lambda c: c.input_lufs)
    sides = _sides(report)
    found = []
    for channel in report.channels:
        if channel.role in SINGERS and sides is not None:
            against, (before, after) = "the band", map(gated_lufs, sides[1])
        else:
            against = None if channel is loudest else f"the loudest ({loudest.name})"
            before, after = loudest.input_lufs, loudest.output_lufs
        playing = plays(channel.input_powers)
        curve = automation.gains_db[channel.name].astype(np.float64)
        hops = np.minimum((automation.times_s / HOP_S + 1e-6).astype(int), max(len(playing) - 1, 0))
        in_play = playing[hops] if playing.any() else np.zeros(len(curve), bool)
        gains = curve[in_play & np.isfinite(curve)]
        entry_s = float(playing.argmax()) * HOP_S if playing.any() else math.nan
        early = curve[(automation.times_s < entry_s) & np.isfinite(curve)]
        found.append(
            Facts(
                name=channel.name,
                plays=float(playing.mean()) if math.isfinite(channel.input_lufs) else 0.0,
                against=against,
                before_lu=_difference(channel.input_lufs, before),
                after_lu=_difference(channel.output_lufs, after),
                gain_db=float(gains.mean()) if gains.size else math.nan,
                least_db=float(gains.min()) if gains.size else math.nan,
                most_db=float(gains.max()) if gains.size else math.nan,
                muted=float(np.isneginf(curve[in_play]).mean()) if in_play.any() else 0.0,
                entry_s=entry_s,
                moved_db=float(np.ptp(early)) if early.size else 0.0,
                jumps_s=jumps(automation, channel.name),
            )
        )
    return found


def _difference(a: float, b: float) -> float:
    return a - b if math.isfinite(a) and math.isfinite(b) else math.nan


def _sides(report: RenderReport) -> list[tuple[Powers, Powers]] | None:
    """Powers before and after of all who sing, and of the band: all others; None where there are not both."""
    sides = [[c for c in report.channels if (c.role in SINGERS) == sings] for sings in (True, False)]
    if not all(sides):
        return None
    return [
        (np.sum([c.input_powers for c in side], axis=0), np.sum([c.output_powers for c in side], axis=0))
        for side in sides
    ]


# ---- words -----------------------------------------------------------------------------------------------------------


def sentence(f: Facts) -> str:
    """Say in plain words what `facts` found; every part has its own condition."""
    if f.plays == 0.0:
        return f"{f.name}: nothing above −70 LUFS."
    parts = []
    if f.against is None:
        parts.append("the loudest channel")
    elif not math.isnan(f.before_lu):
        parts.append(_stands(f.before_lu, f.against))
    if f.muted == 1.0:
        parts.append("muted")
    else:
        parts.append(_moved(f))
        if f.muted > 0.0:
            parts.append("muted in part")
        if f.against == "the band" and not math.isnan(f.after_lu):
            parts.append(f"now {_stands(f.after_lu, 'it')}")
    told = f"{f.name}: {', '.join(parts)}."
    if f.entry_s > LATE_S:
        before = "held before" if f.moved_db < HELD_DB else f"its gain moved by {number(f.moved_db, 1)} dB before"
        told += f" Came in at {clock(f.entry_s)}; {before}."
    if f.plays < MOST:
        told += f" Plays {100.0 * f.plays:.0f} % of the time."
    if f.jumps_s:
        many = f"{len(f.jumps_s)} jumps, the first" if len(f.jumps_s) > 1 else "One jump"
        told += f" {many} at {clock(f.jumps_s[0])}."
    return told


def _stands(lu: float, against: str) -> str:
    if abs(lu) < 0.5:
        return f"level with {against}"
    return f"{abs(lu):.1f} LU {'over' if lu > 0 else 'under'} {against}"


def _moved(f: Facts) -> str:
    wide = f.most_db - f.least_db > JUMP_DB
    ends = f"{signed(f.least_db)} to {signed(f.most_db)}"
    if abs(f.gain_db) >= 0.5:
        return f"{'raised' if f.gain_db > 0 else 'lowered'} {abs(f.gain_db):.1f} dB" + (f" ({ends})" if wide else "")
    return f"moved by {ends} dB" if wide else "left where it was"


def _level(value: float, unit: str) -> str:
    return f"{number(value, 1)} {unit}" if math.isfinite(value) else "silent"


# ---- curves: what report.js draws ------------------------------------------------------------------------------------


def decimate(values: NDArray, columns: int = COLUMNS) -> tuple[NDArray, NDArray]:
    """Shorten a curve to at most `columns` stretches: the least and the most of each, NaN where there is nothing else.

    >>> low, high = decimate(np.array([0.0, 5.0, 1.0, -2.0]), 2)
    >>> low.tolist(), high.tolist()
    ([0.0, -2.0], [5.0, 1.0])
    """
    if len(values) <= columns:
        return values, values
    starts = np.arange(columns) * len(values) // columns
    return np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)


def _series(
    axis: str, ink: str, unit: str, values: NDArray, step_s: float, start_s: float = 0.0, name: str = ""
) -> dict[str, Any]:
    digits = 2 if unit == "dB" else 1
    low, high = decimate(np.maximum(values, FLOOR_DB))  # NaN stays what it is: nothing is drawn there
    series: dict[str, Any] = {"name": name, "unit": unit, "axis": axis, "ink": ink}
    series |= {"from": start_s, "to": start_s + step_s * len(values)}
    series["high"] = np.round(high.astype(np.float64), digits).tolist()
    if high is not low:
        series["low"] = np.round(low.astype(np.float64), digits).tolist()
    return series


def _axis(
    values: Sequence[NDArray], unit: str, ink: str, step: int, least: tuple[float, float], most: int = 6
) -> dict[str, Any]:
    """Axis in whole steps, twice as wide where there would be more than `most`, around all values and `least`."""
    found = np.concatenate([np.asarray(least, np.float64), *(v[np.isfinite(v)] for v in values)])
    if np.ptp(found) > most * step:
        step *= 2
    low, high = step * math.floor(found.min() / step), step * math.ceil(found.max() / step)
    return {"low": low, "high": high, "step": step, "unit": unit, "ink": ink}


def _over_time(name: str, axis: dict[str, Any], both: Sequence[NDArray]) -> dict[str, Any]:
    # Each value stands for the 3 s before it, and is drawn at their end.
    start_s = HOP_S * (SHORT_TERM_HOPS - 1)
    lines = zip(("before", "after"), ("raw", "mix"), both, strict=True)
    series = [_series("left", ink, axis["unit"], values, HOP_S, start_s, what) for what, ink, values in lines]
    return {"id": name, "left": axis, "series": series}


def _mix_plots(report: RenderReport, heard: Heard) -> list[dict[str, Any]]:
    plots = []
    both = [short_term(powers) for powers in (heard.raw.hop_powers, report.powers)]
    both = [np.where(lufs > FLOOR_LUFS, lufs, np.nan) for lufs in both]
    if any(np.isfinite(lufs).any() for lufs in both):
        most = float(np.nanmax(np.concatenate(both)))
        axis = _axis(both, "LUFS", "soft", 5, (most - 10.0, most))
        plots.append(_over_time("loudness", {**axis, "low": max(axis["low"], axis["high"] - 40)}, both))
    sides = _sides(report)
    if sides is not None:
        voices, band = sides
        is_sung = short_term(voices[0]) > max(gated_lufs(voices[0]) + RELATIVE_GATE_LU, FLOOR_LUFS)
        both = []
        for voice, other in zip(map(short_term, voices), map(short_term, band), strict=True):
            is_shown = is_sung & (voice > FLOOR_LUFS) & (other > FLOOR_LUFS)
            both.append(np.where(is_shown, np.maximum(voice, FLOOR_DB) - np.maximum(other, FLOOR_DB), np.nan))
        if any(np.isfinite(lu).any() for lu in both):
            plots.append(_over_time("vocals", _axis(both, "LU", "soft", 5, (-5.0, 5.0)), both))
    return plots


def _lanes(report: RenderReport, automation: Automation, told: Sequence[Facts]) -> list[dict[str, Any]]:
    levels = [loudness(channel.input_powers) for channel in report.channels]
    curves = [automation.gains_db[channel.name] for channel in report.channels]
    top = 10 * math.ceil(max(-20.0, *(float(lufs.max(initial=-20.0)) for lufs in levels)) / 10)
    left = {"low": top - 60, "high": top, "step": 20, "unit": "LUFS", "ink": "soft"}
    right = _axis([np.maximum(curve, LEAST_GAIN_DB) for curve in curves], "dB", "gain", 6, (-6.0, 6.0), 3)
    frame_s = _frame_s(automation) or report.seconds
    plots = []
    for index, (lufs, curve, f) in enumerate(zip(levels, curves, told, strict=True)):
        series = [
            _series("left", "level", "LUFS", lufs, HOP_S),
            _series("right", "gain", "dB", curve, frame_s),
        ]
        marks = [round(time_s, 2) for time_s in f.jumps_s]
        marks = marks[:: 1 + len(marks) // COLUMNS]  # more would be drawn over each other
        plots.append({"id": f"lane-{index}", "left": left, "right": right, "series": series, "marks": marks})
    return plots


def _frame_s(automation: Automation) -> float:
    """Length of a frame; 0 where there is but one."""
    return float(np.diff(automation.times_s[:2]).sum())


# ---- the page --------------------------------------------------------------------------------------------------------


def write_report(path: str | Path, report: RenderReport, automation: Automation, heard: Heard) -> None:
    """Write a page about a mix: one file that asks nobody for anything, whole or not at all.

    Parameters
    ----------
    path : path
        HTML.
    report : RenderReport
        Of the render.
    automation : Automation
        The mixer's, after the render.
    heard : Heard
        That was among the mixer's observers while it rendered.

    Raises
    ------
    AudioFileError
        When it cannot be written.

    Examples
    --------
    >>> import tempfile, soundfile
    >>> from alm_plugin import Mixer, Strip, find_tracks, render_files
    >>> folder = Path(tempfile.mkdtemp())
    >>> soundfile.write(folder / "a.wav", 0.1 * np.sin(np.arange(48_000) / 10), 48_000)
    >>> mixer = Mixer({"a": Strip(lock_db=-3)}, model="unity")
    >>> heard = Heard(mixer)
    >>> mixer.observers.append(heard)
    >>> report = render_files(find_tracks(folder), folder / "mix.wav", mixer)
    >>> write_report(folder / "mix.html", report, mixer.automation, heard)
    >>> "a: the loudest channel, lowered 3.0 dB." in (folder / "mix.html").read_text(encoding="utf-8")
    True
    """
    path = Path(path)
    players = heard.players(report.powers)
    told = facts(report, automation)
    mix_plots = _mix_plots(report, heard)
    content = {
        **asdict(report),
        "true_peak_dbtp": heard.true_peak_dbtp,
        "raw_lufs": heard.raw.lufs,
        "floor": FLOOR_DB,
        "plots": [*mix_plots, *_lanes(report, automation, told)],
        "players": players and {k: v for k, v in asdict(players).items() if not isinstance(v, bytes)},
    }
    for channel, f in zip(content["channels"], told, strict=True):
        channel["jumps"] = len(f.jumps_s)
    body = [
        f"<h1>{html.escape(report.output.name)}</h1>",
        _summary(report, heard),
        _player(players, report),
        *(_figure(plot["id"]) for plot in mix_plots),
        _channels(report, told, automation),
        NOTES,
        data("data", content),
    ]
    style, script = (Path(__file__).with_suffix(kind).read_text(encoding="utf-8") for kind in (".css", ".js"))
    text = page(f"{report.output.name}, mixed by {report.model}", "".join(body), style, script)
    try:
        with staged(path) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        raise AudioFileError(f"{path}: expected to write it whole, got {reason_of(error)}") from None


def _summary(report: RenderReport, heard: Heard) -> str:
    faults = ", ".join(f"{place}: {count}" for place, count in report.faults.items())
    bent = report.ceiling_samples
    rows = [
        ("Length", clock(report.seconds), ""),
        ("Sample rate", f"{report.sample_rate / 1000:g} kHz", ""),
        ("Model", report.model, ""),
        ("Loudness", _level(report.loudness_lufs, "LUFS"), ""),
        ("True peak, 4×", _level(heard.true_peak_dbtp, "dBTP"), ""),
        ("Raw sum", _level(heard.raw.lufs, "LUFS"), ""),
        ("Ceiling", f"bent {bent} sample{'s' * (bent != 1)}" if bent else "not touched", "bad" if bent else ""),
        ("Faults", faults or "none", "bad" if faults else ""),
    ]
    if report.latency_samples:
        rows.append(("Plugin latency, taken out", f"{report.latency_samples} samples", ""))
    cells = "".join(
        f"<div><dt>{html.escape(term)}</dt><dd{f' class={kind}' if kind else ''}>{html.escape(value)}</dd></div>"
        for term, value, kind in rows
    )
    return f'<dl class="facts">{cells}</dl>'


def _player(players: Players | None, report: RenderReport) -> str:
    if players is None:
        return "<p>No players: the raw sum or the mix is silent, or this computer cannot write MP3.</p>"
    sounds = "".join(
        f'<audio id="sound-{name}" controls preload="auto" src="data:audio/mpeg;base64,'
        f'{base64.b64encode(sound).decode()}"></audio>'
        for name, sound in (("raw", players.raw), ("mix", players.mix))
    )
    part = ""
    if not players.is_whole:
        end_s = players.start_s + players.seconds
        part = (
            f" This is the loudest {players.seconds:.0f} s of {clock(report.seconds)}: {clock(players.start_s)} to "
            f"{clock(end_s)}."
        )
    return (
        '<section class="player" aria-label="Players">'
        '<div id="transport" hidden><div role="group" aria-label="What plays">'
        '<button id="choose-raw" aria-pressed="false">A raw sum</button>'
        '<button id="choose-mix" aria-pressed="true">B mix</button></div><button id="play">Play</button>'
        f'<input id="place" type="range" min="0" max="{players.seconds:.2f}" step="0.01" value="0" '
        f'aria-label="Place"><output id="time"></output></div>{sounds}'
        f"<p>Both at {_level(players.lufs, 'LUFS')}: raw sum {signed(players.raw_gain_db)} dB, mix "
        f"{signed(players.mix_gain_db)} dB. MP3, {players.kbps} kbit/s.{part} X switches, a click on a curve goes "
        "there.</p></section>"
    )


READ = '<output class="read"></output>'
"""Where the values under the pointer are told."""

FIGURES = {
    "loudness": ("Loudness of the mix", "Short-term: the last 3 s.", "raw sum", "mix"),
    "vocals": (
        "Vocals against the band",
        "Short-term loudness of all vocal channels over that of all others; above 0 the voice is louder. A gap: nobody "
        "sings.",
        "before the gains",
        "in the mix",
    ),
}


def _figure(name: str) -> str:
    title, note, raw, mix = FIGURES[name]
    return (
        f'<figure class="tall" id="{name}"><figcaption>{title}<small>{note}</small></figcaption>'
        f'<div class="head"><div class="legend"><span><i class="raw"></i>{raw}</span><span><i class="mix"></i>{mix}'
        f"</span></div>{READ}</div>{_canvas(title)}</figure>"
    )


def _canvas(label: str) -> str:
    return (
        f'<div class="plot"><canvas role="img" aria-label="{html.escape(label)}"></canvas>'
        '<div class="playhead"></div><div class="cursor"></div></div>'
    )


def _channels(report: RenderReport, told: Sequence[Facts], automation: Automation) -> str:
    frame_ms = 1000.0 * _frame_s(automation)
    within = f" of {frame_ms:.0f} ms" if frame_ms else ""
    lanes = []
    for index, (channel, f) in enumerate(zip(report.channels, told, strict=True)):
        said = sentence(f)
        name, rest = html.escape(said[: len(f.name)]), html.escape(said[len(f.name) :])
        lanes.append(
            f'<figure id="lane-{index}"><p><b>{name}</b>{rest}</p><div class="head">'
            f'<div class="numbers">{html.escape(_numbers(channel, f))}</div>{READ}</div>{_canvas(said)}</figure>'
        )
    return (
        "<h2>Channels</h2><p>Raised, lowered: the mean gain while a channel plays.</p>"
        '<div class="legend"><span><i class="area"></i>loudness before the gain, every 100 ms (LUFS)</span>'
        '<span><i class="gain"></i>gain (dB)</span><span><i class="jump"></i>jump: over 3 dB from one frame'
        f"{within} to the next</span></div>{''.join(lanes)}"
    )


def _numbers(channel: ChannelReport, f: Facts) -> str:
    gain = f"gain {signed(channel.mean_gain_db)} dB ({signed(channel.least_gain_db)} to {signed(channel.most_gain_db)})"
    many = f"{len(f.jumps_s)} jump{'s' * (len(f.jumps_s) != 1)}"
    levels = _level(channel.input_lufs, "LUFS"), _level(channel.output_lufs, "LUFS")
    return " · ".join([channel.role or "no role", f"in {levels[0]}", gain, f"out {levels[1]}", many])


NOTES = (
    "<p><small>Loudness: ITU-R BS.1770, integrated where nothing else is said; of channels before and behind gain and "
    "post chain. A channel plays while its last 400 ms pass the gates of its loudness. True peak: of the whole mix, "
    "oversampled four times; not exact, it reads up to 0.7 dB low. Levels and peaks are those before a file is rounded "
    "or compressed. Raw sum: all inputs at 0 dB, in the centre, without plugins. Long curves show the least and the "
    "most of each stretch.</small></p>"
    "<noscript><p>Curves are drawn by the script on this page, which does not run here.</p></noscript>"
)
