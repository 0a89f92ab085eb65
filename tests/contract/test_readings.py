"""Scans of the simulated hardware: every node and geometry, and unreadable parts."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.faults import Aspect
from tests.simulated import scan, truth

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
    Aspect.PCI: (
        "reading its PCI address",
        {"pci_bus_id": "", "pci_device_id": 0, "pci_class": None, "numa": None},
    ),
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
