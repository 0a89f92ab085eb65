"""One consistent view of the node; everything downstream is a function of the newest one."""

from __future__ import annotations

from dataclasses import dataclass

from plugin.core.model import Inventory
from plugin.core.resources import Advertisement
from plugin.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the node at one generation (a number that only grows)."""

    generation: int
    settings: Settings
    inventory: Inventory
    advertisement: Advertisement
    driver_error: str | None = None
