# ruff: noqa: RUF001  (as on the page)

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from alm_plugin import AudioFileError, Automation, Mixer, Strip, find_tracks, render_files
from alm_plugin.cli import main
from alm_plugin.export import heard as listening
from alm_plugin.export import report as page
from alm_plugin.export.page import data, plain
from alm_plugin.features.loudness import IntegratedLoudness
from alm_plugin.render import ChannelReport, RenderReport
from alm_plugin.stream import Block

RATE = 48_000
NASTY = "<script>alert('x')<!-- & \"vox\""


def write_stems(folder, seconds=8.0):
    """Write a loud stereo guitar, a quiet voice with an unfriendly name, and a kick that comes in after 5 s."""
    folder.mkdir()
    t = np.arange(int(seconds * RATE)) / RATE
    # No noise: the encoder takes ten times as long for it.
    gtr = 0.1 * sum(np.sin(2 * np.pi * np.outer(t, [f, 1.01 * f])) for f in (196.0, 247.0, 294.0, 988.0))
    soundfile.write(folder / "gtr.wav", gtr, RATE, "FLOAT")
    soundfile.write(folder / f"{NASTY}.wav", 0.02 * np.sin(2 * np.pi * 440 * t), RATE, "FLOAT")
    kick = 0.1 * np.sin(2 * np.pi * 90 * t) * (t >= 5.0)
    soundfile.write(folder / "kick.wav", kick, RATE, "FLOAT")
    return folder


def render(folder, html, tracks, **options):
    roles = {NASTY: "vocals"}
    mixer = Mixer({track.name: Strip(role=roles.get(track.name)) for track in tracks}, "loudness", **options)
    heard = page.Heard(mixer)
    if html:
        mixer.observers.append(heard)
    report = render_files(tracks, folder / "mix.wav", mixer)
    if html:
        page.write_report(html, report, mixer.automation, heard)
    return report, mixer.automation, heard


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tracks = find_tracks([write_stems(folder / "stems")])
    report, automation, heard = render(folder, folder / "mix.html", tracks)
    text = (folder / "mix.html").read_text(encoding="utf-8")
    return SimpleNamespace(folder=folder, tracks=tracks, report=report, automation=automation, heard=heard, text=text)


class Page(HTMLParser):
    """Checks that every tag is closed; keeps tags, and texts by the tag they stand in."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def data(self):
        at = next(i for i, (tag, attrs) in enumerate(self.tags) if attrs.get("id") == "data")
        scripts = [text for tag, text in self.texts if tag == "script"]
        return json.loads(scripts[sum(tag == "script" for tag, _ in self.tags[:at])], parse_constant=pytest.fail)

    def sound(self, name):
        src = next(attrs["src"] for tag, attrs in self.tags if attrs.get("id") == f"sound-{name}")
        return soundfile.read(io.BytesIO(base64.b64decode(src.removeprefix("data:audio/mpeg;base64,"))))


def lufs(audio, rate):
    audio = np.ascontiguousarray(audio.T if audio.ndim == 2 else audio[None], np.float32)
    meter = IntegratedLoudness(rate, len(audio))
    meter.process_block(audio)
    return meter.lufs


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_asks_nobody(mixed):
    told = Page(mixed.text)
    for tag, attrs in told.tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
        assert not {"href", "srcset", "style"} & set(attrs)
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("src", "data:audio/mpeg;base64,").startswith("data:audio/mpeg;base64,")
    without_sounds = re.sub(r'src="data:audio/mpeg;base64,[^"]*"', "", mixed.text)
    assert not re.search(r"https?:|url\(|@import|\bfetch\b|XMLHttp|WebSocket|import\(", without_sounds)
    policy = next(attrs["content"] for _, attrs in told.tags if "content-security-policy" in str(attrs).lower())
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_names_are_text_wherever_they_stand(mixed):
    told = Page(mixed.text)
    # Two of the page's own: the data and the script.
    assert sum(tag == "script" for tag, _ in told.tags) == mixed.text.count("<script") == 2
    assert ("b", NASTY) in told.texts
    assert NASTY in [channel["name"] for channel in told.data["channels"]]
    file = replace(mixed.report, output=mixed.folder / "</title><img src=x onerror=alert(1)>\udcff.wav")
    page.write_report(mixed.folder / "nasty.html", file, mixed.automation, mixed.heard)
    assert "<img" not in (mixed.folder / "nasty.html").read_text(encoding="utf-8")


def test_data_ends_no_script():
    assert "</" not in data("data", {"</script>": ["<!--", math.inf]})[:-9]
    assert plain({"a": -math.inf, "b": np.zeros(3), "c": (1, "x")}) == {"a": None, "c": [1, "x"]}


def test_the_mix_is_the_same_with_and_without(mixed, tmp_path):
    report, automation, _ = render(tmp_path, None, mixed.tracks)
    np.testing.assert_array_equal(
        soundfile.read(tmp_path / "mix.wav", dtype="float32")[0],
        soundfile.read(mixed.folder / "mix.wav", dtype="float32")[0],
    )
    for name, curve in automation.gains_db.items():
        np.testing.assert_array_equal(curve, mixed.automation.gains_db[name])
    assert report.channels == mixed.report.channels


def test_numbers_on_the_page_are_the_reports(mixed):
    told = Page(mixed.text).data
    report = mixed.report
    for name in ("sample_rate", "seconds", "model", "loudness_lufs", "peak_dbfs", "ceiling_samples", "faults"):
        assert told[name] == getattr(report, name)
    assert page.gated_lufs(report.powers) == report.loudness_lufs
    for channel, row in zip(report.channels, told["channels"], strict=True):
        for name in ("name", "role", "input_lufs", "output_lufs", "mean_gain_db", "least_gain_db", "most_gain_db"):
            assert row[name] == getattr(channel, name)
    shown = " ".join(text for _, text in Page(mixed.text).texts)
    assert f"{report.loudness_lufs:.1f} LUFS".replace("-", "−") in shown
    gains = {plot["id"]: plot["series"][1]["high"] for plot in told["plots"] if plot["id"].startswith("lane")}
    np.testing.assert_allclose(gains["lane-1"], mixed.automation.gains_db[report.channels[1].name], atol=0.0051)


def test_loudness_and_vocals_over_time(mixed):
    plots = {plot["id"]: plot for plot in Page(mixed.text).data["plots"]}
    assert set(plots) == {"loudness", "vocals", "lane-0", "lane-1", "lane-2"}
    before, after = plots["loudness"]["series"]
    # The guitar carries the raw sum; 3 s of steady tones read nearly what the whole does.
    assert before["high"][0] == pytest.approx(mixed.heard.raw.lufs, abs=0.5)
    assert (before["from"], before["to"]) == (pytest.approx(2.9), pytest.approx(8.0))
    assert after["high"][-1] < before["high"][-1]
    by_name = {channel.name: channel for channel in mixed.report.channels}
    over = by_name[NASTY].input_lufs - by_name["gtr"].input_lufs
    assert plots["vocals"]["series"][0]["high"][0] == pytest.approx(over, abs=0.3)
    assert plots["vocals"]["series"][1]["high"][-1] > over + 10.0


def test_a_page_of_silence_and_of_next_to_nothing(tmp_path):
    for name, samples in (("silence", RATE), ("click", 10)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(samples), RATE)
        mixer = Mixer({name: Strip(role="vocals", lock_db=-np.inf)}, "unity", 1)
        heard = page.Heard(mixer)
        mixer.observers.append(heard)
        report = render_files(find_tracks([tmp_path / f"{name}.wav"]), tmp_path / "mix.wav", mixer)
        page.write_report(tmp_path / "mix.html", report, mixer.automation, heard)
        text = (tmp_path / "mix.html").read_text(encoding="utf-8")
        assert Page(text).data["players"] is None
        assert f"{name}</b>: nothing above −70 LUFS." in text
        assert "No players" in text
        assert not re.search(r"\b(nan|NaN|inf|Infinity)\b", re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL))


def test_what_cannot_be_written_leaves_yesterdays(mixed, monkeypatch):
    (mixed.folder / "old.html").write_text("yesterday's")
    before = sorted(path.name for path in mixed.folder.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(AudioFileError, match=r"old\.html: expected to write it whole, got no space left"):
        page.write_report(mixed.folder / "old.html", mixed.report, mixed.automation, mixed.heard)
    assert (mixed.folder / "old.html").read_text() == "yesterday's"
    assert sorted(path.name for path in mixed.folder.iterdir()) == before


def test_an_hour_of_32_channels_stays_small(mixed, tmp_path):
    rng = np.random.default_rng(0)
    hops, frames = 36_000, 72_000
    powers = 10.0 ** (rng.uniform(-6.0, -2.0, hops))
    names = [f"channel {i}" for i in range(32)]
    rows = [ChannelReport(name, None, -30.0, -31.0, 0.0, -9.0, 9.0, 0.0, powers, powers) for name in names]
    report = RenderReport(tmp_path / "x.wav", RATE, 3600.0, "made up", 0, -20.0, -3.0, 0, {}, rows, powers)
    wild = rng.uniform(-20.0, 20.0, frames).astype(np.float32)
    automation = Automation(np.arange(frames) * 0.05, dict.fromkeys(names, wild))
    page.write_report(tmp_path / "mix.html", report, automation, mixed.heard)
    curves = (tmp_path / "mix.html").stat().st_size - len(mixed.text)
    # 75 s of two sounds, each at LAME's highest rate for this quality, in base64.
    assert curves + 75 * 2 * 160_000 / 8 * 4 / 3 < 8e6


# ---- players ---------------------------------------------------------------------------------------------------------


def test_both_players_are_equally_loud_and_not_too_loud(mixed):
    told = Page(mixed.text)
    sounds = [told.sound(name) for name in ("raw", "mix")]
    levels = [lufs(audio, rate) for audio, rate in sounds]
    assert abs(levels[0] - levels[1]) < 0.5
    assert levels[0] == pytest.approx(told.data["players"]["lufs"], abs=0.5)
    assert len(sounds[0][0]) == len(sounds[1][0])
    for audio, rate in sounds:
        assert len(audio) / rate == pytest.approx(mixed.report.seconds, abs=0.1)
        assert np.abs(audio).max() < 10 ** (-1 / 20)


def test_players_hold_raw_sum_and_mix_in_step(mixed):
    told = Page(mixed.text)
    stems = [soundfile.read(path, always_2d=True)[0] for path in sorted((mixed.folder / "stems").iterdir())]
    want = {"raw": sum(stem * np.ones((1, 2)) for stem in stems), "mix": soundfile.read(mixed.folder / "mix.wav")[0]}
    for name, audio in want.items():
        got, rate = told.sound(name)
        # The kick's entry, which is where it was: the same stretch has the same share of the power.
        for start_s, end_s in ((4.5, 5.0), (5.0, 5.5)):
            share = np.mean(got[int(start_s * rate) : int(end_s * rate)] ** 2) / np.mean(got**2)
            wanted = np.mean(audio[int(start_s * RATE) : int(end_s * RATE)] ** 2) / np.mean(audio**2)
            assert share == pytest.approx(wanted, rel=0.05)


def hear(audio, rate, latency=0, block=4_096):
    """Send (2, samples) through a `Heard` as input and as mix."""
    heard = page.Heard(SimpleNamespace(channels=2, reported_latency_samples=latency))
    late = np.concatenate([np.zeros((2, latency), np.float32), audio], axis=1)
    early = np.concatenate([audio, np.zeros((2, latency), np.float32)], axis=1)
    for at in range(0, late.shape[1], block):
        part = early[:, at : at + block]
        heard(Block(at, rate, {"a": part}, {"a": part}, {"a": part}, late[:, at : at + block]))
    return heard


@pytest.mark.parametrize(
    ("rate", "block"), [(32_000, 4_096), (32_000, 400_000), (44_100, 4_096), (8_000, 1_111), (96_000, 4_096)]
)
def test_latency_is_taken_out_and_nothing_is_lost(rate, block):
    audio = (0.1 * np.random.default_rng(0).standard_normal((2, 12 * rate))).astype(np.float32)
    heard = hear(audio, rate, latency=1_234, block=block)
    heard._end()
    first, chunks = heard._excerpt()
    assert (first, len(chunks)) == (0, 3)
    line = np.concatenate([chunk.audio for chunk in chunks], axis=1)
    assert line.shape == (4, 12 * listening.PLAYER_RATE)
    np.testing.assert_array_equal(line[:2], line[2:])
    if rate == listening.PLAYER_RATE:
        np.testing.assert_allclose(line[:2], audio, atol=1e-5)


def test_of_a_long_mix_the_loudest_stretch_is_kept(monkeypatch):
    monkeypatch.setattr(listening, "CHUNK_S", 1)
    monkeypatch.setattr(listening, "EXCERPT_CHUNKS", 3)
    monkeypatch.setattr(listening, "WHOLE_CHUNKS", 6)
    audio = (0.01 * np.random.default_rng(0).standard_normal((2, 20 * 8_000))).astype(np.float32)
    audio[:, 11 * 8_000 : 14 * 8_000] *= 10.0
    heard = hear(audio, 8_000)
    assert len(heard._chunks) == 6  # the loudest three and the last three
    heard._end()
    first, chunks = heard._excerpt()
    assert (first, len(chunks)) == (11, 3)
    assert all(np.std(chunk.audio) > 0.05 for chunk in chunks)
    players = heard.players(heard.raw.hop_powers)
    assert not heard._chunks
    assert heard.players(heard.raw.hop_powers) is players
    assert (players.start_s, players.seconds, players.is_whole) == (11.0, pytest.approx(3.0), False)
    text = page._player(players, SimpleNamespace(seconds=20.0))
    assert "This is the loudest 3 s of 0:20: 0:11 to 0:14." in text


@pytest.mark.parametrize("kbps", [128, 80, 56])
def test_a_longer_mix_is_encoded_at_a_lower_rate(monkeypatch, kbps):
    whole_s = listening.CHUNK_S * listening.WHOLE_CHUNKS
    assert 2 * whole_s * listening.RATES_KBPS[-1] * 1000 / 8 * 4 / 3 <= listening.MOST_BYTES
    monkeypatch.setattr(listening, "MOST_BYTES", 2 * 3 * kbps * 1000 / 8 * 4 / 3)
    heard = hear((0.1 * np.random.default_rng(0).standard_normal((2, 3 * 8_000))).astype(np.float32), 8_000)
    players = heard.players(heard.raw.hop_powers)
    assert players.kbps == kbps
    for sound in (players.raw, players.mix):
        assert len(sound) == pytest.approx(3 * kbps * 1000 / 8, rel=0.05)


def test_true_peak_finds_what_lies_between_samples():
    # A quarter of the rate, sampled half-way up: every sample 3 dB under the wave's peak.
    tone = np.sin(np.pi / 2 * np.arange(48_000) + np.pi / 4) * np.hanning(48_000)
    audio = np.float32([tone, tone])
    assert 20 * np.log10(np.abs(audio).max()) == pytest.approx(-3.01, abs=0.01)
    assert hear(audio, 48_000).true_peak_dbtp == pytest.approx(0.0, abs=0.05)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5, 1_200, 1_201, 71_987])
def test_decimation_keeps_minima_and_maxima(rng, size):
    values = rng.standard_normal(size)
    low, high = page.decimate(values)
    assert len(low) == len(high) == min(size, 1_200)
    if size:
        assert (low.min(), high.max()) == (values.min(), values.max())
    starts = np.arange(len(low)) * size // max(len(low), 1)
    for i, part in enumerate(np.split(values, starts[1:])) if size else ():
        assert (low[i], high[i]) == (part.min(), part.max())


def test_decimation_skips_what_is_not_there():
    low, high = page.decimate(np.array([np.nan, 1.0, np.nan, np.nan]), 2)
    np.testing.assert_array_equal(low, [1.0, np.nan])
    np.testing.assert_array_equal(high, [1.0, np.nan])


def test_a_channel_plays_where_it_stands_out_of_its_bleed():
    powers = np.full(100, 1e-5)
    powers[40:60] = 1e-2
    found = page.plays(powers)
    # 400 ms that hold one loud hop are 6 dB under the rest.
    assert found.nonzero()[0].tolist() == list(range(40, 63))
    assert not page.plays(np.full(100, 1e-9)).any()
    assert not page.plays(np.ones(3)).any()


def test_jumps_are_moves_of_more_than_3_db_within_a_frame():
    curve = np.float32([0.0, 3.0, 6.1, 6.1, -np.inf, -np.inf, 0.0, np.nan, 9.0])
    automation = Automation(np.arange(9) * 0.05, {"a": curve})
    assert page.jumps(automation, "a") == pytest.approx([0.1, 0.2, 0.3])


def channel(name, powers, gain_db, role=None):
    powers = np.asarray(powers, np.float64)
    meter_in = page.gated_lufs(powers)
    out = powers * 10.0 ** (np.asarray(gain_db).repeat(len(powers) // np.size(gain_db)) / 10.0)
    return ChannelReport(name, role, meter_in, page.gated_lufs(out), 0.0, 0.0, 0.0, 0.0, powers, out)


def found(*channels, **curves):
    frames = len(channels[0].input_powers) * 2
    report = RenderReport(None, RATE, frames * 0.05, "made up", 0, -20.0, -3.0, 0, {}, list(channels), np.zeros(0))
    gains = {name: np.broadcast_to(np.float32(curve), frames).copy() for name, curve in curves.items()}
    return page.facts(report, Automation(np.arange(frames) * 0.05, gains))


def test_a_singer_is_held_against_the_sum_of_the_band():
    steady = np.ones(100)
    vocals, *_ = found(
        channel("vocals", 0.01 * steady, 7.0, "vocals"),
        channel("gtr", 0.02 * steady, 0.0, "guitar"),
        channel("bass", 0.02 * steady, 0.0),
        vocals=7.0,
        gtr=0.0,
        bass=0.0,
    )
    assert vocals.against == "the band"
    assert vocals.before_lu == pytest.approx(-6.02, abs=0.01)
    assert vocals.after_lu == pytest.approx(0.98, abs=0.01)
    assert page.sentence(vocals) == "vocals: 6.0 LU under the band, raised 7.0 dB, now 1.0 LU over it."


def test_others_are_held_against_the_loudest():
    steady = np.ones(100)
    gtr, kick = found(channel("gtr", steady, -3.0), channel("kick", 0.1 * steady, 0.2), gtr=-3.0, kick=0.2)
    assert page.sentence(gtr) == "gtr: the loudest channel, lowered 3.0 dB."
    assert page.sentence(kick) == "kick: 10.0 LU under the loudest (gtr), left where it was."
    alone = found(channel("vocals", steady, 0.0, "vocals"), vocals=0.0)[0]
    assert alone.against is None


def test_gains_count_while_a_channel_plays_and_before():
    powers = np.where(np.arange(200) >= 120, 0.1, 1e-5)
    gain_db = np.where(np.arange(400) >= 240, -6.0, np.where(np.arange(400) == 7, 2.5, 2.0))
    late = found(channel("kick", powers, 0.0), kick=gain_db)[0]
    assert late.entry_s == pytest.approx(12.0)
    assert (late.gain_db, late.least_db, late.most_db) == (-6.0, -6.0, -6.0)
    assert late.moved_db == pytest.approx(0.5)
    assert late.plays == pytest.approx(0.4)
    assert late.jumps_s == [pytest.approx(12.0)]
    silent, _ = found(channel("a", np.zeros(200), 0.0), channel("b", powers, 0.0), a=0.0, b=0.0)
    assert silent.plays == 0.0


PLAIN = page.Facts("kick", 1.0, None, math.nan, math.nan, 2.0, 1.5, 2.5, 0.0, 0.3, 0.0, [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "kick: the loudest channel, raised 2.0 dB."),
        ({"plays": 0.0}, "kick: nothing above −70 LUFS."),
        ({"against": "the loudest (gtr)", "before_lu": -9.04}, "kick: 9.0 LU under the loudest (gtr), raised 2.0 dB."),
        ({"against": "the band", "before_lu": 0.4, "after_lu": 0.6}, "level with the band, raised 2.0 dB, now 0.6 LU"),
        ({"against": "the band", "before_lu": 3.0, "after_lu": -0.2}, "3.0 LU over the band, raised 2.0 dB, now level"),
        ({"against": "the band", "before_lu": math.nan, "after_lu": math.nan}, "kick: raised 2.0 dB."),
        ({"gain_db": -0.5}, "lowered 0.5 dB."),
        ({"gain_db": 0.4, "least_db": -1.0, "most_db": 1.9}, "left where it was."),
        ({"gain_db": 0.4, "least_db": -4.0, "most_db": 3.0}, "moved by −4.0 to +3.0 dB."),
        ({"least_db": -1.04, "most_db": 6.0}, "raised 2.0 dB (−1.0 to +6.0)."),
        ({"muted": 1.0, "gain_db": math.nan}, "kick: the loudest channel, muted."),
        ({"muted": 0.2}, "raised 2.0 dB, muted in part."),
        ({"entry_s": 12.9}, "raised 2.0 dB. Came in at 0:12; held before."),
        ({"entry_s": 3.0}, "raised 2.0 dB."),
        ({"entry_s": 72.0, "moved_db": 0.51}, "Came in at 1:12; its gain moved by 0.5 dB before."),
        ({"plays": 0.32}, "raised 2.0 dB. Plays 32 % of the time."),
        ({"plays": 0.5}, "raised 2.0 dB."),
        ({"jumps_s": [31.0]}, "raised 2.0 dB. One jump at 0:31."),
        ({"jumps_s": [31.0, 61.0]}, "raised 2.0 dB. 2 jumps, the first at 0:31."),
    ],
)
def test_every_part_of_a_sentence_has_its_rule(change, says):
    said = page.sentence(replace(PLAIN, **change))
    assert said.endswith(says) or (says in said and "now" in says)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_mix_and_its_json_name_the_report(tmp_path, capsys):
    write_stems(tmp_path / "stems", 3.0)
    command = ["mix", tmp_path / "stems", "-o", tmp_path / "mix.wav", "--model", "loudness", "--json"]
    assert main([*map(str, command), "--report", str(tmp_path / "mix.html")]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(tmp_path / "mix.html")
    assert Page((tmp_path / "mix.html").read_text(encoding="utf-8")).data["model"] == "loudness"


def test_a_report_that_fails_takes_the_mix_with_it(tmp_path, monkeypatch, capsys):
    write_stems(tmp_path / "stems", 1.0)

    def full(*_):
        raise AudioFileError("mix.html: expected to write it whole, got no space left on device")

    monkeypatch.setattr("alm_plugin.cli.write_report", full)
    command = ["mix", tmp_path / "stems", "-o", tmp_path / "mix.wav", "--report", tmp_path / "mix.html"]
    assert main([*map(str, command), "--model", "loudness"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["stems"]


def test_demo_reports_too(tmp_path, capsys):
    command = ["demo", "-o", tmp_path / "mix.wav", "--report", tmp_path / "demo.html"]
    assert main(list(map(str, command))) == 0
    told = Page((tmp_path / "demo.html").read_text(encoding="utf-8"))
    assert {"vocals", "loudness"} <= {plot["id"] for plot in told.data["plots"]}
    assert (tmp_path / "demo.html").stat().st_size < 2e6
    levels = [lufs(*told.sound(name)) for name in ("raw", "mix")]
    assert abs(levels[0] - levels[1]) < 0.5


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield launched
        launched.close()


def test_in_chromium_it_draws_plays_and_keeps_its_place(mixed, browser):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto((mixed.folder / "mix.html").as_uri())

    def wait(condition):
        # Not wait_for_function, which the page's policy stops: it evaluates text.
        for _ in range(100):
            if tab.evaluate(condition):
                return
            tab.wait_for_timeout(100)
        pytest.fail(condition)

    wait("document.getElementById('sound-raw').readyState >= 2")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    inked = "[...document.querySelectorAll('canvas')].map(c => c.getContext('2d')"
    inked += ".getImageData(0, 0, c.width, c.height).data.some(v => v))"
    assert tab.evaluate(inked) == [True] * 5
    at = "id => document.getElementById(id).currentTime"
    tab.evaluate("document.getElementById('sound-mix').currentTime = 4")
    tab.click("#choose-raw")
    assert tab.evaluate(at, "sound-raw") == pytest.approx(4.0, abs=0.01)
    assert tab.get_attribute("#choose-raw", "aria-pressed") == "true"
    tab.click("#play")
    wait("document.getElementById('sound-raw').currentTime > 4.2")
    moved = """() => {
        const [raw, mix] = ["raw", "mix"].map(name => document.getElementById("sound-" + name)), was = raw.currentTime;
        document.getElementById("choose-mix").click();
        return mix.currentTime - was;
    }"""
    assert abs(tab.evaluate(moved)) < 0.05
    wait("document.getElementById('sound-raw').paused")
    assert not tab.evaluate("document.getElementById('sound-mix').paused")
    tab.click("#play")
    tab.hover("#lane-1 canvas")
    assert re.fullmatch(r"0:0[34]\.\d · (−[\d.]+|silent)( to \S+)?( LUFS)? · \S+ dB", tab.inner_text("#lane-1 .read"))
    assert said == []
    tab.close()
