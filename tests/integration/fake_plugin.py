"""A minimal plugin and its node, for tests of the stand-in kubelet."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.api import podresources_v1_pb2_grpc as resources_grpc
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from plugin.api.podresources_v1_pb2_grpc import PodResourcesListerAsyncStub

SMALL = "nvidia.com/mig-1g.5gb"
LARGE = "nvidia.com/mig-3g.20gb"


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakePlugin(pb_grpc.DevicePluginServicer):
    """One resource on one socket; every answer can be set before the call."""

    def __init__(
        self, directory: Path, resource: str = SMALL, count: int = 4, *, socket: str = ""
    ) -> None:
        self.directory = directory
        self.resource = resource
        self.socket = socket or f"plugin-{id(self)}.sock"
        self.devices = {f"{resource.rpartition('.')[2]}-{n}": "Healthy" for n in range(count)}
        self.numa: int | None = None
        self.options = pb.DevicePluginOptions()
        self.preferred: Callable[[list[str]], list[str]] | None = None
        self.error = ""
        self.response = pb.ContainerAllocateResponse(envs={"SHARED": resource})
        self.preferred_calls: list[pb.ContainerPreferredAllocationRequest] = []
        self.allocate_calls: list[list[str]] = []
        self.pre_start_calls: list[list[str]] = []
        self.streams: list[asyncio.Queue[pb.ListAndWatchResponse | None]] = []
        self._server = grpc.aio.server()
        pb_grpc.add_DevicePluginServicer_to_server(self, self._server)

    async def serve(self) -> None:
        self._server.add_insecure_port(f"unix:{self.directory / self.socket}")
        await self._server.start()

    async def register(
        self, *, version: str = "v1beta1", endpoint: str = "", resource_name: str = ""
    ) -> None:
        request = pb.RegisterRequest(
            version=version,
            endpoint=endpoint or self.socket,
            resource_name=resource_name or self.resource,
        )
        async with grpc.aio.insecure_channel(f"unix:{self.directory / 'kubelet.sock'}") as channel:
            await pb_grpc.RegistrationStub(channel).Register(request, timeout=10)

    async def die(self) -> None:
        await self._server.stop(None)

    def list(self) -> pb.ListAndWatchResponse:
        topology = None if self.numa is None else pb.TopologyInfo(nodes=[pb.NUMANode(ID=self.numa)])
        return pb.ListAndWatchResponse(
            devices=[
                pb.Device(ID=name, health=health, topology=topology)
                for name, health in self.devices.items()
            ]
        )

    def send(self, stream: int | None = None) -> None:
        for queue in self.streams if stream is None else [self.streams[stream]]:
            queue.put_nowait(self.list())

    async def GetDevicePluginOptions(  # noqa: N802 - named by the protocol
        self, request: pb.Empty, context: grpc.aio.ServicerContext[pb.Empty, pb.DevicePluginOptions]
    ) -> pb.DevicePluginOptions:
        del request, context
        return self.options

    async def ListAndWatch(  # noqa: N802 - named by the protocol
        self,
        request: pb.Empty,
        context: grpc.aio.ServicerContext[pb.Empty, pb.ListAndWatchResponse],
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        del request, context
        queue: asyncio.Queue[pb.ListAndWatchResponse | None] = asyncio.Queue()
        self.streams.append(queue)
        yield self.list()
        while (message := await queue.get()) is not None:
            yield message

    async def GetPreferredAllocation(  # noqa: N802 - named by the protocol
        self,
        request: pb.PreferredAllocationRequest,
        context: grpc.aio.ServicerContext[
            pb.PreferredAllocationRequest, pb.PreferredAllocationResponse
        ],
    ) -> pb.PreferredAllocationResponse:
        self.preferred_calls.extend(request.container_requests)
        if self.preferred is None:
            await context.abort(grpc.StatusCode.INTERNAL, "no advice today")
        assert self.preferred is not None
        answer = self.preferred(list(request.container_requests[0].available_deviceIDs))
        return pb.PreferredAllocationResponse(
            container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=answer)]
        )

    async def Allocate(  # noqa: N802 - named by the protocol
        self,
        request: pb.AllocateRequest,
        context: grpc.aio.ServicerContext[pb.AllocateRequest, pb.AllocateResponse],
    ) -> pb.AllocateResponse:
        self.allocate_calls.append(list(request.container_requests[0].devices_ids))
        if self.error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.error)
        return pb.AllocateResponse(
            container_responses=[self.response for _ in request.container_requests]
        )

    async def PreStartContainer(  # noqa: N802 - named by the protocol
        self,
        request: pb.PreStartContainerRequest,
        context: grpc.aio.ServicerContext[
            pb.PreStartContainerRequest, pb.PreStartContainerResponse
        ],
    ) -> pb.PreStartContainerResponse:
        self.pre_start_calls.append(list(request.devices_ids))
        if self.error:
            await context.abort(grpc.StatusCode.INTERNAL, self.error)
        return pb.PreStartContainerResponse()


class Node:
    """A stand-in kubelet in a directory, and whatever plugins a test starts beside it."""

    def __init__(self, kubelet: SimKubelet, stack: AsyncExitStack) -> None:
        self.kubelet = kubelet
        self._stack = stack

    async def serve(self, resource: str = SMALL, count: int = 4, *, socket: str = "") -> FakePlugin:
        plugin = FakePlugin(self.kubelet.directory, resource, count, socket=socket)
        await plugin.serve()
        self._stack.push_async_callback(plugin.die)
        return plugin

    async def plug(self, resource: str = SMALL, count: int = 4) -> FakePlugin:
        """Serve, register and wait for the list."""
        plugin = await self.serve(resource, count)
        await plugin.register()
        await self.kubelet.wait_allocatable(resource, count)
        return plugin


@asynccontextmanager
async def node(
    directory: Path,
    *,
    register_timeout_s: float = 0.3,
    readmission_s: float | None = None,
    lists_ended_pods: bool = False,
    seed: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Node]:
    kubelet = SimKubelet(
        directory / "dp",
        pod_resources_dir=directory / "pr",
        register_timeout_s=register_timeout_s,
        readmission_s=readmission_s,
        lists_ended_pods=lists_ended_pods,
        seed=seed,
        clock=clock,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(kubelet)
        yield Node(kubelet, stack)


@asynccontextmanager
async def pod_resources(directory: Path) -> AsyncIterator[PodResourcesListerAsyncStub]:
    async with grpc.aio.insecure_channel(f"unix:{directory / 'pr' / 'kubelet.sock'}") as channel:
        yield resources_grpc.PodResourcesListerStub(channel)


def pod(name: str, *, bound: bool = False, **containers: dict[str, int]) -> Pod:
    return Pod(name, containers=containers or {"main": {SMALL: 1}}, bound=bound)


def kinds(kubelet: SimKubelet) -> set[str]:
    return {violation.kind for violation in kubelet.violations}
