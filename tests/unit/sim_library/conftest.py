"""A simulated node and its NVML library, where pynvml calls it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

from plugin.core.inventory.model import Placement
from plugin.driver.nvml import library as nvml
from plugin.driver.nvml.binding import using
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.nvml.library import SimLibrary


@pytest.fixture
def node() -> SimNode:
    """GPU 0 has a 3g.40gb at its start and a 1g.10gb at its end, GPU 1 has MIG off."""
    node = parse_node("2xh100-80gb:0=3g.40gb")
    node.create_ci(0, node.create_gi(0, "1g.10gb", Placement(6, 1)).id)
    return node


@pytest.fixture
def library(node: SimNode) -> Iterator[SimLibrary]:
    """The library, initialised and put where pynvml calls it."""
    library = SimLibrary(node)
    with using(library):
        nvml.initialise()
        yield library
        nvml.shut_down()


@pytest.fixture
def gpu(library: SimLibrary) -> Any:  # noqa: ARG001 - pynvml calls it
    return pynvml.nvmlDeviceGetHandleByIndex(0)


@pytest.fixture
def mig(gpu: Any) -> Any:
    return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)


def fails(code: Code) -> pytest.RaisesExc[pynvml.NVMLError]:
    """The block must raise pynvml's error with this code."""
    return pytest.RaisesExc(pynvml.NVMLError, check=lambda error: error.value == code)
