"""How a product is named in labels: its family, its MIG profile, and whether it is shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from msgspec import Struct

from plugin.core.inventory.model import Device
from plugin.core.labels.grammar import MOST_CHARACTERS, clean
from plugin.core.settings import Settings
from plugin.core.state import Snapshot

_FAMILIES = {
    1: "tesla",
    2: "fermi",
    3: "kepler",
    5: "maxwell",
    6: "pascal",
    7: "volta",
    8: "ampere",
    9: "hopper",
    10: "blackwell",
    12: "blackwell",
}
#: Families that begin in the middle of a major number.
_LATE = {7: (5, "turing"), 8: (9, "ada-lovelace")}


def family(major: int, minor: int) -> str:
    """The family of a compute capability, in NVIDIA's words."""
    first, late = _LATE.get(major, (minor + 1, ""))
    return late if minor >= first else _FAMILIES.get(major, "undefined")


class Shares(Struct, frozen=True):
    """How often each of some devices is listed, and whether its shares have a name of their own."""

    replicas: int = 1
    renamed: bool = False

    @classmethod
    def of(cls, snapshot: Snapshot, devices: Collection[Device]) -> Shares:
        uuids = {device.uuid for device in devices}
        counts = Counter(
            (resource, item.device.uuid)
            for resource, listed in snapshot.advertisement.resources.items()
            for item in listed
            if item.device.uuid in uuids
        )
        if not counts:
            return cls()
        (resource, _), replicas = counts.most_common(1)[0]
        return cls(replicas, _is_renamed(resource, snapshot.settings))


def _is_renamed(resource: str, settings: Settings) -> bool:
    sharing = settings.sharing
    return sharing.rename_by_default or not any(
        entry.name == resource and not entry.rename for entry in sharing.resources
    )


UNSHARED = Shares()


def product(model: str, profile: str = "", shares: Shares = UNSHARED) -> str:
    """The product. Where it is too long the model is cut, not what tells the devices apart."""
    end = f"-MIG-{clean(profile)}" if profile else ""
    if shares.replicas > 1 and not shares.renamed:
        end += "-SHARED"
    return clean(model)[: max(0, MOST_CHARACTERS - len(end))] + end
