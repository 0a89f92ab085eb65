"""Waking everybody who waits, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


class Pulse:
    """Wakes all who wait at this moment; whoever comes later waits for the next time.

    Used from the event loop only. A waiter looks at its condition first and then waits, in a loop,
    so that a wake-up it did not wait for costs nothing.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake everyone who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    def wait(self) -> Coroutine[None, None, object]:
        """Wait until the first :meth:`fire` after this call.

        Not a coroutine function: the wait begins with the call, not when the loop first runs it,
        so that a task made of it misses nothing.
        """
        return self._event.wait()
