"""A scan that nobody asked for asks little, and finds what a thorough one finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import scans
from plugin.core import state as steps
from plugin.core.inventory.model import Inventory
from plugin.core.state import State
from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.driver.nvml.events import NvmlEventSource
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.files import SimFiles
from plugin.sim.simulation import simulate

from .state_steps import CHANGED, FIRST, NODE, ON_LEFT, running, scanned

SLICES = "2xa100-40gb:all-1g.5gb"
ONLY_COUNTED = {"nvmlDeviceGetCount_v2": 1}


@dataclass
class Watched:
    """An open driver that has scanned its node once and watches every GPU."""

    node: SimNode
    driver: NvmlDriver
    first: Inventory
    source: NvmlEventSource

    def quick(self) -> tuple[Inventory, dict[str, int]]:
        """A quick scan, and the calls that it made."""
        before = Counter(self.node.calls.counts)
        found = self.driver.scan(thorough=False)
        return found, dict(self.node.calls.counts - before)


def watched(node: SimNode) -> Watched:
    driver = simulate(node).driver
    driver.open()
    first = driver.scan()
    return Watched(node, driver, first, driver.watch([gpu.uuid for gpu in first.gpus]))


@pytest.fixture
def on() -> Iterator[Watched]:
    found = watched(parse_node(SLICES))
    yield found
    found.driver.close()


def test_nothing_is_asked_of_gpus_that_are_as_they_were(on: Watched) -> None:
    found, calls = on.quick()
    assert found == on.first
    assert calls == ONLY_COUNTED


def test_a_changed_gpu_is_read_and_the_other_is_not(on: Watched) -> None:
    on.node.set_geometry(1, ["3g.20gb", "3g.20gb"])
    found, calls = on.quick()
    assert calls["nvmlDeviceGetHandleByIndex_v2"] == 1
    assert found == on.driver.scan()
    assert len(found.gpus[1].mig_devices) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda on: on.source.close(),
        lambda on: on.node.destroy_ci(0, on.first.gpus[0].mig_devices[0].gi, 0),
        lambda on: (
            on.node.faults.remove_node(
                f"/proc/driver/nvidia/capabilities/gpu0/mig/gi{on.first.gpus[0].mig_devices[0].gi}/access"
            )
            or on.node.destroy_ci(0, on.first.gpus[0].mig_devices[0].gi, 0)
        ),
    ],
    ids=["no longer watched", "a compute instance less", "files that say less"],
)
def test_what_is_not_certain_is_read(on: Watched, change: Callable[[Watched], object]) -> None:
    change(on)
    found, calls = on.quick()
    assert calls["nvmlDeviceGetMigMode"] >= 1
    assert found == on.driver.scan()


def test_a_card_without_configuration_events_is_read() -> None:
    node = parse_node(SLICES)
    node.supported_events &= ~0x100
    on = watched(node)
    assert on.quick()[1]["nvmlDeviceGetMigMode"] == 2
    on.driver.close()


def test_a_gpu_that_could_not_be_read_completely_is_read_again(on: Watched) -> None:
    on.node.calls.inject("nvmlDeviceGetAttributes_v2", Fail(999), times=1)
    assert any(device.error for device in on.driver.scan().gpus[0].mig_devices)
    assert on.quick()[0] == on.first


def test_a_device_node_that_goes_is_noticed_without_asking(on: Watched) -> None:
    device = on.first.gpus[0].mig_devices[0]
    on.node.faults.remove_node(device.device_nodes[-1])
    found, calls = on.quick()
    assert calls == ONLY_COUNTED
    assert found.gpus[0].mig_devices[0].missing_device_nodes == device.device_nodes[-1:]
    assert found == on.driver.scan()


GEOMETRIES = ["1g.5gb*7", "3g.20gb*2", "2g.10gb*3", "7g.40gb", "1g.5gb", "off", "on"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(GEOMETRIES)), max_size=4))
def test_it_finds_what_a_thorough_one_finds(changes: list[tuple[int, str]]) -> None:
    on = watched(parse_node(SLICES))
    for index, geometry in changes:
        if geometry == "on":
            on.node.configure(f"{index}=1g.5gb", only_named=True)
            on.node.set_geometry(index, [])
        else:
            on.node.configure(f"{index}={geometry}", only_named=True)
        assert on.quick()[0] == on.driver.scan()
    on.driver.close()


# ---- when


def after_quick(state: State, scans_: int) -> State:
    for _ in range(scans_):
        state = scans.scan_ended(scans.scan_begun(state, thorough=False), NODE, 0.0).state
    return state


@pytest.mark.parametrize(
    ("state", "all_"),
    [
        (running(), False),
        (after_quick(running(), scans.QUICK_SCANS - 1), False),
        (after_quick(running(), scans.QUICK_SCANS), True),
        (scanned(after_quick(running(), scans.QUICK_SCANS)).state, False),
        (steps.happened(running(), [CHANGED], 0.0).state, True),
        (steps.happened(running(), [ON_LEFT], 0.0).state, False),
        (scans.scan_failed(running(), scans.driver_unavailable("away")).state, True),
        (scanned(running(), replace(NODE, gpus=(replace(FIRST, mig_devices=()),))).state, True),
        (scanned(running(), replace(NODE, gpus=(replace(FIRST, error="no answer"),))).state, True),
    ],
)
def test_when_a_scan_has_to_read_all(state: State, all_: bool) -> None:  # noqa: FBT001
    assert scans.needs_all(state) is all_


# ---- probes


def test_a_probe_is_one_call_after_the_first(on: Watched) -> None:
    uuid = on.first.gpus[0].uuid
    on.driver.probe(uuid, thorough=False)
    before = Counter(on.node.calls.counts)
    assert on.driver.probe(uuid, thorough=False).error is None
    assert dict(on.node.calls.counts - before) == {"nvmlDeviceGetFieldValues": 1}


def test_a_lost_gpu_is_found_and_found_again(on: Watched) -> None:
    uuid = on.first.gpus[0].uuid
    assert not on.driver.probe(uuid, thorough=False).lost
    on.node.lose(0)
    assert on.driver.probe(uuid, thorough=False).lost
    on.node.restore(0)
    assert on.driver.probe(uuid, thorough=False).error is None


# ---- what the files say


def test_ids_of_instances_from_the_files() -> None:
    node = parse_node("1xa100-40gb:all-balanced")

    files = DeviceFiles(source=SimFiles(node))
    (gpu,) = node.gpus
    gis = {gi.id for gi in gpu.instances}
    assert files.instances(gpu.minor) == (gis, {(gi, 0) for gi in gis})
    assert files.instances(None) is None
