"""One resource's devices on the stand-in kubelet, and the rules for names and lists."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plugin.api import deviceplugin_v1beta1_pb2 as pb

HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"

#: The API's longest device id, in characters.
MAX_ID_LENGTH = 63

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUOTA_PREFIX = "requests."
_MAX_DOMAIN_LENGTH = 253


def is_extended_resource_name(name: str) -> bool:
    """Whether kubelet accepts ``name`` for a plugin's resource.

    It must be ``domain/name`` outside ``kubernetes.io``, must not begin with ``requests.``, and
    must remain a qualified name with that prefix, which quotas add.
    """
    domain, slash, rest = name.partition("/")
    if not slash or "kubernetes.io/" in name or name.startswith(_QUOTA_PREFIX):
        return False
    fits = len(_QUOTA_PREFIX) + len(domain) <= _MAX_DOMAIN_LENGTH
    return fits and _DOMAIN.fullmatch(domain) is not None and _NAME.fullmatch(rest) is not None


class ListedDevice(Struct, frozen=True, order=True):
    """``numa`` are the ids of its NUMA nodes."""

    id: str
    health: str
    numa: tuple[int, ...] = ()

    @property
    def healthy(self) -> bool:
        return self.health == HEALTHY


def listed(response: pb.ListAndWatchResponse) -> tuple[ListedDevice, ...]:
    """The devices of one ListAndWatch message, in its order."""
    return tuple(
        ListedDevice(device.ID, device.health, tuple(node.ID for node in device.topology.nodes))
        for device in response.devices
    )


def list_faults(devices: Iterable[ListedDevice]) -> Iterator[str]:
    """A sentence for each breach of the protocol in a list."""
    for name, times in Counter(device.id for device in devices).items():
        if not name:
            yield "a device has an empty id"
        if len(name) > MAX_ID_LENGTH:
            yield f"device id {name!r} has {len(name)} characters, {MAX_ID_LENGTH} are allowed"
        if times > 1:
            yield f"device id {name!r} is listed {times} times"
    for device in devices:
        if device.health not in {HEALTHY, UNHEALTHY}:
            yield f"device {device.id!r} has health {device.health!r}, not {HEALTHY} or {UNHEALTHY}"


class ResourceView(Struct):
    """One resource's devices in kubelet's device manager.

    ``devices`` is the last list. ``healthy`` and ``unhealthy`` are ids; when the plugin is lost all
    become unhealthy, while ``devices``, the source of the pod status, keeps the last health.
    """

    devices: dict[str, ListedDevice] = field(default_factory=dict)
    healthy: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)

    def update(self, devices: Iterable[ListedDevice]) -> None:
        """Replace the list; of two devices with one id the last counts."""
        self.devices = {device.id: device for device in devices}
        self.healthy = {device.id for device in self.devices.values() if device.healthy}
        self.unhealthy = self.devices.keys() - self.healthy

    def lose_plugin(self) -> None:
        self.unhealthy |= self.healthy
        self.healthy = set()

    @property
    def capacity(self) -> int:
        return len(self.healthy) + len(self.unhealthy)

    @property
    def allocatable(self) -> int:
        return len(self.healthy)
