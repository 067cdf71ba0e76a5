"""The page of a soundcheck: what a player sees, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alm_plugin.web.messages import App, Command, Owner

if TYPE_CHECKING:
    from solar.tracker import Recommendation

LEAST_S, MOST_S = 2.0, 8.0
"""How long a recommendation stands: at least, so that it can be read; at most, if nobody follows it."""

PAUSE_S = 5.0
"""Black between two of them."""

MOVED_DB, MOVED_PART = 1.5, 0.4
"""A gain has moved when the error is smaller by so many dB, and by so much of what was asked for."""


class Screen:
    """What one player sees: nothing, unless there is something to do.

    It never changes while it is shown: a number that runs is none that one can turn to.

    Examples
    --------
    >>> from solar.tracker import Recommendation
    >>> screen = Screen()
    >>> down = Recommendation("guitar", "down", change_db=-6.0, confidence=0.9, low_db=-8.0, high_db=-4.0)
    >>> screen.step(0.0, down, error_db=6.0).state
    'down'
    >>> screen.step(1.0, None, error_db=0.0).state  # too early
    'down'
    >>> screen.step(2.0, None, error_db=0.0) is None, screen.step(3.0, down, error_db=6.0) is None
    (True, True)
    >>> again = Recommendation("guitar", "down", change_db=-4.0, confidence=0.9, low_db=-6.0, high_db=-2.0)
    >>> screen.step(7.0, again, error_db=4.0).change_db
    -4.0
    """

    def __init__(self) -> None:
        self.shown: Recommendation | None = None
        self._last: Recommendation | None = None
        self._since_s = self._ready_s = -float("inf")
        self._error_db: float | None = None
        self._told = False

    def step(
        self, time_s: float, wanted: Recommendation | None, error_db: float | None = None
    ) -> Recommendation | None:
        """Return what is shown.

        Parameters
        ----------
        time_s : float
            Now, of any clock that never goes back.
        wanted : Recommendation or None
            What is to be done; each is shown once.
        error_db : float, optional
            The tracker's estimate: how much too loud the player is.
        """
        if self.shown is not None:
            stood_s = time_s - self._since_s
            over = wanted is not self.shown or self._moved(error_db)
            if self._told or stood_s >= MOST_S or (over and stood_s >= LEAST_S):
                self._ready_s, self.shown = time_s + PAUSE_S, None
        elif wanted is not None and wanted is not self._last and time_s >= self._ready_s:
            self.shown = self._last = wanted
            self._since_s, self._error_db = time_s, error_db
        self._told = False
        return self.shown

    def _moved(self, error_db: float | None) -> bool:
        if self.shown is None or self._error_db is None or error_db is None:
            return False
        fallen_db = (self._error_db - error_db) * (1.0 if self.shown.state == "down" else -1.0)
        return fallen_db >= max(MOVED_DB, MOVED_PART * abs(self.shown.change_db))

    def done(self) -> None:
        """Take the player's word that the gain was turned."""
        self._told = self.shown is not None


def page(owner: Owner) -> App:
    """Build the page of whoever listens.

    Parameters
    ----------
    owner : Owner
        ``describe()`` holds ``title``, ``strips`` (a list of ``name``: the players) and ``inputs`` (a list of ``name``,
        ``ports``). ``state()`` holds ``started``, ``shown`` (per player ``state``, ``change_db``; or None), ``order``
        (players, most urgent first), ``level_db``, ``verdict`` ("good", "quiet", "clipped", "silent" or "broken"),
        ``note`` (what is to be done about the input, or ""), and ``input`` and ``port``, those in use.
    """
    return App(
        "solar.html",
        owner,
        {
            "start": Command(),
            "done": Command(strip=True),
            "input": Command(range=(0, 1023)),
            "port": Command(range=(1, 1024)),
        },
    )
