import contextlib
import errno
import itertools
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alm_plugin import Mixer, Strip
from alm_plugin.models.alm import ALM
from alm_plugin.models.files import save_weights
from alm_plugin.models.registry import load_model
from training import loop
from training.examples import FRAME, Conditions, Examples, make_example
from training.heard import Heard, hear, patches, stack
from training.loop import (
    Audible,
    Checkpoint,
    Ears,
    Kept,
    Replayed,
    TrainingError,
    batches,
    beginning,
    descend,
    encode,
    in_context,
    learn_gains,
    learn_mix,
    schedule,
    train,
)
from training.mixdown import mixdown
from training.recipe import Encode, Gains, Mix, Recipe
from training.song import SAMPLE_RATE, Stem, load_song, save_song

ROOT = Path(__file__).parents[2]
STEMS = (("vox", "vocals"), ("kick", "kick"), ("bass", "bass"), ("keys", "piano"))

TINY = Recipe(
    "tiny",
    width=0.0625,
    hidden=32,
    conditions=Conditions(seconds=6.0),
    encode=Encode(steps=3, batch=1, seconds=3.0),
    gains=Gains(steps=4, batch=2, new=2, frames=60, carried=1.0),
    mix=Mix(steps=3, batch=1, seconds=3.0),
)


def write_songs(folder, count=2, seconds=7):
    for number in range(count):
        rng = np.random.default_rng(number)
        audio = []
        for _ in STEMS:
            envelope = np.repeat(rng.uniform(0.0, 1.0, seconds * 4) > 0.3, SAMPLE_RATE // 4)
            audio.append((0.05 * envelope * rng.standard_normal(seconds * SAMPLE_RATE)).astype(np.float32))
        save_song(folder / f"{number:05d}", "rock", [Stem(name, role) for name, role in STEMS], audio)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"))


def silent(*_):
    pass


class Lines(list):
    """A log that remembers: (stage, step, steps, measured)."""

    def __call__(self, stage, step, steps, measured):
        assert all(np.isfinite(value) for value in measured.values())
        self.append((stage, step, steps, dict(measured)))


# ---- killed anywhere and taken up again ------------------------------------------------------------------------------

# Runs of the recipe above, each in a process of its own that ends itself: at a line of its log, or halfway through
# the file of a checkpoint. A fork of a process in which everything is imported costs no start.
DRIVER = """
import os, signal, sys
from pathlib import Path

import torch

import training.loop as loop
from tests_recipe import TINY


def run(folder, songs, workers, at, tear):
    saved = torch.save
    lines = {}

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def log(stage, step, steps, measured):
        lines[stage] = lines.get(stage, 0) + 1
        if (stage, lines[stage]) == at:
            if not tear:
                die()

            def torn(state, file):
                saved(state, file)
                os.truncate(file, file.stat().st_size // 2)
                die()

            torch.save = torn

    loop.CHECKPOINT_SHARE = 1e9
    _, network = loop.train(TINY, songs, 7, folder, workers, log)
    saved({name: rows.clone() for name, rows in network.state_dict().items()}, folder / "end.pt")


def main():
    work, workers = Path(sys.argv[1]), int(sys.argv[2])
    songs = sorted((work / "songs").iterdir())
    for folder, points in (line.split("=") for line in sys.argv[3:]):
        for point in [*filter(None, points.split(",")), ""]:
            stage, _, line = point.rstrip("!").partition(":")
            child = os.fork()
            if child == 0:
                try:
                    run(work / folder, songs, workers, (stage, int(line or 0)), point.endswith("!"))
                    os._exit(0)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    os._exit(1)
            status = os.waitpid(child, 0)[1]
            expected = signal.SIGKILL if point else 0
            if status != expected:
                sys.exit(f"{folder} {point}: ended with {status}, not {expected}")


if __name__ == "__main__":
    main()
"""

RECIPE = """
from training.examples import Conditions
from training.recipe import Encode, Gains, Mix, Recipe

TINY = {recipe!r}
"""


def drive(work, name, workers, points):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{work}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", work / "driver.py", work, str(workers), f"{name}={points}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def ended(folder):
    return torch.load(folder / "end.pt", weights_only=True)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# How many processes make the examples, and where it is killed.
RUNS = {
    "whole": (0, ""),
    "worker": (1, "gains:3"),
    "killed": (0, "encode:2,gains:3,mix:2"),  # between two steps, in mid-song, between two steps
    "torn": (0, "encode:2!,gains:4!,mix:2!"),  # while a checkpoint is being written
}


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    work = tmp_path_factory.mktemp("run")
    write_songs(work / "songs")
    (work / "driver.py").write_text(DRIVER)
    (work / "tests_recipe.py").write_text(RECIPE.format(recipe=TINY))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: drive(work, name, *RUNS[name]), RUNS))
    return work


@pytest.mark.parametrize("name", [*RUNS][1:])
def test_a_killed_run_ends_where_an_uninterrupted_one_does(driven, name):
    assert_same_weights(ended(driven / name), ended(driven / "whole"))
    leftovers = [path.name for path in (driven / name).iterdir() if path.name.startswith(".alm-")]
    assert len(leftovers) == RUNS[name][1].count("!")  # what a kill leaves is beside the checkpoint, not in it


# ---- the run's folder ------------------------------------------------------------------------------------------------


def toy(path, seed=0):
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    return Checkpoint(path, network, torch.optim.AdamW(network.parameters(), 0.1))


def go(checkpoint, steps, first=0, factor=1.0):
    """Steps that depend on their number only."""
    done = []
    for step in range(first, first + steps):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        loss = factor * checkpoint.network(x).square().mean()
        done.append(descend(checkpoint, loss, step, 100, 0.1, list(checkpoint.network.parameters())))
    return done


def weights(checkpoint):
    return {name: rows.clone() for name, rows in checkpoint.network.state_dict().items()}


def test_a_checkpoint_holds_everything_that_decides_what_comes_next(tmp_path):
    one = toy(tmp_path / "a.pt")
    go(one, 5)
    one.advance(5, now=True)
    other = toy(tmp_path / "a.pt", seed=9)
    assert other.step == 5
    go(one, 5, 5)
    go(other, 5, 5)
    assert_same_weights(weights(one), weights(other))


@pytest.mark.parametrize(("writing_s", "steps"), [(0.4, [1, 2, 3, 4, 5, 6]), (1.0, [1, 3, 5, 6])])
def test_checkpoints_are_written_after_every_step_unless_that_takes_long(tmp_path, monkeypatch, writing_s, steps):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    checkpoint, written = toy(tmp_path / "a.pt"), []

    def write(state):
        now[0] += writing_s
        written.append(state["step"])

    monkeypatch.setattr(checkpoint, "write", write)
    for step in range(1, 7):
        now[0] += 10.0
        checkpoint.advance(step, now=step == 6)
    assert written == steps


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_a_number_is_taken_back_and_counted(tmp_path, what):
    checkpoint = toy(tmp_path / "a.pt")
    go(checkpoint, 4)
    checkpoint.advance(4, now=True)
    good = weights(checkpoint)
    assert go(checkpoint, 3, 4) == [True] * 3
    if what == "loss":
        assert go(checkpoint, 1, 7, float("nan")) == [False]
    else:
        bad = checkpoint.network.weight.sum().sub(checkpoint.network.weight.sum().detach()).sqrt()  # 0, slope infinite
        assert torch.isfinite(bad)
        assert not descend(checkpoint, bad, 7, 100, 0.1, list(checkpoint.network.parameters()))
    assert checkpoint.rewinds == 1
    assert_same_weights(weights(checkpoint), good)
    assert go(checkpoint, 1, 8) == [True]
    assert (weights(checkpoint)["weight"] - good["weight"]).abs().max() > 1e-4
    checkpoint.advance(9, now=True)
    assert toy(tmp_path / "a.pt").rewinds == 1


def test_the_good_state_stays_good_however_often_it_is_needed(tmp_path):
    checkpoint = toy(tmp_path / "a.pt")
    go(checkpoint, 4)
    checkpoint.advance(4, now=True)
    ends = []
    for _ in range(3):
        go(checkpoint, 1, 4, float("nan"))
        go(checkpoint, 3, 5)
        ends.append(weights(checkpoint))
    assert_same_weights(ends[0], ends[1])
    assert_same_weights(ends[0], ends[2])


def test_too_many_of_them_end_the_run(tmp_path):
    checkpoint = toy(tmp_path / "a.pt")
    assert go(checkpoint, loop.MOST_REWINDS, factor=float("inf")) == [False] * loop.MOST_REWINDS
    with pytest.raises(TrainingError, match=r"a: loss must be finite, got 21 that were not"):
        go(checkpoint, 1, factor=float("nan"))


@pytest.mark.parametrize("how", ["error", "limit", "folder"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, how):
    checkpoint = toy(tmp_path / "a.pt")
    go(checkpoint, 3)
    checkpoint.advance(3, now=True)
    before = (tmp_path / "a.pt").read_bytes()
    go(checkpoint, 3, 3)
    with contextlib.ExitStack() as afterwards:
        if how == "error":

            def full(state, file):
                file.write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(torch, "save", full)
        elif how == "limit":
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            afterwards.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        else:  # not even an empty file

            def none_left(*arguments, **named):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr("tempfile.mkstemp", none_left)
        with pytest.raises(TrainingError, match=r"a\.pt: cannot write the checkpoint, the one before is kept"):
            checkpoint.advance(6, now=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert (tmp_path / "a.pt").read_bytes() == before
    assert toy(tmp_path / "a.pt", seed=3).step == 3


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_schedule():
    rates = np.array([schedule(step, 1000, 2.0) for step in range(1000)])
    assert rates[0] == pytest.approx(2.0 / 50)
    assert rates[24] == pytest.approx(1.0, rel=0.01)
    assert rates.max() == pytest.approx(2.0, rel=0.01)
    assert 45 <= rates.argmax() <= 50
    assert rates[500] == pytest.approx(1.0)
    assert (np.diff(rates[50:]) < 0).all()
    assert 0.0 < rates[-1] < 1e-4
    assert schedule(1000, 1000, 2.0) == pytest.approx(0.0, abs=1e-12)
    assert schedule(1200, 1000, 2.0) == pytest.approx(0.0, abs=1e-12)


def test_batches_are_numbered(songs):
    def collate(items):
        return list(items)

    whole = list(batches(lambda number: number, 0, 5, 3, 0, collate))
    assert whole == [[3 * k, 3 * k + 1, 3 * k + 2] for k in range(5)]
    assert list(batches(lambda number: number, 3, 5, 3, 0, collate)) == whole[3:]
    assert list(batches(lambda number: number, 5, 5, 3, 0, collate)) == []


def test_some_of_each_batch_are_new_and_the_others_come_again(monkeypatch):
    monkeypatch.setattr(loop, "REPLAY_AFTER", 2)
    row = Replayed(3, 8, 4)
    rows = np.array([row(place) for place in range(8 * 40)]).reshape(40, 8)
    assert rows[:, :3].ravel().tolist() == list(range(3 * 40))
    for step in range(3, 40):
        assert rows[step, 3:].min() >= 0
        assert rows[step, 3:].max() < 3 * (step - 2)
    assert set(rows[:3].ravel()) == set(range(9))
    assert len(set(rows[39, 3:])) > 2
    assert [Replayed(3, 8, 4)(place) for place in (310, 7, 133)] == [rows.flat[place] for place in (310, 7, 133)]
    assert [Replayed(3, 8, 5)(place) for place in range(300, 320)] != rows.ravel()[300:].tolist()


def test_what_was_heard_is_remembered_exactly(songs, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = ALM(0.0625, 32)
    examples = Examples(songs, TINY.conditions, 5)
    kept = Kept(examples, Ears(network.encoder, network.clock), tmp_path / "heard")
    first = kept(3)
    monkeypatch.setattr(Examples, "__getitem__", None)
    again = kept(3)
    for name, one, other in zip(Heard._fields, first, again, strict=True):
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name


def test_ears_give_what_the_network_would_hear(songs):
    torch.manual_seed(0)
    network = ALM(0.0625, 32, gain="memory", levels="all").eval()
    example = Examples(songs, TINY.conditions, 5)[0]
    one, kept = stack([hear(example)]), stack([Ears(network.encoder, network.clock)(example)])
    with torch.no_grad():
        expected = network.embed_song(patches(one.sound, network.clock), one.mask)
        got = in_context(network, kept)
    assert expected.std() > 0.1
    # bfloat16 where the processor has it, half precision everywhere
    torch.testing.assert_close(got, expected, rtol=0, atol=0.05 * float(expected.std()))


def heard_of(batch, channels, frames=10):
    return Heard(
        torch.zeros(batch, channels, 2, 128),
        torch.zeros(batch, channels, frames, 3),
        torch.ones(batch, channels, frames),
        torch.zeros(batch, channels, frames),
        torch.ones(batch, channels, frames, dtype=torch.bool),
        torch.ones(batch, channels, frames),
        torch.zeros(batch, channels, dtype=torch.long),
    )


@pytest.mark.parametrize(("before", "channels"), [((2, 3), 5), ((2, 5), 3), ((6, 4), 4), ((4, 4), 4)])
def test_some_songs_begin_where_others_ended(before, channels):
    network = ALM(0.0625, 32, gain="memory", levels="all", roles=True)
    batch, rng = 4, torch.Generator().manual_seed(1)
    kept = {
        "hidden": torch.randn(*before, 128, generator=rng),
        "memory": torch.randn(*before, 3, generator=rng),
        "gain_db": torch.randn(*before, generator=rng),
        "role": torch.full(before, 17),
    }
    copies = {name: rows.clone() for name, rows in kept.items()}
    wide, rows = min(before[1], channels), min(before[0], batch)

    def begin(share):
        return beginning(network, heard_of(batch, channels), torch.Generator().manual_seed(2), kept, share)

    for share, carried in ((1.0, True), (0.0, False)):
        state = begin(share)
        assert state.keys() == kept.keys()
        for name in ("hidden", "memory", "gain_db"):
            values = state[name].clone()
            assert values.shape[:2] == (batch, channels)
            if carried and name == "hidden":
                assert torch.equal(values[:rows, :wide], kept[name][:rows, :wide])
                values[:rows, :wide] = network.initial_state(1)[name]
            assert (values == network.initial_state(1)[name]).all()
        assert (state["role"] != 17).all()  # who plays is another band's
    assert all(torch.equal(kept[name], copies[name]) for name in kept)
    taken = (begin(0.5)["hidden"].abs().amax((1, 2)) > 0)[:rows]
    assert (torch.rand(rows, generator=torch.Generator().manual_seed(2)) < 0.5).tolist() == taken.tolist()


def test_roles_are_said_of_all_of_some_or_of_none_and_seldom_wrongly():
    network = ALM(0.0625, 32, gain="memory", levels="all", roles=True)
    heard = heard_of(2000, 10)
    heard = heard._replace(roles=torch.arange(10).expand(2000, 10).clone())
    heard.roles[:, 8:] = -1  # padding
    role = beginning(network, heard, torch.Generator().manual_seed(0))["role"]
    assert (role[:, 8:] == -1).all()
    role, told = role[:, :8], heard.roles[:, :8]
    said = role >= 0
    share = said.float().mean(1)
    assert (share == 1.0).float().mean() == pytest.approx(1 / 3, abs=0.03)
    assert (share == 0.0).float().mean() == pytest.approx(1 / 2, abs=0.03)
    assert 0.01 < (role != told)[said].float().mean() < 0.03


def test_a_song_goes_on_from_its_last_snippet_and_a_batch_from_the_last_batch(songs, tmp_path, monkeypatch):
    states = []
    continued = ALM.continued

    def watched(self, embeddings, levels, mask, state=None):
        result = continued(self, embeddings, levels, mask, state)
        states.append((state, result[2]))
        return result

    monkeypatch.setattr(ALM, "continued", watched)
    pretext = loop.Pretext(loop.VGGish(TINY.width, TINY.hidden))
    lines = Lines()
    learn_gains(TINY, pretext, songs, 7, tmp_path, 0, lines)
    # 120 frames in snippets of 60, 4 steps.
    assert len(states) == len(lines) == 8
    assert [line[1] for line in lines] == [1, 1, 2, 2, 3, 3, 4, 4]
    for name in ("hidden", "memory", "gain_db"):
        fresh = ALM(0.0625, 32, gain="memory").initial_state(1)[name]
        assert (states[0][0][name] == fresh).all()
    for number, ((_, ended), (begun, _)) in enumerate(itertools.pairwise(states)):
        wide = min(ended["hidden"].shape[1], begun["hidden"].shape[1])
        # Within a song everything goes on; another song's loudness is its own.
        for name in ("hidden",) if number % 2 else ("hidden", "memory", "gain_db"):
            assert torch.equal(begun[name][:, :wide], ended[name][:, :wide]), name


def test_the_frozen_encoder_stays_as_it_was(songs, tmp_path):
    pretext = encode(TINY, songs, 7, tmp_path, 0, silent)
    encoder = {name: rows.clone() for name, rows in pretext.encoder.state_dict().items()}
    network = learn_gains(TINY, pretext, songs, 7, tmp_path, 0, silent)
    assert_same_weights(encoder, dict(network.encoder.state_dict()))
    before = {name: rows.clone() for name, rows in network.state_dict().items()}
    network = learn_mix(TINY, network, songs, 7, tmp_path, 0, silent)
    assert_same_weights(encoder, dict(network.encoder.state_dict()))
    assert not torch.equal(before["mlp.6.weight"], network.state_dict()["mlp.6.weight"])


def test_a_loss_that_is_not_a_number_costs_a_batch_and_no_more(songs, tmp_path, monkeypatch):
    gain_loss, calls = loop.gain_loss, []

    def now_and_then(gain_db, heard, start=0, write=None):
        loss = gain_loss(gain_db, heard, start, write)
        calls.append(start)
        return replace(loss, error=loss.error * float("nan")) if len(calls) == 2 else loss

    monkeypatch.setattr(loop, "gain_loss", now_and_then)
    pretext = loop.Pretext(loop.VGGish(TINY.width, TINY.hidden))
    lines = Lines()
    network = learn_gains(TINY, pretext, songs, 7, tmp_path, 0, lines)
    assert calls == [0, 60] * 4
    assert len(lines) == 7
    assert all(rows.isfinite().all() for rows in network.state_dict().values())
    assert torch.load(tmp_path / "gains.pt", weights_only=True)["rewinds"] == 1


def test_clips_without_any_own_sound_are_no_fault(songs, tmp_path, monkeypatch):
    make = loop.Clips.__call__

    def only_bleed(self, number):
        clip = make(self, number)
        return clip._replace(own_share=torch.zeros_like(clip.own_share))

    monkeypatch.setattr(loop.Clips, "__call__", only_bleed)
    lines = Lines()
    encode(TINY, songs, 7, tmp_path, 0, lines)
    assert len(lines) == TINY.encode.steps
    assert torch.load(tmp_path / "encode.pt", weights_only=True)["rewinds"] == 0


def test_batches_of_unlike_songs_are_cut_to_the_shortest():
    torch.manual_seed(0)
    items = []
    for channels, frames in ((2, 40), (3, 30)):
        heard = Heard(*(rows[0] for rows in heard_of(1, channels, frames)))
        items.append(Audible(heard, torch.randn(channels, frames * FRAME), torch.randn(frames * FRAME)))
    heard, inputs, target = loop._stack_audible(items)
    assert heard.mask.shape == (2, 3, 40)
    assert inputs.shape == (2, 3, 30 * FRAME)
    assert target.shape == (2, 30 * FRAME)
    assert torch.equal(inputs[0, :2], items[0].inputs[:, : 30 * FRAME])
    assert (inputs[0, 2] == 0.0).all()
    assert torch.equal(inputs[1], items[1].inputs)


# ---- what was trained is what will play ------------------------------------------------------------------------------


def test_what_was_trained_is_what_the_mixer_plays(songs, tmp_path):
    _, network = train(TINY, songs, 3, tmp_path / "run", 0, silent)
    # A network that has learnt next to nothing moves its gains by what it hears, not by the loudness alone.
    with torch.no_grad():
        network.mlp[-1].weight.mul_(20.0)
    path = tmp_path / "tiny.safetensors"
    save_weights(network, path, name="tiny", training_data="none", licence="none", scores={})
    example = make_example(load_song(songs[0]), np.random.default_rng(5), replace(TINY.conditions, late=0.5))
    heard = stack([hear(example)])
    with torch.no_grad():
        gain_db = network(patches(heard.sound, network.clock), heard.levels, heard.mask)
    frames = gain_db.shape[-1]
    first_db = network.initial_state(1)["gain_db"].expand_as(gain_db[..., :1])
    applied = torch.cat([first_db, gain_db[..., :-1]], -1)
    mix = mixdown(torch.from_numpy(example.inputs)[None], applied, network.clock, SAMPLE_RATE, applied[..., 0])[0]

    mixer = Mixer({str(c): Strip() for c in range(len(example.inputs))}, load_model(path), 1, ceiling_db=None)
    played = mixer.process(example.inputs, SAMPLE_RATE)
    curves = np.stack([mixer.automation.gains_db[str(c)] for c in range(len(example.inputs))])
    assert not mixer.faults
    assert curves.shape == (len(STEMS), frames)
    assert (curves[:, 0] == network.account.start_db).all()
    assert np.ptp(curves, axis=1).max() > 5.0
    assert curves[:, -1].std() > 1.0
    np.testing.assert_allclose(curves, applied[0].numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(played[0], mix.numpy(), rtol=0, atol=1e-5)
