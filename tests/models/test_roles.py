import pytest

from alm_plugin.errors import ParameterError
from alm_plugin.models.roles import ROLES, check_role, guess_role, role_codes


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("vocals", "vocals"),
        ("03_LeadVox", "vocals"),
        ("Lead Vocal", "vocals"),
        ("BGV 2", "backing vocals"),
        ("backing_vocals", "backing vocals"),
        ("Kick In", "kick"),
        ("bass drum", "kick"),
        ("SNARE_top", "snare"),
        ("hihat", "hats"),
        ("floor tom", "toms"),
        ("OH", "overheads"),
        ("drums", "drums"),
        ("bassguitar", "bass"),
        ("Bass DI", "bass"),
        ("leadguitar", "guitar"),
        ("gtr1", "guitar"),
        ("acoustic", "acoustic guitar"),
        ("Acoustic Guitar", "acoustic guitar"),
        ("Hammond", "organ"),
        ("horns", "brass"),
        ("clav", "keys"),
        ("keys", "keys"),
        ("track 7", None),
        ("0001", None),
        ("guest", None),
    ],
)
def test_names_speak_of_roles(name, role):
    assert guess_role(name) == role


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_guessed_from_its_own_name(role):
    assert guess_role(role) == role
    assert check_role(role) == role


def test_codes():
    assert role_codes([None, ROLES[0], ROLES[-1]]).tolist() == [-1, 0, len(ROLES) - 1]


def test_unknown_roles_are_refused_with_the_list():
    with pytest.raises(ParameterError, match=r"role must be one of vocals, .*, got 'kazoo'"):
        check_role("kazoo")
