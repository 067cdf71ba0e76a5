import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d, relu

from alm_plugin.errors import ParameterError
from alm_plugin.models.encoder import VGGish

# From the state dict of torchvggish's VGG.
PUBLISHED = {
    "features.0": (64, 1, 3, 3),
    "features.3": (128, 64, 3, 3),
    "features.6": (256, 128, 3, 3),
    "features.8": (256, 256, 3, 3),
    "features.11": (512, 256, 3, 3),
    "features.13": (512, 512, 3, 3),
    "embeddings.0": (4096, 12288),
    "embeddings.2": (4096, 4096),
    "embeddings.4": (128, 4096),
}


def test_full_width_has_the_published_names_and_shapes():
    shapes = {key: tuple(tensor.shape) for key, tensor in VGGish().state_dict().items()}
    expected = {f"{key}.weight": shape for key, shape in PUBLISHED.items()}
    expected |= {f"{key}.bias": shape[:1] for key, shape in PUBLISHED.items()}
    assert shapes == expected
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 72_141_184


@pytest.mark.parametrize(("width", "parameters"), [(0.25, 1_167_040), (0.125, 562_720)])
def test_slim_parameter_counts(width, parameters):
    assert sum(parameter.numel() for parameter in VGGish(width, 256).parameters()) == parameters


def as_published(encoder, patches):
    """torchvggish's forward pass, operator by operator, in PyTorch's default memory format."""
    weights = {key: tensor.contiguous() for key, tensor in encoder.state_dict().items()}
    x = patches[:, None]
    for layer in (0, 3, 6, 8, 11, 13):
        x = relu(conv2d(x, weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"], padding=1))
        if layer not in (6, 11):
            x = max_pool2d(x, 2)
    x = x.transpose(1, 3).transpose(1, 2).contiguous().view(len(x), -1)
    for layer in (0, 2, 4):
        x = linear(x, weights[f"embeddings.{layer}.weight"], weights[f"embeddings.{layer}.bias"])
        x = relu(x) if layer < 4 else x
    return x


@pytest.mark.parametrize("final_relu", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_forward_is_the_published_one(final_relu, batch):
    torch.manual_seed(1)
    encoder = VGGish(0.125, 64, final_relu=final_relu)
    for layer in encoder.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
    patches = torch.randn(batch, 96, 64)
    with torch.no_grad():
        result, expected = encoder(patches), as_published(encoder, patches)
    assert expected.std() > 0.1
    assert (expected < 0).any()
    torch.testing.assert_close(result, relu(expected) if final_relu else expected, rtol=1e-5, atol=1e-5)


def test_convolutions_run_channels_last():
    # Up to two times slower otherwise, and nothing else would show it.
    encoder = VGGish(0.125, 64)
    assert encoder.features[3].weight.is_contiguous(memory_format=torch.channels_last)
    first = encoder.features[0](torch.randn(2, 96, 64).unsqueeze(-1).permute(0, 3, 1, 2))
    assert first.is_contiguous(memory_format=torch.channels_last)
    seen = []
    encoder.features.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    encoder(torch.randn(2, 96, 64))
    assert seen[0].stride() == (6144, 1, 64, 1)
    assert seen[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0.0}, r"width must be in \(0, 1\], got 0.0"),
        ({"width": 1.5}, r"width must be in \(0, 1\], got 1.5"),
        ({"hidden": 0}, r"hidden must be in \[1, 4096\], got 0"),
        ({"embedding": 5000}, r"embedding must be in \[1, 4096\], got 5000"),
    ],
)
def test_sizes_out_of_range(arguments, message):
    with pytest.raises(ParameterError, match=message):
        VGGish(**arguments)
