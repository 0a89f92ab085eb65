"""The HTTP server: listening with retries, a limit of connections, and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket

from msgspec import Struct

from plugin.core.denial import explained
from plugin.core.grammars import Address
from plugin.loops.backoff import delays
from plugin.web.http.connection import Answer, Connection, Limits
from plugin.web.http.tls import Certificate, Tls

__all__ = ["HttpServer", "Limits", "Tls"]

log = logging.getLogger(__name__)

_FIRST_RETRY, _LONGEST_RETRY = 0.5, 30.0
_BACKLOG = 128
#: The kernel lacks the address family, or has no address of it.
_ABSENT = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


class _Client(Struct, eq=False):
    """``connection`` is set after the handshake."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    peer: str
    since: float
    connection: Connection | None = None
    dropped: bool = False

    @property
    def rank(self) -> tuple[bool, float]:
        """Drop order: idle clients first, then the longest busy."""
        if self.connection is None:
            return True, self.since
        return not self.connection.idle, self.connection.since


class HttpServer:
    """Serves HTTP during :meth:`run`, or nothing without an `address`. Logs errors and never
    raises.
    """

    def __init__(
        self,
        address: Address | None,
        answer: Answer,
        *,
        tls: Tls | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._address = address
        self._answer = answer
        self._tls = tls
        self._limits = limits or Limits()
        self._certificate: Certificate | None = None
        self._open: dict[asyncio.Task[None], _Client] = {}
        self._serving = False
        #: The listening port; differs from the address if that has port 0.
        self.port: int | None = None
        self.listening = asyncio.Event()

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return len(self._open)

    async def run(self) -> None:
        """Listen until cancelled. Retries a taken address or an unusable certificate: kubelet needs
        no HTTP.
        """
        if self._address is None:
            return
        retry = delays(_FIRST_RETRY, _LONGEST_RETRY, random.random)
        while True:
            try:
                self._certificate = Certificate(self._tls) if self._tls else None
                listeners = await _listen(self._address)
            except OSError as error:
                wait = next(retry)
                log.error(  # noqa: TRY400 — a traceback would not help an administrator
                    "cannot serve HTTP, retrying",
                    extra={
                        "address": str(self._address),
                        "reason": str(error),
                        "seconds": round(wait, 1),
                    },
                )
                await asyncio.sleep(wait)
                continue
            break
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._drop_all)
            for listener in listeners:
                stack.callback(listener.close)
            self._serving = True
            for listener in listeners:
                stack.callback((await self._start(listener)).close)
            self.port = listeners[0].getsockname()[1]
            log.info(
                "serving HTTP",
                extra={
                    "address": str(self._address),
                    "port": self.port,
                    "tls": self._tls is not None,
                },
            )
            stack.callback(self.listening.clear)
            self.listening.set()
            await asyncio.Event().wait()

    async def _start(self, listener: socket.socket) -> asyncio.Server:
        # asyncio accepts as many clients at once as its backlog, and complains as often without a
        # free descriptor. With 1, other tasks run in between; the kernel's queue stays as long.
        server = await asyncio.start_server(
            self._accept, sock=listener, limit=self._limits.head_bytes, backlog=1
        )
        listener.listen(_BACKLOG)
        return server

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._serving:  # accepted just before the end
            writer.transport.abort()
            return
        if self._certificate is not None:
            # The handshake starts in the task, so that a client counts from its connection on;
            # until then nothing may be read.
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        if sum(not client.dropped for client in self._open.values()) >= self._limits.connections:
            self._drop_oldest()
        peer = "{}:{}".format(*writer.get_extra_info("peername"))
        client = _Client(reader, writer, peer, asyncio.get_running_loop().time())
        task = asyncio.create_task(self._serve(client), name="http connection")
        self._open[task] = client
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Not in the task: one that is cancelled before it starts closes nothing.
        self._open.pop(task).writer.transport.abort()

    def _drop_oldest(self) -> None:
        alive = [task for task, client in self._open.items() if not client.dropped]
        oldest = min(alive, key=lambda task: self._open[task].rank, default=None)
        if oldest is not None:
            self._open[oldest].dropped = True
            oldest.cancel()

    async def _drop_all(self) -> None:
        self._serving = False
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(self, client: _Client) -> None:
        try:
            if self._certificate is not None:
                await client.writer.start_tls(
                    self._certificate.context(), ssl_handshake_timeout=self._limits.head_seconds
                )
            client.connection = Connection(
                client.reader, client.writer, self._answer, self._limits, client.peer
            )
            await client.connection.run()
        except OSError as error:  # left, too slow, or no TLS
            reason = str(error) or type(error).__name__
            log.debug("connection broken", extra={"client": client.peer, "reason": reason})
        except Exception:
            log.exception("connection failed", extra={"client": client.peer})


async def _listen(where: Address) -> list[socket.socket]:
    """A listening socket for each address of the host. Raises OSError if there is none, or one is
    taken.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(
        where.host or None, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        absent: OSError | None = None
        for family, *_, address in dict.fromkeys(infos):
            # All families get the same port, even a port chosen by the kernel.
            chosen = listeners[0].getsockname()[1] if listeners else where.port
            try:
                listener = socket.create_server(
                    (address[0], chosen), family=family, backlog=_BACKLOG
                )
            except OSError as error:
                if error.errno not in _ABSENT:
                    what = f"listening on {address[0]} failed"
                    raise OSError(explained(what, error, user=os.geteuid(), port=chosen)) from error
                absent = error
                continue
            undo.callback(listener.close)
            listener.setblocking(False)  # noqa: FBT003 — the standard library's signature
            listeners.append(listener)
        if not listeners:
            raise absent or OSError(f"no address for {where.host}")
        undo.pop_all()
    return listeners
