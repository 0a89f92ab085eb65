"""What a process still holds of the driver."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from plugin.driver.files import DeviceFiles, DiskFiles
from plugin.driver.nvml import NvmlDriver
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate

from .test_rounds import until


def test_device_nodes_that_are_open_or_mapped(tmp_path: Path) -> None:
    node = tmp_path / "dev" / "nvidia0"
    node.parent.mkdir()
    node.write_bytes(b"x" * mmap.PAGESIZE)
    other = tmp_path / "dev" / "zero"
    other.touch()
    disk = DiskFiles()
    assert str(node) not in disk.opened()
    with other.open("rb"), node.open("rb") as file:
        assert str(node) in disk.opened()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Its descriptor is closed; the mapping holds it.
    assert str(node) in disk.opened()
    assert str(other) not in disk.opened()
    mapped.close()
    assert str(node) not in DeviceFiles().opened()


def opened() -> tuple[SimNode, NvmlDriver]:
    node = parse_node("2xa100-40gb:all-1g.5gb")
    driver = simulate(node).driver
    driver.open()
    return node, driver


def test_an_open_driver_is_held_and_a_closed_one_is_not() -> None:
    node, driver = opened()
    driver.scan()
    driver.watch([gpu.uuid for gpu in node.gpus])
    assert driver.held() == ("this process has /dev/nvidia0, /dev/nvidia1, /dev/nvidiactl open",)
    driver.close()
    assert (driver.held(), node.sessions) == ((), 0)
    driver.close()
    assert (driver.held(), node.sessions) == ((), 0)


def test_a_second_initialisation_is_seen_that_nobody_shuts_down() -> None:
    node, driver = opened()
    node.sessions += 1  # as by another library in this process
    driver.close()
    assert "open" in driver.held()[0]


def test_a_driver_that_is_not_loaded_is_not_held() -> None:
    node, driver = opened()
    node.faults.set_available(available=False)
    driver.close()
    assert driver.held() == ()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("function", "job"),
    [("nvmlShutdown", NvmlDriver.close), ("nvmlDeviceGetCount_v2", NvmlDriver.scan)],
)
async def test_a_call_that_hangs_is_held_until_it_returns(
    function: str, job: Callable[[NvmlDriver], object]
) -> None:
    node, driver = opened()
    worker = DriverWorker(driver.hangs, Deadlines(gpu=0.1, driver=0.1))
    worker.start()
    node.calls.inject(function, Hang())
    try:
        await worker.call(job, driver)
    except Exception as error:  # noqa: BLE001 — a scan cannot do without the count
        assert function in str(error)  # noqa: PT017
    await worker.call(driver.close)
    (held,) = await worker.call(driver.held)
    assert held.startswith(f"{function} has not returned for")
    assert node.sessions == 1
    node.calls.restore()
    await until(lambda: not driver.hangs.open)
    await worker.call(driver.close)
    assert (await worker.call(driver.held), node.sessions) == ((), 0)
    await worker.call(driver.open)
    assert len((await worker.call(driver.scan)).gpus) == 2
