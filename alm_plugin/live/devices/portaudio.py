"""PortAudio: the systems' own ways to a sound card (Core Audio, ASIO, WASAPI, ALSA), and JACK."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alm_plugin.errors import ParameterError
from alm_plugin.live.devices.device import Device, DeviceInfo, load, port_number

DEFAULT_BLOCK_SIZE = 128
STALL_S = 1.0
"""A device that has not called back for so long is lost; not every driver says that it was unplugged."""

CLOSE_S = 2.0
"""A driver that takes longer to close a device is left alone with it; for a JACK server that has gone it is minutes."""

_REMEDY = "pip install 'alm-plugin[live]', and on Linux libportaudio (Debian: apt-get install libportaudio2)"


class PortAudio(Device):
    """A sound card, or the two that were found for input and output.

    A JACK server can be reached this way too, but its own backend adds no block of delay and survives the server's end.

    Parameters
    ----------
    inputs, outputs, sample_rate, block_size, channel_map
        See `open_device`. Ports have numbers.
    name : str, optional
        Parts of the name and then of the driver's, such as ``scarlett wasapi``, or the number in PortAudio's list; by
        default the system's defaults.
    """

    backend = "portaudio"

    # PortAudio runs only while it is used: it sees what is plugged in when it starts, and is itself a client of a JACK
    # server, whose end it must not outlive for long.
    _users = 0
    _counting = threading.Lock()
    _is_stuck = False

    def __init__(
        self,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str | None = None,
        sample_rate: int | None = None,
        block_size: int | None = None,
        channel_map: Mapping[str, str | int] | None = None,
    ) -> None:
        self._stream: Any = None
        super().__init__(inputs, outputs, name or "", sample_rate, block_size, channel_map)

    @classmethod
    def found(cls) -> list[DeviceInfo]:
        """Return PortAudio's list, as it is now."""
        try:
            sounddevice = cls._acquire()
        except ParameterError as error:
            return [DeviceInfo("portaudio", "", note=str(error))]
        try:
            there = [
                DeviceInfo(
                    "portaudio",
                    _full_name(sounddevice, device),
                    device["max_input_channels"],
                    device["max_output_channels"],
                    round(device["default_samplerate"]),
                )
                for device in sounddevice.query_devices()
            ]
        finally:
            cls._release(sounddevice)
        return there or [DeviceInfo("portaudio", "", note="there is no sound card: plug one in, or start JACK")]

    @classmethod
    def _acquire(cls) -> Any:
        sounddevice = load("portaudio", "sounddevice", _REMEDY)
        with cls._counting:
            if cls._is_stuck:
                raise ParameterError("PortAudio waits for a device that has gone: start this program again")
            if not cls._users:
                while sounddevice._initialized:
                    sounddevice._terminate()
                sounddevice._initialize()
            PortAudio._users += 1
        return sounddevice

    @classmethod
    def _release(cls, sounddevice: Any) -> None:
        with cls._counting:
            PortAudio._users -= 1
            if not cls._users:
                sounddevice._terminate()

    def _open(self) -> None:
        if self._stream is not None:
            return
        sounddevice = self._acquire()
        try:
            self._stream = self._opened(sounddevice)
        except BaseException:
            self._release(sounddevice)
            raise
        self._sounddevice = sounddevice

    def _opened(self, sounddevice: Any) -> Any:
        # A port may feed many channels; outputs to one port are added, as JACK does.
        self._ins, self._outs = (
            [(row, self._port(name) - 1) for row, name in enumerate(names) if name in self._map]
            for names in (self.inputs, self.outputs)
        )
        devices = [self._find(sounddevice, kind) for kind in ("input", "output")]
        widths = [max((column + 1 for _, column in wires), default=1) for wires in (self._ins, self._outs)]
        for device, width, kind, names in zip(
            devices, widths, ("input", "output"), (self.inputs, self.outputs), strict=True
        ):
            if (count := device[f"max_{kind}_channels"]) < width:
                channel = next((name for name in names if name in self._map and self._port(name) == width), names[0])
                raise ParameterError(
                    f"channel {channel!r} needs port {width}, but {device['name']} has {count} {kind}s"
                )
        runs_at = round(devices[0]["default_samplerate"])
        rate = self._wanted[0] or self.sample_rate or runs_at
        size = self._wanted[1] or self.block_size or DEFAULT_BLOCK_SIZE
        try:
            stream = sounddevice.Stream(
                device=tuple(device["index"] for device in devices),
                channels=tuple(widths),
                samplerate=rate,
                blocksize=size,
                dtype="float32",
                latency="low",
                callback=self._process,
            )
        except sounddevice.PortAudioError as error:
            if "sample rate" in str(error):
                # PortAudio does not tell what else it could do.
                self._settle(devices[0]["name"], runs_at, size)
            raise ParameterError(f"{devices[0]['name']} cannot be opened: {error}") from None
        self._settle(devices[0]["name"], rate, size)
        return stream

    def _port(self, channel: str) -> int:
        number = port_number(self._map[channel])
        if number is None:
            raise ParameterError(f"channel_map: PortAudio's ports have numbers, got {channel}: {self._map[channel]!r}")
        return number

    def _find(self, sounddevice: Any, kind: str) -> dict[str, Any]:
        number = port_number(self.name)
        try:
            return sounddevice.query_devices((self.name or None) if number is None else number, kind)
        except (ValueError, sounddevice.PortAudioError):
            there = [
                f"{device['index']} {_full_name(sounddevice, device)}"
                for device in sounddevice.query_devices()
                if device[f"max_{kind}_channels"]
            ]
        wanted = f"a device, one and no more, called {self.name!r}" if self.name else "a default device"
        raise ParameterError(f"{kind} needs {wanted}: there are {'; '.join(there) or 'none'}")

    def _begin(self) -> None:
        self._seen = -1, time.monotonic()
        try:
            self._stream.start()
        except self._sounddevice.PortAudioError as error:
            raise ParameterError(f"PortAudio device {self.name!r} cannot be started: {error}") from None

    def _process(self, indata: Any, outdata: Any, _frames: int, _time: Any, status: Any) -> None:
        if status.input_overflow or status.output_underflow:
            self.xruns += 1
        for row, column in self._ins:
            self._x[row] = indata[:, column]
        self._run()
        outdata.fill(0.0)
        for row, column in self._outs:
            np.add(outdata[:, column], self._y[row], out=outdata[:, column])

    def _look(self) -> None:
        stream, (blocks, since) = self._stream, self._seen
        if self.blocks != blocks:
            self._seen = self.blocks, time.monotonic()
        elif self._fault is None and time.monotonic() - since > STALL_S:
            self._fault = f"no sound for {STALL_S:g} s"
        if self._fault is None and stream is not None and not stream.active:
            self._fault = "the driver has stopped"

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        closing = threading.Thread(target=self._let_go, args=(stream,), name="device close", daemon=True)
        PortAudio._is_stuck = True
        closing.start()
        closing.join(CLOSE_S)
        if self._is_stuck:
            # It would wait as well, when the program ends.
            atexit.unregister(self._sounddevice._exit_handler)

    def _let_go(self, stream: Any) -> None:
        stream.close(ignore_errors=True)
        self._release(self._sounddevice)
        PortAudio._is_stuck = False


def _full_name(sounddevice: Any, device: dict[str, Any]) -> str:
    return f"{device['name']}, {sounddevice.query_hostapis(device['hostapi'])['name']}"
