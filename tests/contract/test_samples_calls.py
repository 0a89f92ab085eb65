"""Driver calls per round of samples, and the sample buffers in the library."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pynvml
import pytest

from plugin.core.inventory.samples import Activity, CardSample, DeviceSample
from plugin.driver.nvml import NvmlDriver
from plugin.driver.nvml.binding import using
from plugin.driver.nvml.gpm import SLOW_ROUNDS
from plugin.driver.nvml.samples import ENERGY_ROUNDS, Sampler
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.nvml.library import SimLibrary
from tests.simulated import opened, scan

from .measured import Clock

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
