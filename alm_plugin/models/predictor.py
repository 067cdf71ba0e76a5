"""Drive a model along its clock: patches, embedding lag, masks and state, for offline and live alike."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alm_plugin.features.log_mel import LOG_OFFSET
from alm_plugin.models.contract import MEL_BANDS, PATCH_COLUMNS, Array, Model, State
from alm_plugin.models.roles import role_codes

logger = logging.getLogger("alm_plugin")

# A patch that lies before the start of the stream is silence.
_SILENT_COLUMN = np.float32(np.log(LOG_OFFSET))


@dataclass
class _Embedding:
    """Embeddings on their way."""

    due: int  # frame from which they are used
    channels: NDArray[np.intp]  # of its rows, -1 for one that has gone
    rows: Future[Array]  # (C, D)


class _AtOnce(Executor):
    """Does everything when it is asked to."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Predictor:
    """A model with its memory: frame by frame features in, the next frame's gains out.

    Only active channels are shown to the model: one that is absent or silent changes nothing for the others, to the
    bit, and its rows of state and its embedding stay as they were. A model that raises, or returns anything but finite
    gains, is answered by holding the last gains; `faults` counts that.

    Parameters
    ----------
    model : Model
    roles : sequence of str or None
        One per channel; for models whose state has a ``role`` row.
    executor : Executor, optional
        Where embeddings are computed while frames go on; by default at once, here. The result is the same.
    """

    def __init__(self, model: Model, roles: Sequence[str | None], executor: Executor | None = None) -> None:
        self.model = model
        self._executor = executor or _AtOnce()
        self.clock = model.metadata.clock
        self.roles = list(roles)
        self.reset()

    def reset(self) -> None:
        """Go back to the start of a stream."""
        channels = len(self.roles)
        size = self.model.metadata.embedding_size
        self.frame = 0
        self.faults = 0
        self._state = self._fresh_state(self.roles)
        self.gain_db = _first_gains_db(self._state, channels)
        self._embedding = np.zeros((channels, size), np.float32)
        # The newest 96 columns end at `_heard`; they move to the front when the buffer is full.
        self._columns = np.full((channels, 4 * PATCH_COLUMNS, MEL_BANDS), _SILENT_COLUMN, np.float32)
        self._heard = PATCH_COLUMNS
        self._pending: deque[_Embedding] = deque()

    def _fresh_state(self, roles: Sequence[str | None]) -> State:
        state = self.model.initial_state(len(roles))
        if "role" in state:
            state["role"] = role_codes(roles)
        return state

    def add_channel(self, role: str | None) -> None:
        """Add a channel behind the others, with the gain and the state of a stream's start."""
        self.roles.append(role)
        fresh = self._fresh_state([role])
        self._state = {name: np.concatenate([rows, fresh[name]]) for name, rows in self._state.items()}
        self.gain_db = np.append(self.gain_db, _first_gains_db(fresh, 1))
        self._embedding = np.pad(self._embedding, ((0, 1), (0, 0)))
        self._columns = np.pad(self._columns, ((0, 1), (0, 0), (0, 0)), constant_values=_SILENT_COLUMN)

    def remove_channel(self, index: int) -> None:
        """Forget a channel; those behind it move up."""
        del self.roles[index]
        self._state = {name: np.delete(rows, index, axis=0) for name, rows in self._state.items()}
        self.gain_db = np.delete(self.gain_db, index)
        self._embedding = np.delete(self._embedding, index, axis=0)
        self._columns = np.delete(self._columns, index, axis=0)
        for one in self._pending:
            one.channels = np.where(one.channels == index, -1, one.channels - (one.channels > index))

    def set_role(self, index: int, role: str | None) -> None:
        """Change what a channel plays."""
        self.roles[index] = role
        if "role" in self._state:
            self._state["role"][index] = role_codes([role])[0]

    def step(self, columns: Array, levels: Array, mask: Array) -> Array:
        """Hear one frame that has ended and predict the gains of the next.

        Parameters
        ----------
        columns : (channels, columns, 64)
            The frame's log-mel columns.
        levels : (channels, 3)
        mask : (channels,)

        Returns
        -------
        (channels,) float32
            Gains in dB; a channel that is not active keeps its last.
        """
        active = mask > 0.0
        if self._embedding.shape[1]:
            self._listen(columns, mask, active)
        if active.any():
            self._decide(levels, mask, active)
        self.frame += 1
        return self.gain_db.copy()

    def _listen(self, columns: Array, mask: Array, active: NDArray[np.bool_]) -> None:
        new = columns.shape[1]
        if self._heard + new > self._columns.shape[1]:
            self._columns[:, :PATCH_COLUMNS] = self._columns[:, self._heard - PATCH_COLUMNS : self._heard]
            self._heard = PATCH_COLUMNS
        self._columns[:, self._heard : self._heard + new] = columns
        self._heard += new
        if self.frame % self.clock.stride_frames == 0 and active.any():
            patches = self._columns[active, self._heard - PATCH_COLUMNS : self._heard]
            rows = self._executor.submit(self.model.embed, patches, mask[active])
            self._pending.append(_Embedding(self.frame + self.clock.embedding_lag, np.flatnonzero(active), rows))
        while self._pending and self._pending[0].due <= self.frame:
            one = self._pending.popleft()
            try:
                rows = one.rows.result()
                if not np.isfinite(rows).all():
                    raise ValueError("embedding is not finite")
            except Exception as error:
                self._fault(error)
            else:
                there = one.channels >= 0
                self._embedding[one.channels[there]] = rows[there]

    def memory(self) -> NDArray[np.float64]:
        """State of the model, (channels, numbers); embeddings are not part of it."""
        rows = [np.reshape(self._state[name], (len(self.roles), -1)) for name in sorted(self._state)]
        return np.concatenate([np.zeros((len(self.roles), 0)), *rows], axis=1, dtype=np.float64)

    def recall(self, memory: NDArray[np.float64]) -> None:
        """Go on with a state that `memory` returned for as many channels."""
        start = 0
        for name in sorted(self._state):
            rows = self._state[name]
            stop = start + rows[0].size
            self._state[name] = memory[:, start:stop].reshape(rows.shape).astype(rows.dtype)
            start = stop
        self.gain_db[:] = self._state.get("gain_db", self.gain_db)

    def _decide(self, levels: Array, mask: Array, active: NDArray[np.bool_]) -> None:
        state = {name: rows[active] for name, rows in self._state.items()}
        try:
            gain_db, following = self.model.step(self._embedding[active], levels[active], mask[active], state)
            gain_db = np.asarray(gain_db, np.float32)
            if gain_db.shape != (active.sum(),):
                raise ValueError(f"expected gains of shape ({active.sum()},), got {gain_db.shape}")
            for name, rows in state.items():
                if np.shape(following[name]) != rows.shape:
                    raise ValueError(f"expected state {name} of shape {rows.shape}, got {np.shape(following[name])}")
        except Exception as error:
            self._fault(error)
            return
        if np.isfinite(gain_db).all():
            self.gain_db[active] = gain_db
        else:
            # What made a gain infinite is in the state and would stay there: start it afresh.
            self._fault(ValueError(f"expected finite gains in dB, got {gain_db}"))
            following = {name: rows[active] for name, rows in self._fresh_state(self.roles).items()}
            if "gain_db" in following:
                following["gain_db"] = self.gain_db[active].astype(following["gain_db"].dtype)
        for name in state:
            self._state[name][active] = following[name]

    def _fault(self, error: Exception) -> None:
        self.faults += 1
        if self.faults == 1:
            logger.warning("model %s failed, gains hold: %s", self.model.metadata.name, error)


def _first_gains_db(state: State, channels: int) -> Array:
    """Gains in dB (channels,) that a model begins with: 0 dB where its state does not say."""
    return np.array(state.get("gain_db", np.zeros(channels)), np.float32)
