"""Whether it is told that nobody hears of events, and only then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugin.core.settings import Settings
from plugin.driver.base import DriverEvent
from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.driver.nvml.events import NvmlEventSource
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.errors import DriverCallFailed
from plugin.loops.heartbeats import Heartbeats
from plugin.sim.hardware.calls import Exaggerate, Fail, Hang
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.files import SimFiles
from plugin.sim.nvml.library import SimLibrary
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.probing import probe_regularly
from plugin.state.watching import Watcher
from plugin.state.writer import Writer

LONG = 1000.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Source(NvmlEventSource):
    """Calls `waiting` in every wait, which finds no event."""

    def __init__(
        self, gpus: Sequence[str], library: SimLibrary, waiting: Callable[[], None]
    ) -> None:
        super().__init__(gpus, library)
        self._turn = waiting

    def wait(self, seconds: float) -> DriverEvent | None:
        del seconds
        self._turn()
        return None


class Driver(NvmlDriver):
    def __init__(self, waiting: Callable[[], None]) -> None:
        node = parse_node("p4d.24xlarge:all-1g.5gb")
        self._simulated = SimLibrary(node)
        super().__init__(DeviceFiles(source=SimFiles(node)), self._simulated)
        self._waiting_as = waiting

    def watch(self, gpu_uuids: Sequence[str]) -> Source:
        return Source(gpu_uuids, self._simulated, self._waiting_as)


@dataclass
class Watched:
    node: Writer
    heartbeats: Heartbeats
    clock: Clock


@asynccontextmanager
async def watched(folder: Path, waiting: Callable[[], None]) -> AsyncIterator[Watched]:
    driver, worker, clock = Driver(waiting), DriverWorker(), Clock()
    worker.start()
    node, heartbeats = (
        Writer(driver, worker, Settings(), LedgerFile(folder / "ledger.json")),
        Heartbeats(clock),
    )
    await node.start()
    await node.wait_for_probe_request(0)  # the one that every first scan makes
    task = asyncio.create_task(Watcher(node, driver, worker, heartbeats).run())
    yield Watched(node, heartbeats, clock)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_thread_that_hangs_in_its_first_wait_is_missed(tmp_path: Path) -> None:
    entered, released = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        released.wait(10)

    async with watched(tmp_path, hang) as seen:
        assert await asyncio.to_thread(entered.wait, 5)
        assert seen.heartbeats.stuck() == ()
        seen.clock.now += LONG
        assert seen.heartbeats.stuck() == ("events",)
        released.set()


@pytest.mark.asyncio
async def test_a_pause_between_two_attempts_is_no_standstill(tmp_path: Path) -> None:
    turns = iter((None, DriverCallFailed("waiting for events: unknown error", code=999)))

    def fail_the_second_time() -> None:
        if error := next(turns, None):
            raise error

    async with watched(tmp_path, fail_the_second_time) as seen:
        await seen.node.wait_for_probe_request(5)
        seen.clock.now += LONG
        assert seen.heartbeats.stuck() == ()


# ---- trying again


@dataclass
class Live:
    hardware: SimNode
    node: Writer
    heartbeats: Heartbeats
    clock: Clock

    @property
    def unwatched(self) -> set[str]:
        return set(self.node.store.snapshot.unwatched)

    async def becomes(self, condition: Callable[[], bool]) -> None:
        """Wait for a state of the node."""
        async with asyncio.timeout(10):
            while not condition():
                await self.node.store.newer_than(self.node.store.snapshot.generation)


@asynccontextmanager
async def live(
    folder: Path, prepare: Callable[[SimNode], None], *, probing: bool = False
) -> AsyncIterator[Live]:
    """A watcher over a simulated node on which `prepare` has broken something."""
    hardware, clock = parse_node("p4d.24xlarge:all-1g.5gb"), Clock()
    prepare(hardware)
    driver = simulate(hardware).driver
    worker = DriverWorker(driver.hangs, Deadlines(gpu=0.2, driver=0.2))
    worker.start()
    node = Writer(driver, worker, Settings(), LedgerFile(folder / "ledger.json"))
    heartbeats = Heartbeats(clock)
    await node.start()
    watcher = Watcher(node, driver, worker, heartbeats, steady_seconds=0.05)
    tasks = [asyncio.create_task(watcher.run())]
    if probing:
        tasks.append(asyncio.create_task(probe_regularly(node, driver, worker, heartbeats)))
    yield Live(hardware, node, heartbeats, clock)
    hardware.calls.restore()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def refuse(times: int) -> Callable[[SimNode], None]:
    """GPU 2 does not register for events, so many times."""

    def prepare(hardware: SimNode) -> None:
        target = hardware.gpu(2).uuid
        hardware.calls.inject("nvmlDeviceRegisterEvents", Fail(999), times=times, target=target)

    return prepare


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["clear", "rescan", "time"])
async def test_a_gpu_that_cannot_be_watched_is_tried_again(tmp_path: Path, how: str) -> None:
    async with live(tmp_path, refuse(times=1)) as seen:
        uuid = seen.hardware.gpu(2).uuid
        await seen.becomes(lambda: seen.unwatched == {uuid})
        async with asyncio.timeout(10):
            await seen.node.watched()
        if how == "clear":
            seen.node.clear(uuid)
        if how == "rescan":
            seen.node.rescan()
        await seen.becomes(lambda: not seen.unwatched)


@pytest.mark.asyncio
async def test_a_card_without_events_is_not_tried_again(tmp_path: Path) -> None:
    def prepare(hardware: SimNode) -> None:
        hardware.calls.inject("nvmlDeviceGetSupportedEventTypes", Exaggerate(0))

    async with live(tmp_path, prepare) as seen:
        await seen.becomes(lambda: len(seen.unwatched) == 8)
        async with asyncio.timeout(10):
            await seen.node.watched()
        asked = seen.hardware.calls.counts["nvmlDeviceGetSupportedEventTypes"]
        seen.node.rescan()
        assert await asyncio.to_thread(seen.hardware.wait_heard, 5)
        assert seen.hardware.calls.counts["nvmlDeviceGetSupportedEventTypes"] == asked


@pytest.mark.asyncio
async def test_what_begins_well_and_fails_at_once_is_reported(tmp_path: Path) -> None:
    turns = 0

    def fail_every_second_time() -> None:
        nonlocal turns
        turns += 1
        if turns % 2 == 0:
            raise DriverCallFailed("waiting for events: unknown error", code=999)

    async with watched(tmp_path, fail_every_second_time) as seen:
        store = seen.node.store
        async with asyncio.timeout(10):
            while len(store.snapshot.unwatched) != 8:
                await store.newer_than(store.snapshot.generation)
        assert turns < 12


@pytest.mark.asyncio
async def test_a_wait_that_hangs_is_told_as_such_and_heals(tmp_path: Path) -> None:
    def prepare(hardware: SimNode) -> None:
        hardware.calls.inject("nvmlEventSetWait_v2", Hang())

    async with live(tmp_path, prepare) as seen:
        await seen.becomes(lambda: len(seen.unwatched) == 8)
        (why,) = {reason.text for reason in seen.node.store.snapshot.unwatched.values()}
        assert "nvmlEventSetWait_v2 has not returned for 2" in why
        seen.clock.now += LONG
        assert seen.heartbeats.stuck() == ()  # a new daemon would hang as well
        seen.hardware.calls.restore()
        await seen.becomes(lambda: not seen.unwatched)


@pytest.mark.asyncio
async def test_gpus_that_are_lost_one_after_another_are_no_row_of_failures(tmp_path: Path) -> None:
    async with live(tmp_path, lambda _: None, probing=True) as seen:
        async with asyncio.timeout(10):
            await seen.node.watched()
            for index in range(6):  # as many would cost minutes of back-off
                seen.hardware.lose(index)
                left = tuple(gpu.uuid for gpu in seen.hardware.gpus[index + 1 :])
                while seen.node.interest.wanted is None or seen.node.interest.wanted.gpus != left:
                    await seen.node.store.newer_than(seen.node.store.snapshot.generation)
                await seen.node.watched()
        assert seen.unwatched == set()
