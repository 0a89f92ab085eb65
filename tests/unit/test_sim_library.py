"""The stand-in NVML library as pynvml and any other caller meets it: C types, versions, return
codes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_int, c_uint, c_void_p
from typing import Any

import pynvml
import pytest

from plugin.core.inventory.model import Placement
from plugin.driver.nvml import library as nvml
from plugin.driver.nvml.binding import using
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.nvml.library import SimLibrary
from tests.simulated import scan

FIELDS = (
    *("id", "sliceCount", "instanceCount", "multiprocessorCount", "copyEngineCount"),
    *("decoderCount", "jpegCount", "ofaCount", "memorySizeMB"),
)

#: Profiles of an H100 by NVML's index: the fields above, and the name.
H100 = {
    0: (19, 1, 7, 16, 1, 1, 1, 0, 9984, "MIG 1g.10gb"),
    1: (14, 2, 3, 32, 2, 2, 2, 0, 20096, "MIG 2g.20gb"),
    2: (9, 3, 2, 60, 3, 3, 3, 0, 40448, "MIG 3g.40gb"),
    3: (5, 4, 1, 64, 4, 4, 4, 0, 40448, "MIG 4g.40gb"),
    4: (0, 7, 1, 132, 8, 7, 7, 1, 81152, "MIG 7g.80gb"),
    7: (20, 1, 1, 16, 1, 1, 1, 1, 9984, "MIG 1g.10gb+me"),
    9: (15, 1, 4, 26, 1, 1, 1, 0, 20096, "MIG 1g.20gb"),
}


@pytest.fixture
def node() -> SimNode:
    """GPU 0 has a 3g.40gb at its start and a 1g.10gb at its end, GPU 1 has MIG off."""
    node = parse_node("2xh100-80gb:0=3g.40gb")
    node.create_ci(0, node.create_gi(0, "1g.10gb", Placement(6, 1)).id)
    return node


@pytest.fixture
def library(node: SimNode) -> Iterator[SimLibrary]:
    """The library, initialised and put where pynvml calls it."""
    library = SimLibrary(node)
    with using(library):
        nvml.initialise()
        yield library
        nvml.shut_down()


@pytest.fixture
def gpu(library: SimLibrary) -> Any:  # noqa: ARG001 - pynvml calls it
    return pynvml.nvmlDeviceGetHandleByIndex(0)


@pytest.fixture
def mig(gpu: Any) -> Any:
    return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)


def fails(code: Code) -> pytest.RaisesExc[pynvml.NVMLError]:
    """The block must raise pynvml's error with this code."""
    return pytest.RaisesExc(pynvml.NVMLError, check=lambda error: error.value == code)


def test_nothing_answers_before_initialisation(node: SimNode) -> None:
    library = SimLibrary(node)
    count = c_uint(99)
    assert library.nvmlDeviceGetCount_v2(byref(count)) == Code.UNINITIALIZED
    assert library.nvmlInit_v2() == Code.SUCCESS
    assert library.nvmlDeviceGetCount_v2(byref(count)) == Code.SUCCESS
    assert count.value == 2
    assert library.nvmlShutdown() == Code.SUCCESS
    assert library.nvmlDeviceGetCount_v2(byref(count)) == Code.UNINITIALIZED


def test_functions_that_are_not_there_are_missing_as_from_a_loaded_library(node: SimNode) -> None:
    library = SimLibrary(node, without=["nvmlDeviceGetName"])
    for name in ("nvmlDeviceGetName", "nvmlNoSuchFunction"):
        with pytest.raises(AttributeError, match=name):
            getattr(library, name)
    with using(library):
        nvml.initialise()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        with fails(Code.FUNCTION_NOT_FOUND):
            pynvml.nvmlDeviceGetName(handle)
        nvml.shut_down()


@pytest.mark.parametrize(
    "arguments",
    [
        ("0", byref(c_uint())),  # a handle that is text
        (0, byref(c_uint())),  # a handle that is a number
        (pynvml.c_nvmlDevice_t(), byref(c_int())),  # a result of another type
        (pynvml.c_nvmlDevice_t(), 5),
        (pynvml.c_nvmlGpuInstance_t(), byref(c_uint())),  # another kind of handle
    ],
)
def test_arguments_of_a_wrong_type_never_arrive(
    library: SimLibrary, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(ctypes.ArgumentError):
        library.nvmlDeviceGetMinorNumber(*arguments)


def test_too_few_arguments_are_refused(library: SimLibrary) -> None:
    with pytest.raises(TypeError):
        library.nvmlDeviceGetCount_v2()


def test_null_pointers_and_made_up_handles_are_invalid(library: SimLibrary, gpu: Any) -> None:
    assert library.nvmlDeviceGetCount_v2(None) == Code.INVALID_ARGUMENT
    assert library.nvmlDeviceGetMinorNumber(gpu, None) == Code.INVALID_ARGUMENT
    assert library.nvmlDeviceGetUUID(gpu, None, 96) == Code.INVALID_ARGUMENT
    for handle in (pynvml.c_nvmlDevice_t(), ctypes.cast(0x1234, pynvml.c_nvmlDevice_t)):
        assert library.nvmlDeviceGetMinorNumber(handle, byref(c_uint())) == Code.INVALID_ARGUMENT
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, 1)
    disguised = ctypes.cast(instance, pynvml.c_nvmlDevice_t)
    assert library.nvmlDeviceGetMinorNumber(disguised, byref(c_uint())) == Code.INVALID_ARGUMENT


def test_texts_need_room_for_their_end(library: SimLibrary, gpu: Any, node: SimNode) -> None:
    length = len(node.gpu(0).uuid)
    buffer = ctypes.create_string_buffer(b"#" * 96, 96)
    assert library.nvmlDeviceGetUUID(gpu, buffer, length) == Code.INSUFFICIENT_SIZE
    assert buffer.raw == b"#" * 96
    assert library.nvmlDeviceGetUUID(gpu, buffer, length + 1) == Code.SUCCESS
    assert buffer.value.decode() == node.gpu(0).uuid
    assert buffer.raw[length + 1 :] == b"#" * (96 - length - 1)


def test_structures_of_unknown_versions_are_refused(library: SimLibrary, gpu: Any) -> None:
    memory = pynvml.c_nvmlMemory_v2_t()
    memory.version = 0x03000028
    assert library.nvmlDeviceGetMemoryInfo_v2(gpu, byref(memory)) == Code.ARGUMENT_VERSION_MISMATCH
    profile = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
    profile.version = 1
    assert (
        library.nvmlDeviceGetGpuInstanceProfileInfoV(gpu, 0, byref(profile))
        == Code.ARGUMENT_VERSION_MISMATCH
    )


@pytest.mark.usefixtures("library")
def test_error_strings() -> None:
    assert pynvml.nvmlErrorString(Code.GPU_IS_LOST) == "GPU is lost"
    assert pynvml.nvmlErrorString(4242) == "Unknown Error"


@pytest.mark.usefixtures("library")
def test_the_system() -> None:
    assert pynvml.nvmlSystemGetDriverVersion() == "580.159.04"
    assert pynvml.nvmlSystemGetNVMLVersion() == "13.580.159.04"
    assert pynvml.nvmlSystemGetCudaDriverVersion_v2() == 13000


def test_a_gpu_describes_itself(gpu: Any, node: SimNode) -> None:
    state = node.gpu(0)
    assert pynvml.nvmlDeviceGetName(gpu) == "NVIDIA H100 80GB HBM3"
    assert pynvml.nvmlDeviceGetUUID(gpu) == state.uuid
    assert (pynvml.nvmlDeviceGetIndex(gpu), pynvml.nvmlDeviceGetMinorNumber(gpu)) == (0, 0)
    assert pynvml.nvmlDeviceGetCudaComputeCapability(gpu) == (9, 0)
    pci = pynvml.nvmlDeviceGetPciInfo(gpu)
    assert (pci.busId, pci.busIdLegacy) == ("00000000:10:1C.0", "0000:10:1C.0")
    assert (pci.domain, pci.bus, pci.device, pci.pciDeviceId) == (0, 0x10, 0x1C, 0x233010DE)
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu).total == 85520809984
    extended = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
    assert extended.total == extended.used + extended.free + extended.reserved
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetNumaNodeId(gpu)
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetAttributes(gpu)
    assert pynvml.nvmlDeviceIsMigDeviceHandle(gpu).value == 0


def test_handles_by_uuid(library: SimLibrary, node: SimNode) -> None:
    uuid = scan(node).gpus[0].mig_devices[1].uuid
    for wanted in (node.gpu(1).uuid, uuid):
        assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(wanted)) == wanted
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-0")
    with fails(Code.INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetHandleByIndex(2)
    assert (
        library.nvmlDeviceGetHandleByUUID(c_char_p(None), byref(pynvml.c_nvmlDevice_t()))
        == Code.INVALID_ARGUMENT
    )


def test_a_mig_device_describes_itself(gpu: Any, mig: Any, node: SimNode) -> None:
    state = scan(node).gpus[0].mig_devices[0]
    assert pynvml.nvmlDeviceGetUUID(mig) == state.uuid
    assert pynvml.nvmlDeviceIsMigDeviceHandle(mig).value == 1
    assert pynvml.nvmlDeviceGetGpuInstanceId(mig) == state.gi
    assert pynvml.nvmlDeviceGetComputeInstanceId(mig) == state.ci
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
    assert pynvml.nvmlDeviceGetUUID(parent) == state.gpu_uuid
    attributes = pynvml.nvmlDeviceGetAttributes(mig)
    assert (attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount) == (3, 3)
    assert (attributes.multiprocessorCount, attributes.memorySizeMB) == (60, 40448)
    assert (attributes.sharedCopyEngineCount, attributes.sharedJpegCount) == (3, 3)
    assert pynvml.nvmlDeviceGetMemoryInfo(mig).total == 40448 << 20
    with fails(Code.INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetMinorNumber(mig)
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetPowerUsage(mig)
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetGpuInstanceId(gpu)


def test_mig_mode_and_holes(gpu: Any) -> None:
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)
    off = pynvml.nvmlDeviceGetHandleByIndex(1)
    assert pynvml.nvmlDeviceGetMigMode(off) == [0, 0]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(off) == 0
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(off, 0)


def test_a_handle_of_a_destroyed_device_is_stale(mig: Any, node: SimNode) -> None:
    node.set_geometry(0, ["3g.40gb", "1g.10gb"])
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetUUID(mig)


@pytest.mark.usefixtures("library")
def test_profiles_answer_as_recorded() -> None:
    handle = pynvml.nvmlDeviceGetHandleByIndex(1)  # MIG is off there: the answers are the same
    for index in range(18):
        for version in (1, 2):
            if index not in H100:
                with fails(Code.INVALID_ARGUMENT if index == 17 else Code.NOT_SUPPORTED):
                    pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version=version)
                continue
            info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version=version)
            found = [getattr(info, field) for field in FIELDS]
            assert tuple(found) == H100[index][:-1]
            assert version == 1 or info.name == H100[index][-1]
            assert (
                pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(handle, info.id)
                == info.instanceCount
            )


def test_possible_placements_are_counted_then_listed(library: SimLibrary, gpu: Any) -> None:
    count = c_uint()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 15, None, byref(count))
    assert count.value == 4
    array = (pynvml.c_nvmlGpuInstancePlacement_t * 4)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 15, array, byref(count))
    assert [(at.start, at.size) for at in array] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    short = library.nvmlDeviceGetGpuInstancePossiblePlacements_v2(gpu, 15, array, byref(c_uint(3)))
    assert short == Code.INSUFFICIENT_SIZE
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 77, None, byref(count))


def test_instances_can_be_made_and_destroyed(gpu: Any, node: SimNode) -> None:
    placement = pynvml.c_nvmlGpuInstancePlacement_t(4, 2)
    instance = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 14, byref(placement))
    info = pynvml.nvmlGpuInstanceGetInfo(instance)
    assert (info.id, info.profileId, info.placement.start, info.placement.size) == (5, 14, 4, 2)
    assert pynvml.nvmlDeviceGetUUID(info.device) == node.gpu(0).uuid
    first = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    assert pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 0) == 1
    found = pynvml.nvmlComputeInstanceGetInfo(first)
    assert (found.id, found.profileId, found.placement.size) == (0, 0, 1)
    assert "1c.2g.20gb" in {device.profile for device in scan(node).gpus[0].mig_devices}
    with fails(Code.IN_USE):
        pynvml.nvmlGpuInstanceDestroy(instance)
    pynvml.nvmlComputeInstanceDestroy(first)
    pynvml.nvmlGpuInstanceDestroy(instance)
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetGpuInstanceById(gpu, 5)
    with fails(Code.INSUFFICIENT_RESOURCES):
        pynvml.nvmlDeviceCreateGpuInstance(gpu, 0)


def test_instances_are_listed_by_profile(gpu: Any) -> None:
    instances, count = (pynvml.c_nvmlGpuInstance_t * 7)(), c_uint()
    pynvml.nvmlDeviceGetGpuInstances(gpu, 9, instances, byref(count))
    assert count.value == 1
    assert pynvml.nvmlGpuInstanceGetInfo(instances[0]).profileId == 9
    computes = (pynvml.c_nvmlComputeInstance_t * 7)()
    pynvml.nvmlGpuInstanceGetComputeInstances(instances[0], 2, computes, byref(count))
    assert count.value == 1
    assert pynvml.nvmlComputeInstanceGetInfo(computes[0]).id == 0


def test_processes_are_counted_then_listed(gpu: Any, mig: Any, node: SimNode) -> None:
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(mig) == []
    uuid = pynvml.nvmlDeviceGetUUID(mig)
    node.use(uuid, pid=17, memory=4096)
    for handle in (mig, gpu):
        (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        assert (process.pid, process.usedGpuMemory) == (17, 4096)
        assert process.gpuInstanceId == pynvml.nvmlDeviceGetGpuInstanceId(mig)
        assert pynvml.nvmlDeviceGetMemoryInfo(handle).used == 4096


def test_events_travel_through_event_sets(gpu: Any, node: SimNode) -> None:
    assert pynvml.nvmlDeviceGetSupportedEventTypes(gpu) == 0xFF9F
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeXidCriticalError | 0x100, events)
    node.xid(0, 94, gi=1, ci=0)
    node.xid(0, 79)
    node.create_gi(0, "1g.10gb")
    found = [pynvml.nvmlEventSetWait(events, 1000) for _ in range(3)]
    assert [(e.eventType, e.eventData, e.gpuInstanceId, e.computeInstanceId) for e in found] == [
        (0x8, 94, 1, 0),
        (0x8, 79, 0xFFFFFFFF, 0xFFFFFFFF),
        (0x100, 0, 0xFFFFFFFF, 0xFFFFFFFF),
    ]
    assert pynvml.nvmlDeviceGetUUID(found[0].device) == node.gpu(0).uuid
    with fails(Code.TIMEOUT):
        pynvml.nvmlEventSetWait(events, 0)
    node.lose(0)
    with fails(Code.GPU_IS_LOST):
        pynvml.nvmlEventSetWait(events, 1000)
    pynvml.nvmlEventSetFree(events)
    with fails(Code.INVALID_ARGUMENT):
        pynvml.nvmlEventSetWait(events, 0)


def test_mig_devices_and_unknown_events_cannot_be_registered(gpu: Any, mig: Any) -> None:
    events = pynvml.nvmlEventSetCreate()
    with fails(Code.INVALID_ARGUMENT):
        pynvml.nvmlDeviceRegisterEvents(mig, 0x8, events)
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceRegisterEvents(gpu, 0x40, events)


def test_field_values_answer_one_by_one(gpu: Any, node: SimNode) -> None:
    node.set_recovery_action(0, 4)
    node.set_wear(0, remap_failure=True, remapped_uncorrectable=3, remap_pending=True)
    fields = [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 9999, pynvml.NVML_FI_DEV_REMAPPED_FAILURE]
    values = pynvml.nvmlDeviceGetFieldValues(gpu, fields)
    assert [(v.nvmlReturn, v.value.uiVal) for v in values] == [
        (0, 4),
        (Code.NOT_SUPPORTED, 0),
        (0, 1),
    ]
    assert pynvml.nvmlDeviceGetRemappedRows(gpu) == (0, 3, 1, 1)
    node.faults.fail(node.gpu(0).uuid, Aspect.RECOVERY, Code.NO_PERMISSION)
    (value,) = pynvml.nvmlDeviceGetFieldValues(gpu, fields[:1])
    assert value.nvmlReturn == Code.NO_PERMISSION


def test_ecc_errors_are_counted(gpu: Any, node: SimNode) -> None:
    node.ecc(0)
    node.ecc(0, double_bit=True)
    node.ecc(0, double_bit=True)
    volatile = pynvml.NVML_VOLATILE_ECC
    assert (
        pynvml.nvmlDeviceGetTotalEccErrors(gpu, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, volatile)
        == 1
    )
    assert (
        pynvml.nvmlDeviceGetTotalEccErrors(gpu, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, volatile)
        == 2
    )
    assert pynvml.nvmlDeviceGetEccMode(gpu) == [1, 1]


def test_sensors_rise_with_work(gpu: Any, mig: Any, node: SimNode) -> None:
    def read() -> tuple[int, ...]:
        return (
            pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
            pynvml.nvmlDeviceGetTemperatureV(gpu, pynvml.NVML_TEMPERATURE_GPU),
            pynvml.nvmlDeviceGetPowerUsage(gpu),
            pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        )

    idle = read()
    node.use(pynvml.nvmlDeviceGetUUID(mig), pid=1)
    assert all(after > before for before, after in zip(idle, read(), strict=True))


@pytest.mark.usefixtures("library")
def test_utilisation_exists_only_without_mig(gpu: Any, node: SimNode) -> None:
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetUtilizationRates(gpu)
    whole = pynvml.nvmlDeviceGetHandleByIndex(1)
    assert pynvml.nvmlDeviceGetUtilizationRates(whole).gpu == 0
    node.use(node.gpu(1).uuid, pid=1)
    assert pynvml.nvmlDeviceGetUtilizationRates(whole).gpu > 0


def test_activity_of_an_instance_is_the_difference_of_two_samples(
    gpu: Any, mig: Any, node: SimNode
) -> None:
    assert pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice == 1
    node.use(pynvml.nvmlDeviceGetUUID(mig), pid=1)
    busy, idle = (pynvml.nvmlDeviceGetGpuInstanceId(mig), 13)
    activity = []
    for instance in (busy, idle):
        samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
        for sample in samples:
            pynvml.nvmlGpmMigSampleGet(gpu, instance, sample)
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 1
        request.sample1, request.sample2 = samples
        request.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
        pynvml.nvmlGpmMetricsGet(request)
        assert request.metrics[0].nvmlReturn == Code.SUCCESS
        activity.append(request.metrics[0].value)
        for sample in samples:
            pynvml.nvmlGpmSampleFree(sample)
    assert activity[0] > activity[1] == 0


def test_ampere_has_no_activity_per_instance() -> None:
    with using(SimLibrary(parse_node("1xa100-40gb:all-1g.5gb"))):
        nvml.initialise()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice == 0
        with fails(Code.NOT_SUPPORTED):
            pynvml.nvmlGpmMigSampleGet(handle, 7, pynvml.nvmlGpmSampleAlloc())
        nvml.shut_down()


def test_functions_are_pointers_that_any_c_caller_could_use(library: SimLibrary) -> None:
    address = ctypes.cast(library.nvmlDeviceGetCount_v2, c_void_p).value
    assert address is not None
    foreign = ctypes.CFUNCTYPE(c_int, ctypes.POINTER(c_uint))(address)
    count = c_uint()
    assert foreign(byref(count)) == Code.SUCCESS
    assert count.value == 2
