"""Put VST3 or AU plugins on the voice of a preset's band: `python examples/preset_and_plugin.py [PLUGIN...]`.

By name or path; by default two of Debian's zam-plugins. What was set is kept as a session, which `alm mix --session`
and `Mixer.load` bring back with the plugins' states.
"""

import sys

from alm_plugin import External, PluginError, find_tracks, load_preset, render_files, save_session
from alm_plugin.data import presets_dir
from alm_plugin.models.roles import guess_role

tracks = find_tracks([presets_dir() / "demo"])
mixer = load_preset("rock").mixer({track.name: guess_role(track.name) for track in tracks})
voice = mixer["vocals"].pre

for name in sys.argv[1:] or ["ZamEQ2", "ZamCompX2"]:
    try:
        plugin = External(name)  # tried first in a process of its own, where it may hang or crash
    except PluginError as error:
        print(f"without it: {error}")
        continue
    print(f"{plugin.name}: {plugin.reported_latency_samples} samples late, {', '.join(plugin.parameters)}")
    if name == "ZamCompX2":
        plugin.threshold_db, plugin.ratio = -24, 3  # a misspelt name or a value out of range is an error
    voice.append(plugin)

report = render_files(tracks, "preset-mix.wav", mixer)
save_session(mixer, "preset-session", tracks)
for channel in report.channels:
    chain = " > ".join(getattr(p, "name", type(p).__name__) for p in mixer[channel.name].pre)
    print(f"{channel.name:>12}: {channel.mean_gain_db:+5.1f} dB behind {chain or 'nothing'}")
