"""The ValidatingAdmissionPolicy: its expressions, evaluated by Google's own implementation over
what the client really writes and over what it must never write.
"""

import copy
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from cel_expr_python import cel  # type: ignore[import-untyped]  # has stubs but no py.typed
from cel_expr_python.ext import ext_optional  # type: ignore[import-untyped]
from msgspec.structs import replace

from plugin.core.labels.grammar import OURS
from plugin.core.labels.node import labels
from plugin.core.settings import MigStrategy, Settings
from plugin.sim.hardware.engine import parse_node
from tests.chart.test_cluster import ASKING, CONDITION, FEATURES, TAINT, chosen
from tests.integration.cluster.clock import virtual
from tests.integration.cluster.subject import NODE, talking
from tests.simulated import scan
from tests.unit.builders import snapshot

if TYPE_CHECKING:
    from .conftest import Manifest, Renderer

ACCOUNT = "system:serviceaccount:kube-system:gpu-mig-device-plugin"
NODE_NAME = "authentication.kubernetes.io/node-name"
POLICY = {"admissionPolicy": {"enabled": True}}


class Policy:
    """A rendered policy, compiled."""

    def __init__(self, manifest: "Manifest") -> None:
        dyn = cel.Type.DYN
        env = cel.NewEnv(
            variables=dict.fromkeys(("request", "object", "oldObject", "variables"), dyn),
            extensions=[ext_optional.ExtOptional()],
        )
        spec = manifest["spec"]
        self._conditions = [env.compile(item["expression"]) for item in spec["matchConditions"]]
        self._variables = {
            item["name"]: env.compile(item["expression"]) for item in spec["variables"]
        }
        self._validations = [
            (env.compile(item["expression"]), item["message"]) for item in spec["validations"]
        ]
        assert all(item["reason"] == "Forbidden" for item in spec["validations"])
        assert spec["failurePolicy"] == "Fail"

    def refusals(
        self,
        before: Any,
        after: Any,
        *,
        operation: str = "UPDATE",
        user: str = ACCOUNT,
        node: str | None = NODE,
    ) -> list[str]:
        """The messages of the validations that fail; none where the policy is not concerned."""
        info: dict[str, Any] = {"username": user}
        if node is not None:
            info["extra"] = {NODE_NAME: [node], "authentication.kubernetes.io/pod-name": ["x"]}
        data = {
            "request": {"operation": operation, "name": NODE, "userInfo": info},
            "object": after,
            "oldObject": before,
        }
        if not all(self._value(condition, data) for condition in self._conditions):
            return []
        variables = {}
        for name, expression in self._variables.items():
            # Kubernetes evaluates a variable only where it is used.
            if operation == "UPDATE" or name == "node":
                variables[name] = self._value(expression, data)
        data["variables"] = variables
        return [
            message
            for expression, message in self._validations
            if not self._value(expression, data)
        ]

    def _value(self, expression: Any, data: dict[str, Any]) -> Any:
        value = expression.eval(data=data)
        assert value.type() != cel.Type.ERROR, value.value()
        return value.plain_value()


@pytest.fixture(scope="session")
def policies(render: "Renderer") -> Callable[..., Policy]:
    made: dict[tuple[str, ...], Policy] = {}

    def policy(*features: str) -> Policy:
        if features not in made:
            release = render(chosen(features) | POLICY)
            (manifest,) = release.of_kind("ValidatingAdmissionPolicy")
            (binding,) = release.of_kind("ValidatingAdmissionPolicyBinding")
            assert binding["spec"] == {
                "policyName": manifest["metadata"]["name"],
                "validationActions": ["Deny"],
            }
            made[features] = Policy(manifest)
        return made[features]

    return policy


@pytest.mark.parametrize("feature", ["labels", "condition", "taint"])
@virtual
async def test_what_a_feature_writes_passes_with_it_and_only_with_it(
    policies: Callable[..., Policy], feature: str
) -> None:
    async with talking() as talk:
        talk.server.change(
            "nodes", NODE, {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}
        )
        before = talk.server.node(NODE)
        await ASKING[feature](talk.client, talk.server)
        after = talk.server.node(NODE)
    if feature == "condition":  # added and removed again
        before, after = after, copy.deepcopy(after)
        after["status"]["conditions"].append({"type": CONDITION, "status": "False"})
    assert before != after
    assert policies(feature).refusals(before, after) == []
    assert policies(feature).refusals(after, before) == [], "and may be removed"
    assert policies(*FEATURES).refusals(before, after) == []
    (refusal,) = policies("config").refusals(before, after)
    assert "its own" in refusal or "are its own" in refusal


@pytest.mark.parametrize("node", ["gpu-2", None])
def test_another_nodes_pod_and_a_token_without_a_pod_are_refused(
    policies: Callable[..., Policy], node: str | None
) -> None:
    (refusal,) = policies("labels").refusals(whole_node(), whole_node(), node=node)
    assert "the Node of its own pod" in refusal
    other = "system:serviceaccount:kube-system:another"
    assert policies("labels").refusals(whole_node(), changed(CAPACITY), user=other, node=node) == []


@pytest.mark.parametrize("operation", ["CREATE", "DELETE"])
def test_nodes_are_neither_created_nor_deleted(
    policies: Callable[..., Policy], operation: str
) -> None:
    before = None if operation == "CREATE" else whole_node()
    after = whole_node() if operation == "CREATE" else None
    (refusal,) = policies(*FEATURES).refusals(before, after, operation=operation)
    assert "creates and deletes none" in refusal


def whole_node() -> dict[str, Any]:
    return {
        "metadata": {
            "name": NODE,
            "labels": {
                "kubernetes.io/hostname": NODE,
                "nvidia.com/gpu.deploy.mig-manager": "true",
                "nvidia.com/mig.config": "all-balanced",
                "nvidia.com/mig.config.state": "pending",
            },
            "annotations": {"a": "b", "nvidia.com/mig-device-plugin.labels": "x"},
        },
        "spec": {
            "podCIDR": "10.1.0.0/24",
            "providerID": "x://1",
            "taints": [
                {"key": "other", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
            ],
        },
        "status": {
            "capacity": {"cpu": "8"},
            "allocatable": {"cpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "images": [{"names": ["x"], "sizeBytes": 1}],
        },
    }


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    node = whole_node()
    change(node)
    return node


def CAPACITY(node: dict[str, Any]) -> None:  # noqa: N802 — a change, named as the others
    node["status"]["capacity"]["nvidia.com/gpu"] = "8"


#: What no feature writes.
FOREIGN: dict[str, Callable[[dict[str, Any]], object]] = {
    "capacity": CAPACITY,
    "allocatable": lambda node: node["status"].pop("allocatable"),
    "address": lambda node: node["status"]["addresses"].clear(),
    "image": lambda node: node["status"]["images"].append({"names": ["y"]}),
    "ready": lambda node: node["status"]["conditions"][0].update(status="False"),
    "no condition": lambda node: node["status"].pop("conditions"),
    "another condition": lambda node: node["status"]["conditions"].append({"type": "X"}),
    "cordon": lambda node: node["spec"].update(unschedulable=True),
    "pod range": lambda node: node["spec"].update(podCIDR="10.2.0.0/24"),
    "provider": lambda node: node["spec"].pop("providerID"),
    "another taint": lambda node: node["spec"]["taints"].append(
        {"key": "x", "effect": "NoExecute"}
    ),
    "removed taint": lambda node: node["spec"].pop("taints"),
    "changed taint": lambda node: node["spec"]["taints"][0].update(effect="NoSchedule"),
    "another label": lambda node: node["metadata"]["labels"].update({"role": "admin"}),
    "changed label": lambda node: node["metadata"]["labels"].update(
        {"kubernetes.io/hostname": "x"}
    ),
    "no labels": lambda node: node["metadata"].pop("labels"),
    "the operator's label": lambda node: node["metadata"]["labels"].update(
        {"nvidia.com/gpu.deploy.mig-manager": "false"}
    ),
    "which nodes have GPUs": lambda node: node["metadata"]["labels"].update(
        {"nvidia.com/gpu.present": "true"}
    ),
    "the wanted configuration": lambda node: node["metadata"]["labels"].update(
        {"nvidia.com/mig.config": "all-disabled"}
    ),
    "a likely key": lambda node: node["metadata"]["labels"].update({"xnvidia.com/gpu.count": "1"}),
    "another annotation": lambda node: node["metadata"]["annotations"].update({"c": "d"}),
    "changed annotation": lambda node: node["metadata"]["annotations"].update({"a": "c"}),
    "removed annotation": lambda node: node["metadata"]["annotations"].pop("a"),
    "finalizer": lambda node: node["metadata"].update(finalizers=["x/y"]),
    "owner": lambda node: node["metadata"].update(ownerReferences=[{"uid": "x"}]),
}


@pytest.mark.parametrize("change", FOREIGN)
def test_foreign_parts_of_the_own_node_stay(policies: Callable[..., Policy], change: str) -> None:
    policy = policies(*FEATURES)
    before, after = whole_node(), changed(FOREIGN[change])
    assert len(policy.refusals(before, after)) == 1
    assert len(policy.refusals(after, before)) == 1, "nor is it put back"


OWN: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "state": (
        "partition",
        lambda node: node["metadata"]["labels"].update({"nvidia.com/mig.config.state": "success"}),
    ),
    "annotation": (
        "config",
        lambda node: node["metadata"]["annotations"].pop("nvidia.com/mig-device-plugin.labels"),
    ),
    "taint": (
        "taint",
        lambda node: node["spec"]["taints"].append({"key": TAINT, "effect": "NoSchedule"}),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_own_parts_may_change(policies: Callable[..., Policy], name: str) -> None:
    feature, change = OWN[name]
    assert policies(feature).refusals(whole_node(), changed(change)) == []
    assert policies(feature).refusals(changed(change), whole_node()) == []


def test_the_daemons_own_labels_are_those_that_it_removes(render: "Renderer") -> None:
    """A policy cannot import Python: the same patterns stand in both places."""
    (manifest,) = render(FEATURES["labels"] | POLICY).of_kind("ValidatingAdmissionPolicy")
    expressions = " ".join(item["expression"] for item in manifest["spec"]["validations"])
    found = set(re.findall(r'key\.matches\("\^nvidia\\\\\.com/\((.*?)\)\$"\)', expressions))
    assert {pattern.replace("\\\\", "\\") for pattern in found} == {"|".join(OURS)}


@pytest.mark.parametrize("strategy", MigStrategy)
@pytest.mark.parametrize("node", ["p4d.24xlarge:all-1g.5gb", "2xa100-40gb:0=1g.5gb*7;1=balanced"])
def test_every_label_that_the_daemon_makes_passes(
    policies: Callable[..., Policy], node: str, strategy: MigStrategy
) -> None:
    scanned = snapshot(scan(parse_node(node)), Settings(mig_strategy=strategy))
    found = labels(replace(scanned, geometry=1))
    assert found is not None
    after = changed(lambda whole: whole["metadata"]["labels"].update(found.values))
    assert policies("labels").refusals(whole_node(), after) == []
    assert policies("labels").refusals(after, whole_node()) == []


def test_the_account_may_have_another_name(render: "Renderer") -> None:
    release = render(
        chosen(["labels"]) | POLICY | {"serviceAccount": {"name": "mine"}}, namespace="gpu"
    )
    (manifest,) = release.of_kind("ValidatingAdmissionPolicy")
    policy = Policy(manifest)
    assert policy.refusals(whole_node(), changed(CAPACITY)) == []
    assert policy.refusals(whole_node(), changed(CAPACITY), user="system:serviceaccount:gpu:mine")
