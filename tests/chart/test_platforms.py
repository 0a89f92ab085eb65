"""docs/platforms.md: each platform's values render to manifests that every supported Kubernetes
accepts and that have what the platform needs; the table of privileges is what the chart asks for.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information
import pytest
import yaml

from plugin.config.load import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Manifest, Release, Renderer, Values

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "platforms.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")

#: Every version whose schemas there are, from the oldest that the chart allows.
KUBERNETES = sorted(
    {
        ".".join(found.groups())
        for entry in (files(kubernetes_validate) / "kubernetes-json-schema").iterdir()
        if (found := re.match(r"v(\d+)\.(\d+)\.", entry.name))
    },
    key=lambda version: [int(part) for part in version.split(".")],
)

KUBELET = "/var/lib/kubelet"
SNAP = "/var/snap/microk8s/common/var/lib/kubelet"
DEFAULTS: dict[str, Any] = {
    "runtimeClassName": "nvidia",
    "device-plugins": f"{KUBELET}/device-plugins",
    "pod-resources": f"{KUBELET}/pod-resources",
    "ledger": "/var/lib/mig-device-plugin",
    "dev": "/dev",
    "driver-root": None,
    "privileged": False,
    "capabilities": ["SYS_ADMIN"],
    "seLinux": None,
    "DEVICE_LIST_STRATEGY": None,
    "NVIDIA_DRIVER_ROOT": "/",
    "nodes": "feature.node.kubernetes.io/pci-10de.present",
    "propagation": set(),
}

#: Heading of the document → what its manifests must have, where that differs from the defaults.
PLATFORMS: dict[str, dict[str, Any]] = {
    "kubeadm, and clusters with NVIDIA's GPU operator": {
        "NVIDIA_DRIVER_ROOT": "/run/nvidia/driver",
        "dev": "/run/nvidia/driver/dev",
        "propagation": {"/driver-root/dev"},
    },
    "k0s": {"pod-resources": "/var/lib/k0s/kubelet/pod-resources"},
    "MicroK8s": {"pod-resources": f"{SNAP}/pod-resources"},
    "k3s": {},
    "RKE2": {"seLinux": {"type": "spc_t"}},
    "Talos": {"ledger": f"{KUBELET}/mig-device-plugin"},
    "Bottlerocket": {
        "runtimeClassName": None,
        "DEVICE_LIST_STRATEGY": "volume-mounts",
        "nodes": "kubernetes.io/os",
    },
    "EKS GPU images": {"runtimeClassName": None},
    "GKE": {
        "runtimeClassName": None,
        "driver-root": "/home/kubernetes/bin/nvidia",
        "NVIDIA_DRIVER_ROOT": "/home/kubernetes/bin/nvidia",
        "privileged": True,
        "capabilities": [],
        "nodes": "cloud.google.com/gke-accelerator",
        "propagation": {"/driver-root"},
    },
    "Plain containerd or CRI-O": {
        "runtimeClassName": None,
        "driver-root": "/",
        "privileged": True,
        "capabilities": [],
        "DEVICE_LIST_STRATEGY": "cdi-cri",
    },
    "No GPU": {
        "runtimeClassName": None,
        "ledger": None,
        "dev": None,
        "capabilities": [],
        "NVIDIA_DRIVER_ROOT": None,
        "nodes": None,
    },
}


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def values_of(section: str) -> "list[Values]":
    blocks = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def seen(release: "Release") -> dict[str, Any]:
    """What the table is about."""
    host = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in release.pod["volumes"]
        if "hostPath" in volume
    }
    context = release.container["securityContext"]
    return {
        "runtimeClassName": release.pod.get("runtimeClassName"),
        **{name: host.get(name) for name in ("device-plugins", "pod-resources", "ledger", "dev")},
        "driver-root": host.get("driver-root"),
        "privileged": context["privileged"],
        "capabilities": context.get("capabilities", {}).get("add", []),
        "seLinux": release.pod.get("securityContext", {}).get("seLinuxOptions"),
        "DEVICE_LIST_STRATEGY": release.env.get("DEVICE_LIST_STRATEGY"),
        "NVIDIA_DRIVER_ROOT": release.env.get("NVIDIA_DRIVER_ROOT"),
        "nodes": next(iter(node_labels(release.pod)), None),
        "propagation": {
            mount["mountPath"]
            for mount in release.container["volumeMounts"]
            if mount.get("mountPropagation") == "HostToContainer"
        },
    }


def node_labels(pod: "Manifest") -> list[str]:
    """Labels that decide where the pods go."""
    required = (
        pod.get("affinity", {})
        .get("nodeAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": []})
    )
    terms = [
        expression["key"]
        for term in required["nodeSelectorTerms"]
        for expression in term["matchExpressions"]
    ]
    return [*terms, *pod.get("nodeSelector", {})]


def test_every_platform_has_a_section_with_values() -> None:
    assert PLATFORMS.keys() == {
        heading for heading, text in sections().items() if values_of(text)
    } - {"Who can read metrics and state"}
    assert KUBERNETES[0] == "1.25"
    assert len(KUBERNETES) >= len(range(25, 38))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_manifests_have_what_the_platform_needs(render: "Renderer", platform: str) -> None:
    values, *_ = values_of(sections()[platform])
    release = render(values)
    assert seen(release) == DEFAULTS | PLATFORMS[platform]
    for kubernetes in KUBERNETES:
        for manifest in release.manifests:
            assert kubernetes_validate.validate(manifest, kubernetes, strict=True) == kubernetes
    load({}, release.env)


def test_other_values_of_the_document_render(render: "Renderer") -> None:
    for section in sections().values():
        for values in values_of(section):
            assert render(values).manifests


def rows(name: str = "privileges") -> list[list[str]]:
    _, _, rest = TEXT.partition(f"<!-- begin {name} -->\n")
    table, _, _ = rest.partition(f"<!-- end {name} -->")
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_privileges_is_whole() -> None:
    wanted = {
        (f"`{access}`", f"`{strategy}`")
        for access in ("runtime", "host", "cdi", "simulation")
        for strategy in ("none", "single", "mixed")
    }
    assert {(row[0], row[1]) for row in rows()} == wanted
    assert len(rows()) == len(wanted)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-{row[1]}".replace("`", ""))
def test_the_chart_asks_for_no_more_than_the_table(render: "Renderer", row: list[str]) -> None:
    access, strategy, *cells = row
    values: Values = {"driver": {"access": access.strip("`")}, "migStrategy": strategy.strip("`")}
    if access == "`simulation`":
        values["simulation"] = {"node": "p4d.24xlarge"}
    release = render(values)
    context = release.container["securityContext"]
    privileged = context["privileged"]
    mounts = release.host_mounts.values()
    assert cells == [
        "yes" if privileged else "no",
        "all"
        if privileged
        else ", ".join(f"`{name}`" for name in context["capabilities"].get("add", [])) or "none",
        "yes" if context.get("allowPrivilegeEscalation", privileged) else "no",
        paths(path for path, read_only in mounts if read_only),
        paths(path for path, read_only in mounts if not read_only),
    ]
    if not privileged:
        assert context["capabilities"]["drop"] == ["ALL"]
    assert context["runAsUser"] == 0
    assert context["readOnlyRootFilesystem"] is True
    assert release.pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & release.pod.keys()
    sees_mig = access == "`runtime`" and strategy != "`none`"
    assert ("NVIDIA_MIG_MONITOR_DEVICES" in release.env) is sees_mig


BASE: "Values" = {"migStrategy": "none"}


@pytest.mark.parametrize("row", rows("features"), ids=lambda row: row[0].replace("`", ""))
def test_a_feature_adds_what_the_table_says(render: "Renderer", row: list[str]) -> None:
    named, *cells = row
    values: Values = {}
    for word in re.findall(r"`([^`]+)`", named):
        path, _, text = word.partition("=")
        *groups, key = path.split(".")
        at = values
        for group in groups:
            at = at.setdefault(group, {})
        at[key] = yaml.safe_load(text) if text in {"true", "false"} else text
    before, after = render(BASE), render(BASE | values)
    rules = [rule for role in after.of_kind("ClusterRole") for rule in role["rules"]]
    assert cells == [
        ", ".join(
            f"`{name}`"
            for name in after.container["securityContext"]["capabilities"].get("add", [])
        )
        or "none",
        "; ".join(sorted(added(before, after))) or "none",
        "; ".join(f"`{rule['resources'][0]}`: {', '.join(rule['verbs'])}" for rule in rules)
        or "none",
    ]
    assert after.container["securityContext"]["privileged"] is False
    token = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 — a path
    mounted = {mount["mountPath"] for mount in after.container["volumeMounts"]}
    assert (token in mounted) is bool(rules)


def added(before: "Release", after: "Release") -> "Iterator[str]":
    """Host paths that the second has and the first has not."""
    lost = {path for path, _ in before.host_mounts.values()} - {
        path for path, _ in after.host_mounts.values()
    }
    for path, read_only in set(after.host_mounts.values()) - set(before.host_mounts.values()):
        instead = f", in place of {paths(lost)}" if read_only and lost else ""
        yield f"`{path}`, {'read-only' if read_only else 'writable'}{instead}"


def paths(found: Any) -> str:
    return ", ".join(f"`{path}`" for path in sorted(set(found)))
