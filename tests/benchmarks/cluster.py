"""What the features that write to the cluster cost the node, with the API server there and away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.sim.apiserver.server import SimApiServer
from tests.benchmarks.allocation import METHOD
from tests.benchmarks.http2 import Connection
from tests.benchmarks.live import ask, free_port, get
from tests.benchmarks.node import DEVICES, Daemon, Node, Shared, new_node
from tests.benchmarks.row import Row

RUNS = 5
CHANGES = 5
TURNS, CALLS = 10, 500
#: Pods hold nothing here, so no Event about one is among it.
FEATURES = (
    "--node-labels",
    "--node-events",
    "--node-condition=MigDevicesHealthy",
    "--node-taint=nvidia.com/gpu-needs-reset:NoSchedule",
    "--startup-taint=nvidia.com/gpu-starting:NoSchedule",
)
_NAME = "gpu-1"
_SECONDS = 20.0


async def cluster(shared: Shared) -> Sequence[Row]:
    """All features on: start, memory, geometry on the Node, Allocate in an outage, and the end."""
    del shared
    listed, ends = [], []
    for run in range(-1, RUNS):
        async with _beside() as (node, daemon, server, _):
            took = (await node.listed() - daemon.started) * 1000
            await _becomes(lambda: _labels(server))
            await server.away()
            end = await daemon.stop()
        if run >= 0:
            listed.append(took)
            ends.append(end)
    address = f"127.0.0.1:{free_port()}"
    async with _beside(f"--http-address={address}", "--dcgm-names") as (
        node,
        daemon,
        server,
        control,
    ):
        await node.listed()
        await _becomes(lambda: _labels(server))
        there, away = await _allocations(node, server)
        changes = await _changes(control, server)
        for _ in range(5):
            await get(f"http://{address}/metrics")
            await asyncio.sleep(0.2)
        memory = daemon.memory_mib("VmRSS")
    return [
        Row(
            "process start → all 56 listed, cluster features on", "ms", tuple(listed), {"p50": 250}
        ),
        Row("geometry changed → on the Node", "ms", tuple(changes), {"max": 1000}),
        Row("resident memory, cluster features and all else on", "MiB", (memory,), {"max": 64}),
        Row("Allocate of 1, API server there", "µs", there),
        Row("Allocate of 1, API server away", "µs", away, note="by turns with the row above"),
        Row("SIGTERM → exit, API server away", "ms", tuple(ends), {"max": 500}),
    ]


async def _changes(control: Path, server: SimApiServer) -> list[float]:
    took = []
    for _ in range(CHANGES):
        for name, count in (("all-balanced", 16), ("all-1g.5gb", DEVICES)):
            began = time.perf_counter()
            await ask(control, "sim", "repartition", name)
            await _becomes(lambda: _labels(server).get("nvidia.com/mig-1g.5gb.count") == str(count))  # noqa: B023 — called before the next round
            took.append((time.perf_counter() - began) * 1000)
    return took


async def _allocations(
    node: Node, server: SimApiServer
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Microseconds with the API server there, and away. It goes often, so that the first attempts
    of an outage, which are the closest together, are among it.
    """
    device = node.kubelet.messages[-1].devices[0].id
    request = pb.AllocateRequest(
        container_requests=[pb.ContainerAllocateRequest(devices_ids=[device])]
    )
    there: tuple[float, ...] = ()
    away: tuple[float, ...] = ()
    with Connection(node.socket(), METHOD, request.SerializeToString()) as connection:
        await asyncio.to_thread(connection.measure, 500, 1)
        for _ in range(TURNS):
            there += await asyncio.to_thread(connection.measure, CALLS, 1)
            await server.away()
            away += await asyncio.to_thread(connection.measure, CALLS, 1)
            await server.back()
            await asyncio.sleep(0.5)
    return there, away


@asynccontextmanager
async def _beside(*options: str) -> AsyncIterator[tuple[Node, Daemon, SimApiServer, Path]]:
    async with new_node() as node, SimApiServer() as server:
        server.add_node(_NAME)
        path = node.directory / "control" / "kubeconfig"
        path.parent.mkdir()
        path.write_text(json.dumps(_kubeconfig(server.port)), encoding="utf-8")
        control = path.with_name("control.sock")
        more = (
            f"--kubeconfig={path}",
            f"--node-name={_NAME}",
            f"--control-socket={control}",
            f"--ledger-file={path.with_name('ledger.json')}",
        )
        async with node.daemon(*FEATURES, *more, *options) as daemon:
            yield node, daemon, server, control


def _kubeconfig(port: int) -> dict[str, object]:
    return {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": ""}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
    }


def _labels(server: SimApiServer) -> Mapping[str, str]:
    found: Mapping[str, str] = server.node(_NAME)["metadata"]["labels"]
    return {key: value for key, value in found.items() if key.startswith("nvidia.com/")}


async def _becomes(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not condition():  # noqa: ASYNC110 — the server announces nothing
            await asyncio.sleep(0.001)
