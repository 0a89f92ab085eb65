"""One resource as kubelet sees it: a server on a socket of its own,
registered and kept registered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc

from plugin.api.deviceplugin_v1beta1_pb2_grpc import add_DevicePluginServicer_to_server
from plugin.core.view import ResourceStatus
from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin.journal import Journal
from plugin.kubelet.deviceplugin.registration import register
from plugin.kubelet.deviceplugin.servicer import ResourceServicer, Stream
from plugin.kubelet.directory import Identity, SocketDirectory
from plugin.loops.backoff import delays
from plugin.loops.store import Store

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 5.0
#: Kubelet opens ListAndWatch right after it has accepted a registration; longer than this and it
#: never will.
STREAM_SECONDS = 5.0
#: How long a vanishing resource's empty list, or a stream that is to end, may take with a client
#: that does not read.
FAREWELL_SECONDS = 0.25

# Process ids repeat between containers, so a process is told apart by a random word.
_PROCESS = os.urandom(4).hex()
_NUMBERS = itertools.count(1)


class Endpoint:
    """Serves and registers one resource from the moment :meth:`run` starts until the resource is
    gone.

    Serve first, then register, then see ListAndWatch opened. Whatever breaks that (our socket
    deleted, a new ``kubelet.sock``, the stream ended) starts over; streams that are still open are
    ended *before* registering again, because kubelet drops the newer registration when an older
    stream ends after it.
    """

    def __init__(
        self,
        resource: str,
        store: Store,
        directory: SocketDirectory,
        kubelet_socket: str,
        journal: Journal,
        on_allocated: Callable[[Sequence[str]], None],
    ) -> None:
        """`kubelet_socket` is a file name in `directory`; empty means to serve without
        registering.
        """
        self._socket = ""
        self._registrations = 0
        self._stream_since: float | None = None
        self._last_error = ""
        self._resource = resource
        self._store = store
        self._directory = directory
        self._kubelet = kubelet_socket
        self._servicer = ResourceServicer(resource, store, journal, on_allocated)
        self._server: grpc.aio.Server | None = None

    def status(self) -> ResourceStatus:
        return ResourceStatus(
            self._resource,
            # Without a kubelet, to be served is all there is.
            registered=self._stream_since is not None or not self._kubelet,
            registrations=self._registrations,
            stream_since=self._stream_since,
            lists_sent=self._servicer.lists_sent,
            last_error=self._last_error,
        )

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
                    await self._servicer.told(self._store.snapshot.generation)
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
        retry = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, random.random)
        before: Identity | None = None
        while True:
            last, before = before, self._directory.identity(self._kubelet)
            if before != last:
                # A new kubelet may not listen yet, but soon will: the failures of the old one say
                # nothing about it.
                retry = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, random.random)
            try:
                await self._serve()
                kubelet, stream = await self._register()
            except (KubeletError, OSError) as error:
                self._stream_since = None
                self._last_error = str(error)
                delay = next(retry)
                log.warning(
                    "not registered, trying again",
                    extra={
                        "resource": self._resource,
                        "reason": str(error),
                        "seconds": round(delay, 2),
                    },
                )
                # A new kubelet is a better sign than any delay, also one that came while we tried
                # or pause here; but it must not make us spin.
                await asyncio.sleep(FIRST_DELAY_SECONDS / 2)
                await self._either(asyncio.sleep(delay), self._replaced(before))
                await self._end_streams()  # one that came too late to count
                continue
            retry = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, random.random)
            await self._until_lost(kubelet, stream)
            self._stream_since = None
            await self._end_streams()

    async def _serve(self) -> None:
        """Have a server whose socket exists, once there is a socket of kubelet's."""
        if self._kubelet and not self._directory.exists(self._kubelet):
            # Kubelet deletes every socket when it starts and makes its own last: ours would not
            # survive that.
            self._last_error = (
                f"{self._directory.path / self._kubelet} does not exist; is kubelet running?"
            )
            log.warning(
                "waiting for kubelet",
                extra={"resource": self._resource, "reason": self._last_error},
            )
            while not self._directory.exists(self._kubelet):
                await self._directory.changed()
        if not (self._server is not None and self._directory.exists(self._socket)):
            await self._stop()
            await self._start()

    async def _start(self) -> None:
        """A new server on a new path: a stopping server may delete the socket of the next one at
        the same path.
        """
        name = f"{self._resource.replace('/', '-')}-{_PROCESS}-{next(_NUMBERS)}.sock"
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        add_DevicePluginServicer_to_server(self._servicer, server)
        path = self._directory.path / name
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise OSError(
                f"cannot serve on {path}: {error}; is the directory there and writable?"
            ) from error
        await server.start()
        self._server, self._socket = server, name
        log.info("serving", extra={"resource": self._resource, "socket": str(path)})

    async def _register(self) -> tuple[Identity | None, Stream | None]:
        """Register and see ListAndWatch opened; returns which kubelet that was, and its stream."""
        if not self._kubelet:
            return None, None
        opened = self._servicer.next_stream()
        kubelet: Identity | None = None

        def is_served() -> bool:
            nonlocal kubelet
            # Only now: the socket's file can be an older kubelet's until the connection stands.
            kubelet = self._directory.identity(self._kubelet)
            return self._directory.exists(self._socket)

        await register(
            self._directory.path / self._kubelet, self._resource, self._socket, is_served
        )
        self._registrations += 1
        await self._either(opened, asyncio.sleep(STREAM_SECONDS), self._lost(kubelet))
        if opened.cancelled():
            raise KubeletError("kubelet accepted the registration but did not open ListAndWatch")
        self._stream_since, self._last_error = time.time(), ""
        snapshot = self._store.snapshot
        log.info(
            "registered",
            extra={
                "resource": self._resource,
                "generation": snapshot.generation,
                "devices": len(snapshot.advertisement.resources.get(self._resource, ())),
            },
        )
        return kubelet, opened.result()

    async def _until_lost(self, kubelet: Identity | None, stream: Stream | None) -> None:
        if stream is None:
            await self._lost(kubelet)
            return
        await self._either(stream.ended.wait(), self._lost(kubelet))
        reason = (
            "our socket was deleted"
            if not self._directory.exists(self._socket)
            else "kubelet ended ListAndWatch"
            if stream.ended.is_set()
            else "kubelet made a new socket"
        )
        log.warning("registration lost", extra={"resource": self._resource, "reason": reason})

    async def _lost(self, kubelet: Identity | None) -> None:
        while self._directory.exists(self._socket) and (
            not self._kubelet or self._directory.identity(self._kubelet) == kubelet
        ):
            await self._directory.changed()

    async def _replaced(self, kubelet: Identity | None) -> None:
        while self._directory.identity(self._kubelet) == kubelet:
            await self._directory.changed()

    @staticmethod
    async def _either(*awaitables: Awaitable[object]) -> None:
        """Wait for the first of them and cancel the others; errors are the callers' to look for."""
        tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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
