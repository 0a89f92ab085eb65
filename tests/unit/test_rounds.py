"""Rounds of samples and probes: one that hangs outside of the driver's functions ends no loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.loops.heartbeats import Heartbeats
from plugin.sim.hardware.engine import parse_node
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.probing import probe_regularly
from plugin.state.sampling import Sampler
from plugin.state.writer import Writer


class Stuck:
    """A driver whose rounds hang while `free` is not set, in no function of the library."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self.free = driver, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def sample(self) -> Any:
        self.free.wait(10)
        return self._driver.sample()

    def probe(self, uuid: str, *, thorough: bool) -> Any:
        self.free.wait(10)
        return self._driver.probe(uuid, thorough=thorough)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 — threads decide
            await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_a_round_that_hangs_ends_no_loop(tmp_path: Path) -> None:
    driver = simulate(parse_node("p4d.24xlarge:all-1g.5gb")).driver
    worker = DriverWorker(driver.hangs, Deadlines(gpu=0.2, driver=0.2))
    worker.start()
    settings = Settings(probe_seconds=0.02, sample_seconds=0.02)
    writer = Writer(driver, worker, settings, LedgerFile(tmp_path / "ledger.json"))
    await writer.start()
    stuck = Stuck(driver)
    sampler = Sampler(writer, cast("Driver", stuck), worker, Heartbeats())
    sampler.looked("/metrics")
    loops = [
        asyncio.create_task(sampler.run()),
        asyncio.create_task(
            probe_regularly(writer, cast("Driver", stuck), worker, Heartbeats()),
        ),
    ]
    await until(lambda: {h.call.function for h in driver.hangs.open} == {"sample", "_probe_all"})
    assert sampler.samples is None
    # What could not be asked says nothing against a device.
    assert all(health.probe is None for health in writer.store.snapshot.gpu_health.values())
    assert not any(loop.done() for loop in loops)
    stuck.free.set()
    await until(lambda: sampler.samples is not None and not driver.hangs.open)
    assert not any(loop.done() for loop in loops)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
