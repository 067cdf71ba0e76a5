"""A page to see and hear what a mix has done: curves, loudness, and players that switch between before and after."""

# ruff: noqa: RUF001  (minus signs are what a reader of a page expects)

from __future__ import annotations

import base64
import html
import io
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AudioFileError
from alm_plugin.export.page import data, number, page, plain
from alm_plugin.features.levels import FLOOR_LUFS, FLOOR_POWER, OFFSET_LU, RELATIVE_GATE_LU
from alm_plugin.features.loudness import HOP_MS, HOPS_PER_BLOCK, IntegratedLoudness, gated_lufs
from alm_plugin.mixer import Mixer
from alm_plugin.nodes.delay import Delay
from alm_plugin.render import ChannelReport, RenderReport
from alm_plugin.stream import Automation, Block
from alm_plugin.units import db_to_factor, factor_to_db

Audio = NDArray[np.float32]
Powers = NDArray[np.float64]

HOP_S = HOP_MS / 1000.0
SHORT_TERM_HOPS = 30
OVERSAMPLING = 4
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

# MP3 is what every browser plays and seeks in.
PLAYER_RATE, PLAYER_FORMAT = 44_100, "MP3"
CHUNK_S, EXCERPT_CHUNKS, WHOLE_CHUNKS = 5, 15, 72
"""Players hold all of a mix up to 6 minutes, of a longer one its loudest 75 seconds."""

PEAK_DBFS = -3.0
"""Highest sample given to the encoder, whose own ripple then stays below -1 dBFS."""


# ---- hearing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
    """Some seconds of raw sum and mix, in 16 bits of their own largest sample."""

    samples: NDArray[np.int16]
    scale: np.float32
    power: float

    @property
    def audio(self) -> Audio:
        return self.samples * self.scale


class Heard:
    """Observer of a mixer: what `write_report` needs to have heard while the mix is rendered.

    It changes nothing, and of a mix of any length keeps six minutes at most.

    Parameters
    ----------
    mixer : Mixer
        To be appended to its `observers` by the caller.

    Attributes
    ----------
    raw, mix : IntegratedLoudness
        Of the plain sum of the inputs and of the mix, in step with each other and without latency.

    Examples
    --------
    >>> import numpy as np
    >>> from alm_plugin import Mixer, Strip
    >>> mixer = Mixer({"a": Strip(lock_db=-6)}, model="unity")
    >>> heard = Heard(mixer)
    >>> mixer.observers.append(heard)
    >>> tone = 0.1 * np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)
    >>> _ = mixer.process({"a": tone}, 48_000)
    >>> round(heard.mix.lufs - heard.raw.lufs, 2)
    -6.0
    """

    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer
        self._begin(48_000, mixer.channels, 0)

    def _begin(self, sample_rate: int, width: int, latency: int) -> None:
        self.raw, self.mix = IntegratedLoudness(sample_rate, width), IntegratedLoudness(sample_rate, width)
        self._width, self._latency, self._ended = width, latency, False
        self._delay = Delay(latency, width)
        self._peak = 0.0
        self._finer = soxr.ResampleStream(sample_rate, OVERSAMPLING * sample_rate, width, dtype="float32")
        self._to_player = None
        if sample_rate != PLAYER_RATE:
            self._to_player = soxr.ResampleStream(sample_rate, PLAYER_RATE, 2 * width, dtype="float32")
        self._ready: list[Audio] = []
        self._chunks = 0
        self._whole: list[_Chunk] | None = []
        self._latest: deque[_Chunk] = deque(maxlen=EXCERPT_CHUNKS)
        self._loudest: tuple[int, list[_Chunk]] = (0, [])

    def __call__(self, block: Block) -> None:
        """Hear a block."""
        width, samples = block.mix.shape
        if block.position == 0:
            self._begin(block.sample_rate, width, self._mixer.reported_latency_samples)
        raw = np.zeros((width, samples), np.float32)
        for audio in block.inputs.values():
            raw += audio if width == 2 else audio.mean(axis=0)
        skip = min(max(0, self._latency - block.position), samples)
        raw, mix = self._delay.process_block(raw)[:, skip:], block.mix[:, skip:]
        self.raw.process_block(raw)
        self.mix.process_block(mix)
        self._hear(np.concatenate([raw, mix]))

    def _hear(self, both: Audio, last: bool = False) -> None:
        mix = both[self._width :]
        fine = self._finer.resample_chunk(np.ascontiguousarray(mix.T), last=last)
        self._peak = max(self._peak, float(np.abs(fine).max(initial=0.0)), float(np.abs(mix).max(initial=0.0)))
        if self._to_player is not None:
            both = self._to_player.resample_chunk(np.ascontiguousarray(both.T), last=last).T
        self._ready.append(both)
        held = sum(part.shape[1] for part in self._ready)
        length = CHUNK_S * PLAYER_RATE
        if held < length and not last:
            return
        line = np.concatenate(self._ready, axis=1)
        starts = range(0, held if last else held - length + 1, length)
        for start in starts:
            self._keep(line[:, start : start + length])
        self._ready = [] if last else [line[:, len(starts) * length :]]

    def _keep(self, audio: Audio) -> None:
        scale = np.float32(max(float(np.abs(audio).max(initial=0.0)), 1e-9) / 32_767.0)
        hops = CHUNK_S * 1000 // HOP_MS
        powers = self.mix.hop_powers[self._chunks * hops : (self._chunks + 1) * hops]
        chunk = _Chunk(np.rint(audio / scale).astype(np.int16), scale, float(powers.mean()) if powers.size else 0.0)
        self._chunks += 1
        self._latest.append(chunk)
        if self._whole is not None:
            self._whole = None if self._chunks > WHOLE_CHUNKS else [*self._whole, chunk]
        if len(self._latest) == EXCERPT_CHUNKS and audio.shape[1] == CHUNK_S * PLAYER_RATE:
            best = sum(c.power for c in self._loudest[1])
            if not self._loudest[1] or sum(c.power for c in self._latest) > best:
                self._loudest = (self._chunks - EXCERPT_CHUNKS, list(self._latest))

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._hear(np.zeros((2 * self._width, 0), np.float32), last=True)

    @property
    def true_peak_dbtp(self) -> float:
        """Highest value of the mix, four times oversampled; asking ends the stream."""
        self._end()
        return float(factor_to_db(self._peak))

    @property
    def excerpt(self) -> tuple[float, bool, list[_Chunk]]:
        """Start in seconds of what the players hold, whether that is all there is, and the sound of it."""
        self._end()
        if self._whole is not None:
            return 0.0, True, self._whole
        return float(self._loudest[0] * CHUNK_S), False, self._loudest[1]


# ---- numbers ---------------------------------------------------------------------------------------------------------


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


def loudness(powers: Powers) -> Powers:
    """Loudness in LUFS of K-weighted powers, without any gate; ``-inf`` for silence."""
    with np.errstate(divide="ignore"):
        return OFFSET_LU + 10.0 * np.log10(powers)


def short_term(powers: Powers) -> Powers:
    """Power of the last 3 s, from 3 s on, every 100 ms; of a shorter sound, all of it once."""
    hops = min(SHORT_TERM_HOPS, len(powers))
    return np.convolve(powers, np.full(hops, 1.0 / hops), "valid") if hops else np.zeros(0)


def plays(powers: Powers) -> NDArray[np.bool_]:
    """Whether a channel plays, every 100 ms: the 400 ms up to then pass the gates of its loudness.

    BS.1770's second gate lies 10 LU under what passes the first, and so far above what leaks into a microphone.
    """
    found = np.zeros(len(powers), bool)
    if len(powers) >= HOPS_PER_BLOCK:
        blocks = np.convolve(powers, np.full(HOPS_PER_BLOCK, 1.0 / HOPS_PER_BLOCK), "valid")
        loud = blocks > FLOOR_POWER
        if loud.any():
            found[HOPS_PER_BLOCK - 1 :] = loud & (blocks > blocks[loud].mean() * 10.0 ** (RELATIVE_GATE_LU / 10.0))
    return found


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
    band_before, band_after = _band(report)
    found = []
    for channel in report.channels:
        if channel.role in SINGERS and band_before is not None and band_after is not None:
            against, before, after = "the band", gated_lufs(band_before), gated_lufs(band_after)
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
                channel.name,
                float(playing.mean()) if math.isfinite(channel.input_lufs) else 0.0,
                against,
                _difference(channel.input_lufs, before),
                _difference(channel.output_lufs, after),
                float(gains.mean()) if gains.size else math.nan,
                float(gains.min()) if gains.size else math.nan,
                float(gains.max()) if gains.size else math.nan,
                float(np.isneginf(curve[in_play]).mean()) if in_play.any() else 0.0,
                entry_s,
                float(np.ptp(early)) if early.size else 0.0,
                jumps(automation, channel.name),
            )
        )
    return found


def _difference(a: float, b: float) -> float:
    return a - b if math.isfinite(a) and math.isfinite(b) else math.nan


def _band(report: RenderReport, singers: bool = False) -> tuple[Powers, Powers] | tuple[None, None]:
    """Powers of all who sing, or who do not, before and after; None where there are none or only such."""
    members = [c for c in report.channels if (c.role in SINGERS) == singers]
    if not members or len(members) == len(report.channels):
        return None, None
    return np.sum([c.input_powers for c in members], axis=0), np.sum([c.output_powers for c in members], axis=0)


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


def clock(seconds: float) -> str:
    """Minutes and seconds, as on a player.

    >>> clock(72.9)
    '1:12'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def signed(value: float, digits: int = 1) -> str:
    """Text of a gain, with its sign."""
    if value == -math.inf:
        return "−∞"
    return ("+" if round(value, digits) > 0 else "") + number(value, digits)


# ---- players ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Players:
    """Two sounds that are equally loud: MP3 of the raw sum and of the mix, and what was done to them.

    Attributes
    ----------
    start_s, seconds : float
        Which part of the mix they hold.
    is_whole : bool
    lufs : float
        Of both.
    raw_gain_db, mix_gain_db : float
        That made them so.
    raw, mix : bytes
    """

    start_s: float
    seconds: float
    is_whole: bool
    lufs: float
    raw_gain_db: float
    mix_gain_db: float
    raw: bytes
    mix: bytes


def make_players(heard: Heard) -> Players | None:
    """Encode raw sum and mix at one loudness; None where one of them is silent or MP3 cannot be written here."""
    start_s, is_whole, chunks = heard.excerpt
    if not chunks or PLAYER_FORMAT not in soundfile.available_formats():
        return None
    width = len(chunks[0].samples) // 2
    meters = [IntegratedLoudness(PLAYER_RATE, width) for _ in range(2)]
    peaks = [0.0, 0.0]
    for chunk in chunks:
        for side, audio in enumerate(np.split(chunk.audio, 2)):
            meters[side].process_block(audio)
            peaks[side] = max(peaks[side], float(np.abs(audio).max(initial=0.0)))
    lufs = [meter.lufs for meter in meters]
    if not all(map(math.isfinite, lufs)):
        return None
    # As loud as the one with the higher crest lets both be.
    level = min(PEAK_DBFS - float(factor_to_db(peak)) + own for peak, own in zip(peaks, lufs, strict=True))
    sounds = []
    for side, own in enumerate(lufs):
        factor = np.float32(db_to_factor(level - own))
        file = io.BytesIO()
        with soundfile.SoundFile(file, "w", PLAYER_RATE, width, format=PLAYER_FORMAT) as out:
            for chunk in chunks:
                out.write((np.split(chunk.audio, 2)[side] * factor).T)
        sounds.append(file.getvalue())
    seconds = sum(chunk.samples.shape[1] for chunk in chunks) / PLAYER_RATE
    return Players(start_s, seconds, is_whole, level, level - lufs[0], level - lufs[1], *sounds)


# ---- the page --------------------------------------------------------------------------------------------------------

STYLE = """
:root { --level: #c3d3de; --deep: #8fabbd; --gain: #b8420a; --raw: #76828b; --mix: #0072b2; --jump: #c2185b }
@media (prefers-color-scheme: dark) { :root { --level: #34495a; --deep: #587a91; --gain: #ff9e57; --raw: #97a3ac;
  --mix: #56b4e9; --jump: #ff6b9d } }
h1 { overflow-wrap: anywhere; line-height: 1.2 }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 1px; margin: 14px 0 18px;
  border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: var(--line) }
.facts div { background: var(--card); padding: 8px 12px } .facts dt { color: var(--soft); font-size: 12px }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.facts .bad { color: var(--bad) }
.player { position: sticky; top: 0; z-index: 2; background: var(--page); border-bottom: 1px solid var(--line);
  padding: 10px 0; display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center }
#transport:not([hidden]) { display: contents }
.player button { font: inherit; padding: 6px 14px; color: var(--ink); background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 6px; min-height: 40px }
.player button[aria-pressed=true] { background: var(--mix); border-color: var(--mix); color: var(--page) }
.player [role=group] { display: flex } .player [role=group] button:first-child { border-radius: 6px 0 0 6px }
.player [role=group] button:last-child { border-radius: 0 6px 6px 0 } #play { min-width: 84px }
.player input { flex: 1 1 160px; min-width: 120px; accent-color: var(--mix) }
.player output { font-variant-numeric: tabular-nums; font-size: 14px }
.player p { flex-basis: 100%; margin: 0; font-size: 13px; max-width: none }
figure { margin: 12px 0 } .head { display: flex; flex-wrap: wrap; gap: 0 16px; justify-content: space-between }
figure p { margin: 0; color: var(--ink); max-width: none; overflow-wrap: anywhere } figure b { font-weight: 600 }
.numbers { font-size: 13px; color: var(--soft); font-variant-numeric: tabular-nums }
.read { font-size: 13px; min-height: 20px; font-variant-numeric: tabular-nums; margin-left: auto }
.plot { position: relative }
canvas { display: block; width: 100%; height: 128px; touch-action: pan-y; cursor: crosshair }
.tall canvas { height: 200px }
.cursor, .playhead { position: absolute; top: 0; left: 0; bottom: 24px; width: 1px; pointer-events: none;
  background: var(--ink); visibility: hidden } .playhead { width: 2px; background: var(--mix) }
.legend i { display: inline-block; width: 18px; height: 3px; vertical-align: middle; margin-right: 6px }
.legend .area { height: 10px; background: var(--deep) } .legend .gain { background: var(--gain) }
.legend .raw { background: var(--raw) } .legend .mix { background: var(--mix) }
.legend .jump { width: 2px; height: 12px; background: var(--jump) }
@media (max-width: 600px) { body { padding: 16px 12px 40px } h1 { font-size: 22px } figure { padding: 10px 8px 6px }
  .facts { grid-template-columns: repeat(2, 1fr) } .facts div { padding: 6px 10px } canvas { height: 116px }
  .tall canvas { height: 160px } .player p { font-size: 12px } .read { width: 100% } }
"""

SCRIPT = r"""
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const css = getComputedStyle(document.documentElement);
const colour = name => css.getPropertyValue("--" + name).trim();
const clock = s => Math.floor(s / 60) + ":" + String(Math.floor(s % 60)).padStart(2, "0");
const fixed = (x, digits) => (x < 0 && +x.toFixed(digits) ? "\u2212" : "") + Math.abs(x).toFixed(digits);
const LEFT = 36, RIGHT = 36, TOP = 18, BOTTOM = 24;

class Plot {
  constructor(spec) {
    this.spec = spec;
    const box = document.getElementById(spec.id);
    this.canvas = box.querySelector("canvas");
    this.cursor = box.querySelector(".cursor");
    this.playhead = box.querySelector(".playhead");
    this.read = box.querySelector(".read");
    for (const kind of ["pointerdown", "pointermove"])
      this.canvas.addEventListener(kind, e => point(this.time(e)));
    this.canvas.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") point(null); });
    this.canvas.addEventListener("click", e => { const t = this.time(e); if (t !== null) seek(t); });
  }
  get width() { return this.canvas.clientWidth - LEFT - RIGHT; }
  x(t) { return LEFT + t / report.seconds * this.width; }
  y(axis, v) {
    const { low, high } = this.spec[axis], top = TOP, bottom = this.canvas.clientHeight - BOTTOM;
    return bottom - (Math.min(Math.max(v, low), high) - low) / (high - low) * (bottom - top);
  }
  time(e) {
    const t = (e.clientX - this.canvas.getBoundingClientRect().left - LEFT) / this.width * report.seconds;
    return t < 0 || t > report.seconds ? null : t;
  }
  place(line, t) {
    line.style.visibility = t === null ? "hidden" : "visible";
    if (t !== null) line.style.transform = `translateX(${this.x(t)}px)`;
  }
  point(t) {
    this.place(this.cursor, t);
    if (t === null) { this.read.textContent = ""; return; }
    const told = [clock(t) + "." + Math.floor(t * 10 % 10)];
    for (const s of this.spec.series) {
      const i = Math.floor((t - s.from) / (s.to - s.from) * s.high.length);
      const high = s.high[i], low = (s.low || s.high)[i];
      if (high === undefined || high === null) continue;
      const one = v => v <= report.floor ? "silent" : (s.signed && v > 0 ? "+" : "") + fixed(v, 1);
      const both = one(low) === one(high) ? one(high) : one(low) + " to " + one(high);
      told.push((s.short ? s.short + " " : "") + both + (both === "silent" ? "" : " " + s.unit));
    }
    this.read.textContent = told.join(" \u00b7 ");
  }
  draw() {
    const { canvas, spec } = this, ratio = window.devicePixelRatio || 1;
    const wide = canvas.clientWidth, tall = canvas.clientHeight, c = canvas.getContext("2d");
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(tall * ratio);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, wide, tall);
    c.font = "11px system-ui, sans-serif";
    const bottom = tall - BOTTOM, right = wide - RIGHT;
    const text = (said, x, y, align, ink) => {
      c.textAlign = align;
      c.fillStyle = colour(ink);
      c.fillText(said, x, y);
    };
    c.lineWidth = 1;
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400]
      .find(s => s / report.seconds * this.width >= 56) || 36000;
    for (let t = 0; t <= report.seconds + 1e-6; t += step) {
      c.strokeStyle = colour("line");
      c.beginPath(); c.moveTo(this.x(t), TOP); c.lineTo(this.x(t), bottom); c.stroke();
      text(clock(t), this.x(t), tall - 6, "center", "soft");
    }
    c.save();
    c.beginPath(); c.rect(LEFT, TOP - 1, right - LEFT, bottom - TOP + 2); c.clip();
    for (const s of spec.series) if (s.kind === "area") {
      this.area(c, s, s.high, colour(s.low ? "level" : "deep"));
      if (s.low) this.area(c, s, s.low, colour("deep"));
    }
    c.restore();
    for (const [axis, x, align, from] of [["left", LEFT - 5, "right", LEFT], ["right", right + 5, "left", LEFT]]) {
      const a = spec[axis];
      if (!a) continue;
      text(a.unit, axis === "left" ? 0 : wide, 9, axis === "left" ? "left" : "right", a.ink);
      for (let v = a.low; v <= a.high + 1e-6; v += a.step) {
        const strong = v === 0 && a.ink !== "soft" || axis === "left" && !spec.right;
        if (strong) {
          c.strokeStyle = colour(v === 0 ? "soft" : "line");
          c.setLineDash(v === 0 ? [3, 3] : []);
          c.beginPath(); c.moveTo(from, this.y(axis, v)); c.lineTo(right, this.y(axis, v)); c.stroke();
          c.setLineDash([]);
        }
        text((a.signed && v > 0 ? "+" : "") + fixed(v, 0), x, this.y(axis, v) + 4, align, a.ink);
      }
    }
    c.save();
    c.beginPath(); c.rect(LEFT, TOP - 2, right - LEFT, bottom - TOP + 4); c.clip();
    for (const s of spec.series) if (s.kind === "line") this.line(c, s);
    c.strokeStyle = colour("jump");
    c.lineWidth = 1.5;
    for (const t of spec.marks || []) {
      c.beginPath(); c.moveTo(this.x(t), TOP); c.lineTo(this.x(t), TOP + 14); c.stroke();
    }
    c.restore();
  }
  at(s, i) { return this.x(s.from + (i + 0.5) / s.high.length * (s.to - s.from)); }
  area(c, s, values, ink) {
    const floor = this.y(s.axis, -1e9);
    c.fillStyle = ink;
    c.beginPath();
    c.moveTo(this.x(s.from), floor);
    values.forEach((v, i) => c.lineTo(this.at(s, i), v === null ? floor : this.y(s.axis, v)));
    c.lineTo(this.x(s.to), floor);
    c.fill();
  }
  line(c, s) {
    c.strokeStyle = colour(s.ink);
    c.lineWidth = 1.75;
    c.lineJoin = "round";
    c.beginPath();
    let open = false;
    s.high.forEach((v, i) => {
      if (v === null) { open = false; return; }
      const x = this.at(s, i);
      if (open) c.lineTo(x, this.y(s.axis, v)); else c.moveTo(x, this.y(s.axis, v));
      c.lineTo(x + (open ? 0 : 0.5), this.y(s.axis, s.low ? s.low[i] : v));
      open = true;
    });
    c.stroke();
  }
}

const plots = report.plots.map(spec => new Plot(spec));
const point = t => plots.forEach(p => p.point(t));
const draw = () => plots.forEach(p => p.draw());
const held = report.players;
let seek = () => {};

if (held) {
  const sounds = ["raw", "mix"].map(id => document.getElementById("sound-" + id));
  const choices = ["raw", "mix"].map(id => document.getElementById("choose-" + id));
  const play = document.getElementById("play"), slider = document.getElementById("place");
  const shown = document.getElementById("time");
  let active = 1;
  const show = () => {
    const sound = sounds[active], t = sound.currentTime;
    slider.value = t;
    shown.textContent = clock(held.start_s + t) + " / " + clock(held.start_s + held.seconds);
    play.textContent = sound.paused ? "Play" : "Pause";
    choices.forEach((b, i) => b.setAttribute("aria-pressed", String(i === active)));
    const at = t > 0 ? Math.min(held.start_s + t, report.seconds) : null;
    plots.forEach(p => p.place(p.playhead, at));
    if (!sound.paused) requestAnimationFrame(show);
  };
  const failed = () => { shown.textContent = "This browser cannot play the sound."; };
  const start = sound => sound.play().catch(e => { if (e.name !== "AbortError") failed(); });
  const choose = next => {
    if (next === active) return;
    const from = sounds[active], to = sounds[next];
    to.currentTime = from.currentTime;
    active = next;
    if (!from.paused) start(to).then(() => sounds[1 - active].pause());
    show();
  };
  seek = t => {
    const at = t - held.start_s;
    if (at >= 0 && at <= held.seconds) { sounds[active].currentTime = at; show(); }
  };
  choices.forEach((b, i) => b.addEventListener("click", () => choose(i)));
  play.addEventListener("click", () => { const s = sounds[active]; if (s.paused) start(s); else s.pause(); });
  slider.addEventListener("input", () => { sounds[active].currentTime = +slider.value; show(); });
  document.addEventListener("keydown", e => {
    if (e.key === "x" && !e.ctrlKey && !e.metaKey && !e.altKey) choose(1 - active);
  });
  for (const sound of sounds) {
    sound.controls = false;
    for (const kind of ["play", "pause", "ended", "seeked"]) sound.addEventListener(kind, show);
    sound.addEventListener("error", failed);
  }
  document.getElementById("transport").hidden = false;
  show();
}

new ResizeObserver(() => { draw(); point(null); }).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
"""


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
    players = make_players(heard)
    told = facts(report, automation)
    curves = [*_mix_plots(report, heard), *_lanes(report, automation)]
    known = plain(asdict(report))
    for channel, f in zip(known["channels"], told, strict=True):
        channel["jumps"] = len(f.jumps_s)
    content = {
        **known,
        "true_peak_dbtp": heard.true_peak_dbtp,
        "raw_lufs": heard.raw.lufs,
        "floor": FLOOR_DB,
        "plots": curves,
        "players": players and {k: v for k, v in asdict(players).items() if not isinstance(v, bytes)},
    }
    body = [
        f"<h1>{html.escape(report.output.name)}</h1>",
        _summary(report, heard),
        _player(players, report),
        *_figures(curves),
        _channels(report, told, automation),
        _notes(),
        data("data", content),
    ]
    text = page(f"{report.output.name}, mixed by {report.model}", "".join(body), STYLE, SCRIPT)
    try:
        with staged(path) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        raise AudioFileError(f"{path}: expected to write it whole, got {reason_of(error)}") from None


def _level(value: float, unit: str) -> str:
    return f"{number(value, 1)} {unit}" if math.isfinite(value) else "silent"


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
        f"{signed(players.mix_gain_db)} dB. MP3.{part} X switches, a click on a curve goes there.</p></section>"
    )


def _figures(curves: Sequence[dict[str, Any]]) -> list[str]:
    keys = '<span><i class="raw"></i>{}</span><span><i class="mix"></i>{}</span>'
    texts = {
        "loudness": ("Loudness of the mix", "Short-term: the last 3 s.", keys.format("raw sum", "mix")),
        "vocals": (
            "Vocals against the band",
            "Short-term loudness of all vocal channels over that of all others; above 0 the voice is louder. A gap: "
            "nobody sings.",
            keys.format("before the gains", "in the mix"),
        ),
    }
    return [
        f'<figure class="tall" id="{curve["id"]}"><figcaption>{title}<small>{note}</small></figcaption>'
        f'<div class="head"><div class="legend">{legend}</div>{READ}</div>{_canvas(title)}</figure>'
        for curve in curves
        if curve["id"] in texts
        for title, note, legend in [texts[curve["id"]]]
    ]


READ = '<output class="read"></output>'
"""Where the values under the pointer are told."""


def _canvas(label: str) -> str:
    return (
        f'<div class="plot"><canvas role="img" aria-label="{html.escape(label)}"></canvas>'
        '<div class="playhead"></div><div class="cursor"></div></div>'
    )


def _channels(report: RenderReport, told: Sequence[Facts], automation: Automation) -> str:
    frame_ms = 1000.0 * float(np.diff(automation.times_s[:2]).sum())
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


def _notes() -> str:
    return (
        "<p><small>Loudness: ITU-R BS.1770, integrated where nothing else is said; of channels before and behind gain "
        "and post chain. A channel plays while its last 400 ms pass the gates of its loudness. True peak: of the whole "
        "mix, oversampled four times; not exact, it reads up to 0.7 dB low. Levels and peaks are those before a file "
        "is rounded or compressed. Raw sum: all inputs at 0 dB, in the centre, without plugins. Long curves show the "
        "least and the most of each stretch.</small></p>"
        "<noscript><p>Curves are drawn by the script on this page, which does not run here.</p></noscript>"
    )


def _series(
    name: str, unit: str, axis: str, kind: str, ink: str, values: NDArray, span_s: tuple[float, float], digits: int = 1
) -> dict[str, Any]:
    low, high = decimate(np.maximum(values, FLOOR_DB))  # NaN stays what it is: nothing is drawn there
    series: dict[str, Any] = {
        "short": name,
        "unit": unit,
        "axis": axis,
        "kind": kind,
        "ink": ink,
        "signed": unit in ("dB", "LU"),
        "from": span_s[0],
        "to": span_s[1],
        "high": np.round(high.astype(np.float64), digits).tolist(),
    }
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
    return {"low": low, "high": high, "step": step, "unit": unit, "ink": ink, "signed": unit in ("dB", "LU")}


def _mix_plots(report: RenderReport, heard: Heard) -> list[dict[str, Any]]:
    plots = []
    both = [loudness(short_term(meter.hop_powers)) for meter in (heard.raw, heard.mix)]
    both = [np.where(lufs > FLOOR_LUFS, lufs, np.nan) for lufs in both]
    if any(np.isfinite(lufs).any() for lufs in both):
        most = float(np.nanmax(np.concatenate(both)))
        axis = _axis(both, "LUFS", "soft", 5, (most - 10.0, most))
        plots.append(_over_time("loudness", {**axis, "low": max(axis["low"], axis["high"] - 40)}, both, "LUFS"))
    (singers, sung), (band, played) = _band(report, singers=True), _band(report)
    if singers is not None and sung is not None and band is not None and played is not None:
        singing = loudness(short_term(singers))
        is_heard = (singing > gated_lufs(singers) + RELATIVE_GATE_LU) & (singing > FLOOR_LUFS)
        both = []
        for vocal, other in ((singers, band), (sung, played)):
            over = [loudness(short_term(powers)) for powers in (vocal, other)]
            is_shown = is_heard & (over[0] > FLOOR_LUFS) & (over[1] > FLOOR_LUFS)
            both.append(np.where(is_shown, np.subtract(*(np.maximum(x, FLOOR_DB) for x in over)), np.nan))
        if any(np.isfinite(lu).any() for lu in both):
            axis = _axis(both, "LU", "soft", 5, (-5.0, 5.0))
            plots.append(_over_time("vocals", axis, both, "LU"))
    return plots


def _over_time(name: str, axis: dict[str, Any], both: Sequence[NDArray], unit: str) -> dict[str, Any]:
    series = []
    for what, ink, values in zip(("before", "after"), ("raw", "mix"), both, strict=True):
        # Each value stands for the 3 s before it, and is drawn at their end.
        end_s = HOP_S * (len(values) + SHORT_TERM_HOPS - 1)
        series.append(_series(what, unit, "left", "line", ink, values, (end_s - HOP_S * len(values), end_s)))
    return {"id": name, "left": axis, "series": series}


def _lanes(report: RenderReport, automation: Automation) -> list[dict[str, Any]]:
    levels = [loudness(channel.input_powers) for channel in report.channels]
    curves = [automation.gains_db[channel.name] for channel in report.channels]
    top = 10 * math.ceil(max(-20.0, *(float(lufs.max(initial=-20.0)) for lufs in levels)) / 10)
    left = {"low": top - 60, "high": top, "step": 20, "unit": "LUFS", "ink": "soft", "signed": False}
    right = _axis([np.maximum(curve, LEAST_GAIN_DB) for curve in curves], "dB", "gain", 6, (-6.0, 6.0), 3)
    frame_s = float(np.diff(automation.times_s[:2]).sum()) or report.seconds
    plots = []
    for index, (channel, lufs, curve) in enumerate(zip(report.channels, levels, curves, strict=True)):
        series = [
            _series("", "LUFS", "left", "area", "level", lufs, (0.0, HOP_S * len(lufs))),
            _series("", "dB", "right", "line", "gain", curve, (0.0, frame_s * len(curve)), 2),
        ]
        marks = [round(time_s, 2) for time_s in jumps(automation, channel.name)]
        marks = marks[:: 1 + len(marks) // COLUMNS]  # more would be drawn over each other
        plots.append({"id": f"lane-{index}", "left": left, "right": right, "series": series, "marks": marks})
    return plots
