"""The right to partition the node, as the file system has it: a lock on a file beside the memory.

Everything here blocks, and may hang with its file system.
"""

from __future__ import annotations

from typing import NamedTuple

from plugin.config import atomic
from plugin.partition.memory import Memory, MemoryFile
from plugin.state.lock import FileLock


class Lease(NamedTuple):
    """``number`` counts how often this process got the lock, ``found`` is what was in the file
    then: others may have changed both the file and the GPUs before that.
    """

    number: int
    found: Memory


class Claim:
    """Used by one thread at a time."""

    def __init__(self, file: MemoryFile) -> None:
        self._file = file
        self._lock: FileLock | None = None
        self._lease = Lease(0, Memory())

    def take(self) -> Lease:
        """Have the lock. Raises BlockingIOError while another process has it, and OSError where it
        cannot be had or the file cannot be asked.
        """
        if self._lock is None or not self._lock.is_ours():
            self.release()
            path = self._file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_name(f"{path.name}.lock"))
            try:
                atomic.remove_leftovers(path)
                found = self._file.load()
            except BaseException:
                lock.release()
                raise
            self._lock, self._lease = lock, Lease(self._lease.number + 1, found)
        return self._lease

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
