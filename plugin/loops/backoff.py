"""Delays between retries."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator


def delays(first: float, cap: float, jitter: Callable[[], float]) -> Iterator[float]:
    """Seconds before each further attempt: doubling from `first` up to `cap`.

    `jitter` returns numbers in 0..1; each delay is between half and all of its step, so that nodes
    and resources do not retry in lockstep.
    """
    step = first
    while True:
        yield step * (0.5 + 0.5 * jitter())
        step = min(step * 2, cap)


class Backoff:
    """Delays after consecutive failures. Only a success that lasts resets them: otherwise a peer
    that accepts and then drops us would be retried at full speed forever.
    """

    def __init__(
        self,
        first: float,
        cap: float,
        *,
        well: float,
        free: int = 0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """A success must last `well` seconds to count; the first `free` failures have no delay."""
        self._first, self._cap, self._well, self._free = first, cap, well, free
        self._jitter = jitter
        self.reset()

    def reset(self) -> None:
        """Forget the failures so far."""
        self.failures = 0
        self._delays = delays(self._first, self._cap, self._jitter)

    def failed(self, lasted: float = 0.0) -> float:
        """Seconds to wait after a failure; `lasted` is how long the success before it held."""
        if lasted >= self._well:
            self.reset()
        self.failures += 1
        return 0.0 if self.failures <= self._free else next(self._delays)
