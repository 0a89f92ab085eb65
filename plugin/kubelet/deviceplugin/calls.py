"""Counts and durations of kubelet's calls, by resource and method."""

from __future__ import annotations

import bisect
import contextlib
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from plugin.core.view import DURATION_BOUNDS, CallStats


class CallCounts:
    """Totals since the process started. Used from the event loop only."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], list[int]] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._errors: dict[tuple[str, str], int] = {}

    @contextlib.contextmanager
    def timed(self, resource: str, method: str) -> Iterator[None]:
        """Time one call; an exception counts as an error."""
        key = resource, method
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self._errors[key] = self._errors.get(key, 0) + 1
            raise
        finally:
            took = time.perf_counter() - began
            buckets = self._buckets.setdefault(key, [0] * (len(DURATION_BOUNDS) + 1))
            buckets[bisect.bisect_left(DURATION_BOUNDS, took)] += 1
            self._seconds[key] = self._seconds.get(key, 0.0) + took

    def snapshot(self) -> Mapping[tuple[str, str], CallStats]:
        return MappingProxyType(
            {
                key: CallStats(tuple(buckets), self._seconds[key], self._errors.get(key, 0))
                for key, buckets in self._buckets.items()
            }
        )
