"""Mix a folder of stems: `python examples/mix_a_song.py [FOLDER] [OUTPUT]`, by default the bundled demo."""

import sys
from pathlib import Path

from pedalboard import Compressor, HighpassFilter

from alm_plugin import Mixer, Strip, find_tracks, render_files
from alm_plugin.data import presets_dir
from alm_plugin.models.roles import guess_role

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else presets_dir() / "demo"
output = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("song-mix.wav")

tracks = find_tracks([folder])
strips = {track.name: Strip(role=guess_role(track.name)) for track in tracks}
if "vocals" in strips:
    strips["vocals"] = Strip([HighpassFilter(90), Compressor(-18, 3)], role="vocals", trim_db=1.0)

report = render_files(tracks, output, Mixer(strips))
print(f"{report.output}: {report.seconds:.1f} s at {report.loudness_lufs:.1f} LUFS")
for channel in report.channels:
    print(f"{channel.name:>12}: {channel.mean_gain_db:+5.1f} dB, {channel.output_lufs:6.1f} LUFS in the mix")
