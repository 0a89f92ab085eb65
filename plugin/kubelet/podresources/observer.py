"""An answer of pod resources together with what tells whether it is whole: which kubelet gave it,
for how long that has been up, whether our own pod is listed, and kubelet's checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plugin.core.advertise.listed import device_uuid
from plugin.core.holders import Answer, Holdings, answered, of_devices
from plugin.core.settings import Settings
from plugin.kubelet.podresources import checkpoint
from plugin.kubelet.podresources.client import list_pods

#: What a socket file is, across deletion and creation: inode numbers alone are used again at once.
Identity = tuple[int, int, int]


def own_pod(environment: Mapping[str, str] = os.environ) -> str:
    """The name of the pod that this process runs in, should it run in one: a pod's host name is the
    pod's name, unless it uses the host's network.
    """
    return environment.get("POD_NAME") or socket.gethostname()


@dataclass(frozen=True)
class Observer:
    """Asks kubelet at ``socket``. ``checkpoint`` is kubelet's file, ``None`` where it is not known.

    Kubelet makes its socket anew at its start, so the file tells one kubelet from the next.
    """

    socket: Path
    checkpoint: Path | None = None
    own_pod: str = ""
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time

    @classmethod
    def of(cls, settings: Settings) -> Observer:
        """As the settings name kubelet's folders."""
        beside = Path(settings.kubelet_socket).parent if settings.kubelet_socket else None
        return cls(
            Path(settings.pod_resources_socket),
            beside / checkpoint.NAME if beside else None,
            own_pod(),
        )

    async def ask(self, known: Holdings, devices: Collection[str] | None = None) -> Answer:
        """Ask once; the checkpoint is read when that may decide whether the answer is whole.

        ``known`` is what was known before. With ``devices`` only these and their replicas count.
        Raises :class:`KubeletError`.
        """
        answer = await self._ask()
        if devices is not None:
            answer = replace(answer, holders=of_devices(answer.holders, devices))
        if self.checkpoint is None or answered(known, answer).trusted:
            return answer
        ids = await asyncio.to_thread(checkpoint.allocated_ids, self.checkpoint)
        if ids is not None and devices is not None:
            ids = frozenset(name for name in ids if device_uuid(name) in devices)
        return replace(answer, checkpoint=ids)

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
