import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from alm_plugin.errors import ParameterError
from solar.analyse import Analysis, colours, image, write_html
from solar.bands import BARK_HZ
from solar.cli import main
from solar.mix_map import map_stems
from solar.songs import compose

RATE = 32_000
NASTY = "<script>alert('x')<!-- & \"vox\""


@pytest.fixture(scope="module")
def songs():
    return {which: compose(which, 40.0, sample_rate=RATE) for which in "ab"}


@pytest.fixture(scope="module")
def folders(songs, tmp_path_factory):
    found = {}
    for which, stems in songs.items():
        found[which] = tmp_path_factory.mktemp(which)
        for name, stem in stems.items():
            soundfile.write(found[which] / f"{name}.wav", stem, RATE, "FLOAT")
    return found


@pytest.fixture(scope="module")
def analysis(songs):
    return Analysis("tonight", map_stems(songs["b"], RATE), map_stems(songs["a"], RATE))


def run(*arguments):
    return main(["analyse", *map(str, arguments)])


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_rows_say_who_plays_and_dominates(songs):
    found = Analysis("song", map_stems(songs["a"], RATE))
    rows = {row.name: row for row in found.rows}
    assert list(rows) == list(songs["a"])
    for stem, row in enumerate(found.rows):
        plays = found.playing[:, stem]
        assert row.plays == plays.mean()
        assert row.bands == pytest.approx(found.mix_map.dominance[plays, :, stem].sum() / plays.sum())
        assert np.isnan(row.predicted_bands)
        assert np.isnan(row.against_reference)
    assert rows["drums"].strongest_hz[0] >= 6_400
    assert rows["bass"].strongest_hz[1] <= 400
    assert np.isnan(found.error)
    assert [title for title, _ in found.pictures] == ["Who dominates"]


def test_against_itself_a_song_is_as_expected_and_a_louder_guitar_is_not(songs):
    reference = map_stems(songs["a"], RATE)
    same = Analysis("a", reference, reference)
    assert same.error == same.reference_error < 0.12
    assert max(abs(row.against_reference) for row in same.rows) < 0.6
    louder = {name: stem * (4.0 if name == "guitar" else 1.0) for name, stem in songs["a"].items()}
    found = Analysis("a", map_stems(louder, RATE), reference)
    rows = {row.name: row for row in found.rows}
    assert rows["guitar"].against_reference > 2.0
    assert rows["drums"].against_reference < -1.0
    assert found.error > 1.3 * same.error


def test_the_stems_of_a_reference_may_be_in_another_order(songs):
    song, reference = map_stems(songs["b"], RATE), map_stems(songs["a"], RATE)
    turned = map_stems(dict(reversed(songs["a"].items())), RATE)
    want, got = Analysis("b", song, reference), Analysis("b", song, turned)
    assert got.error == pytest.approx(want.error, abs=1e-9)
    assert got.reference is not None
    assert got.reference.names == song.names


def test_a_silent_stem_never_plays(songs):
    stems = songs["a"] | {"choir": np.zeros(40 * RATE, np.float32)}
    row = Analysis("a", map_stems(stems, RATE)).rows[-1]
    assert (row.name, row.plays) == ("choir", 0.0)
    assert np.isnan(row.bands)


def test_what_cannot_be_compared_is_refused(songs):
    song = map_stems(songs["a"], RATE)
    with pytest.raises(
        ParameterError, match="reference must have the stems drums, bass, guitar, vocals, got drums, bass"
    ):
        Analysis("a", song, map_stems({name: songs["a"][name] for name in ("drums", "bass")}, RATE))
    with pytest.raises(ParameterError, match="song must last at least a second, got less"):
        Analysis("song", song[:0])
    with pytest.raises(ParameterError, match="reference must last at least a second, got less"):
        Analysis("song", song, song[:0])


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_stems_have_colours_of_their_own():
    names = ["drums", "bass", "other", "vocals"]
    assert colours(names) == colours(["drums", "bass", "guitar", "vocals"])
    many = [f"stem {number}" for number in range(16)]
    assert len(set(colours(many))) == 16
    assert len(set(colours(["Gtr 1", "Gtr 2", "Lead Vox", "vocals", "Kick", "drums"]))) == 6
    assert colours(["Lead Vox"]) == colours(["vocals"])


def test_colours_are_mixed_as_the_shares_say():
    shares = np.zeros((2, 24, 2))
    shares[0, 0] = [1.0, 0.0]
    shares[0, 1] = [0.25, 0.75]
    pixels = image(shares, ["#ff0000", "#0000ff"], "#ffffff")
    assert pixels.shape == (24, 2, 3)
    assert pixels[:2, 0].tolist() == [[255, 0, 0], [64, 0, 191]]
    assert (pixels[2:] == 255).all()


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_table(folders, capsys):
    assert run(folders["b"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"guitar +\d+ % +\d+\.\d +\d+–\d+ Hz", said)  # noqa: RUF001
    assert "expected" not in said
    assert run(folders["b"], "--reference", folders["a"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"guitar +\d+ % +\d+\.\d +\d+–\d+ Hz +\d+\.\d +[+−]?\d+\.\d", said)  # noqa: RUF001
    assert re.search(r"differ from what was expected by \d+ percentage points", said.replace("\n", " "))


def test_json_is_one_object(folders, songs, capsys):
    assert run(folders["b"], "--json") == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (told["seconds"], told["edges_hz"]) == (40, list(BARK_HZ))
    names = [stem["name"] for stem in told["stems"]]
    assert names == ["bass", "drums", "guitar", "vocals"]
    want = map_stems({name: songs["b"][name] for name in names}, RATE)
    got = np.array([[[0.0] * 4 if band is None else band for band in second] for second in told["dominance"]])
    np.testing.assert_allclose(got, want.dominance, atol=5.1e-4)
    assert [[band is not None for band in second] for second in told["dominance"]] == want.valid.tolist()
    assert run(folders["b"], "--reference", folders["a"], "--json") == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert 0.0 < told["error"] < 0.5
    assert all(isinstance(stem["against_reference"], float) for stem in told["stems"])


def test_files_may_have_any_rate_width_and_length(songs, folders, tmp_path, capsys):
    stereo = np.stack([songs["b"]["guitar"]] * 2, axis=1)
    soundfile.write(tmp_path / "guitar.flac", 0.5 * stereo, RATE)
    soundfile.write(tmp_path / "click.wav", np.zeros(1_000), 44_100)
    paths = [tmp_path / "guitar.flac", tmp_path / "click.wav", folders["b"] / "drums.wav"]
    assert run(*paths, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["seconds"]) == ("3 files", 40)
    assert {stem["name"]: stem["plays"] for stem in told["stems"]}["click"] == 0.0


def test_the_png_shows_each_second_and_band(folders, tmp_path, capsys):
    for reference, shape in (([], (1, 1)), (["--reference", folders["a"]], (2, 2))):
        assert run(folders["b"], *reference, "--png", tmp_path / "b.png", "--json") == 0
        assert json.loads(capsys.readouterr().out)["png"] == str(tmp_path / "b.png")
        from matplotlib.image import imread

        pixels = imread(tmp_path / "b.png")
        assert pixels.shape[1] > 900 * shape[1]
        # The guitar's green, of which the mixtures keep some.
        green = (pixels[..., 1] > pixels[..., 0] + 0.2) & (pixels[..., 1] > pixels[..., 2] + 0.2)
        assert green.mean() > 0.02
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png"]


def test_without_matplotlib_a_png_says_what_is_missing(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert run(folders["b"], "--png", tmp_path / "b.png") == 2
    assert "pip install 'alm-plugin[solar]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, 44_100))
    for name in ("low", "one"):
        (folder / name).mkdir()
    soundfile.write(folder / "low" / "a.wav", noise[0], 22_050)
    soundfile.write(folder / "low" / "b.wav", noise[1], 16_000)
    soundfile.write(folder / "one" / "mix.wav", noise[0], 44_100)
    soundfile.write(folder / "short.wav", noise[0][:100], 44_100)
    soundfile.write(folder / "nan.wav", np.append(noise[0], np.nan), 44_100, "FLOAT")
    (folder / "text.wav").write_text("nothing to hear")
    (folder / "many").mkdir()
    for number in range(17):
        soundfile.write(folder / "many" / f"{number}.wav", noise[0][:1_000], 44_100)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: expected an audio file or a folder, got nothing there"),
        (["one"], r"one: expected two stems or more, got one recording; --separator demucs --model-dir DIR"),
        (["one/mix.wav", "--separator", "demucs"], "--separator must come with --model-dir"),
        (["one/mix.wav", "--model-dir", "one"], "one: expected "),
        (["low"], "low: expected at least 32000 Hz, got 22050"),
        (["many"], "stems must be 2 to 16, got 17"),
        (["one/mix.wav", "short.wav", "--reference", "low"], "low: expected at least 32000 Hz"),
        (["short.wav", "text.wav"], "text.wav: expected audio"),
        (["one/mix.wav", "nan.wav"], "nan.wav: expected finite samples, got nan at sample 44100"),
        (["one/mix.wav", "one/mix.wav"], "expected channel names to differ"),
        (["one/mix.wav", "short.wav", "--reference", "nan.wav"], "nan.wav: expected two stems or more"),
        (["one/mix.wav", "short.wav", "--html", "nowhere/a.html"], "nowhere/a.html: expected an existing folder"),
        (["one/mix.wav", "short.wav", "--png", "one"], "one: expected "),
    ],
)
def test_bad_input_is_one_line_and_status_2(odd, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(odd)
    before = sorted(odd.rglob("*"))
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert said.err.startswith("solar: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(odd.rglob("*")) == before


class Halves:
    """Takes a recording apart without Demucs: what is below 400 Hz, and the rest."""

    def separate(self, wav, sample_rate):
        spectrum = np.fft.rfft(wav)
        spectrum[:, 400 * wav.shape[1] // sample_rate :] = 0.0
        low = np.fft.irfft(spectrum, wav.shape[1]).astype(np.float32)
        return {"low": low, "other": wav - low}


def test_one_recording_is_taken_apart(songs, tmp_path, monkeypatch, capsys):
    mix = 0.3 * sum(songs["a"].values())[: 10 * RATE]
    soundfile.write(tmp_path / "mix.wav", np.stack([mix, mix], axis=1), RATE, "FLOAT")
    monkeypatch.setattr("solar.analyse.Demucs", lambda folder: Halves())
    command = [tmp_path / "mix.wav", "--separator", "demucs", "--model-dir", tmp_path, "--json"]
    assert run(*command) == 0
    told = json.loads(capsys.readouterr().out)
    assert [stem["name"] for stem in told["stems"]] == ["low", "other"]
    assert told["seconds"] == 10
    shares = np.array([[band or [0.0, 0.0] for band in second] for second in told["dominance"]])
    assert shares[:, :4, 0].min() > 0.9
    assert shares[:, 6:, 1].min() > 0.9
    assert run(tmp_path / "mix.wav", tmp_path / "mix.wav", "--model-dir", tmp_path) == 2


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_asks_nobody_and_names_are_text(songs, tmp_path):
    stems = {NASTY: songs["b"]["vocals"], "guitar": songs["b"]["guitar"]}
    write_html(tmp_path / "a.html", Analysis(NASTY, map_stems(stems, RATE)))
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|\bfetch\b|XMLHttp|WebSocket|import\(|style=|\bon\w+=\"", text)
    assert "default-src 'none'" in text
    assert "unsafe" not in text
    assert "alert('x')<" not in text
    assert text.count("<script") == text.count("</script>") == 2


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1240), ("light", 390)])
def test_in_chromium_the_pictures_are_those_of_the_shares(analysis, browser, tmp_path, scheme, width):
    write_html(tmp_path / "b.html", analysis)
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto((tmp_path / "b.html").as_uri())
    tab.wait_for_timeout(200)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("canvas").count() == 4
    assert tab.locator("tbody tr").count() == 4
    line = {"dark": "#364049", "light": "#d9dfe3"}[scheme]
    names = analysis.mix_map.names
    for place, (title, shares) in enumerate(analysis.pictures):
        want = image(shares, colours(names), line)
        got = np.array(tab.evaluate(
            "place => { const s = pictures[place].image(); return [...s.getContext('2d')"
            ".getImageData(0, 0, s.width, s.height).data]; }", place,
        )).reshape(24, len(shares), 4)  # fmt: skip
        assert np.abs(got[::-1, :, :3].astype(int) - want).max() <= 3
        assert (got[..., 3] == 255).all()
        # What the pointer reads at the middle of a second and band.
        canvas = tab.locator(f"#picture-{place} canvas")
        assert canvas.get_attribute("aria-label") == title
        canvas.scroll_into_view_if_needed()
        second, band = 20, 7
        x, y = tab.evaluate(
            "([place, t, b]) => { const p = pictures[place]; return [44 + (t + 0.5) / p.seconds * p.width,"
            " 8 + (1 - (b + 0.5) / 24) * p.height]; }", [place, second, band],
        )  # fmt: skip
        canvas.hover(position={"x": x, "y": y})
        read = tab.inner_text(f"#picture-{place} .read")
        assert read.startswith(f"0:{second} · 770–920 Hz · ")  # noqa: RUF001
        best = int(shares[second, band].argmax())
        assert f"{names[best]} " in read
        percent = int(re.search(rf"{names[best]} (\d+) %", read)[1])
        assert percent == pytest.approx(100 * shares[second, band, best], abs=1.0)
    assert said == []
    tab.close()
