"""Handles of GPUs, MIG devices and GPU instances, looked up anew for each verb: one that was kept
may have gone to another device.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

import pynvml

from plugin.driver.nvml.library import call
from plugin.driver.nvml.refusals import Kinds, reading
from plugin.errors import GpuLost, NoSuchInstance

#: What the UUIDs of MIG devices begin with.
MIG_UUID: Final = "MIG-"

_NO_GPU: Kinds = MappingProxyType(
    dict.fromkeys((pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT), GpuLost)
)
_NO_INSTANCE: Kinds = MappingProxyType({pynvml.NVML_ERROR_INVALID_ARGUMENT: NoSuchInstance})


def gpu_handle(uuid: str) -> Any:
    """Raises :class:`GpuLost` where the driver does not know the GPU."""
    return _handle(uuid, _NO_GPU)


def mig_handle(uuid: str) -> Any:
    """Raises :class:`NoSuchInstance` where the MIG device is no more."""
    return _handle(uuid, _NO_INSTANCE)


def _handle(uuid: str, kinds: Kinds) -> Any:
    with reading(kinds):
        return call(f"looking for {uuid}", pynvml.nvmlDeviceGetHandleByUUID, uuid)


def gpu_instance_handle(gpu: Any, gi: int) -> Any:
    """Raises :class:`NoSuchInstance`."""
    with reading(_NO_INSTANCE):
        function = pynvml.nvmlDeviceGetGpuInstanceById
        return call(f"looking for GPU instance {gi}", function, gpu, gi)


def compute_instance_handle(gpu_instance: Any, ci: int) -> Any:
    """Raises :class:`NoSuchInstance`."""
    with reading(_NO_INSTANCE):
        function = pynvml.nvmlGpuInstanceGetComputeInstanceById
        return call(f"looking for compute instance {ci}", function, gpu_instance, ci)
