"""Locks between processes: on a file beside what it guards, or on a folder, until it is released or
its process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def lock_of(path: Path) -> Path:
    """The file to lock for the file at `path`."""
    return path.with_name(f"{path.name}.lock")


def is_held(path: Path) -> bool:
    """Whether a process has the lock. Raises OSError. Never waits, and leaves nothing behind."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class FileLock:
    """Locks the file at `path`, which is made if need be and removed in the end."""

    def __init__(self, path: Path) -> None:
        """Raises BlockingIOError while another one has it, and OSError for a path that cannot be
        used. Never waits.
        """
        self._path = path
        self._descriptor = _locked(path)

    def is_ours(self) -> bool:
        """Whether the path still leads to the file that is locked: if somebody removed it, another
        process can lock a new one.
        """
        return _is_at(self._path, self._descriptor)

    def release(self) -> None:
        # Removed while it is locked, so that nobody can hold a lock on a file that is not there any
        # more.
        if self.is_ours():
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._descriptor)


class FolderLock:
    """Locks the folder at `path` itself: that needs no room, and leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        """Raises BlockingIOError while another one has it, and OSError where a folder cannot be
        locked. Never waits.
        """
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def is_ours(self) -> bool:
        """Whether the folder at the path still is the one that is locked."""
        return _is_at(self._path, self._descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


def _locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # removed by the one who had it: the next round makes a new one


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
