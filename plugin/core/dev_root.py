"""Below which root of the host the device nodes are."""

from __future__ import annotations

from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings


def host_dev_root(inventory: Inventory, settings: Settings) -> str:
    """Where the container runtime finds them: as was seen, or else as the settings say."""
    return inventory.dev_root or settings.host_dev_root
