"""Builds what publishes the node's state beyond kubelet and the web, where that is on: the features
file, and what is written to the cluster. What is off is not imported.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from plugin.core.holders import Holdings
from plugin.core.settings import Settings
from plugin.core.view import ResourceStatus
from plugin.loops.aside import briefly
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.store import Store

if TYPE_CHECKING:
    from plugin.labels.publisher import FeaturesPublisher
    from plugin.reporting.evictions import PodEvictor
    from plugin.reporting.partitioning import Partitioned
    from plugin.reporting.reporter import Reporter

#: Beside the ledger: where the features file was written.
FEATURES_RECORD = "features-file"
#: Beside the ledger: which features have written to the cluster.
CLUSTER_RECORD = "cluster-features"


def features_publisher(
    settings: Settings, store: Store, ledger: Path, heartbeats: Heartbeats
) -> FeaturesPublisher | None:
    """What keeps the features file, where there is one, or one of a former configuration."""
    record = ledger.with_name(FEATURES_RECORD)
    if not settings.features_file and not _is_there(record):
        return None
    from plugin.labels.publisher import FeaturesPublisher  # noqa: PLC0415 — off for most

    return FeaturesPublisher(store, settings.features_file, record, heartbeats)


def reporter(
    settings: Settings,
    store: Store,
    ledger: Path,
    holdings: Callable[[], Holdings],
    resources: Callable[[], Iterable[ResourceStatus]],
    partitioned: Partitioned | None = None,
    choose: Callable[[str], None] | None = None,
) -> Reporter | None:
    """What talks to the cluster, where a feature is on, or one of a former configuration is to be
    cleaned up behind. `choose` takes the value of the label that names the configuration.
    """
    record = ledger.with_name(CLUSTER_RECORD)
    if not settings.by_cluster and not _is_there(record):
        return None
    from plugin.reporting.reporter import Reporter  # noqa: PLC0415 — off for most

    return Reporter(
        store, record, lambda: holdings().holders, resources, partitioned, choose=choose
    )


def _is_there(record: Path) -> bool:
    """While its file system hangs, what is left is for the next process to clean up."""
    return briefly(functools.partial(os.path.lexists, record), otherwise=False)


def evictor(settings: Settings, reporter: Reporter | None) -> PodEvictor:
    """What evicts pods; where nothing else is done in the cluster, it connects when it has to."""
    from plugin.reporting.evictions import PodEvictor  # noqa: PLC0415 — off for most

    if reporter is None:
        return PodEvictor(settings, lambda: None)
    return PodEvictor(settings, lambda: reporter.client, reporter.note)
