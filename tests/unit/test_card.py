"""How the profile of a MIG device is found among those of its card."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugin.core.inventory.card import Attributes, CardProfile, CardProfiles, find_profile
from plugin.core.inventory.model import Engines, Unknown

PLAIN = CardProfile(19, "1g.24gb", 1, 20480, 18, Engines(1, 1, 0, 1, 0))
MEDIA = CardProfile(20, "1g.24gb+me", 1, 20480, 18, Engines(1, 1, 0, 1, 1))
GRAPHICS = replace(PLAIN, id=47, name="1g.24gb+gfx")
LARGE = CardProfile(9, "3g.95gb", 3, 93184, 72, Engines(3, 3, 0, 3, 0))
CARD = CardProfiles((PLAIN, MEDIA, LARGE), 8)
TWINS = CardProfiles((PLAIN, GRAPHICS), 4)
INCOMPLETE = replace(CARD, unknown=Unknown("reading GPU instance profile 7: Unknown Error", 999))
REFUSED = Unknown("listing GPU instances: Insufficient Permissions", 4, "run it privileged")
TOTAL = 189_440


def attributes(profile: CardProfile, ci_slices: int | None = None) -> Attributes:
    return Attributes(
        profile.slices,
        ci_slices or profile.slices,
        profile.memory_mib,
        profile.multiprocessors,
        profile.engines,
    )


@pytest.mark.parametrize(
    ("device", "instance", "card", "profile"),
    [
        pytest.param(attributes(MEDIA), 20, CARD, "1g.24gb+me", id="by the id of its instance"),
        pytest.param(attributes(LARGE, 1), 9, CARD, "1c.3g.95gb", id="a part of its instance"),
        pytest.param(attributes(PLAIN), REFUSED, CARD, "1g.24gb", id="by its engines"),
        pytest.param(attributes(MEDIA), REFUSED, CARD, "1g.24gb+me", id="by its media engines"),
        pytest.param(attributes(LARGE), REFUSED, CARD, "3g.95gb", id="not by arithmetic"),
        pytest.param(attributes(LARGE, 2), REFUSED, CARD, "2c.3g.95gb", id="a part by size"),
        pytest.param(attributes(GRAPHICS), 47, TWINS, "1g.24gb+gfx", id="a twin by its id"),
        pytest.param(attributes(MEDIA), 20, INCOMPLETE, "1g.24gb+me", id="others are unread"),
    ],
)
def test_a_profile_is_found(
    device: Attributes, instance: int | Unknown, card: CardProfiles, profile: str
) -> None:
    found = find_profile(device, instance, card, TOTAL)
    assert (found.profile, found.unknown, found.warning) == (profile, None, "")


@pytest.mark.parametrize(
    ("device", "instance", "card", "total", "why"),
    [
        pytest.param(
            attributes(PLAIN), REFUSED, TWINS, TOTAL, "1g.24gb or 1g.24gb+gfx", id="two fit"
        ),
        pytest.param(attributes(PLAIN), REFUSED, INCOMPLETE, TOTAL, "profile 7", id="one unread"),
        pytest.param(
            attributes(PLAIN),
            20,
            replace(INCOMPLETE, profiles=(PLAIN,)),
            TOTAL,
            "profile 7",
            id="its own unread",
        ),
        pytest.param(attributes(LARGE), 19, CARD, TOTAL, "3 slices", id="two answers disagree"),
        pytest.param(attributes(PLAIN), REFUSED, CardProfiles(), 0, "memory", id="no arithmetic"),
    ],
)
def test_no_name_is_better_than_a_wrong_one(
    device: Attributes, instance: int | Unknown, card: CardProfiles, total: int, why: str
) -> None:
    found = find_profile(device, instance, card, total)
    assert found.profile == ""
    assert why in str(found.unknown)


def test_the_right_that_would_tell_is_named() -> None:
    found = find_profile(attributes(PLAIN), REFUSED, TWINS, TOTAL)
    assert found.unknown is not None
    assert (found.unknown.code, found.unknown.fix) == (REFUSED.code, REFUSED.fix)


@pytest.mark.parametrize("instance", [99, REFUSED])
def test_arithmetic_is_the_last_resort_and_said(instance: int | Unknown) -> None:
    found = find_profile(attributes(LARGE), instance, CardProfiles(), TOTAL)
    assert found.profile == "3g.93gb"
    assert "computed" in found.warning
