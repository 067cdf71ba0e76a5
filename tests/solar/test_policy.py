import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alm_plugin.errors import ModelError, ParameterError
from solar.performance import Performance
from solar.playing import is_playing
from solar.policy import DQN_PATH, Dqn, Rule, decide
from solar.predictor import Table
from solar.songs import compose


@pytest.fixture(scope="module")
def take():
    return Performance(compose("a", 20.0, sample_rate=32_000), 32_000, "guitar")


@pytest.fixture(scope="module")
def rule(take):
    song = take.map()
    return Rule(Table().fit(song, is_playing(song.loudest_rms)), take.player)


@pytest.mark.parametrize(("surplus", "action"), [(3.1, -1), (3.0, 0), (0.0, 0), (-3.0, 0), (-3.1, 1)])
def test_three_bands_decide(surplus, action):
    bands = np.zeros(24)
    bands[[2, 9]] = surplus / 2
    assert decide(bands) == action


def actions(rule, take, delta_db):
    # After 9 s the guitar has stopped playing alone.
    heard = [take.at(second, delta_db) for second in range(9, 20)]
    return [rule.decide(second, is_playing(second.loudest_rms)) for second in heard]


def test_too_loud_goes_down_and_too_soft_up(rule, take):
    assert np.mean(actions(rule, take, 25.0)) < -0.8
    assert np.mean(actions(rule, take, -25.0)) > 0.8


def test_the_silence_trap(rule, take):
    # Who is turned down far enough does not play, is not expected, and stays down for ever.
    assert not any(actions(rule, take, -75.0))


def test_the_networks_numbers_are_those_of_torch(rng):
    weights = load_file(DQN_PATH)
    layers = []
    for k in (1, 2, 3):
        layer = torch.nn.Linear(*weights[f"w{k}"].shape[::-1])
        layer.load_state_dict({"weight": torch.tensor(weights[f"w{k}"]), "bias": torch.tensor(weights[f"b{k}"])})
        layers += [layer, torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    dqn = Dqn()
    for _ in range(50):
        observation = rng.uniform(-1, 1, (24, 4)).astype(np.float32)
        assert dqn.decide(observation) == int(network(torch.from_numpy(observation.ravel())).argmax()) - 1


def test_other_files_are_refused(tmp_path):
    weights = load_file(DQN_PATH)
    path = tmp_path / "other.safetensors"
    with pytest.raises(ModelError, match="expected a Q-network"):
        Dqn(path)
    path.write_bytes(b"not this")
    with pytest.raises(ModelError, match="expected a Q-network"):
        Dqn(path)
    for change in ({"w1": weights["w1"][:, :5]}, {"b2": weights["b2"][:5]}, {"w2": weights["w2"][:, :5]}, {"w3": None}):
        save_file({name: value for name, value in (weights | change).items() if value is not None}, path)
        if "w1" in change:
            with pytest.raises(ParameterError, match="observation must have 5 numbers, got 96"):
                Dqn(path).decide(np.zeros((24, 4), np.float32))
        else:
            with pytest.raises(ModelError, match="expected a Q-network"):
                Dqn(path)


def test_a_threshold_is_a_number():
    with pytest.raises(ParameterError, match="threshold must be at least 0, got nan"):
        Rule(Table(), 0, float("nan"))
