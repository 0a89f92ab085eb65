"""Events of the driver judged together: the first at once, those of a storm behind it in
portions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from plugin.core.health.events import DriverEvent
from plugin.loops.pulse import Pulse

#: So many events are judged in one go, in some 20 ms.
MOST_EVENTS = 500
#: Events that come so soon after others were judged wait, and are judged together.
STORM_SECONDS = 0.005


class Batches:
    """Used from the event loop only."""

    def __init__(self, judge: Callable[[list[DriverEvent]], None]) -> None:
        self._judge = judge
        self._events: list[DriverEvent] = []
        self._next = 0.0
        self._received = self._judged = 0  # events so far
        self._judging = Pulse()

    def add(self, event: DriverEvent) -> None:
        if not self._events:
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), self._next), self._portion)
        self._events.append(event)
        self._received += 1

    async def judged(self) -> None:
        """Wait until every event that has been added is judged."""
        received = self._received
        while self._judged < received:
            await self._judging.wait()

    def _portion(self) -> None:
        """Judge what has come in; kubelet is answered between two portions of a storm."""
        events, self._events = self._events[:MOST_EVENTS], self._events[MOST_EVENTS:]
        if self._events:
            asyncio.get_running_loop().call_soon(self._portion)
        self._judge(events)
        self._next = asyncio.get_running_loop().time() + STORM_SECONDS
        self._judged += len(events)
        self._judging.fire()
