"""Makes the room of partitioning when a configuration is wanted; until then nothing of it is
imported.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverUnavailable
from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.loops.aside import Aside
from plugin.loops.heartbeats import Heartbeats
from plugin.state.turns import command_runs
from plugin.state.writer import Writer

if TYPE_CHECKING:
    from plugin.core.partition.progress import Progress
    from plugin.core.partition.trouble import Trouble
    from plugin.kubelet.podresources.pods import PodFollower
    from plugin.partition.room import Room
    from plugin.partition.surroundings import Evictor

log = logging.getLogger(__name__)

#: Between two looks at what nobody announces: the end of a command, or that the driver or a file
#: system answers again.
LOOK_SECONDS = 0.5
#: For one look at the files beside the ledger.
FILES_SECONDS = 5.0
#: What is wanted is waited for so long before devices are registered.
START_SECONDS = 60.0

#: The name of the file beside the ledger that keeps what is wanted.
MEMORY = "partition.json"


class Partitioning(Struct):
    """``ledger`` is the ledger's path. ``pods`` is ``None`` where kubelet is not asked for them.
    ``evictor`` makes what evicts pods.
    """

    writer: Writer
    driver: Driver
    worker: DriverWorker
    heartbeats: Heartbeats
    settings: Settings
    ledger: Path
    supervisor: Supervisor
    pods: PodFollower | None
    evictor: Callable[[], Evictor | None] = lambda: None
    aside: Aside = field(default_factory=lambda: Aside("partitioning", FILES_SECONDS))
    _problem: str = ""
    _room: Room | None = None
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _turn: asyncio.Event = field(default_factory=asyncio.Event)
    #: When the start goes on all the same.
    _limit: asyncio.Timeout | None = None

    @property
    def problem(self) -> str:
        """Why no device is registered yet, or what does not answer; empty if there is nothing in
        the way.
        """
        return self._problem or (self._room.problem if self._room is not None else "")

    async def run(self) -> None:
        """Work from the first order on, until cancelled."""
        await self._let_command_end()
        if self.settings.partition_config or await self._asked(self._remembers):
            self.room()
        self._turn.set()
        await self._wanted.wait()
        await self.room().run(self.heartbeats)

    async def started(self, seconds: float = START_SECONDS) -> None:
        """Wait until no command changes GPUs; and, for some time, until it is known what is wanted
        and that is applied as far as it can be at once.
        """
        try:
            async with asyncio.timeout(seconds) as self._limit:
                await self._turn.wait()
                if self._room is not None:
                    await self._room.settled()
        except TimeoutError:
            progress = self.progress()
            log.warning(
                "the configuration is not applied yet, going on",
                extra={
                    "configuration": progress.configuration if progress is not None else None,
                    "seconds": seconds,
                },
            )
        finally:
            self._limit = None

    async def _let_command_end(self) -> None:
        """A command that began while no daemon ran knows nothing of what we hand out."""
        runs = await self._asked(self._command_runs)
        if not runs:
            return
        log.warning("waiting for the end of a partition apply, registering nothing before")
        while runs:
            await self._pause(
                "a partition apply changes the GPUs: no device is registered before its end"
            )
            runs = await self._asked(self._command_runs)
        # What was seen before is not there any more.
        while True:
            changed = [gpu.uuid for gpu in self.writer.store.snapshot.inventory.gpus]
            try:
                async with self.writer.between_scans(changed) as look:
                    await look()
                break
            except DriverUnavailable as error:
                await self._pause(error.what)
        self._problem = ""

    async def _pause(self, problem: str) -> None:
        """Before another look, while the start has to wait."""
        self._problem = problem
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + START_SECONDS)
        await asyncio.sleep(LOOK_SECONDS)

    def _command_runs(self) -> bool:
        return command_runs(self.ledger)

    def _remembers(self) -> bool:
        """Whether something was wanted. What cannot be looked at may say so."""
        try:
            return self._memory.exists()
        except OSError:
            return True

    async def _asked(self, question: Callable[[], bool]) -> bool:
        """The answer of the file system, as soon as there is one."""
        while True:
            try:
                found = await self.aside.call(question)
            except TimeoutError:
                from plugin.core.partition.trouble import Code, Trouble  # noqa: PLC0415 — as below

                self._problem = f"the file system of {self.ledger.parent} does not answer"
                self.room().hold(Trouble(Code.NOT_ANSWERING, self._problem))
                await asyncio.sleep(LOOK_SECONDS)
            else:
                self._problem = ""
                return found

    def progress(self) -> Progress | None:
        return self._room.progress if self._room is not None else None

    async def progressed(self, seen: Progress | None) -> None:
        """Wait until :meth:`progress` is another one."""
        await self._wanted.wait()
        room = self.room()
        while room.progress == seen:
            await room.executor.shown.changed.wait()

    async def labelled(self, name: str) -> Trouble | None:
        """Take up what the node's label names; see :meth:`Room.labelled`."""
        if self._room is None and not name:
            return None
        return await self.room().labelled(name)

    async def perform(self, arguments: Sequence[str]) -> Any:
        """What ``partition`` commands ask for. Raises :class:`~plugin.errors.PluginError`."""
        if self._room is None and list(arguments) == ["status"]:
            from plugin.core.partition.progress import IDLE, document  # noqa: PLC0415 — see above

            return document(IDLE)
        return await self.room().perform(arguments)

    def room(self) -> Room:
        if self._room is None:
            from plugin.partition.room import Room  # noqa: PLC0415 — see above
            from plugin.partition.surroundings import Surroundings, ask_kubelet  # noqa: PLC0415

            pods = self.pods.ask if self.pods is not None else None
            ask = functools.partial(ask_kubelet, self.settings, pods)
            around = Surroundings(ask, self.supervisor.told, self.evictor())
            self._room = Room(
                self.writer, self.driver, self.worker, self._memory, around, self.settings
            )
            self._wanted.set()
        return self._room

    @property
    def _memory(self) -> Path:
        return self.ledger.with_name(MEMORY)
