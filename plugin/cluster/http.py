"""HTTP/1.1 to one server over h11: short exchanges and streams, with limits of size and time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

import h11
from msgspec import Struct, field

from plugin.cluster.credentials import Credentials, Server
from plugin.cluster.failures import TooLarge, translated

_CHUNK = 64 * 1024
#: (option, value): a peer that has vanished is noticed after a minute and a half.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class Limits(Struct, frozen=True):
    """``line_bytes`` exceeds the largest object that etcd stores (1.5 MiB)."""

    connect_seconds: float = 10.0
    exchange_seconds: float = 30.0
    idle_seconds: float = 20.0
    body_bytes: int = 32 * 2**20
    line_bytes: int = 4 * 2**20


class Request(Struct, frozen=True):
    """``target`` is path and query."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes = b""


class Answer(Struct, frozen=True):
    """Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class _Connection:
    """One connection; what has failed or was cancelled in an exchange must be closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)
        self.received = False  # anything of the current answer

    def send(self, server: Server, request: Request) -> None:
        self.received = False
        headers = [("Host", server.authority), *request.headers.items()]
        if request.body:
            headers.append(("Content-Length", str(len(request.body))))
        events: list[h11.Event] = [
            h11.Request(
                method=request.method, target=f"{server.path}{request.target}", headers=headers
            )
        ]
        if request.body:
            events.append(h11.Data(data=request.body))
        events.append(h11.EndOfMessage())
        self._writer.write(b"".join(filter(None, map(self._http.send, events))))

    async def head(self) -> Answer:
        while True:
            event = await self.event()
            if isinstance(event, h11.Response):
                names = {
                    name.decode("ascii"): value.decode("latin-1") for name, value in event.headers
                }
                return Answer(event.status_code, MappingProxyType(names))
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the server closed the connection")

    async def body(self, limit: int) -> bytes:
        parts, size = [], 0
        while isinstance(event := await self.event(), h11.Data):
            size += len(event.data)
            if size > limit:
                raise TooLarge(f"more than {limit} bytes")
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_CHUNK)
            self._http.receive_data(data)
            if data:
                self.received = True
            elif not self.received:
                raise ConnectionResetError("the server closed the connection")
            else:
                with contextlib.suppress(h11.RemoteProtocolError):
                    return self._http.next_event()
                raise EOFError("the answer broke off")
        return event

    def reusable(self) -> bool:
        """Make it ready for another exchange, if both sides allow one."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return not self._reader.at_eof()

    def close(self) -> None:
        self._writer.transport.abort()


class Transport:
    """Exchanges with the server of the credentials. Raises :class:`ClusterUnreachable`.

    One connection stays open between exchanges that follow within `idle_seconds`; a stream has its
    own. A kept connection that the server has closed meanwhile is replaced once: every request here
    may be sent twice without harm.
    """

    def __init__(self, credentials: Credentials, limits: Limits | None = None) -> None:
        self.credentials = credentials
        self.limits = limits or Limits()
        self._kept: _Connection | None = None
        self._kept_with: object = None
        self._closing: asyncio.TimerHandle | None = None

    async def exchange(self, request: Request) -> Answer:
        server = self.credentials.server
        with translated(f"{request.method} {server}{request.target}"):
            async with asyncio.timeout(self.limits.exchange_seconds):
                context = self.credentials.context()
                kept = self._take(context)
                if kept is not None:
                    with contextlib.suppress(ConnectionError):
                        return await self._exchange(kept, context, request)
                return await self._exchange(await self._connect(context), context, request)

    async def _exchange(
        self, connection: _Connection, context: ssl.SSLContext | None, request: Request
    ) -> Answer:
        keep = False
        try:
            connection.send(self.credentials.server, request)
            head = await connection.head()
            body = await connection.body(self.limits.body_bytes)
            keep = connection.reusable()
            return Answer(head.status, head.headers, body)
        except ConnectionError as error:
            if connection.received:  # the connection was not stale
                raise EOFError("the answer broke off") from error
            raise
        finally:
            if keep:
                self._keep(connection, context)
            else:
                connection.close()

    @contextlib.asynccontextmanager
    async def stream(
        self, request: Request, idle_seconds: float
    ) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """A request whose answer comes in lines: the answer's head, with the body unless its status
        is 200, and the lines. `idle_seconds` is the longest silence.
        """
        server = self.credentials.server
        doing = f"{request.method} {server}{request.target}"
        with translated(doing):
            async with asyncio.timeout(self.limits.connect_seconds):
                connection = await self._connect(self.credentials.context())
        try:
            with translated(doing):
                connection.send(server, request)
                async with asyncio.timeout(self.limits.exchange_seconds):
                    answer = await connection.head()
                    if answer.status != 200:  # noqa: PLR2004
                        body = await connection.body(self.limits.body_bytes)
                        answer = Answer(answer.status, answer.headers, body)
            yield answer, self._lines(connection, doing, idle_seconds)
        finally:
            connection.close()

    async def _lines(
        self, connection: _Connection, doing: str, idle_seconds: float
    ) -> AsyncIterator[bytes]:
        rest = bytearray()
        with translated(doing):
            while True:
                async with asyncio.timeout(idle_seconds):
                    event = await connection.event()
                if not isinstance(event, h11.Data):
                    break
                start = len(rest)
                rest += event.data
                while (end := rest.find(b"\n", start)) >= 0:
                    line = bytes(rest[:end])
                    del rest[: end + 1]
                    start = 0
                    if line.strip():
                        yield line
                if len(rest) > self.limits.line_bytes:
                    raise TooLarge(f"a line of more than {self.limits.line_bytes} bytes")
            if rest.strip():
                raise EOFError("the stream broke off within a line")

    async def _connect(self, context: ssl.SSLContext | None) -> _Connection:
        server = self.credentials.server
        async with asyncio.timeout(self.limits.connect_seconds):
            reader, writer = await asyncio.open_connection(
                server.host,
                server.port,
                ssl=context,
                server_hostname=(server.name or server.host) if context else None,
                limit=_CHUNK,
            )
        raw = writer.get_extra_info("socket")
        if raw is not None and raw.family in {socket.AF_INET, socket.AF_INET6}:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                if hasattr(socket, option):
                    raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return _Connection(reader, writer)

    def _take(self, context: object) -> _Connection | None:
        """The kept connection, unless another context has replaced that of its handshake."""
        kept, self._kept = self._kept, None
        if self._closing is not None:
            self._closing.cancel()
        if kept is not None and self._kept_with is not context:
            kept.close()
            return None
        return kept

    def _keep(self, connection: _Connection, context: object) -> None:
        self.close()
        self._kept, self._kept_with = connection, context
        loop = asyncio.get_running_loop()
        self._closing = loop.call_later(self.limits.idle_seconds, self.close)

    def close(self) -> None:
        """Close the kept connection."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None
