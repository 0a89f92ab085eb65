"""Who holds a device while kubelet restarts: what ``drain`` says, the page and the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from plugin.commands.control import FREE, wait_until_free
from plugin.control.client import ask
from plugin.core.holders import from_json
from plugin.kubelet.podresources import checkpoint
from plugin.kubelet.podresources.observer import Observer
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import StartDaemon
from .prometheus import fetch, free_port
from .test_control import NODE, ONE_SLICE, Commands, held_by
from .waiting import SECONDS, becomes, eventually

pytestmark = pytest.mark.asyncio

#: After so long the stand-in lists all pods again.
RELISTED_SECONDS = 2.1
NAMES = ("one", "two", "three", "four")
OURS = Pod("plugin", containers={"main": {}})


@contextlib.asynccontextmanager
async def stand_in(node_dir: Path, *, lists_ended_pods: bool = False) -> AsyncIterator[SimKubelet]:
    async with SimKubelet(
        node_dir / "plugins",
        pod_resources_dir=node_dir / "pods",
        readmission_s=None,
        lists_ended_pods=lists_ended_pods,
        seed=1,
    ) as kubelet:
        yield kubelet
    assert kubelet.violations == []


@pytest_asyncio.fixture
async def kubelet(node_dir: Path) -> AsyncIterator[SimKubelet]:
    async with stand_in(node_dir) as running:
        yield running


@dataclass
class Page:
    """What the daemon shows of its one resource."""

    address: str

    async def state(self) -> dict[str, Any]:
        status, body = await fetch(f"{self.address}/api/v1/state")
        document: dict[str, Any] = json.loads(body) if status == 200 else {}
        return document

    async def held(self) -> int | None:
        resources = (await self.state())["resources"]
        count: int | None = resources[ONE_SLICE]["held"]
        return count

    async def metrics(self) -> tuple[bool, int]:
        """Whether holders are known, and how many there are."""
        _, body = await fetch(f"{self.address}/metrics")
        lines = body.splitlines()
        return (
            "mig_device_plugin_holders_known 1.0" in lines,
            sum(line.startswith("mig_device_plugin_device_allocated{") for line in lines),
        )


async def with_page(node_dir: Path, start_daemon: StartDaemon) -> Page:
    port = free_port()
    await start_daemon(
        NODE,
        HTTP_ADDRESS=f"127.0.0.1:{port}",
        POD_RESOURCES_SOCKET=str(node_dir / "pods" / "kubelet.sock"),
    )
    page = Page(f"http://127.0.0.1:{port}")
    await eventually(page.state)
    return page


async def start_drain(node_dir: Path, target: str, own_pod: str) -> asyncio.Task[int]:
    """As the command does it, in this process."""
    done = await asyncio.to_thread(
        ask, str(node_dir / "control" / "control.sock"), "cordon", target
    )
    observer = Observer(
        node_dir / "pods" / "kubelet.sock", Path(done["kubelet"]).parent / checkpoint.NAME, own_pod
    )
    known = from_json(done["holdings"], observer.clock())
    return asyncio.create_task(wait_until_free(done["devices"], observer, known, 0))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(5))
async def test_drain_with_a_kubelet_restart_in_the_middle(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path, seed: int
) -> None:
    """Ten drains, begun at random moments around the restart; for five seeds that makes fifty."""
    await start_daemon(NODE, ALLOCATION_POLICY="packed")
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    for name in NAMES:
        await held_by(kubelet, name)  # packed: all on the first GPU
    await kubelet.admit(OURS)
    moments = random.Random(seed)  # noqa: S311 — a test's choice
    restarted = asyncio.Event()

    async def begin(offset: float) -> asyncio.Task[int]:
        if offset >= 0:
            await restarted.wait()
        await asyncio.sleep(offset if offset >= 0 else 1 + offset)
        own_pod = moments.choice([OURS.name, ""])
        return await start_drain(node_dir, "0", own_pod)

    beginning = [
        asyncio.create_task(begin(moments.uniform(-1, RELISTED_SECONDS))) for _ in range(10)
    ]
    await asyncio.sleep(1)
    await kubelet.restart()
    restarted.set()
    await kubelet.wait_allocatable(ONE_SLICE, 7, SECONDS)
    drains = await asyncio.gather(*beginning)
    await asyncio.sleep(RELISTED_SECONDS + 1)
    assert [drain for drain in drains if drain.done()] == []
    for name in NAMES:
        await kubelet.delete(Pod(name))
    async with asyncio.timeout(SECONDS):
        assert set(await asyncio.gather(*drains)) == {FREE}


async def test_drain_says_that_kubelet_does_not_list_its_pods_yet(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    await start_daemon(NODE, ALLOCATION_POLICY="packed")
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await held_by(kubelet, "one")
    commands = Commands(node_dir)
    process = await commands.start(*commands.drain("0"))
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        assert b"is cordoned" in await process.stdout.readline()
        line = b"waiting for 1 container: default/one (main)\n"
        assert await process.stdout.readline() == line
        await kubelet.stop()
        assert (await process.stdout.readline()).startswith(
            b"waiting, pod resources not answering: "
        )
        await kubelet.start()
        # Between the two, gRPC may give several reasons for its silence.
        while (said := await process.stdout.readline()).startswith(b"waiting, pod resources"):
            pass
        assert said == (
            b"waiting for kubelet to list its pods again; last known: default/one (main)\n"
        )
        assert await process.stdout.readline() == line
        await kubelet.delete(Pod("one"))
        assert await process.stdout.readline() == b"drained: no pod holds it\n"
        assert await process.wait() == FREE


async def test_drain_says_that_a_pod_may_have_ended(
    start_daemon: StartDaemon, node_dir: Path
) -> None:
    async with stand_in(node_dir, lists_ended_pods=True) as old_kubelet:
        await start_daemon(NODE)
        await old_kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
        uuid = await held_by(old_kubelet, "over")
        old_kubelet.finish(Pod("over", containers={"main": {ONE_SLICE: 1}}))
        commands = Commands(node_dir)
        done = await commands.run(*commands.drain(uuid, "--timeout=11"))
    assert done.status != FREE
    assert "waiting for 1 container: default/over (main)\n" in done.out
    assert (
        "still waiting for 1 container: default/over (main); a kubelet before Kubernetes 1.32 "
        "also lists pods that have ended" in done.out
    )


async def test_page_and_metrics_keep_holders_over_a_kubelet_restart(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    page = await with_page(node_dir, start_daemon)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    for name in NAMES:
        await held_by(kubelet, name)
    assert await page.held() in {4, None}, "handed out, before kubelet lists it"

    async def all_listed() -> bool:
        return await page.metrics() == (True, 4)

    await eventually(all_listed)
    await kubelet.restart()
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await held_by(kubelet, "five")  # so that the daemon asks kubelet now, which lists only this one
    loop = asyncio.get_running_loop()
    until = loop.time() + RELISTED_SECONDS + 1
    while loop.time() < until:
        assert await page.held() == 5
        known, listed = await page.metrics()
        assert (known, listed) in {(True, 4), (True, 5)}
        await asyncio.sleep(0.1)


async def test_a_daemon_that_starts_with_kubelet_does_not_know_yet(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    first = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    for name in NAMES:
        await held_by(kubelet, name)
    assert await first.stop() == 0
    await kubelet.stop()
    # Another stand-in over the same checkpoint, which never lists the pods of the first.
    async with SimKubelet(
        node_dir / "plugins",
        pod_resources_dir=node_dir / "pods",
        readmission_s=None,
        seed=1,
    ) as forgetful:
        page = await with_page(node_dir, start_daemon)
        await forgetful.wait_allocatable(ONE_SLICE, 14, SECONDS)
        state = await page.state()
        assert state["allocationsKnown"] is False
        assert state["resources"][ONE_SLICE]["held"] is None
        assert "free" not in state["resources"][ONE_SLICE]["states"]
        assert (await page.metrics()) == (False, 0)


async def test_two_pods_with_one_device_are_a_problem(
    start_daemon: StartDaemon, node_dir: Path
) -> None:
    async with stand_in(node_dir) as kubelet:
        port = free_port()
        daemon = await start_daemon(
            "1xa100-40gb:0=7g.40gb",
            HTTP_ADDRESS=f"127.0.0.1:{port}",
            POD_RESOURCES_SOCKET=str(node_dir / "pods" / "kubelet.sock"),
        )
        page, whole = Page(f"http://127.0.0.1:{port}"), "nvidia.com/mig-7g.40gb"
        await kubelet.wait_allocatable(whole, 1, SECONDS)
        await kubelet.admit(Pod("one", containers={"main": {whole: 1}}))
        await becomes(lambda: "allocated" in daemon.log)
        manager = kubelet._running_manager()  # noqa: SLF001 — no kubelet does this on purpose
        await kubelet.admit(OURS)
        held = next(iter(manager.assignments.values()))
        manager.assignments["default/plugin", "main", whole] = type(held)(
            "default/plugin", "main", whole, dict(held.ids), held.response
        )
        await daemon.logged("device held by several pods")
        await eventually(page.state)
        problems = (await page.state())["problems"]
    (uuid,) = held.ids
    assert [text for text in problems if text.startswith(f"{uuid} is held by 2 pods")]
    assert "default/one, default/plugin" in daemon.log
