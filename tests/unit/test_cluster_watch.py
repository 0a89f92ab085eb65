"""The steps of a watch, and any history against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.cluster.failures import Cause
from plugin.cluster.watch import Cursor, ended, listed, observed, opened
from plugin.core.cluster import Collection
from plugin.errors import ClusterRefused, ClusterUnreachable


def parse(document: Mapping[str, Any]) -> tuple[str, int]:
    return document["metadata"]["name"], document["value"]


def line(kind: str, version: int, name: str = "", value: int = 0) -> bytes:
    metadata = {"resourceVersion": str(version), "name": name}
    return json.dumps({"type": kind, "object": {"metadata": metadata, "value": value}}).encode()


def start(**items: int) -> Cursor[int]:
    return opened(listed(Cursor(Collection()), items, "10"))


def test_a_list_and_its_watch() -> None:
    first: Cursor[int] = Cursor(Collection())
    cursor = listed(first, {"a": 1}, "10")
    assert (cursor.collection.synced, cursor.collection.live, cursor.version) == (True, False, "10")
    cursor = opened(cursor)
    assert cursor.collection == Collection({"a": 1}, 2, synced=True, live=True)
    cursor = observed(cursor, line("ADDED", 11, "b", 2), parse)
    cursor = observed(cursor, line("MODIFIED", 12, "a", 3), parse)
    cursor = observed(cursor, line("DELETED", 13, "b", 2), parse)
    assert (dict(cursor.collection.items), cursor.version) == ({"a": 3}, "13")
    assert cursor.collection.generation == 5


def test_an_empty_list_is_an_answer() -> None:
    cursor = listed(Cursor(Collection[int]()), {}, "10")
    assert cursor.collection == Collection({}, 1, synced=True)


@pytest.mark.parametrize(
    "event",
    [
        line("BOOKMARK", 20),
        line("MODIFIED", 20, "a", 1),
        line("ADDED", 20, "a", 1),
        line("DELETED", 20, "unknown"),
    ],
)
def test_what_changes_nothing_advances_the_version_alone(event: bytes) -> None:
    cursor = observed(start(a=1), event, parse)
    assert (cursor.version, cursor.collection.generation) == ("20", 2)


def test_an_unknown_type_is_passed_over() -> None:
    assert observed(start(a=1), line("RENAMED", 20, "a", 5), parse) == start(a=1)


@pytest.mark.parametrize(
    "text",
    [b"", b"<html>", b"[]", b"{}", b'{"type":"ADDED"}', b'{"type":"ADDED","object":[]}',
     b'{"type":"BOOKMARK","object":{}}', b'{"type":"ADDED","object":{"metadata":{}}}',
     b"\xff\xfe", b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_event(text: bytes) -> None:
    with pytest.raises(ClusterUnreachable) as caught:
        observed(start(a=1), text, parse)
    assert caught.value.cause is Cause.INVALID


@pytest.mark.parametrize(
    ("status", "code", "anew"),
    [
        ({"kind": "Status", "code": 410, "reason": "Expired"}, 410, True),
        ({"kind": "Status", "code": 410, "reason": "Gone"}, 410, True),
        ({"kind": "Status", "code": 500, "reason": "InternalError"}, 500, False),
        ({"kind": "Status"}, 500, False),
    ],
)
def test_an_error_ends_the_watch(status: Mapping[str, Any], code: int, anew: bool) -> None:  # noqa: FBT001
    with pytest.raises(ClusterRefused) as caught:
        observed(start(a=1), json.dumps({"type": "ERROR", "object": status}).encode(), parse)
    assert caught.value.code == code
    cursor = ended(start(a=1), caught.value)
    assert cursor.version == ("" if anew else "10")
    assert (dict(cursor.collection.items), cursor.collection.live) == ({"a": 1}, False)


def test_a_list_shows_what_was_deleted_meanwhile() -> None:
    cursor = listed(ended(start(a=1, b=2)), {"b": 2, "c": 3}, "30")
    assert dict(cursor.collection.items) == {"b": 2, "c": 3}
    same = listed(cursor, {"b": 2, "c": 3}, "31")
    assert (same.version, same.collection) == ("31", cursor.collection)


Names = st.sampled_from("abcd")


@dataclass
class Server:
    """What a server has, and what it would send to a watch."""

    items: dict[str, int] = field(default_factory=dict)
    version: int = 10
    pending: list[bytes] = field(default_factory=list)

    def happens(self, verb: str, name: str, value: int) -> None:
        self.version += 1
        if verb == "put":
            kind = "MODIFIED" if name in self.items else "ADDED"
            self.pending.append(line(kind, self.version, name, value))
            self.items[name] = value
        elif verb == "delete" and name in self.items:
            self.pending.append(line("DELETED", self.version, name, self.items.pop(name)))
        elif verb == "bookmark":
            self.pending.append(line("BOOKMARK", self.version))

    def caught_up(self, cursor: Cursor[int]) -> Cursor[int]:
        if not cursor.version:
            cursor = listed(cursor, self.items, str(self.version))
        else:
            for event in self.pending:
                cursor = observed(cursor, event, parse)
        self.pending.clear()
        return opened(cursor)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), Names, st.integers(0, 3)),
            st.tuples(st.just("delete"), Names, st.just(0)),
            st.tuples(st.sampled_from(["cut", "expire", "bookmark"]), st.just(""), st.just(0)),
        ),
        max_size=40,
    )
)
def test_any_history_ends_with_what_the_server_has(history: list[tuple[str, str, int]]) -> None:
    server = Server()
    cursor = server.caught_up(Cursor(Collection[int]()))
    for verb, name, value in history:
        server.happens(verb, name, value)
        if verb == "cut":
            cursor = ended(cursor)
        elif verb == "expire":
            cursor = ended(cursor, ClusterRefused("x", code=410, reason="Expired"))
        else:
            cursor = server.caught_up(cursor)
            assert dict(cursor.collection.items) == server.items
    cursor = server.caught_up(cursor)
    assert dict(cursor.collection.items) == server.items
    assert cursor.collection.live
