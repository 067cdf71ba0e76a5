"""``solar analyse``: who dominates which band when, as a table, JSON, a picture and a page."""

from __future__ import annotations

import argparse
import base64
import html
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table as Printed

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AlmError, AudioFileError, ParameterError
from alm_plugin.export.page import clock, data, number, page, plain, signed
from alm_plugin.models.roles import guess_role
from alm_plugin.render import Track, TrackReader, find_tracks
from solar.bands import BARK_HZ, MIN_SAMPLE_RATE, N_BANDS
from solar.dominance import check_stems
from solar.mix_map import Mapper, MixMap, map_stems
from solar.playing import Playing
from solar.predictor import Table
from solar.reference import Demucs, Separator

Floats = NDArray[np.float64]

# As in the paper's figures. Others take what is left.
PAPER = {"drums": "#101316", "bass": "#2f74f0", "guitar": "#1fa35a", "vocals": "#e03a38"}
MORE = ("#e69f00", "#a855f7", "#14b8c4", "#d65db1", "#8a6d3b", "#9acd32", "#6366a8", "#ff9da7",
        "#00695c", "#bc8f00", "#7b8794", "#5b8c5a", "#c05640", "#3f88a5", "#b39ddb", "#ffd166")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What is told of one stem.

    Attributes
    ----------
    name : str
    plays : float
        Share of the seconds in which it plays.
    bands : float
        Of the 24, how many it dominates while it plays; the mean of the sum of its shares; NaN if it never plays.
    strongest_hz : (int, int)
        Edges of the band in which its share is the largest.
    predicted_bands, against_reference : float
        How many it would dominate in the mix of the reference, and how many more it does; NaN without one.
    """

    name: str
    plays: float
    bands: float
    strongest_hz: tuple[int, int]
    predicted_bands: float
    against_reference: float


@dataclass(frozen=True)
class Analysis:
    """Who dominates which band when; with a reference, also what was to be expected from who plays.

    Parameters
    ----------
    name : str
        What it is called.
    mix_map : MixMap
    reference : MixMap, optional
        Of the mix that is wanted, with the same stems in any order.

    Attributes
    ----------
    playing : (T, S) bool
        Relative to the reference, or else to the song itself; see `solar.playing.Playing`.
    predicted : (T, 24, S) float64 or None
        By `solar.predictor.Table`, learnt from the reference.
    reference_predicted : (R, 24, S) float64 or None
        The same for the reference itself.

    Raises
    ------
    ParameterError
        For less than a second of sound, or other stems in the reference.

    Examples
    --------
    >>> noise = 0.1 * np.random.default_rng(0).standard_normal((2, 2 * 48_000))
    >>> song = Analysis("song", map_stems({"bass": noise[0], "guitar": 10 * noise[1]}, 48_000))
    >>> [(row.name, row.plays, round(row.bands)) for row in song.rows]
    [('bass', 1.0, 0), ('guitar', 1.0, 24)]
    """

    name: str
    mix_map: MixMap
    reference: MixMap | None = None
    playing: NDArray[np.bool_] = field(init=False)
    predicted: Floats | None = field(init=False, default=None)
    reference_predicted: Floats | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        names = self.mix_map.names
        wanted = self.reference
        if wanted is not None:
            if set(wanted.names) != set(names):
                raise ParameterError(f"reference must have the stems {', '.join(names)}, got {', '.join(wanted.names)}")
            wanted = wanted.ordered(names)
            object.__setattr__(self, "reference", wanted)
        for what, found in ((self.name, self.mix_map), ("reference", wanted)):
            if found is not None and not len(found):
                raise ParameterError(f"{what} must last at least a second, got less")
        listener = Playing((wanted or self.mix_map).loudest_rms)
        object.__setattr__(self, "playing", listener.process(self.mix_map.loudest_rms))
        if wanted is not None:
            listener.reset()
            reference_playing = listener.process(wanted.loudest_rms)
            table = Table().fit(wanted, reference_playing)
            object.__setattr__(self, "predicted", table.predict(self.playing))
            object.__setattr__(self, "reference_predicted", table.predict(reference_playing))

    @property
    def rows(self) -> list[Row]:
        """What is told of each stem."""
        rows = []
        for stem, name in enumerate(self.mix_map.names):
            plays = self.playing[:, stem]
            shares = self.mix_map.dominance[plays, :, stem]
            bands = float(shares.sum(axis=1).mean()) if plays.any() else np.nan
            predicted = np.nan
            if self.predicted is not None and plays.any():
                # Where nobody is heard, nobody was expected either.
                expected = self.predicted[plays, :, stem] * self.mix_map.valid[plays]
                predicted = float(expected.sum(axis=1).mean())
            strongest = int(shares.mean(axis=0).argmax()) if plays.any() else 0
            edges = BARK_HZ[strongest], BARK_HZ[strongest + 1]
            rows.append(Row(name, float(plays.mean()), bands, edges, predicted, bands - predicted))
        return rows

    @property
    def error(self) -> float:
        """Mean |actual - predicted| share where somebody is heard; NaN without a reference."""
        return _error(self.mix_map, self.predicted)

    @property
    def reference_error(self) -> float:
        """The same for the reference itself, from which the prediction was learnt."""
        return _error(self.reference, self.reference_predicted)

    def as_json(self) -> dict[str, Any]:
        """All of it, for `json.dumps`: shares by second, band and stem; None where nobody is heard."""
        told: dict[str, Any] = {
            "name": self.name,
            "seconds": len(self.mix_map),
            "edges_hz": BARK_HZ,
            "stems": [asdict(row) for row in self.rows],
            "dominance": [
                [shares.round(3).tolist() if heard else None for shares, heard in zip(*second, strict=True)]
                for second in zip(self.mix_map.dominance, self.mix_map.valid, strict=True)
            ],
        }
        if self.predicted is not None:
            told |= {"error": self.error, "reference_error": self.reference_error}
        return plain(told)

    @property
    def pictures(self) -> list[tuple[str, Floats]]:
        """Titles and shares (T, 24, S) of figure 2, or of the four panels of figure 3."""
        if self.reference is None or self.predicted is None or self.reference_predicted is None:
            return [("Who dominates", self.mix_map.dominance)]
        return [
            ("Reference, actual", self.reference.dominance),
            ("Reference, predicted from who plays", self.reference_predicted),
            (f"{self.name}, actual", self.mix_map.dominance),
            (f"{self.name}, predicted by the reference", self.predicted),
        ]


def _error(actual: MixMap | None, predicted: Floats | None) -> float:
    if actual is None or predicted is None or not actual.valid.any():
        return np.nan
    return float(np.abs(actual.dominance - predicted)[actual.valid].mean())


# ---- colours ---------------------------------------------------------------------------------------------------------


def colours(names: Sequence[str]) -> list[str]:
    """Colour of each stem: the paper's for the first of each instrument it has, others for all else.

    >>> colours(["Gtr 1", "Gtr 2", "other", "vocals"])
    ['#1fa35a', '#e69f00', '#a855f7', '#e03a38']
    """
    left, more = dict(PAPER), iter(MORE)
    roles = ["guitar" if name == "other" else name if name in PAPER else guess_role(name) for name in names]
    return [left.pop(role or "", None) or next(more) for role in roles]


def image(shares: Floats, inks: Sequence[str], nobody: str = "#d9dfe3") -> NDArray[np.uint8]:
    """Pixels (24, T, 3), the lowest band first: the stems' colours, mixed as the shares (T, 24, S) say.

    >>> image(np.array([[[0.5, 0.5]] * 24]), ["#ff0000", "#0000ff"])[0, 0].tolist()
    [128, 0, 128]
    """
    rgb = np.array([[int(ink[at : at + 2], 16) for at in (1, 3, 5)] for ink in (*inks, nobody)], np.float64)
    mixed = np.concatenate([shares, 1.0 - shares.sum(axis=-1, keepdims=True)], axis=-1) @ rgb
    return np.floor(mixed + 0.5).clip(0, 255).astype(np.uint8).transpose(1, 0, 2)


# ---- files -----------------------------------------------------------------------------------------------------------


def read_map(paths: Sequence[Path], separator: Separator | None = None) -> MixMap:
    """Map of stems in a folder or files; or of one recording, taken apart.

    Raises
    ------
    AudioFileError
        For files that cannot be read, are below 32000 Hz, or are too few or too many.
    """
    tracks = find_tracks(paths)
    rate = max(track.sample_rate for track in tracks)
    given = ", ".join(map(str, paths))
    if rate < MIN_SAMPLE_RATE:
        raise AudioFileError(f"{given}: expected at least {MIN_SAMPLE_RATE} Hz, got {rate}")
    if separator is None:
        if len(tracks) == 1:
            raise AudioFileError(
                f"{given}: expected two stems or more, got one recording; --separator demucs --model-dir DIR takes it "
                "apart"
            )
        check_stems(len(tracks))
        mapper = Mapper([track.name for track in tracks], rate)
        return MixMap.of(mapper.names, [s for block in _blocks(tracks, rate) for s in mapper.process(block)])
    if len(tracks) != 1:
        raise AudioFileError(f"{given}: expected one recording to take apart, got {len(tracks)}")
    whole = np.concatenate([block[0] for block in _blocks(tracks, rate)], axis=1)
    return map_stems(separator.separate(whole, rate), rate)


def _blocks(tracks: Sequence[Track], rate: int) -> Iterator[list[NDArray[np.float32]]]:
    with ExitStack() as stack:
        readers = [TrackReader(track, rate, stack) for track in tracks]
        left = max(track.samples_at(rate) for track in tracks)
        while left > 0:
            yield [reader.read(min(left, rate)) for reader in readers]
            left -= rate


def write_png(path: str | Path, analysis: Analysis) -> None:
    """Write figure 2, with a reference figure 3: time to the right, bands upwards.

    Raises
    ------
    AlmError
        If matplotlib is not installed.
    AudioFileError
        When it cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ModuleNotFoundError:
        raise AlmError("a PNG needs matplotlib, got none: pip install 'alm-plugin[solar]'") from None
    path = Path(path)
    pictures = analysis.pictures
    inks = colours(analysis.mix_map.names)
    rows, columns = (2, 2) if len(pictures) == 4 else (1, 1)
    figure = Figure(figsize=(6.2 * columns + 0.8, 3.3 * rows + 0.6), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (title, shares) in zip(panels, pictures, strict=True):
        pixels = image(shares, inks)
        panel.imshow(
            pixels, origin="lower", aspect="auto", interpolation="nearest", extent=(0.0, len(shares), 0.0, N_BANDS)
        )
        panel.set_title(title.replace("$", r"\$"), fontsize=10)
        panel.set_xlabel("time, s")
        panel.set_ylabel("critical band, Bark")
    # A name that begins with an underscore would be left out.
    labels = [" " * name.startswith("_") + name.replace("$", r"\$") for name in analysis.mix_map.names]
    patches = [Patch(color=ink, label=label) for ink, label in zip(inks, labels, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 8), frameon=False)
    try:
        with staged(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise AudioFileError(f"{path}: expected to write it whole, got {reason_of(error)}") from None


def write_html(path: str | Path, analysis: Analysis) -> None:
    """Write a page: the pictures, to be read with the pointer, and the table. One file that asks nobody for anything.

    Raises
    ------
    AudioFileError
        When it cannot be written.
    """
    path = Path(path)
    names = analysis.mix_map.names
    pictures = []
    figures = []
    for place, (title, shares) in enumerate(analysis.pictures):
        coded = np.floor(255.0 * shares + 0.5).clip(0, 255).astype(np.uint8)
        pictures.append({
            "id": f"picture-{place}", "seconds": len(shares), "shares": base64.b64encode(coded.tobytes()).decode(),
        })  # fmt: skip
        figures.append(
            f'<figure id="picture-{place}"><figcaption>{html.escape(title)}</figcaption><div class="head">'
            f'<output class="read"></output></div><canvas role="img" aria-label="{html.escape(title)}"></canvas>'
            "</figure>"
        )
    body = [
        f"<h1>{html.escape(analysis.name)}</h1>",
        f"<p>{clock(len(analysis.mix_map))}, {len(names)} stems. A band has the colour of whoever dominates it, or "
        "their mixture; where nobody is heard it is empty.</p>",
        _html_table(analysis),
        f'<div class="{"panels" if len(figures) > 1 else "one"}">{"".join(figures)}</div>',
        _note(analysis),
        "<noscript><p>Pictures are drawn by the script on this page, which does not run here.</p></noscript>",
        data("data", {"names": names, "edges": BARK_HZ, "pictures": pictures}),
    ]
    style, script = (Path(__file__).with_suffix(kind).read_text(encoding="utf-8") for kind in (".css", ".js"))
    text = page(f"{analysis.name}: who dominates", "".join(body), style + _inks(names), script)
    try:
        with staged(path) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        raise AudioFileError(f"{path}: expected to write it whole, got {reason_of(error)}") from None


def _inks(names: Sequence[str]) -> str:
    """Style of the stems: the policy of the page stops colours that stand in an element."""
    inks = colours(names)
    variables = "; ".join(f"--stem-{stem}: {ink}" for stem, ink in enumerate(inks))
    classes = " ".join(f".stem-{stem} {{ background: var(--stem-{stem}) }}" for stem in range(len(inks)))
    return f":root {{ {variables} }} {classes}\n"


HEADS = ("plays", "bands of 24", "most in", "expected", "difference")


def _cells(row: Row, has_reference: bool) -> list[str]:
    low, high = row.strongest_hz
    plays = row.plays > 0.0
    cells = [f"{100.0 * row.plays:.0f} %", number(row.bands, 1), f"{low}–{high} Hz" if plays else "–"]  # noqa: RUF001
    if has_reference:
        cells += [number(row.predicted_bands, 1), signed(row.against_reference) if plays else "–"]  # noqa: RUF001
    return cells


def _html_table(analysis: Analysis) -> str:
    has_reference = analysis.predicted is not None
    heads = "".join(f"<th>{head}</th>" for head in HEADS[: 5 if has_reference else 3])
    rows = "".join(
        f'<tr><td><i class="stem stem-{stem}"></i>{html.escape(row.name)}</td>'
        + "".join(f"<td>{cell}</td>" for cell in _cells(row, has_reference))
        + "</tr>"
        for stem, row in enumerate(analysis.rows)
    )
    return f'<div class="wide"><table><thead><tr><th>stem</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _note(analysis: Analysis) -> str:
    told = (
        "Each second of sound and each of Zwicker's 24 critical bands: what each stem has among the strongest "
        "frequencies of all stems together. Bands of 24: how many a stem dominates while it plays, on average."
    )
    if analysis.predicted is not None:
        told += (
            " Expected: how many it would, in the mix of the reference, with the same stems playing. Shares differ "
            f"from what was expected by {100.0 * analysis.error:.0f} percentage points on average, in the reference "
            f"itself by {100.0 * analysis.reference_error:.0f}."
        )
    return f"<p><small>{told}</small></p>"


# ---- the command -----------------------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add ``analyse`` to the commands of ``solar``."""
    parser = commands.add_parser(
        "analyse",
        help="show who dominates which band when",
        description="Compare the stems of a song, second by second, in the 24 critical bands of the ear. With a "
        "reference also: who would dominate, in its mix, with the same stems playing.",
        epilog="examples: solar analyse stems/ --html song.html; solar analyse tonight/ --reference album/ --png "
        "mix.png; solar analyse mix.wav --separator demucs --model-dir htdemucs/",
    )
    parser.add_argument(
        "stems", nargs="+", type=Path, metavar="FOLDER_OR_FILE", help="2 to 16 stems, or one recording to take apart"
    )
    parser.add_argument("--reference", type=Path, metavar="FOLDER_OR_FILE", help="the mix that is wanted, same stems")
    parser.add_argument("--separator", choices=["demucs"], help="take one recording apart, and the reference too")
    parser.add_argument("--model-dir", type=Path, metavar="DIR", help="folder with the separator's weights")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the pictures and the table")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    separator = None
    if arguments.separator is not None or arguments.model_dir is not None:
        if arguments.model_dir is None:
            raise ParameterError("--separator must come with --model-dir, the folder with its weights, got none")
        separator = Demucs(arguments.model_dir)
    for path in (arguments.html, arguments.png):  # before the work
        if path is not None and not path.parent.is_dir():
            raise AudioFileError(f"{path}: expected an existing folder, got {path.parent}")
    with Console(stderr=True).status("reading" if separator is None else "taking apart, which may take minutes"):
        found = read_map(arguments.stems, separator)
        reference = None if arguments.reference is None else read_map([arguments.reference], separator)
    name = arguments.stems[0].resolve().name if len(arguments.stems) == 1 else f"{len(arguments.stems)} files"
    analysis = Analysis(name, found, reference)
    if arguments.html is not None:
        write_html(arguments.html, analysis)
    if arguments.png is not None:
        write_png(arguments.png, analysis)
    if arguments.json:
        written = {"html": arguments.html, "png": arguments.png}
        print(json.dumps(analysis.as_json() | plain(written)))  # noqa: T201
    else:
        _print(analysis)
    return 0


def _print(analysis: Analysis) -> None:
    has_reference = analysis.predicted is not None
    table = Printed(box=box.SIMPLE, pad_edge=False)
    table.add_column("stem", no_wrap=True)
    for head in HEADS[: 5 if has_reference else 3]:
        table.add_column(head, justify="right", no_wrap=True)
    for row in analysis.rows:
        table.add_row(row.name, *_cells(row, has_reference))
    console = Console()
    console.print(table)
    if has_reference:
        console.print(
            f"Shares differ from what was expected by {100.0 * analysis.error:.0f} percentage points on average, in "
            f"the reference itself by {100.0 * analysis.reference_error:.0f}.",
            highlight=False,
        )
