"""Which channels take part: the activity mask, with hysteresis and a soft end."""

from __future__ import annotations

import numpy as np
from numba import njit

OPEN_DBFS, CLOSE_DBFS = -67.0, -70.0
HOLD_MS = 2_000
OPEN_POWER = 10.0 ** (OPEN_DBFS / 10.0)
CLOSE_POWER = 10.0 ** (CLOSE_DBFS / 10.0)


# A channel opens when a frame's RMS reaches -67 dBFS and stays as long as one above -70 dBFS lies within the last two
# seconds. Its weight is 1 for the first of those and then falls in a straight line, so that a channel that leaves moves
# no other by a step:
#     mask = clip((hold - silent) / (hold - hold // 2), 0, 1)
@njit(cache=True, nogil=True)
def update_activity(mean_square, hold_frames, silent_frames, mask):
    """`silent_frames` (channels,): frames since the last one above the closing level, >= `hold_frames` when closed."""
    for channel in range(mean_square.shape[0]):
        threshold = CLOSE_POWER if silent_frames[channel] < hold_frames else OPEN_POWER
        if mean_square[channel] >= threshold:
            silent_frames[channel] = 0
        elif silent_frames[channel] < hold_frames:
            silent_frames[channel] += 1
        left = hold_frames - silent_frames[channel]
        mask[channel] = min(1.0, max(0.0, left / (hold_frames - hold_frames // 2)))


def hold_frames(frame_ms: int) -> int:
    """Frames of silence after which a channel is masked, at least one."""
    return max(1, round(HOLD_MS / frame_ms))


CLOSED = np.iinfo(np.int64).max // 2
"""Value of `silent_frames` for a channel that has never been heard."""
