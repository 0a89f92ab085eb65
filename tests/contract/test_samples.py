"""Samples: what holds for every driver, and the same measurements by the simulated one and by NVML
over its library.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.core.inventory.model import Gpu
from plugin.core.inventory.samples import Activity, CardSample, DeviceSample, Samples
from plugin.driver.base import Driver
from plugin.driver.nvml import NvmlDriver
from plugin.driver.nvml.binding import using
from plugin.driver.nvml.gpm import SLOW_ROUNDS
from plugin.driver.nvml.samples import ENERGY_ROUNDS, Sampler
from plugin.errors import SimulationError
from plugin.sim.hardware import sensors as sensors_of_cards
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuState
from plugin.sim.nvml.library import SimLibrary
from tests.simulated import opened, scan

NODE = "2xh100-80gb+1xa100-40gb+1xt4-16gb:0=1g.10gb,1c.3g.40gb*3;1=off;2=1g.5gb*7"
HOPPER, WHOLE, AMPERE, T4 = 0, 1, 2, 3
GIB = 1 << 30
SHARES = tuple(Activity.__dataclass_fields__)
CODES = (
    Code.UNKNOWN,
    Code.NOT_FOUND,
    Code.NOT_SUPPORTED,
    Code.NO_PERMISSION,
    Code.GPU_IS_LOST,
    Code.RESET_REQUIRED,
)

LOST = {Code.GPU_IS_LOST, Code.RESET_REQUIRED}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Measured:
    """A simulated node with a clock of its own, and an open driver over it that has scanned it."""

    node: SimNode
    clock: Clock
    driver: Driver

    def gpu(self, gpu: int) -> str:
        return self.node.gpu(gpu).uuid

    def mig(self, gpu: int, index: int = 0) -> str:
        return list(self.node.gpu(gpu).devices())[index].ci.uuid

    def device(self, uuid: str) -> DeviceSample:
        return self.driver.sample().devices[uuid]

    def card(self, gpu: int) -> CardSample:
        return self.driver.sample().cards[self.gpu(gpu)]


@pytest.fixture
def measured() -> Iterator[Measured]:
    clock = Clock()
    node = parse_node(NODE, clock)
    with opened(node) as driver:
        driver.scan()
        yield Measured(node, clock, driver)


def timeless(samples: Samples) -> Samples:
    """Without what depends on earlier rounds: graphics activity is of several."""
    devices = {
        uuid: replace(device, activity=replace(device.activity, graphics_active=None))
        for uuid, device in samples.devices.items()
    }
    return replace(samples, time=0.0, seconds=0.0, devices=devices)


# Every driver, the machine's own included


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


# What cannot be read


def test_a_lost_gpu_gives_no_samples_and_disturbs_no_other(measured: Measured) -> None:
    before = timeless(measured.driver.sample())
    gone = {measured.gpu(AMPERE), *(measured.mig(AMPERE, index) for index in range(7))}
    measured.node.lose(AMPERE)
    found = measured.driver.sample()
    assert set(before.devices) - set(found.devices) == gone - {measured.gpu(AMPERE)}
    assert set(before.cards) - set(found.cards) == {measured.gpu(AMPERE)}
    measured.node.restore(AMPERE)
    again = measured.driver.sample()
    assert set(again.devices) == set(before.devices)
    assert again.cards == before.cards


def test_an_unreadable_device_disturbs_no_other(measured: Measured) -> None:
    bad, lost = measured.mig(AMPERE, 2), measured.mig(AMPERE, 3)
    before = measured.driver.sample()
    measured.node.faults.fail(bad, Aspect.MEMORY, Code.UNKNOWN)
    measured.node.faults.fail(lost, Aspect.HANDLE, Code.UNKNOWN)
    measured.node.faults.fail(measured.gpu(T4), Aspect.SENSORS, Code.UNKNOWN)
    found = measured.driver.sample()
    assert (found.devices[bad].memory_used, found.devices[bad].processes) == (None, 0)
    assert lost not in found.devices
    assert found.cards[measured.gpu(T4)].power is None
    assert found.devices[measured.gpu(T4)].memory_used == 0
    others = set(before.devices) - {
        bad,
        lost,
        measured.gpu(T4),
        *(measured.mig(HOPPER, i) for i in range(4)),
    }
    assert {found.devices[uuid].memory_used for uuid in others} == {0}
    measured.node.faults.heal({bad, lost, measured.gpu(T4)})
    assert measured.device(bad) == before.devices[bad]
    assert measured.card(T4).power == before.cards[measured.gpu(T4)].power


def test_a_driver_that_is_gone_gives_no_samples(measured: Measured) -> None:
    before = measured.driver.sample()
    measured.node.faults.set_available(available=False)
    assert timeless(measured.driver.sample()) == Samples(0.0)
    measured.node.faults.set_available(available=True)
    assert set(measured.driver.sample().devices) == set(before.devices)


def test_a_closed_driver_has_seen_nothing(measured: Measured) -> None:
    measured.driver.sample()
    measured.driver.close()
    assert timeless(measured.driver.sample()) == Samples(0.0)
    measured.driver.open()
    assert timeless(measured.driver.sample()) == Samples(0.0)
    measured.driver.scan()
    assert measured.device(measured.gpu(WHOLE)).activity == Activity()


# Anything at all


def use(node: SimNode, gpu: int, index: int, pid: int) -> None:
    holders = [slot.ci.uuid for slot in node.gpu(gpu).devices()] or [node.gpu(gpu).uuid]
    node.use(holders[index % len(holders)], pid, memory=pid * GIB)


def release(node: SimNode, gpu: int, index: int) -> None:
    holders = [slot.ci.uuid for slot in node.gpu(gpu).devices()] or [node.gpu(gpu).uuid]
    node.release(holders[index % len(holders)])


def nothing(node: SimNode) -> None:
    """The node as it was made."""


def configure(node: SimNode, geometry: str) -> None:
    node.configure(geometry, only_named=True)


GPUS = st.integers(0, 3)
OPERATIONS = st.one_of(
    st.tuples(st.just(use), GPUS, st.integers(0, 6), st.integers(1, 12)),
    st.tuples(st.just(release), GPUS, st.integers(0, 6)),
    st.tuples(
        st.just(configure),
        st.sampled_from(["0=off", "0=on", "0=7g.80gb", "1=1g.10gb*7", "2=3g.20gb*2"]),
    ),
    st.tuples(st.sampled_from([SimNode.lose, SimNode.restore, SimNode.ecc]), GPUS),
)


@settings(max_examples=60, deadline=None)
@given(
    faults=st.lists(
        st.tuples(
            GPUS,
            st.integers(-1, 6),
            st.sampled_from([Aspect.HANDLE, Aspect.MEMORY, Aspect.SENSORS, Aspect.MIG_MODE]),
            st.sampled_from(CODES),
        ),
        max_size=4,
    ),
    operations=st.lists(st.tuples(OPERATIONS, st.booleans()), max_size=10),
)
def test_any_node(
    faults: list[tuple[int, int, Aspect, Code]],
    operations: list[tuple[tuple[Any, ...], bool]],
) -> None:
    """What is measured is what the hardware shows, and what cannot be read costs only itself."""
    node = parse_node(NODE, Clock())
    for gpu, index, aspect, code in faults:
        holders = [slot.ci.uuid for slot in node.gpu(gpu).devices()]
        uuid = node.gpu(gpu).uuid if index < 0 or not holders else holders[index % len(holders)]
        node.faults.fail(uuid, aspect, code)
    seen: dict[str, Gpu] = {}
    with opened(node) as driver:
        for (operation, *arguments), scans in [((nothing,), True), *operations]:
            modes = [gpu.mig for gpu in node.gpus]
            with contextlib.suppress(SimulationError):  # what the node refuses is no matter
                operation(node, *arguments)
            if scans or modes != [gpu.mig for gpu in node.gpus]:
                seen = {gpu.uuid: gpu for gpu in driver.scan().gpus}
            assert_measured(driver.sample(), node, seen)


def assert_measured(samples: Samples, node: SimNode, seen: Mapping[str, Gpu]) -> None:
    broken = node.faults.code
    for state in node.gpus:
        gpu = seen.get(state.uuid)
        there = gpu is not None and not state.lost and broken(state.uuid, Aspect.HANDLE) is None
        sensors = broken(state.uuid, Aspect.SENSORS)
        if gpu is None or not there or sensors in LOST:
            assert state.uuid not in samples.cards
            continue
        card = samples.cards.get(state.uuid)
        if card is None:  # only one whose own memory says that it is lost
            assert broken(state.uuid, Aspect.MEMORY) in LOST
            assert not gpu.mig_devices
            continue
        assert (card.power is None) == (sensors is not None)
        assert card.ecc_corrected == (None if sensors else state.wear.single_bit_ecc)
        expected = {device.uuid for device in gpu.mig_devices} or {gpu.uuid}
        on_card = {uuid for uuid in expected if _readable(state, uuid, broken)}
        assert samples.devices.keys() & expected == (set() if gpu.error else on_card)
        for uuid in samples.devices.keys() & expected:
            found = samples.devices[uuid]
            size = sensors_of_cards.memory(state, state.device(uuid), node.memory_used(uuid))
            unread = broken(uuid, Aspect.MEMORY) is not None
            used = (found.memory_total, found.memory_used)
            assert used == ((None, None) if unread else (size.total, size.used))
    present = {state.uuid for state in node.gpus}
    assert samples.cards.keys() <= present


def _readable(state: GpuState, uuid: str, broken: Callable[[str, Aspect], Code | None]) -> bool:
    """Whether a device is still there, and none of its answers is that it is lost."""
    if uuid != state.uuid and state.device(uuid) is None:
        return False
    if uuid != state.uuid and broken(uuid, Aspect.HANDLE) is not None:
        return False
    return not {broken(uuid, Aspect.MEMORY), broken(uuid, Aspect.SENSORS)} & LOST


# What it costs the driver


@contextlib.contextmanager
def counting(
    node: SimNode, without: tuple[str, ...] = ()
) -> Iterator[tuple[NvmlDriver, Counter[str]]]:
    """An open driver that has scanned a node, and the calls that reach its library."""
    with opened(node, without) as driver:
        driver.scan()
        node.calls.counts.clear()
        yield driver, node.calls.counts


def test_energy_is_asked_for_rarely_and_each_gpu_in_its_turn() -> None:
    clock = Clock()
    with counting(parse_node("4xh100-80gb", clock)) as (driver, calls):
        asked = []
        for _ in range(3 * ENERGY_ROUNDS):
            clock.now += 1
            before = calls["nvmlDeviceGetTotalEnergyConsumption"]
            assert all(card.energy for card in driver.sample().cards.values())
            asked.append(calls["nvmlDeviceGetTotalEnergyConsumption"] - before)
        assert asked == [4, 1, 1, 1, *[0] * 6, 1, 1, 1, 1, *[0] * 6, 1, 1, 1, 1, *[0] * 6]


def test_what_a_card_lacks_is_asked_for_once() -> None:
    node = parse_node("1xa100-40gb+1xt4-16gb:0=1g.5gb*7")
    with counting(node, without=("nvmlDeviceGetMemoryInfo_v2",)) as (driver, calls):
        rounds = [driver.sample() for _ in range(5)]
        assert calls["nvmlDeviceGetUtilizationRates"] == 1 + 5  # MIG on, and off
        assert calls["nvmlDeviceGetRemappedRows"] == 5 + 1
        assert calls["nvmlGpmQueryDeviceSupport"] == 2
        assert (
            calls["nvmlGpmSampleAlloc"]
            == calls["nvmlGpmMigSampleGet"]
            == calls["nvmlGpmSampleGet"]
            == 0
        )
        assert calls["nvmlDeviceGetMemoryInfo"] == 8 * 5
        assert {(d.memory_reserved, d.memory_used) for d in rounds[-1].devices.values()} == {
            (None, 0)
        }
        driver.close()
        driver.open()
        driver.scan()
        calls.clear()
        driver.sample()
        assert calls["nvmlDeviceGetUtilizationRates"] == calls["nvmlDeviceGetRemappedRows"] == 2


def test_what_fails_for_once_is_asked_again() -> None:
    node = parse_node("1xh100-80gb")
    uuid = node.gpu(0).uuid
    node.faults.fail(uuid, Aspect.SENSORS, Code.UNKNOWN)
    with counting(node) as (driver, _):
        assert driver.sample().cards[uuid] == CardSample()
        node.faults.heal({uuid})
        assert driver.sample().cards[uuid].power is not None
        node.faults.fail(uuid, Aspect.SENSORS, Code.NO_PERMISSION)
        assert driver.sample().cards[uuid].power is None
        node.faults.heal({uuid})
        assert driver.sample().cards[uuid].power is None


def test_a_gpu_instance_is_sampled_once_for_all_in_it() -> None:
    with counting(parse_node("1xh100-80gb:0=1c.3g.40gb*3,1g.10gb")) as (driver, calls):
        driver.sample()
        assert calls["nvmlGpmMigSampleGet"] == 2
        driver.sample()
        assert calls["nvmlGpmMigSampleGet"] == 4


def test_graphics_activity_is_asked_for_rarely_and_of_the_whole_time_between() -> None:
    node = parse_node("1xh100-80gb")
    uuid = node.gpu(0).uuid
    with counting(node) as (driver, calls):
        rounds, asked = [], []
        for number in range(2 * SLOW_ROUNDS + 1):
            if number == SLOW_ROUNDS + 2:
                node.use(uuid, pid=1)
            if number == 2 * SLOW_ROUNDS - 1:
                node.release(uuid)
            before = calls["nvmlGpmMetricsGet"]
            rounds.append(driver.sample().devices[uuid].activity)
            asked.append(calls["nvmlGpmMetricsGet"] - before)
        assert asked == [0, 2, *[1] * (SLOW_ROUNDS - 2), 2, *[1] * (SLOW_ROUNDS - 1), 2]
        quick = [activity.sm_active for activity in rounds]
        assert quick[:2] == [None, 0]
        assert quick[SLOW_ROUNDS + 3] == quick[2 * SLOW_ROUNDS - 2] == 0.8
        assert [activity.graphics_active for activity in rounds] == [None, *[0] * (2 * SLOW_ROUNDS)]
        node.use(uuid, pid=1)
        later = [driver.sample().devices[uuid].activity.graphics_active for _ in range(SLOW_ROUNDS)]
        assert later == [*[0] * (SLOW_ROUNDS - 1), 0.45]  # idle at the start, busy at the end


def test_sample_buffers_are_freed_when_instances_go_and_at_the_end() -> None:
    node = parse_node("1xh100-80gb:0=1g.10gb*7")

    def held() -> int:
        return calls["nvmlGpmSampleAlloc"] - calls["nvmlGpmSampleFree"]

    with counting(node) as (driver, calls):
        for _ in range(3 * SLOW_ROUNDS):
            driver.sample()
            assert held() <= 3 * 7
        assert held() == 3 * 7
        node.set_geometry(0, ["3g.40gb", "3g.40gb"])
        driver.scan()
        driver.sample()
        driver.sample()
        assert held() == 2 * 2
        driver.sample()
        driver.sample()
        assert 2 * 2 <= held() <= 3 * 2
        node.configure("0=off")
        driver.scan()
        driver.sample()
        assert held() == 1
        driver.close()
        assert held() == 0


def test_an_old_library_is_no_reason_to_fail() -> None:
    node = parse_node("1xh100-80gb:0=1g.10gb*7")
    without = (
        *(
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlGpmQueryDeviceSupport",
        ),
        *(
            "nvmlDeviceGetMemoryErrorCounter",
            "nvmlDeviceGetTotalEccErrors",
            "nvmlDeviceGetUtilizationRates",
        ),
        *("nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetClockInfo"),
        *("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetRemappedRows"),
    )
    with counting(node, without) as (driver, _):
        samples = driver.sample()
    assert set(samples.cards.values()) == {CardSample()}
    size = 9984 << 20
    assert set(samples.devices.values()) == {
        DeviceSample(memory_total=size, memory_used=0, memory_free=size)
    }


def test_without_sample_buffers_there_is_no_activity() -> None:
    node = parse_node("1xh100-80gb:0=1g.10gb*7")
    for missing in ("nvmlGpmSampleAlloc", "nvmlGpmMetricsGet", "nvmlGpmMigSampleGet"):
        with counting(node, without=(missing,)) as (driver, _):
            for _ in range(3):
                assert {device.activity for device in driver.sample().devices.values()} == {
                    Activity()
                }


@pytest.mark.parametrize("code", [Code.NOT_SUPPORTED, Code.NO_PERMISSION, Code.FUNCTION_NOT_FOUND])
def test_what_was_refused_once_is_asked_again_within_a_minute(code: Code) -> None:
    node, clock = parse_node("1xa100-40gb"), Clock()
    (gpu,) = scan(node).gpus
    node.calls.inject("nvmlDeviceGetPowerUsage", Fail(code), times=1)
    sampler = Sampler(clock)
    with using(SimLibrary(node)):
        pynvml.nvmlInit()
        powers = []
        for _ in range(3):
            powers.append(sampler.sample([gpu]).cards[gpu.uuid].power)
            clock.now += 30.0
        sampler.close()
    assert [power is None for power in powers] == [True, True, False]
    assert node.calls.counts["nvmlDeviceGetPowerUsage"] == 2
