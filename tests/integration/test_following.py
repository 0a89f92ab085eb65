"""A configuration that changes under load: no allocation fails and no stream breaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import Daemon, StartDaemon, plugin_client, sockets
from .waiting import SECONDS, becomes

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:all-1g.5gb"
NOT_TAKEN = "configuration not taken, the old one stays"
READ = "configuration read again"

pytestmark = pytest.mark.asyncio


class ConfigMap:
    """A volume that kubelet swaps by a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0
        folder.mkdir()

    def put(self, **files: str) -> None:
        """Another version: these keys and no others."""
        self._version += 1
        data = self.folder / f"..{self._version}"
        data.mkdir()
        for name, text in files.items():
            (data / name).write_text(text)
        link = self.folder / "..data"
        former = link.resolve() if link.is_symlink() else None
        (self.folder / "..data_tmp").symlink_to(data.name)
        (self.folder / "..data_tmp").rename(link)
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for entry in self.folder.iterdir():
            if not entry.name.startswith("..") and entry.name not in files:
                entry.unlink()
        if former is not None:
            shutil.rmtree(former)


@dataclass
class Load:
    """Pods that come and go all the time, and a stream that is open all the time."""

    kubelet: SimKubelet
    phases: list[str] = field(default_factory=list)
    lists: list[int] = field(default_factory=list)
    ended: bool = False

    async def admit(self) -> None:
        number = 0
        while True:
            number += 1
            pod = Pod(f"p{number}", containers={"main": {ONE_SLICE: 1 + number % 7}})
            self.phases.append((await self.kubelet.admit(pod)).phase)
            await self.kubelet.delete(pod)
            await asyncio.sleep(0)

    async def watch(self, socket: Path) -> None:
        async with plugin_client(socket) as client:
            async for message in client.ListAndWatch(pb.Empty()):
                self.lists.append(len(message.devices))
            self.ended = True

    async def more(self) -> None:
        """Wait until the load has gone on for a while."""
        wanted = len(self.phases) + 20
        await becomes(lambda: len(self.phases) >= wanted)


@contextlib.asynccontextmanager
async def loaded(kubelet: SimKubelet) -> AsyncIterator[Load]:
    load = Load(kubelet)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    (socket,) = sockets(kubelet)
    tasks = [asyncio.create_task(load.admit()), asyncio.create_task(load.watch(socket))]
    await becomes(lambda: bool(load.lists))
    try:
        yield load
        assert [task for task in tasks if task.done()] == []
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert set(load.phases) == {"Running"}
    assert set(load.lists) == {56}
    assert not load.ended
    assert sockets(kubelet) == [socket]
    assert len(kubelet.registrations) == 1
    assert kubelet.live_streams(ONE_SLICE) == 1


def config(policy: str) -> str:
    return f"version: v1\nflags: {{plugin: {{allocationPolicy: {policy}}}}}\n"


async def counted(daemon: Daemon, message: str, number: int) -> None:
    await becomes(lambda: daemon.log.count(message) >= number, lambda: daemon.log)


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
    status, _, err = await command("doctor")
    assert status == 2
    assert "version: 'v2' is not valid" in err
    assert await daemon.stop() == 0
    assert (await command("devices"))[0] == 2, "nobody is there whose settings could be used"
