"""Measuring the devices in the background."""

from __future__ import annotations

import asyncio

from plugin.core.inventory.samples import Samples
from plugin.driver.base import Driver
from plugin.driver.worker import LONGEST_JOB_SECONDS, DriverWorker
from plugin.errors import DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.state.writer import Writer


class Sampler:
    """Measures in the background and keeps the newest result."""

    def __init__(
        self, writer: Writer, driver: Driver, worker: DriverWorker, heartbeats: Heartbeats
    ) -> None:
        self._writer = writer
        self._driver = driver
        self._worker = worker
        self._heartbeats = heartbeats
        self.samples: Samples | None = None

    async def run(self) -> None:
        while True:
            seconds = self._writer.store.snapshot.settings.sample_seconds
            self._heartbeats.beat("samples", LONGEST_JOB_SECONDS)
            # What was measured on a driver that is gone says nothing about now.
            self.samples = await self._measured() if self._writer.is_open else None
            self._heartbeats.beat("samples", seconds)
            await asyncio.sleep(seconds)

    async def _measured(self) -> Samples | None:
        try:
            return await self._worker.call(self._driver.sample)
        except DriverUnavailable:
            return None  # the round hangs, which the worker has told its listener
