"""Everything there is to see at one moment: what metrics,
probes and the status page are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from plugin.core.inventory.samples import Samples
from plugin.core.state import Snapshot

#: Upper bounds of the buckets of a call's duration, in seconds; one more bucket holds everything
#: above.
DURATION_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A container that holds a device."""

    namespace: str
    pod: str
    container: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod} ({self.container})"


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """How a resource stands with kubelet. ``stream_since`` is a wall clock time, ``None`` without
    an open stream. ``rival`` is the socket of another device plugin that serves the resource too.
    """

    resource: str
    registered: bool
    registrations: int = 0
    stream_since: float | None = None
    lists_sent: int = 0
    last_error: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class CallStats:
    """Calls of one method for one resource: how many failed, and how long they took by
    :data:`DURATION_BOUNDS`.
    """

    buckets: tuple[int, ...] = (0,) * (len(DURATION_BOUNDS) + 1)
    seconds: float = 0.0
    errors: int = 0

    @property
    def count(self) -> int:
        return sum(self.buckets)


@dataclass(frozen=True, slots=True)
class View:
    """One moment. Times are seconds of the wall clock.

    ``geometry`` counts how often the set of devices on the node has changed, ``changed`` is when it
    last did. ``holders`` maps device ids (of replicas too) to who holds them, as far as known;
    ``None`` when kubelet is not asked. ``handed_out`` are ids that were allocated moments ago and
    that kubelet does not list yet. With ``holders_complete`` nobody else holds anything, otherwise
    that is unknown. ``held_twice`` are sentences about devices that two pods hold. ``calls`` is by
    (resource, method). ``driver_busy`` is how long the driver has been in the longest of its
    present calls. ``stuck`` names the tasks of the daemon that should run and do not.
    """

    now: float
    started: float
    snapshot: Snapshot
    changed: float
    geometry: int = 1
    resources: tuple[ResourceStatus, ...] = ()
    calls: Mapping[tuple[str, str], CallStats] = field(default_factory=lambda: MappingProxyType({}))
    holders: Mapping[str, tuple[Holder, ...]] | None = None
    handed_out: frozenset[str] = frozenset()
    holders_complete: bool = True
    held_twice: tuple[str, ...] = ()
    samples: Samples | None = None
    driver_busy: float = 0.0
    stuck: tuple[str, ...] = ()

    @property
    def holders_known(self) -> bool:
        """Whether a device without a holder is free."""
        return self.holders is not None and self.holders_complete
