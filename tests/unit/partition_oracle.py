"""Every geometry of a card, by brute force over the rules of the simulated hardware; and what the
best plan is, by comparing all of them.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plugin.core.inventory.model import Placement
from plugin.sim.hardware.cards import Card, CardProfile, catalog
from plugin.sim.hardware.codes import NodeError
from plugin.sim.hardware.gpu import ComputeInstance, GpuInstance, GpuState, add_ci, add_gi, new_gpu
from plugin.sim.hardware.placement import compute_placements

#: A GPU instance: profile, placement, and the (start, slices) of its compute instances.
Instance = tuple[str, Placement, tuple[tuple[int, int], ...]]
State = tuple[Instance, ...]
#: Sizes of compute instances, for each of several GPU instances.
_Groups = tuple[tuple[int, ...], ...]
#: Profiles with placements, in order.
Frame = tuple[tuple[str, Placement], ...]


@dataclass(frozen=True)
class Best:
    """``kept`` is the greatest number of devices that can stay."""

    kept: int
    instances: int


def empty(card: Card) -> GpuState:
    return new_gpu("oracle", 0, card, None)


@functools.cache
def frames(key: str, card: Card) -> tuple[Frame, ...]:
    """Every set of GPU instances that the hardware lets coexist."""
    del key
    found: set[Frame] = set()

    def grow(gpu: GpuState) -> None:
        frame = tuple(sorted((each.profile.name, each.placement) for each in gpu.instances))
        if frame in found:
            return
        found.add(frame)
        for profile in card.profiles:
            for at in gpu.free_placements(profile):
                grow(add_gi(gpu, profile.name, at)[0])

    grow(empty(card))
    return tuple(sorted(found))


@functools.cache
def contents(profile: CardProfile) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Every set of compute instances that a GPU instance can have."""
    places = [at for slices in profile.compute_slices for at in compute_placements(profile, slices)]
    return tuple(
        tuple(sorted((at.start, at.size) for at in chosen))
        for count in range(profile.slices + 1)
        for chosen in itertools.combinations(places, count)
        if not any(a.overlaps(b) for a, b in itertools.combinations(chosen, 2))
    )


def states(card: Card) -> Iterator[State]:
    """Every reachable state with MIG mode on."""
    for frame in frames(card.key, card):
        for filled in itertools.product(*(contents(card.profile(name)) for name, _ in frame)):
            yield tuple((name, at, c) for (name, at), c in zip(frame, filled, strict=True))


def devices(card: Card, state: State) -> Counter[str]:
    return Counter(
        card.profile(name).device_name(slices)
        for name, _, compute in state
        for _, slices in compute
    )


class Oracle:
    def __init__(self, card: Card) -> None:
        self.card = card
        self._by_counts: dict[tuple[tuple[str, int], ...], list[Frame]] = defaultdict(list)
        for frame in frames(card.key, card):
            counts = Counter(name for name, _ in frame)
            self._by_counts[tuple(sorted(counts.items()))].append(frame)

    def best(
        self, state: State, in_use: frozenset[tuple[Placement, int]], wanted: Counter[str]
    ) -> Best | None:
        """The best plan that touches none of the devices in use, which are given by the placement
        of their GPU instance and their first compute slice; ``None`` if there is no plan.
        """
        there = {(name, at): compute for name, at, compute in state}
        used = {
            (name, at): frozenset(place for place in compute if (at, place[0]) in in_use)
            for name, at, compute in state
        }
        needed = {key for key, places in used.items() if places}
        best: Best | None = None
        for filling in self._fillings(wanted):
            counts = tuple(sorted((name, len(sizes)) for name, sizes in filling.items()))
            for frame in self._by_counts[counts]:
                if needed <= set(frame):
                    kept = self._kept(frame, filling, there, used)
                    instances = sum(place in there for place in frame)
                    if kept is not None and (
                        best is None or (kept, instances) > (best.kept, best.instances)
                    ):
                        best = Best(kept, instances)
        return best

    def _fillings(self, wanted: Counter[str]) -> Iterator[dict[str, tuple[tuple[int, ...], ...]]]:
        """Every way to divide the wanted devices among GPU instances."""
        sizes: dict[str, list[int]] = defaultdict(list)
        for name, count in wanted.items():
            profile, slices = self.card.device_profile(name)
            sizes[profile.name] += [slices] * count
        ways = [
            [(name, way) for way in _divided(self.card.profile(name), tuple(sorted(of)))]
            for name, of in sorted(sizes.items())
        ]
        for chosen in itertools.product(*ways):
            yield dict(chosen)

    def _kept(
        self,
        frame: Frame,
        filling: dict[str, tuple[tuple[int, ...], ...]],
        there: dict[tuple[str, Placement], tuple[tuple[int, int], ...]],
        used: dict[tuple[str, Placement], frozenset[tuple[int, int]]],
    ) -> int | None:
        """The most devices that a frame keeps, over every assignment of contents to places."""
        total = 0
        for name, sizes in filling.items():
            places = [place for place in frame if place[0] == name]
            profile = self.card.profile(name)
            options = []
            for order in set(itertools.permutations(sizes)) if len(set(sizes)) > 1 else {sizes}:
                kept = [
                    _most_kept(
                        profile, there.get(place, ()), used.get(place, frozenset()), contents_of
                    )
                    for place, contents_of in zip(places, order, strict=True)
                ]
                if None not in kept:
                    options.append(sum(k for k in kept if k is not None))
            if not options:
                return None
            total += max(options)
        return total


@functools.cache
def _divided(
    profile: CardProfile, sizes: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Every division into groups that each fill one GPU instance."""
    if all(size == profile.slices for size in sizes):
        return (tuple((size,) for size in sizes),)
    found = set()
    groups = {tuple(sorted(s for _, s in places)) for places in contents(profile) if places}

    def divide(left: Counter[int], chosen: tuple[tuple[int, ...], ...]) -> None:
        if not left:
            found.add(tuple(sorted(chosen)))
        elif len(chosen) < profile.max_instances:
            for group in groups:
                if Counter(group) <= left:
                    divide(left - Counter(group), (*chosen, group))

    divide(Counter(sizes), ())
    return tuple(found)


@functools.cache
def _most_kept(
    profile: CardProfile,
    there: tuple[tuple[int, int], ...],
    used: frozenset[tuple[int, int]],
    wanted: tuple[int, ...],
) -> int | None:
    """The most compute instances of a GPU instance that can stay when it gets these sizes."""
    for count in range(len(there), -1, -1):
        for kept in itertools.combinations(there, count):
            missing = Counter(wanted)
            missing.subtract(slices for _, slices in kept)
            fits = used <= set(kept) and min(missing.values(), default=0) >= 0
            if fits and _can_create(profile, kept, tuple(missing.elements())):
                return count
    return None


@functools.cache
def _can_create(
    profile: CardProfile, kept: tuple[tuple[int, int], ...], sizes: Sequence[int]
) -> bool:
    """Whether the hardware creates these sizes in some order beside those that are kept."""
    card = _card_of(profile)
    compute = tuple(
        ComputeInstance(n, Placement(start, slices), f"MIG-{n}")
        for n, (start, slices) in enumerate(kept)
    )
    instance = GpuInstance(0, profile, profile.placements[0], compute)
    gpu = empty(card).with_instance(instance)
    for order in set(itertools.permutations(sizes)):
        try:
            made = gpu
            for size in order:
                made = add_ci(made, 0, size, 0)[0]
        except NodeError:
            continue
        return True
    return False


def _card_of(profile: CardProfile) -> Card:
    return next(card for card in catalog().cards.values() if profile in card.profiles)
