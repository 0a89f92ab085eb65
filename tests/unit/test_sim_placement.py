"""Placement rules of every card, against what NVIDIA's profile tables say."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.inventory.model import Placement
from plugin.errors import SimulationError
from plugin.sim.hardware.cards import Card, CardProfile, catalog
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.placement import place, plan

CARDS = [card for card in catalog().cards.values() if card.mig_capable]
PROFILES = [
    pytest.param(card, profile, id=f"{card.key}-{profile.name}")
    for card in CARDS
    for profile in card.profiles
]

MAXIMA = {
    "a100-40gb": {
        "1g.5gb": 7,
        "1g.5gb+me": 1,
        "1g.10gb": 4,
        "2g.10gb": 3,
        "3g.20gb": 2,
        "4g.20gb": 1,
        "7g.40gb": 1,
    },
    "a100-80gb": {
        "1g.10gb": 7,
        "1g.10gb+me": 1,
        "1g.20gb": 4,
        "2g.20gb": 3,
        "3g.40gb": 2,
        "4g.40gb": 1,
        "7g.80gb": 1,
    },
    "a30-24gb": {"1g.6gb": 4, "1g.6gb+me": 1, "2g.12gb": 2, "2g.12gb+me": 1, "4g.24gb": 1},
    "h100-80gb": {
        "1g.10gb": 7,
        "1g.10gb+me": 1,
        "1g.20gb": 4,
        "2g.20gb": 3,
        "3g.40gb": 2,
        "4g.40gb": 1,
        "7g.80gb": 1,
    },
    "h200-141gb": {
        "1g.18gb": 7,
        "1g.18gb+me": 1,
        "1g.35gb": 4,
        "2g.35gb": 3,
        "3g.71gb": 2,
        "4g.71gb": 1,
        "7g.141gb": 1,
    },
    "b200-180gb": {
        "1g.23gb": 7,
        "1g.23gb+me": 1,
        "1g.45gb": 4,
        "2g.45gb": 3,
        "3g.90gb": 2,
        "4g.90gb": 1,
        "7g.180gb": 1,
    },
    "h100-nvl-94gb": {
        "1g.12gb": 7,
        "1g.12gb+me": 1,
        "1g.24gb": 4,
        "2g.24gb": 3,
        "3g.47gb": 2,
        "4g.47gb": 1,
        "7g.94gb": 1,
    },
    "gb200-186gb": {
        "1g.24gb": 7,
        "1g.24gb+me": 1,
        "1g.47gb": 4,
        "2g.47gb": 3,
        "3g.95gb": 2,
        "4g.95gb": 1,
        "7g.189gb": 1,
    },
    "rtx-pro-6000-96gb": {
        "1g.24gb": 4,
        "1g.24gb+me": 1,
        "1g.24gb+gfx": 4,
        "1g.24gb+me.all": 1,
        "1g.24gb-me": 4,
        "2g.48gb": 2,
        "2g.48gb+gfx": 2,
        "2g.48gb+me.all": 1,
        "2g.48gb-me": 2,
        "4g.96gb": 1,
        "4g.96gb+gfx": 1,
    },
}
TWINS = {"a800-40gb": "a100-40gb", "a800-80gb": "a100-80gb", "h800-80gb": "h100-80gb"}
MAXIMA |= {twin: MAXIMA[card] for twin, card in TWINS.items()}


def mig_node(card: Card) -> SimNode:
    node = SimNode([card])
    node.configure("all-enabled")
    return node


def test_the_table_covers_every_card_with_mig() -> None:
    assert set(MAXIMA) == {card.key for card in CARDS}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.key)
def test_profiles_and_their_maxima(card: Card) -> None:
    assert {profile.name: profile.max_instances for profile in card.profiles} == MAXIMA[card.key]


@pytest.mark.parametrize(("card", "profile"), PROFILES)
def test_as_many_instances_as_the_maximum_can_be_made_and_no_more(
    card: Card, profile: CardProfile
) -> None:
    node = mig_node(card)
    for made in range(profile.max_instances):
        assert node.gpu(0).remaining(profile) == profile.max_instances - made
        node.create_gi(0, profile.name)
    assert node.gpu(0).remaining(profile) == 0
    with pytest.raises(NodeError) as refused:
        node.create_gi(0, profile.name)
    assert refused.value.code is Code.INSUFFICIENT_RESOURCES


@pytest.mark.parametrize(("card", "profile"), PROFILES)
def test_every_listed_placement_works_and_no_other(card: Card, profile: CardProfile) -> None:
    size = profile.placements[0].size
    for start in range(card.memory_slices):
        at = Placement(start, size)
        node = mig_node(card)
        if at in profile.placements:
            assert node.create_gi(0, profile.name, at).placement == at
        else:
            with pytest.raises(NodeError) as refused:
                node.create_gi(0, profile.name, at)
            assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.key)
def test_ids_of_gpu_instances_are_unique_wherever_they_lie(card: Card) -> None:
    for profile in card.profiles:
        node = mig_node(card)
        ids = [node.create_gi(0, profile.name).id for _ in range(profile.max_instances)]
        assert len(set(ids)) == len(ids)
        assert all(0 <= gi < 15 for gi in ids)


def test_ids_follow_the_size_of_the_instance() -> None:
    card = catalog().cards["a100-40gb"]
    node = mig_node(card)
    assert [node.create_gi(0, "1g.5gb").id for _ in range(7)] == [7, 8, 9, 10, 11, 12, 13]
    node = mig_node(card)
    assert [node.create_gi(0, name).id for name in ("4g.20gb", "2g.10gb", "1g.5gb")] == [1, 5, 13]
    assert mig_node(card).create_gi(0, "7g.40gb").id == 0


def test_a_small_instance_at_the_start_blocks_the_half_card() -> None:
    node = mig_node(catalog().cards["a100-40gb"])
    node.create_gi(0, "1g.5gb")
    with pytest.raises(NodeError, match=r"4g\.20gb.*1g\.5gb at 0:1") as refused:
        node.create_gi(0, "4g.20gb")
    assert refused.value.code is Code.INSUFFICIENT_RESOURCES


def test_overlap_is_refused_at_an_explicit_placement() -> None:
    node = mig_node(catalog().cards["h100-80gb"])
    node.create_gi(0, "3g.40gb", Placement(4, 4))
    with pytest.raises(NodeError):
        node.create_gi(0, "2g.20gb", Placement(4, 2))
    assert node.create_gi(0, "2g.20gb", Placement(2, 2)).id == 4


def test_media_engines_can_be_given_once() -> None:
    node = mig_node(catalog().cards["a30-24gb"])
    node.create_gi(0, "1g.6gb+me")
    with pytest.raises(NodeError):
        node.create_gi(0, "2g.12gb+me")
    assert node.create_gi(0, "2g.12gb").placement == Placement(2, 2)


def test_the_search_finds_placements_that_first_fit_would_miss() -> None:
    planned = plan(catalog().cards["a100-40gb"], ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"])
    placed = {(p.profile.name, p.placement) for p in planned}
    assert (
        "3g.20gb",
        Placement(4, 4),
    ) in placed  # a single slice cannot lie in the last memory slice


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["3g.20gb"] * 3, "3 instances of 3g.20gb, at most 2 fit"),
        (["1g.5gb+me", "1g.5gb+me"], "2 instances of 1g.5gb"),
        (["4g.20gb", "4g.20gb"], "at most 1 fit"),
        (["7g.40gb", "1g.5gb"], "9 memory slices are needed, the card has 8"),
        (["3g.20gb", "3g.20gb", "1c.3g.20gb"], "3 instances of 3g.20gb"),
        (["1g.10gb", "3g.20gb", "1g.5gb", "1g.5gb"], None),
        (["2g.10gb", "2g.10gb", "2g.10gb", "1g.5gb", "1g.5gb"], "overlap"),
        (["3g.20gb", "1g.5gb", "1g.5gb", "1g.5gb", "1g.5gb"], None),
    ],
)
def test_impossible_plans_say_why(names: list[str], reason: str | None) -> None:
    card = catalog().cards["a100-40gb"]
    if reason is None:
        assert len(plan(card, names)) == len(names)
        return
    with pytest.raises(SimulationError, match="cannot be placed on GPU 3") as refused:
        plan(card, names, gpu=3)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_media_profiles_do_not_go_together() -> None:
    with pytest.raises(SimulationError, match="media engines"):
        plan(catalog().cards["a30-24gb"], ["1g.6gb+me", "2g.12gb+me"])


def test_compute_instances_share_gpu_instances_as_far_as_they_fit() -> None:
    card = catalog().cards["a100-40gb"]
    assert [p.compute for p in plan(card, ["1c.3g.20gb"] * 3)] == [(1, 1, 1)]
    assert [p.compute for p in plan(card, ["1c.3g.20gb"] * 4)] == [(1, 1, 1), (1,)]
    assert [p.compute for p in plan(card, ["1c.3g.20gb", "2c.3g.20gb"])] == [(2, 1)]
    assert [p.compute for p in plan(card, ["3g.20gb", "1c.3g.20gb"])] == [(3,), (1,)]


@given(card=st.sampled_from(CARDS), data=st.data())
def test_what_the_search_finds_is_possible_and_what_it_denies_is_not(
    card: Card, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sampled_from(card.profiles), min_size=1, max_size=4))
    found = place(card, wanted)
    if found is not None:
        node = mig_node(card)
        for profile, at in zip(wanted, found, strict=True):
            node.create_gi(0, profile.name, at)
        return
    countable = (
        all(sum(w is p for w in wanted) <= p.max_instances for p in wanted)
        and sum(p.media for p in wanted) < 2
    )
    if countable:
        for choice in itertools.product(*(profile.placements for profile in wanted)):
            assert any(a.overlaps(b) for a, b in itertools.combinations(choice, 2))
