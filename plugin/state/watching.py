"""Watching the GPUs for events; whatever ends that is a reason against the devices, never passed
over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from plugin.driver.base import Driver, DriverEvent, EventSource
from plugin.driver.event_thread import WAIT_SECONDS, EventThread
from plugin.driver.hangs import OpenCall
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverError, DriverUnavailable
from plugin.loops.backoff import Backoff
from plugin.loops.heartbeats import Heartbeats
from plugin.state.interest import Watchable
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

#: Failures in a row: the first is tried again at once, the others ever later.
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.1, 30.0
#: Watching that has lasted so long is well, and what failed before is forgotten.
WELL_SECONDS = 60.0
#: So many failures in a row are no hiccup any more: the devices are held down until watching works.
FAILURES_TO_REPORT = 3
#: After that, it works when it has lasted so long: kubelet is not to see them come and go.
STEADY_SECONDS = 10.0
#: A GPU that cannot be watched is tried again, together with the others.
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0


class _Watch(Struct, frozen=True):
    """An open event source and the thread that waits on it."""

    source: EventSource
    thread: EventThread


class Watcher:
    """Keeps an event source open over all GPUs that answer, and makes a new one when the set of
    them changes.

    The new one stands before the old one ends: an event in between is counted twice rather than
    never.
    """

    def __init__(
        self,
        writer: Writer,
        driver: Driver,
        worker: DriverWorker,
        heartbeats: Heartbeats,
        steady_seconds: float = STEADY_SECONDS,
    ) -> None:
        self._heartbeats = heartbeats
        self._writer = writer
        self._interest = writer.interest
        self._driver = driver
        self._worker = worker
        self._current: _Watch | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._failing = Backoff(
            FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, well=WELL_SECONDS, free=1
        )
        self._retrying = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, well=WELL_SECONDS)
        self._steady_seconds = steady_seconds
        self._alive_since: float | None = None
        self._told: tuple[Watchable, frozenset[str]] | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                if self._interest.wanted is None:
                    self._end()  # the driver is to be opened again, and waits for that
                wanted = await self._interest.something()
                error = await self._watch(wanted)
                # Watching that fails because the driver is being closed is no failure.
                if error is not None and self._interest.wanted is not None:
                    await self._failed(error, wanted)
        finally:
            if self._current is not None:
                self._current.thread.abandon()  # the process ends: nothing is worth waiting for

    async def _failed(self, error: DriverError, wanted: Watchable) -> None:
        """Watching has failed: report it if it does so again and again, and wait.

        Once other GPUs are to be watched, or the driver was opened again, the cause is found: that
        is no row of failures.
        """
        self._heartbeats.done("events")  # nobody waits for events until the next attempt
        now, since = asyncio.get_running_loop().time(), self._alive_since
        pause = self._failing.failed(0.0 if since is None else now - since)
        self._told = None
        if self._failing.failures == 1:
            log.warning("watching events failed, starting anew", extra={"reason": str(error)})
        if self._failing.failures == FAILURES_TO_REPORT:
            log.error("events cannot be watched", extra={"reason": str(error)})
        if self._failing.failures >= FAILURES_TO_REPORT:
            text = f"events cannot be watched: {error.what}"
            self._writer.unwatched(dict.fromkeys(self._writer.probe_targets(), text))
        again = asyncio.ensure_future(self._interest.retried())
        changed = asyncio.ensure_future(self._interest.other_than(wanted))
        try:
            await self._writer.probe_now()  # finds the GPU that is lost, if that is what it was
            await asyncio.wait({again, changed}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if self._interest.wanted not in {None, wanted}:
                self._failing.reset()
        finally:
            again.cancel()
            changed.cancel()

    async def _watch(self, wanted: Watchable) -> DriverError | None:
        """Watch until something else is wanted or a GPU is to be tried again (``None``), or until
        watching fails.
        """
        self._alive_since = None
        if not wanted.gpus:
            self._end()
            self._writer.watches(wanted, {})
            await self._interest.other_than(wanted)
            return None
        self._interest.opened()
        try:
            source = await self._worker.call(self._driver.watch, wanted.gpus)
        except DriverUnavailable as error:
            self._interest.freed()
            self._end()
            return error
        thread = EventThread(source, self._writer.on_event, self._turned)
        thread.start()
        self._turned()  # so that one that hangs in its first wait is missed
        self._end()
        self._current = _Watch(source, thread)
        changed = asyncio.ensure_future(self._interest.other_than(wanted))
        again = asyncio.ensure_future(self._interest.retried())
        try:
            return await self._follow(wanted, self._current, changed, again)
        finally:
            changed.cancel()
            again.cancel()

    async def _follow(
        self,
        wanted: Watchable,
        watch: _Watch,
        changed: asyncio.Future[None],
        again: asyncio.Future[object],
    ) -> DriverError | None:
        """Report that a source is waited on, and stay with it; see :meth:`_watch`."""
        thread, failures = watch.thread, watch.source.failures
        ends: set[asyncio.Future[Any]] = {thread.ended, changed}
        if (hung := await self._until({thread.alive, *ends}, thread)) is not None:
            return hung
        retry: float | None = None
        if thread.alive.done():
            self._alive_since = asyncio.get_running_loop().time()
            if self._failing.failures >= FAILURES_TO_REPORT:
                await self._until(ends, thread, self._steady_seconds)
            if not thread.ended.done():
                self._report(wanted, failures)
            if failures.keys() - watch.source.unsupported:
                ends.add(again)
                retry = self._retrying.failed()
            else:
                self._retrying.reset()
        if (hung := await self._until(ends, thread, retry)) is not None:
            return hung
        return thread.ended.result() if thread.ended.done() else None

    async def _until(
        self, ends: set[asyncio.Future[Any]], thread: EventThread, seconds: float | None = None
    ) -> DriverError | None:
        """Wait for one of these, but no longer than `seconds`; returns why when the thread hangs
        in its call.
        """
        loop = asyncio.get_running_loop()
        until = math.inf if seconds is None else loop.time() + seconds
        deadline = self._worker.deadlines.gpu
        while True:
            left = max(0.0, until - loop.time())
            done, _ = await asyncio.wait(
                ends,
                timeout=min(WAIT_SECONDS + deadline, left),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if done or loop.time() >= until:
                return None
            if (call := thread.hanging(deadline)) is not None:
                return self._give_up(thread, call)

    def _give_up(self, thread: EventThread, call: OpenCall) -> DriverError:
        """A thread that hangs is left to itself; what it brings after all still counts."""
        hung = self._worker.give_up(call)
        thread.ended.add_done_callback(lambda _: self._worker.returned(hung))
        return DriverUnavailable(f"waiting for events: {hung}")

    def _report(self, watched: Watchable, failures: Mapping[str, str]) -> None:
        self._writer.watches(watched, failures)
        told = watched, frozenset(failures)
        if told != self._told:  # trying the others again is no news
            self._told = told
            log.info("watching events", extra={"gpus": len(watched.gpus) - len(failures)})

    def _turned(self) -> None:
        self._heartbeats.beat("events", WAIT_SECONDS)

    def _end(self) -> None:
        """Have the source that is open freed, if there is one, without waiting for its thread."""
        watch, self._current = self._current, None
        if watch is not None:
            ending = asyncio.create_task(self._free(watch), name="free an event source")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _free(self, watch: _Watch) -> None:
        failed = watch.thread.ended.done()
        if await watch.thread.stop():
            if self._current is None:
                self._heartbeats.done("events")
            # Not without bound: a worker that hangs must not hold up the rest.
            freeing = asyncio.ensure_future(self._worker.call(_free, watch.source, failed))
            await asyncio.wait({freeing}, timeout=1.0)
            with contextlib.suppress(DriverUnavailable):  # freeing hangs: it told of nothing
                for event in freeing.result() if freeing.done() else ():
                    self._writer.on_event(event)
        self._interest.freed()


def _free(source: EventSource, drain: bool) -> list[DriverEvent]:  # noqa: FBT001 — passed on by position
    """Close a source; with `drain`, return the events behind the error that ended the waiting."""
    events = []
    if drain:
        with contextlib.suppress(DriverError):
            while (event := source.wait(0)) is not None:
                events.append(event)
    source.close()
    return events
