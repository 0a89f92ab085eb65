"""Instances, events and sensors of the simulated NVML library, called by pynvml."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_uint, c_void_p
from typing import Any

import pynvml
import pytest

from plugin.driver.nvml import library as nvml
from plugin.driver.nvml.binding import using
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.faults import Aspect
from plugin.sim.nvml.library import SimLibrary
from tests.simulated import scan

from .conftest import fails


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
