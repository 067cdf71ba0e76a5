import json

import numpy as np
import pytest
import soundfile

from alm_plugin.errors import ParameterError
from solar import simulate
from solar.cli import main
from solar.simulate import Band, Tracking, make_policy, play, rewards, run, takes
from solar.songs import compose

RATE = 32_000


def song(which, seed=0, seconds=75.0):
    return Band(compose(which, seconds, seed, RATE), RATE, "guitar")


@pytest.fixture(scope="module")
def bands():
    return song("a", 1), song("b", 1)


@pytest.fixture(scope="module")
def pair(bands):
    """Reference and performance, through nothing."""
    return next(iter(takes(*bands, "clean", 0)))


@pytest.fixture(scope="module")
def tracking(pair):
    return make_policy("tracker", pair[0])


def finals(take, policy, episodes=12, **options):
    return [play(take, policy, np.random.default_rng([5, k]), **options) for k in range(episodes)]


def test_the_tracker_brings_players_back_and_the_rule_does_not(pair, tracking):
    ours = finals(pair[1], tracking)
    theirs = finals(pair[1], make_policy("paper", pair[0]))
    assert np.median([abs(e.final_db) for e in ours]) <= 2.0
    assert max(abs(e.final_db) for e in ours) <= 6.0
    assert max(e.moves for e in ours) <= 4
    assert np.median([e.settle_s for e in ours]) <= 15
    assert np.mean([abs(e.final_db) for e in ours]) < np.mean([abs(e.final_db) for e in theirs])
    assert np.mean([e.moves for e in theirs]) > 15  # a player turning a knob every other second


def test_a_hand_that_misses_does_not_confuse_it(pair, tracking):
    off = [abs(e.final_db) for e in finals(pair[1], tracking, knob_error=0.5)]
    assert np.median(off) <= 3.0


def test_baselines(pair):
    starts = [np.random.default_rng([5, k]) for k in range(12)]
    for rng in starts:
        rng.integers(len(pair[1]) - 60 + 1)
    stay = finals(pair[1], make_policy("stay", pair[0]))
    assert [e.final_db for e in stay] == [rng.uniform(-60.0, 60.0) for rng in starts]
    assert all(e.moves == 0 for e in stay)
    walk = finals(pair[1], make_policy("random", pair[0]))
    assert 30 < np.mean([e.moves for e in walk]) < 50
    assert any(a.final_db != b.final_db for a, b in zip(stay, walk, strict=True))


def test_the_network_plays(pair):
    episodes = finals(pair[1], make_policy("dqn", pair[0]), 8)
    stay = finals(pair[1], make_policy("stay", pair[0]), 8)
    assert np.mean([abs(e.final_db) for e in episodes]) < np.mean([abs(e.final_db) for e in stay])


def test_an_episode_is_told_by_its_seed(pair, tracking):
    first, second = (play(pair[1], tracking, np.random.default_rng(7), knob_error=0.5) for _ in range(2))
    assert first == second


def test_who_rests_does_not_turn_up(pair):
    class Deaf(Tracking):
        def __init__(self):
            self.told = []

        def begin(self, rng):
            self.told.clear()

        def act(self, take, second, delta_db):
            self.told.append((take.plays(second), delta_db))
            return 1.0, True

        def moved(self, change_db):
            assert change_db == 1.0

    deaf = Deaf()
    play(pair[0], deaf, np.random.default_rng(0))  # in song "a" the guitar rests after a minute
    changes = np.diff([delta_db for _, delta_db in deaf.told])
    plays = np.array([plays for plays, _ in deaf.told[:-1]])
    assert 0 < plays.sum() < len(plays)
    np.testing.assert_allclose(changes, np.where(plays, 1.0, 0.0), atol=1e-9)


def test_results_have_intervals(bands, monkeypatch):
    monkeypatch.setattr(simulate, "DRAWS", 3)
    seen = []
    result = run("stay", "bad", 12, bands=bands, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k + 1, 12) for k in range(12)]
    assert result["draws"] == 3
    error = result["final_gain_error_db"]
    assert 0 < error["median"] <= error["p95"] <= error["max"] <= 60
    for name, value in error.items():
        low, high = result["interval"]["final_gain_error_db"][name]
        assert low <= value <= high
    assert (result["moves_per_minute"], result["settle_s"]) == (0.0, 60.0)


def test_the_papers_reward_has_its_trap(pair):
    learnt = pair[0]
    table = make_policy("paper", learnt)._decide.__self__.predictor
    short = Band({name: stem[9 * RATE : 19 * RATE] for name, stem in song("a", 1).stems.items()}, RATE, "guitar")
    found = {db: (literal, intended) for db, literal, intended in rewards(short.through("clean", (0,)), table)}
    assert found[-75][0] > found[-20][0]  # silence is better than nearly silence
    assert found[-75][0] > 1.2 * found[0][0]  # and not much worse than what is right
    assert found[-75][1] < found[-20][1] < found[0][1]


def test_the_command(bands, monkeypatch, capsys):
    monkeypatch.setattr(simulate, "_song", lambda which, seed: bands["abc".index(which) % 2])
    assert main(["simulate", "--episodes", "4", "--json"]) == 0
    said, shown = capsys.readouterr()
    result = json.loads(said)
    assert (result["policy"], result["condition"], result["episodes"]) == ("tracker", "clean", 4)
    assert set(result["final_gain_error_db"]) == {"median", "p95", "max"}
    assert "simulating" in shown
    assert main(["simulate", "--policy", "stay", "--episodes", "2"]) == 0
    assert capsys.readouterr().out.startswith("stay, clean: off by ")


def test_stems_of_your_own(tmp_path, capsys):
    for folder, which in (("album", "a"), ("tonight", "b")):
        (tmp_path / folder).mkdir()
        for name, stem in compose(which, 62.0, 2, RATE).items():
            if name != "vocals":
                soundfile.write(tmp_path / folder / f"{name}.flac", stem, RATE)
    arguments = [
        "simulate",
        "--reference",
        str(tmp_path / "album"),
        "--performance",
        str(tmp_path / "tonight"),
        "--json",
    ]
    assert main([*arguments, "--episodes", "4", "--player", "bass"]) == 0
    assert json.loads(capsys.readouterr().out)["final_gain_error_db"]["median"] < 6.0
    for more, said in (
        (["--player", "horn"], "player must be one of bass, drums, guitar, got 'horn'"),
        (["--condition", "other"], "--condition must be clean, mild or bad for stems of your own, got other"),
        (["--report", "x.html"], "--report must come without --reference, got both"),
        (["--policy", "dqn"], "policy must be another than dqn for 3 stems"),
    ):
        assert main([*arguments, *more]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "tonight" / "drums.flac").unlink()
    assert main(arguments) == 2
    assert "--performance must have the stems bass, drums, guitar, got bass, guitar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--episodes", "0"], "episodes must be at least 1, got 0"),
        (["--knob-error", "1"], "knob_error must be in [0, 1), got 1.0"),
        (["--knob-error", "nan"], "knob_error must be in [0, 1), got nan"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--reference", "x"], "--reference and --performance must be given together, got one of them"),
        (["--report", "nowhere/x.html"], "expected an existing folder, got nowhere"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, said, capsys):
    assert main(["simulate", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(("policy", "condition"), [("best", "clean"), ("stay", "worse")])
def test_what_is_not_known_is_refused(policy, condition):
    with pytest.raises(ParameterError, match="must be one of"):
        run(policy, condition, 1)


def test_the_page(bands, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(simulate, "_song", lambda which, seed: bands["abc".index(which) % 2])
    monkeypatch.setattr(simulate, "CONDITIONS", {"clean": ("b", "clean"), "other": ("c", "clean")})
    monkeypatch.setattr(simulate, "KNOB_CONDITIONS", ("clean",))
    monkeypatch.setattr(simulate, "SHOWN_DB", (-75, 0))
    monkeypatch.setattr(simulate, "POLICIES", ("tracker", "paper", "stay"))
    path = tmp_path / "all.html"
    assert main(["simulate", "--report", str(path), "--episodes", "2"]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.count("<tr>") == 1 + 4 + 1 + 1 + 1 + 2 + 1 + 3
    assert "http" not in text.replace("http-equiv", "")
    assert "knob ±50 %" in text
    assert "nan" not in text
    assert str(path) in capsys.readouterr().out
