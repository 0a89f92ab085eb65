"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator


def delays(first: float, cap: float, jitter: Callable[[], float]) -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling from `first` up to `cap`.

    `jitter` gives numbers in 0..1; each delay lies between half and all of its step, so that many
    nodes (and many resources of one node) do not retry in step.
    """
    step = first
    while True:
        yield step * (0.5 + 0.5 * jitter())
        step = min(step * 2, cap)


class Backoff:
    """Delays after failures in a row. Only what has stayed well for a while ends the row.

    To begin well is not enough: a peer that drops what it has just accepted would be tried again at
    full speed for ever.
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
        """`well` is how many seconds something must last to count as well; the first `free`
        failures in a row cost no delay.
        """
        self._first, self._cap, self._well, self._free = first, cap, well, free
        self._jitter = jitter
        self.reset()

    def reset(self) -> None:
        """Start over: the failures so far say nothing about the next attempt."""
        self.failures = 0
        self._delays = delays(self._first, self._cap, self._jitter)

    def failed(self, lasted: float = 0.0) -> float:
        """Seconds to wait, after something that was well for `lasted` seconds has failed."""
        if lasted >= self._well:
            self.reset()
        self.failures += 1
        return 0.0 if self.failures <= self._free else next(self._delays)
