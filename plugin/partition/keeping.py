"""Keeps what is wanted and what the GPUs had that change, and that only one process partitions the
node.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from plugin.core.inventory.model import Gpu
from plugin.core.partition.order import Order
from plugin.core.partition.run import Before
from plugin.core.partition.trouble import Code, Trouble
from plugin.loops.aside import Aside
from plugin.partition.memory import Labelled, Memory, MemoryFile
from plugin.state.lock import FileLock

log = logging.getLogger(__name__)

InThread = Callable[..., Awaitable[Any]]

#: For one write; then nothing is changed until it has returned.
SAVE_SECONDS = 10.0


class Keeper:
    """Used from the event loop; files are written in a thread, and by the process with the lock."""

    def __init__(self, file: MemoryFile, in_thread: InThread | None = None) -> None:
        """`in_thread` runs what blocks beside the event loop."""
        self._file = file
        self.in_thread = in_thread or Aside(file.path.name, SAVE_SECONDS).run
        self._lock: FileLock | None = None
        self._saved = self.memory = Memory()
        self._writing = threading.Lock()
        #: Counts how often this process got the lock: others may have changed GPUs before that.
        self.lease = 0
        #: Called when another process has left another order.
        self.on_found: Callable[[], None] = lambda: None

    def load(self) -> Memory:
        """Blocks."""
        if self.claim() is not None:
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
        self._found(self._file.load())
        return None

    def _found(self, found: Memory) -> None:
        """Go on from what is on disk, but for an order that could not be saved."""
        self.lease += 1
        own, saved = self.memory, self._saved
        unsaved = replace(own, changing=saved.changing) != saved
        self._saved = found
        self.memory = replace(own, changing=found.changing) if unsaved else found
        if self.memory.order != own.order:
            self.on_found()

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
        return await self._save(order=order, instead_of=instead_of, labelled=labelled)

    async def labelled(self, labelled: Labelled) -> None:
        """Keep a label's value that orders nothing."""
        await self._save(labelled=labelled)

    async def ready(self) -> str:
        """Find out whether anything can be saved; returns why not."""
        return await self._written(anyhow=True)

    async def begins(self, gpus: Iterable[Gpu]) -> str:
        """Have it on disk that these GPUs are changed and what they had; returns why that
        failed.
        """
        new = {gpu.uuid: Before.of(gpu) for gpu in gpus if gpu.uuid not in self.memory.changing}
        return await self._save(changing=MappingProxyType({**self.memory.changing, **new}))

    async def holds(self, half: Mapping[str, Before]) -> None:
        """Only these GPUs are half-made."""
        if half == self.memory.changing == self._saved.changing:
            return
        problem = await self._save(changing=half)
        if problem:
            # Nothing is lost: the file says that the GPUs may be changing, and the driver knows.
            log.warning("what was partitioned cannot be saved", extra={"reason": problem})

    async def _save(self, **changes: Any) -> str:
        problem = self.claim()
        self.memory = replace(self.memory, **changes)
        return problem.text if problem is not None else await self._written()

    async def _written(self, *, anyhow: bool = False) -> str:
        try:
            await self.in_thread(self._write, anyhow)
        except OSError as error:
            return str(error)
        return ""

    def _write(self, anyhow: bool) -> None:  # noqa: FBT001 — through in_thread
        """One write follows another, each of what is newest: none brings back what was before."""
        with self._writing:
            newest = self.memory
            if anyhow or newest != self._saved:
                self._file.save(newest)
                self._saved = newest
