import numpy as np
import pytest

from solar.bands import BARK_HZ, N_BANDS, spectra
from solar.leaks import (
    FIRST,
    GROUPS,
    LEAK,
    LEAST_DETERMINANT,
    MOST_STEP,
    OCTAVES_HZ,
    RESIDUE,
    SWEEPS,
    Unmixing,
    find_colours,
    measure_leaks,
    no_leaks,
    sum_groups,
    sum_products,
)
from solar.mix_map import Mapper
from solar.performance import Channel, Performance
from solar.songs import compose

RATE = 32_000
MIDDLE_HZ = np.sqrt(np.array(BARK_HZ[1:], float) * BARK_HZ[:-1])
STEMS = ("drums", "bass", "guitar", "vocals")


@pytest.fixture(scope="module")
def song():
    return compose("a", 30.0, seed=1, sample_rate=RATE)


def naive_leaks(products):
    """The mathematics above the kernel, a group at a time."""
    stems = products.shape[1]
    prior = LEAK**-2
    leak, weight = np.zeros((2, N_BANDS, stems, stems))
    for band in range(N_BANDS):
        groups = [r for r in products[FIRST[band] : FIRST[band + 1]].astype(np.float64) if np.trace(r) > 0]
        m = np.eye(stems)
        for sweep in range(SWEEPS):
            w = np.linalg.inv(m)
            h = np.eye(stems)
            ys = [w @ r @ w.T for r in groups]
            powers = [np.diag(y) + RESIDUE * np.trace(r) for y, r in zip(ys, groups, strict=True)]
            for i in range(stems):
                for j in range(i + 1, stems):
                    p, q = (sum(y[i, j] / d[k] for y, d in zip(ys, powers, strict=True)) for k in (i, j))
                    a, b = sum(d[j] / d[i] for d in powers), sum(d[i] / d[j] for d in powers)
                    matrix = np.array([[a + prior, len(groups)], [len(groups), b + prior]])
                    least = LEAST_DETERMINANT * matrix[0, 0] * matrix[1, 1]
                    determinant = max(np.linalg.det(matrix), least)
                    right = np.array([p - prior * m[i, j], q - prior * m[j, i]])
                    adjugate = np.array([[matrix[1, 1], -matrix[0, 1]], [-matrix[1, 0], matrix[0, 0]]])
                    h[i, j], h[j, i] = np.clip(adjugate @ right / determinant, -MOST_STEP, MOST_STEP)
                    weight[band, i, j] = max(determinant / matrix[1, 1] - prior, 0.0)
                    weight[band, j, i] = max(determinant / matrix[0, 0] - prior, 0.0)
            if sweep < SWEEPS - 1:
                m = m @ h
                m /= np.maximum(np.diag(m), 0.2)
        leak[band] = m
        np.fill_diagonal(leak[band], 1.0)
    return leak, weight


def products_of(stems):
    out = np.empty((len(GROUPS) - 1, len(stems), len(stems)), np.float32)
    sum_products(spectra(stems, RATE), GROUPS, out)
    return out


def second_of(song, second, mix=None):
    stems = np.stack([song[name][second * RATE : (second + 1) * RATE] for name in STEMS])
    return (stems if mix is None else mix @ stems).astype(np.float32)


def test_the_kernel_does_what_the_mathematics_says(song):
    products = products_of(second_of(song, 12, np.eye(4) + 0.2 * (1 - np.eye(4))))
    leak, weight = measure_leaks(products)
    expected, sure = naive_leaks(products)
    known = sure > 10.0 / LEAK**2
    assert known.mean() > 0.3
    np.testing.assert_allclose(leak[known], expected[known], atol=2e-3)
    np.testing.assert_allclose(weight[known], sure[known], rtol=0.05)


def test_products_are_those_of_the_bins(song):
    x = second_of(song, 12)
    spectrum = spectra(x, RATE)
    at = 700
    part = spectrum[:, GROUPS[at] : GROUPS[at + 1]].astype(np.complex128)
    np.testing.assert_allclose(products_of(x)[at], (part @ part.conj().T).real, rtol=1e-4, atol=1e-12)
    cross = sum_groups(products_of(x))
    whole = spectrum[:, 920:1080].astype(np.complex128)  # band 8
    np.testing.assert_allclose(cross[8], (whole @ whole.conj().T).real, rtol=1e-4, atol=1e-10)


def test_leaks_are_found_and_taken_out(song):
    rng = np.random.default_rng(2)
    mix = np.where(np.eye(4), 1.0, rng.uniform(0.1, 0.3, (4, 4)) * rng.choice([-1, 1], (4, 4)))
    unmixing = Unmixing(4)
    for second in range(10, 22):
        unmixing.hear(*measure_leaks(products_of(second_of(song, second, mix))))
    off = np.median(np.abs(unmixing.leak[3:18] - mix), axis=0)
    assert off.max() < 0.04
    mixed, apart = (sum_groups(products_of(second_of(song, 15, m))) for m in (mix, None))
    true = np.diagonal(apart, axis1=1, axis2=2).T
    heard = np.diagonal(mixed, axis1=1, axis2=2).T
    clear = true > 0.01 * true.sum(axis=0)  # what is 20 dB below the others there may stay wrong
    better, before = (np.abs(10 * np.log10(x[clear] / true[clear])) for x in (unmixing.own_power(mixed), heard))
    assert np.mean(better) < 0.5 * np.mean(before)


def test_where_nothing_leaks_nothing_is_taken_out(song):
    unmixing = Unmixing(4)
    for second in range(10, 16):
        unmixing.hear(*measure_leaks(products_of(second_of(song, second))))
    cross = sum_groups(products_of(second_of(song, 15)))
    np.testing.assert_array_equal(unmixing.leak, np.broadcast_to(np.eye(4), (N_BANDS, 4, 4)))
    np.testing.assert_allclose(unmixing.own_power(cross), np.diagonal(cross, axis1=1, axis2=2).T)


def test_level_and_order_do_not_matter(song):
    x = second_of(song, 12, np.eye(4) + 0.15 * (1 - np.eye(4)))
    leak, weight = measure_leaks(products_of(x))
    quiet, _ = measure_leaks(products_of(1e-3 * x))
    np.testing.assert_allclose(quiet, leak, atol=1e-3)
    order = [2, 0, 3, 1]
    turned, turned_weight = measure_leaks(products_of(x[order]))
    known = weight > 10.0 / LEAK**2
    pairs = (slice(None), *np.ix_(order, order))
    np.testing.assert_allclose(turned[known[pairs]], leak[pairs][known[pairs]], atol=2e-3)
    np.testing.assert_allclose(turned_weight[known[pairs]], weight[pairs][known[pairs]], rtol=0.05)


def test_silence_says_nothing():
    leak, weight = measure_leaks(products_of(np.zeros((3, RATE), np.float32)))
    np.testing.assert_array_equal(leak, no_leaks(3)[0])
    assert not weight.any()
    unmixing = Unmixing(3)
    unmixing.hear(leak, weight)
    assert np.isfinite(unmixing.own_power(np.zeros((N_BANDS, 3, 3)))).all()


def test_colours_are_found_up_to_what_pairs_differ_by(song):
    # The equaliser of channels that leak; half of its standard deviation of 2.5 dB, at the most, is left.
    errors, drawn = [], []
    for seed in range(3):
        channel = Channel.draw("bad", 4, np.random.default_rng(seed))
        take = Performance(song, RATE, "guitar", channel, seed)
        unmixing = Unmixing(4)
        for second in range(8, 24):
            unmixing.hear(*take.leaks(second, 0.0))
        true = 20 * np.log10([np.interp(OCTAVES_HZ, np.arange(len(c)), c) for c in channel.eq])
        found = [np.interp(OCTAVES_HZ, MIDDLE_HZ, c) for c in unmixing.colour_db]
        middle = slice(3, 8)  # 250 Hz to 4 kHz, where all are heard
        both = [(c - np.mean(c, axis=0))[:, middle] for c in (true, np.array(found))]  # of all alike, nobody knows
        errors.append(both[1] - both[0])
        drawn.append(both[0])
    assert np.std(errors) < 0.6 * np.std(drawn)


def test_channels_that_are_alike_have_no_colour(song):
    channel = Channel.draw("mild", 4, np.random.default_rng(5))
    take = Performance(song, RATE, "guitar", channel, 5)
    unmixing = Unmixing(4)
    for second in range(8, 20):
        unmixing.hear(*take.leaks(second, 0.0))
    assert np.abs(unmixing.colour_db).max() < 0.5


def test_unknown_leaks_have_no_colour():
    leak = np.full((N_BANDS, 2, 2), 0.2)
    leak[:, 0, 1] = 0.4
    np.testing.assert_array_equal(find_colours(leak, np.full((N_BANDS, 2, 2), LEAK)), np.zeros((2, N_BANDS)))


def test_a_mapper_finds_leaks_if_asked(song):
    x = second_of(song, 12, np.eye(4) + 0.2 * (1 - np.eye(4)))
    (told,) = Mapper(STEMS, RATE, leaks=True).process(x)
    (not_told,) = Mapper(STEMS, RATE).process(x)
    leak, weight = measure_leaks(products_of(x))
    np.testing.assert_array_equal(told.leak, leak)
    np.testing.assert_array_equal(told.leak_weight, weight)
    np.testing.assert_array_equal(not_told.leak, no_leaks(4)[0])
    assert not not_told.leak_weight.any()
    np.testing.assert_array_equal(told.cross_power, not_told.cross_power)
