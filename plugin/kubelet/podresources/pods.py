"""Following which pod holds which device: on schedule, and soon after each allocation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from plugin.errors import KubeletError
from plugin.kubelet.podresources.client import Holders, list_holders

log = logging.getLogger(__name__)

#: Without an allocation pods only end; that may be seen a little later.
SCHEDULE_SECONDS = 15.0
#: Kubelet records an allocation after Allocate has returned.
SETTLE_SECONDS = 0.5


class PodFollower:
    """Keeps the newest answer; ``None`` while kubelet has not answered, or no longer does."""

    def __init__(
        self, socket: Path, ask: Callable[[Path], Awaitable[Holders]] = list_holders
    ) -> None:
        self._socket = socket
        self._ask = ask
        self._wanted = asyncio.Event()
        self.holders: Holders | None = None

    def allocated(self) -> None:
        """Have a look soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Ask until cancelled. Logs once that kubelet does not answer."""
        logged = ""
        while True:
            try:
                self.holders = await self._ask(self._socket)
                logged = ""
            except KubeletError as error:
                self.holders = None
                if str(error) != logged:
                    logged = str(error)
                    log.warning("pods are not known", extra={"reason": logged})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCHEDULE_SECONDS):
                    await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(SETTLE_SECONDS)
