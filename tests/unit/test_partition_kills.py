"""A process that is killed at any step of an execution: the next one goes on with what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugin.core.partition.order import Order, Source
from plugin.core.partition.precedence import Command
from plugin.core.partition.progress import State
from plugin.partitioning import MEMORY
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.partition_rig import Killed, devices, empty_instances, rig, uuids
from tests.unit.virtual_time import run

#: One GPU with an instance in use that the configuration keeps, one with one in the way, and a
#: free one.
NODE = "3xa30-24gb:all-1g.6gb"
BALANCED = {"1g.6gb": 2, "2g.12gb": 1}
ORDER = Order("all-balanced", Source.COMMAND)
#: Changes of an execution on this node: two GPUs with 6 steps each.
STEPS = 12


def kill(number: int, at: int) -> None:
    if number == at:
        raise Killed


async def story(folder: Path, at: int, *, after: bool) -> None:
    node = parse_node(NODE)
    in_use = uuids(node, 1)
    had = {node.gpu(gpu).uuid: sorted(uuids(node, gpu)) for gpu in (0, 2)}
    async with rig(node, folder) as here:
        here.hold("one", uuids(node, 0)[3])
        here.hold("all", *in_use)
        hook = "after" if after else "before"
        setattr(here.worker, hook, lambda number: kill(number, at))
        await here.keeper.given(Command(ORDER, ""))
        here.executor.want(ORDER)
        assert await here.killed()
        assert here.worker.changes == at
        held = dict(here.held)
    check_disk(folder, had)
    await goes_on(node, folder, held, in_use)


def check_disk(folder: Path, had: dict[str, list[str]]) -> None:
    """What is wanted and what was there is on disk, whenever the process ends."""
    saved = json.loads((folder / MEMORY).read_text())
    assert saved["order"]["name"] == "all-balanced"
    geometry = {"mig": True, "devices": {"1g.6gb": 4}}
    assert saved["changing"] == {
        uuid: {"geometry": geometry, "uuids": devices} for uuid, devices in had.items()
    }


async def goes_on(
    node: SimNode, folder: Path, held: dict[str, set[str]], in_use: list[str]
) -> None:
    async with rig(node, folder) as here:
        here.held = held
        order = here.keeper.memory.order
        assert order == ORDER
        here.executor.want(order)
        assert not await here.killed()
        assert here.progress.state is State.WAITING
        assert devices(node) == [BALANCED, {"1g.6gb": 4}, BALANCED]
        assert empty_instances(node) == 0
        assert uuids(node, 1) == in_use
        assert next(iter(held["one"])) in uuids(node, 0)
        # GPU 1 waits; everything else is in service.
        assert here.healthy() == {"1g.6gb": 2 + 2 + 2, "2g.12gb": 2}
        assert all(here.serves(uuid) for gpu in (0, 2) for uuid in uuids(node, gpu))
        assert here.keeper.memory.changing == {}
        here.held.clear()
        assert (await here.ended()).state is State.SUCCESS
        assert devices(node) == [BALANCED] * 3
        assert here.healthy() == {"1g.6gb": 6, "2g.12gb": 3}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_killed_at_a_step(tmp_path: Path, at: int, after: bool) -> None:  # noqa: FBT001
    run(story(tmp_path, at, after=after))


def test_an_execution_has_so_many_steps(tmp_path: Path) -> None:
    async def main() -> None:
        node = parse_node(NODE)
        async with rig(node, tmp_path) as here:
            here.hold("all", *uuids(node, 1))
            here.hold("one", uuids(node, 0)[3])
            here.executor.want(ORDER)
            await here.settled()
            assert here.worker.changes == STEPS

    run(main())


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_without_an_order_nothing_is_changed_at_the_start_but_what_is_half_made(
    tmp_path: Path, at: int
) -> None:
    """The process was killed when the order had been taken back."""

    async def main() -> None:
        node = parse_node(NODE)
        async with rig(node, tmp_path) as here:
            here.worker.after = lambda number: kill(number, at)
            here.executor.want(ORDER)
            assert await here.killed()
        async with rig(node, tmp_path) as here:
            assert here.keeper.memory.order is None
            await here.settled()
            # What nobody had advertised yet counts as half-made too.
            assert devices(node) == [{"1g.6gb": 4}] * 3
            assert empty_instances(node) == 0
            assert here.progress.state is State.IDLE
            assert here.keeper.memory.changing == {}
            assert here.healthy() == {"1g.6gb": 12}

    run(main())
