"""The node whose events and probes are tested."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from plugin.core.health.events import DriverEvent, Probe
from plugin.driver.base import Driver, EventSource
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.simulated import opened

PATIENCE = 10.0
NODE = "2xa100-40gb+1xt4-16gb:0=2g.10gb,1c.3g.20gb*3;1=1g.5gb*7"
A100, OTHER, T4 = 0, 1, 2
CODES = (
    Code.UNKNOWN,
    Code.NOT_FOUND,
    Code.NOT_SUPPORTED,
    Code.NO_PERMISSION,
    Code.GPU_IS_LOST,
    Code.RESET_REQUIRED,
)


@dataclass(frozen=True)
class Watched:
    """A simulated node and an open driver over it."""

    node: SimNode
    driver: Driver

    def uuid(self, gpu: int = A100) -> str:
        return self.node.gpu(gpu).uuid

    def uuids(self) -> list[str]:
        return [gpu.uuid for gpu in self.node.gpus]

    def probe(self, gpu: int = A100, *, thorough: bool = False) -> Probe:
        return self.driver.probe(self.uuid(gpu), thorough=thorough)


@pytest.fixture
def watched() -> Iterator[Watched]:
    node = parse_node(NODE)
    with opened(node) as driver:
        yield Watched(node, driver)


@contextlib.contextmanager
def source_of(watched: Watched, *gpus: int) -> Iterator[EventSource]:
    source = watched.driver.watch([watched.uuid(gpu) for gpu in gpus])
    try:
        yield source
    finally:
        source.close()


def drain(source: EventSource) -> list[DriverEvent]:
    """Every event that is there."""
    found = []
    while (event := source.wait(0)) is not None:
        found.append(event)
    return found
