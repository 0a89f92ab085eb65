"""A verb whose call hangs: a change takes effect once or never, and only its GPU is left alone
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from plugin.core.inventory.model import Placement
from plugin.driver.hangs import Hung
from plugin.driver.nvml import NvmlDriver
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.errors import GpuHangs, OutcomeUnknown
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.simulated import opened, truth

#: GPU 0 has a 1g.10gb and an empty 3g.40gb; GPU 1 has MIG off, GPU 2 has MIG on.
NODE = "3xh100-80gb:0=1g.10gb;1=off;2=on"
EMPTY = Placement(4, 4)
GI, EMPTY_GI = 7, 2

Verb = Callable[[NvmlDriver, SimNode], Callable[[], object]]

#: Function → the verb that hangs in it.
CHANGES: dict[str, Verb] = {
    "nvmlDeviceCreateGpuInstanceWithPlacement": lambda driver, node: partial(
        driver.create_gpu_instance, node.gpu(0).uuid, 19, Placement(1, 1)
    ),
    "nvmlGpuInstanceCreateComputeInstance": lambda driver, node: partial(
        driver.create_compute_instance, node.gpu(0).uuid, EMPTY_GI, 3
    ),
    "nvmlComputeInstanceDestroy": lambda driver, node: partial(
        driver.destroy_compute_instance, node.gpu(0).uuid, GI, 0
    ),
    "nvmlGpuInstanceDestroy": lambda driver, node: partial(
        driver.destroy_gpu_instance, node.gpu(0).uuid, EMPTY_GI
    ),
    "nvmlDeviceSetMigMode": lambda driver, node: partial(
        driver.set_mig_mode, node.gpu(1).uuid, on=True
    ),
}
READINGS: dict[str, Verb] = {
    "nvmlDeviceGetGpuInstancePossiblePlacements_v2": lambda driver, node: partial(
        driver.profiles, node.gpu(0).uuid
    ),
    "nvmlDeviceGetGpuInstanceRemainingCapacity": lambda driver, node: partial(
        driver.remaining, node.gpu(0).uuid, 19
    ),
    "nvmlDeviceGetGraphicsRunningProcesses_v3": lambda driver, node: partial(
        driver.processes, node.gpu(0).uuid
    ),
}


@dataclass
class Machine:
    node: SimNode
    driver: NvmlDriver
    worker: DriverWorker
    returned: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self, hung: Hung, *, returned: bool) -> None:
        del hung
        if returned:
            self.returned.set()

    async def lift(self) -> None:
        self.node.calls.restore()
        async with asyncio.timeout(10):
            await self.returned.wait()


@asynccontextmanager
async def machine() -> AsyncIterator[Machine]:
    node = parse_node(NODE)
    node.create_gi(0, "3g.40gb", EMPTY)
    with opened(node) as driver:
        worker = DriverWorker(driver.hangs, Deadlines(gpu=0.3, driver=0.3, change=0.3))
        worker.start()
        await worker.call(driver.scan)
        found = Machine(node, driver, worker)
        worker.listen(found.heard)
        try:
            yield found
        finally:
            node.calls.restore()
            async with asyncio.timeout(10):
                while driver.hangs.open:  # noqa: ASYNC110 — the thread empties it
                    await asyncio.sleep(0.005)


@pytest.mark.asyncio
@pytest.mark.parametrize("function", CHANGES)
async def test_a_change_that_hangs_is_made_once(function: str) -> None:
    async with machine() as found:
        driver, node, worker = found.driver, found.node, found.worker
        verb = CHANGES[function](driver, node)
        before = node.gpus
        node.calls.inject(function, Hang())
        with pytest.raises(OutcomeUnknown, match=f"{function} has not returned for") as unknown:
            await worker.change(verb)
        assert node.gpus == before
        gpu = node.gpu(1 if function == "nvmlDeviceSetMigMode" else 0).uuid
        # Left alone, with an error that says that nothing was done.
        for again in (worker.change(verb), worker.call(driver.processes, gpu)):
            with pytest.raises(GpuHangs, match=f"does not answer: {function} has not returned"):
                await again
        assert next(g for g in (await worker.call(driver.scan)).gpus if g.uuid == gpu).hung
        node.calls.restore(function)
        made = await worker.change(driver.create_gpu_instance, node.gpu(2).uuid, 9, Placement(0, 4))
        assert made.placement == Placement(0, 4)
        await found.lift()
        assert node.calls.counts[function] == (2 if "CreateGpu" in function else 1)
        assert node.gpus[:2] != before[:2]  # it took effect late
        assert (await worker.call(driver.scan)).gpus == truth(node)
        assert "and may yet take effect" in str(unknown.value)


@pytest.mark.asyncio
async def test_a_change_that_hangs_before_it_was_made_is_never_made() -> None:
    async with machine() as found:
        driver, node, worker = found.driver, found.node, found.worker
        before = node.gpus
        node.calls.inject("nvmlDeviceGetHandleByUUID", Hang())
        with pytest.raises(OutcomeUnknown):
            await worker.change(driver.destroy_gpu_instance, node.gpu(0).uuid, EMPTY_GI)
        await found.lift()
        assert node.gpus == before
        await worker.change(driver.destroy_gpu_instance, node.gpu(0).uuid, EMPTY_GI)
        assert (await worker.call(driver.scan)).gpus == truth(node)


@pytest.mark.asyncio
@pytest.mark.parametrize("function", READINGS)
async def test_a_reading_that_hangs_says_so(function: str) -> None:
    async with machine() as found:
        driver, node, worker = found.driver, found.node, found.worker
        verb = READINGS[function](driver, node)
        expected = await worker.call(verb)
        node.calls.inject(function, Hang())
        with pytest.raises(GpuHangs, match=f"GPU 0 does not answer: {function} has not returned"):
            await worker.call(verb)
        await found.lift()
        assert await worker.call(verb) == expected


@pytest.mark.asyncio
async def test_a_hung_gpu_is_known_by_its_mig_devices_too() -> None:
    async with machine() as found:
        driver, node, worker = found.driver, found.node, found.worker
        slot = next(node.gpu(0).devices())
        node.calls.inject("nvmlGpuInstanceDestroy", Hang())
        with pytest.raises(OutcomeUnknown):
            await worker.change(driver.destroy_gpu_instance, node.gpu(0).uuid, EMPTY_GI)
        with pytest.raises(GpuHangs):
            await worker.call(driver.processes, slot.ci.uuid)
        await found.lift()
        assert await worker.call(driver.processes, slot.ci.uuid) == ()
