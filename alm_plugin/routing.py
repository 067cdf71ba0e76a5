"""Where sound goes behind the strips: to groups, returns and the mix, everything in line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from alm_plugin.errors import ParameterError
from alm_plugin.nodes.bus import Bus, Fader, Group, Return, Sends
from alm_plugin.nodes.delay import Delay
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.node import Audio
from alm_plugin.nodes.strip import Strip

Place = tuple[str, str]
"""Kind and name: ``("strip", "kick")``, ``("group", "drums")``, ``("return", "hall")``, or `MIX`."""

MIX: Place = ("mix", "mix")


class Console(NamedTuple):
    """Strips, groups and returns by name."""

    strips: Mapping[str, Strip]
    groups: Mapping[str, Group]
    returns: Mapping[str, Return]

    @property
    def faders(self) -> dict[Place, Fader]:
        """All of them, each after those that lead to it."""
        faders: dict[Place, Fader] = {("strip", name): strip for name, strip in self.strips.items()}
        faders |= {("group", name): group for name, group in self.groups.items()}
        return faders | {("return", name): self.returns[name] for name in self._returns_in_order()}

    @property
    def buses(self) -> dict[Place, Bus]:
        """Groups and returns."""
        return {place: fader for place, fader in self.faders.items() if isinstance(fader, Bus)}

    @property
    def shape(self) -> tuple[object, ...]:
        """Something that differs after any change of who leads where, and of chains."""
        strips = [(name, strip.chains, strip.group, *strip.sends) for name, strip in self.strips.items()]
        for buses in (self.groups, self.returns):
            strips += [(name, id(bus), id(bus.chain), bus.chain.version, *bus.sends) for name, bus in buses.items()]
        return tuple(strips)

    def _returns_in_order(self) -> list[str]:
        order: list[str] = []

        def visit(name: str, way: list[str]) -> None:
            if name in way:
                circle = " -> ".join([*way[way.index(name) :], name])
                raise ParameterError(f"sends must not lead back to where they come from, got {circle}")
            if name not in order:
                for following in self._known_sends("return", name, self.returns[name].sends):
                    visit(following, [*way, name])
                order.append(name)

        for name in reversed(list(self.returns)):
            visit(name, [])
        return order[::-1]

    def _known_sends(self, kind: str, name: str, sends: Sends) -> list[str]:
        for target in sends:
            if target not in self.returns:
                known = ", ".join(self.returns) or "nothing, as there are no returns"
                raise ParameterError(f"{kind} {name!r} must send to one of {known}, got {target!r}")
        return list(sends)

    def check(self) -> None:
        """Raise `ParameterError` for unknown groups and returns, and for sends in a circle."""
        for (kind, name), fader in self.faders.items():
            self._known_sends(kind, name, fader.sends)
            if isinstance(fader, Strip) and fader.group is not None and fader.group not in self.groups:
                known = ", ".join(self.groups) or "nothing, as there are no groups"
                raise ParameterError(f"strip {name!r} must be in one of {known}, got group {fader.group!r}")

    def main_of(self, place: Place) -> Place:
        """Where a path leads apart from its sends."""
        strip = self.strips.get(place[1]) if place[0] == "strip" else None
        return MIX if strip is None or strip.group is None else ("group", strip.group)

    def arrivals(self) -> dict[Place, int]:
        """By place, how many samples after it has left the strips sound comes there at the latest."""
        faders = self.faders
        arrive = dict.fromkeys([*faders, MIX], 0)
        for place, fader in faders.items():
            leave = arrive[place] + (fader.reported_latency_samples if isinstance(fader, Bus) else 0)
            for target in (self.main_of(place), *(("return", name) for name in fader.sends)):
                arrive[target] = max(arrive[target], leave)
        return arrive

    def group_of(self, name: str) -> Group | None:
        """Group that a strip is in."""
        group = self.strips[name].group
        return None if group is None else self.groups.get(group)

    def silent(self) -> dict[str, bool]:
        """By strip: whether its mute, its group's, or others' solo, silences it."""
        groups = {name: self.group_of(name) for name in self.strips}
        someone = any(path.solo for path in (*self.strips.values(), *self.groups.values()))
        return {
            name: strip.mute
            or (group is not None and group.mute)
            or (someone and not strip.solo and not (group is not None and group.solo))
            for (name, strip), group in zip(self.strips.items(), groups.values(), strict=True)
        }


class _Edge:
    """A way from one place to another: late by as much as brings it in line there; a send has a gain."""

    def __init__(self, target: Place, sends: Sends | None, samples: int, channels: int, at_once: bool) -> None:
        self.target, self.sends = target, sends
        self.delay = Delay(samples, channels)
        self.gain = Gain() if sends is not None else None
        if self.gain is not None:
            self.gain.jump(self.level_db if at_once else -math.inf)

    @property
    def level_db(self) -> float:
        return -math.inf if self.sends is None else self.sends.get(self.target[1], -math.inf)

    @property
    def is_silent(self) -> bool:
        """Whether it is a send that is at silence to stay."""
        return self.gain is not None and self.gain.present_gain_db == self.level_db == -math.inf

    def carry(self, x: Audio, sample_rate: int) -> Audio | None:
        """Bring a block along; None if nothing arrives."""
        if self.gain is not None:
            if self.gain.gain_db != self.level_db:
                self.gain.gain_db = self.level_db
            if self.is_silent and not self.delay.samples:
                return None
            x = self.gain.process_block(x, sample_rate)
        if self.delay.samples:
            x = self.delay.process_block(np.broadcast_to(x, (self.delay.channels, x.shape[1])))
        return x


class Routing:
    """One running stream's ways from the strips to the mix.

    Parameters
    ----------
    console : Console
    channels : int
        Of the mix, and so of every bus.
    sample_rate : int
    before : Routing, optional
        What it was until now: what is on its way arrives.

    Raises
    ------
    ParameterError
        See `Console.check`.
    """

    def __init__(self, console: Console, channels: int, sample_rate: int, before: Routing | None = None) -> None:
        console.check()
        self.channels, self.sample_rate = channels, sample_rate
        self.buses = console.buses
        for place, bus in self.buses.items():
            if before is None or before.buses.get(place) is not bus:
                bus.prepare(sample_rate, channels)
        arrive = console.arrivals()
        self.latency_samples = arrive[MIX]
        self.edges: dict[Place, list[_Edge]] = {}
        for place, fader in console.faders.items():
            leave = arrive[place] + (fader.reported_latency_samples if isinstance(fader, Bus) else 0)
            old = {edge.target: edge for edge in (before.edges.get(place, []) if before else [])}
            # One that is taken away fades out first.
            gone = [edge.target for edge in old.values() if edge.sends is fader.sends and not edge.is_silent]
            sends = dict.fromkeys([*(("return", name) for name in fader.sends), *gone])
            ways = [(console.main_of(place), None), *((target, fader.sends) for target in sends)]
            self.edges[place] = [
                edge
                if (edge := old.get(target)) and edge.sends is source and edge.delay.samples == arrive[target] - leave
                else _Edge(target, source, arrive[target] - leave, channels, before is None)
                for target, source in ways
                if target in arrive
            ]
        self.sums: dict[Place, Audio] = {}

    def begin(self, mix: Audio) -> None:
        """Start a block: `mix` (channels, samples) is what is summed to."""
        mix[:] = 0.0
        self.sums = {place: np.zeros_like(mix) for place in self.buses}
        self.sums[MIX] = mix

    def send(self, place: Place, x: Audio, start: int, stop: int) -> None:
        """Add a place's sound (1 or channels, samples), samples `start` to `stop` of the block, to where it leads."""
        for edge in self.edges[place]:
            came = edge.carry(x, self.sample_rate)
            if came is not None:
                self.sums[edge.target][:, start:stop] += came

    def finish(self) -> None:
        """Run groups and returns, once all strips have sent their block."""
        for place, bus in self.buses.items():
            # A bus is as wide as the mix.
            self.send(place, bus.leave(self.sums[place]), 0, self.sums[place].shape[1])
