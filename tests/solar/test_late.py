import numpy as np
import pytest

from solar import late
from solar.bands import N_BINS, spectra
from solar.late import FIRST, LAG_S, LAGS, LateLeaks
from solar.mix_map import Mapper
from solar.songs import compose

RATE = 44_100
SECONDS = 16


@pytest.fixture(scope="module")
def stems():
    return np.stack(list(compose("b", 40.0, sample_rate=RATE).values()))[:, 8 * RATE : (8 + SECONDS) * RATE]


def delayed(x, seconds):
    """A second stem by so much later, to the sample."""
    samples = round(seconds * RATE)
    return np.pad(x, (samples, 0))[: len(x)]


def on_stage(stems, paths):
    """Stems as microphones hear them, `paths` being factor and delay by (row, column)."""
    out = stems.copy()
    for (i, j), (factor, seconds) in paths.items():
        out[i] += factor * delayed(stems[j], seconds)
    return out


def seconds_of(stems):
    return [spectra(stems[:, k * RATE : (k + 1) * RATE], RATE) for k in range(stems.shape[1] // RATE)]


def heard(stems):
    found = LateLeaks(len(stems))
    return found, [found.take_out(x) for x in seconds_of(stems)]


def left_db(own, mixed, alone, stem, first=8):
    """Power of what is left of the leaks in a stem, against what they were."""
    left, was = (sum(np.square(np.abs(x[stem] - y[stem])).sum() for x, y in zip(xs[first:], alone[first:], strict=True))
                 for xs in (own, mixed))  # fmt: skip
    return 10.0 * np.log10(left / was)


def test_what_comes_late_is_found_and_taken_out_in_both_directions(stems):
    paths = {(2, 0): (0.2, 7e-3), (0, 2): (-0.25, 11e-3), (1, 0): (0.15, 4e-3), (3, 0): (0.15, 20e-3)}
    mixed = on_stage(stems, paths)
    found, own = heard(mixed)
    alone, before = seconds_of(stems), seconds_of(mixed)
    # Bass and bass drum have few bins, and share them.
    for stem, most_db in enumerate([-12.0, -4.0, -12.0, -12.0]):
        assert left_db(own, before, alone, stem) < most_db
    for pair, (factor, seconds) in paths.items():
        taps = np.fft.ifft(np.pad(found.leak[pair], (0, late.GROUPS * 16 - N_BINS)))[:LAGS]
        assert abs(np.argmax(np.abs(taps)) * LAG_S - seconds) < 2 * LAG_S
        assert np.sign(taps[np.argmax(np.abs(taps))].real) == np.sign(factor)
        assert abs(found.leak[pair][300:3_000]).mean() == pytest.approx(abs(factor), rel=0.35)


def test_reflections_are_as_well(stems):
    mixed = on_stage(on_stage(stems, {(2, 0): (0.2, 6e-3)}), {})
    mixed[2] += 0.1 * delayed(stems[0], 15e-3)
    _, own = heard(mixed)
    assert left_db(own, seconds_of(mixed), seconds_of(stems), 2) < -8.0


def test_stems_that_leak_nothing_or_at_once_stay_as_they_are(stems):
    at_once = stems + 0.1 * stems[[1, 2, 3, 0]]
    for x in (stems, at_once):
        _, own = heard(x)
        for one, other in zip(own, seconds_of(x), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_order_of_stems_does_not_matter(stems):
    mixed = on_stage(stems, {(2, 0): (0.2, 7e-3), (0, 2): (0.25, 11e-3)})
    order = [2, 0, 3, 1]
    _, own = heard(mixed)
    _, other = heard(mixed[order])
    scale = np.abs(own[-1]).max()
    np.testing.assert_allclose(other[-1], own[-1][order], atol=1e-4 * scale)


def test_taps_follow_a_twin():
    rng = np.random.default_rng(0)
    power = rng.uniform(0.1, 3.0, late.GROUPS)
    hz = late.GROUP_HZ * np.arange(late.GROUPS) + (late.GROUP_HZ - 1) / 2
    wanted = {FIRST + 3: 0.2, 400: -0.1}
    product = power * sum(a * np.exp(-2j * np.pi * hz * k * LAG_S) for k, a in wanted.items())
    product = product + 0.02 * power * (rng.standard_normal(late.GROUPS) + 1j * rng.standard_normal(late.GROUPS))
    twin = np.array([(product * np.exp(2j * np.pi * hz * k * LAG_S)).sum().real for k in range(-LAGS, LAGS)])
    scratch = np.zeros((2, 1, 2 * late.GROUPS), np.complex64)
    n, d = np.zeros(2 * LAGS), np.zeros(4 * LAGS)
    late.correlate(product.astype(np.complex64), scratch, n)
    np.testing.assert_allclose(n, twin, atol=1e-4 * np.abs(twin).max())
    late.find_taps(product.astype(np.complex64), power.astype(np.float32), scratch, (n, d))
    found = {k - LAGS: n[k] for k in np.flatnonzero(n)}
    for k, a in wanted.items():
        assert sum(tap for lag, tap in found.items() if abs(lag - k) <= 1) == pytest.approx(a, rel=0.1)


def test_taps_never_add_up_to_more_than_a_whole():
    power = np.ones(late.GROUPS, np.float32)
    hz = late.GROUP_HZ * np.arange(late.GROUPS) + (late.GROUP_HZ - 1) / 2
    product = sum(np.exp(-2j * np.pi * hz * k * LAG_S) for k in (100, 200, 300)).astype(np.complex64)
    n = np.zeros(2 * LAGS)
    late.find_taps(product, power, np.zeros((2, 1, 2 * late.GROUPS), np.complex64), (n, np.zeros(4 * LAGS)))
    assert np.abs(n).sum() == pytest.approx(late.MOST)


def test_a_mapper_takes_out_what_is_late_of_all_but_who_dominates(stems):
    mixed = on_stage(stems, {(2, 0): (0.3, 7e-3)})
    names = ["drums", "bass", "guitar", "vocals"]
    plain, dry = Mapper(names, RATE, leaks=True), Mapper(names, RATE, leaks=True)
    without = Mapper(names, RATE, leaks=True, late=True)
    rows = [mapper.process(x) for mapper, x in ((plain, mixed), (without, mixed), (dry, stems))]
    for one, other in zip(rows[0], rows[1], strict=True):
        np.testing.assert_array_equal(one.dominance, other.dominance)
    off = [sum(np.abs(np.log10((one.band_power[2] + 1e-9) / (alone.band_power[2] + 1e-9))).mean()
               for one, alone in zip(row[8:], rows[2][8:], strict=True)) for row in rows[:2]]  # fmt: skip
    assert off[1] < 0.6 * off[0]
    without.reset()
    again = without.process(mixed)
    for one, other in zip(rows[1], again, strict=True):
        np.testing.assert_array_equal(one.cross_power, other.cross_power)
