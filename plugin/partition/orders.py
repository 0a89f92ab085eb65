"""Orders to partition, in a running daemon or for one command: what each is answered."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from plugin.core.partition.indices import NO_PLACES, Places, placed
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.precedence import Command, Label, Labelled, Start
from plugin.core.partition.progress import Progress, document
from plugin.core.partition.trouble import Code, Trouble
from plugin.core.partition.trouble import trouble as of_error
from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import ConfigError, ControlError, DriverError
from plugin.loops.heartbeats import Heartbeats
from plugin.partition.executor import Executor
from plugin.partition.file import ConfigurationFile
from plugin.partition.keeping import Keeper
from plugin.partition.memory import MemoryFile, check, only
from plugin.partition.surroundings import Surroundings
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

#: Between two looks at whether what is wanted is still on disk.
LOOK_SECONDS = 60.0


class Orders:
    """Takes orders by the option, commands and the label, and has the executor carry out the one
    that is kept; see :mod:`plugin.core.partition.precedence`.
    """

    def __init__(
        self,
        writer: Writer,
        driver: Driver,
        worker: DriverWorker,
        memory: Path,
        around: Surroundings,
        settings: Settings,
    ) -> None:
        self._option, self._label = settings.partition_config, settings.partition_label
        self._store = writer.store
        self._began = False
        start = Start(self._option, self._label)
        self._keeper = Keeper(MemoryFile(memory), start=start)
        self._keeper.on_order = self._take_up
        self._file = ConfigurationFile(settings.partition_file)
        self.executor = Executor(
            writer,
            driver,
            worker,
            self._keeper,
            around,
            of_file=self._file,
            in_thread=self._file.aside.run,
        )

    async def load(self) -> None:
        """Take up what is wanted: by the last command or label, or by the option. A file that does
        not answer is asked again by :meth:`run`.
        """
        await self._keeper.claim()

    def hold(self, trouble: Trouble) -> None:
        """Show what keeps :meth:`run` from beginning."""
        self.executor.shown.pending(trouble, known=False)

    def _take_up(self) -> None:
        order, began = self._keeper.memory.order, self._began
        self._began = True
        if order is not self.executor.order:
            self.executor.want(order, new=began)

    async def run(self, heartbeats: Heartbeats) -> None:
        """Work until cancelled."""
        watching = [
            asyncio.create_task(self._file.run(self.executor.look_again), name="partition file"),
            asyncio.create_task(self._watch(), name="what is wanted, on disk"),
        ]
        try:
            await self.executor.run(heartbeats)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await self._keeper.release()

    async def _watch(self) -> None:
        """Have saved again what somebody has removed: the next start needs it."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._keeper.claim()
            if self._keeper.unsaved:
                self.executor.look_again()

    async def settled(self) -> None:
        """Wait until what is wanted is known, and applied as far as it can be at once."""
        await self.executor.settled()

    @property
    def problem(self) -> str:
        """Which file system does not answer, as a sentence."""
        return self._keeper.silence

    @property
    def half_made(self) -> tuple[int, ...]:
        """Indices of the GPUs that may be half-made, of those that are there."""
        gpus = self._store.snapshot.inventory.gpus
        return tuple(gpu.index for gpu in gpus if gpu.uuid in self._keeper.memory.changing)

    @property
    def progress(self) -> Progress:
        return self.executor.progress

    async def perform(self, arguments: Sequence[str]) -> Any:
        """What ``partition`` commands ask for. Raises :class:`~plugin.errors.PluginError`."""
        match arguments:
            case ["status"]:
                return document(self.progress)
            case ["apply", name, file, policy]:
                return await self._apply(name, file, policy)
            case ["cancel"]:
                return await self._cancel()
        raise ControlError("a partition command is not known", "choose apply, status or cancel")

    async def _apply(self, name: str, file: str, policy: str) -> Any:
        """`file` is the text of a document with the configuration; empty for one of the node's."""
        configuration = None
        try:
            if file:
                configuration = only(json.loads(file))
            order = Order(
                name or (configuration.name if configuration else ""),
                Source.COMMAND,
                configuration,
                Policy(policy) if policy else None,
                uuid.uuid4().hex,
            )
            check(order)
            await self.executor.check(order)
        except ValueError as error:
            raise ControlError(f"the order cannot be read: {error}") from error
        except DriverError as error:
            raise ControlError(f"the driver does not say what the GPUs offer: {error}") from error
        except TimeoutError as error:
            raise ControlError(str(error), "see whether its file system answers") from error
        await self._alone()
        problem = await self._keeper.given(Command(order, self._option, self._places()))
        return {"id": order.id, "warning": _unsaved(problem)}

    def _places(self) -> Places:
        """The GPUs that the indices of an order name which comes now."""
        return placed(NO_PLACES, self._store.snapshot.inventory)

    async def labelled(self, name: str) -> Trouble | None:
        """Take up what the label names, unless that was done, as an order by a command is; empty:
        nothing. Returns why not, and what was wanted before stays wanted then.
        """
        # First: what another process has left is known behind it.
        if (why := await self._obstacle()) is not None:
            return why
        now = Labelled(self._label, name)
        if now == self._keeper.memory.label(self._label):
            return None
        refused = None
        if name:
            refused = self._not_scanned() or await self._unknown(Order(name, Source.LABEL))
            now = replace(now, refused=refused is not None)
        problem = await self._keeper.given(
            Label(now, self._option, self._places(), uuid.uuid4().hex)
        )
        if problem and now.value and refused is None:
            log.warning("what is wanted is not saved", extra={"reason": problem})
        return refused

    async def _cancel(self) -> Any:
        await self._alone()
        before = self.progress.configuration
        problem = await self._keeper.given(Command(None, self._option))
        text = f"{before} is no longer wanted" if before else "no configuration was wanted"
        return {"text": f"{text}; what is there stays", "warning": _unsaved(problem)}

    async def _alone(self) -> None:
        """Raises :class:`~plugin.errors.ControlError` while another process partitions the node,
        or it is not known what is wanted.
        """
        if (why := await self._obstacle()) is not None:
            end = "has ended" if why.code is Code.BUSY else "does"
            raise ControlError(why.text, f"try again when it {end}")

    async def _unknown(self, order: Order) -> Trouble | None:
        try:
            await self.executor.check(order)
        except ConfigError as error:
            return Trouble(Code.UNKNOWN_CONFIGURATION, str(error))
        except DriverError as error:
            return of_error(error)
        except TimeoutError as error:  # of the file
            return Trouble(Code.NOT_ANSWERING, str(error))
        return None

    def _not_scanned(self) -> Trouble | None:
        """What the GPUs offer is not known then, and so not which names there are."""
        snapshot = self._store.snapshot
        if snapshot.driver_error is not None:
            return Trouble(Code.DRIVER_UNAVAILABLE, snapshot.driver_error.text)
        known = bool(snapshot.generation)
        return None if known else Trouble(Code.DRIVER_UNAVAILABLE, "not scanned yet")

    async def _obstacle(self) -> Trouble | None:
        """Why no order can be taken; that one cannot be saved is no reason."""
        problem = await self._keeper.claim()
        if self._keeper.silence:
            self.executor.look_again()  # until it answers
        if problem is None or (self._keeper.known and problem.code is not Code.BUSY):
            return None
        return problem


def _unsaved(problem: str) -> str | None:
    return f"this is not saved and ends with the daemon: {problem}" if problem else None
