"""Commands on a driver that hangs: they end, and name the call."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from plugin.commands.look import load, look
from plugin.driver.worker import Deadlines
from plugin.errors import DriverUnavailable
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate

SOON = Deadlines(gpu=0.2, driver=0.2)


@pytest.fixture
def hardware() -> Iterator[SimNode]:
    node = parse_node("p4d.24xlarge:all-1g.5gb")
    yield node
    node.calls.restore()


def test_a_driver_that_answers_is_closed_again(hardware: SimNode) -> None:
    assert len(look(simulate(hardware).driver).gpus) == 8
    assert hardware.calls.counts["nvmlShutdown"] == 1


def test_a_gpu_that_hangs_is_named_and_the_others_are_shown(hardware: SimNode) -> None:
    hardware.calls.inject("nvmlDeviceGetMigMode", Hang(), target=hardware.gpu(5).uuid)
    found = look(simulate(hardware).driver, deadlines=SOON)
    assert [gpu.index for gpu in found.gpus] == [0, 1, 2, 3, 4, 6, 7]
    assert found.hung == {5}
    (warning,) = found.warnings()
    assert warning.startswith("GPU 5 does not answer: nvmlDeviceGetMigMode has not returned for ")
    assert hardware.calls.counts["nvmlShutdown"] == 0  # a thread is in there


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_a_call_without_which_nothing_can_be_asked_is_named(
    hardware: SimNode, function: str
) -> None:
    hardware.calls.inject(function, Hang())
    with pytest.raises(DriverUnavailable, match=rf"{function} has not returned for 0\.\d+ s"):
        look(simulate(hardware).driver, deadlines=SOON)


def test_no_command_waits_longer_than_its_limit(hardware: SimNode) -> None:
    hardware.calls.inject("nvmlDeviceGetName", Hang(), target=hardware.gpu(0).uuid)
    before = time.monotonic()
    with pytest.raises(
        DriverUnavailable, match=r"not answered for 0\.3 s; it is in nvmlDeviceGetName for GPU 0"
    ):
        look(simulate(hardware).driver, limit=0.3)
    assert time.monotonic() - before < 5


def test_what_loads_a_library_is_passed_on() -> None:
    def refuse() -> None:
        raise DriverUnavailable("cannot load it")

    with pytest.raises(DriverUnavailable, match="cannot load it"):
        load(refuse)
    assert load(lambda: "loaded") == "loaded"
