"""Renders a view as the body of a scrape. Families: docs/metrics.md."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from plugin import __version__
from plugin.core.view import DURATION_BOUNDS, CallStats, ResourceStatus, View
from plugin.web.metrics import cluster, dcgm, devices, partitioning
from plugin.web.metrics.exposition import expose, number
from plugin.web.metrics.family import (
    PREFIX,
    Family,
    Kind,
    Labels,
    Reading,
    counter,
    filled,
    gauge,
    info,
    read,
)
from plugin.web.metrics.subjects import cards, subjects


def render(view: View, *, openmetrics: bool, dcgm_names: bool, hostname: str) -> tuple[bytes, str]:
    """The body and its content type. ``hostname`` is for dcgm-exporter's labels."""
    registry = CollectorRegistry()
    registry.register(ViewCollector(view, dcgm_names=dcgm_names, hostname=hostname))
    return expose(registry, openmetrics=openmetrics)


class ViewCollector:
    """Families without a series are left out."""

    def __init__(self, view: View, *, dcgm_names: bool, hostname: str) -> None:
        self._view = view
        self._dcgm_names = dcgm_names
        self._hostname = hostname

    def describe(self) -> Iterable[Metric]:
        """Empty, so that registration does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        known, gpus = subjects(self._view), cards(self._view)
        yield from _node(self._view)
        yield from _kubelet(self._view)
        yield from cluster.of(self._view)
        yield from devices.of_devices(known)
        yield from devices.of_cards(gpus)
        yield from partitioning.collect(self._view)
        if self._dcgm_names:
            driver = self._view.snapshot.inventory.driver_version
            yield from dcgm.collect(known, gpus, driver=driver, hostname=self._hostname)


# ---- node


def _unwatched(view: View) -> int:
    return sum(gpu.uuid in view.snapshot.unwatched for gpu in view.snapshot.inventory.gpus)


BUILD = info(
    "build_info",
    "Versions of the plugin, Python, the driver and CUDA",
    ("version", "python", "driver", "cuda"),
)

NODE: tuple[Reading[View], ...] = (
    (gauge("start_time_seconds", "When the plugin started"), lambda v: v.started),
    (
        gauge(
            "generation",
            "Generation of the node's state: grows with every change of devices, health or offer",
        ),
        lambda v: v.snapshot.generation,
    ),
    (
        gauge("geometry_generation", "Grows with every change of the set of devices"),
        lambda v: v.geometry,
    ),
    (
        gauge("geometry_last_change_timestamp_seconds", "When the set of devices last changed"),
        lambda v: v.changed,
    ),
    (
        gauge("driver_up", "Whether the driver could be used when last tried"),
        # Unknown before the first scan.
        lambda v: v.snapshot.driver_error is None if v.snapshot.generation else None,
    ),
    (
        gauge("driver_released", "Whether an operator has the driver released"),
        lambda v: v.snapshot.release is not None,
    ),
    (
        gauge("driver_busy_seconds", "How long the driver has been in the call it is in now"),
        lambda v: v.driver_busy,
    ),
    (
        gauge("config_valid", "Whether the newest configuration is in force"),
        lambda v: not v.snapshot.configuration.problem,
    ),
    (
        gauge("config_waiting_options", "Changed options that need a restart"),
        lambda v: len(v.snapshot.configuration.waiting),
    ),
    (gauge("unwatched_gpus", "GPUs whose events cannot be watched"), _unwatched),
    (
        gauge("stuck_tasks", "Tasks of the plugin that should run and do not"),
        lambda v: len(v.stuck),
    ),
    (
        gauge("holders_known", "Whether it is known which pods hold devices"),
        lambda v: v.holders_known,
    ),
    (
        gauge("sampling", "Whether use is sampled: not while nobody asks for it"),
        lambda v: v.sampling,
    ),
    (
        gauge("sample_age_seconds", "Age of the newest sample of use, which all of them are from"),
        lambda v: max(v.now - v.samples.time, 0.0) if v.samples else None,
    ),
    (
        gauge("sample_duration_seconds", "How long the driver took for the newest sample"),
        lambda v: v.samples.seconds if v.samples else None,
    ),
)

CONFIG_CHANGES = counter(
    "config_changes_total", "Configurations that were read while running", ("result",)
)


def _node(view: View) -> Iterator[Metric]:
    inventory = view.snapshot.inventory
    build = {
        "version": __version__,
        "python": platform.python_version(),
        "driver": inventory.driver_version,
        "cuda": ".".join(map(str, inventory.cuda_version)) if inventory.cuda_version else "",
    }
    yield from filled(BUILD, [(build, 1)])
    yield from read(NODE, [({}, view)])
    configuration = view.snapshot.configuration
    counts = (("taken", configuration.taken), ("refused", configuration.refused))
    yield from filled(CONFIG_CHANGES, [({"result": result}, count) for result, count in counts])


# ---- kubelet

_RESOURCE = ("resource",)
_CALL = ("resource", "method")

DEVICES = gauge(
    "devices",
    "Device ids in each resource's list by state, and under no resource those withheld",
    ("resource", "state"),
)

RESOURCES: tuple[Reading[ResourceStatus], ...] = (
    (
        gauge("registered", "Whether kubelet has accepted the resource", _RESOURCE),
        lambda s: s.registered,
    ),
    (
        gauge("rival", "Whether another device plugin serves the resource too", _RESOURCE),
        lambda s: bool(s.rival),
    ),
    (
        counter("registrations_total", "Registrations that kubelet accepted", _RESOURCE),
        lambda s: s.registrations,
    ),
    (
        gauge(
            "stream_start_timestamp_seconds",
            "When kubelet opened the list's stream; none while closed",
            _RESOURCE,
        ),
        lambda s: s.stream_since,
    ),
    (
        counter("list_updates_sent_total", "Lists sent to kubelet", _RESOURCE),
        lambda s: s.lists_sent,
    ),
)

CALLS: tuple[Reading[CallStats], ...] = (
    (
        counter("call_errors_total", "Calls of kubelet that were refused or failed", _CALL),
        lambda s: s.errors,
    ),
)

DURATIONS = Family(
    PREFIX + "call_duration_seconds", Kind.HISTOGRAM, "How long kubelet's calls took", _CALL
)

_BOUNDS = (*(number(bound) for bound in DURATION_BOUNDS), "+Inf")


def _kubelet(view: View) -> Iterator[Metric]:
    yield from filled(DEVICES, _by_state(view))
    statuses = {status.resource: status for status in view.resources}
    yield from read(RESOURCES, [({"resource": name}, status) for name, status in statuses.items()])
    calls = [
        ({"resource": resource, "method": method}, stats)
        for (resource, method), stats in view.calls.items()
    ]
    yield from read(CALLS, calls)
    if calls:
        durations = DURATIONS.metric()
        durations.samples = list(
            chain.from_iterable(_histogram(labels, stats) for labels, stats in calls)
        )
        yield durations


def _by_state(view: View) -> Iterator[tuple[Labels, int]]:
    advertisement = view.snapshot.advertisement
    for resource, listed in advertisement.resources.items():
        healthy = sum(item.healthy for item in listed)
        yield {"resource": resource, "state": "healthy"}, healthy
        yield {"resource": resource, "state": "unhealthy"}, len(listed) - healthy
    yield {"resource": "", "state": "withheld"}, len(advertisement.withheld)


def _histogram(labels: Labels, stats: CallStats) -> Iterator[Sample]:
    name = DURATIONS.name
    for bound, count in zip(_BOUNDS, accumulate(stats.buckets), strict=True):
        yield Sample(f"{name}_bucket", {**labels, "le": bound}, count)
    yield Sample(f"{name}_count", labels, stats.count)
    yield Sample(f"{name}_sum", labels, stats.seconds)


#: Our own families, in scrape order.
FAMILIES: tuple[Family, ...] = (
    BUILD,
    CONFIG_CHANGES,
    *(family for family, _ in NODE),
    DEVICES,
    *(family for family, _ in RESOURCES),
    *(family for family, _ in CALLS),
    DURATIONS,
    *cluster.FAMILIES,
    *devices.FAMILIES,
    *partitioning.FAMILIES,
)
