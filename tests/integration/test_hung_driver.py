"""A driver that hangs blocks nothing but itself."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
from pathlib import Path

import pytest

from plugin.assembly import assemble
from plugin.control.client import ask
from plugin.core.grammars import Address
from plugin.core.settings import Settings
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from plugin.sim.simulation import simulate

from .conftest import StartDaemon, sockets
from .waiting import SECONDS, becomes, eventually

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


async def test_seven_gpus_stay_while_one_hangs(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    daemon = await start_daemon(NODE, "--probe-interval=0.1", "--rescan-interval=1")
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    control = str(node_dir / "control/control.sock")
    hang = ("sim", "hang", "nvmlDeviceGetFieldValues", "5")
    await asyncio.to_thread(ask, control, *hang)
    await kubelet.wait_allocatable(ONE_SLICE, 49, SECONDS)
    assert "GPU 5 does not answer: nvmlDeviceGetFieldValues has not returned for 10 s" in daemon.log
    pod = await kubelet.admit(Pod("during", containers={"main": {ONE_SLICE: 7}}))
    assert pod.phase == "Running"
    await asyncio.to_thread(ask, control, "sim", "unhang")
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    await asyncio.to_thread(ask, control, *hang)
    assert await daemon.stop(signal.SIGTERM) == 0


async def test_http_is_served_before_the_first_scan_ends(tmp_path: Path) -> None:
    hardware = parse_node(NODE)
    hardware.calls.inject("nvmlDeviceGetName", Hang(), target=hardware.gpu(0).uuid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(http_address=Address("127.0.0.1", port), control_socket="")
    daemon = assemble(settings, simulate(hardware).driver, tmp_path / "ledger.json")
    starting = asyncio.create_task(daemon.start())
    serving = asyncio.create_task(daemon.edges().loops["web"]())

    def ready() -> str:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().read().decode()

    async def answered() -> str:
        with contextlib.suppress(ConnectionRefusedError):
            return await asyncio.to_thread(ready)
        return ""

    try:
        # The deadline of a call is longer.
        assert "the node has not been looked at yet" in await eventually(answered, seconds=8)
        assert not starting.done()
    finally:
        hardware.calls.restore()
        for task in (starting, serving):
            task.cancel()
        await asyncio.gather(starting, serving, return_exceptions=True)
