"""The simulated NVML library: switching MIG mode, making and destroying instances."""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml

from plugin.core.inventory.model import Placement
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.files import CONFIG_NODE
from plugin.sim.hardware.gpu import GpuState
from plugin.sim.nvml.abi import (
    COMPUTE_INSTANCE,
    DEVICE,
    GPU_INSTANCE,
    UINT,
    UINT_OUT,
    CiRef,
    Exports,
    GiRef,
    Session,
    require,
)
from plugin.sim.nvml.instances import compute, compute_size, profile_with

EXPORTS = Exports()

_GI_OUT = ctypes.POINTER(GPU_INSTANCE)
_CI_OUT = ctypes.POINTER(COMPUTE_INSTANCE)
_PLACEMENT = ctypes.POINTER(pynvml.c_nvmlGpuInstancePlacement_t)
_COMPUTE_PLACEMENT = ctypes.POINTER(pynvml.c_nvmlComputeInstancePlacement_t)


def _configurable(session: Session, gpu: GpuState) -> GpuState:
    """A GPU whose instances this process may change: that takes the config capability."""
    if CONFIG_NODE in session.engine.faults.removed:
        raise NodeError(Code.NO_PERMISSION, f"changing GPU {gpu.index} without {CONFIG_NODE}")
    return gpu


@EXPORTS.add("nvmlDeviceSetMigMode", DEVICE, UINT, UINT_OUT)
def _set_mig_mode(session: Session, handle: Any, mode: int, status: Any) -> None:
    gpu = _configurable(session, session.gpu(handle))
    require(status)
    if mode not in {0, 1}:
        raise NodeError(Code.INVALID_ARGUMENT, f"switching to MIG mode {mode}")
    status[0] = session.engine.set_mig_mode(gpu.index, on=bool(mode))


@EXPORTS.add("nvmlDeviceCreateGpuInstance", DEVICE, UINT, _GI_OUT)
def _create_gi(session: Session, handle: Any, profile_id: int, out: Any) -> None:
    gpu = _configurable(session, session.gpu(handle))
    require(out)
    made = session.engine.create_gi(gpu.index, profile_with(gpu, profile_id).name)
    out[0] = session.handle(GiRef(gpu.index, made.id), GPU_INSTANCE)


@EXPORTS.add("nvmlDeviceCreateGpuInstanceWithPlacement", DEVICE, UINT, _PLACEMENT, _GI_OUT)
def _create_gi_at(session: Session, handle: Any, profile_id: int, at: Any, out: Any) -> None:
    gpu = _configurable(session, session.gpu(handle))
    require(at, out)
    placement = Placement(at[0].start, at[0].size)
    made = session.engine.create_gi(gpu.index, profile_with(gpu, profile_id).name, placement)
    out[0] = session.handle(GiRef(gpu.index, made.id), GPU_INSTANCE)


@EXPORTS.add("nvmlGpuInstanceDestroy", GPU_INSTANCE)
def _destroy_gi(session: Session, handle: Any) -> None:
    gpu, instance = session.gpu_instance(handle)
    session.engine.destroy_gi(_configurable(session, gpu).index, instance.id)


@EXPORTS.add("nvmlGpuInstanceCreateComputeInstance", GPU_INSTANCE, UINT, _CI_OUT)
def _create_ci(session: Session, handle: Any, profile_id: int, out: Any) -> None:
    _give_ci(session, handle, profile_id, None, out)


@EXPORTS.add(
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
    GPU_INSTANCE,
    UINT,
    _COMPUTE_PLACEMENT,
    _CI_OUT,
)
def _create_ci_at(session: Session, handle: Any, profile_id: int, at: Any, out: Any) -> None:
    require(at)
    _give_ci(session, handle, profile_id, Placement(at[0].start, at[0].size), out)


def _give_ci(
    session: Session, handle: Any, profile_id: int, at: Placement | None, out: Any
) -> None:
    gpu, instance = session.gpu_instance(handle)
    _configurable(session, gpu)
    require(out)
    size = compute_size(instance, profile_id)
    made = session.engine.create_ci(gpu.index, instance.id, size, at)
    out[0] = session.handle(CiRef(gpu.index, instance.id, made.id), COMPUTE_INSTANCE)


@EXPORTS.add("nvmlComputeInstanceDestroy", COMPUTE_INSTANCE)
def _destroy_ci(session: Session, handle: Any) -> None:
    target = compute(session, handle)
    _configurable(session, session.engine.gpu(target.gpu))
    session.engine.destroy_ci(target.gpu, target.gi, target.ci)
