"""Calling libnvidia-ml, and turning its errors into ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import pynvml

from plugin.errors import (
    NO_CODE,
    DriverCallFailed,
    DriverMismatch,
    DriverUnavailable,
    PluginError,
)

#: Codes by which any question about a GPU answers that the GPU is lost.
LOST = frozenset(
    {
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
        pynvml.NVML_ERROR_RESET_REQUIRED,
    }
)
_NO_ANSWER = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
    }
)

#: Codes of an initialisation by a library that does not fit the kernel module, or us.
_MISMATCH = frozenset(
    {pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
)
#: What to do about an initialisation that failed.
_FIXES = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the kernel module is not loaded: is the driver "
    "installed on this node?",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and kernel module differ in version: "
    "finish the driver upgrade (reload the module or reboot), and check which driver root is "
    "mounted",
    pynvml.NVML_ERROR_NO_PERMISSION: "this process may not open the device nodes: run it "
    "privileged or under NVIDIA's runtime class",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the library is older than this plugin needs",
}
#: What grants the rights that a reading may take.
_NO_PERMISSION_FIX = (
    "this process lacks the right to read it: run it privileged, or under NVIDIA's runtime class "
    "with SYS_ADMIN and NVIDIA_MIG_MONITOR_DEVICES=all"
)
_KERNEL_LOG = "see the kernel log (dmesg) for NVRM messages"

P = ParamSpec("P")
T = TypeVar("T")


def initialise() -> None:
    """Initialise the library in use. Raises :class:`DriverUnavailable`."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        kind = DriverMismatch if error.value in _MISMATCH else DriverUnavailable
        fix = _FIXES.get(error.value, _KERNEL_LOG)
        raise kind(f"initialising NVML failed: {error}", fix) from error


def shut_down() -> None:
    """Shut the library in use down; never raises."""
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return  # nothing was initialised, or the driver went away first: closed is closed


def call(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call NVML; its error becomes a :class:`DriverCallFailed` that says `what` was being read.

    So does any exception of the bindings, which have their own for an answer that they cannot read.
    """
    try:
        return function(*args, **kwargs)
    except pynvml.NVMLError as error:
        raise failed(what, error) from error
    except PluginError:
        raise
    except Exception as error:
        raise unreadable(what, error) from error


def ask(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call NVML for something a card or a driver may not have; ``None`` then, or when it may not be
    read.
    """
    try:
        return function(*args, **kwargs)
    except pynvml.NVMLError as error:
        if error.value in _NO_ANSWER:
            return None
        raise failed(getattr(function, "__name__", "NVML"), error) from error
    except PluginError:
        raise
    except Exception as error:
        raise unreadable(getattr(function, "__name__", "NVML"), error) from error


def unreadable(what: str, error: Exception) -> DriverCallFailed:
    """NVML answered, and its bindings could not read that: text that is not UTF-8, for instance."""
    kind = type(error).__name__
    return DriverCallFailed(f"{what}: unreadable answer ({kind}: {error})", code=NO_CODE)


def absurd(what: str, answer: str) -> DriverCallFailed:
    """NVML answered with what no hardware can have."""
    return DriverCallFailed(f"{what}: impossible answer ({answer})", code=NO_CODE)


def failed(what: str, error: Any) -> DriverCallFailed:
    code = error.value
    fix = _NO_PERMISSION_FIX if code == pynvml.NVML_ERROR_NO_PERMISSION else ""
    return DriverCallFailed(f"{what}: {error}", fix, code=code, gpu_lost=code in LOST)


def no_answer(error: DriverCallFailed) -> DriverUnavailable:
    """A failed call without which nothing else can be asked."""
    return DriverUnavailable(f"{error.what}; the NVIDIA driver does not answer", _KERNEL_LOG)
