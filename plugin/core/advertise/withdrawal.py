"""What a change of the MIG geometry keeps from pods."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct, field

from plugin.core.inventory.model import Device
from plugin.core.reasons import Reason


class Withdrawal(Struct, frozen=True):
    """``leaving`` are devices that will be destroyed, by UUID: they are listed as unhealthy, so
    that kubelet gives them to no pod. ``changing`` are GPUs, by UUID: of them only the devices in
    ``staying`` are listed, so that what is made there is advertised together, at the end.
    """

    leaving: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))
    changing: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))
    staying: frozenset[str] = frozenset()

    def hides(self, device: Device) -> Reason | None:
        """Why a device must not be listed."""
        return None if device.uuid in self.staying else self.changing.get(device.gpu_uuid)


NO_WITHDRAWAL: Final = Withdrawal()
