"""Whatever one answer of the driver is, no device changes what it is.

For every NVML function that the product calls, with every code that NVML can answer, once and
lasting, at the start and in the middle of a run: the product's own writer, probes and samples run
over the simulated library, in virtual time. After each fault is lifted, everything is as before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pynvml
import pytest

from plugin.core.advertise.listed import Listed
from plugin.core.health.ledger import is_cordoned
from plugin.core.health.timeline import Moment
from plugin.core.inventory.profiles import GPU_RESOURCE, resource_name
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import Snapshot
from plugin.driver.worker import DriverWorker
from plugin.loops.heartbeats import Heartbeats
from plugin.sim.hardware.calls import CallFault, Exaggerate, Fail, Garble
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.nvml.library import FUNCTIONS
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.probing import probe_regularly
from plugin.state.sampling import Sampler
from plugin.state.writer import Writer
from tests.unit.virtual_time import run

T = TypeVar("T")

#: Slices that differ in what is hard to read: media engines, compute instances that share, names
#: that arithmetic gets wrong; and a whole GPU, and one without MIG.
NODE = (
    "1xa100-40gb+1xgb200-186gb+1xh100-80gb+1xt4-16gb:0=1g.5gb+me,1c.3g.20gb*2;1=3g.95gb;2=off;3=off"
)
#: Slices with equal attributes, for what is done with each of many calls.
SMALL = "1xa100-40gb+1xrtx-pro-6000-96gb:0=1g.5gb+me,1c.3g.20gb*2;1=1g.24gb,1g.24gb+gfx"
SETTINGS = Settings(
    mig_strategy=MigStrategy.MIXED,
    quiet_seconds=5.0,
    probe_seconds=15.0,
    sample_seconds=20.0,
    fail_on_init_error=False,
)
#: In this time there is the scan that is asked for, and one more.
SHORT = 1.0
#: In this time there is a probe and a round of samples too.
SAMPLED = 21.0
#: Longer than any schedule: rescans, probes, questions that are not asked again for a while.
LONG = 100.0
#: As long as a device may take to come back that was lost again and again.
LONGEST = 4000.0

#: Every code but success.
CODES = sorted(
    {
        value
        for name, value in vars(pynvml).items()
        if name.startswith("NVML_ERROR_") and isinstance(value, int) and value
    }
)
#: One that may say that something is not there, and one that says nothing.
TELLING = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN)

#: Tried with real threads in test_watching.
OF_EVENTS = frozenset(
    {
        "nvmlEventSetCreate",
        "nvmlEventSetFree",
        "nvmlEventSetWait_v2",
        "nvmlDeviceGetSupportedEventTypes",
        "nvmlDeviceRegisterEvents",
    }
)
#: The driver is asked for these when it is opened, at the end, or when something is missing.
STARTING = ("nvmlInitWithFlags",)
CALLED = (
    "nvmlDeviceGetAttributes_v2",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetComputeInstanceId",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetGpuInstanceById",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
    "nvmlDeviceGetGpuInstanceProfileInfo",
    "nvmlDeviceGetGpuInstanceProfileInfoV",
    "nvmlDeviceGetGpuInstances",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetHandleByUUID",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMemoryErrorCounter",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMinorNumber",
    "nvmlDeviceGetName",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetRetiredPagesPendingStatus",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetUtilizationRates",
    "nvmlGpmMetricsGet",
    "nvmlGpmMigSampleGet",
    "nvmlGpmQueryDeviceSupport",
    "nvmlGpmSampleAlloc",
    "nvmlGpmSampleFree",
    "nvmlGpmSampleGet",
    "nvmlGpuInstanceGetInfo",
    "nvmlSystemGetCudaDriverVersion_v2",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetNVMLVersion",
)
#: Those that a scan makes, each of which may be the one that fails.
SCANNING = tuple(
    name
    for name in CALLED
    if name.startswith(("nvmlDeviceGet", "nvmlGpuInstance"))
    and name
    not in {
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetMemoryErrorCounter",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetRemappedRows",
        "nvmlDeviceGetRetiredPagesPendingStatus",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetUtilizationRates",
    }
)


class Inline(DriverWorker):
    """Calls the driver at once: in virtual time there is no thread to wait for."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)


def truth(node: SimNode) -> dict[str, str]:
    """The resource of every device that can be handed out."""
    found = {}
    for gpu in node.gpus:
        if not gpu.mig:
            found[gpu.uuid] = GPU_RESOURCE
        for slot in gpu.devices():
            name = slot.gi.profile.device_name(slot.ci.slices)
            found[slot.ci.uuid] = resource_name(name)
    return found


@dataclass
class Watched:
    """A running writer, and all that it has ever published."""

    node: SimNode
    writer: Writer
    ledger: LedgerFile
    cordoned: str
    seen: list[Snapshot] = field(default_factory=list)

    async def follow(self) -> None:
        async for snapshot in self.writer.store.follow():
            if snapshot.generation:
                self.seen.append(snapshot)

    def check(self, what: str, *, running: bool) -> None:
        """What holds at any time: no device under another resource, no cordon lost; and of a node
        that was read once, none left out.
        """
        true = truth(self.node)
        for snapshot in self.seen:
            listed = by_id(snapshot)
            wrong = {uuid: item[0] for uuid, item in listed.items() if item[0] != true.get(uuid)}
            assert not wrong, f"{what}: in generation {snapshot.generation}"
            assert is_cordoned(snapshot.ledger, self.cordoned), what
            assert self.cordoned not in listed or not listed[self.cordoned][1].healthy, what
            if running:
                assert listed.keys() == true.keys(), what
        del self.seen[:-1]

    def healthy(self) -> bool:
        """Whether all is as it is when nothing is broken."""
        snapshot = self.writer.store.snapshot
        listed = by_id(snapshot)
        down = {uuid for uuid, (_, item) in listed.items() if not item.healthy}
        return (
            {uuid: resource for uuid, (resource, _) in listed.items()} == truth(self.node)
            and down == {self.cordoned}
            and not snapshot.inventory.warnings()
        )

    async def heals(self, what: str) -> None:
        """Whatever the driver does well again is well here again."""
        self.node.calls.restore()
        self.writer.rescan()
        waited, step = 0.0, 1.0
        while waited < LONGEST:
            await asyncio.sleep(step)
            if self.healthy():
                break
            waited, step = waited + step, LONG / 3
        assert self.healthy(), f"{what}: {self.writer.store.snapshot.inventory.warnings()}"


def by_id(snapshot: Snapshot) -> Mapping[str, tuple[str, Listed]]:
    return {
        item.id: (resource, item)
        for resource, listed in snapshot.advertisement.resources.items()
        for item in listed
    }


@asynccontextmanager
async def running(node: SimNode, folder: Path, cordoned: str) -> AsyncIterator[Watched]:
    """The daemon's loops, but for events, over a node whose ledger has a cordon."""
    driver, worker = simulate(node).driver, Inline()
    ledger = LedgerFile(folder / "ledger.json")
    loop = asyncio.get_running_loop()
    writer = Writer(
        driver, worker, SETTINGS, ledger, clocks=lambda: Moment(loop.time(), loop.time())
    )
    heartbeats = Heartbeats(loop.time)
    watched = Watched(node, writer, ledger, cordoned)
    tasks = [asyncio.create_task(watched.follow())]
    await writer.start()
    await asyncio.sleep(0)
    tasks += [
        asyncio.create_task(writer.run(heartbeats)),
        asyncio.create_task(probe_regularly(writer, driver, worker, heartbeats)),
        asyncio.create_task(Sampler(writer, driver, worker, heartbeats).run()),
    ]
    try:
        yield watched
        assert [task.exception() for task in tasks if task.done()] == []
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            driver.close()


def time_for(function: str) -> float:
    """How long it takes until a running daemon has called a function."""
    return SHORT if function in SCANNING else SAMPLED


def cordoned_node(folder: Path, text: str = NODE) -> tuple[SimNode, str]:
    """The node and the device on it that the ledger in `folder` has cordoned."""
    node = parse_node(text)
    slot = next(iter(node.gpu(0).devices()))

    async def cordon() -> None:
        async with running(node, folder, slot.ci.uuid) as watched:
            watched.writer.cordon(slot.ci.uuid)
            watched.seen.clear()
            watched.ledger.flush()

    run(cordon())
    node.calls.counts.clear()
    return node, slot.ci.uuid


FAULTS: list[CallFault] = [
    *(Fail(code) for code in CODES),
    Garble(),
    Exaggerate(),
    Exaggerate(2**31 - 3),
    Exaggerate(300),
]


#: How often a fault meets, and which slice of the first GPU.
WHOLE: tuple[tuple[int | None, int | None], ...] = ((1, None), (None, None))
PARTS: tuple[tuple[int | None, int | None], ...] = ((1, 0), (None, 2))
#: Faults that are tried on single slices too.
SELECTIVE = (
    *map(Fail, (2, 3, 4, 6, 13, 15, 999)),
    Garble(),
    Exaggerate(),
)


@pytest.mark.parametrize("function", CALLED)
def test_in_the_middle_of_a_run(function: str, tmp_path: Path) -> None:
    node, cordoned = cordoned_node(tmp_path)
    slots = [slot.ci.uuid for slot in node.gpu(0).devices()]

    async def main() -> None:
        async with running(node, tmp_path, cordoned) as watched:
            await watched.heals("before any fault")
            for fault in FAULTS:
                for times, target in (*WHOLE, *(PARTS if fault in SELECTIVE else ())):
                    slot = slots[target] if target is not None else None
                    node.calls.inject(function, fault, times=times, target=slot)
                    what = f"{function}: {fault}, {times or 'lasting'}, {target}"
                    watched.writer.rescan()
                    await asyncio.sleep(time_for(function))
                    watched.check(what, running=True)
                    await watched.heals(what)
                    watched.check(what, running=True)

    run(main())


@pytest.mark.parametrize("function", [*STARTING, *CALLED])
def test_at_the_start(function: str, tmp_path: Path) -> None:
    node, cordoned = cordoned_node(tmp_path)

    async def main() -> None:
        for fault in FAULTS:
            for times in (1, None):
                node.calls.inject(function, fault, times=times)
                what = f"{function}: {fault}, {times or 'lasting'}"
                async with running(node, tmp_path, cordoned) as watched:
                    watched.check(what, running=False)
                    await asyncio.sleep(time_for(function))
                    watched.check(what, running=False)
                    await watched.heals(what)
                    watched.check(what, running=False)

    run(main())


@pytest.mark.parametrize("function", SCANNING)
def test_each_single_call_of_the_first_scan(function: str, tmp_path: Path) -> None:
    node, cordoned = cordoned_node(tmp_path, SMALL)

    async def main() -> None:
        calls, number = 1, 0
        while number < calls:
            for code in TELLING:
                node.calls.counts.clear()
                node.calls.inject(function, Fail(code), times=1, after=number)
                async with running(node, tmp_path, cordoned) as watched:
                    calls = node.calls.counts[function]
                    what = f"call {number} of {function}: {code}"
                    watched.check(what, running=False)
                    await watched.heals(what)
                    watched.check(what, running=False)
            number += 1

    run(main())


def test_no_function_that_the_product_calls_is_left_out(tmp_path: Path) -> None:
    node, cordoned = cordoned_node(tmp_path)

    async def main() -> None:
        async with running(node, tmp_path, cordoned):
            # What is asked only when something else has failed.
            node.calls.inject("nvmlDeviceGetGpuInstances", Fail(4))
            node.calls.inject("nvmlDeviceGetMemoryInfo_v2", Fail(13))
            await asyncio.sleep(LONG)
        driver = simulate(node).driver
        driver.open()
        source = driver.watch([gpu.uuid for gpu in node.gpus])
        source.wait(0)
        driver.close()

    run(main())
    called = {name for name, count in node.calls.counts.items() if count} - {"nvmlShutdown"}
    assert called == {*STARTING, *CALLED, *OF_EVENTS}
    assert called <= FUNCTIONS
