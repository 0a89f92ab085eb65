"""Pods on the stand-in kubelet, and their containers' devices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plugin.api import deviceplugin_v1beta1_pb2 as pb

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]
Requests = Mapping[str, Mapping[str, int]]

_CDI_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w-]*=[A-Za-z0-9][\w.:-]*")


class Pod(Struct, frozen=True):
    """A pod as specified: ``containers`` is container name → resource name → count.

    ``bound``: the manifest names the node, so the scheduler is not involved.
    """

    name: str
    namespace: str = "default"
    containers: Requests = field(default_factory=dict)
    bound: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def wanted(self) -> dict[str, int]:
        """Resource → number of devices for all containers."""
        total: dict[str, int] = {}
        for requests in self.containers.values():
            for resource, count in requests.items():
                total[resource] = total.get(resource, 0) + count
        return total


class ContainerMount(Struct, frozen=True):
    container_path: str
    host_path: str
    read_only: bool


class DeviceNode(Struct, frozen=True):
    container_path: str
    host_path: str
    permissions: str


class ContainerResult(Struct, frozen=True):
    """``device_ids`` is resource → ids in the order of the Allocate request."""

    device_ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    envs: dict[str, str] = field(default_factory=dict)
    mounts: tuple[ContainerMount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)
    cdi_devices: tuple[str, ...] = ()


class PodResult(Struct):
    """The pod as the API server shows it, updated until the pod is deleted.

    ``device_health`` is device id → health as in ``allocatedResourcesStatus``. ``waiting`` are
    containers that are not running, for example in a crash loop.
    """

    pod: Pod
    phase: Phase = "Pending"
    reason: str = ""
    containers: dict[str, ContainerResult] = field(default_factory=dict)
    device_health: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """Every device id of the pod."""
        return tuple(
            device
            for container in self.containers.values()
            for ids in container.device_ids.values()
            for device in ids
        )

    @property
    def admitted(self) -> bool:
        """The pod is on the node: its requests count, and its devices are its own."""
        return self.phase not in {"Failed", "Succeeded"} and bool(self.containers)

    def fail(self, reason: str) -> None:
        """Final: no kubelet accepts a failed pod again."""
        self.phase = "Failed"
        self.reason = reason
        self.waiting = set()


class Assignment(Struct, frozen=True):
    """A container's devices of one resource with the plugin's response, kept as long as the pod.

    ``ids`` is device id → NUMA node, -1 if unknown.
    """

    pod: str
    container: str
    resource: str
    ids: dict[str, int]
    response: pb.ContainerAllocateResponse


def merge(assignments: Iterable[Assignment]) -> ContainerResult:
    """Combine a container's responses: nodes, mounts and CDI names add up; of equal keys the last
    wins.
    """
    result = ContainerResult()
    mounts: dict[str, ContainerMount] = {}
    devices: dict[str, DeviceNode] = {}
    cdi: dict[str, None] = {}
    for assignment in assignments:
        response = assignment.response
        result.device_ids[assignment.resource] = tuple(assignment.ids)
        result.envs.update(response.envs)
        result.annotations.update(response.annotations)
        for mount in response.mounts:
            mounts.setdefault(
                mount.container_path,
                ContainerMount(mount.container_path, mount.host_path, mount.read_only),
            )
        for node in response.devices:
            devices.setdefault(
                node.container_path,
                DeviceNode(node.container_path, node.host_path, node.permissions),
            )
        cdi.update((device.name, None) for device in response.cdi_devices)
    return ContainerResult(
        device_ids=result.device_ids,
        envs=result.envs,
        mounts=tuple(mounts.values()),
        devices=tuple(devices.values()),
        annotations=result.annotations,
        cdi_devices=tuple(cdi),
    )


def response_faults(response: pb.AllocateResponse) -> Iterator[str]:
    """A sentence for each breach of the protocol in a response for one container."""
    if len(response.container_responses) != 1:
        yield f"one container was asked for and {len(response.container_responses)} were answered"
    for container in response.container_responses:
        for node in container.devices:
            if not node.permissions or set(node.permissions) - set("rwm"):
                yield (
                    f"device node {node.container_path} has permissions {node.permissions!r}, "
                    "which are of r, w, m"
                )
        paths = [(node.host_path, node.container_path) for node in container.devices]
        paths += [(mount.host_path, mount.container_path) for mount in container.mounts]
        for host, inside in paths:
            if not (host.startswith("/") and inside.startswith("/")):
                yield f"{host!r} on {inside!r} is not a pair of absolute paths"
        for device in container.cdi_devices:
            if not _CDI_NAME.fullmatch(device.name):
                yield f"{device.name!r} is not a CDI name (vendor/class=name)"
