"""Asking one GPU for its health through NVML."""

from __future__ import annotations

from typing import Any

import pynvml

from plugin.core.health.events import Probe
from plugin.driver.nvml.library import ask, call, failed
from plugin.errors import DriverCallFailed

#: Codes by which a driver says that it does not know a field; those before R565 do not know the
#: recovery action.
_UNKNOWN_FIELD = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT})


def probe(gpu_uuid: str, handles: dict[str, Any], *, thorough: bool) -> Probe:
    """Ask a GPU; see :meth:`plugin.driver.base.Driver.probe`. `handles` keeps the handles of GPUs
    by UUID, for as long as NVML is initialised; where one answers anything odd it is asked for
    anew.

    An answer that fails for its own reasons, on a GPU that answers otherwise, is none.
    """
    if (known := handles.pop(gpu_uuid, None)) is not None:
        found = _asked(gpu_uuid, known, thorough=thorough)
        if found.error is None:
            handles[gpu_uuid] = known
            return found
    try:
        handle = call("getting its handle", pynvml.nvmlDeviceGetHandleByUUID, gpu_uuid)
    except DriverCallFailed as error:
        return _failed(gpu_uuid, error)
    found = _asked(gpu_uuid, handle, thorough=thorough)
    if found.error is None:
        handles[gpu_uuid] = handle
    return found


def _failed(gpu_uuid: str, error: DriverCallFailed) -> Probe:
    # A GPU that was there and is not found any more is as gone as one that says so.
    lost = error.gpu_lost or error.code == pynvml.NVML_ERROR_NOT_FOUND
    return Probe(gpu_uuid, error=str(error), lost=lost)


def _asked(gpu_uuid: str, handle: Any, *, thorough: bool) -> Probe:
    try:
        action = _recovery_action(handle)
        if action is None:
            # A handle may come from memory; this is the cheapest question that goes to the GPU's
            # driver.
            ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
        rows = _thorough(pynvml.nvmlDeviceGetRemappedRows, handle) if thorough else None
        pending = (
            _thorough(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle) if thorough else None
        )
    except DriverCallFailed as error:
        return _failed(gpu_uuid, error)
    return Probe(
        gpu_uuid,
        recovery_action=action,
        remap_failure=_flag(rows[3]) if rows is not None else None,
        retirement_pending=_flag(pending),
    )


def _flag(value: int | None) -> bool | None:
    """A number that is neither 0 nor 1 says nothing."""
    return bool(value) if value in {0, 1} else None


def _recovery_action(handle: Any) -> int | None:
    """NVML's number, ``None`` where it is not known. Raises when the GPU is lost."""
    try:
        values = ask(
            pynvml.nvmlDeviceGetFieldValues, handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
        )
        if values is None or values[0].nvmlReturn in _UNKNOWN_FIELD:
            return None
        if values[0].nvmlReturn != pynvml.NVML_SUCCESS:
            raise failed("reading its recovery action", pynvml.NVMLError(values[0].nvmlReturn))
        return int(values[0].value.uiVal)
    except DriverCallFailed as error:
        if error.gpu_lost:
            raise
        return None


def _thorough(function: Any, handle: Any) -> Any | None:
    try:
        return ask(function, handle)
    except DriverCallFailed as error:
        if error.gpu_lost:
            raise
        return None
