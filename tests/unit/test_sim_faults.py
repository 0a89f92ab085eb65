"""The simulated node: faults, event queues, threads and slots."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from plugin.core.inventory.model import MigDevice
from plugin.driver.base import DriverEvent, EventKind
from plugin.errors import DriverUnavailable
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.simulation import simulate
from tests.simulated import scan

PATIENCE = 10.0


@pytest.fixture
def ampere() -> SimNode:
    return parse_node("2xa100-40gb:0=3g.20gb,1g.5gb")


def devices(node: SimNode, gpu: int = 0) -> tuple[MigDevice, ...]:
    return scan(node).gpus[gpu].mig_devices


def refused(code: Code) -> pytest.RaisesExc[NodeError]:
    return pytest.RaisesExc(NodeError, check=lambda error: error.code is code)


def test_a_lost_gpu_refuses_everything_until_it_is_back(ampere: SimNode) -> None:
    before = scan(ampere)
    ampere.lose(0)
    with refused(Code.GPU_IS_LOST):
        ampere.create_gi(0, "1g.5gb")
    with refused(Code.GPU_IS_LOST):
        ampere.reset(0)
    assert [gpu.index for gpu in scan(ampere).gpus] == [1]
    ampere.restore(0)
    assert scan(ampere) == before


def test_faults_end_with_the_device_or_when_healed(ampere: SimNode) -> None:
    first, second = devices(ampere)
    ampere.faults.fail(first.uuid, Aspect.ATTRIBUTES)
    assert "Unknown Error" in (devices(ampere)[0].error or "")
    assert devices(ampere)[1] == second
    ampere.faults.heal({first.uuid})
    assert devices(ampere) == (first, second)


def test_every_change_raises_the_generation(ampere: SimNode) -> None:
    uuid = devices(ampere)[0].uuid
    changes: tuple[Callable[[], object], ...] = (
        lambda: ampere.create_gi(0, "1g.5gb"),
        lambda: ampere.use(uuid, 1),
        lambda: ampere.release(uuid),
        lambda: ampere.set_geometry(0, []),
        lambda: ampere.set_mig_mode(0, on=False),
        lambda: ampere.reset(0),
        lambda: ampere.lose(1),
        lambda: ampere.faults.fail("x", Aspect.NAME),
        lambda: ampere.faults.remove_node("/dev/nvidia0"),
        lambda: ampere.faults.set_available(available=False),
        lambda: ampere.set_recovery_action(1, 2),
    )
    for change in changes:
        before = ampere.generation
        change()
        assert ampere.generation > before


def test_a_hanging_driver_answers_only_when_it_is_let_go(ampere: SimNode) -> None:
    answers = []
    started = threading.Event()

    def read() -> None:
        started.set()
        answers.append(scan(ampere))

    ampere.faults.hang()
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert started.wait(PATIENCE)
    for geometry in ("all-1g.5gb", "all-balanced", "all-7g.40gb"):
        ampere.configure(geometry)  # a call that did not block would have seen an earlier node
    assert not answers
    ampere.faults.unhang()
    reader.join(PATIENCE)
    assert answers == [scan(ampere)]


def test_a_driver_that_is_not_loaded_cannot_be_opened(ampere: SimNode) -> None:
    ampere.faults.set_available(available=False)
    with pytest.raises(DriverUnavailable, match="Driver Not Loaded"):
        simulate(ampere).driver.open()
    ampere.faults.set_available(available=True)
    simulate(ampere).driver.open()


def test_events_are_heard_when_their_waiter_comes_back(ampere: SimNode) -> None:
    queue = ampere.open_queue()
    queue.register(ampere.gpu(0).uuid, EventKind.XID.value)
    assert ampere.wait_heard(0)
    ampere.xid(0, 13)
    assert not ampere.wait_heard(0)
    assert queue.wait(0) is not None
    assert not ampere.wait_heard(0)
    assert queue.wait(0) is None
    assert ampere.wait_heard(0)
    ampere.xid(0, 13)
    ampere.close_queue(queue)
    assert ampere.wait_heard(0)


def test_events_reach_the_queues_registered_for_the_gpu(ampere: SimNode) -> None:
    queue = ampere.open_queue()
    ampere.xid(0, 13)  # before registration: not kept
    queue.register(ampere.gpu(0).uuid, EventKind.XID.value | EventKind.RECOVERY_ACTION.value)
    ampere.xid(1, 31)
    ampere.ecc(0, double_bit=True)
    ampere.xid(0, 94, gi=2, ci=0)
    ampere.set_recovery_action(0, 1)
    uuid = ampere.gpu(0).uuid
    assert queue.wait(PATIENCE) == DriverEvent(EventKind.XID, uuid, 2, 0, 94)
    assert queue.wait(PATIENCE) == DriverEvent(EventKind.RECOVERY_ACTION, uuid)
    assert queue.wait(0) is None
    assert ampere.gpu(0).wear.double_bit_ecc == 1


def test_every_geometry_change_sends_one_event(ampere: SimNode) -> None:
    queue = ampere.open_queue()
    for gpu in ampere.gpus:
        queue.register(gpu.uuid, EventKind.MIG_CONFIG.value)
    ampere.set_geometry(0, ["1g.5gb"] * 7)
    assert queue.wait(PATIENCE) == DriverEvent(EventKind.MIG_CONFIG, ampere.gpu(0).uuid)
    assert queue.wait(0) is None
    ampere.configure("all-balanced")
    found = [queue.wait(PATIENCE), queue.wait(PATIENCE)]
    assert found == [DriverEvent(EventKind.MIG_CONFIG, gpu.uuid) for gpu in ampere.gpus]
    assert queue.wait(0) is None


def test_a_wait_ends_when_an_event_comes(ampere: SimNode) -> None:
    queue = ampere.open_queue()
    queue.register(ampere.gpu(1).uuid, EventKind.GPU_UNAVAILABLE.value)
    found: list[DriverEvent | None] = []
    waiter = threading.Thread(target=lambda: found.append(queue.wait(PATIENCE)), daemon=True)
    waiter.start()
    ampere.send(1, EventKind.GPU_UNAVAILABLE)
    waiter.join(PATIENCE)
    assert found == [DriverEvent(EventKind.GPU_UNAVAILABLE, ampere.gpu(1).uuid)]


def test_waiting_fails_while_a_registered_gpu_is_lost(ampere: SimNode) -> None:
    queue, other = ampere.open_queue(), ampere.open_queue()
    queue.register(ampere.gpu(0).uuid, EventKind.XID.value)
    other.register(ampere.gpu(1).uuid, EventKind.XID.value)
    ampere.lose(0)
    with refused(Code.GPU_IS_LOST):
        queue.wait(PATIENCE)
    assert other.wait(0) is None
    ampere.restore(0)
    assert queue.wait(0) is None


def test_a_closed_queue_hears_nothing_and_ends_waits(ampere: SimNode) -> None:
    queue = ampere.open_queue()
    queue.register(ampere.gpu(0).uuid, EventKind.XID.value)
    ampere.close_queue(queue)
    ampere.xid(0, 79)
    with refused(Code.INVALID_ARGUMENT):
        queue.wait(PATIENCE)


def test_gpus_that_are_not_there_are_refused(ampere: SimNode) -> None:
    for index in (-1, 2):
        with refused(Code.INVALID_ARGUMENT):
            ampere.gpu(index)


def test_many_threads_leave_the_node_consistent() -> None:
    node = parse_node("1xa100-40gb:all-enabled")

    def churn() -> None:
        for _ in range(30):
            try:
                made = node.create_gi(0, "1g.5gb")
            except NodeError:
                continue
            created = node.create_ci(0, made.id)
            node.destroy_ci(0, made.id, created.id)
            node.destroy_gi(0, made.id)

    threads = [threading.Thread(target=churn, daemon=True) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert node.gpu(0).instances == ()


def test_a_gpu_that_was_removed_keeps_its_slot_and_loses_what_was_on_it(ampere: SimNode) -> None:
    removed, device = ampere.gpu(0), devices(ampere)[0]
    ampere.use(device.uuid, pid=1)
    ampere.faults.fail(removed.uuid, Aspect.MEMORY)
    ampere.remove_gpu(0)
    assert [gpu.index for gpu in ampere.gpus] == [1]
    assert not ampere.processes(device.uuid)
    for attempt in (lambda: ampere.gpu(0), lambda: ampere.reset(0), lambda: ampere.remove_gpu(0)):
        with refused(Code.GPU_IS_LOST):
            attempt()
    ampere.configure("0=7g.40gb")  # the first that is there
    assert [device.profile for device in devices(ampere)] == ["7g.40gb"]
    ampere.return_gpu(0)
    assert [gpu.uuid for gpu in ampere.gpus] == [removed.uuid, ampere.gpu(1).uuid]
    assert (ampere.gpu(0).mig, ampere.gpu(0).instances) == (False, ())
    assert scan(ampere).gpus[0].error is None


def test_only_a_gpu_that_was_removed_can_be_returned(ampere: SimNode) -> None:
    for index in (0, 2, -1):
        with refused(Code.INVALID_ARGUMENT):
            ampere.return_gpu(index)


def test_a_new_gpu_comes_behind_all_others(ampere: SimNode) -> None:
    before, generation = ampere.gpus, ampere.generation
    made = ampere.add_gpu(before[0].card)
    assert ampere.gpus == (*before, made)
    assert ampere.generation > generation
    assert made.numa == 1
    assert made.pci_bus_id not in {gpu.pci_bus_id for gpu in before}
    ampere.set_mig_mode(2, on=True)
    ampere.reset(2)
    ampere.set_geometry(2, ["3g.20gb"])
    assert [device.gpu_index for device in devices(ampere, 2)] == [2]
