"""The usual configurations, which exist without a file: made of what the cards of a node offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.inventory.profiles import Profile
from plugin.core.partition.configuration import UNKNOWN, Configuration, Entry, Wanted, choose
from plugin.errors import NO_CODE, ConfigError, ProfilesUnknown

DISABLED, ENABLED, BALANCED = "all-disabled", "all-enabled", "all-balanced"

#: Compute slices of the card → slices of an instance → how many.
_BALANCED: Final[Mapping[int, Mapping[int, int]]] = MappingProxyType(
    {7: {1: 2, 2: 1, 3: 1}, 4: {1: 2, 2: 1}}
)

Offers = Mapping[str, Sequence[ProfileOffer]]


def usual(inventory: Inventory, offers: Offers) -> dict[str, Configuration]:
    """By name. `offers` are by the UUID of the GPU.

    ``all-<profile>`` is as many instances of it as a card takes, on the GPUs that offer it;
    ``all-balanced`` is 2 × 1g, 2g and 3g on 7 slices, 2 × 1g and 2g on 4. GPUs that do not offer
    what a configuration is made of are not in it; those that do not say may be in every one.
    """
    wanted: dict[str, dict[int, Wanted]] = {}
    for gpu in inventory.gpus:
        of_card = offers.get(gpu.uuid, ())
        for offer in of_card:
            name = f"all-{offer.name.replace('+', '.')}"
            wanted.setdefault(name, {})[gpu.index] = Wanted.of({offer.name: offer.max_instances})
        devices = _balanced(of_card)
        if devices:
            wanted.setdefault(BALANCED, {})[gpu.index] = Wanted.of(devices)
    for index in (*(gpu.index for gpu in silent(inventory, offers)), *inventory.unreadable):
        for by_gpu in wanted.values():
            by_gpu.setdefault(index, UNKNOWN)
    return {
        DISABLED: Configuration(DISABLED, (Entry(Wanted(mig=False)),)),
        ENABLED: Configuration(ENABLED, (Entry(Wanted(mig=True)),)),
        **{name: Configuration(name, _entries(by_gpu)) for name, by_gpu in sorted(wanted.items())},
    }


def silent(inventory: Inventory, offers: Offers) -> tuple[Gpu, ...]:
    """The GPUs that may have MIG and do not say what they offer."""
    return tuple(
        gpu
        for gpu in inventory.gpus
        if gpu.uuid not in offers and (gpu.mig is not None or not gpu.mig_certain)
    )


def _entries(by_gpu: Mapping[int, Wanted]) -> tuple[Entry, ...]:
    """One for each geometry."""
    gpus: dict[Wanted, list[int]] = {}
    for index, wanted in by_gpu.items():
        gpus.setdefault(wanted, []).append(index)
    return tuple(Entry(wanted, tuple(sorted(indices))) for wanted, indices in gpus.items())


def _balanced(offers: Sequence[ProfileOffer]) -> dict[str, int]:
    """Empty where the card lacks a profile for it. Of several profiles of one size, the one that
    fits most often counts, which has the least memory.
    """
    plain = [offer for offer in offers if _is_plain(offer.name)]
    formula = _BALANCED.get(max((offer.slices for offer in plain), default=0), {})
    found: dict[str, int] = {}
    for slices, count in formula.items():
        fitting = [offer for offer in plain if offer.slices == slices]
        if not fitting:
            return {}
        best = max(fitting, key=lambda offer: (offer.max_instances, -offer.memory_mib))
        found[best.name] = count
    return found


def _is_plain(name: str) -> bool:
    parsed = Profile.parse(name)
    return parsed is not None and not parsed.attribute


def configurations(
    inventory: Inventory, offers: Offers, of_file: Mapping[str, Configuration]
) -> dict[str, Configuration]:
    """All that a node can be told by name, sorted: those of the file win over the usual ones."""
    every = {**usual(inventory, offers), **of_file}
    return dict(sorted(every.items()))


def named(
    name: str, inventory: Inventory, offers: Offers, of_file: Mapping[str, Configuration]
) -> Configuration:
    """Raises :class:`~plugin.errors.ConfigError` with the choices, and
    :class:`~plugin.errors.ProfilesUnknown` while a GPU does not say whether it is one of them.
    """
    every = configurations(inventory, offers, of_file)
    indices = {*(gpu.index for gpu in silent(inventory, offers)), *inventory.unreadable}
    try:
        return choose(name, every)
    except ConfigError as error:
        if not indices:
            raise
        who = ", ".join(map(str, sorted(indices)))
        text = f"{error}; what GPU {who} offers is not known"
        raise ProfilesUnknown(text, code=NO_CODE) from error
