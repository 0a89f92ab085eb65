"""What ends the daemon because waiting is of no use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plugin.core.settings import Settings
from plugin.driver.nvml import NvmlDriver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverOutOfReach, DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.state.ledger_file import LedgerFile
from plugin.state.writer import Writer


class Absent(NvmlDriver):
    """A driver that cannot be opened."""

    def __init__(self, *, final: bool) -> None:
        super().__init__()
        self._final = final
        self.opened = 0

    def open(self) -> None:
        self.opened += 1
        raise DriverUnavailable("cannot load the library", final=self._final)


async def tried_again(folder: Path, driver: Absent, seconds: float) -> asyncio.Task[None]:
    """A daemon that has tried to open the driver three times, or has ended before."""
    worker = DriverWorker()
    worker.start()
    writer = Writer(
        driver,
        worker,
        Settings(fail_on_init_error=False),
        LedgerFile(folder / "ledger.json"),
        out_of_reach_seconds=seconds,
    )
    await writer.start()
    running = asyncio.create_task(writer.run(Heartbeats()))
    async with asyncio.timeout(10):
        while driver.opened < 3 and not running.done():
            writer.rescan()
            await asyncio.sleep(0.01)  # the driver's thread tells nobody how often it was asked
    return running


@pytest.mark.asyncio
async def test_a_library_that_cannot_come_ends_the_daemon_after_a_while(tmp_path: Path) -> None:
    running = await tried_again(tmp_path, Absent(final=True), 0.0)
    with pytest.raises(DriverOutOfReach, match=r"cannot load the library; .* a new one is made"):
        await running


@pytest.mark.asyncio
@pytest.mark.parametrize(("final", "seconds"), [(True, 1000.0), (False, 0.0)])
async def test_before_that_and_where_it_can_come_it_is_waited_for(
    tmp_path: Path,
    final: bool,  # noqa: FBT001
    seconds: float,
) -> None:
    running = await tried_again(tmp_path, Absent(final=final), seconds)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
