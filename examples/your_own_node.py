"""Write a node and put it in a chain between pedalboard's plugins."""

import numpy as np
from pedalboard import HighpassFilter, Limiter

from alm_plugin import Chain, Mixer, Node, Strip


class Tremolo(Node):
    """Move the level up and down: a node with a parameter and a memory."""

    def __init__(self, rate_hz: float = 5.0, depth: float = 0.5) -> None:
        self.rate_hz = rate_hz
        self.depth = depth
        self.reset()

    def reset(self) -> None:
        self._position = 0

    def process_block(self, x: np.ndarray, sample_rate: int) -> np.ndarray:
        t = (self._position + np.arange(x.shape[1])) / sample_rate
        self._position += x.shape[1]
        level = 1.0 - self.depth * 0.5 * (1.0 - np.cos(2.0 * np.pi * self.rate_hz * t))
        return (x * level).astype(np.float32)


tone = np.sin(2 * np.pi * 220 * np.arange(48_000) / 48_000).astype(np.float32)

print(Tremolo(rate_hz=4.0))
alone = Tremolo(rate_hz=4.0)(tone, 48_000)
chain = Chain([HighpassFilter(60), Tremolo(rate_hz=4.0), Limiter()])
chained = chain(tone, 48_000)
mixed = Mixer({"keys": Strip(chain), "bass": Strip()}).process({"keys": tone, "bass": 0.1 * tone}, 48_000)
print(f"alone {np.abs(alone).max():.2f}, in a chain {np.abs(chained).max():.2f}, in a mix {np.abs(mixed).max():.2f}")
