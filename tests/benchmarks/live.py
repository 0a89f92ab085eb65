"""How long until kubelet knows what happened to the hardware,
and what a look at the daemon costs.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.node import DEVICES, RESOURCE, Node, Shared, new_node
from tests.benchmarks.row import Row

GEOMETRY_CHANGES = 10
SCRAPES = 60
HOUR = "3600"


async def xid(shared: Shared) -> Sequence[Row]:
    """XID → Unhealthy at kubelet, for each of the 56 devices, twice.

    Timed from the moment the command that sends the XID is written to the daemon's control socket,
    so that the way in is part of the number.
    """
    del shared
    took = []
    async with _controlled(f"--quiet-period={HOUR}") as (node, control):
        where = {
            device["uuid"]: f"{gpu['index']}:{device['index']}"
            for gpu in (await ask(control, "status"))["gpus"]
            for device in gpu["migDevices"]
        }
        for uuid, target in (*where.items(), *where.items()):
            only = functools.partial(lambda one: _down(node) == {one}, uuid)
            took.append(await until(node, control, ("sim", "xid", target, "95"), only))
            await ask(control, "clear", target)
            await node.kubelet.wait_for(lambda: not _down(node))
    return [Row("XID → Unhealthy listed, for 56 of 56", "ms", tuple(took), {"p50": 3, "p99": 20})]


async def geometry(shared: Shared) -> Sequence[Row]:
    """A changed geometry → its new resources listed, from the writing of the command."""
    del shared
    took = []
    async with _controlled() as (node, control):
        for _ in range(GEOMETRY_CHANGES):
            for name, counts in (("all-balanced", (16, 8, 8)), ("all-1g.5gb", (DEVICES, 0, 0))):
                resources = [RESOURCE, "nvidia.com/mig-2g.10gb", "nvidia.com/mig-3g.20gb"]
                wanted = dict(zip(resources, counts, strict=True))
                done = functools.partial(offers, node, wanted)
                took.append(await until(node, control, ("sim", "repartition", name), done))
    return [Row("geometry changed → new resources listed", "ms", tuple(took), {"p50": 100})]


async def scrape(shared: Shared) -> Sequence[Row]:
    """A scrape of ``/metrics`` with everything on, and memory with it."""
    del shared
    address = f"127.0.0.1:{free_port()}"
    took = []
    async with (
        new_node() as node,
        node.daemon(f"--http-address={address}", "--dcgm-names") as daemon,
    ):
        await node.listed()
        size = len(await get(f"http://{address}/metrics"))
        for _ in range(SCRAPES):
            await asyncio.sleep(
                0.05
            )  # the server leaves the loop to kubelet for a while after each answer
            began = time.perf_counter()
            await get(f"http://{address}/metrics")
            took.append((time.perf_counter() - began) * 1000)
        memory = daemon.memory_mib("VmRSS")
    return [
        Row(
            "scrape of /metrics, everything on",
            "ms",
            tuple(took),
            {"p50": 10},
            note=f"{size // 1024} KiB",
        ),
        Row("resident memory after it, everything on", "MiB", (memory,), {"max": 64}),
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def offers(node: Node, wanted: Mapping[str, int]) -> bool:
    return all(node.kubelet.allocatable(resource) == count for resource, count in wanted.items())


def _down(node: Node) -> set[str]:
    return {name for name, device in node.kubelet.devices(RESOURCE).items() if not device.healthy}


@asynccontextmanager
async def _controlled(*options: str) -> AsyncIterator[tuple[Node, Path]]:
    """A node with a daemon that listens on a control socket; ready when its events are watched."""
    async with new_node() as node, controlled(node, *options) as control:
        yield node, control


@asynccontextmanager
async def controlled(node: Node, *options: str) -> AsyncIterator[Path]:
    """The same on a node that is there."""
    control = node.directory / "control" / "control.sock"
    async with node.daemon(f"--control-socket={control}", *options) as daemon:
        await node.listed()
        async with asyncio.timeout(10):
            while (  # noqa: ASYNC110
                "watching events" not in daemon.log.read_text(encoding="utf-8")
                or not control.exists()
            ):
                await asyncio.sleep(0.01)
        yield control


async def until(
    node: Node, control: Path, command: tuple[str, ...], done: Callable[[], bool]
) -> float:
    """Milliseconds from the writing of a command until `done` at kubelet."""
    reader, writer = await asyncio.open_unix_connection(control)
    began = time.perf_counter()
    writer.write(_request(command))
    await node.kubelet.wait_for(done)
    took = (time.perf_counter() - began) * 1000
    await reader.read()
    writer.close()
    return took


async def ask(control: Path, *command: str) -> Any:
    reader, writer = await asyncio.open_unix_connection(control)
    writer.write(_request(command))
    answer = json.loads(await reader.readline())["ok"]
    writer.close()
    return answer


def _request(command: Sequence[str]) -> bytes:
    return json.dumps({"verb": command[0], "arguments": command[1:]}).encode() + b"\n"


async def get(url: str) -> bytes:
    for _ in range(200):  # the server comes up a moment after the first registration
        try:
            return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read())  # noqa: S310
        except OSError:
            await asyncio.sleep(0.02)
    raise TimeoutError(f"{url} does not answer")
