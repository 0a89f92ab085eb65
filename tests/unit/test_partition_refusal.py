"""An order that was refused for devices in use has ended: it is carried out when it is given again,
and not when they are free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.precedence import Command, Memory
from plugin.core.partition.progress import GpuState, State
from plugin.core.partition.refusal import NOTHING, Refused, in_force
from plugin.core.partition.steps import Blocker, Occupant
from plugin.partition.memory import MemoryFile
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import parse_node
from tests.partition_rig import SETTINGS, Rig, devices, rig, uuids
from tests.partitioning import inventory
from tests.unit.virtual_time import run

TWO = "2xa100-40gb:all-1g.5gb"
BEFORE, AFTER = [{"1g.5gb": 7}] * 2, [{"2g.10gb": 3}] * 2
REFUSING = replace(SETTINGS, partition_in_use=Policy.REFUSE)

Story = Callable[[Rig], Awaitable[None]]


def ordered(policy: Policy | None = Policy.REFUSE, source: Source = Source.COMMAND) -> Order:
    by = "one" if source is Source.COMMAND else ""
    return Order("all-2g.10gb", source, None, policy, by)


async def refused(here: Rig, order: Order) -> None:
    """Give an order that a pod keeps from being carried out; then the pod ends."""
    here.hold("train", uuids(here.node, 0)[0])
    await here.keeper.given(Command(order, ""))
    here.executor.want(order)
    assert (await here.ended()).state is State.FAILED
    here.held.clear()


async def looks_at_everything(here: Rig) -> None:
    """Whatever may wake the executor."""
    here.executor.look_again()
    here.writer.rescan()
    await asyncio.sleep(600)
    here.node.configure("1=1g.5gb*6", only_named=True)
    here.writer.rescan()
    await asyncio.sleep(600)
    here.node.configure("1=1g.5gb*7", only_named=True)
    here.writer.rescan()
    await asyncio.sleep(600)


def stays(here: Rig) -> None:
    assert devices(here.node) == BEFORE
    assert here.worker.changes == 0
    assert here.progress.state is State.FAILED
    assert here.states() == [GpuState.REFUSED, GpuState.HELD]
    assert "ml/train" in here.progress.gpus[0].trouble.text  # type: ignore[union-attr]
    assert here.healthy() == {"1g.5gb": 14}


@pytest.mark.parametrize("source", Source)
def test_it_stays_refused_when_the_devices_are_free_also_after_a_restart(
    tmp_path: Path, source: Source
) -> None:
    node, order = parse_node(TWO), ordered(source=source)

    async def main() -> None:
        async with rig(node, tmp_path) as here:
            await refused(here, order)
            await looks_at_everything(here)
            stays(here)
        async with rig(node, tmp_path) as here:
            here.executor.want(here.keeper.memory.order)
            await here.settled()
            stays(here)
            await looks_at_everything(here)
            stays(here)
            # Given again.
            await here.keeper.given(Command(order, ""))
            here.executor.want(None)
            here.executor.want(here.keeper.memory.order)
            assert (await here.ended()).state is State.SUCCESS
            assert devices(node) == AFTER
            assert here.keeper.memory.refused is None

    run(main())


def test_another_order_is_not_refused_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(TWO, tmp_path) as here:
            await refused(here, ordered())
            here.order("all-3g.20gb", Policy.REFUSE)
            assert (await here.ended()).state is State.SUCCESS
            assert devices(here.node) == [{"3g.20gb": 2}] * 2

    run(main())


@pytest.mark.parametrize("given", [None, Policy.REFUSE])
def test_an_order_follows_the_option_at_once_unless_it_came_with_a_policy(
    tmp_path: Path, given: Policy | None
) -> None:
    async def main() -> None:
        async with rig(TWO, tmp_path, settings=REFUSING) as here:
            await refused(here, ordered(given))
            await asyncio.sleep(60)
            here.writer.reconfigure(SETTINGS)
            await asyncio.sleep(60)
            if given is None:
                assert here.progress.state is State.SUCCESS
                assert devices(here.node) == AFTER
            else:
                stays(here)

    run(main())


def test_what_waits_is_refused_when_the_option_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(TWO, tmp_path) as here:
            here.hold("train", uuids(here.node, 0)[0])
            here.order("all-2g.10gb")
            assert (await here.settled()).state is State.WAITING
            here.writer.reconfigure(REFUSING)
            await asyncio.sleep(60)
            assert here.progress.state is State.FAILED
            # What waited is in service again.
            assert here.healthy() == {"1g.5gb": 7, "2g.10gb": 3}
            here.held.clear()
            await looks_at_everything(here)
            assert devices(here.node)[0] == {"1g.5gb": 7}

    run(main())


def test_nothing_is_refused_for_devices_that_a_reset_has_destroyed(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(TWO, tmp_path) as here:
            await refused(here, ordered())
            here.node.reset(0)
            here.writer.rescan()
            await asyncio.sleep(60)
            assert here.progress.state is State.SUCCESS
            assert devices(here.node) == AFTER

    run(main())


def test_a_gpu_that_does_not_answer_may_have_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(TWO, tmp_path) as here:
            await refused(here, ordered())
            here.node.calls.inject("nvmlDeviceGetMigMode", Fail(15), target=here.node.gpus[0].uuid)
            here.writer.rescan()
            await asyncio.sleep(600)
            here.node.calls.restore()
            here.writer.rescan()
            await asyncio.sleep(600)
            stays(here)

    run(main())


def test_a_gpu_that_is_off_the_bus_may_have_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(TWO, tmp_path) as here:
            await refused(here, ordered())
            here.node.remove_gpu(0)
            here.writer.rescan()
            await asyncio.sleep(600)
            here.executor.look_again()
            await asyncio.sleep(600)
            assert here.worker.changes == 0
            assert here.progress.state is State.FAILED
            assert here.states() == [GpuState.HELD]

    run(main())


# ---- as values

NODE = inventory(parse_node(TWO))
GPU = NODE.gpus[0]
HOLDER = (Occupant("ml/train", pod=True),)
DEVICE = Blocker(GPU.mig_devices[0].uuid, "0:0", HOLDER)
WHOLE = Blocker(GPU.uuid, "0", HOLDER)


@pytest.mark.parametrize(
    ("blocker", "order", "policy", "holds"),
    [
        (DEVICE, ordered(), Policy.REFUSE, True),
        (WHOLE, ordered(), Policy.REFUSE, True),
        (Blocker("MIG-gone", "0:9", HOLDER), ordered(), Policy.REFUSE, False),
        (DEVICE, ordered(), Policy.WAIT, False),
        (DEVICE, Order("all-2g.10gb", Source.COMMAND, id="two"), Policy.REFUSE, False),
        (DEVICE, None, Policy.REFUSE, False),
    ],
)
def test_what_still_refuses_an_order(
    blocker: Blocker,
    order: Order | None,
    policy: Policy,
    holds: bool,  # noqa: FBT001
) -> None:
    known = Refused(ordered().key, {GPU.uuid: (blocker,)})
    found = in_force(known, order, policy, NODE)
    assert found == ({GPU.uuid: (blocker,)} if holds else NOTHING)


def test_a_gpu_that_is_not_there_may_have_them() -> None:
    known = Refused(ordered().key, {"GPU-away": (DEVICE,)})
    assert in_force(known, ordered(), Policy.REFUSE, NODE) == known.in_the_way


def test_it_is_kept(tmp_path: Path) -> None:
    file = MemoryFile(tmp_path / "memory")
    kept = Memory(ordered(), "", refused=Refused("one", {GPU.uuid: (DEVICE, WHOLE)}))
    file.save(kept)
    assert file.load() == kept
