"""The value of the node's label, asked for once: for a first start that nothing else decides."""

from __future__ import annotations

import asyncio

from plugin.cluster.client import ApiClient, connect, own_node
from plugin.core.settings import Settings
from plugin.errors import ClusterError

#: Kubelet starts the container again if that was too short.
LIMIT_SECONDS = 10.0


def ask(settings: Settings) -> str:
    """Empty if the Node has no such label. Blocks. Raises :class:`~plugin.errors.ClusterError` and
    :class:`~plugin.errors.ConfigError`.
    """
    client = connect(own_node(settings.node_name), settings.kubeconfig)
    try:
        return asyncio.run(_value(client, settings.config_label))
    except TimeoutError:
        text = f"the API server has not answered for {LIMIT_SECONDS:g} s"
        raise ClusterError(text) from None


async def _value(client: ApiClient, label: str) -> str:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            nodes = await client.list_node()
    finally:
        client.close()
    return nodes[0].labels.get(label, "") if nodes else ""
