"""Starts an endpoint for each advertised resource."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from plugin.core.view import ResourceStatus
from plugin.kubelet.deviceplugin.calls import CallCounts
from plugin.kubelet.deviceplugin.comparison import Counted, Listing
from plugin.kubelet.deviceplugin.endpoint import Endpoint
from plugin.kubelet.deviceplugin.registration import Register, register
from plugin.kubelet.deviceplugin.rivals import Rivals
from plugin.kubelet.deviceplugin.server import Serve, serve
from plugin.kubelet.deviceplugin.servicer import ResourceServicer
from plugin.kubelet.directory import Directory, SocketDirectory
from plugin.loops.store import Store

log = logging.getLogger(__name__)

#: Directory of the sockets without a kubelet.
DEFAULT_DIRECTORY = Path("/var/lib/kubelet/device-plugins")

#: Kubelet reads a list in milliseconds.
TOLD_SECONDS = 2.0


class Supervisor:
    """Starts an endpoint when a resource appears; endpoints end when their resource disappears."""

    def __init__(
        self,
        store: Store,
        kubelet_socket: str,
        *,
        calls: CallCounts | None = None,
        on_allocated: Callable[[Sequence[str]], None] = lambda _: None,
        absent_level: int = logging.WARNING,
        directory: Directory | None = None,
        serve: Serve = serve,
        register: Register = register,
    ) -> None:
        """`kubelet_socket` is the path of ``kubelet.sock``; empty: serve without registering.
        `directory` defaults to its folder.
        `absent_level` is the level at which a missing folder is logged.
        """
        self._calls = calls or CallCounts()
        self._on_allocated = on_allocated
        socket = Path(kubelet_socket) if kubelet_socket else None
        self._directory = directory or SocketDirectory(
            socket.parent if socket else DEFAULT_DIRECTORY, absent_level=absent_level
        )
        self._serve, self._register = serve, register
        self._kubelet = socket.name if socket else ""
        self._store = store
        self._endpoints: dict[str, tuple[Endpoint, asyncio.Task[None]]] = {}
        self._rivals = Rivals(self._directory, self._kubelet, lambda: self._endpoints)

    def status(self) -> tuple[ResourceStatus, ...]:
        return tuple(endpoint.status() for endpoint, _ in self._endpoints.values())

    async def told(self, generation: int) -> bool:
        """Wait until kubelet has the lists of `generation`; false if it does not take one."""
        try:
            async with asyncio.timeout(TOLD_SECONDS):
                for endpoint, _ in list(self._endpoints.values()):
                    await endpoint.told(generation)
        except TimeoutError:
            return False
        return True

    async def compare(self, ask: Callable[[], Awaitable[Counted]]) -> None:
        """Find plugins of others by what kubelet answers; it is asked at most once."""
        await self._rivals.compare(self._listed, ask)

    def _listed(self) -> dict[str, Listing]:
        """What kubelet has from us."""
        advertised = self._store.snapshot.advertisement.resources
        return {
            status.resource: Listing(
                status.registrations,
                frozenset(one.id for one in advertised.get(status.resource, ()) if one.healthy),
            )
            for status in self.status()
            if status.stream_since is not None
        }

    async def run(self) -> None:
        """Run until cancelled; then stop every endpoint and remove every socket. An endpoint's
        error ends all.
        """
        watches = {
            asyncio.create_task(self._directory.watch(), name="watch kubelet's directory"),
            asyncio.create_task(self._rivals.run(), name="watch other plugins"),
        }
        try:
            while True:
                snapshot = self._store.snapshot
                for resource in snapshot.advertisement.resources:
                    if resource not in self._endpoints:
                        self._start(resource)
                await self._wait(watches, snapshot.generation)
        finally:
            tasks = [*watches, *(task for _, task in self._endpoints.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, resource: str) -> None:
        endpoint = Endpoint(
            resource,
            self._store,
            self._directory,
            self._kubelet,
            ResourceServicer(resource, self._store, self._calls, self._on_allocated),
            self._rivals,
            serve=self._serve,
            register=self._register,
        )
        task = asyncio.create_task(endpoint.run(), name=f"endpoint {resource}")
        self._endpoints[resource] = endpoint, task

    async def _wait(self, watches: set[asyncio.Task[None]], generation: int) -> None:
        """Until there is a newer snapshot, or an endpoint ended whose resource may be back."""
        newer = asyncio.create_task(self._store.newer_than(generation))
        endpoints = [task for _, task in self._endpoints.values()]
        try:
            await asyncio.wait({newer, *watches, *endpoints}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            newer.cancel()
        for watch in watches:
            if watch.done():
                watch.result()
        for resource, (_, task) in list(self._endpoints.items()):
            if task.done():
                del self._endpoints[resource]
                task.result()
