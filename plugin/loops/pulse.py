"""Waking everybody who waits, again and again."""

from __future__ import annotations

import asyncio


class Pulse:
    """Wakes all who wait at this moment; whoever comes later waits for the next time.

    Used from the event loop only. A waiter looks at its condition first and then waits, in a loop,
    so that a wake-up it did not wait for costs nothing.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake everyone who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the next :meth:`fire`."""
        await self._event.wait()
