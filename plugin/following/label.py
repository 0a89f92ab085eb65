"""The node's label that names the configuration, and the last value that was followed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from plugin.config import atomic, bounded

if TYPE_CHECKING:
    from plugin.cluster.api import Watched
    from plugin.core.cluster import NodeMetadata

#: A label's value has at most 63 characters.
_MOST_BYTES = 256


async def follow_label(
    node: Watched[NodeMetadata], key: str, choose: Callable[[str], None]
) -> None:
    """Pass on the label's value now and with every change, empty without one, until cancelled. A
    Node that is not there, or not known yet, says nothing.
    """
    now = node.now
    while True:
        if now.synced:
            for metadata in now.items.values():
                choose(metadata.labels.get(key, ""))
        now = await node.newer_than(now.generation)


class LabelFile:
    """Keeps the last value across restarts: the API server may be out of reach at the next start,
    and devices must not wait for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str:
        """Empty where none was kept."""
        with contextlib.suppress(OSError, ValueError):
            return bounded.read(self._path, _MOST_BYTES, follow=False).decode().strip()
        return ""

    def write(self, value: str) -> None:
        """Raises OSError."""
        if value == self.read():
            return
        if value:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic.replace(self._path, f"{value}\n".encode())
        else:
            self._path.unlink(missing_ok=True)
