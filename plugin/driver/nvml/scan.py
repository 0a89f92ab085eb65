"""Reading one GPU and its MIG devices: what fails is written into the answer, next to what could be
read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import pynvml

from plugin.core.inventory.model import Engines, Gpu, MigDevice, MigMode, Placement
from plugin.core.inventory.profiles import profile_by_arithmetic, profile_of_driver_name
from plugin.driver.files import DeviceFiles, sysfs_bus_id
from plugin.driver.nvml.library import LOST, ask, call, failed
from plugin.errors import DriverCallFailed

#: Codes by which a GPU says that a MIG index or a profile index is a hole.
_HOLES = frozenset(
    {
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
)

#: Indices beyond pynvml's table are tried as well: a newer driver may know more profiles than our
#: bindings.
_PROFILE_INDICES = range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT + 8)


@dataclass(frozen=True, slots=True)
class _Profiles:
    """GPU instance profiles of a card: the driver's names by profile id, and its number of memory
    slices.
    """

    names: dict[int, str] = field(default_factory=dict)
    memory_slices: int = 0


class GpuReader:
    """Reads one GPU index again and again; what cannot change while the GPU stays is asked once."""

    def __init__(self, index: int, files: DeviceFiles) -> None:
        self._index = index
        self._files = files
        self._static: Gpu | None = None
        self._profiles: _Profiles | None = None

    def read(self) -> Gpu:
        """The GPU as it is now. Raises :class:`DriverCallFailed` when not even its UUID can be
        read.
        """
        handle = call("getting its handle", pynvml.nvmlDeviceGetHandleByIndex, self._index)
        uuid = call("reading its UUID", pynvml.nvmlDeviceGetUUID, handle)
        if self._static is None or self._static.uuid != uuid:
            self._static, self._profiles = Gpu(uuid, self._index), None
            try:
                self._static = self._read_static(handle, self._static)
            except DriverCallFailed as error:
                broken, self._static = (
                    replace(self._static, error=f"GPU {self._index}: {error}"),
                    None,
                )
                return broken
        try:
            return self._read_mig(handle, self._static)
        except DriverCallFailed as error:
            nodes, missing = self._files.gpu(self._static.minor)
            return replace(
                self._static,
                device_nodes=nodes,
                missing_device_nodes=missing,
                error=f"GPU {self._index}: {error}",
            )

    def _read_static(self, handle: Any, gpu: Gpu) -> Gpu:
        pci = call("reading its PCI address", pynvml.nvmlDeviceGetPciInfo, handle)
        bus_id = sysfs_bus_id(_decode(pci.busId))
        numa = self._files.numa(bus_id)
        return replace(
            gpu,
            minor=call("reading its minor number", pynvml.nvmlDeviceGetMinorNumber, handle),
            pci_bus_id=bus_id,
            pci_device_id=pci.pciDeviceId,
            numa=numa if numa is not None else _numa_by_driver(handle),
            product=ask(pynvml.nvmlDeviceGetName, handle) or "",
            memory_mib=call("reading its memory", pynvml.nvmlDeviceGetMemoryInfo, handle).total
            >> 20,
            compute_capability=ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        )

    def _read_mig(self, handle: Any, gpu: Gpu) -> Gpu:
        nodes, missing = self._files.gpu(gpu.minor)
        gpu = replace(gpu, device_nodes=nodes, missing_device_nodes=missing)
        mode = ask(pynvml.nvmlDeviceGetMigMode, handle)
        if mode is None:
            return gpu
        if self._profiles is None:
            self._profiles = _read_profiles(handle)
        devices = []
        warnings: list[str] = []
        unreadable = {}
        for index in range(ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            try:
                found = self._identify(handle, gpu, index)
            except DriverCallFailed as error:
                _raise_lost(error)
                unreadable[index] = f"MIG device {gpu.index}:{index} cannot be read: {error}"
                continue
            if found is not None:
                device = self._describe(handle, gpu, *found, self._profiles, warnings)
                devices.append(device)
                if device.error:
                    warnings.append(device.error)
        return replace(
            gpu,
            mig=MigMode(bool(mode[0]), bool(mode[1])),
            mig_devices=tuple(sorted(devices, key=lambda device: (device.gi, device.ci))),
            memory_slices=self._profiles.memory_slices,
            warnings=tuple(warnings),
            unreadable=MappingProxyType(unreadable),
        )

    def _identify(self, gpu_handle: Any, gpu: Gpu, index: int) -> tuple[Any, MigDevice] | None:
        """Handle and identity of the MIG device at an index, ``None`` for a hole."""
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu_handle, index)
        except pynvml.NVMLError as error:
            if error.value in _HOLES:
                return None
            raise failed("getting its handle", error) from error
        uuid = call("reading its UUID", pynvml.nvmlDeviceGetUUID, handle)
        gi = call("reading its GPU instance id", pynvml.nvmlDeviceGetGpuInstanceId, handle)
        ci = call("reading its compute instance id", pynvml.nvmlDeviceGetComputeInstanceId, handle)
        nodes, missing = self._files.mig(gpu.minor, gi, ci)
        return handle, MigDevice(
            uuid,
            gpu.uuid,
            gpu.index,
            index,
            gi,
            ci,
            profile="",
            device_nodes=nodes,
            missing_device_nodes=missing,
            numa=gpu.numa,
        )

    def _describe(
        self,
        gpu_handle: Any,
        gpu: Gpu,
        handle: Any,
        device: MigDevice,
        profiles: _Profiles,
        warnings: list[str],
    ) -> MigDevice:
        """The device with its profile and size, or with the error that kept them from being read.
        Raises :class:`DriverCallFailed` only when the GPU is lost.
        """
        profile_id, placement = _read_gpu_instance(gpu_handle, device.gi)
        driver_name = profiles.names.get(profile_id, "") if profile_id is not None else ""
        device = replace(device, placement=placement)
        if profile_id is not None and profile_id not in profiles.names:
            warnings.append(
                f"MIG device {device.path} is of GPU instance profile {profile_id}, which this "
                "plugin does not know; "
                "its name is computed from its size"
            )
        try:
            attributes = call("reading its attributes", pynvml.nvmlDeviceGetAttributes, handle)
        except DriverCallFailed as error:
            _raise_lost(error)
            # Without attributes the size of the compute instance is unknown, and so is the
            # resource.
            return replace(device, error=f"MIG device {device.path}: {error}")
        slices = attributes.computeInstanceSliceCount, attributes.gpuInstanceSliceCount
        return replace(
            device,
            profile=profile_of_driver_name(driver_name, ci_slices=slices[0], gi_slices=slices[1])
            or profile_by_arithmetic(*slices, attributes.memorySizeMB, gpu.memory_mib),
            memory_mib=attributes.memorySizeMB,
            multiprocessors=attributes.multiprocessorCount,
            ci_slices=slices[0],
            gi_slices=slices[1],
            engines=Engines(
                copy=attributes.sharedCopyEngineCount,
                decoder=attributes.sharedDecoderCount,
                encoder=attributes.sharedEncoderCount,
                jpeg=attributes.sharedJpegCount,
                ofa=attributes.sharedOfaCount,
            ),
        )


def _raise_lost(error: DriverCallFailed) -> None:
    """A MIG device that answers that its GPU is lost speaks for the whole GPU."""
    if error.code == pynvml.NVML_ERROR_GPU_IS_LOST:
        raise error


def _read_gpu_instance(gpu_handle: Any, gi: int) -> tuple[int | None, Placement | None]:
    """Profile id and placement of a GPU instance.

    Both ``None`` where this process may not ask: it takes the right to monitor all instances.
    Raises :class:`DriverCallFailed` when the GPU is lost.
    """
    try:
        instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu_handle, gi)
        info = pynvml.nvmlGpuInstanceGetInfo(instance)
    except pynvml.NVMLError as error:
        if error.value in LOST:
            raise failed(f"reading GPU instance {gi}", error) from error
        return None, None
    return info.profileId, Placement(info.placement.start, info.placement.size)


def _read_profiles(gpu_handle: Any) -> _Profiles:
    """The card's GPU instance profiles; indices it does not know are holes."""
    names = {}
    memory_slices = 0
    for index in _PROFILE_INDICES:
        info = _profile_info(gpu_handle, index)
        if info is None:
            continue
        names[info.id] = _decode(getattr(info, "name", b""))
        memory_slices = max(memory_slices, *(p.end for p in _placements(gpu_handle, info.id)), 0)
    return _Profiles(names, memory_slices)


def _profile_info(gpu_handle: Any, index: int) -> Any | None:
    for version in (2, 1):  # drivers before R510 know no names
        try:
            return pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu_handle, index, version=version)
        except pynvml.NVMLError as error:
            if error.value in _HOLES:
                return None
            if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise DriverCallFailed(
                    f"reading profile index {index}: {error}", code=error.value
                ) from error
    return None


def _placements(gpu_handle: Any, profile_id: int) -> tuple[Placement, ...]:
    """Where instances of a profile can be; a raw binding that wants to be asked for the number
    first.
    """
    count = pynvml.c_uint(0)
    try:
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(
            gpu_handle, profile_id, None, pynvml.byref(count)
        )
        array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(
            gpu_handle, profile_id, array, pynvml.byref(count)
        )
    except pynvml.NVMLError as error:
        if error.value in LOST:
            raise failed(f"reading the placements of profile {profile_id}", error) from error
        return ()
    return tuple(Placement(item.start, item.size) for item in array[: count.value])


def _numa_by_driver(handle: Any) -> int | None:
    try:
        return ask(pynvml.nvmlDeviceGetNumaNodeId, handle)
    except DriverCallFailed as error:
        if error.gpu_lost:
            raise
        return None


def _decode(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
