"""From another plugin to this one and back, with pods running: as docs/migration.md has it."""

from __future__ import annotations

import pytest

from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import StartDaemon
from .fake_plugin import FakePlugin
from .waiting import SECONDS

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:0=1g.5gb*7"


async def other_plugin(kubelet: SimKubelet, ids: list[str], socket: str) -> FakePlugin:
    """Serves the resource with the same ids."""
    plugin = FakePlugin(kubelet.directory, ONE_SLICE, socket=socket)
    plugin.devices = dict.fromkeys(ids, "Healthy")
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_allocatable(ONE_SLICE, len(ids), SECONDS)
    return plugin


@pytest.mark.asyncio
async def test_running_pods_keep_their_devices_and_nobody_else_gets_them(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 7, SECONDS)
    ids = sorted(kubelet.devices(ONE_SLICE))
    assert await daemon.stop() == 0
    held: dict[str, str] = {}

    async def two_more(name: str) -> None:
        """Two more pods than before, whose devices are none of those that were held."""
        running, _ = await kubelet.deploy(name, ONE_SLICE, 2)
        assert running == 2
        now = kubelet.holders(ONE_SLICE)
        assert now.items() >= held.items(), "those of before hold the same"
        assert len(now) == len(held) + 2
        held.update(now)

    old = await other_plugin(kubelet, ids, "nvidia-mig-1g.5gb.sock")
    await two_more("before")
    await old.die()
    await kubelet.wait_allocatable(ONE_SLICE, 0, SECONDS)
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 7, SECONDS)
    await two_more("with-ours")
    assert await daemon.stop() == 0
    await kubelet.wait_allocatable(ONE_SLICE, 0, SECONDS)
    old = await other_plugin(kubelet, ids, "nvidia-mig-1g.5gb-back.sock")
    await two_more("after")
    # One device is left.
    assert (
        await kubelet.admit(Pod("last", containers={"main": {ONE_SLICE: 1}}))
    ).phase == "Running"
    assert set(kubelet.holders(ONE_SLICE)) == set(ids)
    await old.die()
