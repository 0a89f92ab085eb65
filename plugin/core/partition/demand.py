"""The wanted devices of one GPU as GPU instances that its card offers, or why it can never have
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Gpu
from plugin.core.inventory.profiles import Profile
from plugin.core.partition.configuration import Wanted
from plugin.core.partition.layout import Demand
from plugin.core.partition.steps import Refusal, RefusalCode


def demands(
    gpu: Gpu, offers: Sequence[ProfileOffer], wanted: Wanted
) -> tuple[Demand, ...] | Refusal:
    """One demand for each profile of GPU instances, the largest first."""
    by_name = {offer.name: offer for offer in offers}
    sizes: dict[str, list[int]] = {}
    for name, count in wanted.devices:
        parsed = Profile.parse(name)
        base = "" if parsed is None else base_of(parsed)
        offer = by_name.get(base)
        if parsed is None or offer is None:
            return refused(
                gpu,
                f"{name} is not among its profiles; it has {', '.join(sorted(by_name))}",
                RefusalCode.UNKNOWN_PROFILE,
            )
        fitting = sorted(slices for slices, _ in offer.compute_profiles)
        if parsed.ci_slices not in fitting:
            return refused(
                gpu,
                f"{base} has no compute instances of {parsed.ci_slices} slices; it has "
                + ", ".join(map(str, fitting)),
                RefusalCode.UNKNOWN_PROFILE,
            )
        if count > offer.max_instances * offer.slices:  # spares the search
            return refused(gpu, f"{count} × {name} do not fit onto it")
        sizes.setdefault(base, []).extend([parsed.ci_slices] * count)
    misfit = _too_many(by_name, sizes)
    if misfit:
        return refused(gpu, misfit)
    found = (Demand(by_name[base], tuple(of_base)) for base, of_base in sizes.items())
    return tuple(sorted(found, key=lambda demand: (-demand.offer.slices, demand.offer.name)))


def _too_many(by_name: Mapping[str, ProfileOffer], sizes: Mapping[str, Sequence[int]]) -> str:
    """A reason that needs no search."""
    for base, wanted in sizes.items():
        offer = by_name[base]
        whole = sum(size == offer.slices for size in wanted)
        least = max(whole, -(-sum(wanted) // offer.slices))
        if least > offer.max_instances:
            return f"{least} instances of {base}, at most {offer.max_instances} fit"
    media = sorted(base for base in sizes if is_media(base))
    return f"{' and '.join(media)} need its only set of media engines" if len(media) > 1 else ""


def refused(gpu: Gpu, why: str, code: RefusalCode = RefusalCode.IMPOSSIBLE) -> Refusal:
    return Refusal(code, f"GPU {gpu.index} ({gpu.product}): {why}")


def base_of(profile: Profile) -> str:
    """The name of the GPU instance's profile: that of ``1c.3g.20gb`` is ``3g.20gb``."""
    return str(Profile(profile.gi_slices, profile.gi_slices, profile.memory_gb, profile.attribute))


def device_name(profile: str, slices: int) -> str:
    """The profile of a device with a compute instance of `slices` in a GPU instance."""
    parsed = Profile.parse(profile)
    if parsed is None:
        return profile
    return str(Profile(slices, parsed.gi_slices, parsed.memory_gb, parsed.attribute))


def is_media(profile: str) -> bool:
    """The profile takes a set of media engines, of which a GPU has one (``+me``, ``+me.all``)."""
    parsed = Profile.parse(profile)
    return parsed is not None and parsed.attribute.startswith("+me")
