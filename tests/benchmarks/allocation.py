"""What an Allocate costs, from a client that costs nothing and from a Python one."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.sim.kubelet.wire import PluginConnection
from tests.benchmarks.http2 import Connection
from tests.benchmarks.node import RESOURCE, Shared
from tests.benchmarks.row import Row, Statistic

WARM_UP = 500
CALLS = 5_000
TURNS = 20
OUTSTANDING = 8
#: What an Allocate may take, as a multiple of a call to a server that does nothing.
OF_EMPTY = 1.5
PYTHON_CALLS = 1_000

METHOD = "/v1beta1.DevicePlugin/Allocate"


async def allocate(shared: Shared) -> Sequence[Row]:
    """Allocate of one device on kubelet's way: one connection over the unix socket."""
    node, _ = await shared.get()
    device = node.kubelet.messages[-1].devices[0].id
    path = node.socket()
    async with _empty_server(node.directory / "empty.sock") as empty:
        # In a thread: the stand-in kubelet shares this process and must go on reading its stream.
        sequential, nothing, concurrent = await asyncio.to_thread(_raw, path, empty, device)
    floor = Row("  of which gRPC, without any work", "µs", nothing)
    budget: dict[Statistic, float] = {"p50": round(OF_EMPTY * floor.value("p50")), "p99": 1000}
    row = Row("Allocate of 1, sequential", "µs", sequential, budget)
    return [
        row,
        replace(floor, note=f"{floor.value('p50') / row.value('p50'):.0%} of Allocate"),
        Row(f"Allocate of 1, {OUTSTANDING} outstanding", "µs", concurrent, note=_rate(concurrent)),
        Row(
            "Allocate of 1, from Python's gRPC",
            "µs",
            await _python(path, device),
            note="mostly the client",
        ),
    ]


def _raw(
    path: Path, empty: Path, device: str
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Microseconds of sequential calls, of such calls to the empty server,
    and of concurrent calls.
    """
    request = pb.AllocateRequest(
        container_requests=[pb.ContainerAllocateRequest(devices_ids=[device])]
    )
    body = request.SerializeToString()
    sequential: tuple[float, ...] = ()
    nothing: tuple[float, ...] = ()
    with Connection(path, METHOD, body) as daemon, Connection(empty, METHOD, body) as floor:
        answer = pb.AllocateResponse.FromString(daemon.call())
        if answer.container_responses[0].envs["NVIDIA_VISIBLE_DEVICES"] != device:
            raise RuntimeError(f"Allocate of {device} answered {answer}")
        daemon.measure(WARM_UP, 1)
        floor.measure(WARM_UP, 1)
        # By turns, since a virtual machine is not equally fast at all times.
        for _ in range(TURNS):
            sequential += daemon.measure(CALLS // TURNS, 1)
            nothing += floor.measure(CALLS // TURNS, 1)
        return sequential, nothing, daemon.measure(CALLS, OUTSTANDING)


@asynccontextmanager
async def _empty_server(path: Path) -> AsyncIterator[Path]:
    command = ("-m", "tests.benchmarks.empty_server", str(path))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    try:
        if process.stdout is None or not await process.stdout.readline():
            raise RuntimeError("the empty server did not start")
        yield path
    finally:
        process.kill()
        await process.wait()


def _rate(samples: tuple[float, ...]) -> str:
    """Calls a second, by Little's law."""
    return f"{OUTSTANDING / (sum(samples) / len(samples)) * 1e6:,.0f} a second"


async def _python(path: Path, device: str) -> tuple[float, ...]:
    connection = PluginConnection(RESOURCE, path.name, path)
    took = []
    try:
        for _ in range(PYTHON_CALLS):
            before = time.perf_counter_ns()
            await connection.allocate([device])
            took.append((time.perf_counter_ns() - before) / 1000)
    finally:
        await connection.close()
    return tuple(took)
