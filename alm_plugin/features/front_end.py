"""The one front end: native-rate audio in, log-mel columns, levels and activity out, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import AudioTypeError, ParameterError
from alm_plugin.features import activity, levels, log_mel, resample
from alm_plugin.features.clock import FEATURE_RATE, MULTI_RATE, ModelClock, check_sample_rate
from alm_plugin.features.guard import mend

MAX_CHANNELS = 64
PATCH_COLUMNS = 96
CANCELLED = 0.01
"""Power of (L + R) / 2 relative to the mean power of L and R under which the sides count as cancelling: -20 dB."""


@dataclass(frozen=True)
class Features:
    """What was heard during the frames that a call completed.

    Attributes
    ----------
    first_frame : int
        Index of the first of these frames since the stream's start.
    log_mel : (channels, columns, 64) float32
        5 columns per 50 ms frame, each ending on a multiple of 10 ms; 96 per 975 ms frame.
    levels : (channels, frames, 3) float32
        RMS (linear), K-weighted mean square (linear), running loudness over 3 s (LUFS, floor -70).
    mask : (channels, frames) float32
        1 for an active channel, 0 for an absent or silent one; see `alm_plugin.features.activity`.
    """

    first_frame: int
    log_mel: NDArray[np.float32]
    levels: NDArray[np.float32]
    mask: NDArray[np.float32]

    @property
    def frames(self) -> int:
        """Number of frames completed."""
        return self.levels.shape[1]


class FrontEnd:
    """Hear a band: resample to 16 kHz, log-mel, levels and activity for each channel of a stream.

    Everything is computed once per frame of the model's clock, when the frame's last sample has come, always on the
    same shapes: the values do not depend on how the stream was cut into blocks.

    Parameters
    ----------
    sample_rate : int
        Rate of the audio, 8000 to 192000 Hz.
    clock : ModelClock
        Whose frames to keep, by default ALM-MR's 50 ms.
    channels : int, optional
        Number of channels, 1 to 64; by default that of the first block.

    Raises
    ------
    ParameterError
        For a sample rate or number of channels outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> features = FrontEnd(44_100).process(np.ones((2, 44_100), np.float32))
    >>> features.log_mel.shape, features.levels.shape
    ((2, 100, 64), (2, 20, 3))

    Notes
    -----
    Time line and definitions: DESIGN of the project, "Time"; VGGish: Hershey et al., ICASSP 2017; loudness: BS.1770.
    """

    def __init__(self, sample_rate: int, clock: ModelClock = MULTI_RATE, channels: int | None = None) -> None:
        self.sample_rate = check_sample_rate(sample_rate)
        if not isinstance(clock, ModelClock):
            raise ParameterError(f"clock must be a ModelClock, got {clock!r}")
        self.clock = clock
        self._polyphase = resample.design(self.sample_rate)
        self._history = self._polyphase.taps.shape[1]
        self._coefficients = levels.k_weighting(self.sample_rate)
        self._frame_16k = FEATURE_RATE * clock.f2_ms // 1000
        self._columns = min(PATCH_COLUMNS, self._frame_16k // log_mel.HOP)
        self._hold_frames = activity.hold_frames(clock.f2_ms)
        self._longest = clock.boundary(1, self.sample_rate)
        self.channels = 0
        self.reset()
        if channels is not None:
            self._resize(channels)

    def reset(self) -> None:
        """Go back to the start of a stream, forgetting everything heard."""
        self.position = 0
        self.frame = 0
        channels, self.channels = self.channels, 0
        self._allocate(0)
        if channels:
            self._resize(channels)

    def _allocate(self, channels: int) -> None:
        self._widths = np.ones(channels, np.int64)
        self._sides = np.zeros((channels, 2, self._longest), np.float32)
        # The mono signal, and its 16 kHz form, each behind as much of its past as the next stage looks back.
        self._mono = np.zeros((channels, self._history + self._longest), np.float32)
        self._low = np.zeros((channels, log_mel.WINDOW + self._frame_16k), np.float32)
        self._filters = np.zeros((channels, 2, 4))
        window = max(1, round(levels.LOUDNESS_WINDOW_MS / self.clock.f2_ms))
        self._powers = np.zeros((channels, window))
        self._silent = np.full(channels, activity.CLOSED, np.int64)

    _PER_CHANNEL = ("_widths", "_sides", "_mono", "_low", "_filters", "_powers", "_silent")

    def _resize(self, channels: int) -> None:
        """Add channels that have been silent so far; new scratch for the kernels."""
        if not 1 <= channels <= MAX_CHANNELS:
            raise ParameterError(f"channels must be in [1, {MAX_CHANNELS}], got {channels}")
        old = [getattr(self, name) for name in self._PER_CHANNEL]
        self._allocate(channels)
        for name, rows in zip(self._PER_CHANNEL, old, strict=True):
            getattr(self, name)[: len(rows)] = rows
        self._scratch_for(channels)

    def _scratch_for(self, channels: int) -> None:
        self.channels = channels
        rows = channels * self._columns
        self._scratch = np.zeros((rows, log_mel.FFT_SIZE), np.float32)
        self._spectrum = np.zeros((rows, log_mel.FFT_SIZE // 2 + 1), np.complex64)
        self._squares = np.zeros((channels, 2))
        self._loudness = np.zeros(channels)

    def add_channel(self) -> None:
        """Add a channel behind the others; it has been silent so far."""
        self._resize(self.channels + 1)

    def remove_channel(self, index: int) -> None:
        """Forget a channel; those behind it move up."""
        for name in self._PER_CHANNEL:
            setattr(self, name, np.delete(getattr(self, name), index, axis=0))
        self._scratch_for(self.channels - 1)

    def process(self, tracks: NDArray | Sequence[NDArray]) -> Features:
        """Hear the next block of every channel.

        Parameters
        ----------
        tracks : array (channels, samples) or sequence of arrays (samples,), (1, samples) or (2, samples)
            An array is one mono channel per row; in a sequence each entry is a mono or stereo channel. Any length.

        Returns
        -------
        Features
            Of the frames that ended within this block; possibly none. NaN and infinities are heard as silence.

        Raises
        ------
        ParameterError
            When the number of channels changes, or the channels' lengths differ.
        AudioTypeError
            For anything but 32-bit or 64-bit floats.
        """
        # One NaN would stay in the filters for good.
        blocks = [mend(as_block(track, f"track {index}"))[0] for index, track in enumerate(tracks)]
        if not self.channels:
            self._resize(len(blocks))
        if len(blocks) != self.channels:
            raise ParameterError(f"tracks must hold {self.channels} channels, as many as before, got {len(blocks)}")
        samples = blocks[0].shape[1]
        for index, block in enumerate(blocks):
            if block.shape[1] != samples:
                raise ParameterError(f"track {index} must have {samples} samples like track 0, got {block.shape[1]}")
        return self.hear(blocks, samples)

    def hear(self, blocks: Sequence[NDArray[np.float32]], samples: int) -> Features:
        """Hear checked blocks, each float32 (1 or 2, samples): `process` without its checks, for the mixer."""
        for channel, block in enumerate(blocks):
            if block.shape[0] > self._widths[channel]:
                # What was mono until now was the same signal on both sides.
                self._widths[channel] = 2
                self._sides[channel, 1] = self._sides[channel, 0]
                self._filters[channel, 1] = self._filters[channel, 0]
        first_frame = self.frame
        # The frames that this block completes: those whose end is not behind its own.
        stop = first_frame
        while self.clock.boundary(stop + 1, self.sample_rate) <= self.position + samples:
            stop += 1
        count = stop - first_frame
        features = Features(
            first_frame,
            np.empty((self.channels, count * self._columns, log_mel.BANDS), np.float32),
            np.empty((self.channels, count, 3), np.float32),
            np.empty((self.channels, count), np.float32),
        )
        done = 0
        while done < samples:
            start = self.clock.boundary(self.frame, self.sample_rate)
            end = self.clock.boundary(self.frame + 1, self.sample_rate)
            take = min(end - self.position, samples - done)
            at = self.position - start
            for channel, block in enumerate(blocks):
                side = self._sides[channel]
                side[0, at : at + take] = block[0, done : done + take]
                # A mono block on a channel that has been stereo is the same signal on both sides.
                if self._widths[channel] == 2:
                    side[1, at : at + take] = block[-1, done : done + take]
            self.position += take
            done += take
            if self.position == end:
                self._finish_frame(start, end - start, self.frame - first_frame, features)
                self.frame += 1
        return features

    def _finish_frame(self, start: int, length: int, index: int, out: Features) -> None:
        levels.measure(self._sides, self._widths, length, self._coefficients, self._filters, self._squares)
        _to_mono(self._sides, self._widths, length, self._squares, self._history, self._mono)
        first_output = self.frame * self._frame_16k
        resample.resample(
            self._mono,
            start - self._history,
            first_output,
            self._polyphase.up,
            self._polyphase.down,
            self._polyphase.taps,
            self._low[:, log_mel.WINDOW :],
        )
        columns = out.log_mel[:, index * self._columns : (index + 1) * self._columns]
        log_mel.log_mel(
            self._low,
            log_mel.WINDOW_SHAPE,
            log_mel.BAND_START,
            log_mel.BAND_STOP,
            log_mel.BAND_WEIGHTS,
            self._scratch,
            self._spectrum,
            columns,
        )
        self._powers[:, self.frame % self._powers.shape[1]] = self._squares[:, 1]
        levels.running_loudness(self._powers, self._loudness)
        out.levels[:, index, 0] = np.sqrt(self._squares[:, 0])
        out.levels[:, index, 1] = self._squares[:, 1]
        out.levels[:, index, 2] = self._loudness
        activity.update_activity(self._squares[:, 0], self._hold_frames, self._silent, out.mask[:, index])
        self._mono[:, : self._history] = self._mono[:, length : length + self._history]
        self._low[:, : log_mel.WINDOW] = self._low[:, self._frame_16k :]


# mono = (L + R) / 2, or the louder side where the two cancel, decided once per frame on whole-frame powers.
@njit(cache=True, nogil=True)
def _to_mono(sides, widths, length, squares, history, mono):
    for channel in range(sides.shape[0]):
        left = sides[channel, 0]
        line = mono[channel]
        if widths[channel] == 1:
            for i in range(length):
                line[history + i] = left[i]
            continue
        right = sides[channel, 1]
        middle = 0.0
        difference = 0.0
        for i in range(length):
            m = 0.5 * (left[i] + right[i])
            line[history + i] = m
            middle += np.float64(m) * m
            difference += np.float64(left[i]) * left[i] - np.float64(right[i]) * right[i]
        if middle < CANCELLED * squares[channel, 0] * length:
            louder = left if difference >= 0.0 else right
            for i in range(length):
                line[history + i] = louder[i]


def as_block(track: NDArray, name: str) -> NDArray[np.float32]:
    """One channel's block as float32 (1 or 2, samples), without guessing: channels come first.

    Raises
    ------
    AudioTypeError
        For anything but an array of 32-bit or 64-bit floats.
    ParameterError
        For another shape than (samples,), (1, samples) or (2, samples).
    """
    if not isinstance(track, np.ndarray) or track.dtype not in (np.float32, np.float64):
        got = track.dtype if isinstance(track, np.ndarray) else type(track).__name__
        raise AudioTypeError(f"{name} must be an array of 32-bit or 64-bit floating point audio, got {got}")
    if track.ndim == 1:
        track = track[None, :]
    if track.ndim != 2 or track.shape[0] not in (1, 2):
        raise ParameterError(f"{name} must have shape (samples,), (1, samples) or (2, samples), got {track.shape}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is mended as that
        return np.ascontiguousarray(track, np.float32)
