"""Log-mel columns as VGGish defines them (Hershey et al., 2017): 25 ms window, 10 ms hop, 64 bands, log(x + 0.01)."""

from __future__ import annotations

import numpy as np
import rocket_fft
from numba import njit
from numpy.typing import NDArray

from alm_plugin.features.clock import FEATURE_RATE
from alm_plugin.units import hz_to_mel

WINDOW, HOP, FFT_SIZE = 400, 160, 512
BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7_500.0
LOG_OFFSET = 0.01

WINDOW_SHAPE = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
"""Periodic Hann."""


def mel_weights() -> NDArray[np.float64]:
    """Triangles (257, 64), linear in mel, their corners evenly spaced from 125 to 7500 Hz; the DC bin counts nowhere.

    Band b rises from edge b to edge b + 1 and falls to edge b + 2, so that each bin feeds at most two bands.
    """
    bins = hz_to_mel(np.linspace(0.0, FEATURE_RATE / 2, FFT_SIZE // 2 + 1))[:, None]
    edges = np.linspace(hz_to_mel(LOWEST_HZ), hz_to_mel(HIGHEST_HZ), BANDS + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights


_WEIGHTS = mel_weights()
BAND_START = np.array([np.flatnonzero(w)[0] for w in _WEIGHTS.T], np.int64)
BAND_STOP = np.array([np.flatnonzero(w)[-1] + 1 for w in _WEIGHTS.T], np.int64)
BAND_WEIGHTS = np.ascontiguousarray(_WEIGHTS.T, np.float32)
_AXES = np.array([1], np.int64)


# Column j of `out` covers the 400 samples that end at hop * (j + 1) counted back from the end of `x`:
#     out[b] = log(sum_k weights[k, b] |FFT512(window x)|[k] + 0.01)
@njit(cache=True, nogil=True)
def log_mel(x, window, band_start, band_stop, band_weights, scratch, spectrum, out):
    """`x` (channels, samples >= 240 + 160 columns), `out` (channels, columns, 64); scratch (c * columns, 512)."""
    channels, columns, bands = out.shape
    for channel in range(channels):
        for column in range(columns):
            start = x.shape[1] - HOP * (columns - 1 - column) - WINDOW
            row = scratch[channel * columns + column]
            for i in range(WINDOW):
                row[i] = x[channel, start + i] * window[i]
    rocket_fft.r2c(scratch, spectrum, _AXES, True, 1.0, 1)
    for channel in range(channels):
        for column in range(columns):
            row = scratch[channel * columns + column]
            line = spectrum[channel * columns + column]
            # The window's place now holds the magnitudes of the bins that the bands use.
            for k in range(band_start[0], band_stop[bands - 1]):
                row[k] = np.sqrt(line[k].real * line[k].real + line[k].imag * line[k].imag)
            for b in range(bands):
                total = np.float32(0.0)
                for k in range(band_start[b], band_stop[b]):
                    total += band_weights[b, k] * row[k]
                out[channel, column, b] = np.log(total + np.float32(LOG_OFFSET))
