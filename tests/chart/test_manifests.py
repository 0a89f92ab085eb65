"""What every set of values must render to: valid objects, conventional labels, no more host than
needed.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information
import pytest

import plugin

if TYPE_CHECKING:
    from .conftest import Renderer

#: The oldest that the chart allows, and the newest whose schemas there are.
KUBERNETES = ("1.25", "1.37")
#: Kinds that came later.
SINCE = {"ValidatingAdmissionPolicy": (1, 30), "ValidatingAdmissionPolicyBinding": (1, 30)}
#: Of the Prometheus operator's kinds, what the chart uses: Kubernetes' schemas do not have them.
MONITORING = json.loads((Path(__file__).parent / "monitoring.schema.json").read_text())


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_manifests_are_valid_for_kubernetes(
    render: "Renderer", case: dict[str, Any], kubernetes: str
) -> None:
    release = render(case)
    assert release.manifests
    for manifest in release.manifests:
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            jsonschema.validate(manifest, MONITORING)
        elif SINCE.get(manifest["kind"], (1, 25)) <= tuple(map(int, kubernetes.split("."))):
            assert kubernetes_validate.validate(manifest, kubernetes, strict=True) == kubernetes


def test_helm_finds_nothing_to_complain_about(chart_path: Path, case: dict[str, Any]) -> None:
    report = helm_python.lint(chart_path, case, strict=True, namespace="kube-system")
    findings = [
        message for message in report["messages"] if message["error"] != "icon is recommended"
    ]
    assert (findings, report["errors"]) == ([], [])


def test_chart_packages_with_its_schema_and_readme(chart_path: Path, tmp_path: Path) -> None:
    with helm_python.Chart.load(helm_python.package(chart_path, destination=tmp_path)) as chart:
        assert (chart.name, chart.version) == ("mig-device-plugin", "0.1.0")
        assert chart.metadata["appVersion"] == plugin.__version__, (
            "the image of this source's version"
        )
        assert chart.schema
        assert "README.md" in {file["name"] for file in chart.files}


def test_objects_carry_the_conventional_labels(render: "Renderer", case: dict[str, Any]) -> None:
    release = render(case)
    name = case.get("nameOverride", "mig-device-plugin")
    selector = {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": "gpu"}
    labels = selector | {
        "helm.sh/chart": "mig-device-plugin-0.1.0",
        "app.kubernetes.io/version": "0.1.0",
        "app.kubernetes.io/component": "device-plugin",
        "app.kubernetes.io/managed-by": "Helm",
    }
    for manifest in release.manifests:
        own = {
            "PodMonitor": "podMonitor",
            "PrometheusRule": "prometheusRule",
            "ConfigMap": "dashboard" if manifest["metadata"]["name"].endswith("-dashboard") else "",
        }.get(manifest["kind"], "")
        added = case.get(own, {}).get(
            "labels", {"grafana_dashboard": "1"} if own == "dashboard" else {}
        )
        assert manifest["metadata"]["labels"] == labels | added
        of_cluster = manifest["kind"] in {"ClusterRole", "ClusterRoleBinding", *SINCE}
        assert manifest["metadata"].get("namespace") == (None if of_cluster else "kube-system")
    assert release.daemonset["spec"]["selector"]["matchLabels"] == selector
    assert labels.items() <= release.daemonset["spec"]["template"]["metadata"]["labels"].items()


def test_no_pod_shares_more_or_writes_elsewhere_than_it_must(
    render: "Renderer", case: dict[str, Any]
) -> None:
    release = render(case)
    assert release.pod["automountServiceAccountToken"] is False
    assert all(
        account["automountServiceAccountToken"] is False
        for account in release.of_kind("ServiceAccount")
    )
    assert release.container["securityContext"]["readOnlyRootFilesystem"] is True
    shared = {"hostNetwork", "hostPID", "hostIPC"} & release.pod.keys()
    asked = {"hostNetwork": case, "hostPID": case.get("partition", {})}
    assert shared == {key for key, values in asked.items() if values.get(key)}
    writable = {
        mount["mountPath"]
        for mount in release.container["volumeMounts"]
        if not mount.get("readOnly")
    }
    volumes = {
        mount["mountPath"]
        for mount in release.container["volumeMounts"]
        if mount["name"] in {"ledger", "cdi", "features"}
        or (mount["name"] == "dev" and case.get("partition", {}).get("enabled"))
    }
    kept = volumes & release.host_mounts.keys()
    assert writable == {"/var/lib/kubelet/device-plugins", "/run/mig-device-plugin"} | kept
    assert release.env["TMPDIR"] == "/run/mig-device-plugin"


def test_every_mount_has_its_volume_and_every_volume_its_mount(
    render: "Renderer", case: dict[str, Any]
) -> None:
    release = render(case)
    volumes = [volume["name"] for volume in release.pod["volumes"]]
    assert len(volumes) == len(set(volumes))
    mounts = [container["volumeMounts"] for container in release.pod["containers"]]
    assert set(volumes) == {mount["name"] for container in mounts for mount in container}
    for container in mounts:
        paths = [mount["mountPath"] for mount in container]
        assert len(paths) == len(set(paths))


def test_host_paths_must_exist(render: "Renderer", case: dict[str, Any]) -> None:
    """A wrong path must show as an event, not be created as an empty directory."""
    host_paths = {v["name"]: v["hostPath"] for v in render(case).pod["volumes"] if "hostPath" in v}
    kinds = {name: path["type"] for name, path in host_paths.items()}
    for name in ("ledger", "cdi", "features"):
        assert kinds.pop(name, "DirectoryOrCreate") == "DirectoryOrCreate", (
            "what the daemon writes, and others may not have made yet"
        )
    assert set(kinds.values()) == {"Directory"}


def test_a_node_critical_daemon_that_is_replaced_one_node_at_a_time(render: "Renderer") -> None:
    release = render()
    assert release.pod["priorityClassName"] == "system-node-critical"
    assert release.daemonset["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1},
    }
    assert release.pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "CriticalAddonsOnly", "operator": "Exists"},
    ]
    assert release.container["command"] + release.container["args"] == ["mig-device-plugin", "run"]


def test_names_follow_the_release_and_its_overrides(render: "Renderer") -> None:
    def names(**values: str) -> set[str]:
        return {manifest["metadata"]["name"] for manifest in render(values).manifests}

    assert names() == {"gpu-mig-device-plugin"}
    assert names(nameOverride="mig") == {"gpu-mig"}
    assert names(fullnameOverride="exactly") == {"exactly"}
    assert render(name="mig-device-plugin").daemonset["metadata"]["name"] == "mig-device-plugin"


@pytest.mark.parametrize(
    ("account", "used", "made"),
    [
        ({}, "gpu-mig-device-plugin", ["gpu-mig-device-plugin"]),
        ({"name": "mine"}, "mine", ["mine"]),
        ({"create": False}, "default", []),
        ({"create": False, "name": "mine"}, "mine", []),
    ],
)
def test_service_account(
    render: "Renderer", account: dict[str, Any], used: str, made: list[str]
) -> None:
    release = render({"serviceAccount": account})
    assert release.pod["serviceAccountName"] == used
    assert [manifest["metadata"]["name"] for manifest in release.of_kind("ServiceAccount")] == made


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "localhost/mig-device-plugin:0.1.0"),
        (
            {"repository": "registry.example:5000/mig", "tag": "1.2"},
            "registry.example:5000/mig:1.2",
        ),
        (
            {"tag": "1.2", "digest": "sha256:" + "b" * 64},
            "localhost/mig-device-plugin@sha256:" + "b" * 64,
        ),
    ],
)
def test_image_reference(render: "Renderer", image: dict[str, str], reference: str) -> None:
    assert render({"image": image}).container["image"] == reference


def test_values_reach_the_pod(render: "Renderer", cases: dict[str, dict[str, Any]]) -> None:
    values = cases["everything-else"]
    release = render(values)
    metadata = release.daemonset["spec"]["template"]["metadata"]
    assert metadata["annotations"] == {"a": "b"}
    assert metadata["labels"]["team"] == "ml"
    assert release.daemonset["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert release.pod["imagePullSecrets"] == [{"name": "registry"}]
    assert release.pod["securityContext"] == {"seLinuxOptions": {"type": "spc_t"}}
    assert release.pod["affinity"] == values["affinity"]
    assert release.pod["nodeSelector"] == {"pool": "gpu"}
    assert release.pod["tolerations"] == [{"operator": "Exists"}]
    assert release.container["imagePullPolicy"] == "Always"
    assert release.container["args"] == ["run", "--log-level=debug"]
    assert release.env["A"] == "b"


def test_optional_parts_can_be_left_out(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["nothing-optional"])
    assert (
        not {"affinity", "tolerations", "priorityClassName", "nodeSelector", "securityContext"}
        & release.pod.keys()
    )
    assert "annotations" not in release.daemonset["spec"]["template"]["metadata"]
    assert not release.container.get("resources")


@pytest.mark.parametrize("case_name", ["all-options", "tls", "simulation", "no-ledger"])
def test_extra_env_replaces_every_variable_of_the_chart(
    render: "Renderer", cases: dict[str, dict[str, Any]], case_name: str
) -> None:
    values = cases[case_name]
    names = [variable["name"] for variable in render(values).container["env"]]
    off = {f"{probe}Probe": {"enabled": False} for probe in ("startup", "liveness", "readiness")}
    for name in names:
        if name == "SIMULATE":
            continue  # refused: it would leave the privileges of a real node
        replaced = values | {"extraEnv": [{"name": name, "value": "mine"}]}
        if name.startswith("HTTP_"):  # refused while probes follow the chart's values
            replaced["http"] = values.get("http", {}) | off
        release = render(replaced)
        assert release.env[name] == "mine"
        assert sorted(variable["name"] for variable in release.container["env"]) == sorted(names)


def test_extra_env_may_come_from_elsewhere(render: "Renderer") -> None:
    source = {"fieldRef": {"fieldPath": "status.hostIP"}}
    release = render({"extraEnv": [{"name": "NODE_NAME", "valueFrom": source}]})
    assert release.env_sources == {"NODE_NAME": source}


def test_what_people_ask_for_reaches_the_pod(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["asked-for"])
    assert release.pod["hostNetwork"] is True
    assert release.pod["dnsPolicy"] == "None"
    assert release.pod["dnsConfig"] == {"nameservers": ["10.0.0.10"]}
    assert release.daemonset["metadata"]["annotations"] == {"reloader.stakater.com/auto": "true"}
    assert {"name": "more", "emptyDir": {}} in release.pod["volumes"]
    assert {"name": "more", "mountPath": "/more", "readOnly": True} in release.container[
        "volumeMounts"
    ]
    usual = render()
    assert not {"hostNetwork", "dnsPolicy", "dnsConfig"} & usual.pod.keys()
    assert "annotations" not in usual.daemonset["metadata"]


def test_null_is_as_good_as_empty(render: "Renderer") -> None:
    """Helm takes a value away that is set to null."""
    nothing = dict.fromkeys(
        (
            *("extraArgs", "extraEnv", "extraVolumes", "extraVolumeMounts", "dnsPolicy"),
            *("dnsConfig", "annotations", "securityContext", "podSecurityContext", "affinity"),
            *("hostNetwork", "namespaceOverride"),
            *("nodeEvents", "nodeCondition", "nodeTaint", "startupTaint", "nodeCleanUp"),
        )
    )
    assert render(nothing).manifests == render().manifests
    partition = {"enabled": True, "label": ""}
    for values in (
        {"config": {"name": "configs", "label": ""}},
        {"config": {"map": {}, "default": ""}},
        {"partition": partition | {"inline": {}, "config": "", "hostPID": False}},
    ):
        (group, members), *_ = values.items()
        without = {key: value or None for key, value in members.items()}
        assert render({group: without}).manifests == render(values).manifests


def test_namespace_can_be_another_than_the_releases(
    render: "Renderer", case: dict[str, Any]
) -> None:
    release = render(case | {"namespaceOverride": "gpu-system"})
    named = {manifest["metadata"].get("namespace", "gpu-system") for manifest in release.manifests}
    assert named == {"gpu-system"}
    assert "kube-system" not in json.dumps(release.of_kind("ClusterRoleBinding"))
    assert " -n kube-system " not in release.notes
