"""The analysis plugin: hears a band, changes nothing, and says what its players should turn."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.front_end import as_block
from alm_plugin.ipc import Ring
from alm_plugin.nodes.node import in_range
from alm_plugin.stream import Block
from solar.mix_map import MixMap, Second
from solar.reference import ROOM, Audio, Ear, Reference, Separator
from solar.tracker import OBEYED_S, SILENT_DB, Calibration, GainTracker, Recommendation

if TYPE_CHECKING:
    from alm_plugin.mixer import Mixer

logger = logging.getLogger("alm_plugin")

RING_S = 20.0
"""Of sound that may wait to be taken apart."""

AHEAD_S = 10.0
"""Sound that comes by so much faster than it lasts is not live: there is time to wait until it has been heard."""

READ_S, POLL_S = 0.1, 0.02
LARGEST_BLOCK = 8192
"""Of live sound, in samples."""

GAINS_DB = (-40.0, -20.0, -10.0, 0.0, 10.0, 20.0, 40.0)
"""At which the reference is heard to know how the player's gain shows."""


def calibrate(reference: Reference, player: str) -> Calibration:
    """Return what a tracker of `player` goes by: the reference as it would be heard with the player at other gains."""
    maps = {gain_db: reference.regained(gain_db, player) for gain_db in GAINS_DB}
    return Calibration(maps, reference.players[player])


def urgency(said: Recommendation) -> float:
    """Return how urgent a recommendation is, to sort by: its dB, or less than any for who was never heard.

    >>> urgency(Recommendation("guitar", "down", change_db=-6.0, confidence=0.9, low_db=-8.0, high_db=-4.0))
    6.0
    """
    return 0.0 if said.state == "cant-hear" else abs(said.change_db)


class Listening:
    """A thread that hears what others write, without ever holding them up.

    Parameters
    ----------
    rows, sample_rate : int
    hear : callable
        Called as ``hear(sound)`` with (rows, samples) float32, in order.
    fresh_s : float
        Sound that waits for longer than this is left out: what is heard is what is played now.
    skipped : callable, optional
        Called where sound is left out.
    """

    def __init__(
        self,
        rows: int,
        sample_rate: int,
        hear: Callable[[Audio], object],
        fresh_s: float = RING_S,
        skipped: Callable[[], object] | None = None,
    ) -> None:
        self._ring = Ring(rows, round(RING_S * sample_rate))
        self._sound = np.empty((rows, round(READ_S * sample_rate)), np.float32)
        self._hear, self._skipped, self._fresh = hear, skipped, round(fresh_s * sample_rate)
        self._next = self._done = self.lost = self.faults = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="solar", daemon=True)
        self._thread.start()

    def write(self, sound: Audio) -> None:
        """Add (rows, samples): a copy into memory that is there, and nothing else."""
        self._ring.write(sound)

    def wait(self) -> None:
        """Return when all has been heard but the last part of 100 ms."""
        while self._thread.is_alive() and self._ring.written - self._done >= self._sound.shape[1]:
            self._stopping.wait(POLL_S)

    def stop(self) -> None:
        """Have the thread end, after what it is at."""
        self._stopping.set()

    def _run(self) -> None:
        ring = self._ring
        while not self._stopping.is_set():
            if ring.written - ring.position > self._fresh:
                ring.position = ring.written
            start = ring.read(self._sound)
            if start is not None:
                self._take(start)
                self._next = ring.position
            self._done = ring.position
            if start is None:
                self._stopping.wait(POLL_S)

    def _take(self, start: int) -> None:
        try:
            if start != self._next:
                self.lost += start - self._next
                if self._skipped is not None:
                    self._skipped()
            self._hear(self._sound)
        except Exception as error:  # whatever a separator does, the next sound may be better
            self.faults += 1
            if self.faults == 1:
                logger.warning("the sound could not be taken apart: %s: %s", type(error).__name__, error)


class Solar:
    """Hear a band and say what its players should turn, so that it sounds like a reference.

    It is a plugin that returns what it is given. Or an observer of a mixer, which it never holds up live: `attach` it.

    Parameters
    ----------
    reference : Reference, Path, or mapping of str to (samples,) or (1 or 2, samples)
        The mix that is wanted. Anything but a `Reference` goes to that, with `player`, `separator` and `sample_rate`.
    player : str or sequence of str, optional
        Whom to tell: names of stems; "guitar" by default, or a `Reference`'s own.
    separator : Separator, optional
        What takes the sound apart; by default nothing has to, as stems come in channels of their own.
    sample_rate : int, optional
        In Hz, of a mapping.
    full_scale : float, optional
        Of the converters that it hears: what reaches that is clipped, and not judged by. By default none.

    Attributes
    ----------
    reference : Reference
    inputs : tuple of str
        What `process` is to be given: names of stems, or ``"room"`` for all together.
    trackers : dict of str to GainTracker
        By player.
    said : list of (int, Recommendation)
        All that was recommended so far, and in which second: no more than a player can follow.

    Raises
    ------
    ParameterError, AudioFileError, ModelError
        As `Reference`.

    Examples
    --------
    >>> from solar.songs import compose
    >>> stems = compose("a", 30.0)
    >>> solar = Solar(stems, "guitar", sample_rate=44_100)
    >>> loud = stems | {"guitar": 4.0 * stems["guitar"]}
    >>> solar.process(loud, 44_100)["guitar"] is loud["guitar"]
    True
    >>> solar.recommendation.state, len(solar.frames)
    ('down', 30)
    """

    is_effect = True
    is_instrument = False
    reported_latency_samples = 0

    def __init__(
        self,
        reference: Reference | str | Path | Mapping[str, NDArray[np.floating]],
        player: str | Sequence[str] | None = None,
        separator: Separator | None = None,
        sample_rate: int | None = None,
        *,
        full_scale: float | None = None,
    ) -> None:
        self.full_scale = full_scale
        if not isinstance(reference, Reference):
            reference = Reference(reference, player or "guitar", separator, sample_rate)
        elif player is not None or separator is not None:
            raise ParameterError("player and separator must come with the Reference itself, got them beside it")
        self.reference = reference
        self.inputs: tuple[str, ...] = Ear(reference.separator, reference.sample_rate).inputs
        self._calibrations = {player: calibrate(reference, player) for player in reference.players}
        self._lock = threading.RLock()
        self._ear: Ear | None = None
        self._listening: Listening | None = None
        self._mixer: Mixer | None = None
        self._channels: dict[str, str] = {}
        self._home_db: dict[str, float] = {}
        self._trim_db: dict[str, float] = {}
        self._drive_db = 0.0
        self.reset()

    # ---- as a plugin -----------------------------------------------------------------------------------------------

    def process(
        self,
        stems: Mapping[str, NDArray[np.floating]] | Sequence[NDArray[np.floating]] | NDArray[np.floating],
        sample_rate: int,
        buffer_size: int = 8192,
        reset: bool = True,
    ) -> Any:
        """Hear `stems`, and return them as they are.

        Parameters
        ----------
        stems : mapping by name, or sequence or (inputs, samples) in the order of `inputs`
            (samples,) or (1 or 2, samples) each. Where there is one input, an array is that.
        sample_rate : int
            32000 to 192000 Hz.
        buffer_size : int
            As plugins have it; without effect.
        reset : bool
            True for a whole recording, which is heard here and now. False for the next block of a stream: where there
            is something to take apart, a thread does that, and results come later (`wait`).

        Returns
        -------
        object
            `stems` itself.

        Raises
        ------
        AudioTypeError, ParameterError
            For anything but audio of one length, for all inputs.
        """
        rows = self._rows(stems)
        if reset:
            self.reset()
        if reset or self._prepared(sample_rate).window_s is None:
            self.hear(rows, sample_rate)
        else:
            self._hand_over([as_block(row, name) for name, row in zip(self.inputs, rows, strict=True)])
        return stems

    __call__ = process

    def hear(self, rows: Sequence[NDArray[np.floating]] | NDArray[np.floating], sample_rate: int) -> None:
        """Hear the next block of a stream here and now, however long it takes: an array for each of `inputs`."""
        self._hear(self._prepared(sample_rate), rows)

    def _hear(self, ear: Ear, rows: Sequence[NDArray[np.floating]] | NDArray[np.floating]) -> None:
        seconds = ear.process(rows)
        with self._lock:
            if ear is self._ear:  # else they are of a stream that is over
                self._observe(seconds)

    def forget(self) -> None:
        """Take what comes next for something that does not follow what was heard last."""
        if self._ear is not None:
            self._ear.forget()

    def reset(self) -> None:
        """Begin anew: nothing was heard so far."""
        if self._listening is not None:
            self._listening.stop()
        with self._lock:
            self._ear = self._listening = None
            self._seconds: list[Second] = []
            self.trackers = {player: GainTracker(known) for player, known in self._calibrations.items()}
            self.said: list[tuple[int, Recommendation]] = []
            self._asked: dict[str, tuple[int, Recommendation]] = {}

    def wait(self) -> None:
        """Return when all that was handed to the thread has been heard."""
        if self._listening is not None:
            self._listening.wait()

    def _rows(self, stems: Any) -> list[NDArray[np.floating]]:
        if isinstance(stems, Mapping):
            if missing := [name for name in self.inputs if name not in stems]:
                raise ParameterError(f"stems must hold {', '.join(self.inputs)}, got none for {missing[0]}")
            return [stems[name] for name in self.inputs]
        if len(self.inputs) == 1 and isinstance(stems, np.ndarray):
            return [stems]
        if len(stems) != len(self.inputs):
            raise ParameterError(f"stems must be {len(self.inputs)} ({', '.join(self.inputs)}), got {len(stems)}")
        return list(stems)

    def _prepared(self, sample_rate: int) -> Ear:
        if self._ear is None:
            self._ear = Ear(self.reference.separator, sample_rate, self.full_scale)
        elif self._ear.sample_rate != sample_rate:
            raise ParameterError(f"sample_rate must stay {self._ear.sample_rate} Hz until a reset, got {sample_rate}")
        return self._ear

    # ---- as an observer --------------------------------------------------------------------------------------------

    def attach(self, mixer: Mixer, drive_db: float = 0.0) -> None:
        """Observe a mixer: its channels by name, behind their gains, and the mix as the room.

        Parameters
        ----------
        mixer : Mixer
        drive_db : float
            0 to 24 dB: how far to turn the players' trims by itself, from where a human has them. By default it only
            says what it would do. Who turns a trim is not argued with: that is where it goes on from.

        Raises
        ------
        ParameterError
            If the mixer lacks a channel, or a player to drive.
        """
        if strangers := [name for name in self.inputs if name != ROOM and name not in mixer]:
            raise ParameterError(f"channels must hold {', '.join(self.inputs)}, got a mixer without {strangers[0]}")
        self._drive_db = in_range("drive_db", drive_db, 0.0, 24.0)
        stems = self.reference.players.items()
        channels = {player: player if player in mixer else stem for player, stem in stems}
        self._channels = {player: name for player, name in channels.items() if name in mixer}
        if drive_db and (lost := channels.keys() - self._channels.keys()):
            raise ParameterError(f"player must be a channel of the mixer to be driven, got {min(lost)!r}")
        self._home_db = {player: mixer[name].trim_db for player, name in self._channels.items()}
        self._trim_db = dict(self._home_db)
        self.detach()
        self.reset()
        self._mixer = mixer
        mixer.observers.append(self.observe)

    def detach(self) -> None:
        """Observe no more."""
        if self._mixer is not None:
            self._mixer.observers.remove(self.observe)
            self._mixer = None

    def observe(self, block: Block) -> None:
        """Copy what a mixer shows, for a thread to hear."""
        if block.position == 0:
            self.reset()
        self._prepared(block.sample_rate)
        silence = np.broadcast_to(np.float32(0.0), (1, block.mix.shape[1]))
        self._hand_over([block.mix if name == ROOM else block.outputs.get(name, silence) for name in self.inputs])

    def _hand_over(self, rows: Sequence[Audio]) -> None:
        ear = self._ear
        if ear is None:
            return
        if self._listening is None:
            self._ahead_s, self._handed_s = 0.0, time.monotonic()
            self._both = np.empty((len(rows), 2, LARGEST_BLOCK), np.float32)
            shape = len(rows), 2, -1
            self._listening = Listening(
                2 * len(rows),
                ear.sample_rate,
                lambda sound: self._hear(ear, sound.reshape(shape)),
                skipped=ear.forget,
            )
        samples = rows[0].shape[1]
        for start in range(0, samples, LARGEST_BLOCK):
            part = self._both[..., : min(LARGEST_BLOCK, samples - start)]
            for both, row in zip(part, rows, strict=True):
                both[:] = row[:, start : start + LARGEST_BLOCK]
            self._listening.write(part.reshape(2 * len(rows), -1))
            if samples > LARGEST_BLOCK:  # which no live sound comes in
                self._listening.wait()
        now_s = time.monotonic()
        # A hundredth more than has passed: a converter's clock that is fast must not ever seem to be ahead.
        passed_s = 1.01 * (now_s - self._handed_s)
        self._ahead_s = max(0.0, self._ahead_s - passed_s) + samples / ear.sample_rate
        self._handed_s = now_s
        if self._ahead_s > AHEAD_S:
            self._listening.wait()
            self._ahead_s = 0.0

    # ---- what comes of it ------------------------------------------------------------------------------------------

    def _observe(self, seconds: Sequence[Second]) -> None:
        for second in seconds:
            self._seconds.append(second)
            self._follow()
            for player, tracker in self.trackers.items():
                tracker.observe(second)
                # Seconds of one window come all at once: only the last of them is now.
                if self._ear is not None and len(self._seconds) % self._ear.hop_s == 0:
                    self._speak(player, tracker.recommendation())

    def _speak(self, player: str, said: Recommendation) -> None:
        if said.state == "blank":
            return
        said = replace(said, player=player)
        self.said.append((len(self._seconds), said))
        self._asked[player] = self.said[-1]
        if self._drive_db and said.state != "cant-hear":
            self._turn(player, said.change_db)

    def _follow(self) -> None:
        """Tell the trackers where trims were turned."""
        if self._mixer is None:
            return
        for player, name in self._channels.items():
            turned_db = self._mixer[name].trim_db - self._trim_db[player]
            if turned_db:
                self._trim_db[player] = self._home_db[player] = self._mixer[name].trim_db
                self.moved(player, turned_db)

    def _turn(self, player: str, change_db: float) -> None:
        if self._mixer is None or (strip := self._mixer[self._channels[player]]).lock_db is not None:
            return
        home_db, now_db = self._home_db[player], self._trim_db[player]
        low_db, high_db = max(home_db - self._drive_db, -60.0), min(home_db + self._drive_db, 24.0)
        strip.trim_db = min(max(now_db + change_db, low_db), high_db)
        self._trim_db[player] = strip.trim_db
        if strip.trim_db != now_db:
            self.moved(player, strip.trim_db - now_db)

    def moved(self, player: str, change_db: float) -> None:
        """Take somebody's word that a player's gain was turned by about so much; else that is heard in a while."""
        if player not in self.trackers:
            raise ParameterError(f"player must be one of {', '.join(self.trackers)}, got {player!r}")
        with self._lock:
            self.trackers[player].moved(change_db)
            self._asked.pop(player, None)

    @property
    def frames(self) -> MixMap:
        """Every second that was heard."""
        with self._lock:
            names = self._ear.names if self._ear is not None and self._ear.names else self.reference.names
            return MixMap.of(names, self._seconds)

    @property
    def recommendations(self) -> dict[str, Recommendation]:
        """What players were asked to do and have not done yet, the most urgent first."""
        with self._lock:
            stands = [said for _, said in self._asked.values() if self._stands(said)]
        return {said.player: said for said in sorted(stands, key=urgency, reverse=True)}

    def _stands(self, said: Recommendation) -> bool:
        if said.state == "cant-hear":
            return len(self._seconds) - self._asked[said.player][0] < OBEYED_S
        error_db = self.trackers[said.player].error_db
        return (error_db if said.state == "down" else -error_db) > SILENT_DB

    @property
    def recommendation(self) -> Recommendation | None:
        """The most urgent one; None where nobody should do anything."""
        return next(iter(self.recommendations.values()), None)

    def report(self) -> dict[str, Any]:
        """Say how it stands, in what JSON can hold.

        Returns
        -------
        dict
            ``seconds`` heard; ``broken_s`` (NaN or infinity), ``clipped_s`` and ``late_s`` (for which there was no
            time) were not; for each of ``players`` ``error_db``, how much too loud it probably is, and ``low_db`` and
            ``high_db``, between which that is with a probability of 0.9; and what was ``said``: ``second`` and the
            fields of a `Recommendation`.
        """
        with self._lock:
            ear, listening = self._ear, self._listening
            return {
                "seconds": len(self._seconds),
                "broken_s": 0.0 if ear is None else ear.broken / 10.0,
                "clipped_s": 0.0 if ear is None else ear.clipped / 10.0,
                "late_s": 0.0 if ear is None or listening is None else listening.lost / ear.sample_rate,
                "players": {
                    player: {
                        "error_db": tracker.error_db,
                        "low_db": tracker.quantile(0.05),
                        "high_db": tracker.quantile(0.95),
                    }
                    for player, tracker in self.trackers.items()
                },
                "said": [{"second": second, **asdict(said)} for second, said in self.said],
            }
