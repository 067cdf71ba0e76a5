"""Who dominates a critical band.

The measure of M. Keating and M. Casey, "Automatic Live Music Soundchecking with Reference Audio on a Laptop", NIME
2026, section 4.1: "the paper", here and elsewhere in this package.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from solar.bands import EDGES, N_BANDS, N_BINS, band_power

LEAST_STEMS, MOST_STEMS = 2, 16

SILENT_POWER = 1e-13
"""Of a bin, -130 dB under a sine of amplitude 1: nobody is heard there, and the dither of 16 bits stays below."""

RESIDUE = 1e-10
"""Power of a bin relative to the same stem's loudest band, -100 dB, under which it is what a codec, a converter or the
window left behind."""

SAMPLES = 48


# The paper takes the 95th percentile of the amplitudes of all stems together, counts what each stem has above it, and
# divides by the sum of the counts. Above it are a fifth of one stem's bins where S = 4; so they are for any S at
#     q = 1 - 0.2 / S
# The percentile lies between two order statistics, at h = q (n - 1) of n = S w values; h is never whole, because
# 5 S divides (5 S - 1)(S w - 1) only if S divides 1. What is above the percentile is therefore what is above the order
# statistic floor(h), and since squaring keeps the order, powers do as well as amplitudes.
#
# A bin is not counted where it is nothing but residue. What each stem has to exceed grows no faster than the stem
# itself, so that its share never falls when it is turned up.
@njit(cache=True, nogil=True)
def count_strongest(power, bands, edges, scratch, shares, valid):
    """`power` (stems, bins), `bands` (stems, 24), `scratch` of `scratch_for`; `shares` (24, stems), `valid` (24,)."""
    stems = power.shape[0]
    floors = scratch[-stems:]
    for stem in range(stems):
        floors[stem] = max(SILENT_POWER, RESIDUE * bands[stem].max())
    for band in range(shares.shape[0]):
        low, high = edges[band], edges[band + 1]
        n = stems * (high - low)
        above = n - 1 - (5 * stems - 1) * (n - 1) // (5 * stems)
        percentile = next_strongest(power[:, low:high], above, scratch)
        total = 0
        for stem in range(stems):
            threshold = max(percentile, floors[stem])
            count = 0
            part = power[stem, low:high]
            for k in range(len(part)):
                count += part[k] > threshold
            shares[band, stem] = count
            total += count
        valid[band] = total > 0
        if total > 0:
            shares[band] /= total


@njit(cache=True, nogil=True)
def next_strongest(power, above, scratch):
    """Return the strongest of all values in `power` (stems, bins) but for the `above` strongest."""
    # Of some values, the one that about 2.5 times as many exceed as are wanted: only those have to be put in order.
    count = 0
    step = max(1, power.size // SAMPLES)
    for stem in range(power.shape[0]):
        for k in range(stem * step // power.shape[0], power.shape[1], step):
            scratch[count] = power[stem, k]
            count += 1
    pivot = select(scratch, count, max(0, count - 1 - 5 * above * count // (2 * power.size)))
    count = 0
    for stem in range(power.shape[0]):
        part = power[stem]
        for k in range(len(part)):
            scratch[count] = part[k]
            count += part[k] >= pivot
    if count <= above:
        count = power.size
        for stem in range(power.shape[0]):
            scratch[stem * power.shape[1] : (stem + 1) * power.shape[1]] = power[stem]
    return select(scratch, count, count - 1 - above)


# Hoare's quickselect.
@njit(cache=True, nogil=True)
def select(values, n, rank):
    """Return the value at `rank` of the first `n` in ascending order; they are left in another order."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]


def dominance(power: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Share of each stem in each critical band during one second.

    Parameters
    ----------
    power : (S, 15500)
        Of each bin of 2 to 16 stems, as squared magnitudes of `solar.bands.spectra`.

    Returns
    -------
    shares : (24, S) float64
        In [0, 1], adding up to 1 in each band, or all 0 where `valid` is false.
    valid : (24,) bool
        False where nobody is heard: no bin is above the percentile, -130 dBFS, and -100 dB of its stem's loudest
        band.

    Raises
    ------
    ParameterError
        For another shape.

    Examples
    --------
    >>> t = np.arange(48_000) / 48_000
    >>> from solar.bands import spectra
    >>> both = spectra(np.stack([np.sin(2 * np.pi * 150 * t), 0.1 * np.sin(2 * np.pi * 2_500 * t)]), 48_000)
    >>> shares, valid = dominance(np.abs(both) ** 2)
    >>> np.flatnonzero(valid).tolist(), shares[valid].round(1).tolist()
    ([1, 14], [[1.0, 0.0], [0.0, 1.0]])
    """
    check_stems(len(power))
    if power.shape[1:] != (N_BINS,):
        raise ParameterError(f"power must have shape (stems, {N_BINS}), got {power.shape}")
    power = np.ascontiguousarray(power, np.float32 if power.dtype == np.float32 else np.float64)
    shares, valid = np.empty((N_BANDS, len(power))), np.empty(N_BANDS, np.bool_)
    count_strongest(power, band_power(power), EDGES, scratch_for(len(power), power.dtype), shares, valid)
    return shares, valid


def check_stems(stems: int) -> None:
    """Raise `ParameterError` for a number of stems that cannot be compared."""
    if not LEAST_STEMS <= stems <= MOST_STEMS:
        raise ParameterError(f"stems must be {LEAST_STEMS} to {MOST_STEMS}, got {stems}")


def scratch_for(stems: int, dtype: np.dtype | type) -> NDArray:
    """Make what `count_strongest` needs."""
    return np.empty(stems * (1 + int(np.diff(EDGES).max())), dtype)
