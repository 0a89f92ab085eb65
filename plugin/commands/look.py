"""Asking the driver from a command, in a thread, so that one that hangs neither keeps the command
nor its Ctrl-C.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from plugin.core.inventory.model import Inventory
from plugin.driver.base import Driver
from plugin.driver.hangs import Hangs
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.errors import DriverUnavailable

T = TypeVar("T")

#: How long a command waits for the driver in all.
LIMIT_SECONDS = 60.0


def look(
    driver: Driver, *, limit: float = LIMIT_SECONDS, deadlines: Deadlines | None = None
) -> Inventory:
    """Open the driver and scan the node. GPUs that hang are in the answer, with that as their
    error.

    Raises :class:`DriverUnavailable`, which names the call when the driver as a whole hangs or
    takes longer than `limit`.
    """
    return look_and(driver, lambda _: None, limit=limit, deadlines=deadlines)[0]


def look_and(
    driver: Driver,
    then: Callable[[Inventory], T],
    *,
    limit: float = LIMIT_SECONDS,
    deadlines: Deadlines | None = None,
) -> tuple[Inventory, T]:
    """As :func:`look`, with the answer of `then`, which asks the open driver for more."""

    async def scan(worker: DriverWorker) -> tuple[Inventory, T]:
        await worker.call(driver.open)
        inventory = await worker.call(driver.scan)
        more = await worker.call(lambda: then(inventory))
        if not driver.hangs.open:
            await worker.call(driver.close)
        return inventory, more

    return asyncio.run(_within(limit, DriverWorker(driver.hangs, deadlines), scan))


def load(loading: Callable[[], T], *, limit: float = LIMIT_SECONDS) -> T:
    """Call something that loads a library. Raises :class:`DriverUnavailable`."""

    async def call(worker: DriverWorker) -> T:
        return await worker.call(loading)

    return asyncio.run(_within(limit, DriverWorker(Hangs()), call))


async def _within(
    limit: float, worker: DriverWorker, work: Callable[[DriverWorker], Coroutine[Any, Any, T]]
) -> T:
    worker.start()
    try:
        async with asyncio.timeout(limit):
            return await work(worker)
    except TimeoutError:
        call = worker.call_in_flight
        where = f"; it is in {call.function}" if call is not None else ""
        of = f" for {call.gpu}" if call is not None and call.gpu is not None else ""
        raise DriverUnavailable(
            f"the driver has not answered for {limit:.2g} s{where}{of}",
            "see the kernel log (dmesg) for NVRM messages",
        ) from None
