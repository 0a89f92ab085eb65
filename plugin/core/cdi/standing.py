"""Whether the specification on disk has what the node's devices need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from plugin.core.cdi.names import kind
from plugin.core.inventory.model import Inventory
from plugin.core.reasons import Code, Reason, Scope
from plugin.core.settings import Settings

if TYPE_CHECKING:
    from plugin.core.cdi.specification import Entry

_NOTHING: Final[Mapping[str, Entry]] = MappingProxyType({})


class Specified(Struct, frozen=True):
    """What is on disk: ``entries`` by UUID, and for each kind whose specification could not be
    brought up to date why not.
    """

    entries: Mapping[str, Entry] = field(default_factory=lambda: _NOTHING)
    errors: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def is_current(specified: Specified, inventory: Inventory, settings: Settings) -> bool:
    """Whether nothing has to be written. Where containers do not use CDI, nothing but what is left
    of a time when they did may have failed.
    """
    if specified.errors or not settings.by_cdi:
        return not specified.errors
    return specified.entries == _entries(inventory, settings)


def unspecified(
    specified: Specified, inventory: Inventory, settings: Settings
) -> Iterator[tuple[str, Reason]]:
    """UUIDs of devices that no container can get by the specification on disk, and why."""
    if not settings.by_cdi:
        return
    wanted = _entries(inventory, settings)
    for device in inventory.devices():
        entry = wanted.get(device.uuid)
        error = specified.errors.get(kind(device, settings.cdi_vendor))
        if error is not None:
            yield device.uuid, Reason(Code.UNSPECIFIED, error, scope=Scope.NODE)
        elif entry is None:
            if not device.missing_device_nodes:  # which is a reason of its own
                text = "not in the CDI specification: its device nodes are not known"
                yield device.uuid, Reason(Code.UNSPECIFIED, text)
        elif specified.entries.get(device.uuid) != entry:
            text = "the CDI specification on disk does not have it yet"
            yield device.uuid, Reason(Code.UNSPECIFIED, text)


def _entries(inventory: Inventory, settings: Settings) -> Mapping[str, Entry]:
    from plugin.core.cdi.specification import entries  # noqa: PLC0415 — most nodes do without CDI

    return entries(inventory, settings)
