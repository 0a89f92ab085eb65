"""One thread for all calls to a driver, so that a hung driver blocks nothing but itself."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class DriverWorker:
    """Runs blocking calls one after another in a daemon thread of its own.

    The thread never keeps the process alive: a driver that hangs in the kernel must not stop us
    from exiting.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="driver", daemon=True)

    def start(self) -> None:
        """Start the thread. Once."""
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """How long the call that is running now has been running; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)`` in the thread. Cancelling stops the waiting, never the call.

        Raises RuntimeError when the thread has not been started: nobody would ever answer.
        """
        if self._thread.ident is None:
            raise RuntimeError("the driver's thread has not been started")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001 — it belongs to whoever waits
                self._hand_over(loop, future, None, error)
            else:
                self._hand_over(loop, future, result, None)

        self._calls.put(run)
        return await future

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            self._busy_since = time.monotonic()
            call()
            self._busy_since = None

    @staticmethod
    def _hand_over(
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
        result: Any,
        error: BaseException | None,
    ) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        # A loop that has ended meanwhile has nobody waiting, and must not end this thread.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)
