"""What microphones hear of other players some milliseconds late: found from the sound itself, and taken out.

On a stage every microphone hears the others as well, over some metres of air and off the walls:

    x_i(f) = s_i(f) + sum_j h_ij(f) s_j(f),  h_ij(f) = sum_k a_k exp(-2 pi i f tau_k),  tau_k > 0.

Sounds of different players have nothing to do with each other. So the likeliest h_ij is the one that leaves least of
x_i, where the power of s_i is the weight's inverse (C. H. Knapp, G. C. Carter, "The generalized correlation method for
estimation of time delay", IEEE Trans. ASSP 24, 1976); it is found tap by tap, the strongest first (J. A. Hogbom's
CLEAN, 1974). Which of two leaks into the other, the sign of the lag says: sound is late where it does not belong.
"""

from __future__ import annotations

import numpy as np
import rocket_fft
from numba import njit
from numpy.typing import NDArray

from solar.bands import N_BINS

EARLIEST_S, LATEST_S = 8e-4, 0.03
"""A quarter of a metre to ten metres. What is earlier is the same sound, and `solar.leaks`'."""

GROUP_HZ = 8
"""Bins whose mean products are taken: even the latest sound turns by a quarter of a period in them only."""

TAPS, MOST = 12, 0.9
"""Of a pair, and what they may add up to."""

CLEAR, LEAST = 5.0, 0.03
"""Times the standard deviation of chance, and as a factor, what is to be taken for a tap."""

FORGET = 0.99
"""Per second."""

RESIDUE = 1e-3
"""Power that is left of a leak whatever is done, relative to the source: nobody's weight grows beyond its inverse."""

SILENT_POWER = 1e-14
"""Of a bin, in the mean: who is that soft tells nothing."""

PAIRS = 12
"""Are looked at in a second, of however many."""

GROUPS = N_BINS // GROUP_HZ
LAG_S = 0.5 / (GROUPS * GROUP_HZ)
"""The grid of lags: half of what bins up to the highest tell apart."""

FIRST, LAGS = round(EARLIEST_S / LAG_S), round(LATEST_S / LAG_S)
_AXES = np.array([1], np.int64)


class LateLeaks:
    """What each stem holds of each other, late; the better known the longer they are heard.

    Parameters
    ----------
    stems : int

    Attributes
    ----------
    leak : (S, S, 15500) complex64
        What each stem (row) holds of each other (column), as a factor; 0 where nothing is known.

    Examples
    --------
    >>> from solar.bands import spectra
    >>> late = LateLeaks(2)
    >>> for second in 0.1 * np.random.default_rng(0).standard_normal((4, 2, 32_000)):
    ...     second[0] += 0.3 * np.roll(second[1], 320)  # 10 ms
    ...     x = spectra(second, 32_000)
    ...     y = late.take_out(x)
    >>> round(float(abs(late.leak[0, 1, 1_000])), 1)
    0.3
    >>> alone = spectra(second[0] - 0.3 * np.roll(second[1], 320), 32_000)
    >>> float(np.square(np.abs(y[0] - alone)).sum() / np.square(np.abs(x[0] - alone)).sum()) < 0.05
    True
    """

    def __init__(self, stems: int) -> None:
        self.leak = np.zeros((stems, stems, N_BINS), np.complex64)
        self._known = np.zeros((stems, stems), np.bool_)
        self._leak, self._product, self._heard = np.zeros((3, stems, stems, GROUPS), np.complex64)
        self._power = np.zeros((stems, stems, GROUPS), np.float32)
        self._pairs = np.array([(i, j) for i in range(stems) for j in range(stems) if i != j])
        self._groups = np.zeros((2, 1, 2 * GROUPS), np.complex64)
        self._bins = np.zeros((2, 1, 2 * GROUPS * GROUP_HZ), np.complex64)
        self._lags = np.zeros(2 * LAGS), np.zeros(4 * LAGS)
        self._next = 0

    def take_out(self, spectrum: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Hear a second, and return what is each stem's own of it.

        Parameters
        ----------
        spectrum : (S, 15500) complex64
            Of `solar.bands.spectra`.

        Returns
        -------
        (S, 15500) complex64
        """
        own, before = np.empty_like(spectrum), np.empty_like(spectrum)
        take_apart(spectrum, self.leak, self._known, before, own)
        multiply(own, GROUP_HZ, self._heard)
        learn(self._heard, self._leak, self._product, self._power)
        count = min(PAIRS, len(self._pairs))
        now = (self._next + np.arange(count)) % len(self._pairs)
        self._next = (self._next + count) % len(self._pairs)
        find(
            self._pairs[now], self._product, self._power, self._groups, self._lags, self._bins, self._known, self.leak,
            self._leak,
        )  # fmt: skip
        take_apart(spectrum, self.leak, self._known, before, own)
        return own


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def take_apart(spectrum, leak, known, before, own):
    """`spectrum` less what others leave in it, twice over, to `own`; `before` is scratch: (stems, bins) each."""
    own[:] = spectrum
    if known.any():
        for _ in range(2):
            before[:] = own
            own[:] = spectrum
            for i in range(len(own)):
                for j in range(len(own)):
                    if known[i, j]:
                        for k in range(own.shape[1]):
                            own[i, k] -= leak[i, j, k] * before[j, k]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def multiply(own, width, out):
    """`own` (stems, bins), `out` (stems, stems, groups): means over groups of `width` bins of ``own[i] own[j]*``."""
    for i in range(own.shape[0]):
        for j in range(i, own.shape[0]):
            for g in range(out.shape[2]):
                real = imaginary = np.float32(0.0)
                for k in range(g * width, (g + 1) * width):
                    x, y = own[i, k], own[j, k]
                    real += x.real * y.real + x.imag * y.imag
                    imaginary += x.imag * y.real - x.real * y.imag
                out[i, j, g] = complex(real, imaginary) / width
                out[j, i, g] = complex(real, -imaginary) / width


# Without what others leave in stem i, each pair is by itself: x_i is s_i and h_ij s_j.
@njit(cache=True, nogil=True)
def learn(heard, leak, product, power):
    """Add a second's `heard` to `product` and `power`; `leak` is the mean over each group: (stems, stems, groups)."""
    stems, groups = heard.shape[1:]
    for i in range(stems):
        total = 0.0
        for g in range(groups):
            total += heard[i, i, g].real
        if total <= SILENT_POWER * groups:
            continue
        for j in range(stems):
            for g in range(groups):
                own, other = heard[i, i, g].real, heard[j, j, g].real
                weight = 1.0 / (own + RESIDUE * other + SILENT_POWER)
                product[i, j, g] = FORGET * product[i, j, g] + weight * (heard[i, j, g] + leak[i, j, g] * other)
                power[i, j, g] = FORGET * power[i, j, g] + weight * other


# With N_g = sum w x_i s_j* and D_g = sum w |s_j|^2 of the groups g, what is left of x_i is least, for taps a_k at lags
# t_k, at the least of sum_g |N_g - D_g sum_k a_k e_g(-t_k)|^2 / D_g with e_g(t) = exp(2 pi i f_g t). The tap that takes
# most off it is where |n(t)| is greatest,
#
#     n(t) = Re sum_g N_g e_g(t),  d(t) = Re sum_g D_g e_g(t),  a = n(t) / d(0),
#
# and takes a d(t' - t) off n(t'). Where there is no leak, be it that two play one note, groups have phases of their
# own: n has a variance of sum_g |N_g|^2 / 2.
@njit(cache=True, nogil=True)
def find_taps(product, power, scratch, lags):
    """Make `lags[0]` the taps of the likeliest path, from -`LAGS` on, of N and D (groups,)."""
    n, d = lags
    correlate(product, scratch, n)
    correlate(power, scratch, d)
    most = chance = 0.0
    for g in range(len(product)):
        most += power[g]
        chance += 0.5 * (product[g].real ** 2 + product[g].imag ** 2)
    least = max(LEAST * most, CLEAR * np.sqrt(chance))
    at_lag, found, count, total = np.zeros(TAPS, np.int64), np.zeros(TAPS), 0, 0.0
    while count < TAPS:
        at = np.argmax(np.abs(n))
        if not abs(n[at]) > least:
            break
        at_lag[count], found[count] = at, n[at] / most
        for k in range(len(n)):
            n[k] -= found[count] * d[2 * LAGS - at + k]
        count += 1
    n[:] = 0.0
    for k in range(count):
        if at_lag[k] >= LAGS + FIRST:
            n[at_lag[k]] += found[k]
            total += abs(found[k])
    if total > MOST:
        n *= MOST / total


@njit(cache=True, nogil=True)
def correlate(groups, scratch, out):
    """Real part of the correlation at lags from -len(out) / 2 on, of `groups`; `scratch` (2, 1, 2 groups)."""
    scratch[0] = 0.0
    for g in range(len(groups)):
        scratch[0, 0, g] = groups[g]
    rocket_fft.c2c(scratch[0], scratch[1], _AXES, False, 1.0, 1)
    for k in range(len(out)):
        lag = k - len(out) // 2
        out[k] = (scratch[1, 0, lag] * np.exp(1j * np.pi * (GROUP_HZ - 1) * LAG_S * lag)).real


@njit(cache=True, nogil=True)
def find(pairs, product, power, groups, lags, bins, known, leak, mean):
    """Find the paths of `pairs`, as `leak` of each bin and `mean` of each group; the rest is scratch."""
    for p in range(len(pairs)):
        i, j = pairs[p]
        find_taps(product[i, j], power[i, j], groups, lags)
        taps = lags[0][LAGS:]
        if not taps.any():
            if known[i, j]:
                known[i, j], leak[i, j], mean[i, j] = False, 0.0, 0.0
            continue
        bins[0] = 0.0
        for k in range(len(taps)):
            bins[0, 0, k] = taps[k]
        rocket_fft.c2c(bins[0], bins[1], _AXES, True, 1.0, 1)
        known[i, j] = True
        leak[i, j] = bins[1, 0, : leak.shape[2]]
        for g in range(mean.shape[2]):
            mean[i, j, g] = bins[1, 0, g * GROUP_HZ : (g + 1) * GROUP_HZ].mean()
