"""Where live sound comes from and goes to: JACK, PortAudio (Core Audio, ASIO, WASAPI, ALSA), or nowhere in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alm_plugin.errors import ParameterError
from alm_plugin.live.devices.device import Block, Callback, Device, DeviceInfo, OnLost
from alm_plugin.live.devices.jack import Jack
from alm_plugin.live.devices.portaudio import PortAudio
from alm_plugin.live.devices.silent import Silent

__all__ = [
    "BACKENDS",
    "Block",
    "Callback",
    "Device",
    "DeviceInfo",
    "Jack",
    "OnLost",
    "PortAudio",
    "Silent",
    "list_devices",
    "open_device",
]

BACKENDS: dict[str, type[Jack] | type[PortAudio] | type[Silent]] = {
    "jack": Jack,
    "portaudio": PortAudio,
    "silent": Silent,
}


def list_devices() -> list[DeviceInfo]:
    """Return what can be opened here; of a backend that has nothing, one entry whose `note` says what to do about it.

    Examples
    --------
    >>> list_devices()[-1]
    DeviceInfo(backend='silent', name='silence', inputs=64, outputs=64, sample_rate=48000, note='')
    """
    return [info for backend in BACKENDS.values() for info in backend.found()]


def open_device(
    backend: str,
    name: str | None = None,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sample_rate: int | None = None,
    block_size: int | None = None,
    channel_map: Mapping[str, str | int] | None = None,
) -> Device:
    """Open a device; no sound passes before its `start`.

    Parameters
    ----------
    backend : {"jack", "portaudio", "silent"}
    name : str, optional
        Of a JACK server; part of the name, or the number, of a PortAudio device. By default the system's default.
    inputs, outputs : sequence of str
        Names of the channels, all different: rows of the arrays that the callback gets.
    sample_rate : int, optional
        In Hz, by default what the device runs at.
    block_size : int, optional
        In samples; by default what a JACK server runs at, elsewhere 128.
    channel_map : mapping, optional
        For channels by name the number (from 1) of a port of the device, or with JACK the name of any port. Channels
        that it leaves out are connected to nothing. By default the first channel is port 1, and so on.

    Raises
    ------
    ParameterError
        If there is no such device, it has too few ports, or runs at another rate or block size; or if what the backend
        needs is not installed.
    """
    if backend not in BACKENDS:
        raise ParameterError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return BACKENDS[backend](inputs, outputs, name, sample_rate, block_size, channel_map)
