"""The GPU instance profiles of a card, and how the profile of a MIG device is found among them.

A wrong name is worse than none: pods would get devices of another kind. So a device has no profile,
and the reason for it, whenever two names are possible.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from plugin.core.inventory.model import Engines, Unknown
from plugin.core.inventory.profiles import Profile, memory_gb, profile_by_arithmetic

#: How much the size of a device may differ from that of its profile, as a share of the latter.
_MEMORY_TOLERANCE = 0.1

_NO_ENGINES = Engines()


class CardProfile(Struct, frozen=True):
    """A GPU instance profile. ``name`` is the field's (``1g.10gb+me``), empty where the driver
    gives none that can be understood. ``max_instances`` is how many an empty card has at most.
    """

    id: int
    name: str
    slices: int = 0
    memory_mib: int = 0
    multiprocessors: int = 0
    engines: Engines = _NO_ENGINES
    max_instances: int = 0


class CardProfiles(Struct, frozen=True):
    """All profiles of a card. With ``unknown``, there are others that could not be read; with
    ``unplaced``, the number of memory slices could not.
    """

    profiles: tuple[CardProfile, ...] = ()
    memory_slices: int = 0
    unknown: Unknown | None = None
    unplaced: Unknown | None = None

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to read."""
        return self.unknown is None and self.unplaced is None

    def of_id(self, number: int) -> CardProfile | None:
        return next((each for each in self.profiles if each.id == number), None)

    @property
    def compute_slices(self) -> int:
        """The most that an instance has: so many MIG devices a card can have."""
        return max((each.slices for each in self.profiles), default=0)


class Attributes(Struct, frozen=True):
    """What the driver says of a MIG device, which takes no right."""

    gi_slices: int
    ci_slices: int
    memory_mib: int
    multiprocessors: int
    engines: Engines


class Found(Struct, frozen=True):
    """A profile, or why it is not known. ``warning`` says on what a doubtful name rests."""

    profile: str = ""
    unknown: Unknown | None = None
    warning: str = ""


def find_profile(
    attributes: Attributes, instance_profile: int | Unknown, card: CardProfiles, total_mib: int
) -> Found:
    """The profile of a device, by the profile id of its GPU instance where that is known, else by
    its attributes.
    """
    if isinstance(instance_profile, Unknown):
        return _by_attributes(attributes, instance_profile, card, total_mib)
    known = card.of_id(instance_profile)
    if known is None:
        if card.unknown is not None:
            return Found(unknown=card.unknown)
        why = f"GPU instance profile {instance_profile} is not among the card's"
        return _by_arithmetic(attributes, total_mib, why)
    if known.slices and known.slices != attributes.gi_slices:
        what = (
            f"the driver says that it has {attributes.gi_slices} slices, and that its profile "
            f"{known.name or known.id} has {known.slices}"
        )
        return Found(unknown=Unknown(what))
    if not known.name:
        why = f"the driver has no name for GPU instance profile {instance_profile}"
        return _by_arithmetic(attributes, total_mib, why)
    return Found(_named(known.name, attributes))


def _by_attributes(
    attributes: Attributes, why: Unknown, card: CardProfiles, total_mib: int
) -> Found:
    if card.unknown is not None:  # the one that fits may be among those that could not be read
        return Found(unknown=card.unknown)
    fitting = {each.name: each for each in _fitting(attributes, card.profiles)}
    if not fitting or "" in fitting:
        return _by_arithmetic(attributes, total_mib, f"no profile of the card fits it ({why.what})")
    if len(fitting) > 1:
        what = f"it may be {' or '.join(sorted(fitting))}: {why.what}"
        return Found(unknown=Unknown(what, why.code, why.fix))
    return Found(_named(next(iter(fitting)), attributes))


def _fitting(attributes: Attributes, profiles: Iterable[CardProfile]) -> tuple[CardProfile, ...]:
    """Profiles that agree in all that the device tells; where none does, in slices and memory."""
    sized = [
        each
        for each in profiles
        if each.slices == attributes.gi_slices
        and abs(each.memory_mib - attributes.memory_mib) <= _MEMORY_TOLERANCE * each.memory_mib
    ]
    equipped = [each for each in sized if each.engines == attributes.engines]
    whole = attributes.ci_slices == attributes.gi_slices
    exact = [
        each for each in equipped if whole and each.multiprocessors == attributes.multiprocessors
    ]
    return tuple(exact or equipped or sized)


def _named(name: str, attributes: Attributes) -> str:
    """The name with its ``c`` part when the compute instance is smaller than the GPU instance."""
    parsed = Profile.parse(name)
    if parsed is None:
        return name
    ci_slices = attributes.ci_slices or parsed.ci_slices
    return str(Profile(ci_slices, parsed.gi_slices, parsed.memory_gb, parsed.attribute))


def _by_arithmetic(attributes: Attributes, total_mib: int, why: str) -> Found:
    if not memory_gb(attributes.memory_mib, total_mib):
        what = f"{why}, and a name cannot be computed: the memory of the GPU is not known"
        return Found(unknown=Unknown(what))
    name = profile_by_arithmetic(
        attributes.ci_slices, attributes.gi_slices, attributes.memory_mib, total_mib
    )
    if not name:
        return Found(unknown=Unknown(f"{why}, and a name cannot be computed from its size"))
    return Found(name, warning=f"{why}; its name {name} is computed from its size")
