"""Runs the measurements that are named, or all of them, and prints a table.

The exit status is 1 only when something could not be measured; what is over its budget says so in
the table.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

# gRPC reads this when it is imported. It reports every restart of the stand-in kubelet, which here
# is on purpose.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from tests.benchmarks import (
    allocation,
    cluster,
    live,
    partition,
    preference,
    registration,
    resources,
    table,
)
from tests.benchmarks.node import Shared
from tests.benchmarks.row import Row

Benchmark = Callable[[Shared], Awaitable[Sequence[Row]]]

#: In the order in which they run: memory is looked at after the load.
BENCHMARKS: Mapping[str, Benchmark] = {
    "start": registration.start,
    "kubelet-restart": registration.kubelet_restart,
    "own-socket": registration.own_socket,
    "allocate": allocation.allocate,
    "xid": live.xid,
    "geometry": live.geometry,
    "partition": partition.partition,
    "scrape": live.scrape,
    "memory": resources.memory,
    "idle": resources.idle,
    "preferred": preference.preferred,
    "exit": registration.exit_,
    "cluster": cluster.cluster,
}


async def measure(names: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
    """``(rows, {name: why it could not be measured})``; one failure does not keep the others from
    running.
    """
    rows: list[Row] = []
    failures: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        shared = Shared(stack)
        for name, benchmark in BENCHMARKS.items():
            if name not in names:
                continue
            sys.stderr.write(f"measuring {name} …\n")
            try:
                rows += await benchmark(shared)
            except Exception as error:  # noqa: BLE001 — whatever it is, the other rows are still wanted
                failures[name] = f"{type(error).__name__}: {error}"
    return rows, failures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure against the budgets."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)} (default: all)"
    )
    names: list[str] = parser.parse_args().names
    logging.getLogger().addHandler(logging.NullHandler())  # what is measured here has a log too
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"{name!r} is no measurement; choose from {', '.join(BENCHMARKS)}")
    rows, failures = asyncio.run(measure(names or list(BENCHMARKS)))
    table.show(rows, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
