import numpy as np
import pyloudnorm
import pytest

from training.balance import MIX_LUFS, TYPICAL_VOCAL_TO_BAND_LU, VOCAL_TO_BAND_LU, hop_powers, true_gains_db
from training.song import SAMPLE_RATE

SECONDS = 12
METER = pyloudnorm.Meter(SAMPLE_RATE, filter_class="DeMan")

# From the design's table: loudness of a whole group, the vocals' being 0.
BUDGETS = {"drums": -5.0, "bass": -8.0, "harmony": -6.2, "backing": -11.0}


def lufs(mono):
    return METER.integrated_loudness(np.stack([mono, mono], axis=1))


def sound(seed, level_db=-30.0, on=slice(0, SECONDS)):
    """Noise of a colour of its own, sounding in the seconds `on`."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal(SECONDS * SAMPLE_RATE)
    coloured = white + rng.uniform(-0.9, 0.9) * np.roll(white, 1)
    gate = np.zeros(SECONDS)
    gate[on] = 1.0
    return (10 ** (level_db / 20) * coloured * np.repeat(gate, SAMPLE_RATE)).astype(np.float32)


def balanced(stems, roles, leads=None, **arguments):
    """Gains and stems as they are in the mix."""
    powers = np.stack([hop_powers(stem, SAMPLE_RATE) for stem in stems])
    gain_db = true_gains_db(powers, roles, leads or [False] * len(stems), **arguments)
    heard = np.where(np.isfinite(gain_db), gain_db, -400.0)
    return gain_db, [stem * 10 ** (g / 20) for stem, g in zip(stems, heard, strict=True)]


ROLES = ["vocals", "kick", "snare", "bass", "guitar", "piano", "backing vocals"]
LEVELS = [-40.0, -12.0, -33.0, -20.0, -45.0, -28.0, -25.0]


def band():
    return [sound(seed, level) for seed, level in enumerate(LEVELS)]


def test_hop_powers_are_the_loudness_of_a_stem_in_the_middle():
    stem = sound(3, -22.0)
    powers = hop_powers(stem, SAMPLE_RATE)
    assert powers.shape == (10 * SECONDS,)
    loud = powers[powers > 0.1 * powers.max()]
    assert -0.691 + 10 * np.log10(loud.mean()) == pytest.approx(lufs(stem), abs=0.1)


@pytest.mark.parametrize("style", ["rock", "metal", "ballad", "pop", ""])
def test_the_vocals_stand_above_the_band_as_the_style_has_it(style):
    _, placed = balanced(band(), ROLES, style=style)
    ratio = lufs(placed[0]) - lufs(sum(placed[1:]))
    assert ratio == pytest.approx(VOCAL_TO_BAND_LU.get(style, TYPICAL_VOCAL_TO_BAND_LU), abs=0.1)
    assert lufs(sum(placed)) == pytest.approx(MIX_LUFS, abs=0.1)


def test_styles_differ_as_printed():
    assert VOCAL_TO_BAND_LU["metal"] < VOCAL_TO_BAND_LU["rock"] < TYPICAL_VOCAL_TO_BAND_LU < VOCAL_TO_BAND_LU["jazz"]


def test_groups_share_the_band_by_their_budgets():
    _, placed = balanced(band(), ROLES)
    groups = {
        "drums": placed[1] + placed[2],
        "bass": placed[3],
        "harmony": placed[4] + placed[5],
        "backing": placed[6],
    }
    for name, group in groups.items():
        assert lufs(group) - lufs(groups["drums"]) == pytest.approx(BUDGETS[name] - BUDGETS["drums"], abs=0.1), name


def test_within_a_group_the_kick_leads_and_hats_stand_back():
    _, placed = balanced([sound(0), sound(1, -10.0), sound(2, -50.0), sound(3)], ["kick", "snare", "hats", "bass"])
    kick, snare, hats = (lufs(stem) for stem in placed[:3])
    assert snare - kick == pytest.approx(0.0, abs=0.1)
    assert hats - kick == pytest.approx(-6.0, abs=0.1)


def test_a_hundred_channels_do_not_bury_the_vocals():
    stems = [sound(0), *(sound(seed, -30.0 - seed) for seed in range(1, 9))]
    _, placed = balanced(stems, ["vocals", *["guitar"] * 8])
    assert lufs(placed[0]) - lufs(sum(placed[1:])) == pytest.approx(TYPICAL_VOCAL_TO_BAND_LU, abs=0.1)


def test_singers_who_take_turns_are_as_loud_as_one():
    first, second = sound(0, -20.0, slice(0, 6)), sound(1, -35.0, slice(6, 12))
    others = [sound(2), sound(3)]
    gain_db, placed = balanced([first, second, *others], ["vocals", "vocals", "bass", "piano"])
    band_lufs = lufs(placed[2] + placed[3])
    # Not 3 dB less each, as two who sing together.
    for singer in placed[:2]:
        assert lufs(singer) - band_lufs == pytest.approx(TYPICAL_VOCAL_TO_BAND_LU, abs=0.2)
    together = balanced([sound(0, -20.0), sound(1, -35.0), *others], ["vocals", "vocals", "bass", "piano"])[1]
    for singer in together[:2]:
        assert lufs(singer) - lufs(together[2] + together[3]) == pytest.approx(TYPICAL_VOCAL_TO_BAND_LU - 3.01, abs=0.2)
    assert gain_db[1] - gain_db[0] == pytest.approx(15.0, abs=3.5)  # their colours differ


@pytest.mark.parametrize("roles", [["vocals", "bass", "bass", "piano"], ["vocals", "guitar", "guitar", "bass"]])
def test_a_line_and_a_microphone_add_up_as_amplitudes(roles):
    one = sound(1, -25.0)
    stems = [sound(0), one, one, sound(3)]
    gain_db, placed = balanced(stems, roles, copies=[1, 2, 2, 1])
    assert gain_db[1] == pytest.approx(gain_db[2])
    assert lufs(placed[0]) - lufs(sum(placed[1:])) == pytest.approx(TYPICAL_VOCAL_TO_BAND_LU, abs=0.1)
    assert lufs(sum(placed)) == pytest.approx(MIX_LUFS, abs=0.1)
    # Taken as two players they would be 3 dB too loud, and in place of one by his own gain 6 dB.
    alone = balanced([stems[0], one, stems[3]], [roles[0], roles[1], roles[3]])[0]
    assert gain_db[1] - alone[1] == pytest.approx(-6.02, abs=0.1)


def test_a_silent_stem_has_no_gain_and_disturbs_no_other():
    stems = band()
    whole, _ = balanced(stems, ROLES)
    for index in (0, 3, 6):
        silent = [np.zeros_like(s) if i == index else s for i, s in enumerate(stems)]
        without = [s for i, s in enumerate(stems) if i != index]
        gain_db, _ = balanced(silent, ROLES)
        expected, _ = balanced(without, [r for i, r in enumerate(ROLES) if i != index])
        assert gain_db[index] == -np.inf
        np.testing.assert_allclose(np.delete(gain_db, index), expected, rtol=0, atol=1e-9)
        assert not np.isnan(gain_db).any()
    assert np.isfinite(whole).all()


def test_nothing_but_silence():
    gain_db, _ = balanced([np.zeros(SAMPLE_RATE * SECONDS, np.float32)] * 2, ["vocals", "bass"])
    assert (gain_db == -np.inf).all()
    short = np.stack([hop_powers(sound(0)[: SAMPLE_RATE // 4], SAMPLE_RATE)])
    assert true_gains_db(short, ["vocals"], [False]).tolist() == [-np.inf]


@pytest.mark.parametrize("silent_singer", [False, True])
def test_who_leads_takes_the_place_of_a_missing_voice(silent_singer):
    stems, roles = band()[1:], ROLES[1:]
    leads = [role == "guitar" for role in roles]
    if silent_singer:
        stems, roles, leads = [np.zeros_like(stems[0]), *stems], ["vocals", *roles], [True, *leads]
    _, placed = balanced(stems, roles, leads)
    lead = roles.index("guitar")
    rest = sum(stem for i, stem in enumerate(placed) if i != lead)
    assert lufs(placed[lead]) - lufs(rest) == pytest.approx(TYPICAL_VOCAL_TO_BAND_LU, abs=0.1)


def test_nobody_leads_where_somebody_sings():
    leads = [role == "guitar" for role in ROLES]
    np.testing.assert_array_equal(balanced(band(), ROLES, leads)[0], balanced(band(), ROLES)[0])


def test_a_bass_leads_a_rhythm_section():
    _, placed = balanced([sound(0), sound(1)], ["bass", "kick"], [True, False])
    assert lufs(placed[0]) - lufs(placed[1]) == pytest.approx(TYPICAL_VOCAL_TO_BAND_LU, abs=0.1)


def test_vocals_alone_and_a_band_alone():
    for role in ("vocals", "kick", "backing vocals", "piano"):
        gain_db, placed = balanced([sound(0, -50.0)], [role])
        assert gain_db.shape == (1,)
        assert lufs(placed[0]) == pytest.approx(MIX_LUFS, abs=0.1)


def test_levels_of_the_stems_cancel():
    plain, _ = balanced(band(), ROLES)
    shifts = np.array([3.0, -9.0, 12.0, 0.0, 6.0, -4.0, 2.0])
    shifted, _ = balanced([s * np.float32(10 ** (d / 20)) for s, d in zip(band(), shifts, strict=True)], ROLES)
    np.testing.assert_allclose(plain - shifted, shifts, atol=0.02)
