"""Keeping the CDI specification on disk up to date after a failure, and after new settings."""

from __future__ import annotations

import asyncio
import math

from plugin.core.cdi.standing import is_current
from plugin.core.state import Snapshot
from plugin.loops.backoff import Backoff
from plugin.state.writer import Writer

#: Failures in a row are retried ever later.
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0


async def specify_when_needed(writer: Writer, backoff: Backoff | None = None) -> None:
    """Write whatever a scan did not, until cancelled."""
    backoff = backoff or Backoff(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, well=math.inf)
    async for snapshot in writer.store.follow():
        if _is_current(snapshot):
            continue
        backoff.reset()
        await writer.specify()
        while not _is_current(writer.store.snapshot):
            await asyncio.sleep(backoff.failed())
            await writer.specify()


def _is_current(snapshot: Snapshot) -> bool:
    return is_current(snapshot.specified, snapshot.inventory, snapshot.settings)
