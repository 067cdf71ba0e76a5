import json
import logging
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from alm_plugin.cli import main
from alm_plugin.errors import ParameterError, PluginError
from alm_plugin.nodes.external import External, find, known, read_registry, registry_path, scan
from alm_plugin.nodes.external.probe import judge
from alm_plugin.nodes.external.registry import plugin_files, plugin_folders
from alm_plugin.nodes.node import Node


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "plugins"
    path.mkdir()
    return path


@pytest.fixture
def compressor(zam, folder):
    """A real plugin, in a folder where it may be changed."""
    return Path(shutil.copytree(zam / "ZamCompX2.vst3", folder / "ZamCompX2.vst3"))


def build(folder, name, code):
    """Make a plugin that does something as soon as it is loaded."""
    if os.name != "posix" or os.uname().machine != "x86_64" or not shutil.which("gcc"):
        pytest.skip("no C compiler for Linux on x86-64")
    bundle = folder / f"{name}.vst3"
    binary = bundle / "Contents" / "x86_64-linux" / f"{name}.so"
    binary.parent.mkdir(parents=True)
    source = folder / f"{name}.c"
    source.write_text(
        "#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        f"__attribute__((constructor)) static void start(void) {{ {code} }}\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", binary, source], check=True)
    return bundle


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


# ---- verdicts --------------------------------------------------------------------------------------------------------


def test_a_good_plugin_is_described(compressor, folder):
    (entry,) = scan([folder])
    assert (entry.name, entry.format, entry.verdict, entry.is_ok) == ("ZamCompX2", "VST3", "ok", True)
    assert entry.path == str(compressor)
    assert (entry.channels, entry.reported_latency_samples, entry.probed_latency_samples) == ((2,), 0, 0)
    ratio = entry.parameters["ratio"]
    assert (ratio.low, ratio.high, ratio.unit, ratio.default) == (1.0, 20.0, "", 4.0)
    assert entry.parameters["current_program"].choices[0] == "Zero"
    assert read_registry() == [entry]


def test_latency_is_found_twice(zam):
    (entry,) = find(zam / "ZaMaximX2.vst3")
    assert (entry.reported_latency_samples, entry.probed_latency_samples) == (480, 480)


def test_plugins_that_crash_hang_or_are_none_do_not_stop_the_scan(compressor, folder):
    build(folder, "Crash", "raise(SIGSEGV);")
    build(folder, "Exit", "exit(0);")
    build(folder, "Nothing", "")
    build(folder, "Vocal", 'for (int i = 0; i < 100000; i++) puts("noise");')
    (folder / "Text.vst3").write_text("not a plugin")
    seen = []
    entries = scan([folder], progress=lambda *step: seen.append(step))
    verdicts = {entry.name: entry.verdict for entry in entries}
    assert verdicts.pop("ZamCompX2") == "ok"
    assert verdicts.pop("Crash") == "crashed (signal 11)"
    assert verdicts.pop("Exit") == "crashed (exit status 0)"
    assert sorted(verdicts) == ["Nothing", "Text", "Vocal"]
    assert all(verdict.startswith("cannot be loaded: ") and "\n" not in verdict for verdict in verdicts.values())
    assert [step[0] for step in seen] == list(range(7))
    assert seen[-1] == (6, 6, "")
    with pytest.raises(
        PluginError, match=r"^Crash cannot be hosted, its scan says: crashed \(signal 11\); 'alm plugin"
    ):
        External("crash")
    with pytest.raises(PluginError, match=r"^Crash cannot be hosted"):
        known("Crash")


def test_a_plugin_that_hangs_is_ended_with_all_that_it_started(folder, tmp_path):
    note = tmp_path / "pids"
    build(
        folder,
        "Hang",
        f'FILE *f = fopen("{note}", "a"); int child = fork(); if (child) fprintf(f, "%d %d", getpid(), child);'
        "if (child) fclose(f); signal(SIGTERM, SIG_IGN); for (;;) sleep(1000);",
    )
    before = children()
    began = time.monotonic()
    (entry,) = scan([folder], timeout_s=8.0)
    assert entry.verdict == "timed out after 8 s"
    assert time.monotonic() - began < 20.0
    pids = note.read_text().split()
    assert len(pids) == 2
    deadline = time.monotonic() + 5.0
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, pids))
    assert children() == before  # no zombies


def test_debians_zamverb_times_out_and_is_refused(zam):
    if not (zam / "ZamVerb.vst3").exists():
        pytest.skip("ZamVerb is not installed")
    (entry,) = find("zamverb", timeout_s=4.0)
    assert entry.verdict == "timed out after 4 s"
    began = time.monotonic()
    with pytest.raises(PluginError, match=r"^ZamVerb cannot be hosted, its scan says: timed out after 4 s; 'alm plug"):
        External("ZamVerb")
    assert time.monotonic() - began < 2.0  # nobody tried again


class Fake(Node):
    """A plugin that lies."""

    def __init__(self, lie, late=0):
        self.lie, self.late = lie, late
        self.reset()

    def reset(self):
        self._past = None

    @property
    def reported_latency_samples(self):
        return 100 if self.lie == "reports" else 0

    def process_block(self, x, sample_rate):
        if self._past is None:
            self._past = np.zeros((len(x), self.late), np.float32)
        line = np.concatenate([self._past, x], axis=1)
        out, self._past = line[:, : x.shape[1]], line[:, x.shape[1] :]
        if self.lie == "nan" and np.abs(x).max() > 0.3:
            return out * np.nan
        if self.lie == "blocks":
            return out / np.float32(x.shape[1])
        return np.repeat(out, 2, axis=0) if self.lie == "width" else out


@pytest.mark.parametrize(
    ("plugin", "verdict"),
    [
        (Fake(""), "ok"),
        (Fake("blocks"), "ok"),
        (Fake("nan"), "returned NaN or infinity for noise of -20 dBFS"),
        (Fake("width"), "returned (2, 48000) for a signal of (1, 48000)"),
        (Fake("", late=100), "reports a latency of 0 samples, but an impulse takes 100"),
        (Fake("reports"), "reports a latency of 100 samples, but an impulse takes 0"),
        (Fake("reports", late=100), "ok"),
    ],
)
def test_lies_are_found_out(plugin, verdict):
    found = judge(plugin)
    assert found["verdict"] == verdict
    if verdict == "ok":
        assert found["channels"] == [1, 2]
        assert found["depends_on_blocks"] == (plugin.lie == "blocks")
        assert found["probed_latency_samples"] == plugin.late


def test_a_file_may_hold_several_plugins_each_tried_for_itself(folder, monkeypatch):
    # No such file comes with Debian: what the probe says of one is made up.
    (folder / "shell.vst3").write_text("")
    verdicts = {"One": "ok", "Two": "ok", "Bad": "crashed (signal 6)"}

    def probe(path, name, timeout_s):
        return {"verdict": verdicts[name], "channels": [2]} if name else {"names": list(verdicts)}

    monkeypatch.setattr("alm_plugin.nodes.external.registry._probe", probe)
    assert {entry.name: entry.verdict for entry in scan([folder])} == verdicts
    assert known("two").name == "Two"
    with pytest.raises(PluginError, match=r"shell.vst3: expected one plugin, got several; open one by name: One, Two$"):
        known(folder / "shell.vst3")
    with pytest.raises(PluginError, match=r"^Bad cannot be hosted, its scan says: crashed \(signal 6\)"):
        known("bad")


# ---- the registry ----------------------------------------------------------------------------------------------------


def test_only_new_and_changed_plugins_are_tried(compressor, folder, monkeypatch):
    first = scan([folder])
    with monkeypatch.context() as patch:
        patch.setattr("alm_plugin.nodes.external.registry._probe", lambda *_: pytest.fail("tried again"))
        assert scan([folder]) == first
        assert find("zamcompx2") == first
        assert known(compressor) == first[0]
    binary = next(compressor.rglob("*.so"))
    binary.write_bytes(binary.read_bytes() + b"\0")
    with pytest.raises(PluginError, match=r"^ZamCompX2: expected the plugin as it was scanned, got another file"):
        known("ZamCompX2")
    (again,) = scan([folder])
    assert again.size == first[0].size + 1
    assert known("ZamCompX2") == again
    os.utime(binary, ns=(1, again.mtime_ns + 1))
    with pytest.raises(PluginError, match=r"as it was scanned"):
        External("ZamCompX2", scan=False)
    assert External(compressor).entry.mtime_ns == again.mtime_ns + 1
    shutil.rmtree(compressor)
    assert scan([folder]) == []
    assert read_registry() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b'{"version": 1, "plugins": [{}]}',
        b'{"version": 1, "plugins": {"a": 1}}',
        b'{"version": 1, "plugins": [null]}',
    ],
)
def test_a_corrupt_registry_is_begun_anew_with_one_warning(content, compressor, folder, caplog):
    path = registry_path()
    path.parent.mkdir()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "alm_plugin"):
        assert read_registry() == []
        assert read_registry() == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "plugins.json: expected a registry of plugins, got " in caplog.text
    if content == b"null":  # once is enough
        scan([folder])
        assert known("ZamCompX2").is_ok


def test_a_registry_that_cannot_be_written_is_no_obstacle(compressor, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALM_PLUGIN_CACHE", str(tmp_path / "file" / "below"))
    assert External(compressor).name == "ZamCompX2"
    assert "the registry of plugins is not written" in caplog.text


def test_folders_are_searched_but_not_bundles(folder):
    (folder / "vendor" / "deep.vst3" / "Contents" / "inner.vst3").mkdir(parents=True)
    (folder / "b.VST3").write_text("")
    (folder / "readme.txt").write_text("")
    assert list(plugin_files([folder, folder / "missing"])) == [folder / "b.VST3", folder / "vendor" / "deep.vst3"]
    assert all(path.is_absolute() for path in plugin_folders())


# ---- the command line ------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    status = main(["plugins", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_lists_scans_and_shows(compressor, folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run(capsys)[:2] == (0, "no plugins known yet: run 'alm plugins --scan'\n")
    build(folder, "Crash", "raise(SIGSEGV);")
    status, out, err = run(capsys, "--scan", "--folder", folder)
    assert status == 0
    assert "ZamCompX2" in out
    assert "stereo" in out
    assert "crashed (signal 11)" in out
    assert "scanning" in err
    assert run(capsys)[1] == out
    status, out, _ = run(capsys, "zamcompx2")
    assert status == 0
    assert [line.split() for line in out.splitlines() if "threshold_db" in line] == [
        ["threshold_db", "-80", "to", "0", "dB", "0"]
    ]
    status, out, err = run(capsys, "--json")
    assert err == ""
    assert [entry["name"] for entry in json.loads(out)] == ["Crash", "ZamCompX2"]
    assert json.loads(out)[1]["parameters"]["ratio"]["high"] == 20.0


def test_one_plugin_is_tried_again_when_asked(compressor, folder, capsys):
    build(folder, "Crash", "raise(SIGSEGV);")
    scan([folder])
    path = registry_path()
    path.write_text(path.read_text().replace('"ok"', '"crashed (signal 6)"'))
    assert "signal 6" in run(capsys, "ZamCompX2")[1]
    assert "signal 6" not in run(capsys, "ZamCompX2", "--scan")[1]
    assert [entry.verdict for entry in read_registry()] == ["crashed (signal 11)", "ok"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["NoSuchPlugin"], "alm: NoSuchPlugin: expected an installed plugin, got none of that name"),
        (["--scan", "--folder", "/none"], "alm: --folder must be a folder, got '/none'"),
        (["/none.vst3"], "alm: /none.vst3: expected a VST3 or AU plugin, got no such file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_status_2(arguments, said, capsys):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_a_time_limit_is_positive(compressor):
    with pytest.raises(ParameterError, match=r"^timeout_s must be positive, got 0$"):
        find(compressor, timeout_s=0)
