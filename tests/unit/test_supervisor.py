"""An endpoint for each resource that is advertised, as they come and go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.loops.store import Store

from .builders import gpu, mig_device, mig_gpu, node, snapshot
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


def test_a_plugin_that_kubelet_counts_instead_of_us(tmp_path: Path) -> None:
    """Its socket's name says nothing. Only healthy devices count, of resources with a stream."""

    async def scene() -> None:
        directory = FakeDirectory()
        directory.path = tmp_path  # where somebody listens in earnest
        kubelet = FakeKubelet(directory)
        sick = mig_device(0, 0, missing_device_nodes=("/dev/nvidia-caps/nvidia-cap63",))
        devices = sick, mig_device(0, 1), mig_device(0, 4, "3g.20gb")
        store = Store(snapshot(node(gpu(0, *devices))))
        counted = {ONE: frozenset({"MIG-0-8-0"}), THREE: frozenset({"theirs"})}

        async def ask() -> dict[str, frozenset[str]]:
            return counted

        async with running(directory, kubelet, store) as supervisor:
            directory.create("plugin.sock")
            await settle()
            for _ in range(2):
                await supervisor.compare(ask)
                await asyncio.sleep(15)
            one, three = sorted(supervisor.status(), key=lambda status: status.resource)
            assert (one.registered, one.rival) == (True, "")
            assert (three.registered, three.rival) == (False, "one of plugin.sock")
            assert three.last_error == (
                "another device plugin serves it too, on one of plugin.sock"
            )
            for stream in list(kubelet.streams):
                kubelet.opens = False
                stream.cancel()
            await settle()
            await supervisor.compare(ask)
            assert not any(status.rival for status in supervisor.status())
            directory.delete("plugin.sock")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "plugin.sock"))
        listening.listen()
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
