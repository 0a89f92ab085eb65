"""A client and the stand-in API server that it talks to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from plugin.cluster.client import ApiClient
from plugin.cluster.credentials import Fixed, Server
from plugin.cluster.http import Limits, Transport
from plugin.cluster.pacing import Pacing
from plugin.cluster.reflector import Reflector
from plugin.core.cluster import Collection, Event, EventType, NodeMetadata, Pod, Subject
from plugin.sim.apiserver.rbac import User
from plugin.sim.apiserver.server import SimApiServer

T = TypeVar("T")

NODE = "gpu-1"


@dataclass
class Talk:
    """``client`` asks about :data:`NODE`."""

    server: SimApiServer
    client: ApiClient


def client_of(server: SimApiServer, token: str | None = None, **limits: float) -> ApiClient:
    credentials = Fixed(Server("127.0.0.1", server.port, tls=False), token_text=token)
    transport = Transport(credentials, Limits(**limits))  # type: ignore[arg-type]
    return ApiClient(NODE, credentials, transport=transport, pacing=Pacing(lambda: 0.5))


@contextlib.asynccontextmanager
async def talking(users: dict[str, User] | None = None) -> AsyncIterator[Talk]:
    """A server with one Node, and a client; with users the client has the first one's token."""
    async with SimApiServer(users=users) as server:
        server.add_node(NODE, labels={"zone": "a"})
        client = client_of(server, next(iter(users)) if users else None)
        try:
            yield Talk(server, client)
        finally:
            client.close()


@contextlib.asynccontextmanager
async def running(*watched: Reflector[NodeMetadata] | Reflector[Pod]) -> AsyncIterator[None]:
    """Follow until the end of the block."""
    tasks = [asyncio.create_task(each.run()) for each in watched]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(
    watched: Reflector[T], condition: Callable[[Collection[T]], object], seconds: float = 7200
) -> Collection[T]:
    """Wait for a collection of which `condition` is true."""
    async with asyncio.timeout(seconds):
        while not condition(known := watched.now):
            await watched.newer_than(known.generation)
    return known


def happening(name: str = "gpu-1.1", note: str = "XID 48 on MIG device 3") -> Event:
    return Event(
        name,
        Subject("Node", NODE, NODE),
        EventType.WARNING,
        "DeviceUnhealthy",
        "TakeOutOfService",
        note,
        1_700_000_000.25,
    )
