from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alm_plugin.errors import ParameterError
from solar.bands import N_BANDS
from solar.mix_map import MixMap
from solar.predictor import SHRINK_S, Networks, Table


def song(playing, seed=0):
    """Those who play share each band by weights of their own, but for some chance."""
    rng = np.random.default_rng(seed)
    seconds, stems = playing.shape
    weights = (
        rng.uniform(0.5, 2.0, (N_BANDS, stems)) * playing[:, None] * rng.uniform(0.7, 1.4, (seconds, N_BANDS, stems))
    )
    total = weights.sum(-1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    names = tuple(map(str, range(stems)))
    pairs = np.zeros((seconds, N_BANDS, stems, stems))
    return MixMap(names, shares, shares.any(-1), pairs + np.eye(stems), np.ones((seconds, stems)), pairs, pairs)


def players(seconds, stems, seed=0):
    return np.random.default_rng(seed).random((seconds, stems)) < 0.7


def test_a_common_combination_is_its_mean():
    playing = players(400, 3)
    learnt = song(playing)
    table = Table().fit(learnt, playing)
    rows = (playing == [True, True, False]).all(1)
    mean = learnt.dominance[rows].mean(0)
    assert np.abs(table.predict([True, True, False]) - mean).max() < 2 * SHRINK_S / rows.sum()


def test_an_unseen_combination_is_near_what_it_would_be():
    playing = players(400, 4)
    playing = playing[~(playing == [True, False, True, True]).all(1)]
    found = Table().fit(song(playing), playing).predict([True, False, True, True])
    expected = song(np.ones((300, 1), bool) * [True, False, True, True]).dominance.mean(0)
    assert np.abs(found - expected).mean() < 0.1
    assert np.abs(found[:, 1]).max() < 0.1


def test_who_never_plays_is_not_expected():
    playing = players(50, 3)
    playing[:, 2] = False
    table = Table().fit(song(playing), playing)
    assert table.predict([True, True, False])[:, 2].max() < 0.02


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.integers(1, 40), st.integers(0, 99))
def test_shares_add_up_and_follow_the_stems(stems, seconds, seed):
    playing = players(seconds, stems, seed)
    learnt = song(playing, seed)
    asked = players(7, stems, seed + 1)
    found = Table().fit(learnt, playing).predict(asked)
    total = found.sum(-1)
    assert np.all((np.abs(total - 1) < 1e-9) | (total == 0))
    assert not found[~asked.any(1)].any()
    order = np.random.default_rng(seed).permutation(stems)
    turned = replace(learnt, dominance=learnt.dominance[..., order])
    np.testing.assert_allclose(
        Table().fit(turned, playing[:, order]).predict(asked[:, order]), found[..., order], atol=1e-9
    )


def test_any_shape_of_question():
    playing = players(30, 3)
    table = Table().fit(song(playing), playing)
    many = table.predict(playing.reshape(5, 6, 3))
    assert many.shape == (5, 6, N_BANDS, 3)
    np.testing.assert_array_equal(many[2, 3], table.predict(playing[15]))


def test_the_papers_networks_learn_no_more_than_the_table():
    playing = players(200, 4)
    learnt = song(playing)
    errors = {}
    for predictor in (Table(), Networks()):
        found = predictor.fit(learnt, playing).predict(playing)
        np.testing.assert_allclose(found.sum(-1)[playing.any(1)], 1.0, atol=1e-5)
        errors[type(predictor)] = np.square(found - learnt.dominance)[playing.any(1)].mean()
    rough = np.square(learnt.dominance - learnt.dominance.mean(0)).mean()
    assert errors[Table] <= errors[Networks] < 0.7 * rough


def test_networks_are_reproducible():
    playing = players(60, 3)
    a, b, c = (Networks(seed).fit(song(playing), playing).predict(playing[:5]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ParameterError, match=r"playing must have shape \(4, 2\), got \(3, 2\)"):
        Table().fit(song(players(4, 2)), players(3, 2))
