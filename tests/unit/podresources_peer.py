"""A server of the pod resources API on a socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from plugin.api import podresources_v1_pb2 as pb
from plugin.kubelet.podresources.observer import Observer


def pod(name: str, **containers: list[list[str]]) -> pb.PodResources:
    """A pod; each container has entries of device ids."""
    return pb.PodResources(
        namespace="ml",
        name=name,
        containers=[
            pb.ContainerResources(
                name=container,
                devices=[
                    pb.ContainerDevices(resource_name="nvidia.com/x", device_ids=ids)
                    for ids in entries
                ],
            )
            for container, entries in containers.items()
        ],
    )


# ---- an answer and what tells whether it is whole


@dataclass
class Peer:
    """A kubelet that lists what it is given, and whose clocks stand still."""

    socket: Path
    pods: list[pb.PodResources]
    wall: float = 0.0
    goes: bool = False
    counted: dict[str, list[str]] = field(default_factory=dict)

    async def list(self, request: object, context: object) -> pb.ListPodResourcesResponse:
        del request, context
        if self.goes:
            self.socket.unlink()
            self.socket.touch()
        return pb.ListPodResourcesResponse(pod_resources=self.pods)

    async def count(self, request: object, context: object) -> pb.AllocatableResourcesResponse:
        """Each device is an entry of its own, as kubelet writes it."""
        del request, context
        return pb.AllocatableResourcesResponse(
            devices=[
                pb.ContainerDevices(resource_name=resource, device_ids=[name])
                for resource, ids in self.counted.items()
                for name in ids
            ]
        )

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = grpc.aio.server()
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self.list,
            request_deserializer=pb.ListPodResourcesRequest.FromString,
            response_serializer=pb.ListPodResourcesResponse.SerializeToString,
        )
        counting: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self.count,
            request_deserializer=pb.AllocatableResourcesRequest.FromString,
            response_serializer=pb.AllocatableResourcesResponse.SerializeToString,
        )
        methods = {"List": handler, "GetAllocatableResources": counting}
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("v1.PodResourcesLister", methods)]
        )
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    def observer(self, **more: Any) -> Observer:
        return Observer(self.socket, clock=lambda: 7.0, wall_clock=lambda: self.wall, **more)
