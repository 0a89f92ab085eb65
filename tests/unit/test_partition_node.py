"""Plans for a node under each policy; which GPUs a configuration names; comparison and export."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from plugin.core.inventory.model import Gpu, Inventory, MigMode, Unknown
from plugin.core.partition import withdrawing
from plugin.core.partition.comparison import differences, export
from plugin.core.partition.configuration import (
    Configuration,
    Entry,
    Resolved,
    Wanted,
    choose,
    resolve,
)
from plugin.core.partition.node import Action, NodePlan, plan_node
from plugin.core.partition.planner import InUse
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import Occupant
from plugin.core.partition.tracks import Run
from plugin.core.partition.usual import usual
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.partitioning import carry_out, inventory, offers_of

from .builders import gpu, mig_gpu
from .builders import node as inventory_of

POD, PROCESS = Occupant("default/one", pod=True), Occupant("process 7")
WAITING = (Policy.WAIT, Policy.EVICT)


def node_plan(
    node: SimNode, name: str, in_use: InUse, policy: Policy, read: Inventory | None = None
) -> NodePlan:
    read = read or inventory(node)
    every = usual(read, offers_of(node))
    return plan_node(read, offers_of(node), resolve(choose(name, every), read), in_use, policy)


def actions(made: NodePlan) -> list[str]:
    return [each.action.value for each in made.decisions]


def first_device(node: SimNode, index: int) -> str:
    return inventory(node).gpus[index].mig_devices[0].uuid


def leaving(made: NodePlan) -> frozenset[str]:
    """What no pod may get any more."""
    return frozenset(withdrawing.withdrawal(Run(), made).leaving)


@pytest.mark.parametrize(
    ("policy", "holder", "expected"),
    [
        (Policy.WAIT, POD, ["change"] * 3 + ["wait"]),
        (Policy.EVICT, POD, ["change"] * 3 + ["evict"]),
        (Policy.EVICT, PROCESS, ["change"] * 3 + ["wait"]),
        (Policy.REFUSE, POD, ["held"] * 3 + ["refused"]),
        (Policy.FORCE, POD, ["change"] * 4),
    ],
)
def test_one_slice_in_use(policy: Policy, holder: Occupant, expected: list[str]) -> None:
    node = parse_node("4xa100-40gb:all-1g.5gb")
    # The first slice is in the way of every 3g at 0:4 or 2g at 0:2, and one of those is needed.
    held = first_device(node, 3)
    made = node_plan(node, "all-3g.20gb", {held: (holder,)}, policy)
    assert actions(made) == expected
    last = made.decisions[3]
    assert [each.uuid for each in last.blockers] == [held]
    assert last.evictable == (("default/one",) if holder.pod else ())
    assert last.plan is not None
    assert held in last.plan.leaving
    assert not made.applied
    if policy in WAITING:  # nothing new may come onto the GPU that waits
        assert leaving(made) >= {device.uuid for device in inventory(node).gpus[3].mig_devices}
    if policy is Policy.REFUSE:
        assert leaving(made) == frozenset()
        assert made.decisions[0].text == "GPU 0 stays as it is because of GPU 3"


def test_what_is_in_use_and_wanted_is_in_nobodys_way() -> None:
    node = parse_node("8xa100-40gb:all-1g.5gb")
    in_use = {gpu.mig_devices[2].uuid: (POD,) for gpu in inventory(node).gpus}
    made = node_plan(node, "all-balanced", in_use, Policy.WAIT)
    assert actions(made) == ["change"] * 8
    assert not leaving(made) & set(in_use)
    for decision in made.decisions:
        assert decision.plan is not None
        carry_out(node, decision.gpu.index, decision.plan)
    after = node_plan(node, "all-balanced", in_use, Policy.WAIT)
    assert actions(after) == ["nothing"] * 8
    assert after.applied


@pytest.mark.parametrize("policy", Policy)
def test_a_configuration_that_does_not_suit_one_gpu_changes_none(policy: Policy) -> None:
    node = parse_node("2xa100-40gb+1xa30-24gb")
    read = inventory(node)
    wanted = Resolved("mine", {gpu.uuid: Wanted.of({"1g.5gb": 7}) for gpu in read.gpus})
    made = plan_node(read, offers_of(node), wanted, {}, policy)
    assert actions(made) == ["held", "held", "refused"]
    assert leaving(made) == frozenset()


@pytest.mark.parametrize("policy", Policy)
def test_a_gpu_that_cannot_be_read_leaves_the_others_at_work(policy: Policy) -> None:
    node = parse_node("2xa100-40gb:all-1g.5gb")
    read = inventory(node)
    read = replace(read, gpus=(replace(read.gpus[0], error="GPU is lost"), read.gpus[1]))
    made = node_plan(node, "all-balanced", {}, policy, read)
    assert actions(made) == ["refused", "held" if policy is Policy.REFUSE else "change"]


def test_a_mode_that_waits_for_a_reset_is_an_action_of_its_own() -> None:
    node = parse_node("1xa100-40gb+1xh100-80gb")
    node.set_mig_mode(0, on=True)
    made = node_plan(node, "all-enabled", {}, Policy.WAIT)
    assert actions(made) == ["reset", "change"]
    assert made.decisions[0].text == "GPU 0: MIG mode on waits for a GPU reset or a reboot"
    assert actions(node_plan(node, "all-enabled", {}, Policy.REFUSE)) == ["reset", "held"]
    assert made.of(Action.RESET) == made.decisions[:1]


def test_a_refusal_takes_no_gpu_out_of_service_whose_mode_nobody_switched() -> None:
    node = parse_node("2xa100-40gb:0=1g.5gb*7")
    read = inventory(node)
    wanted = resolve(choose("all-2g.10gb", usual(read, offers_of(node))), read)
    held = first_device(node, 0)
    for in_use, expected in (({held: (POD,)}, ["refused", "held"]), ({}, ["held", "reset"])):
        made = plan_node(read, offers_of(node), wanted, in_use, Policy.REFUSE, mig_mode=False)
        assert actions(made) == expected
        withdrawn = withdrawing.withdrawal(Run(), made).changing.keys()
        assert withdrawn == (set() if in_use else {read.gpus[1].uuid})


def test_gpus_that_the_configuration_does_not_name_have_no_decision() -> None:
    node = parse_node("2xa100-40gb+1xa30-24gb+1xt4-16gb")
    assert [d.gpu.index for d in node_plan(node, "all-1g.5gb", {}, Policy.WAIT).decisions] == [0, 1]
    made = node_plan(node, "all-disabled", {}, Policy.WAIT)
    assert actions(made) == ["nothing"] * 4


def apply(node: SimNode, name: str) -> tuple[int, int, dict[str, int]]:
    """Devices that stayed and that are new, and all devices by profile then."""
    before = {device.uuid for gpu in inventory(node).gpus for device in gpu.mig_devices}
    for decision in node_plan(node, name, {}, Policy.WAIT).decisions:
        assert decision.plan is not None
        carry_out(node, decision.gpu.index, decision.plan)
    after = [device for gpu in inventory(node).gpus for device in gpu.mig_devices]
    stayed = sum(device.uuid in before for device in after)
    return stayed, len(after) - stayed, Counter(device.profile for device in after)


def test_the_walk_through_the_usual_configurations_of_a_p4d() -> None:
    node = parse_node("p4d.24xlarge")
    assert apply(node, "all-1g.5gb") == (0, 56, {"1g.5gb": 56})
    balanced = {"1g.5gb": 16, "2g.10gb": 8, "3g.20gb": 8}
    assert apply(node, "all-balanced") == (16, 16, balanced)
    assert apply(node, "all-3g.20gb") == (8, 8, {"3g.20gb": 16})
    assert apply(node, "all-2g.10gb") == (0, 24, {"2g.10gb": 24})
    assert apply(node, "all-disabled") == (0, 0, {})


# Which GPUs a configuration names


def resolved(*entries: Entry, read: Inventory) -> tuple[dict[int, str], tuple[str, ...]]:
    made = resolve(Configuration("mine", entries), read)
    return (
        {gpu.index: str(made.wanted[gpu.uuid]) for gpu in read.gpus if gpu.uuid in made.wanted},
        made.warnings,
    )


ON, OFF = Wanted.of({"1g.5gb": 1}), Wanted(mig=False)
MIXED = inventory_of(gpu(0, pci_device_id=0x20B010DE), gpu(1, pci_device_id=0x20B710DE))


def test_indices_filters_and_all() -> None:
    a100 = frozenset({0x20B010DE, 0x20B210DE})
    assert resolved(Entry(ON, (1,)), read=MIXED) == ({1: "1 × 1g.5gb"}, ())
    assert resolved(Entry(ON, None, a100), read=MIXED) == ({0: "1 × 1g.5gb"}, ())
    assert resolved(Entry(ON, (1,), a100), read=MIXED) == ({}, ())


def test_all_leaves_out_what_certainly_has_no_mig() -> None:
    turing = replace(gpu(1), mig=None)
    unread = replace(gpu(2), mig=None, mig_unknown=Unknown("reading its MIG mode"))
    read = inventory_of(gpu(0), turing, unread)
    assert list(resolved(Entry(ON), read=read)[0]) == [0, 2]
    assert list(resolved(Entry(OFF), read=read)[0]) == [0, 1, 2]
    assert list(resolved(Entry(ON, (0, 1)), read=read)[0]) == [0, 1]


def test_the_last_entry_that_names_a_gpu_counts() -> None:
    read = inventory_of(gpu(0), gpu(1))
    assert resolved(Entry(ON), Entry(OFF, (1,)), Entry(ON, (0,)), read=read) == (
        {0: "1 × 1g.5gb", 1: "MIG off"},
        ("mine[1] names GPU 1 once more, differently; the last entry counts",),
    )


def test_gpus_that_the_node_does_not_have() -> None:
    assert resolved(Entry(OFF, (0, 4, 5)), read=inventory_of(gpu(0))) == (
        {0: "MIG off"},
        ("mine[0] names GPU 4, 5, which this node does not have",),
    )


def test_a_filter_never_takes_in_a_gpu_that_the_driver_does_not_identify() -> None:
    entry = Entry(OFF, None, frozenset({0x20B010DE}))
    wanted, (warning,) = resolved(entry, read=inventory_of(gpu(0)))
    assert not wanted
    assert "does not name GPU 0" in warning


# Comparison and export


def compared(wanted: Wanted, present: Gpu) -> str:
    return differences(inventory_of(present), Resolved("mine", {present.uuid: wanted})).get(0, "")


EMPTY_INSTANCE = replace(mig_gpu(0, "3g.20gb"), mig_devices=())
TURNING_ON = replace(gpu(0), mig=MigMode(current=False, pending=True))
UNNAMED = mig_gpu(0, "3g.20gb", "2g.10gb")
UNNAMED = replace(
    UNNAMED, mig_devices=(UNNAMED.mig_devices[0], replace(UNNAMED.mig_devices[1], profile=""))
)


@pytest.mark.parametrize(
    ("present", "wanted", "difference"),
    [
        (gpu(0), OFF, ""),
        (gpu(0, mig=True), Wanted.of({}), ""),
        (mig_gpu(0, "3g.20gb", "2g.10gb"), Wanted.of({"2g.10gb": 1, "3g.20gb": 1}), ""),
        (gpu(0), ON, "MIG mode is off, wanted on"),
        (mig_gpu(0, "1g.5gb"), OFF, "MIG mode is on, wanted off"),
        (mig_gpu(0, "1g.5gb", "1g.5gb"), ON, "2 × 1g.5gb, wanted 1"),
        (mig_gpu(0, "1g.5gb+me"), ON, "0 × 1g.5gb, wanted 1"),
        (mig_gpu(0, "1g.5gb", "2g.10gb"), ON, "1 × 2g.10gb, wanted 0"),
        (EMPTY_INSTANCE, Wanted.of({}), "GPU instance 7 has no compute instance"),
        (UNNAMED, Wanted.of({"3g.20gb": 1}), "the profile of MIG-0-11-0 is not known"),
        (gpu(0, error="GPU is lost"), OFF, "GPU is lost"),
        (
            TURNING_ON,
            OFF,
            "MIG mode on waits for a reset",
        ),
    ],
)
def test_the_first_difference(present: Gpu, wanted: Wanted, difference: str) -> None:
    assert compared(wanted, present) == difference


def test_gpus_that_the_configuration_does_not_name_are_not_compared() -> None:
    assert differences(inventory_of(gpu(0)), Resolved("mine", {})) == {}


def test_export_has_an_entry_for_gpus_that_are_alike() -> None:
    node = parse_node("4xa100-40gb:0-1=3g.20gb;3=3g.20gb;2=on")
    exported = export(inventory(node))
    assert exported.losses == ()
    assert exported.configuration == Configuration(
        "current",
        (Entry(Wanted.of({"3g.20gb": 1}), (0, 1, 3)), Entry(Wanted.of({}), (2,))),
    )
    alike = export(inventory(parse_node("8xa100-40gb:all-balanced"))).configuration
    assert [entry.devices for entry in alike.entries] == [None]


@pytest.mark.parametrize(
    "geometry", ["2xa30-24gb:0=2g.12gb,1g.6gb+me;1=off", "2xa100-40gb:0=1c.3g.20gb*2;1=balanced"]
)
def test_what_is_exported_is_applied(geometry: str) -> None:
    read = inventory(parse_node(geometry))
    wanted = resolve(export(read).configuration, read)
    assert differences(read, wanted) == {}
    assert len(wanted.wanted) == len(read.gpus)


def test_export_says_what_it_cannot_express() -> None:
    pending = replace(TURNING_ON, uuid="GPU-1", index=1)
    exported = export(inventory_of(EMPTY_INSTANCE, pending, gpu(2, error="GPU is lost")))
    assert exported.losses == (
        "GPU 0: GPU instance 7 (3g.20gb at 0:4) has no compute instance: that is not in the file",
        "GPU 1: a switch of MIG mode waits for a reset",
        "GPU 2: GPU is lost",
    )
    assert [entry.devices for entry in exported.configuration.entries] == [(0,), (1,)]
