"""Placement of instances on a simulated GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from plugin.core.inventory.model import Placement
from plugin.errors import SimulationError
from plugin.sim.hardware.cards import Card, CardProfile


class PlannedInstance(Struct, frozen=True):
    """A GPU instance to create, with the sizes of its compute instances."""

    profile: CardProfile
    placement: Placement
    compute: tuple[int, ...]


def plan(card: Card, names: Sequence[str], gpu: int = 0) -> tuple[PlannedInstance, ...]:
    """The instances for exactly these devices on one GPU, by placement.

    Smaller compute instances share GPU instances as far as they fit. Raises
    :class:`~plugin.errors.SimulationError` with the reason if there is no placement.
    """
    groups = _group(card, names)
    placements = place(card, [profile for profile, _ in groups])
    if placements is None:
        asked = ", ".join(f"{name}*{n}" if n > 1 else name for name, n in Counter(names).items())
        reason = (
            _why_not(card, [profile for profile, _ in groups])
            or "every arrangement makes two instances overlap"
        )
        raise SimulationError(f"{asked} cannot be placed on GPU {gpu} ({card.key}): {reason}")
    planned = [
        PlannedInstance(profile, at, compute)
        for (profile, compute), at in zip(groups, placements, strict=True)
    ]
    return tuple(sorted(planned, key=lambda p: p.placement))


def _group(card: Card, names: Sequence[str]) -> list[tuple[CardProfile, tuple[int, ...]]]:
    """GPU instances with their compute instances: first fit, largest first."""
    wanted = [card.device_profile(name) for name in names]
    open_groups: list[tuple[CardProfile, list[int]]] = []
    for profile, slices in sorted(wanted, key=lambda w: -w[1]):
        for other, compute in open_groups:
            if (
                other is profile
                and compute_start(profile, _starts(profile, compute), slices) is not None
            ):
                compute.append(slices)
                break
        else:
            open_groups.append((profile, [slices]))
    return [(profile, tuple(compute)) for profile, compute in open_groups]


def _starts(profile: CardProfile, compute: Sequence[int]) -> list[Placement]:
    taken: list[Placement] = []
    for slices in compute:
        start = compute_start(profile, taken, slices)
        if start is not None:
            taken.append(Placement(start, slices))
    return taken


def compute_placements(profile: CardProfile, slices: int) -> tuple[Placement, ...]:
    """Placements of a compute instance in a GPU instance, in compute slices."""
    return tuple(
        Placement(start, slices) for start in range(0, profile.slices - slices + 1, slices)
    )


def compute_start(profile: CardProfile, taken: Sequence[Placement], slices: int) -> int | None:
    """First free compute slice for an instance of ``slices``; ``None`` if it does not fit."""
    for at in compute_placements(profile, slices):
        if not any(at.overlaps(other) for other in taken):
            return at.start
    return None


def place(card: Card, wanted: Sequence[CardProfile]) -> tuple[Placement, ...] | None:
    """A placement for each profile on an empty GPU; ``None`` if impossible.

    Backtracking, largest first. Equal profiles take rising placements, to skip permutations.
    """
    if _why_not(card, wanted) is not None:
        return None
    order = sorted(
        range(len(wanted)), key=lambda i: (-wanted[i].placements[0].size, wanted[i].id, i)
    )
    chosen: list[Placement] = []

    def search() -> bool:
        depth = len(chosen)
        if depth == len(order):
            return True
        profile = wanted[order[depth]]
        after = chosen[-1].start if depth and wanted[order[depth - 1]] is profile else -1
        for at in profile.placements:
            if at.start > after and not any(at.overlaps(other) for other in chosen):
                chosen.append(at)
                if search():
                    return True
                chosen.pop()
        return False

    if not search():
        return None
    by_index = dict(zip(order, chosen, strict=True))
    return tuple(by_index[i] for i in range(len(wanted)))


def _why_not(card: Card, wanted: Sequence[CardProfile]) -> str | None:
    """A reason that needs no search."""
    maximum = {profile.name: profile.max_instances for profile in wanted}
    for name, count in Counter(profile.name for profile in wanted).items():
        if count > maximum[name]:
            return f"{count} instances of {name}, at most {maximum[name]} fit"
    if sum(profile.media for profile in wanted) > 1:
        return "only one instance per GPU can have the media engines (+me)"
    used = sum(p.placements[0].size for p in wanted)
    if used > card.memory_slices:
        return f"{used} memory slices are needed, the card has {card.memory_slices}"
    return None
