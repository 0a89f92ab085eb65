"""How long to wait before trying again."""

from __future__ import annotations

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
