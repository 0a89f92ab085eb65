"""Which GPU each index of an order names: the one that had the index when the order came."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from plugin.core.inventory.model import Gpu, Inventory


class Place(Struct, frozen=True):
    """A GPU's index and PCI address; that is empty where it is not known."""

    index: int
    pci_bus_id: str = ""


#: By UUID.
Places = Mapping[str, Place]

NO_PLACES: Final[Places] = MappingProxyType({})


def placed(known: Places, inventory: Inventory) -> Places:
    """Which GPUs the indices of an order name, when they named those that are `known`.

    A GPU that is not there keeps its index, which names no other one but a GPU that is new at its
    PCI address: that has replaced it. Another new GPU has its present index where no known GPU has
    that, and all of them that are there have theirs; else no index names it.
    """
    present = {gpu.uuid for gpu in inventory.gpus}
    found = dict(known)
    for gpu in inventory.gpus:
        old = gpu.uuid if gpu.uuid in known else _before(gpu, known, present)
        if old is not None:
            place = found.pop(old)
            found[gpu.uuid] = Place(place.index, gpu.pci_bus_id or place.pci_bus_id)
    moved = any(gpu.uuid in found and found[gpu.uuid].index != gpu.index for gpu in inventory.gpus)
    taken = {place.index for place in found.values()}
    for gpu in inventory.gpus:
        if gpu.uuid not in found and gpu.index not in taken and not moved:
            found[gpu.uuid] = Place(gpu.index, gpu.pci_bus_id)
    return MappingProxyType(found)


def _before(gpu: Gpu, known: Places, present: set[str]) -> str | None:
    """The GPU that was at the place of a new one, and is not there any more."""
    for uuid, place in known.items():
        if gpu.pci_bus_id and place.pci_bus_id == gpu.pci_bus_id and uuid not in present:
            return uuid
    return None
