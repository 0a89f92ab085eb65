"""Samples of every driver, and of a simulated node in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from plugin.core.inventory.samples import Activity
from plugin.driver.base import Driver
from plugin.driver.nvml.samples import ENERGY_ROUNDS
from plugin.sim.hardware.engine import parse_node
from tests.simulated import opened

from .measured import AMPERE, HOPPER, NODE, T4, WHOLE, Clock, Measured

GIB = 1 << 30
SHARES = Activity.__struct_fields__


@pytest.fixture
def measured() -> Iterator[Measured]:
    clock = Clock()
    node = parse_node(NODE, clock)
    with opened(node) as driver:
        driver.scan()
        yield Measured(node, clock, driver)


def test_a_round_measures_what_the_last_scan_saw(driver: Driver) -> None:
    assert not driver.sample().cards
    inventory = driver.scan()
    samples = driver.sample()
    assert set(samples.cards) == {gpu.uuid for gpu in inventory.gpus}
    migs = {device.uuid for gpu in inventory.gpus for device in gpu.mig_devices}
    assert set(samples.devices) == migs | {
        gpu.uuid for gpu in inventory.gpus if not gpu.mig_devices
    }
    assert samples.time > 0
    assert samples.seconds > 0


def test_memory_and_processes_are_told_of_every_device(driver: Driver) -> None:
    inventory = driver.scan()
    sizes = {gpu.uuid: gpu.memory_mib for gpu in inventory.gpus}
    sizes |= {
        device.uuid: device.memory_mib for gpu in inventory.gpus for device in gpu.mig_devices
    }
    for uuid, device in driver.sample().devices.items():
        assert device.memory_total is not None
        assert device.memory_used is not None
        assert device.memory_free is not None
        assert device.memory_total >> 20 == sizes[uuid]
        assert (
            device.memory_used + device.memory_free + (device.memory_reserved or 0)
            == device.memory_total
        )
        assert device.processes is not None
        assert device.processes >= 0


def test_activity_takes_two_rounds_and_is_a_share(driver: Driver) -> None:
    hopper = [gpu for gpu in driver.scan().gpus if (gpu.compute_capability or (0, 0)) >= (9, 0)]
    active = {device.uuid for gpu in hopper for device in gpu.mig_devices}
    active |= {gpu.uuid for gpu in hopper if not gpu.mig_enabled}
    first = driver.sample()
    assert {device.activity for device in first.devices.values()} == {Activity()}
    found: dict[str, list[float | None]] = {}
    for _ in range(100):
        second = driver.sample()
        found = {
            uuid: [getattr(device.activity, name) for name in SHARES]
            for uuid, device in second.devices.items()
        }
        if all(None not in found[uuid] for uuid in active):
            break
        threading.Event().wait(0.06)  # a real card tells nothing of less than some 50 ms
    else:
        pytest.fail(f"no activity within 100 rounds: {found}")
    assert all(share is not None and 0 <= share <= 1 for uuid in active for share in found[uuid])
    assert all(shares == [None] * 5 for uuid, shares in found.items() if uuid not in active)


def test_cards_are_in_base_units(driver: Driver) -> None:
    gpus = {gpu.uuid: gpu for gpu in driver.scan().gpus}
    for uuid, card in driver.sample().cards.items():
        assert card.power is not None
        assert 5 < card.power < 2000
        assert card.temperature is not None
        assert 0 < card.temperature < 120
        assert card.sm_clock is not None
        assert card.memory_clock is not None
        assert 5e7 < card.sm_clock < 1e10
        assert 5e7 < card.memory_clock < 1e10
        assert card.energy is not None
        assert card.energy >= 0
        assert (card.utilisation is None) == gpus[uuid].mig_enabled
        assert card.utilisation is None or 0 <= card.utilisation <= 1


# What a node's use does to them


def test_memory_comes_from_processes(measured: Measured) -> None:
    uuid = measured.mig(HOPPER)
    idle = measured.device(uuid)
    assert (idle.memory_used, idle.processes) == (0, 0)
    measured.node.use(uuid, pid=7, memory=2 * GIB)
    measured.node.use(uuid, pid=8, memory=GIB)
    busy = measured.device(uuid)
    assert (busy.memory_used, busy.processes) == (3 * GIB, 2)
    assert busy.memory_free == (idle.memory_free or 0) - 3 * GIB
    assert measured.device(measured.mig(HOPPER, 1)).processes == 0


def test_activity_rises_with_work_and_is_shared_in_a_gpu_instance(measured: Measured) -> None:
    slots = list(measured.node.gpu(HOPPER).devices())
    shared = [slot.ci.uuid for slot in slots if slot.gi.profile.slices == 3]
    (alone,) = (slot.ci.uuid for slot in slots if slot.gi.profile.slices == 1)
    measured.node.use(shared[0], pid=1)
    measured.node.use(measured.gpu(WHOLE), pid=1)
    measured.node.use(measured.mig(AMPERE), pid=1)
    measured.driver.sample()
    found = measured.driver.sample().devices
    assert found[alone].activity == Activity(0, 0, 0, 0, 0)
    assert len({found[uuid].activity for uuid in shared}) == 1
    part, whole = found[shared[0]].activity.sm_active, found[measured.gpu(WHOLE)].activity.sm_active
    assert part is not None
    assert whole is not None
    assert 0 < part < whole <= 1
    assert found[measured.mig(AMPERE)].activity == Activity()


def test_an_instance_made_anew_starts_anew(measured: Measured) -> None:
    measured.driver.sample()
    before = measured.mig(HOPPER)
    measured.node.set_geometry(HOPPER, ["1g.10gb", "1c.3g.40gb", "1c.3g.40gb", "1c.3g.40gb"])
    assert before not in measured.driver.sample().devices
    measured.driver.scan()
    assert measured.mig(HOPPER) != before
    assert measured.device(measured.mig(HOPPER)).activity == Activity()
    assert measured.device(measured.mig(HOPPER)).activity.sm_active == 0


def test_sensors_rise_with_the_number_of_busy_devices(measured: Measured) -> None:
    found = [measured.card(AMPERE)]
    for index in range(3):
        measured.node.use(measured.mig(AMPERE, index), pid=1)
        found.append(measured.card(AMPERE))
    for name in ("power", "temperature"):
        values = [getattr(card, name) for card in found]
        assert values == sorted(set(values))
    assert (found[0].sm_clock or 0) < (found[1].sm_clock or 0)
    assert found[0].memory_clock == found[1].memory_clock


def test_energy_is_power_by_time(measured: Measured) -> None:
    def joules() -> float:
        """Once the driver asks for it again."""
        return max(measured.card(WHOLE).energy or 0 for _ in range(ENERGY_ROUNDS))

    assert joules() == 0
    idle = measured.card(WHOLE).power or 0
    measured.clock.now += 10
    assert joules() == pytest.approx(10 * idle)
    measured.node.use(measured.gpu(WHOLE), pid=1)
    busy = measured.card(WHOLE).power or 0
    measured.clock.now += 10
    assert joules() == pytest.approx(10 * idle + 10 * busy)
    measured.node.release(measured.gpu(WHOLE))
    assert joules() == pytest.approx(10 * idle + 10 * busy)


def test_utilisation_exists_only_without_mig(measured: Measured) -> None:
    assert measured.card(WHOLE).utilisation == 0
    measured.node.use(measured.gpu(WHOLE), pid=1)
    assert (measured.card(WHOLE).utilisation or 0) > 0
    assert (measured.card(WHOLE).memory_utilisation or 0) > 0
    assert (measured.card(HOPPER).utilisation, measured.card(HOPPER).memory_utilisation) == (
        None,
        None,
    )
    measured.node.configure("0=off", only_named=True)
    measured.driver.scan()
    assert measured.card(HOPPER).utilisation == 0


def test_wear_is_counted(measured: Measured) -> None:
    measured.node.set_wear(
        WHOLE, remapped_correctable=2, remapped_uncorrectable=1, remap_pending=True
    )
    measured.node.ecc(WHOLE)
    measured.node.ecc(HOPPER, double_bit=True)
    card = measured.card(WHOLE)
    assert (card.remapped_correctable, card.remapped_uncorrectable) == (2, 1)
    assert (card.remap_pending, card.remap_failure) == (True, False)
    assert (card.ecc_corrected, card.ecc_uncorrected) == (1, 0)
    whole, mig = measured.device(measured.gpu(WHOLE)), measured.device(measured.mig(HOPPER))
    assert (whole.ecc_corrected, whole.ecc_uncorrected) == (1, 0)
    assert (mig.ecc_corrected, mig.ecc_uncorrected) == (None, 0)
    assert measured.card(HOPPER).ecc_uncorrected == 1
    assert measured.card(T4).remap_pending is None


def test_a_gpu_with_mig_on_and_no_devices_is_measured_itself(measured: Measured) -> None:
    measured.node.configure("0=on", only_named=True)
    measured.driver.scan()
    measured.driver.sample()
    whole = measured.device(measured.gpu(HOPPER))
    assert (whole.memory_used, whole.activity) == (0, Activity())
