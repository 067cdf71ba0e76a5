"""Waveguides and sources: pitch, sustain, and the kernel against a slow twin."""

import numpy as np
import pytest

from training import strings
from training.midi import Note
from training.strings import KINDS, MANNERS, PEAK, play

RATE = 24_000


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def cents_off(x, sample_rate, key):
    """Distance in cents of the pitch from the key: the best sum of the powers of the first harmonics."""
    nominal = 440 * 2 ** ((key - 69) / 12)
    candidates = nominal * 2 ** (np.arange(-60, 60.5, 0.5) / 1200)
    size = 1 << 20
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), size))
    harmonics = np.arange(1, 6)
    bins = np.round(candidates[:, None] * harmonics * size / sample_rate).astype(int)
    score = np.sum(spectrum[bins] ** 2, 1)
    return float(np.arange(-60, 60.5, 0.5)[np.argmax(score)])


@pytest.mark.parametrize("kind", ["electric", "acoustic", "bass", "bowed", "blown"])
@pytest.mark.parametrize("key", [40, 57, 76])
@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 48_000])
def test_a_note_has_its_pitch(kind, key, sample_rate):
    """A synth is detuned and a drone shaken on purpose."""
    rng = np.random.default_rng(key)
    x = play([Note(0, 4, key, 100)], 120, 2 * sample_rate, sample_rate, rng, kind)
    assert abs(cents_off(x[round(0.3 * sample_rate) :], sample_rate, key)) < 15


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("manner", MANNERS)
def test_the_same_generator_plays_the_same_and_another_another(kind, manner):
    notes = [Note(b, 1, 57 + b, 100) for b in range(4)]
    first, again, other = (
        play(notes, 120, RATE, RATE, np.random.default_rng(s), kind, manner=manner) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert rms(first - other) > 0.1 * rms(first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_any_part_is_finite_and_as_loud_as_promised(kind, seed):
    rng = np.random.default_rng(seed)
    rate = int(rng.choice([16_000, 22_050, 44_100, 48_000]))
    notes = [
        Note(float(rng.uniform(0, 9)), float(rng.uniform(0, 3)), int(rng.integers(12, 120)), int(rng.integers(1, 128)))
        for _ in range(20)
    ]
    x = play(notes, 140, 3 * rate + 7, rate, rng, kind, manner=MANNERS[seed % 2])
    assert x.dtype == np.float32
    assert x.shape == (3 * rate + 7,)
    assert np.max(np.abs(x)) == pytest.approx(PEAK, rel=1e-5)
    assert abs(np.mean(x)) < 0.02


def test_no_notes_no_sound():
    assert not play([], 120, 1000, RATE, np.random.default_rng(0), "bass").any()
    assert not play([Note(99, 1, 60, 100)], 120, 1000, RATE, np.random.default_rng(0), "blown").any()


def test_a_held_string_lasts_and_a_plucked_one_decays():
    """Every drone is held by an e-bow or by feedback; of comping strings, none."""

    def fall_db(kind, seed):
        x = play([Note(0, 8, 52, 100)], 120, 4 * RATE, RATE, np.random.default_rng(seed), kind)
        return 20 * np.log10(rms(x[3 * RATE : 3 * RATE + RATE // 2]) / rms(x[RATE // 20 : RATE // 2]))

    for seed in range(10):
        assert abs(fall_db("drone", seed)) < 6
        assert fall_db("acoustic", seed) < -6


def test_a_muted_string_is_short():
    def energy_late(decay_s):
        force, out = np.zeros(RATE), np.zeros(RATE)
        force[0] = 1
        loops = np.full(2, 10 ** (-3 * 200 / RATE / decay_s))
        strings._vibrate(force, np.full(RATE, 200.0), loops, RATE, 0.1, 0.2, 1.0, 0.0, 1.0, 0, RATE, np.zeros(512), out)
        return rms(out[RATE // 2 :])

    assert energy_late(0.2) < 0.01 * energy_late(3.0)


def twin(force, period, loops, release, damping, pickup, harmonic, drive, target, wait, rate):
    """The equations above `_vibrate`, a history instead of a ring and Lagrange's formula instead of its expansion."""
    y = np.zeros(len(force) + 1000)  # y[n] at y[n + 1000]
    w = np.zeros(len(force) + 2)
    out = np.zeros(len(force))
    power = s1 = s2 = 0.0
    for n in range(len(force)):
        delay = period[n] - 1
        nodes = int(delay) + np.arange(-1, 3)
        for i in nodes:
            others = nodes[nodes != i]
            w[n + 2] += y[1000 + n - i] * np.prod((delay - others) / (i - others))
        s = np.dot([damping / 2, 1 - damping, damping / 2], w[n : n + 3])
        if drive:
            # Zavalishin's filter solved as two linear equations for the states at the end of the sample.
            g, q = np.tan(np.pi * harmonic / period[n]), 0.7
            band, low = np.linalg.solve([[1 + g * q, g], [-g, 1]], [s1 + g * s, s2])
            s1, s2 = 2 * band - s1, 2 * low - s2
            if wait <= n < release:
                s += drive * min(1, (n - wait) / (0.4 * rate)) * max(0, 1 - power / target) * q * band
        y[1000 + n] = force[n] + loops[int(n >= release)] * s
        power += (y[1000 + n] ** 2 - power) / (0.03 * rate)
        back = 1000 + n - pickup * period[n]
        out[n] = y[1000 + n] - np.interp(back, np.arange(len(y)), y)
    return out


@pytest.mark.parametrize("drive", [0.0, 0.2])
def test_the_string_equals_its_slow_twin(drive):
    rng = np.random.default_rng(5)
    length = 1500
    force = np.where(np.arange(length) < 80, rng.standard_normal(length), 0)
    period = 61.3 + 2 * np.sin(np.arange(length) / 100)
    args = (force, period, np.array([0.995, 0.8]), 1200, 0.2, 0.23, 2.0, drive, 0.3, 300, 4000)
    out = np.zeros(length)
    strings._vibrate(*args, np.zeros(128), out)
    np.testing.assert_allclose(out, twin(*args), atol=1e-12)


def test_a_lead_moves_its_pitch_and_a_comp_does_not():
    def spread(manner):
        widths = []
        for seed in range(6):
            hand = strings._hand("electric", manner, np.random.default_rng(seed))
            run = strings.Run([0.0], [60], [100], 2.0)
            hz = strings._pitch(run, 2 * RATE, RATE, hand, np.random.default_rng(seed), 9000)
            widths.append(1200 * np.log2(hz.max() / hz.min()))
        return np.median(widths)

    assert spread("comp") < 1e-9
    assert spread("lead") > 15


@pytest.mark.parametrize("seed", range(20))
def test_a_run_ends_on_its_last_key(seed):
    """Bends come back, slides arrive: half a second before the next note only the vibrato is left."""
    still = strings.Hand(0.0, 1.0, 1.0, 0.5, True, 0.0, 5.0, 0.2, 0.0, 0.0)
    run = strings.Run([0.0, 1.0, 2.0], [60, 64, 62], [100] * 3, 3.0)
    hz = strings._pitch(run, 3 * RATE, RATE, still, np.random.default_rng(seed), 9000)
    ends = 69 + 12 * np.log2(hz[[RATE - 10, 2 * RATE - 10, 3 * RATE - 10]] / 440)
    np.testing.assert_allclose(ends, [60, 64, 62], atol=0.02)


def test_an_unknown_kind_or_manner_is_refused():
    with pytest.raises(ValueError, match="kind must be one of electric"):
        play([], 120, 10, RATE, np.random.default_rng(0), "kazoo")
    with pytest.raises(ValueError, match="manner must be one of comp"):
        play([], 120, 10, RATE, np.random.default_rng(0), "bass", manner="slap")


def test_the_wind_brightens_with_its_level():
    """Harmonics grow with the level, as they do when somebody blows harder."""

    def brightness(velocity):
        x = play([Note(0, 4, 57, velocity)], 120, 2 * RATE, RATE, np.random.default_rng(7), "blown")
        power = np.abs(np.fft.rfft(x)) ** 2
        return np.sum(power * np.arange(len(power))) / np.sum(power)

    assert brightness(120) > 1.2 * brightness(30)
