"""Heartbeats: each loop reports a deadline for its next heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Allowance for a busy machine or a slow driver call.
GRACE_SECONDS = 30.0


class Heartbeats:
    """Deadlines by loop. Thread-safe: setting an item of a dictionary is atomic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}

    def beat(self, name: str, again_within: float) -> None:
        """Report that `name` is alive and will report again within `again_within` seconds."""
        self._due[name] = self._clock() + again_within + GRACE_SECONDS

    def done(self, name: str) -> None:
        """`name` has ended normally."""
        self._due.pop(name, None)

    def stuck(self) -> tuple[str, ...]:
        """Loops past their deadline."""
        now = self._clock()
        return tuple(sorted(name for name, due in list(self._due.items()) if due < now))
