"""One id in a resource's list, and which device an id stands for."""

from __future__ import annotations

from msgspec import Struct

from plugin.core.inventory.model import Device
from plugin.core.reasons import Reason

#: Between a device's UUID and the number of its replica, as NVIDIA's plugin writes it.
_REPLICA_SEPARATOR = "::"


def replica_id(uuid: str, number: int) -> str:
    """The id of one of the replicas of a shared device."""
    return f"{uuid}{_REPLICA_SEPARATOR}{number}"


def device_uuid(listed_id: str) -> str:
    """The UUID of the device that an id stands for: a device's own id, or one of its replicas'."""
    return listed_id.partition(_REPLICA_SEPARATOR)[0]


class Listed(Struct, frozen=True):
    """One id in a resource's list. ``reasons`` say why it must not be used; none means healthy."""

    id: str
    device: Device
    reasons: tuple[Reason, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.reasons
