"""An evaluation as a table to paste into an issue, and as one page with its plots, complete without a network."""

# ruff: noqa: RUF001  (minus signs, multiplication signs and dashes are what a reader of a table expects)

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alm_plugin.export.page import number, page

from .evaluate import (
    NOT_LIVE,
    Estimate,
    Evaluation,
    Shown,
    SongScores,
    Statistic,
    by_role,
    entry_quantile,
    estimate,
    mean_of,
    never_share,
    vocal_error_lu,
)


@dataclass(frozen=True)
class Measure:
    """A row of the table.

    Attributes
    ----------
    name, unit : str
    statistic : callable
        Scores of songs to a number.
    reach : float, optional
        What has to be reached.
    digits : int
    dry : bool
        Of the songs without bleed.
    best : {"low", "high", "zero", "none"}
        Which value is the best.
    """

    name: str
    unit: str
    statistic: Statistic
    reach: float | None = None
    digits: int = 2
    dry: bool = False
    best: str = "low"

    def badness(self, value: float) -> float:
        """How far from the best, which is the least; NaN is worse than all."""
        bad = {"low": value, "high": -value, "zero": abs(value), "none": math.inf}[self.best]
        return math.inf if math.isnan(value) else bad

    @property
    def to_reach(self) -> str:
        """The target as text."""
        if self.reach is None:
            return ""
        return f"{'≥' if self.best == 'high' else '≤'} {self.reach:g}"

    def reached(self, value: float) -> bool:
        """Whether a value meets the target; so does any where there is none."""
        return self.reach is None or self.badness(value) <= self.badness(self.reach)


MEASURES = (
    Measure("gain error, bleed", "dB", mean_of(lambda s: s.gain_error_db), 2.0),
    Measure("gain error, dry", "dB", mean_of(lambda s: s.gain_error_db), 1.8, dry=True),
    Measure("gain error with level, bleed", "dB", mean_of(lambda s: s.absolute_error_db)),
    Measure("vocal to band, error", "LU", mean_of(lambda s: abs(vocal_error_lu(s))), 1.5),
    Measure("vocal to band, bias", "LU", mean_of(vocal_error_lu), best="zero"),
    Measure("MR-STFT, bleed", "", mean_of(lambda s: s.stft)),
    Measure("MR-STFT over the floor", "×", mean_of(lambda s: s.stft_ratio), 1.1),
    Measure("moves over 3 dB", "per channel-s", mean_of(lambda s: s.moves_per_s), 0.005, 3),
    Measure("peak, loudest song", "dBFS", lambda songs: max(s.peak_dbfs for s in songs), digits=1, best="none"),
    Measure("songs under 0 dBFS", "%", mean_of(lambda s: 100.0 * (s.peak_dbfs <= 0.0)), 99.0, 0, best="high"),
    Measure("entry, median", "s", entry_quantile(0.5), 2.0),
    Measure("entry, 90th percentile", "s", entry_quantile(0.9)),
    Measure("entry, never", "%", never_share, digits=0),
    Measure("left of a ±12 dB disturbance", "dB", mean_of(lambda s: s.disturbance_db), 1.0),
)

FOOTNOTES = (
    "Gain error: mean |gain − true| from 2 s on and from a channel's first note on, one offset per song removed (their "
    "median); “with level” keeps it. Vocal to band: loudness of singers over band, own sources only, against the true "
    "mix. MR-STFT: against the true mix without bleed; the floor is what the true gains leave. Entry: seconds of "
    "playing until the gain is within 3 dB of the truth for 0.5 s. Disturbance: standard deviation of the balance over "
    "draws.",
    "Rules do not know how loud a mix should be: raw, the equal loudnesses, group priors and oracle role got one "
    "constant each, fitted on all of these songs, for level, peaks and MR-STFT; for MR-STFT raw and the equal "
    "loudnesses got one for every song instead.",
    "In brackets: 95 % interval, bootstrap over songs (and over training seeds where there are several); of the drift, "
    "least and most of the seeds. Best: of those that could play live; oracle, oracle role and whole clip know the "
    "truth or the future.",
)

Row = tuple[Measure, list[Estimate]]


def table(evaluation: Evaluation) -> list[Row]:
    """Estimates of every measure, in the order of `Evaluation.systems`; measures that nobody has are left out."""
    rows = []
    for measure in MEASURES:
        split = evaluation.dry if measure.dry else evaluation.bleed
        row = [estimate(split[name], measure.statistic) for name in evaluation.systems]
        if not all(math.isnan(e.value) for e in row):
            rows.append((measure, row))
    if evaluation.drift_db:
        row = []
        for name in evaluation.systems:
            seeds = evaluation.drift_db.get(name) or [math.nan]
            row.append(Estimate(float(np.mean(seeds)), min(seeds), max(seeds)))
        rows.append((Measure("drift over hours", "dB", lambda songs: math.nan, 0.5), row))
    return rows


def best_of(systems: Sequence[str], measure: Measure, row: Sequence[Estimate]) -> set[str]:
    """Systems that could play live and are the best to the digits shown; none where all are alike."""
    live = {name: measure.badness(round(e.value, measure.digits)) for name, e in zip(systems, row, strict=True)}
    live = {name: bad for name, bad in live.items() if name not in NOT_LIVE and math.isfinite(bad)}
    least = min(live.values()) if len(set(live.values())) > 1 else math.nan
    return {name for name, bad in live.items() if bad == least}


def interval(e: Estimate, digits: int) -> str:
    """Text of an interval; empty where there is none."""
    if math.isnan(e.low) or e.low == e.high:
        return ""
    return f"[{number(e.low, digits)}, {number(e.high, digits)}]"


def markdown(evaluation: Evaluation) -> str:
    """Table as GitHub shows it: measure, to reach, each system; the best in bold."""
    systems = evaluation.systems
    lines = [
        f"| measure | to reach | {' | '.join(systems)} |",
        f"|---|---|{'---|' * len(systems)}",
    ]
    for measure, row in table(evaluation):
        best = best_of(systems, measure, row)
        cells = []
        for name, e in zip(systems, row, strict=True):
            value = number(e.value, measure.digits)
            value = f"**{value}**" if name in best else value
            cells.append(f"{value} {interval(e, measure.digits)}".strip())
        unit = f", {measure.unit}" if measure.unit else ""
        lines.append(f"| {measure.name}{unit} | {measure.to_reach} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _data(evaluation), "", *(f"{note}\n" for note in FOOTNOTES)])


def _data(evaluation: Evaluation) -> str:
    first = evaluation.systems[0]
    told = [f"{len(evaluation.bleed[first][0])} songs with bleed, {len(evaluation.dry[first][0])} dry"]
    several = [f"{name}: {len(rows)} training seeds" for name, rows in evaluation.bleed.items() if len(rows) > 1]
    return ". ".join([*told, *several, *(f"{key}: {value}" for key, value in evaluation.notes.items())]) + "."


# ---- the page --------------------------------------------------------------------------------------------------------

# Okabe & Ito's colours, told apart by every kind of eye; yellow is left out, it is lost on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#7f7f7f")

STYLE = """
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: 18px 0 }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
thead th { background: var(--card); vertical-align: bottom; white-space: normal; min-width: 84px; line-height: 1.25 }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); white-space: nowrap }
tbody th { font-weight: 500 } tr:last-child > * { border-bottom: 0 } td small { display: block; line-height: 1.2 }
.subject { background: var(--card) } .best { background: var(--mark); font-weight: 700 }
.yes { color: var(--good) } .no { color: var(--bad) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(520px, 1fr)); gap: 18px }
@media (max-width: 600px) { .plots { grid-template-columns: 1fr } }
figure.wide { grid-column: 1 / -1 }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--ink); font: 13px system-ui, sans-serif }
svg .tick { fill: var(--soft); font-size: 12px } svg .grid { stroke: var(--line) } svg .axis { stroke: var(--soft) }
.legend svg { width: 26px; height: 10px; display: inline-block; margin-right: 6px }
"""


class Plot:
    """Axes in an SVG of its own; colours come from the page.

    Parameters
    ----------
    x, y : (float, float)
        Ranges of the axes.
    x_label, y_label : str
        With units.
    size : (int, int)
    x_ticks : dict, optional
        Names at places, instead of numbers.
    """

    LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 46

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        size: tuple[int, int] = (560, 330),
        x_ticks: dict[float, str] | None = None,
    ) -> None:
        self.x, self.y, self.size = x, y, size
        hang = x_ticks is not None and len(x_ticks) > 10  # names that would run into each other
        self.bottom = size[1] - (self.BOTTOM + 40 if hang else self.BOTTOM)
        width, height = size
        self.parts: list[str] = []
        for at in ticks(*y):
            self.line([(x[0], at), (x[1], at)], kind="grid")
            self.text(self.LEFT - 8, self.v(at) + 4, number(at, 0 if float(at).is_integer() else 1), "end")
        named = {at: number(at, 0 if float(at).is_integer() else 1) for at in ticks(*x)} if x_ticks is None else x_ticks
        for at, name in named.items():
            if hang:
                self.text(self.u(at) + 5, self.bottom + 16, name, "end", turn=-38)
            else:
                self.text(self.u(at), self.bottom + 18, name, "middle")
        self.line([(x[0], y[0]), (x[1], y[0])], kind="axis")
        self.text((self.LEFT + width - self.RIGHT) / 2, height - 8, x_label, "middle", "")
        self.text(16, (self.bottom + self.TOP) / 2, y_label, "middle", "", turn=-90)

    def u(self, x: float) -> float:
        """Place of a value on the horizontal axis."""
        return self.LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.size[0] - self.LEFT - self.RIGHT)

    def v(self, y: float) -> float:
        """Place of a value on the vertical axis."""
        return self.bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.TOP)

    def text(self, u: float, v: float, text: str, anchor: str, kind: str = "tick", turn: int = 0) -> None:
        """Write at a place of the drawing."""
        turned = f' transform="rotate({turn} {u:.1f} {v:.1f})"' if turn else ""
        text = html.escape(text)
        self.parts.append(f'<text x="{u:.1f}" y="{v:.1f}" text-anchor="{anchor}" class="{kind}"{turned}>{text}</text>')

    def line(
        self,
        points: Iterable[tuple[float, float]],
        colour: str = "",
        dash: str = "",
        width: float = 1.0,
        kind: str = "",
        title: str = "",
    ) -> None:
        """Draw a line through values, cut off at the axes."""
        low, high = self.y
        path = " ".join(f"{self.u(x):.1f},{self.v(min(max(y, low), high)):.1f}" for x, y in points)
        paint = f'class="{kind}"' if kind else f'stroke="{colour}" stroke-dasharray="{dash}"'
        told = f"<title>{html.escape(title)}</title>" if title else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke-width="{width}" {paint}>{told}</polyline>')

    def bar(self, x: float, width: float, y: float, colour: str, title: str) -> None:
        """Draw a bar from 0 to `y`, centred at `x`."""
        left, right = self.u(x - width / 2), self.u(x + width / 2)
        top, base = sorted((self.v(min(max(y, self.y[0]), self.y[1])), self.v(max(0.0, self.y[0]))))
        shape = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{base - top:.1f}"'
        self.parts.append(f'<rect {shape} fill="{colour}"><title>{html.escape(title)}</title></rect>')

    def dot(self, x: float, y: float, colour: str, title: str) -> None:
        """Draw a point."""
        place = f'cx="{self.u(x):.1f}" cy="{self.v(y):.1f}"'
        title = html.escape(title)
        self.parts.append(f'<circle {place} r="4" fill="{colour}" fill-opacity="0.8"><title>{title}</title></circle>')

    def figure(self, title: str, note: str, legend: Sequence[tuple[str, str, str]] = (), wide: bool = False) -> str:
        """HTML of it with its title, a note, and a legend of (name, colour, dash)."""
        keys = "".join(
            f'<span><svg viewBox="0 0 26 10"><line x1="0" x2="26" y1="5" y2="5" stroke="{colour}" stroke-width="3" '
            f'stroke-dasharray="{dash}"/></svg>{html.escape(name)}</span>'
            for name, colour, dash in legend
        )
        width, height = self.size
        return (
            f"<figure{' class=wide' if wide else ''}><figcaption>{html.escape(title)}<small>{html.escape(note)}</small>"
            f'</figcaption><div class="legend">{keys}</div><svg viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{html.escape(title)}">{"".join(self.parts)}</svg></figure>'
        )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range, five or so."""
    rough = (high - low) / 7.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [round(i * step, 9) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _span(values: Iterable[float], least: float = 1.0, zero: bool = True) -> tuple[float, float]:
    found = [x for x in values if math.isfinite(x)] + ([0.0] if zero else [])
    low, high = (min(found), max(found)) if found else (0.0, least)
    room = 0.06 * max(high - low, least)
    return (low if zero and low == 0.0 else low - room), max(high, low + least) + room


def _compared(evaluation: Evaluation) -> dict[str, str]:
    """Choose what the plots show, and in which colour: the subject, and what it should be better than."""
    known = (evaluation.subject, "equal loudness", "group priors, oracle roles", "raw", "oracle role, whole clip")
    systems = [name for name in dict.fromkeys(known) if name in evaluation.systems]
    return dict(zip(systems, COLOURS, strict=False))


def errors_plot(evaluation: Evaluation) -> str:
    """Gain error of each song, every system's songs in the order of their errors."""
    shown = {name: sorted(_values(evaluation.songs(name), lambda s: s.gain_error_db)) for name in _compared(evaluation)}
    most = max((len(values) for values in shown.values()), default=1)
    span = _span(x for values in shown.values() for x in values)
    plot = Plot((0, 100), span, "songs, best to worst (%)", "gain error (dB)", (1160, 340))
    legend = []
    for name, colour in _compared(evaluation).items():
        points = [(100.0 * (i + 0.5) / most, y) for i, y in enumerate(shown[name])]
        is_subject = name == evaluation.subject
        plot.line(points, colour, "" if is_subject else "6 3", 3.0 if is_subject else 2.0)
        for x, y in points if most <= 12 else ():
            plot.dot(x, y, colour, f"{name}: {y:.2f} dB")
        legend.append((name, colour, "" if is_subject else "6 3"))
    return plot.figure(
        "Gain error, song by song", "With bleed, one offset per song removed. Lower is better.", legend, wide=True
    )


def roles_plot(evaluation: Evaluation) -> str:
    """Error and bias of each role."""
    colours = dict(list(_compared(evaluation).items())[:3])
    shown = {name: by_role([s for row in evaluation.bleed[name] for s in row]) for name in colours}
    roles = list(dict.fromkeys(role for scores in shown.values() for role in scores))
    values = [x for scores in shown.values() for s in scores.values() for x in (s.error_db, s.bias_db)]
    places = {float(i): role for i, role in enumerate(roles)}
    plot = Plot((-0.6, max(len(roles), 1) - 0.4), _span(values), "", "gain error (dB)", (1160, 360), places)
    width = 0.8 / max(len(colours), 1)
    for k, (name, colour) in enumerate(colours.items()):
        for i, role in enumerate(roles):
            if score := shown[name].get(role):
                x = i + (k - (len(colours) - 1) / 2) * width
                plot.bar(x, width * 0.92, score.error_db, colour, f"{name}, {role}: {score.error_db:.2f} dB")
                ends = [(x - width * 0.4, score.bias_db), (x + width * 0.4, score.bias_db)]
                plot.line(ends, width=3.0, kind="axis")
    plot.line([(-0.6, 0.0), (len(roles) - 0.4, 0.0)], kind="axis")
    note = "Bars: mean size of the error. Ticks: its bias, above 0 the role is too loud."
    return plot.figure("Gain error by role", note, [(n, c, "") for n, c in colours.items()], wide=True)


def curves_plot(shown: Shown, subject: str) -> str:
    """Gain curves of a song against the truth."""
    last_s = max(len(curve) for curve in shown.gains_db) * shown.step_s
    span = _span((x for rows in (shown.gains_db, shown.true_db) for row in rows for x in row), 6.0, zero=False)
    plot = Plot((0.0, last_s), span, "time (s)", "gain (dB)", (1160, 380))
    legend = [("applied", "currentColor", ""), ("true", "currentColor", "3 3")]
    for i, (role, gain, true) in enumerate(zip(shown.roles, shown.gains_db, shown.true_db, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        for row, dash, width, what in ((true, "3 3", 1.5, "truth"), (gain, "", 2.2, "applied")):
            points = [(n * shown.step_s, y) for n, y in enumerate(row)]
            plot.line(points, colour, dash, width, title=f"{i + 1} {role}, {what}")
        legend.append((f"{i + 1} {role}", colour, ""))
    title = f"{shown.label.capitalize()} song of {subject}: number {shown.song + 1}"
    return plot.figure(title, "Applied gain and true gain of every channel, level as it is.", legend, wide=True)


def entry_plot(evaluation: Evaluation) -> str:
    """Histogram of entry times."""
    colours = dict(list(_compared(evaluation).items())[:3])
    found = {name: [x for s in evaluation.songs(name) for x in s.entry_s] for name in colours}
    edges = [0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 1e9, math.inf]
    names = ["< 0.5", "0.5–1", "1–2", "2–3", "3–5", "5–8", "8–12", "> 12", "never"]
    shares = {}
    for name, values in found.items():
        bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
        shares[name] = 100.0 * np.bincount(bins, minlength=len(names)) / max(len(values), 1)
    top = max((share.max() for share in shares.values()), default=0.0)
    x, y = (-0.6, len(names) - 0.4), (0.0, max(float(top) * 1.08, 10.0))
    places = {float(i): name for i, name in enumerate(names)}
    plot = Plot(x, y, "playing until the gain is right (s)", "late entries (%)", x_ticks=places)
    width = 0.8 / max(len(colours), 1)
    for k, (name, colour) in enumerate(colours.items()):
        for i, share in enumerate(shares[name]):
            x = i + (k - (len(colours) - 1) / 2) * width
            plot.bar(x, width * 0.92, float(share), colour, f"{name}, {names[i]} s: {share:.0f} %")
    count = len(found.get(evaluation.subject, []))
    note = f"{count} channels that come in after 3 s; right is within 3 dB for 0.5 s."
    return plot.figure("How soon an entry is right", note, [(n, c, "") for n, c in colours.items()])


def vocal_plot(evaluation: Evaluation) -> str:
    """Vocal to band in the mix, over that in the true mix."""
    colours = dict(list(_compared(evaluation).items())[:3])
    points = {name: [(s.true_vocal_to_band_lu, s.vocal_to_band_lu) for s in evaluation.songs(name)] for name in colours}
    points = {name: [p for p in ps if math.isfinite(p[0] + p[1])] for name, ps in points.items()}
    x = _span((p[0] for ps in points.values() for p in ps), 4.0, zero=False)
    y = _span((q for ps in points.values() for p in ps for q in p), 4.0, zero=False)
    plot = Plot(x, y, "vocal over band in the true mix (LU)", "in this mix (LU)")
    plot.line([(max(x[0], y[0]),) * 2, (min(x[1], y[1]),) * 2], kind="axis", width=1.5)
    for name, colour in reversed(colours.items()):
        for true, heard in points[name]:
            plot.dot(true, heard, colour, f"{name}: {heard:.1f} LU, true {true:.1f} LU")
    note = "On the line: as it should be. Above it the voice is too loud, under it buried."
    return plot.figure("The voice against the band", note, [(n, c, "") for n, c in colours.items()])


def _values(songs: Sequence[SongScores], value: Callable[[SongScores], float]) -> list[float]:
    return [x for song in songs if math.isfinite(x := value(song))]


def _table_html(evaluation: Evaluation) -> str:
    systems = evaluation.systems
    order = [evaluation.subject, *(name for name in systems if name != evaluation.subject)]
    heads = "".join(f"<th{_classes(evaluation, n)}>{html.escape(n)}</th>" for n in order)
    lines = [f"<thead><tr><th>measure</th><th>to reach</th>{heads}</tr></thead><tbody>"]
    for measure, row in table(evaluation):
        best, found = best_of(systems, measure, row), dict(zip(systems, row, strict=True))
        cells = []
        for name in order:
            e = found[name]
            more = ["best"] if name in best else []
            if name == evaluation.subject and measure.reach is not None and not math.isnan(e.value):
                more.append("yes" if measure.reached(e.value) else "no")
            value = number(e.value, measure.digits)
            text = f"{value}<small>{interval(e, measure.digits)}</small>"
            cells.append(f"<td{_classes(evaluation, name, *more)}>{text}</td>")
        unit = f" <small>{html.escape(measure.unit)}</small>" if measure.unit else ""
        head = f"<th>{html.escape(measure.name)}{unit}</th><td>{measure.to_reach}</td>"
        lines.append(f"<tr>{head}{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</tbody></table></div>'


def _classes(evaluation: Evaluation, name: str, *more: str) -> str:
    found = [*(["subject"] if name == evaluation.subject else []), *more]
    return f' class="{" ".join(found)}"' if found else ""


def write_html(evaluation: Evaluation, path: str | Path) -> None:
    """Write the table and the plots as one page."""
    subject = html.escape(evaluation.subject)
    notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in FOOTNOTES)
    curves = "".join(curves_plot(shown, evaluation.subject) for shown in evaluation.shown)
    plots = [errors_plot(evaluation), vocal_plot(evaluation), entry_plot(evaluation), roles_plot(evaluation), curves]
    body = (
        f"<h1>How well {subject} mixes</h1>"
        f"<p>{html.escape(_data(evaluation))} Green reaches its target, orange does not; shaded is the best of those "
        f"that could play live.</p>{_table_html(evaluation)}{notes}<h2>Where it is right and where not</h2>"
        f'<p>Point at a bar, dot or curve for what it is.</p><div class="plots">{"".join(plots)}</div>'
    )
    Path(path).write_bytes(page(f"How well {evaluation.subject} mixes", body, STYLE))
