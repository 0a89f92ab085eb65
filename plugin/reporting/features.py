"""The features that the settings ask for, over one client, and the end of former ones."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from plugin.cluster.client import ApiClient, connect, own_node
from plugin.core.holders import Holders
from plugin.core.notices import Notice
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.core.view import ClusterStatus
from plugin.loops.aside import Aside
from plugin.loops.store import Store
from plugin.reporting.record import (
    LABELS,
    TAINTS,
    Record,
    condition_line,
    condition_types,
    partition_labels,
    partition_line,
)
from plugin.reporting.standing import FILES_SECONDS, Standing

if TYPE_CHECKING:
    from plugin.reporting.condition import ConditionWriter
    from plugin.reporting.events import EventSender
    from plugin.reporting.labels import LabelWriter
    from plugin.reporting.partitioning import Partitioned

log = logging.getLogger(__name__)


class Feature(Protocol):
    """What :class:`Features` runs, again after a mistake of ours."""

    @property
    def standing(self) -> Standing:
        """What does not work."""

    async def run(self) -> None:
        """Until cancelled, or until nothing is left to do."""


class FormerCondition:
    """Removes a condition of a former configuration."""

    def __init__(self, client: ApiClient, kind: str) -> None:
        self._client, self._kind = client, kind
        self.standing = Standing(f"the former node condition {kind}")

    async def run(self) -> None:
        """Until it is gone."""
        while True:
            await self._client.may_ask()
            with self.standing.attempt() as attempt:
                await self._client.remove_condition(self._kind)
            if not attempt.failed:
                return


class Features:
    """All that one daemon does in the cluster. What is off is not imported."""

    def __init__(
        self,
        client: ApiClient,
        store: Store,
        first: Snapshot,
        record: Record,
        holders: Callable[[], Holders],
        registered: Callable[[], Collection[str]],
        partitioned: Partitioned | None = None,
        choose: Callable[[str], None] | None = None,
    ) -> None:
        """`first` is the snapshot since which changes are news."""
        settings = store.snapshot.settings
        self._client, self._record = client, record
        self._aside = Aside(str(record.path), FILES_SECONDS)
        self._nodes = client.watch_node()
        node: tuple[ApiClient, Store, Any] = client, store, self._nodes
        self._labels: LabelWriter | None = None
        self._events: EventSender | None = None
        self._condition: ConditionWriter | None = None
        #: The watch of the Node, and what partitioning tells.
        self._watching = Standing("the watch of the Node"), Standing("Events of partitioning")
        #: What runs, and the line of the record that it removes when it ends.
        self._running: list[tuple[Feature, str]] = []
        former = record.read()
        if settings.is_labelled and choose is not None:
            from plugin.reporting.config_label import ConfigLabel  # noqa: PLC0415

            self._running.append((ConfigLabel(self._nodes, settings.config_label, choose), ""))
        if settings.node_labels or LABELS in former:
            from plugin.reporting.labels import LabelWriter  # noqa: PLC0415

            self._labels = LabelWriter(*node, wanted=settings.node_labels)
            self._running.append((self._labels, LABELS))
        if settings.node_events:
            from plugin.reporting.events import EventSender  # noqa: PLC0415

            self._events = EventSender(*node, first, holders)
            self._running.append((self._events, ""))
        if settings.node_condition:
            from plugin.reporting.condition import ConditionWriter  # noqa: PLC0415

            self._condition = ConditionWriter(*node)
            self._running.append((self._condition, ""))
        for kind in condition_types(former):
            if kind != settings.node_condition:
                self._running.append((FormerCondition(client, kind), condition_line(kind)))
        if settings.node_taint or settings.startup_taint or TAINTS in former:
            from plugin.reporting.taints import TaintKeeper  # noqa: PLC0415

            self._running.append((TaintKeeper(*node, registered), TAINTS))
        self._partitioned = partitioned
        self._add_partitioning(settings.partition_label, partition_labels(former), partitioned)

    def _add_partitioning(
        self, label: str, former: Collection[str], partitioned: Partitioned | None
    ) -> None:
        if not label and not former:
            return
        from plugin.reporting import partitioning  # noqa: PLC0415

        if label and partitioned is not None:
            follower = partitioning.PartitionLabel(
                self._client, self._nodes, label, partitioned, self.note
            )
            self._running.append((follower, ""))
        for key in former:
            if key != label:
                cleaner = partitioning.FormerPartitionLabel(
                    self._client, self._nodes, key, annotated=bool(label)
                )
                self._running.append((cleaner, partition_line(key)))

    @property
    def client(self) -> ApiClient:
        """One for all: during an outage they share its pauses."""
        return self._client

    def note(self, notices: Sequence[Notice]) -> None:
        """Make Events of these, where there are Events."""
        if self._events is not None:
            self._events.note(notices)

    @property
    def status(self) -> ClusterStatus:
        traffic, events = self._client.traffic, self._events
        standings = (*(feature.standing for feature, _ in self._running), *self._watching)
        problems = [problem for standing in standings for problem in standing.problems]
        if self._record.problem:
            problems.append(self._record.problem)
        if self._nodes.problem:
            problems.append(f"the Node cannot be followed: {self._nodes.problem}")
        known = self._nodes.now
        if known.synced and not known.items:
            problems.append(
                f"the cluster has no Node {self._client.node}; set NODE_NAME to the Node's name"
            )
        return ClusterStatus(
            requests=traffic.requests,
            away_since=traffic.away_since,
            away_because=traffic.away_because,
            labels=len(self._labels.values) if self._labels is not None else None,
            label_writes=self._labels.writes if self._labels is not None else 0,
            events_sent=events.sent if events is not None else 0,
            events_dropped=events.dropped if events is not None else 0,
            problems=tuple(problems),
        )

    async def run(self) -> None:
        """Until cancelled, or until nothing is left to do; says so in the condition at the end."""
        try:
            async with asyncio.TaskGroup() as around:
                watch, causes = self._watching
                watching = around.create_task(watch.keep(self._nodes.run), name="watch of the Node")
                async with asyncio.TaskGroup() as tasks:
                    for feature, line in self._running:
                        run = functools.partial(self._run, feature.run, line)
                        tasks.create_task(feature.standing.keep(run))
                    if self._events is not None and self._partitioned is not None:
                        note = functools.partial(self._note_partitioning, self._partitioned)
                        tasks.create_task(causes.keep(note))
                watching.cancel()
        finally:
            try:
                if self._condition is not None:
                    await self._condition.end()
            finally:
                self._client.close()

    async def _note_partitioning(self, partitioned: Partitioned) -> None:
        await partitioned.progressed(None)  # until something is wanted
        from plugin.reporting import partition_events  # noqa: PLC0415 — off for most

        await partition_events.follow(partitioned, self.note)

    async def _run(self, run: Callable[[], Coroutine[Any, Any, None]], line: str) -> None:
        await run()
        if line:
            await self._aside.run(self._record.remove, line)
            log.info("a former feature is cleaned up behind", extra={"feature": line})


def open_features(
    store: Store,
    first: Snapshot,
    record: Record,
    holders: Callable[[], Holders],
    registered: Callable[[], Collection[str]],
    partitioned: Partitioned | None = None,
    choose: Callable[[str], None] | None = None,
) -> Features:
    """Blocks. Raises :class:`ConfigError`, :class:`ClusterUnreachable`."""
    settings = store.snapshot.settings
    client = connect(own_node(settings.node_name), settings.kubeconfig)
    record.read()
    record.add(*_lines(settings))
    return Features(client, store, first, record, holders, registered, partitioned, choose)


def _lines(settings: Settings) -> list[str]:
    lines = [LABELS] if settings.node_labels else []
    if settings.node_condition:
        lines.append(condition_line(settings.node_condition))
    if settings.partition_label:
        lines.append(partition_line(settings.partition_label))
    return lines + ([TAINTS] if settings.node_taint else [])
