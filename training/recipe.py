"""Everything that decides what a training run gives, in one frozen place."""

from __future__ import annotations

from dataclasses import dataclass, field

from .examples import Conditions


@dataclass(frozen=True)
class Encode:
    """First stage: the encoder learns what plays and how much of it is the channel's own.

    Attributes
    ----------
    steps, batch : int
        Batches, and clips in each.
    seconds : float
        Length of a clip.
    rate : float
        Peak learning rate.
    """

    steps: int = 3200
    batch: int = 8
    seconds: float = 3.0
    rate: float = 1e-3


@dataclass(frozen=True)
class Gains:
    """Second stage: the network learns the true gains, on top of the frozen encoder.

    Attributes
    ----------
    steps, batch, new : int
        Batches, examples in each, and how many of these are new; the others come again with other gain staging.
    frames : int
        Length of a snippet; an example's next snippet goes on from the state in which the last one ended.
    rate, vocals, smoothness, memory : float
        Peak learning rate; weights of `training.losses.GainLoss`'s parts.
    staging_db : float
        How wrong that is, either way.
    carried : float
        Share of examples that begin in a state in which another one ended: a band's hundredth song.
    """

    steps: int = 600
    batch: int = 8
    new: int = 2
    frames: int = 402
    rate: float = 1e-3
    vocals: float = 0.3
    smoothness: float = 0.2
    memory: float = 2.0
    staging_db: float = 6.0
    carried: float = 0.1


@dataclass(frozen=True)
class Mix:
    """Third stage: the mix itself is compared, anchored by the gains.

    Attributes
    ----------
    steps, batch : int
    seconds : float
    rate : float
    anchor : float
        Weight of the second stage's loss, per 10 dB.
    """

    steps: int = 120
    batch: int = 3
    seconds: float = 20.1
    rate: float = 2e-4
    anchor: float = 3.0


@dataclass(frozen=True)
class Recipe:
    """How a shipped model is made.

    Attributes
    ----------
    songs, test_songs : int
        Composed songs to train on and to judge by.
    seconds : float
        Length of a song.
    width, hidden : float, int
        Of the encoder.
    conditions : Conditions
    encode, gains, mix
        The stages.
    """

    name: str
    songs: int = 560
    test_songs: int = 48
    seconds: float = 40.2
    width: float = 0.25
    hidden: int = 256
    conditions: Conditions = field(default_factory=Conditions)
    encode: Encode = field(default_factory=Encode)
    gains: Gains = field(default_factory=Gains)
    mix: Mix = field(default_factory=Mix)


RECIPES = {
    "compact": Recipe("compact"),
    # Minutes on any machine: shows that everything runs, mixes nothing well.
    "smoke": Recipe(
        "smoke",
        songs=4,
        test_songs=2,
        seconds=12.0,
        width=0.0625,
        hidden=32,
        conditions=Conditions(seconds=12.0),
        encode=Encode(steps=4, batch=2),
        gains=Gains(steps=4, batch=2, new=1, frames=120),
        mix=Mix(steps=2, batch=1, seconds=6.0),
    ),
}
