"""What is heard of an isolated plugin: its answers, and where there are none the dry signal, without a step between."""

from __future__ import annotations

import numpy as np
from numba import njit

from alm_plugin.features.guard import LIMIT
from alm_plugin.nodes.external.shared import LONGEST, MOST_CHANNELS
from alm_plugin.nodes.node import Audio
from alm_plugin.units import ms_to_samples

EDGE_MS, RETURN_MS, WARM_UP_MS, LEVEL_MS = 2.0, 20.0, 100.0, 50.0

LOUDEST = 100.0
"""RMS, 40 dB over full scale, that no plugin has a reason to reach."""

LEAP = 100.0
"""No plugin leaps by that factor, to over full scale, from one block to the next while what goes in does not."""

# What `_play` knows, in float64: lengths of the return, the edge and the level's mean in samples; answers heard since
# the return began; samples still to be processed unheard; time since the dry signal began, and its factor; mean squares
# of wet and dry, and their mean product; by channel what was heard last, and the offset.
_FADE, _EDGE, _LEVEL, _MIX, _WARM, _SINCE, _FACTOR, _WW, _DD, _WD, _LAST = range(11)
_OFFSET = _LAST + MOST_CHANNELS


@njit(cache=True)
def _admit(x, line, at, sent):
    size = line.shape[1]
    for channel in range(x.shape[0]):
        for i in range(x.shape[1]):
            value = x[channel, i]
            if not abs(value) <= LIMIT:
                value = np.float32(0.0)
            sent[channel, i] = value
            line[channel, (at + i) % size] = value


@njit(cache=True)
def _collect(y, line, at):
    size = line.shape[1]
    for channel in range(y.shape[0]):
        for i in range(y.shape[1]):
            line[channel, (at + i) % size] = y[channel, i]


# With m samples since the return began, and t since the last wet one,
#
#     dry'   = factor * dry + offset * (1 + cos(pi t / edge)) / 2             0 < t < edge
#     out    = dry' + a (wet - dry')        a = (1 - cos(pi m / fade)) / 2    0 < m < fade
#
# where the factor matches the levels of the last 50 ms, and the offset is what makes dry' begin where the sound was.
@njit(cache=True)
def _play(dry, dry_at, wet, wet_at, is_wet, state, out):
    """Write a block to `out`; the lines are rings, read from the places given. False if the answer was unfit."""
    channels, samples = out.shape
    dry_size, wet_size, count = dry.shape[1], wet.shape[1], out.size
    ww, dd, wd, peak = 0.0, 0.0, 0.0, 0.0
    for channel in range(channels):
        for i in range(samples):
            d = dry[channel, (dry_at + i) % dry_size]
            dd += d * d
            if is_wet:
                w = wet[channel, (wet_at + i) % wet_size]
                ww += w * w
                wd += w * d
                peak = max(peak, abs(w))
    ww, dd, wd = ww / count, dd / count, wd / count
    is_good = is_wet and ww <= LOUDEST * LOUDEST
    if is_good and peak > 1.0 and state[_WW] > 1e-6:
        is_good = ww <= LEAP * LEAP * max(state[_WW], dd)
    is_heard = is_good and state[_WARM] <= 0.0
    if is_good and not is_heard:
        state[_WARM] -= samples
    if is_heard and state[_MIX] >= state[_FADE]:
        for channel in range(channels):
            for i in range(samples):
                out[channel, i] = wet[channel, (wet_at + i) % wet_size]
            state[_LAST + channel] = out[channel, samples - 1]
        share = min(1.0, samples / state[_LEVEL])
        state[_WW] += share * (ww - state[_WW])
        state[_DD] += share * (dd - state[_DD])
        state[_WD] += share * (wd - state[_WD])
        return True
    if not is_heard and state[_MIX] > 0.0:
        factor = 1.0
        if state[_DD] > 1e-12:
            factor = min(np.sqrt(state[_WW] / state[_DD]), 4.0)
            if state[_WD] < -0.5 * np.sqrt(state[_WW] * state[_DD]):
                factor = -factor
        for channel in range(channels):
            state[_OFFSET + channel] = state[_LAST + channel] - factor * dry[channel, (dry_at - 1) % dry_size]
        state[_FACTOR], state[_SINCE], state[_MIX] = factor, 0.0, 0.0
    for channel in range(channels):
        for i in range(samples):
            value = state[_FACTOR] * dry[channel, (dry_at + i) % dry_size]
            t = state[_SINCE] + i + 1
            if t < state[_EDGE]:
                value += state[_OFFSET + channel] * (0.5 + 0.5 * np.cos(np.pi * t / state[_EDGE]))
            if is_heard:
                m = min(state[_MIX] + i + 1, state[_FADE])
                share = 0.5 - 0.5 * np.cos(np.pi * m / state[_FADE])
                value += share * (wet[channel, (wet_at + i) % wet_size] - value)
            out[channel, i] = value
        state[_LAST + channel] = out[channel, samples - 1]
    state[_SINCE] += samples
    if is_heard:
        state[_MIX] += samples
    return is_good or not is_wet


class Cover:
    """Cover up the gaps in a plugin's answers.

    Parameters
    ----------
    channels, sample_rate : int
        Of the stream.
    latency_samples, added_samples : int
        By how much the plugin delays the sound, and how much later still its answers are heard.
    """

    def __init__(self, channels: int, sample_rate: int, latency_samples: int, added_samples: int) -> None:
        self._delay, self._added = latency_samples + added_samples, added_samples
        self._size = self._delay + LONGEST
        self._dry = np.zeros((channels, self._size), np.float32)
        self._wet = np.zeros((channels, self._size if added_samples else 1), np.float32)
        self._warm = ms_to_samples(WARM_UP_MS, sample_rate) + self._delay
        self._state = np.zeros(_OFFSET + MOST_CHANNELS)
        lengths = [max(1, ms_to_samples(ms, sample_rate)) for ms in (RETURN_MS, EDGE_MS, LEVEL_MS)]
        self._state[: len(lengths)] = lengths
        self._state[_MIX] = lengths[0]  # a stream begins wet

    def admit(self, x: Audio, position: int, sent: Audio) -> None:
        """Take a block (channels, samples) of the stream and write it, with zeros for what is no sound, to `sent`."""
        _admit(x, self._dry, position % self._size, sent)

    def collect(self, y: Audio, position: int) -> None:
        """Take the answer to the block at `position`, to be heard later."""
        _collect(y, self._wet, position % self._size)

    def renew(self) -> None:
        """Expect answers of a plugin that has heard nothing yet."""
        self._state[_WARM] = self._warm

    def play(self, position: int, is_wet: bool, y: Audio | None, out: Audio) -> bool:
        """Write what is heard at `position` to `out` (channels, samples).

        Parameters
        ----------
        position : int
        is_wet : bool
            Whether there is an answer for it.
        y : (channels, samples) float32, optional
            The answer, if it has not been collected.
        out : (channels, samples) float32

        Returns
        -------
        bool
            False if the answer was unfit to be heard: NaN, infinity or a roar.
        """
        wet, at = (self._wet, (position - self._added) % self._size) if y is None else (y, 0)
        return _play(self._dry, (position - self._delay) % self._size, wet, at, is_wet, self._state, out)


def warm_up() -> None:
    """Compile the kernels, or load them."""
    cover, x = Cover(1, 48_000, 0, 0), np.zeros((1, 1), np.float32)
    cover.admit(x, 0, x.copy())
    cover.collect(x, 0)
    cover.play(0, True, x, x.copy())
