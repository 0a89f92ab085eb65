"""The ledger on disk: written whole and at once, so that a verdict outlives a restart and a kill.

One process at a time writes it: a lock on a file beside it settles which. Another one goes on
without saving, says so to whoever asks, and takes the file over when it is free: with what was
saved there meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, field

from plugin.config import atomic, bounded
from plugin.core.health.ledger import EMPTY, Ledger, from_document, to_document, to_time
from plugin.loops.aside import Aside
from plugin.loops.pulse import Pulse
from plugin.state.lock import FileLock, lock_of

log = logging.getLogger(__name__)

#: A disk that failed may have room again later, and a lock may be free, without anything new to
#: write.
RETRY_SECONDS = 5.0

#: The key holds the version: a file of another one has no such key.
_DEVICES = "devices/v1"
#: Far above the largest node: 16 GPUs with 7 MIG devices that have a dozen reasons each.
MOST_BYTES = 4 * bounded.MEBIBYTE
#: How long a command waits for its effect to be on disk.
SAVE_SECONDS = 5.0


class Saved(Struct, frozen=True):
    """What was found on disk; ``rebooted`` tells that it was written before the node's last
    start. ``offset`` is that of the timeline of its times, if it was written after that.
    ``is_file`` is false where nothing could be read.
    """

    ledger: Ledger = field(default_factory=lambda: EMPTY)
    rebooted: bool = False
    offset: float | None = None
    is_file: bool = False


class LedgerFile:
    """Loads once, then saves whatever is newest. A file that cannot be used costs its contents and
    nothing else.
    """

    def __init__(
        self,
        path: Path,
        boot_id: str = "",
        *,
        retry_seconds: float = RETRY_SECONDS,
        aside: Aside | None = None,
    ) -> None:
        """`aside` makes the calls of the file system."""
        self.path = path
        self._aside = aside or Aside("ledger", SAVE_SECONDS)
        self._boot_id = boot_id
        self._retry_seconds = retry_seconds
        self._wanted: dict[str, object] | None = None
        self._newest, self._offset = EMPTY, 0.0
        #: What is in the file, as far as this process knows.
        self._written: dict[str, object] = {}
        self._known = EMPTY
        self._lock: FileLock | None = None
        self._changed = asyncio.Event()
        self._attempted = Pulse()
        self._writing = False
        self._problem: str | None = None
        self._file = threading.Lock()
        #: Called on the event loop, before this process writes, with what both had once and what
        #: another one has saved since: :meth:`save` is to be given a ledger that has it too.
        self.on_found: Callable[[Ledger, Saved], None] = lambda _base, _saved: None

    def load(self) -> Saved:
        """What was saved. Blocks."""
        with self._file:
            # It is tried again before anything is written. The lock also says that a daemon runs.
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._claim()
            return self._read()

    async def loaded(self) -> Saved:
        """The same beside the event loop. What a file system does not answer in time is as if it
        were another process's: :meth:`run` takes it over.
        """
        decided, found = threading.Lock(), []

        def load() -> None:
            found.append(self.load())
            if not decided.acquire(blocking=False):
                self._unload()

        try:
            await self._aside.call(load)
        except TimeoutError as error:
            if decided.acquire(blocking=False):
                log.warning(
                    "the ledger cannot be read, starting without", extra={"reason": str(error)}
                )
                return Saved()
        return found[0]

    def _unload(self) -> None:
        with self._file:
            self._release()
            self._written, self._known = {}, EMPTY

    def save(self, ledger: Ledger, offset: float) -> None:
        """Have :meth:`run` write it; nothing is written when nothing worth keeping has changed.
        `offset` is that of the timeline of its times.
        """
        self._wanted, self._newest, self._offset = to_document(ledger), ledger, offset
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled, and once more then if needed. A disk that fails is complained of
        once.
        """
        complained = False
        try:
            while True:
                self._changed.clear()
                self._writing, self._problem = True, None
                try:
                    known, found = self._known, await self._aside.call(self._take_over)
                    if found is not None:
                        log.info("another process has changed the ledger, merging both")
                        self.on_found(known, found)
                    await self._aside.call(self.flush)
                    if complained:
                        log.info("the ledger can be saved again")
                    complained = False
                except (OSError, ValueError) as error:
                    self._problem = str(error)
                    if not complained:
                        log.warning(
                            "the ledger cannot be saved; verdicts will not outlive a restart",
                            extra={"reason": str(error)},
                        )
                    complained = True
                self._writing = False
                self._attempted.fire()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._retry_seconds if self._problem else None):
                        await self._changed.wait()
        finally:
            # With what is being written just now; the process ends though the file system hangs.
            with contextlib.suppress(OSError, ValueError):
                await self._aside.call(self._end, waits=True)

    async def saved(self, seconds: float = SAVE_SECONDS) -> str | None:
        """Wait until :meth:`run` has tried to write the newest; returns why that failed, ``None``
        when it worked.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._changed.is_set() or self._writing:
                    await self._attempted.wait()
        except TimeoutError:
            return f"not written within {seconds:g} s"
        return self._problem

    def flush(self) -> None:
        """Write the newest now, atomically, if the file is ours. Raises OSError or ValueError."""
        with self._file:  # a write in its thread may still be going on when the last one is wanted
            wanted, newest = self._wanted, self._newest
            if wanted is None or wanted == self._written:
                return
            if self._lock is None or not self._lock.is_ours():
                raise OSError(errno.ENOLCK, "the ledger's lock is not held", str(self.path))
            self._write(wanted)
            self._written, self._known = wanted, newest

    def _end(self) -> None:
        try:
            self.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the file to the next process."""
        with self._file:
            self._release()

    # ---- whose it is

    def _take_over(self) -> Saved | None:
        """Get the lock unless it is held, or nobody needs it; returns what another process has
        saved in between. Raises OSError or ValueError.
        """
        with self._file:
            if self._lock is not None and self._lock.is_ours():
                return None
            unchanged = self._wanted is None or self._wanted == self._written
            if unchanged and not self.path.parent.is_dir():
                return None
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._claim()
            except BlockingIOError:
                raise
            except OSError:
                if unchanged:
                    return None
                raise
            before = self._written
            found = self._read()
            return found if found.is_file and self._written != before else None

    def _claim(self) -> None:
        self._release()
        self._refuse_others()
        try:
            self._lock = FileLock(lock_of(self.path))
        except BlockingIOError:
            text = "another daemon saves its ledger in this file"
            raise BlockingIOError(errno.EAGAIN, text, str(self.path)) from None
        self._remove_leftovers()

    def _refuse_others(self) -> None:
        """What is no file is not ours to replace, such as /dev/null."""
        with contextlib.suppress(FileNotFoundError):
            mode = self.path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                raise OSError(errno.EINVAL, "is not a regular file", str(self.path))

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _remove_leftovers(self) -> None:
        """What a process left that was killed while it wrote."""
        atomic.remove_leftovers(self.path)

    # ---- reading and writing

    def _read(self) -> Saved:
        try:
            content = bounded.read(self.path, MOST_BYTES)
        except FileNotFoundError:
            self._written, self._known = {}, EMPTY
            return Saved()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.EFBIG:
                self._set_aside(str(error))
                return Saved()
            log.warning("the ledger cannot be read, starting without", extra={"reason": str(error)})
            return Saved()
        try:
            document = json.loads(content)
            ledger = from_document(document[_DEVICES])
            written_in = str(document.get("boot_id") or "")
            offset = document.get("clock_offset")
            offset = None if offset is None else to_time(offset)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            self._set_aside(repr(error))
            return Saved()
        self._written, self._known = to_document(ledger), ledger
        rebooted = bool(self._boot_id) and written_in not in {"", self._boot_id}
        same_boot = bool(self._boot_id) and written_in == self._boot_id
        return Saved(ledger, rebooted, offset if same_boot else None, is_file=True)

    def _set_aside(self, reason: str) -> None:
        aside = self.path.with_suffix(self.path.suffix + ".corrupt")
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self.path.replace(aside)
        log.warning(
            "the ledger is corrupt, starting without",
            extra={"reason": reason, "kept": str(aside if self._lock is not None else self.path)},
        )

    def _write(self, devices: dict[str, object]) -> None:
        document = {"boot_id": self._boot_id, "clock_offset": self._offset, _DEVICES: devices}
        content = json.dumps(document, indent=1).encode()
        if len(content) > MOST_BYTES:
            raise OSError(errno.EFBIG, f"would be larger than {MOST_BYTES} bytes", str(self.path))
        atomic.replace(self.path, content)


def boot_id(proc_root: Path) -> str:
    """Linux's name for this boot; empty where it cannot be told."""
    try:
        return (proc_root / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
