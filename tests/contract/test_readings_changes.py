"""Scans while the simulated hardware changes, and its files in memory and on disk."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.errors import DriverUnavailable, SimulationError
from plugin.sim import tree
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.files import MIG_MINORS
from plugin.sim.nvml.library import SimLibrary
from tests.simulated import opened, scan, truth

CODES = (Code.UNKNOWN, Code.NOT_FOUND, Code.NOT_SUPPORTED, Code.NO_PERMISSION, Code.RESET_REQUIRED)
HOLES = {Code.NOT_FOUND, Code.NOT_SUPPORTED, Code.INVALID_ARGUMENT}


def test_a_gpu_is_lost_and_comes_back() -> None:
    node = parse_node("2xa100-40gb:all-balanced")
    with opened(node) as driver:
        before = driver.scan()
        node.lose(1)
        assert driver.scan().gpus == truth(node)[:1]
        assert "GPU 1 cannot be read" in driver.scan().warnings()[0]
        node.restore(1)
        assert driver.scan() == before


def test_a_geometry_changes() -> None:
    node = parse_node("2xh100-80gb:all-balanced")
    with opened(node) as driver:
        before = driver.scan()
        node.set_geometry(0, ["7g.80gb"])
        after = driver.scan()
    assert after.gpus == truth(node)
    assert [device.profile for device in after.gpus[0].mig_devices] == ["7g.80gb"]
    assert after.gpus[1] == before.gpus[1]


def test_mig_mode_waits_for_a_reset() -> None:
    node = parse_node("2xa100-40gb:1=1g.5gb")
    node.set_mig_mode(0, on=True)
    node.set_mig_mode(1, on=False)
    found = scan(node).gpus
    assert found == truth(node)
    assert [gpu.mig_pending for gpu in found] == [True, True]


def test_a_driver_that_is_not_loaded() -> None:
    node = parse_node("p4d.24xlarge")
    with opened(node) as driver:
        before = driver.scan()
        node.faults.set_available(available=False)
        with pytest.raises(DriverUnavailable, match="Driver Not Loaded"):
            driver.scan()
        with pytest.raises(DriverUnavailable, match="Driver Not Loaded"):
            driver.open()
        node.faults.set_available(available=True)
        driver.open()
        assert driver.scan() == before


def test_a_driver_without_profile_names_leaves_them_to_arithmetic() -> None:
    node = parse_node("p4d.24xlarge:all-balanced")
    with opened(node, without=("nvmlDeviceGetGpuInstanceProfileInfoV",)) as driver:
        assert driver.scan().gpus == truth(node)


def test_drivers_in_one_process_do_not_meet() -> None:
    ours, theirs = parse_node("1xa100-40gb:all-7g.40gb"), parse_node("2xh100-80gb:all-7g.80gb")
    with opened(ours) as one, opened(theirs, without=("nvmlDeviceGetName",)) as two:
        source = one.watch([ours.gpu(0).uuid])
        for _ in range(2):
            assert one.scan().gpus == truth(ours)
            assert two.scan().gpus == tuple(replace(gpu, product="") for gpu in truth(theirs))
        two.close()
        ours.xid(0, 13)
        event = source.wait(0)
        assert event is not None
        assert event.data == 13
        assert one.scan().gpus == truth(ours)


# Files


@pytest.mark.parametrize(
    ("paths", "missing"),
    [
        (("/dev/nvidia0",), dict.fromkeys(range(7), ("/dev/nvidia0",))),
        (("/dev/nvidia-caps/nvidia-cap66",), {0: ("/dev/nvidia-caps/nvidia-cap66",)}),
        (
            ("/dev/nvidia-caps/nvidia-cap67", "/dev/nvidiactl"),
            {0: ("/dev/nvidia-caps/nvidia-cap67",)},
        ),
        ((MIG_MINORS,), {}),
        (("/proc/driver/nvidia/capabilities/gpu0/mig/gi7/access",), {}),
        (
            (MIG_MINORS, "/proc/driver/nvidia/capabilities/gpu0/mig/gi7/access"),
            {0: ("/proc/driver/nvidia/capabilities/gpu0/mig/gi7/access",)},
        ),
        (
            (MIG_MINORS, "/proc/driver/nvidia/capabilities/gpu0/mig/gi7/ci0/access"),
            {0: ("/proc/driver/nvidia/capabilities/gpu0/mig/gi7/ci0/access",)},
        ),
    ],
)
def test_files_are_missing_in_memory_and_on_disk(
    paths: tuple[str, ...], missing: dict[int, tuple[str, ...]], tmp_path: Path
) -> None:
    node = parse_node("1xa100-40gb:all-1g.5gb")
    for path in paths:
        node.faults.remove_node(path)
    found = scan(node)
    devices = found.gpus[0].mig_devices
    assert {d.index: d.missing_device_nodes for d in devices if d.missing_device_nodes} == missing
    assert ("/dev/nvidiactl" in found.control_nodes) == ("/dev/nvidiactl" not in paths)
    assert found == _scan_over(tmp_path, node)


@pytest.mark.parametrize("text", ["p4d.24xlarge:all-balanced", "2xh100-80gb:0=1c.3g.40gb*3"])
def test_files_in_memory_are_those_on_disk(text: str, tmp_path: Path) -> None:
    node = parse_node(text)
    assert _scan_over(tmp_path, node) == scan(node)


def _scan_over(folder: Path, node: SimNode) -> object:
    """By a driver that reads real files."""
    tree.write(node, folder)
    files = DeviceFiles(folder, proc=folder / "proc", sys=folder / "sys")
    driver = NvmlDriver(files, SimLibrary(node))
    driver.open()
    try:
        return driver.scan()
    finally:
        driver.close()


def test_the_numa_node_is_unknown() -> None:
    node = SimNode([catalog().cards["h100-80gb"]], numa=False)
    assert scan(node).gpus == truth(node)
    assert truth(node)[0].numa is None


# Anything at all

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


def use(node: SimNode, gpu: int) -> None:
    for slot in node.gpu(gpu).devices():
        node.use(slot.ci.uuid, 17)


def release(node: SimNode, gpu: int) -> None:
    for slot in node.gpu(gpu).devices():
        node.release(slot.ci.uuid)


def fail(node: SimNode, gpu: int, aspect: Aspect, code: Code) -> None:
    for slot in node.gpu(gpu).devices():
        node.faults.fail(slot.ci.uuid, aspect, code)


HEALTHY = (
    st.tuples(
        st.just(create), GPUS, st.sampled_from(PROFILES), st.sampled_from([1, 2, 3, 4, 7, None])
    ),
    st.tuples(st.just(destroy), GPUS, st.integers(0, 6)),
    st.tuples(st.just(SimNode.set_geometry), GPUS, st.lists(st.sampled_from(PROFILES), max_size=5)),
    st.tuples(st.just(switch), GPUS, st.booleans()),
    st.tuples(st.sampled_from([SimNode.reset, SimNode.lose, SimNode.restore, use, release]), GPUS),
)
BROKEN = st.tuples(
    st.just(fail),
    GPUS,
    st.sampled_from([Aspect.HANDLE, Aspect.UUID, Aspect.INSTANCE_IDS, Aspect.ATTRIBUTES]),
    st.sampled_from(CODES),
)


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(st.one_of(*HEALTHY, BROKEN), min_size=1, max_size=12))
def test_after_any_operations(operations: list[tuple[Any, ...]]) -> None:
    """Whatever is read without an error is true, and whatever is not read is known as unreadable,
    unless the driver denies that it is there.
    """
    node = parse_node("2xa100-40gb:all-balanced")
    with opened(node) as driver:
        for operation, *arguments in operations:
            with contextlib.suppress(SimulationError):  # what the node refuses is no matter
                operation(node, *arguments)
            found = driver.scan()
            lost = {index for index, gpu in enumerate(node.gpus) if gpu.lost}
            assert set(found.unreadable) == lost
            whole = {gpu.index: gpu for gpu in truth(node)}
            assert {gpu.index for gpu in found.gpus} == whole.keys() - lost
            for gpu in found.gpus:
                true = {device.uuid: device for device in whole[gpu.index].mig_devices}
                read = {device.uuid: device for device in gpu.mig_devices}
                assert all(read[uuid] == true[uuid] for uuid in read if not read[uuid].error)
                unread = [true[uuid] for uuid in true.keys() - read.keys()]
                denied = {
                    device.index
                    for device in unread
                    if node.faults.code(device.uuid, Aspect.HANDLE) in HOLES
                }
                assert {device.index for device in unread} - denied == set(gpu.unreadable)
                assert replace(gpu, mig_devices=(), warnings=(), unreadable={}) == replace(
                    whole[gpu.index], mig_devices=()
                )
