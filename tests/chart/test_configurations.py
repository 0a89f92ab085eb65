"""Several configurations, of which each node takes one, as with NVIDIA's chart."""

from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from .conftest import Renderer, Values

OPTIONS = {"MIG_STRATEGY", "FAIL_ON_INIT_ERROR", "PASS_DEVICE_SPECS"}


def directory(release: Any) -> dict[str, Any]:
    """The volume of the directory that is mounted."""
    (volume,) = (item for item in release.pod["volumes"] if item["name"] == "config")
    mount = {"name": "config", "mountPath": "/config", "readOnly": True}
    assert mount in release.container["volumeMounts"], "whole, so that edits reach the container"
    assert release.env["CONFIG_DIR"] == "/config"
    assert "CONFIG_FILE" not in release.env
    found: dict[str, Any] = volume["configMap"]
    return found


def test_a_map_becomes_a_directory(render: "Renderer", cases: "dict[str, Values]") -> None:
    release = render(cases["several-configs"])
    (config_map,) = release.of_kind("ConfigMap")
    assert {name: yaml.safe_load(text) for name, text in config_map["data"].items()} == {
        "default": {"version": "v1"},
        "whole": {"version": "v1", "flags": {"migStrategy": "none"}},
    }
    assert directory(release) == {"name": config_map["metadata"]["name"]}
    assert release.env["CONFIG_DEFAULT"] == "whole"
    assert release.env["CONFIG_LABEL"] == "nvidia.com/device-plugin.config"
    assert "annotations" not in release.daemonset["spec"]["template"]["metadata"], (
        "a change is followed without a restart"
    )


def test_a_config_map_of_the_users(render: "Renderer") -> None:
    release = render({"config": {"name": "configs"}})
    assert release.of_kind("ConfigMap") == []
    assert directory(release) == {"name": "configs"}
    assert "CONFIG_DEFAULT" not in release.env


def test_no_default_of_the_chart_overrules_a_configuration(render: "Renderer") -> None:
    """The chart cannot know which a node takes, so it keeps what any of them may need."""
    release = render({"config": {"map": {"a": {"version": "v1"}}}, "migStrategy": "single"})
    assert OPTIONS & release.env.keys() == {"MIG_STRATEGY"}
    release = render({"config": {"map": {"a": {"version": "v1"}}}})
    assert not OPTIONS & release.env.keys()
    assert release.container["securityContext"]["capabilities"]["add"] == ["SYS_ADMIN"]


@pytest.mark.parametrize("label", ["", "example.com/config"])
def test_the_label_is_read_at_the_api_server(render: "Renderer", label: str) -> None:
    release = render({"config": {"name": "configs", "label": label}})
    assert release.env.get("CONFIG_LABEL", "") == label
    assert bool(release.of_kind("ClusterRole")) is bool(label)
    without = render({"config": {"label": "example.com/config", "existingConfigMap": "mine"}})
    assert "CONFIG_LABEL" not in without.env
    assert without.of_kind("ClusterRole") == []
