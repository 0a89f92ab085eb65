"""An endpoint for each resource that is advertised, as they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.loops.store import Store

from .builders import mig_gpu, node, snapshot
from .kubelet_fakes import KUBELET, FakeDirectory, FakeKubelet, FakeServer
from .virtual_time import run, settle

ONE, THREE = "nvidia.com/mig-1g.5gb", "nvidia.com/mig-3g.20gb"


@asynccontextmanager
async def running(
    directory: FakeDirectory, kubelet: FakeKubelet, store: Store
) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(
        store,
        str(directory.path / KUBELET),
        directory=directory,
        serve=kubelet.serve,
        register=kubelet.register,
    )
    directory.create(KUBELET)
    task = asyncio.create_task(supervisor.run())
    await settle()
    yield supervisor
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert set(directory.files) == {KUBELET}
    assert not kubelet.streams


def test_resources_come_and_go_without_touching_the_others() -> None:
    async def scene() -> None:
        directory = FakeDirectory()
        kubelet = FakeKubelet(directory)
        store = Store(snapshot(node(mig_gpu(0, "1g.5gb"))))
        async with running(directory, kubelet, store) as supervisor:
            for generation, profiles, wanted in (
                (2, ("1g.5gb", "3g.20gb"), {ONE, THREE}),
                (3, ("1g.5gb",), {ONE}),
                (4, ("1g.5gb", "3g.20gb"), {ONE, THREE}),
            ):
                store.publish(snapshot(node(mig_gpu(0, *profiles)), generation=generation))
                await settle()
                await settle()
                assert {each.resource for each in supervisor.status()} == wanted
                assert all(each.registered for each in supervisor.status())
            assert len(kubelet.registrations) == 3  # one of ONE, two of THREE

    run(scene())


def test_an_error_of_one_endpoint_ends_all() -> None:
    """An error that nobody expects is no reason to go on without a resource."""

    async def broken(*_: object) -> FakeServer:
        raise ZeroDivisionError

    async def scene() -> None:
        directory = FakeDirectory()
        directory.create(KUBELET)
        kubelet = FakeKubelet(directory)
        store = Store(snapshot(node(mig_gpu(0, "1g.5gb"))))
        supervisor = Supervisor(
            store,
            str(directory.path / KUBELET),
            directory=directory,
            serve=broken,
            register=kubelet.register,
        )
        with pytest.raises(ZeroDivisionError):
            await supervisor.run()

    run(scene())
