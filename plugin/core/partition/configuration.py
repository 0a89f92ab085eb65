"""Wanted geometries: of one GPU, and as the entries of a named configuration for a whole node."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct, field

from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.inventory.profiles import Profile
from plugin.core.partition.indices import Place, Places
from plugin.core.quote import quote
from plugin.errors import ConfigError


class Wanted(Struct, frozen=True):
    """MIG mode and MIG devices of one GPU: ``devices`` are (profile, count), sorted. Not ``known``:
    that depends on what the GPU offers, and it does not say.
    """

    mig: bool
    devices: tuple[tuple[str, int], ...] = ()
    known: bool = True

    @classmethod
    def of(cls, devices: Mapping[str, int]) -> Wanted:
        """MIG mode on, with these devices."""
        return cls(mig=True, devices=tuple(sorted((k, n) for k, n in devices.items() if n)))

    def __str__(self) -> str:
        if not self.known:
            return "what suits it"
        if not self.mig:
            return "MIG off"
        return " + ".join(f"{count} × {name}" for name, count in self.devices) or "MIG on, empty"


#: Of a GPU that does not say what it offers.
UNKNOWN: Final = Wanted(mig=True, known=False)


class Entry(Struct, frozen=True):
    """One entry of a configuration. ``devices`` are indices of GPUs, ``None`` all; ``filters`` are
    PCI device ids as NVML has them (device and vendor), empty for any.
    """

    wanted: Wanted
    devices: tuple[int, ...] | None = None
    filters: frozenset[int] = frozenset()

    def names(self, gpu: Gpu, index: int | None) -> bool:
        """Whether it is about this GPU, to which it may refer by the index. All GPUs are those that
        can have MIG, where it is to be on.
        """
        if self.filters and gpu.pci_device_id not in self.filters:
            return False
        if self.devices is not None:
            return index in self.devices
        return not self.wanted.mig or gpu.mig is not None or not gpu.mig_certain

    def may_name(self, indices: Collection[int]) -> bool:
        """Whether it may be about a GPU that is only known to have one of these indices."""
        return self.devices is None or any(index in self.devices for index in indices)


class Configuration(Struct, frozen=True):
    name: str
    entries: tuple[Entry, ...]


class Resolved(Struct, frozen=True):
    """What a configuration wants on this node, by GPU UUID. GPUs that are not in it stay as they
    are. ``unreadable`` are GPUs without a readable UUID that it may name, by index.
    """

    name: str
    wanted: Mapping[str, Wanted]
    warnings: tuple[str, ...] = ()
    unreadable: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))


def resolve(
    configuration: Configuration, inventory: Inventory, places: Places | None = None
) -> Resolved:
    """Of several entries that name a GPU, the last one counts. Indices are those of the `places`,
    without them the present ones.
    """
    wanted: dict[str, Wanted] = {}
    warnings: list[str] = []
    if places is None:
        places = {gpu.uuid: Place(gpu.index) for gpu in inventory.gpus}
    known = {places[gpu.uuid].index for gpu in inventory.gpus if gpu.uuid in places}
    present = {gpu.index for gpu in inventory.gpus}
    unreadable = {i: why for i, why in inventory.unreadable.items() if i not in present}
    missing = {place.index for place in places.values()} - known
    for number, entry in enumerate(configuration.entries):
        title = f"{configuration.name}[{number}]"
        absent = sorted(set(entry.devices or ()) - known - unreadable.keys())
        if absent:
            named = ", ".join(map(str, absent))
            warnings.append(f"{title} names GPU {named}, which this node does not have")
        for gpu in inventory.gpus:
            place = places.get(gpu.uuid)
            if entry.filters and not gpu.pci_device_id:
                warnings.append(
                    f"{title} does not name GPU {gpu.index}: it has a device-filter, and the "
                    "driver does not say which device the GPU is"
                )
            elif entry.names(gpu, place.index if place is not None else None):
                if wanted.get(gpu.uuid, entry.wanted) != entry.wanted:
                    warnings.append(
                        f"{title} names GPU {gpu.index} once more, differently; the last entry "
                        "counts"
                    )
                wanted[gpu.uuid] = entry.wanted
    if any(entry.devices is not None for entry in configuration.entries):
        warnings += [
            f"no index of {configuration.name} names GPU {gpu.index} ({gpu.uuid}): it was not "
            "there when that was ordered, and the index was another GPU's; order it again"
            for gpu in inventory.gpus
            if gpu.uuid not in places
        ]
    unreadable = {
        index: why
        for index, why in sorted(unreadable.items())
        if any(entry.may_name({index} - known | missing) for entry in configuration.entries)
    }
    return Resolved(configuration.name, wanted, tuple(warnings), unreadable)


def choose(name: str, configurations: Mapping[str, Configuration]) -> Configuration:
    """Raises :class:`~plugin.errors.ConfigError` with the choices."""
    found = configurations.get(name)
    if found is None:
        close = difflib.get_close_matches(name[:64], configurations, n=1)
        choices = f"choices are {', '.join(sorted(configurations))}"
        raise ConfigError(
            f"no MIG configuration {quote(name)} on this node",
            f"did you mean {close[0]}? The {choices}" if close else f"the {choices}",
        )
    return found


def canonical(name: str) -> str:
    """The profile of this name as the driver writes it: ``1g.10gb.me`` is ``1g.10gb+me``,
    ``3c.3g.20gb`` is ``3g.20gb``. Empty for what is no profile name.
    """
    head, unit, attributes = name.partition("gb")
    if attributes.startswith("."):
        name = f"{head}{unit}+{attributes[1:]}"
    parsed = Profile.parse(name)
    return "" if parsed is None or not 0 < parsed.ci_slices <= parsed.gi_slices else str(parsed)
