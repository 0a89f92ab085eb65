"""Waiting for events in a thread of its own, and handing them to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

from plugin.driver.base import DriverEvent, EventSource
from plugin.driver.hangs import Caller, OpenCall, caller
from plugin.errors import DriverError

#: One wait of the thread: how long it may take to notice that it is no longer wanted.
WAIT_SECONDS = 2.0
#: The first wait is short: it proves that waiting works at all.
FIRST_WAIT_SECONDS = 0.05


class EventThread:
    """Waits on `source` until stopped or until waiting fails; calls back on the event loop."""

    def __init__(
        self,
        source: EventSource,
        on_event: Callable[[DriverEvent], None],
        on_turn: Callable[[], None],
    ) -> None:
        """`on_turn` is called after each wait, in the thread itself: the driver has answered."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._source = source
        self._on_event = on_event
        self._on_turn = on_turn
        self._stop = threading.Event()
        self._caller: Caller | None = None
        #: Done once the first wait has succeeded.
        self.alive: asyncio.Future[None] = loop.create_future()
        #: Done when the thread has ended: ``None`` when it was stopped, else what waiting failed
        #: with. An error that no source should raise is raised to whoever asks for the result.
        self.ended: asyncio.Future[DriverError | None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="driver events", daemon=True)

    def start(self) -> None:
        """Start waiting. Once."""
        self._thread.start()

    def abandon(self) -> None:
        """Have the thread end without waiting for it."""
        self._stop.set()

    def hanging(self, seconds: float) -> OpenCall | None:
        """The call that the thread is in, if that has taken `seconds` longer than one wait."""
        call = self._caller.call if self._caller is not None else None
        if call is None or time.monotonic() - call.since < WAIT_SECONDS + seconds:
            return None
        return call

    async def stop(self) -> bool:
        """Have the thread end; tells whether it did. One that hangs in the driver is left
        behind.
        """
        self.abandon()
        done, _ = await asyncio.wait({self.ended}, timeout=2 * WAIT_SECONDS)
        return bool(done)

    def _run(self) -> None:
        seconds = FIRST_WAIT_SECONDS
        self._caller = caller()
        try:
            while not self._stop.is_set():
                event = self._source.wait(seconds)
                self._on_turn()
                if seconds != WAIT_SECONDS:
                    seconds = WAIT_SECONDS
                    self._call(self._settle, self.alive, None)
                if event is not None:
                    self._call(self._on_event, event)
        except DriverError as error:
            self._call(self._settle, self.ended, error)
        except Exception as error:  # noqa: BLE001 — a thread that ends unseen would watch nothing
            self._call(self._fail, error)
        else:
            self._call(self._settle, self.ended, None)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        # A loop that has ended meanwhile has nobody waiting.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    @staticmethod
    def _settle(future: asyncio.Future[DriverError | None], result: DriverError | None) -> None:
        if not future.done():
            future.set_result(result)
