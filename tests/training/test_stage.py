"""Bleed: what a stage does to dry signals, against pyroomacoustics, SciPy and common sense."""

import os

os.environ.setdefault("PRA_NUM_THREADS", "1")

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import convolve

from alm_plugin.errors import ParameterError
from alm_plugin.models.roles import ROLES
from training.stage import HABITS, Seat, Stage, bleed, perform, random_stage, responses, seated

RATE = 16_000
KIT = ("kick", "snare", "hats", "toms", "overheads")
BAND = ("vocals", "backing vocals", "acoustic guitar", "guitar", "bass", "brass", "strings", *KIT)
BACKENDS = ("pyroomacoustics", "images")


def energy_db(h):
    return 10 * np.log10(np.sum(np.square(h, dtype=np.float64), axis=-1) + 1e-30)


def miked(roles, rng, **changes):
    """A random stage without direct lines."""
    stage = random_stage(roles, rng)
    level_db = np.where(np.isfinite(stage.level_db), stage.level_db, 85.0)
    return replace(stage, **{"direct": np.zeros(len(roles), bool), "level_db": level_db} | changes)


def permuted(stage, order):
    rows = ("sources", "microphones", "look", "pattern", "level_db", "direct")
    return replace(stage, **{name: getattr(stage, name)[order] for name in rows})


@pytest.fixture(scope="module")
def pairs():
    """Bleed in dB of every pair on 40 stages, by the roles of microphone and source, and of all others together."""
    found = {"all": []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        kit = KIT if seed % 2 else ("drums",)
        roles = ("vocals", "acoustic guitar", "guitar", *kit, *rng.choice(BAND[:7], rng.integers(0, 5)))
        stage = random_stage([str(role) for role in roles], rng)
        heard = responses(stage, RATE, "images")
        for m in np.flatnonzero(~stage.direct):
            others = [s for s in np.flatnonzero(np.isfinite(stage.level_db)) if s != m]
            for s in others:
                found.setdefault((roles[m], roles[s]), []).append(float(energy_db(heard[m, s])))
                found["all"].append(float(energy_db(heard[m, s])))
            found.setdefault((roles[m], "band"), []).append(float(energy_db(heard[m, others].ravel())))
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_an_own_path_has_energy_one_and_no_delay(rng, backend, sample_rate):
    for _ in range(3):
        heard = responses(miked(BAND, rng), sample_rate, backend)
        own = heard[np.arange(len(BAND)), np.arange(len(BAND))]
        np.testing.assert_allclose(np.sum(np.square(own), axis=1), 1.0, rtol=1e-4)
        assert (np.abs(own).argmax(axis=1) == 0).all()
        assert (own[:, 0] > 0.5).all()


def test_without_walls_an_own_path_is_one_sample_and_bleed_follows_distance(rng):
    stage = miked(("guitar", "brass"), rng, order=0, pattern=np.ones(2), level_db=np.array([90.0, 96.0]))
    away = np.linalg.norm(stage.microphones[:, None] - stage.sources, axis=2)
    for backend in BACKENDS:
        heard = responses(stage, 48_000, backend)
        np.testing.assert_allclose(heard[[0, 1], [0, 1]], np.eye(1, heard.shape[2]).repeat(2, 0), atol=2e-3)
        for m, s, louder_db in ((0, 1, 6.0), (1, 0, -6.0)):
            want_db = louder_db + 20 * np.log10(away[m, m] / away[m, s])
            assert energy_db(heard[m, s]) == pytest.approx(want_db, abs=0.1)
            late = (away[m, s] - away[m, m]) / 343 * 48_000
            assert abs(int(np.abs(heard[m, s]).argmax()) - late) <= 1.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cardioid_turns_its_back_on_what_is_behind(rng, backend):
    base = miked(("guitar", "brass"), rng, size=(12.0, 10.0, 5.0), order=0)
    base = replace(
        base,
        sources=np.array([[5.0, 5.0, 1.0], [5.0, 3.0, 1.0]]),
        microphones=np.array([[5.0, 4.8, 1.0], [5.2, 3.0, 1.0]]),
        look=np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]),
    )
    omni, cardioid, hyper = (
        energy_db(responses(replace(base, pattern=np.full(2, p)), RATE, backend)[0, 1]) for p in (1.0, 0.5, 0.25)
    )
    assert cardioid < omni - 40
    assert hyper == pytest.approx(omni - 6, abs=0.3)


@pytest.mark.parametrize("p", [1.0, 0.5])
def test_images_agree_with_pyroomacoustics(rng, p):
    worst_db, worst_samples = [], []
    for _ in range(4):
        stage = miked(BAND[2:10], rng, pattern=np.full(8, p))
        twin, ours = (responses(stage, RATE, backend, longest_ms=None) for backend in BACKENDS)
        worst_db.append(np.abs(energy_db(twin) - energy_db(ours)).max())
        twin, ours = (responses(replace(stage, order=0), RATE, backend) for backend in BACKENDS)
        worst_samples.append(np.abs(np.abs(twin).argmax(2) - np.abs(ours).argmax(2)).max())
    assert max(worst_db) < 0.5
    assert max(worst_samples) <= 1


def test_their_samples_agree_too(rng):
    """Not only their energies; what is left is the highest octave's roll-off and a 10 Hz high-pass."""
    stage = miked(BAND[2:10], rng)
    twin, ours = (responses(stage, RATE, backend, longest_ms=80.0) for backend in BACKENDS)
    taps = min(twin.shape[2], ours.shape[2])
    assert (energy_db(twin[:, :, :taps] - ours[:, :, :taps]) < energy_db(twin) - 14).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_arrives_before_the_own_sound_and_nothing_near_is_lost(rng, backend):
    """An overhead that hangs farther from its cymbal than from the snare hears the snare at once, whole."""
    stage = miked(("overheads", "snare"), rng, size=(9.0, 8.0, 4.0), order=0, pattern=np.ones(2))
    stage = replace(
        stage,
        sources=np.array([[4.0, 4.0, 1.0], [4.5, 4.0, 1.3]]),
        microphones=np.array([[4.6, 4.0, 1.9], [4.5, 4.0, 1.4]]),
        level_db=np.full(2, 100.0),
    )
    heard = responses(stage, RATE, backend)
    assert np.abs(heard[0, 1]).argmax() <= 1
    ratio = np.linalg.norm([0.6, 0.9]) / np.linalg.norm([0.1, 0.6])
    assert energy_db(heard[0, 1]) == pytest.approx(20 * np.log10(ratio), abs=1.0)


def test_bleed_follows_its_slow_twin(rng):
    for C, M, N, taps in ((1, 1, 1, 1), (3, 3, 1001, 7), (2, 5, 997, 1500), (8, 8, 20_011, 1_913), (4, 2, 4096, 2)):
        dry = rng.standard_normal((C, N)).astype(np.float32)
        heard = (rng.standard_normal((M, C, taps)) / np.sqrt(C * taps)).astype(np.float32)
        want = [
            sum(convolve(x, h, method="direct" if N < 2000 else "auto")[:N] for x, h in zip(dry64, row, strict=True))
            for dry64 in [dry.astype(np.float64)]
            for row in heard.astype(np.float64)
        ]
        got = bleed(dry, heard)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_dry_stays_dry(rng):
    dry = rng.standard_normal((5, 4_999)).astype(np.float32)
    for taps in (1, 300):
        identity = np.zeros((5, 5, taps), np.float32)
        identity[np.arange(5), np.arange(5), 0] = 1
        np.testing.assert_array_equal(bleed(dry, identity), dry)


def test_true_gains_bring_the_own_signal_back(rng):
    """Where there are no walls, a microphone alone holds what was played, in step and at its level."""
    dry = rng.standard_normal((1, RATE)).astype(np.float32)
    stage = miked(("guitar",), rng, order=0)
    np.testing.assert_allclose(bleed(dry, responses(stage, RATE, "images")), dry, atol=1e-5)
    np.testing.assert_allclose(bleed(dry, responses(stage, RATE)), dry, atol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_direct_line_hears_no_one_and_sounds_only_through_its_amplifier(rng, backend):
    stage = miked(BAND[:4], rng)
    stage = replace(stage, direct=np.array([False, True, True, False]), level_db=np.array([80.0, -np.inf, 97.0, 100.0]))
    heard = responses(stage, RATE, backend)
    dry = rng.standard_normal((4, 5_000)).astype(np.float32)
    recorded = bleed(dry, heard)
    np.testing.assert_array_equal(recorded[1:3], dry[1:3])
    assert not heard[[0, 2, 3], 1].any()
    assert (energy_db(heard[[0, 3], 2]) > -60).all()
    without = dry.copy()
    without[1] = 0
    np.testing.assert_allclose(bleed(without, heard)[[0, 3]], recorded[[0, 3]], atol=1e-6)


def test_a_stage_of_direct_lines_only_is_silent(rng):
    stage = replace(random_stage(["keys"] * 3, rng), direct=np.ones(3, bool))
    np.testing.assert_array_equal(responses(stage, RATE), np.eye(3, dtype=np.float32)[:, :, None])


def test_bleed_is_as_loud_as_on_a_stage(pairs):
    p10, p50, p90 = np.percentile(pairs["all"], [10, 50, 90])
    assert -55 < p10 < -30
    assert -30 < p50 < -15
    assert -12 < p90 < 3
    drums = [*pairs["acoustic guitar", "drums"], *pairs["acoustic guitar", "snare"]]
    assert -14 < np.median(drums) < 4
    assert -24 < np.median(pairs["vocals", "band"]) < -6
    assert -40 < np.median([*pairs["guitar", "drums"], *pairs["guitar", "snare"]]) < -20
    near = [db for a in KIT[:4] for b in KIT[:4] if a != b for db in pairs[a, b]]
    assert -18 < np.median(near) < -6


def test_lines_and_patterns_are_as_common_as_they_should_be(rng):
    stages = [random_stage(["bass", "keys", "vocals", "guitar"], rng) for _ in range(400)]
    direct = np.mean([stage.direct for stage in stages], axis=0)
    np.testing.assert_allclose(direct, [0.6, 0.8, 0.0, 0.1], atol=0.08)
    mute = np.mean([np.isneginf(stage.level_db[0]) for stage in stages if stage.direct[0]])
    assert mute == pytest.approx(0.5, abs=0.12)
    pattern = np.concatenate([stage.pattern for stage in stages])
    shares = [np.mean(pattern == p) for p in (1.0, 0.5, 0.37, 0.25)]
    np.testing.assert_allclose(shares, [0.1, 0.55, 0.2, 0.15], atol=0.04)


@pytest.mark.parametrize("roles", [[role] * n for role in (*ROLES, None) for n in (1, 8)] + [["kick"] * 64])
def test_everyone_stands_in_the_room_and_points_at_their_source(rng, roles):
    for _ in range(5):
        stage = random_stage(roles, rng)
        for points in (stage.sources, stage.microphones):
            assert (points > 0).all()
            assert (points < stage.size).all()
        way = stage.sources - stage.microphones
        distance = np.linalg.norm(way, axis=1)
        np.testing.assert_allclose(stage.look, way / distance[:, None], atol=1e-9)
        low, high = HABITS[roles[0]].distance_m
        extent = HABITS[roles[0]].extent_m
        assert ((distance >= low + extent - 1e-9) & (distance <= high + extent + 1e-9)).all()


def test_the_same_seed_gives_the_same_stage_and_another_another():
    a, b, c = (responses(random_stage(BAND, np.random.default_rng(seed)), RATE, "images") for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert a.shape != c.shape or not np.allclose(a, c)


@pytest.mark.parametrize("backend", BACKENDS)
def test_permuting_channels_permutes_the_result(rng, backend):
    stage = random_stage(BAND[:7], rng)
    order = rng.permutation(7)
    dry = rng.standard_normal((7, 3_000)).astype(np.float32)
    heard = responses(stage, RATE, backend)
    again = responses(permuted(stage, order), RATE, backend)
    np.testing.assert_allclose(again, heard[np.ix_(order, order)], atol=1e-6)
    np.testing.assert_allclose(bleed(dry[order], again), bleed(dry, heard)[order], atol=1e-5)


def test_one_channel_and_sixty_four(rng):
    for C in (1, 64):
        stage = random_stage([ROLES[i % len(ROLES)] for i in range(C)], rng)
        recorded = bleed(rng.standard_normal((C, 2_000)).astype(np.float32), responses(stage, RATE, "images"))
        assert recorded.shape == (C, 2_000)
        assert np.isfinite(recorded).all()
    for C in (0, 65):
        with pytest.raises(ParameterError, match=f"1 to 64, got {C}"):
            random_stage(["kick"] * C, rng)


def test_louder_recordings_bleed_no_more(rng):
    """Bleed is set by the stage: the same players, one recorded 20 dB hotter, arrive with the same balance."""
    stage = miked(BAND[:4], rng)
    dry = rng.standard_normal((4, 8_000)).astype(np.float32)
    hot_db = np.array([0.0, 20.0, 0.0, 0.0])
    gain = (10 ** (hot_db / 20))[:, None].astype(np.float32)
    want = bleed(dry, responses(stage, RATE, "images")) * gain
    got = bleed(dry * gain, responses(stage.hearing(hot_db), RATE, "images"))
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_responses_end_in_time(rng):
    stage = miked(BAND[:4], rng)
    assert responses(stage, RATE, longest_ms=50.0).shape[2] <= 800
    assert responses(stage, RATE, longest_ms=None).shape[2] > 800


def test_the_tail_is_late_and_as_loud_as_a_diffuse_field(rng):
    stage = miked(("guitar", "brass"), rng, size=(12.0, 10.0, 5.0), absorption=0.2, order=0)
    stage = replace(
        stage,
        sources=np.array([[5.0, 5.0, 1.0], [5.0, 3.0, 1.0]]),
        microphones=np.array([[5.0, 5.1, 1.0], [5.2, 3.0, 1.0]]),
        look=np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]]),
        pattern=np.array([1.0, 0.5]),
        level_db=np.array([90.0, 96.0]),
    )
    early, late = (responses(stage, RATE, "images", longest_ms=None, tail=tail) for tail in (None, rng))
    area = -460 * np.log(0.8)
    decay_s = 4 * 600 / (area * 343)
    start = int(4 * 600 / 460 / 343 * RATE)  # a mean free path
    np.testing.assert_allclose(late[0, 1, : early.shape[2]], early[0, 1], atol=1e-3)
    assert not late[0, 1, early.shape[2] + 1 : start].any()
    assert late[0, 1, start : start + 9].any()
    left = 10 * np.log10(16 * np.pi / area) - 10 * np.log10(np.e) * start / RATE / decay_s
    assert energy_db(late[0, 1, start:]) == pytest.approx(left + 6 + 20 * np.log10(0.1), abs=0.7)
    assert energy_db(late[1, 0, start:]) == pytest.approx(left - 6 + 20 * np.log10(0.2) - 4.8, abs=0.7)
    assert late.shape[2] / RATE == pytest.approx(np.log(1e6) * decay_s, rel=0.05)


def test_a_seat_hears_its_own_channel_and_the_mean_of_others(rng):
    seats = [
        Seat((3.0, 3.0, 1.0), ((2.6, 3.0, 1.4), (3.4, 3.0, 1.4)), 6.0),
        Seat((6.0, 3.0, 1.0)),
        Seat((5.0, 5.0, 1.0), ((5.0, 4.8, 1.0),)),
    ]
    stems = [rng.standard_normal((2, 4_000)), rng.standard_normal((2, 4_000)), rng.standard_normal((1, 4_000))]
    stems = [stem.astype(np.float32) for stem in stems]
    left, line, other = perform(stems, seats, RATE)
    np.testing.assert_array_equal(line, stems[1])
    swapped = perform([stems[0][::-1], *stems[1:]], seats, RATE)
    np.testing.assert_allclose(swapped[2], other, atol=1e-5)
    assert np.corrcoef(left[0], stems[0][0])[0, 1] > 0.8
    assert np.corrcoef(left[0], stems[0][1])[0, 1] < 0.2


def test_seats_hear_by_distance():
    seats = [Seat((2.0, 2.0, 1.0), ((2.1, 2.03, 1.0), (1.7, 2.0, 1.2))), Seat((4.0, 3.0, 1.0)), Seat((4.0, 1.0, 1.0))]
    heard = responses(seated(seats, 44_100), 44_100)
    assert heard.shape[:2] == (2, 3)
    own, neighbour, _ = heard[0]
    assert np.sum(own**2) == pytest.approx(1.0)
    assert np.argmax(np.abs(own)) == 0
    assert own[0] > 0.95
    # 2.13 m instead of 0.10 m away.
    assert np.argmax(np.abs(neighbour)) == pytest.approx((2.134 - 0.104) / 343 * 44_100, abs=2)
    assert 20 * np.log10(np.abs(neighbour).max()) == pytest.approx(20 * np.log10(0.104 / 2.134), abs=2)


def test_direct_seats_only_stay_as_they_are(rng):
    stem = rng.standard_normal((2, 100)).astype(np.float32)
    np.testing.assert_array_equal(perform([stem], [Seat((3.0, 3.0, 1.0))], RATE), [stem])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": np.ones(2)}, r"pattern must have shape \(3,\), got \(2,\)"),
        ({"level_db": np.full(3, -np.inf)}, "level_db must be finite where a microphone listens"),
        ({"owner": np.zeros(2, np.int64)}, r"microphones must have shape \(2, 3\)"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(rng, change, message):
    with pytest.raises(ParameterError, match=message):
        miked(BAND[:3], rng, **change)


def test_wrong_arguments_are_named(rng):
    stage: Stage = random_stage(["vocals"], rng)
    with pytest.raises(ParameterError, match="backend must be one of pyroomacoustics, images, got 'rays'"):
        responses(stage, RATE, "rays")
    with pytest.raises(ParameterError, match=r"dry must be \(1, samples\), got \(2, 5\)"):
        bleed(np.zeros((2, 5), np.float32), responses(stage, RATE))
