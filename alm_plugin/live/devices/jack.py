"""JACK, and PipeWire where it speaks JACK: a client with one port per channel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from alm_plugin.errors import ParameterError
from alm_plugin.live.devices.device import Device, DeviceInfo, load, port_number

CLIENT_NAME = "alm"
_REMEDY = "pip install 'alm-plugin[live]', and libjack (Debian: apt-get install libjack-jackd2-0)"


class Jack(Device):
    """A client of a JACK server that is running.

    Its ports have the channels' names. Ports are connected at `start`; after that a patch bay may do as it likes. An
    input that has nothing connected to it any more is counted in `unplugged`, and heard as silence.

    Parameters
    ----------
    inputs, outputs, sample_rate, block_size, channel_map
        See `open_device`. Numbers in `channel_map` count the server's physical ports; names are those of any port, with
        or without its client: ``system:capture_3`` or ``capture_3``.
    name : str, optional
        Of the server, by default ``JACK_DEFAULT_SERVER`` or "default".
    """

    backend = "jack"

    def __init__(
        self,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str | None = None,
        sample_rate: int | None = None,
        block_size: int | None = None,
        channel_map: Mapping[str, str | int] | None = None,
    ) -> None:
        self._client: Any = None
        self._plugged: set[str] = set()  # inputs that something is connected to
        super().__init__(inputs, outputs, name or _default_server(), sample_rate, block_size, channel_map)

    @classmethod
    def found(cls) -> list[DeviceInfo]:
        """Return the default server, if it is running."""
        name = _default_server()
        try:
            client = _connect(name)
        except ParameterError as error:
            return [DeviceInfo("jack", name, note=str(error))]
        try:
            inputs, outputs = (len(_ports(client, is_input=is_input, is_physical=True)) for is_input in (True, False))
            return [DeviceInfo("jack", name, inputs, outputs, client.samplerate)]
        finally:
            client.close()

    def _open(self) -> None:
        if self._client is not None:
            return
        client = _connect(self.name)
        try:
            self._settle(f"JACK server {self.name!r}", client.samplerate, client.blocksize)
            self._prepare(client)
        except _library().JackError as error:
            client.close()
            raise ParameterError(f"JACK server {self.name!r}: {error}") from None
        except BaseException:
            client.close()
            raise
        self._client = client

    def _prepare(self, client: Any) -> None:
        wires = [self._wire(client, channel, port) for channel, port in self._map.items()]
        ins = [client.inports.register(name) for name in self.inputs]
        outs = [client.outports.register(name) for name in self.outputs]
        own = {port.shortname: port for port in ins + outs}
        self._wires = [(own[channel], port) for channel, port in wires]

        def process(frames: int) -> None:
            if frames != self.block_size:
                for port in outs:
                    port.get_array().fill(0.0)
                return
            for row, port in zip(self._x, ins, strict=True):
                row[:] = port.get_array()
            self._run()
            for row, port in zip(self._y, outs, strict=True):
                port.get_array()[:] = row

        def resized(frames: int) -> None:
            if frames != self.block_size:
                self._fault = f"the block size has changed from {self.block_size} to {frames} samples"

        def xrun(_delay_us: float) -> None:
            self.xruns += 1

        def shut_down(_status: Any, reason: str) -> None:
            self._fault = f"JACK server {self.name!r} has gone ({reason})"

        client.set_process_callback(process)
        client.set_blocksize_callback(resized)
        client.set_xrun_callback(xrun)
        client.set_shutdown_callback(shut_down)

    def _wire(self, client: Any, channel: str, port: str | int) -> tuple[str, str]:
        is_input, number = channel in self.inputs, port_number(port)
        kind = "inputs" if is_input else "outputs"
        there = _ports(client, is_input=is_input, is_physical=number is not None)
        if number is None:
            match = [name for name in there if name == port] or [n for n in there if n.partition(":")[2] == port]
            if len(match) != 1:
                said = "more than one" if match else f"there are {', '.join(there) or 'none'}"
                raise ParameterError(f"channel {channel!r} needs port {port!r} of JACK server {self.name!r}: {said}")
            return channel, match[0]
        if number > len(there):
            raise ParameterError(
                f"channel {channel!r} needs port {number}, but JACK server {self.name!r} has {len(there)} {kind}"
            )
        return channel, there[number - 1]

    def _begin(self) -> None:
        try:
            self._client.activate()
            self._plugged = set()
            for own, port in self._wires:
                source, target = (port, own) if own.is_input else (own, port)
                self._client.connect(source, target)
        except _library().JackError as error:
            raise ParameterError(f"JACK server {self.name!r}: {error}") from None

    def _look(self) -> None:
        with self._lock:  # not while the client is closed
            if self._client is None or self._fault is not None:
                return
            are = {port.shortname for port in self._client.inports if port.number_of_connections}
            self.unplugged += len(self._plugged - are)
            self._plugged = are

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.deactivate()
            client.close()


def _default_server() -> str:
    return os.environ.get("JACK_DEFAULT_SERVER") or "default"


def _ports(client: Any, *, is_input: bool, is_physical: bool) -> list[str]:
    """Names of the ports that can be our inputs or outputs."""
    there = client.get_ports(is_audio=True, is_output=is_input, is_input=not is_input, is_physical=is_physical)
    return [port.name for port in there]


def _library() -> Any:
    return load("jack", "jack", _REMEDY)


def _connect(server: str) -> Any:
    jack = _library()
    # What it would print is in our exceptions, or is about servers that are not there.
    jack.set_error_function(lambda message: None)
    jack.set_info_function(lambda message: None)
    try:
        return jack.Client(CLIENT_NAME, no_start_server=True, servername=server)
    except jack.JackOpenError:
        raise ParameterError(
            f"JACK server {server!r} is not running: start it (jackd, or PipeWire with pipewire-jack)"
        ) from None
