"""What a driver reports by itself (events) and when asked (probes)."""

from __future__ import annotations

import enum

from msgspec import Struct


class EventKind(enum.Enum):
    """What an event says; values are NVML's event bits (``nvmlEventType*``)."""

    SINGLE_BIT_ECC = 0x1
    DOUBLE_BIT_ECC = 0x2
    XID = 0x8
    MIG_CONFIG = 0x100
    DRAM_RETIREMENT = 0x400
    DRAM_RETIREMENT_FAILURE = 0x800
    NON_FATAL_POISON = 0x1000
    FATAL_POISON = 0x2000
    GPU_UNAVAILABLE = 0x4000
    RECOVERY_ACTION = 0x8000


#: Every event that the plugin can use.
ALL_EVENTS = sum(kind.value for kind in EventKind)


class DriverEvent(Struct, frozen=True):
    """One event. ``gi``/``ci`` are ``None`` where the driver was not this fine; ``data`` is the XID
    for XID events.
    """

    kind: EventKind
    gpu_uuid: str
    gi: int | None = None
    ci: int | None = None
    data: int = 0


class Probe(Struct, frozen=True):
    """What one GPU answers about its health. ``None`` everywhere means that it, or its driver, does
    not say.

    ``error`` is set when the GPU could not be asked at all and ``lost`` when it said that it is
    gone. ``recovery_action`` is NVML's number (0 none, 1 GPU reset, 2 node reboot, …; drivers from
    R565 on answer). The others are asked by a thorough probe only: they cost more than a
    millisecond each.
    """

    gpu_uuid: str
    error: str | None = None
    lost: bool = False
    recovery_action: int | None = None
    remap_failure: bool | None = None
    retirement_pending: bool | None = None
