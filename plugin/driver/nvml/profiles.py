"""Reading a card's GPU instance profiles."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pynvml

from plugin.core.inventory.card import CardProfile, CardProfiles
from plugin.core.inventory.model import Engines, Placement, Unknown
from plugin.core.inventory.profiles import profile_by_arithmetic, profile_of_driver_name
from plugin.driver.nvml import texts
from plugin.driver.nvml.binding import exports
from plugin.driver.nvml.library import absurd, call
from plugin.errors import NO_CODE, DriverCallFailed

#: Indices beyond pynvml's table are tried as well: a newer driver may know more profiles than our
#: bindings.
INDICES = range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT + 8)

#: Codes by which a card says that it has no profile of an index.
_HOLES = frozenset(
    {
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
)

#: Far above any card; more is no answer.
MOST_SLICES = 64
MOST_PLACEMENTS = 64

#: What follows the size in the names of profiles that differ from another of the same size.
_ATTRIBUTES = MappingProxyType(
    {
        pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1: "+me",
        pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1: "+me",
        pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX: "+gfx",
        pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX: "+gfx",
        pynvml.NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX: "+gfx",
        pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME: "-me",
        pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME: "-me",
        pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME: "+me.all",
        pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME: "+me.all",
    }
)


def read_profiles(gpu_handle: Any, total_mib: int) -> CardProfiles:
    """All of the card's profiles. Raises :class:`DriverCallFailed` only when the GPU is lost."""
    profiles: list[CardProfile] = []
    ends: list[int] = []
    unknown: Unknown | None = None
    unplaced: Unknown | None = None
    for index in INDICES:
        try:
            profile = read_profile(gpu_handle, index, total_mib)
        except DriverCallFailed as error:
            unknown = unknown or _unless_lost(error)
            continue
        if profile is None:
            continue
        profiles.append(profile)
        try:
            ends += [at.end for at in read_placements(gpu_handle, profile.id)]
        except DriverCallFailed as error:
            unplaced = unplaced or _unless_lost(error)
    memory_slices = 0 if unplaced else max(ends, default=0)
    return CardProfiles(tuple(profiles), memory_slices, unknown, unplaced)


def _unless_lost(error: DriverCallFailed) -> Unknown:
    if error.gpu_lost:
        raise error
    return Unknown(error.what, error.code, error.fix)


def read_profile(gpu_handle: Any, index: int, total_mib: int) -> CardProfile | None:
    """The profile of an index, ``None`` for a hole, which both functions for it must agree on."""
    what = f"reading GPU instance profile {index}"
    named = _info(gpu_handle, index, 2, what) if _has_names() else None
    info = named or _info(gpu_handle, index, 1, what)
    if info is None:
        return None
    if named is None and _has_names():
        raise DriverCallFailed(
            f"{what}: the driver has this profile and does not name it",
            code=NO_CODE,
        )
    if not 0 < info.sliceCount <= MOST_SLICES:
        raise absurd(what, f"{info.sliceCount} slices")
    if named is not None:
        name = profile_of_driver_name(texts.field(named, "name").sound(what))
    else:
        slices = info.sliceCount
        name = profile_by_arithmetic(slices, slices, info.memorySizeMB, total_mib)
        name += _ATTRIBUTES.get(index, "") if name else ""
    return CardProfile(
        info.id,
        name,
        info.sliceCount,
        info.memorySizeMB,
        info.multiprocessorCount,
        Engines(
            info.copyEngineCount,
            info.decoderCount,
            info.encoderCount,
            info.jpegCount,
            info.ofaCount,
        ),
        info.instanceCount,
    )


def _has_names() -> bool:
    """Drivers before R510 name no profiles."""
    return exports("nvmlDeviceGetGpuInstanceProfileInfoV")


def _info(gpu_handle: Any, index: int, version: int, what: str) -> Any | None:
    """What one of the two functions says, ``None`` for a hole."""
    function = pynvml.nvmlDeviceGetGpuInstanceProfileInfo
    try:
        return call(what, function, gpu_handle, index, version=version)
    except DriverCallFailed as error:
        known = version == 2 or exports("nvmlDeviceGetGpuInstanceProfileInfo")  # noqa: PLR2004
        if error.code in _HOLES or not known:
            return None
        raise


def read_placements(gpu_handle: Any, profile_id: int) -> tuple[Placement, ...]:
    """Where instances of a profile can be; a raw binding that wants to be asked for the number
    first.
    """
    what = f"reading the placements of GPU instance profile {profile_id}"
    count = pynvml.c_uint(0)
    function = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
    call(what, function, gpu_handle, profile_id, None, pynvml.byref(count))
    if count.value > MOST_PLACEMENTS:
        raise absurd(what, f"{count.value} of them")
    array = (pynvml.c_nvmlGpuInstancePlacement_t * max(count.value, 1))()
    call(what, function, gpu_handle, profile_id, array, pynvml.byref(count))
    found = tuple(Placement(item.start, item.size) for item in array[: count.value])
    if not all(map(is_possible, found)):
        raise absurd(what, "one ends behind any card's memory")
    return found


def is_possible(at: Placement) -> bool:
    return at.size > 0 and at.end <= MOST_SLICES
