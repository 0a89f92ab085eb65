"""Watches kubelet's plugin directory for sockets that appear, disappear or are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Protocol

from plugin.loops.pulse import Pulse

log = logging.getLogger(__name__)

#: Poll intervals with inotify, which can lose events, and without it.
SAFETY_POLL_SECONDS = 10.0
FALLBACK_POLL_SECONDS = 0.5

#: The watch starts after this delay: importing asyncinotify takes 15 ms (it runs ldconfig to find
#: the C library), which would delay the first registration. Earlier changes are seen when it
#: starts.
FIRST_WATCH_SECONDS = 0.1

#: Limit of remembered names; kubelet's start deletes a few dozen sockets.
MOST_DELETED = 1024
#: Identifies deleted sockets by name, since kubelet also creates and deletes checkpoint files here.
SOCKET_SUFFIX = ".sock"

#: (device, inode, ctime in ns): identifies a socket file; inode numbers alone are reused at once.
Identity = tuple[int, int, int]


class Directory(Protocol):
    path: Path
    #: At which level to log that kubelet is missing.
    absent_level: int

    def identity(self, name: str) -> Identity | None: ...
    def exists(self, name: str) -> bool: ...
    def sockets(self) -> dict[str, Identity]: ...
    def take_deleted(self) -> set[str]: ...
    def remove(self, name: str) -> None: ...
    def changed(self) -> Coroutine[None, None, object]: ...
    async def watch(self) -> None: ...


class SocketDirectory:
    """Watches one directory. Used from the event loop only."""

    def __init__(
        self, path: Path, *, inotify: bool = True, absent_level: int = logging.WARNING
    ) -> None:
        self.path = path
        self.absent_level = absent_level
        self._inotify = inotify
        self._changed = Pulse()
        self._deleted: set[str] = set()
        self._complaint = ""

    def identity(self, name: str) -> Identity | None:
        """The identity of the file `name`, unique over time; ``None`` if absent."""
        try:
            status = (self.path / name).stat() if name else None
        except OSError:
            return None
        return None if status is None else _identity(status)

    def exists(self, name: str) -> bool:
        return self.identity(name) is not None

    def sockets(self) -> dict[str, Identity]:
        """Every socket by name; empty if the directory is unreadable."""
        found = {}
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISSOCK(status.st_mode):
                        found[entry.name] = _identity(status)
        return found

    def take_deleted(self) -> set[str]:
        """Names of sockets deleted since the last call, as far as inotify reported them."""
        deleted, self._deleted = self._deleted, set()
        return deleted

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.path / name).unlink(missing_ok=True)

    def changed(self) -> Coroutine[None, None, object]:
        """Wait for the next change after this call, or the next poll."""
        return self._changed.wait()

    async def watch(self) -> None:
        """Watch until cancelled. Falls back to polling without inotify or without the directory."""
        await asyncio.sleep(FIRST_WATCH_SECONDS)
        while True:
            if not self.path.is_dir():
                # Kubelet creates it at its first start.
                self._complain(
                    "kubelet's directory does not exist; is it mounted here?", self.absent_level
                )
            elif self._inotify:
                try:
                    await self._watch_inotify()
                except OSError as error:
                    self._complain(
                        f"inotify does not work ({error.strerror or error}); looking every "
                        f"{FALLBACK_POLL_SECONDS} s instead"
                    )
            else:
                self._complain("")
            await asyncio.sleep(FALLBACK_POLL_SECONDS)
            self._changed.fire()

    def _complain(self, complaint: str, level: int = logging.WARNING) -> None:
        """Log a new problem once, and its end."""
        if complaint == self._complaint:
            return
        self._complaint = complaint
        if complaint:
            log.log(
                level,
                "kubelet's directory cannot be watched",
                extra={"directory": str(self.path), "reason": complaint},
            )
        else:
            log.info("watching kubelet's directory", extra={"directory": str(self.path)})

    async def _watch_inotify(self) -> None:
        """Returns when the directory is removed; raises OSError without free inotify watches."""
        from asyncinotify import Inotify, Mask  # noqa: PLC0415 — see FIRST_WATCH_SECONDS

        mask = (
            Mask.CREATE
            | Mask.DELETE
            | Mask.MOVED_FROM
            | Mask.MOVED_TO
            | Mask.DELETE_SELF
            | Mask.ONLYDIR
        )
        with Inotify() as inotify:
            inotify.add_watch(self.path, mask)
            watched = self.path.stat().st_ino
            self._complain("")
            self._changed.fire()  # for changes before the watch
            seconds = SAFETY_POLL_SECONDS
            while True:
                event = None
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        event = await inotify.get()
                deleted = event is not None and bool(event.mask & (Mask.DELETE | Mask.MOVED_FROM))
                if event is not None and event.mask & Mask.DELETE:
                    self._remember(str(event.name))
                self._changed.fire()
                if event is not None and event.mask & (Mask.DELETE_SELF | Mask.IGNORED):
                    return
                # DELETE_SELF never arrives while our socket is bound in the directory; its files
                # are deleted first.
                if not self.path.is_dir() or self.path.stat().st_ino != watched:
                    return
                seconds = FALLBACK_POLL_SECONDS if deleted else SAFETY_POLL_SECONDS

    def _remember(self, name: str) -> None:
        if name.endswith(SOCKET_SUFFIX) and len(self._deleted) < MOST_DELETED:
            self._deleted.add(name)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_ctime_ns
