"""Plugins that have gone, and that kubelet may still send pods to."""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from plugin.kubelet.deviceplugin.naming import serves
from plugin.loops.pulse import Pulse


class Departure(Struct, frozen=True):
    """A plugin that has gone: its socket, and when that was noticed, by the loop's clock."""

    socket: str
    at: float

    def consequence(self, seconds: float) -> str:
        """What it means for a resource that is registered again in so many seconds."""
        due = f"within {math.ceil(seconds)} s" if seconds > 0 else "now"
        return (
            f"another device plugin has gone with its socket {self.socket}, to which kubelet may "
            f"still send pods; registering again {due}"
        )


class Departures:
    """The newest of them, at most `most`. Used from the event loop only."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._noticed: dict[str, Departure] = {}
        self._added = Pulse()

    def note(self, sockets: Iterable[str], now: float) -> None:
        """Take note that these plugins have gone."""
        new = {name: Departure(name, now) for name in sockets}
        if new:
            # Each start of a plugin makes a new name; the newest departures are those that matter.
            known = sorted((self._noticed | new).values(), key=lambda gone: gone.at)
            self._noticed = {gone.socket: gone for gone in known[-self._most :]}
            self._added.fire()

    def newest(self, resource: str, since: float) -> Departure | None:
        """The newest departure after `since` of a plugin that may have served `resource`."""
        found = (
            gone
            for gone in self._noticed.values()
            if gone.at > since and serves(gone.socket, resource) is not False
        )
        return max(found, key=lambda gone: gone.at, default=None)

    async def wait(self, resource: str, since: float) -> Departure:
        """Wait until there is such a departure."""
        while (gone := self.newest(resource, since)) is None:
            await self._added.wait()
        return gone
