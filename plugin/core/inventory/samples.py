"""What is measured in the background: use of each MIG device and each card. ``None`` means that
nobody says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field


class Activity(Struct, frozen=True):
    """Shares of the time between two samples, 0..1, by GPU performance monitoring (Hopper and
    later).

    ``graphics_active``, which costs a driver much, may be of a longer time than the others: see the
    driver.
    """

    sm_active: float | None = None
    sm_occupancy: float | None = None
    tensor_active: float | None = None
    dram_active: float | None = None
    graphics_active: float | None = None


class DeviceSample(Struct, frozen=True):
    """One device: a MIG device, or a GPU without any. Memory in bytes; ``processes`` are those with
    a context.

    ``activity`` is that of the GPU instance, which compute instances in it share.
    """

    memory_total: int | None = None
    memory_used: int | None = None
    memory_free: int | None = None
    memory_reserved: int | None = None
    processes: int | None = None
    activity: Activity = Activity()
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


class CardSample(Struct, frozen=True):
    """One card: watts, degrees Celsius, hertz, joules since the driver was loaded, a share 0..1,
    and counts.
    """

    power: float | None = None
    temperature: float | None = None
    sm_clock: float | None = None
    memory_clock: float | None = None
    energy: float | None = None
    utilisation: float | None = None
    memory_utilisation: float | None = None
    remapped_correctable: int | None = None
    remapped_uncorrectable: int | None = None
    remap_pending: bool | None = None
    remap_failure: bool | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


class Samples(Struct, frozen=True):
    """One round of sampling: by UUID, at a time (seconds of the wall clock) and how long it took
    the driver.
    """

    time: float
    seconds: float = 0.0
    devices: Mapping[str, DeviceSample] = field(default_factory=lambda: MappingProxyType({}))
    cards: Mapping[str, CardSample] = field(default_factory=lambda: MappingProxyType({}))
