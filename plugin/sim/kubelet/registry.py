"""Registration as in kubelet: dial during the call, then follow ListAndWatch until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import grpc

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.errors import KubeletError
from plugin.sim.kubelet.devices import ListedDevice, is_extended_resource_name, list_faults, listed
from plugin.sim.kubelet.journal import Journal, ListMessage, Registration
from plugin.sim.kubelet.wire import PluginConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from plugin.sim.kubelet.manager import DeviceManager

log = logging.getLogger(__name__)

VERSION = "v1beta1"


def _check_request(request: pb.RegisterRequest) -> None:
    """Raise :class:`KubeletError` for requests that kubelet refuses without dialling."""
    if request.version != VERSION:
        raise KubeletError(f"API version {request.version!r} is not supported; {VERSION!r} is")
    if not is_extended_resource_name(request.resource_name):
        raise KubeletError(
            f"{request.resource_name!r} is not an extended resource name (domain/name)"
        )


class Registry(pb_grpc.RegistrationServicer):
    """Registered plugins of one kubelet process.

    Kubelet keeps one *client* per resource, the last registered, and one stream per connection.
    Whichever stream ends, the resource's client is disconnected, even another one; a failed
    registration removes the client and leaves the stream. Both are the real kubelet's behaviour.
    """

    def __init__(
        self,
        directory: Path,
        manager: DeviceManager,
        journal: Journal,
        *,
        sockets: dict[str, tuple[str, object]],
        on_list: Callable[[str, tuple[ListedDevice, ...]], None],
        timeout_s: float,
    ) -> None:
        """``sockets`` keeps endpoint → (resource, identity of the file) across restarts."""
        self._directory = directory
        self._manager = manager
        self._journal = journal
        self._sockets = sockets
        self._on_list = on_list
        self._timeout_s = timeout_s
        self._clients: dict[str, PluginConnection] = {}
        self._connections: set[PluginConnection] = set()
        self._streams: dict[str, set[PluginConnection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def Register(  # noqa: N802 - named by the protocol
        self,
        request: pb.RegisterRequest,
        context: grpc.aio.ServicerContext[pb.RegisterRequest, pb.Empty],
    ) -> pb.Empty:
        arrived = self._journal.clock()
        # A separate task, because kubelet continues dialling when its caller gives up.
        connecting = self._spawn(
            self._register(request, arrived), f"register {request.resource_name}"
        )
        try:
            await asyncio.shield(connecting)
        except KubeletError as error:
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        return pb.Empty()

    def live_streams(self, resource: str) -> int:
        return len(self._streams.get(resource, ()))

    async def close(self) -> None:
        """Drop every connection; device state stays."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections:
            await connection.close()
        self._streams.clear()

    async def _register(self, request: pb.RegisterRequest, arrived: float) -> None:
        resource, endpoint = request.resource_name, request.endpoint
        try:
            _check_request(request)
            await self._connect(resource, endpoint)
        except KubeletError as error:
            self._journal.refusals.append(Registration(arrived, resource, endpoint, str(error)))
            self._journal.changed()
            raise
        self._journal.registrations.append(Registration(arrived, resource, endpoint))
        self._journal.changed()

    async def _connect(self, resource: str, endpoint: str) -> None:
        if not endpoint or "/" in endpoint:
            self._journal.violation(
                "endpoint", resource, f"endpoint {endpoint!r} is not a file name"
            )
        connection = PluginConnection(resource, endpoint, self._directory / endpoint)
        self._connections.add(connection)
        self._clients[resource] = connection
        try:
            options = await connection.options(self._timeout_s)
        except KubeletError as error:
            # This orphans a live plugin: its stream continues without a client to disconnect at its
            # end.
            self._clients.pop(resource, None)
            await connection.close()
            raise KubeletError(
                f"cannot connect to the device plugin of {resource}: {error}"
            ) from error
        self._check_socket(resource, endpoint)
        self._manager.connected(connection, options)
        self._spawn(self._follow(connection), f"list and watch {resource}")

    async def _follow(self, connection: PluginConnection) -> None:
        resource = connection.resource
        streams = self._streams.setdefault(resource, set())
        if streams:
            others = ", ".join(sorted(other.endpoint for other in streams))
            self._journal.violation(
                "second-stream", resource, f"{connection.endpoint} beside {others}"
            )
        streams.add(connection)
        self._journal.changed()
        last: list[ListedDevice] | None = None
        async with contextlib.aclosing(connection.lists()) as lists:
            async for response in lists:
                devices = listed(response)
                if sorted(devices) == last:
                    self._journal.violation(
                        "repeated-list", resource, f"{connection.endpoint}: nothing changed"
                    )
                last = sorted(devices)
                self._received(connection, devices)
        streams.discard(connection)
        current = self._clients.pop(resource, None)
        log.debug(
            "stream of %s ended; disconnecting %s",
            connection.endpoint,
            current and current.endpoint,
        )
        if current is not None:
            await current.close()
            self._manager.disconnected(resource, self._journal.clock())
        self._journal.changed()

    def _received(self, connection: PluginConnection, devices: tuple[ListedDevice, ...]) -> None:
        now = self._journal.clock()
        for fault in list_faults(devices):
            self._journal.violation("device-list", connection.resource, fault)
        self._manager.listed(connection.resource, devices)
        self._on_list(connection.resource, devices)
        self._journal.messages.append(
            ListMessage(now, connection.resource, connection.endpoint, devices)
        )
        self._journal.changed()

    def _check_socket(self, resource: str, endpoint: str) -> None:
        try:
            status = (self._directory / endpoint).stat()
        except FileNotFoundError:  # removed since the dial; kubelet does not check either
            return
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
        before = self._sockets.setdefault(endpoint, (resource, identity))
        if before != (resource, identity):
            self._journal.violation(
                "socket-name", resource, f"{endpoint} was another socket of {before[0]} before"
            )
            self._sockets[endpoint] = (resource, identity)

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, KubeletError):
            log.error("the stand-in kubelet's task %r failed", task.get_name(), exc_info=error)
