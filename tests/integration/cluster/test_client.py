"""Each request against the stand-in, which refuses what the real API server would refuse."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information
import pytest

from plugin.cluster.api import Cluster
from plugin.core.cluster import (
    ConditionStatus,
    Evicted,
    NodeCondition,
    Pod,
    Subject,
    Taint,
    TaintEffect,
)
from plugin.errors import ClusterRefused
from plugin.sim.apiserver.eviction import Budget
from plugin.sim.apiserver.faults import Fault
from plugin.sim.apiserver.rbac import User
from plugin.sim.apiserver.refusal import Refused
from plugin.sim.apiserver.server import SimApiServer

from .clock import virtual
from .subject import NODE, client_of, happening, talking

KUBERNETES = ("1.25", "1.37")


def valid(document: dict[str, Any]) -> None:
    for version in KUBERNETES:
        kubernetes_validate.validate(document, version, strict=True)


@virtual
async def test_the_own_node_is_read() -> None:
    async with talking() as talk:
        talk.server.change(
            "nodes",
            NODE,
            {
                "spec": {
                    "unschedulable": True,
                    "taints": [
                        {"key": "a/b", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
                    ],
                }
            },
        )
        cluster: Cluster = talk.client
        node = await cluster.get_node()
        assert node.metadata.labels == {"kubernetes.io/hostname": NODE, "zone": "a"}
        assert node.metadata.version == talk.server.node(NODE)["metadata"]["resourceVersion"]
        assert node.unschedulable
        assert node.taints == (Taint("a/b", TaintEffect.NO_EXECUTE, "", "2026-01-01T00:00:00Z"),)
        assert [(c.type, c.status) for c in node.conditions] == [("Ready", ConditionStatus.TRUE)]


@virtual
async def test_a_node_that_does_not_exist_is_named_with_the_setting() -> None:
    async with SimApiServer() as server:
        client = client_of(server)
        with pytest.raises(ClusterRefused, match=f"no Node {NODE}; set NODE_NAME") as caught:
            await client.get_node()
        assert (caught.value.code, caught.value.reason) == (404, "NotFound")
        client.close()


@virtual
async def test_only_what_differs_is_patched_and_nothing_without_a_difference() -> None:
    async with talking() as talk:
        before = (await talk.client.get_node()).metadata
        after = await talk.client.patch_metadata(
            before,
            labels={"nvidia.com/gpu.count": "8", "zone": "a", "gone": None},
            annotations={"example.com/note": "x"},
        )
        assert after.labels["nvidia.com/gpu.count"] == "8"
        assert after.annotations == {"example.com/note": "x"}
        (sent,) = talk.server.journal.of("patch")
        assert sent.body == {
            "metadata": {
                "labels": {"nvidia.com/gpu.count": "8"},
                "annotations": {"example.com/note": "x"},
            }
        }
        assert after.writers["nvidia.com/gpu.count"] == {"mig-device-plugin"}
        assert await talk.client.patch_metadata(after, labels={"zone": "a"}) is after
        removed = await talk.client.patch_metadata(after, labels={"nvidia.com/gpu.count": None})
        assert "nvidia.com/gpu.count" not in removed.labels
        assert len(talk.server.journal.of("patch")) == 2
        valid(talk.server.node(NODE))


@virtual
async def test_a_conditional_patch_is_refused_once_the_node_has_changed() -> None:
    async with talking() as talk:
        before = (await talk.client.get_node()).metadata
        talk.server.change("nodes", NODE, {"metadata": {"labels": {"zone": "b"}}})
        with pytest.raises(ClusterRefused) as caught:
            await talk.client.patch_metadata(before, labels={"x": "1"}, conditional=True)
        assert (caught.value.code, caught.value.reason) == (409, "Conflict")
        now = (await talk.client.get_node()).metadata
        assert (await talk.client.patch_metadata(now, labels={"x": "1"}, conditional=True)).labels[
            "x"
        ] == "1"


@virtual
async def test_a_condition_stands_beside_those_of_kubelet() -> None:
    async with talking() as talk:
        condition = NodeCondition(
            "MigDevicesHealthy", ConditionStatus.FALSE, "Xid", "1 of 56", 1e9 + 1, 1e9
        )
        await talk.client.put_condition(condition)
        ready, ours = talk.server.node(NODE)["status"]["conditions"]
        assert ready["type"] == "Ready"
        assert ours == {
            "type": "MigDevicesHealthy",
            "status": "False",
            "reason": "Xid",
            "message": "1 of 56",
            "lastHeartbeatTime": "2001-09-09T01:46:41Z",
            "lastTransitionTime": "2001-09-09T01:46:40Z",
        }
        valid(talk.server.node(NODE))
        assert (await talk.client.get_node()).conditions[1] == condition
        await talk.client.remove_condition("MigDevicesHealthy")
        assert talk.server.node(NODE)["status"]["conditions"] == [ready]


@virtual
async def test_taints_are_replaced_for_the_version_that_was_read() -> None:
    async with talking() as talk:
        talk.server.change(
            "nodes", NODE, {"spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}}
        )
        node = await talk.client.get_node()
        ours = Taint("nvidia.com/needs-reset", TaintEffect.NO_SCHEDULE, "true")
        await talk.client.put_taints(node, (*node.taints, ours))
        assert talk.server.node(NODE)["spec"]["taints"] == [
            {"key": "other", "effect": "NoSchedule"},
            {"key": "nvidia.com/needs-reset", "value": "true", "effect": "NoSchedule"},
        ]
        valid(talk.server.node(NODE))
        with pytest.raises(ClusterRefused, match="409"):
            await talk.client.put_taints(node, ())
        node = await talk.client.get_node()
        assert await talk.client.put_taints(node, node.taints) == node.metadata
        await talk.client.put_taints(node, ())
        assert "taints" not in talk.server.node(NODE)["spec"]


@virtual
async def test_events_about_the_node_and_a_pod_with_their_series() -> None:
    async with talking() as talk:
        event = happening(note="ä" * 1000)
        await talk.client.create_event(event)
        await talk.client.create_event(event)  # as after an answer that was lost
        pod = Subject("Pod", "train", "u1", "ml")
        about_pod = happening("train.1").__class__(
            "train.1", pod, event.type, "GpuLost", "Cordon", "gone", 1e9
        )
        await talk.client.create_event(about_pod)
        assert await talk.client.repeat_event(event, 3, 1e9)
        first, second = talk.server.events()
        assert (first["metadata"]["namespace"], second["metadata"]["namespace"]) == (
            "default",
            "ml",
        )
        assert first["series"] == {"count": 3, "lastObservedTime": "2001-09-09T01:46:40.000000Z"}
        assert first["eventTime"] == "2023-11-14T22:13:20.250000Z"
        assert len(first["note"].encode()) <= 1024
        assert first["note"].endswith("ä…")
        for sent in talk.server.journal.of("create"):
            valid(sent.body)
        talk.server.storage.remove("events", "default", event.name)
        assert not await talk.client.repeat_event(event, 4, 1e9)


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ([], Evicted.BEGUN),
        ([Budget("default", "one", {"app": "x"}, 1)], Evicted.BEGUN),
        ([Budget("default", "one", {"app": "x"}, 0)], Evicted.BUDGET_SPENT),
        ([Budget("default", "new", {"app": "x"}, 1, observed=False)], Evicted.BUDGET_SPENT),
        ([Budget("default", str(n), {"app": "x"}, 1) for n in range(2)], Evicted.NEVER),
        ([Budget("other", "one", {"app": "x"}, 0)], Evicted.BEGUN),
    ],
)
@virtual
async def test_evictions_and_budgets(budgets: list[Budget], expected: Evicted) -> None:
    async with talking() as talk:
        talk.server.budgets.extend(budgets)
        made = talk.server.add_pod(NODE, "train", labels={"app": "x"})
        pod = Pod("default", "train", made["metadata"]["uid"])
        answer = await talk.client.evict(pod, 5)
        assert answer.outcome is expected
        late = any(not budget.observed for budget in budgets)
        assert answer.retry_after == (10.0 if late else None)
        (sent,) = talk.server.journal.of("create", "pods/eviction")
        valid(sent.body)
        assert talk.client.traffic.away_since is None  # an answer, and no outage


@virtual
async def test_a_pod_that_is_gone_or_another_counts_as_evicted() -> None:
    async with talking() as talk:
        talk.server.add_pod(NODE, "train")
        assert (await talk.client.evict(Pod("default", "train", "old"))).outcome is Evicted.GONE
        assert (await talk.client.evict(Pod("default", "none", "old"))).outcome is Evicted.GONE


@virtual
async def test_an_eviction_that_is_forbidden() -> None:
    async with talking({"t": User("plugin", [])}) as talk:
        answer = await talk.client.evict(Pod("default", "train", "u"))
        assert answer.outcome is Evicted.FORBIDDEN
        assert "cannot create resource" in answer.detail


@pytest.mark.parametrize(
    "refusal",
    [
        Refused(429, "too many requests", retry_after="1"),
        Refused(500, "etcdserver: no leader"),
        Refused(422, "no"),
    ],
)
@virtual
async def test_other_refusals_say_nothing_about_the_pod(refusal: Refused) -> None:
    async with talking() as talk:
        talk.server.faults.plan(Fault(refusal=refusal))
        with pytest.raises(ClusterRefused) as caught:
            await talk.client.evict(Pod("default", "train", "u"))
        assert caught.value.code == refusal.code
