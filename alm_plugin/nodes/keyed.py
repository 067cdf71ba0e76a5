"""Nodes that listen to another channel, and a compressor that does."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.node import Audio, Node, Parameter
from alm_plugin.units import db_to_factor


class Keyed(Node):
    """A node with a side-chain: `key` names a channel of the mixer, which it hears beside its own sound.

    A mixer hands it that channel block by block: in a pre chain as it came in, in a post chain or on a bus from behind
    its pre chain, before its gain; so two channels may key each other. Without a mixer, without a `key`, and where the
    mixer has no such channel, it hears itself.

    To write one, subclass it, and call `side` in `process_block`.
    """

    def __init__(self, key: str | None) -> None:
        self.key = key
        self._heard: Audio | None = None

    @property
    def key(self) -> str | None:
        """Name of the channel that it listens to, or None for itself."""
        return self._key

    @key.setter
    def key(self, key: str | None) -> None:
        if key is not None and (not isinstance(key, str) or not key):
            raise ParameterError(f"key must be a channel's name or None, got {key!r}")
        self._key = key

    def hear_key(self, x: Audio | None) -> None:
        """Take the key's block (1 or 2, samples) for the next `process_block`; None if there is none."""
        self._heard = x

    def side(self, x: Audio) -> Audio:
        """Block of the key that belongs to `x`, as long as it."""
        heard, self._heard = self._heard, None
        return x if heard is None or heard.shape[1] != x.shape[1] else heard


def keyed_in(plugins: Iterable[object]) -> list[Keyed]:
    """All keyed nodes of a chain that have a key, those in chains inside it too."""
    found = []
    for plugin in plugins:
        if isinstance(plugin, Chain):
            found += keyed_in(plugin)
        elif isinstance(plugin, Keyed) and plugin.key is not None:
            found.append(plugin)
    return found


# The level detector is a peak follower with one pole each way, as in JUCE, which pedalboard's Compressor is made of:
#
#     level += (1 - c) (|s| - level),   c = e^(-2 pi / (time * fs)),  time = attack if |s| > level, else release
#
# and what is above the threshold comes out with 1 / ratio of its decibels:
#
#     gain = (level / threshold)^(1 / ratio - 1)    where level > threshold, else 1
@njit(cache=True, nogil=True)
def compress(x, side, levels, threshold, exponent, attack, release, out):
    """Write `x` (channels, samples), turned down where `side` is loud, to `out`; `levels` (rows of side,) go on."""
    rows = side.shape[0]
    for i in range(x.shape[1]):
        for row in range(rows):
            size = abs(side[row, i])
            pole = attack if size > levels[row] else release
            levels[row] = size + pole * (levels[row] - size)
        for channel in range(x.shape[0]):
            level = levels[channel] if rows == x.shape[0] else levels.max()
            gain = 1.0 if level < threshold else (level / threshold) ** exponent
            out[channel, i] = x[channel, i] * gain


class SidechainCompressor(Keyed):
    """A compressor that another channel works: guitars make room while someone sings, the bass while the kick sounds.

    Its sound is that of `pedalboard.Compressor`, and without a key the same.

    Parameters
    ----------
    key : str, optional
        Channel of the mixer that is listened to.
    threshold_db : float
        Level of the key from which on this channel is turned down, -100 to 24.
    ratio : float
        Decibels of the key above the threshold for one that is left of them, 1 to 100.
    attack_ms, release_ms : float
        How fast it turns down and lets go, 0 to 5000.

    Raises
    ------
    ParameterError
        For values outside their range.

    Examples
    --------
    >>> from alm_plugin import Mixer, Strip
    >>> guitar = Strip(post=[SidechainCompressor(key="vocals", threshold_db=-30, ratio=2)])
    >>> mixer = Mixer({"vocals": Strip(), "guitar": guitar}, model="unity")

    Notes
    -----
    Left and right are on their own where there are as many in the key, as in pedalboard; a stereo key turns a mono
    channel down by its louder side. Plugins with latency in front of it make it hear the key that much early.
    """

    threshold_db = Parameter(-100.0, 24.0)
    ratio = Parameter(1.0, 100.0)
    attack_ms = Parameter(0.0, 5_000.0)
    release_ms = Parameter(0.0, 5_000.0)

    def __init__(
        self,
        key: str | None = None,
        threshold_db: float = -24.0,
        ratio: float = 3.0,
        attack_ms: float = 5.0,
        release_ms: float = 150.0,
    ) -> None:
        super().__init__(key)
        self.threshold_db, self.ratio = threshold_db, ratio
        self.attack_ms, self.release_ms = attack_ms, release_ms
        self.reset()
        warm = np.zeros((1, 1), np.float32)
        compress(warm, warm, self._levels, 1.0, 0.0, 0.0, 0.0, warm.copy())

    def reset(self) -> None:
        """Forget the stream so far."""
        self._levels: NDArray[np.float64] = np.zeros(1)
        self._heard = None

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block (channels, samples); see `Node.process_block`."""
        side = np.ascontiguousarray(self.side(x))
        if len(self._levels) != len(side):
            self._levels = np.full(len(side), self._levels.max())
        out = np.empty(x.shape, np.float32)
        times_ms = (self.attack_ms, self.release_ms)
        attack, release = (math.exp(-2e3 * math.pi / (ms * sample_rate)) if ms >= 1e-3 else 0.0 for ms in times_ms)
        threshold, exponent = float(db_to_factor(self.threshold_db)), 1.0 / self.ratio - 1.0
        compress(np.ascontiguousarray(x), side, self._levels, threshold, exponent, attack, release, out)
        return out
