"""Changing a GPU: making and destroying instances, switching MIG mode.

Each function makes one change, after reading what it needs for it. What fails before the change is
an error of that reading; the change itself fails with the kind of its code, or with
:class:`OutcomeUnknown`; what was made and cannot be read back is an :class:`OutcomeUnknown` too.
"""

from __future__ import annotations

from ctypes import byref
from typing import Any

import pynvml

from plugin.core.inventory.geometry import ComputeInstance
from plugin.core.inventory.model import GpuInstance, MigMode, Placement
from plugin.driver.nvml import texts
from plugin.driver.nvml.handles import (
    compute_instance_handle,
    gpu_handle,
    gpu_instance_handle,
)
from plugin.driver.nvml.instances import MOST_INSTANCE_ID, read_info
from plugin.driver.nvml.library import absurd, call
from plugin.driver.nvml.mig import mig_handles
from plugin.driver.nvml.profiles import read_profiles
from plugin.driver.nvml.refusals import (
    as_kind,
    changing,
    reading,
    reading_back,
)
from plugin.errors import (
    NO_CODE,
    DeviceInUse,
    DriverCallFailed,
    DriverError,
    InvalidPlacement,
    NotSupported,
    OutcomeUnknown,
    ResetNeeded,
)

#: Where an instance is made, an invalid argument is a profile or a place that the card lacks.
_NO_PLACE = {pynvml.NVML_ERROR_INVALID_ARGUMENT: InvalidPlacement}

#: Codes by which a GPU instance says that it has no compute instance profile of an index.
_HOLES = frozenset(
    {
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
)


def create_gpu_instance(uuid: str, profile_id: int, at: Placement, name: str | None) -> GpuInstance:
    """`name` is that of the profile, where it is known: reading it takes dozens of calls."""
    handle = gpu_handle(uuid)
    if name is None:
        with reading():
            name = _profile_name(handle, profile_id)
    title = name or f"profile {profile_id}"
    what = f"creating a GPU instance {title} at {at.start}:{at.size} on {uuid}"
    place = pynvml.c_nvmlGpuInstancePlacement_t(at.start, at.size)
    function = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement
    try:
        with changing(_NO_PLACE):
            made = call(what, function, handle, profile_id, byref(place))
    except NotSupported as error:
        raise _by_mode(handle, error) from error
    with reading_back():
        found = read_info(made, what)
        if (found.profile_id, found.placement) != (profile_id, at):
            raise absurd(what, f"profile {found.profile_id} at {found.placement}")
    return GpuInstance(found.id, name, found.placement)


def create_compute_instance(
    uuid: str, gi: int, slices: int, at: Placement | None
) -> ComputeInstance:
    handle = gpu_handle(uuid)
    instance = gpu_instance_handle(handle, gi)
    what = f"creating a compute instance of {slices} slices in GPU instance {gi} of {uuid}"
    with reading():
        profile_id = _compute_profile(instance, slices, what)
    with changing(_NO_PLACE):
        if at is None:
            made = call(what, pynvml.nvmlGpuInstanceCreateComputeInstance, instance, profile_id)
        else:
            made = call(
                what,
                pynvml.nvmlGpuInstanceCreateComputeInstanceWithPlacement,
                instance,
                profile_id,
                byref(pynvml.c_nvmlComputeInstancePlacement_t(at.start, at.size)),
            )
    with reading_back():
        info = call(what, pynvml.nvmlComputeInstanceGetInfo_v2, made)
        if info.id > MOST_INSTANCE_ID or info.profileId != profile_id:
            raise absurd(what, f"instance {info.id} of profile {info.profileId}")
    return ComputeInstance(gi, info.id, slices, _mig_uuid(handle, gi, info.id))


def destroy_compute_instance(uuid: str, gi: int, ci: int) -> None:
    instance = gpu_instance_handle(gpu_handle(uuid), gi)
    what = f"destroying compute instance {gi}/{ci} of {uuid}"
    compute = compute_instance_handle(instance, ci)
    with changing():
        call(what, pynvml.nvmlComputeInstanceDestroy, compute)


def destroy_gpu_instance(uuid: str, gi: int) -> None:
    instance = gpu_instance_handle(gpu_handle(uuid), gi)
    with changing():
        call(f"destroying GPU instance {gi} of {uuid}", pynvml.nvmlGpuInstanceDestroy, instance)


def set_mig_mode(uuid: str, *, on: bool) -> MigMode:
    handle = gpu_handle(uuid)
    what = f"switching MIG mode {'on' if on else 'off'} on {uuid}"
    with reading():
        before = read_mode(handle)
    if before == MigMode(on, on):
        return before
    with changing():
        activation = call(what, pynvml.nvmlDeviceSetMigMode, handle, int(on))
    with reading_back():
        # The driver may have unbound and reset the GPU.
        mode = read_mode(gpu_handle(uuid))
    if mode.current is on:
        return mode
    if activation == pynvml.NVML_ERROR_IN_USE:
        pending = "; the switch is pending" if mode.pending is on else ""
        raise DeviceInUse(f"{what}: {_said(activation)}{pending}", code=activation)
    if mode.pending is on:
        return mode
    if activation:
        refused = DriverCallFailed(f"{what}: {_said(activation)}", code=activation)
        raise as_kind(refused, {}, OutcomeUnknown)
    raise OutcomeUnknown(f"{what}: the driver reports success, the mode is as before", code=NO_CODE)


def _profile_name(handle: Any, profile_id: int) -> str:
    memory = call("reading its memory", pynvml.nvmlDeviceGetMemoryInfo, handle)
    profile = read_profiles(handle, memory.total >> 20).of_id(profile_id)
    return profile.name if profile is not None else ""


def read_mode(handle: Any) -> MigMode:
    """Raises :class:`DriverCallFailed`."""
    what = "reading its MIG mode"
    current, pending = call(what, pynvml.nvmlDeviceGetMigMode, handle)
    if not {current, pending} <= {0, 1}:
        raise absurd(what, f"mode {current}, pending {pending}")
    return MigMode(bool(current), bool(pending))


def _by_mode(handle: Any, error: NotSupported) -> DriverCallFailed:
    """Why a GPU has no instances, where that is its MIG mode."""
    try:
        with reading():
            mode = read_mode(handle)
    except DriverError:
        return error
    if mode.current != mode.pending:
        what = f"{error.what}: a switch of MIG mode {'on' if mode.pending else 'off'} is pending"
        return ResetNeeded(what, "reset the GPU or reboot the node", code=error.code)
    if not mode.current:
        return NotSupported(f"{error.what}: MIG mode is off", code=error.code)
    return error


def _compute_profile(instance: Any, slices: int, what: str) -> int:
    """The id of the compute instance profile with so many slices. Raises
    :class:`DriverCallFailed`.
    """
    function = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
    engines = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
    for index in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = call(what, function, instance, index, engines, version=1)
        except DriverCallFailed as error:
            if error.code in _HOLES:
                continue
            raise
        if info.sliceCount == slices:
            return int(info.id)
    raise NotSupported(
        f"{what}: the GPU instance has none of that size", code=pynvml.NVML_ERROR_NOT_SUPPORTED
    )


def _mig_uuid(handle: Any, gi: int, ci: int) -> str | None:
    """The UUID of the MIG device of a compute instance; ``None`` where it cannot be read."""
    what = f"looking for the MIG device {gi}/{ci}"
    try:
        for device in mig_handles(handle):
            ids = (
                call(what, pynvml.nvmlDeviceGetGpuInstanceId, device),
                call(what, pynvml.nvmlDeviceGetComputeInstanceId, device),
            )
            if ids == (gi, ci):
                return texts.text(what, pynvml.nvmlDeviceGetUUID, device)
    except DriverCallFailed:
        pass  # the instance is there all the same, and the next scan reads its UUID
    return None


def _said(code: int) -> str:
    return str(pynvml.NVMLError(code))
