"""The node whose samples are tested, its clock and its readings."""

from __future__ import annotations

from dataclasses import dataclass

from plugin.core.inventory.samples import CardSample, DeviceSample
from plugin.driver.base import Driver
from plugin.sim.hardware.engine import SimNode

NODE = "2xh100-80gb+1xa100-40gb+1xt4-16gb:0=1g.10gb,1c.3g.40gb*3;1=off;2=1g.5gb*7"
HOPPER, WHOLE, AMPERE, T4 = 0, 1, 2, 3


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Measured:
    """A simulated node with a clock of its own, and an open driver over it that has scanned it."""

    node: SimNode
    clock: Clock
    driver: Driver

    def gpu(self, gpu: int) -> str:
        return self.node.gpu(gpu).uuid

    def mig(self, gpu: int, index: int = 0) -> str:
        return list(self.node.gpu(gpu).devices())[index].ci.uuid

    def device(self, uuid: str) -> DeviceSample:
        return self.driver.sample().devices[uuid]

    def card(self, gpu: int) -> CardSample:
        return self.driver.sample().cards[self.gpu(gpu)]
