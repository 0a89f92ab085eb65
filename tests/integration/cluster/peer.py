"""A client of the stand-in that knows nothing about Kubernetes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from plugin.cluster.credentials import Fixed, Server
from plugin.cluster.http import Answer, Request, Transport
from plugin.sim.apiserver.server import SimApiServer

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
NODE = "/api/v1/nodes/n"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


class Peer:
    """A client that knows nothing."""

    def __init__(self, server: SimApiServer, token: str | None = None) -> None:
        self.server = server
        self.transport = Transport(Fixed(Server("127.0.0.1", server.port, tls=False)))
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        kind: str = JSON,
        **more: str,
    ) -> tuple[int, Any]:
        headers = {**self.headers, "Content-Type": kind, **more}
        raw = b"" if body is None else json.dumps(body).encode()
        answer = await self.transport.exchange(Request(method, target, headers, raw))
        return answer.status, json.loads(answer.body)

    async def patch(self, body: Any, kind: str = MERGE, target: str = NODE) -> tuple[int, Any]:
        return await self.ask("PATCH", target, body, kind)

    @asynccontextmanager
    async def watch(self, query: str) -> AsyncIterator[tuple[Answer, AsyncIterator[Any]]]:
        async def documents(lines: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for line in lines:
                yield json.loads(line)

        target = f"/api/v1/nodes?watch=true&{query}"
        async with self.transport.stream(Request("GET", target), 10_000) as (answer, lines):
            yield answer, documents(lines)


@asynccontextmanager
async def serving() -> AsyncIterator[Peer]:
    async with SimApiServer() as server:
        server.add_node("n", labels={"zone": "a"})
        peer = Peer(server)
        yield peer
        peer.transport.close()
