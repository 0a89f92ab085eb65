"""The executor: from an order to the geometry, whatever is in the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import GpuState, State
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.faults import Aspect
from tests.partition_rig import Rig, devices, empty_instances, over, rig, uuids
from tests.unit.virtual_time import run

SLICES = "8xa100-40gb:all-1g.5gb"
#: What says which geometry a GPU has.
_READ = (Aspect.HANDLE, Aspect.UUID, Aspect.MIG_MODE, Aspect.GPU_INSTANCES, Aspect.ATTRIBUTES)
BALANCED = {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}


def test_a_node_is_changed_and_advertised_in_one_message(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        kept = set(uuids(here.node, 0))
        here.order("all-balanced")
        progress = await here.ended()
        assert progress.state is State.SUCCESS
        assert here.states() == [GpuState.APPLIED] * 8
        assert devices(here.node) == [BALANCED] * 8
        assert here.healthy() == {"1g.5gb": 16, "2g.10gb": 8, "3g.20gb": 8}
        # All of before; what stays and what leaves; what stays; all of after.
        assert [(len(up), len(down)) for up, down in here.lists] == [
            (56, 0),
            (16, 40),
            (16, 0),
            (32, 0),
        ]
        assert len(kept & set(uuids(here.node, 0))) == 2
        assert len(here.told) == 1

    over(SLICES, tmp_path, story)


def test_the_time_of_an_order_is_that_of_its_first_end(tmp_path: Path) -> None:
    """Instances that come or go by other hands later are brought back, and do not change it."""

    async def story(here: Rig) -> None:
        here.order("all-balanced")
        first = (await here.ended()).seconds
        assert first is not None
        await asyncio.sleep(3600)
        here.node.configure("0=1g.5gb*7", only_named=True)
        here.writer.rescan()
        before = here.worker.changes
        while here.worker.changes == before:
            await here.executor.rounds.wait()
        assert (await here.ended()).seconds == first < 60

    over(SLICES, tmp_path, story)


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        here.order("all-1g.5gb")
        assert (await here.ended()).state is State.SUCCESS
        assert here.worker.changes == 0
        assert len(here.lists) == 1
        assert empty_instances(here.node) == 0

    over(SLICES, tmp_path, story)


@pytest.mark.parametrize(
    ("policy", "state", "done"),
    [
        (Policy.WAIT, State.WAITING, 7),
        (Policy.EVICT, State.WAITING, 7),
        (Policy.REFUSE, State.FAILED, 0),
        (Policy.FORCE, State.SUCCESS, 8),
    ],
)
def test_one_slice_of_one_gpu_in_use(
    tmp_path: Path, policy: Policy, state: State, done: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(here: Rig) -> None:
        before = uuids(here.node, 3)
        here.hold("train", before[2])
        here.order("all-2g.10gb", policy)
        progress = await here.settled()
        assert progress.state is state
        changed = [each == {"2g.10gb": 3} for each in devices(here.node)]
        assert sum(changed) == done
        assert changed[3] is (policy is Policy.FORCE)
        if policy is not Policy.FORCE:
            assert uuids(here.node, 3) == before
        if policy in {Policy.WAIT, Policy.EVICT}:
            # No pod gets what waits.
            assert here.healthy() == {"2g.10gb": 21}
            assert [str(each) for each in progress.gpus[3].blockers] == [
                f"3:2 ({before[2]}), held by ml/train"
            ]
            here.held.clear()
            assert (await here.ended()).state is State.SUCCESS
            assert devices(here.node) == [{"2g.10gb": 3}] * 8
            assert here.healthy() == {"2g.10gb": 24}
        if policy is Policy.REFUSE:
            assert here.healthy() == {"1g.5gb": 56}
        forced = [each for each in caplog.messages if each == "destroying devices in use"]
        assert len(forced) == (policy is Policy.FORCE)

    over(SLICES, tmp_path, story)


def test_nothing_is_changed_while_the_driver_is_released(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        assert await here.writer.release([here.node.gpu(0).uuid], 600.0) == ()
        here.order("all-3g.40gb")
        await asyncio.sleep(300)
        assert here.node.sessions == 0, "opened while it is released"
        assert here.progress.state is State.PENDING
        assert await here.writer.resume() is None
        await here.ended()
        assert devices(here.node) == [{"3g.40gb": 2}]

    over("1xh100-80gb:all-1g.10gb", tmp_path, story)


def test_a_gpu_that_does_not_answer_is_not_left_out(tmp_path: Path) -> None:
    """An order that comes meanwhile is for it too."""

    async def story(here: Rig) -> None:
        here.order("all-balanced")
        assert (await here.ended()).state is State.SUCCESS
        here.node.faults.fail(here.node.gpu(1).uuid, Aspect.HANDLE)
        here.writer.rescan()
        await asyncio.sleep(5)
        here.order("all-1g.5gb")
        await asyncio.sleep(60)
        meanwhile = here.progress
        assert meanwhile.state is not State.SUCCESS
        assert len(meanwhile.gpus) == 2
        here.node.faults.heal([here.node.gpu(1).uuid])
        here.writer.rescan()
        async with asyncio.timeout(60):
            while here.progress.state is not State.SUCCESS:
                await here.executor.rounds.wait()
        assert devices(here.node) == [{"1g.5gb": 7}] * 2

    over("2xa100-40gb:all-1g.5gb", tmp_path, story)


@pytest.mark.parametrize(
    ("name", "aspect"),
    [("all-disabled", Aspect.HANDLE), *(("all-2g.20gb", aspect) for aspect in _READ)],
)
def test_a_gpu_that_has_never_answered_is_wanted_too(
    tmp_path: Path, name: str, aspect: Aspect
) -> None:
    """Whatever of it the driver has not said since the start, nobody says that it is applied."""
    node = parse_node("2xh100-80gb:all-1g.10gb")
    silent = node.gpu(1).uuid
    node.faults.fail(silent, aspect)
    done = [{"2g.20gb": 3} if name == "all-2g.20gb" else {}] * 2

    async def story(here: Rig) -> None:
        here.order(name)
        meanwhile = await here.settled()
        if meanwhile.state is State.SUCCESS:
            assert devices(here.node) == done
        else:
            assert [gpu.index for gpu in meanwhile.gpus] == [0, 1]
            assert meanwhile.gpus[1].trouble is not None
            assert devices(here.node)[0] == done[0]
        here.node.faults.heal([silent])
        here.writer.rescan()
        async with asyncio.timeout(60):
            while here.progress.state is not State.SUCCESS:
                await here.executor.rounds.wait()
        assert devices(here.node) == done

    async def main() -> None:
        async with rig(node, tmp_path) as here:
            await story(here)

    run(main())
