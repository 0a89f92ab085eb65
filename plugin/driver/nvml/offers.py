"""Reading which instances a GPU can have, all profiles or none."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pynvml

from plugin.core.inventory.geometry import ProfileOffer
from plugin.driver.nvml.library import absurd, call
from plugin.driver.nvml.profiles import INDICES, MOST_SLICES, read_placements, read_profile

#: NVML's compute instance profile by slices. The driver can be asked only about a GPU instance that
#: is there.
_COMPUTE_PROFILES = MappingProxyType(
    {
        1: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE,
        2: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE,
        3: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE,
        4: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE,
        6: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_6_SLICE,
        7: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE,
        8: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_8_SLICE,
    }
)
#: Sizes of compute instances that NVIDIA's guide leaves out, by the size of the GPU instance.
_NO_COMPUTE = MappingProxyType({4: frozenset({3}), 7: frozenset({6})})


def read_offers(gpu_handle: Any) -> tuple[ProfileOffer, ...]:
    """Every profile with a name, by id. Raises :class:`DriverCallFailed` when one of them cannot be
    read.
    """
    memory = call("reading its memory", pynvml.nvmlDeviceGetMemoryInfo, gpu_handle)
    found = (read_profile(gpu_handle, index, memory.total >> 20) for index in INDICES)
    offers = [
        ProfileOffer(
            profile.name,
            profile.id,
            profile.slices,
            profile.memory_mib,
            tuple(sorted(read_placements(gpu_handle, profile.id))),
            profile.max_instances,
            _compute_profiles(profile.slices),
        )
        for profile in found
        if profile is not None and profile.name
    ]
    return tuple(sorted(offers, key=lambda offer: offer.profile_id))


def _compute_profiles(slices: int) -> tuple[tuple[int, int], ...]:
    left_out = _NO_COMPUTE.get(slices, frozenset())
    return tuple(
        (size, number)
        for size, number in _COMPUTE_PROFILES.items()
        if size <= slices and size not in left_out
    )


def read_remaining(gpu_handle: Any, profile_id: int) -> int:
    """How many more instances of a profile fit. Raises :class:`DriverCallFailed`."""
    what = f"asking for room for GPU instance profile {profile_id}"
    function = pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity
    found: int = call(what, function, gpu_handle, profile_id)
    if found > MOST_SLICES:
        raise absurd(what, f"{found} more")
    return found
