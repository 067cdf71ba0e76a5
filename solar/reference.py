"""The mix that is wanted: a recording, taken apart as the live sound will be, so that both have the same faults."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import soxr
from numpy.typing import NDArray

from alm_plugin.data import reason_of
from alm_plugin.errors import AlmError, AudioFileError, ModelError, ParameterError
from alm_plugin.features.front_end import as_block
from alm_plugin.features.guard import LIMIT
from alm_plugin.nodes.external.registry import registry_path
from alm_plugin.render import Progress, TrackReader, find_tracks
from alm_plugin.units import db_to_factor
from solar.bands import MIN_SAMPLE_RATE, check_rate
from solar.mix_map import Mapper, MixMap, Second, power_ratio_db, to_mono

Audio = NDArray[np.float32]

ROOM = "room"
"""Name of the input that hears everybody."""

WINDOW_S = 7.8
"""What HTDemucs was trained on; anything shorter is padded to it and costs the same."""

WITHOUT_WEIGHTS = (
    "download a .safetensors file from https://huggingface.co/adefossez/HTDemucs (955717e8: drums, bass, other, "
    "vocals) or https://huggingface.co/adefossez/HTDemucs-6s (5c90dfd2: guitar and piano too), put it into a folder of "
    "its own, and name that with --model-dir or Demucs(folder). Or do without: a folder of stems as reference, and an "
    "input for every stem (--input multitrack), or one for the player's pickup and one for the room "
    "(--channel guitar=1 --channel room=2)"
)

MIN_REFERENCE_S, MIN_PLAYING_S = 20, 10
"""A reference that is shorter, or has less of the player, says too little."""

AUDIBLE_DB = -35.0
"""Power of a player against all others together: what a separator leaves in an empty stem is below."""

SILENCE = 1e-4
CLIPPED_SAMPLES = 3
"""So many at full scale within 100 ms are no accident."""

CALIBRATION_S = 63
"""So much of the reference is taken apart again for every gain: nine windows of Demucs, spread over the song."""

KEPT = 2
"""Counts whenever what is kept on disk would be another."""


# ---- taking apart ----------------------------------------------------------------------------------------------------


class Separator(Protocol):
    """Whatever takes a recording apart: two lines are enough.

    One may also have `inputs`, names of the rows that it wants: that of a stem, or ``"room"`` for all together (the
    default is one room); and `window_s`, how much it wants at a time (7.8 s), None for any amount.
    """

    def separate(self, wav: Audio, sample_rate: int) -> dict[str, Audio]:
        """Return stems by name, (1 or 2, samples) each, of `wav` (rows, samples)."""
        ...


class Multitrack:
    """No separation: every stem has an input of its own, and is heard in the best quality there is.

    Parameters
    ----------
    names : sequence of str
        Of the stems, 2 to 16.

    Examples
    --------
    >>> stems = Multitrack(["guitar", "vocals"]).separate(np.zeros((2, 4), np.float32), 48_000)
    >>> list(stems), stems["guitar"].shape
    (['guitar', 'vocals'], (1, 4))
    """

    window_s = None

    def __init__(self, names: Sequence[str]) -> None:
        self.inputs = tuple(names)

    def separate(self, wav: Audio, sample_rate: int) -> dict[str, Audio]:
        """Return each row by its name."""
        return {name: row[None] for name, row in zip(self.inputs, wav, strict=True)}


class DirectAndRoom:
    """Two inputs: a player's own pickup, and a microphone in the room, taken apart into the player and the band.

    What of the room follows the pickup linearly is the player, the rest the band: ``H = S_rd / S_dd`` for each
    frequency over a window (J. S. Bendat, A. G. Piersol, "Random Data", chapter 6), less what as many averages find
    between strangers. The pickup has to be behind all effects, at the best in front of the loudspeaker: what an
    amplifier's distortion adds does not follow a clean signal, and counts as band.

    Parameters
    ----------
    player : str

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> guitar, drums = rng.standard_normal((2, 200_000)).astype(np.float32)
    >>> stems = DirectAndRoom("guitar").separate(np.stack([guitar, 0.3 * guitar + drums]), 44_100)
    >>> [round(float(np.std(stems[name])), 1) for name in ("guitar", "band")]
    [0.3, 1.0]
    """

    window_s = WINDOW_S
    FRAME_S, MAX_DELAY_S = 0.19, 0.1

    def __init__(self, player: str) -> None:
        self.inputs = (player, ROOM)

    def separate(self, wav: Audio, sample_rate: int) -> dict[str, Audio]:
        """Return the player as the room hears it, and what else it hears, of `wav`: pickup and room."""
        direct, room = wav.astype(np.float64)
        samples = len(room)
        frame = 1 << round(np.log2(self.FRAME_S * sample_rate))
        hop = frame // 4
        direct = _delayed(direct, room, round(self.MAX_DELAY_S * sample_rate))
        window = np.sqrt(2.0 / 3.0) * (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(frame) / frame))  # sum of squares: 1
        frames = -(-samples // hop) + 3

        def spectra(x: NDArray[np.float64]) -> NDArray[np.complex128]:
            padded = np.pad(x, (3 * hop, (frames + 3) * hop - samples - 3 * hop + frame))
            return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop][:frames] * window)

        d, r = spectra(direct), spectra(room)
        powers = np.sum(np.abs(d) ** 2, axis=0), np.sum(np.abs(r) ** 2, axis=0)
        cross = np.sum(r * d.conj(), axis=0)
        tiny = np.finfo(np.float64).tiny
        coherence = np.abs(cross) ** 2 / np.maximum(powers[0] * powers[1], tiny)
        # Hann windows that overlap by three quarters are worth 1 / (1 + 2 (0.659^2 + 0.167^2)) of as many apart.
        strangers = 1.92 / frames
        sure = np.clip((coherence - strangers) / (1.0 - strangers), 0.0, 1.0) / np.maximum(coherence, tiny)
        heard = np.fft.irfft(d * (cross / np.maximum(powers[0], tiny) * np.sqrt(sure)), frame) * window
        player = np.zeros((frames + 3) * hop)
        for k in range(frames):
            player[k * hop : k * hop + frame] += heard[k]
        player = player[3 * hop : 3 * hop + samples]
        return {
            self.inputs[0]: player.astype(np.float32)[None],
            "band": (room - player).astype(np.float32)[None],
        }


def _delayed(direct: NDArray[np.float64], room: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """`direct` as late as it is in `room`, at most `most` samples."""
    size = 1 << (len(room) + most - 1).bit_length()
    cross = np.fft.irfft(np.fft.rfft(room, size) * np.fft.rfft(direct, size).conj(), size)[: most + 1]
    lag = int(np.argmax(np.abs(cross)))
    return np.pad(direct, (lag, 0))[: len(direct)]


class Demucs:
    """Hybrid Transformer Demucs (S. Rouard, F. Massa, A. Defossez, ICASSP 2023), with weights from a local folder.

    Nothing is ever downloaded, and nothing is read but numbers: safetensors, whose metadata may name one of two
    classes.

    Parameters
    ----------
    model_dir : Path
        Folder with one ``.safetensors`` file as Demucs publishes it, or with several and the ``.yaml`` that names them;
        or such a file.

    Raises
    ------
    ModelError
        Without weights there, or for any other file.
    AlmError
        If Demucs is not installed.
    """

    CLASSES = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs")

    def __init__(self, model_dir: str | Path) -> None:
        folder = Path(model_dir)
        paths, self._weights = _weights_in(folder)
        self._models = [_load_demucs(path, self.CLASSES) for path in paths]
        first = self._models[0]
        if any((m.sources, m.samplerate) != (first.sources, first.samplerate) for m in self._models):
            raise ModelError(f"{folder}: expected models of the same stems and rate, got others")
        self.names = tuple(first.sources)
        self.sample_rate = int(first.samplerate)
        self.window_s = float(min(WINDOW_S, *(m.segment for m in self._models)))
        digest = hashlib.sha256()
        for path in paths:
            digest.update(path.read_bytes())
        self.fingerprint = digest.hexdigest()

    def __repr__(self) -> str:
        return f"<solar.Demucs {', '.join(self.names)}, {self.window_s:g} s at a time>"

    def separate(self, wav: Audio, sample_rate: int) -> dict[str, Audio]:
        """Return the stems of `wav` (1 or 2, samples), (2, samples) each; always the same ones for the same sound."""
        import torch
        from demucs.apply import apply_model  # pyright: ignore[reportMissingImports]

        stereo = np.broadcast_to(wav, (2, wav.shape[1])).astype(np.float32)
        x = torch.from_numpy(_resampled(stereo, sample_rate, self.sample_rate))
        mid = x.mean(0)
        mean, scale = mid.mean(), mid.std() + 1e-8  # as demucs.api does
        split = x.shape[1] > self.window_s * self.sample_rate
        out: Any = 0.0
        for k, model in enumerate(self._models):
            stems = apply_model(model, ((x - mean) / scale)[None], shifts=0, split=split)[0]
            out = out + stems * torch.tensor(self._weights[k])[:, None, None]
        out = (out / torch.tensor(self._weights).sum(0)[:, None, None] * scale + mean).numpy()
        samples = wav.shape[1]
        stems = (_resampled(stem, self.sample_rate, sample_rate)[:, :samples] for stem in out)
        return {
            name: np.pad(stem, ((0, 0), (0, samples - stem.shape[1])))
            for name, stem in zip(self.names, stems, strict=True)
        }


def _weights_in(folder: Path) -> tuple[list[Path], list[list[float]]]:
    """Files of a model, and how much each counts for each stem."""
    if folder.suffix == ".safetensors" and folder.is_file():
        return [folder], [[1.0]]
    files, bags = sorted(folder.glob("*.safetensors")), sorted(folder.glob("*.yaml"))
    if not files:
        got = "only pickled ones (.th), which are code" if any(folder.glob("*.th")) else "none"
        raise ModelError(f"{folder}: expected a folder with Demucs's weights, got {got}: {WITHOUT_WEIGHTS}")
    if len(files) == 1:
        return files, [[1.0]]
    if len(bags) != 1:
        got = ", ".join(path.name for path in files)
        raise ModelError(f"{folder}: expected one .safetensors file, or the .yaml that says which to use, got {got}")
    yaml = _demucs_module("yaml")
    try:
        bag = yaml.safe_load(bags[0].read_text(encoding="utf-8"))
        by_signature = {path.stem.split("-")[0]: path for path in files}
        paths = [by_signature[str(name)] for name in bag["models"]]
        weights = [[float(w) for w in row] for row in bag.get("weights") or [[1.0]] * len(paths)]
        if len(weights) != len(paths) or not np.all(np.sum(weights, axis=0) > 0.0):
            raise ValueError("weights that do not fit")
    except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{bags[0]}: expected the names of the .safetensors files there, got {reason_of(error)}"
        ) from None
    return paths, weights


def _demucs_module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise AlmError(f"separation needs the demucs extra (pip install 'alm-plugin[demucs]'), got {error}") from None


def _load_demucs(path: Path, classes: Sequence[str]) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: expected safetensors, got {reason_of(error)}") from None
    # The class is found by name in the file: any other would be whatever its author likes.
    if (kind := about.get("klass", "none")) not in classes:
        raise ModelError(f"{path}: klass must be one of {', '.join(classes)}, got {kind!r}")
    if "structure" in about:
        raise ModelError(f"{path}: expected plain weights, got quantised ones")
    module, name = kind.rsplit(".", 1)
    known = getattr(_demucs_module(module), name)
    try:
        # Older files hold arguments that are none any more.
        options = json.loads(about["kwargs"], object_hook=_fraction)
        options = {name: options[name] for name in options.keys() & signature(known).parameters.keys()}
        model = known(*json.loads(about["args"], object_hook=_fraction), **options)
        model.load_state_dict(tensors)
    except Exception as error:  # whatever a stranger's arguments do to a constructor
        said = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(f"{path}: expected the arguments and weights of {name}, got {said}") from None
    return model.eval()


def _fraction(value: dict[str, Any]) -> Any:
    return Fraction(value["numerator"], value["denominator"]) if value.get("_type") == "fraction" else value


def _resampled(x: Audio, from_rate: int, to_rate: int) -> Audio:
    if from_rate == to_rate:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(soxr.resample(x.T, from_rate, to_rate).T, np.float32)


class Ear:
    """A separator as a stream: what is heard is taken apart, window by window, and comes out as whole seconds.

    Separators know least at the edges of a window: these are cut off, and windows overlap by as much. A window with
    sound that is none gives no seconds.

    Parameters
    ----------
    separator : Separator
    sample_rate : int
        32000 to 192000 Hz.
    full_scale : float, optional
        Of a converter: samples that reach it are clipped. By default there is no such limit.

    Attributes
    ----------
    names : tuple of str
        Of the stems; empty before the first second.
    broken, clipped : int
        Parts of 100 ms with NaN or infinity, or clipped, since the last reset.

    Examples
    --------
    >>> ear = Ear(Multitrack(["guitar", "vocals"]), 48_000)
    >>> sound = 0.1 * np.random.default_rng(0).standard_normal((2, 4 * 48_000)).astype(np.float32)
    >>> sound[1, 100_000] = np.nan
    >>> len(ear.process(sound)), ear.broken, ear.names
    (3, 1, ('guitar', 'vocals'))
    """

    def __init__(self, separator: Separator, sample_rate: int, full_scale: float | None = None) -> None:
        self.sample_rate = check_rate(sample_rate)
        self.separator, self.full_scale = separator, full_scale
        self.inputs: tuple[str, ...] = getattr(separator, "inputs", (ROOM,))
        self.window_s: float | None = getattr(separator, "window_s", WINDOW_S)
        if self.window_s is not None and not self.window_s > 1.0:
            raise ParameterError(f"window_s must be more than 1 s, got {self.window_s}")
        # Without windows of its own a separator is given whole seconds.
        self.hop_s = 1 if self.window_s is None else max(1, math.ceil(self.window_s) - 1)
        self._size = round((self.window_s or 1.0) * self.sample_rate)
        self.names: tuple[str, ...] = ()
        self._mapper: Mapper | None = None
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.broken = self.clipped = 0
        if self._mapper is not None:
            self._mapper.reset()
        self.forget()

    def forget(self) -> None:
        """Forget what is not a whole window yet: what comes next does not follow it."""
        self._window = np.zeros((len(self.inputs), 2, self._size), np.float32)
        self._is_stereo = np.zeros(len(self.inputs), np.bool_)
        self._filled = self._position = 0  # of the window; of its first sample in the stream
        self._full: Counter[int] = Counter()
        self._bad: set[int] = set()

    def process(self, wav: Sequence[NDArray[np.floating]] | NDArray[np.floating]) -> list[Second]:
        """Return the seconds that `wav`, (samples,) or (1 or 2, samples) for each input, completes."""
        if len(wav) != len(self.inputs):
            raise ParameterError(f"wav must have {len(self.inputs)} inputs, {', '.join(self.inputs)}, got {len(wav)}")
        rows = [as_block(row, name) for name, row in zip(self.inputs, wav, strict=True)]
        samples = rows[0].shape[1]
        if any(row.shape[1] != samples for row in rows):
            raise ParameterError(
                f"wav must be of one length, got {', '.join(str(row.shape[1]) for row in rows)} samples"
            )
        hop = self.hop_s * self.sample_rate
        seconds = []
        done = 0
        while done < samples:
            take = min(self._size - self._filled, samples - done)
            part = self._window[:, :, self._filled : self._filled + take]
            for k, row in enumerate(rows):
                part[k] = row[:, done : done + take]
                self._is_stereo[k] |= len(row) == 2
            self._check(part)
            done += take
            self._filled += take
            if self._filled < self._size:
                break
            first, last = (self._part(self._position + n) for n in (0, self._size - 1))
            if not self._bad.intersection(range(first, last + 1)):
                seconds += self._map((self._size - hop) // 2, hop)
            self._filled -= hop
            self._window[..., : self._filled] = self._window[..., hop:].copy()
            self._position += hop
            self._bad = {part for part in self._bad if part >= self._part(self._position)}
        return seconds

    def _part(self, position: int) -> int:
        return 10 * position // self.sample_rate

    def _check(self, sound: Audio) -> None:
        """Replace what is no sound by silence, here and now, and remember where that was."""
        start = self._position + self._filled
        if self.full_scale is not None:
            # One sample at full scale may be a peak that just fits.
            for at in np.flatnonzero((np.abs(sound) >= self.full_scale).any(axis=(0, 1))).tolist():
                part = self._part(start + at)
                self._full[part] += 1
                if self._full[part] == CLIPPED_SAMPLES:
                    self.clipped += 1
                    self._bad.add(part)
            now = self._part(start)
            self._full = Counter({part: count for part, count in self._full.items() if part >= now})
        wrong = ~(np.abs(sound) <= LIMIT)
        if wrong.any():
            parts = {self._part(start + at) for at in np.flatnonzero(wrong.any(axis=(0, 1))).tolist()}
            self.broken += len(parts - self._bad)
            self._bad |= parts
            sound[wrong] = 0.0

    def _map(self, start: int, samples: int) -> list[Second]:
        sides = zip(self._window, self._is_stereo, strict=True)
        wav = np.stack([to_mono(both) if is_stereo else both[0] for both, is_stereo in sides])
        stems = self.separator.separate(wav, self.sample_rate)
        if self._mapper is None:
            self.names = tuple(stems)
            # Where nothing has to be taken apart every stem has a microphone of its own.
            self._mapper = Mapper(self.names, self.sample_rate, leaks=True, late=self.window_s is None)
        return self._mapper.process([stems[name][..., start : start + samples] for name in self.names])


# ---- the reference ---------------------------------------------------------------------------------------------------


class Reference:
    """A recording of the mix that is wanted, as the separator hears it.

    Parameters
    ----------
    source : Path, or mapping of str to (samples,) or (1 or 2, samples)
        A folder of stems, one recording of all (which then has to be taken apart), or stems by name.
    player : str or sequence of str
        Whom to tell what to turn: names of stems. Where a separator knows no guitar, that is its "other".
    separator : Separator, optional
        As used live: the reference passes through it, even if its stems are known, so that both have the same faults.
        By default `Multitrack`, for stems.
    sample_rate : int, optional
        Of a mapping's arrays, 32000 to 192000 Hz.
    progress : callable, optional
        Called with windows done and windows in all, while it is taken apart.

    Attributes
    ----------
    mix_map : MixMap
        The whole song.
    names : tuple of str
        Of the stems, as the separator calls them.
    players : dict of str to str
        Stem by player.
    separator : Separator
    sample_rate : int

    Raises
    ------
    ParameterError
        If it is silent or too short, has NaN, lacks the player, or has too little of the player.
    AudioFileError, ModelError
        For files that cannot be read, and for one recording without a separator.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> stems = {name: rng.standard_normal(22 * 32_000) for name in ("guitar", "drums")}
    >>> reference = Reference(stems, "guitar", sample_rate=32_000)
    >>> len(reference.mix_map), reference.players
    (22, {'guitar': 'guitar'})
    >>> louder = reference.regained(6.0)
    >>> round(float(np.mean(power_ratio_db(louder.band_power, 0) - power_ratio_db(reference.mix_map.band_power, 0))), 3)
    6.0
    """

    def __init__(
        self,
        source: str | Path | Mapping[str, NDArray[np.floating]],
        player: str | Sequence[str] = "guitar",
        separator: Separator | None = None,
        sample_rate: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._stems, self.sample_rate = stems_of(source, sample_rate)
        if separator is None:
            if len(self._stems) == 1:
                raise ModelError(
                    f"reference must come with a separator if it is one recording, got none: {WITHOUT_WEIGHTS}"
                )
            separator = Multitrack(list(self._stems))
        self.separator = separator
        self._progress = progress or (lambda done, total: None)
        self._ear = Ear(separator, self.sample_rate)
        self._wav = self._heard(self._ear.inputs)
        least = MIN_REFERENCE_S * self.sample_rate
        if self._wav.shape[1] < least:
            got = self._wav.shape[1] / self.sample_rate
            raise ParameterError(f"reference must last at least {MIN_REFERENCE_S} s, got {got:.1f}")
        for name, row in zip(self._ear.inputs, self._wav, strict=True):
            if np.abs(row).max() < SILENCE:
                whose = "" if len(self._wav) == 1 else f": {name}"
                raise ParameterError(f"reference{whose} must be heard, got silence")
        self._key = self._fingerprint()
        self._known: dict[tuple[str, float], MixMap] = {}
        self.mix_map = self._mapped("", 0.0, self._whole)
        self.names = self.mix_map.names
        players = [player] if isinstance(player, str) else list(player)
        if not players:
            raise ParameterError("player must be at least one, got none")
        self.players = {name: find_player(self.names, name) for name in players}
        self._windows = self._choose()
        self._own: dict[str, list[Audio]] = {}  # by stem: its sound in each window

    def _heard(self, inputs: Sequence[str]) -> Audio:
        """Return what each input hears of the reference."""
        if strangers := [name for name in inputs if name != ROOM and name not in self._stems]:
            raise ParameterError(
                f"inputs must be stems of the reference ({', '.join(self._stems)}) or {ROOM!r}, got {strangers[0]!r}"
            )
        together = sum(self._stems.values(), np.float32(0.0))
        return np.stack([self._stems.get(name, together) for name in inputs])

    def _whole(self) -> MixMap:
        hop = self._ear.hop_s * self.sample_rate
        total = -(-self._wav.shape[1] // hop)
        seconds: list[Second] = []
        self._ear.reset()
        for k in range(total):
            seconds += self._ear.process(self._wav[:, k * hop : (k + 1) * hop])
            self._progress(k + 1, total)
        return MixMap.of(self._ear.names, seconds)

    def _choose(self) -> list[slice]:
        """Find the windows to regain, where players are heard; and refuse a reference where they are not."""
        hop_s = self._ear.hop_s
        heard = np.zeros(len(self.mix_map), np.bool_)
        for player, stem in self.players.items():
            plays = power_ratio_db(self.mix_map.band_power, self.names.index(stem)) > AUDIBLE_DB
            if np.count_nonzero(plays) < MIN_PLAYING_S:
                raise ParameterError(
                    f"reference must have at least {MIN_PLAYING_S} s of {player}, got {np.count_nonzero(plays)}"
                )
            heard |= plays
        if self._ear.window_s is None:
            return [slice(None)]
        windows = [k for k in range(len(heard) // hop_s) if 2 * heard[k * hop_s : (k + 1) * hop_s].sum() >= hop_s]
        count = min(len(windows), CALIBRATION_S // hop_s)
        size, hop = round(self._ear.window_s * self.sample_rate), hop_s * self.sample_rate
        chosen = [windows[round(k)] for k in np.linspace(0, len(windows) - 1, count)]
        return [slice(k * hop, k * hop + size) for k in chosen]

    def regained(self, gain_db: float, player: str | None = None) -> MixMap:
        """Map of the reference as it would be if `player` (by default the first) played so much louder.

        The player's stem gets the gain, everything is mixed again and taken apart again: what a separator makes of a
        guitar that is 12 dB too loud, only the separator can tell. With `Demucs` and `DirectAndRoom` this is one minute
        of the reference, spread over it, the same for every gain; with `Demucs` it is kept on disk.
        """
        player = next(iter(self.players)) if player is None else player
        if player not in self.players:
            raise ParameterError(f"player must be one of {', '.join(self.players)}, got {player!r}")
        stem = self.players[player]
        return self._mapped(stem, float(gain_db), lambda: self._regain(stem, float(db_to_factor(gain_db))))

    def _regain(self, stem: str, factor: float) -> MixMap:
        seconds: list[Second] = []
        if stem not in self._own:
            self._own[stem] = [self._own_sound(stem, window) for window in self._windows]
        for k, (window, own) in enumerate(zip(self._windows, self._own[stem], strict=True)):
            wav = self._wav[:, window].copy()
            for name, row in zip(self._ear.inputs, wav, strict=True):
                if name in (ROOM, stem):
                    row += np.float32(factor - 1.0) * own
            self._ear.reset()
            seconds += self._ear.process(wav)
            self._progress(k + 1, len(self._windows))
        return MixMap.of(self._ear.names, seconds)

    def _own_sound(self, stem: str, window: slice) -> Audio:
        if stem in self._stems:
            return self._stems[stem][window]
        apart = self.separator.separate(self._wav[:, window], self.sample_rate)
        return to_mono(np.broadcast_to(apart[stem], (2, apart[stem].shape[-1])))

    # ---- what is kept on disk ----

    def _fingerprint(self) -> str | None:
        weights = getattr(self.separator, "fingerprint", None)
        if weights is None:
            return None
        digest = hashlib.sha256(f"{KEPT} {weights} {self.sample_rate} {self._wav.shape}".encode())
        digest.update(self._wav.tobytes())
        for name, stem in self._stems.items():
            digest.update(name.encode() + stem.tobytes())
        return digest.hexdigest()[:32]

    def _mapped(self, stem: str, gain_db: float, make: Callable[[], MixMap]) -> MixMap:
        if (known := self._known.get((stem, gain_db))) is not None:
            return known
        path = registry_path().parent / "solar" / f"{self._key}-{quote(stem, safe='')}{gain_db:+.2f}.safetensors"
        found = None
        if self._key is not None:
            with suppress(AudioFileError):
                found = MixMap.load(path)
        if found is None:
            found = make()
            if self._key is not None:
                with suppress(AudioFileError, OSError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    found.save(path)
        self._known[stem, gain_db] = found
        return found


def find_player(names: Sequence[str], player: str) -> str:
    """Return the stem of a player.

    >>> find_player(["drums", "bass", "other", "vocals"], "Guitar")
    'other'

    Raises
    ------
    ParameterError
        If there is none.
    """
    by_name = {name.lower(): name for name in names}
    wanted = player.strip().lower()
    if wanted == "guitar" and wanted not in by_name:
        wanted = "other"  # as the paper has it, of the four stems that Demucs knows
    if wanted not in by_name:
        raise ParameterError(f"player must be one of {', '.join(names)}, got {player!r}")
    return by_name[wanted]


def stems_of(
    source: str | Path | Mapping[str, NDArray[np.floating]], sample_rate: int | None = None
) -> tuple[dict[str, Audio], int]:
    """Stems (samples,) by name, all of one length, and their rate.

    Parameters
    ----------
    source : Path, or mapping of str to (samples,) or (1 or 2, samples)
        A folder or file, or the stems themselves.
    sample_rate : int, optional
        In Hz, of a mapping.

    Raises
    ------
    ParameterError, AudioFileError
        As `Reference`.
    """
    if isinstance(source, Mapping):
        if sample_rate is None:
            raise ParameterError("sample_rate must be given with a mapping of stems, got none")
        rate = check_rate(sample_rate)
        stems = {name: as_block(stem, f"reference: {name}") for name, stem in source.items()}
        for name, stem in stems.items():
            if (bad := np.flatnonzero(~np.isfinite(stem).all(axis=0))).size:
                raise ParameterError(f"reference: {name} must be finite, got {stem[:, bad[0]][0]} at sample {bad[0]}")
    else:
        tracks = find_tracks(source)
        rate = max(track.sample_rate for track in tracks)
        if rate < MIN_SAMPLE_RATE:
            raise AudioFileError(f"{source}: expected a reference of at least {MIN_SAMPLE_RATE} Hz, got {rate}")
        stems = {}
        with ExitStack() as stack:
            for track in tracks:
                reader = TrackReader(track, rate, stack)
                left = track.samples_at(rate)
                blocks = []
                while left > 0:
                    blocks.append(reader.read(min(left, rate)))
                    left -= rate
                stems[track.name] = np.concatenate(blocks, axis=1)
    if not stems:
        raise ParameterError("reference must have at least one stem, got none")
    longest = max(stem.shape[1] for stem in stems.values())
    mono = {name: stem[0] if len(stem) == 1 else to_mono(stem) for name, stem in stems.items()}
    return {name: np.pad(stem, (0, longest - len(stem))) for name, stem in mono.items()}, rate
