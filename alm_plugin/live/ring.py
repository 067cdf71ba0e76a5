"""Feedback: hears a loop that begins to ring, and says by how much to pull the channel down.

A loop from loudspeaker to microphone whose gain passes 1 at some frequency rings there: a single tone that grows by the
same factor on every way round, in a straight line in dB, for as long as nothing stops it. Notes do not grow like that.
What a detector can look for is compared in T. van Waterschoot and M. Moonen, "Comparative evaluation of howling
detection criteria in notch-filter-based howling suppression" (JAES 58(11), 2010); of theirs this uses the peak's height
over its neighbours (PNPR), over its harmonics (PHPR) and the steadiness of its slope (IMSD).
"""

from __future__ import annotations

import numpy as np
import rocket_fft
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features import resample
from alm_plugin.features.clock import FEATURE_RATE, boundary, check_sample_rate
from alm_plugin.features.front_end import MAX_CHANNELS
from alm_plugin.features.guard import mend

HOP_MS = 10
WINDOW = 1024
"""64 ms at 16 kHz: short against the time in which a loop grows by 6 dB, and a semitone wide at 500 Hz."""

STEP_DB, DEEPEST_DB = 6.0, 24.0
"""How far a ring pulls its channel down, and how far further rings can."""

HOLD_MS, LONGEST_HOLD_MS = 3_000, 48_000
"""A channel stays down for so long, twice as long each time that it rings again on its way up, or soon after."""

RELEASE_DB_PER_S = 1.5

_HOP = FEATURE_RATE * HOP_MS // 1000
_HOP_S = HOP_MS / 1000.0
_HOLD, _LONGEST_HOLD = HOLD_MS // HOP_MS, LONGEST_HOLD_MS // HOP_MS

# All of these were chosen on simulated loops and on music (tests/bench/bench_safety.py), for few false alarms first.
# Tracks: peaks at the same place in hop after hop.
_TRACKS = 24  # of one channel: a chord's loudest partials; the weakest makes way
_HISTORY = 256  # hops remembered, more than the longest span
_LOWEST_BIN, _HIGHEST_BIN = 6, 472  # 94 to 7375 Hz: below, the window cannot part notes; above, the resampler falls off
_FLOOR = 10.0**-6.5  # of a sine's power: noise of a quiet microphone
_PROMINENCE = 10.0**0.9  # over the bins 3 to 5 away, where a steady sine has fallen by 30 dB
_REACH_BINS = 0.6  # from hop to hop: less than peaks are apart
_PACE = 0.3  # of the place's running mean, against one hop's noise

# A ring: growth over one of these spans, in hops, by so much. Music has crescendos too, but slow ones: so the slower,
# the more is asked for.
_SPANS = np.array([8, 12, 16, 24, 32, 48, 64, 96, 128, 192])
_RISES_DB = np.array([5.5, 5.5, 5.5, 5.5, 5.5, 7.0, 8.0, 9.0, 10.0, 12.0])
_LATER_HALF = 0.48  # least share of the growth in the span's later half: attacks and fades slow down
_QUARTER = 0.16  # least share in each quarter; a straight line's is 0.25
_SPREAD_BINS = 0.05  # standard deviation of the place, under a hertz: voices and strings waver more
_OVER_MEAN = 10.0**1.1  # over what is usual at this frequency
_MEMORY_HOPS, _BEFORE_HOPS = 800, 100  # mean of so many; before the stream's start it was silent for so many
_LONG_SPAN = 48  # growth as slow as an orchestra's: a ring must then be alone in it
_ALONG, _ALONG_DB = 0.4, -40.0  # not alone: another track, not weaker than that, grows by that share of it

# A note: partials not far weaker that fit a series in which the track is at most the 14th.
_SERIES, _SERIES_BINS, _SERIES_DB = 14, 0.35, -30.0
_PARTIALS = 3  # so many of a series are a note; or one, if both are among the first so many

# A ring too slow for that, or so fast that it has come to its end: a tone that stands for two seconds, louder than all
# else in the channel and than that has been of late.
_STANDING_HOPS = 200  # notes as long as that waver or decay
_STANDING_FALL_DB = 1.0  # most that it may have been louder
_STANDING_OVER_ALL, _STANDING_OVER_USUAL = 10.0**-0.1, 10.0**0.3  # power over the channel's now, and of late
_STANDING_FLOOR = 1e-4  # of a sine's power: -40 dBFS disturbs nobody
_FULL = 0.4  # of a sine's power: what fills the converter has the harmonics of clipping, and is no note

_AXES = np.array([1], np.int64)
_SHAPE = ((1.0 - np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)) * 2.0 / WINDOW).astype(np.float32)  # sine: power 1


@njit(cache=True, nogil=True)
def power_spectra(x, shape, scratch, spectrum, out):
    """Power in each bin of `x` (channels, window), windowed: `out` (channels, bins)."""
    for channel in range(x.shape[0]):
        for i in range(x.shape[1]):
            scratch[channel, i] = x[channel, i] * shape[i]
    rocket_fft.r2c(scratch, spectrum, _AXES, True, 1.0, 1)
    for channel in range(x.shape[0]):
        for k in range(out.shape[1]):
            z = spectrum[channel, k]
            out[channel, k] = z.real * z.real + z.imag * z.imag


# The top of the parabola through a peak's three levels in dB is where its sine is, to a twentieth of a bin.
@njit(cache=True, nogil=True)
def follow(power, at, places, ages, levels_db, paths):
    """Go on with one channel's tracks: `ages` (tracks,) in hops, 0 for none; histories (tracks, hops), newest `at`."""
    for t in range(len(ages)):
        ages[t] = -ages[t]  # below zero until it is found again
    for k in range(_LOWEST_BIN, _HIGHEST_BIN):
        peak = power[k]
        if peak < _FLOOR or peak < power[k - 1] or peak <= power[k + 1]:
            continue
        around = 0.0
        for aside in range(3, 6):
            around = max(around, power[k - aside], power[k + aside])
        if peak < _PROMINENCE * around:
            continue
        lower, upper = 10.0 * np.log10(power[k - 1] + 1e-14), 10.0 * np.log10(power[k + 1] + 1e-14)
        level = 10.0 * np.log10(peak + 1e-14)
        top = 0.5 * (lower - upper) / (lower - 2.0 * level + upper)
        place, level = k + top, level - 0.25 * (lower - upper) * top
        found, nearest, free, weakest = -1, _REACH_BINS, -1, -1
        for t in range(len(ages)):
            if ages[t] < 0 and abs(places[t] - place) <= nearest:
                found, nearest = t, abs(places[t] - place)
            elif ages[t] == 0:
                free = t
            elif (
                ages[t] > 0 and levels_db[t, at] < level and (weakest < 0 or levels_db[t, at] < levels_db[weakest, at])
            ):
                weakest = t
        if found >= 0:
            ages[found] = 1 - ages[found]
            places[found] += _PACE * (place - places[found])
        else:
            found = free if free >= 0 else weakest
            if found < 0:
                continue
            ages[found] = 1
            places[found] = place
        levels_db[found, at] = level
        paths[found, at] = place
    for t in range(len(ages)):
        ages[t] = max(ages[t], 0)


@njit(cache=True, nogil=True)
def wavers(at, track, hops, paths):
    """Whether a track's place has moved in the last `hops`."""
    mean, square = 0.0, 0.0
    for h in range(hops):
        offset = paths[track, at - h] - paths[track, at]
        mean += offset / hops
        square += offset * offset / hops
    return square - mean * mean > _SPREAD_BINS * _SPREAD_BINS


@njit(cache=True, nogil=True)
def is_straight(at, track, span, levels_db, paths):
    """Whether a track has grown in an even line in its last `span` hops, and in one place."""
    now = levels_db[track, at]
    rise = now - levels_db[track, at - span]
    quarter = span // 4
    if now - levels_db[track, at - 2 * quarter] < _LATER_HALF * rise:
        return False
    for q in range(4):
        if levels_db[track, at - q * quarter] - levels_db[track, at - (q + 1) * quarter] < _QUARTER * rise:
            return False
    return not wavers(at, track, span + 1, paths)


@njit(cache=True, nogil=True)
def is_in_tune(at, track, places, ages, levels_db):
    """Whether a track is the n-th partial of a note, others of whose partials are there."""
    for n in range(1, _SERIES + 1):
        root = places[track] / n
        if root < _LOWEST_BIN:
            return False
        partials = 0
        for t in range(len(ages)):
            if t == track or ages[t] == 0 or levels_db[t, at] - levels_db[track, at] < _SERIES_DB:
                continue
            m = round(places[t] / root)
            first = max(m, n) <= _PARTIALS
            within = _SERIES_BINS * (max(1.0, m / n) if first else 1.0)
            if m > 0 and m != n and abs(places[t] - m * root) < within:
                partials += _PARTIALS if first else 1
        if partials >= _PARTIALS:
            return True
    return False


@njit(cache=True, nogil=True)
def has_company(at, track, span, ages, levels_db):
    """Whether another track grows as well."""
    now = levels_db[track, at]
    rise = now - levels_db[track, at - span]
    for t in range(len(ages)):
        near = t != track and ages[t] > span and levels_db[t, at] - now > _ALONG_DB
        if near and levels_db[t, at] - levels_db[t, at - span] > _ALONG * rise:
            return True
    return False


@njit(cache=True, nogil=True)
def stands(at, track, ages, levels_db, paths):
    """Whether a track has stood in its place for two seconds, or grown there, without ever falling."""
    if ages[track] <= _STANDING_HOPS:
        return False
    for h in range(_STANDING_HOPS):
        if levels_db[track, at - h] - levels_db[track, at] > _STANDING_FALL_DB:
            return False
    return not wavers(at, track, _STANDING_HOPS, paths)


@njit(cache=True, nogil=True)
def grows(at, track, ages, levels_db, paths):
    """Whether a track has grown as a ring does, over any of the spans."""
    for j in range(len(_SPANS)):
        span = _SPANS[j]
        if ages[track] <= span:
            break
        if levels_db[track, at] - levels_db[track, at - span] < _RISES_DB[j]:
            continue
        if not is_straight(at, track, span, levels_db, paths):
            continue
        if span < _LONG_SPAN or not has_company(at, track, span, ages, levels_db):
            return True
    return False


@njit(cache=True, nogil=True)
def find_ring(at, power, mean, places, ages, levels_db, paths):
    """Track of one channel that rings, or -1."""
    total, usual = power.sum() / 1.5, mean.sum() / 1.5  # a sine's lobe holds 1.5 times its peak
    for track in range(len(ages)):
        if ages[track] <= _SPANS[0]:
            continue
        here = 10.0 ** (levels_db[track, at] / 10.0)
        k = round(places[track])
        new = here > _OVER_MEAN * max(mean[k - 1], mean[k], mean[k + 1])
        alone = here > max(_STANDING_OVER_ALL * total, _STANDING_OVER_USUAL * usual, _STANDING_FLOOR)
        rings = (new and grows(at, track, ages, levels_db, paths)) or (
            alone and stands(at, track, ages, levels_db, paths)
        )
        if rings and (here > _FULL or not is_in_tune(at, track, places, ages, levels_db)):
            return track
    return -1


@njit(cache=True, nogil=True)
def judge(hop, power, mean, places, ages, levels_db, paths, pull_down_db, holds, quiet, rings, frequencies_hz):
    """One hop of all channels: follow, look for a ring, and pull down, hold or let go."""
    at = hop % _HISTORY
    weight = max(1.0 / (hop + _BEFORE_HOPS), 1.0 / _MEMORY_HOPS)
    for c in range(len(power)):
        follow(power[c], at, places[c], ages[c], levels_db[c], paths[c])
        for k in range(power.shape[1]):
            mean[c, k] += weight * (power[c, k] - mean[c, k])
        track = find_ring(at, power[c], mean[c], places[c], ages[c], levels_db[c], paths[c])
        quiet[c] += 1
        if track >= 0:
            again = pull_down_db[c] > 0.0 or quiet[c] < 4 * holds[c]
            holds[c] = min(2 * holds[c], _LONGEST_HOLD) if again else _HOLD
            quiet[c] = 0
            pull_down_db[c] = min(pull_down_db[c] + STEP_DB, DEEPEST_DB)
            rings[c] += 1
            frequencies_hz[c] = places[c, track] * FEATURE_RATE / WINDOW
            ages[c] = 0  # what it heard until now says nothing of the loop as it is from now on
        elif quiet[c] > holds[c]:
            pull_down_db[c] = max(0.0, pull_down_db[c] - RELEASE_DB_PER_S * _HOP_S)


class RingDetector:
    """Hear each channel's feedback begin, 94 to 7375 Hz.

    Every 10 ms the peaks of a 64 ms spectrum are joined to tracks. A track rings when over the last 80 to 320 ms it has
    grown by 5.5 dB or more (over longer spans by 7 to 12, and alone), evenly, without its place wavering, to 11 dB over
    what is usual there, if it is no partial of a note; or when it has stood for two seconds, louder than all else. Its
    channel is then to be pulled down by 6 dB at once, for 3 s; after that 1.5 dB/s are given back. If it rings again
    while it is down, or soon after, it is pulled down again, and held twice as long.

    Parameters
    ----------
    sample_rate : int
        8000 to 192000 Hz.
    channels : int
        1 to 64.

    Attributes
    ----------
    pull_down_db : (channels,) float64
        To take off each gain now, 0 to 24; belongs to the detector.
    rings : (channels,) int64
        How often each channel has been pulled down.
    frequencies_hz : (channels,) float64
        Where it last rang.

    Raises
    ------
    ParameterError
        For arguments outside their range, and blocks of another number of channels.

    Notes
    -----
    Results depend on the samples alone, not on how they are cut into blocks. A tone that swells evenly by itself, with
    no harmonics, cannot be told from a ring by anyone who only listens.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate = check_sample_rate(sample_rate)
        if not 1 <= channels <= MAX_CHANNELS:
            raise ParameterError(f"channels must be in [1, {MAX_CHANNELS}], got {channels}")
        self.channels = channels
        self._polyphase = resample.design(self.sample_rate)
        self._past = self._polyphase.taps.shape[1]
        self._longest = boundary(1, self.sample_rate, HOP_MS)
        self.reset()
        self.process(np.zeros((channels, self._longest), np.float32))  # compiles the kernels, or loads them
        self.reset()

    def reset(self) -> None:
        """Go back to the start of a stream, nothing pulled down."""
        C = self.channels
        self._position = self._hop = 0
        # What is not resampled yet, behind as much of its past as the resampler looks back.
        self._x = np.zeros((C, self._past + self._longest), np.float32)
        self._low = np.zeros((C, WINDOW), np.float32)
        self._scratch = np.zeros((C, WINDOW), np.float32)
        self._spectrum = np.zeros((C, WINDOW // 2 + 1), np.complex64)
        self._power = np.zeros((C, WINDOW // 2 + 1), np.float32)
        self._mean = np.zeros((C, WINDOW // 2 + 1))
        self._places = np.zeros((C, _TRACKS))
        self._ages = np.zeros((C, _TRACKS), np.int64)
        self._levels_db = np.zeros((C, _TRACKS, _HISTORY), np.float32)
        self._paths = np.zeros((C, _TRACKS, _HISTORY), np.float32)
        self._holds = np.zeros(C, np.int64)
        self._quiet = np.zeros(C, np.int64)
        self.pull_down_db = np.zeros(C)
        self.rings = np.zeros(C, np.int64)
        self.frequencies_hz = np.zeros(C)

    def process(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Hear the next block of every channel.

        Parameters
        ----------
        x : (channels, samples) float32
            What the microphones hear, before any gain. NaN and infinities are heard as silence.

        Returns
        -------
        (channels,) float64
            `pull_down_db` at the block's end.
        """
        if x.ndim != 2 or len(x) != self.channels:
            raise ParameterError(f"x must have shape ({self.channels}, samples), got {x.shape}")
        x, _ = mend(np.ascontiguousarray(x, np.float32))
        done = 0
        while done < x.shape[1]:
            start = boundary(self._hop, self.sample_rate, HOP_MS)
            end = boundary(self._hop + 1, self.sample_rate, HOP_MS)
            take = min(end - self._position, x.shape[1] - done)
            at = self._past + self._position - start
            self._x[:, at : at + take] = x[:, done : done + take]
            self._position += take
            done += take
            if self._position == end:
                self._finish_hop(end - start)
        return self.pull_down_db

    def _finish_hop(self, length: int) -> None:
        first = boundary(self._hop, self.sample_rate, HOP_MS) - self._past
        polyphase = self._polyphase
        self._low[:, :-_HOP] = self._low[:, _HOP:]
        resample.resample(
            self._x, first, self._hop * _HOP, polyphase.up, polyphase.down, polyphase.taps, self._low[:, -_HOP:]
        )
        self._x[:, : self._past] = self._x[:, length : length + self._past]
        power_spectra(self._low, _SHAPE, self._scratch, self._spectrum, self._power)
        judge(
            self._hop,
            self._power,
            self._mean,
            self._places,
            self._ages,
            self._levels_db,
            self._paths,
            self.pull_down_db,
            self._holds,
            self._quiet,
            self.rings,
            self.frequencies_hz,
        )
        self._hop += 1
