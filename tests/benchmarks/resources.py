"""What the daemon takes from the node: memory, and processor time while nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.live import ask, free_port, get
from tests.benchmarks.node import Shared, new_node
from tests.benchmarks.row import Row

#: One round of everything that the daemon does on a schedule; the longest, a scan, comes every 30
#: s.
IDLE_SECONDS = 30.0
#: As Prometheus often does.
SCRAPE_SECONDS = 15.0
#: What a start sets off has ended by then.
SETTLE_SECONDS = 6.0


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
    """Processor time and calls of the driver per minute, with the stream open and nothing to do:
    of one daemon whose metrics nobody asks for, and of one that is scraped. Both at once, which
    their clocks do not mind.
    """
    del shared
    nobody, scraped = await asyncio.gather(
        # It rests after three of its intervals.
        _idle("--sample-interval=1", scraped=False),
        _idle(scraped=True),
    )
    return [
        *_rows(nobody, "nobody scrapes", cpu=70, calls=200),
        *_rows(scraped, f"scraped every {SCRAPE_SECONDS:g} s"),
    ]


@dataclass(frozen=True, slots=True)
class _Idle:
    cpu: float
    calls: float
    seconds: float


async def _idle(*options: str, scraped: bool) -> _Idle:
    async with new_node() as node:
        # Not in kubelet's folder itself: the daemon asks whose the sockets there are.
        control = node.directory / "control" / "control.sock"
        port = free_port()
        more = (f"--control-socket={control}", f"--http-address=127.0.0.1:{port}")
        async with node.daemon(*more, *options) as daemon:
            await node.listed()
            await asyncio.sleep(SETTLE_SECONDS)
            calls, cpu, before = await _calls(control), daemon.cpu_seconds(), time.monotonic()
            if scraped:
                while time.monotonic() - before < IDLE_SECONDS:
                    await get(f"http://127.0.0.1:{port}/metrics")
                    await asyncio.sleep(SCRAPE_SECONDS)
            else:
                await asyncio.sleep(IDLE_SECONDS)
            used, passed = daemon.cpu_seconds() - cpu, time.monotonic() - before
            return _Idle(used, await _calls(control) - calls, passed)


async def _calls(control: Path) -> int:
    answer = await ask(control, "sim", "calls")
    return int(answer["text"].partition(" ")[0])


def _rows(idle: _Idle, how: str, cpu: float | None = None, calls: float | None = None) -> list[Row]:
    note, factor = f"over {idle.seconds:.0f} s", 60 / idle.seconds
    return [
        Row(
            f"idle CPU a minute, {how}",
            "ms",
            (idle.cpu * 1000 * factor,),
            {"max": cpu} if cpu else {},
            note=note,
        ),
        Row(
            f"idle NVML calls a minute, {how}",
            "calls",
            (idle.calls * factor,),
            {"max": calls} if calls else {},
            note=f"{note}; a scan of all every 20 min adds 21",
        ),
    ]
