import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin.errors import ParameterError
from solar.bands import BARK_HZ, N_BINS, band_power, spectra
from solar.dominance import dominance
from solar.songs import compose

SEEDS = st.integers(0, 2**32 - 1)
STEMS = st.integers(2, 16)


def paper(amplitudes, floors=None):
    """Section 4.1, as a reader would write it; `floors`: amplitudes that a stem has to exceed anyway."""
    stems = len(amplitudes)
    out = np.zeros((24, stems))
    for band in range(24):
        part = np.asarray(amplitudes, np.float64)[:, BARK_HZ[band] : BARK_HZ[band + 1]]
        threshold = np.percentile(part, 100 * (1 - 0.2 / stems))
        counts = []
        for stem in range(stems):
            least = threshold if floors is None else max(threshold, floors[stem])
            counts.append(sum(1 for amplitude in part[stem].tolist() if amplitude > least))
        if sum(counts):
            out[band] = [count / sum(counts) for count in counts]
    return out


def draw(seed, stems, levels):
    """Random powers: peaks over noise that rises and falls over the bands, differently for each stem."""
    rng = np.random.default_rng(seed)
    tilt = np.repeat(rng.normal(0.0, 2.0, (stems, 31)), 500, axis=1)
    power = rng.exponential(1.0, (stems, N_BINS)) * np.exp(tilt)
    if levels:  # few values, and so many ties
        power = np.floor(power * levels)
    return power.astype(np.float32)


@given(SEEDS, STEMS, st.sampled_from([0, 0, 1, 5, 100]))
@settings(max_examples=25, deadline=None)
def test_the_kernel_is_the_papers_definition(seed, stems, levels):
    power = draw(seed, stems, levels)
    got, valid = dominance(power)
    want = paper(np.sqrt(power.astype(np.float64)))
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert (valid == (want.sum(axis=1) > 0)).all()


@given(SEEDS, STEMS)
@settings(max_examples=10, deadline=None)
def test_residue_does_not_count(seed, stems):
    power = draw(seed, stems, 0).astype(np.float64)
    power *= 10.0 ** -np.random.default_rng(seed).uniform(0, 14, (stems, 1)) / power.max()
    power[:, 9_000:] *= 10.0 ** -np.random.default_rng(seed).uniform(6, 11, (stems, 1))
    power = power.astype(np.float32)
    floors = np.maximum(1e-13, 1e-10 * band_power(power).max(axis=1)).astype(np.float32).astype(np.float64)
    got, valid = dominance(power)
    want = paper(np.sqrt(power.astype(np.float64)), np.sqrt(floors))
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert (valid == (want.sum(axis=1) > 0)).all()


def test_a_case_to_be_done_by_hand():
    # Band 1 has 100 bins per stem, of which the 20 strongest of both count: 100 to 81. The second stem has the even
    # ones, and one more by a hair.
    power = np.zeros((2, N_BINS))
    power[0, 100:200] = np.where(np.arange(1, 101) % 2, np.arange(1, 101), 0.0)
    power[1, 100:200] = np.where(np.arange(1, 101) % 2, 0.0, np.arange(1, 101))
    power[1, 100] = 99.5
    shares, valid = dominance(power)
    assert np.flatnonzero(valid).tolist() == [1]
    np.testing.assert_allclose(shares[1], [9 / 20, 11 / 20])


GOLDEN = {
    0: [0.125, 0.25, 0.1875, 0.4375],
    4: [0.181818, 0.363636, 0.227273, 0.227273],
    9: [0.108108, 0.297297, 0.297297, 0.297297],
    14: [0.105263, 0.184211, 0.263158, 0.447368],
    19: [0.13242, 0.237443, 0.237443, 0.392694],
    23: [0.148784, 0.23319, 0.266094, 0.351931],
}


def test_golden_values():
    k = np.arange(N_BINS)
    power = np.stack([(k * k * 7_919 + s * 104_729 * k + s) % (20_011 + 307 * s) for s in range(4)]).astype(np.float64)
    shares, _ = dominance(power)
    np.testing.assert_allclose(shares[list(GOLDEN)], list(GOLDEN.values()), atol=1e-6)
    np.testing.assert_allclose(shares, paper(np.sqrt(power)), atol=1e-12)


def test_a_second_of_a_song_is_what_the_paper_would_say():
    second = slice(16 * 44_100, 17 * 44_100)
    stems = np.stack([stem[second] for stem in compose("a", 20.0).values()])
    hann = np.sin(np.pi * np.arange(44_100) / 44_100) ** 2
    want = paper(np.abs(np.fft.rfft(stems.astype(np.float64) * hann)))
    got, valid = dominance(np.abs(spectra(stems, 44_100)) ** 2)
    assert valid.all()
    np.testing.assert_allclose(got, want, atol=1e-12)


@given(SEEDS, STEMS, st.booleans())
@settings(max_examples=25, deadline=None)
def test_shares_add_up_to_1_or_are_0(seed, stems, silent):
    power = draw(seed, stems, 0)
    if silent:
        power[:, BARK_HZ[3] : BARK_HZ[7]] = 0.0
    shares, valid = dominance(power)
    assert np.isfinite(shares).all()
    assert ((shares >= 0.0) & (shares <= 1.0)).all()
    np.testing.assert_allclose(shares.sum(axis=1), valid, atol=1e-12)
    assert valid.tolist() == [not (silent and 3 <= band < 7) for band in range(24)]


@given(SEEDS, STEMS, st.integers(-12, 20))
@settings(max_examples=25, deadline=None)
def test_everything_louder_changes_nothing(seed, stems, gain):
    power = draw(seed, stems, 0)
    for a, b in zip(dominance(power), dominance(power * np.float32(4.0**gain)), strict=True):
        np.testing.assert_array_equal(a, b)


@given(SEEDS, STEMS, st.sampled_from([0, 3]))
@settings(max_examples=25, deadline=None)
def test_the_order_of_stems_is_nothing_to_it(seed, stems, levels):
    power = draw(seed, stems, levels)
    order = np.random.default_rng(seed).permutation(stems)
    shares, valid = dominance(power)
    others, other_valid = dominance(power[order])
    np.testing.assert_array_equal(shares[:, order], others)
    np.testing.assert_array_equal(valid, other_valid)


@given(SEEDS, STEMS, st.sampled_from([0, 3]), st.floats(-13.0, 0.0, allow_subnormal=False))
@settings(max_examples=10, deadline=None)
def test_who_is_turned_up_loses_no_share(seed, stems, levels, level):
    power = draw(seed, stems, levels) * np.float32(10.0**level)
    player = seed % stems
    before = np.zeros((24, stems))
    before[:, :player] = before[:, player + 1 :] = 1.0
    for gain in range(-30, 31, 4):
        turned = power.copy()
        turned[player] *= np.float32(2.0**gain)
        shares, valid = dominance(turned)
        others = np.arange(stems) != player
        assert (shares[:, player] >= before[:, player] - 1e-12).all()
        # Of the others nobody gains where somebody was heard before.
        assert (shares[valid][:, others].sum(axis=1) <= 1.0 - shares[valid][:, player] + 1e-12).all()
        before = shares


def test_any_sample_rate_gives_the_same():
    # What the same air would be, sampled at each rate: partials up to 15 kHz of four players, each with its own decay.
    rng = np.random.default_rng(5)
    hz = np.geomspace(25.0, 15_000.0, 240)[rng.permutation(240)].reshape(4, 60)
    amplitude = 10.0 ** rng.uniform(-3.0, -1.0, (4, 60))
    phase, fall = rng.uniform(0.0, 2 * np.pi, (4, 60)), rng.uniform(0.0, 5.0, (4, 60))

    def shares(rate):
        t = np.arange(rate) / rate
        stems = [
            sum(a * np.exp(-d * t) * np.sin(2 * np.pi * f * t + p) for f, a, p, d in zip(*stem, strict=True))
            for stem in zip(hz, amplitude, phase, fall, strict=True)
        ]
        found, valid = dominance(np.abs(spectra(np.stack(stems), rate)) ** 2)
        assert valid.all()
        return found

    want = shares(44_100)
    for rate in (32_000, 37_800, 48_000, 96_000):
        np.testing.assert_allclose(shares(rate), want, atol=1e-4)


def test_silence_is_nobodys_and_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for power in (np.zeros((4, N_BINS)), np.ones((4, N_BINS))):
            shares, valid = dominance(power)
            assert not valid.any()
            assert not shares.any()


def test_what_is_no_number_stays_where_it_is(rng):
    power = draw(1, 4, 0)
    want, _ = dominance(power)
    power[2, 150] = np.nan
    got, _ = dominance(power)
    np.testing.assert_array_equal(got[2:], want[2:])
    assert np.isfinite(got).all()


@pytest.mark.parametrize("shape", [(1, N_BINS), (17, N_BINS), (4, 22_051), (4,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ParameterError, match=r"^(stems|power) must "):
        dominance(np.zeros(shape))
