"""A repeatable wake-up for all waiting tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


class Pulse:
    """Wakes every current waiter; later waiters wait for the next pulse.

    Used from the event loop only. Waiters check their condition in a loop, so spurious wake-ups are
    harmless.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def wait(self) -> Coroutine[None, None, object]:
        """Wait for the first :meth:`fire` after this call.

        Not a coroutine function: the wait begins with the call rather than with the first run of a
        task, so that the task misses nothing.
        """
        return self._event.wait()
