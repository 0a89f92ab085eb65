"""What an order means on the node as it is now. Nothing of that is kept from round to round but
what the GPUs have said that they offer, and which index each GPU had when the order came.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Inventory
from plugin.core.partition.configuration import Configuration, Resolved, resolve
from plugin.core.partition.order import Order
from plugin.core.partition.usual import named, silent
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverError, DriverUnavailable
from plugin.partition.file import ConfigurationFile

log = logging.getLogger(__name__)

InThread = Callable[..., Awaitable[Any]]


class Meaning:
    """Used from the event loop only."""

    def __init__(
        self, driver: Driver, worker: DriverWorker, of_file: ConfigurationFile, in_thread: InThread
    ) -> None:
        self._driver, self._worker = driver, worker
        self._of_file, self._in_thread = of_file, in_thread
        self._driver_version = ""
        self._order: Order | None = None
        self._indices: dict[str, int] = {}
        #: What a GPU said holds while it does not answer. It depends on the card and the driver.
        self.offers: dict[str, Sequence[ProfileOffer]] = {}

    async def choose(self, order: Order, inventory: Inventory) -> Configuration:
        """Raises :class:`~plugin.errors.ConfigError` if no such configuration is known, and
        :class:`~plugin.errors.DriverError` if the driver does not say.
        """
        return (await self._choose(order, inventory))[0]

    async def resolve(self, order: Order, inventory: Inventory) -> Resolved:
        """What each GPU should have now. Raises as :meth:`choose` does."""
        if order is not self._order:
            self._order, self._indices = order, {}
        configuration, is_usual = await self._choose(order, inventory)
        if is_usual:  # made of the GPUs as they are now
            return resolve(configuration, inventory)
        found = resolve(configuration, self._as_ordered(inventory))
        if order.configuration is None and (problem := self._of_file.problem):
            warning = f"{problem}; what the file said before holds"
            found = replace(found, warnings=(*found.warnings, warning))
        return found

    async def _choose(self, order: Order, inventory: Inventory) -> tuple[Configuration, bool]:
        """Whether it is a usual one, too."""
        await self.ask_offers(inventory)
        if order.configuration is not None:
            return order.configuration, False
        of_file = await self._in_thread(self._of_file)
        found = named(order.name, inventory, self.offers, of_file)
        return found, order.name not in of_file

    def _as_ordered(self, inventory: Inventory) -> Inventory:
        """With the indices that GPUs had when the order came: those behind a GPU that drops off
        move up, and are not meant to get what was for others.
        """
        for gpu in inventory.gpus:
            self._indices.setdefault(gpu.uuid, gpu.index)
        gpus = (replace(gpu, index=self._indices[gpu.uuid]) for gpu in inventory.gpus)
        return replace(inventory, gpus=tuple(gpus))

    async def ask_offers(self, inventory: Inventory) -> None:
        """Of GPUs that have not said what they offer. Raises
        :class:`~plugin.errors.DriverUnavailable`.
        """
        if inventory.driver_version and inventory.driver_version != self._driver_version:
            self._driver_version, self.offers = inventory.driver_version, {}
        missing = [gpu.uuid for gpu in silent(inventory, self.offers) if not gpu.hung]
        if missing:
            self.offers |= await self._worker.call(_ask_offers, self._driver, missing)


def _ask_offers(driver: Driver, uuids: Sequence[str]) -> dict[str, Sequence[ProfileOffer]]:
    """What the GPUs offer. A GPU that does not say is left out: the planner knows it as unreadable.
    Blocks.
    """
    found: dict[str, Sequence[ProfileOffer]] = {}
    for uuid in uuids:
        try:
            found[uuid] = driver.profiles(uuid)
        except DriverUnavailable:
            raise
        except DriverError as error:
            log.debug("profiles are not known", extra={"gpu": uuid, "reason": str(error)})
    return found
