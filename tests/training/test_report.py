# ruff: noqa: RUF001  (as in the report)

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from training import evaluate as ev
from training import report

ERRORS_DB = {
    "raw": 5.0,
    "equal loudness": 3.0,
    "group priors, oracle roles": 2.0,
    "oracle role, whole clip": 1.0,
    "oracle": 0.0,
}


def song(error_db, entry_s=(1.0,)):
    channels = (ev.ChannelScores("vocals", -error_db, error_db), ev.ChannelScores("kick", 0.5, error_db))
    return ev.SongScores(error_db, error_db, 0.0, channels, error_db, 0.5, 1.0, 1.1, 0.0, -3.0, entry_s, error_db)


@pytest.fixture(scope="module")
def evaluation():
    scores = {**ERRORS_DB, "a <model> & co": 1.5}
    bleed = {name: [[song(e + 0.1 * i, (0.1, math.inf)) for i in range(4)]] for name, e in scores.items()}
    shown = [
        ev.Shown(2, "best", 0.2, ["vocals", "kick"], [[0.0, -3.0, -4.0], [1.0, 2.0, 2.0]], [[-4.0] * 3, [2.0] * 3])
    ]
    zero = {name: [0.0] for name in scores}
    dry = {name: [rows[0][:2]] for name, rows in bleed.items()}
    return ev.Evaluation(bleed, dry, {"a <model> & co": [0.4, 0.6]}, zero, "a <model> & co", shown, {"data": "made up"})


@pytest.fixture(scope="module")
def text(evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    report.write_html(evaluation, path)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that every tag is closed; keeps the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_column_for_every_system(evaluation):
    lines = report.markdown(evaluation).splitlines()
    assert cells(lines[0]) == ["measure", "to reach", *evaluation.systems]
    rows = {cells(line)[0]: cells(line)[1:] for line in lines[2:] if line.startswith("|")}
    assert all(len(row) == 1 + len(evaluation.systems) for row in rows.values())
    assert rows["gain error, bleed, dB"][0] == "≤ 2"
    assert rows["gain error, bleed, dB"][1].startswith("5.15 [5.")
    assert rows["entry, never, %"][1] == "50"
    assert rows["entry, 90th percentile, s"][1].startswith("never")
    assert rows["drift over hours, dB"][-1] == "0.50 [0.40, 0.60]"
    assert "4 songs with bleed, 2 dry" in report.markdown(evaluation)


def test_the_best_is_one_that_could_play_live(evaluation):
    line = next(x for x in report.markdown(evaluation).splitlines() if x.startswith("| gain error, bleed"))
    bold = [i for i, cell in enumerate(cells(line)) if "**" in cell]
    assert bold == [2 + evaluation.systems.index("a <model> & co")]


def test_a_bias_is_best_near_zero_and_peaks_are_not_a_contest():
    measures = {m.name: m for m in report.MEASURES}
    row = [ev.Estimate(x, x, x) for x in (-3.0, 0.5, 2.0)]
    assert report.best_of(["a", "b", "c"], measures["vocal to band, bias"], row) == {"b"}
    assert report.best_of(["a", "b", "c"], measures["peak, loudest song"], row) == set()
    assert report.best_of(["a", "b", "oracle"], measures["songs under 0 dBFS"], row) == {"b"}
    assert measures["songs under 0 dBFS"].reached(99.5)
    assert not measures["songs under 0 dBFS"].reached(98.0)
    assert not measures["gain error, bleed"].reached(math.nan)


def test_the_page_is_whole_and_asks_nobody(evaluation, text):
    page = Page(text)
    assert page.open == []
    for name in evaluation.systems:
        assert name in page.texts
    told = re.sub(r"<meta http-equiv[^>]*>", "", text)  # the policy, whose hashes may hold anything
    assert "default-src 'none'" in text
    assert "http" not in told
    assert "//" not in re.sub(r"</", "", told)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe"}
    assert not any({"src", "href"} & set(attrs) for _, attrs in page.tags)
    assert "prefers-color-scheme: dark" in text
    assert sum(tag == "figure" for tag, _ in page.tags) == 5


def test_every_axis_has_a_unit(text):
    page = Page(text)
    for label in ("gain error (dB)", "songs, best to worst (%)", "in this mix (LU)", "late entries (%)", "time (s)"):
        assert label in page.texts


def test_drawings_stay_inside_their_frames(text):
    page = Page(text)
    width = height = 0.0
    drawn = 0
    for tag, attrs in page.tags:
        if tag == "svg":
            width, height = (float(x) for x in attrs["viewbox"].split()[2:])
        points = [p.split(",") for p in attrs.get("points", "").split()]
        if tag == "circle":
            points = [(attrs["cx"], attrs["cy"])]
        for u, v in points:
            drawn += 1
            assert 0.0 <= float(u) <= width
            assert 0.0 <= float(v) <= height
    assert drawn > 50


def test_a_page_of_next_to_nothing(evaluation, tmp_path):
    silent = replace(song(math.nan, ()), channels=(), vocal_to_band_lu=math.nan, stft=math.nan, stft_ratio=math.nan)
    some = replace(evaluation, bleed={"mine": [[silent]]}, dry={"mine": [[]]}, drift_db={}, subject="mine", shown=[])
    none = replace(some, bleed={"mine": [[]]})
    for empty in (some, none):
        report.write_html(empty, tmp_path / "page.html")
        assert "mine" in report.markdown(empty)
        assert "nan" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_ticks_are_round_and_within():
    assert report.ticks(0.0, 10.0) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert report.ticks(-3.2, 4.1) == [-2.0, 0.0, 2.0, 4.0]
    for low, high in ((0.0, 0.013), (-60.0, 24.0), (1.0, 1.5)):
        found = report.ticks(low, high)
        assert 3 <= len(found) <= 8
        assert low <= found[0]
        assert found[-1] <= high


def test_numbers_read_well():
    assert [report.number(x, 1) for x in (-2.25, -0.01, math.nan, math.inf)] == ["−2.2", "0.0", "–", "never"]
