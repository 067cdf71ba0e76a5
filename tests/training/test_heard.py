from dataclasses import replace

import numpy as np
import pytest
import torch

from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock
from alm_plugin.features.front_end import FrontEnd
from alm_plugin.models.alm import ALM
from alm_plugin.models.contract import ModelMetadata
from alm_plugin.models.predictor import Predictor
from alm_plugin.models.roles import role_codes
from training.examples import FRAME, Example
from training.heard import Heard, hear, louder, patches, stack
from training.song import SAMPLE_RATE


def example(roles=("vocals", "kick", "bass"), frames=80, seed=0, level_db=-30.0):
    """Bands of noise that come and go; nothing here depends on how examples are made."""
    rng = np.random.default_rng(seed)
    on = np.repeat(rng.uniform(size=(len(roles), frames)) > 0.3, FRAME, axis=1)
    own = 10 ** (level_db / 20) * on * rng.standard_normal((len(roles), frames * FRAME))
    own = own.astype(np.float32)
    true = rng.uniform(-20.0, 10.0, (len(roles), frames)).astype(np.float32)
    playing = on[:, ::FRAME].copy()
    share = rng.uniform(size=(len(roles), frames)).astype(np.float32)
    return Example(own, own, true, playing, share, role_codes(roles))


@pytest.mark.parametrize("size", [331, 1200, 7001])
def test_hear_is_the_front_end_fed_block_by_block(size):
    one = example()
    heard, front_end = hear(one), FrontEnd(SAMPLE_RATE)
    blocks = [front_end.process(one.inputs[:, at : at + size]) for at in range(0, one.inputs.shape[1], size)]
    for got, name in ((heard.sound, "log_mel"), (heard.levels, "levels"), (heard.mask, "mask")):
        parts = [getattr(block, name) for block in blocks if block.frames]
        np.testing.assert_array_equal(got.numpy(), np.concatenate(parts, axis=1))
    assert heard.sound.shape == (3, 400, 64)
    for got, truth in (
        (heard.true_gain_db, one.true_gain_db),
        (heard.playing, one.playing),
        (heard.own_share, one.own_share),
        (heard.roles, one.roles),
    ):
        np.testing.assert_array_equal(got.numpy(), truth)


class Spy:
    """Remembers what it is asked to embed."""

    def __init__(self, clock):
        self.metadata = ModelMetadata("spy", clock, embedding_size=2)
        self.patches = []

    def embed(self, patches, mask):
        self.patches.append(patches.copy())
        return np.zeros((len(mask), 2), np.float32)

    def step(self, embedding, levels, mask, state):
        return np.zeros(len(mask), np.float32), state

    def initial_state(self, channels):
        return {"nothing": np.zeros(channels)}


@pytest.mark.parametrize("clock", [MULTI_RATE, ModelClock(f1_stride_ms=50), ModelClock(f1_stride_ms=950)])
def test_patches_are_what_the_predictor_shows_a_model(clock):
    heard = hear(example(frames=83))
    assert (heard.mask > 0).all(1).any()
    spy = Spy(clock)
    predictor = Predictor(spy, [None] * 3)
    for t in range(83):
        columns = heard.sound[:, 5 * t : 5 * t + 5].numpy()
        predictor.step(columns, heard.levels[:, t].numpy(), heard.mask[:, t].numpy())
    cut = patches(heard.sound, clock).numpy()
    shown = [t for t in range(0, 83, clock.stride_frames) if (heard.mask[:, t] > 0).any()]
    assert len(spy.patches) == len(shown) > 4
    assert cut.shape[1] >= -(-83 // clock.stride_frames)
    for seen, t in zip(spy.patches, shown, strict=True):
        active = heard.mask[:, t].numpy() > 0
        np.testing.assert_array_equal(seen, cut[active, t // clock.stride_frames])


def test_patches_of_a_batch_are_those_of_its_songs():
    songs = [hear(example(seed=seed)) for seed in (0, 1)]
    cut = patches(torch.stack([song.sound for song in songs]), MULTI_RATE)
    for b, song in enumerate(songs):
        assert torch.equal(cut[b], patches(song.sound, MULTI_RATE))
    assert SINGLE_RATE.stride_frames == 1  # its frames are not 50 ms: another front end


def lively():
    torch.manual_seed(0)
    network = ALM(0.0625, 32, gain="memory", levels="all").eval()
    with torch.no_grad():
        network.mlp[-1].weight.mul_(50.0)
    return network


@torch.no_grad()
def test_padding_a_batch_changes_no_real_channel():
    network = lively()
    songs = [
        hear(example(seed=1)),
        hear(example(("vocals", "kick", "bass", "piano", "organ"), 120, 2)),
        hear(example()),
    ]
    batch = stack(songs)
    assert batch.sound.shape == (3, 5, 600, 64)
    assert batch.mask.shape == (3, 5, 120)
    gains = network(patches(batch.sound, MULTI_RATE), batch.levels, batch.mask)
    for b, song in enumerate(songs):
        C, T = song.mask.shape
        for name, rows in zip(Heard._fields, batch, strict=True):
            own = getattr(song, name)
            assert torch.equal(rows[(b, *map(slice, own.shape))], own), name
            assert rows.dtype == own.dtype, name
        assert (batch.roles[b, C:] == -1).all()
        assert (batch.mask[b, C:] == 0).all()
        assert (batch.mask[b, :, T:] == 0).all()
        assert not batch.playing[b, C:].any()
        assert not batch.playing[b, :, T:].any()
        alone = network(patches(song.sound[None], MULTI_RATE), song.levels[None], song.mask[None])
        assert alone.std() > 1.0
        torch.testing.assert_close(gains[b, :C, :T], alone[0], rtol=0, atol=1e-4)


def test_stack_takes_embeddings_too():
    heard = hear(example())
    one = heard._replace(sound=torch.randn(3, 14, 128))
    two = heard._replace(sound=torch.randn(3, 9, 128))
    assert stack([one, two]).sound.shape == (2, 3, 14, 128)
    assert torch.equal(stack([one, two]).sound[1, :, :9], two.sound)


@pytest.mark.parametrize("offset_db", [(6.0, -6.0, 2.5), (-3.0, 0.0, 4.0)])
def test_louder_is_what_louder_audio_sounds_like(offset_db):
    one = example()
    shift = np.array(offset_db)
    factor = (10 ** (shift / 20)).astype(np.float32)
    moved = replace(
        one, inputs=one.inputs * factor[:, None], true_gain_db=one.true_gain_db - shift[:, None].astype(np.float32)
    )
    got, expected = louder(stack([hear(one)]), torch.tensor(shift)[None].float()), stack([hear(moved)])
    torch.testing.assert_close(got.true_gain_db, expected.true_gain_db, rtol=0, atol=1e-5)
    assert torch.equal(got.mask, expected.mask)
    # As a model reads them: in dB.
    for column in (0, 1):
        a, b = ((20 / (1 + column)) * torch.log10(rows.levels[..., column] + 1e-12) for rows in (got, expected))
        sounding = b > -60.0
        assert sounding.float().mean() > 0.4
        torch.testing.assert_close(a[sounding], b[sounding], rtol=0, atol=1e-4)
    floored = (expected.levels[..., 2] <= -70.0) | (got.levels[..., 2] <= -70.0)
    assert floored.float().mean() < 0.1
    torch.testing.assert_close(got.levels[..., 2][~floored], expected.levels[..., 2][~floored], rtol=0, atol=1e-4)
    assert got.levels[..., 2].min() >= -70.0
    # The sound stays: what a frozen encoder made of it is not made again.
    assert torch.equal(got.sound, stack([hear(one)]).sound)


def test_louder_changes_nothing_it_is_given():
    batch = stack([hear(example())])
    copies = [rows.clone() for rows in batch]
    louder(batch, torch.full((1, 3), 5.0))
    assert all(torch.equal(rows, copy) for rows, copy in zip(batch, copies, strict=True))
    same = louder(batch, torch.zeros(1, 3))
    for name, rows, copy in zip(Heard._fields, same, batch, strict=True):
        torch.testing.assert_close(rows, copy, rtol=1e-6, atol=1e-6, msg=name)
