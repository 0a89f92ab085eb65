"""The simulated NVML library: system, GPUs and device queries."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pynvml

from plugin.sim.hardware import sensors
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuState, Work
from plugin.sim.hardware.sensors import Memory
from plugin.sim.nvml.abi import (
    DEVICE,
    INT_OUT,
    TEXT_OUT,
    UINT,
    UINT_OUT,
    Exports,
    GpuRef,
    MigRef,
    Session,
    require,
    require_version,
    write_text,
)

EXPORTS = Exports()

_DEVICE_OUT = ctypes.POINTER(DEVICE)
_PROCESSES = ctypes.POINTER(pynvml.c_nvmlProcessInfo_v2_t)


@EXPORTS.add("nvmlInitWithFlags", UINT, before_init=True)
def _init(session: Session, _flags: int) -> None:
    session.start()


@EXPORTS.add("nvmlInit_v2", before_init=True)
def _init_v2(session: Session) -> None:
    session.start()


@EXPORTS.add("nvmlShutdown")
def _shutdown(session: Session) -> None:
    session.end()


@EXPORTS.add("nvmlSystemGetDriverVersion", TEXT_OUT, UINT)
def _driver_version(session: Session, out: Any, length: int) -> None:
    write_text(out, length, session.engine.versions.driver)


@EXPORTS.add("nvmlSystemGetNVMLVersion", TEXT_OUT, UINT)
def _nvml_version(session: Session, out: Any, length: int) -> None:
    write_text(out, length, session.engine.versions.nvml)


@EXPORTS.add("nvmlSystemGetCudaDriverVersion", INT_OUT)
@EXPORTS.add("nvmlSystemGetCudaDriverVersion_v2", INT_OUT)
def _cuda_version(session: Session, out: Any) -> None:
    require(out)
    out[0] = session.engine.versions.cuda


@EXPORTS.add("nvmlDeviceGetCount_v2", UINT_OUT)
def _count(session: Session, out: Any) -> None:
    require(out)
    out[0] = len(session.slots)


@EXPORTS.add("nvmlDeviceGetHandleByIndex_v2", UINT, _DEVICE_OUT)
def _handle_by_index(session: Session, index: int, out: Any) -> None:
    require(out)
    if index >= len(session.slots):
        raise NodeError(Code.INVALID_ARGUMENT, f"looking for GPU {index} of {len(session.slots)}")
    _give_gpu(session, session.engine.gpu(session.slots[index]), out)


def _give_gpu(session: Session, gpu: GpuState, out: Any) -> None:
    session.engine.enter(gpu)
    session.engine.faults.check(gpu.uuid, Aspect.HANDLE)
    out[0] = session.handle(GpuRef(gpu.index), DEVICE)


@EXPORTS.add("nvmlDeviceGetHandleByUUID", ctypes.c_char_p, _DEVICE_OUT)
def _handle_by_uuid(session: Session, uuid: bytes | None, out: Any) -> None:
    require(uuid, out)
    wanted = (uuid or b"").decode()
    for gpu in session.engine.gpus:
        if gpu.index not in session.slots:
            continue
        if gpu.uuid == wanted:
            _give_gpu(session, gpu, out)
            return
        if gpu.device(wanted) is not None:
            session.engine.enter(gpu)
            session.engine.faults.check(wanted, Aspect.HANDLE)
            out[0] = session.handle(MigRef(gpu.index, wanted), DEVICE)
            return
    raise NodeError(Code.NOT_FOUND, f"looking for {wanted}")


@EXPORTS.add("nvmlDeviceGetMigDeviceHandleByIndex", DEVICE, UINT, _DEVICE_OUT)
def _mig_handle(session: Session, handle: Any, index: int, out: Any) -> None:
    gpu = session.gpu(handle)
    require(out)
    for slot in gpu.devices():
        if slot.index == index:
            session.engine.faults.check(slot.ci.uuid, Aspect.HANDLE)
            out[0] = session.handle(MigRef(gpu.index, slot.ci.uuid), DEVICE)
            return
    raise NodeError(Code.NOT_FOUND, f"looking for MIG device {gpu.index}:{index}")


@EXPORTS.add("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", DEVICE, _DEVICE_OUT)
def _parent(session: Session, handle: Any, out: Any) -> None:
    gpu, slot = session.device(handle)
    require(slot, out)
    out[0] = session.handle(GpuRef(gpu.index), DEVICE)


@EXPORTS.add("nvmlDeviceIsMigDeviceHandle", DEVICE, UINT_OUT)
def _is_mig(session: Session, handle: Any, out: Any) -> None:
    _, slot = session.device(handle)
    require(out)
    out[0] = int(slot is not None)


@EXPORTS.add("nvmlDeviceGetUUID", DEVICE, TEXT_OUT, UINT)
def _uuid(session: Session, handle: Any, out: Any, length: int) -> None:
    gpu, slot = session.device(handle)
    uuid = slot.ci.uuid if slot is not None else gpu.uuid
    session.engine.faults.check(uuid, Aspect.UUID)
    write_text(out, length, uuid)


@EXPORTS.add("nvmlDeviceGetName", DEVICE, TEXT_OUT, UINT)
def _name(session: Session, handle: Any, out: Any, length: int) -> None:
    gpu, slot = session.device(handle)
    session.engine.faults.check(gpu.uuid, Aspect.NAME)
    suffix = f" MIG {slot.gi.profile.device_name(slot.ci.slices)}" if slot is not None else ""
    write_text(out, length, gpu.card.product + suffix)


@EXPORTS.add("nvmlDeviceGetIndex", DEVICE, UINT_OUT)
def _index(session: Session, handle: Any, out: Any) -> None:
    gpu, slot = session.device(handle)
    require(out)
    out[0] = slot.index if slot is not None else session.slots.index(gpu.index)


@EXPORTS.add("nvmlDeviceGetMinorNumber", DEVICE, UINT_OUT)
def _minor(session: Session, handle: Any, out: Any) -> None:
    gpu = session.gpu(handle, Aspect.MINOR)
    require(out)
    out[0] = gpu.minor


@EXPORTS.add("nvmlDeviceGetPciInfo_v3", DEVICE, ctypes.POINTER(pynvml.nvmlPciInfo_t))
def _pci(session: Session, handle: Any, out: Any) -> None:
    gpu = session.gpu(handle, Aspect.PCI)
    require(out)
    domain, bus, rest = gpu.pci_bus_id.split(":")
    info = out[0]
    info.busIdLegacy = gpu.pci_bus_id.upper()
    info.busId = f"{int(domain, 16):08X}:{bus.upper()}:{rest.upper()}"
    info.domain, info.bus, info.device = (
        int(domain, 16),
        int(bus, 16),
        int(rest.partition(".")[0], 16),
    )
    info.pciDeviceId = gpu.card.pci_device_id


@EXPORTS.add("nvmlDeviceGetNumaNodeId", DEVICE, INT_OUT)
def _numa(session: Session, handle: Any, _out: Any) -> None:
    session.device(handle)
    raise NodeError(Code.NOT_SUPPORTED, "asking for the NUMA node, as on any x86 machine")


@EXPORTS.add("nvmlDeviceGetCudaComputeCapability", DEVICE, INT_OUT, INT_OUT)
def _compute_capability(session: Session, handle: Any, major: Any, minor: Any) -> None:
    gpu, _ = session.device(handle)
    session.engine.faults.check(gpu.uuid, Aspect.CAPABILITY)
    require(major, minor)
    major[0], minor[0] = gpu.card.compute_capability


def _memory(session: Session, handle: Any) -> Memory:
    gpu, slot = session.device(handle)
    uuid = gpu.uuid if slot is None else slot.ci.uuid
    session.engine.faults.check(uuid, Aspect.MEMORY)
    return sensors.memory(gpu, slot, session.engine.memory_used(uuid))


@EXPORTS.add("nvmlDeviceGetMemoryInfo", DEVICE, ctypes.POINTER(pynvml.c_nvmlMemory_t))
def _memory_info(session: Session, handle: Any, out: Any) -> None:
    memory = _memory(session, handle)
    require(out)
    info = out[0]
    info.total, info.used, info.free = memory.total, memory.used, memory.total - memory.used


@EXPORTS.add("nvmlDeviceGetMemoryInfo_v2", DEVICE, ctypes.POINTER(pynvml.c_nvmlMemory_v2_t))
def _memory_info_v2(session: Session, handle: Any, out: Any) -> None:
    memory = _memory(session, handle)
    require(out)
    info = out[0]
    require_version(info.version, pynvml.nvmlMemory_v2)
    info.total, info.used, info.reserved, info.free = (
        memory.total,
        memory.used,
        memory.reserved,
        memory.free,
    )


def _list_processes(work: Work) -> Callable[[Session, Any, Any, Any], None]:
    """The function that lists the processes of one kind."""

    def listed(session: Session, handle: Any, count: Any, out: Any) -> None:
        gpu, slot = session.device(handle)
        require(count)
        slots = list(gpu.devices()) if slot is None else [slot]
        found = [(gpu.uuid, 0xFFFFFFFF, 0xFFFFFFFF)] if slot is None else []
        found += [(s.ci.uuid, s.gi.id, s.ci.id) for s in slots]
        rows = [
            (process, gi, ci)
            for uuid, gi, ci in found
            for process in session.engine.processes(uuid)
            if process.work is work
        ]
        room, count[0] = count[0], len(rows)
        if len(rows) > room:
            raise NodeError(Code.INSUFFICIENT_SIZE, f"listing {len(rows)} processes")
        for row, (process, gi, ci) in enumerate(rows):
            info = out[row]
            info.pid, info.usedGpuMemory, info.gpuInstanceId, info.computeInstanceId = (
                process.pid,
                process.memory,
                gi,
                ci,
            )

    return listed


for _kind, _work in (
    ("Compute", Work.COMPUTE),
    ("Graphics", Work.GRAPHICS),
    ("MPSCompute", Work.MPS),
):
    for _version in ("v2", "v3"):  # with one structure
        EXPORTS.add(
            f"nvmlDeviceGet{_kind}RunningProcesses_{_version}", DEVICE, UINT_OUT, _PROCESSES
        )(_list_processes(_work))
