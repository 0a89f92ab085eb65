"""Names of resources by product and profile, in place of those that the strategies give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from plugin.core.inventory.model import Device, Gpu, Inventory


class NamePattern(Struct, frozen=True):
    """Devices called ``name``: whole GPUs whose product matches ``pattern``, or MIG devices whose
    profile does, on GPUs whose product matches ``product``. In both, ``*`` stands for any
    characters and ``?`` for one; case does not count, nor whether a product's words are joined by
    spaces or, as in node labels, by ``-``.
    """

    pattern: str
    name: str
    product: str = "*"


class Naming(Struct, frozen=True):
    """The first entry that matches a device names it; a device without one keeps the name of its
    strategy.
    """

    gpus: tuple[NamePattern, ...] = ()
    migs: tuple[NamePattern, ...] = ()


def named(
    resources: Mapping[str, Sequence[Device]], naming: Naming, inventory: Inventory
) -> Mapping[str, Sequence[Device]]:
    """The same devices under the names of `naming`; those of one name in inventory order."""
    if not naming.gpus and not naming.migs:
        return resources
    found: dict[str, list[Device]] = {}
    for resource, devices in resources.items():
        for device in devices:
            gpu = inventory.gpu(device.gpu_uuid)
            name = _name(device, gpu.product if gpu else "", naming)
            found.setdefault(name or resource, []).append(device)
    return {name: sorted(devices, key=_place) for name, devices in found.items()}


def _place(device: Device) -> tuple[int, int, int]:
    return device.order


def _name(device: Device, product: str, naming: Naming) -> str | None:
    if isinstance(device, Gpu):
        entries, subject = naming.gpus, product
    else:
        entries, subject = naming.migs, device.profile
    return next(
        (
            entry.name
            for entry in entries
            if _matches(entry.pattern, subject) and _matches(entry.product, product)
        ),
        None,
    )


def _matches(pattern: str, text: str) -> bool:
    # Brackets mean nothing here, and fnmatch takes [[] for one.
    return fnmatchcase(_plain(text), _plain(pattern).replace("[", "[[]"))


def _plain(text: str) -> str:
    return text.replace(" ", "-").lower()
