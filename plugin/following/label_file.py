"""The value of the node's label that was followed last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plugin.config import atomic, bounded

#: A label's value has at most 63 characters.
_MOST_BYTES = 256


class LabelFile:
    """Keeps the last value across restarts: the API server may be out of reach at the next start,
    and devices must not wait for it.
    """

    def __init__(self, path: Path, read: Callable[..., bytes] = bounded.read) -> None:
        self.path, self._read = path, read

    def read(self) -> str:
        """Empty where none was kept. Raises OSError where that is not known."""
        try:
            return self._read(self.path, _MOST_BYTES, follow=False).decode().strip()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and bounded.is_away(error):
                raise
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
