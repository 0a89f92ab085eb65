"""The simulated node: identities, life of instances, MIG mode, resets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plugin.core.inventory.model import MigDevice, Placement
from plugin.errors import SimulationError
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import Work
from tests.simulated import scan


@pytest.fixture
def ampere() -> SimNode:
    return parse_node("2xa100-40gb:0=3g.20gb,1g.5gb")


def devices(node: SimNode, gpu: int = 0) -> tuple[MigDevice, ...]:
    return scan(node).gpus[gpu].mig_devices


def refused(code: Code) -> pytest.RaisesExc[NodeError]:
    return pytest.RaisesExc(NodeError, check=lambda error: error.code is code)


def test_a_node_is_the_same_every_time_it_is_built() -> None:
    text = "p4d.24xlarge:all-balanced"
    assert scan(parse_node(text)) == scan(parse_node(text))


def test_nodes_of_other_names_have_other_uuids() -> None:
    ours, theirs = parse_node("2xa100-40gb"), parse_node("2xh100-80gb")
    assert not {gpu.uuid for gpu in ours.gpus} & {gpu.uuid for gpu in theirs.gpus}


def test_gpus_are_spread_over_two_numa_nodes_and_over_the_bus() -> None:
    gpus = parse_node("p4d.24xlarge").gpus
    assert [gpu.numa for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [gpu.pci_bus_id for gpu in gpus[:3]] == ["0000:10:1c.0", "0000:10:1d.0", "0000:20:1c.0"]
    assert len({gpu.pci_bus_id for gpu in parse_node("32xa100-40gb").gpus}) == 32


def test_an_instance_made_anew_has_a_new_uuid(ampere: SimNode) -> None:
    before = devices(ampere)[0]
    ampere.destroy_ci(0, before.gi, before.ci)
    ampere.create_ci(0, before.gi)
    after = devices(ampere)[0]
    assert (after.gi, after.ci, after.profile) == (before.gi, before.ci, before.profile)
    assert after.uuid != before.uuid


def test_a_uuid_never_comes_back(ampere: SimNode) -> None:
    seen: set[str] = set()
    for geometry in ("all-1g.5gb", "all-balanced", "all-1g.5gb", "all-balanced"):
        ampere.configure(geometry)
        found = {device.uuid for gpu in (0, 1) for device in devices(ampere, gpu)}
        assert not found & seen
        seen |= found


def test_mig_indices_close_ranks_when_a_device_goes() -> None:
    node = parse_node("1xa100-40gb:all-1g.5gb")
    before = devices(node)
    node.destroy_ci(0, before[2].gi, before[2].ci)
    assert [device.index for device in devices(node)] == [0, 1, 2, 3, 4, 5]
    assert [device.uuid for device in devices(node)] == [
        device.uuid for device in before if device.index != 2
    ]


def test_mig_indices_follow_gpu_instance_then_compute_instance() -> None:
    node = parse_node("1xa100-40gb:all-enabled")
    small = node.create_gi(0, "1g.5gb")
    large = node.create_gi(0, "3g.20gb")
    node.create_ci(0, small.id)
    node.create_ci(0, large.id, 2)
    node.create_ci(0, large.id, 1)
    found = [(device.index, device.gi, device.ci, device.profile) for device in devices(node)]
    assert found == [
        (0, large.id, 0, "2c.3g.20gb"),
        (1, large.id, 1, "1c.3g.20gb"),
        (2, small.id, 0, "1g.5gb"),
    ]


def test_a_compute_instance_takes_its_share_of_multiprocessors_and_all_memory() -> None:
    (device, *_) = devices(parse_node("1xa100-40gb:0=1c.3g.20gb"))
    assert (device.multiprocessors, device.memory_mib) == (14, 19968)
    assert (device.ci_slices, device.gi_slices, device.engines.copy) == (1, 3, 3)


def test_compute_instances_take_the_lowest_free_id_and_no_more_room_than_there_is() -> None:
    node = parse_node("1xa100-40gb:0=1c.3g.20gb*3")
    gi = devices(node)[0].gi
    node.destroy_ci(0, gi, 1)
    assert node.create_ci(0, gi, 1).id == 1
    with refused(Code.INSUFFICIENT_RESOURCES):
        node.create_ci(0, gi, 1)
    with refused(Code.INVALID_ARGUMENT):
        node.create_ci(0, gi, 4)


def test_compute_instances_go_before_their_gpu_instance(ampere: SimNode) -> None:
    device = devices(ampere)[0]
    with refused(Code.IN_USE):
        ampere.destroy_gi(0, device.gi)
    ampere.destroy_ci(0, device.gi, device.ci)
    ampere.destroy_gi(0, device.gi)
    assert [left.profile for left in devices(ampere)] == ["1g.5gb"]
    with refused(Code.NOT_FOUND):
        ampere.destroy_gi(0, device.gi)
    with refused(Code.NOT_FOUND):
        ampere.destroy_ci(0, device.gi, device.ci)


def test_a_device_in_use_stays(ampere: SimNode) -> None:
    device = devices(ampere)[0]
    ampere.use(device.uuid, pid=4711)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: ampere.destroy_ci(0, device.gi, device.ci),
        lambda: ampere.set_geometry(0, ["7g.40gb"]),
        lambda: ampere.configure("mig-off"),
        lambda: ampere.reset(0),
    )
    for attempt in attempts:
        with refused(Code.IN_USE):
            attempt()
    assert device in devices(ampere)
    ampere.release(device.uuid)
    ampere.destroy_ci(0, device.gi, device.ci)
    assert device not in devices(ampere)


def test_memory_in_use_of_a_gpu_is_that_of_its_devices(ampere: SimNode) -> None:
    first, second = devices(ampere)
    ampere.use(first.uuid, pid=1, memory=1000)
    ampere.use(second.uuid, pid=2, memory=500)
    ampere.use(second.uuid, pid=3, memory=50)
    assert [ampere.memory_used(uuid) for uuid in (first.uuid, second.uuid, first.gpu_uuid)] == [
        1000,
        550,
        1550,
    ]
    ampere.release(second.uuid, pid=2)
    assert ampere.memory_used(first.gpu_uuid) == 1050


def test_a_geometry_that_cannot_be_changes_nothing(ampere: SimNode) -> None:
    before, generation = scan(ampere), ampere.generation
    attempts: tuple[Callable[[], object], ...] = (
        lambda: ampere.set_geometry(0, ["3g.20gb"] * 3),
        lambda: ampere.set_geometry(0, ["1g.6gb"]),
        lambda: ampere.configure("0=7g.40gb;1=4g.20gb*2"),
    )
    for attempt in attempts:
        with pytest.raises(SimulationError):
            attempt()
    assert scan(ampere) == before
    assert ampere.generation == generation


def test_instances_need_mig_mode(ampere: SimNode) -> None:
    attempts: tuple[Callable[[], object], ...] = (
        lambda: ampere.create_gi(1, "1g.5gb"),
        lambda: ampere.set_geometry(1, ["1g.5gb"]),
        lambda: ampere.destroy_gi(1, 7),
    )
    for attempt in attempts:
        with refused(Code.NOT_SUPPORTED):
            attempt()


def test_configuring_leaves_gpus_alone_that_are_as_wanted(ampere: SimNode) -> None:
    before = devices(ampere)
    ampere.configure("0=1g.5gb,3g.20gb;1=7g.40gb")
    assert devices(ampere) == before
    assert [device.profile for device in devices(ampere, 1)] == ["7g.40gb"]


def test_ampere_switches_mig_mode_with_a_reset(ampere: SimNode) -> None:
    ampere.set_mig_mode(1, on=True)
    assert (ampere.gpu(1).mig, ampere.gpu(1).mig_pending) == (False, True)
    ampere.reset(1)
    assert (ampere.gpu(1).mig, ampere.gpu(1).mig_pending) == (True, True)


def test_a_pending_switch_says_why_and_can_be_given_up(ampere: SimNode) -> None:
    assert ampere.set_mig_mode(1, on=True) is Code.NOT_SUPPORTED
    assert ampere.set_mig_mode(1, on=False) is Code.SUCCESS
    assert (ampere.gpu(1).mig, ampere.gpu(1).mig_pending) == (False, False)
    ampere.use(ampere.gpu(1).uuid, 1, work=Work.WATCH)
    assert ampere.set_mig_mode(1, on=True) is Code.IN_USE
    assert (ampere.gpu(1).mig, ampere.gpu(1).mig_pending) == (False, True)


def test_hopper_switches_only_while_nobody_holds_it() -> None:
    node = parse_node("1xh100-80gb")
    node.use(node.gpu(0).uuid, 1, work=Work.WATCH)
    with refused(Code.IN_USE):
        node.set_mig_mode(0, on=True)
    assert not node.gpu(0).mig_pending
    node.release(node.gpu(0).uuid)
    assert node.set_mig_mode(0, on=True) is Code.SUCCESS
    assert node.gpu(0).mig


def test_a_compute_instance_has_its_place(ampere: SimNode) -> None:
    ampere.reset(0)
    gi = ampere.create_gi(0, "3g.20gb").id
    assert ampere.create_ci(0, gi, 1, Placement(2, 1)).placement == Placement(2, 1)
    for code, slices, at in (
        (Code.INSUFFICIENT_RESOURCES, 1, Placement(2, 1)),
        (Code.INVALID_ARGUMENT, 1, Placement(3, 1)),
        (Code.INVALID_ARGUMENT, 2, Placement(1, 2)),
    ):
        with refused(code):
            ampere.create_ci(0, gi, slices, at)
    assert ampere.create_ci(0, gi, 2).placement == Placement(0, 2)


def test_who_only_watches_does_no_work(ampere: SimNode) -> None:
    gpu = ampere.gpu(0)
    ampere.use(gpu.uuid, 1, work=Work.WATCH)
    assert ampere.busy_share(gpu) == 0
    ampere.use(gpu.uuid, 1)
    assert ampere.busy_share(gpu) == 1


def test_hopper_switches_mig_mode_at_once() -> None:
    node = parse_node("1xh100-80gb:all-1g.10gb")
    node.set_mig_mode(0, on=False)
    assert (node.gpu(0).mig, node.gpu(0).mig_pending, node.gpu(0).instances) == (False, False, ())


def test_cards_without_mig_refuse_the_mode() -> None:
    with refused(Code.NOT_SUPPORTED):
        parse_node("g4dn.12xlarge").set_mig_mode(0, on=True)


def test_a_reset_takes_instances_faults_and_the_recovery_action(ampere: SimNode) -> None:
    gpu = ampere.gpu(0)
    ampere.set_recovery_action(0, 1)
    ampere.set_wear(0, remap_pending=True, remapped_correctable=2)
    ampere.faults.fail(gpu.uuid, Aspect.MEMORY)
    ampere.reset(0)
    after = ampere.gpu(0)
    assert (after.mig, after.instances, after.recovery_action) == (True, (), 0)
    assert (after.wear.remap_pending, after.wear.remapped_correctable) == (False, 2)
    assert scan(ampere).gpus[0].error is None
