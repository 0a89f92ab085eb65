"""Brings the newest configuration into force; one that cannot be leaves the old one as it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from plugin.config import reload
from plugin.config.load import Loaded, Source
from plugin.core.configuration import Configuration
from plugin.errors import ConfigError, ConfigUnreadable
from plugin.following.kept_file import KeptFile
from plugin.following.label_file import LabelFile
from plugin.following.start import LABEL_FILE, Start
from plugin.following.watch import SETTLE_SECONDS, FileWatch
from plugin.loops.aside import Aside
from plugin.loops.backoff import Backoff
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

#: Reads the configuration, given the value of the node's label.
Read = Callable[[str], Loaded]

#: Between two attempts to read what could not be read, which may change without a trace.
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
#: For a file that keeps something for the next start.
SAVE_SECONDS = 10.0


class Follower:
    """Used from the event loop only."""

    def __init__(
        self,
        writer: Writer,
        read: Read,
        start: Start,
        ledger: Path,
        kept: KeptFile | None = None,
        *,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        """`start` is in force already. `kept` keeps the last good configuration. `settle` is how
        long its files must not have changed.
        """
        self._writer = writer
        self._reader = reload.Reader(read)
        self._loaded = start.loaded
        self._label = start.label
        self._labels = LabelFile(ledger.with_name(LABEL_FILE))
        self._kept = kept
        self._last_kept: Source | None = None
        self._saver = Aside("kept configuration", SAVE_SECONDS)
        self._complaint = ""
        self._asked = asyncio.Event()
        self._by_signal = False
        self._backoff = Backoff(FIRST_SECONDS, LONGEST_SECONDS, well=math.inf)
        settings = start.loaded.settings
        path = settings.config_dir or settings.config_file
        self._watch = FileWatch(Path(path), self._asked.set, settle=settle) if path else None

    def reread(self) -> None:
        """Read the configuration again, whether its file has changed or not."""
        self._by_signal = True
        self._asked.set()

    def choose(self, label: str) -> None:
        """The value of the node's label is this now; empty: it has none."""
        if label != self._label:
            self._label = label
            self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._watch is not None:
                tasks.create_task(self._watch.run(), name="configuration watch")
            pause: float | None = None
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._asked.wait()
                self._asked.clear()
                pause = self._backoff.failed() if await self._follow() else None

    async def _follow(self) -> bool:
        """Read and apply what is there now; tells whether to try again."""
        label, self._by_signal, by_signal = self._label, False, self._by_signal
        try:
            loaded = await self._reader.read(label)
        except ConfigError as error:
            self._refuse(str(error), by_signal=by_signal)
            return isinstance(error, ConfigUnreadable)
        except Exception as error:
            log.exception("configuration not taken, the old one stays")
            self._refuse(repr(error), by_signal=False)
            return False
        self._backoff.reset()
        if by_signal or loaded != self._loaded or self._status.problem:
            await self._apply(loaded, by_signal=by_signal)
        await self._keep(loaded, label)
        return False

    async def _apply(self, loaded: Loaded, *, by_signal: bool) -> None:
        for warning in loaded.warnings:
            if by_signal or warning not in self._loaded.warnings:
                log.warning("configuration with a warning", extra={"reason": warning})
        status = self._status
        settings, waiting = reload.take(self._writer.store.snapshot.settings, loaded.settings)
        for change in waiting:
            if change not in status.waiting:
                log.warning(
                    "option changed, which takes effect after a restart",
                    extra={**change._asdict(), "fix": "restart the daemon, or undo the change"},
                )
        log.info(
            "configuration read again", extra={"configuration": loaded.name} if loaded.name else {}
        )
        self._loaded = loaded
        status = replace(
            status, name=loaded.name, problem="", waiting=waiting, taken=status.taken + 1
        )
        await self._writer.apply(settings, status)
        self._writer.rescan()

    def _refuse(self, problem: str, *, by_signal: bool) -> None:
        """One line for each problem, however often it is seen."""
        status = self._status
        if problem == status.problem and not by_signal:
            return
        log.error("configuration not taken, the old one stays", extra={"reason": problem})
        self._writer.note_configuration(
            replace(status, problem=problem, refused=status.refused + 1)
        )

    async def _keep(self, loaded: Loaded, label: str) -> None:
        """For the next start."""
        kept, source = self._kept, loaded.source
        if kept is not None and source is not None and source != self._last_kept:
            try:
                await self._saver.call(lambda: kept.write(source))
            except OSError as error:
                self._complain(str(error))
            else:
                self._last_kept = source
                self._complaint = ""
        if not loaded.settings.is_labelled:
            return
        try:
            await self._saver.call(lambda: self._labels.write(label))
        except OSError as error:
            log.warning(
                "the value of the node's label cannot be kept for the next start",
                extra={"reason": str(error)},
            )

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning(
                "the configuration cannot be kept for the next start",
                extra={
                    "reason": complaint,
                    "fix": "have --ledger-file in a directory that can be written",
                },
            )
        self._complaint = complaint

    @property
    def _status(self) -> Configuration:
        return self._writer.store.snapshot.configuration
