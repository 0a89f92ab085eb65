"""The newest snapshot, with one writer and many readers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from plugin.core.state import Snapshot
from plugin.loops.pulse import Pulse


class Store:
    """Used from the event loop only.

    Readers see the newest snapshot, not every generation: bursts coalesce and a missed wake-up is
    harmless.
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
        """Wait for a snapshot newer than `generation`."""
        while self._snapshot.generation <= generation:
            await self._changed.wait()
        return self._snapshot

    async def follow(self) -> AsyncIterator[Snapshot]:
        """The newest snapshot now and after every change; ends by cancellation."""
        snapshot = self._snapshot
        while True:
            yield snapshot
            snapshot = await self.newer_than(snapshot.generation)
