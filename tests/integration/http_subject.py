"""A running HTTP server and a client that speaks bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable

import pytest

from plugin.core.grammars import Address
from plugin.core.view import View
from plugin.web.http.server import HttpServer, Limits, Tls
from plugin.web.routes import Site
from tests.web.scenes import balanced

from .waiting import SECONDS

LOOPBACK = Address("127.0.0.1", 0)
GET = b"GET %s HTTP/1.1\r\nHost: node\r\n\r\n"
LAST = b"GET %s HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"


class Subject:
    """A running server and what it is asked about."""

    def __init__(
        self,
        address: Address | None = LOOPBACK,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.view: Callable[[], View] = lambda: SEEN
        self.metrics = b"up 1\n"
        site = Site(self._see, hostname="node-7", hosts=("node", "a"), render_metrics=self._render)
        self.server = HttpServer(address, site, tls=tls, limits=limits)

    def _see(self) -> View:
        return self.view()

    def _render(
        self, view: View, *, openmetrics: bool, dcgm_names: bool, hostname: str
    ) -> tuple[bytes, str]:
        assert view is SEEN
        assert (dcgm_names, hostname) == (False, "node-7")
        return self.metrics, "application/openmetrics-text" if openmetrics else "text/plain"

    async def connect(self, context: ssl.SSLContext | None = None) -> Client:
        port = self.server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=2**25)
        return Client(reader, writer)

    async def ask(self, request: bytes) -> Answer:
        """The answer on a connection of its own, which the server has to close."""
        client = await self.connect()
        answer = await client.ask(request)
        assert await client.rest() == b""
        client.close()
        return answer


SEEN = balanced()


class Answer:
    def __init__(self, head: bytes, body: bytes) -> None:
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in lines if line)
        }
        self.body = body


class Client:
    """Speaks bytes. Waits are limited; the server has no part in that."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self, *, body: bool = True) -> Answer:
        async with asyncio.timeout(SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            response = Answer(head, b"")
            if body and "content-length" in response.headers:
                response.body = await self._reader.readexactly(
                    int(response.headers["content-length"])
                )
        return response

    async def ask(self, request: bytes) -> Answer:
        self.send(request)
        return await self.answer(body=not request.startswith(b"HEAD"))

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, in whatever way."""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                return await self._reader.read()
        return b""

    def close(self) -> None:
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(subject: Subject) -> AsyncIterator[Subject]:
    """The server in its task, which must not fail."""
    running = asyncio.create_task(subject.server.run())
    try:
        async with asyncio.timeout(SECONDS):
            await subject.server.listening.wait()
        yield subject
        assert not running.done()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]
