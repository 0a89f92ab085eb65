"""What an order means on the node as it is now. Nothing of that is kept from round to round but
what the GPUs have said that they offer, and which GPUs the order's indices name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Inventory
from plugin.core.partition.configuration import Configuration, Resolved, resolve
from plugin.core.partition.indices import NO_PLACES, Places, placed
from plugin.core.partition.order import Order
from plugin.core.partition.usual import named, silent
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverError, DriverUnavailable
from plugin.partition.file import ConfigurationFile
from plugin.partition.keeping import InThread, Keeper

log = logging.getLogger(__name__)


class Meaning:
    """Used from the event loop only."""

    def __init__(
        self,
        driver: Driver,
        worker: DriverWorker,
        keeper: Keeper,
        of_file: ConfigurationFile,
        in_thread: InThread,
    ) -> None:
        self._driver, self._worker, self._keeper = driver, worker, keeper
        self._of_file, self._in_thread = of_file, in_thread
        self._driver_version = ""
        self._order: Order | None = None
        self._places = NO_PLACES
        #: What a GPU said holds while it does not answer. It depends on the card and the driver.
        self.offers: dict[str, Sequence[ProfileOffer]] = {}

    async def choose(self, order: Order, inventory: Inventory) -> Configuration:
        """Raises :class:`~plugin.errors.ConfigError` if no such configuration is known, and
        :class:`~plugin.errors.DriverError` if the driver does not say.
        """
        return (await self._choose(order, inventory))[0]

    async def resolve(self, order: Order, inventory: Inventory) -> Resolved:
        """What each GPU should have now. Raises as :meth:`choose` does."""
        before, places = self._placed(order, inventory)
        configuration, is_usual = await self._choose(order, inventory)
        if is_usual:  # made of the GPUs as they are now
            return resolve(configuration, inventory)
        if before:
            _log_new({uuid: place for uuid, place in places.items() if uuid not in before})
        found = resolve(configuration, inventory, places)
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

    def _placed(self, order: Order, inventory: Inventory) -> tuple[Places, Places]:
        """The GPUs that the order's indices named until now, and those that they name. GPUs behind
        one that drops off the bus move up, and are not meant to get what was for others.
        """
        if order is not self._order:
            self._order, self._places = order, self._keeper.places_of(order)
        before, self._places = self._places, placed(self._places, inventory)
        self._keeper.placed(order, self._places)
        return before, self._places

    async def ask_offers(self, inventory: Inventory) -> None:
        """Of GPUs that have not said what they offer. Raises
        :class:`~plugin.errors.DriverUnavailable`.
        """
        if inventory.driver_version and inventory.driver_version != self._driver_version:
            self._driver_version, self.offers = inventory.driver_version, {}
        missing = [gpu.uuid for gpu in silent(inventory, self.offers) if not gpu.hung]
        if missing:
            self.offers |= await self._worker.call(_ask_offers, self._driver, missing)


def _log_new(places: Places) -> None:
    for uuid, place in places.items():
        log.warning(
            "an index of the configuration names a new GPU",
            extra={"gpu": uuid, "index": place.index},
        )


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
