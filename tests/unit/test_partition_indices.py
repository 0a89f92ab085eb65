"""Which GPU an index of an order names, when GPUs come and go."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.inventory.model import Gpu, Inventory, MigMode
from plugin.core.partition.configuration import Configuration, Entry, Wanted, resolve
from plugin.core.partition.indices import NO_PLACES, Place, Places, placed


def node(*gpus: str, unreadable: Iterable[int] = ()) -> Inventory:
    """GPUs such as ``A@1``: that of UUID A at PCI address 1; in the order of their indices."""
    free = (index for index in range(99) if index not in set(unreadable))
    found = (
        Gpu(uuid, index, pci_bus_id=pci, mig=MigMode(current=True, pending=True))
        for (uuid, _, pci), index in zip((each.partition("@") for each in gpus), free, strict=False)
    )
    return Inventory(tuple(found), unreadable=dict.fromkeys(unreadable, "lost"))


def names(places: Places) -> dict[str, int]:
    return {uuid: place.index for uuid, place in places.items()}


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (node("A@1", "B@2"), {"A": 0, "B": 1}),
        (node("B@2"), {"A": 0, "B": 1}),
        (node(), {"A": 0, "B": 1}),
        (node("B@2", unreadable=[0]), {"A": 0, "B": 1}),
        # Cards that change places keep their indices.
        (node("B@1", "A@2"), {"A": 0, "B": 1}),
        # A card that is new at the address of one that is gone replaces it.
        (node("N@1", "B@2"), {"N": 0, "B": 1}),
        (node("A@1", "N@2"), {"A": 0, "N": 1}),
        (node("N@1", "M@2"), {"N": 0, "M": 1}),
        (node("B@2", "N@1"), {"N": 0, "B": 1}),
        # It does not where that one is elsewhere, or its address is not known.
        (node("N@1", "A@2"), {"A": 0, "B": 1}),
        (node("N@", "B@2"), {"A": 0, "B": 1}),
        # A card at another address has an index that no other one had.
        (node("A@1", "B@2", "N@3"), {"A": 0, "B": 1, "N": 2}),
        (node("N@0", "A@1", "B@2"), {"A": 0, "B": 1}),
        (node("A@1", "N@3"), {"A": 0, "B": 1}),
        (node("N@3"), {"A": 0, "B": 1}),
        (node("B@2", "N@3", "M@4"), {"A": 0, "B": 1}),  # with A, they have other ones
    ],
)
def test_indices_of_an_order_name_the_gpus_that_had_them(
    now: Inventory, found: dict[str, int]
) -> None:
    ordered = placed(NO_PLACES, node("A@1", "B@2"))
    assert names(placed(ordered, now)) == found


def test_a_gpu_that_could_not_be_read_at_first_has_its_index_later() -> None:
    ordered = placed(NO_PLACES, node("B@2", unreadable=[0]))
    assert names(ordered) == {"B": 1}
    assert names(placed(ordered, node("A@1", "B@2"))) == {"A": 0, "B": 1}


def test_one_that_was_replaced_is_another_one_when_it_is_back() -> None:
    ordered = placed(NO_PLACES, node("A@1", "B@2"))
    replaced = placed(ordered, node("N@1", "B@2"))
    assert names(placed(replaced, node("N@1", "B@2", "A@3"))) == {"N": 0, "B": 1, "A": 2}
    assert names(placed(replaced, node("A@0", "N@1", "B@2"))) == {"N": 0, "B": 1}


def test_a_card_in_another_slot_is_replaced_there() -> None:
    ordered = placed(NO_PLACES, node("A@1", "B@2"))
    moved = placed(ordered, node("B@2", "A@3"))
    assert names(placed(moved, node("N@1", "B@2"))) == {"A": 0, "B": 1}
    assert names(placed(moved, node("B@2", "N@3"))) == {"N": 0, "B": 1}
    assert placed(moved, node("B@", "A@")) == moved


CARDS = st.lists(st.sampled_from("ABCDE"), unique=True)
NODES = CARDS.flatmap(
    lambda cards: st.permutations(range(len(cards))).map(
        lambda at: node(*(f"{card}@{n}" for card, n in zip(cards, at, strict=True)))
    )
)


@given(NODES, st.lists(NODES, max_size=6))
def test_no_index_ever_names_two_gpus_or_moves_to_one_that_had_another(
    first: Inventory, later: list[Inventory]
) -> None:
    places = placed(NO_PLACES, first)
    assert names(places) == {gpu.uuid: gpu.index for gpu in first.gpus}
    for now in later:
        new = placed(places, now)
        indices = [place.index for place in new.values()]
        assert len(set(indices)) == len(indices)
        for uuid in places.keys() & new.keys():
            assert new[uuid].index == places[uuid].index
        assert placed(new, now) == new
        places = new


# ---- what follows for a configuration

SMALL, LARGE = Wanted.of({"1g.5gb": 7}), Wanted.of({"7g.40gb": 1})
MINE = Configuration("mine", (Entry(LARGE, (0,)), Entry(SMALL, (1,))))

NOT_NAMED = (
    "no index of mine names GPU 0 (N): it was not there when that was ordered, and the index was "
    "another GPU's; order it again"
)


@pytest.mark.parametrize(
    ("now", "wanted", "warnings"),
    [
        (node("A@1", "B@2"), {"A": LARGE, "B": SMALL}, []),
        (node("B@2"), {"B": SMALL}, ["mine[0] names GPU 0, which this node does not have"]),
        (node("N@1", "B@2"), {"N": LARGE, "B": SMALL}, []),
        (
            node("N@3", "B@2"),
            {"B": SMALL},
            [
                "mine[0] names GPU 0, which this node does not have",
                NOT_NAMED,
            ],
        ),
    ],
)
def test_a_configuration_by_index(
    now: Inventory, wanted: dict[str, Wanted], warnings: list[str]
) -> None:
    ordered = placed(NO_PLACES, node("A@1", "B@2"))
    found = resolve(MINE, now, placed(ordered, now))
    assert (found.wanted, list(found.warnings)) == (wanted, warnings)


def test_all_are_all_whatever_their_indices() -> None:
    every = Configuration("mine", (Entry(SMALL),))
    now = node("N@3", "B@2")
    found = resolve(every, now, {"A": Place(0), "B": Place(1)})
    assert (found.wanted, found.warnings) == ({"N": SMALL, "B": SMALL}, ())


@pytest.mark.parametrize(("unreadable", "may_be"), [([0], True), ([1], True), ([2], False)])
def test_a_gpu_that_cannot_be_read_may_have_an_index_that_is_missing(
    unreadable: list[int],
    may_be: bool,  # noqa: FBT001
) -> None:
    only_first = Configuration("mine", (Entry(LARGE, (0,)),))
    now = node("B@2", "C@3", unreadable=unreadable)
    places = {"A": Place(0), "B": Place(1), "C": Place(2)}
    if not may_be:
        places = {"B": Place(0), "C": Place(1)}
    assert bool(resolve(only_first, now, places).unreadable) is may_be
