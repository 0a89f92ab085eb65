"""Starts thousands of nodes' reporters in one process against the stand-in API server, over real
HTTP, and prints what that costs the API server.

Three times are looked at: all nodes start within a minute; all change their geometry one after the
other; and, with few nodes since one costs the same beside any number, nothing happens for a day.
The clock jumps over pauses, so that only the work takes time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import resource
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from plugin.cluster.client import ApiClient
from plugin.cluster.credentials import Fixed, Server
from plugin.core import scans
from plugin.core import state as steps
from plugin.core.inventory.model import Inventory
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import State
from plugin.loops.store import Store
from plugin.reporting.features import Features
from plugin.reporting.record import Record
from plugin.sim.apiserver.server import SimApiServer
from plugin.sim.hardware.engine import parse_node
from tests.integration.cluster.clock import JumpingLoop
from tests.simulated import scan

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
ROLL_SECONDS = 600.0
#: Both ends of a node's watch, and of the connection that lasts for 20 of the 60 seconds.
FILES = 3
SETTINGS = Settings(
    mig_strategy=MigStrategy.MIXED,
    node_labels=True,
    node_events=True,
    node_condition="MigDevicesHealthy",
)


@dataclass
class Fleet:
    """Nodes with one inventory, each with a client of its own."""

    server: SimApiServer
    folder: Path
    stores: dict[str, Store]
    states: dict[str, State]

    def add(self, name: str, inventory: Inventory) -> None:
        self.server.add_node(name)
        state = _scanned(steps.initial(replace(SETTINGS, node_name=name), 0.0), inventory)
        self.states[name], self.stores[name] = state, Store(state.snapshot)

    async def run(self, name: str, after: float) -> None:
        await asyncio.sleep(after)
        store = self.stores[name]
        credentials = Fixed(Server("127.0.0.1", self.server.port, tls=False))
        features = Features(
            ApiClient(name, credentials),
            store,
            store.snapshot,
            Record(self.folder / name),
            dict,
            tuple,
        )
        await features.run()

    async def change(self, name: str, after: float, inventory: Inventory) -> None:
        await asyncio.sleep(after)
        state = self.states[name]
        for _ in range(2):  # an absence is believed when it is seen again
            state = _scanned(state, inventory)
        self.states[name] = state
        self.stores[name].publish(state.snapshot)


def _scanned(state: State, inventory: Inventory) -> State:
    return scans.scan_ended(scans.scan_begun(state), inventory, 0.0).state


@contextlib.asynccontextmanager
async def fleet(count: int, inventory: Inventory) -> AsyncIterator[Fleet]:
    with tempfile.TemporaryDirectory() as folder:
        async with SimApiServer() as server:
            server.journal.requests = deque()
            nodes = Fleet(server, Path(folder), {}, {})
            for number in range(count):
                nodes.add(f"gpu-{number}", inventory)
            yield nodes


# ---- what the API server has seen


class Phase:
    """What happens from here on."""

    def __init__(self, title: str, server: SimApiServer, count: int) -> None:
        self._title, self._journal, self._count = title, server.journal, count
        self._journal.requests.clear()
        self._bytes = self._total_bytes()
        self._began = time.monotonic()

    def _total_bytes(self) -> tuple[int, int]:
        return sum(self._journal.bytes_in.values()), sum(self._journal.bytes_out.values())

    def report(self, seconds: float) -> None:
        requests = list(self._journal.requests)
        by_second = Counter(int(request.at) for request in requests)
        kinds = Counter(f"{each.asked.verb} {each.asked.resource}" for each in requests)
        failed = sum(each.status >= 400 for each in requests)
        into, out = (
            (now - before) / self._count / 1024
            for now, before in zip(self._total_bytes(), self._bytes, strict=True)
        )
        each = len(requests) / self._count
        lines = [
            f"{self._title}: {self._count} nodes, {seconds:,.0f} s",
            f"  requests a node         {each:.2f}",
            f"  requests a node, minute {each * 60 / seconds:.3f}",
            f"  peak requests a second  {max(by_second.values(), default=0)}",
            f"  KiB a node              {into:.1f} sent, {out:.1f} received",
            f"  errors                  {failed}",
            f"  by kind                 {_shares(kinds, self._count)}",
            f"  took                    {time.monotonic() - self._began:.0f} s",
        ]
        print("\n".join(lines), flush=True)


def _shares(kinds: Counter[str], count: int) -> str:
    return ", ".join(f"{kind} {number / count:.2f}" for kind, number in sorted(kinds.items()))


async def start_and_roll(count: int, before: Inventory, after: Inventory) -> None:
    async with fleet(count, before) as nodes, _running(nodes, lambda: random.uniform(0, MINUTE)):
        phase = Phase("start within a minute", nodes.server, count)
        await asyncio.sleep(MINUTE + 5)
        phase.report(MINUTE + 5)
        phase = Phase("rolling change of geometry", nodes.server, count)
        async with asyncio.TaskGroup() as tasks:
            for number, name in enumerate(nodes.stores):
                tasks.create_task(nodes.change(name, number * ROLL_SECONDS / count, after))
        await asyncio.sleep(5)
        phase.report(ROLL_SECONDS + 5)
        _check(nodes)


async def quiet(count: int, inventory: Inventory, seconds: float) -> None:
    async with fleet(count, inventory) as nodes, _running(nodes, lambda: random.uniform(0, MINUTE)):
        await asyncio.sleep(MINUTE + 5)
        phase = Phase("quiet", nodes.server, count)
        await asyncio.sleep(seconds)
        phase.report(seconds)


@contextlib.asynccontextmanager
async def _running(nodes: Fleet, after: Callable[[], float]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(nodes.run(name, after())) for name in nodes.stores]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [end for end in ends if not isinstance(end, asyncio.CancelledError | None)]
    if failures:
        raise ExceptionGroup("nodes ended", [e for e in failures if isinstance(e, Exception)])


def _check(nodes: Fleet) -> None:
    """Every Node has what its state says."""
    wrong = 0
    for name, store in nodes.stores.items():
        wanted = len(store.snapshot.inventory.gpus[0].mig_devices)
        labels = nodes.server.node(name)["metadata"]["labels"]
        counts = sum(int(v) for k, v in labels.items() if k.endswith("gb.count"))
        wrong += counts != wanted * len(store.snapshot.inventory.gpus)
    print(f"  Nodes with other labels {wrong}", flush=True)


def _run(main: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())  # type: ignore[arg-type]  # a coroutine function


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--quiet-nodes", type=int, default=10)
    parser.add_argument("--quiet-hours", type=float, default=24)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.nodes * FILES + 100 > hard:
        parser.error(f"{hard} open files allow {(hard - 100) // FILES} nodes")
    before = scan(parse_node("p4d.24xlarge:all-1g.5gb"))
    after = scan(parse_node("p4d.24xlarge:all-3g.20gb"))
    _run(lambda: start_and_roll(options.nodes, before, after))
    _run(lambda: quiet(options.quiet_nodes, before, options.quiet_hours * HOUR))
    return 0


if __name__ == "__main__":
    sys.exit(main())
