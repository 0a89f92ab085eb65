"""Reading which processes hold a GPU or a MIG device."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pynvml

from plugin.core.inventory.geometry import Client, ClientKind
from plugin.driver.nvml.binding import exported, exports
from plugin.driver.nvml.handles import MIG_UUID, gpu_handle, mig_handle
from plugin.driver.nvml.library import absurd, call
from plugin.driver.nvml.mig import mig_handles
from plugin.errors import DriverCallFailed

_FUNCTIONS = (
    (ClientKind.COMPUTE, "nvmlDeviceGetComputeRunningProcesses"),
    (ClientKind.GRAPHICS, "nvmlDeviceGetGraphicsRunningProcesses"),
    (ClientKind.MPS, "nvmlDeviceGetMPSComputeRunningProcesses"),
)
#: Their structure has been the same since; the first that the library has is called.
_VERSIONS = ("_v3", "_v2")

#: Codes by which a device says that it has no processes of a kind; all have those that compute.
_HAS_NONE = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})

#: More is no answer.
MOST_PROCESSES = 1 << 16
#: New processes may come between counting and listing.
_SPARE = 16
_TRIES = 5

_NOT_ON_AN_INSTANCE = 0xFFFFFFFF


def read_clients(uuid: str) -> tuple[Client, ...]:
    """Processes of a GPU and of the MIG devices on it, or of a MIG device, by process id. Raises
    :class:`DriverCallFailed`.
    """
    found: set[Client] = set()
    for each in _handles(uuid):
        for kind, function in _FUNCTIONS:
            found.update(_listed(each, kind, function))
    return tuple(
        sorted(found, key=lambda c: (c.pid, c.kind.value, -1 if c.gi is None else c.gi, c.ci or 0))
    )


def _handles(uuid: str) -> list[Any]:
    """A GPU lists the processes of its MIG devices too, but only for those who may see them all."""
    if uuid.startswith(MIG_UUID):
        return [mig_handle(uuid)]
    gpu = gpu_handle(uuid)
    return [gpu, *mig_handles(gpu)]


def _listed(handle: Any, kind: ClientKind, function: str) -> Iterator[Client]:
    try:
        rows = _rows(handle, f"listing {kind.value} processes", function)
    except DriverCallFailed as error:
        if kind is not ClientKind.COMPUTE and error.code in _HAS_NONE:
            return
        raise
    for row in rows:
        yield Client(row.pid, kind, _id(row.gpuInstanceId), _id(row.computeInstanceId))


def _rows(handle: Any, what: str, function: str) -> list[Any]:
    """The driver's list. pynvml's own functions make room for as many as the driver says."""
    name = next((function + v for v in _VERSIONS if exports(function + v)), function + "_v3")
    count, array = ctypes.c_uint(0), None
    for _ in range(_TRIES):
        code = call(what, exported(name), handle, ctypes.byref(count), array)
        if count.value > MOST_PROCESSES:
            raise absurd(what, f"{count.value} of them")
        if code == pynvml.NVML_SUCCESS:
            return list(array[: count.value]) if array is not None else []
        if code != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            call(what, _raise, code)
        count.value += _SPARE
        array = (pynvml.c_nvmlProcessInfo_v2_t * count.value)()
    raise absurd(what, "their number rises faster than it can be read")


def _raise(code: int) -> None:
    raise pynvml.NVMLError(code)


def _id(number: int) -> int | None:
    return None if number == _NOT_ON_AN_INSTANCE else number
