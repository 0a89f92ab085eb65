"""The three ways to the driver: exactly the privileges, mounts and variables that each needs."""

from typing import TYPE_CHECKING, Any

import pytest

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
        "/driver-root/dev": ("/dev", True),
        "/dev": ("/dev", True),
    }
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
    assert release.container["args"] == ["run", "--simulate=p5.48xlarge:all-balanced"]
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
    told: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    assert render(cases["simulation"] | {"affinity": told}).pod["affinity"] == told


def test_kubelet_elsewhere_is_mounted_where_the_daemon_looks(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["simulation"] | {"kubelet": {"root": "/var/lib/k0s/kubelet/"}})
    assert release.host_mounts == {
        "/var/lib/kubelet/device-plugins": ("/var/lib/k0s/kubelet/device-plugins", False),
        "/var/lib/kubelet/pod-resources": ("/var/lib/k0s/kubelet/pod-resources", True),
    }
