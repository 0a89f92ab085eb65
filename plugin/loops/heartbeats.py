"""Whether the daemon's loops still turn: each says when it will be heard of again."""

from __future__ import annotations

import time
from collections.abc import Callable

#: A loop may be late by so much, because the machine is busy or a driver call takes its time.
GRACE_SECONDS = 30.0


class Heartbeats:
    """Promises of loops, by name. A loop may turn in any thread: setting an item of a dictionary is
    atomic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}

    def beat(self, name: str, again_within: float) -> None:
        """The loop `name` turns, and will say so again within that many seconds."""
        self._due[name] = self._clock() + again_within + GRACE_SECONDS

    def done(self, name: str) -> None:
        """The loop `name` has ended as it should."""
        self._due.pop(name, None)

    def stuck(self) -> tuple[str, ...]:
        """Loops that have not kept their promise."""
        now = self._clock()
        return tuple(sorted(name for name, due in list(self._due.items()) if due < now))
