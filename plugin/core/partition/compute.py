"""How compute instances fill a GPU instance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from plugin.core.inventory.model import Placement


def creation_order(
    gi_slices: int, present: Sequence[tuple[int, int | None]], sizes: Sequence[int]
) -> tuple[int, ...] | None:
    """An order in which compute instances of these sizes can be created beside those that are
    present, as (slices, first compute slice); ``None`` if there is none.

    The driver takes the first free place, so the largest comes first: in no GPU instance does
    another order fit where that one does not. Where a present one lies is ``None`` if the driver
    does not say; the order then works wherever it lies.
    """
    order = tuple(sorted(sizes, reverse=True))
    worlds = list(_worlds(gi_slices, present))
    fits = worlds and all(_fits(gi_slices, world, order) for world in worlds)
    return order if fits else None


def bins(gi_slices: int, sizes: Sequence[int], most: int) -> list[tuple[tuple[int, ...], ...]]:
    """Every way to divide compute instances among at most `most` GPU instances."""
    found: set[tuple[tuple[int, ...], ...]] = set()

    def divide(left: tuple[int, ...], chosen: tuple[tuple[int, ...], ...]) -> None:
        if not left:
            found.add(tuple(sorted(chosen, reverse=True)))
        elif len(chosen) < most:
            first, rest = left[0], left[1:]
            for count in range(min(len(rest), gi_slices - first) + 1):
                for others in set(itertools.combinations(rest, count)):
                    one = (first, *others)
                    if sum(one) <= gi_slices and creation_order(gi_slices, (), one) is not None:
                        divide(_without(rest, others), (*chosen, one))

    if all(size == gi_slices for size in sizes):  # the usual case, and the largest numbers
        return [((gi_slices,),) * len(sizes)] if len(sizes) <= most else []
    divide(tuple(sorted(sizes, reverse=True)), ())
    return sorted(found)


def _without(sizes: tuple[int, ...], taken: tuple[int, ...]) -> tuple[int, ...]:
    left = list(sizes)
    for size in taken:
        left.remove(size)
    return tuple(left)


def _places(gi_slices: int, size: int) -> range:
    return range(0, gi_slices - size + 1, size)


def _worlds(
    gi_slices: int, present: Sequence[tuple[int, int | None]]
) -> Iterator[tuple[Placement, ...]]:
    """Every way in which the present ones can lie."""
    if not present:
        yield ()
        return
    size, start = present[0]
    for at in _places(gi_slices, size) if start is None else (start,):
        here = Placement(at, size)
        for others in _worlds(gi_slices, present[1:]):
            if not any(here.overlaps(other) for other in others):
                yield (here, *others)


def _fits(gi_slices: int, taken: tuple[Placement, ...], order: tuple[int, ...]) -> bool:
    filled = list(taken)
    for size in order:
        for start in _places(gi_slices, size):
            at = Placement(start, size)
            if not any(at.overlaps(other) for other in filled):
                filled.append(at)
                break
        else:
            return False
    return True
