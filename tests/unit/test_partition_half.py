"""Nothing is left half-made: a GPU that no order changes any more gets back what it had."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pynvml
import pytest

from plugin.core.partition.configuration import Configuration, Entry, Wanted
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.precedence import Command
from plugin.core.partition.progress import GpuState, Progress, State
from plugin.core.partition.trouble import Code
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import parse_node
from tests.partition_rig import Killed, Rig, devices, empty_instances, over, rig, uuids
from tests.unit.virtual_time import run

TWO = "2xa30-24gb:all-1g.6gb"
BEFORE, BALANCED = {"1g.6gb": 4}, {"1g.6gb": 2, "2g.12gb": 1}
#: A change of one GPU of TWO to all-balanced has so many steps.
STEPS = 6


def mine(wanted: Wanted, *gpus: int, policy: Policy | None = None) -> Order:
    configuration = Configuration("mine", (Entry(wanted, gpus or None),))
    return Order("mine", Source.COMMAND, configuration, policy)


#: What the next order leaves as it is, and the state of the node then.
LEFT = {
    "held": (mine(Wanted.of({"4g.24gb": 1}), policy=Policy.REFUSE), State.FAILED),
    "unnamed": (mine(Wanted.of({"4g.24gb": 1}), 1), State.WAITING),
    "misfit": (mine(Wanted.of({"7g.80gb": 1})), State.FAILED),
    "unknown": (Order("nothing", Source.LABEL), State.FAILED),
}


@pytest.mark.parametrize("kind", LEFT)
@pytest.mark.parametrize("step", range(1, STEPS))
def test_an_order_that_leaves_a_gpu_as_it_is(tmp_path: Path, kind: str, step: int) -> None:
    order, state = LEFT[kind]

    async def story(here: Rig) -> None:
        held = uuids(here.node, 1)
        here.hold("train", *held)

        def interrupt(number: int) -> None:
            if number == step:
                here.executor.want(order)

        here.worker.after = interrupt
        here.order("all-balanced")
        await here.settled()
        assert here.progress.state is state
        assert devices(here.node) == [BEFORE, BEFORE]
        assert empty_instances(here.node) == 0
        assert uuids(here.node, 1) == held
        # All is in service but what waits to be destroyed; nothing half-made ever was.
        assert here.healthy() == {"1g.6gb": 4 if kind == "unnamed" else 8}
        assert all(len(up) <= 8 for up, _ in here.lists)
        assert here.keeper.memory.changing == {}
        assert GpuState.ROLLING_BACK not in here.states()

    over(TWO, tmp_path, story)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_after_a_kill_too(tmp_path: Path, step: int) -> None:
    node = parse_node(TWO)
    order = Order("all-balanced", Source.COMMAND, None, Policy.REFUSE)

    def kill(number: int) -> None:
        if number == step:
            raise Killed

    async def main() -> None:
        async with rig(node, tmp_path) as here:
            here.worker.after = kill
            await here.keeper.given(Command(order, ""))
            here.executor.want(order)
            assert await here.killed()
        async with rig(node, tmp_path) as here:
            # In the way of the other GPU's change.
            here.hold("train", *uuids(node, 1)[:3])
            here.executor.want(here.keeper.memory.order)
            await here.settled()
            assert here.states() == [GpuState.HELD, GpuState.REFUSED]
            assert devices(node) == [BEFORE, BEFORE]
            assert here.healthy() == {"1g.6gb": 8}
            assert here.keeper.memory.changing == {}
            assert empty_instances(node) == 0

    run(main())


def test_a_gpu_that_waits_for_a_pod_is_whole_until_then(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        last = uuids(here.node, 0)[-1]

        def interrupt(number: int) -> None:
            if number == 1:
                here.hold("train", last)
                here.order("all-4g.24gb")

        here.worker.after = interrupt
        here.order("all-2g.12gb")
        progress = await here.settled()
        assert devices(here.node) == [BEFORE, {"4g.24gb": 1}]
        first = progress.gpus[0]
        assert (first.state, progress.state) == (GpuState.WAITING, State.WAITING)
        assert first.trouble is not None
        assert first.trouble.code is Code.IN_USE
        assert "ml/train" in first.trouble.text
        here.held.clear()
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [{"4g.24gb": 1}] * 2

    over(TWO, tmp_path, story)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_what_was_interrupted_before_goes_back(tmp_path: Path, step: int) -> None:
    async def story(here: Rig) -> None:
        async def tell(_: int) -> bool:
            if here.progress.order == 2:
                here.executor.want(None)
            return True

        def interrupt(number: int) -> None:
            if number == step:
                here.order("all-4g.24gb")

        here.tell = tell  # type: ignore[method-assign, assignment]
        here.worker.after = interrupt
        here.order("all-balanced")
        await here.settled()
        assert here.progress.state is State.IDLE
        assert devices(here.node) == [BEFORE, BEFORE]
        assert empty_instances(here.node) == 0
        assert here.healthy() == {"1g.6gb": 8}
        assert here.keeper.memory.changing == {}

    over(TWO, tmp_path, story)


@pytest.mark.parametrize("then", ["all-1g.6gb", "all-balanced"])
def test_another_order_while_a_gpu_waits_for_a_reset(tmp_path: Path, then: str) -> None:
    async def story(here: Rig) -> None:
        here.order("all-1g.6gb")
        assert (await here.ended()).state is State.RESET_NEEDED
        here.order(then)
        assert (await here.ended()).state is State.RESET_NEEDED
        assert here.states() == [GpuState.RESET_NEEDED] * 2
        here.node.reset(0)
        here.node.reset(1)
        here.writer.rescan()
        async with asyncio.timeout(60):
            while here.progress.state is not State.SUCCESS:
                await here.executor.rounds.wait()

    over("2xa30-24gb:mig-off", tmp_path, story)


def test_success_has_no_reason(tmp_path: Path) -> None:
    """Also not that of a failure that was overcome."""
    seen: list[Progress] = []

    async def story(here: Rig) -> None:
        here.node.calls.inject(
            "nvmlGpuInstanceDestroy", Fail(pynvml.NVML_ERROR_UNKNOWN), times=1, after=1
        )

        async def follow() -> None:
            while True:
                await here.executor.shown.changed.wait()
                seen.append(here.progress)

        following = asyncio.create_task(follow())
        here.order("all-balanced")
        assert (await here.ended()).state is State.SUCCESS
        following.cancel()

    over(TWO, tmp_path, story)
    assert any(each.trouble is not None for each in seen)
    done = [each for each in seen if each.state is State.SUCCESS]
    assert done
    assert [each.trouble for each in done] == [None] * len(done)
