"""Profile names: grammar, arithmetic and the resource names made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.inventory.profiles import (
    Profile,
    memory_gb,
    profile_by_arithmetic,
    profile_of_driver_name,
    resource_name,
)

NAMES = {
    "1g.5gb": Profile(1, 1, 5),
    "7g.141gb": Profile(7, 7, 141),
    "1c.3g.20gb": Profile(1, 3, 20),
    "1g.10gb+me": Profile(1, 1, 10, "+me"),
    "2g.48gb+me.all": Profile(2, 2, 48, "+me.all"),
    "1g.24gb-me": Profile(1, 1, 24, "-me"),
    "4g.96gb+gfx": Profile(4, 4, 96, "+gfx"),
    "1c.2g.48gb+gfx": Profile(1, 2, 48, "+gfx"),
    "1g.24gb+gfx-me": Profile(1, 1, 24, "+gfx-me"),
}


@pytest.mark.parametrize(("name", "profile"), NAMES.items())
def test_a_name_is_taken_apart_and_put_together(name: str, profile: Profile) -> None:
    assert Profile.parse(name) == profile
    assert str(profile) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1g",
        "1g.5",
        "g.5gb",
        "1g.5gb ",
        " 1g.5gb",
        "1g.5gb+",
        "1g.5gb+ME",
        "1g.5gb.me",
        "x1g.5gb",
        "1g.5gb\n",
        "c.1g.5gb",
        "\u0661g.5gb",
        "MIG 1g.5gb",
    ],
)
def test_other_text_is_no_profile(text: str) -> None:
    assert Profile.parse(text) is None


@given(
    st.builds(
        Profile,
        ci_slices=st.integers(0, 16),
        gi_slices=st.integers(0, 16),
        memory_gb=st.integers(0, 999),
        attribute=st.sampled_from(["", "+me", "+me.all", "+gfx", "-me", "+gfx+me"]),
    )
)
def test_every_profile_survives_its_name(profile: Profile) -> None:
    assert Profile.parse(str(profile)) == profile


@given(st.text() | st.from_regex(r"([0-9]c\.)?[0-9]g\.[0-9]{1,3}gb([+-][a-z.]*)?", fullmatch=True))
def test_what_parses_has_one_name(text: str) -> None:
    profile = Profile.parse(text)
    if profile is not None:
        assert Profile.parse(str(profile)) == profile


@pytest.mark.parametrize(
    ("profile", "resource"),
    [
        ("1g.5gb", "nvidia.com/mig-1g.5gb"),
        ("1g.10gb+me", "nvidia.com/mig-1g.10gb.me"),
        ("2g.48gb+me.all", "nvidia.com/mig-2g.48gb.me.all"),
        ("1g.24gb-me", "nvidia.com/mig-1g.24gb-me"),
        ("1c.3g.20gb", "nvidia.com/mig-1c.3g.20gb"),
        ("1g.24gb+gfx+me", "nvidia.com/mig-1g.24gb.gfx.me"),
    ],
)
def test_resource_name(profile: str, resource: str) -> None:
    assert resource_name(profile) == resource


@pytest.mark.parametrize(
    ("driver_name", "ci", "gi", "profile"),
    [
        ("MIG 1g.5gb", 1, 1, "1g.5gb"),
        ("MIG 1g.10gb+me", 1, 1, "1g.10gb+me"),
        ("MIG 3g.20gb", 3, 3, "3g.20gb"),
        ("MIG 3g.20gb", 1, 3, "1c.3g.20gb"),
        ("MIG 3g.20gb", 0, 0, "3g.20gb"),
        ("MIG 1c.3g.20gb", 0, 0, "1c.3g.20gb"),
        ("MIG 1c.3g.20gb", 2, 3, "2c.3g.20gb"),
        ("4g.96gb+gfx", 2, 4, "2c.4g.96gb+gfx"),
        ("", 1, 1, ""),
        ("MIG", 1, 1, ""),
        ("Unknown", 1, 1, ""),
    ],
)
def test_name_given_by_the_driver(driver_name: str, ci: int, gi: int, profile: str) -> None:
    assert profile_of_driver_name(driver_name, ci_slices=ci, gi_slices=gi) == profile


#: Memory of the card and of an instance in MiB, as drivers report them.
@pytest.mark.parametrize(
    ("total", "instance", "slices", "name"),
    [
        (24576, 5952, 1, "1g.6gb"),
        (24576, 24192, 4, "4g.24gb"),
        (40960, 4864, 1, "1g.5gb"),
        (40960, 9856, 1, "1g.10gb"),
        (40960, 9856, 2, "2g.10gb"),
        (40960, 19968, 3, "3g.20gb"),
        (40960, 40192, 7, "7g.40gb"),
        (81559, 9984, 1, "1g.10gb"),
        (81559, 20096, 2, "2g.20gb"),
        (81559, 40448, 4, "4g.40gb"),
        (81559, 81152, 7, "7g.80gb"),
        (95830, 23936, 2, "2g.24gb"),  # a quarter of 94 GB is 23.5
        (143771, 16384, 1, "1g.18gb"),
        (143771, 33280, 2, "2g.35gb"),
        (143771, 71424, 3, "3g.71gb"),  # half of 141 GB is 70.5
        (143771, 143360, 7, "7g.141gb"),
        (184320, 22528, 1, "1g.23gb"),  # an eighth of 180 GB is 22.5
        (184320, 45056, 2, "2g.45gb"),
        (190464, 47104, 2, "2g.47gb"),  # a quarter of 186 GB is 46.5
    ],
)
def test_name_by_arithmetic(total: int, instance: int, slices: int, name: str) -> None:
    assert profile_by_arithmetic(slices, slices, instance, total) == name


@pytest.mark.parametrize(
    ("ci", "gi", "instance", "total"), [(1, 1, 4864, 0), (1, 1, 0, 40960), (0, 1, 4864, 40960)]
)
def test_numbers_of_no_device_give_no_name(ci: int, gi: int, instance: int, total: int) -> None:
    assert profile_by_arithmetic(ci, gi, instance, total) == ""


def test_a_smaller_compute_instance_shows_in_the_computed_name() -> None:
    assert profile_by_arithmetic(1, 3, 19968, 40960) == "1c.3g.20gb"


def test_memory_of_an_unknown_card_is_unknown() -> None:
    assert memory_gb(4864, 0) == 0
