"""Events in the stand-in API server: checked as the real one checks them, shown by two APIs."""

from __future__ import annotations

from typing import Any

import pytest

from .clock import virtual
from .peer import EVENTS, MERGE, serving

EVENT = {
    "apiVersion": "events.k8s.io/v1",
    "kind": "Event",
    "metadata": {"name": "e"},
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reportingController": "x",
    "reportingInstance": "n",
    "action": "A",
    "reason": "R",
    "type": "Normal",
    "regarding": {"kind": "Node", "name": "n"},
}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 201),
        ({"eventTime": None}, 422),
        ({"eventTime": "2026-01-01T00:00:00Z"}, 400),
        ({"reportingController": ""}, 422),
        ({"reportingInstance": "x" * 129}, 422),
        ({"action": ""}, 422),
        ({"reason": "x" * 129}, 422),
        ({"type": "Error"}, 422),
        ({"note": "x" * 1025}, 422),
        ({"deprecatedCount": 1}, 422),
        ({"series": {"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}, 422),
        ({"series": {"count": 2}}, 422),
        ({"regarding": {"kind": "Pod", "name": "p", "namespace": "other"}}, 422),
        ({"metadata": {"name": "UPPER"}}, 422),
        ({"metadata": {"name": "e", "namespace": "other"}}, 400),
        ({"apiVersion": "v1"}, 400),
        ({"kind": "Node"}, 400),
    ],
)
@virtual
async def test_events_are_checked(change: dict[str, Any], code: int) -> None:
    async with serving() as peer:
        assert (await peer.ask("POST", EVENTS, {**EVENT, **change}))[0] == code


@virtual
async def test_events_about_a_node_go_into_two_namespaces_only() -> None:
    async with serving() as peer:
        for namespace, code in (("default", 201), ("kube-system", 201), ("gpu", 422)):
            target = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
            assert (await peer.ask("POST", target, EVENT))[0] == code


@virtual
async def test_an_event_changes_in_its_series_only_and_both_apis_show_it() -> None:
    async with serving() as peer:
        assert (await peer.ask("POST", EVENTS, {**EVENT, "note": "text"}))[0] == 201
        status, answer = await peer.ask("POST", EVENTS, EVENT)
        assert (status, answer["reason"]) == (409, "AlreadyExists")
        series = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}
        assert (await peer.patch(series, MERGE, f"{EVENTS}/e"))[0] == 200
        assert (await peer.patch({"series": {"count": 1}}, MERGE, f"{EVENTS}/e"))[0] == 422
        assert (await peer.patch({"note": "x"}, MERGE, f"{EVENTS}/e"))[0] == 422
        core = "/api/v1/namespaces/default/events"
        _, old = await peer.ask("GET", f"{core}/e")
        assert (old["apiVersion"], old["message"]) == ("v1", "text")
        assert old["involvedObject"] == {"kind": "Node", "name": "n"}
        made = {"metadata": {"name": "f"}, "involvedObject": {"kind": "Node"}, "count": 1}
        assert (await peer.ask("POST", core, made))[0] == 201
        assert (await peer.patch({"count": 2}, MERGE, f"{core}/f"))[0] == 200
