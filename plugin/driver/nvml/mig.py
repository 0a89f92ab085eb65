"""Reading the MIG devices of one GPU by their indices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pynvml
from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.inventory.card import Attributes, CardProfiles, find_profile
from plugin.core.inventory.model import Engines, Gpu, MigDevice, Unknown
from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import texts
from plugin.driver.nvml.instances import MOST_INSTANCE_ID, Instance, Instances, read_instance
from plugin.driver.nvml.library import absurd, call
from plugin.driver.nvml.profiles import MOST_SLICES
from plugin.errors import DriverCallFailed

#: Codes by which a GPU says that there is no MIG device at an index.
_HOLES = frozenset(
    {
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
)


#: Codes by which a card or a driver says that it has no MIG.
HAS_NONE = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})

#: Far above any card; more is no answer.
MOST_MIG_DEVICES = 64


def mig_handles(gpu_handle: Any) -> Iterator[Any]:
    """Handles of the MIG devices of a GPU, without any knowledge of it; none of a card without MIG.
    Raises :class:`DriverCallFailed`.
    """
    what = "looking for MIG devices"
    try:
        count = call(what, pynvml.nvmlDeviceGetMaxMigDeviceCount, gpu_handle)
    except DriverCallFailed as error:
        if error.code in HAS_NONE:
            return
        raise
    if count > MOST_MIG_DEVICES:
        raise absurd(what, f"up to {count} of them")
    for index in range(count):
        try:
            yield call(what, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu_handle, index)
        except DriverCallFailed as error:
            if error.code not in _HOLES:
                raise


class Walk(Struct):
    """One walk over the MIG indices of a GPU, and what it found."""

    gpu_handle: Any
    gpu: Gpu
    card: CardProfiles
    instances: Instances
    files: DeviceFiles
    warnings: list[str] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    _found: dict[str, MigDevice] = field(default_factory=dict)
    _read: dict[int, Instance | Unknown] = field(default_factory=dict)

    def go(self, count: int) -> None:
        """Raises :class:`DriverCallFailed` only when the GPU is lost: a MIG device that says so
        speaks for the whole GPU.
        """
        for index in range(count):
            try:
                found = self._identify(index)
                if found is not None:
                    handle, device = found
                    self._found[device.uuid] = self._describe(handle, device)
            except DriverCallFailed as error:
                if error.code == pynvml.NVML_ERROR_GPU_IS_LOST:
                    raise
                self.unreadable[index] = (
                    f"MIG device {self.gpu.index}:{index} cannot be read: {error}"
                )

    def devices(self) -> tuple[MigDevice, ...]:
        return tuple(sorted(self._found.values(), key=lambda device: device.order))

    def _identify(self, index: int) -> tuple[Any, MigDevice] | None:
        """Handle and identity of the MIG device at an index, ``None`` for a hole."""
        function = pynvml.nvmlDeviceGetMigDeviceHandleByIndex
        try:
            handle = call("getting its handle", function, self.gpu_handle, index)
        except DriverCallFailed as error:
            if error.code in _HOLES:
                return None
            raise
        uuid = texts.text("reading its UUID", pynvml.nvmlDeviceGetUUID, handle)
        if uuid in self._found:
            raise absurd("reading its UUID", f"it is that of MIG device {self._found[uuid].path}")
        gi = _instance_id("GPU", pynvml.nvmlDeviceGetGpuInstanceId, handle)
        ci = _instance_id("compute", pynvml.nvmlDeviceGetComputeInstanceId, handle)
        same = next((d for d in self._found.values() if (d.gi, d.ci) == (gi, ci)), None)
        if same is not None:
            raise absurd("reading its instance ids", f"{gi}/{ci} are those of {same.path}")
        nodes, missing = self.files.mig(self.gpu.minor, gi, ci)
        return handle, MigDevice(
            uuid,
            self.gpu.uuid,
            self.gpu.index,
            index,
            gi,
            ci,
            profile="",
            device_nodes=nodes,
            missing_device_nodes=missing,
            numa=self.gpu.numa,
        )

    def _describe(self, handle: Any, device: MigDevice) -> MigDevice:
        """The device with its profile and size, or with the error that kept them from being
        read.
        """
        instance = self._instance(device.gi)
        if isinstance(instance, Instance):
            device = replace(device, placement=instance.placement)
        try:
            attributes = _attributes(handle)
        except DriverCallFailed as error:
            if error.code == pynvml.NVML_ERROR_GPU_IS_LOST:
                raise
            # Without attributes the size of the compute instance is unknown, and so is the
            # resource.
            return self._unread(device, str(error))
        found = find_profile(
            attributes,
            instance.profile_id if isinstance(instance, Instance) else instance,
            self.card,
            self.gpu.memory_mib,
        )
        if found.warning:
            self.warnings.append(f"MIG device {device.path}: {found.warning}")
        device = replace(
            device,
            profile=found.profile,
            memory_mib=attributes.memory_mib,
            multiprocessors=attributes.multiprocessors,
            ci_slices=attributes.ci_slices,
            gi_slices=attributes.gi_slices,
            engines=attributes.engines,
        )
        if found.unknown is not None:
            return self._unread(device, f"its profile is not known: {found.unknown}")
        if self.gpu.minor is None:
            return self._unread(device, "the minor number of its GPU is not known")
        return device

    def _unread(self, device: MigDevice, why: str) -> MigDevice:
        error = f"MIG device {device.path}: {why}"
        self.warnings.append(error)
        return replace(device, error=error)

    def _instance(self, gi: int) -> Instance | Unknown:
        """The GPU instance, asked for by itself where the list of all could not be had."""
        known = self.instances.known.get(gi) or self._read.get(gi)
        if known is None:
            known = self._read[gi] = read_instance(self.gpu_handle, gi)
        return known


def _instance_id(kind: str, function: Any, handle: Any) -> int:
    what = f"reading its {kind} instance id"
    found: int = call(what, function, handle)
    if found > MOST_INSTANCE_ID:
        raise absurd(what, str(found))
    return found


def _attributes(handle: Any) -> Attributes:
    what = "reading its attributes"
    read = call(what, pynvml.nvmlDeviceGetAttributes, handle)
    slices = read.gpuInstanceSliceCount, read.computeInstanceSliceCount
    if not 0 < slices[1] <= slices[0] <= MOST_SLICES:
        raise absurd(what, f"{slices[1]} of {slices[0]} slices")
    return Attributes(
        gi_slices=slices[0],
        ci_slices=slices[1],
        memory_mib=read.memorySizeMB,
        multiprocessors=read.multiprocessorCount,
        engines=Engines(
            copy=read.sharedCopyEngineCount,
            decoder=read.sharedDecoderCount,
            encoder=read.sharedEncoderCount,
            jpeg=read.sharedJpegCount,
            ofa=read.sharedOfaCount,
        ),
    )
