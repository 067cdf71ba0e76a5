"""Conversions between the units that names in this package end in: dB and factors, ms and samples, Hz and mel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def db_to_factor(gain_db: ArrayLike) -> NDArray[np.float64]:
    """Amplitude factor of a gain in dB; ``-inf`` dB is 0.

    >>> float(db_to_factor(-20.0))
    0.1
    """
    return np.power(10.0, np.asarray(gain_db, np.float64) / 20.0)


def factor_to_db(factor: ArrayLike) -> NDArray[np.float64]:
    """Gain in dB of an amplitude factor >= 0; 0 is ``-inf`` dB.

    >>> float(factor_to_db(0.1))
    -20.0
    """
    with np.errstate(divide="ignore"):
        return 20.0 * np.log10(np.asarray(factor, np.float64))


def ms_to_samples(duration_ms: float, sample_rate: int) -> int:
    """Nearest whole number of samples in a duration.

    >>> ms_to_samples(20.0, 44_100)
    882
    """
    return round(duration_ms * sample_rate / 1000.0)


def hz_to_mel(frequency_hz: ArrayLike) -> NDArray[np.float64]:
    """HTK mel scale, ``1127 ln(1 + f / 700)`` (the scale of VGGish's front end)."""
    return 1127.0 * np.log1p(np.asarray(frequency_hz, np.float64) / 700.0)
