"""When things happen: frame boundaries in samples, and the rates at which a model listens and acts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from numbers import Real

from alm_plugin.errors import ParameterError

FEATURE_RATE = 16_000
"""Sample rate, in Hz, of everything a model hears (VGGish's rate)."""

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8_000, 192_000


def check_sample_rate(sample_rate: float) -> int:
    """Return `sample_rate` as an int, or raise `ParameterError`: the clock counts whole samples per second."""
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, Real):
        raise ParameterError(f"sample_rate must be a number in Hz, got {sample_rate!r}")
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE or int(sample_rate) != sample_rate:
        raise ParameterError(
            f"sample_rate must be a whole number in [{MIN_SAMPLE_RATE}, {MAX_SAMPLE_RATE}] Hz, got {sample_rate}"
        )
    return int(sample_rate)


def boundary(frame: int, sample_rate: int, frame_ms: int) -> int:
    """First sample of a frame: ``ceil(frame * sample_rate * frame_ms / 1000)``.

    Integer arithmetic, so boundaries never drift: at 11025 Hz a 50 ms frame is 551.25 samples, frames alternate
    between 551 and 552 samples, and frame 4 starts at exactly 2205.

    >>> [boundary(n, 11_025, 50) for n in range(5)]
    [0, 552, 1103, 1654, 2205]
    """
    return -(-frame * sample_rate * frame_ms // 1000)


@dataclass(frozen=True)
class ModelClock:
    """The time line of a model, in whole milliseconds unless said otherwise.

    Attributes
    ----------
    f1_ms : int
        Audio one embedding hears (VGGish's 975 ms: 96 log-mel columns).
    f1_stride_ms : int
        Time between embeddings; a multiple of `f2_ms`.
    f2_ms : int
        Time between gains: the frame of the model's clock.
    embedding_lag : int
        Frames L between the end of an F1 frame and the first step that uses its embedding, so that computing it may
        take that long on any machine: F1 frame k ends with frame k * stride and is used from step k * stride + L on.
    slack_ms : int
        Time after a frame's start at which its gain ramp begins; what the model has for computing one step.
    ramp_ms : int
        Length of the ramp; ``slack_ms + ramp_ms <= f2_ms``.
    """

    f1_ms: int = 975
    f1_stride_ms: int = 300
    f2_ms: int = 50
    embedding_lag: int = 6
    slack_ms: int = 20
    ramp_ms: int = 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("embedding_lag", "slack_ms") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ParameterError(f"{name} must be a whole number >= {least}, got {value!r}")
        if self.f1_ms != 975:
            raise ParameterError(
                f"f1_ms must be 975 (96 columns, what a VGGish-shaped encoder hears), got {self.f1_ms}"
            )
        if self.f1_stride_ms % self.f2_ms:
            raise ParameterError(f"f1_stride_ms must be a multiple of f2_ms = {self.f2_ms}, got {self.f1_stride_ms}")
        if self.slack_ms + self.ramp_ms > self.f2_ms:
            raise ParameterError(
                f"slack_ms + ramp_ms must be <= f2_ms = {self.f2_ms}, got {self.slack_ms} + {self.ramp_ms}"
            )

    @property
    def stride_frames(self) -> int:
        """Frames between embeddings."""
        return self.f1_stride_ms // self.f2_ms

    def boundary(self, frame: int, sample_rate: int) -> int:
        """First sample of a frame of this clock."""
        return boundary(frame, sample_rate, self.f2_ms)


MULTI_RATE = ModelClock()
"""ALM-MR's clock: gains every 50 ms, an embedding every 300 ms, used 300 ms later."""

SINGLE_RATE = ModelClock(f1_stride_ms=975, f2_ms=975, embedding_lag=0)
"""ALM-SR's and DMC's clock: everything every 975 ms, frames not overlapping."""
