"""Keeps what is wanted and what was last good, and that only one process partitions the node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plugin.core.inventory.model import Gpu
from plugin.core.partition.configuration import Wanted
from plugin.core.partition.node import Decision, NodePlan
from plugin.core.partition.order import Order
from plugin.core.partition.planner import devices_of
from plugin.core.partition.run import Run
from plugin.core.partition.trouble import Code, Trouble
from plugin.partition.memory import Labelled, Memory, MemoryFile
from plugin.state.lock import FileLock

log = logging.getLogger(__name__)

InThread = Callable[..., Awaitable[Any]]


class Keeper:
    """Used from the event loop; files are written in a thread."""

    def __init__(self, file: MemoryFile, in_thread: InThread = asyncio.to_thread) -> None:
        """`in_thread` runs what blocks beside the event loop."""
        self._file = file
        self.in_thread = in_thread
        self._lock: FileLock | None = None
        self._saved = self.memory = Memory()

    def load(self) -> Memory:
        """Blocks."""
        self._saved = self.memory = self._file.load()
        return self.memory

    def claim(self) -> Trouble | None:
        """Have the lock; returns why not. Blocks for a moment."""
        if self._lock is not None and self._lock.is_ours():
            return None
        self.release()
        path = self._file.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        except BlockingIOError:
            return Trouble(Code.BUSY, "another process partitions this node")
        except OSError as error:
            return Trouble(Code.NOT_SAVED, f"what is wanted cannot be saved: {error}")
        return None

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    async def ordered(
        self, order: Order | None, instead_of: str, labelled: Labelled | None = None
    ) -> str:
        """Keep an order by a command, ``None`` for none, or by what is `labelled`; returns why that
        failed.
        """
        before = self.memory.labelled
        if labelled is None and before is not None:
            labelled = replace(before, refused=False)  # what comes later holds
        return await self._save(
            replace(self.memory, order=order, instead_of=instead_of, labelled=labelled)
        )

    async def labelled(self, labelled: Labelled) -> None:
        """Keep a label's value that orders nothing."""
        await self._save(replace(self.memory, labelled=labelled))

    async def begins(self, decisions: Iterable[Decision]) -> str:
        """Have it on disk that these GPUs are changed and what they had; returns why that
        failed.
        """
        good, changing = dict(self.memory.good), set(self.memory.changing)
        for each in decisions:
            uuid = each.gpu.uuid
            present = geometry(each.gpu)
            if uuid not in changing and present is not None:
                good[uuid] = present
            changing.add(uuid)
        return await self._save(replace(self.memory, good=good, changing=frozenset(changing)))

    async def ended(self, done: Sequence[str], run: Run, plan: NodePlan) -> None:
        """These GPUs were changed; those without trouble have a good geometry now."""
        targets = {each.gpu.uuid: each.wanted for each in plan.decisions}
        tracks = run.tracks
        whole = {uuid for uuid in done if uuid not in tracks or tracks[uuid].restored}
        await self._reached({uuid: targets[uuid] for uuid in whole})

    async def reached(self, geometries: Mapping[str, Wanted]) -> None:
        """These GPUs have these geometries, whoever made them."""
        if not self.memory.changing.isdisjoint(geometries):
            await self._reached(geometries)

    async def _reached(self, geometries: Mapping[str, Wanted]) -> None:
        good = {**self.memory.good, **geometries}
        changing = self.memory.changing - geometries.keys()
        problem = await self._save(replace(self.memory, good=good, changing=changing))
        if problem:
            # Nothing is lost: the file says that the GPUs may be changing, and the driver knows.
            log.warning("what was partitioned cannot be saved", extra={"reason": problem})

    async def _save(self, memory: Memory) -> str:
        self.memory = memory
        if memory == self._saved:
            return ""
        try:
            await self.in_thread(self._file.save, memory)
        except OSError as error:
            return str(error)
        self._saved = memory
        return ""


def geometry(gpu: Gpu) -> Wanted | None:
    """What a GPU has, ``None`` where the driver does not say."""
    if gpu.error or gpu.mig_unknown or gpu.uncounted or gpu.unreadable:
        return None
    if not gpu.mig_enabled:
        return Wanted(mig=False)
    devices = devices_of(gpu)
    return None if "" in devices else Wanted.of(devices)
