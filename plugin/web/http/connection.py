"""One HTTP connection, with limits of size and time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import urlsplit

import h11
from msgspec import Struct

from plugin.web.http.message import Request, Response

log = logging.getLogger(__name__)

Answer = Callable[[Request], Awaitable[Response]]

#: Read size; the head may exceed its limit by this much.
_CHUNK = 4096
_LONGEST_LOGGED = 200


class Limits(Struct, frozen=True):
    """Limits per client. ``idle_seconds`` exceeds the usual minute between two scrapes."""

    connections: int = 64
    head_bytes: int = 16 * 1024
    head_seconds: float = 5.0
    body_bytes: int = 4096
    idle_seconds: float = 90.0
    write_seconds: float = 10.0
    linger_bytes: int = 64 * 1024
    linger_seconds: float = 1.0


class _Refused(Exception):
    """Answer with this status and close the connection."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Connection:
    """Serves one client until it leaves, fails, idles or is too slow. ``since`` is the start of the
    current step.

    ``idle`` is true between a response and the first byte of the next request. Times are the event
    loop's.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Answer,
        limits: Limits,
        peer: str,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._limits = limits
        self._peer = peer
        self._now = asyncio.get_running_loop().time
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self.idle = False
        self.since = self._now()
        # drain() then waits for the client rather than for room in our buffer.
        writer.transport.set_write_buffer_limits(high=0)

    async def run(self) -> None:
        """Raises OSError (including TimeoutError) when the client is gone or too slow for a
        response.
        """
        try:
            while await self._exchange():
                self._http.start_next_cycle()
                self.idle, self.since = True, self._now()
        finally:
            self._writer.transport.abort()

    async def _exchange(self) -> bool:
        """One request and its response; false if the connection must close."""
        started = time.perf_counter()
        request: Request | None = None
        try:
            request = await self._receive()
            if request is None:
                return False
            started = time.perf_counter()
            response = await self._respond(request)
        except _Refused as refused:
            response = Response(refused.status, f"{refused}\n".encode())
        except h11.RemoteProtocolError as error:
            response = Response(error.error_status_hint, f"{error}\n".encode())
        keep_alive = self._http.their_state is h11.DONE
        self.idle, self.since = False, self._now()
        await self._send(
            response,
            head_only=request is not None and request.method == "HEAD",
            close=not keep_alive,
        )
        log.debug(
            "request",
            extra={
                "method": request.method[:_LONGEST_LOGGED] if request else None,
                "path": request.path[:_LONGEST_LOGGED] if request else None,
                "status": response.status,
                "bytes": len(response.body),
                "seconds": round(time.perf_counter() - started, 6),
                "client": self._peer,
            },
        )
        if keep_alive and self._http.our_state is h11.DONE:
            return True
        await self._leave()
        return False

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except Exception:
            log.exception("request failed", extra={"path": request.path[:_LONGEST_LOGGED]})
            return Response(500, b"internal error; the log has the reason\n")

    # ---- reading

    async def _receive(self) -> Request | None:
        """The next request, its body discarded; ``None`` if the client left or sent nothing.

        Raises :class:`_Refused` and ``h11.RemoteProtocolError``.
        """
        limits = self._limits
        patience = limits.idle_seconds if self.idle else limits.head_seconds
        try:
            async with asyncio.timeout(patience) as deadline:
                event = await self._event(deadline)
                if not isinstance(event, h11.Request):
                    return None
                headers = _headers(event)
                # With both, a proxy may have parsed another request than we do (request smuggling).
                if "content-length" in headers and "transfer-encoding" in headers:
                    raise _Refused(400, "either Content-Length or Transfer-Encoding, not both")
                # h11 has checked that it is a short number.
                if (
                    headers.get("expect")
                    or int(headers.get("content-length", 0)) > limits.body_bytes
                ):
                    raise _Refused(413, "no request here takes a body")
                await self._discard_body(deadline)
        except TimeoutError:
            if self._http.their_state is h11.IDLE and not self._http.trailing_data[0]:
                return None
            raise _Refused(408, "the request took too long") from None
        return Request(event.method.decode(), _path(event.target), headers)

    async def _discard_body(self, deadline: asyncio.Timeout) -> None:
        size = 0
        while not isinstance(event := await self._event(deadline), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                size += len(event.data)
            if size > self._limits.body_bytes or not isinstance(event, h11.Data):
                raise _Refused(413, "no request here takes a body")

    async def _event(self, deadline: asyncio.Timeout) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self._reader.read(_CHUNK)
            if self.idle and data:
                self.idle, self.since = False, self._now()
                deadline.reschedule(self.since + self._limits.head_seconds)
            self._http.receive_data(data)

    # ---- writing

    async def _send(self, response: Response, *, head_only: bool, close: bool) -> None:
        headers = [("Date", formatdate(usegmt=True)), ("X-Content-Type-Options", "nosniff")]
        if response.status != HTTPStatus.NOT_MODIFIED:
            headers += [
                ("Content-Type", response.content_type),
                ("Content-Length", str(len(response.body))),
            ]
        headers += response.headers.items()
        if close:
            headers.append(("Connection", "close"))
        parts: list[h11.Event] = [
            h11.Response(
                status_code=response.status, headers=headers, reason=_phrase(response.status)
            )
        ]
        if response.body and not head_only and response.status != HTTPStatus.NOT_MODIFIED:
            parts.append(h11.Data(data=response.body))
        parts.append(h11.EndOfMessage())
        self._writer.write(b"".join(filter(None, map(self._http.send, parts))))
        async with asyncio.timeout(self._limits.write_seconds):
            await self._writer.drain()

    async def _leave(self) -> None:
        """Let the client read the response: closing with unread data would reset the connection."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._limits.linger_seconds):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                    left = self._limits.linger_bytes
                    while left > 0 and (data := await self._reader.read(_CHUNK)):
                        left -= len(data)
                self._writer.close()
                await self._writer.wait_closed()


def _phrase(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()


def _path(target: bytes) -> str:
    text = target.decode("ascii", "replace")
    if not text.startswith("/"):  # absolute form, as sent to proxies
        try:
            return urlsplit(text).path or "/"
        except ValueError:
            return text
    return text.partition("?")[0]


def _headers(event: h11.Request) -> MappingProxyType[str, str]:
    found: dict[str, str] = {}
    for raw, value in event.headers:
        name, text = raw.decode("ascii"), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return MappingProxyType(found)
