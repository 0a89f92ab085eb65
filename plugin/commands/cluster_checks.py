"""Checks that ask the API server, for ``doctor``. Imported where a feature of the cluster is on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from plugin import logs
from plugin.cluster.client import ApiClient, connect, own_node
from plugin.commands.check import Check, Outcome
from plugin.core.partition.rivals import DEPLOY_LABEL, mig_manager
from plugin.core.settings import Settings
from plugin.errors import ClusterError, ClusterRefused, ConfigError

#: For all requests.
LIMIT_SECONDS = 5.0
_NAME = "MIG Manager"
_FIX = "run doctor in the daemon's container, or name a file by --kubeconfig"


def rival_checks(settings: Settings) -> Iterator[Check]:
    """Whether NVIDIA's MIG Manager partitions the node as well."""
    logs.silence("plugin.cluster")
    try:
        client = connect(own_node(settings.node_name), settings.kubeconfig)
        found = asyncio.run(_mig_manager(client))
    except (ClusterError, ConfigError) as error:
        yield Check(_NAME, Outcome.WARN, f"not known: {error.what}", error.fix or _FIX)
        return
    except TimeoutError:
        why = f"not known: the API server has not answered for {LIMIT_SECONDS:g} s"
        yield Check(_NAME, Outcome.WARN, why, "look again when it does")
        return
    if found:
        fix = f"take it off the node: kubectl label node {client.node} --overwrite "
        yield Check(
            _NAME,
            Outcome.WARN,
            f"NVIDIA's MIG Manager partitions this node as well: {found}",
            f"{fix}{DEPLOY_LABEL}=false",
        )
    else:
        yield Check(_NAME, Outcome.PASS, "nothing of it is on this node")


async def _mig_manager(client: ApiClient) -> str:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            nodes = await client.list_node()
            if not nodes:
                raise ConfigError(
                    f"the cluster has no Node {client.node}", "set NODE_NAME to the Node's name"
                )
            try:
                pods = await client.list_pods()
            except ClusterRefused:
                return mig_manager(nodes[0], None)  # only few features need that right
            return mig_manager(nodes[0], pods)
    finally:
        client.close()
