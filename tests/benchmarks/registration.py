"""How long until kubelet has the list: after a start, kubelet's restart, the loss of our socket.
And until exit.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from plugin.sim.kubelet.kubelet import SOCKET
from tests.benchmarks.node import Shared, new_node
from tests.benchmarks.row import Row

RUNS = 10
EXITS = 5

RESTARTS = 20

#: How long kubelet is down: enough for the daemon to be trying again, and different each time, so
#: that the new socket meets every phase of its attempts.
_DOWN_SECONDS = tuple(0.2 + 0.013 * number for number in range(RESTARTS))


async def start(shared: Shared) -> Sequence[Row]:
    """Process start → list; one run more than counted warms the file cache and the stand-in."""
    del shared
    took, bare, imports = [], [], []
    for run in range(-1, RUNS):
        interpreter, library = await _python("pass"), await _python("import grpc.aio")
        async with new_node() as node, node.daemon() as daemon:
            listed = (await node.listed() - daemon.started) * 1000
            await daemon.stop()
        if run >= 0:
            took.append(listed)
            bare.append(interpreter)
            imports.append(library)
    row = Row("process start → all 56 listed", "ms", tuple(took), {"p50": 250})
    fixed = Row("  of which python -c 'import grpc.aio'", "ms", tuple(imports))
    empty = Row("  of which python -c pass", "ms", tuple(bare))
    return [row, _share(fixed, row), _share(empty, row)]


async def kubelet_restart(shared: Shared) -> Sequence[Row]:
    """``kubelet.sock`` created anew → list. The start of it is the new socket's own time stamp."""
    node, _ = await shared.get()
    took = []
    for seconds in _DOWN_SECONDS:
        seen = len(node.kubelet.messages)
        await node.kubelet.stop()
        await asyncio.sleep(seconds)
        await node.kubelet.start()
        to_monotonic = time.monotonic() - time.time()
        created = (node.directory / SOCKET).stat().st_ctime_ns / 1e9 + to_monotonic
        took.append((await node.listed(after=seen) - created) * 1000)
    return [Row("kubelet.sock created anew → all listed", "ms", tuple(took), {"p50": 50})]


async def own_socket(shared: Shared) -> Sequence[Row]:
    """Our own socket deleted → registered again."""
    node, _ = await shared.get()
    took = []
    for _ in range(RUNS):
        await node.streaming()
        seen, lists = len(node.kubelet.registrations), len(node.kubelet.messages)
        deleted = time.monotonic()
        node.socket().unlink()
        took.append((await node.registered(after=seen) - deleted) * 1000)
        await node.listed(after=lists)
    return [Row("own socket deleted → registered again", "ms", tuple(took), {"p50": 100})]


async def exit_(shared: Shared) -> Sequence[Row]:
    """SIGTERM → process gone, with kubelet's stream open;
    a socket that is left behind is an error.
    """
    del shared
    took = []
    for _ in range(EXITS):
        async with new_node() as node, node.daemon() as daemon:
            await node.listed()
            await node.streaming()
            ours = node.socket()
            took.append(await daemon.stop())
            if ours.exists():
                raise RuntimeError("the daemon left its socket behind")
    return [Row("SIGTERM → exit, stream open, socket gone", "ms", tuple(took), {"p50": 500})]


async def _python(code: str) -> float:
    """Milliseconds that an interpreter takes to run `code`, from start to exit."""
    before = time.monotonic()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    if await process.wait():
        raise RuntimeError(f"python -c {code!r} failed")
    return (time.monotonic() - before) * 1000


def _share(part: Row, whole: Row) -> Row:
    share = part.value("p50") / whole.value("p50")
    return replace(part, note=f"{share:.0%} of the start")
