"""Reading the GPU instances of a card, which takes the right to monitor all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pynvml
from msgspec import Struct

from plugin.core.inventory.card import CardProfiles
from plugin.core.inventory.model import GpuInstance, Placement, Unknown
from plugin.driver.nvml.library import absurd, call
from plugin.driver.nvml.profiles import is_possible
from plugin.errors import DriverCallFailed

#: Far above any card; more is no answer.
MOST_INSTANCES = 64
#: NVML numbers them like a binary tree over the memory slices.
MOST_INSTANCE_ID = 255


class Instance(Struct, frozen=True):
    """A GPU instance as the driver has it."""

    id: int
    profile_id: int
    placement: Placement


class Instances(Struct, frozen=True):
    """GPU instances by id. With ``unknown``, there may be others."""

    known: Mapping[int, Instance]
    unknown: Unknown | None = None

    def named(self, card: CardProfiles) -> tuple[GpuInstance, ...] | None:
        """All of them, in order; ``None`` where that is not known."""
        if self.unknown is not None:
            return None
        return tuple(
            GpuInstance(each.id, _name(card, each.profile_id), each.placement)
            for _, each in sorted(self.known.items())
        )


def _name(card: CardProfiles, profile_id: int) -> str:
    profile = card.of_id(profile_id)
    return profile.name if profile is not None else ""


def read_instances(gpu_handle: Any, card: CardProfiles) -> Instances:
    """All GPU instances. Raises :class:`DriverCallFailed` only when the GPU is lost."""
    known: dict[int, Instance] = {}
    unknown = card.unknown
    for profile in card.profiles:
        try:
            for handle in _of_profile(gpu_handle, profile.id):
                found = read_info(handle, "reading a GPU instance")
                known[found.id] = found
        except DriverCallFailed as error:
            if error.gpu_lost:
                raise
            unknown = unknown or Unknown(error.what, error.code, error.fix)
            if error.code == pynvml.NVML_ERROR_NO_PERMISSION:
                break  # nor will it answer for other profiles
    return Instances(known, unknown)


def _of_profile(gpu_handle: Any, profile_id: int) -> list[Any]:
    """Handles of the instances of a profile; a raw binding that fills an array."""
    what = f"listing GPU instances of profile {profile_id}"
    count = pynvml.c_uint(0)
    array = (pynvml.c_nvmlGpuInstance_t * MOST_INSTANCES)()
    call(what, pynvml.nvmlDeviceGetGpuInstances, gpu_handle, profile_id, array, pynvml.byref(count))
    if count.value > MOST_INSTANCES:
        raise absurd(what, f"{count.value} of them")
    return list(array[: count.value])


def read_instance(gpu_handle: Any, gi: int) -> Instance | Unknown:
    """One GPU instance. Raises :class:`DriverCallFailed` only when the GPU is lost."""
    what = f"reading GPU instance {gi}"
    try:
        found = read_info(call(what, pynvml.nvmlDeviceGetGpuInstanceById, gpu_handle, gi), what)
        if found.id != gi:
            raise absurd(what, f"it is instance {found.id}")
    except DriverCallFailed as error:
        if error.gpu_lost:
            raise
        return Unknown(error.what, error.code, error.fix)
    return found


def read_info(handle: Any, what: str) -> Instance:
    """The GPU instance of a handle."""
    info = call(what, pynvml.nvmlGpuInstanceGetInfo, handle)
    at = Placement(info.placement.start, info.placement.size)
    if info.id > MOST_INSTANCE_ID:
        raise absurd(what, f"the instance id {info.id}")
    if not is_possible(at):
        raise absurd(what, f"the placement {at.start}:{at.size}")
    return Instance(info.id, info.profileId, at)
