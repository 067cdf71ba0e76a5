"""Mix the demo with a preset and a VST3 on the voice: `python examples/preset_and_plugin.py [PLUGIN]`."""

import sys
from pathlib import Path

from alm_plugin import External, PluginError, find_tracks, load_preset, render_files
from alm_plugin.data import presets_dir
from alm_plugin.models.roles import guess_role

plugin = sys.argv[1] if len(sys.argv) > 1 else "ZamCompX2"

tracks = find_tracks([presets_dir() / "demo"])
mixer = load_preset("rock").mixer({track.name: guess_role(track.name) for track in tracks})
try:
    compressor = External(plugin)
except PluginError as error:
    print(f"without it: {error}")
else:
    print(f"{compressor.name}: {', '.join(compressor.parameters)}")
    if plugin == "ZamCompX2":
        compressor.threshold_db, compressor.ratio = -24, 3
    mixer["vocals"].pre.append(compressor)

report = render_files(tracks, Path("preset-mix.wav"), mixer)
for channel in report.channels:
    chain = " > ".join(getattr(p, "name", type(p).__name__) for p in mixer[channel.name].pre)
    print(f"{channel.name:>12}: {channel.mean_gain_db:+5.1f} dB behind {chain or 'nothing'}")
