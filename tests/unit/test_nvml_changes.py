"""How the driver's answers to a change are understood, where the simulated card gives none such."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from plugin.core.inventory.model import GpuInstance, MigMode, Placement
from plugin.driver.nvml import NvmlDriver
from plugin.errors import DeviceInUse, DriverError, NoPermission, NotSupported, OutcomeUnknown
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.nvml.library import SimLibrary

OFF = MigMode(current=False, pending=False)
PENDING = MigMode(current=False, pending=True)


class _Library:
    """A loaded library in which one function is another."""

    def __init__(self, node: SimNode, name: str, function: Callable[..., int]) -> None:
        """`function` gets the function that it replaces, and the arguments."""
        self._library = SimLibrary(node)
        real = getattr(self._library, name)
        replaced = ctypes.CFUNCTYPE(ctypes.c_int, *real.argtypes)
        setattr(self, name, replaced(functools.partial(function, real)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def opened(node: SimNode, name: str, function: Callable[..., int]) -> NvmlDriver:
    driver = NvmlDriver(library=_Library(node, name, function))
    driver.open()
    return driver


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize(
    ("status", "alone", "with_pending"),
    [
        (pynvml.NVML_SUCCESS, OutcomeUnknown, PENDING),
        (pynvml.NVML_ERROR_RESET_REQUIRED, DriverError, PENDING),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, NotSupported, PENDING),
        (pynvml.NVML_ERROR_NO_PERMISSION, NoPermission, PENDING),
        (pynvml.NVML_ERROR_UNKNOWN, OutcomeUnknown, PENDING),
        (pynvml.NVML_ERROR_IN_USE, DeviceInUse, DeviceInUse),
    ],
)
def test_a_switch_of_mig_mode_is_what_the_driver_has_afterwards(
    status: int, alone: type[DriverError], with_pending: Any, *, pending: bool
) -> None:
    """The driver returns success, and beside it why the mode is not the one that was asked for."""
    node = parse_node("1xa100-40gb")

    def switch(real: Callable[..., int], handle: Any, mode: int, out: Any) -> int:
        del real, handle
        if pending:
            node.set_mig_mode(0, on=bool(mode))
        out[0] = status
        return 0

    driver = opened(node, "nvmlDeviceSetMigMode", switch)
    expected = with_pending if pending else alone
    if isinstance(expected, MigMode):
        assert driver.set_mig_mode(node.gpu(0).uuid, on=True) == expected
    else:
        with pytest.raises(expected) as refused:
            driver.set_mig_mode(node.gpu(0).uuid, on=True)
        assert ("the switch is pending" in str(refused.value)) is pending
    assert driver.scan().gpus[0].mig == (PENDING if pending else OFF)
    driver.close()


def test_an_instance_at_another_place_is_no_answer() -> None:
    node = parse_node("1xh100-80gb:0=on")

    def create(real: Callable[..., int], gpu: Any, profile: int, at: Any, out: Any) -> int:
        at[0].start += 1
        return real(gpu, profile, at, out)

    driver = opened(node, "nvmlDeviceCreateGpuInstanceWithPlacement", create)
    gpu = node.gpu(0).uuid
    with pytest.raises(OutcomeUnknown, match="impossible answer"):
        driver.create_gpu_instance(gpu, 19, Placement(0, 1))
    driver.close()


def test_a_profile_is_named_before_any_scan() -> None:
    node = parse_node("1xh100-80gb:0=on")
    driver = NvmlDriver(library=SimLibrary(node))
    driver.open()
    made = driver.create_gpu_instance(node.gpu(0).uuid, 20, Placement(3, 1))
    assert made == GpuInstance(10, "1g.10gb+me", Placement(3, 1))
    driver.close()
