"""What is remembered of the GPUs that are partitioned, between two rounds and over a change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field

from plugin.core.advertise.withdrawal import NO_WITHDRAWAL, Withdrawal
from plugin.core.inventory.model import Gpu
from plugin.core.partition.comparison import geometry
from plugin.core.partition.configuration import Wanted
from plugin.core.partition.trouble import Trouble

#: Why a GPU is half-made on which nothing failed.
INTERRUPTED = "a change of its MIG instances was interrupted"

#: What distinguishes a GPU from what it was when partitioning it failed.
_Shape = tuple[object, ...]


class Before(Struct, frozen=True):
    """What a GPU had before the first step of a change: its geometry, ``None`` if a configuration
    cannot express it, and the UUIDs of its devices.
    """

    geometry: Wanted | None
    devices: frozenset[str] = frozenset()

    @classmethod
    def of(cls, gpu: Gpu) -> Before:
        return cls(geometry(gpu), frozenset(device.uuid for device in gpu.mig_devices))


class Track(Struct, frozen=True):
    """A GPU on which something failed.

    ``failures`` counts the attempts at one geometry, ``refusals`` how often the driver said that
    something is in use. ``back``: it is on its way to the geometry from before; ``restored``: it
    has that. ``retry_at`` is ``None`` when nothing more is tried until the GPU itself changes from
    ``shape``, or something else is wanted of it.
    """

    trouble: Trouble
    failures: int = 0
    refusals: int = 0
    back: bool = False
    restored: bool = False
    retry_at: float | None = None
    shape: _Shape = ()

    @property
    def ended(self) -> bool:
        return self.retry_at is None


class Run(Struct, frozen=True):
    """What is remembered between two rounds. ``half`` are the GPUs that are half-made: steps have
    changed them, and they have neither what was wanted nor what they had. It outlives the order.
    ``wanted`` is what the tracks are about, ``withdrawal`` what is published, and ``agreed`` counts
    the rounds since then.
    """

    tracks: Mapping[str, Track] = field(default_factory=lambda: MappingProxyType({}))
    half: Mapping[str, Before] = field(default_factory=lambda: MappingProxyType({}))
    wanted: Mapping[str, Wanted] = field(default_factory=lambda: MappingProxyType({}))
    withdrawal: Withdrawal = NO_WITHDRAWAL
    agreed: int = 0


class Result(Struct, frozen=True):
    """What became of a GPU. ``touched``: at least one step took effect. ``interrupted``: something
    else was wanted between two steps.
    """

    gpu: Gpu
    trouble: Trouble | None = None
    touched: bool = False
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """It has its geometry."""
        return self.trouble is None and not self.interrupted


def shape(gpu: Gpu) -> _Shape:
    devices = tuple((device.uuid, device.error is None) for device in gpu.mig_devices)
    return devices, gpu.instances, gpu.mig, gpu.hung, gpu.error is None
