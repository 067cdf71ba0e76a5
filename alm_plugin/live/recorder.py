"""Record what is played: every input as it came, the mix, and the gains of every frame."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alm_plugin.data import reason_of
from alm_plugin.errors import AudioFileError
from alm_plugin.features.clock import ModelClock

_LARGEST = 2**32 - 1 - 1024


# RIFF, fmt (float32), fact, data: 58 bytes. libsndfile could write the samples, but says how many there are only when
# it closes the file, and a recording must be whole up to its last block also if nobody lives to close it.
def _header(channels: int, sample_rate: int, data_bytes: int) -> bytes:
    frame = 4 * channels
    fmt = struct.pack("<4sIHHIIHHH", b"fmt ", 18, 3, channels, sample_rate, sample_rate * frame, frame, 32, 0)
    fact = struct.pack("<4sII", b"fact", 4, data_bytes // frame)
    body = b"WAVE" + fmt + fact + struct.pack("<4sI", b"data", data_bytes)
    return struct.pack("<4sI", b"RIFF", len(body) + data_bytes) + body


class WavFile:
    """A float32 WAV file that is whole after every block, whatever happens then. Another goes on where 4 GB are full.

    Parameters
    ----------
    path : Path
    channels, sample_rate : int
    """

    def __init__(self, path: Path, channels: int, sample_rate: int) -> None:
        self.path, self.channels, self.sample_rate = path, channels, sample_rate
        self.parts = 0
        self._file = self._next()

    def _next(self) -> FileIO:
        self.parts += 1
        self._bytes = 0
        path = self.path if self.parts == 1 else self.path.with_stem(f"{self.path.stem} {self.parts}")
        file = path.open("wb", buffering=0)
        file.write(_header(self.channels, self.sample_rate, 0))
        return file

    def write(self, block: NDArray[np.float32]) -> None:
        """Add a block (channels, samples); OSError if there is no room for it."""
        data = np.ascontiguousarray(block.T, "<f4").tobytes()
        if self._bytes + len(data) > _LARGEST:
            self.close()
            self._file = self._next()
        _add(self._file, data)
        self._bytes += len(data)
        end = self._file.tell()
        self._file.seek(0)
        self._file.write(_header(self.channels, self.sample_rate, self._bytes))
        self._file.seek(end)

    def close(self) -> None:
        """Be done."""
        self._file.close()


class Recorder:
    """Files of a recording in a folder of its own.

    Parameters
    ----------
    folder : Path
        Made; must not hold a recording already.
    inputs : sequence of str
        Names of the raw inputs, a mono file each.
    strips : sequence of str
        Columns of ``curves.csv``.
    channels : int
        Of the mix.
    sample_rate : int
    clock : ModelClock

    Raises
    ------
    AudioFileError
        If nothing can be written there.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Sequence[str],
        strips: Sequence[str],
        channels: int,
        sample_rate: int,
        clock: ModelClock,
    ) -> None:
        self.folder, self.sample_rate, self.clock = folder, sample_rate, clock
        self.samples = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.glob("*.wav")):
                raise AudioFileError(f"{folder}: expected a folder without recordings, got one with wav files")
            names = [_plain(name) for name in inputs]
            self._inputs = [WavFile(folder / f"{name}.wav", 1, sample_rate) for name in names]
            self._mix = WavFile(folder / "mix.wav", channels, sample_rate)
            self._curves = (folder / "curves.csv").open("wb", buffering=0)
            self._add_row(["time_s", *(f'"{name}"' if "," in name else name for name in strips)])
        except OSError as error:
            raise AudioFileError(f"{folder}: expected a folder to record to, got {reason_of(error)}") from None

    def write(self, tape: NDArray[np.float32]) -> None:
        """Add a block (inputs + channels, samples); OSError if the disk is full."""
        for file, row in zip(self._inputs, tape, strict=False):
            file.write(row[None])
        self._mix.write(tape[len(self._inputs) :])
        self.samples += tape.shape[1]

    def write_gains(self, frame: int, gains_db: NDArray[np.float32]) -> None:
        """Add a frame's gains (strips,) in dB."""
        time_s = self.clock.boundary(frame, self.sample_rate) / self.sample_rate
        self._add_row([f"{time_s:.6f}", *map(str, gains_db)])

    def _add_row(self, cells: Sequence[str]) -> None:
        _add(self._curves, (",".join(cells) + "\n").encode())

    def close(self) -> None:
        """Finish the files; what cannot be written any more is left out."""
        for file in (*self._inputs, self._mix, self._curves):
            with contextlib.suppress(OSError):
                file.close()


def _add(file: FileIO, data: bytes) -> None:
    """Write all of it to a file's end, or, where there is no room, nothing."""
    end, rest = file.tell(), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        raise


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in " -_.()" else "_" for c in name).strip(". ") or "input"
