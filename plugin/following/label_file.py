"""The value of the node's label that was followed last."""

from __future__ import annotations

import contextlib
from pathlib import Path

from plugin.config import atomic, bounded

#: A label's value has at most 63 characters.
_MOST_BYTES = 256


class LabelFile:
    """Keeps the last value across restarts: the API server may be out of reach at the next start,
    and devices must not wait for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> str:
        """Empty where none was kept."""
        with contextlib.suppress(OSError, ValueError):
            return bounded.read(self.path, _MOST_BYTES, follow=False).decode().strip()
        return ""

    def write(self, value: str) -> None:
        """Raises OSError."""
        if value == self.read():
            return
        if value:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic.replace(self.path, f"{value}\n".encode())
        else:
            self.path.unlink(missing_ok=True)
