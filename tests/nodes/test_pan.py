import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alm_plugin.errors import ParameterError
from alm_plugin.nodes.pan import Pan, pan_factors

RATE = 48_000


@given(st.floats(-1.0, 1.0, allow_subnormal=False))
def test_the_law(pan):
    theta = (pan + 1) * math.pi / 4
    left, right = pan_factors(pan, 1)
    assert left == pytest.approx(math.sqrt(2) * math.cos(theta), abs=1e-7)
    assert right == pytest.approx(math.sqrt(2) * math.sin(theta), abs=1e-7)
    assert left**2 + right**2 == pytest.approx(2.0)
    assert pan_factors(pan, 2) == (min(1.0, left), min(1.0, right))
    assert pan_factors(-pan, 1) == pytest.approx((right, left))


@pytest.mark.parametrize("shape", [(100,), (1, 100), (2, 100)])
def test_the_centre_is_bit_exact(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    out = Pan(0.0)(x, RATE)
    assert out.shape == (2, 100)
    np.testing.assert_array_equal(out, np.broadcast_to(x, (2, 100)))
    assert not np.shares_memory(out, x)


def test_the_sides():
    x = np.ones((1, 10), np.float32)
    np.testing.assert_array_equal(Pan(-1.0)(x, RATE), [[np.float32(math.sqrt(2))] * 10, [0.0] * 10])
    np.testing.assert_array_equal(Pan(1.0)(x, RATE), [[0.0] * 10, [np.float32(math.sqrt(2))] * 10])
    stereo = np.array([[1.0] * 10, [0.5] * 10], np.float32)
    np.testing.assert_array_equal(Pan(1.0)(stereo, RATE), [[0.0] * 10, [0.5] * 10])
    np.testing.assert_allclose(Pan(-0.5)(stereo, RATE)[1], 0.5 * math.sqrt(2) * math.sin(math.pi / 8), rtol=1e-6)


def test_samples_first_stay_so():
    assert Pan()(np.zeros((100, 1), np.float32), RATE).shape == (100, 2)
    assert Pan()(np.zeros((100, 2), np.float32), RATE).shape == (100, 2)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [1, 17, 441])
def test_a_move_takes_20_ms_without_a_step_and_does_not_depend_on_blocks(channels, size):
    x = np.ones((channels, 3_000), np.float32)

    def play(size):
        pan = Pan(-1.0)
        pan.process(x[:, :5], RATE)
        pan.pan = 1.0
        return pan.process(x, RATE, size, reset=False)

    out = play(3_000)
    np.testing.assert_array_equal(play(size), out)
    peak = math.sqrt(2) if channels == 1 else 1.0
    assert np.abs(np.diff(out)).max() == pytest.approx(peak / 960, rel=1e-3)
    np.testing.assert_allclose(out[0, [0, 480, 960, 2999]], [peak, peak / 2, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(out[1, [0, 480, 960, 2999]], [0.0, peak / 2, peak, peak], atol=1e-6)


def test_reset_and_a_new_width_are_there_at_once():
    pan = Pan()
    pan(np.ones((1, 9), np.float32), RATE)
    pan.pan = 1.0
    assert pan(np.ones((1, 9), np.float32), RATE)[0, 0] == 0.0
    np.testing.assert_array_equal(pan.process(np.ones((2, 9), np.float32), RATE, reset=False)[1], 1.0)


@pytest.mark.parametrize("bad", [-1.1, 1.0001, math.nan, "left"])
def test_range(bad):
    with pytest.raises(ParameterError, match=r"pan must be in \[-1, 1\], got"):
        Pan(bad)


def test_three_channels_have_no_left_and_right():
    with pytest.raises(ParameterError, match="pan takes a signal of 1 or 2 channels, got 3"):
        Pan()(np.zeros((3, 9), np.float32), RATE)
