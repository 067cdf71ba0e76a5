"""Seconds of sound as spectra, and their power in the 24 critical bands of the ear."""

from __future__ import annotations

from functools import cache

import numpy as np
import rocket_fft
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.clock import check_sample_rate

BARK_HZ = (
    20, 100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150, 3700, 4400, 5300, 6400,
    7700, 9500, 12000, 15500,
)  # fmt: skip
"""Edges of the critical bands (E. Zwicker, "Subdivision of the Audible Frequency Range into Critical Bands", JASA 33,
1961, table 1): band b holds the bins from edge b up to, not including, edge b + 1."""

N_BANDS = len(BARK_HZ) - 1
N_BINS = BARK_HZ[-1]
"""Bins of a spectrum: bin k is k Hz whatever the sample rate, since a window lasts a second; none above the bands."""

MIN_SAMPLE_RATE = 32_000
"""In Hz; below, the highest bands would be empty."""

EDGES = np.array(BARK_HZ)
_AXES = np.array([1], np.int64)


def check_rate(sample_rate: float) -> int:
    """Return `sample_rate` as an int.

    Raises
    ------
    ParameterError
        For one that is not a whole number from 32000 to 192000 Hz.
    """
    if (rate := check_sample_rate(sample_rate)) < MIN_SAMPLE_RATE:
        raise ParameterError(
            f"sample_rate must be at least {MIN_SAMPLE_RATE} Hz for bands up to {N_BINS} Hz, got {rate}"
        )
    return rate


# A sine of amplitude 1 has, in a periodic Hann window of N samples, N/4 in its own bin and N/8 in each neighbour:
#     N^2 (1/16 + 2/64) = 3/32 N^2
@cache
def window(sample_rate: int) -> NDArray[np.float32]:
    """Periodic Hann window of one second, scaled so that a sine of amplitude 1 has power 1 in all.

    The paper names none. Without one, what leaks from the loudest bins would fill the bands of the others.
    """
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(sample_rate) / sample_rate)
    return (np.sqrt(32.0 / 3.0) / sample_rate * hann).astype(np.float32)


@njit(cache=True, nogil=True)
def transform(x, window, scratch, spectrum):
    """`x` and `scratch` (stems, samples), `spectrum` (stems, samples // 2 + 1)."""
    for stem in range(x.shape[0]):
        for i in range(x.shape[1]):
            scratch[stem, i] = x[stem, i] * window[i]
    rocket_fft.r2c(scratch, spectrum, _AXES, True, 1.0, 1)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def sum_bands(power, edges, out):
    """`power` (stems, bins), `out` (stems, bands)."""
    for stem in range(power.shape[0]):
        for band in range(out.shape[1]):
            part = power[stem, edges[band] : edges[band + 1]]
            total = 0.0
            for k in range(len(part)):
                total += np.float64(part[k])
            out[stem, band] = total


def spectra(seconds: NDArray[np.floating], sample_rate: int) -> NDArray[np.complex64]:
    """Spectra of whole seconds through a Hann window.

    Parameters
    ----------
    seconds : (..., sample_rate)
        One second each.
    sample_rate : int
        32000 to 192000 Hz.

    Returns
    -------
    (..., 15500) complex64
        Bin k is k Hz. Squared magnitudes are powers: those of a sine of amplitude 1 add up to 1, those of any sound to
        twice its mean square.

    Raises
    ------
    ParameterError
        For another rate or length.

    Examples
    --------
    >>> sine = np.sin(2 * np.pi * 1_000 * np.arange(48_000) / 48_000)
    >>> x = spectra(sine, 48_000)
    >>> x.shape, round(float(np.sum(np.abs(x) ** 2)), 4), int(np.abs(x).argmax())
    ((15500,), 1.0, 1000)
    """
    rate = check_rate(sample_rate)
    if seconds.shape[-1] != rate:
        raise ParameterError(f"seconds must have {rate} samples each, got {seconds.shape[-1]}")
    x = np.ascontiguousarray(seconds, np.float32).reshape(-1, rate)
    spectrum = np.empty((len(x), rate // 2 + 1), np.complex64)
    transform(x, window(rate), np.empty_like(x), spectrum)
    return spectrum[:, :N_BINS].reshape(*seconds.shape[:-1], N_BINS)


def band_power(power: NDArray[np.floating]) -> NDArray[np.float64]:
    """Power in each critical band.

    Parameters
    ----------
    power : (S, 15500)
        Of each bin, as squared magnitudes of `spectra`.

    Returns
    -------
    (S, 24) float64

    Examples
    --------
    >>> sine = np.sin(2 * np.pi * 1_000 * np.arange(48_000) / 48_000)
    >>> bands = band_power(np.abs(spectra(sine[None], 48_000)) ** 2)
    >>> int(bands[0].argmax()), round(float(bands.max()), 4)
    (8, 1.0)
    """
    out = np.empty((len(power), N_BANDS))
    sum_bands(np.ascontiguousarray(power), EDGES, out)
    return out
