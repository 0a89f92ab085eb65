"""Kubelet's side of the plugin's seams: a directory of sockets, servers and registrations."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin.servicer import ResourceServicer
from plugin.kubelet.directory import Identity
from plugin.loops.pulse import Pulse

KUBELET = "kubelet.sock"


class FakeDirectory:
    """Sockets by name, without files. ``dead`` are those that refuse connections."""

    def __init__(self) -> None:
        self.path = Path("/plugins")
        self.absent_level = logging.WARNING
        self.files: dict[str, Identity] = {}
        self.dead: set[str] = set()
        self._deleted: set[str] = set()
        self._changed = Pulse()
        self._numbers = itertools.count(1)

    # What happens in it

    def create(self, name: str) -> None:
        self.files[name] = (1, next(self._numbers), 0)
        self._changed.fire()

    def delete(self, name: str, *, announced: bool = True) -> None:
        if self.files.pop(name, None) is not None:
            if announced:
                self._deleted.add(name)
            self._changed.fire()

    def announce(self, name: str) -> None:
        """The event of a deletion, which may come after its effect was seen."""
        self._deleted.add(name)
        self._changed.fire()

    def restart_kubelet(self) -> None:
        """As kubelet does: every socket goes, then its own comes."""
        for name in list(self.files):
            self.delete(name)
        self.create(KUBELET)

    def accepts(self, path: Path) -> bool:
        return path.name not in self.dead

    # What the plugin asks of it

    def identity(self, name: str) -> Identity | None:
        return self.files.get(name)

    def exists(self, name: str) -> bool:
        return name in self.files

    def sockets(self) -> dict[str, Identity]:
        return dict(self.files)

    def take_deleted(self) -> set[str]:
        deleted, self._deleted = self._deleted, set()
        return deleted

    def remove(self, name: str) -> None:
        self.delete(name)

    def changed(self) -> Any:
        return self._changed.wait()

    async def watch(self) -> None:
        await asyncio.Event().wait()


class FakeKubelet:
    """Takes registrations and opens streams, as long as it is in the mood.

    ``refuses`` is its sentence for a registration; ``opens`` is whether it opens ListAndWatch, and
    ``drops_after`` when it ends that of its own accord. ``registrations`` are times by the loop's
    clock.
    """

    def __init__(self, directory: FakeDirectory) -> None:
        self.directory = directory
        self.refuses = ""
        self.opens = True
        self.drops_after: float | None = None
        self.registrations: list[float] = []
        self.endpoints: list[str] = []
        self.order: list[str] = []
        self.lists: list[list[str]] = []
        self.serving_error = ""
        self.stop_seconds = 0.0
        self._servers: dict[str, ResourceServicer] = {}
        self.streams: set[asyncio.Task[None]] = set()

    async def serve(self, servicer: ResourceServicer, path: Path) -> FakeServer:
        if self.serving_error:
            raise OSError(self.serving_error)
        self.directory.create(path.name)
        self._servers[path.name] = servicer
        return FakeServer(self)

    async def register(
        self, socket: Path, resource: str, endpoint: str, is_served: Callable[[], bool]
    ) -> None:
        assert socket == self.directory.path / KUBELET
        del resource
        if not is_served():
            raise KubeletError("the socket is gone")
        self.registrations.append(asyncio.get_running_loop().time())
        self.order.append("register")
        if self.refuses:
            raise KubeletError(self.refuses)
        self.endpoints.append(endpoint)
        if self.opens:
            self.open_stream()

    def open_stream(self) -> None:
        """Open ListAndWatch on the endpoint that registered last."""
        stream = asyncio.create_task(self._follow(self._servers[self.endpoints[-1]]))
        self.streams.add(stream)
        stream.add_done_callback(self.streams.discard)

    async def _follow(self, servicer: ResourceServicer) -> None:
        context: Any = None
        lists = servicer.ListAndWatch(pb.Empty(), context)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.drops_after):
                    async for response in lists:
                        self.lists.append([device.ID for device in response.devices])
        finally:
            await lists.aclose()  # type: ignore[attr-defined]
            self.order.append("stream ended")


class FakeServer:
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    async def stop(self, grace: float | None, /) -> None:
        assert grace is None
        await asyncio.sleep(self._kubelet.stop_seconds)
        self._kubelet.order.append("stop")
