"""Samples of a node with faults: readings that fail, alone and in any combination."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.inventory.model import Gpu
from plugin.core.inventory.samples import Activity, Samples
from plugin.errors import SimulationError
from plugin.sim.hardware import sensors as sensors_of_cards
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuState
from tests.simulated import opened

from .measured import AMPERE, HOPPER, NODE, T4, WHOLE, Clock, Measured

GIB = 1 << 30
CODES = (
    Code.UNKNOWN,
    Code.NOT_FOUND,
    Code.NOT_SUPPORTED,
    Code.NO_PERMISSION,
    Code.GPU_IS_LOST,
    Code.RESET_REQUIRED,
)

LOST = {Code.GPU_IS_LOST, Code.RESET_REQUIRED}


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
