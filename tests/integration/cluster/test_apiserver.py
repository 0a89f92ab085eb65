"""The stand-in API server is as strict as the real one: what each request does to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plugin.sim.apiserver.rbac import ADMIN, User
from plugin.sim.apiserver.server import SimApiServer

from .clock import virtual
from .peer import APPLY, EVENTS, JSON_PATCH, MERGE, NODE, STRATEGIC, Peer, serving


def labels(document: Any) -> dict[str, str]:
    return {
        key: value
        for key, value in document["metadata"].get("labels", {}).items()
        if key != "kubernetes.io/hostname"
    }


@pytest.mark.parametrize(
    ("kind", "body", "code", "reason"),
    [
        ("application/json", {}, 415, "UnsupportedMediaType"),
        ("application/yaml", {}, 415, "UnsupportedMediaType"),
        (MERGE, [], 400, "BadRequest"),
        (MERGE, {"metadata": {"labels": {"a": 1}}}, 400, "BadRequest"),
        (MERGE, {"metadata": {"labels": {"a": "x y"}}}, 422, "Invalid"),
        (MERGE, {"metadata": {"labels": {"a": "x" * 64}}}, 422, "Invalid"),
        (MERGE, {"metadata": {"labels": {"a/b/c": "x"}}}, 422, "Invalid"),
        (MERGE, {"metadata": {"labels": {"A.b/c": "x"}}}, 422, "Invalid"),
        (MERGE, {"metadata": {"annotations": {"a": "x" * 262_144}}}, 422, "Invalid"),
        (MERGE, {"metadata": {"resourceVersion": "1"}}, 409, "Conflict"),
        (MERGE, {"metadata": {"uid": "other"}}, 409, "Conflict"),
        (MERGE, {"metadata": {"name": "m"}}, 422, "Invalid"),
        (MERGE, {"spec": {"taints": [{"key": "a", "effect": "Never"}]}}, 422, "Invalid"),
        (MERGE, {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}] * 2}}, 422, "Invalid"),
        (STRATEGIC, {"spec": {"taints": [{"effect": "NoExecute"}]}}, 400, "BadRequest"),
        (JSON_PATCH, {}, 400, "BadRequest"),
        (JSON_PATCH, [{"op": "remove", "path": "/metadata/labels/none"}], 422, "Invalid"),
        (JSON_PATCH, [{"op": "test", "path": "/metadata/name", "value": "m"}], 422, "Invalid"),
        (JSON_PATCH, [{"op": "add", "path": "metadata", "value": 1}], 422, "Invalid"),
        (APPLY, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}, 422, "Invalid"),
    ],
)
@virtual
async def test_bad_patches(kind: str, body: Any, code: int, reason: str) -> None:
    async with serving() as peer:
        before = peer.server.node("n")
        status, answer = await peer.patch(body, kind)
        assert (status, answer["code"], answer["reason"]) == (code, code, reason)
        assert peer.server.node("n") == before


@virtual
async def test_patches_change_what_they_name() -> None:
    async with serving() as peer:
        _, node = await peer.patch({"metadata": {"labels": {"x": "1", "none": None}}})
        assert labels(node) == {"zone": "a", "x": "1"}
        path = "/metadata/labels/nvidia.com~1gpu"
        _, node = await peer.patch([{"op": "add", "path": path, "value": "8"}], JSON_PATCH)
        assert labels(node)["nvidia.com/gpu"] == "8"
        version = node["metadata"]["resourceVersion"]
        _, node = await peer.patch({"metadata": {"labels": {"x": "1"}}})
        assert node["metadata"]["resourceVersion"] == version, "nothing changed"
        status, _ = await peer.patch(
            {"metadata": {"resourceVersion": version, "labels": {"x": None}}}
        )
        assert status == 200


@virtual
async def test_the_status_has_a_resource_of_its_own() -> None:
    async with serving() as peer:
        mine = {"status": {"conditions": [{"type": "Mine", "status": "True"}]}}
        status, node = await peer.patch(mine, STRATEGIC)
        assert (status, len(node["status"]["conditions"])) == (200, 1), "ignored with 200"
        more = {**mine, "metadata": {"labels": {"x": "1"}}, "spec": {"unschedulable": True}}
        _, node = await peer.patch(more, STRATEGIC, f"{NODE}/status")
        assert [entry["type"] for entry in node["status"]["conditions"]] == ["Ready", "Mine"]
        assert labels(node)["x"] == "1"
        assert "unschedulable" not in node["spec"]
        drop = {"status": {"conditions": [{"$patch": "delete", "type": "Mine"}]}}
        _, node = await peer.patch(drop, STRATEGIC, f"{NODE}/status")
        assert [entry["type"] for entry in node["status"]["conditions"]] == ["Ready"]
        _, node = await peer.patch(mine, MERGE, f"{NODE}/status")
        assert [entry["type"] for entry in node["status"]["conditions"]] == ["Mine"], "replaced"


@pytest.mark.parametrize(
    "body", [{"spec": {"unschedulable": "yes"}}, {"metadata": {"resourceVersion": 3}}]
)
@virtual
async def test_a_value_of_another_type_is_refused(body: dict[str, Any]) -> None:
    async with serving() as peer:
        status, answer = await peer.patch(body, MERGE)
        assert (status, answer["message"].partition(":")[0]) == (400, "json")


def applied(name: str = "n", **wanted: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": wanted}}


@virtual
async def test_apply_keeps_account_of_who_owns_a_field() -> None:
    async with serving() as peer:
        ours, theirs = f"{NODE}?fieldManager=ours", f"{NODE}?fieldManager=theirs"
        _, node = await peer.patch(applied(x="1", y="1"), APPLY, ours)
        assert labels(node) == {"zone": "a", "x": "1", "y": "1"}
        _, node = await peer.patch(applied(x="1"), APPLY, ours)
        assert labels(node) == {"zone": "a", "x": "1"}, "what we leave out is removed"
        status, answer = await peer.patch(applied(x="2"), APPLY, theirs)
        assert (status, answer["reason"]) == (409, "Conflict")
        (cause,) = answer["details"]["causes"]
        assert cause["field"] == ".metadata.labels.x"
        assert '"ours"' in cause["message"]
        status, node = await peer.patch(applied(x="2"), APPLY, f"{theirs}&force=true")
        assert (status, labels(node)["x"]) == (200, "2")
        _, node = await peer.patch(applied(), APPLY, ours)
        assert labels(node)["x"] == "2", "no longer ours"
        await peer.ask("PATCH", NODE, {"metadata": {"labels": {"x": "3"}}}, MERGE,
                       **{"User-Agent": "kubectl/1.37"})  # fmt: skip
        status, answer = await peer.patch(applied(x="2"), APPLY, theirs)
        assert (status, '"kubectl"' in answer["message"]) == (409, True)
        managers = {
            entry["manager"] for entry in peer.server.node("n")["metadata"]["managedFields"]
        }
        assert managers == {"kubectl"}


@virtual
async def test_apply_of_a_condition_leaves_those_of_others() -> None:
    async with serving() as peer:
        body = {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"conditions": [{"type": "Mine", "status": "True"}]},
        }  # fmt: skip
        target = f"{NODE}/status?fieldManager=ours"
        _, node = await peer.patch(body, APPLY, target)
        assert [entry["type"] for entry in node["status"]["conditions"]] == ["Ready", "Mine"]
        body["status"] = {"conditions": []}
        _, node = await peer.patch(body, APPLY, target)
        assert [entry["type"] for entry in node["status"]["conditions"]] == ["Ready"]


@virtual
async def test_apply_creates_a_missing_node_unless_it_names_a_uid() -> None:
    async with serving() as peer:
        target = "/api/v1/nodes/new?fieldManager=ours"
        body = applied("new", x="1")
        body["metadata"]["uid"] = "u"
        assert (await peer.patch(body, APPLY, target))[0] == 409
        del body["metadata"]["uid"]
        assert (await peer.patch(body, APPLY, target))[0] == 201
        assert labels(peer.server.node("new")) == {"x": "1"}


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/api/v1/nodes/none", 404),
        ("GET", "/api/v2/nodes", 404),
        ("GET", "/api/v1/secrets", 404),
        ("GET", "/api/v1/nodes?fieldSelector=spec.providerID%3Dx", 400),
        ("GET", "/api/v1/nodes?fieldSelector=nonsense", 400),
        ("GET", "/api/v1/nodes?watch=1&resourceVersion=x", 400),
        ("DELETE", NODE, 405),
        ("PUT", NODE, 405),
        ("POST", "/api/v1/nodes", 405),
    ],
)
@virtual
async def test_what_is_not_there(method: str, target: str, code: int) -> None:
    async with serving() as peer:
        status, answer = await peer.ask(method, target)
        assert (status, answer["kind"], answer["code"]) == (code, "Status", code)


@virtual
async def test_lists_by_field_and_of_metadata_alone() -> None:
    async with serving() as peer:
        peer.server.add_node("m")
        peer.server.add_pod("n", "p1")
        peer.server.add_pod("m", "p2", namespace="other")
        _, listed = await peer.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn")
        assert [item["metadata"]["name"] for item in listed["items"]] == ["p1"]
        assert "kind" not in listed["items"][0]
        _, listed = await peer.ask("GET", "/api/v1/namespaces/other/pods")
        assert [item["metadata"]["name"] for item in listed["items"]] == ["p2"]
        _, listed = await peer.ask("GET", "/api/v1/nodes?fieldSelector=metadata.name!%3Dn")
        assert [item["metadata"]["name"] for item in listed["items"]] == ["m"]
        form = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
        _, listed = await peer.ask("GET", "/api/v1/nodes", Accept=form)
        assert listed["kind"] == "PartialObjectMetadataList"
        assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}
        status, _ = await peer.ask("GET", "/api/v1/nodes", Accept="application/json;as=Table")
        assert status == 406


@virtual
async def test_a_watch_with_bookmarks_ends_after_its_time() -> None:
    async with serving() as peer:
        version = peer.server.node("n")["metadata"]["resourceVersion"]
        query = f"resourceVersion={version}&allowWatchBookmarks=true&timeoutSeconds=150"
        began = asyncio.get_running_loop().time()
        async with peer.watch(query) as (_, events):
            peer.server.change("nodes", "n", {"metadata": {"labels": {"zone": "b"}}})
            found = [event async for event in events]
        assert asyncio.get_running_loop().time() - began == pytest.approx(150, abs=1)
        assert [event["type"] for event in found] == ["MODIFIED", *["BOOKMARK"] * 3]
        assert found[1]["object"]["metadata"] == {
            "resourceVersion": found[0]["object"]["metadata"]["resourceVersion"]
        }


@virtual
async def test_where_a_watch_begins() -> None:
    async with serving() as peer:
        old = peer.server.node("n")["metadata"]["resourceVersion"]
        peer.server.add_node("m")
        async with peer.watch("timeoutSeconds=1") as (_, events):
            assert [event["type"] async for event in events] == ["ADDED", "ADDED"]
        async with peer.watch(f"resourceVersion={old}&timeoutSeconds=1") as (_, events):
            assert [event["object"]["metadata"]["name"] async for event in events] == ["m"]
        async with peer.watch("resourceVersion=99999&timeoutSeconds=9") as (_, events):
            peer.server.add_node("o")
            assert [event async for event in events] == [], "of the future: silent"
        peer.server.storage.expire()
        async with peer.watch(f"resourceVersion={old}") as (answer, events):
            (event,) = [event async for event in events]
        assert (answer.status, event["type"]) == (200, "ERROR")
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
        peer.server.api.expired_as_status = True
        async with peer.watch(f"resourceVersion={old}") as (answer, _):
            assert answer.status == 410


@virtual
async def test_an_object_that_leaves_the_selection_is_deleted_for_its_watch() -> None:
    async with serving() as peer:
        query = "fieldSelector=spec.unschedulable%3Dtrue&timeoutSeconds=5"
        async with peer.watch(query) as (_, events):
            for value in (True, None):
                peer.server.change("nodes", "n", {"spec": {"unschedulable": value}})
            assert [event["type"] async for event in events] == ["ADDED", "DELETED"]


RULES = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"], "resourceNames": ["n"]},
    {"apiGroups": [""], "resources": ["pods/*", "pods"], "verbs": ["list"]},
]


@pytest.mark.parametrize(
    ("method", "target", "token", "code"),
    [
        ("GET", NODE, "plugin", 200),
        ("GET", "/api/v1/nodes/m", "plugin", 403),
        ("GET", "/api/v1/nodes", "plugin", 403),
        ("GET", "/api/v1/pods", "plugin", 200),
        ("PATCH", f"{NODE}/status", "plugin", 403),
        ("PATCH", NODE, "plugin", 200),
        ("PATCH", f"{NODE}/status", "admin", 200),
        ("POST", EVENTS, "plugin", 403),
        ("GET", NODE, "unknown", 401),
        ("GET", NODE, None, 401),
    ],
)
@virtual
async def test_rights(method: str, target: str, token: str | None, code: int) -> None:
    users = {"plugin": User("system:serviceaccount:gpu:plugin", RULES), "admin": ADMIN}
    async with SimApiServer(users=users) as server:
        server.add_node("n")
        peer = Peer(server, token)
        body: dict[str, Any] | None = {} if method != "GET" else None
        status, answer = await peer.ask(method, target, body, MERGE)
        assert status == code
        if code == 403:
            assert answer["reason"] == "Forbidden"
            assert "system:serviceaccount:gpu:plugin" in answer["message"]
        peer.transport.close()


@virtual
async def test_what_clients_ask_is_recorded_and_counted() -> None:
    async with serving() as peer:
        await peer.patch({"metadata": {"labels": {"x": "1"}}})
        await peer.ask("GET", "/api/v1/nodes/none")
        journal = peer.server.journal
        (patch,) = journal.of("patch", "nodes")
        assert (patch.body, patch.status) == ({"metadata": {"labels": {"x": "1"}}}, 200)
        assert journal.counts == {("patch", "nodes", 200): 1, ("get", "nodes", 404): 1}
        assert journal.bytes_in["patch", "nodes"] == len('{"metadata": {"labels": {"x": "1"}}}')
        assert journal.bytes_out["patch", "nodes"] > 300


@virtual
async def test_thousands_of_watches_are_woken_by_their_own_node_only() -> None:
    async with SimApiServer() as server:
        names = [f"n{number}" for number in range(300)]
        for name in names:
            server.add_node(name)
        storage = server.storage
        peer = Peer(server)
        async with peer.watch("fieldSelector=metadata.name%3Dn7&timeoutSeconds=60"):
            (follower,) = storage.followers()
            for name in names:
                server.change("nodes", name, {"metadata": {"labels": {"x": "1"}}})
            assert follower.queue.qsize() == 1
