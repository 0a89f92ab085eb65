"""What holds for the answers of every driver, simulated or real."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from plugin.core.health.events import Probe
from plugin.core.inventory.model import Placement
from plugin.core.inventory.profiles import Profile
from plugin.core.inventory.samples import Samples
from plugin.driver.base import Driver
from plugin.errors import DriverCallFailed, DriverUnavailable, NoPermission

KUBELET_ID_LIMIT = 63


def assert_refuses(driver: Driver) -> None:
    with pytest.raises(DriverUnavailable, match=r"^the driver is not open$"):
        driver.scan()
    with pytest.raises(DriverUnavailable, match=r"^the driver is not open$"):
        driver.watch([])
    for thorough in (False, True):
        assert driver.probe("GPU-1", thorough=thorough) == Probe(
            "GPU-1", error="the driver is not open"
        )
    samples = driver.sample()
    assert replace(samples, time=0.0, seconds=0.0) == Samples(0.0)


def test_a_driver_answers_only_while_it_is_open(closed_driver: Driver) -> None:
    assert_refuses(closed_driver)
    closed_driver.close()
    closed_driver.open()
    assert closed_driver.scan().driver_version
    closed_driver.close()
    assert_refuses(closed_driver)


def test_a_closed_driver_lets_its_event_source_go(driver: Driver) -> None:
    source = driver.watch([gpu.uuid for gpu in driver.scan().gpus])
    driver.close()
    with pytest.raises(DriverCallFailed, match="the event set is closed"):
        source.wait(0)


def test_scanning_twice_gives_the_same_answer(driver: Driver) -> None:
    first = driver.scan()
    assert first.gpus or first.unreadable
    assert driver.scan() == first


def test_a_driver_can_be_closed_twice_and_opened_again(driver: Driver) -> None:
    before = driver.scan()
    driver.close()
    driver.close()
    driver.open()
    assert driver.scan() == before


def test_devices_are_in_order_and_their_uuids_are_unique(driver: Driver) -> None:
    inventory = driver.scan()
    indices = [gpu.index for gpu in inventory.gpus]
    assert indices == sorted(set(indices))
    for gpu in inventory.gpus:
        keys = [(device.gi, device.ci) for device in gpu.mig_devices]
        assert keys == sorted(set(keys))
        assert len({device.index for device in gpu.mig_devices}) == len(keys)
    uuids = [device.uuid for device in inventory.devices()]
    assert len(set(uuids)) == len(uuids)
    assert all(len(uuid) <= KUBELET_ID_LIMIT for uuid in uuids)


def test_uuids_tell_gpus_from_mig_devices(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        assert gpu.uuid.startswith("GPU-")
        assert all(device.uuid.startswith("MIG-") for device in gpu.mig_devices)


def test_mig_devices_know_their_gpu(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        for device in gpu.mig_devices:
            assert (device.gpu_uuid, device.gpu_index, device.numa) == (
                gpu.uuid,
                gpu.index,
                gpu.numa,
            )


def test_mig_devices_exist_only_with_mig_on(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        assert gpu.mig_enabled or not gpu.mig_devices


def test_profile_names_agree_with_slices(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        for device in gpu.mig_devices:
            parsed = Profile.parse(device.profile)
            assert parsed is not None
            assert (parsed.ci_slices, parsed.gi_slices) == (device.ci_slices, device.gi_slices)
            assert 0 < device.memory_mib <= gpu.memory_mib
            assert device.multiprocessors > 0


def test_placements_lie_on_the_card_without_overlap(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        placements: dict[int, Placement] = {}
        for device in gpu.mig_devices:
            assert device.placement is not None
            assert device.placement.end <= gpu.memory_slices
            assert placements.setdefault(device.gi, device.placement) == device.placement
        assert not any(a.overlaps(b) for a, b in itertools.combinations(placements.values(), 2))


def test_a_mig_device_needs_three_nodes_and_its_gpu_one(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        assert gpu.device_nodes == (f"/dev/nvidia{gpu.minor}",)
        for device in gpu.mig_devices:
            assert device.device_nodes[0] == gpu.device_nodes[0]
            assert all(
                node.startswith("/dev/nvidia-caps/nvidia-cap") for node in device.device_nodes[1:]
            )
            assert len(set(device.device_nodes)) == len(device.device_nodes)
            if not device.missing_device_nodes:
                assert len(device.device_nodes) == len(("gpu", "gpu instance", "compute instance"))


def test_gpus_are_described(driver: Driver) -> None:
    inventory = driver.scan()
    assert inventory.driver_version
    assert inventory.nvml_version
    assert inventory.cuda_version is not None
    for gpu in inventory.gpus:
        assert gpu.error is None
        assert gpu.product
        assert gpu.memory_mib > 0
        assert gpu.pci_device_id & 0xFFFF == 0x10DE  # NVIDIA's vendor id
        domain, bus, device = gpu.pci_bus_id.split(":")
        assert (len(domain), len(bus), len(device)) == (4, 2, 4)
        assert gpu.compute_capability is not None


def test_what_a_gpu_can_have_is_known_with_mig_on_and_off(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        offers = driver.profiles(gpu.uuid)
        assert bool(offers) is (gpu.mig is not None)
        assert len({offer.name for offer in offers}) == len(offers)
        for offer in offers:
            assert Profile.parse(offer.name) is not None
            assert all(at.end <= gpu.memory_slices for at in offer.placements)
            assert 0 < offer.max_instances <= len(offer.placements)
            assert offer.compute_profiles[-1][0] == offer.slices
            try:
                assert 0 <= driver.remaining(gpu.uuid, offer.profile_id) <= offer.max_instances
            except NoPermission:
                continue  # the C library, with no hardware behind it


def test_who_holds_a_device_is_known(driver: Driver) -> None:
    for gpu in driver.scan().gpus:
        everyone = {client.pid for client in driver.processes(gpu.uuid)}
        for device in gpu.mig_devices:
            assert {client.pid for client in driver.processes(device.uuid)} <= everyone
