"""The driver over the simulated library reads what the hardware there is, and of a broken one
everything that is not broken.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.errors import DriverUnavailable, SimulationError
from plugin.sim import tree
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.files import MIG_MINORS
from plugin.sim.nvml.library import SimLibrary
from tests.simulated import opened, scan, truth

GEOMETRIES = ("", "all-enabled", "all-balanced", "all-largest", "all-smallest", "all-compute")
CODES = (Code.UNKNOWN, Code.NOT_FOUND, Code.NOT_SUPPORTED, Code.NO_PERMISSION, Code.RESET_REQUIRED)
NO_ANSWER = {Code.NOT_SUPPORTED, Code.NO_PERMISSION}
HOLES = {Code.NOT_FOUND, Code.NOT_SUPPORTED, Code.INVALID_ARGUMENT}
SMALL = "2xa100-40gb:0=1g.5gb+me,2g.10gb;1=1g.5gb*2"


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
def test_every_node_and_geometry(name: str, geometry: str) -> None:
    node = parse_node(f"{name}:{geometry_for(name, geometry)}")
    found = scan(node)
    assert found.gpus == truth(node)
    assert (found.warnings(), dict(found.unreadable)) == ((), {})
    assert (found.driver_version, found.nvml_version) == (node.versions.driver, node.versions.nvml)
    assert found.cuda_version == (13, 0)
    assert found.control_nodes == ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")


# Parts that cannot be read


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("aspect", [Aspect.HANDLE, Aspect.UUID])
def test_a_gpu_that_cannot_be_identified(aspect: Aspect, code: Code) -> None:
    node = parse_node(SMALL)
    node.faults.fail(node.gpu(0).uuid, aspect, code)
    found = scan(node)
    assert found.gpus == truth(node)[1:]
    assert list(found.unreadable) == [0]
    assert [warning.partition(":")[0] for warning in found.warnings()] == ["GPU 0 cannot be read"]


LOST = {Code.GPU_IS_LOST, Code.RESET_REQUIRED}
OPTIONAL: dict[Aspect, tuple[str, dict[str, Any]]] = {
    Aspect.NAME: ("nvmlDeviceGetName", {"product": ""}),
    Aspect.CAPABILITY: ("nvmlDeviceGetCudaComputeCapability", {"compute_capability": None}),
    Aspect.PCI: ("reading its PCI address", {"pci_bus_id": "", "pci_device_id": 0, "numa": None}),
    Aspect.MEMORY: ("reading its memory", {"memory_mib": 0}),
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("aspect", OPTIONAL)
def test_an_optional_reading_costs_only_what_needs_it(aspect: Aspect, code: Code) -> None:
    node = parse_node(SMALL)
    node.faults.fail(node.gpu(0).uuid, aspect, code)
    broken, other = scan(node).gpus
    whole = truth(node)
    doing, without = OPTIONAL[aspect]
    assert other == whole[1]
    if code in LOST:
        assert (broken.uuid, broken.mig_certain) == (whole[0].uuid, False)
        assert (broken.error or "").startswith(f"GPU 0: {doing}: ")
        return
    # What a card may lack is no warning.
    silent = code in NO_ANSWER and aspect in {Aspect.NAME, Aspect.CAPABILITY}
    assert [text.startswith(f"GPU 0: {doing}: ") for text in broken.warnings] == [True] * (
        not silent
    )
    without = {**without, "warnings": broken.warnings}
    if aspect is Aspect.PCI:
        without["mig_devices"] = tuple(replace(d, numa=None) for d in whole[0].mig_devices)
    assert broken == replace(whole[0], **without)


@pytest.mark.parametrize("code", CODES)
def test_a_gpu_without_a_minor_number_has_no_device_nodes(code: Code) -> None:
    node = parse_node(SMALL)
    node.faults.fail(node.gpu(0).uuid, Aspect.MINOR, code)
    broken, other = scan(node).gpus
    whole = truth(node)
    assert other == whole[1]
    assert (broken.uuid, broken.index) == (whole[0].uuid, 0)
    assert (broken.error or "").startswith("GPU 0: reading its minor number: ")
    if code not in LOST:
        assert [d.profile for d in broken.mig_devices] == [d.profile for d in whole[0].mig_devices]
        assert all(device.error for device in broken.mig_devices)


@pytest.mark.parametrize("code", CODES)
def test_a_mig_mode_that_cannot_be_read_is_unknown_and_not_off(code: Code) -> None:
    node = parse_node(SMALL)
    node.faults.fail(node.gpu(0).uuid, Aspect.MIG_MODE, code)
    broken, other = scan(node).gpus
    whole = truth(node)
    assert other == whole[1]
    assert (broken.mig, broken.mig_certain) == (None, False)
    assert broken.mig_unknown is not None
    assert broken.mig_unknown.what.startswith("reading its MIG mode: ")
    if code in LOST:
        assert (broken.error or "").startswith("GPU 0: reading its MIG mode: ")
    else:
        assert broken.mig_unknown.code == code
        assert broken.mig_devices == whole[0].mig_devices


@pytest.mark.parametrize("fault", [Fail(Code.NOT_SUPPORTED), Fail(Code.FUNCTION_NOT_FOUND)])
def test_a_card_without_mig_takes_two_answers(fault: Fail) -> None:
    node = parse_node("1xt4-16gb")
    (found,) = scan(node).gpus
    assert (found.mig, found.mig_certain) == (None, True)
    node = parse_node("1xa100-40gb")
    node.calls.inject("nvmlDeviceGetMigMode", fault)
    (found,) = scan(node).gpus
    assert (found.mig, found.mig_certain) == (None, False)


@pytest.mark.parametrize("code", [Code.UNKNOWN, Code.NOT_FOUND, Code.NO_PERMISSION])
def test_gpu_instances_that_may_not_be_asked(code: Code) -> None:
    node = parse_node(SMALL)
    node.faults.fail(node.gpu(0).uuid, Aspect.GPU_INSTANCES, code)
    found, whole = scan(node).gpus, truth(node)
    assert found[1] == whole[1]
    # The attributes of the devices tell their profiles, +me among them, which takes no right.
    assert found[0] == replace(
        whole[0],
        instances=None,
        mig_devices=tuple(replace(device, placement=None) for device in whole[0].mig_devices),
    )
    assert found[0].free_slices() is None


@pytest.mark.parametrize("name", sorted(catalog().nodes))
def test_profiles_are_known_without_the_right_to_monitor(name: str) -> None:
    """On every card and for every profile: never another name, and no name where two fit."""
    card, _ = catalog().nodes[name]
    for profile in card.profiles:
        node = parse_node(f"1x{card.key}:0={profile.name}")
        node.faults.fail(node.gpu(0).uuid, Aspect.GPU_INSTANCES, Code.NO_PERMISSION)
        (device,) = scan(node).gpus[0].mig_devices
        twins = {
            other.name
            for other in card.profiles
            if (other.slices, other.memory_mib, other.engines, other.multiprocessors)
            == (profile.slices, profile.memory_mib, profile.engines, profile.multiprocessors)
        }
        if len(twins) == 1:
            assert (device.profile, device.error) == (profile.name, None)
        else:
            assert device.profile == ""
            assert all(twin in (device.error or "") for twin in twins)
            assert "NVIDIA_MIG_MONITOR_DEVICES" in (device.error or "")


@pytest.mark.parametrize("code", [Code.GPU_IS_LOST, Code.RESET_REQUIRED])
def test_a_lost_gpu_is_never_taken_for_one_that_may_not_be_asked(code: Code) -> None:
    node = parse_node(SMALL)
    node.faults.fail(node.gpu(0).uuid, Aspect.GPU_INSTANCES, code)
    broken, other = scan(node).gpus
    assert other == truth(node)[1]
    assert broken.error is not None
    assert broken.error.startswith("GPU 0: listing GPU instances of profile ")
    assert broken.mig_devices == ()
    assert not broken.mig_certain


@pytest.mark.parametrize("aspect", [Aspect.HANDLE, Aspect.UUID, Aspect.ATTRIBUTES])
def test_a_mig_device_says_that_its_gpu_is_lost(aspect: Aspect) -> None:
    node = parse_node(SMALL)
    device = truth(node)[0].mig_devices[1]
    node.faults.fail(device.uuid, aspect, Code.GPU_IS_LOST)
    broken, other = scan(node).gpus
    assert other == truth(node)[1]
    assert (broken.error or "").endswith("GPU is lost")


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    "aspect", [Aspect.HANDLE, Aspect.UUID, Aspect.INSTANCE_IDS, Aspect.ATTRIBUTES]
)
def test_a_mig_device_that_cannot_be_read_harms_no_other(aspect: Aspect, code: Code) -> None:
    node = parse_node("1xh100-80gb:all-1g.10gb")
    (whole,) = truth(node)
    node.faults.fail(whole.mig_devices[2].uuid, aspect, code)
    (found,) = scan(node).gpus
    others = tuple(device for device in whole.mig_devices if device.index != 2)
    assert tuple(device for device in found.mig_devices if device.index != 2) == others
    harmed = [device for device in found.mig_devices if device.index == 2]
    if aspect is Aspect.ATTRIBUTES:
        (device,) = harmed
        assert (device.uuid, device.profile) == (whole.mig_devices[2].uuid, "")
        assert (device.error or "").startswith("MIG device 0:2: reading its attributes: ")
        assert found.warnings == (device.error,)
    elif aspect is Aspect.HANDLE and code in HOLES:
        assert (harmed, dict(found.unreadable), found.warnings) == ([], {}, ())
    else:
        assert (harmed, list(found.unreadable)) == ([], [2])
        assert found.unreadable[2].startswith("MIG device 0:2 cannot be read: ")


# Changes below an open driver


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
