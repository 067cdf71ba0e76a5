"""The encoder's convolutions with a quarter of their multiplications, as products of matrices."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alm_plugin.models.contract import MEL_BANDS, PATCH_COLUMNS
from alm_plugin.models.encoder import VGGish

TILE, TAPS = 4, 3
"""Results per side that are computed at once, and weights per side of a convolution."""

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where the polynomials are looked at, besides infinity: with these it rounds no worse than the plain sum."""


# Lavin & Gray, "Fast algorithms for convolutional neural networks" (2016); the way there is Toom's and Cook's. The
# product of two polynomials is known from its values at as many points as it has coefficients, and there it costs one
# multiplication each. Transposed, that is a correlation: `TILE` results y of `TAPS` weights g along SIZE samples d are
#
#     y_j = sum_k g_k d_(j+k)        y = A^T ((G g) * (B^T d))        SIZE = TILE + TAPS - 1 products, not TILE * TAPS
#
# A^T and G evaluate at the points a_i (a_i^j, and a_i^k over N_i = prod_(l != i) (a_i - a_l)), B^T has the coefficients
# of prod_(l != i) (x - a_l); infinity looks at the highest coefficient only. Along both sides of a picture the matrices
# apply twice (their Kronecker products), and the products are summed over channels: a product of matrices per point.
def transforms() -> tuple[NDArray, NDArray, NDArray]:
    """Matrices B^T (6, 6), G (6, 3) and A^T (4, 6)."""
    points, size = np.array(POINTS), TILE + TAPS - 1
    of_samples, of_weights, of_results = np.zeros((size, size)), np.zeros((size, TAPS)), np.zeros((TILE, size))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        of_samples[i, :-1] = np.poly(others)[::-1]
        of_weights[i] = point ** np.arange(TAPS) / np.prod(point - others)
        of_results[:, i] = point ** np.arange(TILE)
    of_samples[-1] = np.poly(points)[::-1]
    of_weights[-1, -1] = of_results[-1, -1] = 1.0
    return of_samples, of_weights, of_results


def _rows(side: int, tiles: tuple[int, int]) -> NDArray[np.int64]:
    """Where each position of a picture is, if rows are by place in a tile first and by tile then: (height, width)."""
    down, across = tiles
    rows = np.arange(side * side * down * across).reshape(side, side, down, across)
    return rows.transpose(2, 0, 3, 1).reshape(side * down, side * across)


class _Convolution(nn.Module):
    """A convolution and a ReLU, and pooling if wanted, of (positions, B, C) to (positions, B, K).

    `rows` says where each position of the picture is, before and afterwards: nothing is ever moved to where the eye
    would look for it.
    """

    def __init__(self, plain: nn.Conv2d, rows: NDArray[np.int64], pools: bool) -> None:
        super().__init__()
        weight = plain.weight.detach()
        of_samples, of_weights, of_results = transforms()
        height, width = rows.shape
        tiles = height // TILE, width // TILE
        self.points, self.positions, self.pools = len(of_samples) ** 2, rows.size, pools
        # What lies beyond the edges is zero: a row behind all others.
        padded = np.pad(rows, 1, constant_values=rows.size)
        ends = [TILE * count for count in tiles]
        size = range(len(of_samples))
        picks = [padded[y : y + ends[0] : TILE, x : x + ends[1] : TILE] for y in size for x in size]
        kernels = np.einsum("ip,jq,kcpq->ijck", of_weights, of_weights, weight.double().numpy())
        self.picks = torch.from_numpy(np.ravel(picks))
        self.of_samples = torch.from_numpy(np.kron(of_samples, of_samples)).to(weight.dtype)
        self.of_results = torch.from_numpy(np.kron(of_results, of_results)).to(weight.dtype)
        self.kernels = torch.from_numpy(kernels.reshape(self.points, *kernels.shape[2:])).to(weight.dtype)
        self.bias = cast(Tensor, plain.bias).detach()
        self.rows = _rows(TILE // 2 if pools else TILE, tiles)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, results = self.kernels.shape
        x = torch.cat([x, torch.zeros_like(x[:1])]).index_select(0, self.picks)
        x = (self.of_samples @ x.reshape(self.points, -1)).reshape(self.points, -1, channels)
        x = self.of_results @ (x @ self.kernels).reshape(self.points, -1)
        x = torch.relu(x.reshape(self.positions, -1, results) + self.bias)
        if self.pools:
            pairs = x.reshape(TILE // 2, 2, TILE // 2, 2, -1)
            pairs = torch.maximum(pairs[:, 0], pairs[:, 1])
            x = torch.maximum(pairs[:, :, 0], pairs[:, :, 1]).reshape(self.positions // 4, -1, results)
        return x


class WinogradVGGish(nn.Module):
    """What a `VGGish` computes, from its weights as they are now, for less work where batches are not single patches.

    Parameters
    ----------
    encoder : VGGish
        On the CPU.
    """

    def __init__(self, encoder: VGGish) -> None:
        super().__init__()
        layers = list(encoder.features)
        # Of one channel there is nothing to sum over.
        self.first = nn.Sequential(*layers[:3])
        height, width = PATCH_COLUMNS // 2, MEL_BANDS // 2
        rows = np.arange(height * width).reshape(height, width)
        self.convolutions = nn.Sequential()
        for layer, behind in zip(layers[3:], [*layers[5:], None, None], strict=True):
            if isinstance(layer, nn.Conv2d):
                convolution = _Convolution(layer, rows, isinstance(behind, nn.MaxPool2d))
                self.convolutions.append(convolution)
                rows = convolution.rows
        self.order = torch.from_numpy(rows.ravel())
        self.embeddings = encoder.embeddings

    def forward(self, patches: Tensor) -> Tensor:
        """Embed log-mel `patches` (B, 96, 64) to (B, embedding)."""
        x = self.convolutions(self.first(patches.unsqueeze(1)).flatten(2).permute(2, 0, 1))
        return self.embeddings(x.index_select(0, self.order).transpose(0, 1).flatten(1))
