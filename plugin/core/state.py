"""One consistent view of the node; everything downstream is a function of the newest one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from plugin.core.advertise.advertisement import Advertisement
from plugin.core.health.ledger import EMPTY, Condition, Ledger
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the node at one generation (a number that only grows).

    ``conditions`` maps GPU UUIDs to how they answer, ``unwatched`` to why their events cannot be
    watched.
    """

    generation: int
    settings: Settings
    inventory: Inventory
    advertisement: Advertisement
    driver_error: str | None = None
    ledger: Ledger = field(default_factory=lambda: EMPTY)
    conditions: Mapping[str, Condition] = field(default_factory=lambda: MappingProxyType({}))
    unwatched: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
