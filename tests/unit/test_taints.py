"""The Node's taints to be, and when the node is ready."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import cluster, scans
from plugin.core.cluster import Node, NodeMetadata
from plugin.core.grammars import Taint
from plugin.core.taints import RECORD, is_ready, planned, recorded

from .state_steps import ONE, running

OURS, STARTING = Taint("a/ours", "", "NoSchedule"), Taint("a/start", "", "NoExecute")
taints = st.lists(
    st.builds(
        cluster.Taint,
        st.sampled_from(["a/ours", "a/start", "b"]),
        st.sampled_from(["NoSchedule", "NoExecute", "Odd"]),
        st.sampled_from(["", "v"]),
        st.sampled_from(["", "2026-01-01T00:00:00Z"]),
    ),
    unique_by=lambda taint: (taint.key, taint.effect),
)


def of(taints: tuple[cluster.Taint, ...], record: str | None = None) -> Node:
    notes = {} if record is None else {RECORD: record}
    return Node(NodeMetadata("n", "u", "1", {}, notes), taints=taints)


@given(taints)
def test_ours_comes_and_goes_and_the_others_stay_as_they_were_read(
    found: list[cluster.Taint],
) -> None:
    before = tuple(found)
    during = planned(of(before), OURS, None)
    assert during.taints[: len(before)] == before
    assert any((t.key, t.effect) == (OURS.key, OURS.effect) for t in during.taints)
    after = planned(of(during.taints, during.record), None, None)
    assert (after.taints, after.record) == (before, None)


@given(taints)
def test_the_startup_taint_is_removed_whoever_set_it_and_nothing_else(
    found: list[cluster.Taint],
) -> None:
    after = planned(of(tuple(found)), None, STARTING)
    assert list(after.taints) == [
        t for t in found if (t.key, t.effect) != (STARTING.key, STARTING.effect)
    ]


@given(st.text())
def test_a_record_of_anything_is_read(text: str) -> None:
    assert OURS in recorded({RECORD: f"{text},{OURS}"})


def test_ready_is_a_node_whose_every_resource_kubelet_has() -> None:
    state = running()
    away = scans.scan_failed(state, scans.driver_unavailable("no driver")).state.snapshot
    assert not is_ready(state.snapshot, ())
    assert is_ready(state.snapshot, {ONE, "other"})
    assert is_ready(away, {ONE})
    empty = replace(state.snapshot.advertisement, resources={})
    assert is_ready(replace(state.snapshot, advertisement=empty), ())
    assert not is_ready(replace(away, advertisement=empty), ())
    assert not is_ready(replace(state.snapshot, advertisement=empty, geometry=0), ())
