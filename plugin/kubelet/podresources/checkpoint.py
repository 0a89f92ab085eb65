"""Kubelet's checkpoint of its device manager: which ids it has given to containers.

The file is kubelet's own and no API, so it is evidence where it can be read and nothing else.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

#: Beside ``kubelet.sock``.
NAME = "kubelet_internal_checkpoint"

#: It also keeps the answers of Allocate: some kilobytes for each container.
_MOST_BYTES = 64 << 20


def allocated_ids(path: Path) -> frozenset[str] | None:
    """Ids of all resources; ``None`` when they cannot be read. Blocks as any file does."""
    try:
        # Not blocking: whatever lies there under this name, opening it must come back.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
                return None
            document = json.loads(file.read(_MOST_BYTES))
        # Go writes null for an empty list.
        entries = document["Data"]["PodDeviceEntries"] or []
        return frozenset(name for entry in entries for name in _ids(entry["DeviceIDs"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _ids(devices: dict[str, list[str]] | list[str] | None) -> list[str]:
    """By NUMA node, or, before Kubernetes 1.20, a plain list."""
    if isinstance(devices, dict):
        return [name for names in devices.values() for name in names]
    return devices or []
