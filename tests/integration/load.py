"""Pods that come and go while a mounted configuration changes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import Daemon, plugin_client, sockets
from .waiting import SECONDS, becomes

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:all-1g.5gb"
NOT_TAKEN = "configuration not taken, the old one stays"
READ = "configuration read again"


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
    """At the end, no allocation has failed and no stream was disturbed."""
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
