"""One training example: a song as it arrives at a desk, and the gains that would put it right.

Every example is a function of ``SeedSequence([seed, epoch, index])`` and nothing else: not of how many processes make
them, in which order, or where a run was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pedalboard import HighShelfFilter, LowShelfFilter, PeakFilter

from alm_plugin.features.clock import MULTI_RATE
from alm_plugin.models.roles import role_codes
from alm_plugin.nodes.chain import Chain
from alm_plugin.units import db_to_factor

from .balance import gated_lufs, hop_powers, true_gains_db
from .song import SAMPLE_RATE, Song, load_song
from .stage import bleed, random_stage, responses

Audio = NDArray[np.float32]

Speech = tuple[Path, int]
"""A stem that is spoken: a song's folder, and which of its stems."""

FRAME = MULTI_RATE.boundary(1, SAMPLE_RATE)
PLAYING_DB = -25.0
"""A source plays in frames that are not further than this under its loudness."""

CONVERTER_PEAK = 0.99


@dataclass(frozen=True)
class Conditions:
    """What may happen between a player and the desk; probabilities, and ranges in dB.

    Attributes
    ----------
    seconds : float
        Length of an example.
    dry : float
        Share of examples without bleed.
    pre_db, post_db : float
        Balance on stage and gain staging at the desk are wrong by up to this, either way.
    quiet, quiet_db : float
        Share of channels that arrive lower still, and by up to how much.
    shield_db : float
        Bleed is weaker than in an empty room by up to this.
    tone, tone_db : float
        Share of channels whose microphone has a tone of its own, and how much.
    fewer : float
        Share of examples in which some of the players are missing.
    pair : float
        Share of examples in which one source has a line and a microphone.
    noise, noise_dbfs : float, (float, float)
    hum, clip, late, muted, jump : float
        Shares of channels: with hum, driven into the converter, that come in late, that are switched off for a while,
        whose gain jumps in mid-song.
    talk : float
        Share of examples in which the band stops for some seconds while a singer speaks, where there is speech.
    talk_s, talk_db : (float, float)
        How long that is, and how loud against the singing.
    """

    seconds: float = 40.0
    dry: float = 0.27
    pre_db: float = 6.0
    post_db: float = 15.0
    quiet: float = 0.12
    quiet_db: float = 18.0
    shield_db: float = 12.0
    tone: float = 0.7
    tone_db: float = 7.0
    fewer: float = 0.3
    pair: float = 0.1
    noise: float = 0.6
    noise_dbfs: tuple[float, float] = (-90.0, -58.0)
    hum: float = 0.06
    clip: float = 0.03
    late: float = 0.06
    muted: float = 0.04
    jump: float = 0.04
    talk: float = 0.12
    talk_s: tuple[float, float] = (2.0, 10.0)
    talk_db: tuple[float, float] = (-12.0, 0.0)


@dataclass(frozen=True)
class Example:
    """What arrives and what is true of it.

    Attributes
    ----------
    inputs : (C, samples) float32
    own : (C, samples) float32
        What of `inputs` is the channel's own source.
    true_gain_db : (C, frames) float32
        Gain during each frame that gives the true balance.
    playing : (C, frames) bool
        The channel's own source plays; who speaks between songs does not.
    own_share : (C, frames) float32
        Its share of the channel's power, 0 to 1.
    roles : (C,) int64
    """

    inputs: Audio
    own: Audio
    true_gain_db: NDArray[np.float32]
    playing: NDArray[np.bool_]
    own_share: NDArray[np.float32]
    roles: NDArray[np.int64]

    @property
    def target(self) -> Audio:
        """The true mix (samples,), without bleed."""
        return by_frame(self.own, db_to_factor(self.true_gain_db)).sum(axis=0)


def by_frame(audio: Audio, factor: NDArray[np.floating]) -> Audio:
    """Multiply `audio` (C, samples) by a factor per frame (C, frames)."""
    framed = audio.reshape(*factor.shape, FRAME) * factor[..., None].astype(np.float32)
    return framed.reshape(audio.shape)


def make_example(
    song: Song, rng: np.random.Generator, conditions: Conditions, speech: Sequence[Speech] = ()
) -> Example:
    """Put a song on a stage and before a desk.

    Parameters
    ----------
    song : Song
    rng : Generator
    conditions : Conditions
    speech : sequence of Speech
        What is said between songs, one of them.

    Returns
    -------
    Example
        Of whole frames, at most `Conditions.seconds` long.
    """
    samples = min(round(conditions.seconds * SAMPLE_RATE), song.audio.shape[1]) // FRAME * FRAME
    start = int(rng.integers(0, (song.audio.shape[1] - samples) // FRAME + 1)) * FRAME
    chosen = _players(song, rng, conditions)
    roles = [song.stems[i].role for i in chosen]
    leads = [song.stems[i].lead for i in chosen]
    dry = np.stack([np.asarray(song.audio[i, start : start + samples], np.float32) for i in chosen])
    powers = song.powers[chosen]

    copies = np.ones(len(chosen), int)
    if rng.random() < conditions.pair and len(chosen) < 16:
        pairs = [i for i, role in enumerate(roles) if role in ("bass", "acoustic guitar", "guitar", "keys", "vocals")]
        if pairs:
            twin = int(rng.choice(pairs))
            copies[twin] = 2
            copies = np.append(copies, 2)
            dry = np.concatenate([dry, dry[twin : twin + 1]])
            powers = np.concatenate([powers, powers[twin : twin + 1]])
            roles.append(roles[twin])
            leads.append(leads[twin])
    count = len(roles)
    talks, spoken = np.zeros(count, bool), slice(0, 0)
    if speech and "vocals" in roles and conditions.talk and rng.random() < conditions.talk:
        talks, spoken = _talk(dry, roles, speech, rng, conditions)

    # A tone changes the loudness that a gain answers for; the rest of the song is assumed to change alike.
    for c in np.flatnonzero(rng.random(count) < conditions.tone):
        toned = _tone(rng, conditions.tone_db)(dry[c], SAMPLE_RATE)
        before, after = (gated_lufs(hop_powers(x, SAMPLE_RATE)) for x in (dry[c], toned))
        if np.isfinite(before) and np.isfinite(after):
            powers = powers.copy()
            powers[c] *= 10.0 ** ((after - before) / 10.0)
            dry[c] = toned
    gain_db = true_gains_db(powers, roles, leads, song.style, copies.tolist())

    pre_db = rng.uniform(-conditions.pre_db, conditions.pre_db, count)
    own = dry * db_to_factor(pre_db)[:, None].astype(np.float32)
    inputs = own
    if count > 1 and rng.random() >= conditions.dry:
        stage = random_stage(roles, rng)
        if copies[-1] == 2:
            stage = replace(
                stage, direct=np.append(stage.direct[:-1], True), level_db=np.append(stage.level_db[:-1], -np.inf)
            )
        heard = responses(stage, SAMPLE_RATE)
        weaker = np.float32(db_to_factor(-rng.uniform(0.0, conditions.shield_db)))
        heard *= np.where(np.eye(count, dtype=bool), np.float32(1.0), weaker)[..., None]
        inputs = bleed(own, heard)
    inputs = inputs + _noise(count, samples, rng, conditions)

    post_db = rng.uniform(-conditions.post_db, conditions.post_db, count)
    post_db -= (rng.random(count) < conditions.quiet) * rng.uniform(0.0, conditions.quiet_db, count)
    frames = samples // FRAME
    desk_db = np.repeat(post_db[:, None], frames, axis=1)
    for c in np.flatnonzero(rng.random(count) < conditions.jump):
        at = int(rng.integers(frames // 5, frames - frames // 5))
        desk_db[c, at:] += rng.choice([-1.0, 1.0]) * rng.uniform(3.0, 9.0)
    # Who sets a gain sees the clip light and turns it down; a few do not.
    peak = np.abs(inputs.reshape(count, frames, FRAME)).max(axis=2) * db_to_factor(desk_db)
    over_db = 20.0 * np.log10(np.maximum(peak.max(axis=1) / CONVERTER_PEAK, 1.0))
    desk_db -= np.where(rng.random(count) < conditions.clip, 0.4, 1.0)[:, None] * over_db[:, None]
    inputs = np.clip(by_frame(inputs, db_to_factor(desk_db)), -1.0, 1.0)
    switched = _switches(count, frames, rng, conditions)
    inputs, own = by_frame(inputs, switched), by_frame(own, db_to_factor(desk_db) * switched)

    true_gain_db = gain_db[:, None] - pre_db[:, None] - desk_db
    lufs = np.array([gated_lufs(row) for row in powers])[:, None] + pre_db[:, None] + desk_db
    power = np.square(own).reshape(count, frames, FRAME).mean(axis=2)
    total = np.square(inputs).reshape(count, frames, FRAME).mean(axis=2)
    playing = (power > 10.0 ** ((lufs + PLAYING_DB) / 10.0)) & np.isfinite(gain_db)[:, None]
    playing[talks, spoken] = False
    return Example(
        np.ascontiguousarray(inputs, np.float32),
        np.ascontiguousarray(own, np.float32),
        np.nan_to_num(true_gain_db, neginf=0.0).astype(np.float32),
        playing,
        np.clip(power / np.maximum(total, 1e-12), 0.0, 1.0).astype(np.float32),
        role_codes(roles),
    )


def _players(song: Song, rng: np.random.Generator, conditions: Conditions) -> list[int]:
    count = len(song.stems)
    if count <= 3 or rng.random() >= conditions.fewer:
        return list(range(count))
    return sorted(rng.choice(count, int(rng.integers(3, count)), replace=False))


def _talk(
    dry: Audio, roles: Sequence[str], speech: Sequence[Speech], rng: np.random.Generator, conditions: Conditions
) -> tuple[NDArray[np.bool_], slice]:
    """Let the band rest and a singer speak, in place; who that is (C,), and in which frames."""
    frames = dry.shape[1] // FRAME
    folder, stem = speech[int(rng.integers(len(speech)))]
    said = np.asarray(load_song(folder).audio[stem], np.float32)
    length = min(round(rng.uniform(*conditions.talk_s) * SAMPLE_RATE) // FRAME, frames // 3, len(said) // FRAME)
    level_db = rng.uniform(*conditions.talk_db)
    first, start = int(rng.integers(frames - length + 1)), int(rng.integers(len(said) - length * FRAME + 1))
    said = said[start : start + length * FRAME]
    singer = int(rng.choice([c for c, role in enumerate(roles) if role == "vocals"]))
    # Two channels, if there is a line and a microphone.
    talks = np.array([np.array_equal(row, dry[singer]) for row in dry])
    sung, spoken = (gated_lufs(hop_powers(x, SAMPLE_RATE)) for x in (dry[singer], said))
    rests = slice(first * FRAME, (first + length) * FRAME)
    # Strings ring on for a moment.
    fade = np.maximum(0.0, 1.0 - np.arange(length * FRAME, dtype=np.float32) / (0.5 * SAMPLE_RATE))
    dry[:, rests] *= fade
    if np.isfinite(sung) and np.isfinite(spoken):
        dry[talks, rests] = said * np.float32(db_to_factor(sung - spoken + level_db))
    return talks, slice(first, first + length)


def _tone(rng: np.random.Generator, most_db: float) -> Chain:
    def gain_db() -> float:
        return float(rng.uniform(-most_db, most_db))

    return Chain(
        [
            LowShelfFilter(float(rng.uniform(80, 350)), gain_db(), 0.7),
            PeakFilter(float(np.exp(rng.uniform(np.log(250), np.log(6000)))), gain_db(), float(rng.uniform(0.5, 2))),
            HighShelfFilter(float(rng.uniform(2000, 6000)), gain_db(), 0.7),
        ]
    )


def _noise(count: int, samples: int, rng: np.random.Generator, conditions: Conditions) -> Audio:
    noise = np.zeros((count, samples), np.float32)
    for c in np.flatnonzero(rng.random(count) < conditions.noise):
        level = db_to_factor(rng.uniform(*conditions.noise_dbfs))
        noise[c] = np.float32(level) * rng.standard_normal(samples, np.float32)
    for c in np.flatnonzero(rng.random(count) < conditions.hum):
        t = np.arange(samples, dtype=np.float32) / SAMPLE_RATE
        mains_hz = rng.choice([50.0, 60.0])
        for harmonic in (1, 2, 3, 5):
            level = db_to_factor(rng.uniform(-75.0, -52.0)) / harmonic
            noise[c] += np.float32(level) * np.sin(np.float32(2 * np.pi * mains_hz * harmonic) * t)
    return noise


def _switches(count: int, frames: int, rng: np.random.Generator, conditions: Conditions) -> NDArray[np.float32]:
    switched = np.ones((count, frames), np.float32)
    for c in np.flatnonzero(rng.random(count) < conditions.late):
        switched[c, : int(rng.integers(20, max(21, frames // 2)))] = 0.0
    for c in np.flatnonzero(rng.random(count) < conditions.muted):
        at = int(rng.integers(0, frames))
        switched[c, at : at + int(rng.integers(20, 160))] = 0.0
    return switched


def speech_in(songs: Sequence[Path]) -> list[Speech]:
    """Stems of these songs that are spoken."""
    return [(path, i) for path in songs for i, stem in enumerate(load_song(path).stems) if stem.spoken]


class Examples:
    """A corpus's examples without end: every song once per epoch, in a new order and on a new stage.

    Parameters
    ----------
    songs : sequence of Path
        Folders of songs.
    conditions : Conditions
    seed : int
    """

    def __init__(self, songs: Sequence[Path], conditions: Conditions, seed: int) -> None:
        self.songs, self.conditions, self.seed = list(songs), conditions, seed
        self.speech = speech_in(self.songs) if conditions.talk else []

    def __getitem__(self, number: int) -> Example:
        epoch, index = divmod(number, len(self.songs))
        order = np.random.default_rng(np.random.SeedSequence([self.seed, epoch])).permutation(len(self.songs))
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch, index]))
        return make_example(load_song(self.songs[order[index]]), rng, self.conditions, self.speech)
