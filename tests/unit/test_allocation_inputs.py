"""What a container gets follows from the node; from outside come ids, and they only choose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.allocation import VOLUME_MOUNTS_ROOT, ContainerAllocation, allocate
from plugin.core.settings import DeviceIdStrategy, DeviceListStrategy, MigStrategy, Settings
from plugin.errors import RequestError

from .builders import CONTROL, gpu, mig_gpu, node, snapshot

ONE = "nvidia.com/mig-1g.5gb"
NODE = node(mig_gpu(0, "1g.5gb", "1g.5gb", "1g.5gb"), mig_gpu(1, "1g.5gb"), gpu(2))
DEVICES = {device.uuid: device for each in NODE.gpus for device in each.mig_devices}

settings = st.builds(
    Settings,
    mig_strategy=st.just(MigStrategy.MIXED),
    device_list_strategy=st.lists(st.sampled_from(DeviceListStrategy), min_size=1, unique=True).map(
        tuple
    ),
    device_id_strategy=st.sampled_from(DeviceIdStrategy),
    pass_device_specs=st.booleans(),
    cuda_visible_devices=st.booleans(),
    gds_enabled=st.booleans(),
)
listed = st.lists(st.sampled_from(sorted(DEVICES)), min_size=1, unique=True)
hostile = st.text() | st.sampled_from(
    [
        *("/dev/sda", "../../etc/passwd", "all", "void", "none", "0", "0:0", "GPU-2", "nvidia0"),
        *("nvidia.com/gpu=all", "MIG-0-7-0::1", "MIG-0-7-0,all", "MIG-0-7-0\nLD_PRELOAD=x"),
        *("NVIDIA_VISIBLE_DEVICES=all", "\0", "MIG-0-7-0/../.."),
    ]
)


@given(settings, listed, hostile.filter(lambda text: text not in DEVICES))
def test_an_id_that_is_not_listed_is_refused_with_all_that_comes_with_it(
    chosen: Settings, ids: list[str], other: str
) -> None:
    for request in ([other], [*ids, other], [other, *ids]):
        with pytest.raises(RequestError):
            allocate(ONE, [request], snapshot(NODE, chosen))


def texts(allocation: ContainerAllocation) -> set[str]:
    """Everything in an answer that could be a path, a variable or a name."""
    return {
        *allocation.envs,
        *allocation.envs.values(),
        *(path for m in allocation.mounts for path in (m.container_path, m.host_path)),
        *(path for d in allocation.device_specs for path in (d.container_path, d.host_path)),
        *allocation.cdi_devices,
        *allocation.annotations,
        *allocation.annotations.values(),
    }


@given(settings, listed)
def test_an_answer_has_nothing_but_what_is_of_its_devices(chosen: Settings, ids: list[str]) -> None:
    (allocation,) = allocate(ONE, [ids], snapshot(NODE, chosen))
    own = [DEVICES[uuid] for uuid in ids]
    nodes = {*CONTROL, *(path for device in own for path in device.device_nodes)}
    assert {d.host_path for d in allocation.device_specs} <= nodes
    assert {d.permissions for d in allocation.device_specs} <= {"rw"}
    assert {m.host_path for m in allocation.mounts} <= {"/dev/null"}
    assert all(m.read_only for m in allocation.mounts)
    assert all(m.container_path.startswith(f"{VOLUME_MOUNTS_ROOT}/") for m in allocation.mounts)
    assert set(allocation.envs) <= {
        *("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "NVIDIA_GDS"),
    }
    others = set(DEVICES) - set(ids)
    assert not [text for text in texts(allocation) for uuid in others if uuid in text]


@given(settings, st.permutations(sorted(DEVICES)))
def test_the_order_of_the_ids_says_nothing(chosen: Settings, ids: list[str]) -> None:
    now = snapshot(NODE, replace(chosen))
    assert allocate(ONE, [ids], now) == allocate(ONE, [sorted(DEVICES)], now)
