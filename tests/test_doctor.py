import copy
import json
import multiprocessing
import os
import sys
import threading

import numpy as np
import pytest
import torch
from rich.console import Console

from alm_plugin import ParameterError, doctor
from alm_plugin.cli import main
from alm_plugin.errors import ModelError
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock
from alm_plugin.models.registry import load_model
from alm_plugin.models.unity import Unity
from alm_plugin.nodes import external
from alm_plugin.nodes.external import PluginEntry

CHEAP = {"features": 0.1, "step": 0.2, "embed": 3.0, "mix": 0.05}
GOOD = {
    "versions": {"alm": "0.1.0", "soundfile": None},
    "cpu": {"name": "X", "cores": 4, "governor": "performance", "load": 0.5, "real_time": True, "rtprio_limit": 95},
    "threads": {"omp_num_threads": "1", "torch": 1},
    "denormals": {"flushed": False, "times_slower": 1.0},
    "timer": {"resolution_us": 0.001, "late_p50_ms": 0.1, "late_p99_ms": 0.2},
    "audio": {"jack_server": "jackd", "libjack": True, "libportaudio": True},
    "model": {"name": "alm-mr", "sha256": "", **vars(MULTI_RATE)},
    "plugins": {"usable": 3, "late": 0, "bad": [], "changed": 0},
    "times": [],
    "live": {
        "channels_asked": 8,
        "channels_idle": 32,
        "channels_now": 32,
        "measured_up_to": 32,
        "loads_idle": {"step": 0.1, "embed": 0.2, "mix": 0.3},
        "loads_now": {"step": 0.2, "embed": 0.4, "mix": 0.6},
    },
}


def made_up_time(what, channels, run, runs):
    """A row that took, per channel, what CHEAP says; the thing to be timed does run."""
    run()
    cpu_ms = CHEAP[what] * channels / (doctor.STRIPS if what == "mix" else 1)
    times = {"cpu_p50_ms": cpu_ms, "wall_p50_ms": cpu_ms, "wall_p99_ms": 1.5 * cpu_ms}
    return {"what": what, "channels": channels, "runs": 1} | times


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Nothing is timed, and the user's registry is an empty folder's."""
    monkeypatch.setattr(doctor, "_time", made_up_time)
    monkeypatch.setattr(doctor, "timer", lambda: GOOD["timer"])
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def good_machine(monkeypatch):
    for part in ("cpu", "threads", "denormals", "audio", "plugins"):
        monkeypatch.setattr(doctor, part, lambda part=part: GOOD[part])


def costs(counts=(1, 8, 16, 32), fixed=None, **per_channel):
    """Costs that grow by so much per channel."""
    return {n: (fixed or dict.fromkeys(CHEAP, 0.0)) | {k: v * n for k, v in per_channel.items()} for n in counts}


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_step_has_the_slack_less_a_block_and_embed_what_the_steps_leave_of_its_lag():
    cost = {"features": 2.0, "step": 3.0, "embed": 120.0, "mix": 4.0 / 3.0}
    got = doctor.loads(MULTI_RATE, cost)
    assert got == pytest.approx({"step": 5.0 / (20.0 - 8.0 / 3.0), "embed": (120.0 + 6 * 5.0) / 300.0, "mix": 0.5})


def test_without_a_lag_the_embedding_is_part_of_the_step():
    cost = {"features": 2.0, "step": 3.0, "embed": 12.0, "mix": 0.0}
    assert doctor.loads(SINGLE_RATE, cost) == pytest.approx({"step": 17.0 / (20.0 - 8.0 / 3.0), "embed": 0, "mix": 0})


def test_a_lag_longer_than_the_stride_gives_no_more_time():
    cost = {"features": 0.0, "step": 0.0, "embed": 240.0, "mix": 0.0}
    assert doctor.loads(ModelClock(embedding_lag=20), cost)["embed"] == pytest.approx(0.8)
    assert doctor.loads(ModelClock(embedding_lag=3), cost)["embed"] == pytest.approx(1.6)


def test_a_slack_within_a_block_fits_nobody():
    clock = ModelClock(slack_ms=2)
    assert doctor.loads(clock, CHEAP)["step"] == np.inf
    assert doctor.most_channels(clock, costs(**CHEAP)) == 0


@pytest.mark.parametrize(
    ("per_channel", "most"),
    [
        ({"embed": 300.0 / 20.5}, 20),  # 20.5 channels fill the lag
        ({"features": 0.5, "step": 0.5}, 17),  # of 17.33 ms
        ({"mix": doctor.BLOCK_MS / 10.5}, 10),
        ({"embed": 12.0, "mix": doctor.BLOCK_MS / 4.5}, 4),
        ({"embed": 1.0}, 32),  # no more is claimed than was measured
        ({"step": 100.0}, 0),
        ({"step": np.nan}, 0),
    ],
)
def test_the_most_channels_are_those_before_the_first_that_is_late(per_channel, most):
    assert doctor.most_channels(MULTI_RATE, costs(**per_channel)) == most


def test_a_lucky_measurement_behind_a_late_one_counts_for_nothing():
    measured = costs(embed=1.0)
    measured[16]["embed"] = 900.0
    assert 8 <= doctor.most_channels(MULTI_RATE, measured) < 16


def test_cpu_time_counts_with_the_margin_and_the_wall_as_it_was():
    rows = [made_up_time(what, n, lambda: None, 1) for n in (1, 8, 16) for what in ("features", "step", "embed")]
    rows.append(made_up_time("mix", doctor.STRIPS, lambda: None, 1))
    fit = doctor.live(MULTI_RATE, rows, 8)
    assert fit["loads_idle"] == doctor.loads(MULTI_RATE, {k: 2.0 * 8 * v for k, v in CHEAP.items()} | {"mix": 0.8 / 8})
    wall = {k: 1.5 * 8 * v for k, v in CHEAP.items()} | {"mix": 0.6 / 8}
    assert fit["loads_now"] == pytest.approx(doctor.loads(MULTI_RATE, wall))
    assert (fit["channels_asked"], fit["channels_idle"], fit["channels_now"], fit["measured_up_to"]) == (8, 16, 16, 16)


def test_a_busy_wall_takes_channels_away_and_gives_none():
    rows = [made_up_time(what, n, lambda: None, 1) for n in (1, 32) for what in ("features", "step", "embed")]
    rows.append(made_up_time("mix", doctor.STRIPS, lambda: None, 1))
    for row in rows:
        row["wall_p99_ms"] = 10.0 * row["cpu_p50_ms"]
    fit = doctor.live(MULTI_RATE, rows, 8)
    assert fit["channels_idle"] == 28  # (2 * 3.0 + 6 * 2 * 0.3) ms a channel, step 0.6 ms of 17.3
    assert fit["channels_now"] == 5  # ten times 0.3 ms of 17.3 ms
    for row in rows:
        row["wall_p99_ms"] = 0.1 * row["cpu_p50_ms"]
    assert doctor.live(MULTI_RATE, rows, 8)["channels_now"] == 28


# ---- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", [True, False])
def test_flushed_denormals_are_seen_and_left_as_they_are(flush):
    before = doctor.denormals()["flushed"]
    if not torch.set_flush_denormal(flush):
        pytest.skip("this processor cannot flush them")
    try:
        for _ in range(2):
            seen = doctor.denormals()
            assert seen["flushed"] is flush
            assert seen["times_slower"] > 0.0
    finally:
        torch.set_flush_denormal(before)


@pytest.mark.skipif(not hasattr(os, "SCHED_FIFO"), reason="Linux only")
def test_asking_for_real_time_priority_changes_nothing_here():
    before = os.sched_getscheduler(0), threading.active_count()
    assert doctor.cpu()["real_time"] in (True, False)
    assert (os.sched_getscheduler(0), threading.active_count()) == before


@pytest.mark.skipif(not hasattr(os, "SCHED_FIFO"), reason="Linux only")
def test_real_time_priority_that_is_refused_is_no_error(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert doctor.cpu()["real_time"] is False


def test_what_a_system_does_not_tell_is_none(monkeypatch):
    for name in ("sched_getaffinity", "getloadavg", "SCHED_FIFO"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(doctor, "_read", lambda path: "")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    told = doctor.cpu()
    assert told.pop("name")
    assert told.pop("cores") == os.cpu_count()
    assert set(told.values()) == {None}
    assert doctor.audio()["jack_server"] is None


def test_the_processors_flags_decide_what_it_can_do(monkeypatch):
    info = "processor\t: 0\nmodel name\t: Intel(R) Core(TM): 5\nflags\t\t: fpu avx2 avx512f\n\n"
    monkeypatch.setattr(doctor, "_read", lambda path: info if path == "/proc/cpuinfo" else "powersave\n")
    told = doctor.cpu()
    assert told["name"] == "Intel(R) Core(TM): 5"
    assert (told["avx2"], told["avx512"], told["bf16"], told["governor"]) == (True, True, False, "powersave")


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package-of-ours"))
    told = doctor.versions()
    assert told["numpy"] == np.__version__
    assert told["no-such-package-of-ours"] is None


def test_libraries_and_servers_are_found_by_looking(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(
        doctor, "_read", lambda path: "\0libjack.so.0\0libc.so.6" if "ld.so" in str(path) else "jackd\n"
    )
    assert doctor.audio() == {"jack_server": "jackd", "libjack": True, "libportaudio": False}


# ---- what it means ---------------------------------------------------------------------------------------------------


def test_a_good_machine_has_no_findings(monkeypatch):
    assert doctor.judge(GOOD) == []


@pytest.mark.parametrize(
    ("part", "changes", "platform", "fails", "what"),
    [
        ("model", {"error": "cut short"}, "linux", True, "the model cannot be used: cut short"),
        ("live", {"channels_idle": 6, "channels_now": 2}, "linux", True, "8 channels are too many for this machine, 6"),
        ("live", {"channels_now": 2}, "linux", False, "8 channels fit this machine, but 2 while it is as busy as now"),
        ("audio", {"jack_server": None}, "linux", False, "jackd is not running"),
        ("audio", {"libjack": False}, "linux", False, "jackd is running, but libjack is not there"),
        ("audio", {"jack_server": None, "libportaudio": False}, "linux", True, "no way to a sound card"),
        ("audio", {"libjack": False, "libportaudio": False}, "darwin", True, "no way to a sound card"),
        ("cpu", {"real_time": False}, "linux", False, "no real-time priority"),
        ("cpu", {"cores": 1}, "linux", False, "one core"),
        ("cpu", {"load": 6.25}, "linux", False, "6.2 programs want 4 cores"),
        ("cpu", {"governor": "powersave"}, "linux", False, "the processor saves power"),
        ("threads", {"torch": 2}, "linux", False, "2 OpenMP threads"),
        ("timer", {"late_p99_ms": 9.0}, "linux", False, "one wake-up in a hundred is 9.0 ms late"),
        ("denormals", {"flushed": True}, "linux", False, "denormal numbers are flushed"),
        (
            "plugins",
            {"bad": [{"name": "Verb", "verdict": "crashed (signal 11)"}]},
            "linux",
            False,
            "not be loaded: Verb (crashed (signal 11))",
        ),
        ("plugins", {"changed": 2}, "linux", False, "2 known plugins have changed"),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(part, changes, platform, fails, what, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    (finding,) = doctor.judge(GOOD | {part: GOOD[part] | changes})
    assert what in finding["what"]
    assert finding["fails"] is fails
    assert finding["remedy"]


def test_a_busy_machine_without_real_time_priority_fails_and_that_comes_first():
    report = GOOD | {"cpu": GOOD["cpu"] | {"real_time": False}, "live": GOOD["live"] | {"channels_now": 0}}
    assert [finding["fails"] for finding in doctor.judge(report)] == [True, False]


def test_elsewhere_nobody_misses_jack(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    unknown = dict.fromkeys(GOOD["cpu"]) | {"cores": 8}
    sound = {"jack_server": None, "libjack": False, "libportaudio": True}
    assert doctor.judge(GOOD | {"cpu": unknown, "audio": sound}) == []


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_json_holds_everything_and_only_it(quick, good_machine, capsys):
    assert main(["doctor", "--json", "--channels", "3"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    report = json.loads(said.out)
    assert set(report) == {*GOOD, "findings", "ok"}
    assert (report["ok"], report["findings"]) == (True, [])
    assert report["model"]["name"] == "alm-mr"
    assert report["model"]["embedding_lag"] == MULTI_RATE.embedding_lag
    assert len(report["model"]["sha256"]) == 64
    rows = {(row["what"], row["channels"]) for row in report["times"]}
    assert rows == {(w, n) for n in (1, 3, 8, 16, 32) for w in ("features", "step", "embed")} | {("mix", 8)}
    assert report["live"]["channels_asked"] == 3


def test_the_real_machine_is_described_too(quick, capsys):
    assert main(["doctor", "--model", "loudness", "--json"]) in (0, 1)
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["numpy"] == np.__version__
    assert report["cpu"]["cores"] >= 1
    assert report["denormals"]["times_slower"] > 0.0
    assert report["plugins"] == {"usable": 0, "late": 0, "bad": [], "changed": 0}
    assert set(report["audio"]) == set(GOOD["audio"])


def test_times_are_taken_at_least_three_times_and_the_last_row_is_the_mix():
    runs = []
    row = doctor._time("embed", 4, lambda: runs.append(1), 30, budget_s=0.0)
    assert (row["runs"], len(runs)) == (3, 1 + 3)
    assert 0.0 <= row["wall_p50_ms"] <= row["wall_p99_ms"]
    assert all(np.isfinite(value) for name, value in row.items() if name != "what")
    assert doctor._time("embed", 4, lambda: None, 7, budget_s=60.0)["runs"] == 7


def test_who_waits_is_told(quick, good_machine, capsys):
    assert main(["doctor", "--model", "unity"]) == 0
    said = capsys.readouterr()
    assert said.err == "timing unity, some seconds\n"
    assert "Channels that fit live: 28 on this machine when idle, 28 as it is now." in said.out
    assert "Nothing found that would fail." in said.out


def test_bands_larger_than_usual_are_measured(quick, good_machine):
    report = doctor.examine("unity", 40)
    assert report["live"]["measured_up_to"] == 40
    assert not doctor.examine("unity", 1)["findings"]


def test_a_rule_embeds_nothing(quick, monkeypatch):
    monkeypatch.setattr(Unity, "embed", lambda *_: pytest.fail("asked to embed"))
    assert {row["what"] for row in doctor.measure(load_model("unity"), [2])} == {"features", "step", "embed", "mix"}


def test_nothing_is_written_left_running_or_changed(quick, good_machine, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = threading.active_count()
        doctor.examine("alm-mr", 2)
        assert torch.get_num_threads() == 2
        assert threading.active_count() == threads
    finally:
        torch.set_num_threads(before)
    assert list(tmp_path.iterdir()) == []
    assert multiprocessing.active_children() == []


def test_threads_are_given_back_when_the_model_fails_and_that_would_fail_on_stage(quick, good_machine, monkeypatch):
    def fail(*_):
        raise RuntimeError("first line\nno such operator")

    before = torch.get_num_threads()
    monkeypatch.setattr(Unity, "step", fail)
    torch.set_num_threads(2)
    try:
        report = doctor.examine("unity")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert (report["ok"], report["times"], report["live"]) == (False, [], None)
    assert [finding["what"] for finding in report["findings"]] == ["the model cannot be used: no such operator"]


@pytest.mark.parametrize("error", [ModelError("no weights"), ImportError("no torch"), FileNotFoundError("no presets")])
def test_an_installation_without_its_model_is_a_finding(quick, good_machine, error, monkeypatch, capsys):
    def load(model):
        raise error

    monkeypatch.setattr(doctor, "load_model", load)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    said = " ".join(printed.out.split())
    assert f"FAILS: the model cannot be used: {error}. Remedy: name another with --model." in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no-such-model"], "alm: model must be one of"),
        (["--model", "missing.safetensors"], "alm: missing.safetensors: No such file"),
        (["--channels", "0"], "alm: channels must be a whole number in [1, 64], got 0"),
        (["--channels", "65"], "alm: channels must be a whole number in [1, 64], got 65"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(quick, arguments, said, capsys):
    assert main(["doctor", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == 1


def test_channels_that_are_no_number_are_one_line(quick, capsys):
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--channels", "many"])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    for channels in (True, 2.0, "2"):
        with pytest.raises(ParameterError, match="channels must be a whole number"):
            doctor.examine(None, channels)


def test_verdicts_are_counted(monkeypatch, tmp_path):
    file = tmp_path / "a.vst3"
    file.write_bytes(b"x")
    at = external.entry.fingerprint(file)
    entries = [
        PluginEntry("Good", str(file), *at, "ok", probed_latency_samples=0),
        PluginEntry("Late", str(file), *at, "ok", probed_latency_samples=64),
        PluginEntry("Bad", str(file), *at, "timed out after 20 s"),
        PluginEntry("Bad", str(file), *at, "crashed (signal 11)"),
        PluginEntry("Gone", str(tmp_path / "gone.vst3"), *at, "ok"),
    ]
    monkeypatch.setattr(external, "read_registry", lambda: entries)
    bad = [{"name": "Bad", "verdict": v} for v in ("timed out after 20 s", "crashed (signal 11)")]
    assert doctor.plugins() == {"usable": 2, "late": 1, "bad": bad, "changed": 1}


def test_people_read_everything_as_it_is(capsys):
    report = copy.deepcopy(GOOD)
    report["cpu"]["name"] = "Chip [bold]"
    report["plugins"]["bad"] = [{"name": "Verb", "verdict": "timed out"}]
    report["times"] = [made_up_time("embed", 1, lambda: None, 1)]
    report["live"]["channels_now"] = 0
    report["findings"] = doctor.judge(report)
    console = Console(width=300, markup=False, emoji=False, highlight=False)
    doctor.show(report, console)
    said = capsys.readouterr().out
    assert "Chip [bold]" in said
    assert "torch 1" in said
    assert "soundfile -" in said
    assert "Channels that fit live: 32 or more on this machine when idle, 0 as it is now." in said
    assert "warning: plugins that will not be loaded: Verb (timed out). Remedy:" in said
    assert "2 x CPU p50, now also 1 x wall p99" in said
    assert "17.3 ms" in said
    doctor.show(GOOD | {"findings": []}, console)
    assert "Nothing found that would fail." in capsys.readouterr().out
