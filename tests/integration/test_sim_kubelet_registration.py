"""How the stand-in kubelet registers plugins: one test per behaviour seen on real kubelets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb

from .fake_plugin import SMALL, FakePlugin, kinds, node, pod

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


async def test_registration_leads_to_a_list(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        assert [(entry.resource, entry.endpoint) for entry in on.kubelet.registrations] == [
            (SMALL, plugin.socket)
        ]
        assert (on.kubelet.capacity(SMALL), on.kubelet.live_streams(SMALL)) == (4, 1)
        assert {device.id for device in on.kubelet.messages[0].devices} == set(plugin.devices)
        assert not on.kubelet.violations


async def test_options_come_from_the_call_not_the_request(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        plugin.options = pb.DevicePluginOptions(get_preferred_allocation_available=True)
        plugin.preferred = lambda available: available
        await plugin.register()  # whose options are empty
        await on.kubelet.wait_allocatable(SMALL, 4)
        await on.kubelet.admit(pod("a"))
        assert len(plugin.preferred_calls) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"resource_name": "foo"},
        {"resource_name": "kubernetes.io/x"},
        {"resource_name": "requests.example.com/x"},
        {"version": "v1"},
    ],
)
async def test_bad_requests_are_refused_without_a_dial_and_without_harm(
    tmp_path: Path, fields: dict[str, str]
) -> None:
    # With this time-out a dial would outlast the client's own.
    async with node(tmp_path, register_timeout_s=300.0) as on:
        plugin = await on.plug()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await plugin.register(endpoint="nobody.sock", **fields)
        assert refused.value.code() is grpc.StatusCode.UNKNOWN
        assert len(on.kubelet.refusals) == 1
        await plugin.die()
        await on.kubelet.wait_allocatable(SMALL, 0)


async def test_nobody_behind_the_endpoint_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        with pytest.raises(grpc.aio.AioRpcError, match="GetDevicePluginOptions"):
            await plugin.register(endpoint="nobody.sock")
        assert on.kubelet.registrations == []
        assert on.kubelet.refusals[0].endpoint == "nobody.sock"


@pytest.mark.parametrize("caller_waits", [True, False])
async def test_kubelet_waits_for_a_plugin_that_serves_late(
    tmp_path: Path, *, caller_waits: bool
) -> None:
    async with node(tmp_path, register_timeout_s=10.0) as on:
        plugin = FakePlugin(on.kubelet.directory)
        dialled = asyncio.Event()

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dialled.set()
            writer.close()
            await writer.wait_closed()

        socket = on.kubelet.directory / plugin.socket
        deaf = await asyncio.start_unix_server(hang_up, socket)
        registering = asyncio.create_task(plugin.register())
        await asyncio.wait_for(dialled.wait(), 10)
        deaf.close()
        await deaf.wait_closed()
        if not caller_waits:
            registering.cancel()
            await asyncio.wait([registering])
        socket.unlink(missing_ok=True)  # from Python 3.13 on asyncio removes it
        await plugin.serve()
        await on.kubelet.wait_allocatable(SMALL, 4)
        if caller_waits:
            await registering
        await plugin.die()


async def test_a_failed_registration_orphans_the_live_plugin(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        with pytest.raises(grpc.aio.AioRpcError):
            await plugin.register(endpoint="nobody.sock")
        plugin.devices["5gb-0"] = "Unhealthy"
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 3)  # the stream is still heard
        await plugin.die()
        await on.kubelet.wait_for(lambda: on.kubelet.live_streams(SMALL) == 0)
        assert on.kubelet.allocatable(SMALL) == 3
        result = await on.kubelet.admit(pod("a"))
        assert result.phase == "Failed"
        assert "UNAVAILABLE" in result.reason


async def test_of_two_streams_the_last_message_wins_and_the_end_of_the_older_kills_the_newer(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        socket = (on.kubelet.directory / "kubelet.sock").stat()
        plugin = await on.plug()
        await plugin.register()
        await on.kubelet.wait_for(
            lambda: on.kubelet.live_streams(SMALL) == 2 and len(on.kubelet.messages) == 2
        )
        assert on.kubelet.allocatable(SMALL) == 4  # no harm so far
        for stream in (0, 1, 0):
            name = f"5gb-{stream}"
            plugin.devices[name] = "Unhealthy" if plugin.devices[name] == "Healthy" else "Healthy"
            plugin.send(stream)
            await on.kubelet.wait_for(
                lambda: (
                    {d.id: d.health for d in on.kubelet.devices(SMALL).values()} == plugin.devices
                )
            )
        plugin.streams[0].put_nowait(None)
        await on.kubelet.wait_allocatable(SMALL, 0)
        await on.kubelet.wait_for(lambda: on.kubelet.live_streams(SMALL) == 0)
        assert (on.kubelet.directory / "kubelet.sock").stat() == socket
        assert kinds(on.kubelet) == {"second-stream"}
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 3)


@pytest.mark.parametrize("offers_preferred", [True, False])
async def test_a_newcomer_that_goes_takes_every_later_pod_with_it(
    tmp_path: Path, *, offers_preferred: bool
) -> None:
    """The older stream stays open and its lists count, but calls go to the newcomer, who is gone;
    until somebody registers again.
    """
    async with node(tmp_path) as on:
        plugin = await on.plug()
        newcomer = await on.serve()
        newcomer.options = pb.DevicePluginOptions(
            get_preferred_allocation_available=offers_preferred
        )
        newcomer.preferred = lambda available: available
        await newcomer.register()
        await on.kubelet.wait_for(lambda: on.kubelet.live_streams(SMALL) == 2)
        assert (await on.kubelet.admit(pod("a"))).phase == "Running"
        assert (len(plugin.allocate_calls), len(newcomer.allocate_calls)) == (0, 1)
        await newcomer.die()
        await on.kubelet.wait_for(lambda: on.kubelet.live_streams(SMALL) == 1)
        plugin.devices["5gb-0"] = "Unhealthy"
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 3)
        failed = await on.kubelet.admit(pod("b"))
        assert failed.phase == "Failed"
        assert f"endpoint {newcomer.socket} has been stopped" in failed.reason
        plugin.streams[0].put_nowait(None)
        await on.kubelet.wait_for(lambda: on.kubelet.live_streams(SMALL) == 0)
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 3)
        assert (await on.kubelet.admit(pod("c"))).phase == "Running"
        assert plugin.allocate_calls
