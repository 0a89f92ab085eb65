"""Evicts pods that hold devices in the way of a MIG configuration."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

from plugin.core.cluster import Evicted, Pod
from plugin.core.notices import Notice
from plugin.core.partition.causes import evicted
from plugin.core.settings import Settings
from plugin.errors import ClusterError, ConfigError
from plugin.loops.aside import Aside

if TYPE_CHECKING:
    from plugin.cluster.api import Cluster

log = logging.getLogger(__name__)

#: For all requests of one round: an order that comes meanwhile is taken up after it.
ROUND_SECONDS: Final = 2.0
#: Before a pod is looked at again: while it ends, while its budget allows no eviction, and where
#: nothing but a change of the cluster's helps.
ENDING_SECONDS, BUDGET_SECONDS, REFUSED_SECONDS = 30.0, 10.0, 60.0
#: Between two attempts to find out where the API server is.
CONNECT_SECONDS: Final = 60.0


class PodEvictor:
    """Remembers when to ask again, and why a pod is not evicted, for those of the last round."""

    def __init__(
        self,
        settings: Settings,
        shared: Callable[[], Cluster | None],
        note: Callable[[Sequence[Notice]], None] = lambda _: None,
    ) -> None:
        """`shared` is the features' client, where there is one; `note` makes Events of notices."""
        self._settings, self._shared, self._note = settings, shared, note
        self._own: Cluster | None = None
        self._connect_at = 0.0
        self._aside = Aside("the kubeconfig or the token", CONNECT_SECONDS / 2)
        self._problem = ""
        self._mistaken = False
        #: By ``namespace/name``: when to ask again, and what keeps it.
        self._asked: dict[str, tuple[float, str]] = {}

    async def evict(self, pods: Collection[str]) -> str:
        """Ask for the eviction of these pods (``namespace/name``); returns why some are not
        evicted, empty if all will be.
        """
        cluster = await self._cluster()
        if cluster is None:
            return f"pods cannot be evicted: {self._problem}"
        self._asked = {pod: asked for pod, asked in self._asked.items() if pod in pods}
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                for pod in pods:
                    if self._is_due(pod):
                        await self._evict(cluster, pod)
        except TimeoutError:
            return "pods cannot be evicted now: the API server does not answer"
        except ClusterError as error:
            return f"pods cannot be evicted now: {error}"
        except Exception as error:  # a mistake of ours is not worth the devices
            if not self._mistaken:
                log.exception("a mistake of the plugin's keeps it from evicting pods")
            self._mistaken = True
            return f"pods cannot be evicted now: {error!r}, a mistake of the plugin's"
        return "; ".join(filter(None, (why for _, why in self._asked.values())))

    def _is_due(self, pod: str) -> bool:
        return pod not in self._asked or self._asked[pod][0] <= _now()

    async def _evict(self, cluster: Cluster, pod: str) -> None:
        found = await cluster.find_pod(*pod.split("/", 1))
        seconds, why = ENDING_SECONDS, ""
        if found is not None and found.returns:
            seconds, why = REFUSED_SECONDS, f"pod {pod} is not evicted: {_returning(found)}"
        elif found is not None and not found.deleting:
            eviction = await cluster.evict(found)
            match eviction.outcome:
                case Evicted.BEGUN:
                    log.info("pod evicted", extra={"pod": pod})
                    self._note([evicted(pod)])
                case Evicted.BUDGET_SPENT:
                    seconds = max(1.0, eviction.retry_after or BUDGET_SECONDS)
                    why = f"pod {pod} is not evicted yet: its disruption budget allows none now"
                case Evicted.NEVER | Evicted.FORBIDDEN:
                    seconds = REFUSED_SECONDS
                    why = f"pod {pod} is not evicted: {eviction.detail}"
        self._asked[pod] = _now() + seconds, why

    async def _cluster(self) -> Cluster | None:
        shared = self._shared()
        if shared is not None:
            return shared
        if self._own is None and _now() >= self._connect_at:
            self._connect_at = _now() + CONNECT_SECONDS
            try:
                self._own = await self._aside.run(_connect, self._settings)
            except (ConfigError, ClusterError, TimeoutError) as error:
                self._problem = str(error)
        return self._own


def _returning(pod: Pod) -> str:
    return "it is a static pod" if pod.mirror else f"its {pod.controller} would start it again"


def _connect(settings: Settings) -> Cluster:
    client = importlib.import_module("plugin.cluster.client")
    cluster: Cluster = client.connect(client.own_node(settings.node_name), settings.kubeconfig)
    return cluster


def _now() -> float:
    return asyncio.get_running_loop().time()
