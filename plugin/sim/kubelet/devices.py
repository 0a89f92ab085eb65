"""What the stand-in kubelet knows of one resource's devices, and the rules that names and lists
must keep.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plugin.api import deviceplugin_v1beta1_pb2 as pb

HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"

#: Longest device id that the API allows, in characters.
MAX_ID_LENGTH = 63

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUOTA_PREFIX = "requests."
_MAX_DOMAIN_LENGTH = 253


def is_extended_resource_name(name: str) -> bool:
    """Tell whether kubelet takes ``name`` for a plugin's resource.

    It must be ``domain/name`` outside ``kubernetes.io``, and must stay a qualified name when a
    quota puts ``requests.`` before it, which is why it may not begin so itself.
    """
    domain, slash, rest = name.partition("/")
    if not slash or "kubernetes.io/" in name or name.startswith(_QUOTA_PREFIX):
        return False
    fits = len(_QUOTA_PREFIX) + len(domain) <= _MAX_DOMAIN_LENGTH
    return fits and _DOMAIN.fullmatch(domain) is not None and _NAME.fullmatch(rest) is not None


@dataclass(frozen=True, slots=True, order=True)
class ListedDevice:
    """One device as a plugin listed it; ``numa`` are the ids of its NUMA nodes."""

    id: str
    health: str
    numa: tuple[int, ...] = ()

    @property
    def healthy(self) -> bool:
        return self.health == HEALTHY


def listed(response: pb.ListAndWatchResponse) -> tuple[ListedDevice, ...]:
    """Return the devices of one ListAndWatch message, in the message's order."""
    return tuple(
        ListedDevice(device.ID, device.health, tuple(node.ID for node in device.topology.nodes))
        for device in response.devices
    )


def list_faults(devices: Iterable[ListedDevice]) -> Iterator[str]:
    """Name everything in a list that breaks the protocol, one sentence each."""
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


@dataclass(slots=True)
class ResourceView:
    """The devices of one resource as kubelet's device manager holds them.

    ``devices`` is the last list. ``healthy`` and ``unhealthy`` are ids; when the plugin is lost all
    of them become unhealthy here, while ``devices`` keeps the health that was listed last: pod
    status is made from that one.
    """

    devices: dict[str, ListedDevice] = field(default_factory=dict)
    healthy: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)

    def update(self, devices: Iterable[ListedDevice]) -> None:
        """Take a whole new list; of two devices with one id the last counts."""
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
