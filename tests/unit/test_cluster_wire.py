"""JSON of the API, read with suspicion and written as Kubernetes' schemas want it."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.cluster import wire
from plugin.cluster.failures import InvalidAnswer
from plugin.core.cluster import (
    ConditionStatus,
    Event,
    EventType,
    Node,
    NodeCondition,
    NodeMetadata,
    Pod,
    PodPhase,
    Subject,
    Taint,
    TaintEffect,
)
from plugin.sim.apiserver import events, patches, validation

METADATA = {"name": "n", "uid": "u", "resourceVersion": "7"}
KEYS = ("metadata", "labels", "annotations", "spec", "taints", "status", "conditions", "phase")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
)


@given(st.dictionaries(st.sampled_from(KEYS), json_values))
def test_fields_of_another_type_count_as_absent(document: dict[str, Any]) -> None:
    found = document.get("metadata")
    named = {**(found if isinstance(found, dict) else {}), **METADATA, "namespace": "x"}
    assert wire.node({**document, "metadata": named}).metadata.name == "n"
    assert wire.pod({**document, "metadata": named}).uid == "u"


@pytest.mark.parametrize("missing", ["name", "uid", "resourceVersion"])
def test_an_object_without_its_identity_is_no_object(missing: str) -> None:
    metadata = {key: value for key, value in METADATA.items() if key != missing}
    with pytest.raises(InvalidAnswer):
        wire.node({"metadata": metadata})


def test_a_pod_without_a_namespace_is_no_pod() -> None:
    with pytest.raises(InvalidAnswer):
        wire.pod({"metadata": METADATA})


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Pod("ns", "n", "u")),
        ({"labels": {"a": "b", "c": 1}}, Pod("ns", "n", "u", labels={"a": "b"})),
        (
            {"ownerReferences": [{"kind": "X"}, {"kind": "DaemonSet", "controller": True}]},
            Pod("ns", "n", "u", controller="DaemonSet"),
        ),
        ({"annotations": {"kubernetes.io/config.mirror": ""}}, Pod("ns", "n", "u", mirror=True)),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, Pod("ns", "n", "u", deleting=True)),
    ],
)
def test_pods(more: dict[str, Any], expected: Pod) -> None:
    assert wire.pod({"metadata": {**METADATA, "namespace": "ns", **more}}) == expected
    assert expected.returns is (expected.mirror or expected.controller == "DaemonSet")


def test_pods_can_be_kept_in_sets() -> None:
    assert len({Pod("ns", "n", "u", PodPhase.RUNNING, {"a": "b"}), Pod("ns", "n", "u")}) == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2001-09-09T01:46:40Z", 1e9),
        ("2001-09-09T01:46:40.5Z", 1e9 + 0.5),
        ("2001-02-30T00:00:00Z", 0.0),
        ("yesterday", 0.0),
        ("", 0.0),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert wire.seconds_of(text) == seconds


@given(st.floats(0, 4e9) | st.integers(-62135596800, -1).map(float))
def test_times_are_written_as_the_api_reads_them(seconds: float) -> None:
    assert validation.MICRO_TIME.fullmatch(micro := wire.micro_time_text(seconds))
    assert validation.TIME.fullmatch(whole := wire.time_text(seconds))
    assert abs(wire.seconds_of(micro) - seconds) <= 1e-6
    assert 0 <= seconds - wire.seconds_of(whole) < 1


labels = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "1", "2"]))
changes = st.dictionaries(st.sampled_from("abcd"), st.none() | st.sampled_from(["", "1", "2"]))


@given(labels, labels, changes, changes)
def test_a_patch_makes_it_so_and_holds_only_what_differs(
    have: dict[str, str],
    notes: dict[str, str],
    wanted: dict[str, str | None],
    notes_wanted: dict[str, str | None],
) -> None:
    current = NodeMetadata("n", "u", "7", have, notes)
    patch = wire.metadata_patch(current, wanted, notes_wanted, conditional=False)
    document = {"metadata": {"labels": have, "annotations": notes}}
    after = patches.merge(document, patch) if patch else document
    for key, change in wanted.items():
        assert after["metadata"]["labels"].get(key) == change
    for key, change in notes_wanted.items():
        assert after["metadata"]["annotations"].get(key) == change
    if patch is None:
        assert all(have.get(key) == change for key, change in wanted.items())
    else:
        for key, change in patch["metadata"].get("labels", {}).items():
            assert have.get(key) != change


def test_a_conditional_patch_names_the_version() -> None:
    current = NodeMetadata("n", "u", "7")
    assert wire.metadata_patch(current, {"a": "b"}, {}, conditional=True) == {
        "metadata": {"labels": {"a": "b"}, "resourceVersion": "7"}
    }
    assert wire.metadata_patch(current, {}, {}, conditional=True) is None


def test_conditions_and_taints_make_a_valid_node() -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    condition = NodeCondition("X", ConditionStatus.UNKNOWN, "Ended", "m", 1e9, 1e9)
    changed = patches.strategic(node, wire.condition_patch(condition))
    taint = Taint("a/b", TaintEffect.NO_EXECUTE, "", "2026-01-01T00:00:00Z")
    current = Node(NodeMetadata("n", "u", "7", annotations={"a": "1"}))
    patch = wire.taints_patch(current, (taint,), {"a": "2", "b": None})
    assert patch is not None
    assert patch["metadata"] == {"resourceVersion": "7", "annotations": {"a": "2"}}
    changed = patches.merge(changed, patch)
    assert changed["spec"]["taints"] == [
        {"key": "a/b", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    ]
    for version in ("1.25", "1.37"):
        kubernetes_validate.validate(changed, version, strict=True)
    assert wire.taints_patch(replace(current, taints=(taint,)), (taint,), {"a": "1"}) is None
    only_notes = wire.taints_patch(current, (), {"a": None})
    assert only_notes == {"metadata": {"resourceVersion": "7", "annotations": {"a": None}}}
    assert patches.strategic(changed, wire.condition_removal("X"))["status"]["conditions"] == []


@settings(max_examples=25)  # the schema takes 40 ms each
@given(st.text(max_size=600), st.text(min_size=1, max_size=200), st.floats(0, 4e9))
def test_any_event_is_valid(note: str, instance: str, seconds: float) -> None:
    subject = Subject("Pod", "train", "u", "ml")
    event = Event("train.1", subject, EventType.NORMAL, "GpuLost", "Cordon", note * 3, seconds)
    document = wire.event(event, instance)
    kubernetes_validate.validate(document, "1.37", strict=True)
    events.check_created(document, events.NEW, "ml")


@given(st.text(), st.integers(10, 100))
def test_texts_are_cut_between_characters(text: str, limit: int) -> None:
    clipped = wire.clipped(text, limit)
    assert len(clipped.encode()) <= limit
    plain = re.sub("[\ud800-\udfff]", "?", text)
    assert clipped == plain or (clipped.endswith("…") and plain.startswith(clipped[:-1]))
