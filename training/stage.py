"""A stage: every microphone hears its own source first, and everyone else a little later and weaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyroomacoustics
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from alm_plugin.units import db_to_factor

Audio = NDArray[np.float32]
Response = NDArray[np.float64]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Seat:
    """Where a source stands, what picks it up, and how loud it is on stage.

    Attributes
    ----------
    position : tuple of float
        In metres.
    microphones : tuple of tuple of float
        One for each channel of the source's signal; none for a direct line, which hears no one else.
    stage_db : float
        Level on stage above that in the mix: drums are loud in the room, a voice is not.
    """

    position: Point
    microphones: tuple[Point, ...] = ()
    stage_db: float = 0.0


@dataclass(frozen=True)
class Room:
    """A box, size in metres; reflections up to `order`."""

    size: Point = (9.0, 7.0, 3.5)
    absorption: float = 0.4
    order: int = 3


def impulse_responses(seats: Sequence[Seat], sample_rate: int, room: Room) -> list[list[Response]]:
    """Response of every microphone to every source, ``[microphone][source]``, microphones in the order of the seats.

    A microphone's time starts when its own source arrives, and its gain is such that its own source's path has an
    energy of one: a dry signal is neither delayed nor scaled, bleed keeps its distance in time and level.
    """
    sample_m = pyroomacoustics.constants.get("c") / sample_rate
    lead_in = pyroomacoustics.constants.get("frac_delay_length") // 2
    walls = pyroomacoustics.Material(room.absorption)
    box = pyroomacoustics.ShoeBox(room.size, fs=sample_rate, materials=walls, max_order=room.order)
    for seat in seats:
        box.add_source(seat.position)
    owners, delays = [], []
    for i, seat in enumerate(seats):
        source = np.array(seat.position)
        for point in seat.microphones:
            # A whole number of samples away, so that the own path begins with one sample, not with a sinc.
            way = np.array(point) - source
            delay = max(1, round(float(np.linalg.norm(way)) / sample_m))
            box.add_microphone(source + way / np.linalg.norm(way) * delay * sample_m)
            owners.append(i)
            delays.append(lead_in + delay)
    box.compute_rir()
    responses = []
    for heard, owner, delay in zip(box.rir or [], owners, delays, strict=True):
        level = 1 / np.sqrt(np.sum(np.square(heard[owner][delay:])))
        responses.append([response[delay:] * level for response in heard])
    return responses


def perform(stems: Sequence[Audio], seats: Sequence[Seat], sample_rate: int, room: Room | None = None) -> list[Audio]:
    """Record on stage: dry `stems` (channels, samples) in, what the microphones hear out, in the same shapes."""
    responses = iter(impulse_responses(seats, sample_rate, room or Room()))
    recorded = []
    for i, (stem, seat) in enumerate(zip(stems, seats, strict=True)):
        if not seat.microphones:
            recorded.append(stem)
            continue
        heard = np.zeros(stem.shape)
        for channel, response in zip(range(len(stem)), responses, strict=False):
            for j, (other, there) in enumerate(zip(stems, seats, strict=True)):
                signal = stem[channel] if j == i else other.mean(axis=0)
                factor = db_to_factor(there.stage_db - seat.stage_db)
                heard[channel] += factor * fftconvolve(signal, response[j])[: stem.shape[1]]
        recorded.append(heard.astype(np.float32))
    return recorded
