import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import solar
from alm_plugin.errors import ParameterError
from solar.env import REWARDS, SoundcheckEnv, SoundcheckVectorEnv
from solar.performance import MOST_GAIN_DB, Channel, Performance
from solar.playing import is_playing
from solar.predictor import Table
from solar.songs import compose


@pytest.fixture(scope="module")
def learnt():
    take = Performance(compose("a", 75.0, sample_rate=32_000), 32_000, "guitar")
    song = take.map()
    return take, Table().fit(song, is_playing(song.loudest_rms))


def test_it_is_an_environment(learnt):
    check_env(SoundcheckEnv(*learnt), skip_render_check=True)


@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space")  # dB is what one turns by
def test_it_is_one_with_decibels(learnt):
    check_env(SoundcheckEnv(*learnt, decibels=True), skip_render_check=True)


def test_gymnasium_knows_it():
    gymnasium.register_envs(solar)  # importing it is enough
    for name in ("Soundcheck-v0", "SoundcheckDb-v0"):
        spec = gymnasium.spec(name)
        assert spec.max_episode_steps is None  # it ends by itself


def test_an_episode(learnt):
    env = SoundcheckEnv(*learnt, render_mode="ansi")
    observation, info = env.reset(seed=4)
    assert env.observation_space.contains(observation)
    assert abs(info["delta_db"]) <= 60.0
    for step in range(60):
        before = info
        observation, reward, terminated, truncated, info = env.step(step % 3)
        assert observation.shape == (24, 4)
        assert -48.0 <= reward <= 0.0
        assert not terminated
        assert truncated == (step == 59)
        assert info["second"] == before["second"] + 1
        assert info["delta_db"] == np.clip(before["delta_db"] + (step % 3 - 1) * 3.0, -75, 75)
    assert env.render() == f" 0 s left, guitar {info['delta_db']:+.1f} dB"


def test_seeds_repeat(learnt):
    def episode(seed):
        env = SoundcheckEnv(*learnt)
        env.action_space.seed(seed)
        return [env.reset(seed=seed)[0]] + [env.step(env.action_space.sample())[0] for _ in range(5)]

    np.testing.assert_array_equal(episode(1), episode(1))
    assert np.any(np.array(episode(1)) != np.array(episode(2)))


def test_starts_are_anywhere_within_60_db(learnt):
    env = SoundcheckEnv(*learnt)
    starts = [env.reset(seed=0 if k == 0 else None)[1] for k in range(150)]
    deltas = np.array([start["delta_db"] for start in starts])
    assert deltas.min() < -50
    assert deltas.max() > 50
    assert abs(deltas).max() <= 60
    assert {start["second"] for start in starts} == set(range(75 - 60))


@pytest.mark.parametrize("kind", ["clean", "bad"])
@pytest.mark.parametrize("delta_db", [-60.0, -7.0, 0.0, 20.0])
def test_what_is_looked_up_is_what_the_sound_gives(learnt, kind, delta_db):
    stems = compose("b", 8.0, sample_rate=32_000)
    take = Performance(stems, 32_000, "guitar", Channel.draw(kind, 4, np.random.default_rng(0)))
    found = []
    for exact in (False, True):
        env = SoundcheckEnv(take, learnt[1], seconds=3, exact=exact)
        observation, _ = env.reset(seed=0, options={"start": 2, "delta_db": delta_db})
        found.append((observation, env.step(1)[1]))
    assert np.abs(found[0][0] - found[1][0]).max() <= (1e-6 if kind == "clean" else 0.05)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5 if kind == "clean" else 0.1)


def constant(learnt, reward, delta_db):
    """Sum of the rewards of an episode in which nothing is turned."""
    env = SoundcheckEnv(*learnt, reward=reward)
    env.reset(seed=0, options={"start": 8, "delta_db": delta_db})
    return sum(env.step(1)[1] for _ in range(60))


def test_the_papers_reward_can_be_hacked(learnt):
    paper = {delta_db: constant(learnt, "paper", delta_db) for delta_db in (-75, -20, 0, 20)}
    assert paper[-75] > 0.98 * abs(paper[0]) * -1 or paper[-75] >= paper[0] * 1.1
    assert paper[-75] > max(paper[-20], paper[20])
    intended = {delta_db: constant(learnt, "paper-intent", delta_db) for delta_db in (-75, -20, 0, 20)}
    assert intended[-75] < min(intended[-20], 1.3 * intended[0])
    assert intended[0] == max(intended.values())
    assert intended[0] == pytest.approx(paper[0], rel=0.01)


def test_the_gain_can_be_rewarded(learnt):
    env = SoundcheckEnv(*learnt, reward="gain", decibels=True)
    env.reset(seed=0, options={"delta_db": 10.0})
    assert env.step(np.array([-4.0], np.float32))[1] == pytest.approx(-6.0 / 20.0)
    env.step(np.array([20.0], np.float32))
    for _ in range(4):
        _, reward, _, _, info = env.step(np.array([20.0], np.float32))
    assert (reward, info["delta_db"]) == (-MOST_GAIN_DB / 20.0, MOST_GAIN_DB)


@pytest.mark.parametrize("decibels", [False, True])
@pytest.mark.parametrize("reward", REWARDS)
def test_many_at_once_are_as_one(learnt, decibels, reward):
    envs = SoundcheckVectorEnv(3, *learnt, reward=reward, decibels=decibels, seconds=5)
    one = SoundcheckEnv(*learnt, reward=reward, decibels=decibels, seconds=5)
    envs.action_space.seed(0)
    observations, infos = envs.reset(seed=2)
    for k in range(3):
        same = one.reset(options={"start": infos["second"][k], "delta_db": infos["delta_db"][k]})[0]
        np.testing.assert_array_equal(observations[k], same)
    state, over = infos, np.zeros(3, bool)
    for step in range(14):
        actions = envs.action_space.sample()
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        assert not terminated.any()
        for k in range(3):
            if over[k]:  # the step after an episode's last begins the next
                assert rewards[k] == 0.0
                continue
            one.reset(options={"start": 0, "delta_db": state["delta_db"][k]})
            one._second, one._end = state["second"][k], one._end + state["second"][k]
            observation, expected, *_ = one.step(actions[k])
            np.testing.assert_array_equal(observations[k], observation)
            assert rewards[k] == pytest.approx(expected)
        state, over = infos, truncated
        assert truncated.all() == (step % 6 == 4)


def test_what_does_not_fit_is_refused(learnt):
    for arguments, said in (
        ({"reward": "love"}, "reward must be one of paper-intent, paper, gain, got 'love'"),
        ({"seconds": 75}, r"seconds must be in \[1, 74\]"),
        ({"step_db": 0.0}, r"step_db must be in \(0, 20\], got 0.0"),
    ):
        with pytest.raises(ParameterError, match=said):
            SoundcheckEnv(*learnt, **arguments)
    with pytest.raises(ParameterError, match="given together"):
        SoundcheckEnv(learnt[0])
    with pytest.raises(ParameterError, match="options must have start"):
        SoundcheckEnv(*learnt).reset(options={"start": 16})


def test_stable_baselines3_can_learn_in_it(learnt):
    sb3 = pytest.importorskip("stable_baselines3", reason="the rl extra, stable-baselines3, is not installed")
    env = SoundcheckEnv(*learnt, reward="gain")
    model = sb3.DQN("MlpPolicy", env, learning_starts=50, buffer_size=500, seed=0, device="cpu").learn(200)
    assert model.num_timesteps == 200
    assert env.action_space.contains(int(model.predict(env.reset(seed=0)[0], deterministic=True)[0]))
