"""``sim label``: the Node's labels, for a simulated node whose API server is a stand-in: what
``kubectl label node`` does in a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from plugin import logs
from plugin.cluster.client import ApiClient, connect, own_node
from plugin.config import export
from plugin.control.client import ask
from plugin.core.quote import quote
from plugin.core.settings import Settings
from plugin.errors import ConfigError, SimulationError


def change(mine: Settings, text: str | None) -> int:
    """Set (``KEY=VALUE``) or remove (``KEY-``) a label of the running daemon's Node; without a
    text, print all. `mine` are this command's settings. Raises :class:`~plugin.errors.PluginError`.
    """
    logs.silence("plugin.cluster")
    changes = parse(text) if text is not None else {}
    settings = export.settings_of(ask(mine.control_socket, "settings"), mine, ["control_socket"])
    if not settings.simulate:
        raise SimulationError(
            "this daemon runs on a real driver", "use kubectl label node for its Node"
        )
    if not settings.kubeconfig:
        raise SimulationError("this daemon has no API server", "start it with --kubeconfig")
    node = own_node(settings.node_name)
    labels = asyncio.run(put(settings.kubeconfig, node, changes))
    if changes:
        print(said(node, changes))
    else:
        print(*(f"{key}={labels[key]}" for key in sorted(labels)), sep="\n")
    return 0


def parse(text: str) -> Mapping[str, str | None]:
    """Raises :class:`~plugin.errors.ConfigError`."""
    key, equals, value = text.partition("=")
    if key and equals:
        return {key: value}
    if len(text) > 1 and text.endswith("-"):
        return {text[:-1]: None}
    raise ConfigError(
        f"sim label: {quote(text)} is not valid", "choose KEY=VALUE, or KEY- to remove the label"
    )


async def put(kubeconfig: str, node: str, changes: Mapping[str, str | None]) -> Mapping[str, str]:
    """Change labels of a Node; returns all that it has then. Raises
    :class:`~plugin.errors.PluginError`.
    """
    client: ApiClient = connect(node, kubeconfig)
    try:
        before = (await client.get_node()).metadata
        return (await client.patch_metadata(before, labels=changes)).labels
    finally:
        client.close()


def said(node: str, changes: Mapping[str, str | None]) -> str:
    return "; ".join(
        f"label {key} of Node {node} removed" if value is None else f"Node {node}: {key}={value}"
        for key, value in changes.items()
    )
