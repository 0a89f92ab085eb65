"""The search for the best geometry of one GPU: exact, over all placements.

A card has at most a few hundred arrangements of any wanted set, so the search looks at every one
that could still be the best.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Placement
from plugin.core.partition.compute import bins, creation_order
from plugin.core.partition.steps import Seat


class PresentCompute(Struct, frozen=True):
    """A compute instance. ``slices`` is 0 and ``start`` ``None`` where the driver does not say."""

    ci: int
    uuid: str
    slices: int
    start: int | None
    in_use: bool


class PresentInstance(Struct, frozen=True):
    """A GPU instance with its compute instances, by id."""

    gi: int
    profile: str
    placement: Placement
    compute: tuple[PresentCompute, ...]


class Demand(Struct, frozen=True):
    """The compute instances that are wanted in GPU instances of one profile, by their sizes."""

    offer: ProfileOffer
    sizes: tuple[int, ...]


#: What keeping is worth, most important first: devices in use, devices, GPU instances.
_Gain = tuple[int, int, int]
_NOTHING: _Gain = (0, 0, 0)
_Numbers = tuple[int, ...]
_Value = tuple[_Numbers, _Numbers, _Numbers]


class _Choice(Struct, frozen=True):
    """Seats for one demand; ``mask`` has a bit for each memory slice that they take."""

    mask: int
    gain: _Gain
    seats: tuple[Seat, ...]


def arrange(
    demands: Sequence[Demand],
    present: Sequence[PresentInstance],
    offers: Sequence[ProfileOffer],
) -> tuple[Seat, ...] | None:
    """The best geometry that has exactly these devices; ``None`` if there is none.

    The best one destroys the fewest devices in use, keeps the most devices, then the most GPU
    instances, leaves room for the largest instances, leaves the largest free runs of memory slices,
    and has its largest instances at the lowest slices.
    """
    there = {(each.profile, each.placement): each for each in present}
    choices = [sorted(_choices(demand, there), key=_by_gain) for demand in demands]
    if not all(choices):
        return None
    room = _Room(offers)
    # What the demands from a position on can gain at most.
    bounds = [_NOTHING]
    for each in reversed(choices):
        bounds.append(_sum(bounds[-1], each[0].gain))
    bounds.reverse()
    best: tuple[_Gain, _Value, tuple[Seat, ...]] | None = None

    def search(depth: int, mask: int, gain: _Gain, seats: tuple[Seat, ...]) -> None:
        nonlocal best
        if best is not None and _sum(gain, bounds[depth]) < best[0]:
            return
        if depth == len(choices):
            value = room.value(mask, seats)
            if best is None or (gain, value) > best[:2]:
                best = gain, value, seats
            return
        for choice in choices[depth]:
            if not mask & choice.mask:
                search(depth + 1, mask | choice.mask, _sum(gain, choice.gain), seats + choice.seats)

    search(0, 0, _NOTHING, ())
    return None if best is None else tuple(sorted(best[2], key=lambda seat: seat.placement))


def _sum(one: _Gain, other: _Gain) -> _Gain:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _by_gain(choice: _Choice) -> _Gain:
    return -choice.gain[0], -choice.gain[1], -choice.gain[2]


def _mask(at: Placement) -> int:
    return ((1 << at.size) - 1) << at.start


class _Room:
    """What a geometry leaves free."""

    def __init__(self, offers: Sequence[ProfileOffer]) -> None:
        self._slices = max((at.end for offer in offers for at in offer.placements), default=0)
        shapes = {(offer.slices, offer.placements) for offer in offers}
        largest_first = sorted(shapes, key=lambda shape: (-shape[0], -shape[1][0].size, shape[1]))
        self._shapes = [[_mask(at) for at in placements] for _, placements in largest_first]

    def value(self, mask: int, seats: Sequence[Seat]) -> _Value:
        """Larger is better: the free placements of each profile, largest profile first; the free
        runs, longest first; and an order among equals.
        """
        free = tuple(sum(not mask & at for at in shape) for shape in self._shapes)
        taken = format(mask, f"0{self._slices}b")[-self._slices :]
        runs = tuple(sorted((len(run) for run in taken.split("1") if run), reverse=True))
        order = sorted((-seat.placement.size, seat.profile, seat.placement) for seat in seats)
        return free, runs, tuple(-at.start for _, _, at in order)


def _choices(
    demand: Demand, there: Mapping[tuple[str, Placement], PresentInstance]
) -> Iterator[_Choice]:
    offer = demand.offer
    for filled in bins(offer.slices, demand.sizes, offer.max_instances):
        arrangements = _distinct_orders(filled)
        fresh = {sizes: creation_order(offer.slices, (), sizes) or () for sizes in set(filled)}
        for chosen in itertools.combinations(offer.placements, len(filled)):
            mask = 0
            for at in chosen:
                if mask & _mask(at):
                    break
                mask |= _mask(at)
            else:
                yield max(
                    (
                        _seated(offer, chosen, arrangement, mask, there, fresh)
                        for arrangement in arrangements
                    ),
                    key=lambda choice: choice.gain,
                )


def _distinct_orders(filled: tuple[tuple[int, ...], ...]) -> list[tuple[tuple[int, ...], ...]]:
    if len(set(filled)) == 1:
        return [filled]
    return sorted(set(itertools.permutations(filled)))


def _seated(
    offer: ProfileOffer,
    chosen: tuple[Placement, ...],
    arrangement: tuple[tuple[int, ...], ...],
    mask: int,
    there: Mapping[tuple[str, Placement], PresentInstance],
    fresh: Mapping[tuple[int, ...], tuple[int, ...]],
) -> _Choice:
    """`fresh` has the order of creation in a new GPU instance."""
    gain = _NOTHING
    seats = []
    for at, sizes in zip(chosen, arrangement, strict=True):
        instance = there.get((offer.name, at))
        if instance is None:
            seats.append(Seat(offer.name, at, sizes, created=fresh[sizes]))
        else:
            kept, seat = _reused(offer, instance, sizes)
            gain = _sum(gain, kept)
            seats.append(seat)
    return _Choice(mask, gain, tuple(seats))


def _reused(
    offer: ProfileOffer, instance: PresentInstance, sizes: tuple[int, ...]
) -> tuple[_Gain, Seat]:
    """The GPU instance stays, with as many of its compute instances as can stay."""
    if sorted(each.slices for each in instance.compute) == sorted(sizes):  # the usual case
        everyone = tuple(each.uuid for each in instance.compute)
        used = sum(each.in_use for each in instance.compute)
        seat = Seat(offer.name, instance.placement, sizes, instance.gi, everyone)
        return (used, len(everyone), 1), seat
    best: tuple[_Gain, Seat] | None = None
    for count in range(min(len(sizes), len(instance.compute)), -1, -1):
        for kept in itertools.combinations(instance.compute, count):
            missing = Counter(sizes)
            missing.subtract(each.slices for each in kept)
            if min(missing.values()) < 0:
                continue
            gain = sum(each.in_use for each in kept), count, 1
            if best is not None and gain <= best[0]:
                continue
            created = tuple(missing.elements())
            taken = [(each.slices, each.start) for each in kept]
            order = creation_order(offer.slices, taken, created)
            if order is not None:
                uuids = tuple(each.uuid for each in kept)
                seat = Seat(offer.name, instance.placement, sizes, instance.gi, uuids, order)
                best = gain, seat
    assert best is not None  # noqa: S101 — keeping none of them is always possible
    return best
