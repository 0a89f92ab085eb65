"""A node with driver files and an NVML over the C ABI."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.sim import tree
from plugin.sim.hardware.engine import parse_node
from tests.native import build

from .host import Host


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("old-nvml"), old_driver=True)


@pytest.fixture
def host(tmp_path: Path, library: Path) -> Host:
    """The node that the library has by default, so that nothing of ours tells it what to answer."""
    tree.write(parse_node("p4d.24xlarge:all-1g.5gb"), tmp_path / "host")
    return Host(tmp_path / "host", tmp_path / "node.txt", library, tmp_path / "dp")
