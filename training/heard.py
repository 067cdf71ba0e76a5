"""What a model hears of an example: the inference front end's features, and the truth beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from alm_plugin.features.clock import ModelClock
from alm_plugin.features.front_end import PATCH_COLUMNS, FrontEnd
from alm_plugin.features.log_mel import LOG_OFFSET

from .examples import Example
from .song import SAMPLE_RATE

COLUMNS_PER_FRAME = 5
SILENT_COLUMN = float(np.log(LOG_OFFSET))


class Heard(NamedTuple):
    """Features and truth of one example (C, ...), or of a padded batch (B, C, ...).

    Attributes
    ----------
    sound : (C, columns, 64) or (C, K, D)
        Log-mel columns; once a frozen encoder has been over them its embeddings.
    levels : (C, T, 3)
    mask : (C, T)
    true_gain_db : (C, T)
    playing, own_share : (C, T)
    roles : (C,)
        -1 where a batch is padded.
    """

    sound: Tensor
    levels: Tensor
    mask: Tensor
    true_gain_db: Tensor
    playing: Tensor
    own_share: Tensor
    roles: Tensor


def hear(example: Example) -> Heard:
    """Send an example through the front end that inference uses."""
    features = FrontEnd(SAMPLE_RATE).process(example.inputs)
    return Heard(
        torch.from_numpy(features.log_mel),
        torch.from_numpy(features.levels),
        torch.from_numpy(features.mask),
        torch.from_numpy(example.true_gain_db),
        torch.from_numpy(example.playing),
        torch.from_numpy(example.own_share),
        torch.from_numpy(example.roles),
    )


def patches(columns: Tensor, clock: ModelClock) -> Tensor:
    """Cut a stream's log-mel columns (..., columns, 64) into F1 frames (..., K, 96, 64).

    Frame k ends with F2 frame ``k * stride``; before the stream there is silence.
    """
    padded = nn.functional.pad(columns, (0, 0, PATCH_COLUMNS, 0), value=SILENT_COLUMN)
    every = padded[..., COLUMNS_PER_FRAME:, :].unfold(-2, PATCH_COLUMNS, COLUMNS_PER_FRAME * clock.stride_frames)
    return every.transpose(-1, -2)


def stack(heard: Sequence[Heard]) -> Heard:
    """Batch examples, padded with absent channels and to the longest song."""
    channels = max(len(one.roles) for one in heard)
    batched = []
    for name, rows in zip(Heard._fields, zip(*heard, strict=True), strict=True):
        longest = [max(row.shape[d] for row in rows) for d in range(1, rows[0].dim())]
        whole = rows[0].new_full((len(rows), channels, *longest), -1 if name == "roles" else 0)
        for b, row in enumerate(rows):
            whole[(b, *(slice(size) for size in row.shape))] = row
        batched.append(whole)
    return Heard(*batched)


def louder(heard: Heard, offset_db: Tensor) -> Heard:
    """Give the batch other gain staging, (B, C) in dB: levels and true gains change, the sound stays."""
    shift = offset_db.unsqueeze(-1)
    rms, power, lufs = heard.levels.unbind(-1)
    levels = torch.stack([rms * 10 ** (shift / 20), power * 10 ** (shift / 10), (lufs + shift).clamp(min=-70.0)], -1)
    return heard._replace(levels=levels, true_gain_db=heard.true_gain_db - shift)
