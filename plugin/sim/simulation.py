"""A simulated machine: the node, the library over it, and the real NVML driver over both."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.files import SimFiles
from plugin.sim.nvml.library import SimLibrary


class Simulation(Struct, frozen=True):
    """``driver`` is not open yet."""

    node: SimNode
    library: SimLibrary
    driver: NvmlDriver


def simulate(node: SimNode, without: Collection[str] = ()) -> Simulation:
    """`without` names library functions to leave out."""
    library = SimLibrary(node, without)
    return Simulation(node, library, NvmlDriver(DeviceFiles(source=SimFiles(node)), library))
