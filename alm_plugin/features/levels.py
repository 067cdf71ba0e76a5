"""Levels per frame and channel: RMS, K-weighted mean square, and gated K-weighted running loudness."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LOUDNESS_WINDOW_MS = 3_000
FLOOR_LUFS = -70.0
"""The absolute gate of ITU-R BS.1770, and what a channel reads that has not passed it."""

OFFSET_LU = -0.691
"""Of BS.1770's eq. 2: what K-weighting adds at 997 Hz is taken off again."""

FLOOR_POWER = 10.0 ** ((FLOOR_LUFS - OFFSET_LU) / 10.0)
"""K-weighted mean square at the absolute gate."""

RELATIVE_GATE_LU = -10.0


def k_weighting(sample_rate: int) -> NDArray[np.float64]:
    """Coefficients (2, 5) of the K-weighting filter: rows shelf and high-pass, columns b0 b1 b2 a1 a2.

    ITU-R BS.1770 prints them for 48 kHz only; these are the bilinear transforms of the analogue prototypes that give
    the printed numbers there (B. De Man, "Evaluation of Implementations of the EBU R128 Loudness Measurement", 2018).
    """
    # Shelf: (Vh + Vb s/Q + s^2) / (1 + s/Q + s^2)-like form with s replaced by (1 - z^-1) / (K (1 + z^-1)).
    k = np.tan(np.pi * 1_681.974450955533 / sample_rate)
    q = 0.7071752369554196
    vh = 10.0 ** (3.999843853973347 / 20.0)
    vb = vh**0.4996667741545416
    a0 = 1.0 + k / q + k * k
    shelf = [
        (vh + vb * k / q + k * k) / a0,
        2.0 * (k * k - vh) / a0,
        (vh - vb * k / q + k * k) / a0,
        2.0 * (k * k - 1.0) / a0,
        (1.0 - k / q + k * k) / a0,
    ]
    k = np.tan(np.pi * 38.13547087602444 / sample_rate)
    q = 0.5003270373238773
    a0 = 1.0 + k / q + k * k
    high_pass = [1.0, -2.0, 1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0]
    return np.array([shelf, high_pass])


# Both sections in transposed direct form II:
#     y = b0 x + s1;  s1 = b1 x - a1 y + s2;  s2 = b2 x - a2 y
# State and sums in float64. State that has decayed below any audible meaning becomes zero, or a silent channel would
# soon calculate with denormal numbers, each a hundred times slower than others.
@njit(cache=True, nogil=True)
def measure(sides, widths, length, coefficients, state, out):
    """Mean squares of `sides` (channels, 2, >= length) over one frame: `out` (channels, 2) plain and K-weighted."""
    b0, b1, b2, a1, a2 = coefficients[0]
    _, _, _, c1, c2 = coefficients[1]
    for channel in range(sides.shape[0]):
        plain = 0.0
        weighted = 0.0
        for side in range(widths[channel]):
            s = state[channel, side]
            s1, s2, t1, t2 = s[0], s[1], s[2], s[3]
            for i in range(length):
                x = np.float64(sides[channel, side, i])
                y = b0 * x + s1
                s1 = b1 * x - a1 * y + s2
                s2 = b2 * x - a2 * y
                z = y + t1
                t1 = -2.0 * y - c1 * z + t2
                t2 = y - c2 * z
                plain += x * x
                weighted += z * z
            if abs(s1) + abs(s2) + abs(t1) + abs(t2) < 1e-30:
                s1 = s2 = t1 = t2 = 0.0
            s[0], s[1], s[2], s[3] = s1, s2, t1, t2
        # Stereo is the mean of the two powers: sides in anti-phase are not silence, and two equal sides measure as one.
        out[channel, 0] = plain / (length * widths[channel])
        out[channel, 1] = weighted / (length * widths[channel])


@njit(cache=True, nogil=True)
def lufs(mean_square):
    """Loudness of a K-weighted mean square (BS.1770 eq. 2, channel weight 1), not below the absolute gate."""
    if mean_square <= FLOOR_POWER:
        return FLOOR_LUFS
    return OFFSET_LU + 10.0 * np.log10(mean_square)


# Gated as in BS.1770 section 5, with one frame as the gating block: the mean of the frames above -70 LUFS sets a
# second gate 10 LU below it, and the mean of the frames above that gate is the loudness.
@njit(cache=True, nogil=True)
def running_loudness(history, out):
    """`history` (channels, frames) K-weighted mean squares, in any order; `out` (channels,) LUFS."""
    for channel in range(history.shape[0]):
        gate = FLOOR_POWER
        loudness = FLOOR_LUFS
        for _ in range(2):
            total = 0.0
            count = 0
            for power in history[channel]:
                if power > gate:
                    total += power
                    count += 1
            if count == 0:
                break
            mean = total / count
            loudness = lufs(mean)
            gate = max(gate, mean * 10.0 ** (RELATIVE_GATE_LU / 10.0))
        out[channel] = loudness
