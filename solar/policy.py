"""What to do about a mix that differs from the one expected: the paper's rule, and a network that was taught."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alm_plugin.data import reason_of
from alm_plugin.errors import ModelError, ParameterError
from solar.mix_map import Second

THRESHOLD = 3.0
"""Bands, of 24, by which a player may differ (section 7)."""

DQN_PATH = Path(__file__).with_name("dqn.safetensors")
"""Weights that examples/dqn.py has found on song "a"."""


class Predictor(Protocol):
    """What `Table` and `Networks` have in common."""

    def predict(self, playing: ArrayLike) -> NDArray[np.float64]:
        """Shares (..., 24, S) for who plays, (..., S)."""
        ...


class Rule:
    """The paper's: turn down who has more than three bands too many, up who has as many too few.

    Whether somebody plays is judged by the very sound that is too loud or too soft: who is turned down far enough does
    not play, is not expected, and is left as he is. `solar.tracker` does better.

    Parameters
    ----------
    predictor : Predictor
    player : int
        Which stem.
    threshold : float
        Bands.
    """

    def __init__(self, predictor: Predictor, player: int, threshold: float = THRESHOLD) -> None:
        if not threshold >= 0.0:
            raise ParameterError(f"threshold must be at least 0, got {threshold}")
        self.predictor, self.player, self.threshold = predictor, player, threshold

    def decide(self, second: Second, playing: NDArray[np.bool_]) -> int:
        """-1 for down, 0, or 1 for up, after a second in which these play, (S,)."""
        return decide((second.dominance - self.predictor.predict(playing))[:, self.player], self.threshold)


def decide(surplus: NDArray[np.floating], threshold: float = THRESHOLD) -> int:
    """-1 for down, 0, or 1 for up, given by how much a player has more of each band than expected, (24,).

    >>> decide(np.full(24, 0.2)), decide(np.full(24, -0.1))
    (-1, 0)
    """
    total = float(np.sum(surplus))
    return -1 if total > threshold else int(total < -threshold)


class Dqn:
    """A Q-network that was taught in `SoundcheckEnv`: 24 S numbers, two hidden layers, the value of each action.

    Parameters
    ----------
    path : Path, optional
        Of a safetensors file with w1, b1, w2, b2, w3, b3; by default what ships, for 4 stems.

    Raises
    ------
    ModelError
        For any other file.
    """

    def __init__(self, path: str | Path = DQN_PATH) -> None:
        import safetensors.numpy

        try:
            weights = safetensors.numpy.load_file(path)
            self._layers = [(weights[f"w{i}"].T, weights[f"b{i}"]) for i in (1, 2, 3)]
            shapes = [w.shape for w, _ in self._layers]
            if any(w.ndim != 2 or b.shape != w.shape[1:] for w, b in self._layers) or shapes[2][1] != 3:
                raise ValueError("other layers")
            if shapes[0][1] != shapes[1][0] or shapes[1][1] != shapes[2][0]:
                raise ValueError("layers that do not fit")
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise ModelError(f"{path}: expected a Q-network with three layers, got {reason_of(error)}") from None
        self.inputs = shapes[0][0]

    def decide(self, observation: NDArray[np.float32]) -> int:
        """-1 for down, 0, or 1 for up, given an observation (24, S)."""
        if observation.size != self.inputs:
            raise ParameterError(f"observation must have {self.inputs} numbers, got {observation.size}")
        x = observation.ravel()
        for w, b in self._layers[:2]:
            x = np.maximum(x @ w + b, 0.0)
        w, b = self._layers[2]
        return int((x @ w + b).argmax()) - 1
