"""Allocations by CDI, alone and beside other device list strategies."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from plugin.core.allocation import VOLUME_MOUNTS_ROOT, ContainerAllocation, allocate
from plugin.core.cdi.specification import entries
from plugin.core.cdi.standing import Specified
from plugin.core.scans import scan_ended
from plugin.core.settings import (
    CdiVendor,
    DeviceIdStrategy,
    DeviceListStrategy,
    Settings,
    SharedResource,
    Sharing,
)
from plugin.core.state import initial
from plugin.errors import DeviceUnavailable
from plugin.kubelet.deviceplugin import wire

from .builders import gpu, mig_gpu, node

ENV, MOUNTS = DeviceListStrategy.ENVVAR, DeviceListStrategy.VOLUME_MOUNTS
CRI, ANNOTATIONS = DeviceListStrategy.CDI_CRI, DeviceListStrategy.CDI_ANNOTATIONS
ONE, GPU = "nvidia.com/mig-1g.5gb", "nvidia.com/gpu"
A, B = "MIG-0-7-0", "MIG-0-8-0"
NODE = node(mig_gpu(0, "1g.5gb", "1g.5gb"), gpu(1))


def one(resource: str, *ids: str, written: bool = True, **changes: Any) -> ContainerAllocation:
    settings = Settings(**changes)
    on_disk = Specified(MappingProxyType(entries(NODE, settings) if written else {}))
    snapshot = scan_ended(initial(settings, 0.0), NODE, 1.0, on_disk).state.snapshot
    (allocation,) = allocate(resource, [ids], snapshot)
    return allocation


CDI_NAMES = ("nvidia.com/mig=MIG-0-7-0", "nvidia.com/mig=MIG-0-8-0")
KEY = "cdi.k8s.io/nvidia-device-plugin_MIG-0-7-0"


@pytest.mark.parametrize(
    ("lists", "names", "annotations", "visible", "mounts", "has_specs"),
    [
        ((CRI,), CDI_NAMES, {}, None, 0, False),
        ((ANNOTATIONS,), (), {KEY: ",".join(CDI_NAMES)}, None, 0, False),
        ((CRI, ANNOTATIONS), CDI_NAMES, {KEY: ",".join(CDI_NAMES)}, None, 0, False),
        ((ENV, CRI), CDI_NAMES, {}, f"{A},{B}", 0, True),
        ((MOUNTS, CRI, ENV), CDI_NAMES, {}, VOLUME_MOUNTS_ROOT, 2, True),
        ((ENV,), (), {}, f"{A},{B}", 0, True),
    ],
)
def test_strategies_alone_and_together(
    lists: tuple[DeviceListStrategy, ...],
    names: tuple[str, ...],
    annotations: dict[str, str],
    visible: str | None,
    mounts: int,
    has_specs: bool,  # noqa: FBT001 — a column of the table
) -> None:
    allocation = one(ONE, B, A, device_list_strategy=lists, gds_enabled=True)
    assert allocation.cdi_devices == names
    assert allocation.annotations == annotations
    assert allocation.envs.get("NVIDIA_VISIBLE_DEVICES") == visible
    assert allocation.envs["CUDA_VISIBLE_DEVICES"] == f"{A},{B}"
    # For NVIDIA's runtime, which has no part in it when there is nothing but CDI.
    assert ("NVIDIA_GDS" in allocation.envs) is has_specs
    assert bool(allocation.device_specs) is has_specs
    assert len(allocation.mounts) == mounts
    (response,) = wire.allocate_response([allocation]).container_responses
    assert tuple(device.name for device in response.cdi_devices) == names
    assert dict(response.annotations) == annotations


@pytest.mark.parametrize(
    ("resource", "device", "changes", "name"),
    [
        (ONE, B, {"device_id_strategy": DeviceIdStrategy.INDEX}, "nvidia.com/mig=0:1"),
        (GPU, "GPU-1", {}, "nvidia.com/gpu=GPU-1"),
        (GPU, "GPU-1", {"device_id_strategy": DeviceIdStrategy.INDEX}, "nvidia.com/gpu=1"),
        (ONE, B, {"cdi_vendor": CdiVendor.DEVICE_PLUGIN}, f"k8s.device-plugin.nvidia.com/gpu={B}"),
        (ONE, f"{B}::1", {"sharing": Sharing((SharedResource(ONE, 2),))}, f"nvidia.com/mig={B}"),
    ],
)
def test_names(resource: str, device: str, changes: dict[str, Any], name: str) -> None:
    assert one(resource, device, device_list_strategy=(CRI,), **changes).cdi_devices == (name,)


def test_replicas_of_one_device_are_that_device_once() -> None:
    shared = Sharing((SharedResource(ONE, 3),))
    found = one(ONE, f"{A}::0", f"{A}::2", device_list_strategy=(CRI,), sharing=shared)
    assert found.cdi_devices == CDI_NAMES[:1]


def test_resources_of_one_container_have_annotations_under_keys_of_their_own() -> None:
    def annotations(resource: str, device: str) -> dict[str, str]:
        lists = (ANNOTATIONS,)
        found = one(resource, device, device_list_strategy=lists, cdi_annotation_prefix="a.b/")
        return dict(found.annotations)

    found = annotations(ONE, A) | annotations(GPU, "GPU-1")
    assert found == {
        "a.b/nvidia-device-plugin_MIG-0-7-0": CDI_NAMES[0],
        "a.b/nvidia-device-plugin_GPU-1": "nvidia.com/gpu=GPU-1",
    }


def test_a_device_that_is_not_on_disk_is_not_handed_out() -> None:
    with pytest.raises(DeviceUnavailable, match="the CDI specification on disk does not have it"):
        one(ONE, A, written=False, device_list_strategy=(ENV, CRI))
    assert one(ONE, A, written=False).devices[0].uuid == A
