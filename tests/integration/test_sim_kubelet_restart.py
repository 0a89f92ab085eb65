"""How the stand-in kubelet restarts: one test per behaviour seen on real kubelets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from asyncinotify import Inotify, Mask

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import podresources_v1_pb2 as resources_pb
from plugin.errors import SimulationError
from plugin.sim.kubelet.kubelet import SimKubelet

from .fake_plugin import SMALL, Clock, FakePlugin, node, pod, pod_resources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


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


async def test_an_end_that_is_cancelled_is_an_end(tmp_path: Path) -> None:
    """As by a signal: what the daemon's death has begun is cancelled by the same signal."""
    kubelet = SimKubelet(tmp_path / "plugins", pod_resources_dir=tmp_path / "pods")
    await kubelet.start()
    ending = asyncio.create_task(kubelet.__aexit__(None, None, None))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    await kubelet.start()  # refused while it runs
    await kubelet.stop()
