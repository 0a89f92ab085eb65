"""What the stand-in kubelet lists as pod resources: one test per behaviour of real kubelets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from plugin.api import podresources_v1_pb2 as resources_pb
from plugin.sim.kubelet.podresources import TokenBucket

from .fake_plugin import SMALL, Clock, node, pod, pod_resources

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


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
