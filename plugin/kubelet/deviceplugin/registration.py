"""Registers a resource with kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin.wire import VERSION

#: Kubelet dials back during the call and gives up after 10 s; slightly more lets its error arrive.
REGISTER_SECONDS = 12.0

#: One subchannel per attempt: otherwise channels share gRPC's reconnection back-off of a second and
#: more.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # Without this, a peer that answers with GOAWAY is retried without a pause, and each attempt
    # leaks memory.
    ("grpc.enable_retries", 0),
)

#: (kubelet's socket, resource, name of our socket, is our socket served) → registered, or
#: KubeletError.
Register = Callable[[Path, str, str, Callable[[], bool]], Awaitable[None]]


async def register(
    kubelet_socket: Path, resource: str, endpoint: str, is_served: Callable[[], bool]
) -> None:
    """Register `resource`, served on the socket `endpoint` in kubelet's directory.

    `is_served` is called once the connection is established: a kubelet deletes every socket before
    it listens, so a socket that exists then stays. A missing endpoint would make kubelet dial it
    for 10 s. Raises :class:`KubeletError` with kubelet's message.
    """
    request = pb.RegisterRequest(
        version=VERSION,
        endpoint=endpoint,
        resource_name=resource,
        options=pb.DevicePluginOptions(get_preferred_allocation_available=True),
    )
    try:
        async with grpc.aio.insecure_channel(f"unix:{kubelet_socket}", options=_OPTIONS) as channel:
            await _connected(channel, kubelet_socket)
            if not is_served():
                raise KubeletError(f"kubelet has deleted the socket of {resource} in its start")
            await pb_grpc.RegistrationStub(channel).Register(request, timeout=REGISTER_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise KubeletError(
            f"kubelet did not accept the registration of {resource} at {kubelet_socket}: "
            f"{error.code().name}: {error.details()}"
        ) from error


async def _connected(channel: grpc.aio.Channel, socket: Path) -> None:
    """Wait for the connection, or its first failure."""
    state = channel.get_state(try_to_connect=True)
    try:
        async with asyncio.timeout(REGISTER_SECONDS):
            await channel.wait_for_state_change(state)
            # Going idle is a failure as well: a peer that closes every connection would be dialled
            # forever.
            while (state := channel.get_state()) is grpc.ChannelConnectivity.CONNECTING:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise KubeletError(f"what listens at {socket} does not answer") from None
    if state is not grpc.ChannelConnectivity.READY:
        raise KubeletError(f"nothing listens at {socket}")
