"""Follows the node's label that names the configuration."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from plugin.core.settings import Settings
from plugin.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from plugin.cluster.api import Cluster, Watched
    from plugin.core.cluster import NodeMetadata

log = logging.getLogger(__name__)

#: What the imports leave to the first registrations, which usually take less.
AFTER_SECONDS = 0.3
#: Between two attempts to find out where the API server is.
AGAIN_SECONDS = 60.0

#: Finds the API server. Raises :class:`ConfigError` or :class:`ClusterError`.
Connect = Callable[[Settings], Awaitable["Cluster"]]


async def follow(
    settings: Settings, choose: Callable[[str], None], connect: Connect | None = None
) -> None:
    """Pass on the label's value with every change, until cancelled. Where there is no API server,
    look for one now and then.
    """
    await asyncio.sleep(AFTER_SECONDS)
    problem = ""
    cluster: Cluster | None = None
    while cluster is None:
        try:
            cluster = await (connect or _connect)(settings)
        except (ConfigError, ClusterError) as error:
            if str(error) != problem:
                problem = str(error)
                log.error("the node's label cannot be followed", extra={"reason": problem})  # noqa: TRY400
            await asyncio.sleep(AGAIN_SECONDS)
    node = cluster.watch_node()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node.run(), name="configuration label watch")
        tasks.create_task(pass_on(node, settings.config_label, choose), name="configuration label")


async def _connect(settings: Settings) -> Cluster:
    # In a thread, so that kubelet's calls are answered meanwhile.
    client = await asyncio.to_thread(importlib.import_module, "plugin.cluster.client")
    cluster: Cluster = client.connect(client.own_node(settings.node_name), settings.kubeconfig)
    return cluster


async def pass_on(node: Watched[NodeMetadata], key: str, choose: Callable[[str], None]) -> None:
    """Pass on the label's value now and with every change, empty without one, until cancelled. A
    Node that is not there, or not known yet, says nothing.
    """
    now = node.now
    while True:
        if now.synced:
            for metadata in now.items.values():
                choose(metadata.labels.get(key, ""))
        now = await node.newer_than(now.generation)
