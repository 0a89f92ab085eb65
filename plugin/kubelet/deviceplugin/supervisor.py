"""An endpoint for each advertised resource, as resources come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from plugin.core.view import ResourceStatus
from plugin.kubelet.deviceplugin.endpoint import Endpoint
from plugin.kubelet.deviceplugin.journal import Journal
from plugin.kubelet.directory import SocketDirectory
from plugin.loops.store import Store

log = logging.getLogger(__name__)

#: Where endpoints are served when there is no kubelet to register with.
DEFAULT_DIRECTORY = Path("/var/lib/kubelet/device-plugins")


class Supervisor:
    """Starts an endpoint when a resource appears; endpoints end themselves when theirs vanishes."""

    def __init__(
        self,
        store: Store,
        kubelet_socket: str,
        *,
        journal: Journal | None = None,
        on_allocated: Callable[[Sequence[str]], None] = lambda _: None,
        inotify: bool = True,
    ) -> None:
        """`kubelet_socket` is the path of ``kubelet.sock``; empty means to serve without
        registering.
        """
        self._journal = journal or Journal()
        self._on_allocated = on_allocated
        socket = Path(kubelet_socket) if kubelet_socket else None
        self._directory = SocketDirectory(
            socket.parent if socket else DEFAULT_DIRECTORY, inotify=inotify
        )
        self._kubelet = socket.name if socket else ""
        self._store = store
        self._endpoints: dict[str, tuple[Endpoint, asyncio.Task[None]]] = {}

    def status(self) -> tuple[ResourceStatus, ...]:
        return tuple(endpoint.status() for endpoint, _ in self._endpoints.values())

    async def run(self) -> None:
        """Run until cancelled; then every endpoint is stopped and no socket is left. An endpoint's
        error ends all.
        """
        watch = asyncio.create_task(self._directory.watch(), name="watch kubelet's directory")
        try:
            while True:
                snapshot = self._store.snapshot
                for resource in snapshot.advertisement.resources:
                    if resource not in self._endpoints:
                        self._start(resource)
                await self._wait(watch, snapshot.generation)
        finally:
            tasks = [watch, *(task for _, task in self._endpoints.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, resource: str) -> None:
        endpoint = Endpoint(
            resource, self._store, self._directory, self._kubelet, self._journal, self._on_allocated
        )
        task = asyncio.create_task(endpoint.run(), name=f"endpoint {resource}")
        self._endpoints[resource] = endpoint, task

    async def _wait(self, watch: asyncio.Task[None], generation: int) -> None:
        """Until there is a newer snapshot or an endpoint has ended;
        a resource may be back by then.
        """
        newer = asyncio.create_task(self._store.newer_than(generation))
        endpoints = [task for _, task in self._endpoints.values()]
        try:
            await asyncio.wait({newer, watch, *endpoints}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            newer.cancel()
        if watch.done():
            watch.result()
        for resource, (_, task) in list(self._endpoints.items()):
            if task.done():
                del self._endpoints[resource]
                task.result()
