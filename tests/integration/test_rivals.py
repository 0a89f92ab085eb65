"""Other plugins for our resources: what probes and metrics say while they are there and after."""

from __future__ import annotations

import asyncio
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from plugin.kubelet.podresources.pods import SCHEDULE_SECONDS
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from . import plugins
from .conftest import Daemon, StartDaemon
from .waiting import SECONDS, eventually

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:all-1g.5gb"
WEB = {"HTTP_ADDRESS": "127.0.0.1:0"}

pytestmark = pytest.mark.asyncio


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 — our own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def get(daemon: Daemon, path: str) -> tuple[int, str]:
    await daemon.logged("serving HTTP")
    port = re.findall(r"serving HTTP .*port=(\d+)", daemon.log)[-1]
    return await asyncio.to_thread(_get, f"http://127.0.0.1:{port}{path}")


async def ready(daemon: Daemon, *, otherwise: str = "", seconds: float = SECONDS) -> None:
    """Wait until /readyz answers 200, or with a reason that has these words."""

    async def answered() -> bool:
        status, body = await get(daemon, "/readyz")
        return status == (503 if otherwise else 200) and otherwise in body

    await eventually(answered, otherwise or "ready", seconds=seconds)


@pytest.mark.parametrize("killed", [True, False])
async def test_not_ready_from_a_departure_until_pods_can_start_again(
    kubelet: SimKubelet, start_daemon: StartDaemon, *, killed: bool
) -> None:
    daemon = await start_daemon(NODE, **WEB)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    await ready(daemon)
    ids = list(kubelet.devices(ONE_SLICE))
    rival = await plugins.start(kubelet.directory, "plugin.sock", ONE_SLICE, *ids)
    try:
        await kubelet.wait_for(lambda: kubelet.live_streams(ONE_SLICE) == 2, SECONDS)
        rival.send_signal(signal.SIGKILL)
        await rival.wait()
        pod = await kubelet.admit(Pod("meanwhile", containers={"main": {ONE_SLICE: 1}}))
        assert pod.phase != "Running"
        if not killed:
            (kubelet.directory / "plugin.sock").unlink()
        await ready(daemon, otherwise="gone with its socket plugin.sock")
        await ready(daemon)
        assert len(kubelet.registrations) == 3
        pod = await kubelet.admit(Pod("after", containers={"main": {ONE_SLICE: 1}}))
        assert (pod.phase, pod.reason) == ("Running", "")
    finally:
        if rival.returncode is None:
            rival.kill()
    kubelet.violations.clear()  # two streams at once were the point


@pytest.mark.timeout(120)
async def test_a_rival_of_which_only_kubelet_knows(
    node_dir: Path, start_daemon: StartDaemon
) -> None:
    """The name of its socket says nothing; kubelet counts its devices."""
    plugins_dir, pods_dir = node_dir / "plugins", node_dir / "pods"
    async with SimKubelet(plugins_dir, pod_resources_dir=pods_dir, readmission_s=None) as kubelet:
        daemon = await start_daemon(
            NODE, **WEB, POD_RESOURCES_SOCKET=str(pods_dir / "kubelet.sock")
        )
        await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
        rival = await plugins.start(plugins_dir, "plugin.sock", ONE_SLICE, "MIG-x")
        try:
            await kubelet.wait_allocatable(ONE_SLICE, 1, SECONDS)
            await ready(daemon)
            words = "another device plugin serves it too, on one of plugin.sock"
            await ready(daemon, otherwise=words, seconds=3 * SCHEDULE_SECONDS)
            _, metrics = await get(daemon, "/metrics")
            assert f'mig_device_plugin_rival{{resource="{ONE_SLICE}"}} 1.0' in metrics
            await daemon.logged("another device plugin serves this resource")
        finally:
            rival.kill()
            await rival.wait()
        await ready(daemon)
        assert kubelet.node_status() == {ONE_SLICE: (56, 56)}


async def test_a_second_daemon_that_is_killed(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    daemon = await start_daemon(NODE, **WEB)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    second = await start_daemon(
        NODE, CONTROL_SOCKET="", LEDGER_FILE=str(node_dir / "second" / "ledger.json")
    )
    await kubelet.wait_for(lambda: kubelet.live_streams(ONE_SLICE) == 2, SECONDS)
    (name,) = {entry.endpoint for entry in kubelet.registrations[1:]}
    assert await second.stop(signal.SIGKILL) == -signal.SIGKILL
    await ready(daemon, otherwise=f"gone with its socket {name}")
    await ready(daemon)
    pod = await kubelet.admit(Pod("after", containers={"main": {ONE_SLICE: 1}}))
    assert (pod.phase, pod.reason) == ("Running", "")
    kubelet.violations.clear()
