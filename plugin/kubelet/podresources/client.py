"""Reads allocations from kubelet's pod resources API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
from msgspec import Struct

from plugin.api import podresources_v1_pb2 as pb
from plugin.api import podresources_v1_pb2_grpc as pb_grpc
from plugin.core.holders import Holders
from plugin.core.view import Holder
from plugin.errors import KubeletError

#: Usually milliseconds, longer while kubelet starts.
LIST_SECONDS = 5.0

#: As kubelet's own clients; gRPC's default of 4 MiB is too small for a full node.
_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    # As for registrations: no endless retries against GOAWAY.
    ("grpc.enable_retries", 0),
)


class Listing(Struct, frozen=True):
    """One response: the holders of devices, and the names of all listed pods."""

    holders: Holders
    pods: frozenset[str]


def holders(pods: Iterable[pb.PodResources]) -> Holders:
    """Device id → holders."""
    found: dict[str, list[Holder]] = {}
    for pod in pods:
        for container in pod.containers:
            holder = Holder(pod.namespace, pod.name, container.name)
            for device in (device for entry in container.devices for device in entry.device_ids):
                if holder not in (known := found.setdefault(device, [])):
                    known.append(holder)
    return {device: tuple(sorted(known)) for device, known in found.items()}


async def list_pods(socket: Path, seconds: float = LIST_SECONDS) -> Listing:
    """Ask kubelet once. Raises :class:`KubeletError`."""
    async with _asking(socket, "which pods hold devices", "1.20") as lister:
        answer = await lister.List(pb.ListPodResourcesRequest(), timeout=seconds)
    return Listing(
        holders(answer.pod_resources), frozenset(pod.name for pod in answer.pod_resources)
    )


async def allocatable(socket: Path, seconds: float = LIST_SECONDS) -> dict[str, frozenset[str]]:
    """Ask kubelet once which ids it counts for each resource, those of unhealthy devices left out.
    Raises :class:`KubeletError`.
    """
    async with _asking(socket, "which devices it counts", "1.23") as lister:
        answer = await lister.GetAllocatableResources(
            pb.AllocatableResourcesRequest(), timeout=seconds
        )
    found: dict[str, set[str]] = {}
    for entry in answer.devices:
        found.setdefault(entry.resource_name, set()).update(entry.device_ids)
    return {resource: frozenset(ids) for resource, ids in found.items()}


@contextlib.asynccontextmanager
async def _asking(
    socket: Path, question: str, kubernetes: str
) -> AsyncIterator[pb_grpc.PodResourcesListerAsyncStub]:
    """A connection for one question; its errors become :class:`KubeletError`. `kubernetes` is the
    version that brought the call.
    """
    asking = f"asking kubelet at {socket} {question}"
    try:
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
            yield pb_grpc.PodResourcesListerStub(channel)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise KubeletError(
                f"{asking}: it does not know the API's version v1; Kubernetes {kubernetes} is "
                "needed"
            ) from error
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise KubeletError(
                f"{asking}: no answer; is kubelet running, and is its folder mounted here?"
            ) from error
        raise KubeletError(f"{asking}: {error.code().name}: {error.details()}") from error
