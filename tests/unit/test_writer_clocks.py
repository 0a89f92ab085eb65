"""The writer between two clocks, over a simulated node: it reads both before each step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.health.timeline import Moment
from plugin.core.settings import MigStrategy, Settings
from plugin.driver.worker import DriverWorker
from plugin.sim.hardware.engine import parse_node
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.writer import Writer

YEAR = 365 * 86_400.0
SETTINGS = Settings(mig_strategy=MigStrategy.MIXED)

pytestmark = pytest.mark.asyncio


@dataclass
class Clocks:
    wall: float = 1_795_000_000.0
    monotonic: float = 500.0

    def __call__(self) -> Moment:
        return Moment(self.wall, self.monotonic)

    def passes(self, seconds: float, *, set_by: float = 0.0) -> None:
        self.wall += seconds + set_by
        self.monotonic += seconds


@dataclass
class Running:
    writer: Writer
    uuid: str
    event: DriverEvent

    async def fails(self) -> None:
        before = self.writer.store.snapshot.generation
        self.writer.on_event(self.event)
        async with asyncio.timeout(10):
            await self.writer.store.newer_than(before)

    def is_down(self) -> bool:
        self.writer.evaluate()
        offer = self.writer.store.snapshot.advertisement.offer(self.uuid)
        assert offer is not None
        return not offer.listed.healthy


@contextlib.asynccontextmanager
async def running(path: Path, clocks: Clocks) -> AsyncIterator[Running]:
    node = parse_node("1xa100-40gb:all-1g.5gb")
    gpu, slot = node.gpu(0), next(node.gpu(0).devices())
    driver = simulate(node).driver
    worker, file = DriverWorker(), LedgerFile(path, "a-boot")
    worker.start()
    writer = Writer(driver, worker, SETTINGS, file, clocks=clocks)
    await writer.start()
    writer.on_probes([Probe(gpu.uuid, recovery_action=0)])
    saving = asyncio.create_task(file.run())
    event = DriverEvent(EventKind.XID, gpu.uuid, slot.gi.id, slot.ci.id, 95)
    yield Running(writer, slot.ci.uuid, event)
    assert await file.saved() is None
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)


@pytest.mark.parametrize("set_by", [0.0, YEAR, -YEAR])
async def test_a_wall_clock_that_is_set_ends_no_quiet_period_and_prolongs_none(
    tmp_path: Path, set_by: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clocks = Clocks()
    async with running(tmp_path / "ledger.json", clocks) as node:
        await node.fails()
        clocks.passes(SETTINGS.quiet_seconds - 1, set_by=set_by)
        assert node.is_down()
        assert node.writer.now() == clocks.wall
        clocks.passes(1)
        assert not node.is_down()
    said = [r.__dict__["seconds"] for r in caplog.records if r.msg == "the wall clock was set"]
    assert said == ([set_by] if set_by else [])


@pytest.mark.parametrize("set_by", [0.0, YEAR, -YEAR])
async def test_nor_while_no_process_runs(tmp_path: Path, set_by: float) -> None:
    clocks = Clocks()
    async with running(tmp_path / "ledger.json", clocks) as node:
        await node.fails()
    clocks.passes(10, set_by=set_by)
    async with running(tmp_path / "ledger.json", clocks) as node:
        (reason,) = node.writer.store.snapshot.ledger[node.uuid].reasons
        assert reason.since == clocks.wall - 10
        clocks.passes(SETTINGS.quiet_seconds - 1, set_by=set_by)
        assert node.is_down()
        clocks.passes(1)
        assert not node.is_down()
