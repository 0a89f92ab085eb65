"""The three ways to the driver: exactly the privileges, mounts and variables that each needs."""

from typing import TYPE_CHECKING, Any

import pytest

from plugin.config.load import load

if TYPE_CHECKING:
    from .conftest import Renderer

KUBELET = {
    "/var/lib/kubelet/device-plugins": ("/var/lib/kubelet/device-plugins", False),
    "/var/lib/kubelet/pod-resources": ("/var/lib/kubelet/pod-resources", True),
}
LEDGER = {"/var/lib/mig-device-plugin": ("/var/lib/mig-device-plugin", False)}
GPU_NODE_TERMS = [
    {"key": "feature.node.kubernetes.io/pci-10de.present", "operator": "In", "values": ["true"]},
    {
        "key": "feature.node.kubernetes.io/cpu-model.vendor_id",
        "operator": "In",
        "values": ["NVIDIA"],
    },
    {"key": "nvidia.com/gpu.present", "operator": "In", "values": ["true"]},
]


def propagation(container: dict[str, Any]) -> dict[str, str]:
    return {
        mount["mountPath"]: mount.get("mountPropagation", "None")
        for mount in container["volumeMounts"]
    }


def test_runtime_access_takes_one_capability_and_looks_at_the_host(render: "Renderer") -> None:
    release = render()
    assert release.pod["runtimeClassName"] == "nvidia"
    assert release.container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": True,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert release.host_mounts == KUBELET | LEDGER | {
        "/driver-root/dev": ("/dev", True),
        "/host/proc/driver": ("/proc/driver", True),
    }
    assert {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "utility",
        "NVIDIA_MIG_MONITOR_DEVICES": "all",
        "NVIDIA_DRIVER_ROOT": "/",
        "NVIDIA_DEV_ROOT": "/",
        "DRIVER_ROOT_CTR_PATH": "/driver-root",
        "PROC_ROOT": "/host/proc",
    }.items() <= release.env.items()


def test_runtime_class_can_be_another(render: "Renderer") -> None:
    assert render({"runtimeClassName": "nvidia-cdi"}).pod["runtimeClassName"] == "nvidia-cdi"


def test_host_access_is_privileged_and_mounts_driver_and_nodes(render: "Renderer") -> None:
    release = render({"driver": {"access": "host"}})
    assert "runtimeClassName" not in release.pod
    assert release.container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": True,
        "readOnlyRootFilesystem": True,
    }
    assert release.host_mounts == KUBELET | LEDGER | {
        "/driver-root": ("/", True),
        "/dev": ("/dev", True),
    }
    assert set(propagation(release.container).values()) == {"None"}
    assert release.env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert release.env["NVIDIA_DRIVER_ROOT"] == "/"
    assert release.env["DRIVER_ROOT_CTR_PATH"] == "/driver-root"
    assert (
        not {"NVIDIA_MIG_MONITOR_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "PROC_ROOT"}
        & release.env.keys()
    )
    assert not release.container["terminationMessagePath"].startswith("/dev/")


def test_driver_container_is_followed_when_it_mounts_its_root_later(render: "Renderer") -> None:
    release = render({"driver": {"access": "host", "root": "/run/nvidia/driver/"}})
    assert release.host_mounts == KUBELET | LEDGER | {
        "/driver-root": ("/run/nvidia/driver", True),
        "/dev": ("/run/nvidia/driver/dev", True),
    }
    follows = {
        path for path, how in propagation(release.container).items() if how == "HostToContainer"
    }
    assert follows == {"/driver-root", "/dev"}
    assert (
        release.env["NVIDIA_DRIVER_ROOT"] == release.env["NVIDIA_DEV_ROOT"] == "/run/nvidia/driver"
    )


def test_device_nodes_can_be_apart_from_the_driver(render: "Renderer") -> None:
    release = render({"driver": {"access": "host", "root": "/run/nvidia/driver", "devRoot": "/"}})
    assert release.host_mounts == KUBELET | LEDGER | {
        "/driver-root": ("/run/nvidia/driver", True),
        "/dev": ("/dev", True),
    }, "nothing on /driver-root/dev: a root without dev/, mounted read-only, has no place for it"
    assert (release.env["NVIDIA_DRIVER_ROOT"], release.env["NVIDIA_DEV_ROOT"]) == (
        "/run/nvidia/driver",
        "/",
    )


def test_simulation_has_no_privilege_and_no_host_but_kubelets_sockets(render: "Renderer") -> None:
    release = render(
        {"driver": {"access": "simulation"}, "simulation": {"node": "p5.48xlarge:all-balanced"}}
    )
    assert "runtimeClassName" not in release.pod
    assert release.container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert release.host_mounts == KUBELET
    assert release.container["args"] == ["run"]
    assert load({}, release.env).settings.simulate == "p5.48xlarge:all-balanced", (
        "as a variable, which commands in the container read too"
    )
    wanted = {"NVIDIA_VISIBLE_DEVICES": "void", "PASS_DEVICE_SPECS": "false"}
    assert wanted.items() <= release.env.items(), "the simulated nodes are not on the host"


@pytest.mark.parametrize("access", ["runtime", "host"])
def test_real_access_goes_to_gpu_nodes(render: "Renderer", access: str) -> None:
    affinity = render({"driver": {"access": access}}).pod["affinity"]
    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert terms == [{"matchExpressions": [term]} for term in GPU_NODE_TERMS]
    assert "affinity" not in render({"driver": {"access": access}, "gpuNodesOnly": False}).pod


def test_simulation_goes_anywhere_unless_told(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    assert "affinity" not in render(cases["simulation"]).pod
    affinity: dict[str, Any] = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}
    }
    assert render(cases["simulation"] | {"affinity": affinity}).pod["affinity"] == affinity


def test_kubelet_elsewhere_is_mounted_where_the_daemon_looks(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["simulation"] | {"kubelet": {"root": "/var/lib/k0s/kubelet/"}})
    assert release.host_mounts == {
        "/var/lib/kubelet/device-plugins": ("/var/lib/k0s/kubelet/device-plugins", False),
        "/var/lib/kubelet/pod-resources": ("/var/lib/k0s/kubelet/pod-resources", True),
    }


K0S = "/var/lib/k0s/kubelet"


@pytest.mark.parametrize(
    ("kubelet", "device_plugins", "pod_resources"),
    [
        ({"root": K0S}, f"{K0S}/device-plugins", f"{K0S}/pod-resources"),
        (
            {"root": K0S, "devicePluginDir": "/var/lib/kubelet/device-plugins/"},
            "/var/lib/kubelet/device-plugins",
            f"{K0S}/pod-resources",
        ),
        (
            {"podResourcesDir": f"{K0S}/pod-resources"},
            "/var/lib/kubelet/device-plugins",
            f"{K0S}/pod-resources",
        ),
    ],
)
def test_kubelets_two_directories_may_lie_apart(
    render: "Renderer", kubelet: dict[str, str], device_plugins: str, pod_resources: str
) -> None:
    mounts = render({"kubelet": kubelet}).host_mounts
    assert mounts["/var/lib/kubelet/device-plugins"] == (device_plugins, False)
    assert mounts["/var/lib/kubelet/pod-resources"] == (pod_resources, True)


@pytest.mark.parametrize("nothing", ["", None])
def test_without_runtime_class_the_nodes_default_runtime_serves(
    render: "Renderer", nothing: str | None
) -> None:
    release = render({"runtimeClassName": nothing})
    assert "runtimeClassName" not in release.pod
    assert release.container["securityContext"] == render().container["securityContext"]
    assert release.env == render().env


def test_the_daemon_learns_the_nodes_name(render: "Renderer", case: dict[str, Any]) -> None:
    assert render(case).env_sources["NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


@pytest.mark.parametrize(
    "values",
    [
        {"migStrategy": "none"},
        {"config": {"inline": {"version": "v1", "flags": {"migStrategy": "none"}}}},
        {"config": {"existingConfigMap": "mine"}, "migStrategy": "none"},
        {"extraEnv": [{"name": "MIG_STRATEGY", "value": "none"}]},
        {"extraArgs": ["--mig-strategy=none"]},
        {"extraArgs": ["--log-level", "debug", "--mig-strategy", "none"], "migStrategy": "mixed"},
    ],
)
def test_whole_gpus_need_no_capability(render: "Renderer", values: dict[str, Any]) -> None:
    release = render(values)
    context = release.container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False
    assert "NVIDIA_MIG_MONITOR_DEVICES" not in release.env
    assert release.env["NVIDIA_VISIBLE_DEVICES"] == "all"


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"existingConfigMap": "mine"}},
        {"extraEnv": [{"name": "MIG_STRATEGY", "valueFrom": {"configMapKeyRef": {}}}]},
        {"migStrategy": "none", "extraEnv": [{"name": "MIG_STRATEGY", "value": "mixed"}]},
        {"migStrategy": "none", "extraArgs": ["--mig-strategy", "single"]},
        {"migStrategy": "none", "extraArgs": ["--mig-strategy=none", "--mig-strategy=mixed"]},
    ],
)
def test_a_strategy_that_may_be_another_keeps_the_capability(
    render: "Renderer", values: dict[str, Any]
) -> None:
    release = render(values)
    assert release.container["securityContext"]["capabilities"]["add"] == ["SYS_ADMIN"]
    assert release.env["NVIDIA_MIG_MONITOR_DEVICES"] == "all"


@pytest.mark.parametrize(
    ("driver", "follows"),
    [
        ({}, False),
        ({"root": "/run/nvidia/driver"}, True),
        ({"root": "/run/nvidia/driver", "mountPropagation": "None"}, False),
        ({"mountPropagation": "HostToContainer"}, True),
    ],
)
@pytest.mark.parametrize("access", ["runtime", "host"])
def test_propagation_can_be_chosen(
    render: "Renderer", access: str, driver: dict[str, str], *, follows: bool
) -> None:
    container = render({"driver": {"access": access} | driver}).container
    paths = {"runtime": {"/driver-root/dev"}, "host": {"/driver-root", "/dev"}}[access]
    assert {path for path, how in propagation(container).items() if how == "HostToContainer"} == (
        paths if follows else set()
    )
    assert set(propagation(container).values()) <= {"None", "HostToContainer"}


def test_container_security_context_is_added_to_the_charts(render: "Renderer") -> None:
    usual = render().container["securityContext"]
    changed = render(
        {"securityContext": {"appArmorProfile": {"type": "Unconfined"}, "runAsGroup": 7}}
    ).container["securityContext"]
    assert changed == usual | {"appArmorProfile": {"type": "Unconfined"}, "runAsGroup": 7}


def test_further_folders_of_the_library_reach_the_daemon(render: "Renderer") -> None:
    env = render({"driver": {"libraryFolders": ["/opt/nvidia/lib", "/opt/lib"]}}).env
    assert load({}, env).settings.library_folders == ("/opt/nvidia/lib", "/opt/lib")
