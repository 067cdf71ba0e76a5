"""What a report needs to have heard of a mix: the raw sum's loudness, true peak, two sounds to compare."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from alm_plugin.features.loudness import HOP_MS, IntegratedLoudness, gated_lufs
from alm_plugin.mixer import Mixer
from alm_plugin.nodes.delay import Delay
from alm_plugin.stream import Block
from alm_plugin.units import db_to_factor, factor_to_db

Audio = NDArray[np.float32]

OVERSAMPLING = 4

CHUNK_S, EXCERPT_CHUNKS, WHOLE_CHUNKS = 5, 15, 72
"""Players hold all of a mix up to 6 minutes, of a longer one its loudest 75 seconds."""

# MP3 is what every browser plays. Of constant rate it needs no table to seek by, which keeps two players in step, and
# its size is known. At 44.1 kHz the encoder would leave out what lies above 16 kHz, too, and code the rest worse.
PLAYER_RATE, PLAYER_FORMAT = 32_000, "MP3"
RATES_KBPS = (128, 112, 96, 80, 64, 56)
MOST_BYTES = 7_400_000
"""The best of the rates at which both sounds take no more than this in base64: 128 up to 2:53, 96 up to 3:51."""

PEAK_DBFS = -3.0
"""Highest sample given to the encoder, whose own ripple then stays below -1 dBFS."""


@dataclass(frozen=True)
class Players:
    """Two sounds that are equally loud: MP3 of the raw sum and of the mix, and what was done to them.

    Attributes
    ----------
    start_s, seconds : float
        Which part of the mix they hold.
    is_whole : bool
    kbps : int
        Of each.
    lufs : float
        Of both.
    raw_gain_db, mix_gain_db : float
        That made them so.
    raw, mix : bytes
    """

    start_s: float
    seconds: float
    is_whole: bool
    kbps: int
    lufs: float
    raw_gain_db: float
    mix_gain_db: float
    raw: bytes
    mix: bytes


@dataclass(frozen=True)
class _Chunk:
    """Some seconds of raw sum and mix, in 16 bits of their own largest sample."""

    samples: NDArray[np.int16]
    scale: np.float32
    peaks: tuple[float, float]
    energy: float

    @property
    def audio(self) -> Audio:
        return self.samples * self.scale


class Heard:
    """Observer of a mixer: what `write_report` needs to have heard while the mix is rendered.

    It changes nothing, and of a mix of any length keeps six minutes at most: 92 MB for stereo. How loud the players
    may be is known only at the end, so that nothing is encoded before.

    Parameters
    ----------
    mixer : Mixer
        To be appended to its `observers` by the caller.

    Attributes
    ----------
    raw : IntegratedLoudness
        Of the plain sum of the inputs, delayed as the mix is: in step with what `render_files` measures of that.

    Examples
    --------
    >>> import numpy as np
    >>> from alm_plugin import Mixer, Strip
    >>> mixer = Mixer({"a": Strip(lock_db=-6)}, model="unity")
    >>> heard = Heard(mixer)
    >>> mixer.observers.append(heard)
    >>> tone = 0.1 * np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)
    >>> _ = mixer.process({"a": tone}, 48_000)
    >>> round(heard.raw.lufs, 1), round(heard.true_peak_dbtp, 1)
    (-20.0, -26.0)
    """

    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer
        self._begin(48_000, mixer.channels, 0)

    def _begin(self, sample_rate: int, width: int, latency: int) -> None:
        self.raw = IntegratedLoudness(sample_rate, width)
        self._width, self._latency, self._ended = width, latency, False
        self._delay = Delay(latency, width)
        self._peak = 0.0
        self._finer = soxr.ResampleStream(sample_rate, OVERSAMPLING * sample_rate, width, dtype="float32")
        self._to_player = soxr.ResampleStream(sample_rate, PLAYER_RATE, 2 * width, dtype="float32")
        self._chunk = np.zeros((2 * width, CHUNK_S * PLAYER_RATE), np.float32)
        self._filled = 0
        self._chunks: dict[int, _Chunk] = {}
        self._count = 0
        self._loudest, self._most = 0, -1.0
        self._players: Players | None = None

    def __call__(self, block: Block) -> None:
        """Hear a block."""
        width, samples = block.mix.shape
        if block.position == 0:
            self._begin(block.sample_rate, width, self._mixer.reported_latency_samples)
        raw = np.zeros((width, samples), np.float32)
        for audio in block.inputs.values():
            raw += audio if width == 2 else audio.mean(axis=0)
        raw = self._delay.process_block(raw)
        self.raw.process_block(raw)
        skip = min(max(0, self._latency - block.position), samples)
        self._hear(np.concatenate([raw, block.mix])[:, skip:])

    def _hear(self, both: Audio, last: bool = False) -> None:
        mix = both[self._width :]
        fine = self._finer.resample_chunk(np.ascontiguousarray(mix.T), last=last)
        self._peak = max(self._peak, float(np.abs(fine).max(initial=0.0)), float(np.abs(mix).max(initial=0.0)))
        both = self._to_player.resample_chunk(np.ascontiguousarray(both.T), last=last).T
        while both.shape[1]:
            taken, both = np.split(both, [self._chunk.shape[1] - self._filled], axis=1)
            self._chunk[:, self._filled : self._filled + taken.shape[1]] = taken
            self._filled += taken.shape[1]
            if self._filled == self._chunk.shape[1]:
                self._keep()
        if last and self._filled:
            self._keep()

    def _keep(self) -> None:
        audio = self._chunk[:, : self._filled]
        raw, mix = np.split(audio, 2)
        peaks = float(np.abs(raw).max()), float(np.abs(mix).max())
        scale = np.float32(max(*peaks, 1e-9) / 32_767.0)
        self._chunks[self._count] = _Chunk(
            np.rint(audio / scale).astype(np.int16), scale, peaks, float(np.square(mix).sum(dtype=np.float64))
        )
        self._count += 1
        self._filled = 0
        newest = max(0, self._count - EXCERPT_CHUNKS)
        energy = sum(self._chunks[n].energy for n in range(newest, self._count))
        if energy > self._most:
            self._loudest, self._most = newest, energy
        if self._count > WHOLE_CHUNKS:
            wanted = {*range(self._loudest, self._loudest + EXCERPT_CHUNKS), *range(newest, self._count)}
            self._chunks = {n: chunk for n, chunk in self._chunks.items() if n in wanted}

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._hear(np.zeros((2 * self._width, 0), np.float32), last=True)

    @property
    def true_peak_dbtp(self) -> float:
        """Highest value of the mix, four times oversampled; asking ends the stream."""
        self._end()
        return float(factor_to_db(self._peak))

    def players(self, mix_powers: NDArray[np.float64]) -> Players | None:
        """Raw sum and mix at one loudness; None where one of them is silent or MP3 cannot be written here.

        Asking ends the stream, and what was kept of it is then let go. `mix_powers` is the mix's K-weighted power of
        every 100 ms.
        """
        self._end()
        if self._chunks and PLAYER_FORMAT in soundfile.available_formats():
            self._players = self._encode([self.raw.hop_powers, mix_powers])
        self._chunks = {}
        return self._players

    def _excerpt(self) -> tuple[int, list[_Chunk]]:
        """Find what the players are to hold: number of the first chunk, and all of them."""
        first, count = (0, self._count) if self._count <= WHOLE_CHUNKS else (self._loudest, EXCERPT_CHUNKS)
        return first, [self._chunks[n] for n in range(first, min(first + count, self._count))]

    def _encode(self, powers: Sequence[NDArray[np.float64]]) -> Players | None:
        first, chunks = self._excerpt()
        hops = CHUNK_S * 1000 // HOP_MS
        part = slice(first * hops, (first + len(chunks)) * hops)
        lufs = [gated_lufs(of_side[part]) for of_side in powers]
        if not all(map(math.isfinite, lufs)):
            return None
        peaks = [float(factor_to_db(max(peaks))) for peaks in zip(*(chunk.peaks for chunk in chunks), strict=True)]
        # As loud as the one with the higher crest lets both be.
        level = min(PEAK_DBFS - peak + own for peak, own in zip(peaks, lufs, strict=True))
        seconds = sum(chunk.samples.shape[1] for chunk in chunks) / PLAYER_RATE
        kbps = next(kbps for kbps in RATES_KBPS if 2 * seconds * kbps * 1000 / 8 * 4 / 3 <= MOST_BYTES)
        sounds = []
        for side, own in enumerate(lufs):
            factor = np.float32(db_to_factor(level - own))
            file = io.BytesIO()
            # libsndfile spans the rates from 320 to 32 kbit/s by 0 to 1.
            options = {"bitrate_mode": "CONSTANT", "compression_level": (320 - kbps) / (320 - 32)}
            with soundfile.SoundFile(file, "w", PLAYER_RATE, self._width, format=PLAYER_FORMAT, **options) as out:
                for chunk in chunks:
                    out.write((np.split(chunk.audio, 2)[side] * factor).T)
            sounds.append(file.getvalue())
        start_s, is_whole = float(first * CHUNK_S), len(chunks) == self._count
        return Players(start_s, seconds, is_whole, kbps, level, level - lufs[0], level - lufs[1], *sounds)
