"""The stand-in kubelet does what kubelet was seen to do, one test per behaviour, driven by a
minimal plugin.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from asyncinotify import Inotify, Mask

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.api import podresources_v1_pb2 as resources_pb
from plugin.api import podresources_v1_pb2_grpc as resources_grpc
from plugin.errors import SimulationError
from plugin.sim.kubelet.devices import is_extended_resource_name
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.podresources import TokenBucket
from plugin.sim.kubelet.pods import Pod, PodResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from plugin.api.podresources_v1_pb2_grpc import PodResourcesListerAsyncStub

SMALL = "nvidia.com/mig-1g.5gb"
LARGE = "nvidia.com/mig-3g.20gb"

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


class Clock:
    """A kubelet's clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakePlugin(pb_grpc.DevicePluginServicer):
    """One resource on one socket; every answer can be set before the call."""

    def __init__(
        self, directory: Path, resource: str = SMALL, count: int = 4, *, socket: str = ""
    ) -> None:
        self.directory = directory
        self.resource = resource
        self.socket = socket or f"plugin-{id(self)}.sock"
        self.devices = {f"{resource.rpartition('.')[2]}-{n}": "Healthy" for n in range(count)}
        self.numa: int | None = None
        self.options = pb.DevicePluginOptions()
        self.preferred: Callable[[list[str]], list[str]] | None = None
        self.error = ""
        self.response = pb.ContainerAllocateResponse(envs={"SHARED": resource})
        self.preferred_calls: list[pb.ContainerPreferredAllocationRequest] = []
        self.allocate_calls: list[list[str]] = []
        self.pre_start_calls: list[list[str]] = []
        self.streams: list[asyncio.Queue[pb.ListAndWatchResponse | None]] = []
        self._server = grpc.aio.server()
        pb_grpc.add_DevicePluginServicer_to_server(self, self._server)

    async def serve(self) -> None:
        self._server.add_insecure_port(f"unix:{self.directory / self.socket}")
        await self._server.start()

    async def register(
        self, *, version: str = "v1beta1", endpoint: str = "", resource_name: str = ""
    ) -> None:
        request = pb.RegisterRequest(
            version=version,
            endpoint=endpoint or self.socket,
            resource_name=resource_name or self.resource,
        )
        async with grpc.aio.insecure_channel(f"unix:{self.directory / 'kubelet.sock'}") as channel:
            await pb_grpc.RegistrationStub(channel).Register(request, timeout=10)

    async def die(self) -> None:
        await self._server.stop(None)

    def list(self) -> pb.ListAndWatchResponse:
        topology = None if self.numa is None else pb.TopologyInfo(nodes=[pb.NUMANode(ID=self.numa)])
        return pb.ListAndWatchResponse(
            devices=[
                pb.Device(ID=name, health=health, topology=topology)
                for name, health in self.devices.items()
            ]
        )

    def send(self, stream: int | None = None) -> None:
        for queue in self.streams if stream is None else [self.streams[stream]]:
            queue.put_nowait(self.list())

    async def GetDevicePluginOptions(  # noqa: N802 - named by the protocol
        self, request: pb.Empty, context: grpc.aio.ServicerContext[pb.Empty, pb.DevicePluginOptions]
    ) -> pb.DevicePluginOptions:
        del request, context
        return self.options

    async def ListAndWatch(  # noqa: N802 - named by the protocol
        self,
        request: pb.Empty,
        context: grpc.aio.ServicerContext[pb.Empty, pb.ListAndWatchResponse],
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        del request, context
        queue: asyncio.Queue[pb.ListAndWatchResponse | None] = asyncio.Queue()
        self.streams.append(queue)
        yield self.list()
        while (message := await queue.get()) is not None:
            yield message

    async def GetPreferredAllocation(  # noqa: N802 - named by the protocol
        self,
        request: pb.PreferredAllocationRequest,
        context: grpc.aio.ServicerContext[
            pb.PreferredAllocationRequest, pb.PreferredAllocationResponse
        ],
    ) -> pb.PreferredAllocationResponse:
        self.preferred_calls.extend(request.container_requests)
        if self.preferred is None:
            await context.abort(grpc.StatusCode.INTERNAL, "no advice today")
        assert self.preferred is not None
        answer = self.preferred(list(request.container_requests[0].available_deviceIDs))
        return pb.PreferredAllocationResponse(
            container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=answer)]
        )

    async def Allocate(  # noqa: N802 - named by the protocol
        self,
        request: pb.AllocateRequest,
        context: grpc.aio.ServicerContext[pb.AllocateRequest, pb.AllocateResponse],
    ) -> pb.AllocateResponse:
        self.allocate_calls.append(list(request.container_requests[0].devices_ids))
        if self.error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.error)
        return pb.AllocateResponse(
            container_responses=[self.response for _ in request.container_requests]
        )

    async def PreStartContainer(  # noqa: N802 - named by the protocol
        self,
        request: pb.PreStartContainerRequest,
        context: grpc.aio.ServicerContext[
            pb.PreStartContainerRequest, pb.PreStartContainerResponse
        ],
    ) -> pb.PreStartContainerResponse:
        self.pre_start_calls.append(list(request.devices_ids))
        if self.error:
            await context.abort(grpc.StatusCode.INTERNAL, self.error)
        return pb.PreStartContainerResponse()


class Node:
    """A stand-in kubelet in a directory, and whatever plugins a test starts beside it."""

    def __init__(self, kubelet: SimKubelet, stack: AsyncExitStack) -> None:
        self.kubelet = kubelet
        self._stack = stack

    async def serve(self, resource: str = SMALL, count: int = 4, *, socket: str = "") -> FakePlugin:
        plugin = FakePlugin(self.kubelet.directory, resource, count, socket=socket)
        await plugin.serve()
        self._stack.push_async_callback(plugin.die)
        return plugin

    async def plug(self, resource: str = SMALL, count: int = 4) -> FakePlugin:
        """Serve, register and wait for the list."""
        plugin = await self.serve(resource, count)
        await plugin.register()
        await self.kubelet.wait_allocatable(resource, count)
        return plugin


@asynccontextmanager
async def node(
    directory: Path,
    *,
    register_timeout_s: float = 0.3,
    readmission_s: float | None = None,
    lists_ended_pods: bool = False,
    seed: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Node]:
    kubelet = SimKubelet(
        directory / "dp",
        pod_resources_dir=directory / "pr",
        register_timeout_s=register_timeout_s,
        readmission_s=readmission_s,
        lists_ended_pods=lists_ended_pods,
        seed=seed,
        clock=clock,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(kubelet)
        yield Node(kubelet, stack)


@asynccontextmanager
async def pod_resources(directory: Path) -> AsyncIterator[PodResourcesListerAsyncStub]:
    async with grpc.aio.insecure_channel(f"unix:{directory / 'pr' / 'kubelet.sock'}") as channel:
        yield resources_grpc.PodResourcesListerStub(channel)


def pod(name: str, *, bound: bool = False, **containers: dict[str, int]) -> Pod:
    return Pod(name, containers=containers or {"main": {SMALL: 1}}, bound=bound)


def kinds(kubelet: SimKubelet) -> set[str]:
    return {violation.kind for violation in kubelet.violations}


# Registration


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


# Restart


async def test_the_socket_file_outlives_kubelet_and_is_made_anew_at_start(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        directory = on.kubelet.directory
        (directory / "note.txt").write_text("kept")
        await on.kubelet.stop()
        stale = (directory / "kubelet.sock").stat()
        assert (tmp_path / "pr" / "kubelet.sock").is_socket()
        assert (directory / plugin.socket).is_socket()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await plugin.register()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await on.kubelet.start()
        fresh = (directory / "kubelet.sock").stat()
        assert (stale.st_ino, stale.st_mtime_ns) != (fresh.st_ino, fresh.st_mtime_ns)
        assert sorted(path.name for path in directory.iterdir()) == [
            "kubelet.sock",
            "kubelet_internal_checkpoint",
            "note.txt",
        ]


async def test_watchers_see_the_socket_created_under_its_name(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        await on.kubelet.stop()
        with Inotify() as watch:
            watch.add_watch(on.kubelet.directory, Mask.CREATE | Mask.MOVED_TO | Mask.DELETE)
            await on.kubelet.start()
            await on.kubelet.stop()
            seen = [await asyncio.wait_for(watch.get(), 10) for _ in range(2)]
            assert [(event.mask, str(event.name)) for event in seen] == [
                (Mask.DELETE, "kubelet.sock"),
                (Mask.CREATE, "kubelet.sock"),
            ]
            (on.kubelet.directory / "end").touch()
            assert str((await asyncio.wait_for(watch.get(), 10)).name) == "end"  # nothing at stop


async def test_a_plugin_sees_its_stream_end_when_kubelet_stops(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        ended = asyncio.Event()

        class Watched(FakePlugin):
            async def ListAndWatch(  # noqa: N802 - named by the protocol
                self,
                request: pb.Empty,
                context: grpc.aio.ServicerContext[pb.Empty, pb.ListAndWatchResponse],
            ) -> AsyncIterator[pb.ListAndWatchResponse]:
                try:
                    async for message in super().ListAndWatch(request, context):
                        yield message
                finally:
                    ended.set()

        plugin = Watched(on.kubelet.directory)
        await plugin.serve()
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 4)
        await on.kubelet.stop()
        await asyncio.wait_for(ended.wait(), 10)
        await plugin.die()


async def test_after_a_restart_nothing_is_advertised_and_running_pods_go_on(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock=clock) as on, pod_resources(tmp_path) as before:
        plugin = await on.plug()
        held = await on.kubelet.admit(pod("a"))
        ids = list(held.device_ids)
        assert (await before.List(resources_pb.ListPodResourcesRequest())).pod_resources[
            0
        ].name == "a"
        await on.kubelet.restart()
        assert on.kubelet.node_status() == {SMALL: (0, 0)}
        async with pod_resources(tmp_path) as api:
            assert not (await api.List(resources_pb.ListPodResourcesRequest())).pod_resources
            clock.now += 3
            listing = await api.List(resources_pb.ListPodResourcesRequest())
            assert listing.pod_resources[0].containers[0].devices[0].device_ids == ids
            assert not (
                await api.GetAllocatableResources(resources_pb.AllocatableResourcesRequest())
            ).devices
        await on.kubelet.readmit()
        await on.kubelet.restart_container(held.pod, "main")
        assert held.phase == "Running"
        assert held.containers["main"].envs == {"SHARED": SMALL}
        assert len(plugin.allocate_calls) == 1
        successor = await on.plug()
        others = [await on.kubelet.admit(pod(name)) for name in "bcd"]
        assert {device for result in (held, *others) for device in result.device_ids} == set(
            successor.devices
        )


async def test_a_crash_looping_pod_fails_after_a_restart_unless_the_plugin_is_back(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        await on.plug()
        lost, saved = [await on.kubelet.admit(pod(name)) for name in ("lost", "saved")]
        on.kubelet.crash(lost.pod, "main")
        await on.kubelet.restart()
        await on.kubelet.readmit()
        assert lost.phase == "Failed"
        assert "no healthy devices present" in lost.reason
        on.kubelet.crash(saved.pod, "main")
        await on.kubelet.restart()
        await on.plug()
        await on.kubelet.readmit()
        assert saved.phase == "Running"


async def test_readmission_comes_by_itself_after_a_start(tmp_path: Path) -> None:
    async with node(tmp_path, readmission_s=0.0) as on:
        await on.plug()
        result = await on.kubelet.admit(pod("a"))
        on.kubelet.crash(result.pod, "main")
        await on.kubelet.restart()
        await on.kubelet.wait_for(lambda: result.phase == "Failed")


async def test_a_lost_checkpoint_gives_one_device_to_two_pods(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug(count=1)
        first = await on.kubelet.admit(pod("a"))
        await on.kubelet.stop()
        on.kubelet.forget_checkpoint()
        await on.kubelet.start()
        await plugin.die()
        await on.plug(count=1)
        second = await on.kubelet.admit(pod("b", bound=True))
        assert first.phase == second.phase == "Running"
        assert first.device_ids == second.device_ids


async def test_a_container_whose_answer_was_lost_is_allocated_again_at_its_restart(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        await on.plug()
        result = await on.kubelet.admit(pod("a"))
        await on.kubelet.stop()
        on.kubelet.forget_checkpoint()
        await on.kubelet.start()
        plugin = await on.plug()
        await on.kubelet.restart_container(result.pod, "main")
        assert [list(result.device_ids)] == plugin.allocate_calls


async def test_a_plugin_that_stays_away_after_a_restart_is_forgotten(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock=clock) as on:
        await on.plug()
        holder = await on.kubelet.admit(pod("a"))
        await on.kubelet.restart()
        early = await on.kubelet.admit(pod("b", bound=True))
        assert "no healthy devices present" in early.reason
        clock.now += 301
        on.kubelet.node_status()  # the tick
        late = await on.kubelet.admit(pod("c", bound=True))
        assert "cannot allocate unregistered device" in late.reason
        assert holder.phase == "Running"


async def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        await on.plug()
        await on.kubelet.stop()
        path = on.kubelet.directory / "kubelet_internal_checkpoint"
        path.write_text(path.read_text().replace("5gb-0", "5gb-9"))
        with pytest.raises(SimulationError, match="checksum"):
            await on.kubelet.start()
        path.write_text("{")
        with pytest.raises(SimulationError, match="cannot be read"):
            await on.kubelet.start()


# Stream and death


async def test_a_dead_plugin_keeps_capacity_for_five_minutes(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock=clock) as on:
        plugin = await on.plug()
        holder = await on.kubelet.admit(pod("a"))
        await plugin.die()
        await on.kubelet.wait_allocatable(SMALL, 0)
        clock.now += 300
        assert on.kubelet.node_status() == {SMALL: (4, 0)}
        clock.now += 1
        assert on.kubelet.node_status() == {SMALL: (0, 0)}
        assert holder.phase == "Running"
        late = await on.kubelet.admit(pod("b", bound=True))
        assert "cannot allocate unregistered device" in late.reason


async def test_an_empty_list_takes_a_resource_away_at_once(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        plugin.devices = {}
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 0)
        assert on.kubelet.node_status() == {SMALL: (0, 0)}


async def test_an_unhealthy_device_shows_in_pod_status_and_a_removed_one_does_not(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        results = [await on.kubelet.admit(pod(name)) for name in "abcd"]
        sick, gone = results[0].device_ids[0], results[1].device_ids[0]
        plugin.devices[sick] = "Unhealthy"
        del plugin.devices[gone]
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 2)
        assert on.kubelet.capacity(SMALL) == 3
        assert results[0].device_health == {sick: "Unhealthy"}
        assert results[1].device_health == {gone: "Healthy"}
        await plugin.die()
        await on.kubelet.wait_allocatable(SMALL, 0)
        assert results[2].device_health == {results[2].device_ids[0]: "Healthy"}
        assert {result.phase for result in results} == {"Running"}


async def test_between_two_ticks_the_scheduler_sends_pods_that_fail(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug(count=1)
        on.kubelet.hold_node_status()
        plugin.devices = {"5gb-0": "Unhealthy"}
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 0)
        failed = await on.kubelet.admit(pod("a"))
        assert (failed.phase, "no healthy devices present" in failed.reason) == ("Failed", True)
        on.kubelet.sync_node_status()
        pending = await on.kubelet.admit(pod("b"))
        assert pending.phase == "Pending"
        plugin.devices = {"5gb-0": "Healthy"}
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 1)
        await on.kubelet.reschedule()
        assert (failed.phase, pending.phase) == ("Failed", "Running")


# Allocation


async def test_pods_run_as_long_as_there_are_devices(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug(count=56)
        assert await on.kubelet.deploy("web", SMALL, 100) == (56, 44)
        held = [device for result in on.kubelet.pods.values() for device in result.device_ids]
        assert sorted(held) == sorted(plugin.devices)
        assert [len(ids) for ids in plugin.allocate_calls] == [1] * 56
        first = next(iter(on.kubelet.pods.values()))
        await on.kubelet.delete(first.pod)
        await on.kubelet.reschedule()
        phases = [result.phase for result in on.kubelet.pods.values()]
        assert (phases.count("Running"), phases.count("Pending")) == (56, 43)


async def test_devices_are_chosen_at_random_by_seed(tmp_path: Path) -> None:
    choices = []
    for run, seed in enumerate((1, 1, 2)):
        async with node(tmp_path / str(run), seed=seed) as on:
            await on.plug(count=40)
            choices.append((await on.kubelet.admit(pod("a", main={SMALL: 20}))).device_ids)
    assert choices[0] == choices[1] != choices[2]
    assert list(choices[0]) != sorted(choices[0])


async def test_preferred_allocation_is_advice_and_asked_for_even_the_last_device(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve(count=4)
        plugin.options = pb.DevicePluginOptions(get_preferred_allocation_available=True)
        plugin.preferred = lambda _: ["nonsense", "5gb-2", "5gb-1"]
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 4)
        first = await on.kubelet.admit(pod("a", main={SMALL: 3}))
        assert {"5gb-1", "5gb-2"} < set(first.device_ids)
        last = await on.kubelet.admit(pod("b"))  # both preferred ids are taken
        assert set(first.device_ids) | set(last.device_ids) == set(plugin.devices)
        sizes = [
            (len(call.available_deviceIDs), call.allocation_size) for call in plugin.preferred_calls
        ]
        assert sizes == [(4, 3), (1, 1)]


async def test_an_error_from_preferred_allocation_fails_the_pod(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        plugin.options = pb.DevicePluginOptions(get_preferred_allocation_available=True)
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 4)
        result = await on.kubelet.admit(pod("a"))
        assert result.phase == "Failed"
        assert "no advice today" in result.reason
        assert plugin.allocate_calls == []


async def test_an_error_from_allocate_fails_for_good_without_roll_back(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        small, large = await on.plug(count=1), await on.plug(LARGE, 1)
        large.error = "device 20gb-0 is withdrawn"
        result = await on.kubelet.admit(pod("a", main={SMALL: 1, LARGE: 1}))
        assert result.phase == "Failed"
        assert "FAILED_PRECONDITION: device 20gb-0 is withdrawn" in result.reason
        assert on.kubelet.holders(SMALL) == {"5gb-0": "default/a"}  # until another pod comes
        large.error = ""
        await on.kubelet.reschedule()
        assert result.phase == "Failed"
        again = await on.kubelet.admit(pod("b", main={SMALL: 1, LARGE: 1}))
        assert again.phase == "Running"
        assert on.kubelet.holders(SMALL) == {"5gb-0": "default/b"}
        assert len(small.allocate_calls) == 2


async def test_two_resources_in_a_container_add_up_but_for_equal_variables(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        for resource in (SMALL, LARGE):
            plugin = await on.plug(resource)
            plugin.response = pb.ContainerAllocateResponse(
                envs={"SHARED": resource, resource[-3:]: "own"},
                annotations={resource: "yes"},
                mounts=[
                    pb.Mount(
                        container_path=f"/run/{resource}", host_path="/dev/null", read_only=True
                    )
                ],
                devices=[
                    pb.DeviceSpec(container_path=path, host_path=path, permissions="rw")
                    for path in ("/dev/nvidiactl", f"/dev/{resource[-3:]}")
                ],
                cdi_devices=[pb.CDIDevice(name=f"nvidia.com/gpu={resource[-3:]}")],
            )
        result = await on.kubelet.admit(pod("a", main={SMALL: 1, LARGE: 2}, side={SMALL: 1}))
        main = result.containers["main"]
        assert [len(ids) for ids in main.device_ids.values()] == [1, 2]
        assert main.envs == {"SHARED": LARGE, "5gb": "own", "0gb": "own"}
        assert [node.container_path for node in main.devices] == [
            "/dev/nvidiactl",
            "/dev/5gb",
            "/dev/0gb",
        ]
        assert [mount.container_path for mount in main.mounts] == [f"/run/{SMALL}", f"/run/{LARGE}"]
        assert main.cdi_devices == ("nvidia.com/gpu=5gb", "nvidia.com/gpu=0gb")
        assert main.annotations == {SMALL: "yes", LARGE: "yes"}
        assert result.containers["side"].envs["SHARED"] == SMALL
        assert len(set(result.device_ids)) == 4
        assert not on.kubelet.violations


@pytest.mark.parametrize("change", ["gone", "unhealthy"])
async def test_a_restarted_container_gets_the_stored_answer_while_its_device_is_healthy(
    tmp_path: Path, change: str
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        result = await on.kubelet.admit(pod("a"))
        plugin.response = pb.ContainerAllocateResponse(envs={"SHARED": "newer"})
        await on.kubelet.restart_container(result.pod, "main")
        assert result.containers["main"].envs == {"SHARED": SMALL}
        assert len(plugin.allocate_calls) == 1
        if change == "gone":
            del plugin.devices[result.device_ids[0]]
        else:
            plugin.devices[result.device_ids[0]] = "Unhealthy"
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 3)
        await on.kubelet.restart_container(result.pod, "main")
        assert result.phase == "Failed"
        assert "no longer healthy" in result.reason


async def test_a_bound_pod_runs_without_a_device_when_nobody_registered(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        bound = await on.kubelet.admit(pod("a", bound=True))
        assert (bound.phase, bound.device_ids) == ("Running", ())
        scheduled = await on.kubelet.admit(pod("b"))
        assert (scheduled.phase, scheduled.reason) == ("Pending", f"Insufficient {SMALL}")


async def test_a_bound_pod_fails_when_all_devices_are_taken(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        await on.plug(count=1)
        await on.kubelet.admit(pod("a"))
        result = await on.kubelet.admit(pod("b", bound=True))
        assert "Requested: 1, Available: 0" in result.reason


async def test_pre_start_is_called_when_wanted_and_its_error_keeps_the_pod_waiting(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        plugin.options = pb.DevicePluginOptions(pre_start_required=True)
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 4)
        result = await on.kubelet.admit(pod("a"))
        assert plugin.pre_start_calls == plugin.allocate_calls
        plugin.error = "not yet"
        await on.kubelet.restart_container(result.pod, "main")
        assert (result.phase, result.waiting) == ("Pending", {"main"})
        plugin.error = ""
        await on.kubelet.restart_container(result.pod, "main")
        assert (result.phase, result.waiting, result.reason) == ("Running", set(), "")


async def test_pods_have_one_name_each(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        await on.kubelet.admit(pod("a"))
        with pytest.raises(SimulationError, match="exists"):
            await on.kubelet.admit(pod("a"))
        with pytest.raises(SimulationError, match="no pod"):
            await on.kubelet.delete(pod("b"))


# Pod resources


async def test_pod_resources_show_devices_one_by_one_with_numa(tmp_path: Path) -> None:
    async with node(tmp_path) as on, pod_resources(tmp_path) as api:
        plugin = await on.serve(count=3)
        plugin.numa = 1
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 3)
        result = await on.kubelet.admit(pod("a", main={SMALL: 2}, side={}))
        listing = await api.List(resources_pb.ListPodResourcesRequest())
        main, side = listing.pod_resources[0].containers
        assert sorted(list(entry.device_ids) for entry in main.devices) == sorted(
            [d] for d in result.device_ids
        )
        assert [entry.topology.nodes[0].ID for entry in main.devices] == [1, 1]
        assert (side.name, len(side.devices)) == ("side", 0)
        request = resources_pb.GetPodResourcesRequest(pod_name="a", pod_namespace="default")
        assert (await api.Get(request)).pod_resources == listing.pod_resources[0]
        allocatable = await api.GetAllocatableResources(resources_pb.AllocatableResourcesRequest())
        assert [list(entry.device_ids) for entry in allocatable.devices] == [
            ["5gb-0"],
            ["5gb-1"],
            ["5gb-2"],
        ]
        await on.kubelet.delete(result.pod)
        with pytest.raises(grpc.aio.AioRpcError, match="not found"):
            await api.Get(request)


async def test_after_a_start_pod_resources_list_no_pods_then_some_then_all(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock=clock) as on:
        await on.plug(count=5)
        for name in "abcd":
            await on.kubelet.admit(pod(name))
        await on.kubelet.restart()
        seen = []
        async with pod_resources(tmp_path) as api:
            for step in (0, 1.5, 0.1, 0.4, 0.1):
                clock.now += step
                listing = await api.List(resources_pb.ListPodResourcesRequest())
                seen.append(len(listing.pod_resources))
            # One that is new is listed at once.
            await on.kubelet.restart()
            await on.plug(count=5)
            await on.kubelet.admit(pod("new"))
        async with pod_resources(tmp_path) as api:
            listing = await api.List(resources_pb.ListPodResourcesRequest())
            assert [entry.name for entry in listing.pod_resources] == ["new"]
            request = resources_pb.GetPodResourcesRequest(pod_name="a", pod_namespace="default")
            with pytest.raises(grpc.aio.AioRpcError, match="not found"):
                await api.Get(request)
        assert seen == [0, 0, 3, 3, 4]


@pytest.mark.parametrize("lists_ended_pods", [False, True])
async def test_pods_that_have_ended_are_listed_by_old_kubelets(
    tmp_path: Path, *, lists_ended_pods: bool
) -> None:
    async with (
        node(tmp_path, lists_ended_pods=lists_ended_pods) as on,
        pod_resources(tmp_path) as api,
    ):
        await on.plug(count=1)
        ended = await on.kubelet.admit(pod("a"))
        on.kubelet.finish(ended.pod)
        listing = await api.List(resources_pb.ListPodResourcesRequest())
        ids = [d.device_ids[0] for p in listing.pod_resources for d in p.containers[0].devices]
        assert ids == (["5gb-0"] if lists_ended_pods else [])
        # It holds nothing all the same: the next pod gets its device.
        assert (await on.kubelet.admit(pod("b"))).device_ids == ("5gb-0",)


async def test_pod_resources_are_rate_limited(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock=clock), pod_resources(tmp_path) as api:
        for _ in range(10):
            await api.List(resources_pb.ListPodResourcesRequest())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.GetAllocatableResources(resources_pb.AllocatableResourcesRequest())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        clock.now += 0.02
        await api.List(resources_pb.ListPodResourcesRequest())


async def test_the_bucket_never_holds_more_than_a_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(100, 10, clock)
    clock.now += 60
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]


# Strictness


@pytest.mark.parametrize(
    "device",
    [
        pb.Device(ID="", health="Healthy"),
        pb.Device(ID="x" * 64, health="Healthy"),
        pb.Device(ID="5gb-0", health="Healthy"),
        pb.Device(ID="fine", health="healthy"),
    ],
)
async def test_bad_lists_are_recorded(tmp_path: Path, device: pb.Device) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        message = plugin.list()
        message.devices.append(device)
        plugin.streams[0].put_nowait(message)
        await on.kubelet.wait_for(lambda: len(on.kubelet.messages) == 2)
        assert kinds(on.kubelet) - {"repeated-list"} == {"device-list"}


async def test_a_list_that_changes_nothing_is_recorded(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        plugin.devices = dict(reversed(plugin.devices.items()))
        plugin.send()
        await on.kubelet.wait_for(lambda: len(on.kubelet.messages) == 2)
        assert kinds(on.kubelet) == {"repeated-list"}


async def test_a_socket_name_used_twice_is_recorded(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        for _ in range(2):
            plugin = await on.serve(socket="same.sock")
            await plugin.register()
            await on.kubelet.wait_allocatable(SMALL, 4)
            await plugin.die()
            await on.kubelet.wait_allocatable(SMALL, 0)
        assert kinds(on.kubelet) == {"socket-name"}


async def test_an_endpoint_outside_the_directory_is_recorded(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        await plugin.register(endpoint=f"../dp/{plugin.socket}")
        assert kinds(on.kubelet) == {"endpoint"}


@pytest.mark.parametrize(
    "response",
    [
        pb.ContainerAllocateResponse(
            devices=[pb.DeviceSpec(container_path="/a", host_path="/a", permissions="rwx")]
        ),
        pb.ContainerAllocateResponse(
            devices=[pb.DeviceSpec(container_path="a", host_path="/a", permissions="rw")]
        ),
        pb.ContainerAllocateResponse(mounts=[pb.Mount(container_path="/a", host_path="a")]),
        pb.ContainerAllocateResponse(cdi_devices=[pb.CDIDevice(name="gpu0")]),
    ],
)
async def test_bad_answers_are_recorded(
    tmp_path: Path, response: pb.ContainerAllocateResponse
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        plugin.response = response
        assert (await on.kubelet.admit(pod("a"))).phase == "Running"
        assert kinds(on.kubelet) == {"allocate-response"}


async def test_a_time_out_tells_the_state(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        await on.kubelet.admit(pod("a"))
        with pytest.raises(
            TimeoutError, match=rf"(?s){SMALL}: capacity 4.*{plugin.socket}.*default/a: Running"
        ):
            await on.kubelet.wait_allocatable(SMALL, 5, timeout=0.01)


async def test_a_second_start_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        with pytest.raises(SimulationError, match="running already"):
            await on.kubelet.start()


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        (SMALL, True),
        ("nvidia.com/gpu", True),
        ("nvidia.com/mig-1g.10gb.me", True),
        ("nvidia.com/mig-1g.10gb+me", False),
        ("nvidia.com/", False),
        ("Nvidia.com/gpu", False),
        ("nvidia.com/a/b", False),
        ("nvidia.com/-gpu", False),
        ("nvidia.com/" + "x" * 63, True),
        ("nvidia.com/" + "x" * 64, False),
        ("sub.kubernetes.io/gpu", False),
        ("a" * 64 + ".com/gpu", False),
        (".".join(["a" * 60] * 4) + "/gpu", True),
        (".".join(["a" * 61] * 4) + "/gpu", False),
    ],
)
async def test_names(name: str, *, taken: bool) -> None:
    assert is_extended_resource_name(name) is taken


async def test_a_result_lists_its_ids() -> None:
    assert PodResult(pod("a")).device_ids == ()
