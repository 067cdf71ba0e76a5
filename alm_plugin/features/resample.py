"""Causal polyphase resampler from any rate to 16 kHz."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.features.clock import FEATURE_RATE

DELAY_S = 0.001
"""Delay of the resampled signal, the same at every rate but 16 kHz itself, where nothing is resampled."""

# A Kaiser window of total length 2 * DELAY_S and attenuation A needs a transition band of
#     (A - 7.95) / (14.36 * 2 * DELAY_S) Hz          (Oppenheim & Schafer, Discrete-Time Signal Processing, eq. 7.76)
# which is 1464 Hz at 50 dB. The mel bands end at 7500 Hz, so only what would fold below that must be gone: the stop
# band starts at 8500 Hz, and 7036 Hz and below pass unchanged.
_ATTENUATION_DB = 50.0
_STOP_HZ = 8_500.0
_TRANSITION_HZ = (_ATTENUATION_DB - 7.95) / (14.36 * 2.0 * DELAY_S)
_KAISER_BETA = 0.1102 * (_ATTENUATION_DB - 8.7)


@dataclass(frozen=True)
class Polyphase:
    """Taps of the resampler.

    Attributes
    ----------
    up, down : int
        16000 / sample_rate in lowest terms.
    taps : (up, length)
        Row p holds the impulse response for outputs that fall p / up of a sample after an input sample, newest input
        last. One column and one row where the rate is 16 kHz already.
    """

    up: int
    down: int
    taps: NDArray[np.float32]


def design(sample_rate: int) -> Polyphase:
    """Sample the windowed sinc h(t), t in [0, 2 * DELAY_S], once for each phase; every row sums to 1."""
    if sample_rate == FEATURE_RATE:
        return Polyphase(1, 1, np.ones((1, 1), np.float32))
    divisor = gcd(sample_rate, FEATURE_RATE)
    up, down = FEATURE_RATE // divisor, sample_rate // divisor
    # Going up from a low rate, what must be gone are the images, which start at half that rate.
    cutoff_hz = min(_STOP_HZ, sample_rate / 2 + 500.0) - _TRANSITION_HZ / 2
    length = int(2.0 * DELAY_S * sample_rate) + 1
    age_s = (np.arange(length)[None, :] + np.arange(up)[:, None] / up) / sample_rate
    x = (age_s - DELAY_S) / DELAY_S
    window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - x * x))) * (np.abs(x) <= 1.0)
    taps = np.sinc(2.0 * cutoff_hz * (age_s - DELAY_S)) * window
    taps /= taps.sum(axis=1, keepdims=True)
    return Polyphase(up, down, np.ascontiguousarray(taps[:, ::-1], np.float32))


# y[m] = sum_j h((j + phase / up) / sample_rate) x[i - j],   i = floor(m down / up),  phase = (m down) mod up
#
# `reassoc` and `contract` let the sum run in vector registers; neither assumes that NaN is absent. Every output is
# the same sum over the same number of taps wherever it stands, so it does not depend on how the input was cut.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def resample(x, first_input, first_output, up, down, taps, out):
    """`x` (channels, samples) starts with input sample `first_input`; `out` (channels, n) from `first_output` on."""
    length = taps.shape[1]
    for channel in range(x.shape[0]):
        for m in range(out.shape[1]):
            at = (first_output + m) * down
            start = at // up - first_input - length + 1
            row = taps[at % up]
            row_in = x[channel, start : start + length]
            total = np.float32(0.0)
            for j in range(length):
                total += row[j] * row_in[j]
            out[channel, m] = total
