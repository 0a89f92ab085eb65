"""Preferred allocation: choose among the available ids.

The answer is advice to kubelet, but an error would fail the pod, so an inconsistent request gets a
best effort. The answer does not depend on the order of the ids in the request: the order of the
inventory breaks ties.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

from msgspec import Struct, field

from plugin.core.advertise.listed import Listed
from plugin.core.allocation import shortened
from plugin.core.inventory.model import Gpu
from plugin.core.settings import Policy


class Preference(Struct, frozen=True):
    """``ids`` are distinct; ``warnings`` describe inconsistencies of the request."""

    ids: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def prefer(
    listed: Sequence[Listed],
    available: Iterable[str],
    must_include: Iterable[str],
    size: int,
    *,
    policy: Policy,
    shared_policy: Policy,
) -> Preference:
    """Choose `size` of the `available` ids of a resource whose full list is `listed`.

    ``packed`` uses the fewest GPUs; among equally few, those on one NUMA node; among those, the
    devices whose allocation leaves the longest free runs of memory slices elsewhere.
    ``distributed`` takes the least loaded GPU first, and a close one among equals. A resource with
    replicas follows `shared_policy`, both between GPUs and between the devices of a GPU.
    """
    order = {item.id: number for number, item in enumerate(listed)}
    must = frozenset(must_include)
    offered = must.union(available)
    known = [item for item in listed if item.id in offered]
    # Unknown or unhealthy ids: used only if the answer would be too short otherwise.
    doubtful = [item.id for item in known if not item.healthy] + sorted(offered - order.keys())
    board = _Board(listed, [item for item in known if item.healthy])
    chosen = [*(item.id for item in known if item.id in must), *sorted(must - order.keys())]
    for name in chosen:
        board.take(name)
    wanted = size - len(chosen)
    if wanted > 0:
        if board.shared:
            policy = shared_policy
        chosen += _packed(board, wanted) if policy is Policy.PACKED else _distributed(board, wanted)
        chosen += [name for name in doubtful if name not in must][: size - len(chosen)]
    return Preference(tuple(chosen), tuple(_oddities(doubtful, len(offered), len(must), size)))


def _oddities(doubtful: Sequence[str], offered: int, must: int, size: int) -> Iterable[str]:
    if doubtful:
        example = shortened(doubtful[0])
        yield f"{len(doubtful)} of the ids are unknown or unhealthy, {example} for one"
    if size > offered:
        yield f"{size} are wanted and {offered} are available"
    if must > size:
        yield f"{must} must be included although {size} are wanted"


#: (first memory slice, number of slices) of a device.
_Interval = tuple[int, int]


class _Shares(Struct, eq=False):
    """The ids of one device; ``free`` in order."""

    interval: _Interval
    total: int = 0
    free: dict[str, None] = field(default_factory=dict)


class _Slot(Struct, eq=False):
    """One GPU's devices during a choice."""

    index: int
    numa: int | None
    total: int = 0
    free: int = 0
    devices: dict[str, _Shares] = field(default_factory=dict)
    _runs: dict[_Interval, int] | None = None

    def runs(self) -> dict[_Interval, int]:
        """Each free interval → memory slices of the free run that contains it."""
        if self._runs is None:
            devices = self.devices.values()
            partly = {device.interval for device in devices if len(device.free) < device.total}
            whole = sorted({device.interval for device in devices} - partly)
            # Within a run of adjacent intervals, start minus the slices before it is constant.
            before = 0
            keyed = []
            for start, length in whole:
                keyed.append((start - before, (start, length)))
                before += length
            self._runs = {}
            for _, run in groupby(keyed, key=lambda pair: pair[0]):
                intervals = [interval for _, interval in run]
                self._runs.update(dict.fromkeys(intervals, sum(length for _, length in intervals)))
        return self._runs

    def longest_run(self) -> int:
        return max(self.runs().values(), default=0)

    def take(self, device: _Shares, name: str) -> str:
        if len(device.free) == device.total:
            self._runs = None
        del device.free[name]
        self.free -= 1
        return name

    def take_some(self, count: int, *, spread: bool) -> list[str]:
        """Take up to `count` ids: the device in the shortest free run first; of a shared device,
        the least (with `spread`) or most shared first.
        """
        if count >= self.free:
            return [
                self.take(device, name)
                for device in self.devices.values()
                for name in tuple(device.free)
            ]
        return [self._take_one(spread=spread) for _ in range(count)]

    def _take_one(self, *, spread: bool) -> str:
        runs = self.runs()

        def rank(device: _Shares) -> tuple[int, int, _Interval]:
            shares = device.total - len(device.free)
            return shares if spread else -shares, runs.get(device.interval, 0), device.interval

        device = min((device for device in self.devices.values() if device.free), key=rank)
        return self.take(device, next(iter(device.free)))


class _Board:
    """All GPUs of the resource during a choice."""

    def __init__(self, listed: Sequence[Listed], free: Iterable[Listed]) -> None:
        slots: dict[int, _Slot] = {}
        self._places: dict[str, tuple[_Slot, _Shares]] = {}
        self.used: dict[int, _Slot] = {}
        for item in listed:
            device = item.device
            index = device.gpu_index
            slot = slots.get(index) or slots.setdefault(index, _Slot(index, device.numa))
            shares = slot.devices.get(device.uuid)
            if shares is None:
                shares = slot.devices[device.uuid] = _Shares(_interval(item))
            shares.total += 1
            slot.total += 1
            self._places[item.id] = slot, shares
        for item in free:
            slot, shares = self._places[item.id]
            shares.free[item.id] = None
            slot.free += 1
        self._slots = sorted(slots.values(), key=lambda slot: slot.index)
        self.shared = any(shares.total > 1 for _, shares in self._places.values())

    def take(self, name: str) -> None:
        """Take an id, if known, and count its GPU as used."""
        if name in self._places:
            slot, shares = self._places[name]
            self.used[slot.index] = slot
            if name in shares.free:
                slot.take(shares, name)

    def open(self) -> list[_Slot]:
        """GPUs with free ids, in order."""
        return [slot for slot in self._slots if slot.free]


def _packed(board: _Board, wanted: int) -> list[str]:
    chosen: list[str] = []
    # All but the last are taken whole, so the one with the longest run comes last.
    for slot in _fewest(board, wanted):
        chosen += slot.take_some(wanted - len(chosen), spread=False)
    return chosen


def _fewest(board: _Board, wanted: int) -> list[_Slot]:
    """GPUs to take from, in order: the used ones, then as few others as possible."""
    used = sorted((slot for slot in board.used.values() if slot.free), key=_worth)
    missing = wanted - sum(slot.free for slot in used)
    if missing <= 0:
        return used
    others = sorted(
        (slot for slot in board.open() if slot.index not in board.used), key=_worth, reverse=True
    )
    if board.used:
        cover = _cover(others, missing, {slot.numa for slot in board.used.values()})
    else:
        covers = [
            _cover(others, missing, {numa}) for numa in dict.fromkeys(slot.numa for slot in others)
        ]
        # The closest; among equals the one that gives up the shortest runs.
        cover = min(
            covers,
            key=lambda slots: (
                len({slot.numa for slot in slots}),
                sorted(map(_worth, slots))[::-1],
            ),
            default=[],
        )
    return used + cover


def _worth(slot: _Slot) -> tuple[int, int, int]:
    """The cost of taking from a GPU, for sorting: longest run, free ids, index."""
    return slot.longest_run(), slot.free, slot.index


def _cover(slots: Sequence[_Slot], wanted: int, near: Collection[int | None]) -> list[_Slot]:
    """The fewest of `slots`, sorted by falling worth, that have `wanted` free ids (or all slots).

    Starts with the slot that is most worth keeping, a far one with long runs, and keeps it if the
    rest suffice; the result is in reverse.
    """
    left = sorted(slot.free for slot in slots)
    few = held = 0
    while held < wanted and few < len(left):
        few += 1
        held += left[-few]
    spare = held - wanted
    cover: list[_Slot] = []
    for slot in sorted(slots, key=lambda slot: slot.numa in near):
        if few == 0:
            break
        del left[bisect_left(left, slot.free)]
        # Free ids that the fullest `few` of the rest lose without this slot.
        loss = max(slot.free - (left[-few] if few <= len(left) else 0), 0)
        if loss > spare:
            cover.append(slot)
            few -= 1
        else:
            spare -= loss
    return cover[::-1]


def _distributed(board: _Board, wanted: int) -> list[str]:
    near = {slot.numa for slot in board.used.values()}
    count = {slot.index: 0 for slot in board.open()}

    def entry(slot: _Slot) -> tuple[float, bool, int, _Slot]:
        taken = slot.total - slot.free + count[slot.index]
        return taken / slot.total, bool(near) and slot.numa not in near, slot.index, slot

    queue = [entry(slot) for slot in board.open()]
    heapq.heapify(queue)
    for _ in range(min(wanted, sum(slot.free for slot in board.open()))):
        slot = heapq.heappop(queue)[-1]
        count[slot.index] += 1
        if count[slot.index] < slot.free:
            heapq.heappush(queue, entry(slot))
        if slot.numa not in near:
            near.add(slot.numa)
            queue = [entry(slot) for *_, slot in queue]
            heapq.heapify(queue)
    return [
        name for slot in board.open() for name in slot.take_some(count[slot.index], spread=True)
    ]


def _interval(item: Listed) -> _Interval:
    """Memory slices of a device. If the driver does not report them, the GPU instance id keeps the
    order.
    """
    device = item.device
    if isinstance(device, Gpu):
        return 0, max(device.memory_slices, 1)
    if device.placement is None:
        return device.gi, 1
    return device.placement.start, device.placement.size
