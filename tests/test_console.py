"""Groups, returns, sends, solo: what happens behind the strips."""

import copy
import pickle

import numpy as np
import pytest
from pedalboard import Compressor, Delay, Limiter, Reverb
from pedalboard_native._internal import AddLatency

from alm_plugin import Automation, Group, LatencyError, Mixer, ParameterError, Return, SidechainCompressor, Strip

RATE = 48_000
STEPS = (1, 17, 64, 441, 2_400)


@pytest.fixture
def tracks(rng) -> dict[str, np.ndarray]:
    envelope = np.abs(np.sin(np.arange(12_000) / 1_500.0))
    return {
        name: (0.1 * envelope * rng.standard_normal(12_000)).astype(np.float32) for name in ("kick", "snare", "voice")
    }


def band(**kwargs) -> Mixer:
    strips = {
        "kick": Strip(group="drums"),
        "snare": Strip(group="drums", sends={"hall": -6}, pan=0.3),
        "voice": Strip(sends={"hall": -3, "echo": -9}),
    }
    buses = {
        "groups": {"drums": Group([Compressor(-30, 3)], sends={"echo": -12})},
        "returns": {
            "hall": Return([Reverb(wet_level=1.0, dry_level=0.0)], trim_db=-2),
            "echo": Return([Delay(0.05, 0.3, 1.0)], sends={"hall": -4}),
        },
    }
    return Mixer(strips, "unity", **({"ceiling_db": None} | buses | kwargs))


def stream(mixer: Mixer, tracks: dict[str, np.ndarray], step: int, start: int = 0, stop: int | None = None):
    stop = len(next(iter(tracks.values()))) if stop is None else stop
    blocks = [
        mixer.process({n: x[i : min(i + step, stop)] for n, x in tracks.items()}, RATE, reset=False)
        for i in range(start, stop, step)
    ]
    return np.concatenate(blocks, axis=1)


def db(level: float) -> float:
    return 10.0 ** (level / 20.0)


# ---- the sum ---------------------------------------------------------------------------------------------------------


def test_groups_and_returns_are_what_one_would_sum_by_hand(tracks):
    mix = band().process(tracks, RATE)
    snare = np.stack(
        [tracks["snare"] * f for f in (np.sqrt(1 - np.sin(0.15 * np.pi)), np.sqrt(1 + np.sin(0.15 * np.pi)))]
    )
    kick, voice = np.stack([tracks["kick"]] * 2), np.stack([tracks["voice"]] * 2)
    drums = Compressor(-30, 3)(kick + snare.astype(np.float32), RATE)
    echo = Delay(0.05, 0.3, 1.0)(np.float32(db(-9) * voice + db(-12) * drums), RATE)
    hall = Reverb(wet_level=1.0, dry_level=0.0)(np.float32(db(-6) * snare + db(-3) * voice + db(-4) * echo), RATE)
    np.testing.assert_allclose(mix, voice + drums + echo + db(-2) * hall, atol=2e-6)


def test_a_group_without_plugins_changes_nothing(tracks):
    plain = Mixer({name: Strip() for name in tracks}, "unity").process(tracks, RATE)
    grouped = Mixer({name: Strip(group="all") for name in tracks}, "unity", groups={"all": Group()})
    np.testing.assert_allclose(grouped.process(tracks, RATE), plain, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_blocks_of_any_size_are_the_same_samples(tracks, step, channels):
    want = band(channels=channels).process(tracks, RATE)
    np.testing.assert_array_equal(stream(band(channels=channels), tracks, step), want)


def test_the_order_of_returns_does_not_matter(tracks):
    mixer = band()
    turned = Mixer(
        {name: mixer[name] for name in mixer},
        "unity",
        ceiling_db=None,
        groups=dict(mixer.groups),
        returns={name: mixer.returns[name] for name in ("echo", "hall")},
    )
    np.testing.assert_array_equal(turned.process(tracks, RATE), band().process(tracks, RATE))


def test_sends_are_behind_the_fader(tracks):
    mixer = Mixer({"voice": Strip(trim_db=-12, sends={"dry": 0})}, "unity", returns={"dry": Return()}, ceiling_db=None)
    mix = mixer.process({"voice": tracks["voice"]}, RATE)
    np.testing.assert_allclose(mix[0], 2 * db(-12) * tracks["voice"], rtol=1e-5, atol=1e-8)


def test_a_list_of_plugins_stands_for_a_bus(tracks):
    mixer = Mixer({"voice": Strip(sends={"hall": 0})}, "unity", returns={"hall": [Reverb(wet_level=1, dry_level=0)]})
    assert isinstance(mixer.returns["hall"], Return)
    mixer.groups["all"] = None
    assert isinstance(mixer.groups["all"], Group)


# ---- latency ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [64, 1_000])
def test_everything_arrives_together_whatever_is_late(step):
    strips = {
        "a": Strip(group="late", post=[AddLatency(30)]),
        "b": Strip(sends={"one": 0}),
        "c": Strip([AddLatency(7)], group="prompt"),
    }
    mixer = Mixer(
        strips,
        "unity",
        groups={"late": Group([AddLatency(100)], sends={"two": 0}), "prompt": Group()},
        returns={"two": Return([AddLatency(11)]), "one": Return([AddLatency(50)], sends={"two": 0})},
        ceiling_db=None,
    )
    pulse = np.zeros(1_000, np.float32)
    pulse[0] = 0.1
    mix = stream(mixer, dict.fromkeys(strips, pulse), step)
    late = 7 + 30 + 100 + 11
    assert mixer.reported_latency_samples == late
    assert np.flatnonzero(mix[0]).tolist() == [late]
    # a directly and through two; b directly, through one, and through one and two; c directly.
    np.testing.assert_allclose(mix[0, late], 0.6, rtol=1e-6)


def test_zero_latency_names_the_bus():
    with pytest.raises(LatencyError, match="group 'drums' must add no latency with zero_latency=True, got 100 samples"):
        Mixer({"a": Strip(group="drums")}, "unity", groups={"drums": [AddLatency(100)]}, zero_latency=True)
    mixer = Mixer({"a": Strip()}, "unity", zero_latency=True)
    with pytest.raises(LatencyError, match="return 'hall' must add no latency"):
        mixer.returns["hall"] = [AddLatency(1)]
    assert not mixer.returns


# ---- the hand on it --------------------------------------------------------------------------------------------------


def test_a_group_trim_moves_its_channels_locked_ones_too(tracks):
    mixer = band()
    mixer["kick"].lock_db = -3.0
    mixer["snare"].bounds_db = (-6.0, 0.0)
    mixer.groups["drums"].trim_db = -10.0
    mixer.process(tracks, RATE)
    last = {name: float(curve[-1]) for name, curve in mixer.automation.gains_db.items()}
    assert last == {"kick": -13.0, "snare": -10.0, "voice": 0.0}


def test_a_group_trim_moves_without_a_step():
    tone = {"a": (0.2 * np.cos(np.arange(48_000) * 2 * np.pi * 50 / RATE)).astype(np.float32)}
    mixer = Mixer({"a": Strip(group="g")}, "unity", groups={"g": Group()}, ceiling_db=None)
    first = stream(mixer, tone, 64, 0, 9_600)
    mixer.groups["g"].trim_db = -24.0
    rest = stream(mixer, tone, 64, 9_600)
    steps = np.abs(np.diff(np.concatenate([first, rest], axis=1)))
    assert steps.max() <= 1.05 * np.abs(np.diff(tone["a"])).max()
    np.testing.assert_allclose(rest[0, -1_000:], db(-24) * tone["a"][-1_000:], atol=1e-6)


def test_a_drawn_curve_is_what_is_heard_whatever_the_group(tracks):
    drawn = Automation(np.array([0.0]), {"kick": np.array([-7.3], np.float32)})
    mixer = band(automation=drawn)
    mixer.groups["drums"].trim_db = -5.0
    mixer.process(tracks, RATE)
    assert set(mixer.automation.gains_db["kick"]) == {np.float32(-7.3)}
    assert set(mixer.automation.gains_db["snare"]) == {-5.0}


def test_freeze_holds_the_model_and_not_the_group(tracks):
    mixer = band()
    stream(mixer, tracks, 441, 0, 6_000)
    mixer.freeze = True
    mixer["kick"].trim_db = 9.0
    mixer.groups["drums"].trim_db = -4.0
    stream(mixer, tracks, 441, 6_000)
    assert mixer.automation.gains_db["kick"][-1] == -4.0


@pytest.mark.parametrize("who", ["voice", "drums"])
def test_solo_leaves_the_others_silent(tracks, who):
    mixer = band()
    path = mixer.groups[who] if who == "drums" else mixer[who]
    path.solo = True
    mix = stream(mixer, tracks, 441)
    others = ("kick", "snare") if who == "voice" else ("voice",)
    heard = stream(band(), {n: np.zeros_like(x) if n in others else x for n, x in tracks.items()}, 441)
    np.testing.assert_array_equal(mix, heard)
    assert all((mixer.automation.gains_db[name] == -np.inf).all() for name in others)


def test_solo_begins_with_the_next_block_and_ends_within_10_ms_both_ways(tracks):
    mixer = band()
    del mixer["voice"].sends["hall"], mixer["voice"].sends["echo"]
    tracks = {name: np.full(12_000, 0.1, np.float32) if name == "voice" else 0 * x for name, x in tracks.items()}
    stream(mixer, tracks, 64, 0, 4_800)
    mixer["kick"].solo = True
    off = stream(mixer, tracks, 64, 4_800, 9_600)
    assert off[0, 1] < 0.1
    assert not off[0, 480:].any()
    mixer["kick"].solo = False
    on = stream(mixer, tracks, 64, 9_600)
    assert on[0, 1] > 0.0
    np.testing.assert_array_equal(on[0, 480:], np.float32(0.1))
    assert max(np.abs(np.diff(x)).max() for x in (off, on)) < 0.1 / 200


def test_mute_of_a_group_takes_its_sends_along(tracks):
    mixer = band()
    mixer.groups["drums"].mute = True
    want = band().process({"voice": tracks["voice"]}, RATE)
    np.testing.assert_array_equal(mixer.process(tracks, RATE), want)


def test_panic_silences_returns_too(tracks):
    mixer = band()
    stream(mixer, tracks, 441, 0, 6_000)
    mixer.panic()
    assert not stream(mixer, tracks, 441, 6_000)[:, 480:].any()


@pytest.mark.parametrize("field", ["solo", "mute"])
@pytest.mark.parametrize("path", [Strip, Group])
def test_switches_are_switches(path, field):
    with pytest.raises(ParameterError, match=f"{field} must be True or False, got 'yes'"):
        setattr(path(), field, "yes")


# ---- while it runs ---------------------------------------------------------------------------------------------------


def test_sends_come_change_and_go_without_a_step():
    tone = {"a": (0.2 * np.cos(np.arange(48_000) * 2 * np.pi * 50 / RATE)).astype(np.float32)}
    mixer = Mixer({"a": Strip()}, "unity", returns={"r": Return()}, ceiling_db=None)
    marks = [stream(mixer, tone, 64, 0, 9_600)]
    mixer["a"].sends["r"] = 0.0
    marks.append(stream(mixer, tone, 64, 9_600, 19_200))
    mixer["a"].sends = {"r": -20.0}
    marks.append(stream(mixer, tone, 64, 19_200, 28_800))
    mixer["a"].sends["r"] = 6.0
    marks.append(stream(mixer, tone, 64, 28_800, 38_400))
    mixer["a"].sends.clear()
    marks.append(stream(mixer, tone, 64, 38_400))
    for mark, level in zip(marks, (1.0, 2.0, 1.1, 1.0 + db(6.0), 1.0), strict=True):
        assert np.abs(mark[0, 4_800:]).max() == pytest.approx(0.2 * level, rel=1e-4)
    # Up to 3 times the tone, and a ramp of 20 ms.
    assert np.abs(np.diff(np.concatenate(marks, axis=1))).max() < 3 * np.abs(np.diff(tone["a"])).max() + 0.4 / 960


def test_what_leads_nowhere_is_refused_at_the_start_and_held_while_running(tracks):
    with pytest.raises(ParameterError, match="strip 'a' must send to one of hall, got 'hell'"):
        Mixer({"a": Strip(sends={"hell": -6})}, "unity", returns={"hall": Return()})
    with pytest.raises(ParameterError, match="strip 'a' must be in one of nothing, as there are no groups, got group"):
        Mixer({"a": Strip(group="drums")}, "unity")
    mixer = band()
    with pytest.raises(ParameterError, match="must send to one of hall, echo, got 'plate'"):
        mixer.add("guitar", Strip(sends={"plate": 0}))
    assert "guitar" not in mixer
    want = band()
    stream(mixer, tracks, 441, 0, 4_410), stream(want, tracks, 441, 0, 4_410)
    mixer["voice"].sends["hell"] = -6.0
    held = stream(mixer, tracks, 441, 4_410, 8_820)
    np.testing.assert_array_equal(held, stream(want, tracks, 441, 4_410, 8_820))
    assert mixer.faults == {"routing": 1}
    assert mixer.reported_latency_samples == 0
    assert mixer.groups.get("hell") is None
    del mixer["voice"].sends["hell"]
    np.testing.assert_array_equal(stream(mixer, tracks, 441, 8_820), stream(want, tracks, 441, 8_820))
    assert mixer.faults == {"routing": 1}


def test_circles_are_named():
    returns = {"a": Return(sends={"b": -6}), "b": Return(sends={"c": -6}), "c": Return(sends={"b": -6})}
    with pytest.raises(
        ParameterError, match=r"must not lead back to where they come from, got (b -> c -> b|c -> b -> c)"
    ):
        Mixer({"x": Strip()}, "unity", returns=returns)
    mixer = Mixer({"x": Strip()}, "unity", returns={"a": Return()})
    mixer.process({"x": np.zeros(64, np.float32)}, RATE)
    mixer.returns["a"].sends["a"] = -20.0
    mixer.process({"x": np.zeros(64, np.float32)}, RATE, reset=False)
    assert mixer.faults == {"routing": 1}


def test_buses_come_and_go_while_running(tracks):
    mixer = band()
    stream(mixer, tracks, 441, 0, 4_410)
    with pytest.raises(ParameterError, match="must send to one of echo, got 'hall'"):
        del mixer.returns["hall"]
    assert list(mixer.returns) == ["hall", "echo"]
    mixer.groups["band"] = Group(trim_db=-6)
    mixer["voice"].group = "band"
    stream(mixer, tracks, 441, 4_410)
    assert mixer.automation.gains_db["voice"][-1] == -6.0
    mixer["voice"].group = None
    del mixer.groups["band"]
    assert "band" not in mixer.groups
    assert mixer.faults == {}


@pytest.mark.parametrize(
    ("made", "match"),
    [
        ({"groups": {"": Group()}}, "group names must be non-empty strings, got ''"),
        ({"groups": {"g": Return()}}, "group 'g' must be a Group, got <alm_plugin.Return"),
        ({"returns": [Return()]}, "returns must map names to returns, got "),
    ],
)
def test_what_is_no_bus_is_refused(made, match):
    with pytest.raises(ParameterError, match=match):
        Mixer({"a": Strip()}, "unity", **made)


def test_a_plugin_is_in_one_place_only():
    reverb = Reverb()
    with pytest.raises(ParameterError, match=r"must have plugins of its own, got <pedalboard.Reverb"):
        Mixer({"a": Strip([reverb])}, "unity", returns={"hall": Return([reverb])})
    group = Group()
    with pytest.raises(ParameterError, match="must have a Group of its own, got one for 'g' and 'h'"):
        Mixer({"a": Strip()}, "unity", groups={"g": group, "h": group})
    with pytest.raises(ParameterError, match="group must be one of g, got 'x'"):
        Mixer({"a": Strip()}, "unity", groups={"g": group}).groups["x"]


class Bad:
    """A plugin that fails when it is told to."""

    is_effect = True

    def __init__(self):
        self.fails = False

    def reset(self):
        pass

    def process(self, x, sample_rate, buffer_size, reset):
        if self.fails == "nan":
            return np.full_like(x, np.nan)
        if self.fails:
            raise RuntimeError("out of order")
        return x


@pytest.mark.parametrize("fails", ["raises", "nan"])
def test_a_bus_with_a_broken_plugin_does_not_stop_the_sound(tracks, fails):
    bad = Bad()
    mixer = band(groups={"drums": Group([bad])})
    stream(mixer, tracks, 441, 0, 4_410)
    bad.fails = fails
    mix = stream(mixer, tracks, 441, 4_410)
    assert np.isfinite(mix).all()
    assert mix.any()
    assert mixer.faults["group drums"] > 0


def test_copies_have_buses_of_their_own(tracks):
    mixer = band()
    want = mixer.process(tracks, RATE)
    for twin in (copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer))):
        assert twin.groups["drums"] is not mixer.groups["drums"]
        np.testing.assert_array_equal(twin.process(tracks, RATE), want)
        twin.groups["drums"].trim_db = -60.0
        twin.returns["plate"] = Return()
    assert list(mixer.returns) == ["hall", "echo"]
    np.testing.assert_array_equal(mixer.process(tracks, RATE), want)


@pytest.mark.parametrize("path", [Group, Return])
def test_a_bus_alone_is_a_node(rng, path):
    x = (0.1 * rng.standard_normal((2, 4_800))).astype(np.float32)
    bus = path([Limiter(-30)], trim_db=-6)
    want = Limiter(-30)(x * np.float32(db(-6)), RATE) if path is Group else Limiter(-30)(x, RATE) * np.float32(db(-6))
    np.testing.assert_allclose(bus(x, RATE), want, rtol=1e-5, atol=1e-7)
    bus.mute = True
    assert not bus(x, RATE).any()


# ---- keys ------------------------------------------------------------------------------------------------------------


def keyed(**where) -> Mixer:
    return Mixer({"voice": Strip(trim_db=-20), "guitar": Strip(**where)}, "unity", ceiling_db=None)


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("step", STEPS)
def test_a_key_is_heard_wherever_its_fader_is_and_however_blocks_are_cut(tracks, place, step):
    ducker = SidechainCompressor("voice", -40, 8, 1, 100)
    mixer = keyed(**{place: [ducker]})
    played = {"voice": tracks["voice"], "guitar": tracks["kick"]}
    mix = stream(mixer, played, step)
    alone = SidechainCompressor(None, -40, 8, 1, 100)
    alone.hear_key(tracks["voice"][None])
    ducked = alone.process_block(tracks["kick"][None], RATE)[0]
    np.testing.assert_allclose(mix[0], db(-20) * tracks["voice"] + ducked, atol=1e-6)
    assert np.abs(ducked).sum() < 0.8 * np.abs(tracks["kick"]).sum()


def test_two_channels_may_key_each_other_and_a_bus_too(tracks):
    a, b, c = (SidechainCompressor(key, -40, 4) for key in ("guitar", "voice", "voice"))
    mixer = Mixer(
        {"voice": Strip([a]), "guitar": Strip([b], group="g")}, "unity", groups={"g": Group([c])}, ceiling_db=None
    )
    want = mixer.process({"voice": tracks["voice"], "guitar": tracks["kick"]}, RATE)
    again = stream(mixer, {"guitar": tracks["kick"], "voice": tracks["voice"]}, 100)
    assert mixer.faults == {}
    np.testing.assert_array_equal(want.shape, again.shape)
    alone = SidechainCompressor(None, -40, 4)
    alone.hear_key(tracks["kick"][None])
    voice = alone.process_block(tracks["voice"][None], RATE)
    once, twice = SidechainCompressor(None, -40, 4), SidechainCompressor(None, -40, 4)
    once.hear_key(tracks["voice"][None])
    twice.hear_key(voice)  # a bus hears what has left the pre chain
    guitar = twice.process_block(once.process_block(tracks["kick"][None], RATE), RATE)
    np.testing.assert_allclose(want[:1], voice + guitar, atol=1e-6)


def test_a_key_that_is_not_there_leaves_it_a_compressor(tracks):
    mixer = keyed(pre=[SidechainCompressor("nobody", -40, 8)])
    mix = mixer.process({"voice": 0 * tracks["voice"], "guitar": tracks["kick"]}, RATE)
    np.testing.assert_array_equal(mix[0], SidechainCompressor(None, -40, 8)(tracks["kick"], RATE))
