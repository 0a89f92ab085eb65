"""The commands as processes, over a real ``libnvidia-ml.so.1`` and a real tree of driver files."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.sim.hardware.engine import parse_node
from tests.native import build
from tests.simulated import scan

from .host import (
    CONTROL_NODES,
    DRIVER_NOT_LOADED,
    NO_PERMISSION,
    SMALL,
    Host,
    expected_nodes,
    without_driver,
)

pytestmark = pytest.mark.skipif(
    build.compiler() is None, reason="there is no C compiler (cc or gcc) on PATH"
)


def test_devices(host: Host) -> None:
    shown = host.devices()
    assert shown["resources"] == {SMALL: {"devices": 56, "healthy": 56}}
    assert shown["driver"] == {"version": "580.0.1", "nvml": "13.580.0.1", "cuda": "13.0"}
    assert shown["problems"] == []
    assert [gpu["pciBusId"] for gpu in shown["gpus"]][:3] == [
        "0000:10:1c.0",
        "0000:10:1d.0",
        "0000:20:1c.0",
    ]
    gpu = shown["gpus"][5]
    assert (gpu["product"], gpu["memoryMiB"], gpu["minor"], gpu["numa"]) == (
        "NVIDIA A100-SXM4-40GB",
        40960,
        5,
        1,
    )
    assert [(d["gi"], d["ci"], d["profile"]) for d in gpu["migDevices"]] == [
        (n, 0, "1g.5gb") for n in range(7, 14)
    ]
    device = gpu["migDevices"][2]
    assert device["placement"] == {"start": 2, "size": 1}
    assert (device["memoryMiB"], device["multiprocessors"], device["missingNodes"]) == (
        4864,
        14,
        [],
    )
    assert CONTROL_NODES | set(device["nodes"]) == expected_nodes(device["uuid"])


def test_a_missing_capability_node_is_named(host: Host) -> None:
    cap = "/dev/nvidia-caps/nvidia-cap67"  # of GPU 0, GI 7, CI 0
    (host.root / cap.lstrip("/")).unlink()
    shown = host.devices()
    device = shown["gpus"][0]["migDevices"][0]
    assert device["missingNodes"] == [cap]
    assert device["health"] != "healthy"
    assert any(cap in reason["text"] for reason in device["reasons"])
    assert shown["resources"][SMALL]["healthy"] == 55
    done = host.call("doctor")
    assert done.returncode == 2
    assert any(line.startswith("fail") and cap in line for line in done.stdout.splitlines())


MIXTURE = "0=1g.5gb+me,2g.10gb,1g.10gb;1=1c.3g.20gb*3,4g.20gb;2=7g.40gb;3=on;4-7=off"
EMPTY = "GPU 3: MIG mode on and no MIG devices"


def names(shown: Any) -> dict[str, int]:
    return {
        name.removeprefix("nvidia.com/"): entry["devices"]
        for name, entry in shown["resources"].items()
    }


def test_names_are_the_drivers(host: Host) -> None:
    host.become(MIXTURE)
    shown = host.devices()
    assert names(shown) == {
        "gpu": 4,
        "mig-1g.5gb.me": 1,
        "mig-1g.10gb": 1,
        "mig-2g.10gb": 1,
        "mig-1c.3g.20gb": 3,
        "mig-4g.20gb": 1,
        "mig-7g.40gb": 1,
    }
    assert shown["problems"] == [EMPTY]


@pytest.mark.parametrize(
    "refused",
    [
        ("nvmlDeviceGetGpuInstances", "nvmlDeviceGetGpuInstanceById"),
        ("nvmlGpuInstanceGetInfo",),
    ],
)
def test_names_by_attributes_without_permission(host: Host, refused: tuple[str, ...]) -> None:
    """A container without the right to monitor all instances."""
    host.become(MIXTURE)
    text = host.node.read_text(encoding="ascii")
    answers = "".join(f"answer {function} {NO_PERMISSION}\n" for function in refused)
    host.node.write_text(f"{answers}{text}", encoding="ascii")
    _assert_named_by_attributes(host.devices())


def test_names_by_attributes_with_an_old_driver(host: Host, old_library: Path) -> None:
    host.become(MIXTURE)
    _assert_named_by_attributes(host.devices(LD_LIBRARY_PATH=str(old_library.parent)))


def _assert_named_by_attributes(shown: Any) -> None:
    devices = [device for gpu in shown["gpus"] for device in gpu["migDevices"]]
    assert len(devices) == 8
    assert all(device["placement"] is None for device in devices)
    # Engines tell 1g.5gb+me from 1g.5gb.
    assert names(shown) == {
        "gpu": 4,
        "mig-1g.5gb.me": 1,
        "mig-1g.10gb": 1,
        "mig-2g.10gb": 1,
        "mig-1c.3g.20gb": 3,
        "mig-4g.20gb": 1,
        "mig-7g.40gb": 1,
    }


def test_indices_without_a_device_are_skipped(host: Host) -> None:
    host.become("all-1g.5gb")
    lines = host.node.read_text(encoding="ascii").splitlines()
    lines[1] = lines[4] = "hole"
    host.node.write_text("\n".join(lines), encoding="ascii")
    shown = host.devices()
    assert [device["index"] for device in shown["gpus"][0]["migDevices"]] == [1, 2, 4, 5, 6]
    assert names(shown) == {"mig-1g.5gb": 54}
    assert shown["problems"] == []


def test_doctor_passes(host: Host) -> None:
    host.kubelet.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.kubelet / "kubelet.sock"))
        listener.listen()
        done = host.call("doctor")
    verdicts = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert "56 MIG devices" in done.stdout
    assert f"56 × {SMALL}" in done.stdout
    verdicts.pop("permissions:")  # a warning unless the tests run as root
    assert set(verdicts.values()) == {"pass"}, done.stdout
    assert done.returncode == (0 if os.getuid() == 0 else 1)


@without_driver
def test_commands_without_a_library(host: Host, tmp_path: Path) -> None:
    shown = host.call("devices", LD_LIBRARY_PATH=str(tmp_path))
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert len(shown.stderr.splitlines()) == 1
    assert shown.stderr.startswith("mig-device-plugin: cannot load libnvidia-ml.so.1")
    done = host.call("doctor", LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 2
    (failure,) = [line for line in done.stdout.splitlines() if line.startswith("fail  library:")]
    assert "cannot load libnvidia-ml.so.1" in failure


def test_doctor_without_a_loaded_driver(host: Host) -> None:
    build.write_node(host.node, answers={"nvmlInitWithFlags": DRIVER_NOT_LOADED})
    done = host.call("doctor")
    assert done.returncode == 2
    assert "initialising NVML failed: Driver Not Loaded" in done.stdout
    assert "the kernel module is not loaded" in done.stdout


# The scan


@pytest.mark.parametrize(
    "geometry", ["mig-off", "all-enabled", "all-1g.5gb", "all-balanced", MIXTURE]
)
def test_scan_equals_the_simulated_drivers(
    host: Host, monkeypatch: pytest.MonkeyPatch, geometry: str
) -> None:
    """Nothing is lost or changed between C structures and the inventory."""
    monkeypatch.setenv(build.NODE_VARIABLE, str(host.node))
    host.become(geometry)
    files = DeviceFiles(host.root, proc=host.root / "proc", sys=host.root / "sys")
    driver = NvmlDriver(files, ctypes.CDLL(str(host.library)))
    driver.open()
    try:
        inventory = driver.scan()
    finally:
        driver.close()
    assert inventory.gpus == scan(parse_node(f"p4d.24xlarge:{geometry}")).gpus
