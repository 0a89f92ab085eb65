"""What the daemon does at the API server: token, rights and the way there, for every combination
of features, exactly what these need.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from plugin.cluster.client import ApiClient
from plugin.config.options import OPTIONS
from plugin.core.cluster import (
    ConditionStatus,
    Event,
    EventType,
    Evicted,
    Node,
    NodeCondition,
    Subject,
    Taint,
    TaintEffect,
)
from plugin.sim.apiserver.rbac import Attributes, User, check
from plugin.sim.apiserver.refusal import Refused
from tests.integration.cluster.clock import virtual
from tests.integration.cluster.subject import running, talking, until

if TYPE_CHECKING:
    from plugin.sim.apiserver.server import SimApiServer

    from .conftest import Release, Renderer, Values

CONDITION = "MigDevicesHealthy"
TAINT = "nvidia.com/gpu-needs-reset"

FEATURES: "dict[str, Values]" = {
    "labels": {"nodeLabels": {"mode": "api"}},
    "events": {"nodeEvents": True},
    "condition": {"nodeCondition": CONDITION},
    "taint": {"nodeTaint": f"{TAINT}:NoSchedule"},
    "startup": {"startupTaint": "nvidia.com/gpu-starting:NoSchedule"},
    "config": {"config": {"name": "configs"}},
    "partition": {"partition": {"enabled": True}},
    "evict": {"partition": {"enabled": True, "label": "", "inUse": "evict"}},
    "cleanup": {"nodeCleanUp": True},
}

WATCHED = {("list", "", "nodes"), ("watch", "", "nodes")}
#: The requests of each, as docs/cluster.md has them.
REQUESTS: dict[str, set[tuple[str, str, str]]] = {
    "labels": WATCHED | {("patch", "", "nodes")},
    "events": WATCHED
    | {("list", "", "pods")}
    | {(verb, "events.k8s.io", "events") for verb in ("create", "patch")},
    "condition": WATCHED | {("get", "", "nodes"), ("patch", "", "nodes/status")},
    "taint": WATCHED | {("get", "", "nodes"), ("patch", "", "nodes")},
    "startup": WATCHED | {("get", "", "nodes"), ("patch", "", "nodes")},
    "config": WATCHED,
    "partition": WATCHED | {("patch", "", "nodes")},
    "evict": {("list", "", "pods"), ("create", "", "pods/eviction")},
    "cleanup": WATCHED
    | {("get", "", "nodes"), ("patch", "", "nodes"), ("patch", "", "nodes/status")},
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = [
    *(("", name) for name in ("nodes", "nodes/status", "nodes/proxy", "pods", "pods/eviction")),
    *(("", name) for name in ("pods/exec", "pods/log", "events", "secrets", "configmaps")),
    *(("events.k8s.io", "events"), ("rbac.authorization.k8s.io", "clusterroles")),
    ("apps", "daemonsets"),
]


def chosen(features: Iterable[str]) -> "Values":
    values: Values = {}
    for feature in features:
        for key, value in FEATURES[feature].items():
            values[key] = values[key] | value if key in values else value
    if {"partition", "evict"} <= set(features):
        values["partition"] = {"enabled": True, "inUse": "evict"}
    return values


def subsets() -> list[tuple[str, ...]]:
    """Every feature alone, every pair, all but each, all, and none."""
    names = list(FEATURES)
    sizes = {0, 1, 2, len(names) - 1, len(names)}
    return [subset for size in sorted(sizes) for subset in combinations(names, size)]


def rules(release: "Release") -> list[dict[str, Any]]:
    """Of the daemon's role, which its account and no other has."""
    roles = [role for role in release.of_kind("ClusterRole") if ":daemon" in str(role)]
    bindings = [role for role in release.of_kind("ClusterRoleBinding") if ":daemon" in str(role)]
    for role, binding in zip(roles, bindings, strict=True):
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [
            {
                "kind": "ServiceAccount",
                "name": release.pod["serviceAccountName"],
                "namespace": "kube-system",
            }
        ]
    return [rule for role in roles for rule in role["rules"]]


def allowed(granted: Sequence[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """What the API server's own check lets through."""
    user = User("plugin", granted)

    def passes(verb: str, group: str, resource: str) -> bool:
        try:
            check(user, Attributes(verb, group, resource, "", ""))
        except Refused:
            return False
        return True

    return {
        (verb, group, resource)
        for verb in VERBS
        for group, resource in RESOURCES
        if passes(verb, group, resource)
    }


@pytest.mark.parametrize("features", subsets(), ids=lambda subset: "+".join(subset) or "none")
def test_rights_are_those_of_the_features_that_are_on(
    render: "Renderer", features: tuple[str, ...]
) -> None:
    release = render(chosen(features) | {"networkPolicy": {"enabled": True, "namespaces": ["m"]}})
    granted = rules(release)
    assert allowed(granted) == set[tuple[str, str, str]]().union(
        *(REQUESTS[feature] for feature in features)
    )
    assert "*" not in str(granted)
    assert "resourceNames" not in str(granted), "of a DaemonSet's pods, no rule can name the Node"
    # No token and no way to the API server without a feature that asks it.
    token = {
        "name": "token",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "readOnly": True,
    }
    assert (token in release.container["volumeMounts"]) is bool(features)
    (policy,) = release.of_kind("NetworkPolicy")
    assert bool(policy["spec"]["egress"]) is bool(features)


async def label(client: ApiClient, _server: "SimApiServer") -> None:
    watched = client.watch_node()
    async with running(watched):
        known = await until(watched, lambda known: known.synced)
    await client.patch_metadata(known.items[client.node], labels={"nvidia.com/mig.capable": "true"})


async def report(client: ApiClient, server: "SimApiServer") -> None:
    subject = Subject("Node", client.node, server.node(client.node)["metadata"]["uid"])
    event = Event("a.1", subject, EventType.WARNING, "GpuLost", "Watch", "lost", 1.0)
    await client.create_event(event)
    assert await client.repeat_event(event, 2, 2.0)


async def judge(client: ApiClient, _server: "SimApiServer") -> None:
    await client.get_node()
    await client.put_condition(
        NodeCondition(CONDITION, ConditionStatus.FALSE, "GpuLost", "lost", 1.0, 1.0)
    )
    await client.remove_condition(CONDITION)


async def taint(client: ApiClient, _server: "SimApiServer") -> None:
    node: Node = await client.get_node()
    await client.put_taints(node, (*node.taints, Taint(TAINT, TaintEffect.NO_SCHEDULE)))


async def follow(client: ApiClient, _server: "SimApiServer") -> None:
    watched = client.watch_node()
    async with running(watched):
        await until(watched, lambda known: known.live)


async def evict(client: ApiClient, server: "SimApiServer") -> None:
    server.add_pod(client.node, "train")
    pod = await client.find_pod("default", "train")
    assert pod is not None
    assert (await client.evict(pod)).outcome is Evicted.BEGUN


Asking = Callable[[ApiClient, "SimApiServer"], Awaitable[None]]
ASKING: dict[str, Asking] = {
    "labels": label,
    "events": report,
    "condition": judge,
    "taint": taint,
    "startup": taint,
    "config": follow,
    "partition": label,
    "evict": evict,
    "cleanup": judge,
}


@pytest.mark.parametrize("feature", FEATURES)
@virtual
async def test_each_feature_can_do_its_work(render: "Renderer", feature: str) -> None:
    """The client's own requests, at an API server that knows the rendered rules only."""
    user = User("plugin", rules(render(FEATURES[feature])))
    async with talking({"token": user}) as talk:
        await ASKING[feature](talk.client, talk.server)
        asked = {
            (request.asked.verb, request.asked.group, request.asked.resource)
            for request in talk.server.journal.requests
        }
    assert asked <= REQUESTS[feature]


def test_every_variable_is_an_option_of_the_daemon(render: "Renderer", case: "Values") -> None:
    known = {name for option in OPTIONS for name in option.envs}
    of_runtime = {
        f"NVIDIA_{name}"
        for name in ("VISIBLE_DEVICES", "DRIVER_CAPABILITIES", "MIG_MONITOR_DEVICES")
    } | {"NVIDIA_MIG_CONFIG_DEVICES", "TMPDIR"}
    added = {variable["name"] for variable in case.get("extraEnv", [])}
    assert render(case).env.keys() <= known | of_runtime | added


def test_the_features_reach_the_daemon(render: "Renderer", cases: "dict[str, Values]") -> None:
    env = render(cases["cluster"]).env
    assert {
        "NODE_LABELS": "true",
        "NODE_EVENTS": "true",
        "NODE_CONDITION": CONDITION,
        "NODE_TAINT": "nvidia.com/gpu-needs-reset:NoSchedule",
        "STARTUP_TAINT": "example.com/gpu-starting=yes:NoExecute",
    }.items() <= env.items()
    assert "FEATURES_FILE" not in env
    of_features = {"NODE_LABELS", "NODE_EVENTS", "NODE_CONDITION", "NODE_TAINT", "STARTUP_TAINT"}
    assert not of_features & render().env.keys()


@pytest.mark.parametrize(
    ("taints", "keys"),
    [
        ({}, []),
        ({"nodeTaint": "nvidia.com/a:NoSchedule"}, ["nvidia.com/a"]),
        (
            {"nodeTaint": "nvidia.com/a:NoSchedule", "startupTaint": "b=c:NoExecute"},
            ["nvidia.com/a", "b"],
        ),
        ({"nodeTaint": "a:NoSchedule", "startupTaint": "a:NoExecute"}, ["a"]),
    ],
)
def test_the_pods_tolerate_the_taints_that_they_remove(
    render: "Renderer", taints: dict[str, str], keys: list[str]
) -> None:
    wanted = [{"key": key, "operator": "Exists"} for key in keys]
    assert render(taints).pod["tolerations"] == render().pod["tolerations"] + wanted
    assert render(taints | {"tolerations": []}).pod.get("tolerations", []) == wanted


def test_the_token_is_readable_by_those_who_need_it(render: "Renderer") -> None:
    def mode(values: "Values") -> int:
        (volume,) = (item for item in render(values).pod["volumes"] if item["name"] == "token")
        found: int = volume["projected"]["defaultMode"]
        return found

    proxy: Values = {"http": {"rbacProxy": {"enabled": True}}}
    assert mode(FEATURES["labels"]) == 0o400
    assert mode(proxy) == mode(proxy | FEATURES["labels"]) == 0o444
    mounts = render(proxy).container["volumeMounts"]
    assert "token" not in {mount["name"] for mount in mounts}, "only the proxy asks"


def test_the_policy_names_the_ways_to_the_api_server(
    render: "Renderer", cases: "dict[str, Values]"
) -> None:
    def egress(values: "Values") -> Any:
        (policy,) = render(values).of_kind("NetworkPolicy")
        return policy["spec"]["egress"]

    some: Values = {"networkPolicy": {"namespaces": ["monitoring"]}}
    ports = [{"port": port, "protocol": "TCP"} for port in (443, 6443)]
    assert egress(some) == []
    assert egress(some | FEATURES["labels"]) == [{"ports": ports}]
    assert egress(some | {"nodeLabels": {"mode": "nfd"}}) == []
    assert egress(cases["cluster"]) == [
        {
            "ports": [{"port": 16443, "protocol": "TCP"}],
            "to": [{"ipBlock": {"cidr": cidr}} for cidr in ("10.0.0.10/32", "fd00::1/128")],
        }
    ]


NFD = "/etc/kubernetes/node-feature-discovery/features.d"


@pytest.mark.parametrize(
    ("labels", "folder", "file"),
    [
        ({"mode": "none"}, None, None),
        ({"mode": "api"}, None, None),
        ({"mode": "nfd"}, NFD, f"{NFD}/mig-device-plugin"),
        (
            {"mode": "nfd", "featuresFolder": "/srv/features.d/"},
            "/srv/features.d",
            "/srv/features.d/mig-device-plugin",
        ),
        ({"mode": "none", "featuresFolder": NFD}, None, None),
    ],
)
def test_labels_through_node_feature_discovery_take_a_folder_and_no_token(
    render: "Renderer", labels: dict[str, str], folder: str | None, file: str | None
) -> None:
    release = render({"nodeLabels": labels})
    assert release.env.get("FEATURES_FILE") == file
    more = release.host_mounts.keys() - render().host_mounts.keys()
    assert more == ({folder} if folder else set())
    if folder:
        assert release.host_mounts[folder] == (folder, False)
    assert bool(release.of_kind("ClusterRole")) is (labels["mode"] == "api")


def test_a_file_that_is_wanted_no_more_can_be_removed(
    render: "Renderer", cases: "dict[str, Values]"
) -> None:
    """The daemon must see the folder for that."""
    release = render(cases["clean-up"])
    assert release.host_mounts["/srv/features.d"] == ("/srv/features.d", False)
    assert "FEATURES_FILE" not in release.env
