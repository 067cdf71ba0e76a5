from collections import Counter
from functools import cache

import numpy as np
import pytest

from alm_plugin.models.roles import ROLES
from training.compose import STYLES, Part, Score, compose

SEEDS = range(60)
MANNERS = {"lead", "comp", "strum", "pick", "power", "pad", "riff", "hits", "bass", "kit", "sung", "spoken"}
ONE_VOICE = {"lead", "bass", "riff", "sung", "spoken"}


@cache
def song(seed: int, seconds: float = 40.0, style: str | None = None) -> Score:
    return compose(np.random.default_rng(seed), seconds, style)


def parts() -> list[tuple[Score, Part]]:
    return [(song(seed), part) for seed in SEEDS for part in song(seed).parts]


def sounding(score: Score, part: Part) -> np.ndarray:
    """Whether something sounds, by second."""
    beat = 60 / score.tempo_bpm
    busy = np.zeros(int(score.seconds) + 60, bool)
    for note in part.notes:
        busy[int(note.start * beat) : int((note.start + note.length) * beat) + 1] = True
    return busy[: int(score.seconds)]


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


def has_singer(score: Score) -> bool:
    return any(part.role == "vocals" for part in score.parts)


def test_the_generator_decides_everything():
    assert compose(np.random.default_rng(3)) == compose(np.random.default_rng(3))
    assert len({song(seed).parts for seed in SEEDS}) == len(SEEDS)


def test_an_unknown_style_is_refused_by_name():
    with pytest.raises(ValueError, match="polka"):
        compose(np.random.default_rng(0), style="polka")


def test_every_style_is_drawn():
    assert {song(seed).style for seed in range(150)} == set(STYLES)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seconds", [8.0, 40.0, 180.0])
def test_every_style_can_be_asked_for_at_any_length(style: str, seconds: float):
    score = song(5, seconds, style)
    assert (score.style, score.seconds) == (style, seconds)
    assert 3 <= len(score.parts) <= 16
    last = max(note.start for part in score.parts for note in part.notes) * 60 / score.tempo_bpm
    assert 0.75 * seconds < last < seconds


def test_parts_are_well_formed():
    for score, part in parts():
        assert part.role in ROLES
        assert part.manner in MANNERS
        assert part.notes
        assert list(part.notes) == sorted(part.notes)
        sung = part.role in ("vocals", "backing vocals")
        assert (part.program is None) == sung == (part.manner in ("sung", "spoken"))
        assert part.drums == (part.manner == "kit")
        for note in part.notes:
            assert 0 <= note.start * 60 / score.tempo_bpm < score.seconds
            assert note.length > 0
            assert 1 <= note.velocity <= 127
            assert 0 <= note.key <= 127
            assert all(isinstance(value, int) for value in (note.key, note.velocity))


@pytest.mark.parametrize(
    ("role", "low", "high", "programs"),
    [
        ("bass", 24, 55, range(32, 40)),
        ("guitar", 36, 86, range(26, 32)),
        ("acoustic guitar", 40, 79, range(24, 26)),
        ("piano", 36, 88, range(4)),
        ("organ", 36, 88, range(16, 21)),
        ("strings", 40, 91, range(40, 52)),
        ("brass", 40, 81, range(56, 68)),
        ("synth", 43, 91, range(80, 96)),
        ("vocals", 48, 77, [None]),
        ("backing vocals", 48, 77, [None]),
        ("kick", 35, 36, range(128)),
        ("snare", 37, 40, range(128)),
    ],
)
def test_instruments_stay_in_their_range(role: str, low: int, high: int, programs):
    found = [part for _, part in parts() if part.role == role]
    assert found
    assert all(low <= note.key <= high for part in found for note in part.notes)
    assert {part.program for part in found} <= set(programs)


def test_names_are_unique_and_doubles_name_a_part_of_the_same_role():
    doubled = 0
    for seed in SEEDS:
        by_name = {part.name: part for part in song(seed).parts}
        assert len(by_name) == len(song(seed).parts)
        for part in by_name.values():
            if part.doubles is None:
                continue
            first = by_name[part.doubles]
            doubled += 1
            assert first is not part
            assert (first.role, first.manner) == (part.role, part.manner)
            assert not {note.start for note in first.notes} & {note.start for note in part.notes if note.start > 0}
            near = [min(abs(note.start - other.start) for other in first.notes) for note in part.notes]
            assert np.median(near) * 60 / song(seed).tempo_bpm < 0.06
    assert doubled >= 6


def test_one_voice_never_overlaps_itself_and_no_key_is_struck_while_it_sounds():
    for _, part in parts():
        ends: dict[int, float] = {}
        for note in part.notes:
            voice = 0 if part.manner in ONE_VOICE else note.key
            assert note.start >= ends.get(voice, 0.0) - 1e-9, part.name
            ends[voice] = note.start + note.length


def test_chords_have_several_notes_at_once():
    for _, part in parts():
        if part.manner in ("comp", "strum"):
            assert len(part.notes) > 2 * len({round(note.start * 4) for note in part.notes})


def test_bands_have_three_to_sixteen_parts():
    counts = [len(song(seed).parts) for seed in range(200)]
    assert min(counts) >= 3
    assert max(counts) <= 16
    assert len(set(counts)) >= 8


def test_four_songs_in_five_have_singers():
    songs = [song(seed) for seed in range(200)]
    assert 0.7 <= share([has_singer(score) for score in songs]) <= 0.9
    voices = Counter(sum(part.manner in ("sung", "spoken") for part in score.parts) for score in songs)
    assert set(voices) == {0, 1, 2, 3}
    assert any(part.manner == "spoken" for score in songs for part in score.parts)


def test_without_a_singer_one_instrument_leads():
    for seed in range(200):
        leads = [part for part in song(seed).parts if part.lead]
        if has_singer(song(seed)):
            assert all(part.role == "vocals" for part in leads)
        else:
            assert [part.manner for part in leads] == ["lead"]


def test_singers_breathe():
    for score, part in parts():
        if part.manner not in ("sung", "spoken") or part.role != "vocals":
            continue
        starts = np.array([note.start for note in part.notes]) * 60 / score.tempo_bpm
        ends = np.array([note.start + note.length for note in part.notes]) * 60 / score.tempo_bpm
        breath = np.flatnonzero(starts[1:] - ends[:-1] > 0.12)
        phrases = ends[[*breath, -1]] - starts[[0, *(breath + 1)]]
        assert phrases.max() < 10


def test_speech_is_dense_and_nearly_constant_in_pitch():
    found = [(score, part) for score, part in parts() if part.manner == "spoken"]
    assert found
    for score, part in found:
        keys = np.array([note.key for note in part.notes])
        assert np.ptp(keys) <= 4
        gaps = np.diff([note.start for note in part.notes]) * 60 / score.tempo_bpm
        assert 0.1 < np.median(gaps) < 0.35


def test_kits_come_whole_split_or_not_at_all():
    def kind(score: Score) -> str:
        roles = {part.role for part in score.parts}
        assert not {"drums", "overheads"} <= roles
        return "whole" if "drums" in roles else "split" if "overheads" in roles else "none"

    counts = Counter(kind(song(seed)) for seed in range(300))
    assert counts["whole"] / 300 == pytest.approx(0.58, abs=0.1)
    assert counts["split"] / 300 == pytest.approx(0.32, abs=0.1)
    assert counts["none"] / 300 == pytest.approx(0.10, abs=0.06)


def test_overheads_hear_the_drums_of_the_other_microphones():
    checked = 0
    for seed in SEEDS:
        split = {part.role: part for part in song(seed).parts if part.drums}
        if "overheads" not in split:
            continue
        heard = {(note.start, note.key): note.velocity for note in split["overheads"].notes}
        for role in {"kick", "snare", "hats", "toms"} & set(split):
            close = {(note.start, note.key): note.velocity for note in split[role].notes}
            assert close.keys() <= heard.keys()
            assert np.mean([heard[hit] for hit in close]) < 0.9 * np.mean(list(close.values()))
            checked += 1
    assert checked > 20


def test_every_part_sounds_for_a_while_but_few_all_the_time():
    shares = [sounding(score, part).mean() for score, part in parts()]
    assert min(shares) >= 0.15
    assert share([value < 0.9 for value in shares]) > 0.5


def test_players_enter_late_rest_and_stop_early():
    late, rests, early = [], [], []
    for score, part in parts():
        busy = np.flatnonzero(sounding(score, part))
        late.append(bool(busy[0] > 0.15 * score.seconds))
        rests.append(bool(np.diff(busy).max(initial=1) > 4))
        early.append(bool(busy[-1] < 0.85 * score.seconds))
    assert 0.15 < share(late) < 0.6
    assert share(rests) > 0.15
    assert share(early) > 0.1


def test_the_band_is_sometimes_small_and_seldom_silent():
    for seed in SEEDS:
        score = song(seed)
        playing = np.sum([sounding(score, part) for part in score.parts], axis=0)
        assert share(list(playing > 0)) > 0.9
    sizes = [np.sum([sounding(song(s), part) for part in song(s).parts], axis=0) for s in SEEDS]
    assert share([bool(size.min() <= 0.5 * size.max()) for size in sizes]) > 0.7


def test_players_differ_in_force_and_time():
    means = [np.mean([note.velocity for note in part.notes]) for _, part in parts()]
    assert np.std(means) > 12
    for _, part in parts():
        if part.manner == "kit" and len(part.notes) > 40:
            off = [note.start * 4 % 1 for note in part.notes]
            assert len(set(off)) > len(off) / 2


def test_rock_singers_have_lead_guitars_beside_them():
    songs = [song(seed, 20.0, style) for seed in range(50) for style in ("rock", "metal", "blues")]
    found = [
        any(part.role == "guitar" and part.manner == "lead" and not part.lead for part in score.parts)
        for score in songs
        if has_singer(score)
    ]
    assert 0.22 < share(found) < 0.5


def test_metres_and_tempi_vary():
    metres = Counter(song(seed).beats_per_bar for seed in range(200))
    assert metres[4] > 140
    assert metres[3] > 0
    assert metres[6] > 0
    assert np.std([song(seed).tempo_bpm for seed in SEEDS]) > 15
