"""Files through a mixer, block by block: never a whole song in memory, never half a file on disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AudioFileError, ParameterError
from alm_plugin.features.clock import check_sample_rate
from alm_plugin.features.front_end import MAX_CHANNELS
from alm_plugin.features.loudness import IntegratedLoudness
from alm_plugin.mixer import Mixer
from alm_plugin.stream import Block
from alm_plugin.units import factor_to_db

Audio = NDArray[np.float32]

READABLE = (".wav", ".flac", ".aif", ".aiff", ".mp3", ".ogg")
WRITABLE = {".wav": "WAV", ".flac": "FLAC", ".aif": "AIFF", ".aiff": "AIFF", ".ogg": "OGG"}
BLOCK = 8192
LARGEST = 0xFFFF_0000
"""Bytes of sound in a WAV or AIFF file, whose sizes inside have 32 bits."""

MP3_RUN_UP, MP3_BLOCK = 10 * 1152, 65_536

Progress = Callable[[int, int], None]
"""Called with samples done and samples in all."""


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """One channel's audio: a file, or a pair of mono files for left and right.

    Attributes
    ----------
    name : str
        File name without ending, and for a pair without its L and R.
    paths : tuple of Path
    sample_rate, frames, width : int
        As in the file; width 1 or 2.
    """

    name: str
    paths: tuple[Path, ...]
    sample_rate: int
    frames: int
    width: int

    def samples_at(self, sample_rate: int) -> int:
        """Length after conversion to another rate."""
        return -(-self.frames * sample_rate // self.sample_rate)


def find_tracks(paths: str | Path | Iterable[str | Path]) -> list[Track]:
    """Tracks in files and folders, L/R pairs of mono files joined, sorted by name within each folder.

    Raises
    ------
    AudioFileError
        For files that are missing, empty, unreadable or wider than stereo, folders without audio, names used twice.
    ParameterError
        For none or more than 64 tracks.
    """
    files: list[Path] = []
    for given in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        if given.is_dir():
            found = sorted(p for p in given.iterdir() if _is_track(p))
            if not found:
                raise AudioFileError(f"{given}: expected a folder with {', '.join(READABLE)} files, got none")
            files += found
        else:
            files.append(given)
    tracks = _pair([_inspect(path) for path in files])
    seen: dict[str, Track] = {}
    for track in tracks:
        if track.name in seen:
            other = seen[track.name].paths[0]
            raise AudioFileError(
                f"{track.paths[0]}: expected channel names to differ, got {track.name!r} from {other} too"
            )
        seen[track.name] = track
    if not 1 <= len(tracks) <= MAX_CHANNELS:
        raise ParameterError(f"a mix takes 1 to {MAX_CHANNELS} channels, got {len(tracks)}")
    return tracks


def _is_track(path: Path) -> bool:
    return path.suffix.lower() in READABLE and not path.name.startswith(".") and not path.is_dir()


def _inspect(path: Path) -> Track:
    if not path.exists():
        raise AudioFileError(f"{path}: expected an audio file or a folder, got nothing there")
    if path.is_file() and path.stat().st_size == 0:
        raise AudioFileError(f"{path}: expected audio, got an empty file")
    try:
        _refuse_strangers(path)
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, UnicodeError) as error:
        raise AudioFileError(f"{path}: expected audio ({', '.join(READABLE)}), got {reason_of(error)}") from None
    if info.frames == 0:
        raise AudioFileError(f"{path}: expected at least one sample, got a track of length zero")
    if info.channels > 2:
        raise AudioFileError(f"{path}: expected a mono or stereo file, got {info.channels} channels")
    try:
        check_sample_rate(info.samplerate)
    except ParameterError as error:
        raise AudioFileError(f"{path}: {error}") from None
    return Track(path.stem, (path,), info.samplerate, info.frames, info.channels)


def _refuse_strangers(path: Path) -> None:
    # libsndfile takes what it does not know for MP3, and libmpg123 then prints to the terminal.
    with path.open("rb") as file:
        start = file.read(4)
    is_mp3 = start[:3] == b"ID3" or (start[:1] == b"\xff" and start[1:2] >= b"\xe0")
    if (
        path.suffix.lower() in READABLE
        and not is_mp3
        and start not in (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"FORM", b"OggS")
    ):
        raise AudioFileError(f"{path}: expected audio ({', '.join(READABLE)}), got something else")


# "gtr_L", "keys (R)", "oh.left", "bassLeft", "OHL": a word, or a capital glued to the name.
_SIDE = re.compile(r"^(.+?)(?:[ _.-]+\(?(l|r|left|right)\)?|((?-i:L|R|Left|Right)))$", re.IGNORECASE)


def _side_of(name: str) -> tuple[str, str] | None:
    match = _SIDE.match(name)
    return match and (match[1], (match[2] or match[3])[0].upper())


def _pair(tracks: Sequence[Track]) -> list[Track]:
    sides: dict[tuple[Path, str, str], Track] = {}
    for track in tracks:
        side = _side_of(track.name)
        if side and track.width == 1:
            sides[track.paths[0].parent, side[0].lower(), side[1]] = track
    paired: list[Track] = []
    used: set[Path] = set()
    for track in tracks:
        if track.paths[0] in used:
            continue
        side = _side_of(track.name)
        other = None
        if side and track.width == 1:
            other = sides.get((track.paths[0].parent, side[0].lower(), "R" if side[1] == "L" else "L"))
        if other and (other.sample_rate, other.frames) == (track.sample_rate, track.frames):
            left, right = (track, other) if side and side[1] == "L" else (other, track)
            used.update((left.paths[0], right.paths[0]))
            name = side[0] if side else track.name
            track = Track(name, (left.paths[0], right.paths[0]), track.sample_rate, track.frames, 2)
        paired.append(track)
    return paired


class TrackReader:
    """A track as a stream at the mix's rate, silent after its end."""

    def __init__(self, track: Track, sample_rate: int, stack: ExitStack) -> None:
        self.track = track
        self._files = [stack.enter_context(soundfile.SoundFile(path)) for path in track.paths]
        self._resampler = None
        if track.sample_rate != sample_rate:
            self._resampler = soxr.ResampleStream(track.sample_rate, sample_rate, track.width, dtype="float32")
        self._ready = np.zeros((track.width, 0), np.float32)
        self._read = 0
        self._ended = False

    def read(self, samples: int) -> Audio:
        """Return the next (width, samples)."""
        while self._ready.shape[1] < samples:
            if self._ended:
                return self._take(samples)
            more = self._next()
            self._ready = np.concatenate([self._ready, more], axis=1)
        return self._take(samples)

    def _take(self, samples: int) -> Audio:
        out, self._ready = self._ready[:, :samples], self._ready[:, samples:]
        return np.pad(out, ((0, 0), (0, samples - out.shape[1])))

    def _next(self) -> Audio:
        try:
            parts = [_read(file, self._read) for file in self._files]
        except (soundfile.SoundFileError, OSError) as error:
            got = f"{reason_of(error)} after {self._read}"
            raise AudioFileError(f"{self.track.paths[0]}: expected {self.track.frames} samples, got {got}") from None
        raw = np.ascontiguousarray(np.concatenate([part[:, : min(p.shape[1] for p in parts)] for part in parts]))
        bad = np.flatnonzero(~np.isfinite(raw).all(axis=0))
        if bad.size:
            value = raw[:, bad[0]][~np.isfinite(raw[:, bad[0]])][0]
            at = self._read + int(bad[0])
            raise AudioFileError(f"{self.track.paths[0]}: expected finite samples, got {value} at sample {at}")
        self._read += raw.shape[1]
        self._ended = raw.shape[1] == 0
        # The length of an MP3 file is an estimate where its encoder has not written it down.
        if self._ended and self._read != self.track.frames and self._files[0].format != "MP3":
            raise AudioFileError(f"{self.track.paths[0]}: expected {self.track.frames} samples, got {self._read}")
        if self._resampler is None:
            return raw
        return np.ascontiguousarray(self._resampler.resample_chunk(raw.T, last=self._ended).T)


def _read(file: soundfile.SoundFile, position: int) -> Audio:
    """Next samples of a file (channels, samples), which has been read up to `position`."""
    if file.format != "MP3":
        return np.asarray(file.read(BLOCK, dtype="float32", always_2d=True).T, np.float32)
    # soundfile seeks after every read, and MP3 frames borrow bits from up to nine frames before them: what follows a
    # seek is garbage unless it is given that much of a run-up.
    start = max(0, position - MP3_RUN_UP)
    file.seek(start)
    audio = file.read(position - start + MP3_BLOCK, dtype="float32", always_2d=True)
    return np.asarray(audio[position - start :].T, np.float32)


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_output(path: Path, bits: int | None) -> tuple[str, str]:
    """Format and subtype for an output file.

    Raises
    ------
    AudioFileError
        For an ending or depth that cannot be written, or a folder that is not there.
    """
    container = WRITABLE.get(path.suffix.lower())
    if container is None:
        raise AudioFileError(f"{path}: expected an output ending in {', '.join(WRITABLE)}, got {path.suffix or 'none'}")
    if not path.parent.is_dir():
        raise AudioFileError(f"{path}: expected an existing folder, got {path.parent}")
    if path.is_dir():
        raise AudioFileError(f"{path}: expected a file, got a folder")
    if container == "OGG":
        return container, "VORBIS"
    depth = bits or (24 if container == "FLAC" else 32)
    if depth not in (16, 24, 32):
        raise AudioFileError(f"{path}: expected 16, 24 or 32 bits, got {bits}")
    if depth == 32 and container == "FLAC":
        raise AudioFileError(f"{path}: expected 16 or 24 bits for FLAC, got 32")
    return container, {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}[depth]


class _Writer:
    """An audio file being written; 16-bit files get triangular dither of one step either way."""

    def __init__(
        self, path: Path, temporary: Path, sample_rate: int, width: int, bits: int | None, samples: int
    ) -> None:
        self.path, self.temporary = path, temporary
        container, subtype = check_output(path, bits)
        if container in ("WAV", "AIFF") and samples * width * 4 > LARGEST:
            if container == "AIFF":
                raise AudioFileError(
                    f"{path}: expected less than 4 GB for AIFF, got {samples} samples; use WAV or FLAC"
                )
            container = "RF64"
        self._dither = np.random.default_rng(0) if subtype == "PCM_16" else None
        self._written = 0
        try:
            self._file = soundfile.SoundFile(temporary, "w", sample_rate, width, subtype, format=container)
        except (soundfile.SoundFileError, OSError, UnicodeError) as error:
            raise AudioFileError(f"{path}: expected to write it, got {reason_of(error)}") from None

    def write(self, audio: Audio) -> None:
        if self._dither is not None:
            noise = self._dither.random(audio.shape) - self._dither.random(audio.shape)
            audio = (audio + noise / 32768.0).astype(np.float32)
        try:
            self._file.write(audio.T)
        except (soundfile.SoundFileError, OSError, AssertionError) as error:
            self._file.close()
            is_full = shutil.disk_usage(self.path.parent).free < 1 << 20
            reason = "no space left on device" if is_full else reason_of(error)
            raise AudioFileError(f"{self.path}: expected to write it whole, got {reason}") from None
        self._written += audio.shape[1]

    def close(self) -> None:
        """Close and look: libsndfile does not report every byte that a full disk has swallowed."""
        try:
            self._file.close()
            frames = soundfile.info(self.temporary).frames
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioFileError(f"{self.path}: expected to write it whole, got {reason_of(error)}") from None
        if frames != self._written:
            raise AudioFileError(
                f"{self.path}: expected to write {self._written} samples, got {frames} on disk: is it full?"
            )


# ---- rendering -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelReport:
    """What a render did to one channel.

    Attributes
    ----------
    input_lufs, output_lufs : float
        Integrated loudness before the gain and in the mix; ``-inf`` for silence.
    mean_gain_db, least_gain_db, most_gain_db, last_gain_db : float
        Of the gain curve.
    input_powers, output_powers : (hops,) float64
        What the loudnesses are made of: K-weighted power of every 100 ms.
    """

    name: str
    role: str | None
    input_lufs: float
    output_lufs: float
    mean_gain_db: float
    least_gain_db: float
    most_gain_db: float
    last_gain_db: float
    input_powers: NDArray[np.float64] = field(repr=False, compare=False)
    output_powers: NDArray[np.float64] = field(repr=False, compare=False)


@dataclass(frozen=True)
class RenderReport:
    """What came out of a render; loudness in LUFS, peak in dBFS of samples.

    `powers` is what the loudness is made of, as a channel's are: of the mix as it left the mixer, latency included.
    """

    output: Path
    sample_rate: int
    seconds: float
    model: str
    latency_samples: int
    loudness_lufs: float
    peak_dbfs: float
    ceiling_samples: int
    faults: dict[str, int]
    channels: list[ChannelReport]
    powers: NDArray[np.float64] = field(repr=False, compare=False)


class _Listener:
    """Observer that measures, and hands each strip's output on."""

    def __init__(self, mixer: Mixer, tracks: Sequence[Track], sample_rate: int) -> None:
        self.before = {t.name: IntegratedLoudness(sample_rate, t.width) for t in tracks}
        self.after = {t.name: IntegratedLoudness(sample_rate, t.width) for t in tracks}
        self.mix = IntegratedLoudness(sample_rate, mixer.channels)
        self.peak = 0.0
        self.outputs: dict[str, Audio] = {}

    def __call__(self, block: Block) -> None:
        for name, meter in self.before.items():
            meter.process_block(block.taps[name])
            self.after[name].process_block(block.outputs[name])
        self.mix.process_block(block.mix)
        self.peak = max(self.peak, float(np.abs(block.mix).max(initial=0.0)))
        self.outputs = block.outputs


def render_files(
    tracks: Sequence[Track],
    output: str | Path,
    mixer: Mixer,
    *,
    sample_rate: int | None = None,
    bits: int | None = None,
    stems_dir: str | Path | None = None,
    also: Mapping[Path, Callable[[Path, RenderReport], None]] | None = None,
    progress: Progress | None = None,
) -> RenderReport:
    """Mix files into a file.

    Parameters
    ----------
    tracks : sequence of Track
        From `find_tracks`; each name must be a channel of the mixer. Any rates, lengths and widths.
    output : path
        ``.wav``, ``.flac``, ``.aiff`` or ``.ogg``; written under another name first.
    mixer : Mixer
        Starts a new stream. Latency of its plugins is taken out again.
    sample_rate : int, optional
        Of the mix; by default the highest of the tracks'.
    bits : {16, 24, 32}, optional
        32 is float; default 32, for FLAC 24. 16 is dithered.
    stems_dir : path, optional
        Existing folder for each channel as it stands in the mix before panning, named as the channel.
    also : dict of path to callable, optional
        Other files that belong to the mix: each callable is given a temporary name to write to and what is returned,
        after all sound.
    progress : callable, optional

    Returns
    -------
    RenderReport

    Raises
    ------
    AudioFileError, ParameterError
        With one line that says what; all files are then as they were.
    """
    output = Path(output)
    if not tracks:
        raise ParameterError("tracks must hold at least one, got none")
    rate = max(t.sample_rate for t in tracks) if sample_rate is None else check_sample_rate(sample_rate)
    total = max(t.samples_at(rate) for t in tracks)
    check_output(output, bits)
    stems = {} if stems_dir is None else {t.name: Path(stems_dir) / f"{t.name}{output.suffix}" for t in tracks}
    also = also or {}
    _refuse_overlap([output, *stems.values(), *also], tracks)
    listener = _Listener(mixer, tracks, rate)
    mixer.observers.append(listener)
    try:
        with ExitStack() as stack:
            readers = {track.name: TrackReader(track, rate, stack) for track in tracks}
            others = {path: stack.enter_context(staged(path)) for path in also}
            whole = _Writer(output, stack.enter_context(staged(output)), rate, mixer.channels, bits, total)
            parts = {}
            for track in tracks if stems else ():
                path = stems[track.name]
                parts[track.name] = _Writer(path, stack.enter_context(staged(path)), rate, track.width, bits, total)
            mixer.reset()
            latency, done, written = None, 0, 0
            while latency is None or done < total + latency:
                end = total if latency is None else total + latency
                samples = min(BLOCK, end - done)
                blocks = {name: reader.read(samples) for name, reader in readers.items()}
                mix = mixer.process(blocks, rate, BLOCK, reset=False)
                latency = mixer.reported_latency_samples
                skip = min(max(0, latency - done), samples)
                done += samples
                whole.write(mix[:, skip:])
                for name, writer in parts.items():
                    writer.write(listener.outputs[name][:, skip:])
                written += samples - skip
                if progress:
                    progress(written, total)
            for writer in (whole, *parts.values()):
                writer.close()
            report = _report(output, rate, total, mixer, tracks, listener)
            for path, write in also.items():
                write(others[path], report)
    finally:
        mixer.observers.remove(listener)
    return report


def _refuse_overlap(outputs: Sequence[Path], tracks: Sequence[Track]) -> None:
    """See to it that no output is one of the tracks, another output, or no file at all."""
    seen: set[Path] = set()
    for path in outputs:
        if not path.parent.is_dir():
            raise AudioFileError(f"{path}: expected an existing folder, got {path.parent}")
        if path.is_dir():
            raise AudioFileError(f"{path}: expected a file, got a folder")
        for track in tracks:
            if any(path.exists() and path.samefile(source) for source in track.paths):
                raise AudioFileError(f"{path}: expected an output that is none of the tracks, got track {track.name!r}")
        if path.resolve() in seen:
            raise AudioFileError(f"{path}: expected outputs to differ, got this one twice")
        seen.add(path.resolve())


def _report(
    output: Path, rate: int, total: int, mixer: Mixer, tracks: Sequence[Track], listener: _Listener
) -> RenderReport:
    curves = mixer.automation.gains_db
    channels = []
    for track in tracks:
        curve = curves[track.name]
        channels.append(
            ChannelReport(
                track.name,
                mixer[track.name].role,
                listener.before[track.name].lufs,
                listener.after[track.name].lufs,
                float(curve.mean()),
                float(curve.min()),
                float(curve.max()),
                float(curve[-1]),
                listener.before[track.name].hop_powers,
                listener.after[track.name].hop_powers,
            )
        )
    return RenderReport(
        output,
        rate,
        total / rate,
        mixer.model.metadata.name,
        mixer.reported_latency_samples,
        listener.mix.lufs,
        float(factor_to_db(listener.peak)),
        mixer.ceiling_samples,
        mixer.faults,
        channels,
        listener.mix.hop_powers,
    )
