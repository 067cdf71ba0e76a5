"""What mix is to be expected, given who plays: learnt from the reference."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alm_plugin.errors import ParameterError
from solar.bands import N_BANDS
from solar.mix_map import MixMap

Floats = NDArray[np.float64]

SHRINK_S = 2.0
"""A combination counts as its seconds, next to so many of what its players do elsewhere."""

RIDGE = 0.5

HIDDEN, EPOCHS, BATCH, LEARNING_RATE = 32, 10, 32, 0.01
"""The paper's networks (section 6.2), which leaves the number of hidden units and the optimiser open: 32, and Adam."""


class Table:
    """The mean mix of each combination of players.

    Networks that see who plays and nothing else can do no better than these means. A combination that is rare in the
    reference, or not in it, is drawn towards what its players have in common with others: a sum of one part for each.

    Examples
    --------
    >>> noise = 0.1 * np.random.default_rng(0).standard_normal((2, 4 * 48_000))
    >>> from solar.mix_map import map_stems
    >>> song = map_stems({"bass": noise[0], "guitar": noise[1]}, 48_000)
    >>> table = Table().fit(song, np.ones((4, 2), bool))
    >>> table.predict([True, True]).shape
    (24, 2)
    """

    def fit(self, song: MixMap, playing: NDArray[np.bool_]) -> Self:
        """Learn from a reference and who plays in it, (T, S); returns itself."""
        playing, shares, valid = _checked(song, playing)
        inputs = np.column_stack([playing, np.ones(len(playing))])
        normal = inputs.T @ inputs + RIDGE * np.eye(inputs.shape[1])
        flat = inputs.T @ shares.reshape(len(shares), -1)
        self._parts = np.linalg.solve(normal, flat).reshape(-1, *shares.shape[1:])
        self._sums: dict[bytes, tuple[Floats, Floats]] = {}
        for row in np.unique(playing, axis=0):
            of_these = (playing == row).all(axis=1)
            self._sums[row.tobytes()] = shares[of_these].sum(axis=0), valid[of_these].sum(axis=0)[:, None]
        return self

    def predict(self, playing: ArrayLike) -> Floats:
        """Shares (..., 24, S) for who plays, (..., S): they add up to 1 in each band, or are 0 where nobody plays."""
        playing = np.asarray(playing, np.bool_)
        rows, at = np.unique(playing.reshape(-1, playing.shape[-1]), axis=0, return_inverse=True)
        return np.stack([self._row(row) for row in rows])[at].reshape(*playing.shape[:-1], N_BANDS, -1)

    def _row(self, row: NDArray[np.bool_]) -> Floats:
        if not row.any():
            return np.zeros((N_BANDS, len(row)))
        fallback = _shares_of(np.maximum(self._parts[-1] + self._parts[:-1][row].sum(axis=0), 0.0))
        total, seconds = self._sums.get(row.tobytes(), (0.0, 0.0))
        return _shares_of((total + SHRINK_S * fallback) / (seconds + SHRINK_S))


class Networks:
    """The paper's 24 networks, one for each band: who plays, a hidden layer, the shares of that band.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, song: MixMap, playing: NDArray[np.bool_]) -> Self:
        """Learn from a reference and who plays in it, (T, S); returns itself."""
        import torch

        playing, shares, _ = _checked(song, playing)
        stems = playing.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        x, y = torch.tensor(playing, dtype=torch.float32), torch.tensor(shares, dtype=torch.float32)

        def weights(inputs: int, *shape: int) -> torch.Tensor:  # as torch.nn.Linear begins
            drawn = (2.0 * torch.rand(N_BANDS, *shape, generator=generator) - 1.0) / inputs**0.5
            return drawn.requires_grad_()

        self._weights = [
            weights(stems, stems, HIDDEN),
            weights(stems, 1, HIDDEN),
            weights(HIDDEN, HIDDEN, stems),
            weights(HIDDEN, 1, stems),
        ]
        adam = torch.optim.Adam(self._weights, LEARNING_RATE)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x), generator=generator).split(BATCH):
                adam.zero_grad()
                # Each network has its own mean squared error, and none shares a weight: their sum trains all at once.
                ((self._forward(x[rows]) - y[rows]) ** 2).mean((0, 2)).sum().backward()
                adam.step()
        return self

    def _forward(self, x):
        import torch

        w1, b1, w2, b2 = self._weights
        hidden = torch.relu(torch.einsum("ni,bih->bnh", x, w1) + b1)
        return torch.softmax(torch.bmm(hidden, w2) + b2, -1).transpose(0, 1)

    def predict(self, playing: ArrayLike) -> Floats:
        """Shares (..., 24, S) for who plays, (..., S); they add up to 1 in each band."""
        import torch

        playing = np.asarray(playing, np.float32)
        with torch.no_grad():
            shares = self._forward(torch.from_numpy(playing.reshape(-1, playing.shape[-1]))).numpy()
        return shares.astype(np.float64).reshape(*playing.shape[:-1], N_BANDS, -1)


def _checked(song: MixMap, playing: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Floats, NDArray[np.bool_]]:
    playing = np.asarray(playing, np.bool_)
    if playing.shape != (len(song), len(song.names)) or not len(song):
        raise ParameterError(f"playing must have shape ({len(song)}, {len(song.names)}), got {playing.shape}")
    return playing, song.dominance, song.valid


def _shares_of(values: Floats) -> Floats:
    total = values.sum(axis=-1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0.0)
