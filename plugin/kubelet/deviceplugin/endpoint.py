"""One resource: a server on its own socket that stays registered with kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable

from msgspec import Struct

from plugin.core.view import ResourceStatus
from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin.departures import Departure
from plugin.kubelet.deviceplugin.naming import new_name
from plugin.kubelet.deviceplugin.pacing import (
    FIRST_DELAY_SECONDS,
    MOST_SETTLES,
    SETTLE_SECONDS,
    WELL_SECONDS,
    Loss,
    Pacing,
)
from plugin.kubelet.deviceplugin.registration import Register, register
from plugin.kubelet.deviceplugin.rivals import Rivals
from plugin.kubelet.deviceplugin.server import Serve, Server, serve
from plugin.kubelet.deviceplugin.servicer import ResourceServicer, Stream
from plugin.kubelet.directory import Directory, Identity
from plugin.loops.ended import ended
from plugin.loops.store import Store

log = logging.getLogger(__name__)

#: Kubelet opens ListAndWatch right after accepting a registration, or never.
STREAM_SECONDS = 5.0
#: Time limit for a client to read the empty list of a removed resource, or the end of its stream.
FAREWELL_SECONDS = 0.25


class Registered(Struct, frozen=True):
    """An accepted registration. ``since`` is by the loop's clock."""

    kubelet: Identity | None
    stream: Stream | None
    since: float


class Endpoint:
    """Serves and registers one resource from :meth:`run` until the resource disappears.

    Serve, register, wait for ListAndWatch; start over after any failure. Open streams end *before*
    a new registration, because kubelet drops the newer registration when an older stream ends
    later.
    """

    def __init__(
        self,
        resource: str,
        store: Store,
        directory: Directory,
        kubelet_socket: str,
        servicer: ResourceServicer,
        rivals: Rivals,
        *,
        serve: Serve = serve,
        register: Register = register,
    ) -> None:
        """`kubelet_socket` is a file name in `directory`; empty: serve without registering."""
        self._resource = resource
        self._store = store
        self._directory = directory
        self._kubelet = kubelet_socket
        self._servicer = servicer
        self._rivals = rivals
        self._serve_on = serve
        self._register_with = register
        self._server: Server | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._socket = ""
        self._registrations = 0
        self._registered: Registered | None = None
        self._stream_since: float | None = None
        self._last_error = ""
        self._logged = ""
        self._pacing = Pacing()
        #: Until when a departure is given time for others to follow.
        self._settled_at = 0.0

    def status(self) -> ResourceStatus:
        rival = self._rivals.live(self._resource) if self._kubelet else ""
        gone = self._departure()
        if rival:
            problem = f"another device plugin serves it too, on {rival}"
        elif gone is not None:
            problem = self._consequence(gone)
        else:
            problem = self._last_error
        # Without a kubelet, what is served counts as registered.
        registered = self._registered is not None and not (rival or gone or self._is_flapping())
        return ResourceStatus(
            self._resource,
            registered=registered,
            registrations=self._registrations,
            stream_since=self._stream_since,
            lists_sent=self._servicer.lists_sent,
            last_error="" if registered else problem,
            rival=rival,
        )

    async def told(self, generation: int) -> None:
        """Wait until every client has the list of `generation`."""
        await self._servicer.listed(generation)

    def _departure(self) -> Departure | None:
        """A plugin that has gone since our registration, which kubelet may still take for ours."""
        if self._registered is None or self._registered.stream is None:
            return None
        return self._rivals.departures.newest(self._resource, self._registered.since)

    def _consequence(self, gone: Departure) -> str:
        due = max(self._settled_at, gone.at + SETTLE_SECONDS)
        return gone.consequence(due - _now())

    def _is_flapping(self) -> bool:
        lasted = _now() - self._registered.since if self._registered is not None else 0.0
        return self._pacing.is_flapping(lasted)

    async def run(self) -> None:
        """Run until the resource is no longer advertised; cancel to shut down."""
        keeping = asyncio.create_task(
            self._keep_registered(), name=f"keep {self._resource} registered"
        )
        gone = asyncio.create_task(self._gone(), name=f"watch {self._resource} go")
        try:
            done, _ = await asyncio.wait({keeping, gone}, return_when=asyncio.FIRST_COMPLETED)
            if keeping in done:
                await keeping  # raises its error
            # Kubelet keeps a resource for minutes; an empty list sets it to zero at once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._servicer.listed(self._store.snapshot.generation)
            log.info("resource withdrawn", extra={"resource": self._resource})
        finally:
            for task in (keeping, gone):
                task.cancel()
            try:
                await ended(keeping, gone)
            finally:
                await self._stop()

    async def _gone(self) -> None:
        async for snapshot in self._store.follow():
            if self._resource not in snapshot.advertisement.resources:
                return

    async def _keep_registered(self) -> None:
        before: Identity | None = None
        while True:
            last, before = before, self._directory.identity(self._kubelet)
            if before != last:
                self._pacing.new_kubelet()
            try:
                await self._have_server()
                self._registered = await self._register()
            except (KubeletError, OSError) as error:
                delay = self._pacing.refused()
                self._report(
                    logging.WARNING, "registration failed, retrying", str(error), seconds=delay
                )
                # A new kubelet ends the delay, even one that appeared during the attempt, but must
                # not cause a busy loop.
                await asyncio.sleep(FIRST_DELAY_SECONDS / 2)
                await self._pause(delay, before)
                await self._end_streams()  # opened too late
                continue
            self._pacing.accepted()
            loss = await self._until_lost(self._registered)
            lasted = _now() - self._registered.since
            gone = self._departure() if loss is Loss.RIVAL else None
            reason = loss.value if gone is None else self._consequence(gone)
            self._registered, self._stream_since = None, None
            self._report(logging.WARNING, "registration lost", reason)
            await self._end_streams()
            if delay := self._pacing.lost(loss, lasted):
                await self._pause(delay, before)

    async def _pause(self, seconds: float, kubelet: Identity | None) -> None:
        """Wait, or until kubelet's socket is another one."""
        await _first(asyncio.sleep(seconds), self._replaced(kubelet))

    async def _have_server(self) -> None:
        """Wait for kubelet's socket, then make sure that our server has one."""
        if self._kubelet and not self._directory.exists(self._kubelet):
            # At its start kubelet deletes every socket before it creates its own.
            path = self._directory.path / self._kubelet
            self._report(
                self._directory.absent_level,
                "waiting for kubelet",
                f"{path} does not exist; is kubelet running?",
            )
            while not self._directory.exists(self._kubelet):
                await self._directory.changed()
        if self._server is None or not self._directory.exists(self._socket):
            await self._stop()
            name = new_name(self._resource)
            path = self._directory.path / name
            self._server, self._socket = await self._serve_on(self._servicer, path), name
            log.info("serving", extra={"resource": self._resource, "socket": str(path)})

    async def _register(self) -> Registered:
        """Register, and wait for ListAndWatch."""
        if not self._kubelet:
            return Registered(None, None, _now())
        opened = self._servicer.next_stream()
        kubelet: Identity | None = None
        began = _now()

        def is_served() -> bool:
            nonlocal kubelet
            # Not earlier: until the connection is established the file may be an older kubelet's.
            kubelet = self._directory.identity(self._kubelet)
            return self._directory.exists(self._socket)

        await self._register_with(
            self._directory.path / self._kubelet, self._resource, self._socket, is_served
        )
        self._registrations += 1
        await _first(opened, asyncio.sleep(STREAM_SECONDS), self._broken(kubelet))
        if opened.cancelled():
            raise KubeletError("kubelet accepted the registration but did not open ListAndWatch")
        self._stream_since = time.time()
        return Registered(kubelet, opened.result(), began)

    async def _until_lost(self, registered: Registered) -> Loss:
        if registered.stream is None:
            await self._broken(registered.kubelet)
            return Loss.OWN_SOCKET
        if not self._is_flapping():
            self._report_registered()
        await _first(
            registered.stream.ended.wait(),
            self._broken(registered.kubelet),
            self._rival_gone(registered.since),
            self._settled(),
        )
        if not self._directory.exists(self._socket):
            return Loss.OWN_SOCKET
        if registered.stream.ended.is_set():
            return Loss.STREAM
        if self._directory.identity(self._kubelet) != registered.kubelet:
            return Loss.NEW_KUBELET
        return Loss.RIVAL

    async def _settled(self) -> None:
        """Log that a flapping resource is registered again; never returns."""
        if self._is_flapping():
            await asyncio.sleep(WELL_SECONDS)
            self._report_registered()
        await asyncio.Event().wait()

    async def _broken(self, kubelet: Identity | None) -> None:
        """Until our socket or that kubelet's disappears or is replaced."""
        while self._directory.exists(self._socket) and (
            self._directory.identity(self._kubelet) == kubelet
        ):
            await self._directory.changed()

    async def _replaced(self, kubelet: Identity | None) -> None:
        while self._directory.identity(self._kubelet) == kubelet:
            await self._directory.changed()

    async def _rival_gone(self, since: float) -> None:
        """Until another plugin that may have registered for the resource after `since` has ended,
        together with any that end right after it.
        """
        first = await self._rivals.departures.wait(self._resource, since)
        self._settled_at = first.at + self._pacing.rival_gone(_now() - since)
        limit = max(self._settled_at, first.at + MOST_SETTLES * SETTLE_SECONDS)
        while (left := self._settled_at - _now()) > 0:
            await asyncio.sleep(left)
            newest = await self._rivals.departures.wait(self._resource, since)
            self._settled_at = max(self._settled_at, min(newest.at + SETTLE_SECONDS, limit))

    async def _end_streams(self) -> None:
        """End every stream; if a client does not read, stop the server as well."""
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._servicer.end_streams()
        except TimeoutError:
            await self._stop()

    async def _stop(self) -> None:
        """Stop serving and remove the socket, to the end even if cancelled meanwhile."""
        if self._server is not None:
            server, self._server = self._server, None
            self._stopping = asyncio.create_task(
                self._end(server, self._socket), name=f"stop serving {self._resource}"
            )
        if self._stopping is not None:
            await ended(self._stopping)

    async def _end(self, server: Server, name: str) -> None:
        # stop() waits its whole grace while a stream is open, so end those first.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._servicer.end_streams()
        await server.stop(None)
        self._directory.remove(name)

    def _report(self, level: int, message: str, reason: str, seconds: float | None = None) -> None:
        """Keep the reason why the resource is not registered; log a repeated one at debug level."""
        self._last_error = reason
        level = logging.DEBUG if self._logged == reason else level
        self._logged = reason
        log.log(
            level,
            message,
            extra={"resource": self._resource, "reason": reason}
            | ({} if seconds is None else {"seconds": round(seconds, 2)}),
        )

    def _report_registered(self) -> None:
        self._logged = ""
        snapshot = self._store.snapshot
        log.info(
            "registered",
            extra={
                "resource": self._resource,
                "generation": snapshot.generation,
                "devices": len(snapshot.advertisement.resources.get(self._resource, ())),
            },
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _first(*awaitables: Awaitable[object]) -> None:
    """Wait for the first and cancel the others. Callers check for errors themselves."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
