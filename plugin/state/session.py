"""The session with the driver: opening it, and letting go of it."""

from __future__ import annotations

import asyncio

from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverOutOfReach, DriverUnavailable
from plugin.state.interest import Interest, Watchable

#: How long the thread that waits for events may take to end before the driver is opened again.
CLOSE_SECONDS = 5.0
#: How long a driver that cannot come into this container is waited for all the same.
OUT_OF_REACH_SECONDS = 300.0


class Session:
    """Open or not, and what is watched in it. Used from the event loop only, by one task."""

    def __init__(
        self,
        driver: Driver,
        worker: DriverWorker,
        out_of_reach_seconds: float = OUT_OF_REACH_SECONDS,
    ) -> None:
        self._driver = driver
        self._worker = worker
        self._epoch = 0
        self._out_of_reach_seconds = out_of_reach_seconds
        self._final_since: float | None = None
        self.is_open = False
        self.interest = Interest()

    async def open(self) -> None:
        """(Re)open the driver, once nobody waits for events of the one before; a waiter that hangs
        is left behind. Raises :class:`~plugin.errors.DriverUnavailable`.
        """
        self.leave()
        await self.interest.unused(CLOSE_SECONDS)
        await self._worker.call(self._driver.open)
        self.is_open = True
        self._final_since = None
        self._epoch += 1

    def failed(self, error: DriverUnavailable) -> None:
        """The driver cannot be used. Raises :class:`DriverOutOfReach` when it never will be."""
        self.leave()
        now = asyncio.get_running_loop().time()
        if not error.final:
            self._final_since = None
        elif self._final_since is None:
            self._final_since = now
        elif now - self._final_since >= self._out_of_reach_seconds:
            raise DriverOutOfReach(
                error.what,
                "that cannot change in this container: ending, so that a new one is made, to "
                "which NVIDIA's runtime adds the library of the driver that is loaded then",
            ) from error

    def leave(self) -> None:
        """Have nobody begin anything new with the driver."""
        self.is_open = False
        self.interest.want(None)

    async def close(self) -> tuple[str, ...]:
        """Close the driver; returns what is held of it all the same. Raises
        :class:`~plugin.errors.DriverUnavailable` when that hangs.
        """
        self.leave()
        self._final_since = None
        await self.interest.unused(CLOSE_SECONDS)
        await self._worker.call(self._driver.close)
        return await self._worker.call(self._driver.held)

    def want(self, gpus: tuple[str, ...]) -> None:
        """Have the events of these GPUs watched."""
        self.interest.want(Watchable(self._epoch, gpus) if self.is_open else None)

    def pending(self) -> str:
        """What the driver is at, as a sentence; empty when it is at nothing."""
        call, seconds = self._worker.call_in_flight, self._worker.busy_seconds
        if call is None:
            return ""
        of = f"{call.gpu}: " if call.gpu is not None else ""
        return f"{of}{call.function} has not returned for {seconds:.2g} s"
