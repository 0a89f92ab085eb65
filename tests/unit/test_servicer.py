"""The DevicePlugin service of one resource, without a wire."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.kubelet.deviceplugin.calls import CallCounts
from plugin.kubelet.deviceplugin.servicer import ResourceServicer
from plugin.loops.store import Store

from .builders import mig_gpu, node, snapshot
from .virtual_time import run, settle

RESOURCE = "nvidia.com/mig-1g.5gb"
TWO = ("MIG-0-7-0", "MIG-0-8-0")


class Refused(Exception):
    """What gRPC does with an aborted call."""


class Context:
    def __init__(self) -> None:
        self.aborted: tuple[grpc.StatusCode, str] | None = None

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.aborted = code, details
        raise Refused


class Client:
    """Reads one ListAndWatch."""

    def __init__(self, servicer: ResourceServicer) -> None:
        self.lists: list[list[str]] = []
        context: Any = Context()
        self._stream = servicer.ListAndWatch(pb.Empty(), context)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for response in self._stream:
            self.lists.append([device.ID for device in response.devices])


def servicer(store: Store, calls: CallCounts | None = None) -> ResourceServicer:
    return ResourceServicer(RESOURCE, store, calls or CallCounts(), lambda _: None)


def two() -> Store:
    return Store(snapshot(node(mig_gpu(0, "1g.5gb", "1g.5gb"))))


def test_every_stream_gets_every_change_and_nothing_else() -> None:
    async def scene() -> None:
        store = two()
        served = servicer(store)
        clients = [Client(served), Client(served)]
        await settle()
        store.publish(snapshot(node(mig_gpu(0, "1g.5gb", "1g.5gb")), generation=2))
        await served.listed(2)
        store.publish(snapshot(node(mig_gpu(0, "1g.5gb")), generation=3))
        await served.listed(3)
        assert [client.lists for client in clients] == [[list(TWO), [TWO[0]]]] * 2
        assert served.lists_sent == 4
        await served.end_streams()
        await asyncio.gather(*(client.task for client in clients))

    run(scene())


def test_a_stream_that_is_being_opened_ends_with_the_others() -> None:
    async def scene() -> None:
        served = servicer(two())
        opened = served.next_stream()
        client = Client(served)
        stream = await opened
        async with asyncio.timeout(1):
            await served.end_streams()
        assert stream.ended.is_set()
        await client.task

    run(scene())


def test_a_client_that_goes_is_forgotten() -> None:
    async def scene() -> None:
        store = two()
        served = servicer(store)
        client = Client(served)
        await settle()
        client.task.cancel()
        await asyncio.gather(client.task, return_exceptions=True)
        store.publish(snapshot(node(), generation=2))
        async with asyncio.timeout(1):
            await served.listed(2)
            await served.end_streams()

    run(scene())


@pytest.mark.parametrize(
    ("ids", "code", "expected"),
    [
        ([], grpc.StatusCode.INVALID_ARGUMENT, "no device ids"),
        (["MIG-0-7-0", "MIG-0-7-0"], grpc.StatusCode.INVALID_ARGUMENT, "more than once"),
        (["MIG-9"], grpc.StatusCode.NOT_FOUND, "no device MIG-9"),
    ],
)
def test_refusals(ids: list[str], code: grpc.StatusCode, expected: str) -> None:
    async def scene() -> None:
        calls = CallCounts()
        served = servicer(two(), calls)
        context: Any = Context()
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)]
        )
        with pytest.raises(Refused):
            await served.Allocate(request, context)
        assert context.aborted[0] is code
        assert expected in context.aborted[1]
        assert calls.snapshot()[RESOURCE, "Allocate"].errors == 1

    run(scene())


def test_an_answer_counts_and_tells_that_pods_hold_other_devices_soon() -> None:
    async def scene() -> None:
        allocated: list[Sequence[str]] = []
        calls = CallCounts()
        served = ResourceServicer(RESOURCE, two(), calls, allocated.append)
        context: Any = Context()
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=[TWO[1]])]
        )
        answer = await served.Allocate(request, context)
        assert answer.container_responses[0].envs["NVIDIA_VISIBLE_DEVICES"] == TWO[1]
        await settle()
        assert allocated == [[TWO[1]]]
        stats = calls.snapshot()[RESOURCE, "Allocate"]
        assert (stats.count, stats.errors) == (1, 0)

    run(scene())
