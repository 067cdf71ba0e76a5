"""The paper's soundcheck as a Gymnasium environment (section 7.1): turn a player back to the gain of the reference.

=============  ====================================================================================================
observation    Box(-1, 1, (24, S)): share of each stem in each band, less the share to be expected of who plays
action         Discrete(3): 0 down by 3 dB, 1 stay, 2 up by 3 dB; with `decibels` Box(-20, 20, (1,)): by so many dB
episode        60 s from anywhere in the song, a step each second; at the start off by U(-60, 60) dB, never beyond 75
reward         ``paper-intent``  minus the sum of the observation's magnitudes, in [-48, 0], those that play being
                                 those that play in the song, however loud
               ``paper``         as printed: those that play being those that are loud enough now. It can be hacked:
                                 who turns himself down to silence is not expected to be heard, and is rewarded as well
                                 as who plays at the right gain
               ``gain``          minus the gain error over 20 dB, in [-3.75, 0]
info           ``delta_db``: the gain error; ``second``: of the song
=============  ====================================================================================================

The error is not part of the observation, and an episode never ends early. What is heard is looked up for the error
rounded to whole dB; with ``exact=True`` the sound itself passes `pedalboard.Gain`, which gives the same at whole dB.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pedalboard import Gain

from alm_plugin.errors import ParameterError
from solar.bands import N_BANDS
from solar.mix_map import Mapper, Second
from solar.performance import MOST_GAIN_DB, Performance
from solar.playing import is_playing
from solar.policy import Predictor
from solar.predictor import Table
from solar.songs import compose

SAMPLE_RATE = 44_100
REWARDS = ("paper-intent", "paper", "gain")
STARTS_DB, MOST_CHANGE_DB = 60.0, 20.0
WORST_DB = 20.0
"""Error whose reward is -1, where the gain is rewarded."""


@cache
def song_a() -> tuple[Performance, Table]:
    """Song "a" with its guitar at any gain, and what it teaches to expect."""
    take = Performance(compose("a", sample_rate=SAMPLE_RATE), SAMPLE_RATE, "guitar")
    song = take.map()
    return take, Table().fit(song, is_playing(song.loudest_rms))


class Stage:
    """Observations and rewards of a performance for any second and gain error, each counted once.

    Parameters
    ----------
    performance : Performance
    predictor : Predictor
    reward : {"paper-intent", "paper", "gain"}
    seconds : int
        Of an episode; the performance lasts at least one more.
    """

    def __init__(self, performance: Performance, predictor: Predictor, reward: str, seconds: int) -> None:
        if reward not in REWARDS:
            raise ParameterError(f"reward must be one of {', '.join(REWARDS)}, got {reward!r}")
        if not 1 <= seconds < len(performance):
            raise ParameterError(f"seconds must be in [1, {len(performance) - 1}] for this performance, got {seconds}")
        self.performance, self.predictor, self.reward, self.seconds = performance, predictor, reward, seconds
        shape = len(performance), 2 * MOST_GAIN_DB + 1
        self.observations = np.empty((*shape, N_BANDS, len(performance.names)), np.float32)
        self.rewards = np.full(shape, np.nan)

    def judge(self, second: int, heard: Second) -> tuple[NDArray[np.float32], float]:
        """Observation, and the paper's reward."""
        expected = self.predictor.predict(is_playing(heard.loudest_rms))
        surplus = heard.dominance - expected
        judged = surplus
        if self.reward == "paper-intent":
            expected = self.predictor.predict(is_playing(self.performance.loudest_rms(second, 0.0)))
            judged = heard.dominance - expected
        return surplus.astype(np.float32), -float(np.abs(judged).sum())

    def look_up(self, second: int, delta_db: float) -> tuple[int, int]:
        """Where in `observations` and `rewards` a second is found."""
        step = round(delta_db)
        at = second, step + MOST_GAIN_DB
        if np.isnan(self.rewards[at]):
            self.observations[at], self.rewards[at] = self.judge(second, self.performance.at(second, step))
        return at

    def fill(self) -> None:
        """Look everything up, so that no step has to."""
        self.performance.fill()
        for second in range(len(self.performance)):
            for delta_db in range(-MOST_GAIN_DB, MOST_GAIN_DB + 1):
                self.look_up(second, delta_db)

    def spaces(self, decibels: bool) -> tuple[spaces.Box, spaces.Space]:
        """Of observations and actions."""
        change = spaces.Box(-MOST_CHANGE_DB, MOST_CHANGE_DB, (1,), np.float32)
        return spaces.Box(-1.0, 1.0, self.observations.shape[2:], np.float32), change if decibels else spaces.Discrete(
            3
        )


class SoundcheckEnv(Env):
    """One player's soundcheck; the module says what is observed, done and rewarded.

    Parameters
    ----------
    performance : Performance, optional
        By default of song "a", its guitar.
    predictor : Predictor, optional
        With `performance`; by default a `Table` of song "a".
    reward : {"paper-intent", "paper", "gain"}
    decibels : bool
        Actions are changes in dB.
    step_db : float
        Of an action that is not.
    seconds : int
        Of an episode.
    exact : bool
        Compute every step from the sound.
    render_mode : {"ansi"}, optional
        A line of text.

    Examples
    --------
    >>> import gymnasium
    >>> env = gymnasium.make("solar:Soundcheck-v0", reward="gain")
    >>> observation, info = env.reset(seed=1, options={"delta_db": 9.0})
    >>> observation, reward, terminated, truncated, info = env.step(0)
    >>> observation.shape, reward, info["delta_db"]
    ((24, 4), -0.3, 6.0)
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - as Env has it

    def __init__(
        self,
        performance: Performance | None = None,
        predictor: Predictor | None = None,
        *,
        reward: str = "paper-intent",
        decibels: bool = False,
        step_db: float = 3.0,
        seconds: int = 60,
        exact: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.stage = _stage(performance, predictor, reward, seconds)
        self.observation_space, self.action_space = self.stage.spaces(decibels)
        self.decibels, self.step_db, self.exact, self.render_mode = decibels, _checked_step(step_db), exact, render_mode
        self._second = self._end = 0
        self._delta_db = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray, dict[str, Any]]:
        """Begin somewhere at some gain, or where the options ``start`` (second) and ``delta_db`` say."""
        super().reset(seed=seed)
        options = options or {}
        last = len(self.stage.performance) - self.stage.seconds - 1
        start, delta_db = int(self.np_random.integers(last + 1)), float(self.np_random.uniform(-STARTS_DB, STARTS_DB))
        self._second, self._delta_db = options.get("start", start), float(options.get("delta_db", delta_db))
        if not 0 <= self._second <= last or not abs(self._delta_db) <= MOST_GAIN_DB:
            raise ParameterError(
                f"options must have start in [0, {last}] and delta_db within +-{MOST_GAIN_DB}, got {options}"
            )
        self._end = self._second + self.stage.seconds
        observation, _ = self._hear()
        return observation, self._info()

    def step(self, action: Any) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        """Turn the player, and hear the next second."""
        change_db = float(np.ravel(action)[0]) if self.decibels else (int(action) - 1) * self.step_db
        self._delta_db = float(np.clip(self._delta_db + change_db, -MOST_GAIN_DB, MOST_GAIN_DB))
        self._second += 1
        observation, reward = self._hear()
        return observation, reward, False, self._second >= self._end, self._info()

    def _hear(self) -> tuple[NDArray[np.float32], float]:
        stage = self.stage
        if self.exact:
            base, own = stage.performance.heard(self._second)
            turned = Gain(self._delta_db).process(own, stage.performance.sample_rate)
            (heard,) = Mapper(stage.performance.names, stage.performance.sample_rate).process(base + turned)
            observation, reward = stage.judge(self._second, heard)
        else:
            at = stage.look_up(self._second, self._delta_db)
            observation, reward = stage.observations[at].copy(), float(stage.rewards[at])
        return observation, -abs(self._delta_db) / WORST_DB if stage.reward == "gain" else reward

    def _info(self) -> dict[str, Any]:
        return {"delta_db": self._delta_db, "second": self._second}

    def render(self) -> str | None:
        """Say where it stands."""
        if self.render_mode != "ansi":
            return None
        name = self.stage.performance.names[self.stage.performance.player]
        return f"{self._end - self._second:2d} s left, {name} {self._delta_db:+.1f} dB"


class SoundcheckVectorEnv(VectorEnv):
    """Many soundchecks at once, out of one table: far faster than as many environments.

    Parameters
    ----------
    num_envs : int
    performance, predictor, reward, decibels, step_db, seconds
        As for `SoundcheckEnv`.

    Examples
    --------
    >>> import gymnasium
    >>> envs = gymnasium.make_vec("solar:Soundcheck-v0", num_envs=3, vectorization_mode="vector_entry_point")
    >>> observations, infos = envs.reset(seed=1)
    >>> observations.shape
    (3, 24, 4)
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        performance: Performance | None = None,
        predictor: Predictor | None = None,
        *,
        reward: str = "paper-intent",
        decibels: bool = False,
        step_db: float = 3.0,
        seconds: int = 60,
    ) -> None:
        self.num_envs, self.decibels, self.step_db = num_envs, decibels, _checked_step(step_db)
        self.stage = _stage(performance, predictor, reward, seconds)
        self.single_observation_space, self.single_action_space = self.stage.spaces(decibels)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seconds, self._ends = np.zeros((2, num_envs), np.int64)
        self._deltas_db = np.zeros(num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict[str, Any]]:
        """Begin all somewhere, at some gain."""
        super().reset(seed=seed)
        self._begin(np.ones(self.num_envs, np.bool_))
        return self._look_up()[0], self._infos()

    def _begin(self, which: NDArray[np.bool_]) -> None:
        count = int(which.sum())
        last = len(self.stage.performance) - self.stage.seconds - 1
        self._seconds[which] = self.np_random.integers(last + 1, size=count)
        self._deltas_db[which] = self.np_random.uniform(-STARTS_DB, STARTS_DB, count)
        self._ends[which] = self._seconds[which] + self.stage.seconds

    def step(self, actions: Any) -> tuple[NDArray, NDArray, NDArray, NDArray, dict[str, Any]]:
        """Turn all players; those whose time was over begin anew instead."""
        over = self._seconds >= self._ends
        changes_db = np.reshape(actions, -1) if self.decibels else (np.asarray(actions) - 1) * self.step_db
        self._deltas_db = np.clip(self._deltas_db + changes_db, -MOST_GAIN_DB, MOST_GAIN_DB)
        self._seconds += 1
        self._begin(over)
        observations, rewards = self._look_up()
        rewards[over] = 0.0
        return observations, rewards, np.zeros(self.num_envs, np.bool_), self._seconds >= self._ends, self._infos()

    def _look_up(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        stage = self.stage
        at = self._seconds, np.rint(self._deltas_db).astype(np.int64) + MOST_GAIN_DB
        for k in np.flatnonzero(np.isnan(stage.rewards[at])):
            stage.look_up(int(self._seconds[k]), self._deltas_db[k])
        rewards = -np.abs(self._deltas_db) / WORST_DB if stage.reward == "gain" else stage.rewards[at]
        return stage.observations[at], rewards

    def _infos(self) -> dict[str, Any]:
        return {"delta_db": self._deltas_db.copy(), "second": self._seconds.copy()}


def _stage(performance: Performance | None, predictor: Predictor | None, reward: str, seconds: int) -> Stage:
    if performance is None or predictor is None:
        if performance is not None or predictor is not None:
            raise ParameterError("performance and predictor must be given together, got one of them")
        performance, predictor = song_a()
    return Stage(performance, predictor, reward, seconds)


def _checked_step(step_db: float) -> float:
    if not 0.0 < step_db <= MOST_CHANGE_DB:
        raise ParameterError(f"step_db must be in (0, {MOST_CHANGE_DB:g}], got {step_db}")
    return step_db
