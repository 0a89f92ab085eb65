"""What the features that write to the cluster have done."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from plugin.core.view import ClusterStatus, View
from plugin.web.metrics.family import Family, Reading, counter, filled, gauge, read

REQUESTS = counter(
    "api_requests_total",
    "Requests to the API server by the code of its answer, or why there was none",
    ("verb", "resource", "code"),
)

TOTALS: tuple[Reading[ClusterStatus], ...] = (
    (
        gauge(
            "api_outage_start_timestamp_seconds",
            "Since when the API server has not answered; none while it does",
        ),
        lambda s: s.away_since,
    ),
    (
        gauge("cluster_problems", "What does not work of the features that write to the cluster"),
        lambda s: len(s.problems),
    ),
    (gauge("node_labels", "Labels that the plugin keeps on its Node"), lambda s: s.labels),
    (
        counter("node_label_writes_total", "Changes of the Node's labels that were written"),
        lambda s: s.label_writes,
    ),
    (
        counter("events_sent_total", "Events that were made or counted up"),
        lambda s: s.events_sent,
    ),
    (
        counter(
            "events_dropped_total",
            "Events that were not sent, since newer ones took their place or they were refused",
        ),
        lambda s: s.events_dropped,
    ),
)

FAMILIES: tuple[Family, ...] = (REQUESTS, *(family for family, _ in TOTALS))


def of(view: View) -> Iterator[Metric]:
    """Nothing where no feature writes to the cluster."""
    status = view.cluster
    if status is None:
        return
    series = [
        ({"verb": verb, "resource": resource, "code": code}, count)
        for (verb, resource, code), count in sorted(status.requests.items())
    ]
    yield from filled(REQUESTS, series)
    yield from read(TOTALS, [({}, status)])
