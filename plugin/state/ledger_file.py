"""The ledger on disk: written whole and at once, so that a verdict outlives a restart and a
kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from plugin.core.health.ledger import EMPTY, Ledger, from_document, to_document, to_time
from plugin.loops.pulse import Pulse

log = logging.getLogger(__name__)

#: A disk that failed may have room again later, without anything new to write.
RETRY_SECONDS = 30.0

#: The key holds the version: a file of another one has no such key.
_DEVICES = "devices/v1"
#: How long a command waits for its effect to be on disk.
SAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Saved:
    """What was found on disk; ``rebooted`` tells that it was written before the node's last
    start. ``offset`` is that of the timeline of its times, if it was written after that.
    """

    ledger: Ledger = field(default_factory=lambda: EMPTY)
    rebooted: bool = False
    offset: float | None = None


class LedgerFile:
    """Loads once, then saves whatever is newest. A file that cannot be used costs its contents and
    nothing else.
    """

    def __init__(self, path: Path, boot_id: str = "") -> None:
        self._path = path
        self._boot_id = boot_id
        self._wanted: dict[str, object] | None = None
        self._written: dict[str, object] | None = None
        self._offset = 0.0
        self._changed = asyncio.Event()
        self._attempted = Pulse()
        self._writing = False
        self._problem: str | None = None
        self._file = threading.Lock()

    def load(self) -> Saved:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return Saved()
        except OSError as error:
            log.warning("the ledger cannot be read, starting without", extra={"reason": str(error)})
            return Saved()
        try:
            document = json.loads(content)
            ledger = from_document(document[_DEVICES])
            written_in = str(document.get("boot_id") or "")
            offset = document.get("clock_offset")
            if offset is not None:
                offset = to_time(offset)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            aside = self._path.with_suffix(self._path.suffix + ".corrupt")
            with contextlib.suppress(OSError):
                self._path.replace(aside)
            log.warning(
                "the ledger is corrupt, starting without",
                extra={"reason": repr(error), "kept": str(aside)},
            )
            return Saved()
        self._written = to_document(ledger)
        rebooted = bool(self._boot_id) and written_in not in {"", self._boot_id}
        same_boot = bool(self._boot_id) and written_in == self._boot_id
        return Saved(ledger, rebooted, offset if same_boot else None)

    def save(self, ledger: Ledger, offset: float) -> None:
        """Have :meth:`run` write it; nothing is written when nothing worth keeping has changed.
        `offset` is that of the timeline of its times.
        """
        self._wanted, self._offset = to_document(ledger), offset
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled, and once more then if needed. A disk that fails is complained of
        once.
        """
        complained = False
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS if self._problem else None):
                        await self._changed.wait()
                self._changed.clear()
                self._writing, self._problem = True, None
                try:
                    await asyncio.to_thread(self.flush)
                    complained = False
                except OSError as error:
                    self._problem = str(error)
                    if not complained:
                        log.warning(
                            "the ledger cannot be saved; verdicts will not outlive a restart",
                            extra={"reason": str(error)},
                        )
                    complained = True
                self._writing = False
                self._attempted.fire()
        finally:
            with contextlib.suppress(OSError):
                self.flush()

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
        """Write the newest now, atomically. Raises OSError."""
        with self._file:  # a write in its thread may still be going on when the last one is wanted
            self._flush()

    def _flush(self) -> None:
        wanted = self._wanted
        if wanted is None or wanted == (self._written or {}):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        document = {"boot_id": self._boot_id, "clock_offset": self._offset, _DEVICES: wanted}
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with new.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        self._written = wanted


def boot_id(proc_root: Path) -> str:
    """Linux's name for this boot; empty where it cannot be told."""
    try:
        return (proc_root / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
