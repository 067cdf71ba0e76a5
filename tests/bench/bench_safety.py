"""Measure stage safety: `python tests/bench/bench_safety.py [--corpus DIR] [--json]`.

Ring: microphone, mixer, loudspeaker and one of four rooms (pyroomacoustics) in a loop, with a stem of the demo playing
into it, while the gain rises by 1, 3 or 12 dB/s from -3 to 4 dB over the highest gain of the response. The ring is
audible from where its level, over 20 ms, has passed that of the whole programme. It is found at the end of a frame of
50 ms, and the gain is down 40 ms after that, as on stage; growth is how far above the programme it is then. False
alarms are pull-downs of the same programme, and of swells that are made here, without a loop and with one at -6 dB.

Bleed: players with rests on random stages of `training.stage`, and the demo, in which is none. A frame is the player's
own where his share of the channel's power is 0.15 or more; a rest counts from 3 s after the last of them. Boost: what a
model that wants 6 dB more for every channel gets, at the slew of the stage limits, from 0 dB.

``--corpus`` adds songs composed by ``alm-train``: stems to the false alarms, songs with the conditions of training, on
stages and without bleed, to bleed. The detector's weights are not to have been fitted to them (`fit_bleed.py`).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyroomacoustics as pra
import soundfile
import soxr
from numpy.fft import irfft, rfft, rfftfreq
from numpy.typing import NDArray

from alm_plugin import Mixer, Strip
from alm_plugin.data import presets_dir
from alm_plugin.features.front_end import FrontEnd
from alm_plugin.live.bleed import OWN_SHARE, BleedDetector
from alm_plugin.live.ring import RingDetector
from alm_plugin.live.safety import Safety, StageLimits
from alm_plugin.live.stage import StageMind
from alm_plugin.models.listener import Listener
from alm_plugin.stream import Stream
from training.examples import Conditions, Examples
from training.song import SAMPLE_RATE, load_song, songs_in
from training.stage import bleed, random_stage, responses

Audio = NDArray[np.float32]
Floats = NDArray[np.float64]

RATE = 16_000
STEMS = ("vocals", "acoustic", "keys", "guitar", "bass", "kick", "snare", "overheads")

# Size, loudspeaker, microphone, absorption: a club, a rehearsal room, a hall, a wedge in front of a singer.
ROOMS = (
    ((9.0, 7.0, 3.2), (1.5, 1.2, 1.8), (4.2, 3.5, 1.5), 0.35),
    ((6.0, 5.0, 2.8), (1.0, 1.0, 1.2), (2.6, 2.2, 1.5), 0.30),
    ((16.0, 12.0, 6.0), (3.0, 2.0, 3.0), (8.0, 6.0, 1.6), 0.40),
    ((12.0, 9.0, 4.0), (5.0, 2.0, 0.4), (5.5, 3.2, 1.5), 0.50),
)
SWEEPS_DB_PER_S = (1.0, 3.0, 12.0)

BLOCK, FRAME = RATE // 200, RATE // 20
SLACK_MS, RAMP_MS = 20, 20
REST_S = 3.0


# ---- what is played --------------------------------------------------------------------------------------------


@cache
def demo(stem: str, rate: int = RATE) -> Audio:
    audio, native = soundfile.read(presets_dir() / "demo" / f"{stem}.ogg", dtype="float32", always_2d=True)
    return soxr.resample(audio.mean(axis=1), native, rate).astype(np.float32)


class Swells:
    """Notes that swell, as instruments do that are easily taken for feedback; from `rng`, at 16 kHz."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def draw(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def pitch(self, low: int, high: int) -> float:
        return 440.0 * 2.0 ** ((int(self.rng.integers(low, high)) - 69) / 12)

    def tone(
        self,
        hz: float,
        seconds: float,
        partials: tuple[float, ...],
        attack_s: float,
        vibrato: float = 0.0,
        waver: float = 0.0,
    ) -> Floats:
        """Partials under an attack, a crescendo of up to 15 dB/s and a release; vibrato and waver in semitones."""
        t = np.arange(int(seconds * RATE)) / RATE
        bend = vibrato * np.sin(2 * np.pi * self.draw(4.5, 6.5) * t)
        if waver:
            noise = self.rng.standard_normal(int(seconds * 25) + 3)
            bend += waver * np.interp(t * 25, np.arange(len(noise)), noise)
        phase = 2 * np.pi * np.cumsum(hz * 2.0 ** (bend / 12)) / RATE
        audio = np.zeros(len(t))
        for n, level in enumerate(partials, 1):
            if n * hz < 7_500:
                audio += level * np.sin(n * phase + n)
        rise_db = self.draw(0.0, min(25.0, 15.0 * seconds))
        swell = 10.0 ** (rise_db * (t / seconds - 1) / 20)
        return audio * swell * np.clip(t / attack_s, 0, 1) * np.clip((seconds - t) / 0.08, 0, 1)

    def organ(self) -> Floats:
        stops, seconds = (1.0, 0.5, 0.35, 0.25, 0.1, 0.15, 0.02, 0.1), self.draw(1, 3)
        return sum((self.tone(self.pitch(48, 84), seconds, stops, 0.03) for _ in range(3)), np.zeros(1))

    def organ_flute_stop(self) -> Floats:
        return self.tone(self.pitch(48, 90), self.draw(0.7, 3), (1.0, 0.05, 0.03), self.draw(0.02, 0.3))

    def flute(self) -> Floats:
        partials = (1.0, 0.4, 0.15, 0.05, 0.02)
        return self.tone(
            self.pitch(60, 96), self.draw(0.5, 3), partials, self.draw(0.05, 0.15), self.draw(0, 0.25), 0.05
        )

    def whistle(self) -> Floats:
        return self.tone(
            self.draw(700, 2800), self.draw(0.5, 3), (1.0, 0.01), self.draw(0.03, 0.2), self.draw(0, 0.4), 0.1
        )

    def bass(self) -> Floats:
        note = self.tone(self.pitch(28, 55), self.draw(0.2, 1.5), (1.0, 0.7, 0.4, 0.3, 0.2, 0.1), 0.01)
        return note * np.exp(-np.arange(len(note)) / RATE * self.draw(0.5, 3))

    def bowed_bass(self) -> Floats:
        return self.tone(self.pitch(28, 50), self.draw(1, 3), (1, 0.8, 0.5, 0.3, 0.2, 0.15), self.draw(0.1, 0.4), 0.1)

    def guitar(self) -> Floats:
        partials, seconds = tuple(1 / np.arange(1, 14) ** 1.2), self.draw(1, 4)
        detuned = [self.pitch(40, 76) * 2 ** (self.draw(-0.02, 0.02) / 12) for _ in range(4)]
        return sum((self.tone(hz, seconds, partials, self.draw(0.05, 0.8)) for hz in detuned), np.zeros(1))

    def cymbal(self) -> Floats:
        seconds = self.draw(1.5, 4)
        t = np.arange(int(seconds * RATE)) / RATE
        modes = 300 * 2 ** (4.6 * self.rng.random(200) ** 0.7)
        audio = self.rng.standard_normal(len(t)) + sum(
            self.draw(0.2, 1) * np.sin(2 * np.pi * hz * t + self.draw(0, 6)) / 5 for hz in modes
        )
        return audio * 10 ** (self.draw(15, 40) * (t / seconds - 1) / 20)

    def voice(self) -> Floats:
        hz, seconds = self.pitch(45, 72), self.draw(1, 5)
        formants = ((self.draw(300, 800), 80), (self.draw(900, 2200), 120), (2800, 200), (3500, 300))
        partials = tuple(
            sum(1 / (1 + ((n * hz - at) / width) ** 2) for at, width in formants) / n**0.5 + 0.003 for n in range(1, 40)
        )
        return self.tone(hz, seconds, partials, self.draw(0.04, 0.3), self.draw(0, 0.5), 0.05)

    def play(self, note: Callable[[], Floats], seconds: float) -> Audio:
        """One note after the other, at -14 dBFS peak."""
        audio = np.zeros(0)
        while len(audio) < seconds * RATE:
            audio = np.concatenate([audio, note()])
        audio = audio[: int(seconds * RATE)]
        return (0.2 * audio / np.abs(audio).max()).astype(np.float32)


def swells(seconds: float, seed: int = 0) -> dict[str, Audio]:
    made = Swells(np.random.default_rng(seed))
    notes = (
        made.organ,
        made.organ_flute_stop,
        made.flute,
        made.whistle,
        made.bass,
        made.bowed_bass,
        made.guitar,
        made.cymbal,
        made.voice,
    )
    return {note.__name__: made.play(note, seconds) for note in notes}


# ---- the loop --------------------------------------------------------------------------------------------------


@cache
def room(which: int, rate: int = RATE) -> Audio:
    """Response from loudspeaker to microphone, both from 100 Hz up; its highest gain from 90 to 7000 Hz is 0 dB."""
    size, speaker, microphone, absorption = ROOMS[which]
    box = pra.ShoeBox(size, fs=rate, materials=pra.Material(absorption), max_order=10)
    box.add_source(speaker)
    box.add_microphone(microphone)
    box.compute_rir()
    assert box.rir is not None
    direct = np.asarray(box.rir[0][0])[pra.constants.get("frac_delay_length") // 2 :]
    n = 1 << (2 * len(direct)).bit_length()
    hz = rfftfreq(n, 1 / rate)
    heard = rfft(direct, n) * (1j * hz / 100 / (1 + 1j * hz / 100)) ** 2
    highest = np.abs(heard[(hz > 90) & (hz < 7_000)]).max()
    return irfft(heard / highest, n)[: rate // 6].astype(np.float32)


def loop(
    dry: Audio, response: Audio, gains_db: Floats, pull_down_db: Callable[[Audio], float] | None = None
) -> tuple[Audio, Floats]:
    """Play `dry` (samples,) into a microphone that hears the mixer through `response`, a block later.

    Parameters
    ----------
    gains_db : (samples,)
        Of the mixer, so that of the loop, for 0 dB is the highest gain of the response.
    pull_down_db : callable, optional
        Given a frame of the microphone (1, FRAME), tells what to take off that gain in the next frame: by a ramp of
        `RAMP_MS` that begins `SLACK_MS` after the frame's start.

    Returns
    -------
    microphone : (samples,)
    pulled_db : (frames,)
        What has been told in each frame.
    """
    n = 1 << (len(response) + BLOCK - 1).bit_length()
    spectrum = rfft(response, n)
    coming = np.zeros(len(dry) + n + 2 * BLOCK)
    microphone, pulled_db = np.zeros(len(dry), np.float32), np.zeros(len(dry) // FRAME)
    old = new = 1.0
    for frame in range(len(pulled_db)):
        factors = np.interp(1_000 * np.arange(FRAME) / RATE, (SLACK_MS, SLACK_MS + RAMP_MS), (old, new))
        factors *= 10.0 ** (gains_db[frame * FRAME : (frame + 1) * FRAME] / 20)
        for start in range(0, FRAME, BLOCK):
            at = frame * FRAME + start
            heard = np.clip(dry[at : at + BLOCK] + coming[at : at + BLOCK], -1, 1).astype(np.float32)
            microphone[at : at + BLOCK] = heard
            played = heard * factors[start : start + BLOCK]
            coming[at + BLOCK : at + BLOCK + n] += irfft(rfft(played, n) * spectrum, n)
        if pull_down_db is not None:
            pulled_db[frame] = pull_down_db(microphone[None, frame * FRAME : (frame + 1) * FRAME])
        old, new = new, 10.0 ** (-pulled_db[frame] / 20)
    return microphone, pulled_db


def in_safe_loop(dry: Audio, response: Audio, gain_db: float = -6.0) -> Audio:
    """What the microphone of `loop` hears at a gain that stays."""
    n = 1 << (len(dry) + 8 * len(response)).bit_length()
    delayed = np.concatenate([np.zeros(BLOCK, np.float32), response])
    heard = irfft(rfft(dry, n) / (1 - 10 ** (gain_db / 20) * rfft(delayed, n)), n)
    return heard[: len(dry)].astype(np.float32)


def level_db(audio: NDArray, rate: int = RATE) -> Floats:
    """Level of the last 20 ms at each sample."""
    n = rate // 50
    total = np.cumsum(np.concatenate([np.zeros(n), np.square(audio, dtype=np.float64)]))
    return 10 * np.log10((total[n:] - total[:-n]) / n + 1e-14)


def ring(dry: Audio, which: int, sweep_db_per_s: float, most_db: float = 4.0) -> dict[str, float] | None:
    """Let the gain of a loop rise from -3 dB, and see when the ring is audible, found, and how far it has grown.

    None where it does not ring.
    """
    t = np.arange(len(dry)) / RATE
    gains_db = np.minimum(-3 + sweep_db_per_s * np.maximum(t - 1, 0), most_db)
    microphone, _ = loop(dry, room(which), gains_db)
    programme_db = float(10 * np.log10(np.mean(np.square(dry, dtype=np.float64))))
    over_db = level_db(microphone - dry) - programme_db
    clips = np.flatnonzero(np.abs(microphone) >= 1)
    if not len(clips):
        return None
    audible = int(np.flatnonzero(over_db[: clips[0]] < 0)[-1])
    detector = RingDetector(RATE, 1)
    safe, pulled_db = loop(dry, room(which), gains_db, lambda x: detector.process(x)[0])
    crossed = RATE * (1 + 3 / sweep_db_per_s)
    # Ends of the frames in which it was found.
    found = (np.flatnonzero(pulled_db > 0) + 1) * FRAME
    found = found[found > crossed - RATE // 10]
    at = int(found[0]) if len(found) else len(dry) - FRAME
    down = min(at + (SLACK_MS + RAMP_MS) * RATE // 1000, len(safe) - 1)
    safe_db = level_db(safe - dry) - programme_db
    return {
        "audible_s": audible / RATE,
        "late_s": (at - audible) / RATE,
        "growth_db": float(safe_db[down]),
        "highest_db": float(safe_db[min(audible, at) :].max()),
        "pulls": int(detector.rings[0]),
        "deepest_db": float(pulled_db.max()),
    }


def bench_rings(say: Callable[[str], None]) -> dict[str, float]:
    found = []
    for which in range(len(ROOMS)):
        for stem in STEMS[:4]:
            for sweep in SWEEPS_DB_PER_S:
                start = int(RATE * {1.0: 4, 3.0: 2, 12.0: 8}[sweep])
                result = ring(0.7 * demo(stem)[start : start + 10 * RATE], which, sweep)
                if result is None:
                    continue
                found.append(result)
                say(
                    f"room {which}, {stem:8s} {sweep:4.0f} dB/s: "
                    + ", ".join(f"{k} {v:.2f}" for k, v in result.items())
                )
    growth, late = (np.array([result[key] for result in found]) for key in ("growth_db", "late_s"))
    return {
        "rings": len(found),
        "rings pulled down within 0.5 s of audible, %": 100 * float(np.mean(late <= 0.5)),
        "rings pulled down before +6 dB, %": 100 * float(np.mean(growth <= 6)),
        "rings pulled down before they are audible, %": 100 * float(np.mean(growth <= 0)),
        "growth at the pull-down, median, dB": float(np.median(growth)),
        "growth at the pull-down, 90 %, dB": float(np.quantile(growth, 0.9)),
        "growth at the pull-down, highest, dB": float(growth.max()),
        "time from audible to the pull-down, median, s": float(np.median(late)),
        "time from audible to the pull-down, highest, s": float(late.max()),
    }


def false_alarms(programmes: dict[str, Audio], rate: int = RATE) -> dict[str, int]:
    """Pull-downs of each programme."""
    detector = RingDetector(rate, 1)
    counts = {}
    for name, audio in programmes.items():
        detector.reset()
        detector.process(audio[None])
        counts[name] = int(detector.rings[0])
    return counts


def bench_false_alarms(say: Callable[[str], None], corpus: Path | None) -> dict[str, float]:
    made = swells(120.0) | {f"demo {stem}": demo(stem) for stem in STEMS}
    kinds = {"programme": made, "programme in a loop at -6 dB": {n: in_safe_loop(x, room(0)) for n, x in made.items()}}
    if corpus:
        rng = np.random.default_rng(1)
        songs = [load_song(path) for path in rng.permutation(np.array(songs_in(corpus), object))[:120]]
        stems = [(song, int(rng.integers(len(song.stems)))) for song in songs]
        kinds["stems of the corpus"] = {
            f"{song.name} {song.stems[i].name}": soxr.resample(song.audio[i].astype(np.float32), SAMPLE_RATE, RATE)
            for song, i in stems
        }
    results = {}
    for kind, programmes in kinds.items():
        counts = false_alarms(programmes)
        say(f"false alarms, {kind}: { ({name: n for name, n in counts.items() if n}) }")
        hours = sum(map(len, programmes.values())) / RATE / 3600
        results[f"false alarms in {kind}"] = sum(counts.values())
        results[f"false alarms in {kind}, per hour"] = sum(counts.values()) / hours
    return results


# ---- bleed -----------------------------------------------------------------------------------------------------


def staged(seed: int, seconds: float = 20.0, longest_rest_s: float = 4.0) -> tuple[Audio, Floats]:
    """Players with rests on a random stage: what the microphones hear (C, samples), own shares (C, frames); 16 kHz."""
    rng = np.random.default_rng(seed)
    made = Swells(rng)
    roles = {
        "vocals": made.voice,
        "backing vocals": made.voice,
        "bass": made.bass,
        "guitar": made.guitar,
        "organ": made.organ,
        "brass": made.flute,
        "overheads": made.cymbal,
    }
    samples, frame = int(seconds * RATE), RATE // 20
    dry = np.zeros((len(roles), samples), np.float32)
    for row, note in zip(dry, roles.values(), strict=True):
        at = 0
        while at < samples:
            phrase = made.play(note, made.draw(1.5, 5.0))[: samples - at]
            row[at : at + len(phrase)] = phrase
            at += len(phrase) + int(made.draw(0.5, longest_rest_s) * RATE)
    dry *= 10 ** (rng.uniform(-6, 6, (len(roles), 1)) / 20).astype(np.float32)
    heard = bleed(dry, responses(random_stage(list(roles), rng), RATE, "images"))
    heard += 10 ** (rng.uniform(-90, -65, (len(roles), 1)) / 20) * rng.standard_normal(heard.shape)
    power, total = (np.square(x, dtype=np.float64).reshape(len(x), -1, frame).mean(axis=2) for x in (dry, heard))
    gain = 10 ** (rng.uniform(-10, 6, (len(roles), 1)) / 20)
    return (gain * heard).astype(np.float32), np.minimum(power / np.maximum(total, 1e-12), 1)


Material = tuple[Audio, Floats, int]
"""A song (C, samples), its players' own shares (C, frames), its sample rate."""


class HeardBleed(NamedTuple):
    """What the detector made of a song, and what is so of frames in which anything sounds; (C, frames) each."""

    said: NDArray[np.bool_]
    features: Floats  # (features, C, frames)
    own: NDArray[np.bool_]
    rests: NDArray[np.bool_]


def hear_bleed(song: Material) -> HeardBleed:
    audio, share, rate = song
    C, frames = share.shape
    heard = FrontEnd(rate).process(audio)
    columns = heard.log_mel.shape[1] // frames
    detector = BleedDetector(C)
    said, features = np.zeros((C, frames), np.bool_), np.zeros((*detector.features.T.shape, frames))
    for n in range(frames):
        said[:, n] = detector.step(heard.log_mel[:, n * columns : (n + 1) * columns], heard.levels[:, n])
        features[..., n] = detector.features.T
    sounds = (heard.mask > 0) & (heard.levels[..., 0] > 10 ** (-70 / 20))
    own, n = share >= OWN_SHARE, np.arange(frames)
    last = np.maximum.accumulate(np.where(own, n, -1), axis=1)
    return HeardBleed(said, features, own & sounds, (n - last > REST_S * 20) & sounds)


def judge_bleed(songs: Iterable[Material]) -> dict[str, float]:
    """What the detector does to own frames, and to those that are more than 3 s into a rest."""
    allowed = refused = called = own_frames = rest_frames = 0.0
    for song in songs:
        heard = hear_bleed(song)
        C, frames = heard.said.shape
        safety, nothing = Safety(C, StageLimits(open_gain_db=None)), np.zeros(C)
        gains_db = np.zeros((C, frames))
        for n in range(1, frames):
            # The gain that is heard with a frame is that of what has been heard before.
            gains_db[:, n] = safety.step(nothing + 6, nothing, gains_db[:, n - 1], heard.said[:, n - 1])
        allowed += gains_db[heard.rests].sum()
        refused += (6 - gains_db[heard.own]).sum()
        called += heard.said[heard.own].sum()
        own_frames += heard.own.sum()
        rest_frames += heard.rests.sum()
    results = {
        "wrongly refused boost, dB": refused / own_frames,
        "own frames called bleed, %": 100 * called / own_frames,
        "frames beyond 3 s of rest, %": 100 * rest_frames / (own_frames + rest_frames),
    }
    return results | ({"wrongly allowed boost, dB": allowed / rest_frames} if rest_frames else {})


def demo_song(seconds: float = 60.0) -> Material:
    """The demo, whose tracks nobody bleeds into."""
    audio = np.stack([demo(stem)[: int(seconds * RATE)] for stem in STEMS])
    audio = audio[:, : audio.shape[1] // FRAME * FRAME]
    return audio, np.ones((len(audio), audio.shape[1] // FRAME)), RATE


def bench_bleed(corpus: Path | None) -> dict[str, float]:
    def composed(folder: Path, dry: float, numbers: range) -> Iterator[Material]:
        examples = Examples(songs_in(folder), Conditions(dry=dry), 4242)
        for example in (examples[i] for i in numbers):
            yield example.inputs, example.own_share.astype(np.float64), SAMPLE_RATE

    kinds: dict[str, Iterable[Material]] = {"swells": ((*staged(s), RATE) for s in range(20)), "demo": [demo_song()]}
    if corpus:
        kinds |= {"songs": composed(corpus, 0.0, range(32)), "dry songs": composed(corpus, 1.0, range(24, 44))}
    return {f"bleed, {kind}, {k}": v for kind, songs in kinds.items() for k, v in judge_bleed(songs).items()}


# ---- the model on a stage --------------------------------------------------------------------------------------


def bench_stage() -> dict[str, float]:
    """Mean distance of the demo's gains to the true balance, where it is off by half of what the demo is off by."""
    folder = presets_dir() / "demo"
    tracks = tomllib.loads((folder / "demo.toml").read_text("utf-8"))["tracks"]
    roles = [track["role"] for track in tracks.values()]
    audio, off_db = {}, np.array([-0.5 * track["disturbance_db"] for track in tracks.values()])
    for name, back_db in zip(tracks, off_db, strict=True):
        x, rate = soundfile.read(folder / f"{name}.ogg", dtype="float32", always_2d=True)
        audio[name] = np.ascontiguousarray(x.T * np.float32(10.0 ** (back_db / 20.0)))
    true_db = np.array([track["true_gain_db"] for track in tracks.values()]) - off_db
    mixer = Mixer({name: Strip(role=role) for name, role in zip(tracks, roles, strict=True)}, "alm-mr")
    mind = StageMind(Listener(mixer.model, rate, roles), rate, StageLimits())
    stream = Stream(mixer, rate, {name: len(x) for name, x in audio.items()}, mind)
    samples = min(x.shape[1] for x in audio.values())
    stream.check(rate, audio := {name: x[:, :samples] for name, x in audio.items()})
    stream.process(audio, np.zeros((2, samples), np.float32))
    curves = np.array(list(stream.automation().gains_db.values()))
    late_db = curves[:, 2 * curves.shape[1] // 5 :].mean(axis=1)

    def distance(gains_db: Floats) -> float:
        apart_db = gains_db - true_db
        return float(np.abs(apart_db - np.median(apart_db)).mean())

    return {
        "demo on a stage, distance before, dB": distance(np.zeros(len(tracks))),
        "demo on a stage, distance after, dB": distance(late_db),
    }


# ---- cost ------------------------------------------------------------------------------------------------------


def bench_cost(channels: int, rate: int = 48_000) -> dict[str, float]:
    rng = np.random.default_rng(0)
    audio = 0.1 * rng.standard_normal((channels, 10 * rate), np.float32)
    features = FrontEnd(rate).process(audio)
    frames, columns, samples = features.frames, features.log_mel.shape[1] // features.frames, rate // 20
    blocks = [np.ascontiguousarray(audio[:, n * samples : (n + 1) * samples]) for n in range(frames)]
    log_mel = [np.ascontiguousarray(features.log_mel[:, n * columns : (n + 1) * columns]) for n in range(frames)]
    detector, listener, safety = RingDetector(rate, channels), BleedDetector(channels), Safety(channels)
    a, b, c = rng.uniform(-9, 9, (3, channels))

    def median_us(run: Callable[[int], object]) -> float:
        spent = []
        for n in range(frames):
            start = time.perf_counter()
            run(n)
            spent.append(1e6 * (time.perf_counter() - start))
        return float(np.median(spent))

    us = {
        "ring": median_us(lambda n: detector.process(blocks[n])),
        "bleed": median_us(lambda n: listener.step(log_mel[n], features.levels[:, n])),
        "safety": median_us(lambda n: safety.step(a, b, c, a < -6)),
    }
    results = {f"{name}, {channels} channels, median, us per frame of 50 ms": value for name, value in us.items()}
    return results | {f"all three, {channels} channels, % of a core": 100 * sum(us.values()) / 50_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", type=Path, help="folder of songs by alm-train")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = (lambda line: None) if arguments.json else print
    result = bench_cost(8) | bench_cost(32) | bench_stage()
    result |= bench_rings(say) | bench_false_alarms(say, arguments.corpus) | bench_bleed(arguments.corpus)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:75s} {value:9.2f}")


if __name__ == "__main__":
    main()
