"""Drivers under test: over the simulated library on every family of cards, over a C library that
the loader opens, and the machine's own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin.driver.base import Driver
from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.errors import DriverUnavailable
from plugin.sim import tree
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.engine import parse_node
from plugin.sim.simulation import simulate
from tests.native import build

SIMULATED = (
    "p4d.24xlarge",
    "p4d.24xlarge:all-1g.5gb",
    "p5e.48xlarge:all-balanced",
    "2xa100-40gb+2xa30-24gb+1xt4-16gb:all-balanced",
    "2xh100-80gb:0=1c.3g.40gb*3,1g.10gb+me;1=on",
    *(f"2x{card}:all-balanced" for card in catalog().cards),
)
NATIVE = ("mig-off", "all-1g.5gb", "0=1g.5gb+me,2g.10gb,1g.10gb;1=1c.3g.20gb*3,4g.20gb;2=on")


@pytest.fixture(scope="session")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if build.compiler() is None:
        pytest.skip("there is no C compiler (cc or gcc) on PATH")
    return build.build(tmp_path_factory.mktemp("nvml"))


def _simulated(text: str, request: pytest.FixtureRequest) -> Driver:
    del request
    return simulate(parse_node(text)).driver


def _native(geometry: str, request: pytest.FixtureRequest) -> Driver:
    """Over real files and the C library, whose node is read from a file of its own."""
    library: Path = request.getfixturevalue("native_library")
    folder: Path = request.getfixturevalue("tmp_path")
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    node = parse_node(f"p4d.24xlarge:{geometry}")
    tree.write(node, folder)
    build.write_node(folder / "node.txt", node)
    patch.setenv(build.NODE_VARIABLE, str(folder / "node.txt"))
    files = DeviceFiles(folder, proc=folder / "proc", sys=folder / "sys")
    return NvmlDriver(files, ctypes.CDLL(str(library)))


def _real(text: str, request: pytest.FixtureRequest) -> Driver:
    del text, request
    driver = NvmlDriver()
    try:
        driver.open()
    except DriverUnavailable as error:
        pytest.skip(str(error))
    driver.close()
    return driver


Make = Callable[[str, pytest.FixtureRequest], Driver]


@pytest.fixture(
    params=[
        *[pytest.param((_simulated, node), id=f"sim-{node}") for node in SIMULATED],
        *[pytest.param((_native, geometry), id=f"native-{geometry}") for geometry in NATIVE],
        pytest.param((_real, ""), id="real", marks=pytest.mark.real_driver),
    ]
)
def closed_driver(request: pytest.FixtureRequest) -> Driver:
    """A driver that nobody has opened yet."""
    make: Make
    make, text = request.param
    return make(text, request)


@pytest.fixture
def driver(closed_driver: Driver) -> Iterator[Driver]:
    closed_driver.open()
    yield closed_driver
    closed_driver.close()
