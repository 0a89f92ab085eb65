"""The API: what each verb does to the stored objects."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from msgspec import Struct, field

from plugin.sim.apiserver import events, patches, selectors, validation
from plugin.sim.apiserver.eviction import Budget, evict
from plugin.sim.apiserver.faults import WatchFault
from plugin.sim.apiserver.ownership import Manager, Owners, applied, updated
from plugin.sim.apiserver.refusal import Refused, invalid
from plugin.sim.apiserver.requests import KINDS, Asked
from plugin.sim.apiserver.storage import Change, Follower, Storage, Stored

#: What ends a connection in the middle of an answer.
CUT = object()
#: What keeps it open for ever.
SILENCE = object()


class Api(Struct):
    """``bookmark_seconds`` apart come bookmarks. ``expired_as_status`` answers an expired version
    with HTTP 410 rather than within the stream.
    """

    storage: Storage = field(default_factory=Storage)
    budgets: list[Budget] = field(default_factory=list)
    bookmark_seconds: float = 60.0
    expired_as_status: bool = False
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311

    def answer(self, asked: Asked) -> tuple[int, Any]:
        """Status and JSON of everything but a watch. Raises :class:`Refused`."""
        match asked.what.verb:
            case "get":
                return 200, _shown(self._existing(asked), asked)
            case "list":
                return 200, self._list(asked)
            case "create" if asked.what.resource == "pods/eviction":
                what = asked.what
                body = asked.document()
                evict(self.storage, self.budgets, what.namespace, what.name, body)
                return 201, {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "metadata": {},
                    "status": "Success",
                    "code": 201,
                }
            case "create":
                return 201, _shown(self._create_event(asked), asked)
            case "delete":
                self._existing(asked)
                last = self.storage.remove("pods", asked.what.namespace, asked.what.name)
                assert last is not None  # noqa: S101 — it was there a line ago
                return 200, _shown(last, asked)
            case _:
                return self._patch(asked)

    # ---- reading

    def _existing(self, asked: Asked) -> Stored:
        what = asked.what
        found = self.storage.get(asked.resource, what.namespace, what.name)
        if found is None:
            raise Refused(404, f'{asked.resource} "{what.name}" not found')
        return found

    def _list(self, asked: Asked) -> dict[str, Any]:
        partial = asked.only_metadata
        selector = selectors.parse(asked.resource, asked.query.get("fieldSelector", ""))
        items = [
            _shown(stored, asked)
            for stored in self.storage.select(asked.resource, asked.what.namespace, selector)
        ]
        if not partial:  # items of a typed list name no kind
            items = [
                {k: v for k, v in item.items() if k not in {"kind", "apiVersion"}} for item in items
            ]
        kind = "PartialObjectMetadata" if partial else KINDS[asked.resource]
        return {
            "kind": f"{kind}List",
            "apiVersion": "meta.k8s.io/v1" if partial else asked.api,
            "metadata": {"resourceVersion": str(self.storage.version)},
            "items": items,
        }

    async def watch(self, asked: Asked) -> AsyncGenerator[bytes | object, None]:
        """Lines; a last item :data:`CUT` or :data:`SILENCE` is a fault."""
        selector = selectors.parse(asked.resource, asked.query.get("fieldSelector", ""))
        follower = Follower(asked.resource, asked.what.namespace, selector)
        self.storage.follow(follower)
        loop = asyncio.get_running_loop()
        seconds = float(asked.query.get("timeoutSeconds") or self.chance.uniform(1800, 3600))
        end = loop.time() + seconds
        bookmarks = asked.query.get("allowWatchBookmarks") in {"true", "1"}
        try:
            lines = self._beginning(asked, selector)
            # A version from the future is not shown before it comes.
            seen = max(self.storage.version, int(asked.query.get("resourceVersion") or 0))
            for line in lines:
                yield line
            while (left := end - loop.time()) > 0:
                pause = min(left, self.bookmark_seconds) if bookmarks else left
                try:
                    async with asyncio.timeout(pause):
                        item = await follower.queue.get()
                except TimeoutError:
                    if bookmarks:
                        yield self._bookmark(asked)
                    continue
                if isinstance(item, WatchFault):
                    for part in _FAULTY[item]:
                        yield part
                    return
                at = item.last.document["metadata"].get("namespace", "")
                if item.version > seen and asked.what.namespace in {"", at}:
                    yield _event(item, asked, selector)
        except Refused as refused:
            yield _line("ERROR", refused.status)
        finally:
            self.storage.unfollow(follower)

    def check_watch(self, asked: Asked) -> None:
        """What is refused before the stream begins."""
        selectors.parse(asked.resource, asked.query.get("fieldSelector", ""))
        _ = asked.only_metadata
        version = asked.query.get("resourceVersion", "")
        if version and not version.isdigit():
            raise Refused(400, f'Invalid value: "{version}": strconv.ParseUint: invalid syntax')
        if self.expired_as_status and int(version or 0) > 0:
            self.storage.since(int(version), asked.resource, ())

    def _beginning(self, asked: Asked, selector: selectors.Selector) -> list[bytes]:
        version = int(asked.query.get("resourceVersion") or 0)
        if version == 0:
            found = self.storage.select(asked.resource, asked.what.namespace, selector)
            return [_line("ADDED", _shown(stored, asked)) for stored in found]
        return [
            _event(change, asked, selector)
            for change in self.storage.since(version, asked.resource, selector)
        ]

    def _bookmark(self, asked: Asked) -> bytes:
        version = {"metadata": {"resourceVersion": str(self.storage.version)}}
        if asked.only_metadata:
            kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        else:
            kind = {"kind": KINDS[asked.resource], "apiVersion": asked.api}
        return _line("BOOKMARK", kind | version)

    # ---- writing

    def _create_event(self, asked: Asked) -> Stored:
        body = asked.document()
        if not isinstance(body, dict) or body.get("kind", "Event") != "Event":
            raise Refused(400, "the object provided is unrecognized (must be of type Event)")
        if body.get("apiVersion", asked.api) != asked.api:
            raise Refused(400, "the API version in the data does not match the expected version")
        namespace = asked.what.namespace
        metadata = {"namespace": namespace, **(body.get("metadata") or {})}
        if metadata["namespace"] != namespace:
            raise Refused(400, "the namespace of the provided object does not match the request")
        event = events.stored({**body, "metadata": metadata, "kind": "Event"}, asked.api)
        events.check_created(event, asked.api, namespace)
        if self.storage.get("events", namespace, metadata["name"]) is not None:
            name = metadata["name"]
            raise Refused(409, f'events "{name}" already exists', reason="AlreadyExists")
        return self.storage.put("events", event, updated({}, {}, event, _manager(asked, "Update")))

    def _patch(self, asked: Asked) -> tuple[int, Any]:
        kind = asked.content_type
        if kind not in patches.KINDS:
            raise Refused(
                415,
                "the body of the request was in an unknown format - accepted media types include: "
                + ", ".join(patches.KINDS),
            )
        if kind == patches.APPLY:
            return self._apply(asked)
        before = self._existing(asked)
        # What the client's API shows is what it patches.
        old = _in_api(before.document, asked)
        patch = asked.document()
        if kind == patches.JSON_PATCH:
            new = patches.json_patch(old, patch)
        elif not isinstance(patch, dict):
            raise Refused(
                400, "json: cannot unmarshal into Go value of type map[string]interface {}"
            )
        else:
            new = (
                patches.merge(old, patch)
                if kind == patches.MERGE
                else patches.strategic(old, patch)
            )
        return 200, _shown(self._write(asked, before, new), asked)

    def _write(self, asked: Asked, before: Stored, new: dict[str, Any]) -> Stored:
        new = self._checked(asked, before, new)
        owners = updated(before.owners, before.document, new, _manager(asked, "Update"))
        return self.storage.put(asked.resource, new, owners)

    def _checked(self, asked: Asked, before: Stored, new: dict[str, Any]) -> dict[str, Any]:
        """`new` in its stored form, without what this resource ignores."""
        name = asked.what.name
        what = f'{KINDS[asked.resource]} "{name}"'
        old_metadata, metadata = before.document["metadata"], dict(new.get("metadata") or {})
        metadata.pop("managedFields", None)
        version = metadata.get("resourceVersion") or old_metadata["resourceVersion"]
        if not isinstance(version, str):
            raise Refused(400, "json: cannot unmarshal ObjectMeta.metadata.resourceVersion")
        if version != old_metadata["resourceVersion"]:
            raise Refused(
                409,
                f'Operation cannot be fulfilled on {asked.resource} "{name}": the object has been '
                "modified; please apply your changes to the latest version and try again",
            )
        if metadata.get("uid", old_metadata["uid"]) != old_metadata["uid"]:
            raise Refused(409, f'Operation cannot be fulfilled on {asked.resource} "{name}": UID')
        if metadata.get("name") != old_metadata["name"]:
            raise invalid(what, "metadata.name", "Invalid value: field is immutable")
        for key in ("labels", "annotations"):
            if key in metadata and not metadata[key]:
                del metadata[key]
        new = {**new, "metadata": metadata | {k: old_metadata[k] for k in _SYSTEM}}
        if asked.resource == "events":
            new = events.stored(new, asked.api)
            validation.check_metadata(what, metadata)
            events.check_updated(before.document, new, asked.api)
            return new
        # The main resource ignores the status; the subresource all but it and metadata.
        kept = "spec" if asked.subresource == "status" else "status"
        new = {key: value for key, value in new.items() if key != kept}
        if kept in before.document:
            new[kept] = before.document[kept]
        validation.check_node(name, new)
        return new

    def _apply(self, asked: Asked) -> tuple[int, Any]:
        if not asked.query.get("fieldManager"):
            raise invalid("PatchOptions.meta.k8s.io", "fieldManager", "Required value")
        body, name = asked.document(), asked.what.name
        if not isinstance(body, dict) or not body.get("apiVersion") or not body.get("kind"):
            raise Refused(400, "invalid object type: Object 'Kind' is missing")
        if (body.get("metadata") or {}).get("name") != name:
            raise Refused(
                400, f"the name of the object does not match the name on the URL ({name})"
            )
        manager = _manager(asked, "Apply")
        force = asked.query.get("force") in {"true", "1"}
        before = self.storage.get(asked.resource, asked.what.namespace, name)
        if before is None:
            return self._apply_new(asked, body, manager)
        document, owners = applied(before.owners, before.document, body, manager, force=force)
        if wanted := body["metadata"].keys() & {"uid", "resourceVersion"}:
            metadata = document["metadata"] | {key: body["metadata"][key] for key in wanted}
            document = {**document, "metadata": metadata}
        new = self._checked(asked, before, document)
        return 200, _shown(self.storage.put(asked.resource, new, owners), asked)

    def _apply_new(self, asked: Asked, body: dict[str, Any], manager: Manager) -> tuple[int, Any]:
        name = asked.what.name
        if asked.resource != "nodes" or asked.subresource:
            raise Refused(404, f'{asked.resource} "{name}" not found')
        if "uid" in body["metadata"]:
            raise Refused(409, f'Operation cannot be fulfilled on nodes "{name}": uid mismatch')
        empty: Owners = {}
        document, owners = applied(empty, {}, body, manager, force=False)
        document = {
            **body,
            **document,
            "metadata": {**body["metadata"], **document.get("metadata", {})},
        }
        validation.check_node(name, document)
        return 201, _shown(self.storage.put("nodes", document, owners), asked)


_SYSTEM = ("name", "uid", "creationTimestamp", "resourceVersion")


def _manager(asked: Asked, operation: str) -> Manager:
    """From the query, else the first word of User-Agent."""
    agent = asked.headers.get("user-agent", "unknown").partition("/")[0]
    return Manager(asked.query.get("fieldManager") or agent, operation, asked.subresource)


def _in_api(document: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    return events.shown(document, asked.api) if asked.resource == "events" else dict(document)


def _shown(stored: Stored, asked: Asked) -> dict[str, Any]:
    document = _in_api(stored.shown(), asked)
    if not asked.only_metadata:
        return document
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": document["metadata"],
    }


def _event(change: Change, asked: Asked, selector: selectors.Selector) -> bytes:
    return _line(str(change.seen_by(selector)), _shown(change.last, asked))


def _line(kind: str, document: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": document}, separators=(",", ":")).encode() + b"\n"


#: What a fault sends before the watch ends.
_FAULTY: Mapping[WatchFault, tuple[bytes | object, ...]] = {
    WatchFault.END: (),
    WatchFault.CUT_IN_LINE: (b'{"type":"MODIFIED","object":{"metad', CUT),
    WatchFault.END_IN_LINE: (b'{"type":"MODIFIED","object":{"metad',),
    WatchFault.EXPIRED: (_line("ERROR", Refused(410, "too old resource version").status),),
    WatchFault.ERROR: (_line("ERROR", Refused(500, "etcdserver: leader changed").status),),
    WatchFault.GARBAGE: (b"<html>\n",),
    WatchFault.LONG_LINE: (b'{"type":"' + b"x" * (5 * 2**20), SILENCE),
    WatchFault.SILENT: (SILENCE,),
}
