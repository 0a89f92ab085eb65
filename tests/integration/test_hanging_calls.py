"""Each call of the driver's library that is about a GPU hangs for one GPU of eight, at the start
and in the middle of a run: the other seven stay, and so does the daemon.

The functions are those that the driver calls on such a node, as the simulated library counts them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugin.assembly import Daemon, assemble
from plugin.core.grammars import Address
from plugin.core.reasons import Code
from plugin.core.settings import MigStrategy, Settings
from plugin.core.status import status
from plugin.core.view import View
from plugin.driver.worker import Deadlines
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from plugin.web.health import health, readiness

from .waiting import SECONDS, becomes

SLICED, WHOLE = "p5.48xlarge:all-1g.10gb", "p5.48xlarge"
RESOURCES = {SLICED: ("nvidia.com/mig-1g.10gb", 7), WHOLE: ("nvidia.com/gpu", 1)}
DEADLINES = Deadlines(gpu=0.3, driver=0.6)
QUICK = Settings(
    mig_strategy=MigStrategy.MIXED,
    probe_seconds=0.05,
    sample_seconds=0.05,
    rescan_seconds=0.2,
    http_address=Address("127.0.0.1", 0),
    control_socket="",
    pod_resources_socket="",
)
#: Functions about no single GPU.
GLOBAL = frozenset(
    {
        "nvmlDeviceGetCount_v2",
        "nvmlEventSetCreate",
        "nvmlEventSetFree",
        "nvmlEventSetWait_v2",
        "nvmlGpmMetricsGet",
        "nvmlGpmSampleAlloc",
        "nvmlGpmSampleFree",
        "nvmlInitWithFlags",
        "nvmlShutdown",
        "nvmlSystemGetCudaDriverVersion_v2",
        "nvmlSystemGetDriverVersion",
        "nvmlSystemGetNVMLVersion",
    }
)


def called(spec: str) -> tuple[frozenset[str], frozenset[str]]:
    """Functions that the driver calls in everything it does, and those that it calls again and
    again.
    """
    node = parse_node(spec)
    driver = simulate(node).driver
    driver.open()
    gpus = [gpu.uuid for gpu in driver.scan().gpus]
    source = driver.watch(gpus)
    source.wait(0)

    def ask() -> None:
        for uuid in gpus:
            driver.probe(uuid, thorough=True)
        for _ in range(12):
            driver.sample()

    ask()
    first = frozenset(node.calls.counts)
    node.calls.counts.clear()
    driver.scan()
    ask()
    again = frozenset(node.calls.counts)
    source.close()
    driver.close()
    return first, again


def cases(sliced: frozenset[str], whole: frozenset[str]) -> list[tuple[str, str, int]]:
    """Node, function, and the GPU for which it hangs; whole GPUs where MIG devices have none."""
    found = [(SLICED, name) for name in sorted(sliced - GLOBAL)]
    found += [(WHOLE, name) for name in sorted(whole - sliced - GLOBAL)]
    return [(spec, name, number % 8) for number, (spec, name) in enumerate(found)]


(_SLICED_FIRST, _SLICED_AGAIN), (_WHOLE_FIRST, _WHOLE_AGAIN) = called(SLICED), called(WHOLE)
AT_START = cases(_SLICED_FIRST, _WHOLE_FIRST)
LATER = cases(_SLICED_AGAIN, _WHOLE_AGAIN)


@dataclass
class Run:
    node: SimNode
    daemon: Daemon
    view: Callable[[], View]

    def offered(self, gpu: int | None = None) -> tuple[int, int]:
        """How many devices are listed, and how many of them healthy, on all GPUs or all but one."""
        listed = [
            item
            for items in self.daemon.writer.store.snapshot.advertisement.resources.values()
            for item in items
            if item.device.gpu_index != gpu
        ]
        return len(listed), sum(item.healthy for item in listed)

    def down(self, gpu: int) -> set[str]:
        """Codes of the reasons against the devices of a GPU."""
        snapshot = self.daemon.writer.store.snapshot
        found = [d for d in snapshot.inventory.devices() if d.gpu_index == gpu and not d.parts]
        stands = [status(device, snapshot) for device in found]
        return {reason.code for stand in stands if stand for reason in stand.reasons}


async def look(daemon: Daemon, looked: Callable[[str], None]) -> None:
    """Scrape and have all of the node read, again and again: only so is every call made."""
    while True:
        looked("/metrics")
        daemon.writer.rescan()
        await asyncio.sleep(QUICK.rescan_seconds)


@asynccontextmanager
async def running(
    folder: Path, spec: str, prepare: Callable[[SimNode], None] = lambda _: None
) -> AsyncIterator[Run]:
    """The daemon but for its kubelet; ended as by SIGTERM, which must not take long."""
    node = parse_node(spec)
    prepare(node)
    daemon = assemble(QUICK, simulate(node).driver, folder / "ledger.json", deadlines=DEADLINES)
    edges = daemon.edges()
    tasks = [asyncio.create_task(daemon.start())]
    try:
        # As the daemon does: these loops wait for the first scan.
        await tasks[0]
        parts = [edges.loops[name] for name in ("node", "events", "probes", "samples", "ledger")]
        tasks += [asyncio.create_task(part()) for part in parts]
        tasks.append(asyncio.create_task(look(daemon, edges.overview.looked)))
        yield Run(node, daemon, edges.overview)
        assert [task.exception() for task in tasks if task.done()] == [None]
    finally:
        before = time.monotonic()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended = time.monotonic() - before
        node.calls.restore()
    assert ended < 1


@contextmanager
def hanging(node: SimNode, function: str, gpu: int) -> Iterator[None]:
    node.calls.inject(function, Hang(), target=node.gpu(gpu).uuid)
    try:
        yield
    finally:
        node.calls.restore()


def notes(run: Run) -> list[str]:
    """What /readyz tells of GPUs."""
    return [note for note in readiness(run.view()).notes if "GPU" in note]


async def seven_stay_and_one_comes_back(run: Run, spec: str, function: str, gpu: int) -> None:
    hangs = run.daemon.driver.hangs
    each = RESOURCES[spec][1]
    await becomes(
        lambda: function in {hung.call.function for hung in hangs.open},
        lambda: f"{function} never hung",
    )
    # A busy machine can make another call look as if it hung, for a moment.
    expected = f"GPU {gpu} does not answer: {function} has not returned for 0."
    await becomes(
        lambda: (
            run.offered(gpu) == (7 * each, 7 * each)
            and [note.startswith(expected) for note in notes(run)] == [True]
        ),
        lambda: (run.offered(gpu), notes(run)),
    )
    assert run.offered()[1] == 7 * each
    assert run.down(gpu) in ({Code.NOT_ANSWERING}, set())
    assert health(run.view()).good
    # What is asked of the others goes on.
    before = run.node.calls.counts["nvmlDeviceGetFieldValues"]
    await becomes(
        lambda: run.node.calls.counts["nvmlDeviceGetFieldValues"] > before + 14,
        lambda: "no probes",
    )
    run.node.calls.restore()
    await becomes(
        lambda: run.offered() == (8 * each, 8 * each) and not run.down(gpu),
        lambda: (run.offered(), run.down(gpu), hangs.open),
    )
    assert hangs.open == ()
    async with asyncio.timeout(SECONDS):
        await run.daemon.writer.watched()


@pytest.mark.asyncio
@pytest.mark.parametrize(("spec", "function", "gpu"), AT_START)
async def test_from_the_start(tmp_path: Path, spec: str, function: str, gpu: int) -> None:
    def hang(node: SimNode) -> None:
        node.calls.inject(function, Hang(), target=node.gpu(gpu).uuid)

    async with running(tmp_path, spec, hang) as run:
        await seven_stay_and_one_comes_back(run, spec, function, gpu)


@pytest.mark.asyncio
@pytest.mark.parametrize(("spec", "function", "gpu"), LATER)
async def test_in_the_middle(tmp_path: Path, spec: str, function: str, gpu: int) -> None:
    async with running(tmp_path, spec) as run:
        async with asyncio.timeout(SECONDS):
            await run.daemon.writer.watched()
        each = RESOURCES[spec][1]
        assert run.offered() == (8 * each, 8 * each)
        with hanging(run.node, function, gpu):
            await seven_stay_and_one_comes_back(run, spec, function, gpu)


@pytest.mark.asyncio
@pytest.mark.parametrize("function", sorted(_SLICED_AGAIN & GLOBAL))
async def test_a_call_about_no_gpu(tmp_path: Path, function: str) -> None:
    """The daemon lives, says what hangs, and all is as before once the call returns."""
    async with running(tmp_path, SLICED) as run:
        async with asyncio.timeout(SECONDS):
            await run.daemon.writer.watched()
        run.node.calls.inject(function, Hang())
        hangs = run.daemon.driver.hangs
        await becomes(
            lambda: function in {hung.call.function for hung in hangs.open},
            lambda: f"{function} never hung",
        )
        if function == "nvmlDeviceGetCount_v2":
            await becomes(lambda: run.offered()[1] == 0, run.offered)
            (text,) = [note for note in readiness(run.view()).notes if function in note]
            assert "the NVIDIA driver does not answer" in text
        assert health(run.view()).good
        run.node.calls.restore()
        await becomes(lambda: not hangs.open and run.offered() == (56, 56), run.offered)
        async with asyncio.timeout(SECONDS):
            await run.daemon.writer.watched()
