"""Write a model of gains: a class with `embed`, `step`, `initial_state` and `metadata`."""

import numpy as np

from alm_plugin import Mixer, ModelMetadata, Strip


class Ducker:
    """Turn everyone else down by up to 6 dB while the loudest channel stands out."""

    metadata = ModelMetadata("ducker")

    def initial_state(self, channels):
        # Arrays by name, the channel first: rows stay with their channels when others come and go.
        return {"gain_db": np.zeros(channels, np.float32)}

    def embed(self, patches, mask):
        # This model listens to levels only: its embedding_size is 0 and it is never asked to embed.
        raise NotImplementedError

    def step(self, embedding, levels, mask, state):
        loudness = levels[:, 2]  # running loudness over 3 s, LUFS
        behind = loudness.max() - loudness
        wanted = -np.clip(behind, 0.0, 6.0)
        gain_db = state["gain_db"] + np.clip(wanted - state["gain_db"], -0.2, 0.2)
        return gain_db, {"gain_db": gain_db}


random = np.random.default_rng(0)
tracks = {name: random.standard_normal(3 * 48_000) * level for name, level in {"voice": 0.2, "band": 0.1}.items()}
mixer = Mixer({name: Strip() for name in tracks}, model=Ducker())
mixer.process(tracks, 48_000)
for name, gains_db in mixer.automation.gains_db.items():
    print(f"{name}: {gains_db[-1]:+.1f} dB after {len(gains_db)} frames")
