"""Follows the label that names the MIG configuration, and answers on the Node."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from plugin.cluster.api import Cluster, Watched
from plugin.core.cluster import NodeMetadata
from plugin.core.notices import Notice
from plugin.core.partition.answer import ANNOTATION, answer, state_key
from plugin.core.partition.causes import unknown
from plugin.core.partition.progress import Progress
from plugin.core.partition.rivals import foreign_writers
from plugin.core.partition.trouble import Code, Trouble
from plugin.loops.backoff import Backoff
from plugin.loops.first import first_of
from plugin.loops.pulse import Pulse
from plugin.reporting.latest import Latest
from plugin.reporting.standing import Standing, node_of

log = logging.getLogger(__name__)

#: Between two looks at a name that is not known: a file of configurations may have it later; and
#: while the driver does not say.
UNKNOWN_SECONDS, DRIVER_SECONDS = 60.0, 2.0
#: Between two writes that change only the annotation: whoever watches Nodes gets each of them.
DETAIL_SECONDS = 2.0
#: Pauses while another program changes the state label again and again. It is not fought.
_FIRST_SECONDS, _CAP_SECONDS, _WELL_SECONDS = 1.0, 300.0, 600.0


class Partitioned(Protocol):
    """What partitions the node."""

    def progress(self) -> Progress | None:
        """``None`` while nothing has been wanted."""

    async def progressed(self, seen: Progress | None) -> None:
        """Wait until :meth:`progress` is another one."""

    async def labelled(self, name: str) -> Trouble | None:
        """Take up what the label names, empty where it is missing, unless that was done; returns
        why not.
        """


#: The state label's value and the annotation's.
_Answer = tuple[str | None, str | None]


class PartitionLabel:
    """Passes on each value of the label, and writes the answer."""

    def __init__(
        self,
        cluster: Cluster,
        nodes: Watched[NodeMetadata],
        label: str,
        partitioned: Partitioned,
        note: Callable[[Sequence[Notice]], None] = lambda _: None,
    ) -> None:
        """`note` makes Events of notices."""
        self._cluster, self._nodes = cluster, nodes
        self._label, self._partitioned, self._note = label, partitioned, note
        self._standing = Standing("the state of partitioning")
        self._disputes = Backoff(_FIRST_SECONDS, _CAP_SECONDS, well=_WELL_SECONDS, free=1)
        #: The label's value once it has been looked at, and why it was not taken up.
        self._value: str | None = None
        self._refused: Trouble | None = None
        self._taken = Pulse()
        self._latest = Latest()
        self._written: _Answer | None = None
        self._wrote_at = 0.0
        #: The word that another program has replaced, and until when that is left alone.
        self._disputed: tuple[str | None, float] = (None, 0.0)
        self._rival = ""

    @property
    def problems(self) -> tuple[str, ...]:
        rival = (
            f"{self._rival} keeps writing the label {state_key(self._label)}; only one program may "
            "partition the node: take NVIDIA's MIG Manager off it"
            if self._rival
            else ""
        )
        return tuple(filter(None, (self._standing.problem, rival)))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take(), name="partition label")
            tasks.create_task(self._answer(), name="state of partitioning")

    # ---- the label

    async def _take(self) -> None:
        while True:
            known = self._nodes.now
            node = node_of(known)
            if known.synced and node is not None:
                await self._take_up(node)
            await first_of(self._nodes.newer_than(known.generation), self._again())

    async def _take_up(self, node: NodeMetadata) -> None:
        value = node.labels.get(self._label, "")
        if value == self._value and self._refused is None:
            return
        refused = await self._partitioned.labelled(value)
        if refused is not None and refused != self._refused:
            log.error(
                "the configuration that the node's label names is not taken up",
                extra={"label": self._label, "value": value, "reason": refused.text},
            )
            if refused.code is Code.UNKNOWN_CONFIGURATION:
                self._note([unknown(value, refused)])
        self._value, self._refused = value, refused
        self._taken.fire()

    async def _again(self) -> None:
        if self._refused is None:
            await asyncio.Event().wait()
        else:
            unknown = self._refused.code is Code.UNKNOWN_CONFIGURATION
            await asyncio.sleep(UNKNOWN_SECONDS if unknown else DRIVER_SECONDS)

    # ---- the answer

    async def _answer(self) -> None:
        while True:
            await self._cluster.may_ask()
            known, progress = self._nodes.now, self._partitioned.progress()
            node, taken = self._latest.node(known), (self._value, self._refused)
            pause: float | None = None
            if node is not None and self._value is not None:
                wanted = _written(answer(self._label, self._value, progress, self._refused))
                there = self._there(node)
                if wanted == (None, None) and there[1] is None:
                    wanted = there  # the state is another program's
                if wanted != there:
                    pause = self._pause(node, wanted, there)
                    if not pause:
                        await self._send(node, wanted, known.generation)
                        continue
                else:
                    self._standing.clear()
                    self._written, self._rival = wanted, ""
            await first_of(
                self._nodes.newer_than(known.generation),
                self._partitioned.progressed(progress),
                self._taken_since(taken),
                asyncio.sleep(pause) if pause is not None else asyncio.Event().wait(),
            )

    def _there(self, node: NodeMetadata) -> _Answer:
        return node.labels.get(state_key(self._label)), node.annotations.get(ANNOTATION)

    def _pause(self, node: NodeMetadata, wanted: _Answer, there: _Answer) -> float:
        """Seconds until it may be written."""
        now = asyncio.get_running_loop().time()
        if wanted == self._written and not self._standing.failed:
            by = ", ".join(foreign_writers(node, state_key(self._label)))
            log.warning(
                "another program has changed the state of partitioning on the Node",
                extra={"label": state_key(self._label), "value": there[0], "by": by or None},
            )
            self._rival = by or "another program"
            self._written = None  # this pause is for this change
            pause = self._disputes.failed(now - self._wrote_at)
            self._disputed = wanted[0], now + pause
        word, until = self._disputed
        if word == wanted[0] and until > now:
            return until - now
        self._rival = ""
        if wanted[0] == there[0] and there[1] is not None:
            return max(0.0, self._wrote_at + DETAIL_SECONDS - now)
        return 0.0

    async def _send(self, node: NodeMetadata, wanted: _Answer, generation: int) -> None:
        with self._standing.attempt():
            self._latest.answered(
                generation,
                await self._cluster.patch_metadata(
                    node,
                    labels={state_key(self._label): wanted[0]},
                    annotations={ANNOTATION: wanted[1]},
                ),
            )
            self._wrote_at = asyncio.get_running_loop().time()
            self._written = wanted

    def _taken_since(self, before: tuple[str | None, Trouble | None]) -> Coroutine[Any, Any, None]:
        async def wait() -> None:
            while (self._value, self._refused) == before:
                await self._taken.wait()

        return wait()


class FormerPartitionLabel:
    """Removes the answers of a former configuration."""

    def __init__(
        self, cluster: Cluster, nodes: Watched[NodeMetadata], label: str, *, annotated: bool
    ) -> None:
        """`annotated`: the annotation is of another label now."""
        self._cluster, self._nodes, self._label = cluster, nodes, label
        self._annotations = {} if annotated else {ANNOTATION: None}
        self._standing = Standing(f"the former label {state_key(label)}")

    @property
    def problems(self) -> tuple[str, ...]:
        return (self._standing.problem,) if self._standing.problem else ()

    async def run(self) -> None:
        """Until they are gone."""
        while True:
            await self._cluster.may_ask()
            known = self._nodes.now
            node = node_of(known)
            if node is None:
                await self._nodes.newer_than(known.generation)
                continue
            with self._standing.attempt():
                await self._cluster.patch_metadata(
                    node, labels={state_key(self._label): None}, annotations=self._annotations
                )
            if not self._standing.failed:
                return


def _written(found: tuple[str | None, dict[str, Any] | None]) -> _Answer:
    word, document = found
    return word, None if document is None else json.dumps(document, separators=(",", ":"))
