"""The executor of partitioning over a simulated node in virtual time, without kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from plugin.core.holders import Holdings
from plugin.core.inventory.model import Inventory
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.precedence import Memory
from plugin.core.partition.progress import GpuState, Progress
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import Holder
from plugin.driver.hangs import Hangs
from plugin.driver.worker import DriverWorker
from plugin.loops.heartbeats import Heartbeats
from plugin.partition.executor import Executor
from plugin.partition.file import ConfigurationFile
from plugin.partition.keeping import InThread, Keeper
from plugin.partition.memory import MemoryFile
from plugin.partition.surroundings import Evictor, Surroundings
from plugin.partitioning import MEMORY
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.writer import Writer
from tests.unit.virtual_time import run

T = TypeVar("T")

SETTINGS = Settings(mig_strategy=MigStrategy.MIXED, rescan_seconds=3600.0)


class Killed(BaseException):
    """The process ends here."""


class Inline(DriverWorker):
    """Calls the driver at once: in virtual time there is no thread to wait for. ``before`` and
    ``after`` hear of each change, by its number.
    """

    changes = 0
    before: Callable[[int], None] = staticmethod(lambda _: None)
    after: Callable[[int], None] = staticmethod(lambda _: None)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    async def change(self, function: Callable[..., T], *args: Any) -> T:
        self.changes += 1
        self.before(self.changes)
        await asyncio.sleep(0)
        try:
            return function(*args)
        finally:
            self.after(self.changes)


class Disk(MemoryFile):
    """May be full."""

    full = False

    def save(self, memory: Memory) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().save(memory)


def remembered(folder: Path) -> Memory:
    """What is on disk."""
    found = MemoryFile(folder / MEMORY).load()
    assert found is not None
    return found


async def inline(function: Callable[..., Any], *args: Any) -> Any:
    """In place of another thread."""
    return function(*args)


@dataclass
class Rig:
    """A running executor. ``worker`` counts the changes of an inline one. ``held`` maps pods to the
    UUIDs of their devices; ``lists`` are all that was ever advertised: healthy and unhealthy ids.
    """

    node: SimNode
    writer: Writer
    executor: Executor
    worker: Inline
    keeper: Keeper
    disk: Disk
    held: dict[str, set[str]] = field(default_factory=dict)
    handed_out: set[str] = field(default_factory=set)
    answers: bool = True
    told: list[int] = field(default_factory=list)
    lists: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)
    problems: list[tuple[str, ...]] = field(default_factory=list)
    working: asyncio.Task[None] | None = None

    async def killed(self) -> bool:
        """Wait until the executor is at rest or its process was killed; whether it was."""
        assert self.working is not None
        resting = asyncio.create_task(self.executor.settled())
        await asyncio.wait({resting, self.working}, return_when=asyncio.FIRST_COMPLETED)
        resting.cancel()
        return self.working.done()

    def hold(self, pod: str, *uuids: str) -> None:
        self.held[pod] = set(uuids)

    async def ask(self) -> Holdings:
        holders: dict[str, tuple[Holder, ...]] = {}
        for pod, uuids in self.held.items():
            for uuid in uuids:
                holders[uuid] = (*holders.get(uuid, ()), Holder("ml", pod, "main"))
        return Holdings(
            holders,
            dict.fromkeys(self.handed_out, 0.0),
            confirmed=0.0,
            trusted=self.answers,
            silent=not self.answers,
        )

    async def tell(self, generation: int) -> bool:
        self.told.append(generation)
        return True

    def order(self, name: str, policy: Policy | None = None) -> None:
        self.executor.want(Order(name, Source.COMMAND, None, policy))

    async def settled(self, seconds: float = 3_000.0) -> Progress:
        async with asyncio.timeout(seconds):
            await self.executor.settled()
        return self.progress

    async def ended(self, seconds: float = 3_000.0) -> Progress:
        """Until nothing more happens by itself."""
        async with asyncio.timeout(seconds):
            while not (self.progress.ended and self.executor.at_rest):
                await self.executor.rounds.wait()
        return self.progress

    @property
    def progress(self) -> Progress:
        return self.executor.progress

    def states(self) -> list[GpuState]:
        return [gpu.state for gpu in self.progress.gpus]

    @property
    def inventory(self) -> Inventory:
        return self.writer.store.snapshot.inventory

    def healthy(self) -> dict[str, int]:
        """By resource, what kubelet may hand out."""
        listed = self.writer.store.snapshot.advertisement.resources
        found = {
            name.removeprefix("nvidia.com/mig-"): sum(item.healthy for item in items)
            for name, items in listed.items()
        }
        return {name: count for name, count in found.items() if count}

    def serves(self, uuid: str) -> bool:
        listed = self.writer.store.snapshot.advertisement.resources.values()
        return any(item.healthy and item.id == uuid for items in listed for item in items)

    def note_list(self) -> None:
        listed = self.writer.store.snapshot.advertisement.resources.values()
        every = [item for items in listed for item in items]
        now = (
            frozenset(item.id for item in every if item.healthy),
            frozenset(item.id for item in every if not item.healthy),
        )
        if not self.lists or now != self.lists[-1]:
            self.lists.append(now)

    async def follow(self) -> None:
        async for _ in self.writer.store.follow():
            self.note_list()
            self.problems.append(self.writer.store.snapshot.advertisement.problems)


def devices(node: SimNode) -> list[dict[str, int]]:
    """What each GPU really has: its MIG devices by profile."""
    return [
        dict(sorted(Counter(s.gi.profile.device_name(s.ci.slices) for s in gpu.devices()).items()))
        for gpu in node.gpus
    ]


def empty_instances(node: SimNode) -> int:
    """GPU instances without a compute instance."""
    return sum(not each.compute for gpu in node.gpus for each in gpu.instances)


def uuids(node: SimNode, gpu: int) -> list[str]:
    return [slot.ci.uuid for slot in node.gpu(gpu).devices()]


@contextlib.asynccontextmanager
async def rig(
    node: SimNode | str,
    folder: Path,
    *,
    evictor: Evictor | None = None,
    settings: Settings = SETTINGS,
    threads: Callable[[Hangs], DriverWorker] | None = None,
    of_file: ConfigurationFile | None = None,
    in_thread: InThread = inline,
) -> AsyncIterator[Rig]:
    """Works until the block ends, as a process of its own: it loads what is on disk. `threads`
    makes a worker with real threads, which takes real time.
    """
    node = parse_node(node) if isinstance(node, str) else node
    driver = simulate(node).driver
    inlined = Inline(driver.hangs)
    worker = threads(driver.hangs) if threads is not None else inlined
    writer = Writer(driver, worker, settings, LedgerFile(folder / "ledger.json"))
    disk = Disk(folder / MEMORY)
    keeper = Keeper(disk, in_thread)
    await keeper.claim()
    made: list[Rig] = []

    async def ask() -> Holdings:
        return await made[0].ask()

    async def tell(generation: int) -> bool:
        return await made[0].tell(generation)

    around = Surroundings(ask, tell, evictor)
    executor = Executor(writer, driver, worker, keeper, around, of_file=of_file)
    here = Rig(node, writer, executor, inlined, keeper, disk)
    made.append(here)
    await writer.start()
    here.note_list()
    beats = Heartbeats()
    tasks = [
        asyncio.create_task(writer.run(beats)),
        asyncio.create_task(executor.run(beats)),
        asyncio.create_task(here.follow()),
    ]
    here.working = tasks[1]
    try:
        yield here
        for task in tasks:
            if task.done() and not isinstance(task.exception(), Killed):
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keeper.release()
        driver.close()


Story = Callable[[Rig], Awaitable[None]]


def over(node: str, folder: Path, story: Story) -> None:
    """Play it on such a node."""

    async def main() -> None:
        async with rig(node, folder) as here:
            await story(here)

    run(main())
