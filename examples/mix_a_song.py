"""Mix a folder of stems to a file, gain curves and a page to look at: `python examples/mix_a_song.py [FOLDER]`."""

import sys
from pathlib import Path

from pedalboard import Compressor, HighpassFilter, Reverb

from alm_plugin import Group, Mixer, Return, Strip, find_tracks, render_files
from alm_plugin.data import presets_dir
from alm_plugin.export.automation import write_csv
from alm_plugin.models.roles import guess_role

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else presets_dir() / "demo"  # the bundled band
tracks = find_tracks([folder])
strips = {track.name: Strip(role=guess_role(track.name)) for track in tracks}
for strip in strips.values():
    if strip.role in ("kick", "snare", "overheads"):
        strip.group = "drums"
if "vocals" in strips:
    strips["vocals"] = Strip([HighpassFilter(90), Compressor(-18, 3)], role="vocals", trim_db=1.0, sends={"hall": -14})

mixer = Mixer(
    strips,
    groups={"drums": Group(trim_db=-1.0)},
    returns={"hall": Return([Reverb(room_size=0.6, wet_level=0.33, dry_level=0.0)])},
)
report = render_files(tracks, "song-mix.wav", mixer)
write_csv(mixer.automation, "song-gains.csv")  # edit it: `alm mix ... --automation-in song-gains.csv` plays it

print(f"{report.output}: {report.seconds:.1f} s at {report.loudness_lufs:.1f} LUFS, gains in song-gains.csv")
for channel in report.channels:
    print(f"{channel.name:>12}: {channel.mean_gain_db:+5.1f} dB, {channel.output_lufs:6.1f} LUFS in the mix")
