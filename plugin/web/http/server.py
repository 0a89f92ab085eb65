"""The HTTP server: an address that may be taken, connections that are counted, and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plugin.core.grammars import Address
from plugin.core.view import View
from plugin.loops.backoff import delays
from plugin.web.health import HUNG_SECONDS
from plugin.web.http.connection import Connection, Limits
from plugin.web.http.tls import Certificate, Tls
from plugin.web.routes import RenderMetrics, Site

__all__ = ["Limits", "Tls", "WebServer"]

log = logging.getLogger(__name__)

_FIRST_RETRY, _LONGEST_RETRY = 0.5, 30.0
#: Without file descriptors nothing can be accepted; this long until the next attempt.
_PAUSE_SECONDS = 0.5
_BACKLOG = 128
#: A family that the kernel does not have, or of which it has no address.
_ABSENT = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


@dataclass(slots=True, eq=False)
class _Client:
    """Somebody who connected at `since`; ``connection`` is there after the handshake."""

    socket: socket.socket
    peer: str
    since: float
    connection: Connection | None = None
    dropped: bool = False

    @property
    def rank(self) -> tuple[bool, float]:
        """Whom to drop first: whoever has its answer and idles, then whoever has kept us busy for
        the longest.
        """
        if self.connection is None:
            return True, self.since
        return not self.connection.idle, self.connection.since


class WebServer:
    """Serves HTTP while :meth:`run` runs. Whatever happens here is logged and never raised.

    Without an `address` it serves nothing.
    """

    def __init__(
        self,
        address: Address | None,
        view: Callable[[], View],
        *,
        tls: Tls | None = None,
        dcgm_names: bool = False,
        hostname: str = "",
        hung_seconds: float = HUNG_SECONDS,
        limits: Limits | None = None,
        render_metrics: RenderMetrics | None = None,
    ) -> None:
        self._address = address
        self._site = Site(
            view,
            hostname=hostname,
            dcgm_names=dcgm_names,
            hung_seconds=hung_seconds,
            render_metrics=render_metrics,
        )
        self._tls = tls
        self._limits = limits or Limits()
        self._certificate: Certificate | None = None
        self._open: dict[asyncio.Task[None], _Client] = {}
        #: The port, once it listens; other than in the address when that says 0.
        self.port: int | None = None
        self.listening = asyncio.Event()

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return len(self._open)

    async def run(self) -> None:
        """Listen until cancelled. A taken address or an unusable certificate is tried again:
        kubelet needs no HTTP.
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
                log.error(  # noqa: TRY400 — an administrator's matter, which has no use for a traceback
                    "HTTP is not served, trying again",
                    extra={
                        "address": str(self._address),
                        "reason": str(error),
                        "seconds": round(wait, 1),
                    },
                )
                await asyncio.sleep(wait)
                continue
            break
        self.port = listeners[0].getsockname()[1]
        log.info(
            "serving HTTP",
            extra={"address": str(self._address), "port": self.port, "tls": self._tls is not None},
        )
        self.listening.set()
        try:
            for listener in listeners:
                self._listen_to(listener)
            await asyncio.Event().wait()
        finally:
            self.listening.clear()
            for listener in listeners:
                asyncio.get_running_loop().remove_reader(listener)
                listener.close()
            await self._drop_all()

    def _listen_to(self, listener: socket.socket) -> None:
        # Not with sock_accept: when that is cancelled, a connection that has just been accepted is
        # lost unclosed.
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take one connection; the loop calls again while there are more, and lets others run
        between.
        """
        loop = asyncio.get_running_loop()
        try:
            accepted, peer = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it left at once
        except OSError as error:
            log.warning("no connection can be accepted", extra={"reason": str(error)})
            self._drop_oldest()
            loop.remove_reader(listener)
            loop.call_later(_PAUSE_SECONDS, self._listen_to, listener)
            return
        if sum(not client.dropped for client in self._open.values()) >= self._limits.connections:
            self._drop_oldest()
        client = _Client(accepted, f"{peer[0]}:{peer[1]}", loop.time())
        task = asyncio.create_task(self._serve(client), name="http connection")
        self._open[task] = client
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        client = self._open.pop(task)
        if (
            client.connection is None
        ):  # a task that is cancelled before it starts closes nothing itself
            client.socket.close()

    def _drop_oldest(self) -> None:
        alive = [task for task, client in self._open.items() if not client.dropped]
        oldest = min(alive, key=lambda task: self._open[task].rank, default=None)
        if oldest is not None:
            self._open[oldest].dropped = True
            oldest.cancel()

    async def _drop_all(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(self, client: _Client) -> None:
        try:
            client.socket.setblocking(False)  # noqa: FBT003 — the standard library's signature
            client.connection = await self._connect(client)
            await client.connection.run()
        except OSError as error:  # it left, was too slow, or does not speak TLS
            reason = str(error) or type(error).__name__
            log.debug("a connection broke", extra={"client": client.peer, "reason": reason})
        except Exception:
            log.exception("a connection failed", extra={"client": client.peer})

    async def _connect(self, client: _Client) -> Connection:
        reader = asyncio.StreamReader(limit=self._limits.head_bytes)
        protocol = asyncio.StreamReaderProtocol(reader)
        tls: dict[str, Any] = {}
        if self._certificate is not None:
            tls["ssl"] = self._certificate.context()
            tls["ssl_handshake_timeout"] = self._limits.head_seconds
            tls["ssl_shutdown_timeout"] = self._limits.linger_seconds
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, client.socket, **tls)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return Connection(reader, writer, self._site, self._limits, client.peer)


async def _listen(where: Address) -> list[socket.socket]:
    """A listening socket for each address of the host. Raises OSError when there is none, or one is
    taken.
    """
    loop = asyncio.get_running_loop()
    host, port = where.host or None, where.port
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        absent: OSError | None = None
        for family, *_, address in dict.fromkeys(infos):
            try:
                # All families get the same port, also when the first was given any.
                chosen = listeners[0].getsockname()[1] if listeners else port
                listener = socket.create_server(
                    (address[0], chosen), family=family, backlog=_BACKLOG
                )
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
                continue
            undo.callback(listener.close)
            listener.setblocking(False)  # noqa: FBT003 — the standard library's signature
            listeners.append(listener)
        if not listeners:
            raise absent or OSError(f"no address for {host}")
        undo.pop_all()
    return listeners
