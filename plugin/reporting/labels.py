"""Keeps the labels of the own Node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from plugin.cluster.api import Cluster, Watched
from plugin.core.cluster import NodeMetadata
from plugin.core.labels.node import Values, labels
from plugin.core.labels.ownership import Patch, owned, patch
from plugin.core.labels.settling import settled
from plugin.core.state import Snapshot
from plugin.loops.backoff import Backoff
from plugin.loops.first import first_of
from plugin.loops.store import Store
from plugin.reporting.latest import Latest
from plugin.reporting.standing import Standing

log = logging.getLogger(__name__)

#: Pauses while another program changes our labels again and again. It is not fought.
_FIRST_SECONDS, _CAP_SECONDS, _WELL_SECONDS = 1.0, 300.0, 600.0


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
        self._standing = Standing("node labels")
        self._disputes = Backoff(_FIRST_SECONDS, _CAP_SECONDS, well=_WELL_SECONDS, free=1)
        self._latest = Latest()
        self._written: Snapshot | None = None
        self._settled_at = 0.0
        self._left: tuple[str, ...] = ()
        self.values: Values = {}
        self.writes = 0

    @property
    def problems(self) -> tuple[str, ...]:
        found = [self._standing.problem]
        if self._left:
            found.append(
                f"Node Feature Discovery writes {len(self._left)} of the node's labels, which are "
                f"left to it: {', '.join(self._left[:3])}, …; switch GPU Feature Discovery off"
            )
        return tuple(filter(None, found))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._cluster.may_ask()
            snapshot, known = self._store.snapshot, self._nodes.now
            node = self._latest.node(known)
            wanted = self._values(snapshot, node) if node is not None else None
            if node is not None and wanted is not None:
                todo = patch(node, wanted)
                self._report_left(todo)
                if todo:
                    if not await self._disputed(snapshot, todo.labels):
                        await self._send(node, todo, snapshot, known.generation)
                    continue
                self._standing.clear()
                self.values = {key: value for key, value in wanted.items() if key not in todo.left}
                self._written = snapshot
                if not self._wanted:
                    return
            await first_of(self._changed_since(snapshot), self._nodes.newer_than(known.generation))

    def _values(self, snapshot: Snapshot, node: NodeMetadata) -> Values | None:
        if not self._wanted:
            return {}
        found = labels(snapshot)
        return None if found is None else settled(found, owned(node), snapshot.geometry)

    async def _send(
        self, node: NodeMetadata, todo: Patch, snapshot: Snapshot, generation: int
    ) -> None:
        with self._standing.attempt():
            answer = await self._cluster.patch_metadata(
                node, labels=todo.labels, annotations=todo.annotations
            )
            self._latest.answered(generation, answer)
            self._settled_at = asyncio.get_running_loop().time()
            self.writes += 1
            self._written = snapshot
            log.info(
                "node labels written",
                extra={
                    "generation": snapshot.generation,
                    "set": sum(value is not None for value in todo.labels.values()),
                    "removed": sum(value is None for value in todo.labels.values()),
                },
            )

    async def _disputed(self, snapshot: Snapshot, changes: Mapping[str, str | None]) -> bool:
        """Whether another program has changed what we wrote for this snapshot, so often that the
        Node has to be looked at again after a pause.
        """
        before = self._written
        if before is None or self._standing.failed or not _tells_the_same(before, snapshot):
            return False
        log.warning(
            "another program has changed node labels of this plugin",
            extra={"labels": sorted(changes)},
        )
        pause = self._disputes.failed(asyncio.get_running_loop().time() - self._settled_at)
        self._written = None  # this pause was for this change
        await asyncio.sleep(pause)
        return pause > 0

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
        self._left = todo.left


def _tells_the_same(before: Snapshot, now: Snapshot) -> bool:
    """Health is not among what labels tell."""
    return now.inventory is before.inventory and now.settings is before.settings
