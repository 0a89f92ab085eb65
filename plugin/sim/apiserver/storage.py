"""Objects with versions, their history, and whoever follows it.

A stored document is never changed, only replaced: copies share what is equal.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from plugin.sim.apiserver.ownership import Owners, managed_fields
from plugin.sim.apiserver.refusal import Refused
from plugin.sim.apiserver.selectors import Selector, matches, value_of

Json = dict[str, Any]

#: Selectors by which followers are found without asking each.
_INDEXED = ("metadata.name", "spec.nodeName")


class Stored(Struct, frozen=True):
    """``document`` has every field but managedFields."""

    document: Json
    owners: Owners
    time: str

    def shown(self) -> Json:
        """As clients see it."""
        fields = managed_fields(self.owners, self.document["apiVersion"], self.time)
        metadata = self.document["metadata"] | ({"managedFields": fields} if fields else {})
        return self.document | {"metadata": metadata}

    @property
    def version(self) -> int:
        return int(self.document["metadata"]["resourceVersion"])


class Change(Struct, frozen=True):
    """``after`` is ``None`` for a deletion; ``last`` then has the deletion's version."""

    version: int
    resource: str
    before: Stored | None
    after: Stored | None
    last: Stored

    def seen_by(self, selector: Selector) -> str | None:
        """The type of the watch event; ``None`` if the selector shows nothing of it."""
        was = self.before is not None and matches(selector, self.before.document)
        is_now = self.after is not None and matches(selector, self.after.document)
        if was and is_now:
            return "MODIFIED"
        if is_now:
            return "ADDED"
        return "DELETED" if was else None


class Follower:
    """Receives the changes that its selector may show, and faults, in order."""

    def __init__(self, resource: str, namespace: str, selector: Selector) -> None:
        self.resource, self.namespace, self.selector = resource, namespace, selector
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    @property
    def index(self) -> tuple[str, str, str]:
        for name, equal, value in self.selector:
            if equal and name in _INDEXED:
                return self.resource, name, value
        return self.resource, "", ""


class Storage(Struct):
    """``history`` is how many changes can be watched anew."""

    history: int = 100_000
    wall_clock: Callable[[], float] = time.time
    version: int = 1000
    oldest: int = 1000
    _objects: dict[str, dict[tuple[str, str], Stored]] = field(default_factory=dict)
    _changes: deque[Change] = field(default_factory=deque)
    _followers: dict[tuple[str, str, str], dict[Follower, None]] = field(default_factory=dict)

    def get(self, resource: str, namespace: str, name: str) -> Stored | None:
        return self._objects.get(resource, {}).get((namespace, name))

    def select(self, resource: str, namespace: str, selector: Selector) -> Iterator[Stored]:
        """In order of name; all namespaces without one."""
        named = [value for key, equal, value in selector if key == "metadata.name" and equal]
        objects = self._objects.get(resource, {})
        if named and resource == "nodes":
            found = [objects[key] for key in [("", named[0])] if key in objects]
        else:
            found = [objects[key] for key in sorted(objects)]
        for stored in found:
            at = stored.document["metadata"].get("namespace", "")
            if (not namespace or at == namespace) and matches(selector, stored.document):
                yield stored

    def put(
        self, resource: str, document: Mapping[str, Any], owners: Owners | None = None
    ) -> Stored:
        """Create or replace; one that is equal changes nothing."""
        metadata = dict(document["metadata"])
        metadata.pop("managedFields", None)
        key = metadata.get("namespace", ""), metadata["name"]
        before = self._objects.setdefault(resource, {}).get(key)
        owners = (before.owners if before else {}) if owners is None else owners
        if before is not None:
            metadata["resourceVersion"] = before.document["metadata"]["resourceVersion"]
            candidate = {**document, "metadata": metadata}
            if candidate == before.document and owners == before.owners:
                return before
        self.version += 1
        now = self.now()
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", now)
        metadata["resourceVersion"] = str(self.version)
        after = Stored({**document, "metadata": metadata}, owners, now)
        self._objects[resource][key] = after
        self._record(Change(self.version, resource, before, after, after))
        return after

    def remove(self, resource: str, namespace: str, name: str) -> Stored | None:
        before = self._objects.get(resource, {}).pop((namespace, name), None)
        if before is None:
            return None
        self.version += 1
        metadata = before.document["metadata"] | {"resourceVersion": str(self.version)}
        last = Stored({**before.document, "metadata": metadata}, before.owners, before.time)
        self._record(Change(self.version, resource, before, None, last))
        return last

    def since(self, version: int, resource: str, selector: Selector) -> list[Change]:
        """410 if the version is older than the history."""
        if version < self.oldest:
            raise expired(version, self.oldest)
        newer = []
        for change in reversed(self._changes):
            if change.version <= version:
                break
            if change.resource == resource and change.seen_by(selector):
                newer.append(change)
        return newer[::-1]

    def expire(self) -> None:
        """Forget the history, as etcd's compaction does."""
        self._changes.clear()
        self.version += 1
        self.oldest = self.version

    def follow(self, follower: Follower) -> None:
        self._followers.setdefault(follower.index, {})[follower] = None

    def unfollow(self, follower: Follower) -> None:
        followers = self._followers.get(follower.index, {})
        followers.pop(follower, None)
        if not followers:
            self._followers.pop(follower.index, None)

    def followers(self) -> list[Follower]:
        return [follower for each in self._followers.values() for follower in each]

    def now(self) -> str:
        """``metav1.Time`` of this moment."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.wall_clock()))

    def _record(self, change: Change) -> None:
        self._changes.append(change)
        while len(self._changes) > self.history:
            self.oldest = self._changes.popleft().version
        keys = {(change.resource, "", "")}
        for stored in filter(None, (change.before, change.after)):
            for name in _INDEXED:
                keys.add((change.resource, name, value_of(stored.document, name)))
        for key in keys:
            for follower in self._followers.get(key, ()):
                if change.seen_by(follower.selector):
                    follower.queue.put_nowait(change)


def expired(version: int, oldest: int) -> Refused:
    return Refused(410, f"too old resource version: {version} ({oldest})")
