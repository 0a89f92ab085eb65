"""What kubelet's pod resources say about devices."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as device_pb
from plugin.api import podresources_v1_pb2 as pb
from plugin.commands.control import Notices, waiting_for
from plugin.core.holders import Holdings, answered, containers, of_devices
from plugin.core.settings import Settings
from plugin.core.view import Holder
from plugin.errors import KubeletError
from plugin.kubelet.podresources import checkpoint
from plugin.kubelet.podresources.client import allocatable, holders, list_pods
from plugin.kubelet.podresources.observer import Observer, own_pod
from plugin.kubelet.podresources.pods import pause
from plugin.sim.kubelet.checkpoint import save
from plugin.sim.kubelet.pods import Assignment
from tests.goaway import goaway

Ask = Callable[[Path], Awaitable[object]]


def pod(name: str, **containers: list[list[str]]) -> pb.PodResources:
    """A pod; each container has entries of device ids."""
    return pb.PodResources(
        namespace="ml",
        name=name,
        containers=[
            pb.ContainerResources(
                name=container,
                devices=[
                    pb.ContainerDevices(resource_name="nvidia.com/x", device_ids=ids)
                    for ids in entries
                ],
            )
            for container, entries in containers.items()
        ],
    )


def test_every_device_of_every_container() -> None:
    pods = [
        pod("b", main=[["MIG-1"], ["MIG-2", "MIG-3"]], side=[["MIG-4"]]),
        pod("a", main=[["MIG-1"]]),
        pod("idle"),
    ]
    assert holders(pods) == {
        "MIG-1": (Holder("ml", "a", "main"), Holder("ml", "b", "main")),
        "MIG-2": (Holder("ml", "b", "main"),),
        "MIG-3": (Holder("ml", "b", "main"),),
        "MIG-4": (Holder("ml", "b", "side"),),
    }


def test_a_container_counts_once() -> None:
    assert holders([pod("a", main=[["MIG-1"], ["MIG-1"]])]) == {
        "MIG-1": (Holder("ml", "a", "main"),)
    }


def test_shares_count_for_their_device() -> None:
    known = holders(
        [pod("a", main=[["MIG-1::0", "MIG-1::3"]]), pod("b", main=[["MIG-10::0"], ["GPU-1"]])]
    )
    assert containers(of_devices(known, ["MIG-1"])) == ["ml/a (main)"]
    assert containers(of_devices(known, ["GPU-1", "MIG-1"])) == ["ml/a (main)", "ml/b (main)"]
    assert containers(of_devices(known, ["MIG-2"])) == []


@pytest.mark.parametrize("ask", [list_pods, allocatable])
@pytest.mark.asyncio
async def test_no_kubelet(tmp_path: Path, ask: Ask) -> None:
    with pytest.raises(KubeletError, match="no answer; is kubelet running"):
        await ask(tmp_path / "kubelet.sock")


@pytest.mark.parametrize(("ask", "version"), [(list_pods, "1.20"), (allocatable, "1.23")])
@pytest.mark.asyncio
async def test_a_kubelet_without_the_api(tmp_path: Path, ask: Ask, version: str) -> None:
    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{tmp_path}/kubelet.sock")
    await server.start()
    try:
        with pytest.raises(
            KubeletError, match=f"does not know the API's version v1; Kubernetes {version}"
        ):
            await ask(tmp_path / "kubelet.sock")
    finally:
        await server.stop(None)


async def _overloaded(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    del request
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")


@pytest.mark.asyncio
async def test_kubelets_own_words_are_kept(tmp_path: Path) -> None:
    server = grpc.aio.server()
    list_: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_overloaded)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": list_})]
    )
    server.add_insecure_port(f"unix:{tmp_path}/kubelet.sock")
    await server.start()
    try:
        with pytest.raises(KubeletError, match="RESOURCE_EXHAUSTED: rejected by rate limit"):
            await list_pods(tmp_path / "kubelet.sock")
    finally:
        await server.stop(None)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.asyncio
async def test_a_peer_that_sends_everybody_away_is_asked_once(
    tmp_path: Path, *, at_once: bool
) -> None:
    async with goaway(tmp_path / "kubelet.sock", at_once=at_once) as peer:
        with pytest.raises(KubeletError, match="no answer"):
            await list_pods(tmp_path / "kubelet.sock")
        assert peer.connections <= 2
        assert peer.calls <= 1


# ---- how often the daemon asks


@pytest.mark.parametrize(
    ("known", "seconds"),
    [
        (Holdings(), 15.0),
        (Holdings(silent=True), 15.0),
        (Holdings(trusted=True), 15.0),
        (Holdings(doubted=80.0), 2.0),
        (Holdings(doubted=80.0, silent=True), 15.0),
        (Holdings(doubted=60.0), 15.0),
    ],
)
def test_only_an_answer_in_doubt_is_asked_for_again_soon(known: Holdings, seconds: float) -> None:
    assert pause(known, 100.0) == seconds


# ---- kubelet's checkpoint


def entry(**devices: list[str]) -> dict[str, Any]:
    return {"PodUID": "u", "ContainerName": "main", "ResourceName": "r", "DeviceIDs": devices}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"Data": {"PodDeviceEntries": None, "RegisteredDevices": {}}, "Checksum": 1}, set()),
        (
            {"Data": {"PodDeviceEntries": [entry(**{"-1": ["a"], "0": ["b", "c"]}), entry()]}},
            {"a", "b", "c"},
        ),
        ({"Data": {"PodDeviceEntries": [{"DeviceIDs": ["a"]}, {"DeviceIDs": None}]}}, {"a"}),
        ({"Data": {}}, None),
        ({"Data": {"PodDeviceEntries": [{}]}}, None),
        ({"Data": {"PodDeviceEntries": [3]}}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_checkpoint_names_what_is_allocated(
    tmp_path: Path, document: object, expected: set[str] | None
) -> None:
    path = tmp_path / checkpoint.NAME
    path.write_text(json.dumps(document))
    names = checkpoint.allocated_ids(path)
    assert (None if names is None else set(names)) == expected


def test_a_checkpoint_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.NAME
    assert checkpoint.allocated_ids(path) is None
    path.write_bytes(b"\xff{")
    assert checkpoint.allocated_ids(path) is None
    path.unlink()
    os.mkfifo(path)  # opening it for reading would wait for a writer
    assert checkpoint.allocated_ids(path) is None
    path.unlink()
    path.mkdir()
    assert checkpoint.allocated_ids(path) is None


def test_the_stand_ins_checkpoint_is_read_as_kubelets(tmp_path: Path) -> None:
    held = Assignment("ml/a", "main", "r", {"a": 0, "b": -1}, device_pb.ContainerAllocateResponse())
    save(tmp_path, [held], {"r": ["a", "b", "c"]})
    assert checkpoint.allocated_ids(tmp_path / checkpoint.NAME) == frozenset("ab")


# ---- an answer and what tells whether it is whole


@dataclass
class Peer:
    """A kubelet that lists what it is given, and whose clocks stand still."""

    socket: Path
    pods: list[pb.PodResources]
    wall: float = 0.0
    goes: bool = False
    counted: dict[str, list[str]] = field(default_factory=dict)

    async def list(self, request: object, context: object) -> pb.ListPodResourcesResponse:
        del request, context
        if self.goes:
            self.socket.unlink()
            self.socket.touch()
        return pb.ListPodResourcesResponse(pod_resources=self.pods)

    async def count(self, request: object, context: object) -> pb.AllocatableResourcesResponse:
        """Each device is an entry of its own, as kubelet writes it."""
        del request, context
        return pb.AllocatableResourcesResponse(
            devices=[
                pb.ContainerDevices(resource_name=resource, device_ids=[name])
                for resource, ids in self.counted.items()
                for name in ids
            ]
        )

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = grpc.aio.server()
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self.list,
            request_deserializer=pb.ListPodResourcesRequest.FromString,
            response_serializer=pb.ListPodResourcesResponse.SerializeToString,
        )
        counting: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self.count,
            request_deserializer=pb.AllocatableResourcesRequest.FromString,
            response_serializer=pb.AllocatableResourcesResponse.SerializeToString,
        )
        methods = {"List": handler, "GetAllocatableResources": counting}
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("v1.PodResourcesLister", methods)]
        )
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    def observer(self, **more: Any) -> Observer:
        return Observer(self.socket, clock=lambda: 7.0, wall_clock=lambda: self.wall, **more)


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path / "kubelet.sock", [pod("a", main=[["MIG-1"], ["MIG-2"]]), pod("ours")])


@pytest.mark.asyncio
async def test_what_kubelet_counts(peer: Peer) -> None:
    peer.counted = {"r": ["a", "b"], "s": ["c"]}
    async with peer.listening():
        assert await allocatable(peer.socket) == {"r": frozenset("ab"), "s": frozenset("c")}


@pytest.mark.asyncio
async def test_an_answer_tells_which_kubelet_gave_it(peer: Peer) -> None:
    async with peer.listening():
        peer.wall = peer.socket.stat().st_ctime + 30
        first = await peer.observer(own_pod="ours").ask(Holdings())
        again = await peer.observer().ask(Holdings())
    async with peer.listening():
        other = await peer.observer().ask(Holdings())
        peer.wall = 0.0  # a clock that was put back
        assert (await peer.observer().ask(Holdings())).up == 0.0
    assert (first.at, first.pods, first.own) == (7.0, 2, True)
    assert first.up == pytest.approx(30)
    assert (again.own, again.kubelet) == (False, first.kubelet)
    assert other.kubelet not in {None, first.kubelet}


@pytest.mark.asyncio
async def test_a_kubelet_that_is_replaced_while_it_answers_is_none(peer: Peer) -> None:
    peer.goes = True
    async with peer.listening():
        assert (await peer.observer().ask(Holdings())).kubelet is None


@pytest.mark.asyncio
async def test_the_checkpoint_is_read_only_when_it_decides(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / checkpoint.NAME
    path.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry(x=["MIG-1", "MIG-2::3"])]}}))
    observer = peer.observer(checkpoint=path)
    async with peer.listening():
        young = await observer.ask(Holdings())
        assert young.checkpoint == frozenset({"MIG-1", "MIG-2::3"})
        part = await observer.ask(Holdings(), ["MIG-2"])
        assert (set(part.holders), part.checkpoint) == ({"MIG-2"}, frozenset({"MIG-2::3"}))
        believed = replace(answered(Holdings(), young), trusted=True)
        assert (await observer.ask(believed)).checkpoint is None
        peer.wall = peer.socket.stat().st_ctime + 3600
        assert (await observer.ask(Holdings())).checkpoint is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(kubelet_socket="/k/dp/kubelet.sock"), Path("/k/dp/kubelet_internal_checkpoint")),
        (Settings(kubelet_socket=""), None),
    ],
)
def test_the_checkpoint_lies_beside_kubelets_socket(
    settings: Settings, expected: Path | None
) -> None:
    assert Observer.of(settings).checkpoint == expected


def test_our_own_pod_is_named_or_is_the_host() -> None:
    assert own_pod({"POD_NAME": "plugin-x"}) == "plugin-x"
    assert own_pod({}) == socket.gethostname()


# ---- what drain says

A, B = Holder("ml", "a", "main"), Holder("ml", "b", "main")


@pytest.mark.parametrize(
    ("known", "problem", "expected"),
    [
        (Holdings(trusted=True), "", ""),
        (Holdings(trusted=True, holders={"x": (A,)}), "", "waiting for 1 container: ml/a (main)"),
        (
            Holdings(trusted=True, holders={"x": (A, B), "y": (A,)}),
            "",
            "waiting for 2 containers: ml/a (main), ml/b (main)",
        ),
        (Holdings(), "", "waiting for kubelet to list its pods again"),
        (
            Holdings(holders={"x": (A,)}),
            "",
            "waiting for kubelet to list its pods again; last known: ml/a (main)",
        ),
        (
            Holdings(trusted=True, silent=True, holders={"x": (A,)}),
            "nobody there",
            "waiting, pod resources not answering: nobody there; last known: ml/a (main)",
        ),
        (
            Holdings(trusted=True, handed_out={"x": 1.0}),
            "",
            "waiting for kubelet to list the container that was given it a moment ago",
        ),
    ],
)
def test_drain_says_what_it_waits_for(known: Holdings, problem: str, expected: str) -> None:
    assert waiting_for(known, problem) == expected


def test_what_is_waited_for_is_said_again_now_and_then() -> None:
    notices = Notices()
    said = [(now, notices.due("waiting for 1", float(now))) for now in range(0, 200, 5)]
    assert [entry for entry in said if entry[1]] == [
        (0, "waiting for 1"),
        (10, "still waiting for 1"),
        (70, "still waiting for 1"),
        (130, "still waiting for 1"),
        (190, "still waiting for 1"),
    ]
    assert notices.due("waiting for 2", 201) == "waiting for 2"
    assert notices.due("waiting for 1", 202) == "waiting for 1"
