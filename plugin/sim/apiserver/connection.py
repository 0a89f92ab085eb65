"""One client's connection: HTTP, authentication and faults around the API."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import h11
from msgspec import Struct, field

from plugin.sim.apiserver import discovery, rbac, requests
from plugin.sim.apiserver.api import SILENCE, Api
from plugin.sim.apiserver.faults import Fault, Faults, How
from plugin.sim.apiserver.journal import Journal, Recorded
from plugin.sim.apiserver.refusal import Refused
from plugin.sim.apiserver.requests import Asked

_CHUNK = 64 * 1024
_BODY_BYTES = 3 * 2**20
_FOREVER = 10**9
_NOWHERE = rbac.Attributes("", "", "", "", "")


class Service(Struct):
    """What all connections share. ``users`` are by bearer token; without any, everybody may do
    everything.
    """

    api: Api
    faults: Faults = field(default_factory=Faults)
    journal: Journal = field(default_factory=Journal)
    users: dict[str, rbac.User] = field(default_factory=dict)

    def user(self, token: str | None) -> rbac.User | None:
        """``None`` for an unknown token."""
        return self.users.get(token or "") if self.users else rbac.ADMIN


class _Closed(Exception):
    """End the connection, without more."""


class Connection:
    """Serves requests until the client leaves or a fault ends it."""

    def __init__(
        self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._service = service
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        try:
            while await self._exchange():
                self._http.start_next_cycle()
        except (OSError, _Closed, h11.ProtocolError):
            pass
        finally:
            self._writer.transport.abort()

    async def _exchange(self) -> bool:
        """One request; whether another may follow."""
        event = await self._event()
        if not isinstance(event, h11.Request):
            return False
        headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        body = b""
        while isinstance(data := await self._event(), h11.Data):
            body += data.data
            if len(body) > _BODY_BYTES:
                await self._send(413, b"", _NOWHERE)
                return False
        await self._answer(event.method.decode(), event.target.decode(), headers, body)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_CHUNK))
        return event

    async def _answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        if method == "GET" and (known := discovery.document(target.partition("?")[0])):
            await self._send(200, json.dumps(known).encode(), _NOWHERE)
            return
        service, asked, user, status = self._service, None, None, 0
        try:
            asked = requests.parse(method, target, headers, body)
            user = service.user(headers.get("authorization", "").removeprefix("Bearer ") or None)
            fault = service.faults.take(asked.what)
            if fault is not None:
                await self._faulty(fault, asked)
            rbac.check(user, asked.what)
            if asked.what.verb == "watch":
                service.api.check_watch(asked)
                status = 200
                self._record(asked, user, status)
                await self._stream(asked)
                return
            status, document = service.api.answer(asked)
            payload: Any = document
            extra: dict[str, str] = {}
        except Refused as refused:
            status, payload = refused.code, refused.status
            extra = {"Retry-After": refused.retry_after} if refused.retry_after else {}
        except _Closed:
            if asked is not None:
                self._record(asked, user, 0)
            raise
        if asked is not None:
            self._record(asked, user, status)
        text = json.dumps(payload, separators=(",", ":")).encode()
        await self._send(status, text, asked.what if asked else _NOWHERE, extra)

    def _record(self, asked: Asked, user: rbac.User | None, status: int) -> None:
        try:
            body = json.loads(asked.body) if asked.body else None
        except ValueError:
            body = asked.body
        at = asyncio.get_running_loop().time()
        name = user.name if user is not None else ""
        record = Recorded(at, name, asked.what, asked.query, asked.headers, body, status)
        self._service.journal.record(record, len(asked.body))

    async def _faulty(self, fault: Fault, asked: Asked) -> None:
        await asyncio.sleep(fault.delay)
        if fault.refusal is not None:
            raise fault.refusal
        if fault.how is None:
            return
        match fault.how:
            case How.SILENT:
                self._record(asked, None, 0)
                await asyncio.sleep(_FOREVER)
            case How.BROKEN:
                self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            case How.GARBAGE:
                self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
            case How.NOT_HTTP:
                self._writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            case How.ENDLESS:
                self._writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    self._writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                    await self._writer.drain()
            case How.CLOSED:
                pass
        await self._writer.drain()
        self._writer.close()  # what was written still goes out
        await self._writer.wait_closed()
        raise _Closed

    async def _stream(self, asked: Asked) -> None:
        self._write(
            h11.Response(
                status_code=200,
                headers=[("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")],
            )
        )
        await self._writer.drain()
        forwarding = asyncio.create_task(self._forward(asked), name="watch")
        leaving = asyncio.create_task(self._reader.read(1), name="client leaves")
        both = {forwarding, leaving}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
        if forwarding.cancelled() or not forwarding.result():
            raise _Closed
        self._write(h11.EndOfMessage())
        await self._writer.drain()

    async def _forward(self, asked: Asked) -> bool:
        """Whether the watch came to an orderly end."""
        async with contextlib.aclosing(self._service.api.watch(asked)) as lines:
            async for line in lines:
                if line is SILENCE:
                    await asyncio.sleep(_FOREVER)
                if not isinstance(line, bytes):
                    return False
                self._service.journal.sent(asked.what, len(line))
                self._write(h11.Data(data=line))
                await self._writer.drain()
        return True

    async def _send(
        self,
        status: int,
        body: bytes,
        what: rbac.Attributes,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        self._service.journal.sent(what, len(body))
        self._write(
            h11.Response(status_code=status, headers=headers + list((extra or {}).items())),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        await self._writer.drain()

    def _write(self, *events: h11.Event) -> None:
        self._writer.write(b"".join(filter(None, map(self._http.send, events))))
