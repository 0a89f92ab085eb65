"""Answers of kubelet's pod resources, and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from plugin.core.holders import Holdings, containers, of_devices
from plugin.core.view import Holder
from plugin.errors import KubeletError
from plugin.kubelet.podresources.client import allocatable, holders, list_pods
from plugin.kubelet.podresources.pods import pause
from tests.goaway import goaway

from .podresources_peer import Peer, pod

Ask = Callable[[Path], Awaitable[object]]


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


@pytest.mark.asyncio
async def test_what_kubelet_counts(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "kubelet.sock", [], counted={"r": ["a", "b"], "s": ["c"]})
    async with peer.listening():
        assert await allocatable(peer.socket) == {"r": frozenset("ab"), "s": frozenset("c")}


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
        assert peer.connections <= 5  # gRPC connects again after a second, while the call waits
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
