"""From inventory and settings to what is advertised, what is withheld,
and what is said about it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from plugin.core.advertise.advertisement import Advertisement, advertise
from plugin.core.inventory.model import Gpu, GpuInstance, Inventory, MigMode, Placement, Unknown
from plugin.core.reasons import Code, Reason
from plugin.core.settings import MigStrategy, Settings, SingleResource

from .builders import gpu, ids, mig_device, mig_gpu, node

GPU = "nvidia.com/gpu"
XID = Reason.held("xid-79", "XID 79", 5.0)
ONE, TWO, THREE = "nvidia.com/mig-1g.5gb", "nvidia.com/mig-2g.10gb", "nvidia.com/mig-3g.20gb"

PLAIN_0, PLAIN_1 = gpu(0), gpu(1, mig=False)
ONES_0, ONES_1 = mig_gpu(0, *["1g.5gb"] * 7), mig_gpu(1, *["1g.5gb"] * 7)
BALANCED_1 = mig_gpu(1, "1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb")
EMPTY_1 = gpu(1, mig=True)
TURNING_ON_1 = replace(PLAIN_1, mig=MigMode(current=False, pending=True))
TURNING_OFF_1 = replace(EMPTY_1, mig=MigMode(current=True, pending=False))
BROKEN_1 = gpu(1, error="GPU 1: it is lost")
NAMELESS = mig_device(0, 6, "", error="MIG device 0:6: reading its attributes: Unknown Error")
NAMELESS_0 = gpu(0, mig_device(0, 0), NAMELESS)


def counts(advertisement: Advertisement) -> dict[str, int]:
    return {name: len(listed) for name, listed in advertisement.resources.items()}


def settings(strategy: str, **changes: Any) -> Settings:
    return dataclasses.replace(Settings(mig_strategy=MigStrategy(strategy)), **changes)


@pytest.mark.parametrize(
    ("strategy", "inventory", "expected", "withheld"),
    [
        pytest.param("none", node(), {}, set(), id="none: no GPUs"),
        pytest.param("none", node(PLAIN_0, PLAIN_1), {GPU: 2}, set(), id="none: whole GPUs"),
        pytest.param("none", node(PLAIN_0, EMPTY_1), {GPU: 1}, {"GPU-1"}, id="none: empty MIG GPU"),
        pytest.param(
            "none", node(PLAIN_0, TURNING_ON_1), {GPU: 1}, {"GPU-1"}, id="none: mode pending"
        ),
        pytest.param(
            "none", node(PLAIN_0, BROKEN_1), {GPU: 2}, set(), id="none: broken GPU stays listed"
        ),
        pytest.param(
            "none",
            node(PLAIN_0, BALANCED_1),
            {GPU: 2},
            {device.uuid for device in BALANCED_1.mig_devices},
            id="none: GPU with MIG devices",
        ),
        pytest.param(
            "none",
            node(replace(BALANCED_1, mig=MigMode(current=True, pending=False))),
            {},
            {"GPU-1", *(device.uuid for device in BALANCED_1.mig_devices)},
            id="none: GPU with MIG devices, mode pending",
        ),
        pytest.param("mixed", node(), {}, set(), id="mixed: no GPUs"),
        pytest.param("mixed", node(PLAIN_0, PLAIN_1), {GPU: 2}, set(), id="mixed: no MIG"),
        pytest.param("mixed", node(ONES_0, ONES_1), {ONE: 14}, set(), id="mixed: one profile"),
        pytest.param(
            "mixed",
            node(PLAIN_0, BALANCED_1),
            {GPU: 1, ONE: 2, TWO: 1, THREE: 1},
            set(),
            id="mixed: all",
        ),
        pytest.param(
            "mixed", node(ONES_0, EMPTY_1), {ONE: 7}, {"GPU-1"}, id="mixed: empty MIG GPU"
        ),
        pytest.param(
            "mixed", node(ONES_0, TURNING_ON_1), {ONE: 7}, {"GPU-1"}, id="mixed: turning on"
        ),
        pytest.param(
            "mixed", node(ONES_0, TURNING_OFF_1), {ONE: 7}, {"GPU-1"}, id="mixed: turning off"
        ),
        pytest.param(
            "mixed",
            node(ONES_0, BROKEN_1),
            {ONE: 7, GPU: 1},
            set(),
            id="mixed: broken GPU stays listed",
        ),
        pytest.param(
            "mixed", node(NAMELESS_0), {ONE: 1}, {NAMELESS.uuid}, id="mixed: profile unreadable"
        ),
        pytest.param(
            "mixed",
            node(gpu(0, mig_device(0, 0, "1g.5gb+me"), mig_device(0, 4, "1c.3g.20gb"))),
            {"nvidia.com/mig-1g.5gb.me": 1, "nvidia.com/mig-1c.3g.20gb": 1},
            set(),
            id="mixed: attributes and compute slices have names of their own",
        ),
        pytest.param("single", node(), {}, set(), id="single: no GPUs"),
        pytest.param(
            "single", node(PLAIN_0, PLAIN_1), {GPU: 2}, set(), id="single: no MIG anywhere"
        ),
        pytest.param("single", node(ONES_0, ONES_1), {ONE: 14}, set(), id="single: one profile"),
        pytest.param(
            "single", node(ONES_0, EMPTY_1), {ONE: 7}, {"GPU-1"}, id="single: empty MIG GPU"
        ),
        pytest.param(
            "single", node(EMPTY_1), {}, {"GPU-1"}, id="single: nothing but an empty MIG GPU"
        ),
        pytest.param(
            "single", node(NAMELESS_0), {ONE: 1}, {NAMELESS.uuid}, id="single: profile unreadable"
        ),
        pytest.param(
            "single", node(ONES_0, BROKEN_1), {ONE: 7}, {"GPU-1"}, id="single: broken GPU"
        ),
        pytest.param(
            "single", node(BROKEN_1), {GPU: 1}, set(), id="single: nothing but a broken GPU"
        ),
        pytest.param(
            "single", node(PLAIN_0, TURNING_ON_1), {GPU: 1}, {"GPU-1"}, id="single: turning on"
        ),
        pytest.param(
            "single",
            node(ONES_0, PLAIN_1),
            {},
            {"GPU-1", *(device.uuid for device in ONES_0.mig_devices)},
            id="single: a GPU with MIG off",
        ),
        pytest.param(
            "single",
            node(ONES_0, BALANCED_1),
            {},
            {device.uuid for part in (ONES_0, BALANCED_1) for device in part.mig_devices},
            id="single: several profiles",
        ),
    ],
)
def test_strategy(
    strategy: str, inventory: Inventory, expected: dict[str, int], withheld: set[str]
) -> None:
    advertisement = advertise(inventory, settings(strategy))
    assert counts(advertisement) == expected
    assert advertisement.withheld.keys() == withheld


@pytest.mark.parametrize(
    ("strategy", "inventory", "expected"),
    [
        ("none", node(PLAIN_0, EMPTY_1), ("GPU 1", "no MIG devices")),
        ("none", node(TURNING_ON_1), ("GPU 1", "MIG mode pending (on after a GPU reset)")),
        ("none", node(ONES_0), ("GPU 0", "advertised whole", "--mig-strategy=mixed")),
        ("mixed", node(EMPTY_1), ("GPU 1", "no MIG devices")),
        ("mixed", node(TURNING_OFF_1), ("GPU 1", "MIG mode pending (off after a GPU reset)")),
        ("mixed", node(NAMELESS_0), (NAMELESS.uuid, "0:6", "no readable profile", "Unknown Error")),
        (
            "single",
            node(ONES_0, PLAIN_1),
            ("single", "MIG mode on", "off on GPU 1", "nothing is advertised"),
        ),
        (
            "single",
            node(ONES_0, BALANCED_1),
            (
                "1g.5gb on GPU 0, 1",
                "2g.10gb on GPU 1",
                "3g.20gb on GPU 1",
                "nothing is advertised",
                "mixed",
            ),
        ),
    ],
)
def test_problems_name_the_gpu_and_the_reason(
    strategy: str, inventory: Inventory, expected: tuple[str, ...]
) -> None:
    (problem,) = advertise(inventory, settings(strategy)).problems
    for word in expected:
        assert word in problem


@pytest.mark.parametrize("inventory", [node(ONES_0, PLAIN_1), node(ONES_0, BALANCED_1)])
def test_a_node_that_breaks_the_rules_of_single_says_so_at_each_device(
    inventory: Inventory,
) -> None:
    advertisement = advertise(inventory, settings("single"))
    assert {reason.text for reason in advertisement.withheld.values()} == set(
        advertisement.problems
    )


def test_a_node_in_order_has_no_problems() -> None:
    for strategy, inventory in (
        ("none", node(PLAIN_0)),
        ("mixed", node(PLAIN_0, BALANCED_1)),
        ("single", node(ONES_0)),
    ):
        assert advertise(inventory, settings(strategy)).problems == ()


def test_the_same_reason_on_several_gpus_is_one_problem() -> None:
    (problem,) = advertise(node(gpu(0, mig=True), gpu(1, mig=True)), settings("mixed")).problems
    assert "GPU 0, 1" in problem


def test_single_can_use_nvidias_name() -> None:
    single = settings("single", single_resource=SingleResource.GPU)
    assert counts(advertise(node(ONES_0, ONES_1, gpu(2, mig=True)), single)) == {GPU: 14}
    assert counts(advertise(node(gpu(0, mig=True)), single)) == {}
    assert counts(advertise(node(ONES_0, BALANCED_1), single)) == {}


def test_nvidias_name_for_single_never_mixes_in_a_whole_gpu() -> None:
    advertisement = advertise(
        node(ONES_0, BROKEN_1), settings("single", single_resource=SingleResource.GPU)
    )
    assert ids(advertisement.resources[GPU]) == [device.uuid for device in ONES_0.mig_devices]
    assert advertisement.withheld == {"GPU-1": Reason(Code.WITHHELD, "GPU 1: it is lost")}


def test_lists_are_in_inventory_order_and_resources_by_name() -> None:
    advertisement = advertise(
        node(mig_gpu(0, "3g.20gb", "1g.5gb"), mig_gpu(1, "1g.5gb"), gpu(2)), settings("mixed")
    )
    assert list(advertisement.resources) == [GPU, ONE, THREE]
    assert ids(advertisement.resources[ONE]) == ["MIG-0-11-0", "MIG-1-7-0"]


# ---- health


def test_reasons_hold_a_device_down_and_keep_it_listed() -> None:
    broken = mig_device(
        0,
        0,
        error="reading its memory: Unknown Error",
        missing_device_nodes=("/dev/nvidia-caps/nvidia-cap66",),
    )
    inventory = node(gpu(0, broken, mig_device(0, 1)))
    advertisement = advertise(inventory, settings("mixed"), {broken.uuid: (XID,)})
    bad, good = advertisement.resources[ONE]
    assert bad.reasons == (
        XID,
        Reason(Code.UNREADABLE, "reading its memory: Unknown Error"),
        Reason(Code.MISSING_NODE, "missing /dev/nvidia-caps/nvidia-cap66"),
    )
    assert not bad.healthy
    assert good.healthy


def test_missing_nodes_count_only_where_we_hand_nodes_out() -> None:
    inventory = node(gpu(0, missing_device_nodes=("/dev/nvidia0",)))
    (listed,) = advertise(inventory, settings("none", pass_device_specs=False)).resources[GPU]
    assert listed.healthy


# ---- what is not known


UNKNOWN = Unknown("reading its MIG mode: Insufficient Permissions", 4, "grant the right")
UNKNOWN_1 = replace(gpu(1, mig_device(1, 0)), mig=None, mig_unknown=UNKNOWN)


@pytest.mark.parametrize(
    ("strategy", "first", "expected"),
    [
        ("none", PLAIN_0, {GPU: 1}),
        ("mixed", ONES_0, {ONE: 7}),
        ("mixed", PLAIN_0, {GPU: 1}),
        ("single", ONES_0, {ONE: 7}),
        ("single", PLAIN_0, {GPU: 1}),
    ],
)
def test_a_gpu_whose_mig_mode_was_never_read_registers_nothing_and_breaks_no_rule(
    strategy: str, first: Gpu, expected: dict[str, int]
) -> None:
    found = advertise(node(first, UNKNOWN_1), settings(strategy))
    assert counts(found) == expected
    for uuid in (UNKNOWN_1.uuid, UNKNOWN_1.mig_devices[0].uuid):
        assert str(UNKNOWN) in found.withheld[uuid].text
    assert any(str(UNKNOWN) in problem for problem in found.problems)


@pytest.mark.parametrize("first", [ONES_0, PLAIN_0])
def test_a_mode_that_was_known_holds_while_it_cannot_be_read(first: Gpu) -> None:
    found = advertise(node(replace(first, mig_unknown=UNKNOWN)), settings("mixed"))
    assert counts(found) == counts(advertise(node(first), settings("mixed")))
    assert not found.withheld


def test_a_gpu_instance_without_a_compute_instance_is_named_with_what_to_do() -> None:
    empty = GpuInstance(9, "2g.10gb", Placement(2, 2))
    first = mig_gpu(0, "1g.5gb")
    with_empty = replace(first, instances=(*(first.instances or ()), empty))
    assert first.free_slices() == (1, 2, 3, 4, 5, 6, 7)
    assert with_empty.free_slices() == (1, 4, 5, 6, 7)
    (problem,) = advertise(node(with_empty), settings("mixed")).problems
    assert "GPU instance 9 (2g.10gb) has no compute instance" in problem
    assert "nvidia-smi mig -i 0 -gi 9 -cci" in problem
    assert replace(first, instances=None).free_slices() is None
