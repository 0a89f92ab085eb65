"""The room's front: loads the rest of it, and the client, when kubelet has been served."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from plugin.core.holders import Holders
from plugin.core.view import ClusterStatus, ResourceStatus
from plugin.errors import ClusterError, ConfigError
from plugin.loops.aside import Aside
from plugin.loops.store import Store
from plugin.reporting.record import Record
from plugin.reporting.standing import AGAIN_SECONDS, FILES_SECONDS, Standing

if TYPE_CHECKING:
    from plugin.cluster.client import ApiClient
    from plugin.core.notices import Notice
    from plugin.core.state import Snapshot
    from plugin.reporting.features import Features
    from plugin.reporting.partitioning import Partitioned

log = logging.getLogger(__name__)

#: What the imports leave to the first registrations, which usually take less.
AFTER_SECONDS = 0.3


class Reporter:
    """Runs the features. ``holders`` are the pods' devices, ``resources`` how they stand with
    kubelet, ``partitioned`` is what partitions the node, ``choose`` takes the value of the label
    that names the configuration.
    """

    def __init__(
        self,
        store: Store,
        record: Path,
        holders: Callable[[], Holders],
        resources: Callable[[], Iterable[ResourceStatus]],
        partitioned: Partitioned | None = None,
        *,
        choose: Callable[[str], None] | None = None,
        after_seconds: float = AFTER_SECONDS,
    ) -> None:
        self._store = store
        self._record = Record(record)
        self._holders, self._resources = holders, resources
        self._partitioned = partitioned
        self._choose = choose
        self._after_seconds = after_seconds
        self._features: Features | None = None
        self._aside = Aside("the kubeconfig, the token or the record", FILES_SECONDS)
        self._problem = ""
        self._standing = Standing("all that is written to the cluster or read there")

    def status(self) -> ClusterStatus:
        """For metrics and ``/readyz``."""
        own = self._standing.problems
        if self._features is None:
            return ClusterStatus(problems=(*filter(None, (self._problem,)), *own))
        status = self._features.status
        return replace(status, problems=(*status.problems, *own))

    @property
    def client(self) -> ApiClient | None:
        """What the features use, once it is known where the API server is."""
        return self._features.client if self._features is not None else None

    def note(self, notices: Sequence[Notice]) -> None:
        """Make Events of these, once the features run."""
        if self._features is None:
            return
        try:
            self._features.note(notices)
        except Exception as error:  # noqa: BLE001 — whoever calls is not to stumble over it
            self._standing.mistaken(error)

    def _registered(self) -> frozenset[str]:
        return frozenset(
            status.resource
            for status in self._resources()
            if status.registered and status.stream_since is not None
        )

    async def run(self) -> None:
        """Until cancelled, or until nothing is left to do."""
        first = self._store.snapshot
        await asyncio.sleep(self._after_seconds)
        await self._standing.keep(lambda: self._run(first))

    async def _run(self, first: Snapshot) -> None:
        self._features = None
        # In a thread, so that kubelet's calls are answered meanwhile.
        room = await asyncio.to_thread(importlib.import_module, "plugin.reporting.features")  # noqa: TID251 — an import
        while self._features is None:
            try:
                self._features = await self._aside.run(
                    room.open_features,
                    self._store,
                    first,
                    self._record,
                    self._holders,
                    self._registered,
                    self._partitioned,
                    self._choose,
                )
            except (ConfigError, ClusterError, TimeoutError) as error:
                if str(error) != self._problem:
                    log.error(  # noqa: TRY400 — as in the other places, the sentence is enough
                        "nothing is written to the cluster or read there",
                        extra={"reason": str(error)},
                    )
                self._problem = str(error)
                await asyncio.sleep(AGAIN_SECONDS)
        await self._features.run()
