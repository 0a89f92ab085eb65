"""What a watch sends, and what it does to a collection: pure steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from plugin.cluster import wire
from plugin.cluster.failures import InvalidAnswer, json_object, translated
from plugin.cluster.status import watch_error
from plugin.core.cluster import Collection
from plugin.errors import ClusterRefused

T = TypeVar("T")

Parse = Callable[[Mapping[str, Any]], tuple[str, T]]


class Cursor(Struct, Generic[T], frozen=True):
    """A collection and the version to watch from; without a version it must be listed."""

    collection: Collection[T]
    version: str = ""


def listed(cursor: Cursor[T], items: Mapping[str, T], version: str) -> Cursor[T]:
    """A list replaces everything: what it lacks was deleted while nobody watched."""
    known = cursor.collection
    if known.synced and dict(known.items) == dict(items):
        return Cursor(replace(known, items=MappingProxyType(dict(items))), version)
    return Cursor(_with(known, items), version)


def opened(cursor: Cursor[T]) -> Cursor[T]:
    """The watch from this version is open."""
    return _live(cursor, live=True)


def ended(cursor: Cursor[T], error: ClusterRefused | None = None) -> Cursor[T]:
    """The watch ended: it goes on from the last version, unless that has expired."""
    version = "" if error is not None and expired(error) else cursor.version
    return Cursor(_live(cursor, live=False).collection, version)


def expired(error: ClusterRefused) -> bool:
    """Whether the version is too old, as HTTP's status or within the stream."""
    return error.code == HTTPStatus.GONE or error.reason in {"Expired", "Gone"}


def observed(cursor: Cursor[T], line: bytes, parse: Parse[T]) -> Cursor[T]:
    """One line of the watch.

    Raises :class:`ClusterRefused` for an ERROR, :class:`ClusterUnreachable` for what is no event.
    An event of an unknown type is passed over: nothing is known about its version.
    """
    with translated("watch"):
        event = json_object(line)
        if not isinstance(event.get("object"), dict):
            raise InvalidAnswer("a line is no watch event")
    kind, document = event.get("type"), event["object"]
    if kind == "ERROR":
        raise watch_error("watch", document)
    with translated("watch"):
        return _changed(cursor, str(kind), document, parse)


def _changed(
    cursor: Cursor[T], kind: str, document: Mapping[str, Any], parse: Parse[T]
) -> Cursor[T]:
    if kind == "BOOKMARK":
        return replace(cursor, version=wire.version_of(document))
    if kind not in {"ADDED", "MODIFIED", "DELETED"}:
        return cursor
    version = wire.version_of(document)
    key, item = parse(document)
    known = cursor.collection
    items = dict(known.items)
    before = items.pop(key, None)
    if kind != "DELETED":
        items[key] = item
    if before == items.get(key):
        # Kept all the same: an equal Node may have a newer version.
        return Cursor(replace(known, items=MappingProxyType(items)), version)
    return Cursor(_with(known, items), version)


def _with(known: Collection[T], items: Mapping[str, T]) -> Collection[T]:
    return replace(
        known,
        items=MappingProxyType(dict(items)),
        generation=known.generation + 1,
        synced=True,
    )


def _live(cursor: Cursor[T], *, live: bool) -> Cursor[T]:
    known = cursor.collection
    if known.live == live:
        return cursor
    return replace(cursor, collection=replace(known, live=live, generation=known.generation + 1))
