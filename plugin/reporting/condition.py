"""Keeps the condition of the own Node."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from plugin.cluster.api import Cluster, Watched
from plugin.core.cluster import ConditionStatus, NodeCondition, NodeMetadata
from plugin.core.condition import Condition, Status, condition, ended, is_transition
from plugin.errors import ClusterError
from plugin.loops.first import first_of
from plugin.loops.store import Store
from plugin.reporting.standing import Standing, node_of

#: Between two writes that change only the message: whoever watches Nodes gets each of them.
MESSAGE_SECONDS = 30.0
#: For the last write, at an orderly end.
END_SECONDS = 0.25


class ConditionWriter:
    """Writes when the condition changes, never as a heartbeat."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        nodes: Watched[NodeMetadata],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster, self._store, self._nodes = cluster, store, nodes
        self._wall_clock = wall_clock
        self.standing = Standing("the node condition")
        #: The Node's UID, what is on it, and when that became its status.
        self._there: tuple[str, Condition | None, float] | None = None
        self._wrote = -MESSAGE_SECONDS

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._cluster.may_ask()
            snapshot, known = self._store.snapshot, self._nodes.now
            node, wanted = node_of(known), condition(snapshot)
            pause: float | None = None
            if node is not None and wanted is not None:
                with self.standing.attempt() as attempt:
                    pause = await self._bring(node.uid, wanted)
                if attempt.failed:
                    continue
            await first_of(
                self._store.newer_than(snapshot.generation),
                self._nodes.newer_than(known.generation),
                asyncio.sleep(pause) if pause is not None else asyncio.Event().wait(),
            )

    async def _bring(self, uid: str, wanted: Condition) -> float | None:
        """Write what is different; returns seconds to wait where that has to wait."""
        if self._there is None or self._there[0] != uid:
            self._there = uid, *await self._read(wanted.type)
        _, there, since = self._there
        if there == wanted:
            return None
        now = asyncio.get_running_loop().time()
        changes = is_transition(there, wanted)
        if not changes and (left := self._wrote + MESSAGE_SECONDS - now) > 0:
            return left
        await self._put(uid, wanted, self._wall_clock() if changes else since)
        self._wrote = now
        return None

    async def _read(self, kind: str) -> tuple[Condition | None, float]:
        """What an earlier process has written."""
        node = await self._cluster.get_node()
        for found in node.conditions:
            if found.type == kind:
                status = Status(found.status.value)
                return Condition(kind, status, found.reason, found.message), found.transition
        return None, 0.0

    async def _put(self, uid: str, wanted: Condition, transition: float) -> None:
        await self._cluster.put_condition(
            NodeCondition(
                wanted.type,
                ConditionStatus(wanted.status.value),
                wanted.reason,
                wanted.message,
                self._wall_clock(),
                transition,
            )
        )
        self._there = uid, wanted, transition

    async def end(self) -> None:
        """Say that nobody watches the devices any more, if that can be said at once."""
        if self._there is None or self._there[1] is None:
            return
        last = ended(self._there[1].type)
        with contextlib.suppress(ClusterError, TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._put(self._there[0], last, self._wall_clock())
