"""Small nodes for preferred allocation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from plugin.core.advertise.listed import Listed
from plugin.core.inventory.model import MigDevice
from plugin.core.preference import Preference, prefer
from plugin.core.settings import Policy

from .builders import listing, mig_device

PACKED, DISTRIBUTED = Policy.PACKED, Policy.DISTRIBUTED


def ones(index: int, starts: Iterable[int] = range(7), numa: int | None = 0) -> list[MigDevice]:
    """1g.5gb devices on one GPU."""
    return [mig_device(index, start, numa=numa) for start in starts]


def name(index: int, start: int) -> str:
    return mig_device(index, start).uuid


def names(**on_gpu: Iterable[int]) -> list[str]:
    """``names(g0=(1, 2))``: the ids at slices 1 and 2 of GPU 0."""
    return [name(int(key[1:]), start) for key, starts in on_gpu.items() for start in starts]


def choose(
    listed: Sequence[Listed],
    available: Collection[str],
    size: int,
    *,
    must: Collection[str] = (),
    policy: Policy = PACKED,
    shared: Policy = DISTRIBUTED,
) -> Preference:
    return prefer(listed, available, must, size, policy=policy, shared_policy=shared)


# ---- packed

TWO_GPUS = listing(ones(0) + ones(1))
