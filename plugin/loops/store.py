"""The newest snapshot, its one writer and its many readers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from plugin.core.state import Snapshot
from plugin.loops.pulse import Pulse


class Store:
    """Holds the newest snapshot. Used from the event loop only.

    A reader never sees every generation, only ever the newest: bursts coalesce and a missed wake-up
    costs nothing.
    """

    def __init__(self, first: Snapshot) -> None:
        self._snapshot = first
        self._changed = Pulse()

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def publish(self, snapshot: Snapshot) -> None:
        if snapshot.generation <= self._snapshot.generation:
            raise ValueError(
                f"generation {snapshot.generation} is not newer than {self._snapshot.generation}"
            )
        self._snapshot = snapshot
        self._changed.fire()

    async def newer_than(self, generation: int) -> Snapshot:
        """Wait until there is a snapshot newer than `generation`."""
        while self._snapshot.generation <= generation:
            await self._changed.wait()
        return self._snapshot

    async def follow(self) -> AsyncIterator[Snapshot]:
        """The newest snapshot now and whenever there is a newer one; ends by cancellation."""
        snapshot = self._snapshot
        while True:
            yield snapshot
            snapshot = await self.newer_than(snapshot.generation)
