"""Follows the label that names the configuration."""

from __future__ import annotations

from collections.abc import Callable

from plugin.cluster.api import Watched
from plugin.core.cluster import NodeMetadata
from plugin.reporting.standing import Standing


class ConfigLabel:
    """Passes on the label's value now and with every change; empty: the Node does not have it. A
    Node that is not there, or not known yet, says nothing.
    """

    def __init__(
        self, nodes: Watched[NodeMetadata], label: str, choose: Callable[[str], None]
    ) -> None:
        self._nodes, self._label, self._choose = nodes, label, choose
        self.standing = Standing(f"the label {label}")

    async def run(self) -> None:
        """Until cancelled."""
        now = self._nodes.now
        while True:
            if now.synced:
                for metadata in now.items.values():
                    self._choose(metadata.labels.get(self._label, ""))
            now = await self._nodes.newer_than(now.generation)
