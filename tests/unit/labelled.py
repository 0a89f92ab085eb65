"""The labels of small nodes, for tests of them."""

from __future__ import annotations

from msgspec.structs import replace

from plugin.core.inventory.model import Inventory, Unknown
from plugin.core.labels.node import Values, labels
from plugin.core.settings import MigStrategy, Settings

from .builders import snapshot

GPU, ONE = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb"
MIXED, SINGLE, NONE = (
    Settings(mig_strategy=strategy)
    for strategy in (MigStrategy.MIXED, MigStrategy.SINGLE, MigStrategy.NONE)
)
UNREAD = Unknown("reading its MIG mode")


def of(inventory: Inventory, settings: Settings = MIXED) -> Values:
    found = labels(replace(snapshot(inventory, settings), geometry=1))
    assert found is not None
    return found.values
