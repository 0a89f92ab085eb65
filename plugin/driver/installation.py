"""Access to a driver installation below a root."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from plugin.config import bounded
from plugin.driver import loader_cache, shared_object
from plugin.driver.root import resolve
from plugin.driver.shared_object import SharedObject


class Installation(Protocol):
    """A root with files of a driver, on this machine or in a simulated one. All paths begin at
    the root. What cannot be read is as if it were not there.
    """

    @property
    def host_root(self) -> str:
        """The root as the host sees it."""

    def names(self, folder: str) -> Collection[str]:
        """Names in a folder."""

    def real(self, path: str) -> str | None:
        """The regular file at the end of every link, which lead no further than the root."""

    def is_program(self, path: str) -> bool:
        """Whether there is a file that can be executed."""

    def shared_object(self, path: str) -> SharedObject | None:
        """What the headers of a library say."""

    def loader_cache(self) -> bytes:
        """The content of ``/etc/ld.so.cache``."""


class DiskInstallation:
    """An installation below `root`, as this process sees it."""

    def __init__(self, root: Path, host_root: str) -> None:
        self.host_root = host_root
        self._root = root

    def names(self, folder: str) -> Collection[str]:
        try:
            return frozenset(path.name for path in resolve(self._root, folder).iterdir())
        except OSError:
            return frozenset()

    def real(self, path: str) -> str | None:
        try:
            found = resolve(self._root, path)
            below = found.relative_to(self._root.resolve())
            return f"/{below}" if found.is_file() else None
        except (OSError, ValueError):
            return None

    def is_program(self, path: str) -> bool:
        real = self.real(path)
        try:
            # Not whether we may: that is root in the host's own file system.
            return real is not None and bool(resolve(self._root, real).stat().st_mode & 0o111)
        except OSError:
            return False

    def shared_object(self, path: str) -> SharedObject | None:
        try:
            return shared_object.read(resolve(self._root, path))
        except OSError:
            return None

    def loader_cache(self) -> bytes:
        try:
            return bounded.read(
                resolve(self._root, "/etc/ld.so.cache"), loader_cache.MOST_BYTES, follow=False
            )
        except OSError:
            return b""
