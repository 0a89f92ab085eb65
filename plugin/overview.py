"""Puts together what there is to see, from those who know it; asks nobody, so that looking costs
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from plugin.core.view import View
from plugin.driver.worker import DriverWorker
from plugin.kubelet.deviceplugin.journal import Journal
from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.kubelet.podresources.pods import PodFollower
from plugin.loops.heartbeats import Heartbeats
from plugin.state.sampling import Sampler
from plugin.state.writer import Writer


@dataclass(frozen=True)
class Overview:
    """Called, it gives the view of this moment."""

    writer: Writer
    supervisor: Supervisor
    journal: Journal
    sampler: Sampler
    worker: DriverWorker
    heartbeats: Heartbeats
    pods: PodFollower | None = None
    clock: Callable[[], float] = time.time
    started: float = field(default_factory=time.time)

    def __call__(self) -> View:
        snapshot = self.writer.store.snapshot
        return View(
            now=self.clock(),
            started=self.started,
            snapshot=snapshot,
            changed=snapshot.geometry_changed,
            geometry=snapshot.geometry,
            resources=self.supervisor.status(),
            calls=self.journal.calls(),
            holders=self.pods.holders if self.pods is not None else None,
            samples=self.sampler.samples,
            driver_busy=self.worker.busy_seconds,
            stuck=self.heartbeats.stuck(),
        )
