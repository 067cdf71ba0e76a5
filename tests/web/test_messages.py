import json
import math
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin.errors import ParameterError
from alm_plugin.web.console import console
from alm_plugin.web.messages import Command, encode, read

COMMANDS = {
    "lock_db": Command(strip=True, range=(-60.0, 12.0), nullable=True),
    "mute": Command(strip=True),
    "strength": Command(range=(0.0, 100.0)),
}


def message(name="mute", strip=0, value=True, **more):
    return json.dumps({"name": name, "strip": strip, "value": value, **more})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (message("lock_db", 7, -6), ("lock_db", 7, -6.0)),
        (message("lock_db", 0, None), ("lock_db", 0, None)),
        (message("lock_db", 0, -60.0), ("lock_db", 0, -60.0)),
        (message("mute", 0, False), ("mute", 0, False)),
        (message("strength", None, 99.5), ("strength", None, 99.5)),
    ],
)
def test_what_a_page_may_ask(text, meant):
    got = read(text, COMMANDS, 8)
    assert got == meant
    assert type(got[2]) is type(meant[2])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "message must be JSON, got ''"),
        ("hello", "message must be JSON, got 'hello'"),
        ("[" * 5000, "message must be JSON"),
        ("9" * 5000, "message must be JSON"),
        ("[" * 400 + "]" * 400, "message must hold name, strip and value"),
        ("null", "message must hold name, strip and value, got None"),
        ('{"name": "mute", "strip": 0}', "message must hold name, strip and value"),
        (message(path="/etc/passwd"), "message must hold name, strip and value"),
        (message("load", 0, "/etc/passwd"), "name must be one of lock_db, mute, strength, got 'load'"),
        (message("__class__"), "name must be one of"),
        (message(["mute"]), "name must be one of"),
        (message("\u202emute" + "x" * 99), r"got '\\u202emutexx.*\.\.\.$"),
        (message(strip=8), r"strip must be in \[0, 7\], got 8"),
        (message(strip=-1), "strip must be in"),
        (message(strip=True), "strip must be in"),
        (message(strip=0.0), "strip must be in"),
        (message(strip=None), "strip must be in"),
        (message("strength", 0, 5), "strip must be null for strength, got 0"),
        (message(value=1), "mute must be true or false, got 1"),
        (message(value=None), "mute must be true or false, got None"),
        (message("strength", None, True), r"strength must be a number in \[0, 100\], got True"),
        (message("strength", None, None), "strength must be a number"),
        (message("strength", None, "5"), "strength must be a number"),
        (message("strength", None, math.nan), "strength must be a number in .* got nan"),
        (message("strength", None, math.inf), "strength must be a number"),
        (message("strength", None, 10**400), "strength must be a number"),
        (message("lock_db", 0, 12.01), r"lock_db must be a number in \[-60, 12\] or null, got 12.01"),
        (message("lock_db", 0, False), "lock_db must be a number"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, says):
    with pytest.raises(ParameterError, match=says) as caught:
        read(text, COMMANDS, 8)
    assert set(str(caught.value)) <= set(string.printable) - {"\n"}
    assert len(str(caught.value)) < 200


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(
    st.text()
    | anything.map(json.dumps)
    | st.builds(message, st.sampled_from([*COMMANDS, "x"]) | anything, st.integers(-2, 9) | anything, anything)
)
def test_whatever_comes_is_refused_or_within_its_range(text):
    try:
        name, strip, value = read(text, COMMANDS, 8)
    except ParameterError:
        return
    command = COMMANDS[name]
    assert strip in range(8) if command.strip else strip is None
    if command.range is None:
        assert isinstance(value, bool)
    elif value is None:
        assert command.nullable
    else:
        assert isinstance(value, float)
        assert command.range[0] <= value <= command.range[1]


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (-math.inf, 1.0), (0.0, math.inf)])
def test_a_range_has_two_rising_ends(ends):
    with pytest.raises(ParameterError, match="range must be two rising finite numbers"):
        Command(range=ends)


def test_what_an_owner_says_becomes_json():
    said = {"a": [np.float32(0.5), np.float64("nan"), -math.inf], "b": np.array([1.23456, 2.0]), "c": (None, True, 3)}
    assert json.loads(encode(said)) == {"a": [0.5, None, None], "b": [1.235, 2.0], "c": [None, True, 3]}
    with pytest.raises(TypeError):
        encode({"a": object()})


@pytest.mark.parametrize("ranges", [{}, {"trim_db": 3}, {"trim_db": (1, -1)}, {"trim_db": ("a", "b")}])
def test_a_console_needs_ranges(make_band, ranges):
    band = make_band()
    band.describe = lambda: {"ranges": ranges}
    with pytest.raises(ParameterError, match="ranges must hold two rising finite numbers for trim_db, got"):
        console(band)
