"""Allocations: variables, mounts and device nodes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from plugin.core.allocation import (
    VOLUME_MOUNTS_ROOT,
    ContainerAllocation,
    DeviceSpec,
    Mount,
    allocate,
)
from plugin.core.settings import (
    DeviceIdStrategy,
    DeviceListStrategy,
    MigStrategy,
    Settings,
    SharedResource,
    Sharing,
)

from .builders import CONTROL, gpu, mig_device, mig_gpu, node, snapshot

GPU, ONE, TWO = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/mig-2g.10gb"
A, B, C = "MIG-0-7-0", "MIG-0-8-0", "MIG-1-7-0"
NODE = node(mig_gpu(0, "1g.5gb", "1g.5gb", "2g.10gb"), mig_gpu(1, "1g.5gb"), gpu(2))
MIXED = Settings(mig_strategy=MigStrategy.MIXED)
WHOLE = Settings(mig_strategy=MigStrategy.NONE)


def one(resource: str, *requested: str, **changes: Any) -> ContainerAllocation:
    (allocation,) = allocate(
        resource, [requested], snapshot(NODE, dataclasses.replace(MIXED, **changes))
    )
    return allocation


def paths(allocation: ContainerAllocation) -> list[str]:
    return [spec.container_path for spec in allocation.device_specs]


def test_one_mig_device() -> None:
    allocation = one(ONE, A)
    assert allocation.envs == {"NVIDIA_VISIBLE_DEVICES": A, "CUDA_VISIBLE_DEVICES": A}
    assert allocation.mounts == ()
    assert paths(allocation) == [
        *CONTROL,
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap63",
        "/dev/nvidia-caps/nvidia-cap64",
    ]
    assert {spec.permissions for spec in allocation.device_specs} == {"rw"}


def test_one_whole_gpu() -> None:
    allocation = one(GPU, "GPU-2")
    assert allocation.envs["CUDA_VISIBLE_DEVICES"] == "GPU-2"
    assert paths(allocation) == [*CONTROL, "/dev/nvidia2"]


def test_several_devices_come_in_order_of_the_node_and_share_their_nodes() -> None:
    allocation = one(ONE, C, B, A)
    assert allocation.envs["NVIDIA_VISIBLE_DEVICES"] == f"{A},{B},{C}"
    assert [device.uuid for device in allocation.devices] == [A, B, C]
    assert len(paths(allocation)) == len(set(paths(allocation)))
    assert [path for path in paths(allocation) if "caps" not in path] == [
        *CONTROL,
        "/dev/nvidia0",
        "/dev/nvidia1",
    ]


def test_each_container_has_an_answer_of_its_own() -> None:
    first, second = allocate(ONE, [[A], [C, B]], snapshot(NODE))
    assert first.envs["CUDA_VISIBLE_DEVICES"] == A
    assert second.envs["CUDA_VISIBLE_DEVICES"] == f"{B},{C}"


def test_no_container_no_answer() -> None:
    assert allocate(ONE, [], snapshot(NODE)) == ()


BY_ENV, BY_MOUNT = DeviceListStrategy.ENVVAR, DeviceListStrategy.VOLUME_MOUNTS
BY_UUID, BY_INDEX = DeviceIdStrategy.UUID, DeviceIdStrategy.INDEX


@pytest.mark.parametrize(
    ("resource", "requested", "lists", "names", "visible", "mounted"),
    [
        (ONE, (A, C), (BY_ENV,), BY_UUID, f"{A},{C}", []),
        (ONE, (A, C), (BY_ENV,), BY_INDEX, "0:0,1:0", []),
        (ONE, (A, C), (BY_MOUNT,), BY_UUID, VOLUME_MOUNTS_ROOT, [A, C]),
        (ONE, (A, C), (BY_MOUNT,), BY_INDEX, VOLUME_MOUNTS_ROOT, ["0:0", "1:0"]),
        (ONE, (A,), (BY_ENV, BY_MOUNT), BY_UUID, VOLUME_MOUNTS_ROOT, [A]),
        (GPU, ("GPU-2",), (BY_ENV,), BY_INDEX, "2", []),
        (GPU, ("GPU-2",), (BY_MOUNT,), BY_INDEX, VOLUME_MOUNTS_ROOT, ["2"]),
    ],
)
def test_device_list_and_id_strategies(
    resource: str,
    requested: tuple[str, ...],
    lists: tuple[DeviceListStrategy, ...],
    names: DeviceIdStrategy,
    visible: str,
    mounted: list[str],
) -> None:
    allocation = one(resource, *requested, device_list_strategy=lists, device_id_strategy=names)
    assert allocation.envs["NVIDIA_VISIBLE_DEVICES"] == visible
    assert allocation.mounts == tuple(
        Mount(f"{VOLUME_MOUNTS_ROOT}/{name}", "/dev/null", read_only=True) for name in mounted
    )
    assert allocation.envs["CUDA_VISIBLE_DEVICES"] == ",".join(requested)


@pytest.mark.parametrize(
    ("changes", "envs"),
    [
        ({"cuda_visible_devices": False}, {"NVIDIA_VISIBLE_DEVICES": A}),
        (
            {"cuda_visible_devices": False, "gdrcopy_enabled": True},
            {"NVIDIA_VISIBLE_DEVICES": A, "NVIDIA_GDRCOPY": "enabled"},
        ),
        (
            {"cuda_visible_devices": False, "gds_enabled": True},
            {"NVIDIA_VISIBLE_DEVICES": A, "NVIDIA_GDS": "enabled"},
        ),
        (
            {"cuda_visible_devices": False, "mofed_enabled": True},
            {"NVIDIA_VISIBLE_DEVICES": A, "NVIDIA_MOFED": "enabled"},
        ),
    ],
)
def test_variables_that_can_be_switched(changes: dict[str, bool], envs: dict[str, str]) -> None:
    assert one(ONE, A, **changes).envs == envs


def test_device_nodes_can_be_switched_off() -> None:
    assert one(ONE, A, pass_device_specs=False).device_specs == ()


@pytest.mark.parametrize(
    ("driver_root", "dev_root", "host"),
    [
        ("/", "", "/dev/nvidia2"),
        ("/run/nvidia/driver", "", "/run/nvidia/driver/dev/nvidia2"),
        ("/run/nvidia/driver/", "", "/run/nvidia/driver/dev/nvidia2"),
        ("/run/nvidia/driver", "/", "/dev/nvidia2"),
        ("/", "/host", "/host/dev/nvidia2"),
    ],
)
def test_nodes_lie_below_the_device_root_on_the_host(
    driver_root: str, dev_root: str, host: str
) -> None:
    allocation = one(GPU, "GPU-2", driver_root=driver_root, dev_root=dev_root)
    assert allocation.device_specs[-1] == DeviceSpec("/dev/nvidia2", host, "rw")


def test_nodes_that_were_seen_elsewhere_have_that_path_on_the_host() -> None:
    seen = snapshot(
        replace(NODE, dev_root="/"), dataclasses.replace(MIXED, driver_root="/run/nvidia/driver")
    )
    (allocation,) = allocate(GPU, [("GPU-2",)], seen)
    assert allocation.device_specs[-1] == DeviceSpec("/dev/nvidia2", "/dev/nvidia2", "rw")


def test_a_gpu_handed_out_whole_brings_the_nodes_of_its_mig_devices_that_exist() -> None:
    there, missing = (
        mig_device(0, 0),
        mig_device(0, 1, missing_device_nodes=("/dev/nvidia-caps/nvidia-cap73",)),
    )
    allocation = allocate(GPU, [["GPU-0"]], snapshot(node(gpu(0, there, missing)), WHOLE))[0]
    assert paths(allocation) == [
        *CONTROL,
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap63",
        "/dev/nvidia-caps/nvidia-cap64",
        "/dev/nvidia-caps/nvidia-cap72",
    ]


def test_shares_of_one_device_are_that_device_once() -> None:
    shared = dataclasses.replace(MIXED, sharing=Sharing((SharedResource(ONE, 4),)))
    (allocation,) = allocate(ONE, [[f"{A}::3", f"{A}::0", f"{C}::1"]], snapshot(NODE, shared))
    assert allocation.envs["NVIDIA_VISIBLE_DEVICES"] == f"{A},{C}"
