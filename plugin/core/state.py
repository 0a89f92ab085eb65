"""One consistent view of the node; everything downstream is a function of the newest one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from plugin.core.advertise.advertisement import Advertisement
from plugin.core.health.ledger import EMPTY, Ledger
from plugin.core.health.recovery import GpuHealth
from plugin.core.inventory.model import Inventory
from plugin.core.reasons import Reason
from plugin.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the node at one generation (a number that only grows).

    ``gpu_health`` maps GPU UUIDs to how they answer, ``unwatched`` to why their events cannot be
    watched.
    """

    generation: int
    settings: Settings
    inventory: Inventory
    advertisement: Advertisement
    driver_error: Reason | None = None
    ledger: Ledger = field(default_factory=lambda: EMPTY)
    gpu_health: Mapping[str, GpuHealth] = field(default_factory=lambda: MappingProxyType({}))
    unwatched: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))
