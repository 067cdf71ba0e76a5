"""The frozen test set: which examples are made of its songs.

Songs, stages and disturbances depend on constants here and in `training.corpus.KINDS` alone. They were fixed before
the first model was trained, and changing them makes every published score incomparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .examples import Conditions, Example, make_example
from .song import load_song

SEED = 90_002
CONDITIONS = Conditions(seconds=40.2, jump=0.0, clip=0.0, talk=0.0)
"""Gains do not jump in mid-song here, so that one true gain per channel is to be found."""


class TestSet(Sequence[Example]):
    """One example of each song, all with bleed or all without; made when asked for.

    Parameters
    ----------
    songs : sequence of Path
        Folders, in the order of their names.
    dry : bool
    """

    __test__ = False  # not a class of tests

    def __init__(self, songs: Sequence[Path], *, dry: bool) -> None:
        self._songs = list(songs)
        self._conditions = replace(CONDITIONS, dry=1.0 if dry else 0.0)
        self._dry = dry

    def __len__(self) -> int:
        return len(self._songs)

    def __getitem__(self, index: int) -> Example:  # pyright: ignore[reportIncompatibleMethodOverride]
        rng = np.random.default_rng(np.random.SeedSequence([SEED, int(self._dry), range(len(self))[index]]))
        return make_example(load_song(self._songs[index]), rng, self._conditions)
