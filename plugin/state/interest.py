"""What is to be watched and what is: all that the writer and the watcher know of each other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

from msgspec import Struct

from plugin.loops.pulse import Pulse


class Watchable(Struct, frozen=True):
    """GPUs whose events are to be watched. ``epoch`` counts how often the driver was opened."""

    epoch: int
    gpus: tuple[str, ...]


class Interest:
    """The writer says what it wants watched, the watcher what it watches. Used from the event loop
    only.
    """

    def __init__(self) -> None:
        #: What is to be watched; ``None`` while the driver is not open.
        self.wanted: Watchable | None = None
        self._watched: Watchable | None = None
        self._sources = 0
        self._changed = Pulse()
        self._retry = Pulse()

    # ---- for the writer

    def retry(self) -> None:
        """Have what cannot be watched tried again now."""
        self._retry.fire()

    def want(self, wanted: Watchable | None) -> None:
        if wanted != self.wanted:
            self.wanted = wanted
            self._changed.fire()

    async def unused(self, seconds: float) -> None:
        """Wait until no event source is open any more, so that the driver can be closed, but no
        longer than `seconds`.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._sources:
                    await self._changed.wait()

    # ---- for the watcher

    async def something(self) -> Watchable:
        """What is to be watched, once the driver is open."""
        while self.wanted is None:
            await self._changed.wait()
        return self.wanted

    async def other_than(self, watched: Watchable) -> None:
        """Wait until something else is to be watched."""
        while self.wanted == watched:
            await self._changed.wait()

    def retried(self) -> Coroutine[None, None, object]:
        """Wait until somebody wants what cannot be watched to be tried again."""
        return self._retry.wait()

    def watches(self, watched: Watchable) -> None:
        """Events of these are watched now."""
        self._watched = watched
        self._changed.fire()

    def opened(self) -> None:
        """One more event source is open: the driver is not closed under it."""
        self._sources += 1

    def freed(self) -> None:
        self._sources -= 1
        self._changed.fire()

    # ---- for whoever waits for both to agree

    async def satisfied(self) -> None:
        """Wait until everything that is to be watched is watched."""
        while self.wanted is None or self._watched != self.wanted:
            await self._changed.wait()
