import numpy as np
import pytest
import torch
from torch import nn

from alm_plugin.errors import ParameterError
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock
from alm_plugin.models.alm import ALM, in_use, to_gain_db
from alm_plugin.models.contract import ModelMetadata
from alm_plugin.models.files import TorchModel, load_model_file, save_torchscript


def lively(network, seed=0, scale=1.0):
    """Give a small network weights with which every input moves the gains by several dB."""
    torch.manual_seed(seed)
    for layer in [*network.encoder.modules(), *network.mlp]:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".query_key_value.weight" in name or name.startswith("gru.weight"):
                parameter.mul_(2.0)
        network.mlp[-1].weight.mul_(scale)
    return network.eval()


def small(clock=MULTI_RATE, **arguments):
    return ALM(0.0625, 32, clock=clock, **arguments)


def clock_of(stride, lag):
    return ModelClock(f1_stride_ms=50 * stride, embedding_lag=lag)


def song(channels, frames, clock, seed=0, dtype=torch.float64):
    """Random patches (C, K, 96, 64), levels (C, T, 3) and a mask (C, T) that goes on and off."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(0.0, 2.0, (channels, -(-frames // clock.stride_frames), 96, 64))
    rms = 10.0 ** rng.uniform(-3.5, 0.0, (channels, frames))
    levels = np.stack([rms, 0.7 * rms**2, rng.uniform(-70.0, 0.0, (channels, frames))], -1)
    mask = np.zeros((channels, frames))
    for channel in range(channels):
        frame = 0
        while frame < frames:
            length = rng.integers(1, 12)
            mask[channel, frame : frame + length] = rng.choice([0.0, 0.3, 1.0])
            frame += length
    return tuple(torch.tensor(array, dtype=dtype) for array in (patches, levels, mask))


def stream(network, patches, levels, mask):
    """Gains (C, T) frame by frame, as the live worker does it: the network sees active channels only."""
    stride, lag = network.clock.stride_frames, network.clock.embedding_lag
    channels, frames = mask.shape
    embedding = torch.zeros(channels, network.embedding_size, dtype=patches.dtype)
    state = network.initial_state(channels)
    gains = torch.zeros(channels, frames, dtype=patches.dtype)
    on_its_way = {}
    for frame in range(frames):
        active = mask[:, frame] > 0
        if frame % stride == 0 and active.any():
            rows = network.embed(patches[active, frame // stride], mask[active, frame])
            on_its_way[frame + lag] = (active, rows)
        if frame in on_its_way:
            rows_active, rows = on_its_way.pop(frame)
            embedding[rows_active] = rows
        if active.any():
            before = {name: rows[active] for name, rows in state.items()}
            gain_db, after = network.step(embedding[active], levels[active, frame], mask[active, frame], before)
            gains[active, frame] = gain_db
            for name in state:
                state[name][active] = after[name]
        if "gain_db" in state:  # a masked channel is not asked, and keeps its last
            gains[:, frame] = state["gain_db"]
    return gains


CLOCKS = {
    "mr": MULTI_RATE,
    "mr-as-printed": clock_of(6, 0),
    "stride-2-lag-3": clock_of(2, 3),
    "stride-4-lag-9": clock_of(4, 9),
    "sr": SINGLE_RATE,
}


@torch.no_grad()
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("gain", ["exp", "memory"])
def test_parallel_is_streaming(clock, seed, gain):
    network = lively(small(clock, levels="all", gain=gain), seed).double()
    songs = [song(channels, 61, clock, seed) for channels in (4, 4)]
    songs[1] = tuple(part.flip(0) * 0.9 for part in songs[1])
    parallel = network(*(torch.stack(parts) for parts in zip(*songs, strict=True)))
    streamed = torch.stack([stream(network, *parts) for parts in songs])
    assert streamed[streamed != 0].std() > 2.0
    torch.testing.assert_close(parallel, streamed, rtol=0, atol=1e-9)


# What some thirty operators round in single precision: 1e-5 dB where gains are a few dB, 1e-5 of the factor at 20 dB.
@torch.no_grad()
@pytest.mark.parametrize("clock", [MULTI_RATE, SINGLE_RATE], ids=["mr", "sr"])
@pytest.mark.parametrize(
    ("gain", "scale", "least_std", "tolerance_db"),
    [("exp", 0.25, 0.5, 1e-5), ("exp", 1.0, 2.0, 8.7e-5), ("memory", 0.25, 0.5, 1e-4)],
)
def test_parallel_is_streaming_in_single_precision(clock, gain, scale, least_std, tolerance_db):
    network = lively(small(clock, levels="all", gain=gain), 1, scale)
    parts = song(5, 200, clock, 1, torch.float32)
    parallel, streamed = network(*(part[None] for part in parts))[0], stream(network, *parts)
    assert streamed[streamed != 0].std() > least_std
    torch.testing.assert_close(parallel, streamed, rtol=0, atol=tolerance_db)


@torch.no_grad()
def test_parallel_is_streaming_with_relu():
    network = lively(small(gain="relu"))
    # Away from zero, where its dB are infinitely steep.
    network.mlp[-1].bias.fill_(3.0)
    network.double()
    parts = song(4, 61, MULTI_RATE)
    parallel, streamed = network(*(part[None] for part in parts))[0], stream(network, *parts)
    assert streamed[streamed != 0].std() > 0.5
    torch.testing.assert_close(parallel, streamed, rtol=0, atol=1e-9)


@torch.no_grad()
def test_every_input_moves_the_gains():
    network = lively(small(levels="all")).double()
    patches, levels, _ = (part[None] for part in song(3, 40, MULTI_RATE))
    mask = torch.ones(1, 3, 40, dtype=torch.float64)
    gains = network(patches, levels, mask)
    # Own and others' sound, each level, from when on.
    for channel in range(3):
        other = patches.clone()
        other[:, channel, 2] = patches[:, channel, 0]
        difference = (network(other, levels, mask) - gains).abs()[0]
        assert difference[:, :18].max() == 0.0
        assert difference[:, 18:].amax(1).min() > 0.05
    for column in range(3):
        other = levels.clone()
        other[:, 1, 10, column] = levels[:, 1, 11, column]
        difference = (network(patches, other, mask) - gains).abs()[0]
        assert difference[:, :10].max() == 0.0
        assert difference[1, 10] > 0.01
        assert difference[1, 11] > 1e-4


@torch.no_grad()
def test_head_takes_embeddings_made_before():
    network = lively(small()).double()
    patches, levels, mask = (part[None] for part in song(3, 30, MULTI_RATE))
    embeddings = network.embed_song(patches, mask)
    assert embeddings.shape == (1, 3, 5, 128)
    assert torch.equal(network.head(embeddings, levels, mask), network(patches, levels, mask))


@torch.no_grad()
def test_f1_frames_beyond_the_song_are_ignored_and_missing_ones_named():
    network = lively(small()).double()
    patches, levels, mask = (part[None] for part in song(2, 31, MULTI_RATE))
    gains = network(patches, levels, mask)
    assert gains.std() > 1.0
    torch.testing.assert_close(network(torch.cat([patches, patches], 2), levels, mask), gains, rtol=0, atol=1e-9)
    # Of 6 frames the last is not used yet: it ends with frame 30 and is due at 36.
    torch.testing.assert_close(network(patches[:, :, :5], levels, mask), gains, rtol=0, atol=1e-9)
    with pytest.raises(ParameterError, match="patches must hold at least 5 F1 frames for 31 frames, got 4"):
        network(patches[:, :, :4], levels, mask)


@torch.no_grad()
def test_masked_patches_are_not_encoded():
    network = small().double()
    patches, _, mask = (part[None] for part in song(4, 60, MULTI_RATE))
    batches = []
    network.encoder.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    network.embed_song(patches, mask)
    assert batches == [int((mask[..., ::6] > 0).sum())]
    assert 0 < batches[0] < 40


def frame_of(channels, seed=3, gain="exp"):
    rng = np.random.default_rng(seed)
    embedding, hidden = rng.normal(size=(2, channels, 128)).astype(np.float32)
    levels = rng.uniform((0.001, 0.001, -70.0), (1.0, 1.0, 0.0), (channels, 3)).astype(np.float32)
    state = {"hidden": torch.tensor(hidden)}
    if gain == "memory":
        weight, lufs, offset = rng.uniform((0.5, -40.0, -40.0), (20.0, -15.0, -20.0), (channels, 3)).T
        memory = weight[:, None] * np.stack([10 ** (lufs / 10), offset, np.ones(channels)], 1)
        state["memory"] = torch.tensor(memory, dtype=torch.float32)
        state["gain_db"] = torch.tensor(offset - lufs + rng.uniform(-2.0, 1.0, channels), dtype=torch.float32)
    return torch.tensor(embedding), torch.tensor(levels), torch.ones(channels), state


@torch.no_grad()
@pytest.mark.parametrize("gain", ["exp", "memory"])
def test_follows_a_permutation(gain):
    network = lively(small(levels="all", gain=gain), scale=0.3)
    patches, order = 2.0 * torch.randn(7, 96, 64), torch.tensor([3, 0, 6, 2, 5, 1, 4])
    _, levels, mask, state = frame_of(7, gain=gain)
    mask[2] = 0.4
    embedding = network.embed(patches, mask)
    gain_db, after = network.step(embedding, levels, mask, state)
    assert gain_db.std() > 1.0
    embedding_2 = network.embed(patches[order], mask[order])
    moved = {name: rows[order] for name, rows in state.items()}
    gain_db_2, after_2 = network.step(embedding_2, levels[order], mask[order], moved)
    torch.testing.assert_close(embedding_2, embedding[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(gain_db_2, gain_db[order], rtol=0, atol=1e-5)
    assert after.keys() == state.keys()
    for name in after:
        torch.testing.assert_close(after_2[name], after[name][order], rtol=1e-6, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("gain", ["exp", "memory"])
def test_padded_channels_change_nothing(gain):
    network = lively(small(levels="all", gain=gain)).double()
    patches, levels, mask = song(3, 50, MULTI_RATE)
    gains = network(patches[None], levels[None], mask[None])[0]
    rng = torch.Generator().manual_seed(4)
    padded = [
        torch.cat([part, torch.rand(2, *part.shape[1:], generator=rng, dtype=part.dtype)]) for part in (patches, levels)
    ]
    padded.append(torch.cat([mask, torch.zeros(2, 50, dtype=mask.dtype)]))
    result = network(*(part[None] for part in padded))[0]
    torch.testing.assert_close(result[:3], gains, rtol=0, atol=1e-6)
    begun = network.initial_state(2).get("gain_db", torch.zeros(2, dtype=result.dtype))
    assert (result[3:] == begun.unsqueeze(-1)).all()


@torch.no_grad()
@pytest.mark.parametrize("gain", ["exp", "memory"])
def test_masked_rows_are_frozen_and_at_0_db_or_where_they_were(gain):
    network = lively(small(gain=gain))
    embedding, levels, mask, state = frame_of(4, gain=gain)
    mask[1], mask[3] = 0.0, 0.2
    before = {name: rows.clone() for name, rows in state.items()}
    gain_db, after = network.step(embedding, levels, mask, state)
    assert after.keys() == state.keys()
    resting = torch.zeros(4) if gain == "exp" else before["gain_db"]
    assert gain_db[1] == resting[1]
    assert ((gain_db - resting)[[0, 2, 3]].abs() > 0.01).all()
    for name in state:
        assert torch.equal(state[name], before[name])
        assert torch.equal(after[name][1], before[name][1])
        assert ((after[name] - before[name])[[0, 2, 3]].reshape(3, -1).abs().amax(1) > 0.01).all()


@torch.no_grad()
@pytest.mark.parametrize("gain", ["exp", "memory"])
def test_all_masked_is_finite(gain):
    network = lively(small(gain=gain))
    embedding, levels, mask, state = frame_of(3, gain=gain)
    gain_db, after = network.step(embedding, levels, 0.0 * mask, state)
    assert torch.equal(gain_db, state.get("gain_db", torch.zeros(3)))
    for name in state:
        assert torch.equal(after[name], state[name])
    assert network.embed(torch.zeros(3, 96, 64), torch.zeros(3)).isfinite().all()


@torch.no_grad()
def test_a_song_in_stretches_is_the_whole_song():
    network = lively(small(levels="all", gain="memory", roles=True)).double()
    patches, levels, mask = (part[None] for part in song(4, 61, MULTI_RATE))
    used = in_use(network.embed_song(patches, mask), mask, network.clock)
    state = {name: rows[None] for name, rows in network.initial_state(4).items()}
    state["role"] = torch.tensor([[0, -1, 5, 17]])
    whole, _, ended = network.continued(used, levels, mask, state)
    parts = []
    for window in (slice(0, 1), slice(1, 20), slice(20, 61)):
        gains, _, state = network.continued(used[:, :, window], levels[:, :, window], mask[..., window], state)
        parts.append(gains)
    assert whole.std() > 1.0
    torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=0, atol=1e-9)
    for name in ended:
        torch.testing.assert_close(state[name], ended[name], rtol=0, atol=1e-9)


@torch.no_grad()
def test_what_is_said_of_roles_is_heard_in_parallel_as_in_streaming():
    network = lively(small(levels="all", gain="memory", roles=True)).double()
    torch.nn.init.normal_(network.role.weight)
    parts = song(4, 61, MULTI_RATE)
    role = torch.tensor([0, -1, 5, 17])

    def said(channels):
        return ALM.initial_state(network, channels) | {"role": role.clone()}

    used = in_use(network.embed_song(parts[0][None], parts[2][None]), parts[2][None], network.clock)
    state = {name: rows[None] for name, rows in said(4).items()}
    parallel = network.continued(used, parts[1][None], parts[2][None], state)[0][0]
    silent = stream(network, *parts)
    network.initial_state = said
    streamed = stream(network, *parts)
    assert (streamed - silent).abs().max() > 0.3
    torch.testing.assert_close(parallel, streamed, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("gain", ["exp", "memory"])
@pytest.mark.parametrize("form", ["file", "wrap"])
def test_its_torchscript_form_is_the_same_function(tmp_path, gain, form):
    network = lively(small(levels="all", gain=gain))
    if form == "file":
        path = tmp_path / "network.ts"
        save_torchscript(network, path, ModelMetadata("network", embedding_size=network.embedding_size))
        model = load_model_file(path)
    else:
        model = TorchModel.wrap(network)
    patches, levels, mask = song(5, 40, MULTI_RATE, dtype=torch.float32)
    gains = stream(network, patches, levels, mask)
    state, embedding = model.initial_state(5), np.zeros((5, 128), np.float32)
    assert state.keys() == network.initial_state(5).keys()
    due, scripted = {}, np.zeros((5, 40), np.float32)
    for t in range(40):
        active = mask[:, t].numpy() > 0
        if t % 6 == 0 and active.any():
            due[t + 6] = active, model.embed(patches[:, t // 6].numpy()[active], mask[:, t].numpy()[active])
        if t in due:
            renewed, rows = due[t]
            embedding[renewed] = rows
        if active.any():
            before = {name: rows[active] for name, rows in state.items()}
            gain_db, after = model.step(embedding[active], levels[active, t].numpy(), mask[active, t].numpy(), before)
            scripted[active, t] = gain_db
            for name in state:
                state[name][active] = after[name]
        if gain == "memory":
            scripted[:, t] = state["gain_db"]
    assert gains.std() > 1.0
    np.testing.assert_allclose(scripted, gains.numpy(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_channel_fading_out_moves_the_others_in_small_steps():
    network = lively(small())
    embedding, levels, mask, state = frame_of(4)
    gains = []
    for weight in [*torch.linspace(1, 0, 21), torch.tensor(0.0)]:
        mask[2] = weight
        gains.append(network.step(embedding, levels, mask, state)[0][[0, 1, 3]])
    gains = torch.stack(gains)
    whole = (gains[0] - gains[-1]).abs().max()
    assert whole > 0.3
    assert (gains[1:] - gains[:-1]).abs().max() < 0.25 * whole


@torch.no_grad()
def test_state_is_that_of_a_gru_cell():
    network = lively(small()).double()
    embedding, levels, mask, state = frame_of(5)
    embedding, levels, mask, hidden = embedding.double(), levels.double(), mask.double(), state["hidden"].double()
    cell = nn.GRUCell(128, 128).double()
    cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in network.gru.state_dict().items()})
    expected = cell(network.conditioned(embedding, levels, mask), hidden)
    assert (expected - hidden).abs().max() > 0.1
    after = network.step(embedding, levels, mask, {"hidden": hidden})[1]["hidden"]
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ("rms", [[-1.0], [0.0], [1.0]]),
        ("rms-linear", [[0.0], [0.01], [1.0]]),
        ("all", [[-1.0, -1.0, -1.0], [0.0, 0.5, 0.0], [1.0, 1.0, 1.0]]),
    ],
)
def test_level_features(levels, expected):
    network = small(levels=levels)
    seen = []
    network.condition.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    measured = torch.tensor([[0.0, 0.0, -70.0], [0.01, 0.01, -35.0], [1.0, 1.0, 0.0]])
    network.step(torch.zeros(3, 128), measured, torch.ones(3), network.initial_state(3))
    torch.testing.assert_close(seen[0], torch.tensor(expected), rtol=0, atol=0.005)


def test_to_gain_db():
    output = torch.tensor([-9.0, -5.0, 0.0, 1.0, 3.5, 9.0])
    neper = 20.0 * np.log10(np.e)
    expected = torch.tensor([-5 * neper, -5 * neper, 0.0, neper, 3.5 * neper, 3.5 * neper], dtype=torch.float32)
    torch.testing.assert_close(to_gain_db(output, "exp"), expected)
    expected = 20.0 * np.log10([1e-5, 1e-5, 1e-5, 1.00001, 3.50001, 9.00001])
    torch.testing.assert_close(to_gain_db(output, "relu"), torch.tensor(expected, dtype=torch.float32))


@torch.no_grad()
@pytest.mark.parametrize("gain", ["exp", "relu"])
def test_an_untrained_network_starts_near_0_db(gain):
    torch.manual_seed(5)
    parts = song(4, 40, MULTI_RATE, dtype=torch.float32)
    assert small(gain=gain)(*(part[None] for part in parts)).abs().max() < 0.2


@pytest.mark.parametrize("gain", ["exp", "memory"])
def test_gradients_reach_every_parameter_and_are_finite(gain):
    network = lively(small(levels="all", gain=gain)).train()
    patches, levels, mask = (part[None] for part in song(4, 40, MULTI_RATE, dtype=torch.float32))
    mask[:, 3], mask[:, :, 20:25] = 0.0, 0.0
    network(patches, levels, mask).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0.0, name


def test_parameter_count_beside_the_encoder():
    network = ALM()
    beside = sum(parameter.numel() for parameter in network.parameters())
    beside -= sum(parameter.numel() for parameter in network.encoder.parameters())
    assert beside == 16_512 + 3 * 132_480 + 257 + 99_072 + 26_884


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gain": "sigmoid"}, "gain must be one of exp, relu, memory, got 'sigmoid'"),
        ({"levels": "peak"}, "levels must be one of rms, rms-linear, all, got 'peak'"),
        ({"size": 0}, r"size must be in \[1, 4096\], got 0"),
    ],
)
def test_unknown_arguments(arguments, message):
    with pytest.raises(ParameterError, match=message):
        small(**arguments)
