"""A driver that hangs blocks nothing but itself."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from plugin.control.client import ask
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import SECONDS, StartDaemon, becomes, sockets

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:all-1g.5gb"

pytestmark = pytest.mark.asyncio


async def test_kubelet_is_served_and_sigterm_obeyed(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    daemon = await start_daemon(NODE, "--probe-interval=0.1")
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    await daemon.logged("watching events")
    await asyncio.to_thread(ask, str(node_dir / "control/control.sock"), "sim", "hang")
    pod = await kubelet.admit(Pod("during", containers={"main": {ONE_SLICE: 1}}))
    assert pod.phase == "Running"
    await kubelet.restart()
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    assert await daemon.stop(signal.SIGTERM) == 0
    assert sockets(kubelet) == []


async def test_a_file_that_changes_while_we_stop_does_not_hold_us(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    """An event in kubelet's directory in the very moment of SIGTERM."""
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    for number in range(200):
        (kubelet.directory / f"file-{number}").touch()
        if number == 100:
            daemon.process.send_signal(signal.SIGTERM)
    await becomes(lambda: daemon.process.returncode is not None)
    assert await daemon.stop() == 0
