"""How MR-STFT answers to gain errors: ``alm-train compose && python tests/bench/bench_mr_stft.py [WORK]``.

Every second song of the frozen test set, mixed with its true gains plus a constant error per channel, normal with the
given deviation, or with all gains off by one constant; the ratio to what the true gains leave.
"""

import sys
from pathlib import Path

import numpy as np

from training.evaluate import Truth, judge_curves
from training.song import songs_in
from training.testset import TestSet

DEVIATIONS_DB, LEVELS_DB = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0), (-1.0, 1.0)


def main(work: Path) -> None:
    examples = TestSet(songs_in(work / "test"), dry=False)
    found: dict[str, list[tuple[float, float]]] = {}
    for index in range(0, len(examples), 2):
        example, rng = examples[index], np.random.default_rng(index)
        truth, channels = Truth.of(example), len(example.roles)
        errors = {f"deviation {d} dB": rng.normal(0.0, d, (channels, 1)) for d in DEVIATIONS_DB}
        errors |= {f"level {d:+} dB": np.full((channels, 1), d) for d in LEVELS_DB}
        for name, error_db in errors.items():
            scores = judge_curves(np.float32(example.true_gain_db + error_db), example, truth)
            found.setdefault(name, []).append((scores.gain_error_db, scores.stft_ratio))
    for name, rows in found.items():
        error_db, ratio = np.mean(rows, axis=0)
        print(f"{name}: gain error {error_db:.2f} dB, MR-STFT {ratio:.2f}x")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "alm-training"))
