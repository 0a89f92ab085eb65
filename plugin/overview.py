"""Assembles the view of the daemon from its parts, without calling the driver or kubelet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct, field

from plugin.core.view import ClusterStatus, View
from plugin.driver.worker import DriverWorker
from plugin.kubelet.deviceplugin.calls import CallCounts
from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.loops.heartbeats import Heartbeats
from plugin.partitioning import Partitioning
from plugin.state.sampling import Sampler
from plugin.state.writer import Writer

if TYPE_CHECKING:  # kubelet may not be asked for them
    from plugin.kubelet.podresources.pods import PodFollower


class Overview(Struct, frozen=True):
    """Calling it returns the current view."""

    writer: Writer
    supervisor: Supervisor
    calls: CallCounts
    sampler: Sampler
    worker: DriverWorker
    heartbeats: Heartbeats
    partitioning: Partitioning
    pods: PodFollower | None = None
    notes: Callable[[], tuple[str, ...]] = tuple
    cluster: Callable[[], ClusterStatus | None] = lambda: None
    clock: Callable[[], float] = time.time
    started: float = field(default_factory=time.time)

    def looked(self, path: str) -> None:
        """Somebody asks for what has samples of use in it."""
        self.sampler.looked(path)

    def __call__(self) -> View:
        holdings = self.pods.current() if self.pods is not None else None
        snapshot = self.writer.store.snapshot
        return View(
            now=self.clock(),
            started=self.started,
            snapshot=snapshot,
            changed=snapshot.geometry_changed,
            geometry=snapshot.geometry,
            resources=self.supervisor.status(),
            calls=self.calls.snapshot(),
            holders=holdings.holders if holdings is not None else None,
            handed_out=frozenset(holdings.handed_out) if holdings is not None else frozenset(),
            holders_complete=holdings is not None and holdings.is_known,
            held_twice=self.pods.conflicts if self.pods is not None else (),
            # The driver that they are from is closed.
            sampling=not self.sampler.is_resting,
            samples=self.sampler.samples if snapshot.release is None else None,
            partition=self.partitioning.progress(),
            driver_busy=self.worker.busy_seconds,
            stuck=self.heartbeats.stuck(),
            notes=self.notes(),
            cluster=self.cluster(),
        )
