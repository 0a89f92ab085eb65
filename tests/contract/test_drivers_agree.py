"""The simulated driver and NVML over the simulated library read the same node in the same way."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.driver.nvml import NvmlDriver
from plugin.errors import DriverUnavailable, SimulationError
from plugin.sim import tree
from plugin.sim.driver import MIG_MINORS, SimDriver
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect

OpenNvml = Callable[..., AbstractContextManager[NvmlDriver]]

GEOMETRIES = ("", "all-enabled", "all-balanced", "all-largest", "all-smallest", "all-compute")
GPU_ASPECTS = (
    Aspect.HANDLE,
    Aspect.UUID,
    Aspect.PCI,
    Aspect.MINOR,
    Aspect.NAME,
    Aspect.MEMORY,
    Aspect.CAPABILITY,
    Aspect.MIG_MODE,
    Aspect.GPU_INSTANCES,
)
MIG_ASPECTS = (Aspect.HANDLE, Aspect.UUID, Aspect.INSTANCE_IDS, Aspect.ATTRIBUTES)
CODES = (Code.UNKNOWN, Code.NOT_FOUND, Code.NOT_SUPPORTED, Code.NO_PERMISSION, Code.RESET_REQUIRED)


def assert_agreement(node: SimNode, folder: Path, open_nvml: OpenNvml) -> None:
    with open_nvml(node, folder) as nvml:
        assert nvml.scan() == SimDriver(node).scan()


def geometry_for(node: str, geometry: str) -> str:
    """A geometry by kind: names of profiles differ from card to card."""
    card, _ = catalog().nodes[node]
    if not card.mig_capable:
        return "all-enabled"
    by_size = sorted(card.profiles, key=lambda profile: profile.slices)
    names = {
        "all-largest": by_size[-1].name,
        "all-smallest": by_size[0].name,
        "all-compute": f"1c.{by_size[-1].name}",
    }
    return f"all-{names[geometry]}" if geometry in names else geometry


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", sorted(catalog().nodes))
def test_on_every_node_and_geometry(
    name: str, geometry: str, tmp_path: Path, open_nvml: OpenNvml
) -> None:
    assert_agreement(parse_node(f"{name}:{geometry_for(name, geometry)}"), tmp_path, open_nvml)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("aspect", GPU_ASPECTS)
def test_when_a_gpu_cannot_be_read(
    aspect: Aspect, code: Code, tmp_path: Path, open_nvml: OpenNvml
) -> None:
    node = parse_node("2xa100-40gb:0=1g.5gb+me,2g.10gb;1=1g.5gb*2")
    node.faults.fail(node.gpu(0).uuid, aspect, code)
    assert_agreement(node, tmp_path, open_nvml)
    assert (
        SimDriver(node).scan()
        != SimDriver(parse_node("2xa100-40gb:0=1g.5gb+me,2g.10gb;1=1g.5gb*2")).scan()
    )


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("aspect", MIG_ASPECTS)
def test_when_a_mig_device_cannot_be_read(
    aspect: Aspect, code: Code, tmp_path: Path, open_nvml: OpenNvml
) -> None:
    node = parse_node("1xh100-80gb:all-1g.10gb")
    healthy = SimDriver(node).scan()
    node.faults.fail(healthy.gpus[0].mig_devices[2].uuid, aspect, code)
    assert_agreement(node, tmp_path, open_nvml)
    found = SimDriver(node).scan().gpus[0].mig_devices
    unharmed = [device for device in healthy.gpus[0].mig_devices if device.index != 2]
    assert [device for device in found if device.index != 2] == unharmed


def test_when_a_gpu_is_lost_and_comes_back(tmp_path: Path, open_nvml: OpenNvml) -> None:
    node = parse_node("2xa100-40gb:all-balanced")
    before = SimDriver(node).scan()
    with open_nvml(node, tmp_path) as nvml:
        node.lose(1)
        assert nvml.scan() == SimDriver(node).scan()
        assert [gpu.index for gpu in nvml.scan().gpus] == [0]
        assert "GPU 1 cannot be read" in nvml.scan().unreadable[1]
        node.restore(1)
        assert nvml.scan() == before


def test_when_a_geometry_changes_below_an_open_driver(tmp_path: Path, open_nvml: OpenNvml) -> None:
    node = parse_node("2xh100-80gb:all-balanced")
    with open_nvml(node, tmp_path) as nvml:
        before = nvml.scan()
        node.set_geometry(0, ["7g.80gb"])
        tree.write(node, tmp_path)
        after = nvml.scan()
        assert after == SimDriver(node).scan()
    assert [device.profile for device in after.gpus[0].mig_devices] == ["7g.80gb"]
    assert after.gpus[1] == before.gpus[1]


def test_when_mig_mode_waits_for_a_reset(tmp_path: Path, open_nvml: OpenNvml) -> None:
    node = parse_node("2xa100-40gb:1=1g.5gb")
    node.set_mig_mode(0, on=True)
    node.set_mig_mode(1, on=False)
    assert_agreement(node, tmp_path, open_nvml)
    assert [gpu.mig_pending for gpu in SimDriver(node).scan().gpus] == [True, True]


@pytest.mark.parametrize(
    "paths",
    [
        ("/dev/nvidia0",),
        ("/dev/nvidia-caps/nvidia-cap66",),
        ("/dev/nvidia-caps/nvidia-cap67", "/dev/nvidiactl"),
        (MIG_MINORS,),
        ("/proc/driver/nvidia/capabilities/gpu0/mig/gi7/access",),
        (MIG_MINORS, "/proc/driver/nvidia/capabilities/gpu0/mig/gi7/access"),
        (MIG_MINORS, "/proc/driver/nvidia/capabilities/gpu0/mig/gi7/ci0/access"),
    ],
)
def test_when_files_are_missing(
    paths: tuple[str, ...], tmp_path: Path, open_nvml: OpenNvml
) -> None:
    node = parse_node("1xa100-40gb:all-1g.5gb")
    for path in paths:
        node.faults.remove_node(path)
    assert_agreement(node, tmp_path, open_nvml)


def test_when_the_numa_node_is_unknown(tmp_path: Path, open_nvml: OpenNvml) -> None:
    node = SimNode([catalog().cards["h100-80gb"]], numa=False)
    assert_agreement(node, tmp_path, open_nvml)


def test_a_driver_without_profile_names_leaves_them_to_arithmetic(
    tmp_path: Path, open_nvml: OpenNvml
) -> None:
    node = parse_node("p4d.24xlarge:all-balanced")
    with open_nvml(node, tmp_path, without=("nvmlDeviceGetGpuInstanceProfileInfoV",)) as nvml:
        assert nvml.scan() == SimDriver(node).scan()


def test_a_driver_that_is_not_loaded(tmp_path: Path, open_nvml: OpenNvml) -> None:
    node = parse_node("p4d.24xlarge")
    with open_nvml(node, tmp_path) as nvml:
        before = nvml.scan()
        node.faults.set_available(available=False)
        for driver in (nvml, SimDriver(node)):
            with pytest.raises(DriverUnavailable):
                driver.scan()
            with pytest.raises(DriverUnavailable):
                driver.open()
        node.faults.set_available(available=True)
        nvml.open()
        assert nvml.scan() == before


PROFILES = tuple(profile.name for profile in catalog().cards["a100-40gb"].profiles)
GPUS = st.integers(0, 1)


def create(node: SimNode, gpu: int, profile: str, slices: int | None) -> None:
    node.create_ci(gpu, node.create_gi(gpu, profile).id, slices)


def destroy(node: SimNode, gpu: int, which: int) -> None:
    slots = list(node.gpu(gpu).devices())
    if slots:
        slot = slots[which % len(slots)]
        node.destroy_ci(gpu, slot.gi.id, slot.ci.id)


def switch(node: SimNode, gpu: int, on: bool) -> None:  # noqa: FBT001 - drawn by position
    node.set_mig_mode(gpu, on=on)


def fail(node: SimNode, gpu: int, aspect: Aspect, code: Code) -> None:
    for slot in node.gpu(gpu).devices():
        node.faults.fail(slot.ci.uuid, aspect, code)


def use(node: SimNode, gpu: int) -> None:
    for slot in node.gpu(gpu).devices():
        node.use(slot.ci.uuid, 17)


def release(node: SimNode, gpu: int) -> None:
    for slot in node.gpu(gpu).devices():
        node.release(slot.ci.uuid)


OPERATIONS = st.one_of(
    st.tuples(
        st.just(create), GPUS, st.sampled_from(PROFILES), st.sampled_from([1, 2, 3, 4, 7, None])
    ),
    st.tuples(st.just(destroy), GPUS, st.integers(0, 6)),
    st.tuples(st.just(SimNode.set_geometry), GPUS, st.lists(st.sampled_from(PROFILES), max_size=5)),
    st.tuples(st.just(switch), GPUS, st.booleans()),
    st.tuples(st.sampled_from([SimNode.reset, SimNode.lose, SimNode.restore, use, release]), GPUS),
    st.tuples(st.just(fail), GPUS, st.sampled_from(MIG_ASPECTS), st.sampled_from(CODES)),
)


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(OPERATIONS, min_size=1, max_size=12))
def test_after_any_operations(operations: list[tuple[Any, ...]], open_nvml: OpenNvml) -> None:
    node = parse_node("2xa100-40gb:all-balanced")
    with tempfile.TemporaryDirectory() as folder, open_nvml(node, Path(folder)) as nvml:
        for operation, *arguments in operations:
            with contextlib.suppress(SimulationError):  # what the node refuses is no matter
                operation(node, *arguments)
            tree.write(node, Path(folder))
            assert nvml.scan() == SimDriver(node).scan()
