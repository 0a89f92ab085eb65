"""Conversion of our values to protobuf messages."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.core.advertise.listed import Listed
from plugin.core.advertise.sharing import MOST_SHARES
from plugin.core.allocation import ContainerAllocation

VERSION = "v1beta1"

#: (id, healthy, NUMA node) of each device: everything that kubelet's list contains.
DeviceList = tuple[tuple[str, bool, int | None], ...]


def device_list(listed: Iterable[Listed]) -> DeviceList:
    return tuple((item.id, item.healthy, item.device.numa) for item in listed)


def list_response(devices: DeviceList) -> pb.ListAndWatchResponse:
    return pb.ListAndWatchResponse(devices=[_device(*device) for device in devices])


@functools.lru_cache(maxsize=2 * MOST_SHARES)
def _device(name: str, healthy: bool, numa: int | None) -> pb.Device:  # noqa: FBT001 — as in the list
    """Cached: consecutive lists differ in a few devices, and creating messages is most of
    the work.
    """
    return pb.Device(
        ID=name,
        health="Healthy" if healthy else "Unhealthy",
        # Left out if unknown: kubelet would take 0 as a known node.
        topology=pb.TopologyInfo(nodes=[pb.NUMANode(ID=numa)]) if numa is not None else None,
    )


def allocate_response(allocations: Iterable[ContainerAllocation]) -> pb.AllocateResponse:
    """Made in place: a message that is put into another is copied."""
    response = pb.AllocateResponse()
    for allocation in allocations:
        answer = response.container_responses.add(
            envs=allocation.envs, annotations=allocation.annotations
        )
        for m in allocation.mounts:
            answer.mounts.add(
                container_path=m.container_path, host_path=m.host_path, read_only=m.read_only
            )
        for d in allocation.device_specs:
            answer.devices.add(
                container_path=d.container_path, host_path=d.host_path, permissions=d.permissions
            )
        for name in allocation.cdi_devices:
            answer.cdi_devices.add(name=name)
    return response
