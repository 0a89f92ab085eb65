"""Partitioning: no privilege without it, and with it what each way to the driver needs."""

from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from .conftest import Renderer, Values


@pytest.mark.parametrize("strategy", ["none", "single", "mixed"])
def test_under_nvidias_runtime_the_daemon_may_configure(render: "Renderer", strategy: str) -> None:
    """With whole GPUs too: what it makes and destroys are MIG instances."""
    release = render({"migStrategy": strategy, "partition": {"enabled": True}})
    assert release.env["NVIDIA_MIG_CONFIG_DEVICES"] == "all"
    assert release.env["NVIDIA_MIG_MONITOR_DEVICES"] == "all"
    mixed = render({"migStrategy": "mixed"})
    capabilities = {"drop": ["ALL"], "add": ["SYS_ADMIN", "MKNOD"]}
    assert release.container["securityContext"] == mixed.container["securityContext"] | {
        "capabilities": capabilities
    }
    # The nodes of new MIG devices are made there.
    assert release.host_mounts == mixed.host_mounts | {"/driver-root/dev": ("/dev", False)}
    assert mixed.host_mounts["/driver-root/dev"] == ("/dev", True)
    assert "hostPID" not in release.pod


@pytest.mark.parametrize("access", ["host", "cdi", "simulation"])
def test_elsewhere_it_takes_no_further_privilege(
    render: "Renderer", cases: "dict[str, Values]", access: str
) -> None:
    """Privileged containers may open the capability; a simulated one is ours."""
    values = cases["simulation"] if access == "simulation" else {"driver": {"access": access}}
    release, usual = render(values | {"partition": {"enabled": True}}), render(values)
    assert release.container["securityContext"] == usual.container["securityContext"]
    writable = {} if access == "simulation" else {"/dev": ("/dev", False)}
    assert release.host_mounts == usual.host_mounts | writable
    assert usual.host_mounts.get("/dev", ("/dev", True)) == ("/dev", True)
    assert not {"NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES"} & release.env.keys()


def test_it_is_off_unless_asked_for(render: "Renderer", case: dict[str, Any]) -> None:
    release = render(case)
    of_partitioning = {
        name
        for name in release.env
        if name.startswith("PARTITION_") or name == "NVIDIA_MIG_CONFIG_DEVICES"
    }
    assert bool(of_partitioning) is bool(case.get("partition"))


def test_the_options_reach_the_daemon(render: "Renderer", cases: "dict[str, Values]") -> None:
    def options(values: "Values") -> dict[str, str]:
        env = render(values).env
        return {name: value for name, value in env.items() if name.startswith("PARTITION_")}

    assert options({"partition": {"enabled": True}}) == {
        "PARTITION_LABEL": "nvidia.com/mig.config",
        "PARTITION_IN_USE": "wait",
        "PARTITION_MIG_MODE": "true",
    }
    assert options(cases["partition"]) == {
        "PARTITION_LABEL": "nvidia.com/mig.config",
        "PARTITION_CONFIG": "mine",
        "PARTITION_FILE": "/partition/config.yaml",
        "PARTITION_IN_USE": "evict",
        "PARTITION_MIG_MODE": "true",
    }
    assert options(cases["partition-host"]) == {
        "PARTITION_FILE": "/partition/config.yaml",
        "PARTITION_IN_USE": "wait",
        "PARTITION_MIG_MODE": "true",
    }


def test_the_file_is_mounted_as_a_directory(render: "Renderer", cases: "dict[str, Values]") -> None:
    release = render(cases["partition"])
    (config_map,) = release.of_kind("ConfigMap")
    assert config_map["metadata"]["name"] == "gpu-mig-device-plugin-partition"
    assert (
        yaml.safe_load(config_map["data"]["config.yaml"])
        == cases["partition"]["partition"]["inline"]
    )
    for values, name in ((cases["partition"], "gpu-mig-device-plugin-partition"),):
        pod = render(values)
        (volume,) = (item for item in pod.pod["volumes"] if item["name"] == "partition")
        assert volume["configMap"] == {
            "name": name,
            "items": [{"key": "config.yaml", "path": "config.yaml"}],
        }
        mount = {"name": "partition", "mountPath": "/partition", "readOnly": True}
        assert mount in pod.container["volumeMounts"]
    assert render(cases["partition-host"]).of_kind("ConfigMap") == []


def test_processes_of_the_host_are_seen_only_on_request(
    render: "Renderer", cases: "dict[str, Values]"
) -> None:
    assert render(cases["partition-host"]).pod["hostPID"] is True
    assert "hostPID" not in render(cases["partition"]).pod


def test_the_label_leaves_room_for_its_answer(render: "Renderer") -> None:
    """Kubernetes takes 63 characters behind the slash, and the daemon adds `.state`."""
    longest = "example.com/" + "x" * 57

    def values(label: str) -> "Values":
        return {"partition": {"enabled": True, "label": label}}

    assert render(values(longest)).env["PARTITION_LABEL"] == longest
    assert "partition/label" in render.refusal(values(f"{longest}x"))


def test_names_of_its_objects_fit_whatever_the_release_is_called(render: "Renderer") -> None:
    values = {
        "partition": {"enabled": True, "inline": {"version": "v1", "mig-configs": {"a": []}}},
        "fullnameOverride": "x" * 63,
        "dashboard": {"enabled": True},
    }
    release = render(values, name="y" * 53)
    # Names of RBAC may be longer, and are no labels.
    named = [each for each in release.manifests if not each["kind"].startswith("ClusterRole")]
    names = [(each["kind"], each["metadata"]["name"]) for each in named]
    assert len(set(names)) == len(names)
    assert max(len(name) for _, name in names) <= 63
    template = release.daemonset["spec"]["template"]["metadata"]
    labelled = [each["metadata"] for each in release.manifests] + [template]
    values_of = [value for each in labelled for value in each["labels"].values()]
    assert max(map(len, values_of)) <= 63
