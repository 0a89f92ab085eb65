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

    async def specified(self, snapshot: Snapshot) -> Specified | None:
        """What is on disk, after it was brought up to date with a snapshot: also where containers
        do not use it any more, for what is left of a time when they did. ``None`` before the first
        scan: nothing is known of the devices then, so nothing is taken away.
        """
        if self._specify is None or not snapshot.geometry:
            return None
        return await self._specify(snapshot.inventory, snapshot.settings)
