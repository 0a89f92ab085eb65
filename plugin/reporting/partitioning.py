"""Follows the label that names the MIG configuration, and answers on the Node."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from plugin.cluster.api import Cluster, Watched
from plugin.core.cluster import Changes, NodeMetadata
from plugin.core.notices import Notice
from plugin.core.partition.answer import ANNOTATION, answer, state_key
from plugin.core.partition.causes import unknown
from plugin.core.partition.progress import Progress
from plugin.core.partition.trouble import Code, Trouble
from plugin.loops.first import first_of
from plugin.loops.pulse import Pulse
from plugin.reporting.disputes import Disputes, Verdict
from plugin.reporting.latest import Latest
from plugin.reporting.standing import Standing, node_of

log = logging.getLogger(__name__)

#: Between two looks at a name that is not known: a file of configurations may have it later; and
#: while the driver does not say.
UNKNOWN_SECONDS, DRIVER_SECONDS = 60.0, 2.0
#: Between two writes that change only the annotation: whoever watches Nodes gets each of them.
DETAIL_SECONDS = 2.0


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
        self.standing = Standing("the state of partitioning")
        self._disputes = Disputes()
        #: The label's value once it has been looked at, and why it was not taken up.
        self._value: str | None = None
        self._refused: Trouble | None = None
        self._taken = Pulse()
        self._latest = Latest()
        self._wrote_at = 0.0

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
                pairs = zip(self._keys, wanted, there, strict=True)
                verdict = self._disputes.judge(
                    node, {k: new for k, new, old in pairs if new != old}
                )
                self._note_rival(verdict)
                pause = self._pause(verdict, there)
                if verdict.write and not pause:
                    await self._send(node, verdict.write, known.generation)
                    continue
                if wanted == there:
                    self.standing.clear()
                    self._disputes.settled(dict(zip(self._keys, wanted, strict=True)))
            await first_of(
                self._nodes.newer_than(known.generation),
                self._partitioned.progressed(progress),
                self._taken_since(taken),
                asyncio.sleep(pause) if pause is not None else asyncio.Event().wait(),
            )

    @property
    def _keys(self) -> tuple[str, str]:
        return state_key(self._label), ANNOTATION

    def _there(self, node: NodeMetadata) -> _Answer:
        return node.labels.get(state_key(self._label)), node.annotations.get(ANNOTATION)

    def _pause(self, verdict: Verdict, there: _Answer) -> float | None:
        """Seconds until something may be written."""
        if verdict.write.keys() == {ANNOTATION} and there[1] is not None:
            left = self._wrote_at + DETAIL_SECONDS - asyncio.get_running_loop().time()
            if left > 0:
                return min(left, verdict.pause or left)
        return None if verdict.write else verdict.pause

    def _note_rival(self, verdict: Verdict) -> None:
        if verdict.fresh:
            log.warning(
                "another program has changed the state of partitioning on the Node",
                extra={"labels": list(verdict.fresh), "by": verdict.by or None},
            )
        state = state_key(self._label)
        if state not in verdict.left:
            self.standing.note = ""
        elif state in verdict.fresh:
            self.standing.note = (
                f"{verdict.by or 'another program'} keeps writing the label {state}; only one "
                "program may partition the node: take NVIDIA's MIG Manager off it"
            )

    async def _send(self, node: NodeMetadata, changes: Changes, generation: int) -> None:
        with self.standing.attempt():
            self._latest.answered(
                generation,
                await self._cluster.patch_metadata(
                    node,
                    labels={key: text for key, text in changes.items() if key != ANNOTATION},
                    annotations={key: text for key, text in changes.items() if key == ANNOTATION},
                ),
            )
            self._wrote_at = asyncio.get_running_loop().time()
            self._disputes.wrote(changes)

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
        self.standing = Standing(f"the former label {state_key(label)}")

    async def run(self) -> None:
        """Until they are gone."""
        while True:
            await self._cluster.may_ask()
            known = self._nodes.now
            node = node_of(known)
            if node is None:
                await self._nodes.newer_than(known.generation)
                continue
            with self.standing.attempt() as attempt:
                await self._cluster.patch_metadata(
                    node, labels={state_key(self._label): None}, annotations=self._annotations
                )
            if not attempt.failed:
                return


def _written(found: tuple[str | None, dict[str, Any] | None]) -> _Answer:
    word, document = found
    return word, None if document is None else json.dumps(document, separators=(",", ":"))
