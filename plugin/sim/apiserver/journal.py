"""What clients have asked."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from plugin.sim.apiserver.rbac import Attributes


class Recorded(Struct, frozen=True):
    """One request and the status of its answer; 0 without one. ``at`` is the event loop's time."""

    at: float
    user: str
    asked: Attributes
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    status: int


class Journal(Struct):
    """The newest requests, and totals of all by verb and resource."""

    requests: deque[Recorded] = field(default_factory=lambda: deque(maxlen=10_000))
    counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    bytes_in: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def record(self, request: Recorded, size: int) -> None:
        asked = request.asked
        self.requests.append(request)
        self.counts[asked.verb, asked.resource, request.status] += 1
        self.bytes_in[asked.verb, asked.resource] += size

    def sent(self, asked: Attributes, size: int) -> None:
        self.bytes_out[asked.verb, asked.resource] += size

    def of(self, verb: str, resource: str = "") -> list[Recorded]:
        """The requests of a verb, of one resource or of all."""
        return [
            request
            for request in self.requests
            if request.asked.verb == verb and resource in {"", request.asked.resource}
        ]
