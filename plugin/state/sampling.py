"""Measuring the devices in the background, while somebody looks at the results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from plugin.core.rest import Looks
from plugin.driver.base import Driver
from plugin.driver.worker import LONGEST_JOB_SECONDS, DriverWorker
from plugin.errors import DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.state.writer import Writer

if TYPE_CHECKING:
    from plugin.core.inventory.samples import Samples

log = logging.getLogger(__name__)

#: Activity lies between two rounds: after a rest the second one comes so soon.
SECOND_ROUND_SECONDS = 1.0


class Sampler:
    """Measures in the background and keeps the newest result; rests while nobody looks. Used from
    the event loop only.
    """

    def __init__(
        self, writer: Writer, driver: Driver, worker: DriverWorker, heartbeats: Heartbeats
    ) -> None:
        self._writer = writer
        self._driver = driver
        self._worker = worker
        self._heartbeats = heartbeats
        #: By what is looked at: a person at the page is no scraper.
        self._looks: dict[str, Looks] = {}
        self._looked = asyncio.Event()
        #: The newest round; ``None`` before the first, at rest, and without a driver.
        self.samples: Samples | None = None
        self.is_resting = False

    def looked(self, at: str) -> None:
        """Somebody looks at what shows the samples: those that follow, if it rests."""
        now = asyncio.get_running_loop().time()
        self._looks[at] = self._looks[at].again(now) if at in self._looks else Looks(now)
        self._looked.set()

    async def run(self) -> None:
        """Measure until cancelled. The start counts as a look, so that the first scrape finds
        something.
        """
        self._looks.setdefault("", Looks(asyncio.get_running_loop().time(), 0.0))
        soon = True
        while True:
            seconds = self._writer.store.snapshot.settings.sample_seconds
            rest_at = max(looks.rest_at(seconds) for looks in self._looks.values())
            if asyncio.get_running_loop().time() >= rest_at:
                await self._rest()
                soon = True
            self._heartbeats.beat("samples", LONGEST_JOB_SECONDS)
            # What was measured on a driver that is gone says nothing about now.
            self.samples = await self._measured() if self._writer.is_open else None
            pause, soon = (min(SECOND_ROUND_SECONDS, seconds) if soon else seconds), False
            self._heartbeats.beat("samples", pause)
            await asyncio.sleep(pause)

    async def _rest(self) -> None:
        """Forget what was measured, until somebody looks."""
        self.samples, self.is_resting = None, True
        self._looked.clear()
        log.debug("sampling rests: nobody has looked")
        with contextlib.suppress(DriverUnavailable):
            await self._worker.call(self._driver.stop_sampling)
        self._heartbeats.done("samples")
        await self._looked.wait()
        self.is_resting = False
        log.debug("sampling again")

    async def _measured(self) -> Samples | None:
        try:
            return await self._worker.call(self._driver.sample)
        except DriverUnavailable:
            return None  # the round hangs, which the worker has told its listener
