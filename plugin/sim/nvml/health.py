"""The simulated NVML library: events, field values, wear, sensors and activity."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pynvml

from plugin.driver.base import DriverEvent
from plugin.sim.hardware import sensors
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.events import EventQueue
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuState
from plugin.sim.nvml.abi import (
    DEVICE,
    EVENT_SET,
    SAMPLE,
    UINT,
    UINT_OUT,
    ULL_OUT,
    Exports,
    GpuRef,
    Sample,
    Session,
    require,
    require_version,
)

EXPORTS = Exports()

_NOT_THIS_FINE = 0xFFFFFFFF

#: GPM metrics by activity; the remaining shares use the multiprocessors' value.
_METRICS = {
    pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL: "graphics_active",
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY: "sm_occupancy",
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: "tensor_active",
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "dram_active",
}

_FIELDS: dict[int, Callable[[GpuState], int]] = {
    pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: lambda gpu: gpu.recovery_action,
    pynvml.NVML_FI_DEV_REMAPPED_COR: lambda gpu: gpu.wear.remapped_correctable,
    pynvml.NVML_FI_DEV_REMAPPED_UNC: lambda gpu: gpu.wear.remapped_uncorrectable,
    pynvml.NVML_FI_DEV_REMAPPED_PENDING: lambda gpu: int(gpu.wear.remap_pending),
    pynvml.NVML_FI_DEV_REMAPPED_FAILURE: lambda gpu: int(gpu.wear.remap_failure),
    pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL: lambda gpu: gpu.wear.single_bit_ecc,
    pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL: lambda gpu: gpu.wear.double_bit_ecc,
}


@EXPORTS.add("nvmlDeviceGetSupportedEventTypes", DEVICE, ULL_OUT)
def _supported_events(session: Session, handle: Any, out: Any) -> None:
    session.gpu(handle, Aspect.EVENTS)
    require(out)
    out[0] = session.engine.supported_events


@EXPORTS.add("nvmlEventSetCreate", ctypes.POINTER(EVENT_SET))
def _event_set(session: Session, out: Any) -> None:
    require(out)
    out[0] = session.handle(session.engine.open_queue(), EVENT_SET)


def _queue(session: Session, handle: Any) -> EventQueue:
    queue = session.target(handle)
    if not isinstance(queue, EventQueue):
        raise NodeError(Code.INVALID_ARGUMENT, "using another handle as an event set")
    return queue


@EXPORTS.add("nvmlDeviceRegisterEvents", DEVICE, ctypes.c_ulonglong, EVENT_SET)
def _register(session: Session, handle: Any, mask: int, event_set: Any) -> None:
    gpu = session.gpu(handle, Aspect.EVENTS)
    if mask & ~session.engine.supported_events:
        raise NodeError(Code.NOT_SUPPORTED, f"registering for events {mask:#x}")
    _queue(session, event_set).register(gpu.uuid, mask)


@EXPORTS.add("nvmlEventSetWait_v2", EVENT_SET, ctypes.POINTER(pynvml.c_nvmlEventData_t), UINT)
def _wait(session: Session, event_set: Any, out: Any, timeout_ms: int) -> None:
    require(out)
    event = _queue(session, event_set).wait(timeout_ms / 1000)
    if event is None:
        raise NodeError(Code.TIMEOUT, "waiting for events")
    _write_event(session, event, out[0])


def _write_event(session: Session, event: DriverEvent, data: Any) -> None:
    index = next((gpu.index for gpu in session.engine.gpus if gpu.uuid == event.gpu_uuid), None)
    if index is None:
        raise NodeError(Code.GPU_IS_LOST, "telling of an event of a GPU that was removed")
    data.device = session.handle(GpuRef(index), DEVICE)
    data.eventType = event.kind.value
    data.eventData = event.data
    data.gpuInstanceId = _NOT_THIS_FINE if event.gi is None else event.gi
    data.computeInstanceId = _NOT_THIS_FINE if event.ci is None else event.ci


@EXPORTS.add("nvmlEventSetFree", EVENT_SET)
def _free(session: Session, event_set: Any) -> None:
    queue = _queue(session, event_set)
    session.release(queue)
    session.engine.close_queue(queue)


# Accepts any address: bindings pass a reference to the array rather than a pointer to its first
# element.
@EXPORTS.add("nvmlDeviceGetFieldValues", DEVICE, ctypes.c_int, ctypes.c_void_p)
def _field_values(session: Session, handle: Any, count: int, values: int | None) -> None:
    gpu = session.gpu(handle)
    require(values)
    array = ctypes.cast(values or 0, ctypes.POINTER(pynvml.c_nvmlFieldValue_t))
    for item in array[:count]:
        read = _FIELDS.get(item.fieldId)
        item.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
        item.nvmlReturn = Code.NOT_SUPPORTED
        if read is not None:
            try:
                session.engine.faults.check(gpu.uuid, Aspect.RECOVERY)
            except NodeError as error:
                item.nvmlReturn = error.code
                continue
            item.nvmlReturn = Code.SUCCESS
            item.value.uiVal = read(gpu)


@EXPORTS.add("nvmlDeviceGetRemappedRows", DEVICE, UINT_OUT, UINT_OUT, UINT_OUT, UINT_OUT)
def _remapped_rows(session: Session, handle: Any, *out: Any) -> None:
    gpu = session.gpu(handle, Aspect.SENSORS, Code.NOT_SUPPORTED)
    if not gpu.card.remaps_rows:
        raise NodeError(Code.NOT_SUPPORTED, "asking for remapped rows on a card that retires pages")
    require(*out)
    wear = gpu.wear
    found = (
        wear.remapped_correctable,
        wear.remapped_uncorrectable,
        wear.remap_pending,
        wear.remap_failure,
    )
    for pointer, value in zip(out, found, strict=True):
        pointer[0] = int(value)


@EXPORTS.add("nvmlDeviceGetRetiredPagesPendingStatus", DEVICE, UINT_OUT)
def _retirement(session: Session, handle: Any, out: Any) -> None:
    gpu = session.gpu(handle, Aspect.SENSORS, Code.NOT_SUPPORTED)
    if gpu.card.remaps_rows:
        raise NodeError(Code.NOT_SUPPORTED, "asking for page retirement on a card that remaps rows")
    require(out)
    out[0] = int(gpu.wear.retirement_pending)


@EXPORTS.add("nvmlDeviceGetTotalEccErrors", DEVICE, UINT, UINT, ULL_OUT)
def _ecc_errors(session: Session, handle: Any, kind: int, _counter: int, out: Any) -> None:
    wear = session.gpu(handle, Aspect.SENSORS, Code.NOT_SUPPORTED).wear
    require(out)
    uncorrected = kind == pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    out[0] = wear.double_bit_ecc if uncorrected else wear.single_bit_ecc


@EXPORTS.add("nvmlDeviceGetEccMode", DEVICE, UINT_OUT, UINT_OUT)
def _ecc_mode(session: Session, handle: Any, current: Any, pending: Any) -> None:
    session.gpu(handle, Aspect.SENSORS, Code.NOT_SUPPORTED)
    require(current, pending)
    current[0] = pending[0] = 1


@EXPORTS.add("nvmlDeviceGetMemoryErrorCounter", DEVICE, UINT, UINT, UINT, ULL_OUT)
def _memory_errors(
    session: Session, handle: Any, kind: int, counter: int, location: int, out: Any
) -> None:
    session.mig(handle, Aspect.SENSORS)
    known = (
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
        pynvml.NVML_MEMORY_LOCATION_SRAM,
    )
    if (kind, counter, location) != known:
        raise NodeError(
            Code.NOT_SUPPORTED, "asking a MIG device for errors that only its GPU counts"
        )
    require(out)
    out[0] = 0


def _sensed(session: Session, handle: Any) -> tuple[GpuState, float]:
    """A GPU and its busy share; refuses unreadable sensors and MIG devices."""
    gpu = session.gpu(handle, Aspect.SENSORS, Code.NOT_SUPPORTED)
    return gpu, session.engine.busy_share(gpu)


@EXPORTS.add("nvmlDeviceGetTemperature", DEVICE, UINT, UINT_OUT)
def _temperature(session: Session, handle: Any, _sensor: int, out: Any) -> None:
    _, busy = _sensed(session, handle)
    require(out)
    out[0] = sensors.temperature(busy)


@EXPORTS.add("nvmlDeviceGetTemperatureV", DEVICE, ctypes.POINTER(pynvml.c_nvmlTemperature_v1_t))
def _temperature_v1(session: Session, handle: Any, out: Any) -> None:
    _, busy = _sensed(session, handle)
    require(out)
    require_version(out[0].version, pynvml.nvmlTemperature_v1)
    out[0].temperature = sensors.temperature(busy)


@EXPORTS.add("nvmlDeviceGetPowerUsage", DEVICE, UINT_OUT)
def _power(session: Session, handle: Any, out: Any) -> None:
    _, busy = _sensed(session, handle)
    require(out)
    out[0] = sensors.power(busy)


@EXPORTS.add("nvmlDeviceGetTotalEnergyConsumption", DEVICE, ULL_OUT)
def _energy(session: Session, handle: Any, out: Any) -> None:
    gpu, _ = _sensed(session, handle)
    require(out)
    out[0] = int(session.engine.energy(gpu) * 1000)  # millijoules


@EXPORTS.add("nvmlDeviceGetClockInfo", DEVICE, UINT, UINT_OUT)
def _clock(session: Session, handle: Any, clock: int, out: Any) -> None:
    _, busy = _sensed(session, handle)
    require(out)
    out[0] = sensors.MEMORY_CLOCK if clock == pynvml.NVML_CLOCK_MEM else sensors.sm_clock(busy)


@EXPORTS.add("nvmlDeviceGetUtilizationRates", DEVICE, ctypes.POINTER(pynvml.c_nvmlUtilization_t))
def _utilisation(session: Session, handle: Any, out: Any) -> None:
    gpu, busy = _sensed(session, handle)
    if gpu.mig:
        raise NodeError(Code.NOT_SUPPORTED, "asking for the utilisation of a GPU with MIG on")
    require(out)
    out[0].gpu, out[0].memory = sensors.utilisation(busy)


@EXPORTS.add("nvmlGpmQueryDeviceSupport", DEVICE, ctypes.POINTER(pynvml.c_nvmlGpmSupport_t))
def _gpm_support(session: Session, handle: Any, out: Any) -> None:
    gpu = session.gpu(handle)
    require(out)
    require_version(out[0].version, pynvml.NVML_GPM_SUPPORT_VERSION)
    out[0].isSupportedDevice = int(gpu.card.samples_instances)


@EXPORTS.add("nvmlGpmSampleAlloc", ctypes.POINTER(SAMPLE))
def _sample_alloc(session: Session, out: Any) -> None:
    require(out)
    out[0] = session.handle(Sample(), SAMPLE)


def _sample(session: Session, handle: Any) -> Sample:
    sample = session.target(handle)
    if not isinstance(sample, Sample):
        raise NodeError(Code.INVALID_ARGUMENT, "using another handle as a sample")
    return sample


@EXPORTS.add("nvmlGpmSampleFree", SAMPLE)
def _sample_free(session: Session, handle: Any) -> None:
    session.release(_sample(session, handle))


@EXPORTS.add("nvmlGpmSampleGet", DEVICE, SAMPLE)
def _sample_gpu(session: Session, handle: Any, sample: Any) -> None:
    gpu, busy = _sensed(session, handle)
    _take_sample(gpu, _sample(session, sample), busy)


@EXPORTS.add("nvmlGpmMigSampleGet", DEVICE, UINT, SAMPLE)
def _sample_mig(session: Session, handle: Any, gi: int, sample: Any) -> None:
    gpu, _ = _sensed(session, handle)
    _take_sample(gpu, _sample(session, sample), session.engine.busy_share(gpu, gi))


def _take_sample(gpu: GpuState, sample: Sample, busy: float) -> None:
    if not gpu.card.samples_instances:
        raise NodeError(Code.NOT_SUPPORTED, f"sampling GPU {gpu.index} ({gpu.card.key})")
    sample.busy = busy


@EXPORTS.add("nvmlGpmMetricsGet", ctypes.POINTER(pynvml.c_nvmlGpmMetricsGet_t))
def _metrics(session: Session, out: Any) -> None:
    require(out)
    request = out[0]
    require_version(request.version, pynvml.NVML_GPM_METRICS_GET_VERSION)
    before, after = _sample(session, request.sample1).busy, _sample(session, request.sample2).busy
    if before is None or after is None:
        raise NodeError(Code.INVALID_ARGUMENT, "comparing samples that were not taken")
    for metric in request.metrics[: request.numMetrics]:
        known = (
            1 <= metric.metricId <= pynvml.NVML_GPM_METRIC_FP16_UTIL
        )  # the percentages per instance
        metric.nvmlReturn = Code.SUCCESS if known else Code.NOT_SUPPORTED
        name = _METRICS.get(metric.metricId, "sm_active")
        metric.value = sensors.activity(name, before, after) if known else 0.0
