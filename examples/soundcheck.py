"""Tell a guitarist what to turn, so that a band sounds like a recording it likes.

The reference here is a song from a small synthesiser; yours is a folder of stems, ``Solar("stems/", "guitar")``, or one
recording and Demucs's weights, ``Solar("song.wav", "guitar", Demucs("htdemucs/"))``.
"""

from alm_plugin import Mixer, Strip
from solar import Solar
from solar.songs import compose

SAMPLE_RATE = 44_100

reference = compose("a", 60)
song = compose("b", 60)  # another one by the same band

# Tonight the guitar came with a bigger amplifier, and somebody sings from too far away.
tonight = song | {"guitar": 3.0 * song["guitar"], "vocals": 0.4 * song["vocals"]}

solar = Solar(reference, ["guitar", "vocals"], sample_rate=SAMPLE_RATE)
mixer = Mixer({name: Strip() for name in tonight}, model="unity")
solar.attach(mixer)  # it sees every channel, and changes nothing

for second in range(60):
    part = slice(second * SAMPLE_RATE, (second + 1) * SAMPLE_RATE)
    mixer.process({name: stem[part] for name, stem in tonight.items()}, SAMPLE_RATE, reset=False)
    known = len(solar.said)
    solar.wait()
    for _, advice in solar.said[known:]:
        if advice.state == "cant-hear":
            print(f"{second + 1:2d} s  {advice.player}: not heard yet")
        else:
            print(f"{second + 1:2d} s  {advice.player}: turn {advice.state} {abs(advice.change_db):.0f} dB")
            # Whoever plays turns the knob, more or less; if nobody said so, it would be heard.
            mixer[advice.player].trim_db += 0.8 * advice.change_db

trims_db = {player: mixer[player].trim_db for player in ("guitar", "vocals")}
print("turned in all:", ", ".join(f"{player} {trim_db:+.1f} dB" for player, trim_db in trims_db.items()))
