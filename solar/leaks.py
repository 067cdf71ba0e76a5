"""What each stem holds of the others, and how each is coloured: found from the sound itself, and taken out.

Instruments leak into the microphones of others, and separators leave each in the stems of others. Where stem i is

    x_i(f) = c_i(f) (s_i(f) + sum_j a_ij s_j(f)),  or  x = M z  with  z_i = c_i s_i,  M_ij = a_ij c_i / c_j,  M_ii = 1,

of sounds s that have nothing to do with each other, M can be found without knowing them, because in some bins one
plays, in others another (D.-T. Pham, J.-F. Cardoso, "Blind separation of instantaneous mixtures of nonstationary
sources", IEEE Trans. Signal Processing 49, 2001). And M knows the colours c: what leaks, leaks both ways about alike,
so that sqrt(M_ij / M_ji) is c_i / c_j, up to a constant that says how much a pair is not alike.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

from solar.bands import BARK_HZ, EDGES, N_BANDS, N_BINS

Floats = NDArray[np.float64]

GROUP_BINS = 8
"""Bins whose mean products are taken: as few as tell two sounds apart."""

LEAK = 0.2
"""Standard deviation of leaks, before anything is heard."""

SWEEPS, MOST_STEP, LEAST_DETERMINANT = 6, 0.3, 1e-3

RESIDUE = 1e-5
"""Power of a source that is silent, relative to the group's: -50 dB."""

OCTAVES_HZ = 31.25 * 2.0 ** np.arange(10)
"""Where colours are found; they are straight over the logarithm of the frequency between."""

COLOURS_DB = np.array([0.05, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
"""Standard deviations of colours that are tried."""

UNLIKE_DB = 1.75
"""How unlike a pair's two ways are: standard deviation of half their difference."""

ROUGH_DB = 0.7
"""Of a band's colour, what octaves do not tell."""

LEFT = 3e-4
"""Power of what leaks that is counted to a stem nevertheless: nothing is taken out better, and levels below mean
nothing."""

NO_LEAK = 0.02
"""Less than that in all bands is none, and nothing is taken out."""

CLEAR = 3.0
"""Times its standard deviation a leak is to be taken for one."""


def _groups() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First bins of the groups and the end (G + 1,), first groups of the bands and the end (25,)."""
    starts, first = [], [0]
    for low, high in pairwise(EDGES.tolist()):
        count = round((high - low) / GROUP_BINS)
        starts.append(np.round(np.linspace(low, high, count + 1))[:-1])
        first.append(first[-1] + count)
    bins = np.append(np.concatenate(starts), N_BINS).astype(np.int64)
    return bins, np.array(first)


GROUPS, FIRST = _groups()


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def sum_products(spectrum, groups, out):
    """`spectrum` (stems, bins), `out` (groups, stems, stems): real parts of products, summed over each group."""
    stems = spectrum.shape[0]
    for g in range(len(groups) - 1):
        for i in range(stems):
            for j in range(i, stems):
                total = np.float32(0.0)
                for k in range(groups[g], groups[g + 1]):
                    x, y = spectrum[i, k], spectrum[j, k]
                    total += x.real * y.real + x.imag * y.imag
                out[g, i, j] = out[g, j, i] = total


# The sources are normal and of another power r_ig in every group. With W = M^-1 and Y_g = W R_g W', where R_g are the
# products of group g, half of twice the log likelihood changes with W <- (I - H) W, for small H without diagonal, by
#
#     sum_g sum_i (Y_g)_ij / r_ig  H_ij  -  1/2 sum_g sum_ij r_jg / r_ig  H_ij^2  -  sum_g sum_(i<j) H_ij H_ji,
#
# r_ig = (Y_g)_ii being their likeliest value: two equations for each pair, and what is left of the determinant of their
# matrix is how much is known of one of the two while the other is not known. Leaks are normal, too, with a standard
# deviation of `LEAK`, which tells the right order of the sources from others.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp"})
def find_leaks(products, first, leak, weight):
    """`products` (groups, stems, stems), `first` (bands + 1,); `leak`, `weight` (bands, stems, stems)."""
    stems = products.shape[1]
    most = 0
    for band in range(len(first) - 1):
        most = max(most, first[band + 1] - first[band])
    prior = 1.0 / LEAK**2
    m, h = np.empty((stems, stems)), np.empty((stems, stems))
    r, half, y = np.empty((3, stems, stems, most), np.float32)  # groups last: they are many
    floor = np.empty(most, np.float32)
    for band in range(len(first) - 1):
        n = 0
        for g in range(first[band], first[band + 1]):
            total = np.float32(0.0)
            for i in range(stems):
                total += products[g, i, i]
            if total > 0.0:
                floor[n] = RESIDUE * total
                for i in range(stems):
                    for j in range(stems):
                        r[i, j, n] = products[g, i, j]
                n += 1
        m[:] = np.eye(stems)
        for sweep in range(SWEEPS):
            w = np.linalg.inv(m).astype(np.float32)
            for i in range(stems):
                for j in range(stems):
                    half[i, j, :n] = 0.0
                    for k in range(stems):
                        for g in range(n):
                            half[i, j, g] += w[i, k] * r[k, j, g]
            for i in range(stems):
                for j in range(i, stems):
                    y[i, j, :n] = 0.0
                    for k in range(stems):
                        for g in range(n):
                            y[i, j, g] += w[j, k] * half[i, k, g]
            for i in range(stems):
                for g in range(n):
                    y[i, i, g] += floor[g]
            for i in range(stems):
                h[i, i] = 1.0
                for j in range(i + 1, stems):
                    a, b, p, q = prior, prior, -prior * m[i, j], -prior * m[j, i]
                    for g in range(n):
                        of_i, of_j = np.float32(1.0) / y[i, i, g], np.float32(1.0) / y[j, j, g]
                        p += y[i, j, g] * of_i
                        q += y[i, j, g] * of_j
                        a += y[j, j, g] * of_i
                        b += y[i, i, g] * of_j
                    determinant = max(a * b - float(n) ** 2, LEAST_DETERMINANT * a * b)
                    h[i, j] = min(max((b * p - n * q) / determinant, -MOST_STEP), MOST_STEP)
                    h[j, i] = min(max((a * q - n * p) / determinant, -MOST_STEP), MOST_STEP)
                    weight[band, i, j] = max(determinant / b - prior, 0.0)
                    weight[band, j, i] = max(determinant / a - prior, 0.0)
            if sweep < SWEEPS - 1:
                m[:] = m @ h
                for j in range(stems):
                    diagonal = max(m[j, j], 0.2)
                    for i in range(stems):
                        m[i, j] /= diagonal
        for i in range(stems):
            for j in range(stems):
                leak[band, i, j] = 1.0 if i == j else m[i, j]
            weight[band, i, i] = 0.0


def sum_groups(products: NDArray[np.floating]) -> Floats:
    """Sum over the groups of each band: (..., G, S, S) to (..., 24, S, S)."""
    return np.add.reduceat(products, FIRST[:-1], axis=-3, dtype=np.float64)


def measure_leaks(products: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find what a second says of leaks.

    Parameters
    ----------
    products : (G, S, S) float32
        As `sum_products` gives.

    Returns
    -------
    leak, weight : (24, S, S) float32
        `leak` holds the prior, `weight` does not.
    """
    out = np.empty((2, N_BANDS, *products.shape[1:]), np.float32)
    find_leaks(products, FIRST, out[0], out[1])
    return out[0], out[1]


def no_leaks(stems: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what is known of leaks before anything is heard."""
    leak = np.zeros((N_BANDS, stems, stems), np.float32)
    return leak + np.eye(stems, dtype=np.float32), np.zeros_like(leak)


class Unmixing:
    """What is known of the leaks and colours of some stems, the better the longer they are heard.

    Parameters
    ----------
    stems : int

    Attributes
    ----------
    leak : (24, S, S) float64
        What each stem (row) holds of each other (column), as a factor.
    colour_db : (S, 24) float64
        How much louder each stem is heard than it should be next to the others, as far as leaks tell.

    Examples
    --------
    >>> from solar.mix_map import Mapper
    >>> guitar, drums = 0.1 * np.random.default_rng(0).standard_normal((2, 48_000)) * [[1.0], [3.0]]
    >>> drums += np.roll(drums, 480)  # louder at some frequencies than at others
    >>> (second,) = Mapper(["guitar", "drums"], 48_000, leaks=True).process([guitar + 0.2 * drums, drums])
    >>> unmixing = Unmixing(2)
    >>> unmixing.hear(second.leak, second.leak_weight)
    >>> round(float(unmixing.leak[:, 0, 1].mean()), 1)
    0.2
    """

    def __init__(self, stems: int) -> None:
        self._sum = np.zeros((N_BANDS, stems, stems))
        self._weight = np.zeros((N_BANDS, stems, stems))
        self.leak = np.broadcast_to(np.eye(stems), (N_BANDS, stems, stems))
        self._left = np.eye(stems)
        self.colour_db = np.zeros((stems, N_BANDS))

    def hear(self, leak: NDArray[np.floating], weight: NDArray[np.floating]) -> None:
        """Add what seconds have found, (24, S, S) or (T, 24, S, S): estimates that hold the prior as well."""
        weights = weight + 1.0 / LEAK**2
        if leak.ndim == 4:
            self._sum += (weights * leak).sum(axis=0)
            self._weight += weight.sum(axis=0)
        else:
            self._sum += weights * leak
            self._weight += weight
        weights = self._weight + 1.0 / LEAK**2
        leak = self._sum / weights
        # Of nothing but chance the squares add up to one for each band.
        powers = (np.square(leak) * self._weight).sum(axis=0) - np.count_nonzero(self._weight, axis=0)
        there = powers > NO_LEAK**2 * self._weight.sum(axis=0)
        eye = np.eye(len(there))
        self._left = np.where(there, LEFT, eye)
        self.leak = np.where(there, leak, eye)
        self.colour_db = find_colours(self.leak, 1.0 / np.sqrt(weights))

    def own_power(self, cross_power: Floats) -> Floats:
        """Power of each stem by itself, and without its colour: (..., 24, S, S) to (..., S, 24)."""
        apart = np.linalg.inv(self.leak)
        own = np.einsum("bij,...bjk,bik->...ib", apart, cross_power, apart, optimize=True)
        return self._left @ np.maximum(own, 0.0) * 10.0 ** (-0.1 * self.colour_db)


@cache
def _octaves() -> Floats:
    """Share of each octave's colour in that of each band, (24, octaves)."""
    middle = np.sqrt(np.array(BARK_HZ[1:], np.float64) * np.maximum(BARK_HZ[:-1], 40))
    return np.stack([np.interp(np.log(middle), np.log(OCTAVES_HZ), row) for row in np.eye(len(OCTAVES_HZ))], axis=1)


# For a pair of stems and a band where both ways are clear of chance, half the level by which they differ is
#
#     y = sum_o h_o (c_io - c_jo) + u_ij + noise,  c ~ N(0, colour^2),  u ~ N(0, UNLIKE_DB^2),
#
# with octaves o and the bands' shares h in them: all normal. Without u, which only makes the rows of a pair less sure,
# what is left to say of c is A and r in exp(-c' A c / 2 + r' c), and of `colour`, with A = V diag(l) V' and v = V' r,
#
#     log evidence = 1/2 sum v^2 / (l + colour^-2) - 1/2 sum log(1 + colour^2 l).
#
# Each of COLOURS_DB is as likely as that says: where channels are alike it is the least, and colours are 0.
def find_colours(leak: Floats, spread: Floats) -> Floats:
    """Colour of each stem in dB, (S, 24), from leaks and their standard deviations, (24, S, S).

    >>> leak = np.full((24, 2, 2), 0.2) + 0.8 * np.eye(2)
    >>> leak[:, 0, 1] *= 10.0 ** (np.where(np.arange(24) < 12, 6.0, -6.0) / 20.0)
    >>> colour_db = find_colours(leak, np.full((24, 2, 2), 1e-3))
    >>> float((colour_db[0] - colour_db[1])[4]) > 2.0, float((colour_db[0] - colour_db[1])[20]) < -2.0
    (True, True)
    """
    stems = leak.shape[1]
    octaves = _octaves()
    colours = stems * octaves.shape[1]
    a, r = np.zeros((colours, colours)), np.zeros(colours)
    for i in range(stems):
        for j in range(i + 1, stems):
            ways, doubts = np.abs(leak[:, (i, j), (j, i)]), spread[:, (i, j), (j, i)]
            clear = (ways > CLEAR * doubts).all(axis=1)
            ways, doubts = ways[clear], doubts[clear] / ways[clear]
            y = 10.0 * np.log10(ways[:, 0] / ways[:, 1])
            sure = 1.0 / (ROUGH_DB**2 + (10.0 / np.log(10.0)) ** 2 * np.square(doubts).sum(axis=1))
            x = np.zeros((len(y), stems, octaves.shape[1]))
            x[:, i], x[:, j] = octaves[clear], -octaves[clear]
            x = x.reshape(len(y), colours)
            mean = sure @ x / (UNLIKE_DB**-2.0 + sure.sum())
            a += x.T @ (sure[:, None] * x) - np.outer(mean, sure @ x)
            r += (sure * y) @ x - mean * (sure @ y)
    values, vectors = np.linalg.eigh(a)
    values, v = np.maximum(values, 0.0), vectors.T @ r
    kept = v / (values + COLOURS_DB[:, None] ** -2.0)
    evidence = 0.5 * (kept * v - np.log1p(COLOURS_DB[:, None] ** 2 * values)).sum(axis=1)
    likely = np.exp(evidence - evidence.max())
    mean = vectors @ (likely @ kept / likely.sum())
    return mean.reshape(stems, -1) @ octaves.T
