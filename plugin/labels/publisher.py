"""Keeps the features file as the newest snapshot has it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from pathlib import Path

from plugin.core.labels.node import labels
from plugin.core.labels.settling import settled
from plugin.core.state import Snapshot
from plugin.labels.features_file import FeaturesFile, Record
from plugin.loops.aside import Aside
from plugin.loops.backoff import Backoff
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.store import Store

log = logging.getLogger(__name__)

#: How often to look whether the file is as it was written.
CHECK_SECONDS = 60.0
#: Between two attempts while it cannot be written.
FIRST_SECONDS, LONGEST_SECONDS = 0.5, 60.0
#: For one look at the files and one replacement.
LONGEST_CALL_SECONDS = 10.0


class FeaturesPublisher:
    """Writes the file when the labels are different, or somebody else has changed it. A folder that
    is missing, read-only or full costs a line of the log.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        record: Path,
        heartbeats: Heartbeats,
        *,
        check_seconds: float = CHECK_SECONDS,
        aside: Aside | None = None,
    ) -> None:
        """Without a `path`, the file that `record` names is removed, and that is all. `aside` makes
        the calls of the file system.
        """
        self._aside = aside or Aside("features file", LONGEST_CALL_SECONDS)
        self._store = store
        self._file = FeaturesFile(Path(path)) if path else None
        self._record_path = record
        self._record = Record(record)
        self._heartbeats = heartbeats
        self._check_seconds = check_seconds
        self._backoff = Backoff(FIRST_SECONDS, LONGEST_SECONDS, well=0.0)
        #: Why a file is not as it should be, as a sentence; empty when all is well.
        self.problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            snapshot = self._store.snapshot
            self._heartbeats.beat("features", self._check_seconds)
            try:
                problem = await self._aside.call(functools.partial(self._problem_of, snapshot))
            except TimeoutError as error:
                problem = f"a file system does not answer: {error}"
            self._report(problem)
            if self.problem:
                seconds = self._backoff.failed()
                self._heartbeats.beat("features", seconds)
                await asyncio.sleep(seconds)
                continue
            self._backoff.reset()
            if self._file is None:
                self._heartbeats.done("features")
                await asyncio.Event().wait()  # nothing is left to do
            self._heartbeats.beat("features", self._check_seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._check_seconds):
                    await self._changed_since(snapshot)

    async def _changed_since(self, before: Snapshot) -> None:
        """Wait until the labels may be different: health is not among what they tell."""
        now = before
        while now.inventory is before.inventory and now.settings is before.settings:
            now = await self._store.newer_than(now.generation)

    # ---- in a thread

    def _problem_of(self, snapshot: Snapshot) -> str:
        """Do what is to be done; returns why that failed."""
        try:
            former = self._record.read()
        except OSError as error:
            return f"where a former configuration wrote its features file is not known: {error}"
        wanted = self._file is not None and former is not None and former.path == self._file.path
        if former is not None and not wanted:
            try:
                self._forget(former)
            except OSError as error:
                return (
                    f"the features file of a former configuration cannot be removed: {error}; "
                    f"delete {former.path} on the node, then {self._record_path}"
                )
        if self._file is None:
            return ""
        try:
            self._write(self._file, snapshot)
        except OSError as error:
            return f"the features file cannot be written: {error}; see --features-file"
        return ""

    def _forget(self, former: FeaturesFile) -> None:
        if former.remove():
            log.info("a former features file is removed", extra={"file": str(former.path)})
        self._record.write(None)

    def _write(self, file: FeaturesFile, snapshot: Snapshot) -> None:
        found = labels(snapshot)
        if found is None:
            return
        values = settled(found, file.read(), snapshot.geometry)
        self._record.write(file)
        if file.write(values):
            log.info(
                "features file written",
                extra={
                    "generation": snapshot.generation,
                    "file": str(file.path),
                    "labels": len(values),
                },
            )

    # ---- telling

    def _report(self, problem: str) -> None:
        """A state has a line when it begins and one when it ends; retries repeat neither."""
        if problem and not self.problem:
            log.warning("the features file is not up to date, retrying", extra={"reason": problem})
        elif self.problem and not problem:
            log.info("the features file is up to date again")
        self.problem = problem
