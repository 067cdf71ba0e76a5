from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin.errors import ParameterError
from solar import tracker as tracking
from solar.performance import Channel, Performance
from solar.songs import compose
from solar.tracker import ERRORS_DB, FEATURE_DB, Calibration, GainTracker, features

RATE = 32_000
GAINS_DB = (-40.0, -20.0, 0.0, 20.0, 40.0)


def calibrated(take, player="guitar"):
    return Calibration({gain_db: take.map(gain_db, count=False) for gain_db in GAINS_DB}, player)


def take_of(which, kind="clean", seed=1, stems=("drums", "bass", "guitar", "vocals"), seconds=80.0):
    song = compose(which, seconds, seed=1, sample_rate=RATE)
    channel = Channel.draw(kind, len(stems), np.random.default_rng(seed))
    return Performance({name: song[name] for name in stems}, RATE, "guitar", channel, seed)


@pytest.fixture(scope="module")
def reference():
    return take_of("a")


@pytest.fixture(scope="module")
def calibration(reference):
    return calibrated(reference)


@pytest.fixture(scope="module")
def take():
    return take_of("b", seconds=62.0)


def hear(tracker, take, seconds, delta_db):
    for second in seconds:
        tracker.observe(take.at(second, delta_db, count=False))


def without(heard, stem):
    power = heard.cross_power.copy()
    power[:, stem] = power[:, :, stem] = 0.0
    return replace(heard, cross_power=power)


@pytest.mark.parametrize("delta_db", [-55.0, -30.0, -8.0, 0.0, 5.0, 25.0, 60.0])
def test_the_error_is_found_in_another_song(calibration, take, delta_db):
    tracker = GainTracker(calibration)
    hear(tracker, take, range(20), delta_db)
    assert tracker.error_db == pytest.approx(delta_db, abs=3.0)
    assert tracker.quantile(0.05) - 2 <= delta_db <= tracker.quantile(0.95) + 2
    assert tracker.spread_db <= 6.0


@pytest.mark.parametrize("kind", ["mild", "bad"])
def test_the_error_is_found_through_what_leaks(kind, take):
    # The channels of reference and performance differ.
    tracker = GainTracker(calibrated(take_of("a", kind, 2)))
    hear(tracker, take_of("b", kind, 3, seconds=30.0), range(30), 6.0)
    assert tracker.error_db == pytest.approx(6.0, abs=3.0 if kind == "mild" else 6.0)


def test_two_stems_are_enough():
    pair = ("drums", "guitar")
    tracker = GainTracker(calibrated(take_of("a", stems=pair)))
    hear(tracker, take_of("b", stems=pair, seconds=30.0), range(30), -12.0)
    assert tracker.error_db == pytest.approx(-12.0, abs=4.0)


def test_the_microphones_gain_does_not_matter(calibration, take):
    found = []
    for factor in (1.0, 1e-3):
        tracker = GainTracker(calibration)
        for second in range(10):
            heard = take.at(second, 4.0, count=False)
            tracker.observe(replace(heard, cross_power=factor * heard.cross_power))
        found.append(tracker.error_db)
    assert found[0] == pytest.approx(found[1], abs=1.0)


def test_probabilities_and_densities_add_up(calibration, take):
    np.testing.assert_allclose(np.exp(calibration.log_likelihood.astype(float)).sum(1), 1.0, atol=1e-4)
    assert calibration.share.sum() == pytest.approx(1.0)
    tracker = GainTracker(calibration)
    for second in range(5):
        hear(tracker, take, [second], 9.0)
        assert tracker.probabilities.sum() == pytest.approx(1.0)
        assert tracker.probabilities.min() >= 0.0


def test_densities_are_of_the_reference_regained(reference, calibration):
    # At a gain between those given: its seconds lie where the density of that gain does.
    heard = np.array([features(reference.at(second, 7.0).band_power, 2)[0] for second in range(40, 60)])
    expected = np.exp(calibration.log_likelihood[0, :, 0]) * calibration.plays[:, None]  # measured channel
    at = int(np.flatnonzero(ERRORS_DB == 7)[0])
    most = FEATURE_DB[expected[:, :-2, at].sum(1).argmax()]
    assert np.median(heard) == pytest.approx(most, abs=2.0)


def naive_shift(p, change_db, knob_error):
    out = np.zeros_like(p)
    for factor in np.linspace(1 - knob_error, 1 + knob_error, 9 if knob_error else 1):
        for k, value in enumerate(p):
            x = k + change_db * factor
            for to, part in ((int(np.floor(x)), 1 - x % 1), (int(np.floor(x)) + 1, x % 1)):
                if 0 <= to < len(p):
                    out[to] += part * value
    return out / out.sum() * p.sum()


@settings(max_examples=20, deadline=None)
@given(st.floats(-70.0, 70.0, allow_subnormal=False), st.sampled_from([0.0, 0.5]), st.integers(0, 150))
def test_a_move_shifts_what_is_believed(calibration, change_db, knob_error, at):
    p = np.full(len(ERRORS_DB), 1e-3)
    p[at] = 1.0
    np.testing.assert_allclose(
        GainTracker(calibration, knob_error)._shifted(p, change_db), naive_shift(p, change_db, knob_error), atol=1e-9
    )


def test_a_hand_that_misses_leaves_doubt(calibration, take):
    sure, unsure = GainTracker(calibration, 0.0), GainTracker(calibration, 0.5)
    for tracker in (sure, unsure):
        hear(tracker, take, range(10), 20.0)
        tracker.moved(-20.0)
    assert abs(sure.error_db) <= 3.0
    assert abs(unsure.error_db) <= 4.0
    assert unsure.spread_db > sure.spread_db + 5.0


def test_a_knob_that_nobody_spoke_of_is_noticed(calibration, take):
    tracker = GainTracker(calibration)
    hear(tracker, take, range(15), 0.0)
    assert abs(tracker.error_db) <= 3.0
    hear(tracker, take, range(15, 40), -18.0)
    assert tracker.error_db == pytest.approx(-18.0, abs=4.0)


def soundcheck(calibration, take, delta_db, seconds=60):
    tracker, said = GainTracker(calibration), []
    for second in range(seconds):
        hear(tracker, take, [second], delta_db)
        told = tracker.recommendation()
        if told.state != "blank":
            said.append((second, told))
            delta_db += told.change_db
            tracker.moved(told.change_db)
        else:
            assert told.change_db == 0.0
    return delta_db, said


@pytest.mark.parametrize("delta_db", [-50.0, -14.0, 33.0])
def test_a_player_is_brought_back(calibration, take, delta_db):
    left, said = soundcheck(calibration, take, delta_db)
    assert abs(left) <= 3.0
    assert 1 <= len(said) <= 4
    first = said[0][1]
    assert first.state == {-50.0: "cant-hear", -14.0: "up", 33.0: "down"}[delta_db]
    assert first.player == "guitar"
    assert np.sign(first.change_db) == -np.sign(delta_db)
    assert first.change_db <= tracking.MOST_UP_DB
    assert first.low_db <= delta_db + 3
    assert first.high_db >= delta_db - 3
    assert first.confidence > 0.9


def test_who_is_right_is_left_alone(calibration, take):
    assert soundcheck(calibration, take, 0.0)[1] == []


def test_it_speaks_at_most_four_times_a_minute(calibration, take):
    # The player turns the wrong way, whatever he is told.
    tracker, said = GainTracker(calibration), []
    for second in range(180):
        hear(tracker, take, [second % 14], 30.0 * np.sign(np.sin(second / 7)))
        if tracker.recommendation().state != "blank":
            said.append(second)
    assert len(said) >= 6
    assert min(np.diff(said)) >= tracking.GAP_S
    assert all(sum(start < s <= start + 60 for s in said) <= 4 for start in range(-60, 180))


def test_who_has_never_been_heard_cannot_be_heard(calibration, take):
    tracker = GainTracker(calibration)
    said = []
    for second in range(25):
        heard = take.at(second, 0.0, count=False)
        tracker.observe(without(heard, 2))
        said.append(tracker.recommendation().state)
    assert "up" not in said
    assert "down" not in said
    assert said.index("cant-hear") == tracking.CANT_HEAR_S - 1


def test_who_rests_after_he_was_heard_is_left_alone(calibration, take):
    tracker = GainTracker(calibration)
    hear(tracker, take, range(15), 0.0)
    for second in range(15, 35):
        heard = take.at(second, 0.0, count=False)
        tracker.observe(without(heard, 2))
        assert tracker.recommendation().state == "blank"


@pytest.mark.parametrize(
    ("lowest_db", "spoken_s", "unheard_s", "state"),
    [
        (5, [24], 0, "blank"),  # he has just turned, and may be anywhere now
        (5, [18], 0, "down"),
        (5, [], 0, "down"),
        (-70, [], 5, "blank"),  # too soft, or resting, as he may for long
        (-70, [], 12, "blank"),
        (-80, [], 45, "cant-hear"),
        (-70, [], 0, "up"),
    ],
)
def test_it_waits_where_nothing_is_certain(calibration, lowest_db, spoken_s, unheard_s, state):
    tracker = GainTracker(calibration)
    tracker._p = np.where((lowest_db <= ERRORS_DB) & (lowest_db + 65 >= ERRORS_DB), tracker._start, 0.0)
    tracker._p /= tracker._p.sum()
    tracker._heard_s, tracker._spoken = max(30, unheard_s), spoken_s
    tracker._unheard_s, tracker._was_heard = unheard_s, True
    assert tracker.recommendation().state == state


def hissing(which, rests, seconds=62.0):
    """A guitar whose amplifier hisses 60 dB under full scale, and that rests for some seconds."""
    song = compose(which, seconds, seed=1, sample_rate=RATE)
    guitar = song["guitar"].copy()
    for second in rests:
        guitar[second * RATE : (second + 1) * RATE] = 0.0
    guitar += 1e-3 * np.random.default_rng(5).standard_normal(len(guitar)).astype(np.float32)
    return Performance(song | {"guitar": guitar}, RATE, "guitar")


def told(tracker, take, seconds, delta_db=0.0):
    changes = []
    for second in seconds:
        hear(tracker, take, [second], delta_db)
        said = tracker.recommendation()
        if said.state in ("up", "down"):
            changes.append(said.change_db)
    return changes


def test_what_hums_in_rests_tells_nothing():
    # It is as loud as the guitar, if that were 40 dB too loud in the rests of the reference.
    calibration = calibrated(hissing("a", range(12), 80.0))
    assert max(map(abs, told(GainTracker(calibration), hissing("b", range(15, 50)), range(60))), default=0.0) <= 4.0
    assert told(GainTracker(calibration), hissing("b", range(30)), range(30)) == []


def test_breaks_that_the_reference_does_not_have(calibration, take):
    # Whoever plays on with one other only, or alone, has not become louder.
    for gone in ((0, 3), (1, 3), (0, 1, 3)):
        tracker = GainTracker(calibration)
        hear(tracker, take, range(12), 0.0)
        for second in range(12, 30):
            heard = take.at(second, 0.0, count=False)
            for stem in gone:
                heard = without(heard, stem)
            tracker.observe(heard)
            assert abs(tracker.recommendation().change_db) <= 6.0


def test_a_reset_forgets(calibration, take):
    tracker = GainTracker(calibration)
    before = tracker.probabilities
    hear(tracker, take, range(8), 20.0)
    tracker.recommendation()
    tracker.reset()
    np.testing.assert_array_equal(tracker.probabilities, before)
    assert tracker.recommendation().state == "blank"


def test_what_does_not_fit_is_refused(reference, calibration):
    song = reference.map(0.0, count=False)
    with pytest.raises(ParameterError, match=r"maps must be of 0 dB and other gains, got 0\.0"):
        Calibration({0.0: song}, "guitar")
    with pytest.raises(ParameterError, match="player must be one of drums, bass, guitar, vocals, got 'horn'"):
        Calibration({0.0: song, 6.0: song}, "horn")
    with pytest.raises(ParameterError, match="knob_error"):
        GainTracker(calibration, 1.0)
    silent = replace(song, loudest_rms=song.loudest_rms * [1, 1, 0, 1])
    with pytest.raises(ParameterError, match="silence"):
        Calibration({0.0: silent, 20.0: silent}, "guitar")
