"""Preferred allocation: which of the available ids to take.

The answer is advice to kubelet, but an error would fail the pod, so odd input gets a best effort. Everything is
deterministic: ties are broken by the order of the inventory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plugin.core.model import Gpu
from plugin.core.resources import Listed
from plugin.core.settings import Policy


@dataclass(frozen=True, slots=True)
class Preference:
    """``ids`` in the order of preference; ``warnings`` say what was odd about the request."""

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

    ``packed`` uses the fewest GPUs and, among equal choices, the one that leaves the longest free runs of memory
    slices elsewhere; ``distributed`` takes the least loaded GPU first. Both stay on one NUMA node where that costs
    nothing else. Replicas of a device follow `shared_policy` among themselves.
    """
    order = {item.id: index for index, item in enumerate(listed)}
    offered = dict.fromkeys(available)
    must = list(dict.fromkeys(must_include))
    warnings = _oddities(order, offered, must, size)
    unknown = [name for name in (*must, *offered) if name not in order]
    free = [
        listed[order[name]]
        for name in sorted(offered.keys() | set(must), key=lambda n: order.get(n, 0))
        if name in order
    ]
    pool = _Pool(listed, free, shared_policy)
    for name in must:
        if name in order:
            pool.take(listed[order[name]])
    wanted = size - len(must)
    chosen = (_packed if policy is Policy.PACKED else _distributed)(pool, max(wanted, 0))
    ids = [*must, *(item.id for item in chosen)]
    if len(ids) < size:
        # Ids that this resource does not list any more: better than an answer that is too short.
        ids += [name for name in unknown if name not in ids][: size - len(ids)]
    return Preference(tuple(ids), tuple(warnings))


def _oddities(order: dict[str, int], offered: dict[str, None], must: list[str], size: int) -> list[str]:
    warnings = []
    unknown = [name for name in (*must, *offered) if name not in order]
    if unknown:
        warnings.append(f"{len(unknown)} ids are not listed, {unknown[0]} for one")
    if size > len(offered.keys() | set(must)):
        warnings.append(f"{size} are wanted and {len(offered.keys() | set(must))} are available")
    if len(must) > size:
        warnings.append(f"{len(must)} must be included although {size} are wanted")
    return warnings


class _Pool:
    """The free ids of each GPU, device by device, while a choice is being made."""

    def __init__(self, listed: Sequence[Listed], free: Sequence[Listed], shared_policy: Policy) -> None:
        self._shared_policy = shared_policy
        self._total: Counter[int] = Counter(_gpu(item) for item in listed)
        self._replicas: Counter[str] = Counter(item.device.uuid for item in listed)
        self._by_device: dict[int, dict[str, list[Listed]]] = defaultdict(dict)
        self.numa: dict[int, int | None] = {}
        for item in free:
            gpu = _gpu(item)
            self.numa[gpu] = item.device.numa
            self._by_device[gpu].setdefault(item.device.uuid, []).append(item)
        self.count: Counter[int] = Counter(_gpu(item) for item in free)
        self.used: dict[int, None] = {}
        # A GPU nobody uses yet is the longest free run of all; `listed` minus `free` says who is used.
        self._slices: dict[int, dict[str, tuple[int, int]]] = {
            gpu: {uuid: _interval(items[0]) for uuid, items in devices.items()}
            for gpu, devices in self._by_device.items()
        }

    def take(self, item: Listed) -> Listed:
        gpu = _gpu(item)
        items = self._by_device[gpu][item.device.uuid]
        items.remove(item)
        if not items:
            del self._by_device[gpu][item.device.uuid]
        self.count[gpu] -= 1
        self.used.setdefault(gpu)
        self.numa.setdefault(gpu, item.device.numa)
        return item

    def load(self, gpu: int) -> float:
        """Share of the GPU's ids that is taken, 0..1."""
        return 1 - self.count[gpu] / self._total[gpu] if self._total[gpu] else 1.0

    def gpus(self) -> list[int]:
        return sorted(gpu for gpu, count in self.count.items() if count)

    def longest_run(self, gpu: int) -> int:
        """Memory slices of the longest run of adjacent devices nobody has a share of."""
        return max((sum(size for _, size in run) for run in self._runs(gpu)), default=0)

    def _runs(self, gpu: int) -> list[list[tuple[int, int]]]:
        whole = sorted(
            self._slices[gpu][uuid]
            for uuid, items in self._by_device[gpu].items()
            if len(items) == self._replicas[uuid]
        )
        runs: list[list[tuple[int, int]]] = []
        for start, size in whole:
            if runs and sum(runs[-1][-1]) == start:
                runs[-1].append((start, size))
            else:
                runs.append([(start, size)])
        return runs

    def next_on(self, gpu: int) -> Listed:
        """The free id of a GPU to take next: by `shared_policy` among replicas, from the shortest run among devices."""
        runs = self._runs(gpu)
        run_of = {interval: sum(size for _, size in run) for run in runs for interval in run}

        def rank(uuid: str) -> tuple[int, int, tuple[int, int]]:
            items = self._by_device[gpu][uuid]
            taken = self._replicas[uuid] - len(items)
            interval = self._slices[gpu][uuid]
            share = taken if self._shared_policy is Policy.DISTRIBUTED else -taken
            return share, run_of.get(interval, 0), interval

        return self._by_device[gpu][min(self._by_device[gpu], key=rank)][0]


def _packed(pool: _Pool, wanted: int) -> list[Listed]:
    chosen: list[Listed] = []
    for gpu in _fewest(pool, wanted):
        while len(chosen) < wanted and pool.count[gpu]:
            chosen.append(pool.take(pool.next_on(gpu)))
    return chosen


def _fewest(pool: _Pool, wanted: int) -> list[int]:
    """GPUs to take from, in order: those already used, then as few as possible, the last one a tight fit."""
    used = [gpu for gpu in pool.used if pool.count[gpu]]
    missing = wanted - sum(pool.count[gpu] for gpu in used)
    if missing <= 0:
        return sorted(used, key=lambda gpu: (pool.count[gpu], gpu))
    others = [gpu for gpu in pool.gpus() if gpu not in pool.used]
    best = _cover(pool, others, missing)
    numa_nodes = {pool.numa[gpu] for gpu in pool.used} if pool.used else set(pool.numa.values())
    if len(best) + len(used) > 1:
        for numa in sorted(node for node in numa_nodes if node is not None):
            near = _cover(pool, [gpu for gpu in others if pool.numa[gpu] == numa], missing)
            if len(near) == len(best) and sum(pool.count[gpu] for gpu in near) >= missing:
                best = near
                break
    return used + best


def _cover(pool: _Pool, gpus: list[int], wanted: int) -> list[int]:
    """As few of `gpus` as hold `wanted` free ids: the fullest ones whole, then the tightest that holds the rest."""
    cover: list[int] = []
    left = sorted(gpus, key=lambda gpu: (-pool.count[gpu], gpu))
    while wanted > 0 and left:
        fitting = [gpu for gpu in left if pool.count[gpu] >= wanted]
        # Among tight fits the one with the shorter run: the longer stays for whoever needs it.
        gpu = min(fitting, key=lambda g: (pool.count[g], pool.longest_run(g), g)) if fitting else left[0]
        cover.append(gpu)
        left.remove(gpu)
        wanted -= pool.count[gpu]
    return cover


def _distributed(pool: _Pool, wanted: int) -> list[Listed]:
    chosen: list[Listed] = []
    while len(chosen) < wanted and (gpus := pool.gpus()):
        near = {pool.numa[gpu] for gpu in pool.used}
        gpu = min(gpus, key=lambda g: (pool.load(g), bool(near) and pool.numa[g] not in near, g))
        chosen.append(pool.take(pool.next_on(gpu)))
    return chosen


def _gpu(item: Listed) -> int:
    return item.device.index if isinstance(item.device, Gpu) else item.device.gpu_index


def _interval(item: Listed) -> tuple[int, int]:
    """Memory slices of a device; where the driver does not tell, its GPU instance id keeps the order."""
    device = item.device
    if isinstance(device, Gpu):
        return 0, max(device.memory_slices, 1)
    if device.placement is None:
        return device.gi, 1
    return device.placement.start, device.placement.size
