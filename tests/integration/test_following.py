"""A configuration that changes under load: no allocation fails and no stream breaks."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from plugin.control.client import ask
from plugin.sim.kubelet.kubelet import SimKubelet

from .conftest import StartDaemon
from .load import NODE, NOT_TAKEN, ONE_SLICE, READ, ConfigMap, config, counted, loaded
from .waiting import SECONDS, becomes

pytestmark = pytest.mark.asyncio


async def test_a_config_map_is_edited_badly_and_well_under_load(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    volume = ConfigMap(node_dir / "config")
    volume.put(**{"config.yaml": config("packed")})
    daemon = await start_daemon(NODE, CONFIG_FILE=str(volume.folder / "config.yaml"))
    async with loaded(kubelet) as load:
        for round_ in range(3):
            volume.put(**{"config.yaml": "flags: [not, a, mapping"})
            await counted(daemon, NOT_TAKEN, 3 * round_ + 1)
            await load.more()
            volume.put(**{"config.yaml": config("distributed")})
            await counted(daemon, READ, 2 * round_ + 1)
            await load.more()
            volume.put(**{"config.yaml": config("sideways")})
            await counted(daemon, NOT_TAKEN, 3 * round_ + 2)
            volume.put()  # the key is gone
            await counted(daemon, NOT_TAKEN, 3 * round_ + 3)
            await load.more()
            volume.put(**{"config.yaml": config("packed")})
            await counted(daemon, READ, 2 * round_ + 2)
            await load.more()
    assert await daemon.stop() == 0


async def test_the_volume_disappears_and_comes_back_under_load(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    volume = ConfigMap(node_dir / "config")
    volume.put(a=config("packed"), b=config("distributed"))
    daemon = await start_daemon(NODE, CONFIG_DIR=str(volume.folder), CONFIG_DEFAULT="b")
    async with loaded(kubelet) as load:
        volume.folder.rename(node_dir / "away")
        await counted(daemon, NOT_TAKEN, 1)
        await load.more()
        (node_dir / "away").rename(volume.folder)
        await counted(daemon, READ, 1)
        volume.put(a=config("packed"))
        await daemon.logged("has no configuration 'b', which --config-default names; the choices")
        await load.more()
    assert await daemon.stop() == 0


async def test_a_restart_with_a_bad_file_serves_the_last_good_configuration(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    """An edit that a running daemon refuses must not cost the node's devices at a reboot."""
    volume = ConfigMap(node_dir / "config")
    volume.put(**{"config.yaml": "version: v2"})
    where = str(volume.folder / "config.yaml")
    daemon = await start_daemon(NODE, CONFIG_FILE=where)
    async with asyncio.timeout(SECONDS):
        assert await daemon.process.wait() == 2
    assert daemon.log.startswith(f"mig-device-plugin: config file {where}: version: 'v2' is not")
    volume.put(**{"config.yaml": "version: v1\nresources: {migs: [{pattern: '*', name: slice}]}"})
    daemon = await start_daemon(NODE, CONFIG_FILE=where)
    await kubelet.wait_allocatable("nvidia.com/slice", 56, SECONDS)
    await becomes((node_dir / "configuration.json").exists, lambda: daemon.log)
    volume.put(**{"config.yaml": "version: v2"})
    await counted(daemon, NOT_TAKEN, 1)
    daemon.process.kill()
    await daemon.process.wait()
    daemon = await start_daemon(NODE, CONFIG_FILE=where)
    await kubelet.wait_for(lambda: len(kubelet.registrations) == 2, SECONDS)
    await kubelet.wait_allocatable("nvidia.com/slice", 56, SECONDS)
    assert daemon.log.count("configuration not taken, the last good one is used") == 1
    socket = str(node_dir / "control" / "control.sock")
    status = await asyncio.to_thread(ask, socket, "status")
    assert "version: 'v2' is not valid" in status["configuration"]["problem"]
    volume.put(**{"config.yaml": "version: v1"})
    await kubelet.wait_for(lambda: kubelet.node_status().get(ONE_SLICE) == (56, 56), SECONDS)
    assert daemon.log.count(NOT_TAKEN) == 0
    assert await daemon.stop() == 0
    daemon = await start_daemon(NODE, CONFIG_FILE=where, MIG_STRATEGY="mix")
    async with asyncio.timeout(SECONDS):
        assert await daemon.process.wait() == 2


async def test_what_a_change_takes_away_and_brings(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    volume = ConfigMap(node_dir / "config")
    volume.put(**{"config.yaml": "version: v1"})
    await start_daemon(NODE, CONFIG_FILE=str(volume.folder / "config.yaml"))
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    sharing = "sharing: {timeSlicing: {resources: [{name: nvidia.com/mig-1g.5gb, replicas: 2}]}}"
    volume.put(**{"config.yaml": f"version: v1\n{sharing}"})
    await kubelet.wait_allocatable(ONE_SLICE, 112, SECONDS)
    volume.put(**{"config.yaml": "version: v1\nresources: {migs: [{pattern: '*', name: slice}]}"})
    await kubelet.wait_for(
        lambda: kubelet.node_status() == {ONE_SLICE: (0, 0), "nvidia.com/slice": (56, 56)}, SECONDS
    )


async def test_commands_reach_a_daemon_whose_file_has_become_bad(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    """Just then somebody wants to look; ``doctor`` reports the file."""
    config_file = node_dir / "config.yaml"
    config_file.write_text(config("packed"))
    daemon = await start_daemon(NODE, CONFIG_FILE=str(config_file))
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    config_file.write_text("version: v2")
    await counted(daemon, NOT_TAKEN, 1)
    environment = {
        **os.environ,
        "CONFIG_FILE": str(config_file),
        "CONTROL_SOCKET": str(node_dir / "control" / "control.sock"),
    }

    async def command(*arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "plugin", *arguments),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    status, out, err = await command("devices")
    assert status == 0
    assert "the configuration was refused, the old one stays in force" in out
    assert "version: 'v2' is not valid; choose v1; going on without it" in err
    assert (await command("cordon", "0:0"))[0] == 0
    await kubelet.wait_allocatable(ONE_SLICE, 55, SECONDS)
    status, out, err = await command("doctor")
    assert status == 2
    assert "version: 'v2' is not valid" in err
    assert "refused: config file" in " ".join(out.split())
    assert await daemon.stop() == 0
    assert (await command("devices"))[0] == 2, "nobody is there whose settings could be used"
