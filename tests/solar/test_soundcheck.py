import argparse
import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest
import soundfile

from alm_plugin.errors import AlmError, ParameterError
from alm_plugin.live.devices import Silent
from alm_plugin.units import db_to_factor
from alm_plugin.web.server import Page
from solar import page as solar_page
from solar import reference, soundcheck
from solar.plugin import Solar
from solar.reference import Multitrack, Reference
from solar.songs import compose
from solar.soundcheck import Input, Soundcheck

RATE = 44_100


@pytest.fixture(scope="module")
def stems():
    return compose("a", 45.0)


@pytest.fixture(scope="module")
def solar(stems):
    return Solar(Reference(stems, ["guitar", "vocals"], sample_rate=RATE), full_scale=soundcheck.FULL_SCALE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, stems):
    """Folders of stems: the reference, and a take with a guitar that is 9 dB too loud."""
    reference, take = (tmp_path_factory.mktemp(name) for name in ("reference", "take"))
    for name, stem in stems.items():
        soundfile.write(reference / f"{name}.wav", stem, RATE)
        soundfile.write(take / f"{name}.wav", (0.2 * stem * (db_to_factor(9.0) if name == "guitar" else 1.0)), RATE)
    return reference, take


class Stage:
    """An input whose sound a test decides on, 100 ms at a time, as fast as it is heard."""

    def __init__(self, check_of):
        self.check_of, self.sound, self.opened, self.fails = check_of, None, [], False

    def blocks(self, names):
        at = 0
        while True:
            sound = self.sound
            if sound is None:
                yield np.zeros((len(names), 4_410), np.float32)
                continue
            at = at if at + 4_410 <= sound.shape[1] else 0
            yield sound[:, at : at + 4_410]
            at += 4_410

    def open(self, names, port):
        if self.fails:
            raise ParameterError("the cable is not plugged in")
        self.opened.append(port)

        def wait():
            time.sleep(0.002)
            if (listening := self.check_of()._listening) is not None:
                listening.wait()

        return Silent(
            names, ["nothing"], sample_rate=RATE, block_size=4_410, source=self.blocks(names), freewheel=True, wait=wait
        )


@pytest.fixture
def stage(solar):
    """Return a soundcheck that runs, and what it listens to."""
    holder = []
    heard = Stage(lambda: holder[0])
    other = Stage(lambda: holder[0])
    names = solar.inputs
    inputs = [
        Input("stage", 1, lambda port: heard.open(names, port)),
        Input("balcony", 4, lambda port: other.open(names, port)),
    ]
    check = Soundcheck(solar, inputs, "Soundcheck: Little Wing")
    holder.append(check)
    heard.other = other
    with check:
        yield check, heard


def until(true, seconds=60.0):
    for _ in range(round(seconds / 0.02)):
        if true():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen")


def array(solar, stems, **gains_db):
    return np.stack([0.3 * db_to_factor(gains_db.get(name, 0.0)) * stems[name] for name in solar.inputs]).astype("f4")


# ---- live ------------------------------------------------------------------------------------------------------------


def test_it_checks_the_level_and_then_says_what_to_turn(stage, stems, solar):
    check, heard = stage
    assert check.describe() == {
        "title": "Soundcheck: Little Wing",
        "strips": [{"name": "guitar"}, {"name": "vocals"}],
        "inputs": [{"name": "stage", "ports": 1}, {"name": "balcony", "ports": 4}],
    }
    until(lambda: check.state()["verdict"] == "silent")
    heard.sound = array(solar, stems, guitar=12.0)
    until(lambda: check.state()["verdict"] == "good")
    assert check.state()["shown"] == [None, None]  # it was not started
    assert not check.state()["started"]
    assert len(solar.frames) == 0
    check.command("start", None, True)
    seen = []
    until(lambda: seen.append(check.state()) or seen[-1]["shown"][0] is not None)
    assert seen[-1]["shown"][0]["state"] == "down"
    assert -20.0 < seen[-1]["shown"][0]["change_db"] < -6.0  # it has heard some seconds
    assert seen[-1]["order"][0] == 0
    assert [said.player for _, said in check.shown][-1] == "guitar"
    # Who touches the screen has turned it, more or less.
    before_db = solar.report()["players"]["guitar"]["error_db"]
    check.command("done", 0, True)
    assert solar.report()["players"]["guitar"]["error_db"] < before_db - 3.0
    until(lambda: check.state()["shown"][0] is None)
    # Nobody has: it hears that, in the end, and says so again.
    until(lambda: len([said for _, said in check.shown if said.player == "guitar"]) >= 2)
    assert solar.report()["players"]["guitar"]["error_db"] == pytest.approx(12.0, abs=4.0)
    check.command("start", None, False)
    until(lambda: check.state()["shown"] == [None, None])


@pytest.mark.parametrize(
    ("factor", "verdict", "note"),
    [(0.0, "silent", ""), (0.01, "quiet", ""), (40.0, "clipped", "clips"), (np.nan, "broken", "no sound")],
)
def test_what_is_wrong_with_the_input_is_said_and_nothing_else(stage, stems, solar, factor, verdict, note):
    check, heard = stage
    heard.sound = np.clip(np.float32(factor) * array(solar, stems, guitar=15.0), -1.0, 1.0)
    until(lambda: check.state()["verdict"] == verdict)
    assert check.state()["note"] == ""
    check.command("start", None, True)
    frames = 0
    for _ in range(40):
        time.sleep(0.02)
        state = check.state()
        frames = max(frames, len(solar.frames))
        if note:
            assert note in state["note"]
        if verdict != "quiet":  # which is no reason not to listen
            assert [shown for shown in state["shown"] if shown and shown["state"] != "cant-hear"] == []
    assert (frames > 0) == (not note)


def test_a_silent_input_is_told_when_it_has_been_so_for_long(stage, monkeypatch):
    check, _ = stage
    check.command("start", None, True)
    assert check.state()["note"] == ""
    monkeypatch.setattr(soundcheck, "NOTE_S", 0.2)
    until(lambda: "Nothing comes in" in check.state()["note"])


def test_another_input_may_be_picked(stage, stems, solar):
    check, heard = stage
    with pytest.raises(ParameterError, match=r"input must be in \[0, 1\], got 2"):
        check.command("input", None, 2.0)
    with pytest.raises(ParameterError, match=r"port must be in \[1, 1\], got 2"):
        check.command("port", None, 2.0)
    heard.other.sound = array(solar, stems)
    check.command("input", None, 1.0)
    assert check.state()["input"] == 1
    until(lambda: check.state()["verdict"] == "good")
    check.command("port", None, 3.0)
    until(lambda: heard.other.opened == [1, 3])
    assert heard.opened == [1]
    heard.fails = True
    check.command("input", None, 0.0)
    until(lambda: "the cable is not plugged in" in check.state()["note"])
    assert check.state()["verdict"] == "silent"
    heard.fails = False
    until(lambda: check.state()["note"] == "")
    assert check.state()["port"] == 1


def test_an_input_that_is_gone_is_opened_again(stage, monkeypatch):
    check, heard = stage
    monkeypatch.setattr(soundcheck, "RETRY_S", 0.1)
    heard.fails = True
    check._lost("unplugged")
    until(lambda: "The input is gone" in check.state()["note"])
    heard.fails = False
    until(lambda: len(heard.opened) == 2)
    until(lambda: check.state()["note"] == "")


def test_a_recording_begins_when_the_soundcheck_does(stems, solar):
    sound = array(solar, stems, guitar=9.0)[:, : 12 * RATE]
    opened = []

    def wait():
        time.sleep(0.002)
        if check._listening is not None:
            check._listening.wait()

    def open_take(port):
        opened.append(port)
        return Silent(
            solar.inputs, ["nothing"], sample_rate=RATE, block_size=4_410, source=sound, freewheel=True, wait=wait
        )

    check = Soundcheck(solar, [Input("take", 1, open_take, is_recording=True)])
    with check:
        until(lambda: len(opened) >= 3)  # over and over, for its level
        until(lambda: check.state()["verdict"] == "good")
        assert not check.ended.is_set()
        check.command("start", None, True)
        until(check.ended.is_set)
        assert len(solar.frames) == 12


# ---- in a browser ----------------------------------------------------------------------------------------------------


def test_from_the_sound_to_the_screen(stage, stems, solar, monkeypatch):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    expect, chromium = sync_api.expect, shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    monkeypatch.setattr(solar_page, "MOST_S", 1e3)  # nothing goes by itself
    check, heard = stage
    heard.sound = array(solar, stems, guitar=-15.0)
    with Page(check.app) as page, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.url)
        expect(tab).to_have_title("Soundcheck: Little Wing")
        expect(tab.locator("#verdict")).to_contain_text("Good")
        tab.locator("#start").click()
        expect(tab.locator("body")).to_have_attribute("data-state", "up", timeout=30_000)
        expect(tab.locator("#who")).to_have_text("guitar")
        heard.sound = np.full_like(heard.sound, np.nan)
        expect(tab.locator("#note")).to_contain_text("no sound")
        expect(tab.locator("body")).to_have_attribute("data-state", "blank", timeout=10_000)
        browser.close()


# ---- the command -----------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    parser = argparse.ArgumentParser()
    soundcheck.add_command(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["soundcheck", *map(str, arguments)])
    assert parsed.run(parsed) == 0
    return capsys.readouterr()


def test_a_take_in_files_is_heard_at_full_speed(folders, capsys):
    reference, take = folders
    said = json.loads(run(capsys, "--reference", reference, "--input", take, "--json").out)
    assert said["seconds"] == 45
    assert said["players"]["guitar"]["error_db"] == pytest.approx(9.0, abs=1.5)
    first = said["said"][0]
    assert (first["player"], first["state"]) == ("guitar", "down")
    assert first["change_db"] == pytest.approx(-9.0, abs=3.0)
    half = json.loads(run(capsys, "--reference", reference, "--input", take, "--json", "--seconds", 20).out)
    assert half["seconds"] == 20


def test_a_pickup_and_a_room_are_enough(folders, tmp_path, stems, capsys):
    loud = db_to_factor(12.0) * stems["guitar"]
    room = loud + sum(stem for name, stem in stems.items() if name != "guitar")
    soundfile.write(tmp_path / "guitar.wav", 0.5 * stems["guitar"], RATE)
    soundfile.write(tmp_path / "room.wav", 0.05 * room, RATE, "FLOAT")
    said = json.loads(run(capsys, "--reference", folders[0], "--input", tmp_path, "--json").out)
    assert said["seconds"] == 42
    assert said["players"]["guitar"]["error_db"] == pytest.approx(12.0, abs=4.0)
    assert said["said"][0]["state"] == "down"


def test_a_take_is_played_in_its_own_time_with_a_page(folders, tmp_path, stems, capsys):
    for name, stem in stems.items():
        soundfile.write(tmp_path / f"{name}.wav", stem[: 2 * RATE], RATE)
    said = run(capsys, "--reference", folders[0], "--input", tmp_path, "--player", "bass", "--seconds", 4).err
    assert "page: http://127.0.0.1:" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "multitrack", "--reference", "SONG"], "--input multitrack must come with a folder of stems"),
        (["--input", "SONG"], "--model-dir must be given for one microphone, got none: download a .safetensors file"),
        (["--input", "jack"], "--model-dir must be given for one microphone"),
        (["--input", "SONG", "--model-dir", "TAKE"], "expected a folder with Demucs's weights, got none: download"),
        (["--input", "TAKE", "--model-dir", "TAKE"], "--model-dir must come with one microphone, got inputs"),
        (["--input", "TAKE", "--channel", "guitar=1"], "--channel must come with a device, got it with a file"),
        (["--channel", "guitar"], "--channel must be NAME=PORT, got 'guitar'"),
        (["--channel", "guitar=1", "--channel", "guitar=2"], "--channel must name every input once"),
        (["--channel", "guitar=1"], "--channel must name another input, a stem or 'room'"),
        (["--channel", "a=1", "--channel", "b=2", "--channel", "room=3"], "--channel must name stems alone, or one"),
        (["--channel", "a=1", "--channel", "b=2"], "inputs must be stems of the reference (bass, drums, guitar, voc"),
        (["--input", "nowhere.wav"], "expected an audio file or a folder, got nothing there"),
        (["--input", "TAKE", "--player", "kazoo"], "player must be one of bass, drums, guitar, vocals, got 'kazoo'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(folders, tmp_path, stems, capsys, arguments, said):
    soundfile.write(tmp_path / "song.wav", stems["guitar"][: 30 * RATE], RATE)
    places = {"SONG": tmp_path / "song.wav", "TAKE": folders[1]}
    if "TAKE" in arguments[-1:] and "SONG" in arguments:
        places["TAKE"] = tmp_path / "empty"
    with pytest.raises(AlmError) as caught:
        run(capsys, "--reference", folders[0], *(places.get(each, each) for each in arguments))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def jack_server(monkeypatch):
    """`jackd` without a sound card."""
    if shutil.which("jackd") is None:
        pytest.skip("jackd is not installed (Debian: jackd2)")
    name = f"solar-test-{os.getpid()}"
    monkeypatch.setenv("JACK_DEFAULT_SERVER", name)
    server = subprocess.Popen(
        ["jackd", "-n", name, "-S", "-p", "64", "-d", "dummy", "-r48000", "-p1024", "-C6", "-P2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    from alm_plugin.live.devices import Jack

    until(lambda: not Jack.found()[0].note)
    yield name
    server.terminate()
    server.wait()


def test_jack_is_an_input(folders, capsys, jack_server):
    options = ["--reference", folders[0], "--input", "jack", "--seconds", 2.5, "--json"]
    said = json.loads(run(capsys, *options, "--channel", "guitar=5", "--channel", "vocals=system:capture_2").out)
    assert said["seconds"] >= 1
    assert [each for each in said["said"] if each["state"] != "cant-hear"] == []
    with pytest.raises(ParameterError, match="9"):
        run(capsys, *options, "--channel", "guitar=9", "--channel", "vocals=2")


def test_what_the_page_offers_is_what_there_is(folders, jack_server):
    arguments = argparse.Namespace(input=None, device=None, sample_rate=None)
    inputs = soundcheck._inputs(arguments, {"room": "1"}, is_file=False)
    assert inputs[0] == Input("jack: default", 6, inputs[0].open)
    assert f"jack: {jack_server}" not in [each.name for each in inputs]  # the same again
    assert any(each.name.startswith("portaudio: ") and each.ports == 6 for each in inputs[1:])
    with inputs[0].open(4) as device:
        assert device.inputs == ("room",)
        assert device.sample_rate == 48_000
    assert Multitrack(["a", "b"]).inputs == ("a", "b")


def test_one_microphone_and_a_model(tmp_path, stems, capsys, monkeypatch):
    htdemucs = pytest.importorskip("demucs.htdemucs", reason="demucs is not installed")
    from safetensors.torch import save_file

    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path / "cache"))
    for name, seconds in (("MIN_REFERENCE_S", 6), ("MIN_PLAYING_S", 3), ("CALIBRATION_S", 2)):
        monkeypatch.setattr(reference, name, seconds)
    options = {
        "sources": ["drums", "bass", "other", "vocals"], "channels": 4, "nfft": 512, "depth": 3, "t_layers": 1,
        "t_heads": 2, "dconv_depth": 1, "dconv_comp": 2, "segment": 2,
    }  # fmt: skip
    about = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(options)}
    save_file(htdemucs.HTDemucs(**options).state_dict(), tmp_path / "tiny.safetensors", about)
    song = sum(stems.values())[: 7 * RATE]
    soundfile.write(tmp_path / "song.wav", song, RATE, "FLOAT")
    soundfile.write(tmp_path / "take.wav", 0.1 * np.stack([song, song], axis=1)[: 5 * RATE], RATE, "FLOAT")
    files = ["--reference", tmp_path / "song.wav", "--input", tmp_path / "take.wav"]
    said = json.loads(run(capsys, *files, "--model-dir", tmp_path, "--json").out)
    assert said["seconds"] == 4
    assert said["players"].keys() == {"guitar"}
