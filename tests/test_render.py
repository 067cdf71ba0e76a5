import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from pedalboard_native._internal import AddLatency

from alm_plugin import AudioFileError, Automation, Mixer, ParameterError, Strip, find_tracks, render_files
from alm_plugin.data import staged


def tone(frequency_hz, seconds, sample_rate, amplitude=0.1):
    return amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * sample_rate)) / sample_rate)


def write(path, audio, sample_rate=48_000, **kwargs):
    soundfile.write(path, np.asarray(audio).T, sample_rate, **kwargs)
    return path


def unity(tracks, **kwargs):
    return Mixer({track.name: Strip() for track in tracks}, model="unity", **kwargs)


def level_at(audio, frequency_hz, sample_rate):
    t = np.arange(len(audio)) / sample_rate
    return 2 * np.abs(np.mean(audio * np.exp(-2j * np.pi * frequency_hz * t)))


def test_unity_is_the_plain_sum_to_the_sample(tmp_path, rng):
    stems = [rng.standard_normal(48_000 + 1_000 * i) * 0.05 for i in range(3)]
    for i, stem in enumerate(stems):
        write(tmp_path / f"{i}.wav", stem, subtype="FLOAT")
    tracks = find_tracks([tmp_path])
    report = render_files(tracks, tmp_path / "mix.flac", unity(tracks), bits=24)
    mix, rate = soundfile.read(tmp_path / "mix.flac")
    want = sum(np.pad(stem, (0, 50_000 - len(stem))) for stem in stems)
    assert rate == 48_000
    np.testing.assert_allclose(mix, np.stack([want, want], axis=1), atol=2**-23)
    assert report.faults == {}
    assert report.peak_dbfs == pytest.approx(20 * np.log10(np.abs(want).max()), abs=0.01)


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff", "ogg", "mp3"])
def test_reads_every_format(tmp_path, ending):
    write(tmp_path / f"a.{ending}", tone(440, 1.0, 44_100), 44_100)
    tracks = find_tracks([tmp_path / f"a.{ending}"])
    render_files(tracks, tmp_path / "mix.wav", unity(tracks))
    mix, rate = soundfile.read(tmp_path / "mix.wav")
    assert rate == 44_100
    assert level_at(mix[5_000:35_000, 0], 440, rate) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_one_folder_of_many_rates_lengths_and_widths(tmp_path, rate):
    write(tmp_path / "a.wav", tone(300, 1.0, 8_000), 8_000)
    write(tmp_path / "b.wav", tone(500, 0.5, 44_100), 44_100)
    write(tmp_path / "c.flac", [tone(700, 0.8, 48_000), tone(900, 0.8, 48_000)], 48_000)
    tracks = find_tracks([tmp_path])
    assert [(t.name, t.width, t.sample_rate) for t in tracks] == [("a", 1, 8_000), ("b", 1, 44_100), ("c", 2, 48_000)]
    render_files(tracks, tmp_path / "mix.wav", unity(tracks), sample_rate=rate)
    mix, got = soundfile.read(tmp_path / "mix.wav")
    assert (got, len(mix)) == (rate, rate)
    early = mix[: int(0.4 * rate)]
    for side in (0, 1):
        assert level_at(early[:, side], 300, rate) == pytest.approx(0.1, rel=0.02)
        assert level_at(early[:, side], 500, rate) == pytest.approx(0.1, rel=0.02)
    assert level_at(early[:, 0], 700, rate) == pytest.approx(0.1, rel=0.02)
    assert level_at(early[:, 1], 700, rate) < 0.002
    assert level_at(early[:, 1], 900, rate) == pytest.approx(0.1, rel=0.02)


def test_conversion_neither_delays_nor_drops(tmp_path):
    click = np.zeros(44_100)
    click[22_050] = 1.0
    write(tmp_path / "a.wav", click, 44_100, subtype="FLOAT")
    write(tmp_path / "b.wav", np.zeros(48_000), 48_000)
    tracks = find_tracks([tmp_path])
    render_files(tracks, tmp_path / "mix.wav", unity(tracks))
    mix, rate = soundfile.read(tmp_path / "mix.wav")
    assert rate == 48_000
    assert abs(int(np.abs(mix[:, 0]).argmax()) - 24_000) <= 1


def test_conversion_keeps_the_last_milliseconds(tmp_path):
    write(tmp_path / "a.wav", tone(1_000, 1.0, 44_100), 44_100)
    tracks = find_tracks([tmp_path / "a.wav"])
    render_files(tracks, tmp_path / "mix.wav", unity(tracks), sample_rate=48_000)
    mix, _ = soundfile.read(tmp_path / "mix.wav")
    assert level_at(mix[-240:, 0], 1_000, 48_000) == pytest.approx(0.1, rel=0.05)


def test_a_converted_track_is_long_enough_for_its_last_sample(tmp_path):
    write(tmp_path / "a.wav", np.zeros(44_101), 44_100)
    tracks = find_tracks([tmp_path / "a.wav"])
    report = render_files(tracks, tmp_path / "mix.wav", unity(tracks), sample_rate=48_000)
    assert soundfile.info(tmp_path / "mix.wav").frames == 48_002
    assert report.seconds == 48_002 / 48_000


def test_mp3_is_read_in_blocks_as_in_one_go(tmp_path):
    write(tmp_path / "a.mp3", tone(440, 4.0, 44_100, 0.3), 44_100)
    tracks = find_tracks([tmp_path / "a.mp3"])
    render_files(tracks, tmp_path / "mix.wav", unity(tracks))
    np.testing.assert_allclose(
        soundfile.read(tmp_path / "mix.wav")[0][:, 0], soundfile.read(tmp_path / "a.mp3")[0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("left", "right", "name"),
    [
        ("gtr_L", "gtr_R", "gtr"),
        ("keys L", "keys R", "keys"),
        ("oh.left", "oh.right", "oh"),
        ("Pad-l", "Pad-r", "Pad"),
        ("gtr1L", "gtr1R", "gtr1"),
    ],
)
def test_left_right_pairs_are_one_channel(tmp_path, left, right, name):
    write(tmp_path / f"{left}.wav", tone(300, 0.5, 48_000))
    write(tmp_path / f"{right}.wav", tone(500, 0.5, 48_000))
    write(tmp_path / "vocal.wav", tone(900, 0.5, 48_000))
    tracks = find_tracks([tmp_path])
    assert sorted((t.name, t.width) for t in tracks) == sorted([(name, 2), ("vocal", 1)])
    render_files(tracks, tmp_path / "mix.wav", unity(tracks))
    mix, rate = soundfile.read(tmp_path / "mix.wav")
    assert level_at(mix[:, 0], 300, rate) == pytest.approx(0.1, rel=0.02)
    assert level_at(mix[:, 1], 300, rate) < 0.002
    assert level_at(mix[:, 1], 500, rate) == pytest.approx(0.1, rel=0.02)


def test_what_only_looks_like_a_pair_stays_apart(tmp_path):
    write(tmp_path / "gtr_L.wav", tone(300, 0.5, 48_000))
    write(tmp_path / "gtr_R.wav", tone(300, 0.6, 48_000))  # another length
    write(tmp_path / "vocal.wav", tone(300, 0.5, 48_000))
    write(tmp_path / "vocar.wav", tone(300, 0.5, 48_000))
    assert [t.name for t in find_tracks([tmp_path])] == ["gtr_L", "gtr_R", "vocal", "vocar"]


@pytest.mark.parametrize(
    ("ending", "bits", "subtype"),
    [
        ("wav", None, "FLOAT"),
        ("wav", 24, "PCM_24"),
        ("wav", 16, "PCM_16"),
        ("flac", None, "PCM_24"),
        ("flac", 16, "PCM_16"),
        ("aiff", 24, "PCM_24"),
        ("ogg", None, "VORBIS"),
    ],
)
def test_writes_formats_and_depths(tmp_path, ending, bits, subtype):
    write(tmp_path / "a.wav", tone(440, 0.5, 48_000))
    tracks = find_tracks([tmp_path / "a.wav"])
    render_files(tracks, tmp_path / f"mix.{ending}", unity(tracks), bits=bits)
    assert soundfile.info(tmp_path / f"mix.{ending}").subtype == subtype
    mix, rate = soundfile.read(tmp_path / f"mix.{ending}")
    assert level_at(mix[2_000:20_000, 1], 440, rate) == pytest.approx(0.1, rel=0.02)


def test_16_bits_are_dithered(tmp_path):
    write(tmp_path / "a.wav", tone(440, 1.0, 48_000, amplitude=0.4 / 32768), subtype="FLOAT")
    tracks = find_tracks([tmp_path / "a.wav"])
    render_files(tracks, tmp_path / "mix.wav", unity(tracks), bits=16)
    mix, rate = soundfile.read(tmp_path / "mix.wav")
    # Undithered, a tone of less than half a step would be silence.
    assert level_at(mix[:, 0], 440, rate) == pytest.approx(0.4 / 32768, rel=0.2)


def test_stems_add_up_to_the_mix(tmp_path, rng):
    write(tmp_path / "a.wav", rng.standard_normal(96_000) * 0.05, subtype="FLOAT")
    write(tmp_path / "b.wav", rng.standard_normal((2, 96_000)) * 0.2, subtype="FLOAT")
    tracks = find_tracks([tmp_path])
    (tmp_path / "stems").mkdir()
    mixer = Mixer({"a": Strip(), "b": Strip()}, ceiling_db=None)
    render_files(tracks, tmp_path / "mix.wav", mixer, stems_dir=tmp_path / "stems")
    mix, _ = soundfile.read(tmp_path / "mix.wav")
    a, _ = soundfile.read(tmp_path / "stems" / "a.wav", always_2d=True)
    b, _ = soundfile.read(tmp_path / "stems" / "b.wav")
    np.testing.assert_allclose(a + b, mix, atol=1e-6)


def test_latency_is_taken_out_again(tmp_path, zam):
    from pedalboard import load_plugin

    click = np.zeros(48_000)
    click[20_000] = 0.25
    write(tmp_path / "a.wav", click, subtype="FLOAT")
    write(tmp_path / "b.wav", click, subtype="FLOAT")
    tracks = find_tracks([tmp_path])
    limiter = load_plugin(str(zam / "ZaMaximX2.vst3"))
    mixer = Mixer({"a": Strip([limiter]), "b": Strip()}, model="unity")
    write(tmp_path / "a.wav", np.stack([click, click]), subtype="FLOAT")
    tracks = find_tracks([tmp_path / "a.wav", tmp_path / "b.wav"])
    report = render_files(tracks, tmp_path / "mix.wav", mixer)
    mix, _ = soundfile.read(tmp_path / "mix.wav")
    assert report.latency_samples == 480
    assert len(mix) == 48_000
    assert int(np.abs(mix[:, 0]).argmax()) == 20_000


def test_stems_are_not_late_either(tmp_path):
    click = np.zeros(12_000)
    click[5_000] = 0.25
    for name in "ab":
        write(tmp_path / f"{name}.wav", click, subtype="FLOAT")
    (tmp_path / "stems").mkdir()
    mixer = Mixer({"a": Strip([AddLatency(100)], [AddLatency(30)]), "b": Strip()}, model="unity")
    render_files(find_tracks([tmp_path]), tmp_path / "mix.wav", mixer, stems_dir=tmp_path / "stems")
    for path in (tmp_path / "mix.wav", tmp_path / "stems" / "a.wav", tmp_path / "stems" / "b.wav"):
        audio = soundfile.read(path, always_2d=True)[0][:, 0]
        assert len(audio) == 12_000
        assert np.flatnonzero(audio).tolist() == [5_000]


def test_the_report_says_what_was_done(tmp_path):
    write(tmp_path / "a.wav", tone(997, 2.0, 48_000) - 0.2, subtype="FLOAT")
    tracks = find_tracks([tmp_path / "a.wav"])
    curve = Automation(np.array([0.0, 0.5, 1.5]), {"a": np.float32([-12.0, -14.0, -13.0])})
    mixer = Mixer({"a": Strip(role="keys")}, "unity", 1, automation=curve)
    report = render_files(tracks, tmp_path / "mix.wav", mixer)
    (channel,) = report.channels
    assert (channel.name, channel.role) == ("a", "keys")
    assert channel.input_lufs == pytest.approx(-23.0, abs=0.1)
    assert channel.output_lufs == pytest.approx(-36.3, abs=0.1)
    assert report.loudness_lufs == pytest.approx(channel.output_lufs, abs=1e-6)
    assert (channel.least_gain_db, channel.most_gain_db, channel.last_gain_db) == (-14.0, -12.0, -13.0)
    assert channel.mean_gain_db == pytest.approx(-13.25)
    mix = soundfile.read(tmp_path / "mix.wav")[0]
    assert report.peak_dbfs == pytest.approx(20 * np.log10(-mix.min()), abs=1e-4)


def test_a_mixer_renders_the_same_again_and_keeps_no_observer(tmp_path, rng):
    write(tmp_path / "a.wav", rng.standard_normal(48_000) * 0.05, subtype="FLOAT")
    tracks = find_tracks([tmp_path / "a.wav"])
    mixer = Mixer({"a": Strip()}, "loudness")
    mixes = []
    for _ in range(2):
        render_files(tracks, tmp_path / "mix.wav", mixer)
        mixes.append(soundfile.read(tmp_path / "mix.wav")[0])
    np.testing.assert_array_equal(*mixes)
    assert mixer.observers == []


def test_progress_ends_at_the_end(tmp_path):
    write(tmp_path / "a.wav", tone(440, 1.0, 48_000))
    tracks = find_tracks([tmp_path / "a.wav"])
    seen = []
    mixer = Mixer({"a": Strip([AddLatency(100)])}, "unity")
    render_files(tracks, tmp_path / "mix.wav", mixer, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (48_000, 48_000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def bad_inputs():
    def missing(folder):
        return [folder / "nothing.wav"]

    def empty(folder):
        (folder / "a.wav").touch()
        return [folder / "a.wav"]

    def junk(folder):
        (folder / "a.wav").write_bytes(os.urandom(10_000))
        return [folder / "a.wav"]

    def text(folder):
        (folder / "notes.txt").write_text("not audio")
        return [folder / "notes.txt"]

    def zero_length(folder):
        return [write(folder / "a.wav", np.zeros(0))]

    def folder_without_audio(folder):
        (folder / "notes.txt").write_text("not audio")
        return [folder]

    def six_channels(folder):
        return [write(folder / "a.wav", np.zeros((6, 100)))]

    def same_name(folder):
        (folder / "x").mkdir()
        return [write(folder / "a.wav", np.zeros(100)), write(folder / "x" / "a.flac", np.zeros(100))]

    def odd_rate(folder):
        return [write(folder / "a.wav", np.zeros(100), 4_000)]

    return [missing, empty, junk, text, zero_length, folder_without_audio, six_channels, same_name, odd_rate]


@pytest.mark.parametrize("make", bad_inputs(), ids=lambda make: make.__name__)
def test_bad_input_is_named_in_one_line(tmp_path, make):
    with pytest.raises(AudioFileError) as caught:
        find_tracks(make(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert "expected" in message or "must be" in message
    assert "got" in message


def test_65_tracks_are_too_many(tmp_path):
    for i in range(65):
        write(tmp_path / f"{i}.wav", np.zeros(10))
    with pytest.raises(ParameterError, match="1 to 64 channels, got 65"):
        find_tracks([tmp_path])


def leftovers(folder: Path):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith("in.wav"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_a_file_stops_with_its_place_and_leaves_nothing(tmp_path, bad):
    audio = np.zeros(100_000, np.float32)
    audio[70_123] = bad
    write(tmp_path / "a-in.wav", audio, subtype="FLOAT")
    (tmp_path / "stems").mkdir()
    tracks = find_tracks([tmp_path / "a-in.wav"])
    old = [tmp_path / "mix.wav", tmp_path / "stems" / "a-in.wav"]
    for path in old:
        path.write_bytes(b"the mix of yesterday")
    mixer = unity(tracks)
    with pytest.raises(AudioFileError, match=f"a-in.wav: expected finite samples, got {bad} at sample 70123"):
        render_files(tracks, old[0], mixer, stems_dir=tmp_path / "stems")
    assert [path.read_bytes() for path in old] == [b"the mix of yesterday"] * 2
    assert leftovers(tmp_path) == ["mix.wav", "stems"]
    assert len(list((tmp_path / "stems").iterdir())) == 1
    assert mixer.observers == []


@pytest.mark.parametrize("name", ["mix.xyz", "mix", "no/such/folder/mix.wav"])
def test_impossible_outputs_are_refused_before_work(tmp_path, name):
    write(tmp_path / "a-in.wav", np.zeros(100))
    tracks = find_tracks([tmp_path / "a-in.wav"])
    with pytest.raises(AudioFileError, match="expected"):
        render_files(tracks, tmp_path / name, unity(tracks))
    assert leftovers(tmp_path) == []


def test_32_bit_flac_is_refused_before_work(tmp_path):
    write(tmp_path / "a-in.wav", np.zeros(100))
    tracks = find_tracks([tmp_path / "a-in.wav"])
    with pytest.raises(AudioFileError, match="expected 16 or 24 bits for FLAC, got 32"):
        render_files(tracks, tmp_path / "mix.flac", unity(tracks), bits=32)
    assert leftovers(tmp_path) == []


def test_a_folders_tracks_are_sorted_and_hidden_files_are_not_tracks(tmp_path):
    for name in ("c", "._a", "a", ".mix.part", "b"):
        write(tmp_path / f"{name}.wav", np.zeros(100))
    assert [track.name for track in find_tracks([tmp_path])] == ["a", "b", "c"]


def test_a_track_is_not_overwritten(tmp_path):
    write(tmp_path / "a-in.wav", np.zeros(100))
    tracks = find_tracks([tmp_path / "a-in.wav"])
    with pytest.raises(AudioFileError, match="none of the tracks, got track 'a-in'"):
        render_files(tracks, tmp_path / "a-in.wav", unity(tracks))


def test_a_track_that_shrinks_while_it_is_read_is_named(tmp_path):
    write(tmp_path / "a-in.wav", tone(440, 2.0, 48_000), subtype="PCM_16")
    tracks = find_tracks(tmp_path / "a-in.wav")

    def cut(done, total):
        os.truncate(tmp_path / "a-in.wav", 60_000)

    with pytest.raises(AudioFileError, match=r"a-in\.wav: expected 96000 samples, got \d+"):
        render_files(tracks, tmp_path / "mix.wav", unity(tracks), progress=cut)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("left", "right", "name"), [("OHL", "OHR", "OH"), ("tom (L)", "tom (R)", "tom"), ("bassLeft", "bassRight", "bass")]
)
def test_more_spellings_of_sides(tmp_path, left, right, name):
    write(tmp_path / f"{right}.wav", tone(300, 0.1, 48_000))
    write(tmp_path / f"{left}.wav", tone(500, 0.1, 48_000))
    (track,) = find_tracks([tmp_path])
    assert (track.name, track.paths[0].stem, track.width) == (name, left, 2)


def test_more_than_4_gb_become_rf64(tmp_path, monkeypatch):
    write(tmp_path / "a-in.wav", tone(440, 0.5, 48_000))
    tracks = find_tracks(tmp_path / "a-in.wav")
    monkeypatch.setattr("alm_plugin.render.LARGEST", 100_000)
    render_files(tracks, tmp_path / "mix.wav", unity(tracks))
    assert soundfile.info(tmp_path / "mix.wav").format == "RF64"
    with pytest.raises(AudioFileError, match=r"mix\.aiff: expected less than 4 GB for AIFF"):
        render_files(tracks, tmp_path / "mix.aiff", unity(tracks))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    signal = pytest.importorskip("signal")
    write(tmp_path / "a-in.wav", tone(440, 10.0, 48_000))
    tracks = find_tracks([tmp_path / "a-in.wav"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(AudioFileError, match=r"mix\.wav: expected to write"):
            render_files(tracks, tmp_path / "mix.wav", unity(tracks))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert leftovers(tmp_path) == []


def test_a_file_that_is_shorter_on_disk_is_not_passed_off_as_whole(tmp_path, monkeypatch):
    write(tmp_path / "a-in.wav", np.zeros(4_800))
    tracks = find_tracks([tmp_path / "a-in.wav"])
    monkeypatch.setattr(soundfile, "info", lambda _: SimpleNamespace(frames=4_799))
    with pytest.raises(AudioFileError, match=r"mix\.wav: expected to write 4800 samples, got 4799 on disk"):
        render_files(tracks, tmp_path / "mix.wav", unity(tracks))
    assert leftovers(tmp_path) == []


def test_staged_files_get_ordinary_permissions(tmp_path):
    with staged(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
