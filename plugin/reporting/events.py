"""Sends Events about the Node and about pods that hold devices concerned."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from plugin.cluster.api import Cluster, Watched
from plugin.core.cluster import Event, EventType, NodeMetadata, Subject
from plugin.core.holders import Holders
from plugin.core.notices import Notice, notices
from plugin.core.series import Key, Outbox, Post, failed, noted, spared, taken
from plugin.core.state import Snapshot, initial
from plugin.errors import ClusterError
from plugin.loops.store import Store
from plugin.reporting.standing import Standing, node_of

#: How long a refused Event is reported. It is not tried again, and on a healthy node no other may
#: follow; Kubernetes would have kept it for so long.
REFUSED_SECONDS = 3600.0
#: Of an Event's name before its own part: the API allows 253 characters in all.
_MOST_NAME = 220
#: Events whose names are remembered for their series.
_MOST_REMEMBERED = 1000


class EventSender:
    """Notes what changes from snapshot to snapshot, and sends it as fast as the outbox allows. What
    cannot be sent waits, and the newest of each topic counts.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        nodes: Watched[NodeMetadata],
        first: Snapshot,
        holders: Callable[[], Holders],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster, self._store, self._nodes = cluster, store, nodes
        # The state at the start is news, but for faults that an earlier process has reported.
        self._first: Snapshot | None = first
        self._reported = replace(initial(first.settings, 0.0).snapshot, ledger=first.ledger)
        self._holders = holders
        self._wall_clock = wall_clock
        self.standing = Standing("Events", REFUSED_SECONDS)
        self._outbox = Outbox()
        self._noted = asyncio.Event()
        #: Namespaces to which Events are on their way.
        self._busy: set[str] = set()
        self._sent: dict[Key, Event] = {}
        self.sent = self.dropped = 0

    async def run(self) -> None:
        """Until cancelled."""
        first, self._first = self._first, None
        if first is not None:
            self._take(first)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._note(), name="notices")
            tasks.create_task(self._send(), name="events")

    async def _note(self) -> None:
        async for snapshot in self._store.follow():
            self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        before, self._reported = self._reported, snapshot
        self.note(notices(before, snapshot, self._holders()))

    def note(self, found: Sequence[Notice]) -> None:
        """Take what others have found, too."""
        if found:
            self._outbox = noted(self._outbox, found, _now())
            self._noted.set()

    async def _send(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            await self._send_by(tasks)

    async def _send_by(self, tasks: asyncio.TaskGroup) -> None:
        """One task for each namespace: one that takes no Events holds up no other."""
        while True:
            await self._cluster.may_ask()
            known = self._nodes.now
            node = node_of(known)
            if node is None:
                await self._nodes.newer_than(known.generation)
                continue
            self._noted.clear()
            now = _now()
            result = taken(self._outbox, now, self._busy)
            self._outbox = result.outbox
            for namespace in dict.fromkeys(post.namespace for post in result.posts):
                posts = [post for post in result.posts if post.namespace == namespace]
                self._busy.add(namespace)
                tasks.create_task(self._deliver_all(node, namespace, posts))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(result.look_again):
                    await self._noted.wait()

    async def _deliver_all(self, node: NodeMetadata, namespace: str, posts: Sequence[Post]) -> None:
        left = deque(posts)
        try:
            while left:
                post = left[0]
                with self.standing.attempt(namespace) as attempt:
                    try:
                        await self._deliver(node, post)
                    except ClusterError:
                        raise
                    except Exception:
                        left.popleft()  # it would be a mistake again
                        raise
                if attempt.failed and not attempt.refused:
                    return
                left.popleft()
                if attempt.refused:
                    self.dropped += 1  # it would be refused again
                    self._outbox = spared(self._outbox)
        finally:
            for post in left:  # the others would fail likewise, each after a pause
                self._outbox = failed(self._outbox, post)
            self._busy.discard(namespace)
            self._noted.set()

    async def _deliver(self, node: NodeMetadata, post: Post) -> None:
        known = self._sent.get(post.key)
        if (
            known is not None
            and not post.is_new
            and await self._cluster.repeat_event(known, max(2, post.count), self._wall(post.last))
        ):
            self._count(post)
            return
        subject = await self._subject(node, post)
        if subject is None:
            return  # the pod is gone
        event = self._event(subject, post)
        await self._cluster.create_event(event)
        self._remember(post.key, event)
        self._count(post)
        if post.count > 1:
            await self._cluster.repeat_event(event, post.count, self._wall(post.last))

    def _count(self, post: Post) -> None:
        self.sent += 1
        self.dropped += post.before.left_out

    async def _subject(self, node: NodeMetadata, post: Post) -> Subject | None:
        if post.notice.pod is None:
            return Subject.of_node(node)
        pod = await self._cluster.find_pod(*post.notice.pod)
        return Subject.of_pod(pod) if pod is not None else None

    def _event(self, subject: Subject, post: Post) -> Event:
        # The same for each attempt, so that one whose answer was lost is not made twice.
        moment = round((post.first if post.is_new else post.last) * 1e6)
        cause = zlib.crc32(f"{self._cluster.node}/{post.notice.cause}".encode())
        at = self._wall(post.first)
        return Event(
            f"{subject.name[:_MOST_NAME].rstrip('.-')}.{moment:x}-{cause:08x}",
            subject,
            EventType(post.notice.kind.value),
            post.notice.reason,
            post.notice.action,
            post.notice.message,
            at,
        )

    def _remember(self, key: Key, event: Event) -> None:
        if len(self._sent) >= _MOST_REMEMBERED:
            self._sent.pop(next(iter(self._sent)))
        self._sent[key] = event

    def _wall(self, moment: float) -> float:
        """A moment of the event loop's clock, on the wall clock."""
        return self._wall_clock() - (_now() - moment)


def _now() -> float:
    return asyncio.get_running_loop().time()
