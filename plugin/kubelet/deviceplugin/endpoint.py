"""One resource as kubelet sees it: a server on a socket of its own, registered and kept
registered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass

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
from plugin.loops.store import Store

log = logging.getLogger(__name__)

#: Kubelet opens ListAndWatch right after it has accepted a registration; longer than this and it
#: never will.
STREAM_SECONDS = 5.0
#: How long a vanishing resource's empty list, or a stream that is to end, may take with a client
#: that does not read.
FAREWELL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Registered:
    """A registration that kubelet has accepted. ``since`` is by the loop's clock."""

    kubelet: Identity | None
    stream: Stream | None
    since: float


class Endpoint:
    """Serves and registers one resource from the moment :meth:`run` starts until the resource is
    gone.

    Serve first, then register, then see ListAndWatch opened. Whatever breaks that starts over;
    streams that are still open are ended *before* registering again, because kubelet drops the
    newer registration when an older stream ends after it.
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
        """`kubelet_socket` is a file name in `directory`; empty means to serve without
        registering.
        """
        self._resource = resource
        self._store = store
        self._directory = directory
        self._kubelet = kubelet_socket
        self._servicer = servicer
        self._rivals = rivals
        self._serve_on = serve
        self._register_with = register
        self._server: Server | None = None
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
        # Without a kubelet, to be served is all there is.
        registered = not self._kubelet or (
            self._registered is not None and not (rival or gone or self._is_flapping())
        )
        return ResourceStatus(
            self._resource,
            registered=registered,
            registrations=self._registrations,
            stream_since=self._stream_since,
            lists_sent=self._servicer.lists_sent,
            last_error="" if registered else problem,
            rival=rival,
        )

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
                await keeping  # it never returns, so this raises what ended it
            # Kubelet forgets a resource only slowly by itself; an empty list takes it to zero at
            # once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._servicer.listed(self._store.snapshot.generation)
            log.info("resource withdrawn", extra={"resource": self._resource})
        finally:
            for task in (keeping, gone):
                task.cancel()
            await asyncio.gather(keeping, gone, return_exceptions=True)
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
                self._pacing.new_kubelet()  # it may not listen yet, but soon will
            try:
                await self._have_server()
                self._registered = await self._register()
            except (KubeletError, OSError) as error:
                delay = self._pacing.refused()
                self._report(
                    logging.WARNING, "not registered, trying again", str(error), seconds=delay
                )
                # A new kubelet is a better sign than any delay, also one that came while we tried
                # or pause here; but it must not make us spin.
                await asyncio.sleep(FIRST_DELAY_SECONDS / 2)
                await self._pause(delay, before)
                await self._end_streams()  # one that came too late to count
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
        """Wait, or until there is another kubelet than that one."""
        await _first(asyncio.sleep(seconds), self._replaced(kubelet))

    async def _have_server(self) -> None:
        """Have a server whose socket exists, once there is a socket of kubelet's."""
        if self._kubelet and not self._directory.exists(self._kubelet):
            # Kubelet deletes every socket when it starts and makes its own last: ours would not
            # survive that.
            path = self._directory.path / self._kubelet
            self._report(
                logging.WARNING,
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
        """Register and see ListAndWatch opened."""
        if not self._kubelet:
            return Registered(None, None, _now())
        opened = self._servicer.next_stream()
        kubelet: Identity | None = None
        began = _now()

        def is_served() -> bool:
            nonlocal kubelet
            # Only now: the socket's file can be an older kubelet's until the connection stands.
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
        """Log that a resource whose registrations did not last is registered; never returns."""
        if self._is_flapping():
            await asyncio.sleep(WELL_SECONDS)
            self._report_registered()
        await asyncio.Event().wait()

    async def _broken(self, kubelet: Identity | None) -> None:
        """Until our socket or that kubelet's is gone or replaced."""
        while self._directory.exists(self._socket) and (
            self._directory.identity(self._kubelet) == kubelet
        ):
            await self._directory.changed()

    async def _replaced(self, kubelet: Identity | None) -> None:
        while self._directory.identity(self._kubelet) == kubelet:
            await self._directory.changed()

    async def _rival_gone(self, since: float) -> None:
        """Until another plugin that may have registered for the resource after `since` has gone,
        and others that go with it have gone, too.
        """
        first = await self._rivals.departures.wait(self._resource, since)
        self._settled_at = first.at + self._pacing.rival_gone(_now() - since)
        limit = max(self._settled_at, first.at + MOST_SETTLES * SETTLE_SECONDS)
        while (left := self._settled_at - _now()) > 0:
            await asyncio.sleep(left)
            newest = await self._rivals.departures.wait(self._resource, since)
            self._settled_at = max(self._settled_at, min(newest.at + SETTLE_SECONDS, limit))

    async def _end_streams(self) -> None:
        """End every stream; one whose client does not read goes with the server, and there will be
        another.
        """
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._servicer.end_streams()
        except TimeoutError:
            await self._stop()

    async def _stop(self) -> None:
        """Stop serving and leave no socket behind."""
        if self._server is None:
            return
        server, self._server = self._server, None
        # stop() waits its whole grace while a stream is open, so those end first.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._servicer.end_streams()
        await server.stop(None)
        self._directory.remove(self._socket)

    def _report(self, level: int, message: str, reason: str, seconds: float | None = None) -> None:
        """Keep why the resource is not registered; log it unless that was logged already."""
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
    """Wait for the first of them and cancel the others; errors are the callers' to look for."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
