"""Devices by CDI: who may write the specification, and what the daemon must see for it."""

from typing import TYPE_CHECKING, Any

import pytest

from plugin.config.load import load
from plugin.core.settings import DeviceListStrategy

if TYPE_CHECKING:
    from .conftest import Renderer

CDI = {"/var/run/cdi": ("/var/run/cdi", False)}
INLINE = {"version": "v1", "flags": {"plugin": {"deviceListStrategy": ["envvar", "cdi-cri"]}}}


def test_cdi_access_is_host_access_and_a_writable_directory(render: "Renderer") -> None:
    release = render({"driver": {"access": "cdi"}})
    host = render({"driver": {"access": "host"}})
    assert release.container["securityContext"] == host.container["securityContext"]
    assert release.host_mounts == host.host_mounts | CDI
    assert "runtimeClassName" not in release.pod
    assert release.env == host.env | {
        "DEVICE_LIST_STRATEGY": "cdi-cri",
        "CDI_DIRECTORY": "/var/run/cdi",
    }
    settings = load({}, release.env).settings
    assert settings.device_list_strategy == (DeviceListStrategy.CDI_CRI,)
    assert settings.cdi_directory == "/var/run/cdi"


@pytest.mark.parametrize(
    ("values", "strategy"),
    [
        ({"deviceListStrategy": "cdi-annotations"}, "cdi-annotations"),
        ({"config": {"inline": INLINE}}, None),
        ({"config": {"existingConfigMap": "mine"}}, "cdi-cri"),
        ({"config": {"name": "mine"}}, "cdi-cri"),
    ],
)
def test_the_strategy_of_cdi_access_can_be_another(
    render: "Renderer", values: dict[str, Any], strategy: str | None
) -> None:
    """A file that the chart cannot see does not decide: without CDI, pods would get nothing."""
    env = render({"driver": {"access": "cdi"}} | values).env
    assert env.get("DEVICE_LIST_STRATEGY") == strategy


TEXT = "version: v1\nflags: {plugin: {deviceListStrategy: cdi-cri}}"


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"map": {"default": {"version": "v1"}, "cri": INLINE}}},
        {"config": {"map": {"default": TEXT}}},
        {"extraEnv": [{"name": "DEVICE_LIST_STRATEGY", "value": "envvar,cdi-cri"}]},
        {"extraArgs": ["--device-list-strategy=cdi-annotations"]},
    ],
    ids=["one of a map", "a text in a map", "a variable", "an argument"],
)
def test_whoever_chooses_cdi_the_directory_is_there(
    render: "Renderer", values: dict[str, Any]
) -> None:
    release = render(values)
    assert release.host_mounts.items() >= CDI.items()
    assert "/driver-root" in release.host_mounts
    assert release.env["CDI_DIRECTORY"] == "/var/run/cdi"


@pytest.mark.parametrize(
    "values", [{"deviceListStrategy": ["envvar", "cdi-cri"]}, {"config": {"inline": INLINE}}]
)
@pytest.mark.parametrize(
    ("driver", "mounts"),
    [
        ({}, {"/driver-root": ("/", True)}),
        ({"root": "/run/nvidia/driver"}, {"/driver-root": ("/run/nvidia/driver", True)}),
        (
            {"root": "/run/nvidia/driver", "devRoot": "/"},
            {"/driver-root": ("/run/nvidia/driver", True), "/driver-root/dev": ("/dev", True)},
        ),
    ],
)
def test_under_nvidias_runtime_it_takes_no_further_privilege(
    render: "Renderer",
    values: dict[str, Any],
    driver: dict[str, str],
    mounts: dict[str, tuple[str, bool]],
) -> None:
    """The specification names the driver's files, of which the runtime shows a part."""
    usual = render({"driver": driver})
    release = render({"driver": driver} | values)
    assert release.container["securityContext"] == usual.container["securityContext"]
    kept = {path: host for path, host in usual.host_mounts.items() if path != "/driver-root/dev"}
    assert release.host_mounts == kept | mounts | CDI


def test_host_access_with_a_cdi_strategy_is_the_same(render: "Renderer") -> None:
    by_strategy = render({"driver": {"access": "host"}, "deviceListStrategy": "cdi-cri"})
    assert by_strategy.manifests == render({"driver": {"access": "cdi"}}).manifests


@pytest.mark.parametrize("values", [{}, {"deviceListStrategy": ["envvar", "volume-mounts"]}])
def test_without_cdi_nothing_of_it_is_there(render: "Renderer", values: dict[str, Any]) -> None:
    release = render(values)
    assert "/var/run/cdi" not in release.host_mounts
    assert "/driver-root" not in release.host_mounts
    assert "CDI_DIRECTORY" not in release.env


def test_the_directory_has_one_path_for_the_daemon_and_the_runtime(render: "Renderer") -> None:
    """So that what the daemon's messages name is where the administrator finds it."""
    release = render({"driver": {"access": "cdi"}, "cdi": {"directory": "/etc/cdi/"}})
    assert release.host_mounts["/etc/cdi"] == ("/etc/cdi", False)
    assert load({}, release.env).settings.cdi_directory == "/etc/cdi"
