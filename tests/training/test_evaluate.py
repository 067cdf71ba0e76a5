import json
import math
from dataclasses import replace

import numpy as np
import pytest

from alm_plugin import Mixer, Strip
from alm_plugin.errors import ModelError
from alm_plugin.models.contract import ModelMetadata
from alm_plugin.models.loudness import Loudness
from alm_plugin.models.roles import role_codes
from alm_plugin.models.unity import Unity
from training import evaluate as ev
from training.examples import FRAME, Example
from training.song import SAMPLE_RATE

BAND = ("vocals", "kick", "bass", "piano")


def example(seed=0, roles=BAND, seconds=8, late=None, bleed=0.1, spread_db=10.0):
    """Bands of noise at levels of their own; `late` is the second in which channel 0 enters."""
    rng = np.random.default_rng(seed)
    frames = 20 * seconds
    playing = np.ones((len(roles), frames), bool)
    if late is not None:
        playing[0, : 20 * late] = False
    level_db = rng.uniform(-40 - spread_db / 2, -40 + spread_db / 2, len(roles))
    own = rng.standard_normal((len(roles), frames * FRAME)) * 10 ** (level_db / 20)[:, None]
    own = (own * np.repeat(playing, FRAME, axis=1)).astype(np.float32)
    inputs = own + np.float32(bleed) * (own.sum(axis=0) - own)
    true = np.repeat((-32.0 - level_db)[:, None], frames, axis=1).astype(np.float32)
    return Example(inputs, own, true, playing, np.ones((len(roles), frames), np.float32), role_codes(roles))


def off_by(*error_db):
    return lambda e: e.true_gain_db + np.array(error_db, np.float32)[:, None]


class Leaking(Unity):
    """Creeps away by a fixed step per frame."""

    metadata = ModelMetadata("leaking")

    def __init__(self, db_per_s):
        self.db_per_s = db_per_s

    def initial_state(self, channels):
        return {"gain_db": np.zeros(channels)}

    def step(self, embedding, levels, mask, state):
        gain_db = state["gain_db"] + self.db_per_s * ev.FRAME_S
        return gain_db.astype(np.float32), {"gain_db": gain_db}


class Broken(Unity):
    def step(self, embedding, levels, mask, state):
        raise RuntimeError("no")


# ---- one song --------------------------------------------------------------------------------------------------------


def test_the_truth_scores_zero():
    song = example(late=4)
    scores = ev.judge(lambda e: e.true_gain_db, song)
    assert scores.gain_error_db == scores.absolute_error_db == scores.moves_per_s == 0.0
    assert scores.vocal_to_band_lu == scores.true_vocal_to_band_lu
    assert scores.stft_ratio == 1.0
    assert scores.entry_s == (0.0,)
    assert all(c.error_db == c.bias_db == 0.0 for c in scores.channels)
    assert ev.disturbance_db(lambda e: e.true_gain_db, song, 4, np.random.default_rng(0)) < 1e-5


def test_without_bleed_nothing_is_left_of_the_true_mix():
    assert ev.judge(lambda e: e.true_gain_db, example(bleed=0.0)).stft < 1e-3


def test_a_known_error_is_found_in_every_number():
    # The median of (4, 0, 0, -1) is 0: nothing to remove.
    scores = ev.judge(off_by(4, 0, 0, -1), example())
    assert scores.offset_db == pytest.approx(0.0, abs=1e-5)
    assert scores.gain_error_db == pytest.approx(1.25, abs=1e-5)
    assert [c.role for c in scores.channels] == list(BAND)
    assert [c.bias_db for c in scores.channels] == pytest.approx([4, 0, 0, -1], abs=1e-5)
    assert [c.error_db for c in scores.channels] == pytest.approx([4, 0, 0, 1], abs=1e-5)


def test_one_offset_is_removed_and_only_one():
    song = example()
    plain, louder = (ev.judge(off_by(*(np.array([4, 0, 0, -1]) + k)), song) for k in (0, 7))
    assert louder.gain_error_db == pytest.approx(plain.gain_error_db, abs=1e-5)
    assert louder.offset_db - plain.offset_db == pytest.approx(7.0, abs=1e-5)
    assert louder.absolute_error_db == pytest.approx((11 + 7 + 7 + 6) / 4, abs=1e-5)
    assert louder.peak_dbfs - plain.peak_dbfs == pytest.approx(7.0, abs=1e-4)


def test_the_first_two_seconds_and_who_has_not_played_yet_do_not_count():
    song = example(late=4)
    curves = song.true_gain_db.copy()
    curves[:, :40] += 20.0
    curves[0, :80] -= 30.0
    assert ev.judge(lambda e: curves, song).gain_error_db == 0.0
    curves[1, 40] += 4.0
    assert ev.judge(lambda e: curves, song).gain_error_db == pytest.approx(4.0 / (3 * 120 + 80), abs=1e-6)


def test_voice_against_band_is_off_by_what_the_voice_is_off():
    song = example()
    scores = ev.judge(off_by(-3, 0, 0, 0), song)
    assert ev.vocal_error_lu(scores) == pytest.approx(-3.0, abs=1e-3)
    assert ev.vocal_error_lu(ev.judge(off_by(5, 5, 5, 5), song)) == pytest.approx(0.0, abs=1e-3)
    assert math.isnan(ev.judge(off_by(0, 0), example(roles=("kick", "bass"))).vocal_to_band_lu)


def test_moves_are_counted_from_the_first_frame():
    song = example()
    curves = song.true_gain_db.copy()
    curves[0, 0] -= 3.5
    curves[1, 50:] += 3.1
    curves[2, 60:] += 2.9
    assert ev.judge(lambda e: curves, song).moves_per_s == pytest.approx(2 / (4 * 8))


def test_a_level_that_is_not_the_systems_own_does_not_spoil_its_stft():
    song = example()
    curves = song.true_gain_db + np.float32(12.0)
    assert ev.judge(ev.System(lambda e: curves, "per song"), song).stft_ratio == pytest.approx(1.0, abs=1e-4)
    assert ev.judge(lambda e: curves, song).stft_ratio > 1.2


def test_the_mix_is_the_mixers():
    song = example(late=4)
    mixer = Mixer({name: Strip() for name in BAND}, "loudness", channels=1, ceiling_db=None)
    mix = mixer.process(song.inputs, SAMPLE_RATE)[0]
    curves = ev.play(Loudness(), song)
    assert np.abs(np.diff(curves)).max() > 0.1
    assert np.abs(ev.mixed(song.inputs, curves) - mix).max() < 1e-6


def test_controls_and_roles_reach_the_mixer():
    song = example()
    assert np.abs(ev.play(Leaking(5.0), song)).max() > 20.0
    assert np.abs(ev.play(Leaking(5.0), song, {"bounds_db": (-6.0, 6.0)})).max() == 6.0
    assert not np.array_equal(ev.play(Loudness(), song, roles=True), ev.play(Loudness(), song))


def test_a_model_that_fails_is_not_judged():
    with pytest.raises(ModelError, match="faults"):
        ev.judge(Broken(), example())


# ---- entries, disturbances, hours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [0, 1, 24])
def test_an_entry_is_found_where_it_arrives_and_stays(frames):
    playing = np.ones((1, 200), bool)
    playing[:, :100] = False
    error = np.full((1, 200), 9.0)
    error[0, 100 + frames :] = 2.9
    assert ev.entries_s(error, playing) == (pytest.approx(frames * 0.05),)
    error[0, 103 + frames] = -3.1  # it has not stayed
    assert ev.entries_s(error, playing) == (pytest.approx((frames + 4) * 0.05),)


def test_rests_do_not_count_and_some_never_arrive():
    playing = np.zeros((4, 200), bool)
    playing[0, 100:110] = playing[0, 150:] = True
    playing[1, 100:] = True
    playing[2, 60:] = True  # no later than 3 s
    error = np.full((4, 200), 9.0)
    error[0, 160:] = 0.0
    assert ev.entries_s(error, playing) == (pytest.approx(20 * 0.05), math.inf)


def test_who_changes_nothing_leaves_the_whole_disturbance():
    song = example(spread_db=1.0)
    turns = ev.disturbances_db(song, 6, np.random.default_rng(3))
    assert np.abs(turns).max() <= 12.0
    own = np.std(turns - turns.mean(axis=1, keepdims=True), axis=0, ddof=1).mean()
    left = ev.disturbance_db(lambda e: np.zeros_like(e.true_gain_db), song, 6, np.random.default_rng(3))
    assert left == pytest.approx(own, abs=1e-5)
    assert own > 3.0


def test_a_hot_channel_is_turned_down_to_the_converter():
    song = example()
    song = replace(song, inputs=song.inputs / np.abs(song.inputs).max())
    turns = ev.disturbances_db(song, 50, np.random.default_rng(0))
    hot = np.abs(song.inputs).max(axis=1).argmax()
    assert turns[:, hot].max() < 0.0
    for turn in turns:
        assert np.abs(ev.disturbed(song, turn).inputs).max() <= 1.0


def test_a_leak_is_seen_as_drift_and_a_still_model_has_none():
    song = example(seconds=9)
    assert ev.drift(Unity(), song, 0.05) == 0.0
    # 180 s hold 20 loops; the last seven are centred on loop 16, that is 15 loops of 9 s behind the second.
    assert ev.drift(Leaking(0.01), song, 0.05) == pytest.approx(0.01 * 9 * 15, rel=1e-6)


class Spy(Unity):
    """Remembers what it heard, and embeds."""

    metadata = ModelMetadata("spy", embedding_size=1)

    def __init__(self):
        self.levels, self.embedded, self.calls = [], [], 0

    def embed(self, patches, mask):
        self.calls += 1
        return patches.mean(axis=(1, 2))[:, None]

    def step(self, embedding, levels, mask, state):
        self.levels.append(levels)
        self.embedded.append(embedding)
        return super().step(embedding, levels, mask, state)


def test_a_repeated_song_is_heard_as_one_stream():
    song, spy, live = example(seconds=9, seed=4), Spy(), Spy()
    ev.drift(spy, song, 0.01)
    loops = len(spy.levels) // 180
    assert loops == 9  # the second, and seven that make up 60 s behind it
    ev.play(live, replace(song, inputs=np.tile(song.inputs, loops), true_gain_db=np.tile(song.true_gain_db, loops)))
    assert np.allclose(spy.levels, live.levels, rtol=1e-4)
    assert np.allclose(spy.embedded, live.embedded, atol=1e-4)
    assert spy.calls <= 3 * 30 < live.calls


def test_gains_that_follow_the_song_are_no_drift():
    assert ev.drift(Loudness(), example(seconds=9, late=4), 0.5) < 0.1


# ---- all songs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation():
    steps = []
    found = ev.evaluate(
        {"mine": [Loudness(), Leaking(0.1)], "off": off_by(2, 0, 0, 0)},
        [example(i, late=4 if i else None) for i in range(3)],
        [example(9, bleed=0.0)],
        draws=2,
        drift_hours=0.02,
        progress=lambda done, total, what: steps.append((done, total)),
    )
    assert steps == [(n + 1, 8) for n in range(8)]
    return found


def test_everything_is_judged(evaluation):
    assert evaluation.systems == [
        "raw",
        "equal loudness",
        "equal loudness, whole clip",
        "group priors, oracle roles",
        "oracle role, whole clip",
        "oracle",
        "mine",
        "off",
    ]
    assert [len(songs) for songs in evaluation.bleed["mine"]] == [3, 3]
    assert [len(songs) for songs in evaluation.dry["raw"]] == [1]
    assert all(s.gain_error_db == 0.0 and s.stft_ratio == 1.0 for s in evaluation.songs("oracle"))
    assert all(s.disturbance_db < 1e-5 for s in evaluation.songs("oracle"))
    assert all(s.disturbance_db > 2.0 for s in evaluation.songs("raw"))
    assert all(math.isnan(s.disturbance_db) for s in evaluation.dry["raw"][0])
    assert set(evaluation.drift_db) == {"mine"}
    assert evaluation.drift_db["mine"][1] > 1.0
    assert evaluation.subject == "mine"
    assert [s.label for s in evaluation.shown] == ["best", "median", "worst"]


def test_the_first_of_examples_without_end_are_a_list():
    class Endless:
        def __getitem__(self, number):
            return number * 10

    assert list(ev.First(Endless(), 3)) == [0, 10, 20]
    assert len(ev.First(Endless(), 3)) == 3


def test_a_seed_counts_as_much_as_another(evaluation):
    alone = ev.judge(Leaking(0.1), example(1, late=4))
    assert evaluation.bleed["mine"][1][1].gain_error_db == pytest.approx(alone.gain_error_db)


def test_rules_get_one_constant_for_all_songs_and_models_none(evaluation):
    offsets = [s.offset_db for split in (evaluation.bleed, evaluation.dry) for s in split["equal loudness"][0]]
    assert np.median(offsets) == pytest.approx(0.0, abs=1e-4)
    assert np.ptp(offsets) > 0.1
    assert evaluation.shift_db["mine"] == [0.0, 0.0]
    assert evaluation.shift_db["raw"][0] > 1.0


def test_json_brings_everything_back(evaluation):
    songs = [replace(s, entry_s=(math.inf, 0.5)) for s in evaluation.songs("raw")]
    changed = replace(evaluation, bleed={**evaluation.bleed, "raw": [songs]})
    text = changed.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = ev.Evaluation.from_json(text)
    assert back.to_json() == text
    assert back.songs("raw")[0].entry_s == (math.inf, 0.5)
    assert back.songs("off") == evaluation.songs("off")
    assert back.shown == evaluation.shown


def test_one_channel_and_silent_channels():
    alone = example(roles=("vocals",))
    song = example()
    for silent in (0, 3):
        inputs, own, playing, true = (np.copy(a) for a in (song.inputs, song.own, song.playing, song.true_gain_db))
        inputs[silent] = own[silent] = playing[silent] = true[silent] = 0
        quiet = Example(inputs, own, true, playing, song.own_share, song.roles)
        found = ev.evaluate({"mine": Loudness()}, [alone, quiet], draws=2)
        assert found.songs("oracle")[1].gain_error_db == 0.0
        assert len(found.songs("mine")[1].channels) == 3
        assert found.songs("mine")[0].gain_error_db < 3.0
        assert math.isnan(found.songs("mine")[0].disturbance_db)
    nothing = Example(
        *(np.zeros_like(a) for a in (song.inputs, song.own, song.true_gain_db)),
        *(np.zeros_like(song.playing), song.own_share, song.roles),
    )
    scores = ev.judge(Loudness(), nothing)
    assert math.isnan(scores.gain_error_db)
    assert math.isnan(scores.stft)
    assert scores.peak_dbfs == -math.inf


def scored(error_db):
    return ev.SongScores(error_db, 0.0, 0.0, (), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ())


def test_the_interval_covers():
    rng = np.random.default_rng(1)
    mean = ev.mean_of(lambda s: s.gain_error_db)
    covered = 0
    for _ in range(100):
        e = ev.estimate([[scored(x) for x in rng.normal(3.0, 1.0, 40)]], mean, resamples=200)
        covered += e.low <= 3.0 <= e.high
        assert e.low < e.value < e.high
    assert 85 <= covered <= 99


def test_the_interval_knows_that_seeds_differ():
    mean = ev.mean_of(lambda s: s.gain_error_db)
    same, apart = (
        ev.estimate([[scored(x + k) for x in np.linspace(2, 4, 20)] for k in seeds], mean)
        for seeds in ((0, 0, 0), (-1, 0, 1))
    )
    assert apart.value == pytest.approx(same.value)
    assert apart.high - apart.low > 1.5 * (same.high - same.low)


def test_quantiles_of_entries_pass_through_never():
    songs = [replace(scored(0.0), entry_s=entries) for entries in ((0.5, 1.0), (), (2.0, math.inf))]
    assert ev.entry_quantile(0.5)(songs) == 1.0
    assert ev.entry_quantile(0.9)(songs) == math.inf
    assert ev.never_share(songs) == 25.0
    assert math.isnan(ev.entry_quantile(0.5)(songs[1:2]))


def test_role_levels_are_those_of_the_true_mix():
    levels = ev.role_levels([example(0), example(1)])
    assert set(levels) == {-1, *role_codes(BAND)}
    # Noise of -32 dB RMS in every channel: all levels alike.
    assert np.ptp(list(levels.values())) < 0.5
