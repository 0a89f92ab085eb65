"""The ids in kubelet's device manager checkpoint.

The file is internal to kubelet, not an API: evidence if readable, ignored otherwise.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

#: Beside ``kubelet.sock``.
NAME = "kubelet_internal_checkpoint"

#: It includes the Allocate responses: some kilobytes per container.
_MOST_BYTES = 64 << 20


def allocated_ids(path: Path) -> frozenset[str] | None:
    """Ids of all resources; ``None`` if unreadable. Blocks."""
    try:
        # Non-blocking, in case the path is a pipe or a device.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
                return None
            document = json.loads(file.read(_MOST_BYTES))
        # Go writes an empty list as null.
        entries = document["Data"]["PodDeviceEntries"] or []
        return frozenset(name for entry in entries for name in _ids(entry["DeviceIDs"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _ids(devices: dict[str, list[str]] | list[str] | None) -> list[str]:
    """Ids by NUMA node, or a plain list (before Kubernetes 1.20)."""
    if isinstance(devices, dict):
        return [name for names in devices.values() for name in names]
    return devices or []
