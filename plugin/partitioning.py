"""Makes the room of partitioning when a configuration is wanted; until then nothing of it is
imported.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverUnavailable
from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.loops.heartbeats import Heartbeats
from plugin.state.turns import command_ended, command_runs
from plugin.state.writer import Writer

if TYPE_CHECKING:
    from plugin.core.partition.progress import Progress
    from plugin.core.partition.trouble import Trouble
    from plugin.kubelet.podresources.pods import PodFollower
    from plugin.partition.room import Room
    from plugin.partition.surroundings import Evictor

#: Between two looks at a node whose driver does not answer.
LOOK_SECONDS = 1.0

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
    #: Why no device is registered yet; empty if there is nothing in the way.
    problem: str = ""
    _room: Room | None = None
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _turn: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Work from the first order on, until cancelled."""
        await self._let_command_end()
        if self.settings.partition_config or self._memory.exists():
            self.room()
        self._turn.set()
        await self._wanted.wait()
        await self.room().run(self.heartbeats)

    async def started(self) -> None:
        """Wait until no command changes GPUs, and what is wanted at the start is there; see
        :meth:`Room.started`.
        """
        await self._turn.wait()
        if self._room is not None:
            await self._room.started()

    async def _let_command_end(self) -> None:
        """A command that began while no daemon ran knows nothing of what we hand out."""
        if not command_runs(self.ledger):
            return
        self.problem = "a partition apply changes the GPUs: no device is registered before its end"
        await command_ended(self.ledger)
        # What was seen before is not there any more.
        while True:
            changed = [gpu.uuid for gpu in self.writer.store.snapshot.inventory.gpus]
            try:
                async with self.writer.between_scans(changed) as look:
                    await look()
                break
            except DriverUnavailable as error:
                self.problem = error.what
                await asyncio.sleep(LOOK_SECONDS)
        self.problem = ""

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
            self._room.load()
            self._wanted.set()
        return self._room

    @property
    def _memory(self) -> Path:
        return self.ledger.with_name(MEMORY)
