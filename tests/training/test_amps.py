"""Amps: harmonics, compression, loudspeakers, and no aliases."""

from dataclasses import replace

import numpy as np
import pytest

from training import amps
from training.amps import KINDS, Amp, amplify, cabinet
from training.colour import active_rms

RATE = 24_000
TIME = np.arange(2 * RATE) / RATE


def clean_amp(**knobs):
    amp = Amp.random(np.random.default_rng(0), "guitar", RATE)
    flat = {"tone_db": (0.0, 0.0, 0.0), "power_db": -30.0, "wah": False, "effect": "none", "gated": False}
    return replace(amp, **{**flat, "cabinet": np.ones(1, np.float32), "noise_db": -200.0, "bias": 0.0, **knobs})


def power_near(x, hz, width=6.0):
    power = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2
    frequency = np.fft.rfftfreq(len(x), 1 / RATE)
    return np.sum(power[np.abs(frequency - hz) < width])


def test_odd_harmonics_appear_with_gain():
    tone = np.sin(2 * np.pi * 200 * TIME).astype(np.float32)

    def third_db(drive_db):
        y = clean_amp(drive_db=drive_db, stages=1)(tone, np.random.default_rng(0))[RATE:]
        return 10 * np.log10(power_near(y, 600) / power_near(y, 200))

    assert third_db(-20.0) < -45
    assert third_db(30.0) > -20
    assert third_db(-20.0) < third_db(0.0) < third_db(10.0) < third_db(30.0)


def test_a_bias_brings_even_harmonics():
    tone = np.sin(2 * np.pi * 200 * TIME).astype(np.float32)

    def second_db(bias):
        y = clean_amp(drive_db=6.0, stages=1, bias=bias)(tone, np.random.default_rng(0))[RATE:]
        return 10 * np.log10(power_near(y, 400) / power_near(y, 200))

    assert second_db(0.4) > second_db(0.0) + 3


def test_more_gain_less_crest():
    rng = np.random.default_rng(1)
    plucked = sum(np.sin(2 * np.pi * k * 110 * TIME + rng.uniform(0, 6)) / k for k in range(1, 20)) * np.exp(-TIME)
    crest = []
    for drive_db in (-10.0, 20.0, 45.0):
        y = clean_amp(drive_db=drive_db, stages=2)(plucked, np.random.default_rng(0))
        crest.append(np.max(np.abs(y)) / np.sqrt(np.mean(y**2)))
    assert crest[0] > crest[1] > crest[2]


def test_aliases_are_low():
    """Of a clipped 2.9 kHz tone only harmonics may be heard, 35 dB above all else."""
    tone = np.sin(2 * np.pi * 2900 * TIME).astype(np.float32)
    y = clean_amp(drive_db=30.0, stages=1)(tone, np.random.default_rng(0))[RATE // 2 :]
    harmonics = sum(power_near(y, k * 2900) for k in range(1, 5))
    power = np.abs(np.fft.rfft(y * np.hanning(len(y)))) ** 2
    above = np.sum(power[np.fft.rfftfreq(len(y), 1 / RATE) > 50])
    assert 10 * np.log10((above - harmonics) / harmonics) < -35


@pytest.mark.parametrize("kind", KINDS)
def test_a_cabinet_ends_steeply(kind):
    for seed in range(20):
        response = np.abs(np.fft.rfft(cabinet(RATE, np.random.default_rng(seed), kind), 4096)) ** 2
        frequency = np.fft.rfftfreq(4096, 1 / RATE)

        def band_db(low, high, power=response, at=frequency):
            return 10 * np.log10(np.mean(power[(at >= low) & (at < high)]))

        assert band_db(1500, 2500) - band_db(8500, 9500) > 18
        assert band_db(100, 2000) - band_db(10, 20) > 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 44_100])
def test_every_amp_is_bounded_and_on_level(kind, sample_rate):
    rng = np.random.default_rng(sample_rate)
    x = (rng.standard_normal(sample_rate) * np.exp(-3 * np.arange(sample_rate) / sample_rate)).astype(np.float32)
    for seed in range(8):
        y = amplify(x, sample_rate, np.random.default_rng(seed), kind)
        assert y.dtype == np.float32
        assert y.shape == x.shape
        assert np.max(np.abs(y)) <= 1.4
        assert 20 * np.log10(active_rms(y, sample_rate)) == pytest.approx(-24, abs=0.5)
        np.testing.assert_array_equal(y, amplify(x, sample_rate, np.random.default_rng(seed), kind))


def test_amps_differ():
    x = np.sin(2 * np.pi * 200 * TIME).astype(np.float32)
    a, b = (amplify(x, RATE, np.random.default_rng(s)) for s in (0, 1))
    assert np.std(a - b) > 0.3 * np.std(a)


def test_each_effect_is_heard():
    x = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    plain = clean_amp(drive_db=0.0)(x, np.random.default_rng(0))
    for knob in ({"wah": True}, {"rotary": True}, *({"effect": effect} for effect in amps.EFFECTS[1:])):
        assert np.std(clean_amp(drive_db=0.0, **knob)(x, np.random.default_rng(0)) - plain) > 0.1 * np.std(plain), knob


def test_a_gate_closes_on_the_noise():
    x = np.where(TIME < 1, np.sin(2 * np.pi * 200 * TIME), 0).astype(np.float32)
    noisy = {"drive_db": 50.0, "stages": 2, "noise_db": -80.0}
    late = [np.std(clean_amp(gated=g, **noisy)(x, np.random.default_rng(0))[-RATE // 2 :]) for g in (False, True)]
    assert late[1] < 0.01 * late[0]


def test_silence_stays_silence_and_an_unknown_kind_is_refused():
    assert not amplify(np.zeros(1000, np.float32), RATE, np.random.default_rng(0)).any()
    with pytest.raises(ValueError, match="kind must be one of guitar"):
        amplify(np.zeros(10, np.float32), RATE, np.random.default_rng(0), "toaster")
