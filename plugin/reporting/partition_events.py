"""Notes what changes in partitioning, for Events. Imported when something was wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from plugin.core.notices import Notice
from plugin.core.partition.causes import causes
from plugin.core.partition.progress import IDLE

if TYPE_CHECKING:
    from plugin.reporting.partitioning import Partitioned


async def follow(partitioned: Partitioned, note: Callable[[Sequence[Notice]], None]) -> None:
    """Until cancelled."""
    known = IDLE
    while True:
        progress = partitioned.progress() or IDLE
        note(causes(known, progress))
        known = progress
        await partitioned.progressed(known)
