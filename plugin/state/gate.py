"""The gate before publication: what a snapshot offers by CDI is in the specification on disk before
anybody sees the snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from plugin.core.cdi.standing import Specified
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.core.state import Snapshot

#: Brings the CDI specification on disk up to date; what is there afterwards. Never raises.
Specify = Callable[[Inventory, Settings], Awaitable[Specified]]


class Gate:
    """Without `specify` it stays open, and containers that use CDI get no devices."""

    def __init__(self, specify: Specify | None) -> None:
        self._specify = specify
        #: Held from reading an inventory until what was written for it is part of the state: what
        #: is on disk is what the state says.
        self.passing = asyncio.Lock()

    def has_work(self, settings: Settings) -> bool:
        """Whether a specification has to be written before a snapshot is seen."""
        return self._specify is not None and settings.by_cdi

    async def specified(self, snapshot: Snapshot) -> Specified | None:
        """What is on disk, after it was brought up to date with a snapshot. ``None`` where
        containers do not use it.
        """
        if self._specify is None or not self.has_work(snapshot.settings):
            return None
        return await self._specify(snapshot.inventory, snapshot.settings)
