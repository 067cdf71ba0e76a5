"""How fast examples are made, against the obvious way: ``python tests/bench/bench_training.py``.

Both give what the second stage of training learns from: a song of 20 s and 8 channels on a stage, heard by the encoder
at width 1/4 every 300 ms. The obvious way calls ``room.simulate()``, hears every patch through torchvggish's own front
end, and runs the encoder eagerly in fp32, channels first. CPU time of one thread, medians.

Two ratios: of examples that are made, and of examples that the network is given. Of those only some are made for the
batch; the others were heard before, and come again with other gain staging.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["PRA_NUM_THREADS"] = "1"

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyroomacoustics
import torch
from torchvggish import vggish_input

from alm_plugin.features.clock import MULTI_RATE
from alm_plugin.models.encoder import VGGish
from training.balance import hop_powers
from training.examples import Conditions, Example, make_example
from training.heard import louder, stack
from training.loop import Ears, Kept
from training.recipe import RECIPES
from training.song import SAMPLE_RATE, Song, Stem
from training.stage import random_stage

SECONDS, REPEATS = 20, 5
ROLES = ("vocals", "drums", "bass", "guitar", "guitar", "keys", "backing vocals", "acoustic guitar")


def song() -> Song:
    rng = np.random.default_rng(0)
    audio = (0.05 * rng.standard_normal((len(ROLES), SECONDS * SAMPLE_RATE))).astype(np.float16)
    powers = np.stack([hop_powers(np.asarray(row, np.float32), SAMPLE_RATE) for row in audio])
    return Song("noise", "rock", tuple(Stem(f"{i}", role) for i, role in enumerate(ROLES)), audio, powers)


class Made:
    """Examples of one song by number, as `training.examples.Examples`."""

    def __init__(self, song: Song) -> None:
        self.song = song

    def __getitem__(self, number: int) -> Example:
        conditions = Conditions(seconds=SECONDS, dry=0.0, fewer=0.0, pair=0.0)
        return make_example(self.song, np.random.default_rng(number), conditions)


@torch.no_grad()
def obvious(song: Song, encoder: VGGish, seed: int) -> None:
    stage = random_stage(ROLES, np.random.default_rng(seed))
    room = pyroomacoustics.ShoeBox(
        stage.size, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(stage.absorption), max_order=stage.order
    )
    for place, row in zip(stage.sources, song.audio, strict=True):
        room.add_source(place, signal=np.asarray(row, np.float32))
    room.add_microphone_array(stage.microphones.T)
    room.simulate()
    heard = room.mic_array.signals
    frame = MULTI_RATE.boundary(1, SAMPLE_RATE)
    long = round(0.975 * SAMPLE_RATE)
    for channel in heard:
        for end in range(frame, SECONDS * SAMPLE_RATE + 1, 6 * frame):
            patch = np.zeros(long)
            part = channel[max(0, end - long) : end]
            patch[long - len(part) :] = part
            encoder(vggish_input.waveform_to_examples(patch, SAMPLE_RATE, return_tensor=True)[:, 0].float()[:1])


def median_s(run) -> float:
    run(0)
    times = []
    for seed in range(1, 1 + REPEATS):
        begin = time.process_time()
        run(seed)
        times.append(time.process_time() - begin)
    return float(np.median(times))


def main() -> None:
    torch.set_num_threads(1)
    noise = song()
    encoder = VGGish(0.25, 256).eval()
    first = VGGish(0.25, 256).eval()
    first.features.to(memory_format=torch.contiguous_format)
    examples, ears = Made(noise), Ears(encoder, MULTI_RATE)
    mine = median_s(lambda seed: ears(examples[seed]))
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(examples, ears, Path(folder))  # pyright: ignore[reportArgumentType]
        kept(0)
        again = median_s(lambda _: louder(stack([kept(0)]), torch.ones(1, len(ROLES))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = median_s(lambda seed: obvious(noise, first, seed))
    print(f"an example of {SECONDS} s and {len(ROLES)} channels, CPU-s: ours {mine:.2f}, the obvious way {theirs:.2f}")
    gains = RECIPES["compact"].gains
    given = (gains.new * mine + (gains.batch - gains.new) * again) / gains.batch
    print(f"ratio {theirs / mine:.1f}x made; {theirs / given:.1f}x given: {gains.new} of {gains.batch} are made,")
    print(f"the others cost {again:.4f}")


if __name__ == "__main__":
    main()
