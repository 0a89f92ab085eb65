"""The daemon's state at one moment, for metrics, probes and the status page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import Struct, field

from plugin.core.state import Snapshot

if TYPE_CHECKING:
    from plugin.core.inventory.samples import Samples

    # Nothing of partitioning is loaded where nothing is wanted.
    from plugin.core.partition.progress import Progress

#: Upper bounds of the call duration buckets, in seconds; one more bucket holds longer calls.
DURATION_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)


class Holder(Struct, frozen=True, order=True):
    """A container that holds a device."""

    namespace: str
    pod: str
    container: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod} ({self.container})"


class ResourceStatus(Struct, frozen=True):
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


class CallStats(Struct, frozen=True):
    """Calls of one method for one resource; ``buckets`` are by :data:`DURATION_BOUNDS`."""

    buckets: tuple[int, ...] = (0,) * (len(DURATION_BOUNDS) + 1)
    seconds: float = 0.0
    errors: int = 0

    @property
    def count(self) -> int:
        return sum(self.buckets)


class ClusterStatus(Struct, frozen=True):
    """What the features that write to the cluster have done since the start.

    ``requests`` counts by (verb, resource, code). ``away_since`` is a wall clock time, ``None``
    without an outage, and ``away_because`` is what its last attempt came to. ``labels`` is the
    number of labels kept on the Node, ``None`` where none are to be. ``problems`` are sentences
    about what is refused.
    """

    requests: Mapping[tuple[str, str, str], int] = field(
        default_factory=lambda: MappingProxyType({})
    )
    away_since: float | None = None
    away_because: str = ""
    labels: int | None = None
    label_writes: int = 0
    events_sent: int = 0
    events_dropped: int = 0
    problems: tuple[str, ...] = ()


class View(Struct, frozen=True):
    """Times are seconds of the wall clock.

    ``geometry`` counts changes of the node's set of devices, ``changed`` is the time of the last
    one. ``holders`` maps device ids (of replicas too) to known holders; ``None`` if kubelet is not
    asked. ``handed_out`` are allocated ids that kubelet does not list yet. Unless
    ``holders_complete``, there may be other holders. ``held_twice`` has a sentence for each device
    that two pods hold. ``calls`` is by (resource, method). ``driver_busy`` is the duration of the
    longest driver call in progress. ``sampling`` is false while nobody looks at samples, so that
    there are none. ``stuck`` names tasks that missed their heartbeat. ``notes`` are sentences about
    what does not work and keeps no device from use. ``cluster`` is ``None`` where no feature writes
    to the cluster.
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
    sampling: bool = True
    partition: Progress | None = None
    driver_busy: float = 0.0
    stuck: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cluster: ClusterStatus | None = None

    @property
    def holders_known(self) -> bool:
        """Whether a device without a holder is free."""
        return self.holders is not None and self.holders_complete
