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
from plugin.core.partition.indices import NO_PLACES, Places
from plugin.core.partition.order import Order
from plugin.core.partition.precedence import NOTHING, Given, Memory, Start, after
from plugin.core.partition.refusal import Refused
from plugin.core.partition.tracks import Before
from plugin.core.partition.trouble import Code, Trouble
from plugin.errors import ConfigError
from plugin.loops.aside import Aside
from plugin.partition.claim import Claim
from plugin.partition.memory import MemoryFile

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

    def __init__(
        self, file: MemoryFile, in_thread: InThread | None = None, start: Start | None = None
    ) -> None:
        """`in_thread` runs what blocks beside the event loop, one call at a time. With `start`,
        that is given to what is found on disk.
        """
        self._start = start
        self._file, self._claim = file, Claim(file)
        self.in_thread = in_thread or Aside(file.path.name, SAVE_SECONDS).run
        self._saved = self.memory = NOTHING
        self._saving = asyncio.Lock()
        self._giving: set[asyncio.Task[str]] = set()
        #: Whether the file has answered. Before that, nobody knows what is wanted.
        self.known = False
        #: Counts how often this process got the lock: others may have changed GPUs before that.
        self.lease = 0
        #: What does not answer, as a sentence; empty where it did.
        self.silence = ""
        self._complaint = ""
        #: Called when the file has answered, and behind everything that may be another order: what
        #: is carried out is what is kept.
        self.on_order: Callable[[], None] = lambda: None

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

    def _found(self, found: Memory | None) -> None:
        """Go on from what is on disk, but for an order that could not be saved. Where nothing is,
        what is known here holds, and is saved again.
        """
        own, saved, first = self.memory, self._saved, not self.known
        self._saved = found or NOTHING
        self.known = True
        if _orders(own) != _orders(saved):
            changing = own.changing if found is None else found.changing
            self.memory = replace(own, changing=changing)
        elif found is not None or first:
            taken = found or NOTHING
            if self._start is not None:
                taken = after(taken, self._start)
            if taken.order == own.order:
                taken = replace(taken, order=own.order)  # it is the same one
            self.memory = replace(taken, refused=taken.refused or own.refused)
        if first or self.memory.order is not own.order:
            self.on_order()

    async def release(self) -> None:
        """Leave the node to the next process. A file system that hangs keeps nobody: the lock ends
        with the process.
        """
        with contextlib.suppress(OSError):
            async with asyncio.timeout(END_SECONDS), self._saving:
                await self._ask(self._claim.release)

    async def given(self, given: Given) -> str:
        """Keep what orders something, or nothing; returns why it could not be saved. It goes on to
        its end also if nobody waits for that.
        """
        giving = asyncio.create_task(self._given(given), name="order")
        self._giving.add(giving)
        giving.add_done_callback(self._giving.discard)
        return await asyncio.shield(giving)

    async def _given(self, given: Given) -> str:
        """One after another: to the disk, then to the executor."""
        async with self._saving:
            problem = await self._changed(lambda memory: after(memory, given))
            self.on_order()
            return problem

    def places_of(self, order: Order) -> Places:
        """The GPUs that its indices name, as far as that is known."""
        return self.memory.places if self.memory.order is order else NO_PLACES

    def placed(self, order: Order, places: Places) -> None:
        """Have them saved when something is."""
        if self.memory.order is order and self.memory.places != places:
            self.memory = replace(self.memory, places=places)

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
        async with self._saving:
            return await self._changed(change)

    async def _changed(self, change: Callable[[Memory], Memory]) -> str:
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
        except (OSError, ConfigError) as error:
            return str(error)
        return ""

    def _write(self, memory: Memory) -> None:
        self._file.save(memory)
        self._saved = memory


def _orders(memory: Memory) -> object:
    """What others have said; the rest is known from the GPUs."""
    return memory.order, memory.option, memory.labelled
