"""What the daemon takes from the node: memory, and processor time while nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.benchmarks.node import Shared
from tests.benchmarks.row import Row

#: One round of everything that the daemon does on a schedule; the longest, a scan, comes every 30
#: s.
IDLE_SECONDS = 30.0


async def memory(shared: Shared) -> Sequence[Row]:
    """Resident memory of the shared daemon, so after everything that has been done to it before."""
    _, daemon = await shared.get()
    return [
        Row(
            "resident memory",
            "MiB",
            (daemon.memory_mib("VmRSS"),),
            {"max": 64},
            note="after the rows above",
        ),
        Row("resident memory, highest", "MiB", (daemon.memory_mib("VmHWM"),)),
    ]


async def idle(shared: Shared) -> Sequence[Row]:
    """Processor time per minute with the stream open and nothing to do."""
    _, daemon = await shared.get()
    await asyncio.sleep(1)  # what the rows above have set off ends first
    before, cpu = time.monotonic(), daemon.cpu_seconds()
    await asyncio.sleep(IDLE_SECONDS)
    used, passed = daemon.cpu_seconds() - cpu, time.monotonic() - before
    return [
        Row(
            "idle CPU a minute",
            "ms",
            (used * 1000 * 60 / passed,),
            {"max": 60},
            note=f"over {passed:.0f} s",
        )
    ]
