"""One plugin per channel of a signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alm_plugin.nodes.chain import Chain
from alm_plugin.nodes.node import Audio, Node


class PerChannel(Node):
    """Send every channel of a signal through a plugin of its own.

    So a plugin that takes mono only works on stereo, one that links left and right works on each alone, and a
    multichannel file gets a chain per channel.

    Parameters
    ----------
    factory : callable
        Makes a plugin, or a list of them, each time it is called: ``lambda: Compressor(-18, 3)``, or a class.

    Examples
    --------
    >>> import numpy as np
    >>> from pedalboard import Compressor
    >>> each = PerChannel(lambda: Compressor(threshold_db=-20, ratio=4))
    >>> each(np.zeros((8, 480), np.float32), 48_000).shape, len(each.chains)
    ((8, 480), 8)

    Notes
    -----
    `chains` are there from the first block on; before it, latency is told of one that is made for the purpose.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        if not callable(factory):
            raise TypeError(f"factory must be callable, got {factory!r}")
        self.factory = factory
        self._chains: list[Chain] = []

    @property
    def chains(self) -> tuple[Chain, ...]:
        """What the channels go through."""
        return tuple(self._chains)

    def prepare(self, sample_rate: int, channels: int) -> None:
        """Start a stream of so many channels; what they had gone through is kept where it can be."""
        self._chains = self._chains[:channels]
        self._chains += [Chain(self.factory()) for _ in range(channels - len(self._chains))]
        for chain in self._chains:
            chain.prepare(sample_rate, 1)

    def reset(self) -> None:
        """Forget the stream so far."""
        for chain in self._chains:
            chain.reset()

    @property
    def reported_latency_samples(self) -> int:
        """Delay of a channel's chain."""
        chain = self._chains[0] if self._chains else Chain(self.factory())
        return chain.reported_latency_samples

    def process_block(self, x: Audio, sample_rate: int) -> Audio:
        """Process the next block (channels, samples); see `Node.process_block`."""
        if len(self._chains) != len(x):
            self.prepare(sample_rate, len(x))
        return np.concatenate(
            [chain.process_block(x[c : c + 1], sample_rate) for c, chain in enumerate(self._chains)], axis=0
        )
