"""What ends a change, and what is said until it has ended: an order that is taken back, a process
that stops, a call that hangs, a folder that cannot be written to, a GPU that was reset.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pynvml
import pytest

from plugin.core.partition.configuration import Wanted
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import GpuState, Progress, State
from plugin.driver.hangs import Hangs
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.partition.course import Course, Extent
from plugin.partition.showing import CANCELLED
from plugin.sim.hardware.calls import Fail, Hang
from plugin.sim.hardware.engine import parse_node
from tests.partition_rig import Rig, devices, empty_instances, over, rig, uuids
from tests.unit.test_partition_half import BALANCED, BEFORE, STEPS, TWO, mine

MAKES = "nvmlDeviceCreateGpuInstanceWithPlacement"
ONE, OTHER = Order("one", Source.COMMAND), Order("other", Source.COMMAND)


@pytest.mark.parametrize(
    ("taken", "newest", "stops", "extent"),
    [
        (ONE, ONE, False, Extent.ALL),
        (None, None, False, Extent.ALL),  # what is half-made goes back
        (ONE, OTHER, False, Extent.STEP),
        (None, OTHER, False, Extent.STEP),
        (ONE, None, False, Extent.GPU),
        (ONE, ONE, True, Extent.GPU),
        (ONE, None, True, Extent.GPU),
        (ONE, OTHER, True, Extent.STEP),
    ],
)
def test_how_far_a_change_goes_on(
    taken: Order | None,
    newest: Order | None,
    stops: bool,  # noqa: FBT001
    extent: Extent,
) -> None:
    course = Course()
    course.newest = taken
    course.take()
    assert course.extent() is Extent.ALL
    course.newest, course.stops = newest, stops
    assert course.extent() is extent
    course.take()
    assert course.extent() is Extent.ALL


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_cancelled_order_is_applied_until_the_gpu_in_hand_is_whole(
    tmp_path: Path, step: int
) -> None:
    async def story(here: Rig) -> None:
        seen: list[Progress] = []

        def cancel(number: int) -> None:
            if number == step:
                here.executor.want(None)
            if number >= step:
                seen.append(here.progress)

        here.worker.after = cancel
        here.order("all-balanced")
        await here.settled()
        assert {each.state for each in seen} == {State.APPLYING}
        assert all(CANCELLED in each.notes for each in seen)
        assert (here.progress.state, here.progress.notes) == (State.IDLE, ())
        assert devices(here.node) == [BALANCED, BEFORE]
        assert empty_instances(here.node) == 0
        assert here.healthy() == {"1g.6gb": 6, "2g.12gb": 1}
        assert here.keeper.memory.changing == {}
        # It is not brought back by an order for another GPU either.
        here.executor.want(mine(Wanted.of(BEFORE), 1))
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [BALANCED, BEFORE]

    over(TWO, tmp_path, story)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_who_stops_finishes_the_gpu_in_hand_and_leaves_what_is_wanted(
    tmp_path: Path, step: int
) -> None:
    async def story(here: Rig) -> None:
        def stop(number: int) -> None:
            if number == step:
                here.executor.stop()

        here.worker.after = stop
        here.order("all-balanced")
        await here.settled()
        assert here.worker.changes == STEPS
        assert devices(here.node) == [BALANCED, BEFORE]
        assert here.executor.order is not None
        assert here.progress.state is State.PENDING
        assert here.states() == [GpuState.APPLIED, GpuState.PENDING]
        assert here.healthy() == {"1g.6gb": 6, "2g.12gb": 1}
        assert here.keeper.memory.changing == {}

    over(TWO, tmp_path, story)


def test_what_fails_behind_the_stop_gets_back_what_it_had(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        def stop(number: int) -> None:
            if number == 3:
                here.executor.stop()
                code = pynvml.NVML_ERROR_UNKNOWN
                here.node.calls.inject(MAKES, Fail(code), times=1)

        here.worker.after = stop
        here.order("all-balanced")
        await here.settled()
        assert devices(here.node) == [BEFORE, BEFORE]
        assert empty_instances(here.node) == 0
        assert here.progress.state is State.PENDING
        assert here.states() == [GpuState.ROLLED_BACK, GpuState.PENDING]

    over(TWO, tmp_path, story)


@pytest.mark.asyncio
async def test_a_call_that_returns_late_leaves_nothing_half_made(tmp_path: Path) -> None:
    """The order is cancelled while the GPU hangs: as it was last read, it has what it had."""
    node = parse_node(TWO)

    def threads(hangs: Hangs) -> DriverWorker:
        worker = DriverWorker(hangs, Deadlines(change=0.2))
        worker.start()
        return worker

    async with rig(node, tmp_path, threads=threads) as here:
        node.calls.inject(MAKES, Hang(), times=1)
        here.order("all-balanced")
        async with asyncio.timeout(20):
            assert (await here.ended()).state is State.FAILED
            here.executor.want(None)
            await here.settled()
            assert here.progress.state is State.IDLE
            assert node.gpus[0].uuid in here.keeper.memory.changing
            node.calls.restore()
            while here.keeper.memory.changing:
                await here.executor.rounds.wait()
        assert devices(node) == [BEFORE, BALANCED]
        assert empty_instances(node) == 0
        assert here.healthy() == {"1g.6gb": 6, "2g.12gb": 1}


def test_what_waits_is_in_service_while_nothing_can_be_saved(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    async def story(here: Rig) -> None:
        here.hold("train", uuids(here.node, 0)[0])
        here.order("all-4g.24gb")
        assert (await here.settled()).state is State.WAITING
        assert here.healthy() == {"4g.24gb": 1}
        shutil.rmtree(folder)
        folder.write_text("in place of a folder")
        await asyncio.sleep(60)
        assert here.progress.state is State.PENDING
        assert here.healthy() == {"1g.6gb": 4, "4g.24gb": 1}
        folder.unlink()
        await asyncio.sleep(60)
        assert here.healthy() == {"4g.24gb": 1}
        here.held.clear()
        assert (await here.ended()).state is State.SUCCESS

    over(TWO, folder, story)


@pytest.mark.parametrize("policy", [Policy.WAIT, Policy.REFUSE])
def test_a_gpu_that_was_reset_is_looked_at_until_it_is_certain_what_it_has(
    tmp_path: Path, policy: Policy
) -> None:
    """Also where the driver has failed so often that the next scan would be on schedule."""

    async def story(here: Rig) -> None:
        here.order("all-1g.6gb", policy)
        assert (await here.ended()).state is State.SUCCESS
        for number, gpu in enumerate(here.node.gpus):
            code = pynvml.NVML_ERROR_UNKNOWN
            here.node.calls.inject(
                "nvmlDeviceGetMigMode", Fail(code), times=1, after=number, target=gpu.uuid
            )
        here.writer.rescan()
        while here.inventory.gpus[2].mig_unknown is None:
            await here.writer.store.newer_than(here.writer.store.snapshot.generation)
        here.node.reset(0)
        while all(not device.unseen for device in here.inventory.gpus[0].mig_devices):
            await here.writer.store.newer_than(here.writer.store.snapshot.generation)
        seen: set[tuple[State, GpuState]] = set()
        async with asyncio.timeout(30):
            while devices(here.node)[0] != BEFORE:
                await here.executor.shown.changed.wait()
                seen.add((here.progress.state, here.progress.gpus[0].state))
        assert {state for state, _ in seen} <= {State.APPLYING, State.SUCCESS}
        assert (State.APPLYING, GpuState.PENDING) in seen
        assert (await here.ended()).state is State.SUCCESS

    over("3xa30-24gb:all-1g.6gb", tmp_path, story)
