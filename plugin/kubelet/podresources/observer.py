"""A response of pod resources with the evidence of its completeness: which kubelet gave it, its
uptime, whether our own pod is listed, and kubelet's checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.advertise.listed import device_uuid
from plugin.core.holders import Answer, Holdings, answered, of_devices
from plugin.core.settings import Settings
from plugin.kubelet.podresources import checkpoint
from plugin.kubelet.podresources.client import list_pods
from plugin.loops.aside import Aside

#: For the checkpoint, which may be on a file system that hangs.
LONGEST_SECONDS = 5.0

#: (device, inode, ctime in ns): identifies a socket file; inode numbers alone are reused at once.
Identity = tuple[int, int, int]


def own_pod(environment: Mapping[str, str] = os.environ) -> str:
    """The name of our pod, if any: unless it uses the host's network, a pod's host name is its
    name.
    """
    return environment.get("POD_NAME") or socket.gethostname()


class Observer(Struct, frozen=True):
    """Asks kubelet at ``socket``. ``checkpoint`` is kubelet's file, ``None`` if unknown.

    Kubelet creates its socket at every start, so the file identifies the process.
    """

    socket: Path
    checkpoint: Path | None = None
    own_pod: str = ""
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    aside: Aside = field(default_factory=lambda: Aside("kubelet's checkpoint", LONGEST_SECONDS))

    @classmethod
    def of(cls, settings: Settings) -> Observer:
        """From the settings."""
        beside = Path(settings.kubelet_socket).parent if settings.kubelet_socket else None
        return cls(
            Path(settings.pod_resources_socket),
            beside / checkpoint.NAME if beside else None,
            own_pod(),
        )

    async def ask(self, known: Holdings, devices: Collection[str] | None = None) -> Answer:
        """Ask once; read the checkpoint if it may decide whether the answer is complete.

        ``known`` are the holdings so far. ``devices`` limits the answer to these and their
        replicas. Raises :class:`KubeletError`.
        """
        answer = await self._ask()
        if devices is not None:
            answer = replace(answer, holders=of_devices(answer.holders, devices))
        if self.checkpoint is None or answered(known, answer).trusted:
            return answer
        ids = await self._checkpoint_ids(self.checkpoint)
        if ids is not None and devices is not None:
            ids = frozenset(name for name in ids if device_uuid(name) in devices)
        return replace(answer, checkpoint=ids)

    async def _checkpoint_ids(self, path: Path) -> frozenset[str] | None:
        try:
            return await self.aside.call(lambda: checkpoint.allocated_ids(path), waits=True)
        except TimeoutError:
            return None

    async def _ask(self) -> Answer:
        at = self.clock()
        before = self._identity()
        listing = await list_pods(self.socket)
        same = before is not None and before == self._identity()
        made = before[2] / 1e9 if before else self.wall_clock()
        return Answer(
            at=at,
            kubelet=before if same else None,
            up=max(0.0, self.wall_clock() - made),
            holders=listing.holders,
            pods=len(listing.pods),
            own=self.own_pod in listing.pods,
        )

    def _identity(self) -> Identity | None:
        try:
            found = self.socket.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_ctime_ns
