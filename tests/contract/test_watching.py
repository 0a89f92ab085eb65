"""Events and probes: what holds for every driver, and the same words for the same faults."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.core.health.events import ALL_EVENTS, DriverEvent, EventKind, Probe
from plugin.driver.base import NO_XID_EVENTS, Driver, EventSource
from plugin.errors import DriverCallFailed, DriverStale, DriverUnavailable
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuState
from tests.simulated import opened, truth

PATIENCE = 10.0
LOST = {Code.GPU_IS_LOST, Code.RESET_REQUIRED}
NO_ANSWER = {Code.NOT_SUPPORTED, Code.NO_PERMISSION}
NODE = "2xa100-40gb+1xt4-16gb:0=2g.10gb,1c.3g.20gb*3;1=1g.5gb*7"
A100, OTHER, T4 = 0, 1, 2
CODES = (
    Code.UNKNOWN,
    Code.NOT_FOUND,
    Code.NOT_SUPPORTED,
    Code.NO_PERMISSION,
    Code.GPU_IS_LOST,
    Code.RESET_REQUIRED,
)


@dataclass(frozen=True)
class Watched:
    """A simulated node and an open driver over it."""

    node: SimNode
    driver: Driver

    def uuid(self, gpu: int = A100) -> str:
        return self.node.gpu(gpu).uuid

    def uuids(self) -> list[str]:
        return [gpu.uuid for gpu in self.node.gpus]

    def probe(self, gpu: int = A100, *, thorough: bool = False) -> Probe:
        return self.driver.probe(self.uuid(gpu), thorough=thorough)


@pytest.fixture
def watched() -> Iterator[Watched]:
    node = parse_node(NODE)
    with opened(node) as driver:
        yield Watched(node, driver)


@contextlib.contextmanager
def source_of(watched: Watched, *gpus: int) -> Iterator[EventSource]:
    source = watched.driver.watch([watched.uuid(gpu) for gpu in gpus])
    try:
        yield source
    finally:
        source.close()


def drain(source: EventSource) -> list[DriverEvent]:
    """Every event that is there."""
    found = []
    while (event := source.wait(0)) is not None:
        found.append(event)
    return found


# Every driver, the machine's own included


def test_watching_reports_events_or_nothing(driver: Driver) -> None:
    uuids = [gpu.uuid for gpu in driver.scan().gpus]
    source = driver.watch(uuids)
    try:
        event = source.wait(0.01)
        assert event is None or event.gpu_uuid in uuids
        assert not source.failures
    finally:
        source.close()


def test_a_gpu_that_answers_has_no_error(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        quick, thorough = (driver.probe(gpu.uuid, thorough=thorough) for thorough in (False, True))
        assert (quick.gpu_uuid, quick.error, quick.lost) == (gpu.uuid, None, False)
        assert (quick.remap_failure, quick.retirement_pending) == (None, None)
        assert replace(thorough, remap_failure=None, retirement_pending=None) == quick
        assert (thorough.remap_failure, thorough.retirement_pending) != (None, None)


def test_a_gpu_that_nobody_knows_is_lost_and_cannot_be_watched(driver: Driver) -> None:
    uuid = "GPU-00000000-0000-0000-0000-000000000000"
    source = driver.watch([uuid])
    try:
        assert source.failures == {uuid: "getting its handle: Not Found"}
        assert source.wait(0) is None
    finally:
        source.close()
    assert driver.probe(uuid, thorough=True) == Probe(
        uuid, error="getting its handle: Not Found", lost=True
    )


# Events


@pytest.mark.parametrize(("gi", "ci"), [(3, 0), (3, None), (None, None), (0, 0)])
def test_an_xid_says_where_it_happened(watched: Watched, gi: int | None, ci: int | None) -> None:
    with source_of(watched, A100, OTHER) as source:
        watched.node.xid(OTHER, 94, gi, ci)
        assert drain(source) == [DriverEvent(EventKind.XID, watched.uuid(OTHER), gi, ci, 94)]


def test_events_from_before_and_of_other_gpus_are_not_heard(watched: Watched) -> None:
    watched.node.xid(A100, 79)
    with source_of(watched, A100) as source:
        watched.node.xid(OTHER, 79)
        assert drain(source) == []


def test_what_changes_is_told(watched: Watched) -> None:
    uuid, node = watched.uuid(), watched.node
    with source_of(watched, A100) as source:
        node.set_recovery_action(A100, 1)
        node.set_geometry(A100, ["7g.40gb"])
        node.ecc(A100)
        node.ecc(A100, double_bit=True)
        kinds = [
            EventKind.RECOVERY_ACTION,
            EventKind.MIG_CONFIG,
            EventKind.SINGLE_BIT_ECC,
            EventKind.DOUBLE_BIT_ECC,
        ]
        assert drain(source) == [DriverEvent(kind, uuid) for kind in kinds]


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_of_event_is_heard(watched: Watched, kind: EventKind) -> None:
    with source_of(watched, T4) as source:
        watched.node.send(T4, kind, 7)
        (event,) = drain(source)
        assert (event.kind, event.gpu_uuid) == (kind, watched.uuid(T4))


def test_kinds_that_a_driver_does_not_support_are_left_out(watched: Watched) -> None:
    watched.node.supported_events = EventKind.XID.value | EventKind.DOUBLE_BIT_ECC.value
    with source_of(watched, A100) as source:
        assert not source.failures
        watched.node.set_recovery_action(A100, 1)
        watched.node.ecc(A100, double_bit=True)
        assert drain(source) == [DriverEvent(EventKind.DOUBLE_BIT_ECC, watched.uuid())]


def test_a_gpu_without_xid_events_cannot_be_watched(watched: Watched) -> None:
    watched.node.supported_events = ALL_EVENTS & ~EventKind.XID.value
    with source_of(watched, A100) as source:
        assert source.failures == {watched.uuid(): NO_XID_EVENTS}
        watched.node.ecc(A100)
        assert drain(source) == []


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("aspect", [Aspect.HANDLE, Aspect.EVENTS])
def test_a_gpu_that_refuses_leaves_the_others_watched(
    watched: Watched, aspect: Aspect, code: Code
) -> None:
    watched.node.faults.fail(watched.uuid(), aspect, code)
    with source_of(watched, A100, OTHER) as source:
        assert set(source.failures) == {watched.uuid()}
        watched.node.xid(A100, 48)
        watched.node.xid(OTHER, 48)
        assert [event.gpu_uuid for event in drain(source)] == [watched.uuid(OTHER)]


def test_a_wait_ends_when_an_event_comes(watched: Watched) -> None:
    found: list[DriverEvent | None] = []
    with source_of(watched, A100) as source:
        waiter = threading.Thread(target=lambda: found.append(source.wait(PATIENCE)), daemon=True)
        waiter.start()
        watched.node.xid(A100, 13)
        waiter.join(PATIENCE)
    assert found == [DriverEvent(EventKind.XID, watched.uuid(), data=13)]


def test_two_sources_hear_the_same(watched: Watched) -> None:
    with source_of(watched, A100) as first, source_of(watched, A100, OTHER) as second:
        watched.node.xid(A100, 31)
        assert drain(first) == drain(second) != []


# Lost GPUs and drivers


def test_a_lost_gpu_ends_watching_until_it_is_left_out(watched: Watched) -> None:
    node, lost = watched.node, watched.uuid()
    with source_of(watched, A100, OTHER) as source:
        node.lose(A100)
        for _ in range(2):
            with pytest.raises(
                DriverCallFailed, match=r"^waiting for events: GPU is lost$"
            ) as caught:
                source.wait(PATIENCE)
            assert caught.value.gpu_lost
    with source_of(watched, OTHER) as source:
        assert not source.failures
        node.xid(OTHER, 13)
        assert [event.gpu_uuid for event in drain(source)] == [watched.uuid(OTHER)]
    with source_of(watched, A100, OTHER) as source:
        assert source.failures == {lost: "getting its handle: GPU is lost"}
        assert drain(source) == []
    assert watched.probe() == Probe(lost, error="getting its handle: GPU is lost", lost=True)
    node.restore(A100)
    with source_of(watched, A100) as source:
        node.xid(A100, 13)
        assert not source.failures
        assert [event.gpu_uuid for event in drain(source)] == [lost]
    assert watched.probe() == Probe(lost, recovery_action=0)


def test_a_driver_that_is_gone(watched: Watched) -> None:
    with source_of(watched, A100) as source:
        watched.node.faults.set_available(available=False)
        with pytest.raises(
            DriverCallFailed, match=r"^waiting for events: Driver Not Loaded$"
        ) as caught:
            source.wait(0)
        assert not caught.value.gpu_lost
        with pytest.raises(
            DriverUnavailable, match=r"^making an event set: Driver Not Loaded; the NVIDIA driver"
        ):
            watched.driver.watch(watched.uuids())
        assert watched.probe() == Probe(
            watched.uuid(), error="getting its handle: Driver Not Loaded"
        )


def test_a_closed_source_hears_nothing_more(watched: Watched) -> None:
    with source_of(watched, A100) as source:
        watched.node.xid(A100, 79)
        source.close()
        source.close()
        with pytest.raises(DriverCallFailed, match="the event set is closed"):
            source.wait(PATIENCE)


def test_a_closed_driver_closes_its_sources(watched: Watched) -> None:
    with source_of(watched, A100) as source, source_of(watched, OTHER) as other:
        other.close()
        watched.driver.close()
        watched.driver.open()
        watched.node.xid(A100, 79)
        with pytest.raises(DriverCallFailed, match="the event set is closed"):
            source.wait(PATIENCE)


class NoticedNode(SimNode):
    """A node that tells when it is asked."""

    asked: threading.Event

    def enter(self, gpu: GpuState | None = None) -> None:
        self.asked.set()
        super().enter(gpu)


def test_closing_does_not_wait_for_a_thread_that_hangs_in_the_driver() -> None:
    NoticedNode.asked = threading.Event()
    node = NoticedNode([catalog().cards["a100-40gb"]])
    ended = threading.Event()

    def wait() -> None:
        with contextlib.suppress(DriverCallFailed):
            source.wait(0)
        ended.set()

    with opened(node) as nvml:
        source = nvml.watch([node.gpu(0).uuid])
        node.faults.hang()
        node.asked.clear()
        threading.Thread(target=wait, daemon=True).start()
        assert node.asked.wait(PATIENCE)
        closer = threading.Thread(target=source.close, daemon=True)
        closer.start()
        closer.join(PATIENCE)
        still_closing, still_waiting = closer.is_alive(), not ended.is_set()
        node.faults.unhang()
        assert (still_closing, still_waiting) == (False, True)
        assert ended.wait(PATIENCE)


# Probes


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
        told = [
            DriverEvent(EventKind.XID, uuid, data=154),
            DriverEvent(EventKind.RECOVERY_ACTION, uuid),
        ]
        assert drain(source) == [
            DriverEvent(EventKind.XID, uuid, gi, None, xid),
            *(told if action else []),
        ]
    assert watched.probe(OTHER).recovery_action == action


def test_a_recovery_action_only_grows(watched: Watched) -> None:
    watched.node.fault(OTHER, 79)
    with source_of(watched, OTHER) as source:
        watched.node.fault(OTHER, 95)
        assert drain(source) == [DriverEvent(EventKind.XID, watched.uuid(OTHER), data=95)]
    assert watched.probe(OTHER).recovery_action == 2
