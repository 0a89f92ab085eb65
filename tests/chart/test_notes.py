"""NOTES: what was installed, how to look at it, an example that can be applied as it stands, and
warnings.
"""

from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information
import pytest
import yaml

if TYPE_CHECKING:
    from .conftest import Renderer

REGISTRY = {"image": {"repository": "registry.example/mig-device-plugin"}}
SIMULATION: dict[str, Any] = {
    "driver": {"access": "simulation"},
    "simulation": {"node": "p4d.24xlarge:all-2g.10gb"},
}


def example_pod(notes: str) -> dict[str, Any]:
    """The manifest between the here-document's marks."""
    _, _, rest = notes.partition("<<'EOF'\n")
    text, _, _ = rest.partition("\nEOF\n")
    pod: dict[str, Any] = yaml.safe_load(text)
    return pod


def test_notes_are_whole_and_tidy(render: "Renderer", case: dict[str, Any]) -> None:
    release = render(case)
    name = release.daemonset["metadata"]["name"]
    assert f"is installed as DaemonSet {name} in namespace kube-system." in release.notes
    assert f"exec ds/{name} -- mig-device-plugin doctor" in release.notes
    assert "kubectl describe node NODE" in release.notes
    assert "<no value>" not in release.notes
    assert "nil" not in release.notes
    assert "\n\n\n" not in release.notes
    prose = [line for line in release.notes.splitlines() if "kubectl create" not in line]
    assert max(map(len, prose)) <= 130
    assert kubernetes_validate.validate(example_pod(release.notes), "1.37", strict=True)


@pytest.mark.parametrize(
    ("values", "resource"),
    [
        ({}, "nvidia.com/mig-1g.5gb"),
        ({"migStrategy": "single"}, "nvidia.com/mig-1g.5gb"),
        ({"migStrategy": "single", "singleResource": "gpu"}, "nvidia.com/gpu"),
        ({"migStrategy": "none"}, "nvidia.com/gpu"),
        (
            {"config": {"inline": {"version": "v1", "flags": {"migStrategy": "none"}}}},
            "nvidia.com/gpu",
        ),
        (
            {
                "config": {
                    "inline": {
                        "version": "v1",
                        "flags": {"migStrategy": "single", "plugin": {"singleResource": "gpu"}},
                    }
                }
            },
            "nvidia.com/gpu",
        ),
        (SIMULATION, "nvidia.com/mig-2g.10gb"),
    ],
)
def test_example_asks_for_what_the_strategy_offers(
    render: "Renderer", values: dict[str, Any], resource: str
) -> None:
    (container,) = example_pod(render(values).notes)["spec"]["containers"]
    assert container["resources"]["limits"] == {resource: 1}


def test_simulation_is_said_loudly(render: "Renderer") -> None:
    notes = render(SIMULATION | REGISTRY).notes
    assert "WARNING: the GPUs are simulated (p4d.24xlarge:all-2g.10gb)" in notes
    assert notes.count("WARNING") == 1
    assert "-- mig-device-plugin doctor\n" in notes, "the node is in the container's environment"
    assert "runtimeClassName" not in example_pod(notes)["spec"]


def test_privilege_is_said_loudly(render: "Renderer") -> None:
    notes = render({"driver": {"access": "host"}} | REGISTRY).notes
    assert "WARNING: the pods are privileged and see / of the host" in notes
    assert notes.count("WARNING") == 1


def test_runtime_needs_no_warning_but_its_runtime_class(render: "Renderer") -> None:
    notes = render({"runtimeClassName": "nvidia-cdi"} | REGISTRY).notes
    assert "WARNING" not in notes
    assert "kubectl get runtimeclass nvidia-cdi" in notes
    assert example_pod(notes)["spec"]["runtimeClassName"] == "nvidia-cdi"


def test_the_default_runtime_can_be_checked(render: "Renderer") -> None:
    notes = render({"runtimeClassName": ""} | REGISTRY).notes
    assert "  containerd config dump | grep default_runtime_name\n" in notes
    assert "RuntimeClass" not in notes
    assert "runtimeClassName" not in example_pod(notes)["spec"]


def test_an_image_without_registry_is_pointed_out(render: "Renderer") -> None:
    assert "Set image.repository to a registry" in render().notes


def test_where_the_pods_go_is_told_when_labels_decide(render: "Renderer") -> None:
    hint = "nvidia.com/gpu.present=true"
    assert hint in render().notes
    assert hint not in render({"gpuNodesOnly": False}).notes
    assert hint not in render(SIMULATION).notes


@pytest.mark.parametrize("key", ["existingConfigMap", "name"])
def test_edits_of_a_config_map_are_followed(render: "Renderer", key: str) -> None:
    notes = render({"config": {key: "mine"}}).notes
    assert "The daemon follows edits of ConfigMap mine." in notes
    assert "  kubectl -n kube-system rollout restart ds/gpu-mig-device-plugin\n" in notes
    assert "as ConfigMap mine says" in notes
    assert "rollout restart" not in render().notes


def test_cordon_and_drain_are_told(render: "Renderer", case: dict[str, Any]) -> None:
    notes = render(case).notes
    assert "exec POD -- mig-device-plugin drain TARGET" in notes
    assert "exec POD -- mig-device-plugin uncordon TARGET" in notes
    assert ("mig-device-plugin sim --help" in notes) == (
        case.get("driver", {}).get("access") == "simulation"
    )


def test_what_is_written_to_the_node_is_told(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    assert (
        "  on the Node:   labels (api), Events, condition MigDevicesHealthy, "
        "taints nvidia.com/gpu-needs-reset, example.com/gpu-starting"
    ) in render(cases["cluster"]).notes
    hint = "Node labels are off."
    assert hint in render().notes
    assert "on the Node:" not in render().notes
    for values in (SIMULATION, cases["features-file"], cases["cluster"]):
        assert hint not in render(values).notes


def test_partitioning_and_configurations_are_told(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    label = "kubectl label node NODE nvidia.com/mig.config=all-balanced"
    assert label in render(cases["partition"]).notes
    assert "mig-device-plugin partition plan -c" in render(cases["partition-host"]).notes
    assert "Partition a node" not in render().notes
    choose = "kubectl label node NODE nvidia.com/device-plugin.config=NAME"
    assert choose in render(cases["several-configs"]).notes
    assert choose not in render(cases["named-configs"]).notes
    assert "as ConfigMap configs says" in render(cases["named-configs"]).notes


def test_devices_by_cdi_need_no_runtime(render: "Renderer") -> None:
    notes = render({"driver": {"access": "cdi"}} | REGISTRY).notes
    assert "WARNING: the pods are privileged" in notes
    assert "containerd 1.7\nwith enable_cdi = true" in notes
    pod = example_pod(notes)
    assert "runtimeClassName" not in pod["spec"]
    assert pod["spec"]["containers"][0]["command"] == ["nvidia-smi", "-L"]
