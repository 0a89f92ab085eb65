"""Keeps what is wanted and what the GPUs had that change, and that only one process partitions the
node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from plugin.core.inventory.model import Gpu
from plugin.core.partition.order import Order
from plugin.core.partition.refusal import Refused
from plugin.core.partition.run import Before
from plugin.core.partition.trouble import Code, Trouble
from plugin.loops.aside import Aside
from plugin.partition.claim import Claim
from plugin.partition.memory import Labelled, Memory, MemoryFile

log = logging.getLogger(__name__)

InThread = Callable[..., Awaitable[Any]]

#: For one call of the file system; then nothing is changed until it has returned. The control
#: socket's client has more.
SAVE_SECONDS = 5.0
#: For what is under way when the process ends.
END_SECONDS = 1.0


class Keeper:
    """Used from the event loop; files are read and written beside it, and written by the process
    with the lock.
    """

    def __init__(self, file: MemoryFile, in_thread: InThread | None = None) -> None:
        """`in_thread` runs what blocks beside the event loop, one call at a time."""
        self._file, self._claim = file, Claim(file)
        self.in_thread = in_thread or Aside(file.path.name, SAVE_SECONDS).run
        self._saved = self.memory = Memory()
        self._saving = asyncio.Lock()
        #: Whether the file has answered. Before that, nobody knows what is wanted.
        self.known = False
        #: Counts how often this process got the lock: others may have changed GPUs before that.
        self.lease = 0
        #: What does not answer, as a sentence; empty where it did.
        self.silence = ""
        self._complaint = ""
        #: Called when the file has answered, and when another process has left another order.
        self.on_found: Callable[[], None] = lambda: None

    @property
    def unsaved(self) -> bool:
        """Whether something is known here that is not on disk."""
        return self.memory != self._saved

    async def claim(self) -> Trouble | None:
        """Have the lock, and know what is wanted; returns why not."""
        try:
            lease = await self._ask(self._claim.take)
        except BlockingIOError:
            problem = Trouble(Code.BUSY, "another process partitions this node")
        except TimeoutError:
            return Trouble(Code.NOT_ANSWERING, self.silence)
        except OSError as error:
            problem = Trouble(Code.NOT_SAVED, f"what is wanted cannot be saved: {error}")
        else:
            if lease.number != self.lease:
                self.lease = lease.number
                self._found(lease.found)
            return None
        if not self.known:
            try:
                self._found(await self._ask(self._file.load))
            except TimeoutError:
                return Trouble(Code.NOT_ANSWERING, self.silence)
        return problem

    async def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Raises OSError; TimeoutError where nothing answers, and then ``silence`` says so."""
        silence = ""
        try:
            return await self.in_thread(function, *args)
        except TimeoutError as error:
            silence = f"the file system of {self._file.path} does not answer"
            if error.strerror:
                silence = f"{silence}: {error.strerror}"
            raise
        finally:
            self.silence = silence

    def _found(self, found: Memory) -> None:
        """Go on from what is on disk, but for an order that could not be saved."""
        own, saved, first = self.memory, self._saved, not self.known
        unsaved = replace(own, changing=saved.changing, refused=saved.refused) != saved
        self._saved = found
        if unsaved:
            self.memory = replace(own, changing=found.changing)
        else:
            self.memory = replace(found, refused=found.refused or own.refused)
        self.known = True
        if first or self.memory.order != own.order:
            self.on_found()

    async def release(self) -> None:
        """Leave the node to the next process. A file system that hangs keeps nobody: the lock ends
        with the process.
        """
        with contextlib.suppress(OSError):
            async with asyncio.timeout(END_SECONDS):
                await self._ask(self._claim.release)

    async def ordered(
        self, order: Order | None, instead_of: str, labelled: Labelled | None = None
    ) -> str:
        """Keep an order by a command, ``None`` for none, or by what is `labelled`; returns why that
        failed.
        """

        def change(memory: Memory) -> Memory:
            label = labelled
            if label is None and memory.labelled is not None:
                label = replace(memory.labelled, refused=False)  # what comes later holds
            return replace(memory, order=order, instead_of=instead_of, labelled=label, refused=None)

        return await self._save(change)

    async def labelled(self, labelled: Labelled) -> None:
        """Keep a label's value that orders nothing."""
        await self._save(lambda memory: replace(memory, labelled=labelled))

    async def ready(self) -> str:
        """Find out whether anything can be saved; returns why not."""
        async with self._saving:
            return await self._written(anyhow=True)

    async def begins(self, gpus: Iterable[Gpu]) -> str:
        """Have it on disk that these GPUs are changed and what they had; returns why that
        failed.
        """
        now = {gpu.uuid: Before.of(gpu) for gpu in gpus}

        def change(memory: Memory) -> Memory:
            return replace(memory, changing=MappingProxyType({**now, **memory.changing}))

        return await self._save(change)

    async def holds(self, half: Mapping[str, Before], refused: Refused | None = None) -> None:
        """Only these GPUs are half-made, and this has ended the order. What could not be saved
        before is saved too.
        """
        now = (self.memory.changing, self.memory.refused)
        if (half, refused) == now and not self.unsaved:
            return
        problem = await self._save(lambda memory: replace(memory, changing=half, refused=refused))
        if problem and problem != self._complaint:
            # Nothing is lost: the file says that the GPUs may be changing, and the driver knows.
            log.warning("what was partitioned cannot be saved", extra={"reason": problem})
        self._complaint = problem

    async def _save(self, change: Callable[[Memory], Memory]) -> str:
        """One after another: what is wanted here is what was ordered last."""
        async with self._saving:
            problem = await self.claim()
            self.memory = change(self.memory)
            return problem.text if problem is not None else await self._written()

    async def _written(self, *, anyhow: bool = False) -> str:
        if not (anyhow or self.unsaved):
            return ""
        try:
            await self._ask(self._write, self.memory)
        except TimeoutError:
            return self.silence
        except OSError as error:
            return str(error)
        return ""

    def _write(self, memory: Memory) -> None:
        self._file.save(memory)
        self._saved = memory
