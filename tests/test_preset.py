import inspect
import json
import math
import os
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pedalboard
import pytest
import soundfile

import alm_plugin
from alm_plugin import (
    Chain,
    Group,
    Mixer,
    ParameterError,
    Return,
    SidechainCompressor,
    Strip,
    find_tracks,
    load_preset,
)
from alm_plugin.cli import main
from alm_plugin.data import presets_dir
from alm_plugin.errors import AlmError
from alm_plugin.export.automation import read_csv
from alm_plugin.features.loudness import IntegratedLoudness
from alm_plugin.models.registry import shipped
from alm_plugin.models.roles import ROLES
from alm_plugin.preset import (
    BUS_FIELDS,
    FIELDS,
    LADDER_MODES,
    MAX_BYTES,
    PLUGINS,
    STRIP_FIELDS,
    BusSettings,
    PluginSettings,
    Preset,
    StripSettings,
    presets,
    user_bands_dir,
)

RATE = 48_000
BANDS = presets_dir() / "bands"
SHIPPED = ["acoustic", "electronic", "jazz", "rock", "speech-panel", "worship"]


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A user's folder of presets, empty, and no plugin known."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("APPDATA", str(home))
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(home))
    monkeypatch.setattr(Path, "home", lambda: home)
    user_bands_dir().mkdir(parents=True)
    return home


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Load a preset of this text, from band.toml."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        data = text if isinstance(text, bytes) else text.encode()
        Path("band.toml").write_bytes(data)
        return load_preset("band.toml")

    return write


def run(*arguments):
    return main([str(argument) for argument in arguments])


def lufs(x, rate=RATE):
    meter = IntegratedLoudness(rate, len(x))
    meter.process_block(np.ascontiguousarray(x))
    return meter.lufs


def pink(rng, channels, seconds, loudness):
    samples = int(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal((channels, samples)))
    x = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)), samples)
    return np.float32(x * 10.0 ** ((loudness - lufs(np.float32(x))) / 20.0))


# ---- those that ship -------------------------------------------------------------------------------------------------


def test_these_ship():
    assert presets() == SHIPPED
    assert [path.stem for path in sorted(BANDS.glob("*.toml"))] == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_presets_say_what_they_are_for(name):
    preset = load_preset(name)
    assert preset.name == name
    assert preset.path == BANDS / f"{name}.toml"
    assert 20 < len(preset.description) < 110
    assert preset.model in shipped()
    assert set(preset.strips) <= {"default", *ROLES}
    chains = [chain for strip in preset.strips.values() for chain in (strip.pre, strip.post)]
    chains += [bus.chain for bus in (*preset.groups.values(), *preset.returns.values())]
    assert not any(plugin.is_external for chain in chains for plugin in chain)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_strips_neither_delay_nor_shout_nor_break(name, channels, rng):
    preset = load_preset(name)
    noise = pink(rng, channels, 1.5, -20.0)
    for role in (None, *ROLES):
        strip = preset.strip(role)
        assert strip.role == role
        assert strip.pre.reported_latency_samples == strip.post.reported_latency_samples == 0
        strip.pan = strip.trim_db = 0.0
        heard = strip.process(noise, RATE)
        assert heard.shape == noise.shape
        assert np.isfinite(heard).all()
        assert -12.0 < lufs(heard) - lufs(noise) < 6.0, role
        silence = strip.process(np.zeros_like(noise), RATE)
        assert np.abs(silence).max() < 1e-6
        assert strip.faults == 0


@pytest.mark.parametrize("sample_rate", [8_000, 192_000])
def test_shipped_strips_hold_at_every_rate(sample_rate, rng):
    noise = np.float32(0.1 * rng.standard_normal((1, sample_rate // 4)))
    for name in SHIPPED:
        for role in (None, *ROLES):
            strip = load_preset(name).strip(role)
            heard = strip.process(noise, sample_rate)
            assert np.abs(heard).max() < 1.0
            assert strip.faults == 0


@pytest.mark.parametrize("sample_rate", [8_000, 48_000, 192_000])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_consoles_add_no_latency_and_leave_nothing_out(name, sample_rate, rng):
    roles = {str(role): role for role in (None, *ROLES)}
    preset = load_preset(name)
    mixer = preset.mixer(roles, model="unity", zero_latency=True)
    assert mixer.reported_latency_samples == 0
    assert (set(mixer.groups), set(mixer.returns)) == (set(preset.groups), set(preset.returns))
    mix = mixer.process(np.float32(0.02 * rng.standard_normal((len(roles), sample_rate // 4))), sample_rate)
    assert np.abs(mix).max() < 1.0
    assert mixer.faults == {}


@pytest.fixture(scope="module")
def demo():
    sound = {}
    for track in find_tracks([presets_dir() / "demo"]):
        audio, _ = soundfile.read(track.paths[0], dtype="float32", start=9 * 44_100, stop=12 * 44_100)
        sound[track.name] = audio.T
    # As presets suppose them: peaks of -10 dBFS.
    return {name: x * np.float32(10 ** (-10 / 20) / np.abs(x).max()) for name, x in sound.items()}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_consoles_leave_the_balance_to_the_model(name, demo):
    truth = tomllib.loads((presets_dir() / "demo" / "demo.toml").read_text())["tracks"]
    roles = {name: truth[name]["role"] for name in demo}

    def loudness(plain, muted):
        mixer = load_preset(name).mixer(roles, model="loudness", ceiling_db=None)
        for strip in (mixer[name] for name in mixer):
            strip.mute = strip.role in muted
            if plain:
                strip.post, strip.group, strip.sends = [], None, {}
        mixer.reset()
        return lufs(mixer.process(demo, 44_100)[:, 44_100:], 44_100)

    band = set(roles.values()) - {"vocals"}
    changes = [loudness(False, muted) - loudness(True, muted) for muted in ((), {"vocals"}, band)]
    # All of it, the band, the voice: what is added and taken away is heard, and moves nothing far.
    assert np.abs(changes).max() > 0.01
    assert np.abs(changes).max() < 1.0
    assert abs(changes[2] - changes[1]) < 1.0


@pytest.mark.parametrize("last", [0, -1], ids=["least", "most"])
@pytest.mark.parametrize("name", PLUGINS)
def test_every_plugin_runs_without_latency_at_both_ends_of_its_ranges(name, last, rng):
    parameters = {parameter: limits[last] for parameter, limits in PLUGINS[name][1].items()}
    settings = PluginSettings(name, parameters)
    for sample_rate in (8_000, 48_000):
        noise = np.float32(0.1 * rng.standard_normal((2, sample_rate // 2)))
        whole = Chain(settings.build()).process(noise, sample_rate)
        assert np.isfinite(whole).all()
        assert np.abs(whole).max() < 20.0
        chain = Chain(settings.build())
        assert chain.reported_latency_samples == 0
        chain.reset()
        starts = range(0, noise.shape[1], 441)
        blocks = [chain.process(noise[:, i : i + 441], sample_rate, reset=False) for i in starts]
        # As near as pedalboard's filters keep to their own samples.
        np.testing.assert_allclose(np.concatenate(blocks, axis=1), whole, rtol=0, atol=1e-7)


# ---- strips and mixers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [64, 441])
def test_a_mixer_gives_the_same_samples_however_the_stream_is_cut(block, rng):
    names = {"vox": "vocals", "kick": "kick", "snare": "snare", "bass": "bass", "gtr1": "guitar", "gtr2": "guitar"}
    tracks = {name: pink(rng, 1 + (name == "gtr2"), 1.0, -20.0 - 2 * i) for i, name in enumerate(names)}
    whole = load_preset("worship").mixer(names, model="unity").process(tracks, RATE)
    mixer = load_preset("worship").mixer(names, model="unity")
    mixer.reset()
    pieces = [
        mixer.process({name: track[:, i : i + block] for name, track in tracks.items()}, RATE, reset=False)
        for i in range(0, RATE, block)
    ]
    # As near as pedalboard's filters keep to their own samples.
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=1e-7)
    assert np.abs(whole).max() > 0.1


def test_a_mixer_has_the_presets_settings_and_model():
    mixer = load_preset("speech-panel").mixer({"anna": None, "mic 2": "vocals"}, channels=1, strength=80)
    assert mixer.model.metadata.name == "loudness"
    assert (mixer.channels, mixer.strength) == (1, 80.0)
    assert mixer["anna"].bounds_db == (-30.0, 12.0)
    assert (mixer["anna"].role, mixer["mic 2"].role) == (None, "vocals")
    assert load_preset("speech-panel").mixer({"anna": None}, model="unity").model.metadata.name == "unity"


def test_no_two_strips_share_a_plugin():
    preset = load_preset("worship")
    strips = [
        preset.strip(role="vocals"),
        preset.strip("vocals", 1),
        *preset.channels({"a": "vocals", "b": None}).values(),
    ]
    plugins = [plugin for strip in strips for plugin in (*strip.pre, *strip.post)]
    assert len({id(plugin) for plugin in plugins}) == len(plugins) > 12
    strips[0].pre[4].threshold_db = -1
    assert preset.strip(role="vocals").pre[4].threshold_db == -22


def test_channels_of_a_role_take_its_positions_in_turn_and_a_lone_one_the_centre(written):
    preset = written("[strip.guitar]\npan = [-0.4, 0.4]\n[strip.keys]\npan = [0.5, -0.5]\n[strip.hats]\npan = 0.2")
    roles = {"g1": "guitar", "k": "keys", "g2": "guitar", "h": "hats", "g3": "guitar", "x": None}
    assert {name: strip.pan for name, strip in preset.channels(roles).items()} == {
        "g1": -0.4,
        "k": 0.0,
        "g2": 0.4,
        "h": 0.2,
        "g3": -0.4,
        "x": 0.0,
    }
    assert [preset.strip("guitar", i).pan for i in range(3)] == [-0.4, 0.4, -0.4]


def test_what_a_role_leaves_out_is_the_defaults(written):
    preset = written(
        'description = "Duo"\nmodel = "unity"\n[strip.default]\npre = [{ plugin = "Gain", gain_db = -3 }]\n'
        "bounds_db = [-inf, 6]\nslew_db_per_s = 10\ntrim_db = 1\n"
        '[strip."backing vocals"]\npre = []\ntrim_db = -2.5\n'
        '[strip.kick]\npost = [{ plugin = "LadderFilter", mode = "HPF24", cutoff_hz = 60 }]'
    )
    assert (preset.name, preset.description, preset.model) == ("band", "Duo", "unity")
    gain = (PluginSettings("Gain", {"gain_db": -3}),)
    default = StripSettings(gain, (), (0.0,), 1.0, (-math.inf, 6.0), 10.0)
    assert preset.settings(None) == preset.settings("snare") == default
    assert preset.settings("backing vocals") == StripSettings((), (), (0.0,), -2.5, (-math.inf, 6.0), 10.0)
    kick = preset.strip(role="kick")
    assert [type(plugin).__name__ for plugin in (*kick.pre, *kick.post)] == ["Gain", "LadderFilter"]
    assert (kick.trim_db, kick.bounds_db, kick.slew_db_per_s) == (1.0, (-math.inf, 6.0), 10.0)
    assert kick.pre[0].gain_db == -3.0
    assert "HPF24" in repr(kick.post[0])


def test_an_empty_file_is_the_plain_mixer(written):
    preset = written("")
    assert (preset.description, preset.model) == ("", "alm-mr")
    assert preset.settings("vocals") == StripSettings()
    plain, strip = Strip(), preset.strip()
    for name in ("pan", "role", "trim_db", "lock_db", "bounds_db", "slew_db_per_s", "group", "sends"):
        assert getattr(strip, name) == getattr(plain, name)
    assert replace(preset, name="", path=Path()) == Preset()
    assert list(Preset().mixer({"a": "kick"}).groups) == []


# ---- groups, returns, keys -------------------------------------------------------------------------------------------

CONSOLE = """
model = "unity"
[strip.default]
group = "band"
[strip.vocals]
group = ""
sends = { hall = -9 }
[strip.kick]
group = "drums"
[strip.hats]
group = "drums"
sends = { hall = -inf }
[strip.guitar]
post = [{ plugin = "SidechainCompressor", key = "vocals", threshold_db = -30, ratio = 2 }]
[group.band]
trim_db = -3
[group.drums]
chain = [{ plugin = "Compressor", threshold_db = -20, ratio = 2 }]
sends = { room = -6 }
[group."nobody's"]
sends = { spare = 0 }
[return.room]
chain = [{ plugin = "Reverb", wet_level = 0.33, dry_level = 0 }]
[return.hall]
chain = [{ plugin = "Delay", mix = 1, delay_seconds = 0.01 }]
trim_db = -2
sends = { room = -12.5 }
[return.spare]
"""


def test_groups_and_returns_are_those_of_a_mixer_made_by_hand(written, rng):
    roles = {"vox": "vocals", "kick": "kick", "gtr": "guitar", "x": None}
    tracks = {name: pink(rng, 1, 0.5, -20.0) for name in roles}
    gtr = Strip(post=[SidechainCompressor("vox", -30, 2, 5, 150)], group="band")
    by_hand = Mixer(
        {"vox": Strip(sends={"hall": -9}), "kick": Strip(group="drums"), "gtr": gtr, "x": Strip(group="band")},
        model="unity",
        groups={
            "band": Group(trim_db=-3),
            "drums": Group(pedalboard.Compressor(-20, 2), sends={"room": -6}),
        },
        returns={
            "room": Return(pedalboard.Reverb(wet_level=0.33, dry_level=0)),
            "hall": Return(pedalboard.Delay(0.01, mix=1), trim_db=-2, sends={"room": -12.5}),
        },
    )
    mixer = written(CONSOLE).mixer(roles)
    mix = mixer.process(tracks, RATE)
    np.testing.assert_array_equal(mix, by_hand.process(tracks, RATE))
    mixer["gtr"].post.clear()
    assert np.abs(mixer.process(tracks, RATE) - mix).max() > 0.01


@pytest.mark.parametrize(
    ("roles", "groups", "returns"),
    [
        (["vocals"], [], ["room", "hall"]),  # the hall leads on to the room
        (["kick"], ["drums"], ["room"]),  # by the group
        (["hats"], ["drums"], ["room", "hall"]),
        (["bass"], ["band"], []),
    ],
)
def test_groups_and_returns_that_nothing_leads_to_are_left_out(written, roles, groups, returns):
    mixer = written(CONSOLE).mixer({role: role for role in roles})
    assert (list(mixer.groups), list(mixer.returns)) == (groups, returns)


def test_each_mixer_has_buses_of_its_own(written):
    preset = written(CONSOLE)
    first, second = (preset.mixer({"kick": "kick"}) for _ in range(2))
    assert first.groups["drums"].chain[0] is not second.groups["drums"].chain[0]
    first.groups["drums"].sends["room"] = 3
    assert second.groups["drums"].sends["room"] == preset.groups["drums"].sends["room"] == -6.0


def test_a_key_is_the_first_channel_of_its_role_and_none_hears_itself(written):
    duck = "[{ plugin = 'SidechainCompressor', key = '%s' }]"
    preset = written(
        f"[strip.default]\npost = {duck % 'vocals'}\n[strip.bass]\npre = {duck % 'kick'}\npost = []\n"
        f"[strip.keys]\npost = {duck % 'default'}\ngroup = 'all'\n[group.all]\nchain = {duck % 'snare'}\n"
        "[strip.kick]\npost = [{ plugin = 'SidechainCompressor' }]"
    )

    def keys(roles):
        mixer = preset.mixer(roles, model="unity")
        found = {name: [plugin.key for plugin in (*mixer[name].pre, *mixer[name].post)] for name in roles}
        return found | {name: [plugin.key for plugin in group.chain] for name, group in mixer.groups.items()}

    band = {"b": "bass", "anna": "vocals", "ben": "vocals", "k": "kick", "x": None, "pno": "keys"}
    assert keys(band) == {
        "b": ["k"],
        "anna": [],
        "ben": ["anna"],
        "k": [None],
        "x": ["anna"],
        "pno": ["anna"],
        "all": [],
    }
    assert keys({"pno": "keys", "s": "snare", "t": None}) == {"pno": ["s"], "s": [], "t": [], "all": ["s"]}
    # Without a band nobody is there to be heard.
    assert len(preset.strip(role="bass").pre) == 0
    assert preset.strip(role="bass", keys={"kick": "bd"}).pre[0].key == "bd"


def test_unknown_roles_are_named():
    preset = load_preset("rock")
    with pytest.raises(ParameterError, match=r"role must be one of vocals, .* got 'kazoo'"):
        preset.strip(role="kazoo")
    with pytest.raises(ParameterError, match=r"tape: role must be one of vocals, .* got 'kazoo'"):
        preset.mixer({"tape": "kazoo"})
    with pytest.raises(ParameterError, match="roles must map channel names to roles, got list"):
        preset.mixer(["vocals"])


# ---- finding ---------------------------------------------------------------------------------------------------------


def test_the_users_presets_come_first():
    assert load_preset("rock").path.parent == BANDS
    folder = user_bands_dir()
    (folder / "rock.toml").write_text('description = "Mine"')
    (folder / "my duo.toml").write_text(
        "\ufeff# saved by an editor that begins with a mark\r\n[strip.keys]\r\npan = 1\r\n"
    )
    (folder / ".hidden.toml").write_text("")
    (folder / "folder.toml").mkdir()
    assert presets() == sorted([*SHIPPED, "my duo"])
    assert (load_preset("rock").description, load_preset("rock").path) == ("Mine", folder / "rock.toml")
    assert load_preset("my duo").settings("keys").pan == (1.0,)
    assert load_preset(BANDS / "rock.toml").strips["kick"].pre


@pytest.mark.parametrize(
    ("platform", "environment", "where"),
    [
        ("linux", {"XDG_CONFIG_HOME": "/etc/x"}, "/etc/x/alm/bands"),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, "~/.config/alm/bands"),
        ("linux", {"XDG_CONFIG_HOME": ""}, "~/.config/alm/bands"),
        ("darwin", {}, "~/Library/Application Support/alm/bands"),
        ("win32", {"APPDATA": "/roaming"}, "/roaming/alm/bands"),
        ("win32", {"APPDATA": ""}, "~/AppData/Roaming/alm/bands"),
    ],
)
def test_each_system_has_its_folder(home, monkeypatch, platform, environment, where):
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert user_bands_dir() == Path(where.replace("~", str(home)))


@pytest.mark.parametrize("name", ["../../x", "../bands/rock", "/etc/passwd", "rock.tom", "", "ROCK/", "rock\0", "folk"])
def test_a_name_leads_to_no_file_but_those_listed(name):
    with pytest.raises(ParameterError, match=r"^preset must be one of acoustic, .*, worship or a \.toml file, got "):
        load_preset(name)


def test_files_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=r"^none\.toml: expected a preset, got nothing there$"):
        load_preset("none.toml")
    Path("a.toml").mkdir()
    with pytest.raises(ParameterError, match=r"^a\.toml: expected a preset, got a folder$"):
        load_preset(Path("a.toml"))
    with pytest.raises(ParameterError, match=r"preset must be a name or a \.toml file, got 3"):
        load_preset(3)  # pyright: ignore[reportArgumentType]
    Path("big.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ParameterError, match=r"^big\.toml: expected a preset of at most 1 MB, got more$"):
        load_preset("big.toml")
    if os.name == "posix" and os.getuid():
        Path("big.toml").chmod(0)
        with pytest.raises(ParameterError, match=r"^big\.toml: expected a preset, got permission denied$"):
            load_preset("big.toml")


# ---- errors ----------------------------------------------------------------------------------------------------------


def kick(text):
    return f"[strip.kick]\n{text}"


def plugin(text):
    return kick(f'pre = [{{ plugin = "Gain" }}, {{ {text} }}]')


SPOT = "strip.kick.pre[1]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # TOML
        ("\n[strip.kick\n", "line 2: expected TOML, got: Expected ']' at the end of a table declaration"),
        ('a = "x', "line 1: expected TOML, got: Unterminated string"),
        ("[strip.kick]\n\n[strip.kick]", "line 3: expected TOML, got: Cannot declare ('strip', 'kick') twice"),
        (b"#\n#\xff", "line 2: expected UTF-8 text, got other bytes"),
        (f"a = {'[' * 50_000}", "expected TOML, got endless nesting or numbers"),
        (f"a = {'9' * 5_000}", "expected TOML, got endless nesting or numbers"),
        # top
        ("strips = 1", "strips must be one of description, model, strip, group, return, got an unknown field"),
        ('"a\\nb" = 1', '"a\\nb" must be one of description, model, strip, group, return, got an unknown field'),
        ("description = 3", "description must be one line of text, got 3"),
        ('description = "a\\u001b[2J"', 'description must be one line of text, got "a\\u001b[2J"'),
        (f"description = 0x{'f' * 6_000}", "description must be one line of text, got a number of more than 64 bits"),
        ("strip = 3", "strip must be a table, got 3"),
        # strips
        ("[strip.kazoo]", f"strip.kazoo must be one of default, {', '.join(ROLES)}, got an unknown role"),
        ("[strip]\nkick = []", "strip.kick must be a table, got []"),
        (
            kick("gain = 3"),
            "strip.kick.gain must be one of pre, post, pan, trim_db, bounds_db, slew_db_per_s, group, sends, got an "
            "unknown field",
        ),
        (kick("group = 'drums'"), 'strip.kick.group must be one of nothing or "" for none, got "drums"'),
        (
            kick("group = 'drum'\n[group.drums]\n[group.band]"),
            'strip.kick.group must be one of drums, band or "" for none, got "drum"',
        ),
        (kick("group = ['drums']\n[group.drums]"), 'must be one of drums or "" for none, got ["drums"]'),
        (kick("sends = { hall = -6 }"), "strip.kick.sends.hall must be one of nothing, got an unknown return"),
        (kick("sends.hal = 0\n[return.hall]"), "strip.kick.sends.hal must be one of hall, got an unknown return"),
        (kick("sends.hall = 25\n[return.hall]"), "strip.kick.sends.hall must be in [-inf, 24], got 25"),
        (kick("sends.hall = '0'\n[return.hall]"), 'strip.kick.sends.hall must be a number, got "0"'),
        (kick("sends = 'hall'"), 'sends must be a table {NAME_OF_A_RETURN = level in dB, ...}, got "hall"'),
        # groups and returns
        ("group = 3", "group must be a table, got 3"),
        ("[group]\ndrums = []", "group.drums must be a table, got []"),
        ('[group.""]', 'group must be one line of text, got ""'),
        ("[group.drums]\npan = 0", "group.drums.pan must be one of chain, trim_db, sends, got an unknown field"),
        ("[return.hall]\nmute = true", "return.hall.mute must be one of chain, trim_db, sends, got an unknown field"),
        ("[group.drums]\ntrim_db = 25", "group.drums.trim_db must be in [-60, 24], got 25.0"),
        ("[group.drums]\nchain = 'Reverb'", 'group.drums.chain must be a list of plugins [{plugin = "..."}, ...], got'),
        (
            "[group.drums]\nchain = [{plugin = 'Kompressor'}]",
            f'group.drums.chain[0].plugin must be one of {", ".join(PLUGINS)}, got "Kompressor"',
        ),
        ("[group.drums]\nsends.drums = 0", "group.drums.sends.drums must be one of nothing, got an unknown return"),
        (
            "[return.c]\nsends.a = 0\n[return.b]\nsends.c = 0\n[return.a]\nsends.b = 0\n[return.d]\nsends.a = 0",
            "return: sends must not lead back to where they come from, got ",
        ),
        (
            "[return.hall]\nsends.hall = -20",
            "return: sends must not lead back to where they come from, got hall -> hall",
        ),
        (kick("trim_db = 99"), "strip.kick.trim_db must be in [-60, 24], got 99.0"),
        (kick("trim_db = nan"), "strip.kick.trim_db must be a number, got nan"),
        (kick("trim_db = true"), "strip.kick.trim_db must be a number, got true"),
        (kick(f"trim_db = 0x{'f' * 6_000}"), "strip.kick.trim_db must be a number, got a number of more than 64 bits"),
        (kick("pan = [0, 2]"), "strip.kick.pan must be in [-1, 1], got 2.0"),
        (kick("pan = []"), "strip.kick.pan must be a number or a list of numbers, got []"),
        (kick("pan = ['left']"), 'strip.kick.pan must be a number, got "left"'),
        (kick("bounds_db = 3"), "strip.kick.bounds_db must be two numbers [least, most], got 3"),
        (kick("bounds_db = [6, -6]"), "strip.kick.bounds_db must be two rising gains in [-inf, 60], got (6.0, -6.0)"),
        (kick("slew_db_per_s = 0"), "strip.kick.slew_db_per_s must be positive or None, got 0.0"),
        (kick("slew_db_per_s = 1979-05-27"), 'strip.kick.slew_db_per_s must be a number, got "1979-05-27"'),
        ('[strip."backing vocals"]\ntrim_db = "x"', 'strip."backing vocals".trim_db must be a number, got "x"'),
        # plugins
        (kick("pre = 3"), 'strip.kick.pre must be a list of plugins [{plugin = "..."}, ...], got 3'),
        (kick('post = ["Gain"]'), 'strip.kick.post[0] must be a table {plugin = "...", ...}, got "Gain"'),
        (plugin("threshold_db = 3"), f"{SPOT} must name either plugin or external, got neither"),
        (plugin('plugin = "Gain", external = "X"'), f"{SPOT} must name either plugin or external, got both"),
        (plugin('plugin = "Kompressor"'), f'{SPOT}.plugin must be one of {", ".join(PLUGINS)}, got "Kompressor"'),
        (plugin("plugin = ['Gain']"), f'{SPOT}.plugin must be one of {", ".join(PLUGINS)}, got ["Gain"]'),
        (plugin('plugin = "Compressor", threshold_db = "loud"'), f'{SPOT}.threshold_db must be a number, got "loud"'),
        (plugin('plugin = "Compressor", ratio = 0.5'), f"{SPOT}.ratio must be in [1, 100], got 0.5"),
        (plugin('plugin = "Compressor", attack_ms = -inf'), f"{SPOT}.attack_ms must be in [0, 1000], got -inf"),
        (plugin('plugin = "HighpassFilter", cutoff_frequency_hz = 9e3'), "_hz must be in [10, 3900], got 9000.0"),
        (
            plugin('plugin = "Compressor", treshold_db = 3'),
            f"{SPOT}.treshold_db must be one of threshold_db, ratio, attack_ms, release_ms, "
            "got an unknown parameter of Compressor",
        ),
        (
            plugin('plugin = "SidechainCompressor", key = "vox"'),
            f'{SPOT}.key must be one of default, {", ".join(ROLES)}, got "vox"',
        ),
        (
            plugin('plugin = "SidechainCompressor", threshold_db = 1'),
            f"{SPOT}.threshold_db must be in [-100, 0], got 1",
        ),
        (
            plugin('plugin = "Invert", mix = 3'),
            f"{SPOT}.mix must be one of nothing, got an unknown parameter of Invert",
        ),
        (
            plugin('plugin = "LadderFilter", mode = "X"'),
            f'{SPOT}.mode must be one of {", ".join(LADDER_MODES)}, got "X"',
        ),
        (plugin('external = ""'), f'{SPOT}.external must be the name of a plugin, got ""'),
        (plugin('external = "X", gain = []'), f"{SPOT}.gain must be a number, a text, true or false, got []"),
    ],
)
def test_errors_are_one_line_with_file_field_expectation_and_value(written, text, says):
    with pytest.raises(ParameterError) as error:
        written(text)
    said = str(error.value)
    assert said.startswith("band.toml: ")
    assert says in said
    assert said.isprintable()
    assert len(said) < 500


def test_long_values_are_cut(written):
    with pytest.raises(ParameterError) as error:
        written(kick(f"trim_db = '{'x' * 1_000}'"))
    assert str(error.value).endswith("xxx...")
    assert len(str(error.value)) < 150


# ---- nothing runs unseen ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "__class__",
        "VST3Plugin",
        "load_plugin",
        "Convolution",
        "PitchShift",
        "AudioStream",
        "alm_plugin.cli.main",
        "/usr/lib/vst3/ZamCompX2.vst3",
    ],
)
def test_only_listed_plugins_are_made(written, name):
    with pytest.raises(ParameterError, match=r"strip\.kick\.pre\[1\]\.plugin must be one of Bitcrush, "):
        written(plugin(f'plugin = "{name}"'))


@pytest.mark.parametrize("model", ["../model.ts", "/tmp/evil.pt", "alm-xl", ""])
def test_a_preset_names_no_model_files(written, model):
    with pytest.raises(ParameterError, match=rf"band\.toml: model must be one of {', '.join(shipped())}, got"):
        written(f'model = "{model}"')


@pytest.mark.parametrize("name", ["ZamCompX2", "/usr/lib/vst3/ZamCompX2.vst3", "../evil.vst3"])
def test_external_plugins_that_the_user_has_not_scanned_are_not_loaded(written, name, monkeypatch):
    from alm_plugin.nodes.external import host, registry

    def never(*_, **__):
        pytest.fail("a file made a plugin run")

    monkeypatch.setattr(host, "load", never)
    monkeypatch.setattr(registry, "_probe", never)
    preset = written(plugin(f'external = "{name}", ratio = 3'))
    with pytest.raises(ParameterError, match=r"band\.toml: strip\.kick\.pre\[1\]: .*expected a plugin of the registry"):
        preset.strip(role="kick")
    assert preset.strip(role="vocals").role == "vocals"


def test_external_plugins_of_the_registry(written, zam, rng):
    from alm_plugin.nodes.external.isolated import Isolated
    from alm_plugin.nodes.external.registry import scan_file

    scan_file(zam / "ZamCompX2.vst3")
    settings = 'external = "ZamCompX2", threshold_db = -30, ratio = 4'
    strip = written(plugin(settings)).strip(role="kick")
    assert (strip.pre[1].name, strip.pre[1].threshold_db) == ("ZamCompX2", -30.0)
    assert strip.pre[1].ratio == pytest.approx(4.0, abs=0.01)
    x = pink(rng, 2, 0.5, -20.0)
    here = strip.process(x, RATE)
    assert np.isfinite(here).all()
    preset = written(plugin(f"{settings}, isolated = true"))
    assert preset.settings("kick").pre[1].table["isolated"] is True
    apart = preset.strip(role="kick")
    assert isinstance(apart.pre[1], Isolated)
    np.testing.assert_array_equal(apart.process(x, RATE), here)
    with pytest.raises(ParameterError, match=r"pre\[1\]\.isolated must be true or false, got 1"):
        written(plugin('external = "ZamCompX2", isolated = 1'))
    for wrong, says in (
        ("treshold_db = 1", r"\.treshold_db must be one of .*threshold_db.*, got an unknown parameter of ZamCompX2"),
        ("process = 1", r"\.process must be one of .*, got an unknown parameter of ZamCompX2"),
        ("raw_state = 'x'", r"\.raw_state must be one of .*, got an unknown parameter of ZamCompX2"),
        ("makeup_db = 999", r"\.makeup_db must be in \[.*\], got 999"),
        ("makeup_db = 'loud'", r"\.makeup_db must be in \[.*\], got 'loud'"),
    ):
        preset = written(plugin(f'external = "ZamCompX2", {wrong}'))
        with pytest.raises(ParameterError, match=r"^band\.toml: strip\.kick\.pre\[1\]" + says):
            preset.strip(role="kick")


# ---- the page that says it all ---------------------------------------------------------------------------------------


def tables(text):
    """Rows of each table of a page, by its first heading."""
    found, rows = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            rows = None
        elif rows is None:
            found.append(rows := [])
        elif not set(cells[0]) <= set("-") or not cells[0]:
            rows.append(cells)
    return found


def test_every_field_and_parameter_is_documented_with_its_range_and_default():
    text = (BANDS / "README.md").read_text(encoding="utf-8")
    top, strip, bus, plugins = tables(text)
    assert tuple(row[0].strip("`") for row in top) == FIELDS
    assert tuple(row[0].strip("`") for row in strip) == STRIP_FIELDS
    assert tuple(row[0].strip("`") for row in bus) == BUS_FIELDS
    written, name = {}, ""
    for cell, parameter, _, limits, default in plugins:
        name = cell.split("`")[1] if cell else name
        written.setdefault(name, {})
        if parameter != "none":
            written[name][parameter.strip("`")] = (limits, default)
    assert set(written) == set(PLUGINS)
    for name, (make, ranges) in PLUGINS.items():
        assert set(written[name]) == set(ranges), name
        made = make()
        for parameter, limits in ranges.items():
            said, default = written[name][parameter]
            if parameter == "key":
                assert (limits, said, default) == (("default", *ROLES), "a role, default", "none: itself")
                assert made.key is None
                continue
            if parameter == "mode":
                assert said == ", ".join(LADDER_MODES)
                assert f"LadderFilter.{default} " in repr(made)
                continue
            assert said == f"{limits[0]:g} to {limits[1]:g}", (name, parameter)
            assert default == f"{getattr(made, parameter):.4g}", (name, parameter)
    for role in ROLES:
        assert f"`{role}`" in text
    assert set(inspect.signature(StripSettings).parameters) == set(STRIP_FIELDS)
    assert set(inspect.signature(BusSettings).parameters) == set(BUS_FIELDS)


def test_plugins_have_all_the_parameters_that_pedalboard_has():
    for name, (_, ranges) in PLUGINS.items():
        if name not in ("Gain", "SidechainCompressor"):  # they are ours
            kind = getattr(pedalboard, name)
            names = [attribute for attribute in dir(kind) if inspect.isdatadescriptor(getattr(kind, attribute))]
            assert {n for n in names if not n.startswith("_")} - {"is_effect", "is_instrument"} == set(ranges), name


def test_the_pages_example_loads(written):
    text = (BANDS / "README.md").read_text(encoding="utf-8")
    preset = written(text.split("```toml\n")[1].split("```")[0])
    assert preset.strip(role="vocals").trim_db == 1.0
    assert len(preset.strip(role="vocals").pre) == 2
    assert list(preset.mixer({"vox": "vocals", "gtr": "guitar"}).returns) == ["room"]


def test_public_names():
    assert alm_plugin.load_preset is load_preset
    assert isinstance(load_preset("rock"), alm_plugin.Preset)
    assert {"Preset", "load_preset"} <= set(alm_plugin.__all__)


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def stems(tmp_path, rng):
    folder = tmp_path / "stems"
    folder.mkdir()
    for name, level in (("vocals", -26), ("gtr1", -20), ("gtr2", -20), ("tape", -23)):
        soundfile.write(folder / f"{name}.wav", pink(rng, 1, 0.6, level)[0], RATE)
    return folder


def test_presets_lists_them(capsys):
    assert run("presets") == 0
    said = capsys.readouterr().out
    for name in SHIPPED:
        assert name in said
    assert run("presets", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == SHIPPED
    assert listed[3]["description"] == load_preset("rock").description
    assert listed[3]["path"] == str(BANDS / "rock.toml")


def test_a_broken_preset_hides_no_other(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # else where the line breaks depends on the length of the folder's name
    (user_bands_dir() / "mine.toml").write_text("gain = 3")
    assert run("presets", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {*SHIPPED, "mine"}
    assert "mine.toml: gain must be one of" in rows["mine"]["error"]
    assert run("presets") == 0
    assert "gain must be" in capsys.readouterr().out


@pytest.mark.parametrize("name", SHIPPED)
def test_presets_shows_what_each_role_gets(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run("presets", name) == 0
    said = capsys.readouterr().out
    assert str(BANDS / f"{name}.toml") in said
    preset = load_preset(name)
    assert preset.description in said
    for role, strip in preset.strips.items():
        assert (role if role != "default" else "all others") in said
        for one in (*strip.pre, *strip.post):
            assert str(one) in said
        assert strip.group is None or strip.group in said
        for target, level_db in strip.sends.items():
            assert f"{target} {level_db:+g}" in said
    for bus, settings in (preset.groups | preset.returns).items():
        assert bus in said
        for one in settings.chain:
            assert str(one) in said
    assert run("presets", name, "--json") == 0
    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    given = tomllib.loads((BANDS / f"{name}.toml").read_text())
    assert shown["model"] == given["model"]
    for role, table in given["strip"].items():
        assert shown["strips"][role]["pre"] == table.get("pre", given["strip"]["default"]["pre"])
        assert shown["strips"][role]["sends"] == table.get("sends", {})
        assert shown["strips"][role]["group"] == table.get("group")
    for kind in ("group", "return"):
        for bus, table in given.get(kind, {}).items():
            assert shown[f"{kind}s"][bus] == {"chain": [], "trim_db": 0.0, "sends": {}} | table


def test_mix_with_a_preset(stems, tmp_path, capsys, monkeypatch):
    (user_bands_dir() / "duo.toml").write_text(
        'model = "unity"\n[strip.vocals]\ntrim_db = 2\npost = [{ plugin = "Gain", gain_db = 6 }]\n'
        '[strip.guitar]\npan = [-1, 1]\nbounds_db = [-60, -3]\n[strip.default]\npre = [{ plugin = "Invert" }]\n'
    )
    arguments = ["mix", stems, "--preset", "duo", "-o", tmp_path / "mix.wav", "--automation", tmp_path / "gains.csv"]
    arguments += ["--trim", "vocals=+1.5", "--lock", "tape=-60", "--stems-out", tmp_path / "out", "--json"]
    assert run(*arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "unity"
    channels = {channel["name"]: channel for channel in report["channels"]}
    assert {name: channel["role"] for name, channel in channels.items()} == {
        "vocals": "vocals",
        "gtr1": "guitar",
        "gtr2": "guitar",
        "tape": None,
    }
    curves = read_csv(tmp_path / "gains.csv").gains_db
    assert [float(curves[name][-1]) for name in ("vocals", "gtr1", "tape")] == [3.5, -3.0, -60.0]
    # Trim, then the gain behind it; left is the first guitar's, right the second's.
    by_hand = Mixer(
        {
            "vocals": Strip(post=PluginSettings("Gain", {"gain_db": 6}).build(), trim_db=3.5),
            "gtr1": Strip(pan=-1.0, lock_db=-3.0),
            "gtr2": Strip(pan=1.0, lock_db=-3.0),
            "tape": Strip(PluginSettings("Invert", {}).build(), lock_db=-60.0),
        },
        model="unity",
    )
    for strip in (by_hand["vocals"], by_hand["gtr1"], by_hand["gtr2"]):
        strip.pre.append(PluginSettings("Invert", {}).build())
    read = {name: np.float32(soundfile.read(stems / f"{name}.wav")[0]) for name in by_hand}
    mix = soundfile.read(tmp_path / "mix.wav", dtype="float32")[0].T
    np.testing.assert_allclose(mix, by_hand.process(read, RATE), atol=1e-6)


def test_a_model_that_is_asked_for_and_a_role_win_over_the_presets(stems, tmp_path, capsys):
    arguments = ["mix", stems, "-o", tmp_path / "mix.wav", "--json", "--preset", "speech-panel"]
    assert run(*arguments) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "loudness"
    assert run(*arguments, "--model", "unity", "--role", "gtr1=none", "--role", "tape=keys") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "unity"
    assert {channel["name"]: channel["role"] for channel in report["channels"]} == {
        "gtr1": None,
        "gtr2": "guitar",
        "tape": "keys",
        "vocals": "vocals",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "folk"], "preset must be one of acoustic, "),
        (["--preset", "../../x"], "got '../../x'"),
        (["--preset", "none.toml"], "none.toml: expected a preset, got nothing there"),
        (["--preset", "bad.toml"], "bad.toml: strip.vocals.pre[0].ratio must be in [1, 100], got 0"),
        (["--preset", "unknown.toml"], "unknown.toml: strip.vocals.pre[0]: "),
        (["--preset", "rock", "--role", "tape=kazoo"], "tape: role must be one of vocals, "),
        (["--preset", "acoustic", "--trim", "vocals=24"], "vocals: trim_db must be in [-60, 24], got 25"),
        (["--preset", "rock", "--model", "alm-xl"], "model must be one of"),
    ],
)
def test_what_does_not_fit_is_one_line_status_2_and_nothing_written(
    stems, tmp_path, monkeypatch, capsys, arguments, says
):
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text('[strip.vocals]\npre = [{ plugin = "Compressor", ratio = 0 }]')
    Path("unknown.toml").write_text('[strip.vocals]\npre = [{ external = "Nobody\'s" }]')
    assert run("mix", "stems", "-o", "mix.wav", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("alm: ")
    assert says in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.toml", "stems", "unknown.toml"]


def test_showing_what_is_not_there_is_status_2(capsys):
    assert run("presets", "folk") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert issubclass(ParameterError, AlmError)
