"""Values: described in the schema and the README, and those of NVIDIA's chart."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import pytest

if TYPE_CHECKING:
    from .conftest import Renderer

WHOLE = (
    *("resources", "updateStrategy", "dashboard.labels"),
    *("http.startupProbe", "http.livenessProbe", "http.readinessProbe"),
)


def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        inner = leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else set()
        found |= inner or {prefix + key}
    return found


def test_every_value_is_in_the_readme_and_described_in_the_schema(chart_path: Path) -> None:
    with helm_python.Chart.load(chart_path) as chart:
        values, schema = chart.values, chart.schema
    assert schema is not None
    readme = (chart_path / "README.md").read_text()
    # One row covers what is a Kubernetes object of its own.
    documented = {
        next((whole for whole in WHOLE if name.startswith(f"{whole}.")), name)
        for name in leaves(values)
    }
    assert {name for name in documented if f"`{name}`" not in readme} == set()
    shared = values.keys() & NVIDIA.keys()
    assert schema["properties"].keys() == values.keys() | OF_PARENT | NVIDIA.keys()
    for group in shared:
        assert schema["properties"][group]["properties"].keys() == (
            values[group].keys() | NVIDIA[group].keys()
        )
    assert undescribed(schema["properties"]) == []


def undescribed(properties: dict[str, Any]) -> list[str]:
    missing = [name for name, schema in properties.items() if not schema.get("description")]
    for schema in properties.values():
        if schema.get("additionalProperties") is False:
            missing += undescribed(schema.get("properties", {}))
    return missing


#: What Helm, or a parent chart's values, may pass to a dependency.
OF_PARENT = {"global", "enabled", "tags"}

#: Values of NVIDIA's chart that are not ours, and what the refusal says.
NVIDIA: dict[str, dict[str, tuple[Any, str]]] = {
    "config": {"fallbackStrategies": (["named"], "without config.default")},
    "imagePullSecrets": {"": ([{"name": "registry"}], "image.pullSecrets")},
    "nvidiaDriverRoot": {"": ("/run/nvidia/driver", "driver.root")},
    "compatWithCPUManager": {"": (True, "passDeviceSpecs")},
    "deviceDiscoveryStrategy": {"": ("nvml", "NVML")},
    "selectorLabelsOverride": {"": ({"a": "b"}, "nameOverride")},
    "componentSelectorLabels": {"enabled": (True, "leave it out")},
    "allowDefaultNamespace": {"": (True, "leave it out")},
    "devicePlugin": {
        "enabled": (False, "leave it out"),
        "enableHostNetwork": (True, "hostNetwork"),
        "containers": ({"main": {"env": [{"name": "A"}]}}, "extraEnv"),
    },
    "gfd": {
        "enabled": (True, "nodeLabels.mode=api or nfd"),
        "noTimestamp": (True, "no time stamp"),
        "sleepInterval": ("60s", "when they change"),
    },
    "nfd": {"enabled": (True, "gpuNodesOnly=false")},
    "mps": {"": ({"root": "/run/mps"}, "sharing.timeSlicing")},
    "cdi": {
        "nvidiaHookPath": ("/usr/bin/nvidia-cdi-hook", "set cdi.hookPath"),
        "featureFlags": ("disable-nvsandboxutils", "leave it out"),
    },
}


@pytest.mark.parametrize(
    ("key", "inner"), [(key, inner) for key, values in NVIDIA.items() for inner in values]
)
def test_values_of_nvidias_chart_are_refused_with_ours(
    render: "Renderer", key: str, inner: str
) -> None:
    value, ours = NVIDIA[key][inner]
    message = render.refusal({key: {inner: value} if inner else value})
    (line,) = [line for line in message.splitlines() if line.startswith("  - ")]
    name = f"{key}.{inner}" if inner else key
    assert line.startswith(f"  - {name} is a value of NVIDIA's chart: ")
    assert ours in line


def test_values_of_nvidias_chart_that_say_nothing_pass(render: "Renderer") -> None:
    """As in a copy of that chart's values.yaml; those with the same name mean the same."""
    nothing: dict[str, Any] = {
        "config": {"map": {}, "name": "", "default": "", "fallbackStrategies": ["named", "single"]},
        "imagePullSecrets": [],
        "nvidiaDriverRoot": None,
        "compatWithCPUManager": None,
        "deviceDiscoveryStrategy": None,
        "selectorLabelsOverride": {},
        "componentSelectorLabels": {"enabled": False},
        "allowDefaultNamespace": False,
        "devicePlugin": {
            "enabled": True,
            "containers": {
                "main": {
                    "env": [
                        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
                        {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"},
                    ]
                }
            },
        },
        "gfd": {"enabled": False, "noTimestamp": None, "securityContext": {"privileged": True}},
        "nfd": {"nameOverride": "node-feature-discovery", "master": {"config": {}}},
        "mps": {"root": "/run/nvidia/mps", "enableHostPID": True},
        "cdi": {"nvidiaHookPath": None, "featureFlags": None},
        "namespaceOverride": "",
        "podSecurityContext": {},
        "securityContext": {},
        "migStrategy": "mixed",
        "runtimeClassName": "nvidia",
    }
    assert set(NVIDIA) <= nothing.keys()
    assert render(nothing).manifests == render({"migStrategy": "mixed"}).manifests


def test_it_works_as_a_conditional_dependency_of_another_chart(
    chart_path: Path, tmp_path: Path
) -> None:
    """With all that Helm passes down: ``global``, the condition's own key, tags."""
    parent = tmp_path / "platform"
    shutil.copytree(chart_path, parent / "charts" / "mig-device-plugin")
    (parent / "Chart.yaml").write_text(
        "apiVersion: v2\nname: platform\nversion: 1.0.0\ndependencies:\n"
        "  - name: mig-device-plugin\n    version: 0.1.0\n"
        "    condition: mig-device-plugin.enabled,global.gpu\n    tags: [gpu]\n"
        "  - name: mig-device-plugin\n    version: 0.1.0\n    alias: simulated\n"
        "    condition: simulated.enabled\n"
    )
    (parent / "values.yaml").write_text(
        "global: {imageRegistry: registry.example}\ntags: {gpu: true}\n"
        "mig-device-plugin: {enabled: true, migStrategy: single, namespaceOverride: gpu}\n"
        "simulated: {enabled: false, driver: {access: simulation}, simulation: {node: g5}}\n"
    )

    def installed(values: dict[str, Any]) -> dict[str, str]:
        with helm_python.Chart.load(parent) as chart:
            files = chart.render(values, name="platform", namespace="default")
        return {
            path: text
            for path, text in files.items()
            if path.endswith("daemonset.yaml") and text.strip()
        }

    daemonsets = installed({})
    (text,) = daemonsets.values()
    assert "name: platform-mig-device-plugin" in text
    assert "namespace: gpu" in text
    assert "value: single" in text
    assert installed({"mig-device-plugin": {"enabled": False}}) == {}
    assert installed({"mig-device-plugin": {"enabled": None}, "tags": {"gpu": False}}) == {}
    both = installed({"simulated": {"enabled": True}, "global": {"gpu": True}})
    assert sorted(path.split("/")[2] for path in both) == ["mig-device-plugin", "simulated"]
    assert any("name: platform-simulated" in text for text in both.values())


def test_schema_is_json_schema(chart_path: Path) -> None:
    schema = json.loads((chart_path / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    with helm_python.Chart.load(chart_path) as chart:
        chart.validate_schema({"global": {"from": "a parent chart"}})
