"""Teach a Q-network to soundcheck, as the paper tried, in the manner of CleanRL: `python examples/dqn.py [EPISODES]`.

The weights that `solar simulate --policy dqn` uses came from 100 episodes.
"""

import copy
import sys

import gymnasium
import numpy as np
import torch
from safetensors.torch import save_file

EPISODES = int(sys.argv[1]) if len(sys.argv) > 1 else 16
ENVS, BATCH, DISCOUNT, SYNC_STEPS, UPDATES, FILE = 4, 64, 0.95, 100, 2, "dqn.safetensors"

torch.manual_seed(0)
random = np.random.default_rng(0)
envs = gymnasium.make_vec("solar:Soundcheck-v0", ENVS, "vector_entry_point", reward="gain")
inputs = gymnasium.spaces.flatdim(envs.single_observation_space)
layers = [torch.nn.Linear(inputs, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 3)]
network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
target = copy.deepcopy(network)
adam = torch.optim.Adam(network.parameters(), 1e-3)

memory = []  # observation, action, reward, next observation
steps = EPISODES * 61 // ENVS  # the 61st begins the next episode
observations, over = envs.reset(seed=0)[0].reshape(ENVS, inputs), np.zeros(ENVS, bool)
for step in range(steps):
    with torch.no_grad():
        actions = network(torch.from_numpy(observations)).argmax(1).numpy()
    explores = random.random(ENVS) < max(0.05, 1.0 - 2.0 * step / steps)
    actions = np.where(explores, random.integers(3, size=ENVS), actions)
    following, rewards, _, truncated, _ = envs.step(actions)
    following = following.reshape(ENVS, inputs)
    memory += [(observations[k], actions[k], rewards[k], following[k]) for k in np.flatnonzero(~over)]
    observations, over = following, truncated
    for _ in range(UPDATES if len(memory) >= 5 * BATCH else 0):
        rows = [memory[k] for k in random.integers(len(memory), size=BATCH)]
        x, a, r, y = (torch.from_numpy(np.array(part)) for part in zip(*rows, strict=True))
        with torch.no_grad():  # the network chooses, its older copy judges: double Q-learning
            best = target(y).gather(1, network(y).argmax(1, keepdim=True))[:, 0]
        value = network(x).gather(1, a[:, None])[:, 0]
        adam.zero_grad()
        torch.nn.functional.smooth_l1_loss(value, r.float() + DISCOUNT * best).backward()
        adam.step()
    if step % SYNC_STEPS == 0:
        target.load_state_dict(network.state_dict())
save_file({f"{kind[0]}{k + 1}": getattr(layers[k], kind).data for k in range(3) for kind in ("weight", "bias")}, FILE)
print(f"{EPISODES} episodes, {len(memory)} steps: {FILE}")
