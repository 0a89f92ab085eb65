"""The usual configurations, against NVIDIA's table and for every card."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Gpu, Inventory, MigMode
from plugin.core.partition.comparison import differences
from plugin.core.partition.configuration import Configuration, Entry, Wanted, choose, resolve
from plugin.core.partition.node import Action, plan_node
from plugin.core.partition.planner import plan_gpu
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import Plan
from plugin.core.partition.usual import configurations, named, usual
from plugin.errors import ConfigError, ProfilesUnknown
from plugin.sim.hardware.cards import Card, catalog
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.partitioning import carry_out, inventory, offers, offers_of

CARDS = [card for card in catalog().cards.values() if card.mig_capable]
A100, A30 = catalog().cards["a100-40gb"], catalog().cards["a30-24gb"]

#: NVIDIA's default configurations: names of the profiles of 1g, 1g wide, 2g, 3g, 4g and 7g.
SEVEN_SLICES = {
    "A100 40": "1g.5gb 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb",
    "A100/H100 80": "1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb",
    "H100 NVL": "1g.12gb 1g.24gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb",
    "H100 96, GH200": "1g.12gb 1g.24gb 2g.24gb 3g.48gb 4g.48gb 7g.96gb",
    "H200": "1g.18gb 1g.35gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb",
    "GH200 144": "1g.18gb 1g.36gb 2g.36gb 3g.72gb 4g.72gb 7g.144gb",
    "B200": "1g.23gb 1g.45gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb",
    "GB200 186": "1g.23gb 1g.47gb 2g.47gb 3g.93gb 4g.93gb 7g.186gb",
    "GB200 189": "1g.24gb 1g.47gb 2g.47gb 3g.95gb 4g.95gb 7g.189gb",
    "B300": "1g.34gb 1g.67gb 2g.67gb 3g.135gb 4g.135gb 7g.269gb",
    "GB300": "1g.35gb 1g.70gb 2g.70gb 3g.139gb 4g.139gb 7g.278gb",
}
#: How many of each, in the order above.
COUNTS = (7, 4, 3, 2, 1, 1)
FOUR_SLICES = {
    "a30-24gb": {
        "all-1g.6gb": {"1g.6gb": 4},
        "all-1g.6gb.me": {"1g.6gb+me": 1},
        "all-2g.12gb": {"2g.12gb": 2},
        "all-2g.12gb.me": {"2g.12gb+me": 1},
        "all-4g.24gb": {"4g.24gb": 1},
        "all-balanced": {"1g.6gb": 2, "2g.12gb": 1},
    },
    "rtx-pro-6000-96gb": {
        "all-1g.24gb": {"1g.24gb": 4},
        "all-1g.24gb.me": {"1g.24gb+me": 1},
        "all-1g.24gb.gfx": {"1g.24gb+gfx": 4},
        "all-1g.24gb.me.all": {"1g.24gb+me.all": 1},
        "all-1g.24gb-me": {"1g.24gb-me": 4},
        "all-2g.48gb": {"2g.48gb": 2},
        "all-2g.48gb.gfx": {"2g.48gb+gfx": 2},
        "all-2g.48gb.me.all": {"2g.48gb+me.all": 1},
        "all-2g.48gb-me": {"2g.48gb-me": 2},
        "all-4g.96gb": {"4g.96gb": 1},
        "all-4g.96gb.gfx": {"4g.96gb+gfx": 1},
        "all-balanced": {"1g.24gb": 2, "2g.48gb": 1},
    },
}


def made_of(of_card: Sequence[ProfileOffer]) -> dict[str, Wanted]:
    """What each usual configuration wants of one GPU that offers this."""
    gpu = Gpu("GPU-0", 0, mig=MigMode(current=True, pending=True), instances=())
    node = Inventory(gpus=(gpu,))
    every = usual(node, {gpu.uuid: of_card})
    return {name: resolve(one, node).wanted[gpu.uuid] for name, one in every.items()}


def seven(names: str) -> dict[str, Wanted]:
    one, _, two, three, *_ = names.split()
    expected = {
        f"all-{name}": Wanted.of({name: count})
        for name, count in zip(names.split(), COUNTS, strict=True)
    }
    expected[f"all-{one}.me"] = Wanted.of({f"{one}+me": 1})
    expected["all-balanced"] = Wanted.of({one: 2, two: 1, three: 1})
    expected["all-disabled"], expected["all-enabled"] = Wanted(mig=False), Wanted(mig=True)
    return expected


def renamed(names: str) -> tuple[ProfileOffer, ...]:
    """An A100's offers under another card's names."""
    one, *others = names.split()
    named = dict(
        zip(
            ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"),
            (one, *others),
            strict=True,
        )
    )
    named["1g.5gb+me"] = f"{one}+me"
    return tuple(replace(offer, name=named[offer.name]) for offer in offers(A100))


@pytest.mark.parametrize("row", SEVEN_SLICES)
def test_every_row_of_the_table_of_cards_with_seven_slices(row: str) -> None:
    assert made_of(renamed(SEVEN_SLICES[row])) == seven(SEVEN_SLICES[row])


@pytest.mark.parametrize(
    ("card", "row"),
    [
        ("a100-40gb", "A100 40"),
        ("a100-80gb", "A100/H100 80"),
        ("h100-80gb", "A100/H100 80"),
        ("h100-nvl-94gb", "H100 NVL"),
        ("h200-141gb", "H200"),
        ("b200-180gb", "B200"),
        ("gb200-186gb", "GB200 189"),
    ],
)
def test_the_cards_with_seven_slices(card: str, row: str) -> None:
    assert made_of(offers(catalog().cards[card])) == seven(SEVEN_SLICES[row])


@pytest.mark.parametrize("card", FOUR_SLICES)
def test_the_cards_with_four_slices(card: str) -> None:
    expected = {name: Wanted.of(devices) for name, devices in FOUR_SLICES[card].items()}
    expected["all-disabled"], expected["all-enabled"] = Wanted(mig=False), Wanted(mig=True)
    assert made_of(offers(catalog().cards[card])) == expected


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.key)
def test_every_usual_configuration_can_be_had(card: Card) -> None:
    node = SimNode([card])
    for name, configuration in usual(inventory(node), offers_of(node)).items():
        gpu = inventory(node).gpus[0]
        wanted = resolve(configuration, Inventory(gpus=(gpu,))).wanted[gpu.uuid]
        plan = plan_gpu(gpu, offers(card), wanted, {})
        assert isinstance(plan, Plan), name
        carry_out(node, 0, plan)
        after = inventory(node).gpus[0]
        assert Wanted.of(_counted(after)) == Wanted(mig=True, devices=wanted.devices)
        assert after.mig_enabled == wanted.mig


def _counted(gpu: Gpu) -> dict[str, int]:
    names = [device.profile for device in gpu.mig_devices]
    return {name: names.count(name) for name in names}


def test_a_configuration_names_what_each_gpu_of_a_mixed_node_offers() -> None:
    node = parse_node("1xa100-40gb+1xa100-80gb+1xa30-24gb+1xt4-16gb")
    every = usual(inventory(node), offers_of(node))

    def by_index(name: str) -> dict[int, str]:
        wanted = resolve(every[name], inventory(node)).wanted
        return {
            gpu.index: str(wanted[gpu.uuid]) for gpu in inventory(node).gpus if gpu.uuid in wanted
        }

    assert by_index("all-1g.10gb") == {0: "4 × 1g.10gb", 1: "7 × 1g.10gb"}
    assert by_index("all-2g.12gb.me") == {2: "1 × 2g.12gb+me"}
    assert by_index("all-balanced") == {
        0: "2 × 1g.5gb + 1 × 2g.10gb + 1 × 3g.20gb",
        1: "2 × 1g.10gb + 1 × 2g.20gb + 1 × 3g.40gb",
        2: "2 × 1g.6gb + 1 × 2g.12gb",
    }
    assert by_index("all-disabled") == dict.fromkeys(range(4), "MIG off")
    assert by_index("all-enabled") == dict.fromkeys(range(3), "MIG on, empty")


def test_a_file_overrides_and_adds() -> None:
    node = parse_node("1xa30-24gb")
    usually = usual(inventory(node), offers_of(node))
    mine = replace(usually["all-disabled"], name="mine")
    of_file = {"mine": mine, "all-balanced": usually["all-2g.12gb"]}
    every = configurations(inventory(node), offers_of(node), of_file)
    assert list(every) == sorted([*usually, "mine"])
    assert every["all-balanced"] == usually["all-2g.12gb"]
    assert every["all-1g.6gb"] == usually["all-1g.6gb"]


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    node = parse_node("1xa30-24gb")
    every = configurations(inventory(node), offers_of(node), {})
    with pytest.raises(ConfigError) as refused:
        choose("all-balance", every)
    assert str(refused.value) == (
        "no MIG configuration 'all-balance' on this node; did you mean all-balanced? The choices "
        f"are {', '.join(every)}"
    )
    with pytest.raises(ConfigError, match="on this node; the choices are all-1g"):
        choose("x", every)


def test_a_name_is_not_unknown_while_a_gpu_does_not_say_what_it_offers() -> None:
    node = parse_node("1xa30-24gb+1xa100-40gb")
    read, known = inventory(node), offers_of(node)
    first, second = (gpu.uuid for gpu in read.gpus)
    assert named("all-3g.20gb", read, known, {}).name == "all-3g.20gb"
    with pytest.raises(ConfigError):
        named("all-9g", read, known, {})
    with pytest.raises(ProfilesUnknown, match="what GPU 1 offers is not known"):
        named("all-3g.20gb", read, {first: known[first]}, {})
    of_the_first = named("all-1g.6gb", read, {first: known[first]}, {})
    wanted = resolve(of_the_first, read).wanted
    assert wanted[first].devices == (("1g.6gb", 4),)
    assert not wanted[second].known
    different = differences(read, resolve(of_the_first, read))
    assert different[1] == "the driver does not say which GPU instance profiles it has"


def test_a_gpu_without_a_readable_uuid_may_be_named() -> None:
    node = parse_node("a30-24gb:all-1g.6gb")
    read = replace(inventory(node), unreadable={1: "GPU 1: no answer"})
    resolved = resolve(named("all-1g.6gb", read, offers_of(node), {}), read)
    assert resolved.unreadable == {1: "GPU 1: no answer"}
    assert resolved.warnings == ()
    assert differences(read, resolved) == {1: "GPU 1: no answer"}
    alone = Configuration("alone", (Entry(Wanted(mig=True), (0,)),))
    assert resolve(alone, read).unreadable == {}
    for policy, action in ((Policy.WAIT, Action.CHANGE), (Policy.REFUSE, Action.HELD)):
        wanted = resolve(named("all-2g.12gb", read, offers_of(node), {}), read)
        made = plan_node(read, offers_of(node), wanted, {}, policy)
        assert [each.action for each in made.decisions] == [action]
        assert not made.applied
