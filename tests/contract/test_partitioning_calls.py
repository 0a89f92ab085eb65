"""Whatever a call answers in the middle of a verb: the right kind of error, the truth in the next
scan, and a change that was not made can be made afterwards.

For every verb, each NVML function that it calls fails with every code that NVML has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pynvml
import pytest

from plugin.core.inventory.model import Placement
from plugin.driver.base import Driver
from plugin.errors import (
    DeviceInUse,
    DriverCallFailed,
    DriverError,
    DriverMismatch,
    DriverUnavailable,
    GpuLost,
    InsufficientResources,
    InvalidPlacement,
    NoPermission,
    NoSuchInstance,
    NotSupported,
    OutcomeUnknown,
    ResetNeeded,
)
from plugin.sim.hardware.calls import CallFault, Exaggerate, Fail, Garble
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.native import build
from tests.simulated import opened, truth

from .machines import native
from .test_truth import CODES

#: What a code means wherever it comes from.
KINDS: dict[int, type[DriverError]] = {
    pynvml.NVML_ERROR_UNINITIALIZED: DriverUnavailable,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: DriverUnavailable,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: DriverUnavailable,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: DriverMismatch,
    pynvml.NVML_ERROR_NOT_SUPPORTED: NotSupported,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: NotSupported,
    pynvml.NVML_ERROR_NO_PERMISSION: NoPermission,
    pynvml.NVML_ERROR_OPERATING_SYSTEM: NoPermission,
    pynvml.NVML_ERROR_NOT_FOUND: NoSuchInstance,
    pynvml.NVML_ERROR_GPU_IS_LOST: GpuLost,
    pynvml.NVML_ERROR_GPU_NOT_FOUND: GpuLost,
    pynvml.NVML_ERROR_RESET_REQUIRED: ResetNeeded,
    pynvml.NVML_ERROR_IN_USE: DeviceInUse,
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES: InsufficientResources,
}
LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_GPU_NOT_FOUND)
INVALID, MISSING = pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND
#: What it means of some functions.
OF_FUNCTION: dict[tuple[str, int], type[DriverError]] = {
    ("nvmlDeviceGetHandleByUUID", INVALID): GpuLost,
    ("nvmlDeviceGetHandleByUUID", MISSING): GpuLost,
    ("nvmlDeviceGetGpuInstanceById", INVALID): NoSuchInstance,
    ("nvmlGpuInstanceGetComputeInstanceById", INVALID): NoSuchInstance,
    ("nvmlDeviceCreateGpuInstanceWithPlacement", INVALID): InvalidPlacement,
    ("nvmlGpuInstanceCreateComputeInstance", INVALID): InvalidPlacement,
    ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", INVALID): InvalidPlacement,
    ("nvmlDeviceGetGpuInstanceRemainingCapacity", INVALID): NotSupported,
}
#: Functions that change something.
CHANGES = {
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
    "nvmlGpuInstanceDestroy",
    "nvmlComputeInstanceDestroy",
    "nvmlDeviceSetMigMode",
}
#: By these codes nothing is to be had of some functions, or they are asked again.
ABSENT = {
    "nvmlDeviceGetGpuInstanceProfileInfoV": {2, 3, 6},
    "nvmlDeviceGetGpuInstanceProfileInfo": {2, 3, 6},
    "nvmlGpuInstanceGetComputeInstanceProfileInfo": {2, 3, 6},
    "nvmlDeviceGetMigDeviceHandleByIndex": {2, 3, 6},
    "nvmlDeviceGetMaxMigDeviceCount": {3, 13},
    "nvmlDeviceGetComputeRunningProcesses_v3": {7},
    "nvmlDeviceGetGraphicsRunningProcesses_v3": {3, 7, 13},
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": {3, 7, 13},
}
#: In these something is to be had in one call, the first or the last.
PRESENT: dict[tuple[str, str], type[DriverError]] = {
    ("nvmlDeviceGetGpuInstanceProfileInfoV", "first"): DriverCallFailed,
    ("nvmlGpuInstanceGetComputeInstanceProfileInfo", "last"): NotSupported,
}
#: What a verb reads on the way and can do without.
DISPENSABLE = {
    "create_gpu_instance": {
        "nvmlDeviceGetGpuInstanceProfileInfo",
        "nvmlDeviceGetGpuInstanceProfileInfoV",
        "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
    },
    "create_compute_instance": {
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetGpuInstanceId",
        "nvmlDeviceGetComputeInstanceId",
        "nvmlDeviceGetUUID",
    },
}

#: What is read of profiles is kept until the driver is opened anew.
READ_ONCE = {"nvmlDeviceGetMemoryInfo", *DISPENSABLE["create_gpu_instance"]}

EMPTY, ONE = Placement(4, 4), Placement(2, 1)
EMPTY_ID, FULL_ID = 2, 3


def prepare(node: SimNode, full: str = "2g.20gb", empty: str = "3g.40gb") -> None:
    """GPU 0 gets an instance without and one with a compute instance, and has room; GPU 1 gets MIG
    off.
    """
    node.configure(f"0={full};1=off")
    node.create_gi(0, empty, EMPTY)


@pytest.fixture
def node() -> SimNode:
    node = parse_node("2xh100-80gb")
    prepare(node)
    return node


@pytest.fixture
def driver(node: SimNode) -> Iterator[Driver]:
    with opened(node) as driver:
        yield driver


#: A verb with its arguments.
Case = Callable[[Driver, SimNode], object]

READINGS = ("profiles", "remaining", "processes")
CASES: dict[str, Case] = {
    "profiles": lambda driver, node: driver.profiles(node.gpu(0).uuid),
    "remaining": lambda driver, node: driver.remaining(node.gpu(0).uuid, 19),
    "processes": lambda driver, node: driver.processes(node.gpu(0).uuid),
    "create_gpu_instance": lambda driver, node: driver.create_gpu_instance(
        node.gpu(0).uuid, 19, ONE
    ),
    "create_compute_instance": lambda driver, node: driver.create_compute_instance(
        node.gpu(0).uuid, EMPTY_ID, 3
    ),
    "create_compute_instance at a place": lambda driver, node: driver.create_compute_instance(
        node.gpu(0).uuid, EMPTY_ID, 1, Placement(1, 1)
    ),
    "destroy_compute_instance": lambda driver, node: driver.destroy_compute_instance(
        node.gpu(0).uuid, FULL_ID, 0
    ),
    "destroy_gpu_instance": lambda driver, node: driver.destroy_gpu_instance(
        node.gpu(0).uuid, EMPTY_ID
    ),
    "set_mig_mode": lambda driver, node: driver.set_mig_mode(node.gpu(1).uuid, on=True),
}


def calls_of(case: Case, driver: Driver, node: SimNode) -> dict[str, int]:
    """How often a verb calls each function when nothing is wrong."""
    driver.open()  # nothing is known from before
    node.calls.counts.clear()
    case(driver, node)
    called = dict(node.calls.counts)
    prepare(node)
    return called


@dataclass(frozen=True)
class Try:
    """How a verb ended during a fault: ``changed`` says whether the hardware is another."""

    fault: CallFault
    error: DriverError | None
    changed: bool


@dataclass(frozen=True)
class Bench:
    """A verb, and the machine that it runs on again and again."""

    case: Case
    driver: Driver
    node: SimNode

    def tries(self, function: str, number: int, faults: Iterable[CallFault]) -> Iterator[Try]:
        """Run the verb once with each fault in one call of the function. Every scan afterwards
        shows what the hardware has.
        """
        before = self.driver.scan()
        for fault in faults:
            if function in READ_ONCE:
                self.driver.open()
            self.node.calls.inject(function, fault, times=1, after=number)
            error = None
            try:
                self.case(self.driver, self.node)
            except DriverError as raised:
                error = raised
            self.node.calls.restore()
            scan = self.driver.scan()
            assert scan.gpus == truth(self.node), f"call {number} of {function}: {fault}"
            yield Try(fault, error, scan != before)
            if scan != before:
                prepare(self.node)
                before = self.driver.scan()


def expected(
    verb: str, function: str, code: int, position: set[str], *, changed: bool
) -> type[DriverError] | None:
    """The kind of error of one call, which is the ``first`` or ``last`` of its function; ``None``
    for none.
    """
    if function in DISPENSABLE.get(verb.split(maxsplit=1)[0], ()):
        if changed or code not in (*LOST, pynvml.NVML_ERROR_RESET_REQUIRED):
            return None
        return KINDS[code]
    if changed and function not in CHANGES:
        lost = code in LOST or OF_FUNCTION.get((function, code)) is GpuLost
        return GpuLost if lost else OutcomeUnknown
    if code in ABSENT.get(function, ()):
        return next((PRESENT[function, at] for at in position if (function, at) in PRESENT), None)
    known = OF_FUNCTION.get((function, code)) or KINDS.get(code)
    return known or (OutcomeUnknown if function in CHANGES else DriverCallFailed)


@pytest.mark.parametrize("verb", CASES)
def test_every_call_fails_with_every_code(verb: str, driver: Driver, node: SimNode) -> None:
    bench = Bench(CASES[verb], driver, node)
    for function, count in calls_of(bench.case, driver, node).items():
        for number in {0, count - 1}:
            position = {at for at, n in (("first", 0), ("last", count - 1)) if n == number}
            lost = Fail(pynvml.NVML_ERROR_GPU_IS_LOST)
            (alone,) = bench.tries(function, number, [lost])
            for done in bench.tries(function, number, map(Fail, CODES)):
                assert isinstance(done.fault, Fail)
                code, what = done.fault.code, f"call {number} of {function}: {done}"
                kind = expected(verb, function, code, position, changed=alone.changed)
                assert type(done.error) is (kind or type(None)), what
                # What failed before the change, or was refused, changed nothing.
                assert done.changed is (verb not in READINGS and (alone.changed or not kind)), what


@pytest.mark.parametrize("verb", CASES)
def test_no_answer_is_believed_that_cannot_be(verb: str, driver: Driver, node: SimNode) -> None:
    faults: list[CallFault] = [Garble(), Exaggerate(), Exaggerate(2**31 - 3), Exaggerate(300)]
    bench = Bench(CASES[verb], driver, node)
    for function, count in calls_of(bench.case, driver, node).items():
        for number in {0, count - 1}:
            for done in bench.tries(function, number, faults):
                # A change that was made is no error that says that it was not.
                unclear = done.error is None or isinstance(done.error, OutcomeUnknown)
                assert unclear or not done.changed, f"call {number} of {function}: {done}"


#: Function → a verb that calls it, on the node of :func:`test_the_c_library_fails_with_every_code`.
NATIVE = {
    "nvmlDeviceCreateGpuInstanceWithPlacement": CASES["create_gpu_instance"],
    "nvmlGpuInstanceCreateComputeInstance": CASES["create_compute_instance"],
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement": CASES[
        "create_compute_instance at a place"
    ],
    "nvmlComputeInstanceDestroy": CASES["destroy_compute_instance"],
    "nvmlGpuInstanceDestroy": CASES["destroy_gpu_instance"],
    "nvmlDeviceSetMigMode": CASES["set_mig_mode"],
}


def test_the_c_library_fails_with_every_code(
    tmp_path: Path, native_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert NATIVE.keys() == CHANGES
    monkeypatch.setenv(build.NODE_VARIABLE, str(tmp_path / "node.txt"))
    with native("2xa100-40gb", tmp_path, native_library) as machine:
        prepare(machine.node, "2g.10gb", "3g.20gb")
        machine.changed()
        before = machine.driver.scan()
        for function, case in NATIVE.items():
            for code in CODES:
                machine.fail(function, code)
                with pytest.raises(DriverError) as refused:
                    case(machine.driver, machine.node)
                kind = OF_FUNCTION.get((function, code)) or KINDS.get(code) or OutcomeUnknown
                assert type(refused.value) is kind, f"{function}: {code}"
                machine.heal()
            assert machine.driver.scan() == before
            case(machine.driver, machine.node)
            assert machine.driver.scan().gpus == truth(machine.node) != before.gpus
            prepare(machine.node, "2g.10gb", "3g.20gb")
            machine.changed()
            before = machine.driver.scan()


def test_no_function_that_changes_something_is_left_out(driver: Driver, node: SimNode) -> None:
    called = {name for case in CASES.values() for name in calls_of(case, driver, node)}
    readings = ("nvmlDeviceGet", "nvmlGpuInstanceGet", "nvmlComputeInstanceGet")
    assert {name for name in called if not name.startswith(readings)} == CHANGES
