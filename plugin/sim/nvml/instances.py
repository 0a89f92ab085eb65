"""The simulated NVML library: reading MIG mode, profiles, GPU instances and compute instances."""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml

from plugin.sim.hardware.cards import CardProfile
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuInstance, GpuState, free_compute
from plugin.sim.nvml.abi import (
    COMPUTE_INSTANCE,
    DEVICE,
    GPU_INSTANCE,
    UINT,
    UINT_OUT,
    CiRef,
    Exports,
    GiRef,
    GpuRef,
    Session,
    require,
    require_version,
)

EXPORTS = Exports()

_GI_OUT = ctypes.POINTER(GPU_INSTANCE)
_CI_OUT = ctypes.POINTER(COMPUTE_INSTANCE)
_PLACEMENTS = ctypes.POINTER(pynvml.c_nvmlGpuInstancePlacement_t)

#: Compute slices by NVML's compute instance profile; index and id are equal.
_COMPUTE_PROFILES = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7}


@EXPORTS.add("nvmlDeviceGetMigMode", DEVICE, UINT_OUT, UINT_OUT)
def _mig_mode(session: Session, handle: Any, current: Any, pending: Any) -> None:
    gpu = session.gpu(handle, Aspect.MIG_MODE)
    if not gpu.card.mig_capable:
        raise NodeError(Code.NOT_SUPPORTED, f"asking {gpu.card.key} for its MIG mode")
    require(current, pending)
    current[0], pending[0] = int(gpu.mig), int(gpu.mig_pending)


@EXPORTS.add("nvmlDeviceGetMaxMigDeviceCount", DEVICE, UINT_OUT)
def _max_devices(session: Session, handle: Any, out: Any) -> None:
    gpu = session.gpu(handle)
    require(out)
    out[0] = gpu.card.compute_slices if gpu.mig else 0


@EXPORTS.add("nvmlDeviceGetGpuInstanceId", DEVICE, UINT_OUT)
def _gi_id(session: Session, handle: Any, out: Any) -> None:
    _, slot = session.mig(handle, Aspect.INSTANCE_IDS)
    require(out)
    out[0] = slot.gi.id


@EXPORTS.add("nvmlDeviceGetComputeInstanceId", DEVICE, UINT_OUT)
def _ci_id(session: Session, handle: Any, out: Any) -> None:
    _, slot = session.mig(handle, Aspect.INSTANCE_IDS)
    require(out)
    out[0] = slot.ci.id


@EXPORTS.add("nvmlDeviceGetAttributes_v2", DEVICE, ctypes.POINTER(pynvml.c_nvmlDeviceAttributes))
def _attributes(session: Session, handle: Any, out: Any) -> None:
    _, slot = session.mig(handle, Aspect.ATTRIBUTES)
    require(out)
    profile, attributes = slot.gi.profile, out[0]
    attributes.multiprocessorCount = profile.multiprocessors_of(slot.ci.slices)
    attributes.sharedCopyEngineCount = profile.engines.copy
    attributes.sharedDecoderCount = profile.engines.decoder
    attributes.sharedEncoderCount = profile.engines.encoder
    attributes.sharedJpegCount = profile.engines.jpeg
    attributes.sharedOfaCount = profile.engines.ofa
    attributes.gpuInstanceSliceCount = profile.slices
    attributes.computeInstanceSliceCount = slot.ci.slices
    attributes.memorySizeMB = profile.memory_mib


def _profile_at(gpu: GpuState, index: int) -> CardProfile:
    """The profile with this NVML index; gaps answer as recorded."""
    for profile in gpu.card.profiles:
        if profile.nvml_index == index:
            return profile
    last = pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME + 1
    code = Code.NOT_SUPPORTED if index <= last else Code.INVALID_ARGUMENT
    raise NodeError(code, f"asking {gpu.card.key} for profile index {index}")


def profile_with(gpu: GpuState, profile_id: int) -> CardProfile:
    """The profile with this id."""
    for profile in gpu.card.profiles:
        if profile.id == profile_id:
            return profile
    raise NodeError(Code.NOT_SUPPORTED, f"asking {gpu.card.key} for profile {profile_id}")


def _write_profile(profile: CardProfile, info: Any) -> None:
    info.id = profile.id
    info.isP2pSupported = 0
    info.sliceCount = profile.slices
    info.instanceCount = profile.max_instances
    info.multiprocessorCount = profile.multiprocessors
    info.copyEngineCount = profile.engines.copy
    info.decoderCount = profile.engines.decoder
    info.encoderCount = profile.engines.encoder
    info.jpegCount = profile.engines.jpeg
    info.ofaCount = profile.engines.ofa
    info.memorySizeMB = profile.memory_mib


@EXPORTS.add(
    "nvmlDeviceGetGpuInstanceProfileInfo",
    DEVICE,
    UINT,
    ctypes.POINTER(pynvml.c_nvmlGpuInstanceProfileInfo_t),
)
def _profile_info(session: Session, handle: Any, index: int, out: Any) -> None:
    gpu = session.gpu(handle)
    require(out)
    _write_profile(_profile_at(gpu, index), out[0])


@EXPORTS.add(
    "nvmlDeviceGetGpuInstanceProfileInfoV",
    DEVICE,
    UINT,
    ctypes.POINTER(pynvml.c_nvmlGpuInstanceProfileInfo_v2_t),
)
def _profile_info_v2(session: Session, handle: Any, index: int, out: Any) -> None:
    gpu = session.gpu(handle)
    require(out)
    require_version(out[0].version, pynvml.nvmlGpuInstanceProfileInfo_v2)
    profile = _profile_at(gpu, index)
    _write_profile(profile, out[0])
    out[0].name = f"MIG {profile.name}"


@EXPORTS.add("nvmlDeviceGetGpuInstancePossiblePlacements_v2", DEVICE, UINT, _PLACEMENTS, UINT_OUT)
def _possible_placements(
    session: Session, handle: Any, profile_id: int, out: Any, count: Any
) -> None:
    profile = profile_with(session.gpu(handle), profile_id)
    require(count)
    # Without an array the call returns the count; with one, the caller gives its length.
    if out:
        if count[0] < len(profile.placements):
            raise NodeError(Code.INSUFFICIENT_SIZE, f"listing {len(profile.placements)} placements")
        for row, at in enumerate(profile.placements):
            out[row].start, out[row].size = at.start, at.size
    count[0] = len(profile.placements)


@EXPORTS.add("nvmlDeviceGetGpuInstanceRemainingCapacity", DEVICE, UINT, UINT_OUT)
def _remaining(session: Session, handle: Any, profile_id: int, out: Any) -> None:
    gpu = session.gpu(handle)
    require(out)
    out[0] = gpu.remaining(profile_with(gpu, profile_id))


def _monitored(session: Session, handle: Any) -> GpuState:
    """A GPU whose instances this process may see."""
    gpu = session.gpu(handle, Aspect.GPU_INSTANCES)
    if not gpu.mig:
        raise NodeError(Code.NOT_SUPPORTED, f"asking GPU {gpu.index} for instances with MIG off")
    return gpu


@EXPORTS.add("nvmlDeviceGetGpuInstances", DEVICE, UINT, _GI_OUT, UINT_OUT)
def _gpu_instances(session: Session, handle: Any, profile_id: int, out: Any, count: Any) -> None:
    gpu = _monitored(session, handle)
    profile = profile_with(gpu, profile_id)
    require(out, count)
    found = [instance for instance in gpu.instances if instance.profile.id == profile.id]
    for row, instance in enumerate(found):
        out[row] = session.handle(GiRef(gpu.index, instance.id), GPU_INSTANCE)
    count[0] = len(found)


@EXPORTS.add("nvmlDeviceGetGpuInstanceById", DEVICE, UINT, _GI_OUT)
def _gpu_instance(session: Session, handle: Any, gi: int, out: Any) -> None:
    gpu = _monitored(session, handle)
    require(out)
    out[0] = session.handle(GiRef(gpu.index, gpu.instance(gi).id), GPU_INSTANCE)


@EXPORTS.add("nvmlGpuInstanceGetInfo", GPU_INSTANCE, ctypes.POINTER(pynvml.c_nvmlGpuInstanceInfo_t))
def _gpu_instance_info(session: Session, handle: Any, out: Any) -> None:
    gpu, instance = session.gpu_instance(handle)
    require(out)
    info = out[0]
    info.device = session.handle(GpuRef(gpu.index), DEVICE)
    info.id, info.profileId = instance.id, instance.profile.id
    info.placement.start, info.placement.size = instance.placement.start, instance.placement.size


def compute_size(instance: GpuInstance, profile_id: int) -> int:
    """Slices of a compute instance profile in a GPU instance."""
    size = _COMPUTE_PROFILES.get(profile_id)
    if size not in instance.profile.compute_slices:
        raise NodeError(
            Code.NOT_SUPPORTED, f"compute instance profile {profile_id} in {instance.profile.name}"
        )
    return size


@EXPORTS.add(
    "nvmlGpuInstanceGetComputeInstanceProfileInfo",
    GPU_INSTANCE,
    UINT,
    UINT,
    ctypes.POINTER(pynvml.c_nvmlComputeInstanceProfileInfo_t),
)
def _compute_profile(session: Session, handle: Any, index: int, _engines: int, out: Any) -> None:
    _, instance = session.gpu_instance(handle)
    require(out)
    size, profile, info = compute_size(instance, index), instance.profile, out[0]
    info.id, info.sliceCount, info.instanceCount = index, size, profile.slices // size
    info.multiprocessorCount = profile.multiprocessors_of(size)
    info.sharedCopyEngineCount, info.sharedDecoderCount = (
        profile.engines.copy,
        profile.engines.decoder,
    )
    info.sharedEncoderCount, info.sharedJpegCount = profile.engines.encoder, profile.engines.jpeg
    info.sharedOfaCount = profile.engines.ofa


@EXPORTS.add("nvmlGpuInstanceGetComputeInstanceRemainingCapacity", GPU_INSTANCE, UINT, UINT_OUT)
def _compute_remaining(session: Session, handle: Any, profile_id: int, out: Any) -> None:
    _, instance = session.gpu_instance(handle)
    require(out)
    out[0] = len(free_compute(instance, compute_size(instance, profile_id)))


@EXPORTS.add("nvmlGpuInstanceGetComputeInstances", GPU_INSTANCE, UINT, _CI_OUT, UINT_OUT)
def _compute_instances(
    session: Session, handle: Any, profile_id: int, out: Any, count: Any
) -> None:
    gpu, instance = session.gpu_instance(handle)
    size = compute_size(instance, profile_id)
    require(out, count)
    found = [ci for ci in instance.compute if ci.slices == size]
    for row, ci in enumerate(found):
        out[row] = session.handle(CiRef(gpu.index, instance.id, ci.id), COMPUTE_INSTANCE)
    count[0] = len(found)


@EXPORTS.add("nvmlGpuInstanceGetComputeInstanceById", GPU_INSTANCE, UINT, _CI_OUT)
def _compute_instance(session: Session, handle: Any, ci: int, out: Any) -> None:
    gpu, instance = session.gpu_instance(handle)
    require(out)
    if not any(found.id == ci for found in instance.compute):
        raise NodeError(Code.NOT_FOUND, f"looking for compute instance {ci}")
    out[0] = session.handle(CiRef(gpu.index, instance.id, ci), COMPUTE_INSTANCE)


def compute(session: Session, handle: Any) -> CiRef:
    """The compute instance of a handle."""
    target = session.target(handle)
    if not isinstance(target, CiRef):
        raise NodeError(Code.INVALID_ARGUMENT, "using another handle as a compute instance")
    session.engine.enter(session.engine.gpu(target.gpu))
    return target


@EXPORTS.add(
    "nvmlComputeInstanceGetInfo_v2",
    COMPUTE_INSTANCE,
    ctypes.POINTER(pynvml.c_nvmlComputeInstanceInfo_t),
)
def _compute_info(session: Session, handle: Any, out: Any) -> None:
    target = compute(session, handle)
    require(out)
    instance = session.engine.gpu(target.gpu).instance(target.gi)
    found = next((ci for ci in instance.compute if ci.id == target.ci), None)
    if found is None:
        raise NodeError(Code.NOT_FOUND, f"asking compute instance {target.ci}, which is no more")
    info = out[0]
    info.device = session.handle(GpuRef(target.gpu), DEVICE)
    info.gpuInstance = session.handle(GiRef(target.gpu, target.gi), GPU_INSTANCE)
    info.id = found.id
    info.profileId = next(
        number for number, slices in _COMPUTE_PROFILES.items() if slices == found.slices
    )
    info.placement.start, info.placement.size = found.placement.start, found.placement.size
