"""Kubelet's plugin directory: tells at once when a socket in it comes, goes or is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from plugin.loops.pulse import Pulse

log = logging.getLogger(__name__)

#: Looking without being told: how often while inotify works (it can lose events), and when there is
#: none.
SAFETY_POLL_SECONDS = 10.0
FALLBACK_POLL_SECONDS = 0.5

#: How long the watch waits at the start: importing asyncinotify takes 15 ms (it runs ldconfig to
#: find the C library), which would delay the first registration. What happens meanwhile is looked
#: at as soon as the watch stands.
FIRST_WATCH_SECONDS = 0.1

#: What a socket file is, across deletion and creation: inode numbers alone are used again at once.
Identity = tuple[int, int, int]


class SocketDirectory:
    """Watches one directory; used from the event loop only."""

    def __init__(self, path: Path, *, inotify: bool = True) -> None:
        self.path = path
        self._inotify = inotify
        self._changed = Pulse()

    def identity(self, name: str) -> Identity | None:
        """What the file `name` is now; ``None`` when it is not there. A new file never has an old
        one's identity.
        """
        try:
            stat = (self.path / name).stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, stat.st_ctime_ns

    def exists(self, name: str) -> bool:
        return self.identity(name) is not None

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    async def changed(self) -> None:
        """Wait for the next change, or for the next look that is due anyway."""
        await self._changed.wait()

    async def watch(self) -> None:
        """Watch until cancelled. Never fails: without inotify, or without the directory,
        it polls.
        """
        await asyncio.sleep(FIRST_WATCH_SECONDS)
        while True:
            if self._inotify:
                try:
                    await self._watch_inotify()
                except OSError as error:
                    log.warning(
                        "cannot watch %s with inotify (%s); looking every %s s instead",
                        self.path,
                        error.strerror or error,
                        FALLBACK_POLL_SECONDS,
                    )
            # Also while the directory does not exist: kubelet makes it at its first start.
            await self._poll_until_watchable()

    async def _watch_inotify(self) -> None:
        """Returns when the directory itself went away; raises OSError when there are no watches
        left.
        """
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
            self._changed.fire()  # whatever happened before the watch stood
            seconds = SAFETY_POLL_SECONDS
            while True:
                event = None
                # Not wait_for: before Python 3.12 it forgets a cancellation that meets an event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        event = await inotify.get()
                self._changed.fire()
                if event is not None and event.mask & (Mask.DELETE_SELF | Mask.IGNORED):
                    return
                # DELETE_SELF never comes while a socket is bound in the directory, as ours is; its
                # files go before it.
                if not self.path.is_dir() or self.path.stat().st_ino != watched:
                    return
                deleted = event is not None and event.mask & Mask.DELETE
                seconds = FALLBACK_POLL_SECONDS if deleted else SAFETY_POLL_SECONDS

    async def _poll_until_watchable(self) -> None:
        missing = not self.path.is_dir()
        if missing:
            log.warning(
                "%s does not exist; is kubelet running, and is its directory mounted here?",
                self.path,
            )
        while True:
            await asyncio.sleep(FALLBACK_POLL_SECONDS)
            self._changed.fire()
            if missing and self.path.is_dir():
                return
