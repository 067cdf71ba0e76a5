import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin import Mixer, Strip
from alm_plugin.errors import AudioTypeError, ParameterError
from alm_plugin.units import db_to_factor
from solar.mix_map import map_stems
from solar.plugin import Listening, Solar
from solar.reference import Multitrack, Reference
from solar.songs import compose

RATE = 32_000


@pytest.fixture(scope="module")
def stems():
    return compose("a", 90.0, sample_rate=RATE)


@pytest.fixture(scope="module")
def reference(stems):
    return Reference(stems, ["guitar", "vocals"], sample_rate=RATE)


@pytest.fixture(scope="module")
def solar(reference):
    return Solar(reference)


def turned(stems, **gains_db):
    factors = {name: np.float32(db_to_factor(gain_db)) for name, gain_db in gains_db.items()}
    return {name: factors.get(name, np.float32(1.0)) * stem for name, stem in stems.items()}


# ---- as a plugin -----------------------------------------------------------------------------------------------------


def test_it_returns_what_it_is_given(solar, stems):
    before = {name: stem.copy() for name, stem in stems.items()}
    assert solar.process(stems, RATE) is stems
    assert solar(stems, RATE, 512) is stems
    for name, stem in stems.items():
        np.testing.assert_array_equal(stem, before[name])
    array = np.stack(list(stems.values()))
    assert solar.process(array, RATE) is array
    expected = map_stems(stems, RATE)
    for field in ("dominance", "valid", "band_power", "loudest_rms"):
        np.testing.assert_array_equal(getattr(solar.frames, field), getattr(expected, field))
    assert solar.frames.names == expected.names
    assert solar.reported_latency_samples == 0


@given(sizes=st.lists(st.integers(1, 3 * RATE), min_size=1, max_size=5), stereo=st.booleans())
@settings(max_examples=15, deadline=None)
def test_blocks_of_any_size_give_the_same_frames(solar, stems, sizes, stereo):
    sound = np.stack([stem[: sum(sizes)] for stem in stems.values()])[:, None]
    if stereo:
        sound = np.concatenate([sound, 0.5 * sound[:, :, ::-1]], axis=1)
    solar.process(sound, RATE)
    whole = solar.frames, solar.report()
    solar.reset()
    assert len(solar.frames) == 0
    for part in np.split(sound, np.cumsum(sizes)[:-1], axis=2):
        solar.process(part, RATE, reset=False)
    np.testing.assert_array_equal(solar.frames.band_power, whole[0].band_power)
    assert solar.report() == whole[1]


@pytest.mark.parametrize(("gain_db", "state"), [(12.0, "down"), (-12.0, "up"), (0.0, None)])
def test_it_says_what_to_turn(solar, stems, gain_db, state):
    solar.process(turned(stems, guitar=gain_db), RATE)
    said = solar.recommendations.get("guitar")
    stands = solar.report()["players"]["guitar"]
    assert stands["error_db"] == pytest.approx(gain_db, abs=1.5)
    assert stands["low_db"] <= stands["error_db"] <= stands["high_db"]
    if state is None:
        assert said is None
        return
    seconds = [second for second, each in solar.said if each.player == "guitar"]
    assert seconds[0] <= 15
    assert (
        max(np.searchsorted(seconds, second + 60) - k for k, second in enumerate(seconds)) <= 4
    )  # though nobody obeys
    assert said is not None
    assert (said.player, said.state) == ("guitar", state)
    assert said.change_db == pytest.approx(-gain_db, abs=2.0)
    assert solar.recommendation is said


def test_the_most_urgent_player_comes_first(solar, stems):
    solar.process(turned(stems, guitar=6.0, vocals=-14.0), RATE)
    assert list(solar.recommendations) == ["vocals", "guitar"]
    assert [said.state for said in solar.recommendations.values()] == ["up", "down"]
    assert solar.recommendation is solar.recommendations["vocals"]


def test_seconds_without_sound_are_not_judged(solar, stems):
    solar.process({name: np.full_like(stem, np.nan) for name, stem in stems.items()}, RATE)
    assert (len(solar.frames), solar.recommendation) == (0, None)
    assert solar.report()["broken_s"] == 90.0
    broken = {name: stem.copy() for name, stem in turned(stems, guitar=10.0).items()}
    broken["bass"][RATE // 2] = np.inf
    solar.process(broken, RATE)
    expected = map_stems(turned(stems, guitar=10.0), RATE)
    np.testing.assert_array_equal(solar.frames.band_power, expected.band_power[1:])
    clipped = Solar(solar.reference, full_scale=0.999)
    clipped.process(np.clip(100.0 * np.stack(list(stems.values())), -1.0, 1.0), RATE)
    assert clipped.report()["clipped_s"] > 50.0
    assert clipped.recommendation is None


def test_what_does_not_fit_is_refused(solar, stems, reference):
    with pytest.raises(ParameterError, match=r"stems must hold .*, got none for guitar"):
        solar.process({name: stem for name, stem in stems.items() if name != "guitar"}, RATE)
    with pytest.raises(ParameterError, match=r"stems must be 4 .*got 2"):
        solar.process(np.zeros((2, 100)), RATE)
    with pytest.raises(AudioTypeError):
        solar.process({name: stem.astype(int) for name, stem in stems.items()}, RATE)
    with pytest.raises(ParameterError, match="must be of one length"):
        solar.process(stems | {"guitar": stems["guitar"][:-1]}, RATE)
    with pytest.raises(ParameterError, match="sample_rate must be at least 32000 Hz"):
        solar.process(stems, 16_000)
    solar.process(stems, RATE)
    with pytest.raises(ParameterError, match="sample_rate must stay 32000 Hz until a reset, got 44100"):
        solar.process(stems, 44_100, reset=False)
    with pytest.raises(ParameterError, match="player and separator must come with the Reference itself"):
        Solar(reference, "bass")
    with pytest.raises(ParameterError, match="a mixer without"):
        solar.attach(Mixer({"guitar": Strip()}, model="unity"))


# ---- as an observer --------------------------------------------------------------------------------------------------


def play(mixer, stems, size=1024):
    length = len(next(iter(stems.values())))
    mixer.reset()
    return np.concatenate(
        [
            mixer.process({name: stem[at : at + size] for name, stem in stems.items()}, RATE, reset=False)
            for at in range(0, length, size)
        ],
        axis=1,
    )


def band(stems, **trims_db):
    return Mixer({name: Strip(trim_db=trims_db.get(name, 0.0)) for name in stems}, model="unity", ceiling_db=None)


def test_it_hears_a_mixer_behind_the_gains_and_changes_nothing(solar, stems):
    alone = play(band(stems, guitar=-9.0), stems)
    mixer = band(stems, guitar=-9.0)
    solar.attach(mixer)
    np.testing.assert_array_equal(play(mixer, stems), alone)
    solar.wait()
    assert solar.report()["late_s"] == 0.0
    assert len(solar.frames) in (89, 90)
    assert solar.recommendation.state == "up"
    assert solar.recommendation.change_db == pytest.approx(9.0, abs=2.0)
    assert mixer["guitar"].trim_db == -9.0
    solar.detach()
    assert mixer.observers == []
    solar.attach(mixer)
    solar.attach(band(stems))
    assert mixer.observers == []
    assert len(solar.frames) == 0
    solar.detach()


class Stuck:
    """A separator that comes to no end before it is told to."""

    window_s = 2.0

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.threads = set()

    def separate(self, wav, sample_rate):
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.go_on.wait(60.0)
        return {"guitar": 0.5 * wav, "rest": 0.7 * wav}


def test_nothing_is_separated_in_the_path_of_the_sound(stems):
    separator = Stuck()
    solar = Solar(Reference(stems, "guitar", separator, RATE))
    mixer = band(stems)
    solar.attach(mixer)
    separator.begun.clear()
    separator.threads.clear()
    separator.go_on.clear()
    part = {name: stem[: 5 * RATE] for name, stem in stems.items()}
    try:
        expected = play(band(stems), part)
        np.testing.assert_array_equal(play(mixer, part), expected)  # while nothing comes back
        assert separator.begun.wait(30.0)
        block = sum(part.values())[:8192]
        assert solar.process(block, RATE, reset=False) is block
        assert len(solar.frames) == 0
    finally:
        separator.go_on.set()
    solar.wait()
    assert separator.threads == {"solar"}
    assert len(solar.frames) >= 4
    solar.detach()


def test_who_is_too_slow_hears_what_is_played_now():
    go_on, heard, skips = threading.Event(), [], []

    def hear(sound):
        heard.append(float(sound[0, 0]))
        assert go_on.wait(60.0)

    listening = Listening(1, RATE, hear, fresh_s=3.0, skipped=lambda: skips.append(len(heard)))
    second = np.ones((1, RATE), np.float32)
    for number in range(12):
        listening.write(number * second)
        while not heard:
            time.sleep(0.01)
    go_on.set()
    listening.wait()
    listening.write(12 * second)
    listening.wait()
    listening.stop()
    assert heard == [0.0] + 10 * [12.0]
    assert skips == [1]
    assert listening.lost == 11 * RATE + RATE * 9 // 10


def test_what_was_heard_before_a_reset_is_none_of_what_comes_after(stems):
    separator = Stuck()
    solar = Solar(Reference(stems, "guitar", separator, RATE))
    separator.begun.clear()
    separator.go_on.clear()
    room = sum(stems.values())
    for at in range(0, 4 * RATE, 8000):
        solar.process(room[at : at + 8000], RATE, reset=False)
    assert separator.begun.wait(30.0)
    old = solar._listening
    solar.reset()
    solar.process(room[:100], RATE, reset=False)
    separator.go_on.set()
    old._thread.join(30.0)
    solar.wait()
    assert len(solar.frames) == 0
    assert solar._ear._filled == 0


def test_a_separator_that_fails_stops_no_sound(stems, caplog):
    separator = Stuck()
    solar = Solar(Reference(stems, "guitar", separator, RATE))
    mixer = band(stems)
    solar.attach(mixer)
    separator.separate = lambda wav, rate: 1 / 0
    part = {name: stem[: 6 * RATE] for name, stem in stems.items()}
    np.testing.assert_array_equal(play(mixer, part), play(band(stems), part))
    solar.wait()
    assert len(solar.frames) == 0
    assert [record.message for record in caplog.records if "taken apart" in record.message] == [
        "the sound could not be taken apart: ZeroDivisionError: division by zero"
    ]
    solar.detach()


def test_it_turns_a_trim_if_it_may_and_leaves_a_human_alone(solar, stems):
    loud = turned(stems, guitar=10.0)
    mixer = band(stems)
    with pytest.raises(ParameterError, match=r"drive_db must be in \[0, 24\]"):
        solar.attach(mixer, drive_db=50.0)
    solar.attach(mixer, drive_db=6.0)

    def play_and_wait(seconds):
        for at in range(seconds):
            tracks = {name: stem[at * RATE : (at + 1) * RATE] for name, stem in loud.items()}
            mixer.process(tracks, RATE, reset=False)
            solar.wait()  # as if in real time

    mixer.reset()
    play_and_wait(30)
    assert mixer["guitar"].trim_db == -6.0  # as far as it may
    assert mixer["vocals"].trim_db == 0.0
    mixer["guitar"].trim_db = -20.0
    play_and_wait(30)
    assert mixer["guitar"].trim_db == pytest.approx(-14.0, abs=0.1)  # as far as it may from there
    mixer["guitar"].trim_db = -2.0
    mixer["guitar"].lock_db = 3.0
    play_and_wait(20)
    assert mixer["guitar"].trim_db == -2.0
    solar.detach()


def test_stems_may_be_given_as_they_are(stems):
    solar = Solar(stems, "vocals", Multitrack(["vocals", "guitar"]), RATE)
    assert solar.inputs == ("vocals", "guitar")
    solar.process(turned(stems, vocals=10.0), RATE)
    assert solar.recommendation.player == "vocals"
    assert solar.recommendation.state == "down"
