"""Follows a collection by list and watch."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Generic, TypeVar

from msgspec import Struct, field

from plugin.cluster import wire
from plugin.cluster.http import Answer
from plugin.cluster.session import Call, Session, concerns_all, json_of
from plugin.cluster.watch import Cursor, Parse, ended, expired, listed, observed, opened
from plugin.core.cluster import Collection
from plugin.errors import ClusterError, ClusterRefused, ClusterUnreachable
from plugin.loops.backoff import Backoff
from plugin.loops.pulse import Pulse

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Bounds of ``timeoutSeconds``, as client-go: the server then ends the watch, and nodes do not
#: return together.
WATCH_SECONDS = (300, 600)
#: Silence beyond ``timeoutSeconds`` after which the connection counts as dead.
SILENCE_SECONDS = 15.0
#: A watch that ends sooner is not opened again at once.
_WELL_SECONDS = 10.0
_FIRST_SECONDS, _CAP_SECONDS = 2.0, 120.0


class Source(Struct, Generic[T], frozen=True):
    """What to follow: a resource, filtered by fields. ``only_metadata`` leaves out spec and status.

    ``expected`` is the key of an object whose absence is worth a log line.
    """

    resource: str
    path: str
    fields: str
    parse: Parse[T]
    only_metadata: bool = False
    expected: str = ""

    def call(self, verb: str, **query: str) -> Call:
        kind = "PartialObjectMetadataList" if verb == "list" else "PartialObjectMetadata"
        accept = "application/json"
        if self.only_metadata:
            accept += f";as={kind};v=v1;g=meta.k8s.io"
        return Call(
            verb, self.resource, self.path, {"fieldSelector": self.fields, **query}, accept=accept
        )


class Reflector(Struct, Generic[T]):
    """Keeps a :class:`Collection` equal to the API server's, see
    :class:`plugin.cluster.api.Watched`.
    """

    session: Session
    source: Source[T]
    chance: random.Random = field(default_factory=random.Random)
    _cursor: Cursor[T] = field(default_factory=lambda: Cursor(Collection()))
    _changed: Pulse = field(default_factory=Pulse)
    _opened: float | None = None
    _missing: bool = False
    #: Why there is no watch though the API server answers, as a sentence; empty while it is open.
    problem: str = ""

    @property
    def now(self) -> Collection[T]:
        return self._cursor.collection

    async def newer_than(self, generation: int) -> Collection[T]:
        while self.now.generation <= generation:
            await self._changed.wait()
        return self.now

    async def run(self) -> None:
        """Attempts that fail are paced by the session; what ends after it was open, here."""
        pauses = Backoff(
            _FIRST_SECONDS, _CAP_SECONDS, well=_WELL_SECONDS, jitter=self.chance.random
        )
        loop = asyncio.get_running_loop()
        try:
            while True:
                error = await self._round()
                if self._opened is None:
                    continue
                lasted = loop.time() - self._opened
                if error is None and lasted >= _WELL_SECONDS:
                    pauses.reset()
                    continue
                pause = pauses.failed(lasted)
                # The version expired while nobody watched: the list can be asked for at once.
                if pauses.failures > 1 or not _expired(error):
                    await asyncio.sleep(pause)
        finally:
            self._set(ended(self._cursor))

    async def _round(self) -> ClusterError | None:
        """List if needed, and watch to the end; the error that ended it."""
        self._opened = None
        try:
            if not self._cursor.version:
                await self._list()
            await self._watch()
        except ClusterError as error:
            refused = error if isinstance(error, ClusterRefused) else None
            self._set(ended(self._cursor, refused))
            is_refused = refused is not None and not expired(refused) and not concerns_all(refused)
            if is_refused or error.persists:
                self.problem = str(error)
            return error
        self._set(ended(self._cursor))
        return None

    async def _list(self) -> None:
        items, version = await self.session.send(self.source.call("list"), self._items)
        self._set(listed(self._cursor, items, version))

    def _items(self, answer: Answer) -> tuple[dict[str, T], str]:
        document = json_of(answer)
        found = dict(map(self.source.parse, wire.items(document)))
        return found, wire.version_of(document)

    async def _watch(self) -> None:
        seconds = self.chance.randint(*WATCH_SECONDS)
        call = self.source.call(
            "watch",
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=self._cursor.version,
            timeoutSeconds=str(seconds),
        )
        async with self.session.lines(call, seconds + SILENCE_SECONDS) as lines:
            self._opened = asyncio.get_running_loop().time()
            self.problem = ""
            self._set(opened(self._cursor))
            try:
                async for line in lines:
                    self._set(observed(self._cursor, line, self.source.parse))
            except ClusterUnreachable as error:
                self.session.broken(call, error.cause)
                log.debug("watch broken", extra={"reason": error.what})
                raise

    def _set(self, cursor: Cursor[T]) -> None:
        changed = cursor.collection.generation != self._cursor.collection.generation
        self._cursor = cursor
        if changed:
            self._report_missing()
            self._changed.fire()

    def _report_missing(self) -> None:
        known, key = self.now, self.source.expected
        if not key or not known.synced:
            return
        missing = key not in known.items
        if missing and not self._missing:
            log.warning(
                "the cluster has no Node of this name",
                extra={
                    "node": key,
                    "fix": "set NODE_NAME to the Node's name (spec.nodeName)",
                },
            )
        self._missing = missing


def _expired(error: ClusterError | None) -> bool:
    return isinstance(error, ClusterRefused) and expired(error)
