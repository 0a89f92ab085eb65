"""Calls that may hang, such as those of a file system, beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")

#: How long the start of the process waits for what it can do without.
BRIEFLY_SECONDS = 1.0


def briefly(function: Callable[[], T], otherwise: T) -> T:
    """The function's result, or `otherwise` where it does not return in time or raises OSError.
    Blocks for that time, so it is for the start.
    """
    found = [otherwise]

    def run() -> None:
        with contextlib.suppress(OSError):
            found[0] = function()

    thread = threading.Thread(target=run, name="aside at the start", daemon=True)
    thread.start()
    thread.join(BRIEFLY_SECONDS)
    return found[0]


class Aside:
    """Makes one call at a time, each in a thread of its own that does not keep the process: with
    asyncio's threads it could not end while one hangs.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._returned = asyncio.Event()
        self.thread: threading.Thread | None = None
        self._given_up: threading.Thread | None = None
        #: Whether a call has not returned, be it given up or not.
        self.busy = False

    @property
    def hangs(self) -> bool:
        """Whether the call that has not returned was given up."""
        return self.busy and self.thread is self._given_up

    async def call(self, function: Callable[[], T], *, waits: bool = False) -> T:
        """The function's result. Raises what it raises, and TimeoutError when it takes too long or
        the one before has not returned yet. If it `waits`, it does so for that one too, within the
        same time.
        """
        limit, thread = asyncio.timeout(self._seconds), None
        try:
            async with limit:
                while self.busy and waits:
                    self._returned.clear()
                    await self._returned.wait()
                begun = self._begun(function)
                thread = self.thread
                return await begun
        except TimeoutError as error:
            if not limit.expired():
                raise
            self._given_up = thread or self._given_up
            text = f"{self._name}: no answer within {self._seconds:g} s"
            raise TimeoutError(text) from error

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """The same, one after another, with arguments. A call that was given up is not waited
        for.
        """
        return await self.call(lambda: function(*args), waits=not self.hangs)

    def _begun(self, function: Callable[[], T]) -> asyncio.Future[T]:
        if self.busy:
            raise TimeoutError(f"the last call of {self._name} has not returned")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._returned.set()
            if future.done():  # given up
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast("T", result))

        def run() -> None:
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 — raised in the caller of call()
                error = raised
            self.busy = False
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result, error)

        self.thread = threading.Thread(target=run, name=f"aside {self._name}", daemon=True)
        self.busy = True
        self.thread.start()
        return future
