"""Orders in a daemon: by the option, commands and the label, over restarts."""

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
from plugin.core.partition.precedence import Command, Label, Labelled
from plugin.core.partition.progress import State
from plugin.core.partition.trouble import Code
from plugin.core.settings import MigStrategy, Settings
from plugin.driver.worker import DriverWorker
from plugin.errors import ConfigError, ControlError
from plugin.loops.heartbeats import Heartbeats
from plugin.partition.keeping import Keeper
from plugin.partition.memory import MemoryFile
from plugin.partition.orders import Orders
from plugin.partition.surroundings import Surroundings
from plugin.partitioning import MEMORY
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.writer import Writer
from tests.partition_rig import devices, remembered

pytestmark = pytest.mark.asyncio

LABEL = "nvidia.com/mig.config"
NODE = "1xa30-24gb:all-1g.6gb"
MINE = Configuration("mine", (Entry(Wanted.of({"2g.12gb": 1}), (0,)),))


async def within(
    folder: Path,
    node: SimNode,
    story: Callable[[Orders], Awaitable[None]],
    config: str = "",
    file: str = "",
    seconds: float = 15.0,
    label: str = "",
) -> None:
    """Orders in a daemon, from its start to its end."""
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
    orders = Orders(writer, driver, worker, folder / MEMORY, Surroundings(), settings)
    await orders.load()
    running = asyncio.create_task(orders.run(Heartbeats()))
    try:
        async with asyncio.timeout(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await orders.settled()
            await story(orders)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def done(orders: Orders, *arguments: str) -> State:
    answer = await orders.perform(arguments)
    assert answer["warning"] is None
    await orders.executor.settled()
    return orders.progress.state


def wants(name: str, source: Source) -> Callable[[Orders], Awaitable[None]]:
    async def story(orders: Orders) -> None:
        assert (orders.progress.configuration, orders.progress.source) == (name, source)
        assert orders.progress.state is State.SUCCESS

    return story


async def test_a_command_holds_until_the_option_changes(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def commanded(orders: Orders) -> None:
        assert devices(node) == [{"2g.12gb": 2}]
        assert await done(orders, "apply", "all-4g.24gb", "", "force") is State.SUCCESS
        assert orders.progress.policy is Policy.FORCE

    await within(tmp_path, node, commanded, "all-2g.12gb")
    await within(tmp_path, node, wants("all-4g.24gb", Source.COMMAND), "all-2g.12gb")
    assert devices(node) == [{"4g.24gb": 1}]
    await within(tmp_path, node, wants("all-balanced", Source.OPTION), "all-balanced")
    assert devices(node) == [{"1g.6gb": 2, "2g.12gb": 1}]


A, X, Y = "all-1g.6gb", "all-2g.12gb", "all-4g.24gb"


@pytest.mark.parametrize(
    "starts",
    [
        [("", ["apply", A, "", ""], A), (X, [], X), ("", [], "")],
        [(X, ["cancel"], ""), (Y, [], Y), (X, [], X)],
        [(X, ["apply", A, "", ""], A), (Y, [], Y), (X, [], X)],
        [(X, ["apply", A, "", ""], A), ("", [], A), (Y, [], Y)],
    ],
    ids=["command", "cancel", "option", "without the option"],
)
async def test_an_order_that_is_over_does_not_come_back(
    tmp_path: Path, starts: list[tuple[str, list[str], str]]
) -> None:
    """Each start has an option, then comes a command; and what is wanted then."""
    node = parse_node(NODE)

    async def story(orders: Orders) -> None:
        if command:
            await orders.perform(command)
        await orders.settled()
        assert orders.progress.configuration == wanted
        assert remembered(tmp_path).order == orders.executor.order

    for option, command, wanted in starts:  # noqa: B007 — in the story
        await within(tmp_path, node, story, option)


@pytest.mark.parametrize("source", Source)
async def test_the_order_names_the_same_gpus_after_a_restart(
    tmp_path: Path, source: Source
) -> None:
    """GPU 0 drops off the bus, so that the other one has its index."""
    entries = Entry(Wanted.of({"4g.24gb": 1}), (0,)), Entry(Wanted.of({"1g.6gb": 4}), (1,))
    file = tmp_path / "node.json"
    file.write_text(json.dumps(document([Configuration("mine", entries)])))
    node = parse_node("2xa30-24gb:all-1g.6gb")
    option = "mine" if source is Source.OPTION else ""

    async def ordered(orders: Orders) -> None:
        if source is Source.COMMAND:
            await orders.perform(["apply", "mine", "", ""])
        elif source is Source.LABEL:
            assert await orders.labelled("mine") is None
        await orders.settled()
        assert devices(node) == [{"4g.24gb": 1}, {"1g.6gb": 4}]

    async def without_the_first(orders: Orders) -> None:
        await wants("mine", source)(orders)
        assert devices(node) == [{"1g.6gb": 4}]
        (warning,) = orders.progress.warnings
        assert warning == "mine[0] names GPU 0, which this node does not have"
        # An order that comes now means the GPUs that are there now.
        assert await done(orders, "apply", "mine", "", "") is State.SUCCESS
        assert devices(node) == [{"4g.24gb": 1}]

    await within(tmp_path, node, ordered, option, str(file), label=LABEL)
    node.remove_gpu(0)
    await within(tmp_path, node, without_the_first, option, str(file), label=LABEL)


async def test_a_card_that_was_replaced_gets_what_was_for_its_slot(tmp_path: Path) -> None:
    entries = Entry(Wanted.of({"4g.24gb": 1}), (0,)), Entry(Wanted.of({"1g.6gb": 4}), (1,))
    text = json.dumps(document([Configuration("mine", entries)]))
    before, now = parse_node("2xa30-24gb"), parse_node("2xa30-24gb+1xa100-40gb")
    assert not {gpu.uuid for gpu in before.gpus} & {gpu.uuid for gpu in now.gpus}

    async def ordered(orders: Orders) -> None:
        await done(orders, "apply", "mine", text, "")

    async def replaced(orders: Orders) -> None:
        await orders.settled()
        assert {place.index for place in remembered(tmp_path).places.values()} == {0, 1, 2}
        assert [gpu.uuid for gpu in orders.progress.gpus] == [gpu.uuid for gpu in now.gpus[:2]]

    await within(tmp_path, before, ordered)
    await within(tmp_path, now, replaced)


async def test_of_orders_at_once_one_is_wanted_kept_and_carried_out(tmp_path: Path) -> None:
    async def story(orders: Orders) -> None:
        commands = [["apply", name, "", ""] for name in (X, Y, A)]
        commands.insert(2, ["cancel"])
        await asyncio.gather(*map(orders.perform, commands))
        assert remembered(tmp_path).order == orders.executor.order

    await within(tmp_path, parse_node(NODE), story)


async def test_an_order_that_could_not_be_loaded_again_is_refused(tmp_path: Path) -> None:
    large = Configuration(
        "x", tuple(Entry(Wanted.of({"2g.12gb": n % 9}), (0,)) for n in range(3000))
    )
    name = "n" * 600
    long = Configuration(name, MINE.entries)

    async def story(orders: Orders) -> None:
        text = json.dumps(document([long]))
        assert await done(orders, "apply", name, text, "") is State.SUCCESS
        too_large = "at most 262144 can be kept; put the configuration into --partition-file"
        with pytest.raises(ConfigError, match=too_large):
            await orders.perform(["apply", "x", json.dumps(document([large])), ""])
        assert orders.progress.configuration == name

    await within(tmp_path, parse_node(NODE), story)
    await within(tmp_path, parse_node(NODE), wants(name, Source.COMMAND))


async def test_a_file_that_comes_with_an_order_is_kept(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def commanded(orders: Orders) -> None:
        text = json.dumps(document([MINE]))
        assert await done(orders, "apply", "mine", text, "") is State.SUCCESS

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

    async def cancelled(orders: Orders) -> None:
        answer = await orders.perform(["cancel"])
        assert answer["text"] == "all-2g.12gb is no longer wanted; what is there stays"
        await orders.executor.settled()
        assert orders.progress.state is State.IDLE

    async def idle(orders: Orders) -> None:
        assert orders.progress.state is State.IDLE
        assert (await orders.perform(["cancel"]))["text"].startswith("no configuration was wanted")

    await within(tmp_path, node, cancelled, "all-2g.12gb")
    node.configure("all-balanced")
    await within(tmp_path, node, idle, "all-2g.12gb")
    assert devices(node) == [{"1g.6gb": 2, "2g.12gb": 1}]


async def test_a_refused_label_orders_nothing(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def refused(orders: Orders) -> None:
        for _ in range(2):
            trouble = await orders.labelled("none")
            assert trouble is not None
            assert trouble.code is Code.UNKNOWN_CONFIGURATION
        assert orders.progress.configuration == "all-2g.12gb"

    async def known_by_now(orders: Orders) -> None:
        await wants("all-2g.12gb", Source.OPTION)(orders)
        assert await orders.labelled("none") is not None
        assert await orders.labelled("all-4g.24gb") is None
        await orders.executor.settled()
        assert devices(node) == [{"4g.24gb": 1}]
        assert await orders.labelled("none") is not None

    await within(tmp_path, node, refused, "all-2g.12gb", label=LABEL)
    await within(tmp_path, node, known_by_now, "all-2g.12gb", label=LABEL)
    # What was wanted before the refused value stays wanted, and another option does not count.
    await within(tmp_path, node, wants("all-4g.24gb", Source.LABEL), "all-1g.6gb", label=LABEL)


async def test_a_bad_order_leaves_the_one_before(tmp_path: Path) -> None:
    async def story(orders: Orders) -> None:
        with pytest.raises(ConfigError, match="no MIG configuration 'none' on this node"):
            await orders.perform(["apply", "none", "", ""])
        with pytest.raises(ControlError, match="the order cannot be read"):
            await orders.perform(["apply", "mine", "{", ""])
        with pytest.raises(ControlError, match="the order cannot be read"):
            await orders.perform(["apply", "mine", "", "sometimes"])
        with pytest.raises(ConfigError, match="version is missing"):
            await orders.perform(["apply", "mine", "{}", ""])
        with pytest.raises(ControlError, match="choose apply, status or cancel"):
            await orders.perform(["explode"])
        status = await orders.perform(["status"])
        assert (status["configuration"], status["state"]) == ("all-2g.12gb", "success")

    await within(tmp_path, parse_node(NODE), story, "all-2g.12gb")


async def test_a_hanging_call_of_the_driver_is_finished_behind_the_start(tmp_path: Path) -> None:
    node = parse_node(NODE)
    node.calls.inject("nvmlDeviceCreateGpuInstanceWithPlacement", Hang(), times=1)

    async def story(orders: Orders) -> None:
        assert str(orders.progress.state) == "applying"
        node.calls.restore()
        await orders.settled()
        assert orders.progress.state is State.SUCCESS

    await within(tmp_path, node, story, "all-4g.24gb", seconds=0.5)


async def test_an_unknown_option_does_not_keep_the_daemon(tmp_path: Path) -> None:
    node = parse_node(NODE)

    async def story(orders: Orders) -> None:
        assert orders.progress.state is State.FAILED

    await within(tmp_path, node, story, "all-nothing")
    await within(tmp_path, node, story, "mine", str(tmp_path / "absent.yaml"))
    assert devices(node) == [{"1g.6gb": 4}]


async def test_while_another_process_partitions_the_node_orders_are_refused(tmp_path: Path) -> None:
    other = Keeper(MemoryFile(tmp_path / MEMORY))
    await other.claim()

    async def story(orders: Orders) -> None:
        for arguments in (["apply", "all-2g.12gb", "", ""], ["cancel"]):
            with pytest.raises(ControlError, match="another process partitions this node"):
                await orders.perform(arguments)
        refused = await orders.labelled("all-2g.12gb")
        assert refused is not None
        assert refused.code is Code.BUSY
        assert orders.progress.state is State.IDLE
        assert MemoryFile(tmp_path / MEMORY).load() is None
        # Then it goes on from what the other one has left.
        known = Labelled("", "all-2g.12gb")
        assert await other.given(Label(known, "")) == ""
        assert await other.given(Command(Order("all-4g.24gb", Source.COMMAND), "")) == ""
        await other.release()
        assert await orders.labelled("all-2g.12gb") is None
        await orders.executor.settled()
        assert orders.progress.configuration == "all-4g.24gb"
        assert orders.progress.source is Source.COMMAND

    await within(tmp_path, parse_node(NODE), story)
