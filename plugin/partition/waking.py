"""What gives a round cause to be made anew."""

from __future__ import annotations

from collections.abc import Callable

from plugin.core.partition.run import shape
from plugin.loops.store import Store


async def on_changes(store: Store, wake: Callable[[], None]) -> None:
    """Call `wake` when the geometry is another one, when the driver answers again, and when the
    settings want something else of what is in use; until cancelled.
    """
    known: object = None
    async for snapshot in store.follow():
        seen = (
            snapshot.driver_error is None and snapshot.release is None,
            [(gpu.index, gpu.uuid, shape(gpu)) for gpu in snapshot.inventory.gpus],
            snapshot.inventory.unreadable,
            snapshot.settings.partition_in_use,
        )
        if seen != known:
            known = seen
            wake()
