"""The DevicePlugin service of one resource; every response is a function of the newest snapshot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from msgspec import Struct, field

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.core.allocation import ContainerAllocation, allocate
from plugin.core.preference import prefer
from plugin.errors import DeviceUnavailable, InvalidRequest, RequestError, UnknownDevice
from plugin.kubelet.deviceplugin import wire
from plugin.kubelet.deviceplugin.calls import CallCounts
from plugin.loops.pulse import Pulse
from plugin.loops.store import Store

log = logging.getLogger(__name__)

_STATUS = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownDevice: grpc.StatusCode.NOT_FOUND,
    DeviceUnavailable: grpc.StatusCode.FAILED_PRECONDITION,
}

Context = grpc.aio.ServicerContext[Any, Any]


class Stream(Struct, eq=False):
    """One open ListAndWatch. ``generation`` is that of the last list sent."""

    generation: int = -1
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ResourceServicer(pb_grpc.DevicePluginServicer):
    """Serves one resource to any number of clients; every stream gets every list."""

    def __init__(
        self,
        resource: str,
        store: Store,
        calls: CallCounts,
        on_allocated: Callable[[Sequence[str]], None],
    ) -> None:
        """`on_allocated` gets the ids of each successful Allocate."""
        self._resource = resource
        self._store = store
        self._calls = calls
        self._on_allocated = on_allocated
        self.lists_sent = 0
        self._streams: set[Stream] = set()
        self._closing = Pulse()
        self._progress = Pulse()
        self._opened: asyncio.Future[Stream] | None = None

    # ---- for the endpoint

    def next_stream(self) -> asyncio.Future[Stream]:
        """Resolves to the next ListAndWatch: after Register, kubelet's."""
        self._opened = asyncio.get_running_loop().create_future()
        return self._opened

    async def listed(self, generation: int) -> None:
        """Wait until every open stream has sent the list of `generation`."""
        while any(stream.generation < generation for stream in self._streams):
            await self._progress.wait()

    async def end_streams(self) -> None:
        """End every open stream and wait for it; clients may open new ones afterwards."""
        self._closing.fire()
        while self._streams:
            await self._progress.wait()

    # ---- the service

    async def GetDevicePluginOptions(  # noqa: N802
        self, request: pb.Empty, context: Context
    ) -> pb.DevicePluginOptions:
        del request, context
        return pb.DevicePluginOptions(
            pre_start_required=False, get_preferred_allocation_available=True
        )

    async def ListAndWatch(  # noqa: N802
        self, request: pb.Empty, context: Context
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        del request, context
        stream = Stream()
        self._streams.add(stream)
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(stream)
        closed = asyncio.ensure_future(self._closing.wait())
        sent: wire.DeviceList | None = None
        try:
            while not closed.done():
                snapshot = self._store.snapshot
                devices = wire.device_list(snapshot.advertisement.resources.get(self._resource, ()))
                if devices != sent:
                    yield wire.list_response(devices)
                    sent = devices
                    self.lists_sent += 1
                    log.debug(
                        "devices listed",
                        extra={
                            "resource": self._resource,
                            "generation": snapshot.generation,
                            "devices": len(devices),
                        },
                    )
                stream.generation = snapshot.generation
                self._progress.fire()
                newer = asyncio.ensure_future(self._store.newer_than(snapshot.generation))
                try:
                    await asyncio.wait({closed, newer}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    newer.cancel()
        finally:
            closed.cancel()
            self._streams.discard(stream)
            stream.ended.set()
            self._progress.fire()

    async def Allocate(self, request: pb.AllocateRequest, context: Context) -> pb.AllocateResponse:  # noqa: N802
        snapshot = self._store.snapshot
        try:
            with self._calls.timed(self._resource, "Allocate"):
                allocations = allocate(
                    self._resource, (r.devices_ids for r in request.container_requests), snapshot
                )
        except RequestError as error:
            log.warning(
                "allocation refused", extra={"resource": self._resource, "reason": str(error)}
            )
            await context.abort(_STATUS[type(error)], str(error))
        # Log after the response is sent: kubelet waits for it.
        ids = [name for item in request.container_requests for name in item.devices_ids]
        asyncio.get_running_loop().call_soon(self._report, snapshot.generation, allocations, ids)
        return wire.allocate_response(allocations)

    async def PreStartContainer(  # noqa: N802
        self, request: pb.PreStartContainerRequest, context: Context
    ) -> pb.PreStartContainerResponse:
        del request, context  # kubelet does not call it: our options do not ask for it
        return pb.PreStartContainerResponse()

    async def GetPreferredAllocation(  # noqa: N802
        self, request: pb.PreferredAllocationRequest, context: Context
    ) -> pb.PreferredAllocationResponse:
        del context
        snapshot = self._store.snapshot
        listed = snapshot.advertisement.resources.get(self._resource, ())
        responses = []
        for item in request.container_requests:
            with self._calls.timed(self._resource, "GetPreferredAllocation"):
                preference = prefer(
                    listed,
                    item.available_deviceIDs,
                    item.must_include_deviceIDs,
                    item.allocation_size,
                    policy=snapshot.settings.allocation_policy,
                    shared_policy=snapshot.settings.shared_devices_allocation_policy,
                )
            for warning in preference.warnings:
                log.warning(
                    "inconsistent preferred allocation request",
                    extra={"resource": self._resource, "reason": warning},
                )
            responses.append(pb.ContainerPreferredAllocationResponse(deviceIDs=preference.ids))
        return pb.PreferredAllocationResponse(container_responses=responses)

    def _report(
        self, generation: int, allocations: tuple[ContainerAllocation, ...], ids: Sequence[str]
    ) -> None:
        self._on_allocated(ids)
        log.info(
            "allocated",
            extra={
                "resource": self._resource,
                "generation": generation,
                "devices": [
                    device.uuid for allocation in allocations for device in allocation.devices
                ],
            },
        )
