import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alm_plugin.errors import ParameterError
from alm_plugin.features.clock import MULTI_RATE, SINGLE_RATE, ModelClock, boundary, check_sample_rate


@given(st.integers(0, 10**7), st.integers(8_000, 192_000), st.sampled_from([50, 975]))
def test_boundary_is_the_exact_ceiling(frame, sample_rate, frame_ms):
    assert boundary(frame, sample_rate, frame_ms) == math.ceil(Fraction(frame * sample_rate * frame_ms, 1000))


@pytest.mark.parametrize("sample_rate", [11_025, 22_050, 44_100, 48_000, 96_000])
def test_no_drift_in_three_hours(sample_rate):
    assert boundary(3 * 3600 * 20, sample_rate, 50) == 3 * 3600 * sample_rate


def test_the_two_clocks_of_the_paper():
    assert (MULTI_RATE.f2_ms, MULTI_RATE.stride_frames, MULTI_RATE.embedding_lag) == (50, 6, 6)
    assert (SINGLE_RATE.f2_ms, SINGLE_RATE.stride_frames, SINGLE_RATE.embedding_lag) == (975, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"slack_ms": 40}, r"slack_ms \+ ramp_ms must be <= f2_ms = 50, got 40 \+ 20"),
        ({"ramp_ms": 0}, "ramp_ms must be a whole number >= 1, got 0"),
        ({"f1_stride_ms": 275}, "f1_stride_ms must be a multiple of f2_ms = 50, got 275"),
        ({"f1_ms": 960}, "f1_ms must be 975"),
        ({"embedding_lag": -1}, "embedding_lag must be a whole number >= 0, got -1"),
    ],
)
def test_impossible_clocks_are_refused(arguments, says):
    with pytest.raises(ParameterError, match=says):
        ModelClock(**arguments)


@pytest.mark.parametrize("sample_rate", [0, -1, 7_999, 192_001, 44_100.5, float("nan"), "48000", True, None])
def test_impossible_sample_rates_are_refused(sample_rate):
    with pytest.raises(ParameterError, match="sample_rate must be"):
        check_sample_rate(sample_rate)


@pytest.mark.parametrize("sample_rate", [48_000, 48_000.0, np.int64(48_000), np.float32(48_000)])
def test_whole_sample_rates_of_any_type_are_taken(sample_rate):
    assert check_sample_rate(sample_rate) == 48_000
