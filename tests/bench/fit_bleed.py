"""Fit the bleed detector: `python tests/bench/fit_bleed.py CORPUS`, 600 songs composed by ``alm-train``; 20 minutes.

A player's own frames, where his share of the channel's power is 0.15 or more, against frames that are more than 3 s
into his rest: logistic regression on `BleedDetector.features`, with the weight of each kind of material below. Prints
the weights, moved from even odds by 0.5 towards the player, that few justified boosts are refused.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_safety import RATE, Material, hear_bleed, staged
from numpy.typing import NDArray
from scipy.optimize import minimize

from training.examples import Conditions, Examples
from training.song import SAMPLE_RATE, songs_in

Floats = NDArray[np.float64]

PENALTY = 1e-3
TOWARDS_PLAYER = 0.5
OWN_WEIGHTS = {"songs on stages": 1.0, "swells on stages": 0.5, "songs without bleed": 0.7}
REST_WEIGHTS = {"songs on stages": 1.0, "swells on stages": 0.5}


def material(corpus: Path) -> Iterator[tuple[str, Material]]:
    songs = songs_in(corpus)[::4]
    for kind, dry, numbers in (("songs on stages", 0.0, range(72)), ("songs without bleed", 1.0, range(75, 105))):
        examples = Examples(songs, Conditions(dry=dry), 777)
        for example in (examples[i] for i in numbers):
            yield kind, (example.inputs, example.own_share.astype(np.float64), SAMPLE_RATE)
    for seed in range(200, 220):
        yield "swells on stages", (*staged(seed), RATE)


def logistic(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Offset and weights (1 + features,) of the odds of `y` (N,), given `x` (features, N), each example weighted."""
    mean, spread = x.mean(axis=1), x.std(axis=1)
    z = np.vstack([np.ones(x.shape[1]), (x - mean[:, None]) / spread[:, None]])
    weights = weights / weights.sum()

    def loss(b: Floats) -> tuple[float, Floats]:
        odds = b @ z
        penalty = np.append(0.0, b[1:])
        error = 1.0 / (1.0 + np.exp(-odds)) - y
        value = weights @ (np.logaddexp(0.0, odds) - y * odds) + PENALTY * penalty @ penalty
        return float(value), z @ (weights * error) + 2.0 * PENALTY * penalty

    b = minimize(loss, np.zeros(len(z)), jac=True, method="L-BFGS-B").x
    scaled = b[1:] / spread
    return np.append(b[0] - scaled @ mean, scaled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", type=Path, help="folder of songs by alm-train")
    own, rests = {kind: [] for kind in OWN_WEIGHTS}, {kind: [] for kind in REST_WEIGHTS}
    for kind, song in material(parser.parse_args().corpus):
        heard = hear_bleed(song)
        own[kind].append(heard.features[:, heard.own][:, ::3])
        if kind in rests:
            rests[kind].append(heard.features[:, heard.rests])
    x, y, weights = [], [], []
    for found, shares, is_own in ((own, OWN_WEIGHTS, 1.0), (rests, REST_WEIGHTS, 0.0)):
        for kind, rows in found.items():
            x.append(np.concatenate(rows, axis=1))
            n = x[-1].shape[1]
            weights.append(np.full(n, shares[kind] / n))
            y.append(np.full(n, is_own))
            print(f"{kind}, {'own' if is_own else 'rests'}: {n} frames")
    b = logistic(np.concatenate(x, axis=1), np.concatenate(y), np.concatenate(weights))
    b[0] += TOWARDS_PLAYER
    print(b.round(3).tolist())


if __name__ == "__main__":
    main()
