"""Puts together what there is to see, from those who know it; asks nobody, so that looking costs
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from plugin.core.inventory.samples import Samples
from plugin.core.view import View
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.kubelet.deviceplugin.calls import CallCounts
from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.kubelet.podresources.pods import PodFollower
from plugin.loops.heartbeats import Heartbeats
from plugin.state.writer import Node

log = logging.getLogger(__name__)


class Sampler:
    """Measures in the background and keeps the newest result."""

    def __init__(
        self, node: Node, driver: Driver, worker: DriverWorker, heartbeats: Heartbeats
    ) -> None:
        self._node = node
        self._driver = driver
        self._worker = worker
        self._heartbeats = heartbeats
        self.samples: Samples | None = None

    async def run(self) -> None:
        while True:
            seconds = self._node.store.snapshot.settings.sample_seconds
            self._heartbeats.beat("samples", seconds)
            # What was measured on a driver that is gone says nothing about now.
            self.samples = (
                await self._worker.call(self._driver.sample) if self._node.is_open else None
            )
            await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Overview:
    """Called, it gives the view of this moment."""

    node: Node
    supervisor: Supervisor
    calls: CallCounts
    sampler: Sampler
    worker: DriverWorker
    heartbeats: Heartbeats
    pods: PodFollower | None = None
    clock: Callable[[], float] = time.time
    started: float = field(default_factory=time.time)

    def __call__(self) -> View:
        holdings = self.pods.current() if self.pods is not None else None
        return View(
            now=self.clock(),
            started=self.started,
            snapshot=self.node.store.snapshot,
            changed=self.node.geometry_changed,
            geometry=self.node.geometry,
            resources=self.supervisor.status(),
            calls=self.calls.snapshot(),
            holders=holdings.holders if holdings is not None else None,
            handed_out=frozenset(holdings.handed_out) if holdings is not None else frozenset(),
            holders_complete=holdings is not None and holdings.is_known,
            held_twice=self.pods.conflicts if self.pods is not None else (),
            samples=self.sampler.samples,
            driver_busy=self.worker.busy_seconds,
            stuck=self.heartbeats.stuck(),
        )
