"""The stand-in kubelet's pod resources API."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING

import grpc
from msgspec import Struct

from plugin.api import podresources_v1_pb2 as pb
from plugin.api import podresources_v1_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from plugin.sim.kubelet.manager import DeviceManager
    from plugin.sim.kubelet.pods import PodResult

_CALLS_PER_SECOND = 100.0
_BURST = 10.0
_ONE_OF_SO_MANY_IS_LATE = 10


class TokenBucket:
    """Allows ``burst`` calls at once and ``rate`` a second on average."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def take(self) -> bool:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Relisting(Struct, frozen=True):
    """How List fills after kubelet's start: no earlier pods at first, most after ``first_s`` and
    all after ``all_s``. Pods admitted meanwhile are listed.
    """

    first_s: float
    all_s: float

    def plan(self, pods: Iterable[str], start: float, rng: random.Random) -> dict[str, float]:
        """Pod → time of its next listing."""
        order = sorted(pods)
        rng.shuffle(order)
        late = -(-len(order) // _ONE_OF_SO_MANY_IS_LATE) if len(order) > 1 else 0
        return {
            pod: start + (self.all_s if number < late else self.first_s)
            for number, pod in enumerate(order)
        }


#: Measured on Kubernetes 1.36 with 33 pods.
AS_SEEN = Relisting(first_s=1.6, all_s=2.1)


class PodResources(pb_grpc.PodResourcesListerServicer):
    """Answers from the device manager; as in kubelet every device is a separate entry."""

    def __init__(
        self,
        manager: DeviceManager,
        pods: Callable[[], Iterable[PodResult]],
        clock: Callable[[], float],
        listed_from: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """``pods`` returns the pods to list, ``listed_from`` the times from which to list them
        after a start.
        """
        self._manager = manager
        self._on_node = pods
        self._clock = clock
        self._listed_from = listed_from
        self._limit = TokenBucket(_CALLS_PER_SECOND, _BURST, clock)

    async def List(  # noqa: N802 - named by the protocol
        self,
        request: pb.ListPodResourcesRequest,  # noqa: ARG002 - has no fields
        context: grpc.aio.ServicerContext[pb.ListPodResourcesRequest, pb.ListPodResourcesResponse],
    ) -> pb.ListPodResourcesResponse:
        if not self._limit.take():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        return pb.ListPodResourcesResponse(
            pod_resources=[self._pod(result) for result in self._pods()]
        )

    async def GetAllocatableResources(  # noqa: N802 - named by the protocol
        self,
        request: pb.AllocatableResourcesRequest,  # noqa: ARG002 - has no fields
        context: grpc.aio.ServicerContext[
            pb.AllocatableResourcesRequest, pb.AllocatableResourcesResponse
        ],
    ) -> pb.AllocatableResourcesResponse:
        if not self._limit.take():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        return pb.AllocatableResourcesResponse(
            devices=[
                _device(resource, device, view.devices[device].numa)
                for resource, view in self._manager.views.items()
                for device in sorted(view.healthy)
            ]
        )

    async def Get(  # noqa: N802 - named by the protocol
        self,
        request: pb.GetPodResourcesRequest,
        context: grpc.aio.ServicerContext[pb.GetPodResourcesRequest, pb.GetPodResourcesResponse],
    ) -> pb.GetPodResourcesResponse:
        if not self._limit.take():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        for result in self._pods():
            if (result.pod.name, result.pod.namespace) == (request.pod_name, request.pod_namespace):
                return pb.GetPodResourcesResponse(pod_resources=self._pod(result))
        await context.abort(
            grpc.StatusCode.UNKNOWN,
            f"pod {request.pod_name} in namespace {request.pod_namespace} not found",
        )
        raise AssertionError  # abort raises

    def _pods(self) -> list[PodResult]:
        now = self._clock()
        return [
            result
            for result in self._on_node()
            if now >= self._listed_from.get(result.pod.key, now)
        ]

    def _pod(self, result: PodResult) -> pb.PodResources:
        held = [a for a in self._manager.assignments.values() if a.pod == result.pod.key]
        return pb.PodResources(
            name=result.pod.name,
            namespace=result.pod.namespace,
            containers=[
                pb.ContainerResources(
                    name=container,
                    devices=[
                        _device(a.resource, device, () if numa < 0 else (numa,))
                        for a in held
                        if a.container == container
                        for device, numa in a.ids.items()
                    ],
                )
                for container in result.pod.containers
            ],
        )


def _device(resource: str, device: str, numa: Iterable[int]) -> pb.ContainerDevices:
    nodes = [pb.NUMANode(ID=node) for node in numa]
    topology = pb.TopologyInfo(nodes=nodes) if nodes else None
    return pb.ContainerDevices(resource_name=resource, device_ids=[device], topology=topology)
