"""Watching the GPUs for events; whatever ends that is a reason against the devices, never passed
over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass

from plugin.driver.base import Driver, DriverEvent, EventSource
from plugin.driver.event_thread import WAIT_SECONDS, EventThread
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverError, DriverUnavailable
from plugin.loops.backoff import delays
from plugin.loops.heartbeats import Heartbeats
from plugin.state.interest import Watchable
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 30.0
#: So many failures in a row are no hiccup any more: the devices are held down until watching works.
FAILURES_TO_REPORT = 3


@dataclass(frozen=True, slots=True)
class _Watch:
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
        self, writer: Writer, driver: Driver, worker: DriverWorker, heartbeats: Heartbeats
    ) -> None:
        self._heartbeats = heartbeats
        self._writer = writer
        self._interest = writer.interest
        self._driver = driver
        self._worker = worker
        self._current: _Watch | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._failures = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        retry = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, random.random)
        try:
            while True:
                if self._interest.wanted is None:
                    self._end()  # the driver is to be opened again, and waits for that
                error = await self._watch(await self._interest.something())
                if error is None:
                    retry = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, random.random)
                    continue
                self._heartbeats.done("events")  # nobody waits for events until the next attempt
                self._failures += 1
                if self._failures == 1:
                    log.warning(
                        "watching events failed, starting anew", extra={"reason": str(error)}
                    )
                if self._failures == FAILURES_TO_REPORT:
                    log.error("events cannot be watched", extra={"reason": str(error)})
                    text = f"events cannot be watched: {error.what}"
                    self._writer.unwatched(dict.fromkeys(self._writer.probe_targets(), text))
                await self._writer.probe_now()  # finds the GPU that is lost, if that is what it was
                if self._failures > 1:
                    await asyncio.sleep(next(retry))
        finally:
            if self._current is not None:
                self._current.thread.abandon()  # the process ends: nothing is worth waiting for

    async def _watch(self, wanted: Watchable) -> DriverError | None:
        """Watch until something else is wanted (``None``) or watching fails."""
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
        try:
            await asyncio.wait(
                (thread.alive, thread.ended, changed), return_when=asyncio.FIRST_COMPLETED
            )
            if thread.alive.done():
                self._failures = 0
                self._writer.watches(wanted, source.failures)
                log.info("watching events", extra={"gpus": len(wanted.gpus) - len(source.failures)})
            await asyncio.wait((thread.ended, changed), return_when=asyncio.FIRST_COMPLETED)
            return thread.ended.result() if thread.ended.done() else None
        finally:
            changed.cancel()

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
