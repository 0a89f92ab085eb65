"""The one writer of the node's state: scans the driver, decides what to advertise and publishes it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from types import MappingProxyType

from plugin.core.model import Inventory
from plugin.core.resources import Advertisement, Listed, advertise
from plugin.core.settings import Settings
from plugin.core.snapshot import Snapshot
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverUnavailable
from plugin.store import Store

log = logging.getLogger(__name__)

#: Between two attempts to open a driver that is not there yet.
REOPEN_SECONDS = 5.0


class Node:
    """Owns the driver's worker and the store. Used from the event loop only."""

    def __init__(self, driver: Driver, worker: DriverWorker, settings: Settings) -> None:
        self._driver = driver
        self._worker = worker
        self._opened = False
        self._wake = asyncio.Event()
        self.store = Store(Snapshot(0, settings, Inventory(), Advertisement()))

    async def start(self) -> None:
        """Open the driver and publish the first scan.

        Raises :class:`DriverUnavailable` when that fails and the settings want it to be fatal.
        """
        try:
            await self._scan()
        except DriverUnavailable as error:
            if self.store.snapshot.settings.fail_on_init_error:
                raise
            self._publish(self.store.snapshot.inventory, str(error))

    async def run(self) -> None:
        """Look at the node again on schedule, or when asked to, until cancelled."""
        while True:
            seconds = self.store.snapshot.settings.rescan_seconds if self._opened else REOPEN_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            self._wake.clear()
            await self._rescan()

    def rescan(self) -> None:
        """Have :meth:`run` look at the node now."""
        self._wake.set()

    def reconfigure(self, settings: Settings) -> None:
        """Decide anew, with other settings, about what was last seen."""
        snapshot = self.store.snapshot
        self._publish(snapshot.inventory, snapshot.driver_error, settings)

    async def close(self) -> None:
        await self._worker.call(self._driver.close)

    async def _rescan(self) -> None:
        try:
            await self._scan()
        except DriverUnavailable as error:
            self._opened = False
            self._publish(self.store.snapshot.inventory, str(error))

    async def _scan(self) -> None:
        if not self._opened:
            await self._worker.call(self._driver.open)
            self._opened = True
        self._publish(await self._worker.call(self._driver.scan), None)

    def _publish(self, inventory: Inventory, error: str | None, settings: Settings | None = None) -> None:
        old = self.store.snapshot
        settings = settings or old.settings
        # A driver that is gone takes its devices out of service, not out of the list: pods may hold them.
        verdicts = {device.uuid: (error,) for device in inventory.devices()} if error else {}
        advertisement = advertise(inventory, settings, MappingProxyType(verdicts))
        new = replace(old, settings=settings, inventory=inventory, advertisement=advertisement, driver_error=error)
        if new == old and old.generation:
            return
        new = replace(new, generation=old.generation + 1)
        _report(old, new)
        self.store.publish(new)


def _report(old: Snapshot, new: Snapshot) -> None:
    """One log line for each thing that is new."""
    if new.driver_error and new.driver_error != old.driver_error:
        log.error("driver unavailable", extra={"generation": new.generation, "reason": new.driver_error})
    elif old.driver_error and not new.driver_error:
        log.info("driver available", extra={"generation": new.generation})
    for warning in dict.fromkeys(_warnings(new.inventory)) if new.inventory != old.inventory else ():
        if warning not in _warnings(old.inventory):
            log.warning("unreadable hardware", extra={"generation": new.generation, "reason": warning})
    for problem in new.advertisement.problems:
        if problem not in old.advertisement.problems:
            log.warning("not as it should be", extra={"generation": new.generation, "reason": problem})
    for resource, listed in new.advertisement.resources.items():
        _report_resource(new.generation, resource, old.advertisement.resources.get(resource, ()), listed)


def _report_resource(generation: int, resource: str, before: tuple[Listed, ...], now: tuple[Listed, ...]) -> None:
    common = {"generation": generation, "resource": resource}
    healthy = sum(item.healthy for item in now)
    if len(now) != len(before) or healthy != sum(item.healthy for item in before):
        log.info("advertising", extra={**common, "devices": len(now), "healthy": healthy})
    known = {item.id: item.reasons for item in before}
    for item in now:
        if item.reasons and item.reasons != known.get(item.id, ()):
            log.warning("device unhealthy", extra={**common, "device": item.id, "reason": "; ".join(item.reasons)})
        elif not item.reasons and known.get(item.id):
            log.info("device healthy again", extra={**common, "device": item.id})


def _warnings(inventory: Inventory) -> list[str]:
    return [*inventory.warnings, *(warning for gpu in inventory.gpus for warning in gpu.warnings)]
