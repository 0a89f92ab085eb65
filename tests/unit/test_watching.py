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
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverCallFailed
from plugin.loops.heartbeats import Heartbeats
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.files import SimFiles
from plugin.sim.nvml.library import SimLibrary
from plugin.state.ledger_file import LedgerFile
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
