"""Drivers over hardware that tests can change, and that the driver itself changes: over the
simulated library, and over the C library with a simulated node behind it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.native.hardware import Hardware, attached
from tests.simulated import opened


class Machine(Protocol):
    """A node and an open driver over it."""

    node: SimNode
    driver: NvmlDriver

    def changed(self) -> None:
        """The node was changed behind the driver's back."""

    def fail(self, function: str, code: int) -> None:
        """Have an NVML function fail, with no effect, until :meth:`heal`."""

    def heal(self) -> None: ...


class Simulated:
    def __init__(self, node: SimNode, driver: NvmlDriver) -> None:
        self.node, self.driver = node, driver

    def changed(self) -> None:
        """The driver sees it at once."""

    def fail(self, function: str, code: int) -> None:
        self.node.calls.inject(function, Fail(code))

    def heal(self) -> None:
        self.node.calls.restore()


class Native:
    def __init__(self, hardware: Hardware, driver: NvmlDriver) -> None:
        self.node, self.driver = hardware.node, driver
        self._hardware = hardware

    def changed(self) -> None:
        self._hardware.describe()

    def fail(self, function: str, code: int) -> None:
        self._hardware.answers[function] = code
        self.changed()

    def heal(self) -> None:
        self._hardware.answers.clear()
        self.changed()


@contextlib.contextmanager
def simulated(text: str) -> Iterator[Machine]:
    node = parse_node(text)
    with opened(node) as driver:
        yield Simulated(node, driver)


@contextlib.contextmanager
def native(text: str, folder: Path, library: Path) -> Iterator[Machine]:
    """The library finds its node by the variable :data:`~tests.native.build.NODE_VARIABLE`, which
    must name ``node.txt`` in `folder`.
    """
    with attached(parse_node(text), folder) as hardware:
        files = DeviceFiles(folder, proc=folder / "proc", sys=folder / "sys")
        driver = NvmlDriver(files, ctypes.CDLL(str(library)))
        driver.open()
        try:
            yield Native(hardware, driver)
        finally:
            driver.close()
