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

#: Brings the CDI specification on disk up to date; what is there afterwards, ``None`` where there
#: is none and will be none before containers use CDI. Never raises.
Specify = Callable[[Inventory, Settings], Awaitable[Specified | None]]


class Gate:
    """Without `specify` it stays open, and containers that use CDI get no devices."""

    def __init__(self, specify: Specify | None) -> None:
        self._specify = specify
        self._nothing_left = False
        #: Held from reading an inventory until what was written for it is part of the state: what
        #: is on disk is what the state says.
        self.passing = asyncio.Lock()

    def has_work(self, settings: Settings) -> bool:
        """Whether a specification has to be written before a snapshot is seen: also where
        containers do not use it any more, for what is left of a time when they did.
        """
        return self._specify is not None and (settings.by_cdi or not self._nothing_left)

    async def specified(self, snapshot: Snapshot) -> Specified | None:
        """What is on disk, after it was brought up to date with a snapshot. ``None`` without work,
        and before the first scan: nothing is known of the devices then, so nothing is taken away.
        """
        settings = snapshot.settings
        if self._specify is None or not self.has_work(settings) or not snapshot.geometry:
            return None
        found = await self._specify(snapshot.inventory, settings)
        self._nothing_left = found is None
        return found or Specified()
