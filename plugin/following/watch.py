"""Watches a configuration file, or a directory of them, for changes that have settled."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from plugin.config.choice import MOST_FILES
from plugin.loops.aside import Aside

if TYPE_CHECKING:
    from asyncinotify import Inotify

log = logging.getLogger(__name__)

#: A change counts once nothing has changed for this long: editors write in pieces.
SETTLE_SECONDS = 0.2
#: What changes all the time is looked at nevertheless.
MOST_SETTLING = 10
#: Poll intervals with inotify, which can lose events, and without it.
SAFETY_POLL_SECONDS = 10.0
FALLBACK_POLL_SECONDS = 1.0
#: For one look at the files; they may be on a file system that hangs.
LOOK_SECONDS = 10.0

#: (device, inode, size, times of the last changes): what changes with a file.
_Stamp = tuple[int, ...]


class Look(NamedTuple):
    """``folders`` are to be watched, by path, device and inode; ``stamp`` changes with the files'
    contents.
    """

    folders: frozenset[tuple[str, int, int]]
    stamp: object


class FileWatch:
    """Calls `changed` whenever the file, or any file of the directory, may be another, and once
    when :meth:`run` begins. A file or folder that is not there yet, or not any more, is waited for.
    """

    def __init__(
        self,
        path: Path,
        changed: Callable[[], None],
        *,
        inotify: bool = True,
        settle: float = SETTLE_SECONDS,
        poll: float = FALLBACK_POLL_SECONDS,
    ) -> None:
        """`settle` is how long nothing must change, `poll` the interval without inotify."""
        self._path = path
        self._settle = settle
        self._poll = poll
        self._changed = changed
        self._inotify = inotify
        self._aside = Aside("configuration watch", LOOK_SECONDS)
        self._stamp: object = ()
        self._complaint = ""

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._watch()
            except TimeoutError:
                self._complain(f"a look at it takes more than {LOOK_SECONDS:g} s")
                await asyncio.sleep(SAFETY_POLL_SECONDS)

    async def _watch(self) -> None:
        """Until other folders are to be watched. Raises TimeoutError."""
        folders = (await self._look()).folders
        inotify = await self._open(folders)
        with inotify or contextlib.nullcontext():
            while True:
                look = await self._look()
                if look.stamp != self._stamp:
                    self._stamp = (await self._settled(look)).stamp
                    self._changed()
                if look.folders != folders:
                    return
                await self._next(inotify)

    async def _look(self) -> Look:
        return await self._aside.call(lambda: look(self._path))

    async def _settled(self, now: Look) -> Look:
        for _ in range(MOST_SETTLING):
            await asyncio.sleep(self._settle)
            before, now = now, await self._look()
            if now.stamp == before.stamp:
                break
        return now

    async def _open(self, folders: frozenset[tuple[str, int, int]]) -> Inotify | None:
        """``None`` where inotify cannot be used: without a folder, or without a free watch."""
        if not folders or not self._inotify:
            return None
        try:
            inotify = await self._aside.call(lambda: _opened(folders))
        except OSError as error:
            self._complain(
                f"inotify does not work ({error.strerror or error}); looking every "
                f"{self._poll:g} s instead"
            )
            return None
        self._complain("")
        return inotify

    async def _next(self, inotify: Inotify | None) -> None:
        """Wait for what may have changed, and what comes with it."""
        if inotify is None:
            await asyncio.sleep(self._poll)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAFETY_POLL_SECONDS):
                await inotify.get()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settle):
                while True:
                    await inotify.get()

    def _complain(self, complaint: str) -> None:
        """Log a new problem once, and its end."""
        if complaint == self._complaint:
            return
        extra = {"path": str(self._path), "reason": complaint}
        if complaint:
            log.warning("the configuration cannot be watched", extra=extra)
        else:
            log.info("watching the configuration", extra={"path": str(self._path)})
        self._complaint = complaint


# ---- in a thread


def look(path: Path) -> Look:
    """Never raises: what cannot be read is not there."""
    stamps: dict[str, _Stamp | None] = {"": _stamp(path)}
    folders = {path.parent, Path(os.path.realpath(path)).parent}
    if path.is_dir():
        folders = {path}
        for name in _names(path):
            # The target of a ConfigMap's file is in a folder that kubelet replaces.
            stamps[name] = _stamp(path / name)
            folders.add(Path(os.path.realpath(path / name)).parent)
    return Look(frozenset(_identified(folders)), tuple(sorted(stamps.items())))


def _names(folder: Path) -> list[str]:
    names = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                names.append(entry.name)
            if len(names) > MOST_FILES:
                break
    return names


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if path.is_dir():
        return (status.st_dev, status.st_ino)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _identified(folders: set[Path]) -> Iterator[tuple[str, int, int]]:
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            if folder.is_dir():
                status = folder.stat()
                yield str(folder), status.st_dev, status.st_ino


def _opened(folders: frozenset[tuple[str, int, int]]) -> Inotify:
    """Raises OSError."""
    library = importlib.import_module("asyncinotify")  # 15 ms, see docs/libraries.md
    mask = library.Mask
    inotify: Inotify = library.Inotify()
    try:
        for folder, _, _ in folders:
            inotify.add_watch(
                folder,
                mask.CREATE
                | mask.DELETE
                | mask.MOVED_FROM
                | mask.MOVED_TO
                | mask.CLOSE_WRITE
                | mask.ATTRIB
                | mask.DELETE_SELF
                | mask.MOVE_SELF
                | mask.ONLYDIR,
            )
    except BaseException:
        inotify.close()
        raise
    return inotify
