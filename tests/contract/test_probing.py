"""Probes of a simulated node: recovery actions, wear, faults, GPUs that come and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.errors import DriverCallFailed, DriverStale
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from tests.simulated import opened, truth

from .watched import A100, CODES, NODE, OTHER, PATIENCE, T4, Watched, drain, source_of

LOST = {Code.GPU_IS_LOST, Code.RESET_REQUIRED}
NO_ANSWER = {Code.NOT_SUPPORTED, Code.NO_PERMISSION}


@pytest.fixture
def watched() -> Iterator[Watched]:
    node = parse_node(NODE)
    with opened(node) as driver:
        yield Watched(node, driver)


@pytest.mark.parametrize("action", [0, 1, 2, 4, 99])
def test_the_recovery_action_is_read(watched: Watched, action: int) -> None:
    watched.node.set_recovery_action(OTHER, action)
    assert [watched.probe(gpu).recovery_action for gpu in (A100, OTHER)] == [0, action]
    watched.node.reset(OTHER)
    assert watched.probe(OTHER).recovery_action == 0


@pytest.mark.parametrize("code", [Code.NOT_SUPPORTED, Code.INVALID_ARGUMENT, Code.UNKNOWN])
def test_a_driver_that_knows_no_recovery_action(watched: Watched, code: Code) -> None:
    watched.node.set_recovery_action(A100, 1)
    watched.node.faults.fail(watched.uuid(), Aspect.RECOVERY, code)
    assert watched.probe() == Probe(watched.uuid())


def test_wear_is_read_by_a_thorough_probe(watched: Watched) -> None:
    assert watched.probe(thorough=True) == Probe(
        watched.uuid(), recovery_action=0, remap_failure=False
    )
    assert watched.probe(T4, thorough=True) == Probe(
        watched.uuid(T4), recovery_action=0, retirement_pending=False
    )
    watched.node.set_wear(A100, remap_failure=True)
    watched.node.set_wear(T4, retirement_pending=True)
    assert watched.probe(thorough=True).remap_failure
    assert watched.probe(T4, thorough=True).retirement_pending
    assert watched.probe() == Probe(watched.uuid(), recovery_action=0)


def test_an_old_driver_answers_by_other_means() -> None:
    node = parse_node(NODE)
    uuid = node.gpu(A100).uuid
    with opened(node, without=("nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows")) as nvml:
        assert nvml.probe(uuid, thorough=True) == Probe(uuid)
        node.faults.fail(uuid, Aspect.MEMORY, Code.GPU_IS_LOST)
        lost = Probe(uuid, error="nvmlDeviceGetMemoryInfo: GPU is lost", lost=True)
        assert nvml.probe(uuid, thorough=False) == lost


@settings(max_examples=150, deadline=None)
@given(
    faults=st.lists(
        st.tuples(
            st.sampled_from(
                [Aspect.HANDLE, Aspect.EVENTS, Aspect.RECOVERY, Aspect.MEMORY, Aspect.SENSORS]
            ),
            st.sampled_from(CODES),
        ),
        max_size=4,
    ),
    action=st.integers(0, 9),
    gpu=st.sampled_from([A100, T4]),
    lost=st.booleans(),
    loaded=st.booleans(),
)
def test_any_faults(
    faults: list[tuple[Aspect, Code]],
    action: int,
    gpu: int,
    lost: bool,  # noqa: FBT001 - drawn
    loaded: bool,  # noqa: FBT001 - drawn
) -> None:
    node = parse_node(NODE)
    uuid, broken = node.gpu(gpu).uuid, dict(faults)
    handle = Code.GPU_IS_LOST if lost else broken.get(Aspect.HANDLE)
    with opened(node) as driver:
        node.set_recovery_action(gpu, action)
        for aspect, code in faults:
            node.faults.fail(uuid, aspect, code)
        if lost:
            node.lose(gpu)
        node.faults.set_available(available=loaded)
        for thorough in (False, True):
            probe = driver.probe(uuid, thorough=thorough)
            assert_probed(probe, node, gpu, broken, thorough=thorough)
        if loaded:
            source = driver.watch([uuid])
            refused = handle is not None or Aspect.EVENTS in broken
            assert set(source.failures) == ({uuid} if refused else set())
            node.xid(gpu, 31, 3, 0)
            event = DriverEvent(EventKind.XID, uuid, 3, 0, 31)
            assert drain(source) == ([] if refused else [event])


def assert_probed(
    probe: Probe, node: SimNode, gpu: int, broken: dict[Aspect, Code], *, thorough: bool
) -> None:
    """What cannot be asked is unknown, a lost GPU is always known as lost."""
    available, state = node.faults.available, node.gpu(gpu)
    handle = Code.GPU_IS_LOST if state.lost else broken.get(Aspect.HANDLE)
    recovery, sensors = broken.get(Aspect.RECOVERY), broken.get(Aspect.SENSORS)
    memory = broken.get(Aspect.MEMORY) if recovery is not None else None
    asked = [recovery if recovery in LOST else memory, sensors if thorough else None]
    if not available or handle is not None:
        assert probe.error is not None
        assert probe.lost == (available and handle in {*LOST, Code.NOT_FOUND})
    elif any(code in LOST for code in asked):
        assert probe.lost
    elif memory is not None and memory not in NO_ANSWER:
        assert probe.error is not None
        assert probe.lost == (memory == Code.NOT_FOUND)
    else:
        assert (probe.error, probe.lost) == (None, False)
        known = state.recovery_action if recovery is None else None
        assert probe.recovery_action == known
        remaps = thorough and sensors is None and state.card.remaps_rows
        retires = thorough and sensors is None and not state.card.remaps_rows
        assert probe.remap_failure == (False if remaps else None)
        assert probe.retirement_pending == (False if retires else None)


# GPUs that come and go


def test_gpus_that_come_are_seen_by_initialising_again() -> None:
    node = parse_node("2xa100-40gb:all-1g.5gb")
    with opened(node) as nvml:
        before = nvml.scan()
        made = node.add_gpu(catalog().cards["a100-40gb"])
        for _ in range(2):
            with pytest.raises(
                DriverStale, match=rf"\({made.pci_bus_id} came\); NVML must be initialised again"
            ):
                nvml.scan()
        nvml.close()
        nvml.open()
        assert nvml.scan().gpus == truth(node)
        assert [gpu.uuid for gpu in nvml.scan().gpus] == [
            *(gpu.uuid for gpu in before.gpus),
            made.uuid,
        ]


def test_gpus_that_go_and_come_back() -> None:
    node = parse_node("3xa100-40gb:all-1g.5gb")
    with opened(node) as nvml:
        before = nvml.scan()
        source = nvml.watch([gpu.uuid for gpu in before.gpus])
        node.remove_gpu(1)
        with pytest.raises(DriverCallFailed, match="GPU is lost"):
            source.wait(PATIENCE)
        with pytest.raises(DriverStale, match=f"{before.gpus[1].pci_bus_id} went"):
            nvml.scan()
        nvml.close()
        nvml.open()
        left = nvml.scan()
        assert left.gpus == truth(node)
        assert [(gpu.index, gpu.minor, gpu.uuid) for gpu in left.gpus] == [
            (0, 0, before.gpus[0].uuid),
            (1, 2, before.gpus[2].uuid),
        ]
        assert left.gpus[1].mig_devices[0].gpu_index == 1
        assert nvml.probe(before.gpus[1].uuid, thorough=False).lost
        node.return_gpu(1)
        nvml.close()
        nvml.open()
        assert nvml.scan().gpus == truth(node)
        assert [gpu.uuid for gpu in nvml.scan().gpus] == [gpu.uuid for gpu in before.gpus]
        assert not nvml.scan().gpus[1].mig_devices


def test_a_node_that_does_not_list_its_gpus_is_no_reason_to_start_again() -> None:
    node = parse_node("2xa100-40gb:all-1g.5gb")
    for gpu in node.gpus:
        node.faults.remove_node(f"/proc/driver/nvidia/gpus/{gpu.pci_bus_id}/information")
    with opened(node) as nvml:
        assert len(nvml.scan().gpus) == 2
        node.faults.restore_node(f"/proc/driver/nvidia/gpus/{node.gpu(0).pci_bus_id}/information")
        assert len(nvml.scan().gpus) == 2


# What cannot be identified


def test_indices_that_cannot_be_identified_are_told(watched: Watched) -> None:
    node = watched.node
    doomed = list(node.gpu(OTHER).devices())[4]
    node.faults.fail(doomed.ci.uuid, Aspect.UUID)
    node.lose(A100)
    found = watched.driver.scan()
    assert found.unreadable.keys() == {A100}
    assert found.unreadable[A100].startswith(f"GPU {A100} cannot be read: ")
    assert [tuple(gpu.unreadable) for gpu in found.gpus] == [(4,), ()]
    node.restore(A100)
    node.faults.heal({doomed.ci.uuid})
    found = watched.driver.scan()
    assert (found.unreadable, [gpu.unreadable for gpu in found.gpus]) == ({}, [{}, {}, {}])


# Faults as a driver reports them


@pytest.mark.parametrize(
    ("xid", "gi", "action"),
    [(95, None, 1), (79, None, 2), (95, 3, 0), (13, None, 0), (48, None, 0), (9999, None, 0)],
)
def test_a_fault_of_the_whole_gpu_changes_the_recovery_action(
    watched: Watched, xid: int, gi: int | None, action: int
) -> None:
    uuid = watched.uuid(OTHER)
    with source_of(watched, OTHER) as source:
        watched.node.fault(OTHER, xid, gi)
        action_events = [
            DriverEvent(EventKind.XID, uuid, data=154),
            DriverEvent(EventKind.RECOVERY_ACTION, uuid),
        ]
        assert drain(source) == [
            DriverEvent(EventKind.XID, uuid, gi, None, xid),
            *(action_events if action else []),
        ]
    assert watched.probe(OTHER).recovery_action == action


def test_a_recovery_action_only_grows(watched: Watched) -> None:
    watched.node.fault(OTHER, 79)
    with source_of(watched, OTHER) as source:
        watched.node.fault(OTHER, 95)
        assert drain(source) == [DriverEvent(EventKind.XID, watched.uuid(OTHER), data=95)]
    assert watched.probe(OTHER).recovery_action == 2
