"""Following which pod holds which device: on schedule, and soon after each allocation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from plugin.core.holders import Answer, Holdings, answered, as_of, conflicts, handed_out, unanswered
from plugin.errors import KubeletError

log = logging.getLogger(__name__)

#: Without an allocation pods only end; that may be seen a little later.
SCHEDULE_SECONDS = 15.0
#: Kubelet records an allocation after Allocate has returned.
SETTLE_SECONDS = 0.5
#: Between two questions while an answer has not been confirmed, for at most so long.
CONFIRM_SECONDS, CONFIRM_FOR_SECONDS = 2.0, 30.0


def pause(holdings: Holdings, now: float) -> float:
    """Seconds to the next question, should nothing be allocated."""
    if holdings.trusted or holdings.silent or holdings.doubted is None:
        return SCHEDULE_SECONDS
    return CONFIRM_SECONDS if now - holdings.doubted < CONFIRM_FOR_SECONDS else SCHEDULE_SECONDS


class Observes(Protocol):
    """Asks kubelet, as :class:`plugin.kubelet.podresources.observer.Observer` does."""

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds that only grow."""

    async def ask(self, known: Holdings) -> Answer:
        """Raises :class:`KubeletError`."""


class PodFollower:
    """Keeps what is known about who holds devices."""

    def __init__(self, observer: Observes) -> None:
        self._observer = observer
        self._wanted = asyncio.Event()
        self.holdings = Holdings()
        #: Devices that are held twice, a sentence each.
        self.conflicts: tuple[str, ...] = ()

    def current(self) -> Holdings:
        """What is known at this moment: unconfirmed answers and allocations have their time."""
        return as_of(self.holdings, self._observer.clock())

    def allocated(self, ids: Iterable[str]) -> None:
        """A container has been given these; have a look soon."""
        self.holdings = handed_out(self.holdings, ids, self._observer.clock())
        self._wanted.set()

    async def run(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ask until cancelled, and do `then` after each answer. Logs once that kubelet does not
        answer.
        """
        logged = ""
        while True:
            before = self.holdings
            try:
                answer = await self._observer.ask(before)
                self.holdings = answered(self.holdings, answer)
                logged = ""
            except KubeletError as error:
                self.holdings = unanswered(self.holdings)
                if str(error) != logged:
                    logged = str(error)
                    log.warning("pods are not known", extra={"reason": logged})
            self._report(before)
            if then is not None and not self.holdings.silent:
                await then()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause(self.holdings, self._observer.clock())):
                    await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(SETTLE_SECONDS)

    def _report(self, before: Holdings) -> None:
        now = self.holdings
        if before.trusted and not now.trusted:
            log.info("kubelet's list of pods is not complete; nobody is taken for gone until it is")
        if not now.trusted:
            return  # who held a device before a restart and who does now may both be in it
        found = conflicts(now.holders)
        for conflict in found:
            if conflict not in self.conflicts:
                log.warning("a device is held twice", extra={"reason": conflict})
        self.conflicts = found
