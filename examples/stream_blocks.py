"""Mix a stream block by block, as a sound card would bring it, and compare with the whole song at once."""

import numpy as np
from pedalboard import Compressor

from alm_plugin import Mixer, Strip

SAMPLE_RATE = 48_000
BLOCK = 128

random = np.random.default_rng(0)
loudness = {"vocals": 0.02, "kick": 0.3, "bass": 0.1}
song = {name: (random.standard_normal(5 * SAMPLE_RATE) * level).astype(np.float32) for name, level in loudness.items()}

mixer = Mixer({"vocals": Strip([Compressor(-18, 3)], role="vocals"), "kick": Strip(), "bass": Strip()})
whole = mixer.process(song, SAMPLE_RATE)

mixer.reset()
blocks = []
for start in range(0, 5 * SAMPLE_RATE, BLOCK):
    block = {name: track[start : start + BLOCK] for name, track in song.items()}
    blocks.append(mixer.process(block, SAMPLE_RATE, reset=False))
streamed = np.concatenate(blocks, axis=1)

curves = mixer.automation
print(f"largest difference between {len(blocks)} blocks and the whole song: {np.abs(streamed - whole).max()}")
for name, gains_db in curves.gains_db.items():
    print(f"{name}: {gains_db[0]:+.1f} dB at first, {gains_db[-1]:+.1f} dB in the frame at {curves.times_s[-1]:.2f} s")
