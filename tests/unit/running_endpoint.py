"""An endpoint that runs over fakes in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from plugin.core.view import ResourceStatus
from plugin.kubelet.deviceplugin.calls import CallCounts
from plugin.kubelet.deviceplugin.endpoint import Endpoint
from plugin.kubelet.deviceplugin.rivals import Rivals
from plugin.kubelet.deviceplugin.servicer import ResourceServicer
from plugin.loops.store import Store

from .builders import mig_gpu, node, snapshot
from .kubelet_fakes import KUBELET, FakeDirectory, FakeKubelet
from .virtual_time import settle

RESOURCE = "nvidia.com/mig-1g.5gb"


@dataclass
class Running:
    directory: FakeDirectory
    kubelet: FakeKubelet
    endpoint: Endpoint
    store: Store
    task: asyncio.Task[None]

    @property
    def status(self) -> ResourceStatus:
        return self.endpoint.status()

    @property
    def ours(self) -> str:
        return self.kubelet.endpoints[-1]

    def now(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def running(
    *, kubelet_is_there: bool = True, socket: str = KUBELET, serving_error: str = ""
) -> AsyncIterator[Running]:
    directory = FakeDirectory()
    kubelet = FakeKubelet(directory)
    kubelet.serving_error = serving_error
    if kubelet_is_there:
        directory.create(KUBELET)
    store = Store(snapshot(node(mig_gpu(0, "1g.5gb", "1g.5gb"))))
    rivals = Rivals(
        directory,
        socket,
        lambda: (RESOURCE,),
        accepts=directory.accepts,
        wall_clock=asyncio.get_running_loop().time,
    )
    endpoint = Endpoint(
        RESOURCE,
        store,
        directory,
        socket,
        ResourceServicer(RESOURCE, store, CallCounts(), lambda _: None),
        rivals,
        serve=kubelet.serve,
        register=kubelet.register,
    )
    looking = asyncio.create_task(rivals.run())
    task = asyncio.create_task(endpoint.run())
    await settle()
    yield Running(directory, kubelet, endpoint, store, task)
    for each in (task, looking):
        each.cancel()
    await asyncio.gather(task, looking, return_exceptions=True)
    assert not [name for name in directory.files if name in kubelet.endpoints]


async def until(condition: Callable[[], bool]) -> None:
    """Let time pass until `condition` holds; a minute at most."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 — time costs nothing here
            await asyncio.sleep(0.05)
