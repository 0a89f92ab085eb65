"""Registering with kubelet over a real socket: what is answered, and by whom."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin.registration import register
from tests.goaway import goaway

RESOURCE, OURS = "nvidia.com/mig-1g.5gb", "ours.sock"
Context = grpc.aio.ServicerContext[pb.RegisterRequest, pb.Empty]

pytestmark = pytest.mark.asyncio


class Kubelet(pb_grpc.RegistrationServicer):
    def __init__(self) -> None:
        self.refuses = ""
        self.requests: list[pb.RegisterRequest] = []

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.Empty:  # noqa: N802 - named by the protocol
        self.requests.append(request)
        if self.refuses:
            await context.abort(grpc.StatusCode.UNKNOWN, self.refuses)
        return pb.Empty()


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mdp-") as folder:  # a unix socket's path is short
        yield Path(folder) / "kubelet.sock"


@asynccontextmanager
async def kubelet(path: Path) -> AsyncIterator[Kubelet]:
    answering, server = Kubelet(), grpc.aio.server()
    pb_grpc.add_RegistrationServicer_to_server(answering, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield answering
    await server.stop(None)


async def test_what_kubelet_gets(path: Path) -> None:
    async with kubelet(path) as answering:
        await register(path, RESOURCE, OURS, lambda: True)
    (request,) = answering.requests
    assert (request.version, request.endpoint, request.resource_name) == ("v1beta1", OURS, RESOURCE)
    assert request.options.get_preferred_allocation_available


async def test_kubelets_own_sentence(path: Path) -> None:
    async with kubelet(path) as answering:
        answering.refuses = "the requested API version is not supported"
        with pytest.raises(KubeletError, match="UNKNOWN: the requested API version is not"):
            await register(path, RESOURCE, OURS, lambda: True)


async def test_a_socket_that_kubelet_has_deleted_is_not_registered(path: Path) -> None:
    async with kubelet(path) as answering:
        with pytest.raises(KubeletError, match="has deleted the socket"):
            await register(path, RESOURCE, OURS, lambda: False)
        assert answering.requests == []


@pytest.mark.parametrize("left", [True, False])
async def test_nobody_listens(path: Path, *, left: bool) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        if left:
            dead.bind(str(path))
        with pytest.raises(KubeletError, match="nothing listens at"):
            await register(path, RESOURCE, OURS, lambda: True)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_peer_that_sends_everybody_away_is_asked_once(path: Path, *, at_once: bool) -> None:
    async with goaway(path, at_once=at_once) as peer, asyncio.timeout(20):
        with pytest.raises(KubeletError):
            await register(path, RESOURCE, OURS, lambda: True)
        assert peer.connections <= 2
        assert peer.calls <= 1
