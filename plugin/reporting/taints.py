"""Keeps the taint of the own Node, and removes its startup taint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from plugin.cluster.api import Cluster, Watched
from plugin.core.cluster import NodeMetadata
from plugin.core.condition import wanted_taint
from plugin.core.grammars import Taint
from plugin.core.state import Snapshot
from plugin.core.taints import RECORD, is_ready, planned
from plugin.loops.first import first_of
from plugin.loops.store import Store
from plugin.reporting.standing import Standing, node_of

log = logging.getLogger(__name__)

#: How often to look whether kubelet has every resource, while a startup taint waits for it.
STARTUP_SECONDS = 0.5
#: How often to look whether a taint that is due is still there: it is not watched.
CHECK_SECONDS = 300.0


class TaintKeeper:
    """``registered`` returns the resources that kubelet has. Where the settings have neither a
    taint nor a startup taint, :meth:`run` ends when no taint of ours is left.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        nodes: Watched[NodeMetadata],
        registered: Callable[[], Collection[str]],
    ) -> None:
        self._cluster, self._store, self._nodes = cluster, store, nodes
        self._registered = registered
        self.standing = Standing("node taints")
        self._started = ""  # UID of the Node whose startup taint is dealt with
        self._there: Taint | None = None
        self._checked = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._cluster.may_ask()
            snapshot, known = self._store.snapshot, self._nodes.now
            node, settings = node_of(known), snapshot.settings
            if node is not None:
                with self.standing.attempt() as attempt:
                    await self._bring(node, snapshot)
                if attempt.failed:
                    continue
                if settings.node_taint is None and settings.startup_taint is None:
                    return
            await first_of(
                self._store.newer_than(snapshot.generation),
                self._nodes.newer_than(known.generation),
                self._pause(node),
            )

    async def _pause(self, node: NodeMetadata | None) -> None:
        if node is not None and self._waits_for_start(node):
            await asyncio.sleep(STARTUP_SECONDS)
        elif self._there is not None:
            await asyncio.sleep(CHECK_SECONDS)
            self._checked = ""
        else:
            await asyncio.Event().wait()

    def _waits_for_start(self, node: NodeMetadata) -> bool:
        return self._store.snapshot.settings.startup_taint is not None and self._started != node.uid

    async def _bring(self, node: NodeMetadata, snapshot: Snapshot) -> None:
        wanted, startup = wanted_taint(snapshot), None
        if self._waits_for_start(node) and is_ready(snapshot, self._registered()):
            startup = snapshot.settings.startup_taint
        same = self._checked == node.uid and wanted == self._there
        # A Node that never had a taint of ours need not be read.
        clean = self._checked != node.uid and wanted is None and RECORD not in node.annotations
        if startup is None and (same or clean):
            return
        current = await self._cluster.get_node()
        plan = planned(current, wanted, startup)
        await self._cluster.put_taints(current, plan.taints, {RECORD: plan.record})
        if plan.taints != current.taints:
            log.info(
                "node taints changed",
                extra={
                    "generation": snapshot.generation,
                    "taint": str(wanted) if wanted is not None else None,
                    "startup_taint": "removed" if startup is not None else None,
                },
            )
        self._there, self._checked = wanted, current.metadata.uid
        if startup is not None:
            self._started = current.metadata.uid
