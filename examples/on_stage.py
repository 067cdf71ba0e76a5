"""Play a band live from a script of your own, take a fader in hand, and keep a recording."""

import numpy as np

from alm_plugin import DeviceSpec, Live, Mixer, StageLimits, Strip
from alm_plugin.export.automation import read_csv

SAMPLE_RATE = 48_000


def main() -> None:
    """Six seconds on stage."""
    random = np.random.default_rng(0)
    band = (random.standard_normal((3, 6 * SAMPLE_RATE)) * [[0.02], [0.2], [0.05]]).astype(np.float32)
    # Where there is a sound card: DeviceSpec("jack") or DeviceSpec("portaudio"), without a source.
    device = DeviceSpec("silent", sample_rate=SAMPLE_RATE, block_size=128, source=band)
    mixer = Mixer({"vocals": Strip(role="vocals"), "kick": Strip(role="kick"), "keys": Strip(role="keys")})
    with Live(mixer, device, limits=StageLimits(range_db=4), record="take") as live:
        live.command("lock_db", 2, -9.0)  # a hand on the keys' fader; None lets go
        live.ended.wait(30)
    for about, strip in zip(live.describe()["strips"], live.state()["strips"], strict=True):
        print(f"{about['name']}: {strip['gain_db']:+.1f} dB, {strip['why']}")
    curve = read_csv("take/curves.csv").gains_db["vocals"]
    print(f"take/mix.wav is what was played; the vocals moved by up to {np.abs(curve).max():.1f} dB")


# The other processes of the mixer read this file too.
if __name__ == "__main__":
    main()
