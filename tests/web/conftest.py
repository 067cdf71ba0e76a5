"""What the tests of the page share: an owner without sound, and a server that is stopped in the end."""

import math
from contextlib import ExitStack

import pytest

from alm_plugin.errors import ParameterError
from alm_plugin.web.console import console
from alm_plugin.web.server import Page

# Name, role, group, the gain around which it moves, and why.
BAND = (
    ("Kick", "kick", "drums", -2.1, "2.0 dB over its share of the drums: lowered"),
    ("Snare", "snare", "drums", -4.6, "Masks the vocal in the chorus: lowered"),
    ("OH", "overheads", "drums", 0.4, "Level with its group: left where it is"),
    ("Bass DI", "bass", "bass", 1.8, "Under its share of the band: raised"),
    ("Gtr left", "guitar", "harmony", -3.3, "The loudest of three in its group: lowered"),
    ("Keys", "keys", "harmony", 2.7, "Under its group since 1:12: raised"),
    ("Anna", "vocals", "vocals", 3.9, "Lead vocal 3 dB under the band: raised"),
    ("Choir", "backing vocals", "backing", -0.8, "Only bleed for 4 s: never raised"),
)
RANGES = {"trim_db": (-24.0, 12.0), "lock_db": (-60.0, 12.0), "strength": (0.0, 100.0)}


class Band:
    """Does as it is told, and plays by the number of states it was asked for."""

    def __init__(self, strips: int = 8) -> None:
        self.channels = [BAND[i % len(BAND)] for i in range(strips)]
        self.names = [
            name if i < len(BAND) else f"{name} {i // len(BAND) + 1}" for i, (name, *_) in enumerate(self.channels)
        ]
        self.trim_db = [0.0] * strips
        self.lock_db: list[float | None] = [None] * strips
        self.mute = [False] * strips
        self.solo = [False] * strips
        self.switches = {"strength": 100.0, "freeze": False, "panic": False, "bypass": False}
        self.commands: list[tuple] = []
        self.faults: list[dict] = []
        self.xruns = self.late_frames = 0
        self.asked = 0
        self.model_db: list[float] | None = None  # what the model wants; None: it moves
        self.answers = True  # False: what it is told has no effect
        self.fails: Exception | None = None

    def describe(self) -> dict:
        strips = [
            {"name": name, "role": role, "group": group}
            for name, (_, role, group, *_) in zip(self.names, self.channels, strict=True)
        ]
        return {
            "title": "Live at the Mill",
            "sample_rate": 48000,
            "block_size": 128,
            "model": "alm-mr",
            "strips": strips,
            "ranges": RANGES,
        }

    def state(self) -> dict:
        if self.fails:
            raise self.fails
        self.asked += 1
        t = 754.0 + self.asked / 15
        strips = []
        for i, (_, _, _, around_db, why) in enumerate(self.channels):
            beat = math.exp(-2.5 * ((t * (1 + 0.11 * (i % 5)) + 0.21 * i) % 1))
            model_db = self.model_db[i] if self.model_db else around_db + 2 * math.sin(0.8 * t + i)
            locked = self.lock_db[i]
            predicted_db = self.switches["strength"] / 100 * model_db + self.trim_db[i]
            gain_db = predicted_db if locked is None else locked
            input_db = -13 - 1.6 * (i % 4) - 24 * (1 - beat) * (0.3 if i % 8 in (3, 4, 5, 6) else 0.8)
            silent = self.mute[i] or self.switches["panic"] or (any(self.solo) and not self.solo[i])
            strips.append({
                "input_db": input_db, "output_db": -math.inf if silent else input_db + gain_db, "gain_db": gain_db,
                "trim_db": self.trim_db[i], "lock_db": locked, "mute": self.mute[i], "solo": self.solo[i], "why": why,
                "predicted_db": predicted_db,
            })  # fmt: skip
        outputs = [strip["output_db"] for strip in strips]
        peak_db = max(outputs) + 6.5 if max(outputs) > -math.inf else -math.inf
        return {
            "time_s": t, "strips": strips, "mix": {"peak_db": [peak_db, peak_db - 0.7], "loudness_lufs": -17.8},
            **self.switches, "xruns": self.xruns, "late_frames": self.late_frames, "frames": int(20 * t),
            "faults": self.faults,
        }  # fmt: skip

    def command(self, name: str, strip: int | None, value: bool | float | None) -> None:
        if name == "lock_db" and strip == 0 and value == -60.0:
            raise ParameterError("lock_db of the kick must be above -60 dB, got -60")
        self.commands.append((name, strip, value))
        if not self.answers:
            return
        if strip is None:
            self.switches[name] = value
        else:
            getattr(self, name)[strip] = value


@pytest.fixture
def make_band():
    return Band


@pytest.fixture
def serve():
    with ExitStack() as stack:
        yield lambda band, **options: stack.enter_context(Page(console(band), **options))


@pytest.fixture(scope="module")
def local():
    with Page(console(Band())) as page:
        yield page


@pytest.fixture(scope="module")
def lan():
    with Page(console(Band()), lan=True) as page:
        yield page
