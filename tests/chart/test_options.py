"""The daemon's options: values, environment, configuration file, and which of them wins."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from plugin.config.load import load
from plugin.config.options import OPTIONS as DAEMON_OPTIONS
from plugin.core.settings import (
    CdiVendor,
    DeviceIdStrategy,
    DeviceListStrategy,
    HealthChecks,
    MigStrategy,
    Policy,
    Settings,
    SingleResource,
)
from plugin.state.places import DEFAULT_LEDGER

if TYPE_CHECKING:
    from .conftest import Renderer

OPTIONS = {
    "MIG_STRATEGY": "single",
    "SINGLE_RESOURCE": "gpu",
    "FAIL_ON_INIT_ERROR": "true",
    "PASS_DEVICE_SPECS": "false",
    "DEVICE_LIST_STRATEGY": "envvar,volume-mounts",
    "DEVICE_ID_STRATEGY": "index",
    "ALLOCATION_POLICY": "distributed",
    "SHARED_DEVICES_ALLOCATION_POLICY": "packed",
    "SET_CUDA_VISIBLE_DEVICES": "false",
    "CDI_VENDOR": "k8s.device-plugin.nvidia.com",
    "CDI_ANNOTATION_PREFIX": "nvidia.cdi.k8s.io/",
    "NVIDIA_CDI_HOOK_PATH": "/usr/bin/nvidia-ctk",
    "GDRCOPY_ENABLED": "true",
    "GDS_ENABLED": "true",
    "MOFED_ENABLED": "true",
    "DP_DISABLE_HEALTHCHECKS": "13,31",
    "DP_ENABLE_HEALTHCHECKS": "xids",
    "QUIET_PERIOD": "90",
    "ESCALATE_COUNT": "0",
    "ESCALATE_WINDOW": "30.5",
    "PROBE_INTERVAL": "1",
    "LOG_LEVEL": "debug",
    "LOG_FORMAT": "console",
    "DCGM_NAMES": "true",
    "SAMPLE_INTERVAL": "2.5",
}
DEFAULTS = {
    "MIG_STRATEGY": "mixed",
    "FAIL_ON_INIT_ERROR": "false",
    "PASS_DEVICE_SPECS": "true",
}


def options(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name in OPTIONS}


def test_every_option_reaches_the_daemon(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    assert options(render(cases["all-options"]).env) == OPTIONS


def test_the_charts_own_defaults_are_few(render: "Renderer") -> None:
    release = render()
    assert options(release.env) == DEFAULTS
    assert "CONFIG_FILE" not in release.env


def test_the_daemon_reads_what_the_chart_writes(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["all-options"] | {"service": {"enabled": False}})
    assert load({}, release.env).settings == Settings(
        mig_strategy=MigStrategy.SINGLE,
        single_resource=SingleResource.GPU,
        fail_on_init_error=True,
        pass_device_specs=False,
        device_list_strategy=(DeviceListStrategy.ENVVAR, DeviceListStrategy.VOLUME_MOUNTS),
        device_id_strategy=DeviceIdStrategy.INDEX,
        allocation_policy=Policy.DISTRIBUTED,
        shared_devices_allocation_policy=Policy.PACKED,
        cuda_visible_devices=False,
        cdi_vendor=CdiVendor.DEVICE_PLUGIN,
        cdi_annotation_prefix="nvidia.cdi.k8s.io/",
        nvidia_cdi_hook_path="/usr/bin/nvidia-ctk",
        gdrcopy_enabled=True,
        gds_enabled=True,
        mofed_enabled=True,
        disable_healthchecks=HealthChecks(numbers=frozenset({13, 31})),
        enable_healthchecks=HealthChecks(xids=True),
        quiet_seconds=90,
        escalate_count=0,
        escalate_seconds=30.5,
        probe_seconds=1,
        log_level="debug",
        log_format="console",
        dcgm_names=True,
        sample_seconds=2.5,
        dev_root="/",
        proc_root="/host/proc",
    )


def test_every_option_with_a_key_in_the_file_can_be_given_there_instead(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    """Said by the refusal of both: the chart knows the daemon's key."""
    keys = [option.key for option in DAEMON_OPTIONS if option.key and option.envs[0] in OPTIONS]
    assert len(keys) == len(OPTIONS) - len(["LOG_LEVEL", "LOG_FORMAT"])
    for key in keys:
        group, _, inner = key.rpartition(".")
        flags = {group: {inner: "x"}} if group else {inner: "x"}
        message = render.refusal(
            cases["all-options"] | {"config": {"inline": {"version": "v1", "flags": flags}}}
        )
        assert f"and config.inline's flags.{key} are both set" in message


@pytest.mark.parametrize("strategy", ["envvar", "volume-mounts", "cdi-cri", "cdi-annotations"])
def test_device_list_strategy_may_be_one_word(render: "Renderer", strategy: str) -> None:
    assert render({"deviceListStrategy": strategy}).env["DEVICE_LIST_STRATEGY"] == strategy


def test_inline_configuration_becomes_the_file(render: "Renderer") -> None:
    document = {
        "version": "v1",
        "flags": {"migStrategy": "single", "plugin": {"singleResource": "gpu"}},
        "sharing": {
            "timeSlicing": {"resources": [{"name": "nvidia.com/mig-1g.5gb", "replicas": 4}]}
        },
    }
    release = render({"config": {"inline": document}})
    (config_map,) = release.of_kind("ConfigMap")
    assert yaml.safe_load(config_map["data"]["config.yaml"]) == document
    (volume,) = (volume for volume in release.pod["volumes"] if "configMap" in volume)
    assert volume["configMap"] == {
        "name": config_map["metadata"]["name"],
        "items": [{"key": "config.yaml", "path": "config.yaml"}],
    }
    mount = {"name": volume["name"], "mountPath": "/config", "readOnly": True}
    assert mount in release.container["volumeMounts"], (
        "as a directory, so that edits reach the container"
    )
    assert release.env["CONFIG_FILE"] == "/config/config.yaml"


def test_inline_configuration_is_not_overruled_by_a_default(render: "Renderer") -> None:
    flags = {"migStrategy": "none", "failOnInitError": True, "plugin": {"passDeviceSpecs": False}}
    release = render(
        {"config": {"inline": {"version": "v1", "flags": flags}}, "allocationPolicy": "distributed"}
    )
    assert options(release.env) == {"ALLOCATION_POLICY": "distributed"}


def test_existing_config_map_is_mounted_and_not_overruled(render: "Renderer") -> None:
    release = render(
        {"config": {"existingConfigMap": "mine", "key": "node.yaml"}, "logLevel": "debug"}
    )
    assert release.of_kind("ConfigMap") == []
    (volume,) = (volume for volume in release.pod["volumes"] if "configMap" in volume)
    assert volume["configMap"] == {
        "name": "mine",
        "items": [{"key": "node.yaml", "path": "config.yaml"}],
    }
    assert release.env["CONFIG_FILE"] == "/config/config.yaml"
    assert options(release.env) == {"LOG_LEVEL": "debug"}


def test_simulated_nodes_are_never_handed_out_whatever_the_file_says(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    """Nobody's file says so by itself, and with them no pod could start."""
    release = render(cases["simulation-existing-config"])
    assert options(release.env) == {"PASS_DEVICE_SPECS": "false"}
    assert "SIMULATE" in release.env


def test_a_changed_configuration_rolls_the_pods(render: "Renderer") -> None:
    def checksum(strategy: str) -> str:
        release = render(
            {
                "config": {"inline": {"version": "v1", "flags": {"migStrategy": strategy}}},
                "podAnnotations": {"kept": "yes"},
            }
        )
        annotations: dict[str, str] = release.daemonset["spec"]["template"]["metadata"][
            "annotations"
        ]
        assert annotations["kept"] == "yes"
        return annotations["checksum/config"]

    assert checksum("single") == checksum("single") != checksum("mixed")


def test_a_single_xid_may_be_a_number(render: "Renderer") -> None:
    env = render({"disableHealthChecks": 31, "enableHealthChecks": ["xids", 13]}).env
    assert (env["DP_DISABLE_HEALTHCHECKS"], env["DP_ENABLE_HEALTHCHECKS"]) == ("31", "xids,13")


def test_verdicts_and_cordons_outlive_the_pod_unless_told(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    """The daemon's own default is the folder that is mounted;
    a simulated node has nothing to keep.
    """
    release = render({"ledger": {"hostPath": "/srv/mig/"}})
    assert release.host_mounts["/var/lib/mig-device-plugin"] == ("/srv/mig", False)
    assert (
        load({}, release.env).settings.ledger_file or DEFAULT_LEDGER
    ) == "/var/lib/mig-device-plugin/ledger.json"
    without = render(cases["no-ledger"])
    assert "/var/lib/mig-device-plugin" not in without.host_mounts
    assert load({}, without.env).settings.ledger_file == "/run/mig-device-plugin/ledger.json"
    simulated = render(cases["simulation"])
    assert "/var/lib/mig-device-plugin" not in simulated.host_mounts
    assert "LEDGER_FILE" not in simulated.env


def test_the_control_socket_lies_where_commands_in_the_container_look(render: "Renderer") -> None:
    release = render()
    (state,) = (volume for volume in release.pod["volumes"] if volume["name"] == "state")
    assert "emptyDir" in state
    folder = str(Path(load({}, release.env).settings.control_socket).parent)
    assert {"name": "state", "mountPath": folder} in release.container["volumeMounts"]
