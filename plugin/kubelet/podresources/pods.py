"""Follows which pod holds which device: on a schedule, and soon after each allocation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from plugin.core.holders import Answer, Holdings, answered, as_of, conflicts, handed_out, unanswered
from plugin.errors import KubeletError

log = logging.getLogger(__name__)

#: Without allocations pods can only end, which is less urgent.
SCHEDULE_SECONDS = 15.0
#: Kubelet records an allocation shortly after Allocate returns.
SETTLE_SECONDS = 0.5
#: Interval while an answer is unconfirmed, and the limit of that time.
CONFIRM_SECONDS, CONFIRM_FOR_SECONDS = 2.0, 30.0


def pause(holdings: Holdings, now: float) -> float:
    """Seconds to the next request, unless a device is allocated."""
    if holdings.trusted or holdings.silent or holdings.doubted is None:
        return SCHEDULE_SECONDS
    return CONFIRM_SECONDS if now - holdings.doubted < CONFIRM_FOR_SECONDS else SCHEDULE_SECONDS


class Observes(Protocol):
    """See :class:`plugin.kubelet.podresources.observer.Observer`."""

    @property
    def clock(self) -> Callable[[], float]:
        """A monotonic clock."""

    async def ask(self, known: Holdings) -> Answer:
        """Raises :class:`KubeletError`."""


class PodFollower:
    """Keeps the current holdings."""

    def __init__(self, observer: Observes, *, absent_level: int = logging.WARNING) -> None:
        """`absent_level` is the level at which a kubelet that does not answer is logged."""
        self._observer = observer
        self._absent_level = absent_level
        self._wanted = asyncio.Event()
        self._logged = ""
        self.holdings = Holdings()
        #: A sentence for each device held by several pods.
        self.conflicts: tuple[str, ...] = ()

    def current(self) -> Holdings:
        """The holdings, with those expired that are too old."""
        return as_of(self.holdings, self._observer.clock())

    def allocated(self, ids: Iterable[str]) -> None:
        """Note an allocation and ask kubelet soon."""
        self.holdings = handed_out(self.holdings, ids, self._observer.clock())
        self._wanted.set()

    async def ask(self) -> Holdings:
        """Ask kubelet now; returns what is known then."""
        before = self.holdings
        try:
            answer = await self._observer.ask(before)
            self.holdings = answered(self.holdings, answer)
            self._logged = ""
        except KubeletError as error:
            self.holdings = unanswered(self.holdings)
            if str(error) != self._logged:
                self._logged = str(error)
                log.log(
                    self._absent_level, "pod resources unavailable", extra={"reason": self._logged}
                )
        self._report(before)
        return self.current()

    async def run(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ask until cancelled, and do `then` after each answer."""
        while True:
            await self.ask()
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
            log.info("kubelet's pod list is incomplete, keeping known allocations")
        if not now.trusted:
            return  # may contain holders from before and after a restart
        found = conflicts(now.holders)
        for conflict in found:
            if conflict not in self.conflicts:
                log.warning("device held by several pods", extra={"reason": conflict})
        self.conflicts = found
