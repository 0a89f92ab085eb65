"""A record of everything that plugins did, with times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from plugin.loops.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin.sim.kubelet.devices import ListedDevice

#: ``socket-name``: one file name for two servers or two resources. ``endpoint``: not a plain file
#: name. ``second-stream``: two streams for one resource at a time. ``repeated-list``: a list equal
#: to the stream's last one. ``device-list`` and ``allocate-response``: the message breaks the rules
#: of the API.
Kind = Literal[
    "socket-name", "endpoint", "second-stream", "repeated-list", "device-list", "allocate-response"
]


class Registration(Struct, frozen=True):
    """One Register call; ``error`` is empty if accepted. ``time`` is by the kubelet's clock."""

    time: float
    resource: str
    endpoint: str
    error: str = ""


class ListMessage(Struct, frozen=True):
    time: float
    resource: str
    endpoint: str
    devices: tuple[ListedDevice, ...]


class Violation(Struct, frozen=True):
    """A breach of the protocol, or a habit that real kubelets punish."""

    time: float
    kind: str
    resource: str
    detail: str


class Journal:
    """The record across restarts of the stand-in. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.registrations: list[Registration] = []
        self.refusals: list[Registration] = []
        self.messages: list[ListMessage] = []
        self.violations: list[Violation] = []
        self._change = Pulse()

    def violation(self, kind: Kind, resource: str, detail: str) -> None:
        self.violations.append(Violation(self.clock(), kind, resource, detail))

    def changed(self) -> None:
        """Wake every waiter."""
        self._change.fire()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Return as soon as ``predicate`` holds; evaluated now and after every change."""
        while not predicate():
            await self._change.wait()
