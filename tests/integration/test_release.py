"""Letting go of the driver and coming back, over the daemon's own parts and as a process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plugin.core.release import Phase
from plugin.core.settings import MigStrategy, Settings
from plugin.sim.hardware.calls import Hang
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import StartDaemon
from .harness import ONE_SLICE, Live, live
from .test_control import Commands
from .waiting import SECONDS, becomes

NODE = "2xa100-40gb:all-1g.5gb"

pytestmark = pytest.mark.asyncio


@pytest.fixture
def commands(node_dir: Path) -> Commands:
    return Commands(node_dir)


def on_gpu(on: Live, index: int) -> set[str]:
    return {device.uuid for device in on.node.store.snapshot.inventory.gpus[index].mig_devices}


def gpu(on: Live, index: int) -> set[str]:
    return {on.node.store.snapshot.inventory.gpus[index].uuid}


async def runs(kubelet: SimKubelet, name: str) -> str:
    """The device of a new pod."""
    pod = await kubelet.admit(Pod(name, containers={"main": {ONE_SLICE: 1}}))
    assert pod.phase == "Running", pod.reason
    return pod.device_ids[0]


async def test_it_lets_go_serves_the_others_and_believes_what_it_finds(node_dir: Path) -> None:
    async with live(node_dir, NODE) as on:
        first, second = on_gpu(on, 0), on_gpu(on, 1)
        assert on.hardware.sessions == 1
        assert await on.node.release(gpu(on, 0), 3600.0) == ()
        assert on.hardware.sessions == 0
        await on.becomes(lambda: on.unhealthy() == first)
        assert on.healthy() == second
        calls = on.hardware.calls.counts.total()
        assert await runs(on.kubelet, "other") in second
        # Whoever wants to ask the driver waits for its end.
        on.node.rescan()
        on.node.reconfigure(on.node.store.snapshot.settings)
        await on.node.probe_now()
        assert on.hardware.calls.counts.total() == calls
        on.hardware.reset(0)
        assert await on.node.resume() is None
        await on.becomes(lambda: on.healthy() == second and not on.unhealthy())
        assert on.hardware.sessions == 1
        # It is watched again.
        async with asyncio.timeout(SECONDS):
            await on.node.watched()
        on.hardware.fault(1, 95)
        await on.becomes(lambda: on.unhealthy() == second)


async def test_it_comes_back_by_itself(node_dir: Path) -> None:
    async with live(node_dir, NODE) as on:
        every = on.healthy()
        assert await on.node.release(gpu(on, 0) | gpu(on, 1), 0.1) == ()
        await on.becomes(lambda: on.healthy() == every)
        assert on.hardware.sessions == 1
        assert on.node.store.snapshot.release is None


async def test_a_driver_that_hangs_is_not_called_released_until_it_is(node_dir: Path) -> None:
    settings = Settings(mig_strategy=MigStrategy.MIXED, probe_seconds=0.1)
    async with live(node_dir, NODE, settings) as on:
        first, (lost,) = on_gpu(on, 0), gpu(on, 1)
        on.hardware.calls.inject("nvmlDeviceGetFieldValues", Hang(), target=lost)
        assert await asyncio.to_thread(
            on.hardware.calls.wait_hanging, "nvmlDeviceGetFieldValues", SECONDS
        )
        (left,) = await on.node.release(gpu(on, 0), 3600.0, patience=0.5)
        assert "nvmlDeviceGetFieldValues has not returned for" in left
        release = on.node.store.snapshot.release
        assert release is not None
        assert release.phase is Phase.LEAVING
        assert on.hardware.sessions == 1
        assert first <= on.unhealthy()
        on.hardware.calls.restore()
        await becomes(lambda: on.hardware.sessions == 0)
        await becomes(
            lambda: getattr(on.node.store.snapshot.release, "phase", None) is Phase.RELEASED
        )


async def test_a_driver_that_is_away_can_be_released_and_is_not_tried(node_dir: Path) -> None:
    async with live(node_dir, NODE) as on:
        every = on.healthy()
        on.hardware.faults.set_available(available=False)
        on.node.rescan()
        await on.becomes(lambda: not on.healthy())
        assert await on.node.release(gpu(on, 0), 3600.0) == ()
        calls = on.hardware.calls.counts.total()
        on.node.rescan()
        await asyncio.sleep(0.1)  # what must not happen
        assert on.hardware.calls.counts.total() == calls
        on.hardware.faults.set_available(available=True)
        assert await on.node.resume() is None
        await on.becomes(lambda: on.healthy() == every)


async def test_an_operator_resets_a_gpu(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    assert "released for 60 s" in await commands.ok("release", "1", "--for=60")
    await kubelet.wait_allocatable(ONE_SLICE, 7, SECONDS)
    assert kubelet.capacity(ONE_SLICE) == 14
    await daemon.logged("the driver is released")
    assert (await commands.status())["released"]["phase"] == "released"
    assert "released for 90 s" in await commands.ok("release", "1", "--for=90s")
    doctor = await commands.run("doctor")
    assert "the driver is released until" in doctor.out
    await commands.ok("sim", "reset", "1")
    assert await commands.ok("resume") == "resumed: 2 GPUs with 7 MIG devices\n"
    await kubelet.wait_for(lambda: kubelet.capacity(ONE_SLICE) == 7, SECONDS)
    assert await commands.ok("resume") == "the driver was not released\n"
    for target in ("0:1", "7"):
        wrong = await commands.run("release", target)
        assert (wrong.status, wrong.out) == (1, "")
        assert f"'{target}' is no GPU of this node; choose all" in wrong.err
    assert (await commands.run("release", "--for=3601")).status == 2
    await commands.ok("release", "all")
    await kubelet.wait_allocatable(ONE_SLICE, 0, SECONDS)
    assert await daemon.stop() == 0
