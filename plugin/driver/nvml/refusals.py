"""NVML's codes as kinds of errors, where instances are read or changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pynvml

from plugin.driver.nvml.binding import HungCall
from plugin.driver.nvml.library import no_answer
from plugin.errors import (
    NO_CODE,
    DeviceInUse,
    DriverCallFailed,
    DriverMismatch,
    DriverUnavailable,
    GpuHangs,
    GpuLost,
    InsufficientResources,
    NoPermission,
    NoSuchInstance,
    NotSupported,
    OutcomeUnknown,
    ResetNeeded,
)

Kinds = Mapping[int, type[DriverCallFailed]]

#: What a code means wherever it comes from. All of them say that nothing was changed.
_KINDS: Kinds = MappingProxyType(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED: NotSupported,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: NotSupported,
        pynvml.NVML_ERROR_NO_PERMISSION: NoPermission,
        pynvml.NVML_ERROR_OPERATING_SYSTEM: NoPermission,
        pynvml.NVML_ERROR_NOT_FOUND: NoSuchInstance,
        pynvml.NVML_ERROR_GPU_IS_LOST: GpuLost,
        pynvml.NVML_ERROR_GPU_NOT_FOUND: GpuLost,
        pynvml.NVML_ERROR_RESET_REQUIRED: ResetNeeded,
        pynvml.NVML_ERROR_IN_USE: DeviceInUse,
        pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES: InsufficientResources,
    }
)

#: Codes by which the driver as a whole is away.
_AWAY = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    }
)

_RESET = "reset the GPU while nothing uses it (nvidia-smi --gpu-reset), or reboot the node"
_CONFIG_RIGHT = (
    "this process lacks the right to partition: run it privileged, or under NVIDIA's runtime class "
    "with SYS_ADMIN and NVIDIA_MIG_CONFIG_DEVICES=all"
)

#: What an invalid argument means where a profile is asked about.
NO_PROFILE: Kinds = MappingProxyType({pynvml.NVML_ERROR_INVALID_ARGUMENT: NotSupported})


@contextlib.contextmanager
def reading(kinds: Kinds | None = None) -> Iterator[None]:
    """Have failed calls of the block raise their kinds of error; `kinds` come before the common
    ones.
    """
    try:
        yield
    except DriverCallFailed as error:
        raise as_kind(error, kinds or {}, DriverCallFailed) from error


@contextlib.contextmanager
def changing(kinds: Kinds | None = None) -> Iterator[None]:
    """The same for the one call that changes something: a code that does not rule out that it did
    is an :class:`OutcomeUnknown`.
    """
    try:
        yield
    except DriverCallFailed as error:
        found = as_kind(error, kinds or {}, OutcomeUnknown)
        if isinstance(found, NoPermission):
            found = NoPermission(error.what, _CONFIG_RIGHT, code=error.code)
        raise found from error


@contextlib.contextmanager
def reading_back() -> Iterator[None]:
    """The same for reading what a change has made: it is there, and nobody knows what it is."""
    try:
        yield
    except (DriverCallFailed, DriverUnavailable) as error:
        code = error.code if isinstance(error, DriverCallFailed) else NO_CODE
        if isinstance(error, DriverCallFailed):
            found = as_kind(error, {}, OutcomeUnknown)
            if isinstance(found, GpuLost):
                raise found from error
        what = f"the change was made and cannot be read: {error.what}"
        raise OutcomeUnknown(what, error.fix, code=code) from error


def as_kind(
    error: DriverCallFailed, kinds: Kinds, other: type[DriverCallFailed]
) -> DriverCallFailed | DriverUnavailable:
    """The error by what its code means; `other` where that is unclear. One that has its kind keeps
    it.
    """
    if type(error) is not DriverCallFailed:
        return error
    if isinstance(error.__cause__, HungCall):
        return GpuHangs(error.what, code=error.code)
    if error.code == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return DriverMismatch(error.what, "finish the driver upgrade")
    if error.code in _AWAY:
        return no_answer(error)
    kind = kinds.get(error.code) or _KINDS.get(error.code, other)
    fix = _RESET if kind is ResetNeeded else error.fix
    return kind(error.what, fix, code=error.code, gpu_lost=error.gpu_lost or kind is GpuLost)
