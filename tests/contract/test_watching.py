"""Events of every driver, and of a simulated node."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from plugin.core.health.events import ALL_EVENTS, DriverEvent, EventKind, Probe
from plugin.driver.base import NO_XID_EVENTS, Driver
from plugin.errors import DriverCallFailed, DriverUnavailable
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuState
from tests.simulated import opened

from .watched import A100, CODES, NODE, OTHER, PATIENCE, T4, Watched, drain, source_of


@pytest.fixture
def watched() -> Iterator[Watched]:
    node = parse_node(NODE)
    with opened(node) as driver:
        yield Watched(node, driver)


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
