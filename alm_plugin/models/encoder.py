"""VGGish, and slimmer copies of it: what one channel sounds like, as 128 numbers per 975 ms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alm_plugin.errors import ParameterError
from alm_plugin.models.contract import MEL_BANDS, PATCH_COLUMNS

# Convolutions by their number of output channels; 0 halves both axes. Hershey et al., "CNN architectures for
# large-scale audio classification" (2017): configuration A of VGG without its last group.
LAYERS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0)


class VGGish(nn.Module):
    """Audio embedding model (AiLive Mixer, section 2.1).

    At its defaults the state dict has the names and shapes of the `torchvggish` project, so that its published weights
    fit; `alm_plugin.models.files.load_vggish` reads them.

    Parameters
    ----------
    width : float
        Scale of the numbers of convolution channels, in (0, 1]; 1 is the published network.
    hidden : int
        Size of the two fully connected layers; 4096 in the published network, 256 in slim ones.
    embedding : int
        Size of the result.
    final_relu : bool
        Whether the result passes a ReLU, as in `torchvggish`; some TensorFlow releases have none.

    Raises
    ------
    ParameterError
        If `width`, `hidden` or `embedding` is out of range.
    """

    def __init__(self, width: float = 1.0, hidden: int = 4096, embedding: int = 128, final_relu: bool = True) -> None:
        super().__init__()
        if not 0.0 < width <= 1.0:
            raise ParameterError(f"width must be in (0, 1], got {width}")
        for name, value in (("hidden", hidden), ("embedding", embedding)):
            if not 1 <= value <= 4096:
                raise ParameterError(f"{name} must be in [1, 4096], got {value}")
        self.width, self.hidden = width, hidden
        layers: list[nn.Module] = []
        before = 1
        for full in LAYERS:
            if full:
                channels = max(1, round(full * width))
                layers += [nn.Conv2d(before, channels, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                before = channels
            else:
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        # On a CPU channels-last convolutions take 4/5 (full width) to 1/2 (slim) of the time of channels-first ones.
        self.features = nn.Sequential(*layers)
        self.features.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        halvings = 2 ** LAYERS.count(0)
        dense: list[nn.Module] = [
            nn.Linear(PATCH_COLUMNS // halvings * (MEL_BANDS // halvings) * before, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, embedding),
        ]
        if final_relu:
            dense.append(nn.ReLU(inplace=True))
        self.embeddings = nn.Sequential(*dense)

    def forward(self, patches: Tensor) -> Tensor:
        """Embed log-mel `patches` (B, 96, 64) to (B, embedding)."""
        # With a single channel both memory formats describe the same numbers, and only strides made by this permutation
        # tell the first convolution which one is meant.
        x = self.features(patches.unsqueeze(-1).permute(0, 3, 1, 2))
        # The published fully connected layer expects time, band, channel, with the channel fastest.
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))
