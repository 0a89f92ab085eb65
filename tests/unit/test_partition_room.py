"""Whose order holds in a daemon: the option's, or that of the last command."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from plugin.core.partition.comparison import document
from plugin.core.partition.configuration import Configuration, Entry, Wanted
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import State
from plugin.core.partition.trouble import Code
from plugin.core.settings import MigStrategy, Settings
from plugin.driver.worker import DriverWorker
from plugin.errors import ConfigError, ControlError
from plugin.loops.heartbeats import Heartbeats
from plugin.partition.keeping import Keeper
from plugin.partition.memory import Labelled, MemoryFile
from plugin.partition.room import Room
from plugin.partition.surroundings import Surroundings
from plugin.partitioning import MEMORY
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.writer import Writer
from tests.partition_rig import devices

pytestmark = pytest.mark.asyncio

LABEL = "nvidia.com/mig.config"
NODE = "1xa30-24gb:all-1g.6gb"
MINE = Configuration("mine", (Entry(Wanted.of({"2g.12gb": 1}), (0,)),))


async def within(
    folder: Path,
    node: SimNode,
    story: Callable[[Room], Awaitable[None]],
    config: str = "",
    file: str = "",
    seconds: float = 15.0,
    label: str = "",
) -> None:
    """A daemon's room of partitioning, from its start to its end."""
    settings = Settings(
        mig_strategy=MigStrategy.MIXED,
        partition_config=config,
        partition_file=file,
        partition_label=label,
    )
    driver = simulate(node).driver
    worker = DriverWorker(driver.hangs)
    worker.start()
    writer = Writer(driver, worker, settings, LedgerFile(folder / "ledger.json"))
    await writer.start()
    room = Room(writer, driver, worker, folder / MEMORY, Surroundings(), settings)
    await room.load()
    running = asyncio.create_task(room.run(Heartbeats()))
    try:
        async with asyncio.timeout(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await room.settled()
            await story(room)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def done(room: Room, *arguments: str) -> State:
    answer = await room.perform(arguments)
    assert answer["warning"] is None
    await room.executor.settled()
    return room.progress.state


def wants(name: str, source: Source) -> Callable[[Room], Awaitable[None]]:
    async def story(room: Room) -> None:
        assert (room.progress.configuration, room.progress.source) == (name, source)
        assert room.progress.state is State.SUCCESS

    return story


async def test_a_command_holds_until_the_option_changes(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def commanded(room: Room) -> None:
        assert devices(node) == [{"2g.12gb": 2}]
        assert await done(room, "apply", "all-4g.24gb", "", "force") is State.SUCCESS
        assert room.progress.policy is Policy.FORCE

    await within(tmp_path, node, commanded, "all-2g.12gb")
    await within(tmp_path, node, wants("all-4g.24gb", Source.COMMAND), "all-2g.12gb")
    assert devices(node) == [{"4g.24gb": 1}]
    await within(tmp_path, node, wants("all-balanced", Source.OPTION), "all-balanced")
    assert devices(node) == [{"1g.6gb": 2, "2g.12gb": 1}]


async def test_a_file_that_comes_with_an_order_is_kept(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def commanded(room: Room) -> None:
        text = json.dumps(document([MINE]))
        assert await done(room, "apply", "mine", text, "") is State.SUCCESS

    await within(tmp_path, node, commanded)
    await within(tmp_path, node, wants("mine", Source.COMMAND))
    assert devices(node) == [{"2g.12gb": 1}]


async def test_a_file_of_the_node(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    file.write_text(json.dumps(document([MINE])))
    node = parse_node(NODE)
    await within(tmp_path, node, wants("mine", Source.OPTION), "mine", str(file))
    assert devices(node) == [{"2g.12gb": 1}]


async def test_what_is_cancelled_stays_and_does_not_come_back(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def cancelled(room: Room) -> None:
        answer = await room.perform(["cancel"])
        assert answer["text"] == "all-2g.12gb is no longer wanted; what is there stays"
        await room.executor.settled()
        assert room.progress.state is State.IDLE

    async def idle(room: Room) -> None:
        assert room.progress.state is State.IDLE
        assert (await room.perform(["cancel"]))["text"].startswith("no configuration was wanted")

    await within(tmp_path, node, cancelled, "all-2g.12gb")
    node.configure("all-balanced")
    await within(tmp_path, node, idle, "all-2g.12gb")
    assert devices(node) == [{"1g.6gb": 2, "2g.12gb": 1}]


async def test_a_refused_label_orders_nothing(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def refused(room: Room) -> None:
        for _ in range(2):
            trouble = await room.labelled("none")
            assert trouble is not None
            assert trouble.code is Code.UNKNOWN_CONFIGURATION
        assert room.progress.configuration == "all-2g.12gb"

    async def known_by_now(room: Room) -> None:
        await wants("all-2g.12gb", Source.OPTION)(room)
        assert await room.labelled("none") is not None
        assert await room.labelled("all-4g.24gb") is None
        await room.executor.settled()
        assert devices(node) == [{"4g.24gb": 1}]
        assert await room.labelled("none") is not None

    await within(tmp_path, node, refused, "all-2g.12gb", label=LABEL)
    await within(tmp_path, node, known_by_now, "all-2g.12gb", label=LABEL)
    # What was wanted before the refused value stays wanted, and another option does not count.
    await within(tmp_path, node, wants("all-4g.24gb", Source.LABEL), "all-1g.6gb", label=LABEL)


async def test_a_bad_order_leaves_the_one_before(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(ConfigError, match="no MIG configuration 'none' on this node"):
            await room.perform(["apply", "none", "", ""])
        with pytest.raises(ControlError, match="the order cannot be read"):
            await room.perform(["apply", "mine", "{", ""])
        with pytest.raises(ControlError, match="the order cannot be read"):
            await room.perform(["apply", "mine", "", "sometimes"])
        with pytest.raises(ConfigError, match="version is missing"):
            await room.perform(["apply", "mine", "{}", ""])
        with pytest.raises(ControlError, match="choose apply, status or cancel"):
            await room.perform(["explode"])
        status = await room.perform(["status"])
        assert (status["configuration"], status["state"]) == ("all-2g.12gb", "success")

    await within(tmp_path, parse_node(NODE), story, "all-2g.12gb")


async def test_a_hanging_call_of_the_driver_is_finished_behind_the_start(tmp_path: Path) -> None:
    node = parse_node(NODE)
    node.calls.inject("nvmlDeviceCreateGpuInstanceWithPlacement", Hang(), times=1)

    async def story(room: Room) -> None:
        assert str(room.progress.state) == "applying"
        node.calls.restore()
        await room.settled()
        assert room.progress.state is State.SUCCESS

    await within(tmp_path, node, story, "all-4g.24gb", seconds=0.5)


async def test_an_unknown_option_does_not_keep_the_daemon(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def story(room: Room) -> None:
        assert room.progress.state is State.FAILED

    await within(tmp_path, node, story, "all-nothing")
    await within(tmp_path, node, story, "mine", str(tmp_path / "absent.yaml"))
    assert devices(node) == [{"1g.6gb": 4}]


async def test_while_another_process_partitions_the_node_orders_are_refused(tmp_path: Path) -> None:
    other = Keeper(MemoryFile(tmp_path / MEMORY))
    await other.claim()
    content = MemoryFile(tmp_path / MEMORY).load()

    async def story(room: Room) -> None:
        for arguments in (["apply", "all-2g.12gb", "", ""], ["cancel"]):
            with pytest.raises(ControlError, match="another process partitions this node"):
                await room.perform(arguments)
        refused = await room.labelled("all-2g.12gb")
        assert refused is not None
        assert refused.code is Code.BUSY
        assert room.progress.state is State.IDLE
        assert MemoryFile(tmp_path / MEMORY).load() == content
        # Then it goes on from what the other one has left.
        known = Labelled("", "all-2g.12gb")
        assert await other.ordered(Order("all-4g.24gb", Source.COMMAND), "", known) == ""
        await other.release()
        assert await room.labelled("all-2g.12gb") is None
        await room.executor.settled()
        assert room.progress.configuration == "all-4g.24gb"
        assert room.progress.source is Source.COMMAND

    await within(tmp_path, parse_node(NODE), story)
