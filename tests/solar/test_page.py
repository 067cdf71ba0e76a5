# ruff: noqa: RUF001  (typographic apostrophes are what a reader of a page expects)

import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alm_plugin.web.server import Page
from solar.page import LEAST_S, MOST_S, PAUSE_S, Screen, page
from solar.tracker import Recommendation


def said(state="down", change_db=-6.0, player="guitar"):
    return Recommendation(player, state, change_db=change_db, confidence=0.9, low_db=-8.0, high_db=-4.0)


# ---- how long it is shown --------------------------------------------------------------------------------------------

STATES = st.sampled_from(["up", "down", "cant-hear"])
WISHES = st.none() | st.builds(said, STATES, st.sampled_from([-6.0, -3.0, 3.0]))


@given(st.lists(st.tuples(WISHES, st.floats(-20, 20, allow_subnormal=False), st.integers(1, 200)), max_size=20))
def test_whatever_is_wanted_it_can_be_read_and_is_not_in_the_way(steps):
    screen, time_s = Screen(), 0.0
    periods = []  # of what was shown: when it began and when it was last there
    for wanted, error_db, repeat in steps:
        for _ in range(repeat):
            time_s = round(time_s + 0.1, 3)
            before = screen.shown
            shown = screen.step(time_s, wanted, error_db)
            if shown is not None and shown is before:
                periods[-1][1] = time_s
            elif shown is not None:
                assert before is None  # it never becomes another
                assert shown is wanted
                periods.append([time_s, time_s, shown])
    assert len({id(what) for *_, what in periods}) == len(periods)  # each only once
    for (begin_s, last_s, _), after in zip(periods, [*periods, None][1:], strict=True):
        assert last_s - begin_s <= MOST_S
        if after is not None:
            assert last_s + 0.1 - begin_s >= LEAST_S - 1e-6
            assert after[0] - (last_s + 0.1) >= PAUSE_S - 1e-6


@pytest.mark.parametrize(("state", "sign"), [("down", 1.0), ("up", -1.0)])
def test_it_goes_when_the_gain_has_moved_the_right_way(state, sign):
    screen, wanted = Screen(), said(state, -6.0 * sign)
    assert screen.step(0.0, wanted, 6.0 * sign) is wanted
    assert screen.step(3.0, wanted, 4.0 * sign) is wanted  # a little
    assert screen.step(4.0, wanted, 20.0 * sign) is wanted  # the wrong way
    assert screen.step(5.0, wanted, 2.0 * sign) is None


def test_a_player_may_say_that_it_is_done():
    screen, wanted = Screen(), said()
    screen.done()
    screen.step(0.0, wanted, 6.0)
    assert screen.step(0.5, wanted, 6.0) is wanted
    screen.done()
    assert screen.step(0.6, wanted, 6.0) is None
    assert screen.step(20.0, wanted, 6.0) is None  # it was said
    assert screen.step(21.0, said(), 6.0) is not None


# ---- in a browser ----------------------------------------------------------------------------------------------------

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect


class Check:
    """Owner of a page that shows what it is told."""

    def __init__(self, players=("guitar", "vocals")):
        self.players = players
        self.inputs = [{"name": "jack: default", "ports": 1}, {"name": "Scarlett 18i8, ALSA", "ports": 18}]
        self.commands = []
        self.now = {
            "started": False, "shown": [None] * len(players), "order": list(range(len(players))), "level_db": -14.0,
            "verdict": "good", "note": "", "input": 0, "port": 1,
        }  # fmt: skip

    def show(self, *shown, order=None, **more):
        more["shown"] = [each and {"state": each[0], "change_db": each[1]} for each in shown]
        self.now = self.now | {"started": True} | more | {"order": order or self.now["order"]}

    def describe(self):
        strips = [{"name": name} for name in self.players]
        return {"title": "Soundcheck: Little Wing", "strips": strips, "inputs": self.inputs}

    def state(self):
        return self.now

    def command(self, name, strip, value):
        self.commands.append((name, strip, value))
        if name == "start":
            self.now = self.now | {"started": value}
        elif name in ("input", "port"):
            self.now = self.now | {name: int(value)}
        elif name == "done":
            shown = [None if at == strip else each for at, each in enumerate(self.now["shown"])]
            self.now = self.now | {"shown": shown}


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def look(browser):
    """Serve an owner's page and open it; nothing may be said on its console."""
    opened = []

    def look(owner, width=1280, height=800, lan=False, **options):
        served = Page(page(owner), lan=lan).start()
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        tab, said = context.new_page(), []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        opened.append((served, context, said))
        tab.goto(served.url)
        expect(tab.locator("body")).to_have_attribute("data-link", "live")
        return tab

    yield look
    for served, context, said in opened:
        context.close()
        served.stop()
        # A page of a network is none that a browser trusts, and says so.
        assert [text for text in said if "Cross-Origin-Opener-Policy" not in text] == []


def picture(tab, tmp_path, name):
    tab.screenshot(path=Path(os.environ.get("ALM_SCREENSHOTS", tmp_path)) / f"solar-{name}.png")


def until(tab, true):
    """Wait for what no locator sees."""
    for _ in range(500):
        if tab.evaluate(true):
            return
        tab.wait_for_timeout(20)
    pytest.fail(f"it did not happen: {true}")


def asked(tab, owner, *commands):
    """Wait until a page has asked for these, and no others."""
    for _ in range(500):
        if len(owner.commands) >= len(commands):
            break
        tab.wait_for_timeout(20)
    assert owner.commands == list(commands)


def is_black(tab):
    """Whether nothing but black can be seen."""
    seen = """[...document.body.querySelectorAll("*")].filter(e => e.checkVisibility() && e.getClientRects().length &&
        !["MAIN"].includes(e.tagName)).map(e => e.id || e.tagName)"""
    return tab.evaluate(seen) == [] and background(tab) == "rgb(0, 0, 0)"


def background(tab):
    return tab.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390), (820, 1180), (1280, 800)])
def test_it_is_black_but_for_what_is_to_be_turned(look, tmp_path, width, height):
    owner = Check()
    owner.show(None, None)
    tab = look(owner, width, height)
    body, size = tab.locator("body"), f"{width}x{height}"
    expect(body).to_have_attribute("data-phase", "play")
    expect(body).to_have_attribute("data-state", "blank")
    assert is_black(tab)
    colours = []
    for state, change_db, number in (("up", 12.3, "12dB"), ("down", -6.4, "6dB"), ("up", 0.3, "1dB")):
        owner.show((state, change_db), None)
        expect(body).to_have_attribute("data-state", state)
        expect(tab.locator("#number")).to_have_text(number)
        expect(tab.locator("#what")).to_have_text(f"turn {state}")
        expect(tab.locator("#who")).to_have_text("guitar")
        expect(tab.locator("#sign path:visible")).to_have_class(state)
        colours.append(background(tab))
        # From across a room: a number and an arrow of a fifth of the screen each, all of it on the screen.
        for part in ("#number", "#sign", "#what", "#who"):
            expect(tab.locator(part)).to_be_in_viewport(ratio=1)
        assert tab.evaluate("parseFloat(getComputedStyle(number).fontSize)") >= 0.2 * max(height, width / 2)
        box = tab.locator(f"#sign .{state}").bounding_box()
        assert box["width"] * box["height"] >= 0.04 * width * height
        assert tab.evaluate(
            "number.scrollWidth <= number.clientWidth + 1 || number.getBoundingClientRect().right <= innerWidth"
        )
        picture(tab, tmp_path, f"{size}-{state}-{number}")
    assert colours[0] == colours[2] != colours[1]
    owner.show(("cant-hear", 0.0), None)
    expect(tab.locator("#what")).to_have_text("can’t hear guitar")
    expect(tab.locator("#number")).to_have_text("")
    expect(tab.locator("#sign .cant-hear")).to_be_visible()
    picture(tab, tmp_path, f"{size}-cant-hear")
    owner.show(None, None)
    expect(body).to_have_attribute("data-state", "blank")
    assert is_black(tab)


def test_the_most_urgent_is_large_and_the_others_below(look, tmp_path):
    owner = Check(("guitar", "vocals", "<b>bass</b>"))
    owner.show(("up", 3.0), ("down", -9.0), ("cant-hear", 0.0), order=[1, 0, 2])
    tab = look(owner)
    expect(tab.locator("#who")).to_have_text("vocals")
    expect(tab.locator("#number")).to_have_text("9dB")
    expect(tab.locator("#others li")).to_have_text(["guitar ▲ 3", "<b>bass</b> ?"])
    picture(tab, tmp_path, "three")
    owner.show(("up", 3.0), None, None)
    expect(tab.locator("#who")).to_have_text("guitar")
    expect(tab.locator("#others li")).to_have_count(0)


def test_a_screen_may_be_one_players_own(look, tmp_path):
    owner = Check()
    tab = look(owner)
    picture(tab, tmp_path, "check")
    tab.get_by_role("button", name="vocals").click()
    expect(tab.get_by_role("button", name="vocals")).to_have_attribute("aria-pressed", "true")
    owner.show(("down", -6.0), None)
    expect(tab.locator("body")).to_have_attribute("data-phase", "play")
    expect(tab.locator("body")).to_have_attribute("data-state", "blank")
    owner.show(("down", -6.0), ("up", 2.0))
    expect(tab.locator("#who")).to_have_text("vocals")
    expect(tab.locator("#others li")).to_have_count(0)
    tab.reload()
    expect(tab.locator("#who")).to_have_text("vocals")
    assert tab.url.endswith("/#vocals")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390), (1280, 800)])
def test_the_level_is_checked_before_the_first_song(look, tmp_path, width, height):
    owner = Check()
    tab = look(owner, width, height)
    verdict = tab.locator("#verdict")
    for kind, text in (
        ("silent", "Nothing comes in"), ("quiet", "Too quiet"), ("clipped", "Clipped"), ("broken", "no sound"),
        ("good", "Good"),
    ):  # fmt: skip
        owner.now = owner.now | {"verdict": kind, "level_db": {"silent": None, "quiet": -50.0}.get(kind, -14.0)}
        expect(verdict).to_contain_text(text)
    level = "document.querySelector('#meter .cover').style.getPropertyValue('--at')"
    until(tab, f"{level} > 0.6")
    owner.now = owner.now | {"level_db": -60.0}
    until(tab, f"{level} < 0.1")
    expect(tab.locator("#start")).to_be_in_viewport(ratio=1)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    # The input picker: ports only where there are some to choose from.
    expect(tab.locator("#port")).to_be_hidden()
    tab.get_by_role("combobox", name="Input").select_option(label="Scarlett 18i8, ALSA")
    expect(tab.locator("#port option")).to_have_count(18)
    tab.get_by_role("combobox", name="Port").select_option("7")
    expect(tab.locator("#port")).to_have_value("7")
    asked(tab, owner, ("input", None, 1.0), ("port", None, 7.0))
    picture(tab, tmp_path, f"{width}x{height}-check")
    tab.locator("#start").click()
    expect(tab.locator("body")).to_have_attribute("data-phase", "play")
    until(tab, "document.fullscreenElement !== null")
    asked(tab, owner, ("input", None, 1.0), ("port", None, 7.0), ("start", None, True))
    assert is_black(tab)


def test_touch_and_keys(look):
    owner = Check()
    owner.show(("down", -6.0), ("up", 3.0))
    tab = look(owner, 390, 844, has_touch=True)
    expect(tab.locator("#who")).to_have_text("guitar")
    tab.touchscreen.tap(200, 400)
    expect(tab.locator("#who")).to_have_text("vocals")
    tab.keyboard.press("Space")
    expect(tab.locator("body")).to_have_attribute("data-state", "blank")
    asked(tab, owner, ("done", 0, True), ("done", 1, True))
    # On black a touch brings the few buttons, and nothing else; they go by themselves.
    assert is_black(tab)
    tab.touchscreen.tap(200, 400)
    expect(tab.locator("#full")).to_be_visible()
    expect(tab.locator("#bar")).to_be_hidden()
    tab.keyboard.press("f")
    until(tab, "document.fullscreenElement !== null")
    tab.keyboard.press("l")
    expect(tab.locator("#check")).to_be_visible()
    asked(tab, owner, ("done", 0, True), ("done", 1, True), ("start", None, False))


def test_what_is_wrong_with_the_input_is_said(look, tmp_path):
    owner = Check()
    owner.show(None, None, note="The microphone clips: turn its input down.")
    tab = look(owner, 390, 844)
    expect(tab.locator("#note")).to_have_text("The microphone clips: turn its input down.")
    picture(tab, tmp_path, "note")
    owner.show(None, None, note="")
    expect(tab.locator("#note")).to_be_hidden()
    assert is_black(tab)


def test_a_lost_connection_is_said_and_found_again(look):
    owner = Check()
    owner.show(("up", 3.0), None)
    tab = look(owner)
    expect(tab.locator("#who")).to_be_visible()
    state, owner.state = owner.state, lambda: 1 / 0
    expect(tab.locator("#lost")).to_contain_text("No connection")
    expect(tab.locator("#show")).to_be_hidden()
    assert background(tab) == "rgb(0, 0, 0)"
    owner.state = state
    expect(tab.locator("body")).to_have_attribute("data-link", "live")
    expect(tab.locator("#who")).to_be_visible()


def test_a_network_needs_the_token_and_the_screen_stays_on(look, browser):
    owner = Check()
    owner.show(("up", 3.0), None)
    tab = look(owner, lan=True)
    assert "token" not in tab.url
    expect(tab.locator("#who")).to_have_text("guitar")
    stranger = browser.new_context().new_page()
    assert stranger.goto(re.sub(r"/[?#].*|/$", "/", tab.url)).status == 403
    stranger.context.close()
    # Over a network no browser lets a page keep the screen on; then it says what to do.
    owner.now = owner.now | {"started": False}
    expect(tab.locator("#awake")).to_contain_text("switch the screen's time-out off")
    expect(look(Check()).locator("#awake")).to_have_text("The screen stays on while this page is in front.")
