"""Drivers under test: the simulated one, NVML over the simulated library and files, and the
machine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from plugin.driver.base import Driver
from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.errors import DriverUnavailable
from plugin.sim import tree
from plugin.sim.driver import SimDriver
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.nvml.library import SimLibrary

OpenNvml = Callable[..., AbstractContextManager[NvmlDriver]]

SIMULATED = (
    "p4d.24xlarge",
    "p4d.24xlarge:all-1g.5gb",
    "p5e.48xlarge:all-balanced",
    "2xa100-40gb+2xa30-24gb+1xt4-16gb:all-balanced",
    "2xh100-80gb:0=1c.3g.40gb*3,1g.10gb+me;1=on",
)


@contextmanager
def nvml_over(node: SimNode, folder: Path, without: tuple[str, ...] = ()) -> Iterator[NvmlDriver]:
    """An open NVML driver whose library and files are a simulated node's."""
    tree.write(node, folder)
    files = DeviceFiles(folder, proc=folder / "proc", sys=folder / "sys")
    driver = NvmlDriver(files=files, library=SimLibrary(node, without))
    driver.open()
    try:
        yield driver
    finally:
        driver.close()


@pytest.fixture(scope="session")
def open_nvml() -> OpenNvml:
    return nvml_over


@pytest.fixture(
    params=[
        *[pytest.param(("sim", node), id=f"sim-{node}") for node in SIMULATED],
        *[pytest.param(("nvml-over-sim", node), id=f"nvml-over-sim-{node}") for node in SIMULATED],
        pytest.param(("real", ""), id="real", marks=pytest.mark.real_driver),
    ]
)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """An open driver, of each kind and over several nodes."""
    kind, text = request.param
    if kind == "sim":
        simulated = SimDriver(parse_node(text))
        simulated.open()
        yield simulated
    elif kind == "nvml-over-sim":
        with nvml_over(parse_node(text), tmp_path) as opened:
            yield opened
    else:
        real = NvmlDriver()
        try:
            real.open()
        except DriverUnavailable as error:
            pytest.skip(str(error))
        yield real
        real.close()
