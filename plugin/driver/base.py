"""The narrow protocol between the plugin and a GPU driver, real or simulated.

Calls block and may hang: they belong into the driver's own worker thread, never on the event loop.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from plugin.core.model import Inventory


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


@dataclass(frozen=True, slots=True)
class DriverEvent:
    """One event. ``gi``/``ci`` are ``None`` where the driver was not this fine; ``data`` is the XID for XID events."""

    kind: EventKind
    gpu_uuid: str
    gi: int | None = None
    ci: int | None = None
    data: int = 0


class Driver(Protocol):
    """What the plugin needs from a driver."""

    def open(self) -> None:
        """Initialise. Raises :class:`~plugin.errors.DriverUnavailable` with what to do; may be tried again."""

    def close(self) -> None:
        """Shut down; never raises. A closed driver can be opened again."""

    def scan(self) -> Inventory:
        """Read the whole node.

        An unreadable GPU or MIG device is part of the answer, with its error. Raises
        :class:`~plugin.errors.DriverUnavailable` only when the driver as a whole does not answer.
        """
