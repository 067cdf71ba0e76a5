"""One running stream of a mixer: everything with a memory of the sound so far."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alm_plugin.errors import ParameterError
from alm_plugin.features.guard import mend
from alm_plugin.models.listener import Mind
from alm_plugin.nodes.delay import Delay
from alm_plugin.nodes.gain import Gain, schedule
from alm_plugin.nodes.keyed import keyed_in
from alm_plugin.nodes.node import Audio, touched
from alm_plugin.routing import Routing
from alm_plugin.units import db_to_factor, ms_to_samples

if TYPE_CHECKING:
    from alm_plugin.mixer import Mixer

logger = logging.getLogger("alm_plugin")


@dataclass(frozen=True)
class Automation:
    """Gain curves on a model's clock.

    Attributes
    ----------
    times_s : (frames,) float64
        Start of each frame.
    gains_db : dict of (frames,) float32
        By channel: the gain each frame ends on; ``-inf`` is silence, NaN where the channel was not there.
    """

    times_s: NDArray[np.float64]
    gains_db: dict[str, NDArray[np.float32]]

    def at(self, channel: str, time_s: float) -> float | None:
        """Gain in dB at a time: that of the last row not after it; None where this curve says nothing."""
        curve = self.gains_db.get(channel)
        row = int(np.searchsorted(self.times_s, time_s + 1e-6, side="right")) - 1
        if curve is None or row < 0 or np.isnan(curve[row]):
            return None
        return float(curve[row])


@dataclass(frozen=True)
class Block:
    """What an observer sees of one block, after the mixer is done with it; arrays are float32 and read-only.

    Attributes
    ----------
    position, sample_rate : int
        First sample of the block since the stream's start, and samples per second.
    inputs, taps, outputs : dict of (1 or 2, samples)
        By channel: as it came in, behind its pre chain, behind its gain and post chain.
    mix : (channels, samples)
        What leaves the mixer.
    """

    position: int
    sample_rate: int
    inputs: dict[str, Audio]
    taps: dict[str, Audio]
    outputs: dict[str, Audio]
    mix: Audio


Observer = Callable[[Block], None]


class Stream:
    """One running stream of a mixer.

    Parameters
    ----------
    mixer : Mixer
        Read at any time, as the human may change it at any time.
    sample_rate : int
    widths : mapping of str to int
        Channels of each track that is known to come.
    mind : Mind
        Where gains come from.
    keeps_curves : bool
        Remember the gains of every frame, not only of the last.
    """

    def __init__(
        self, mixer: Mixer, sample_rate: int, widths: Mapping[str, int], mind: Mind, keeps_curves: bool = True
    ) -> None:
        self.mixer = mixer
        self.strips = mixer._strips
        self.console = mixer._console
        self.sample_rate = sample_rate
        # 0 until a channel's first block says how wide it is.
        self.widths = {name: widths.get(name, 0) for name in self.strips}
        self.clock = mixer.model.metadata.clock
        self.position = 0
        self.frame = -1
        self.decides_at = self.settles_at = self.ends_at = 0
        self.ceiling_samples = 0
        self.faults: dict[str, int] = {}
        self.mind = mind
        self.slack = ms_to_samples(self.clock.slack_ms, sample_rate)
        self.ramp = ms_to_samples(self.clock.ramp_ms, sample_rate)
        # No ramp begins so soon after another; of one as long as a frame, rounded up, the last sample may be too late.
        self.apart = min(self.ramp, self.clock.f2_ms * sample_rate // 1000)
        self.keeps_curves = keeps_curves
        self.curves = {name: array("f") for name in self.strips}
        self.law_db: dict[str, float] = {}  # without the group's trim
        self.applied_db: dict[str, float] = {}
        self.tap_delay: dict[str, Delay] = {}
        self.bus_delay: dict[str, Delay] = {}
        self.seen = touched()
        for name in self.strips:
            self._start(name)
        self.routing = Routing(self.console, mixer.channels, sample_rate)
        self.align()

    def _start(self, name: str) -> None:
        """Get a strip ready, and its gain to where the human has it."""
        first_db = float(self.mind.gain_db[list(self.strips).index(name)])
        self._decide(name, first_db, self.position / self.sample_rate)
        if self.widths[name]:
            self._admit(name)

    def align(self) -> None:
        """Delay every strip to the slowest, before the tap and behind the post chain, and find the ways from there."""
        self.mixer._check_latency()
        self.shape = self.console.shape
        try:
            self.routing = Routing(self.console, self.mixer.channels, self.sample_rate, self.routing)
        except ParameterError as error:
            if self._fault("routing", 1) == 1:
                logger.warning("the routing stays as it was: %s", error)
        pre = {name: strip.pre_latency_samples for name, strip in self.strips.items()}
        post = {name: strip.post_latency_samples for name, strip in self.strips.items()}
        for delays, latencies in ((self.tap_delay, pre), (self.bus_delay, post)):
            for name, latency in latencies.items():
                samples, width = max(latencies.values()) - latency, max(1, self.widths[name])
                # One that stays as it is keeps what is on its way.
                if name not in delays or (delays[name].samples, delays[name].channels) != (samples, width):
                    delays[name] = Delay(samples, width)
        self.pre_keys = [node for strip in self.strips.values() for node in keyed_in(strip.pre)]
        self.post_keys = {name: keyed_in(strip.post) for name, strip in self.strips.items()}
        self.isolated = [name for name, strip in self.strips.items() if strip.pre.can_begin]
        # Strips that lead to one place, with nothing on the way there.
        self.straight = {}
        for name in self.strips:
            main, *sends = self.routing.edges["strip", name]
            if not sends and not main.delay.samples and not self.bus_delay[name].samples:
                self.straight[name] = main.target
        self.bus_keys = [node for bus in self.routing.buses.values() for node in keyed_in(bus.chain)]

    def add(self, name: str) -> None:
        """Take in a strip that the mixer has got."""
        self.widths[name] = 0
        self.mind.add_channel(self.strips[name].role)
        # One that has been there before keeps what it was.
        curve = self.curves.setdefault(name, array("f"))
        curve.extend([np.nan] * (self.frame + 1 - len(curve)))
        self._start(name)
        if self.position < self.ends_at and self.keeps_curves:
            self.curves[name][-1] = self.applied_db[name]  # it joins in the middle of this frame
        self.align()

    def _admit(self, name: str) -> None:
        strip = self.strips[name]
        strip.prepare(self.sample_rate, self.widths[name])
        strip.gain.jump(self.applied_db[name])
        strip.silence(self.console.silent()[name], at_once=True)

    def remove(self, name: str) -> None:
        """Forget a strip that the mixer is about to lose."""
        index = list(self.strips).index(name)
        self.mind.remove_channel(index)
        for table in (self.widths, self.tap_delay, self.bus_delay, self.law_db, self.applied_db):
            table.pop(name, None)

    def check(self, sample_rate: int, blocks: Mapping[str, Audio]) -> None:
        """Raise `ParameterError` for a block that does not fit, and catch up with what the human has changed."""
        if sample_rate != self.sample_rate:
            raise ParameterError(f"sample_rate must stay {self.sample_rate} Hz until reset(), got {sample_rate}")
        for name, block in blocks.items():
            width = self.widths[name]
            if width and block.shape[0] != width:
                raise ParameterError(
                    f"track {name!r} must keep {width} channel{'s' * (width > 1)} until reset(), got {block.shape[0]}"
                )
        for name, block in blocks.items():
            if not self.widths[name]:  # until its first block a channel has been silent
                self.widths[name] = block.shape[0]
                self._admit(name)
                self.shape, self.seen = (), -1
        now = touched()
        if now != self.seen:
            self.seen = now
            if self.shape != self.console.shape:
                self.align()
            for name, silent in self.console.silent().items():
                self.strips[name].silence(silent)

    def process(self, blocks: Mapping[str, Audio], mix: Audio) -> None:
        """Mix a block that has been checked, by channel, to `mix` (channels, samples)."""
        samples = mix.shape[1]
        inputs, taps = {}, {}
        for name in self.strips:
            block = blocks.get(name)
            if block is None:
                block = np.zeros((max(1, self.widths[name]), samples), np.float32)
            elif self.widths[name]:
                block, mended = mend(block)
                if mended:
                    self._fault(f"input {name}", mended)
            inputs[name] = block
        for node in self.pre_keys:
            node.hear_key(inputs.get(node.key))
        if self.isolated:
            self._begin_isolated(inputs)
        for name, strip in self.strips.items():
            if not self.widths[name]:
                taps[name] = inputs[name]
                continue
            taps[name] = self.tap_delay[name].process_block(strip.tap(inputs[name]))
        self.mind.hear(list(taps.values()), samples)
        shown = bool(self.mixer.observers)
        outputs = {name: np.zeros(tap.shape, np.float32) for name, tap in taps.items() if shown}
        self.routing.begin(mix)
        done = 0
        while done < samples:
            stop = min(done + self._stretch(), samples)
            self._pass_frames(self.position + stop - done)
            for name, strip in self.strips.items():
                if not self.widths[name]:
                    continue
                if name in self.straight and strip.is_plain and not shown:
                    # The usual case: gain and sum in one go, with the same samples.
                    x, out = taps[name][:, done:stop], self.routing.sums[self.straight[name]][:, done:stop]
                    strip.gain.add_block(x, out, self.sample_rate)
                    continue
                for node in self.post_keys[name]:
                    node.hear_key(taps[node.key][:, done:stop] if node.key in taps else None)
                out = self.bus_delay[name].process_block(strip.finish(taps[name][:, done:stop]))
                if shown:
                    outputs[name][:, done:stop] = out
                self.routing.send(("strip", name), strip.to_bus(out, mix.shape[0]), done, stop)
            self.position += stop - done
            done = stop
        for node in self.bus_keys:
            node.hear_key(taps.get(node.key))
        self.routing.finish()
        if self.mixer.ceiling_db is not None:
            self.ceiling_samples += soft_clip(mix, _knee(self.mixer.ceiling_db))
        if shown:
            self._show(inputs, taps, outputs, mix)

    def _begin_isolated(self, inputs: dict[str, Audio]) -> None:
        """Have the isolated plugins of all pre chains answered together: the first of each, then the second."""
        chains = [(self.strips[name].pre, inputs[name]) for name in self.isolated if self.widths[name]]
        waiting = [chain for chain, x in chains if chain.begin_block(x, self.sample_rate)]
        while waiting:
            waiting = [chain for chain in waiting if chain.go_on()]

    # The gains of a frame are decided when its slack is over, so that a mind may take that long to make them up. A ramp
    # may wait for its first sample in the middle of a stretch, but not while the one before it is under way.
    def _stretch(self) -> int:
        """Say how many samples from here have at most one ramp to begin in."""
        if self.position == self.ends_at:
            self._begin_frame()
        due = self.decides_at if self.position <= self.decides_at else self.ends_at + self.slack
        turn = min(self.settles_at, due)
        return (turn if self.position < turn else due + self.apart) - self.position

    def _pass_frames(self, end: int) -> None:
        """Begin and end the frames from here to `end`, and decide on what is due before it."""
        if self.position <= self.decides_at < end:
            self._move_gains()
        while self.ends_at <= end:
            self.mind.end_frame()
            if self.ends_at == end:
                break
            self._begin_frame()
            if self.decides_at < end:
                self._move_gains()

    def _move_gains(self) -> None:
        """Where the ramp of a frame begins put its gains on their way."""
        self.mind.decide()
        models_db, pulls_db = self.mind.gain_db.tolist(), self.mind.pull_db
        pulls_db = [0.0] * len(models_db) if pulls_db is None else pulls_db.tolist()
        time_s = self.clock.boundary(self.frame, self.sample_rate) / self.sample_rate
        moved: dict[str, Gain] = {}
        for index, (name, strip) in enumerate(self.strips.items()):
            if strip.role != self.mind.roles[index]:
                self.mind.set_role(index, strip.role)
            before_db = self.applied_db[name]
            if self.frame and self._decide(name, models_db[index], time_s, pulls_db[index]) != before_db:
                moved[name] = strip.gain
        delay = self.decides_at - self.position
        schedule(list(moved.values()), [self.applied_db[name] for name in moved], delay, self.ramp)
        self.settles_at = self.decides_at + self.ramp
        self._note_gains()

    def _begin_frame(self) -> None:
        self.frame += 1
        self.decides_at = self.ends_at + (self.slack if self.frame else 0)
        self.ends_at = self.clock.boundary(self.frame + 1, self.sample_rate)
        self._note_gains()

    def _note_gains(self) -> None:
        """Have the gain that each channel has now in its curve, for this frame."""
        if self.keeps_curves:
            for name, strip in self.strips.items():
                gain_db = -np.inf if strip.is_silent else self.applied_db[name]
                self.curves[name][self.frame :] = array("f", [gain_db])

    def _decide(self, name: str, model_db: float, time_s: float, pull_db: float = 0.0) -> float:
        """Gain of a strip from now on, and what is left of it without its group's trim and what it is pulled down."""
        strip, mixer = self.strips[name], self.mixer
        curve, is_locked = mixer.automation_in, strip.lock_db is not None
        group = strip.group and self.console.group_of(name)
        trim_db = group.trim_db if group else 0.0
        before_db = self.law_db.get(name)
        drawn_db = None if curve is None or is_locked else curve.at(name, time_s)
        if mixer.freeze and before_db is not None and not is_locked:
            law_db = before_db
        elif drawn_db is not None:
            law_db = drawn_db - trim_db  # curves are of what is heard
        else:
            law_db = strip.law(model_db, mixer.strength, before_db, self.clock.f2_ms / 1000.0)
        # Rounded to float32 here, once, so that exported curves bring back the same samples.
        self.law_db[name] = float(np.float32(law_db))
        applied_db = law_db + trim_db if mixer.bypass_db is None else mixer.bypass_db
        self.applied_db[name] = float(np.float32(applied_db if is_locked else applied_db - pull_db))
        return self.applied_db[name]

    def _show(self, inputs: dict[str, Audio], taps: dict[str, Audio], outputs: dict[str, Audio], mix: Audio) -> None:
        def lock(arrays: dict[str, Audio]) -> dict[str, Audio]:
            return {name: _read_only(audio) for name, audio in arrays.items()}

        position = self.position - mix.shape[1]
        block = Block(position, self.sample_rate, lock(inputs), lock(taps), lock(outputs), _read_only(mix))
        for observer in list(self.mixer.observers):
            try:
                observer(block)
            except Exception as error:
                if self._fault("observer", 1) == 1:
                    logger.warning("observer %r failed: %s", observer, error)

    def _fault(self, place: str, count: int) -> int:
        self.faults[place] = self.faults.get(place, 0) + count
        return self.faults[place]

    def all_faults(self) -> dict[str, int]:
        """Count what went wrong, by place."""
        found = dict(self.faults)
        for name, strip in self.strips.items():
            if strip.faults:
                found[f"strip {name}"] = strip.faults
        for (kind, name), bus in self.routing.buses.items():
            if bus.faults:
                found[f"{kind} {name}"] = bus.faults
        if self.mind.faults:
            found["model"] = self.mind.faults
        return found

    def automation(self) -> Automation:
        """Gains applied so far."""
        frames = self.frame + 1
        starts = [self.clock.boundary(frame, self.sample_rate) for frame in range(frames)]
        curves = {}
        for name, curve in self.curves.items():
            values = np.full(frames, np.nan, np.float32)
            values[: len(curve)] = curve
            curves[name] = values
        return Automation(np.array(starts) / self.sample_rate, curves)


def _read_only(audio: Audio) -> Audio:
    view = audio.view()
    view.flags.writeable = False
    return view


@lru_cache(8)
def _knee(ceiling_db: float) -> float:
    return float(db_to_factor(ceiling_db))


# y = x below the knee k; above it  sign(x) (k + (1 - k) tanh((|x| - k) / (1 - k))),  which goes on with the same slope
# and never passes 1. Each sample on its own: no memory, no latency.
@njit(cache=True, nogil=True)
def soft_clip(x, knee):
    """Bend `x` (channels, samples) in place; return how many samples were bent."""
    bent = 0
    room = 1.0 - knee
    for channel in range(x.shape[0]):
        for i in range(x.shape[1]):
            size = abs(x[channel, i])
            if size > knee:
                bent += 1
                size = knee + room * np.tanh((size - knee) / room)
                x[channel, i] = size if x[channel, i] > 0.0 else -size
    return bent
