"""The daemon's state at one moment, for metrics, probes and the status page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from plugin.core.inventory.samples import Samples
from plugin.core.state import Snapshot

if TYPE_CHECKING:  # nothing of partitioning is loaded where nothing is wanted
    from plugin.core.partition.progress import Progress

#: Upper bounds of the call duration buckets, in seconds; one more bucket holds longer calls.
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
    """A resource's registration with kubelet. ``stream_since`` is a wall clock time, ``None``
    without an open stream. ``rival`` is the socket of another device plugin that serves the same
    resource, or ``one of`` several.
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
    """Calls of one method for one resource; ``buckets`` are by :data:`DURATION_BOUNDS`."""

    buckets: tuple[int, ...] = (0,) * (len(DURATION_BOUNDS) + 1)
    seconds: float = 0.0
    errors: int = 0

    @property
    def count(self) -> int:
        return sum(self.buckets)


@dataclass(frozen=True, slots=True)
class View:
    """Times are seconds of the wall clock.

    ``geometry`` counts changes of the node's set of devices, ``changed`` is the time of the last
    one. ``holders`` maps device ids (of replicas too) to known holders; ``None`` if kubelet is not
    asked. ``handed_out`` are allocated ids that kubelet does not list yet. Unless
    ``holders_complete``, there may be other holders. ``held_twice`` has a sentence for each device
    that two pods hold. ``calls`` is by (resource, method). ``driver_busy`` is the duration of the
    longest driver call in progress. ``stuck`` names tasks that missed their heartbeat.
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
    partition: Progress | None = None
    driver_busy: float = 0.0
    stuck: tuple[str, ...] = ()

    @property
    def holders_known(self) -> bool:
        """Whether a device without a holder is free."""
        return self.holders is not None and self.holders_complete
