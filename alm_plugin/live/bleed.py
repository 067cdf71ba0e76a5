"""Bleed: tells a channel that holds its own player from one that only hears the others, or nothing but noise."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.front_end import MAX_CHANNELS
from alm_plugin.features.log_mel import BANDS, LOG_OFFSET
from alm_plugin.models.contract import POWER

OWN_SHARE = 0.15
"""A frame of a channel holds only bleed or noise where its own player's share of its power is less."""

REST_FRAMES = 45
"""A player who has been heard is waited for so long."""

_GROUPS = 8  # of eight mel bands each
_FLOOR = 1e-7  # of a group's power; what is under it is lost in the log-mel's offset
_SILENCE = 1e-10  # mean square of a channel that is not there, -100 dBFS
_RECENT_FRAMES = 10
_TOP_FALL_DB = 0.02  # per frame
_SMOOTH_PACE, _DECAY = 0.3, 0.5  # per frame: of powers whose ratios are taken, and of what a room keeps of a sound
_FIRST, _CLOSEST, _LEARN, _FORGET, _AUDIBLE, _MARGIN = 0.3, 1.0, 0.3, 1.0015, 1e-6, 3.0
_OWN_PACE, _ALIKE_PACE = 0.3, 0.1
_SURE = 0.3

# A logistic regression by `tests/bench/fit_bleed.py` on 102 composed songs, 30 of them without bleed, and 20 stages of
# swells: frames of the player's own against frames more than 3 s into his rest.
_WEIGHTS = np.array([1.892, 0.035, 0.086, 5.037, -4.594, -1.656, 1.395])


@njit(cache=True, nogil=True)
def listen(
    log_mel, power, weights, frame,
    sounding, bands, smooth, held, levels_db, moves_db, recent_db, tops_db, transfers, own, together, heard,
    features, scores,
):  # fmt: skip
    """One frame, `log_mel` (channels, columns, bands) and `power` (channels,); see `BleedDetector`. Then the state."""
    channels, columns, _ = log_mel.shape
    groups = bands.shape[1]
    width = log_mel.shape[2] // groups
    for c in range(channels):
        sounded, sounding[c] = sounding[c], power[c] >= _SILENCE
        if sounding[c] and smooth[c, 0] == 0.0:
            heard[c] = 1.0  # who comes is waited for
        goes_on = sounded and sounding[c]  # coming out of silence is no move: all who begin together would be alike
        for g in range(groups):
            total = 0.0
            for j in range(columns):
                for b in range(g * width, (g + 1) * width):
                    magnitude = np.exp(log_mel[c, j, b]) - LOG_OFFSET
                    total += magnitude * magnitude
            bands[c, g] = total / (width * columns) + _FLOOR
            level_db = 10.0 * np.log10(bands[c, g])
            moves_db[c, g] = level_db - levels_db[c, g] if goes_on else 0.0
            levels_db[c, g] = level_db
            held[c, g] = max(bands[c, g], _DECAY * held[c, g])
            if sounding[c]:
                smooth[c, g] += _SMOOTH_PACE * (bands[c, g] - smooth[c, g]) if smooth[c, g] else bands[c, g]
    for c in range(channels):
        for s in range(c + 1):
            if not (sounding[c] and sounding[s]):
                continue
            both = 0.0
            for g in range(groups):
                both += moves_db[c, g] * moves_db[s, g]
            together[c, s] += _ALIKE_PACE * (both - together[c, s])
            together[s, c] = together[c, s]
    for c in range(channels):
        level_db = 10.0 * np.log10(power[c] + 1e-9)
        recent_db[c, frame % _RECENT_FRAMES] = level_db
        lately_db = recent_db[c].max()
        tops_db[c] = max(lately_db, tops_db[c] - _TOP_FALL_DB)
        share, alike = 0.0, 0.0  # of digital silence
        if sounding[c]:
            unexplained, total = 0.0, 0.0
            for g in range(groups):
                bleed = 0.0
                for s in range(channels):
                    if s == c or not sounding[s]:
                        continue
                    ratio = smooth[c, g] / smooth[s, g]
                    if ratio < transfers[c, s, g]:
                        transfers[c, s, g] += _LEARN * (ratio - transfers[c, s, g])
                    elif smooth[s, g] > _AUDIBLE:
                        transfers[c, s, g] = min(_FORGET * transfers[c, s, g], _CLOSEST)
                    bleed = max(bleed, _MARGIN * transfers[c, s, g] * held[s, g])
                unexplained += max(bands[c, g] - bleed, 0.0)
                total += bands[c, g]
            own[c] += _OWN_PACE * (unexplained / total - own[c])
            share, alike = own[c], -1.0
            for s in range(channels):
                if s != c and sounding[s]:
                    alike = max(alike, together[c, s] / np.sqrt(together[c, c] * together[s, s] + 1e-9))
        rest_db = lately_db - tops_db[c]
        features[c, 0] = min(max(level_db, -60.0), -30.0)
        features[c, 1] = max(rest_db, -20.0)
        features[c, 2] = share
        features[c, 3] = alike
        features[c, 4] = alike * min(-rest_db / 10.0, 1.0)
        features[c, 5] = np.log10(together[c, c] + 0.1)
        scores[c] = weights[0]
        for i in range(features.shape[1]):
            scores[c] += weights[i + 1] * features[c, i]
        step = max(_SURE * scores[c], -1.0 / REST_FRAMES) if sounding[c] else -1.0 / REST_FRAMES
        heard[c] = min(max(heard[c] + step, 0.0), 1.0)


class BleedDetector:
    """Hear, frame by frame, which channels hold only bleed or noise.

    Features of what the front end hears of every channel are weighed against each other (logistic regression): do they
    sound like the channel's own player?

    =========  ===============================================================================================
    level      K-weighted level of the frame, within -60 and -30 dB. Desks are set so that who plays is some way up the
               meter.
    rest       The channel's loudest frame of the last 0.5 s against its loudest so far, which falls by 0.4 dB/s; not
               less than -20 dB. A player who rests leaves a channel that is much quieter than it has been.
    own        Share of the power, in 8 bands from 125 to 7500 Hz, that no other channel explains, smoothed over 0.15 s.
               How much of channel s channel c hears cannot be more than the least ratio of their powers in a band, that
               being when c's own player is quietest: it is learnt within a few such frames, from powers smoothed over
               0.15 s, is not above 1, and is forgotten at 0.13 dB/s while s sounds. A least ratio is below the true
               one, so three times that counts; and a room keeps half of a sound for a frame.
    alike      Largest correlation, over the bands and the last 0.5 s, of the changes of the channel's levels from frame
               to frame with another channel's. Bleed moves as its source does. So does a second microphone of the same
               player, but that is as loud as it ever was: so there is `alike` times `rest` too, from 0 at rest 0 dB to
               1 at -10 dB.
    moves      Logarithm of how much those levels change. Noise hardly moves.
    =========  ===============================================================================================

    A player in a rest of the music is not at rest, and a drum is silent between its strokes. So one who has been heard
    is waited for: it takes 2.25 s of frames that are not his until his channel holds only bleed, and one frame of his
    until it does not. Who comes is waited for as well.

    Digital silence is nobody's; it explains and resembles nothing, and so changes nothing for the others.

    Parameters
    ----------
    channels : int
        1 to 64.

    Attributes
    ----------
    scores : (channels,) float64
        Log odds that the last frame was the player's own, plus 0.5; of no meaning in digital silence. Belongs to the
        detector.
    features : (channels, 6) float64
        What they were made of: in the order of the table, with the product before `moves`. Belongs to the detector.

    Raises
    ------
    ParameterError
        For a number of channels outside its range, and features of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from alm_plugin.features.front_end import FrontEnd
    >>> noise = np.random.default_rng(0).standard_normal(144_000).astype(np.float32)
    >>> heard = FrontEnd(48_000).process([0.1 * noise, 0.0001 * noise])
    >>> detector = BleedDetector(2)
    >>> for n in range(heard.frames):
    ...     bleed_only = detector.step(heard.log_mel[:, 5 * n : 5 * n + 5], heard.levels[:, n])
    >>> bleed_only
    array([False,  True])
    """

    def __init__(self, channels: int) -> None:
        if not 1 <= channels <= MAX_CHANNELS:
            raise ParameterError(f"channels must be in [1, {MAX_CHANNELS}], got {channels}")
        self.channels = channels
        self.reset()
        self.step(np.zeros((channels, 1, BANDS), np.float32), np.zeros((channels, 3), np.float32))  # compiles, or loads
        self.reset()

    def reset(self) -> None:
        """Go back to the start of a stream, nothing learnt."""
        C = self.channels
        self._frame = 0
        self._sounding = np.zeros(C, np.bool_)
        self._bands, self._smooth, self._held, self._levels_db, self._moves_db = np.zeros((5, C, _GROUPS))
        self._recent_db = np.full((C, _RECENT_FRAMES), -90.0)
        self._tops_db = np.full(C, -90.0)
        self._transfers = np.full((C, C, _GROUPS), _FIRST)
        self._own, self._heard = np.ones(C), np.zeros(C)
        self._together = np.zeros((C, C))
        self.features = np.zeros((C, len(_WEIGHTS) - 1))
        self.scores = np.zeros(C)

    def step(self, log_mel: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Hear the next frame of 50 ms.

        Parameters
        ----------
        log_mel : (channels, columns, 64)
            The frame's columns, of `Features.log_mel`.
        levels : (channels, 3)
            Of `Features.levels`.

        Returns
        -------
        (channels,) bool
            True for a channel that holds only bleed or noise.
        """
        if log_mel.ndim != 3 or (len(log_mel), log_mel.shape[2]) != (self.channels, BANDS):
            raise ParameterError(f"log_mel must have shape ({self.channels}, columns, {BANDS}), got {log_mel.shape}")
        if levels.shape != (self.channels, 3):
            raise ParameterError(f"levels must have shape ({self.channels}, 3), got {levels.shape}")
        listen(
            np.ascontiguousarray(log_mel, np.float32),
            np.ascontiguousarray(levels[:, POWER], np.float32),
            _WEIGHTS,
            self._frame,
            self._sounding,
            self._bands,
            self._smooth,
            self._held,
            self._levels_db,
            self._moves_db,
            self._recent_db,
            self._tops_db,
            self._transfers,
            self._own,
            self._together,
            self._heard,
            self.features,
            self.scores,
        )
        self._frame += 1
        return self._heard == 0.0
