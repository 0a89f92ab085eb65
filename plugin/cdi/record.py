"""In which directories specifications of ours may be, so that a later process finds those of
another configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from plugin.config import atomic, bounded


class Record:
    """A file with a path in each line, or no file. Methods block and raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Path, ...]:
        try:
            text = bounded.read(self.path).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ()
        lines = dict.fromkeys(text.splitlines())
        return tuple(Path(line) for line in lines if line.startswith("/") and "\0" not in line)

    def write(self, directories: Iterable[Path]) -> None:
        text = "".join(f"{path}\n" for path in directories)
        if not text:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.replace(self.path, text.encode(errors="surrogateescape"))
