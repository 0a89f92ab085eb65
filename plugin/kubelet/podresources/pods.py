"""Following which pod holds which device: on schedule, and soon after each allocation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
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

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._wanted = asyncio.Event()
        self.holders: Holders | None = None

    def allocated(self) -> None:
        """Have a look soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Ask until cancelled. A kubelet that does not answer is complained of once."""
        complained = ""
        while True:
            try:
                self.holders = await list_holders(self._socket)
                complained = ""
            except KubeletError as error:
                self.holders = None
                if str(error) != complained:
                    complained = str(error)
                    log.warning("pods are not known", extra={"reason": complained})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCHEDULE_SECONDS):
                    await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(SETTLE_SECONDS)
