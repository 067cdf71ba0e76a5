"""Write a node that listens to another channel, and build a console around it: a group, a return, a key."""

import numpy as np
from pedalboard import Delay, HighpassFilter

from alm_plugin import Group, Keyed, Mixer, Return, Strip


class Breath(Keyed):
    """Turn down by up to `depth` while the key sounds; let go within `release_ms`."""

    def __init__(self, key: str | None = None, depth: float = 0.5, release_ms: float = 150.0) -> None:
        super().__init__(key)
        self.depth = depth
        self.release_ms = release_ms
        self.reset()

    def reset(self) -> None:
        self._level = 0.0

    def process_block(self, x: np.ndarray, sample_rate: int) -> np.ndarray:
        # The highest peak so far, less what has decayed since.
        decay = np.exp(-np.arange(1, x.shape[1] + 1) * 1000.0 / (self.release_ms * sample_rate))
        peaks = np.maximum.accumulate(np.abs(self.side(x)).max(axis=0) / decay)
        level = decay * np.maximum(peaks, self._level)
        self._level = level[-1]
        return (x * (1.0 - self.depth * np.minimum(4.0 * level, 1.0))).astype(np.float32)


t = np.arange(2 * 48_000) / 48_000
kick = 0.5 * np.sin(2 * np.pi * 60 * t) * np.exp(-30 * (t % 0.5))
pad, lead = 0.1 * np.sin(2 * np.pi * 220 * t), 0.1 * np.sin(2 * np.pi * 440 * t)

mixer = Mixer(
    {"kick": Strip(), "pad": Strip(group="synths"), "lead": Strip(group="synths", sends={"echo": -12})},
    model="unity",
    groups={"synths": Group([Breath(key="kick", depth=0.8)], trim_db=-2)},
    returns={"echo": Return([HighpassFilter(300), Delay(0.25, feedback=0.2, mix=1.0)])},
)
mixer.groups["synths"].solo = True  # the kick is not heard, but still heard by its listener
mix = mixer.process({"kick": kick, "pad": pad, "lead": lead}, 48_000)
levels = [mix[:, start : start + 2_400].std() for start in (48_000, 69_600)]
print(f"on the beat {levels[0]:.2f}, between beats {levels[1]:.2f}")
