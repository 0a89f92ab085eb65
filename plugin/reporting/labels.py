"""Keeps the labels of the own Node."""

from __future__ import annotations

import asyncio
import logging

from plugin.cluster.api import Cluster, Watched
from plugin.core.cluster import NodeMetadata
from plugin.core.labels.node import Values, labels
from plugin.core.labels.ownership import RECORD, Patch, owned, patch
from plugin.core.labels.settling import settled
from plugin.core.state import Snapshot
from plugin.loops.first import first_of
from plugin.loops.store import Store
from plugin.reporting.disputes import Disputes
from plugin.reporting.latest import Latest
from plugin.reporting.standing import Standing

log = logging.getLogger(__name__)


class LabelWriter:
    """Writes where labels differ, after changes of devices and settings, and after others have
    changed them.
    """

    def __init__(
        self, cluster: Cluster, store: Store, nodes: Watched[NodeMetadata], *, wanted: bool = True
    ) -> None:
        """Unless `wanted`, our labels are removed, and :meth:`run` then ends."""
        self._cluster, self._store, self._nodes = cluster, store, nodes
        self._wanted = wanted
        self.standing = Standing("node labels")
        self._disputes = Disputes()
        self._latest = Latest()
        self._left: tuple[str, ...] = ()
        self.values: Values = {}
        self.writes = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._cluster.may_ask()
            snapshot, known = self._store.snapshot, self._nodes.now
            node = self._latest.node(known)
            wanted = self._values(snapshot, node) if node is not None else None
            pause: float | None = None
            if node is not None and wanted is not None:
                todo = patch(node, wanted)
                self._report_left(todo)
                verdict = self._disputes.judge(node, {**todo.labels, **todo.annotations})
                if verdict.fresh:
                    log.warning(
                        "another program has changed node labels of this plugin",
                        extra={"labels": list(verdict.fresh), "by": verdict.by or None},
                    )
                if verdict.write:
                    await self._send(node, todo.only(verdict.write), snapshot, known.generation)
                    continue
                self.standing.clear()
                pause = verdict.pause
                if not todo:
                    ours = {key: text for key, text in wanted.items() if key not in todo.left}
                    self._disputes.settled({**ours, RECORD: node.annotations.get(RECORD)})
                    self.values = ours
                    if not self._wanted:
                        return
            await first_of(
                self._changed_since(snapshot),
                self._nodes.newer_than(known.generation),
                asyncio.sleep(pause) if pause is not None else asyncio.Event().wait(),
            )

    def _values(self, snapshot: Snapshot, node: NodeMetadata) -> Values | None:
        if not self._wanted:
            return {}
        found = labels(snapshot)
        return None if found is None else settled(found, owned(node), snapshot.geometry)

    async def _send(
        self, node: NodeMetadata, todo: Patch, snapshot: Snapshot, generation: int
    ) -> None:
        with self.standing.attempt():
            answer = await self._cluster.patch_metadata(
                node, labels=todo.labels, annotations=todo.annotations
            )
            self._latest.answered(generation, answer)
            self._disputes.wrote({**todo.labels, **todo.annotations})
            self.writes += 1
            log.info(
                "node labels written",
                extra={
                    "generation": snapshot.generation,
                    "set": sum(value is not None for value in todo.labels.values()),
                    "removed": sum(value is None for value in todo.labels.values()),
                },
            )

    async def _changed_since(self, before: Snapshot) -> None:
        now = before
        while _tells_the_same(before, now):
            now = await self._store.newer_than(now.generation)

    def _report_left(self, todo: Patch) -> None:
        if todo.left and todo.left != self._left:
            log.warning(
                "Node Feature Discovery writes labels of this plugin, which are left to it",
                extra={"labels": list(todo.left), "fix": "switch GPU Feature Discovery off"},
            )
            self.standing.note = (
                f"Node Feature Discovery writes {len(todo.left)} of the node's labels, which are "
                f"left to it: {', '.join(todo.left[:3])}, …; switch GPU Feature Discovery off "
                "(what this plugin's former features file had goes by itself within minutes)"
            )
        elif not todo.left:
            self.standing.note = ""
        self._left = todo.left


def _tells_the_same(before: Snapshot, now: Snapshot) -> bool:
    """Health is not among what labels tell."""
    return now.inventory is before.inventory and now.settings is before.settings
