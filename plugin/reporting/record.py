"""Which features may have written to the Node, in a file that outlives the process: so that a
later one cleans up behind those that are switched off.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from plugin.config import atomic, bounded

log = logging.getLogger(__name__)

LABELS, TAINTS = "labels", "taints"
_CONDITION, _PARTITION = "condition ", "partition "
_MOST_BYTES = 64_000


def condition_line(kind: str) -> str:
    return f"{_CONDITION}{kind}"


def condition_types(lines: Iterable[str]) -> tuple[str, ...]:
    return _rests(lines, _CONDITION)


def partition_line(label: str) -> str:
    return f"{_PARTITION}{label}"


def partition_labels(lines: Iterable[str]) -> tuple[str, ...]:
    return _rests(lines, _PARTITION)


def _rests(lines: Iterable[str], prefix: str) -> tuple[str, ...]:
    return tuple(sorted(line.removeprefix(prefix) for line in lines if line.startswith(prefix)))


class Record:
    """A line for each feature. Methods block; they raise nothing, since the record is needed by a
    later process only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: frozenset[str] | None = None
        self._lock = threading.Lock()
        #: Why the file is not as it should be; empty when all is well.
        self.problem = ""

    def read(self) -> frozenset[str]:
        if self._lines is None:
            try:
                text = bounded.read(self.path, _MOST_BYTES).decode("utf-8", "replace")
            except FileNotFoundError:
                text = ""
            except OSError as error:
                text = ""
                self._failed(error)
            self._lines = frozenset(filter(None, text.splitlines()))
        return self._lines

    def add(self, *lines: str) -> None:
        with self._lock:
            self._write(self.read() | set(lines))

    def remove(self, line: str) -> None:
        # Features end at the same time, each in a thread of its own.
        with self._lock:
            self._write(self.read() - {line})

    def _write(self, lines: frozenset[str]) -> None:
        if lines == self._lines:
            return
        self._lines = lines
        try:
            if not lines:
                self.path.unlink(missing_ok=True)
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                text = "".join(f"{line}\n" for line in sorted(lines))
                atomic.replace(self.path, text.encode())
        except OSError as error:
            self._failed(error)
        else:
            self.problem = ""

    def _failed(self, error: OSError) -> None:
        if not self.problem:
            log.warning(
                "what is written to the Node cannot be recorded",
                extra={"reason": str(error), "file": str(self.path)},
            )
        self.problem = (
            f"what is written to the Node cannot be recorded: {error}; a feature that is switched "
            "off will leave it there"
        )
