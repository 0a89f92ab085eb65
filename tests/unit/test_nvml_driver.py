"""What only NVIDIA's own driver can do to us: be upgraded while its old library is loaded."""

from __future__ import annotations

import ctypes

import pynvml
import pytest

from plugin.driver.nvml import NvmlDriver
from plugin.errors import DriverMismatch, DriverReplaced
from plugin.sim.hardware.engine import parse_node
from plugin.sim.nvml.library import SimLibrary


class _Upgraded:
    """A loaded library whose initialisation answers with `code` once that is set."""

    def __init__(self, library: SimLibrary) -> None:
        self._library = library
        self.code: int | None = None
        self.nvmlInitWithFlags = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint)(self._initialise)

    def _initialise(self, flags: int) -> int:
        return int(self._library.nvmlInitWithFlags(flags)) if self.code is None else self.code

    def __getattr__(self, name: str) -> object:
        return getattr(self._library, name)


def test_an_upgrade_under_a_running_plugin_ends_it() -> None:
    library = _Upgraded(SimLibrary(parse_node("1xa100-40gb")))
    driver = NvmlDriver(library=library)
    driver.open()
    library.code = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    with pytest.raises(DriverReplaced, match="a new process loads the new library"):
        driver.open()
    driver.close()


def test_a_mismatch_at_start_may_pass() -> None:
    library = _Upgraded(SimLibrary(parse_node("1xa100-40gb")))
    library.code = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    driver = NvmlDriver(library=library)
    with pytest.raises(DriverMismatch, match="finish the driver upgrade"):
        driver.open()
    library.code = None
    driver.open()
    assert len(driver.scan().gpus) == 1
    driver.close()
