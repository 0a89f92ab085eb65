"""Whatever an API server, a proxy or another writer of the Node sends, a reader of it returns a
value or raises an error of the cluster's.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.cluster import wire
from plugin.cluster.failures import translated
from plugin.cluster.http import Answer
from plugin.cluster.session import json_of
from plugin.cluster.status import refusal, retry_after, watch_error
from plugin.cluster.watch import Cursor, observed
from plugin.core.cluster import Collection, NodeMetadata
from plugin.core.labels import ownership
from plugin.core.labels.node import Labels
from plugin.core.labels.settling import settled
from plugin.core.partition.answer import ANNOTATION
from plugin.core.partition.rivals import mig_manager
from plugin.core.taints import RECORD, recorded
from plugin.errors import ClusterError
from plugin.reporting.latest import Latest

NODE: dict[str, Any] = {
    "kind": "Node",
    "metadata": {
        "name": "n",
        "uid": "u",
        "resourceVersion": "5",
        "labels": {"nvidia.com/gpu.count": "1", "nvidia.com/mig-1g.5gb.count": "2"},
        "annotations": {
            ownership.RECORD: "gpu.count,mig-1g.5gb.count",
            RECORD: "a:NoSchedule",
            ANNOTATION: "{}",
            "nfd.node.kubernetes.io/feature-labels": "a",
        },
        "managedFields": [{"manager": "x", "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}}}],
    },
    "spec": {
        "unschedulable": True,
        "taints": [{"key": "a", "value": "v", "effect": "NoSchedule", "timeAdded": "x"}],
    },
    "status": {
        "conditions": [
            {
                "type": "X",
                "status": "True",
                "reason": "r",
                "message": "m",
                "lastHeartbeatTime": "2020-01-01T00:00:00Z",
                "lastTransitionTime": "0001-01-01T00:00:00Z",
            }
        ]
    },
}
POD: dict[str, Any] = {
    "metadata": {
        "name": "n",
        "uid": "u",
        "namespace": "d",
        "resourceVersion": "5",
        "labels": {"app": "nvidia-mig-manager"},
        "annotations": {"kubernetes.io/config.mirror": "x"},
        "ownerReferences": [{"kind": "DaemonSet", "controller": True}],
    },
    "status": {"phase": "Running"},
}
STATUS: dict[str, Any] = {
    "kind": "Status",
    "message": "m",
    "reason": "r",
    "code": 403,
    "details": {"causes": [{"reason": "x"}], "retryAfterSeconds": 3},
}

#: Of every JSON type, and what numbers, times and encodings stumble over.
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, 0, -1, 10**400, float("inf"), float("nan"), "", "\ud800", "\x00", "a" * 5000),
        *("9" * 5000, "²", "٣", "True", "NoSchedule", "0001-01-01T00:00:00Z"),
        *("9999-12-31T23:59:60Z", [], {}, [[]], [{}], [None], {"a": []}, {"status": ["a"]}),
    ]
) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)

Path = tuple[str | int, ...]


def paths(document: object, above: Path = ()) -> Iterator[Path]:
    entries: Any = ()
    if isinstance(document, dict):
        entries = document.items()
    elif isinstance(document, list):
        entries = enumerate(document)
    for key, value in entries:
        yield (*above, key)
        yield from paths(value, (*above, key))


@st.composite
def damaged(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """The document with one to three of its values replaced, each anywhere in it."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(list(paths(found)) or [("metadata",)]))
        inside: Any = found
        for key in above:
            inside = inside[key]
        inside[last] = copy.deepcopy(draw(ODD))
    return found


def _named(document: Mapping[str, Any]) -> tuple[str, NodeMetadata]:
    node = wire.node_metadata(document)
    return node.name, node


def node(document: dict[str, Any]) -> None:
    """Everything that is made of the Node, as far as its writing again."""
    found = wire.node(document)
    json.dumps([wire.time_text(each.transition) for each in found.conditions])
    wire.taints_patch(found, found.taints, {"a": "b"})
    labels(found.metadata)


def labels(found: NodeMetadata) -> None:
    wanted = {"nvidia.com/gpu.count": "2", "nvidia.com/mig-1g.5gb.count": "1"}
    settled(Labels(wanted, complete=False), ownership.owned(found), 1)
    ownership.patch(found, wanted)
    recorded(found.annotations)
    mig_manager(found, None)
    latest = Latest()
    latest.answered(1, found)
    latest.node(Collection({found.name: found}, 2))


def watched(kind: str) -> Callable[[dict[str, Any]], None]:
    def read(document: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": document}).encode()
        for found in observed(Cursor(Collection(), "1"), line, _named).collection.items.values():
            labels(found)

    return read


READERS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], object]]] = {
    "node": (NODE, node),
    "pod": (POD, lambda document: mig_manager(wire.node_metadata(NODE), [wire.pod(document)])),
    "list": ({"items": [NODE]}, lambda document: [_named(each) for each in wire.items(document)]),
    "version": (NODE, wire.version_of),
    **{kind: (NODE, watched(kind)) for kind in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")},
    "ERROR": (STATUS, watched("ERROR")),
    "status": (STATUS, lambda found: refusal("x", 429, {}, json.dumps(found).encode(), 1.0)),
    "status of a watch": (STATUS, lambda document: watch_error("watch", document)),
}


@pytest.mark.parametrize("reader", READERS)
@given(st.data())
def test_no_document_breaks_a_reader(reader: str, data: st.DataObject) -> None:
    whole, read = READERS[reader]
    try:
        with translated("read"):
            read(data.draw(damaged(whole)))
    except ClusterError:
        pass


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, "7", "[]", "", "\ud800", '{"a":'])
def test_a_body_that_is_no_object_is_an_error_of_the_clusters(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    for document in (body, b'{"a": ' + body + b"}"):
        try:
            with translated("read"):
                json_of(Answer(200, {}, document))
        except ClusterError:
            continue
        assert document != body
        json.loads(document)


@given(st.integers(1, 10**4000))
def test_a_pause_of_any_size_is_an_hour_at_most(seconds: int) -> None:
    error = watch_error("watch", {**STATUS, "details": {"retryAfterSeconds": seconds}})
    assert error.retry_after == min(seconds, 3600)


@given(st.text() | st.from_regex(r"\w{3}, \d{2} \w{3} \d{4} \d\d:\d\d:\d\d( [+-]\d{4})?"))
def test_no_header_breaks_the_reader(header: str) -> None:
    for text in (
        header,
        "9" * 5000,
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 01 Jan 0001 00:00:00",
    ):
        pause = retry_after(text, 1.0)
        assert pause is None or 0 <= pause <= 3600
