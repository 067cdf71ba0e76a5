import copy
import json
import math
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pedalboard
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pedalboard import Pedalboard, load_plugin  # pyright: ignore[reportPrivateImportUsage]

from alm_plugin import (
    AlmError,
    Automation,
    Chain,
    External,
    Gain,
    Group,
    Mixer,
    ModelError,
    Node,
    Pan,
    ParameterError,
    PerChannel,
    Return,
    SidechainCompressor,
    Strip,
    load_session,
    save_session,
)
from alm_plugin.cli import main
from alm_plugin.models.unity import Unity
from alm_plugin.nodes import native
from alm_plugin.preset import PLUGINS
from alm_plugin.session_format import LIMITS, LISTS

RATE = 48_000
DIGEST = "0" * 64


class MyStrip(Strip):
    """A user's own strip."""


class MyGroup(Group):
    """A user's own group."""


class Mine(Node):
    """A user's own node."""

    def __init__(self, factor=0.5):
        self.factor = factor

    def process_block(self, x, sample_rate):
        return np.float32(self.factor) * x


def band(**options):
    """Every kind of setting and path, and nested plugins."""
    strips = {
        "vocals": Strip(
            [pedalboard.HighpassFilter(90.0), pedalboard.Compressor(-18.1, 3.3, 2.2, 99.9), None],
            pedalboard.Reverb(0.3, wet_level=0.2),
            role="vocals",
            trim_db=1.7,
            pan=-0.3,
            bounds_db=(-np.inf, 6.0),
            solo=True,
            sends={"hall, ü": -9.5, "room": -np.inf},
        ),
        "kick drum": Strip(
            [Chain([Gain(-3.3, ramp_ms=7.0), pedalboard.PeakFilter(60.0, -3.3, 2.0)])],
            [pedalboard.LadderFilter(pedalboard.LadderFilter.Mode.HPF24, 200.0, 0.2, 1.5)],
            lock_db=-7.7,
            slew_db_per_s=12.0,
            group="drums",
        ),
        'gtr "L", ü': Strip(
            Pedalboard([pedalboard.Mix([pedalboard.Gain(-2.7), pedalboard.Chain([pedalboard.Delay(0.01, 0.3, 0.4)])])]),
            mute=True,
            lock_db=-np.inf,
        ),
        "keys": Strip(
            [pedalboard.HighShelfFilter(4_321.0, 2.35, 0.6), pedalboard.LowpassFilter(9_000.0)],
            [SidechainCompressor("vocals", -41.5, 3.3, 2.2, 99.9)],
            solo=True,
        ),
    }
    groups = {
        "drums": Group(
            [pedalboard.Compressor(-30.3, 2.2), SidechainCompressor("nobody")],
            trim_db=-1.3,
            solo=True,
            sends={"room": -3.3},
        ),
        "empty": Group(mute=True),
    }
    returns = {
        "room": Return([pedalboard.Reverb(0.2, wet_level=0.3, dry_level=0.0)], trim_db=-2.2),
        "hall, ü": Return([Chain([pedalboard.Delay(0.01, 0.0, 1.0)])], mute=True, sends={"room": -6.6}),
    }
    options = {"model": "loudness", "strength": 83.0, "ceiling_db": -3.0} | options
    options["groups"], options["returns"] = (
        options.get(name, {}) | ours for name, ours in (("groups", groups), ("returns", returns))
    )
    return Mixer(strips, **options)


@pytest.fixture
def song(rng):
    return (0.1 * rng.standard_normal((4, 24_000))).astype(np.float32)


@pytest.fixture
def saved(tmp_path):
    """A session and its table, and a way to write it back."""
    mixer = band()
    mixer.process(np.full((4, 9_600), 0.1, np.float32), RATE)
    mixer.save(tmp_path / "s")
    path = tmp_path / "s" / "session.json"
    return path, json.loads(path.read_text())


def edit(path, table, place, value):
    *way, last = place
    inside = table
    for step in way:
        inside = inside[step]
    inside[last] = value
    path.write_text(json.dumps(table))


def said(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- there and back --------------------------------------------------------------------------------------------------


def reload(mixer, folder):
    mixer.save(folder)
    return Mixer.load(folder)


WAYS = {
    "session": reload,
    "deepcopy": lambda mixer, folder: copy.deepcopy(mixer),
    "copy": lambda mixer, folder: copy.copy(mixer),
    "pickle": lambda mixer, folder: pickle.loads(pickle.dumps(mixer)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "options", [{}, {"channels": 1, "ceiling_db": None}, {"model": "alm-mr", "zero_latency": True}]
)
def test_it_comes_back_with_the_same_samples(tmp_path, song, way, options):
    mixer = band(**options)
    mixer.freeze = bool(options)
    want = mixer.process(song, RATE)
    mixer.process(song[:, :7_777], RATE, reset=False)  # in the middle of a stream
    twin = WAYS[way](mixer, tmp_path / "s")
    np.testing.assert_array_equal(twin.process(song, RATE), want)
    assert np.abs(want).max() > 0.01
    assert (twin.freeze, twin.zero_latency, twin.channels) == (mixer.freeze, mixer.zero_latency, mixer.channels)
    assert repr(twin.model) == repr(mixer.model) or type(twin.model) is type(mixer.model)


@pytest.mark.parametrize("way", WAYS)
def test_a_twin_has_plugins_of_its_own(tmp_path, song, way):
    mixer = band()
    want = mixer.process(song, RATE)
    twin = WAYS[way](mixer, tmp_path / "s")
    twin["vocals"].pre[1].threshold_db = -60.0
    twin["vocals"].pre.append(Gain(-20))
    twin["kick drum"].pre[0][0].gain_db = -60.0
    twin["keys"].trim_db = -12.0
    twin.groups["drums"].chain[0].threshold_db = -60.0
    twin.returns["room"].chain.clear()
    assert mixer["vocals"].pre[1].threshold_db == pytest.approx(-18.1)
    np.testing.assert_array_equal(mixer.process(song, RATE), want)
    assert np.abs(twin.process(song, RATE) - want).max() > 0.01


@pytest.mark.parametrize("isolated", [False, True])
def test_external_plugins_come_back(tmp_path, zam, song, isolated):
    def make():
        plugin = External("ZamCompX2", slew_ms=5.0, isolated=isolated)
        plugin.threshold_db, plugin.ratio, plugin.makeup_db = -33.3, 7.7, 6.1
        return Mixer({"a": Strip([pedalboard.HighpassFilter(80.0), Chain([plugin])]), "b": Strip()}, "loudness")

    mixer = make()
    want = mixer.process(song[:2], RATE)
    assert np.abs(want - Mixer({"a": Strip(), "b": Strip()}, "loudness").process(song[:2], RATE)).max() > 0.01
    mixer.process(song[:2, :5_000], RATE, reset=False)
    for name, way in WAYS.items():
        twin = way(mixer, tmp_path / name)
        np.testing.assert_array_equal(twin.process(song[:2], RATE), want)
        assert (twin["a"].pre[1][0].sandbox is not None) == isolated
        twin["a"].pre[1][0].ratio = 1.0
    assert mixer["a"].pre[1][0].ratio == pytest.approx(7.7, abs=0.01)
    # One whose parameters have been set and that has not heard of it.
    np.testing.assert_array_equal(reload(make(), tmp_path / "fresh").process(song[:2], RATE), want)


NAMES = ["vox", "kick", 'a "b"', "-inf"]
DECIBELS = st.integers(-240, 24).map(lambda tenth: tenth / 10)
LEVELS = DECIBELS | DECIBELS | st.just(-math.inf)
SELDOM = st.integers(0, 7).map(lambda x: x == 7)  # most of it is to be heard
PLUGINS_DRAWN = st.one_of(
    st.none(),
    st.builds(Gain, DECIBELS),
    st.builds(pedalboard.PeakFilter, st.integers(50, 9_000), DECIBELS, st.just(1.5)),
    st.builds(pedalboard.Delay, st.just(0.003), st.just(0.4), st.just(0.5)),
    st.builds(SidechainCompressor, st.none() | st.sampled_from([*NAMES, "gone"]), DECIBELS.map(lambda x: x - 20)),
)


@st.composite
def consoles(draw):
    """Strips, groups and returns that lead anywhere they may, with settings and plugins of any kind."""
    chains = st.lists(PLUGINS_DRAWN, max_size=2)
    returns, groups = {}, {}
    for name in draw(st.lists(st.sampled_from(["x", "y", "-inf"]), unique=True)):
        sends = st.dictionaries(st.sampled_from(list(returns)), LEVELS) if returns else st.just({})
        returns[name] = Return(draw(chains), trim_db=draw(DECIBELS), mute=draw(SELDOM), sends=draw(sends))
    sends = st.dictionaries(st.sampled_from(list(returns)), LEVELS) if returns else st.just({})
    for name in draw(st.lists(st.sampled_from(["g", "h, i"]), unique=True)):
        groups[name] = Group(
            draw(chains), trim_db=draw(DECIBELS), mute=draw(SELDOM), solo=draw(SELDOM), sends=draw(sends)
        )
    strips = {
        name: Strip(
            draw(chains),
            draw(chains),
            group=draw(st.sampled_from([None, *groups])),
            sends=draw(sends),
            solo=draw(SELDOM),
            mute=draw(SELDOM),
            pan=draw(st.sampled_from([-1.0, 0.0, 0.3])),
            trim_db=draw(DECIBELS),
            lock_db=draw(st.none() | DECIBELS),
            role=draw(st.sampled_from([None, "vocals", "kick"])),
            slew_db_per_s=draw(st.sampled_from([None, 6.0, math.inf])),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    }
    return Mixer(strips, draw(st.sampled_from(["unity", "loudness"])), groups=groups, returns=returns)


@settings(max_examples=40, deadline=None)
@given(consoles(), st.integers(0, 2**32 - 1))
def test_any_console_comes_back_with_the_same_samples(mixer, seed):
    rng = np.random.default_rng(seed)
    tracks = {name: np.float32(0.1 * rng.standard_normal((1 + i % 2, 3_000))) for i, name in enumerate(mixer.names)}
    want = mixer.process(tracks, 8_000)
    with tempfile.TemporaryDirectory() as folder:
        twin = reload(mixer, folder)
        table = json.loads(Path(folder, "session.json").read_text())
        twin.save(folder)
        # Its curves are of the stream, which the twin has not had.
        assert json.loads(Path(folder, "session.json").read_text()) == table | {"automation": None}
    np.testing.assert_array_equal(twin.process(tracks, 8_000), want)


# As version 1 wrote it.
FIRST = """{"version": 1, "made_by": "alm-plugin 0.1.0", "model": {"name": "loudness"}, "channels": 2, "strength": 80.0,
"ceiling_db": -1.0, "zero_latency": false, "freeze": false, "automation_in": null, "automation": null, "render": null,
"tracks": [], "strips": {"vox": {"role": "vocals", "pan": 0.0, "trim_db": 1.5, "lock_db": null, "mute": false,
"bounds_db": [-60.0, 24.0], "slew_db_per_s": null, "pre": [{"plugin": "HighpassFilter", "cutoff_frequency_hz": 90.0}],
"post": []}, "kick": {"role": null, "pan": 0.0, "trim_db": 0.0, "lock_db": null, "mute": true,
"bounds_db": ["-inf", 6.0], "slew_db_per_s": null, "pre": [], "post": [{"plugin": "Gain", "gain_db": -3.0,
"ramp_ms": 20.0}]}}}"""


def test_a_session_of_version_1_is_read(tmp_path, song):
    path = tmp_path / "session.json"
    path.write_text(FIRST)
    vox = Strip([pedalboard.HighpassFilter(90.0)], role="vocals", trim_db=1.5)
    kick = Strip(post=[Gain(-3)], mute=True, bounds_db=(-np.inf, 6))
    mixer = Mixer.load(tmp_path)
    want = Mixer({"vox": vox, "kick": kick}, "loudness", strength=80).process(song[:2], RATE)
    np.testing.assert_array_equal(mixer.process(song[:2], RATE), want)
    mixer.save(tmp_path)
    assert json.loads(path.read_text())["version"] == 2
    for place, value, says in [
        (("strips",), None, "session.json: strips must be a table, got null"),
        (("strips", "vox"), [], r"session.json: strips.vox must be a table, got \[\]"),
        (("strips", "vox", "pan"), 2, r"session.json: strips.vox.pan must be in \[-1, 1\]"),
        (("version",), 0, "session.json: version must be a whole number >= 1, got 0"),
    ]:
        edit(path, json.loads(FIRST), place, value)
        with pytest.raises(ParameterError, match=says) as error:
            Mixer.load(tmp_path)
        said(error)


@pytest.mark.parametrize("name", native.KINDS)
def test_each_plugin_of_pedalboards_comes_back(tmp_path, name, rng):
    x = (0.3 * rng.standard_normal((2, 3_000))).astype(np.float32)
    for _ in range(5):
        values = {}
        limits = PLUGINS[name][1] if name in PLUGINS else LIMITS[name]
        for key, choices in limits.items():
            values[key] = (
                str(rng.choice(choices)) if isinstance(choices[0], str) else round(float(rng.uniform(*choices)), 4)
            )
        make = PLUGINS[name][0] if name in PLUGINS else native.KINDS[name]
        if name == "PitchShift":
            values["semitones"] = round(values["semitones"] / 6)
        plugin = make(**values)
        chain = Mixer({"a": Strip([plugin])}, "unity")
        twin = reload(chain, tmp_path / "s")["a"].pre[0]
        assert type(twin) is type(plugin)
        np.testing.assert_array_equal(twin.process(x, RATE), plugin.process(x, RATE))


def test_parameters_are_those_of_presets():
    assert set(native.KINDS) - set(PLUGINS) == {"MP3Compressor", "PitchShift", "pedalboard.Gain"}
    assert set(PLUGINS) - set(native.KINDS) == {"Gain", "SidechainCompressor"}
    for name, kind in native.KINDS.items():
        assert set(native.describe(kind())) == {"plugin", *LIMITS[name]}
    for name, (_, limits) in PLUGINS.items():
        for key, values in limits.items():
            wider: tuple = LIMITS[name][key]
            assert key == "key" or values == wider or (wider[0] <= min(values) and max(values) <= wider[1])


def test_what_people_type_is_what_is_written(tmp_path):
    Mixer({"a": Strip([pedalboard.PeakFilter(900.0, -3.3, 1.1)])}, "unity").save(tmp_path)
    table = json.loads((tmp_path / "session.json").read_text())
    assert table["strips"]["a"]["pre"][0] == {
        "plugin": "PeakFilter",
        "cutoff_frequency_hz": 900.0,
        "gain_db": -3.3,
        "q": 1.1,
    }


def test_curves_that_were_given_and_curves_that_were_played(tmp_path, song):
    drawn = Automation(np.array([0.0, 0.2]), {"keys": np.array([-3.3, -np.inf], np.float32)})
    mixer = band(automation=drawn)
    want = mixer.process(song, RATE)
    mixer.save(tmp_path)
    session = load_session(tmp_path)
    np.testing.assert_array_equal(session.mixer.process(song, RATE), want)
    assert session.automation is not None
    for name, curve in mixer.automation.gains_db.items():
        np.testing.assert_array_equal(session.automation.gains_db[name], curve)
    # Played again, whatever the model says.
    session.mixer.automation_in, session.mixer.model = session.automation, "unity"
    np.testing.assert_array_equal(session.mixer.process(song, RATE), want)


def test_a_session_without_a_stream_has_no_curves(tmp_path):
    band().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["session.json"]
    assert load_session(tmp_path).automation is None


def test_saving_again_leaves_one_session_and_other_files(tmp_path, song):
    (tmp_path / "notes.txt").write_text("mine")
    mixer = band()
    for length in (24_000, 12_000):
        mixer.process(song[:, :length], RATE)
        mixer.save(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert names[1:] == ["notes.txt", "session.json"]
    assert load_session(tmp_path).automation.times_s.shape == (5,)  # type: ignore[union-attr]


# ---- copies of parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda node: pickle.loads(pickle.dumps(node))])
def test_chains_and_strips_can_be_copied_while_they_run(rng, duplicate):
    x = (0.1 * rng.standard_normal((2, 4_000))).astype(np.float32)
    chain = Chain([pedalboard.Reverb(), Mine(0.3), Gain(-2), Pan(0.2)])
    strip = Strip([pedalboard.Compressor(-30, 4), Mine(0.7)], trim_db=-2, pan=0.5)
    for node in (chain, strip):
        want = node(x, RATE)
        node.reset()
        node(x, RATE, reset=False)
        twin = duplicate(node)
        assert type(twin) is type(node)
        np.testing.assert_array_equal(twin(x, RATE, reset=False), want)
        np.testing.assert_array_equal(twin(x, RATE), want)
        np.testing.assert_array_equal(node(x, RATE), want)
    twin = duplicate(chain)
    twin[1].factor = 9.0
    assert chain[1].factor == 0.3
    with pytest.raises(AttributeError, match="faktor"):
        twin[1].faktor = 1.0


def test_observers_stay_and_models_are_shared():
    class Loud(Unity):
        pass

    mixer = Mixer({"a": Strip()}, Loud())
    mixer.observers.append(print)
    twin = copy.deepcopy(mixer)
    assert twin.observers == []
    assert twin.model is mixer.model
    assert copy.deepcopy(Mixer({"a": Strip()}, "alm-mr")).model is Mixer({"b": Strip()}).model


def test_copies_that_cannot_be_made_name_the_plugin(tmp_path, zam):
    impulse = pedalboard.Convolution(np.ones(8, np.float32), 1.0, sample_rate=RATE)
    for plugin, says in [
        (impulse, "Convolution .*cannot be described: only Bitcrush, .* can"),
        (load_plugin(str(zam / "ZamComp.vst3")), "ZamComp.*External hosts VST3"),
    ]:
        for duplicate in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=says):
                duplicate(Mixer({"a": Strip([Chain([plugin])])}, "unity"))


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: band().add("x", Strip([Gain(), Mine()])), r"x: pre\[1\]: a session can hold .*, got <.*Mine"),
        (lambda: band().add("x", MyStrip()), "x: a session can hold a plain Strip, got <.*MyStrip"),
        (
            lambda: band().add("x", Strip([PerChannel(lambda: Gain(-3))])),
            r"x: pre\[0\]: a session can hold .*, External, got <.*PerChannel",
        ),
        (
            lambda: band(groups={"all": Group([Gain(), Mine()])}).add("x", Strip()),
            r"all: chain\[1\]: a session can hold .*, got <.*Mine",
        ),
        (
            lambda: band(groups={"all": MyGroup()}).add("x", Strip()),
            "all: a session can hold a plain Group, got <.*MyGroup",
        ),
        (
            lambda: band(returns={"hall": Return([PerChannel(Gain)])}).add("x", Strip()),
            r"hall: chain\[0\]: a session can hold .*PerChannel",
        ),
        (lambda: band().add("x", Strip(post=[Chain([None, Mine()])])), r"x: post\[0\]\[1\]: a session can hold"),
        (
            lambda: band().add("x", Strip([pedalboard.Convolution(np.ones(8, np.float32), 1.0, sample_rate=RATE)])),
            r"x: pre\[0\]: a session can hold .*Convolution",
        ),
        (
            lambda: band().add("x", Strip([pedalboard.Compressor(float("nan"))])),
            r"strips.x.pre\[0\]: Compressor.threshold_db must be a number, got nan",
        ),
        (lambda: band().add("x", Strip([pedalboard.Chorus(depth=7)])), r"Chorus.depth must be in \[0, 1\], got 7"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(tmp_path, make, says, monkeypatch):
    kept = []
    monkeypatch.setattr(
        Mixer, "add", lambda self, name, strip, add=Mixer.add: kept.append((self, add(self, name, strip)))
    )
    make()
    with pytest.raises(ParameterError, match=says) as error:
        kept[0][0].save(tmp_path / "s")
    said(error)
    assert list(tmp_path.iterdir()) == []


def test_a_circle_that_a_mixer_lives_with_is_refused(tmp_path):
    mixer = band()
    mixer.returns["room"].sends["hall, ü"] = -6
    with pytest.raises(ParameterError, match=r"sends must not lead back to where they come from, got .* -> "):
        mixer.save(tmp_path / "s")
    mixer = band()
    mixer["keys"].sends["roof"] = -6
    with pytest.raises(ParameterError, match="strip 'keys' must send to one of room, hall, ü, got 'roof'"):
        mixer.save(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_named_are_refused(tmp_path):
    class Own(Unity):
        pass

    for model, says in [(Own(), "got <.*Own"), (tmp_path / "m.ts", "m.ts, which is code")]:
        mixer = band()
        mixer._model_given = mixer._model = model
        mixer._model = Own()
        with pytest.raises(ParameterError, match=f"model must ship or be a .safetensors file .*{says}"):
            mixer.save(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
    mixer.model = Unity()
    mixer.save(tmp_path / "s")


def test_curves_that_csv_does_not_bring_back_are_refused(tmp_path):
    for times, gains in [([0.0, 1e-7], [0.0, 1.0]), ([0.0, 1.0], [0.0, 99.0]), ([0.0, 1.0], np.array([0.1, 0.2]))]:
        dtype = None if isinstance(gains, np.ndarray) else np.float32
        mixer = band(automation=Automation(np.array(times), {"keys": np.asarray(gains, dtype)}))
        with pytest.raises(ParameterError, match="automation-in: expected curves that are the same after"):
            mixer.save(tmp_path / "s")
        assert list(tmp_path.iterdir()) == []


def test_no_place_to_write(tmp_path):
    with pytest.raises(AlmError, match="expected a folder to write to, got no such file or directory"):
        band().save(tmp_path / "no" / "s")
    (tmp_path / "file").touch()
    with pytest.raises(AlmError, match="expected a folder to write to, got file exists"):
        band().save(tmp_path / "file")


@pytest.mark.parametrize("where", ["json.dump", "write_csv", "os.fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_crash_leaves_the_old_session(tmp_path, song, monkeypatch, where, error):
    mixer = band()
    mixer.process(song, RATE)
    mixer.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    mixer["keys"].trim_db = 3.0
    want = mixer.process(song[:, :9_000], RATE)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"alm_plugin.session.{where}", fail)
        for folder in (tmp_path, tmp_path / "new"):
            with pytest.raises(AlmError if isinstance(error, OSError) else KeyboardInterrupt):
                mixer.save(folder)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    mixer.save(tmp_path)
    np.testing.assert_array_equal(Mixer.load(tmp_path).process(song[:, :9_000], RATE), want)


V, K, G = (("strips", name) for name in ("vocals", "kick drum", 'gtr "L", ü'))
D, R = ("groups", "drums"), ("returns", "room")


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("version",), 3, "session.json: version must be at most 2, got 3: made by a newer alm"),
        (("version",), "1", 'version must be a whole number >= 1, got "1"'),
        (("version",), True, "version must be a whole number >= 1, got true"),
        (("colour",), "red", "session.colour must be one of version, .* got an unknown field"),
        (("made_by",), "a\nb", "made_by must be one line of text"),
        (("model",), "unity", 'model must be a table, got "unity"'),
        (("model", "name"), "alm-xl", 'model.* must have a field sha256|model.name must be one of .*, got "alm-xl"'),
        (("model",), {"name": "../../evil", "sha256": DIGEST}, r"model.name must be one of .*, got \"../../evil"),
        (("model",), {"file": "a.ts", "sha256": DIGEST}, "model.file must be a .safetensors file, as others are code"),
        (
            ("model",),
            {"file": "/x/a.safetensors", "sha256": DIGEST},
            "model.file must be a file's name without folders",
        ),
        (("model",), {"file": "a.safetensors", "sha256": "12"}, 'sha256 must be 64 hexadecimal digits, got "12"'),
        (("model",), {"file": "a.safetensors", "sha256": DIGEST}, "a.safetensors, which does not ship: give its path"),
        (("model",), {"name": "alm-mr", "sha256": DIGEST}, "sha256 must be that of the alm-mr that ships here"),
        (("channels",), 3, "channels must be 1 or 2, got 3"),
        (("channels",), True, "channels must be 1 or 2, got true"),
        (("strength",), 101, r"strength must be in \[0, 100\], got 101"),
        (("ceiling_db",), 0.0, r"ceiling_db must be in \[-60, 0\) or null, got 0.0"),
        (("freeze",), 1, "freeze must be true or false, got 1"),
        (("automation",), "../automation-0123456789abcdef.csv", "automation must be null or automation-<16"),
        (("automation",), "automation-0123456789abcdef.csv", "automation must be a file in this folder"),
        (("strips",), {}, "strips must hold 1 to 64 channels, got 0"),
        (("strips",), [], r"strips must be a table, got \[\]"),
        ((*V, "volume"), 1, "strips.vocals.volume must be one of role, .* got an unknown field"),
        ((*V, "trim_db"), 99, r"strips.vocals.trim_db must be in \[-60, 24\], got 99"),
        ((*V, "trim_db"), "loud", 'strips.vocals.trim_db must be a number or "-inf", got "loud"'),
        ((*V, "role"), "singer", "strips.vocals.role must be one of"),
        ((*V, "mute"), 1, "strips.vocals.mute must be True or False, got 1"),
        ((*V, "pan"), 2, r"strips.vocals.pan must be in \[-1, 1\]"),
        ((*V, "bounds_db"), [1], r"strips.vocals.bounds_db must be two numbers \[least, most\], got \[1\]"),
        ((*V, "bounds_db"), [6, -6], "bounds_db must be two rising gains"),
        ((*V, "slew_db_per_s"), 0, "slew_db_per_s must be positive or None"),
        ((*K, "lock_db"), 25, r"strips.\"kick drum\".lock_db must be in \[-inf, 24\]"),
        ((*V, "solo"), "yes", "strips.vocals.solo must be True or False, got 'yes'"),
        ((*V, "group"), 3, "strips.vocals.group must be a group or null, got 3"),
        ((*V, "group"), "gone", "strip 'vocals' must be in one of drums, empty, got group 'gone'"),
        ((*V, "sends"), None, "strips.vocals.sends must be a table, got null"),
        ((*V, "sends"), {"room": "x"}, 'strips.vocals.sends.room must be a number or "-inf", got "x"'),
        ((*V, "sends"), {"room": 25}, r"strips.vocals.sends\['room'\] must be in \[-inf, 24\], got 25"),
        ((*V, "sends"), {"gone": 0}, "strip 'vocals' must send to one of room, hall, ü, got 'gone'"),
        (("groups",), [], r"groups must be a table, got \[\]"),
        (("groups",), {str(i): {} for i in range(65)}, "groups must hold at most 64, got 65"),
        ((*D, "pan"), 0, "groups.drums.pan must be one of trim_db, .* got an unknown field"),
        ((*D, "trim_db"), -61, r"groups.drums.trim_db must be in \[-60, 24\], got -61"),
        ((*D, "solo"), None, "groups.drums.solo must be True or False, got None"),
        (
            (*D, "chain", 1, "key"),
            3,
            r"chain\[1\]: SidechainCompressor.key must be the name of a channel or null, got 3",
        ),
        ((*D, "chain", 1, "ratio"), 0, r"chain\[1\]: SidechainCompressor.ratio must be in \[1, 100\], got 0"),
        ((*R, "chain"), None, "returns.room.chain must be a list of plugins, got null"),
        ((*R, "solo"), True, "returns.room.solo must be one of trim_db, mute, sends, chain, got an unknown field"),
        ((*R, "sends"), {"hall, ü": -3}, "sends must not lead back to where they come from, got "),
        ((*V, "pre"), {}, "strips.vocals.pre must be a list of plugins"),
        ((*V, "pre", 1), "Reverb", r"pre\[1\] must be a table"),
        ((*V, "pre", 1), {"plugin": "Convolution"}, r"pre\[1\].plugin must be one of .*, got \"Convolution\""),
        ((*V, "pre", 1), {"plugin": "os.system"}, r"pre\[1\].plugin must be one of .*, got \"os.system\""),
        ((*V, "pre", 1, "ratio"), 0.5, r"pre\[1\]: Compressor.ratio must be in \[1, 1e\+09\], got 0.5"),
        ((*V, "pre", 1, "ratio"), "3", r"pre\[1\]: Compressor.ratio must be a number, got \"3\""),
        ((*V, "pre", 1, "knee_db"), 3, r"pre\[1\].knee_db must be one of plugin, .* got an unknown field"),
        ((*V, "pre", 1), {"plugin": "Bitcrush"}, r"pre\[1\] must have a field bit_depth, got none"),
        ((*V, "pre"), [None] * 257, "pre must hold at most 256 plugins, got 257"),
        ((*K, "pre", 0, "plugins", 0, "gain_db"), 99, r"plugins\[0\]: Gain.gain_db must be in \[-inf, 60\], got 99"),
        ((*K, "pre", 0, "plugins", 0, "ramp_ms"), 0, r"Gain.ramp_ms must be in \[0.001, 1e\+06\], got 0"),
        ((*K, "post", 0, "mode"), "HPF99", r"LadderFilter.mode must be one of .*BPF24, got \"HPF99\""),
        ((*G, "pre", 0, "plugins", 0), {"plugin": "Pan", "pan": 0}, "must be one of pedalboard's plugins in a "),
        (
            (*V, "pre", 0),
            {"external": "Nix", "slew_ms": 20, "state": "", "raw_values": {}},
            "Nix: expected a plugin of",
        ),
        (
            (*V, "pre", 0),
            {"external": "Nix", "slew_ms": 20, "state": "", "raw_values": {"a": 2}},
            r"pre\[0\]: Nix.raw_values.a must be in \[0, 1\], got 2",
        ),
        (("render",), {"sample_rate": 1, "bits": None}, "render.sample_rate must be a whole number in"),
        (("render",), {"sample_rate": 48_000, "bits": 20}, "render.bits must be 16, 24, 32 or null, got 20"),
        (("tracks",), [{"channel": "x"}], r"tracks\[0\] must have a field sample_rate"),
        (
            ("tracks",),
            [{"channel": "x", "sample_rate": 48_000, "samples": 1, "files": []}],
            r'tracks\[0\].channel must be one of the channels vocals, .*, got "x"',
        ),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(saved, place, value, says, tmp_path, monkeypatch):
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path / "cache"))
    path, table = saved
    edit(path, table, place, value)
    with pytest.raises(AlmError, match=says) as error:
        Mixer.load(path.parent)
    assert said(error).startswith(path.as_posix())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "line 1: expected JSON, got: "),
        (b"{}\n\xff", "line 2: expected UTF-8 text"),
        (b"[" * 100_000, "expected JSON, got endless nesting"),
        (b'{"version": 1' + b"0" * 10_000 + b"}", "expected JSON, got an endless number"),
        (b"[]", r"must be a table, got \[\]"),
        (b'{"version": NaN}', "expected JSON, got the number NaN"),
        (b'{"version": 1, "version": 1}', 'expected every field once, got "version" twice'),
        (b'{"version": 1}', "session must have a field made_by, got none"),
        (b"{}", "version must be a whole number >= 1, got null"),
        (b" " * 64_000_001, "expected a session of at most 64 MB, got more"),
    ],
)
def test_files_that_are_no_session(tmp_path, data, says):
    (tmp_path / "session.json").write_bytes(data)
    with pytest.raises(ParameterError, match=says) as error:
        Mixer.load(tmp_path)
    assert said(error).startswith((tmp_path / "session.json").as_posix())


def test_a_session_in_lists_without_end_is_refused(saved):
    path, table = saved
    plugin = {"plugin": "Chain", "plugins": []}
    for _ in range(20):
        plugin = {"plugin": "Chain", "plugins": [plugin]}
    edit(path, table, (*V, "pre"), [plugin])
    with pytest.raises(ParameterError, match="at most 8 lists deep"):
        Mixer.load(path.parent)


def test_curves_are_read_from_this_folder_only(saved):
    path, table = saved
    curves = path.parent / table["automation"]
    curves.write_text("time_s,vocals\n0,loud\n")
    with pytest.raises(AlmError, match="line 2: vocals must be a gain"):
        Mixer.load(path.parent)
    curves.rename(path.parent.parent / "elsewhere.csv")
    curves.symlink_to(path.parent.parent / "elsewhere.csv")
    with pytest.raises(ParameterError, match="must be a file in this folder"):
        Mixer.load(path.parent)


def test_external_plugins_in_a_file_are_only_those_of_the_registry(tmp_path, zam, monkeypatch):
    Mixer({"a": Strip([External("ZamCompX2")])}, "unity").save(tmp_path / "s")
    path = tmp_path / "s" / "session.json"
    good = json.loads(path.read_text())
    plugin = ("strips", "a", "pre", 0)
    for key, value, says in [
        ("state", "%%%", "state must be base64, got "),
        ("state", "AAAA", "raw_state must be a state of ZamCompX2, got 3 bytes of something else"),
        ("state", good["strips"]["a"]["pre"][0]["state"][:-40], "raw_state must be a state of ZamCompX2"),
        ("state", 7, "state must be base64, got 7"),
        (
            "raw_values",
            {"treshold": 0.5},
            "raw_values.treshold must be one of .* got an unknown parameter of ZamCompX2",
        ),
        ("slew_ms", -1, r"ZamCompX2.slew_ms must be in \[0, 10000\], got -1"),
        ("isolated", 1, "ZamCompX2.isolated must be true or false, got 1"),
    ]:
        table = copy.deepcopy(good)
        edit(path, table, (*plugin, key), value)
        with pytest.raises(ParameterError, match=says) as error:
            Mixer.load(tmp_path / "s")
        assert said(error).startswith(f"{path.as_posix()}: strips.a.pre[0]")
    del good["strips"]["a"]["pre"][0]["isolated"]  # as version 1 had it
    path.write_text(json.dumps(good))
    Mixer.load(tmp_path / "s")
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ParameterError, match=r"pre\[0\]: ZamCompX2: expected a plugin of the registry, got none"):
        Mixer.load(tmp_path / "s")
    assert not (tmp_path / "cache").exists()


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_model(tmp_path):
    from alm_plugin.data import presets_dir

    return shutil.copy(presets_dir() / "models" / "alm-mr.safetensors", tmp_path / "mine.safetensors")


def test_a_model_of_ones_own_must_be_given_and_the_same(tmp_path, own_model, song):
    mixer = band(model=own_model)
    want = mixer.process(song, RATE)
    mixer.save(tmp_path / "s")
    assert json.loads((tmp_path / "s" / "session.json").read_text())["model"]["file"] == "mine.safetensors"
    with pytest.raises(ModelError, match=r"is the file mine\.safetensors, which does not ship: give its path"):
        Mixer.load(tmp_path / "s")
    np.testing.assert_array_equal(Mixer.load(tmp_path / "s", own_model).process(song, RATE), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mixer)).process(song, RATE), want)
    data = own_model.read_bytes()
    own_model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for load in (lambda: Mixer.load(tmp_path / "s", own_model), lambda: pickle.loads(pickle.dumps(mixer))):
        with pytest.raises(ModelError, match=r"mine\.safetensors: expected the .*model.* with sha256 .*, got "):
            load()
    with pytest.raises(ModelError, match=r"must be given as a \.safetensors file, got .*mine.ts"):
        Mixer.load(tmp_path / "s", own_model.with_suffix(".ts"))
    with pytest.raises(ModelError, match=r"gone\.safetensors: expected the model of the session, got no such file"):
        Mixer.load(tmp_path / "s", tmp_path / "gone.safetensors")
    assert Mixer.load(tmp_path / "s", "unity").model.metadata.name == "unity"


# ---- the command line ------------------------------------------------------------------------------------------------


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def stems(tmp_path, rng):
    folder = tmp_path / "stems"
    folder.mkdir()
    soundfile.write(folder / "vocals.wav", 0.02 * rng.standard_normal(RATE), RATE)
    soundfile.write(folder / "kick.flac", 0.2 * rng.standard_normal(44_100), 44_100)
    for side in "LR":
        soundfile.write(folder / f"gtr {side}.wav", 0.1 * rng.standard_normal(RATE), RATE)
    return folder


@pytest.fixture
def kept(tmp_path, stems, capsys):
    options = ["--preset", "rock", "--trim", "vocals=1.3", "--lock", "kick=-4.4", "--strength", "80", "--bits", "24"]
    options += ["--trim", "drums=-2"]
    assert run("mix", stems, "-o", tmp_path / "mix.wav", "--session", tmp_path / "s", "--json", *options) == 0
    capsys.readouterr()
    return tmp_path / "s"


def test_mix_and_mix_again(tmp_path, stems, kept, capsys):
    table = json.loads((kept / "session.json").read_text())
    tracks = {track["channel"]: track for track in table["tracks"]}
    assert [file["path"] for file in tracks["gtr"]["files"]] == ["../stems/gtr L.wav", "../stems/gtr R.wav"]
    assert table["groups"]["drums"]["trim_db"] == -2.0
    assert table["strips"]["gtr"]["post"][0]["key"] == "vocals"
    assert (tracks["kick"]["sample_rate"], tracks["kick"]["samples"]) == (44_100, 44_100)
    assert run("mix", "--session", kept, "-o", tmp_path / "again.wav", "--json") == 0
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "mix.wav").read_bytes()
    curves = next(kept.glob("automation-*.csv"))
    arguments = ["--automation-in", curves, "--model", "unity"]
    assert run("mix", "--session", kept, "-o", tmp_path / "drawn.wav", "--json", *arguments) == 0
    assert (tmp_path / "drawn.wav").read_bytes() == (tmp_path / "mix.wav").read_bytes()
    # Both folders can go elsewhere together.
    (tmp_path / "away").mkdir()
    for folder in (stems, kept):
        shutil.move(folder, tmp_path / "away")
    assert run("mix", "--session", tmp_path / "away" / "s", "-o", tmp_path / "3.wav", "--json") == 0
    assert (tmp_path / "3.wav").read_bytes() == (tmp_path / "mix.wav").read_bytes()


def test_audio_that_is_not_what_it_was(tmp_path, stems, kept, capsys):
    def again(*arguments):
        status = run("mix", "--session", kept, "-o", tmp_path / "again.wav", "--json", *arguments)
        return status, capsys.readouterr().err

    path = stems / "vocals.wav"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    status, line = again()
    assert status == 2
    assert "vocals.wav: expected 48000 samples at 48000 Hz, " in line
    assert "got other audio" in line
    assert "--stems says where it is now" in line
    path.write_bytes(data[:-2])
    assert f"got {len(data) - 2} bytes" in again()[1]
    path.write_bytes(data)
    stems.rename(tmp_path / "moved")
    status, line = again()
    assert status == 2
    assert "expected 48000 samples" in line
    assert "got nothing there; --stems" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "again.wav").exists()
    assert again("--stems", tmp_path / "moved")[0] == 0
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "mix.wav").read_bytes()
    (tmp_path / "moved" / "kick.flac").unlink()
    assert (
        "stems must be the session's channels gtr, kick, vocals, got gtr, vocals"
        in again("--stems", tmp_path / "moved")[1]
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "again.wav"], "stems must be given, or the --session of a mix to make again, got neither"),
        (["-o", "again.wav", "--session", "nowhere"], "nowhere/session.json: expected a session, got nothing there"),
        (
            ["-o", "again.wav", "--session", "s", "--trim", "kick=3"],
            "--trim must come with stems, got it for a session",
        ),
        (["-o", "again.wav", "--session", "s", "--strength", "0"], "--strength must come with stems"),
        (["-o", "again.wav", "--session", "s", "--solo", "kick"], "--solo must come with stems"),
        (
            ["stems", "-o", "again.wav", "--session", "no/s"],
            "--session must be a folder, or one to be made, got 'no/s'",
        ),
        (["stems", "-o", "again.wav", "--session", "mix.wav"], "--session must be a folder, or one to be made"),
        (["stems", "-o", "again.wav", "--stems", "stems"], "--stems must come with a --session to make again"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, kept, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert run("mix", *arguments) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert not (tmp_path / "again.wav").exists()


def test_a_session_that_was_saved_in_python_takes_its_audio_from_the_command_line(tmp_path, stems, capsys):
    save_session(Mixer({name: Strip() for name in ("vocals", "kick", "gtr")}, "unity"), tmp_path / "s")
    assert run("mix", "--session", tmp_path / "s", "-o", tmp_path / "mix.wav") == 2
    assert "expected a session that names its audio, got none: use --stems" in capsys.readouterr().err
    assert run("mix", "--session", tmp_path / "s", "--stems", stems, "-o", tmp_path / "mix.wav", "--json") == 0


def test_lists_of_kinds_agree():
    assert set(LISTS) == {"Chain", "Pedalboard", "Mix", "pedalboard.Chain"}
