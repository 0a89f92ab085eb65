"""Faults of single library calls, as the driver's bindings meet them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

from plugin.driver.nvml import library as nvml
from plugin.driver.nvml.binding import using
from plugin.sim.hardware.calls import CallFault, Exaggerate, Fail, Garble, Hang
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.nvml.library import FUNCTIONS, SimLibrary
from tests.simulated import opened

PATIENCE = 10.0
MOST = 2**32 - 1


@pytest.fixture
def node() -> SimNode:
    return parse_node("2xh100-80gb:0=1g.10gb*2;1=3g.40gb")


@pytest.fixture
def library(node: SimNode) -> Iterator[SimLibrary]:
    library = SimLibrary(node)
    with using(library):
        nvml.initialise()
        yield library
        nvml.shut_down()


@pytest.fixture
def gpus(library: SimLibrary) -> list[Any]:
    del library  # pynvml calls it
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]


def code_of(function: Any, *arguments: Any) -> int:
    try:
        function(*arguments)
    except pynvml.NVMLError as error:
        return int(error.value)
    return 0


def test_a_call_fails_always_until_it_is_restored(node: SimNode, gpus: list[Any]) -> None:
    node.calls.inject("nvmlDeviceGetUUID", Fail(999))
    assert [code_of(pynvml.nvmlDeviceGetUUID, gpus[0]) for _ in range(3)] == [999] * 3
    assert code_of(pynvml.nvmlDeviceGetName, gpus[0]) == 0
    assert node.calls.broken() == {"nvmlDeviceGetUUID"}
    node.calls.restore("nvmlDeviceGetName")
    assert code_of(pynvml.nvmlDeviceGetUUID, gpus[0]) == 999
    node.calls.restore("nvmlDeviceGetUUID")
    assert code_of(pynvml.nvmlDeviceGetUUID, gpus[0]) == 0
    assert node.calls.broken() == frozenset()


@pytest.mark.parametrize("times", [1, 3])
def test_a_call_fails_so_many_times(node: SimNode, gpus: list[Any], times: int) -> None:
    node.calls.inject("nvmlDeviceGetUUID", Fail(4), times=times)
    codes = [code_of(pynvml.nvmlDeviceGetUUID, gpus[0]) for _ in range(times + 2)]
    assert codes == [4] * times + [0, 0]


def test_faults_are_met_in_turn(node: SimNode, gpus: list[Any]) -> None:
    node.calls.inject("nvmlDeviceGetUUID", Fail(4), times=1)
    node.calls.inject("nvmlDeviceGetUUID", Fail(15), times=1)
    assert [code_of(pynvml.nvmlDeviceGetUUID, gpus[0]) for _ in range(3)] == [4, 15, 0]


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
@pytest.mark.parametrize("code", [Code.UNKNOWN, Code.GPU_IS_LOST, 4242])
def test_every_function_can_fail_before_it_looks_at_anything(
    node: SimNode, function: str, code: int
) -> None:
    library = SimLibrary(node)
    call = getattr(library, function)
    arguments = [kind() if kind.__name__ != "c_void_p" else None for kind in call.argtypes]
    node.calls.inject(function, Fail(code))
    assert call(*arguments) == code
    assert node.calls.counts == {function: 1}


def test_a_fault_of_one_gpu_leaves_the_other_alone(node: SimNode, gpus: list[Any]) -> None:
    for function in ("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByUUID"):
        node.calls.inject(function, Fail(15), target=node.gpu(1).uuid)
    node.calls.inject("nvmlDeviceGetMigMode", Fail(3), target=node.gpu(1).uuid)
    assert [code_of(pynvml.nvmlDeviceGetHandleByIndex, index) for index in (0, 1)] == [0, 15]
    uuids = [gpu.uuid for gpu in node.gpus]
    assert [code_of(pynvml.nvmlDeviceGetHandleByUUID, uuid) for uuid in uuids] == [0, 15]
    assert [code_of(pynvml.nvmlDeviceGetMigMode, gpu) for gpu in gpus] == [0, 3]
    on_it = next(node.gpu(1).devices()).ci.uuid
    assert code_of(pynvml.nvmlDeviceGetHandleByUUID, on_it) == 15


def test_a_fault_of_one_mig_device_leaves_its_neighbour_alone(
    node: SimNode, gpus: list[Any]
) -> None:
    slots = list(node.gpu(0).devices())
    migs = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpus[0], n) for n in range(2)]
    instances = [pynvml.nvmlDeviceGetGpuInstanceById(gpus[0], slot.gi.id) for slot in slots]
    for function in (
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetGpuInstanceById",
        "nvmlGpuInstanceGetInfo",
    ):
        node.calls.inject(function, Fail(999), target=slots[1].ci.uuid)
    by_index = pynvml.nvmlDeviceGetMigDeviceHandleByIndex
    by_id = pynvml.nvmlDeviceGetGpuInstanceById
    assert [code_of(by_index, gpus[0], n) for n in range(2)] == [0, 999]
    assert [code_of(pynvml.nvmlDeviceGetUUID, mig) for mig in migs] == [0, 999]
    assert [code_of(by_id, gpus[0], slot.gi.id) for slot in slots] == [0, 999]
    assert [code_of(pynvml.nvmlGpuInstanceGetInfo, gi) for gi in instances] == [0, 999]
    assert code_of(pynvml.nvmlDeviceGetUUID, gpus[0]) == 0


@pytest.mark.parametrize("times", [None, 1])
def test_a_call_hangs_until_it_is_restored(
    node: SimNode, library: SimLibrary, gpus: list[Any], times: int | None
) -> None:
    node.calls.inject("nvmlDeviceGetUUID", Hang(), times=times, target=node.gpu(1).uuid)
    answers: list[str] = []

    def ask() -> None:
        with using(library):
            answers.append(pynvml.nvmlDeviceGetUUID(gpus[1]))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert node.calls.wait_hanging("nvmlDeviceGetUUID", PATIENCE)
    assert not answers
    assert pynvml.nvmlDeviceGetUUID(gpus[0]) == node.gpu(0).uuid
    if times:
        assert pynvml.nvmlDeviceGetUUID(gpus[1]) == node.gpu(1).uuid
    node.calls.restore()
    thread.join(PATIENCE)
    assert answers == [node.gpu(1).uuid]
    assert not node.calls.wait_hanging("nvmlDeviceGetUUID", 0)


TEXTS: list[tuple[str, Any]] = [
    ("nvmlDeviceGetUUID", pynvml.nvmlDeviceGetUUID),
    ("nvmlDeviceGetName", pynvml.nvmlDeviceGetName),
    ("nvmlSystemGetDriverVersion", lambda _: pynvml.nvmlSystemGetDriverVersion()),
    ("nvmlSystemGetNVMLVersion", lambda _: pynvml.nvmlSystemGetNVMLVersion()),
    ("nvmlDeviceGetPciInfo_v3", lambda gpu: pynvml.nvmlDeviceGetPciInfo(gpu).busId),
    (
        "nvmlDeviceGetGpuInstanceProfileInfoV",
        lambda gpu: pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 0, version=2).name,
    ),
]


@pytest.mark.parametrize(("function", "ask"), TEXTS, ids=[name for name, _ in TEXTS])
def test_a_text_is_no_utf8(node: SimNode, gpus: list[Any], function: str, ask: Any) -> None:
    node.calls.inject(function, Garble(), times=1)
    with pytest.raises(UnicodeDecodeError):
        ask(gpus[0])
    assert isinstance(ask(gpus[0]), str)


def test_garbled_bytes_can_be_chosen(node: SimNode, gpus: list[Any]) -> None:
    node.calls.inject("nvmlDeviceGetName", Garble("Grafikkarte №1".encode()))
    assert pynvml.nvmlDeviceGetName(gpus[0]) == "Grafikkarte №1"


def test_numbers_are_absurd(node: SimNode, gpus: list[Any]) -> None:
    info = pynvml.nvmlGpuInstanceGetInfo
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpus[0], next(node.gpu(0).devices()).gi.id)
    for function in (
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigMode",
        "nvmlGpuInstanceGetInfo",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetTotalEnergyConsumption",
    ):
        node.calls.inject(function, Exaggerate())
    assert pynvml.nvmlDeviceGetCount() == MOST
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpus[0]) == MOST
    assert pynvml.nvmlDeviceGetMigMode(gpus[0]) == [MOST, MOST]
    placement = info(instance).placement
    assert (placement.start, placement.size) == (MOST, MOST)
    assert pynvml.nvmlDeviceGetMemoryInfo(gpus[0]).total == MOST
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(gpus[0]) == MOST
    assert pynvml.nvmlDeviceGetUUID(info(instance).device) == node.gpu(0).uuid


def test_the_number_of_placements_and_their_sizes(node: SimNode, gpus: list[Any]) -> None:
    function, count = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements, pynvml.c_uint()
    node.calls.inject("nvmlDeviceGetGpuInstancePossiblePlacements_v2", Exaggerate(77))
    function(gpus[0], 19, None, pynvml.byref(count))
    assert count.value == 77
    placements = (pynvml.c_nvmlGpuInstancePlacement_t * 77)()
    function(gpus[0], 19, placements, pynvml.byref(count))
    assert (placements[0].start, placements[0].size, placements[1].start) == (77, 77, 1)


FAULTS: list[CallFault] = [Fail(0), Garble(), Exaggerate()]


@pytest.mark.parametrize("fault", FAULTS, ids=["success", "garbled", "absurd"])
def test_a_call_that_fails_by_itself_writes_nothing(
    node: SimNode, library: SimLibrary, fault: CallFault
) -> None:
    node.calls.inject("nvmlDeviceGetMinorNumber", fault)
    out = pynvml.c_uint(5)
    library.nvmlDeviceGetMinorNumber(pynvml.c_nvmlDevice_t(), pynvml.byref(out))
    assert out.value == 5


def test_calls_are_counted_as_the_product_makes_them(node: SimNode) -> None:
    with opened(node) as driver:
        assert node.calls.counts == {"nvmlInitWithFlags": 1}
        driver.scan()
        assert node.calls.counts["nvmlDeviceGetHandleByIndex_v2"] == 2
        assert node.calls.counts["nvmlGpuInstanceGetInfo"] == 3
        node.calls.counts.clear()
        driver.probe(node.gpu(0).uuid, thorough=False)
        assert node.calls.counts == {
            "nvmlDeviceGetHandleByUUID": 1,
            "nvmlDeviceGetFieldValues": 1,
        }
    assert node.calls.counts["nvmlShutdown"] == 1
