"""Telling kubelet that a resource is served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin.wire import VERSION

#: Kubelet dials back inside the call and gives up after 10 s; a little longer lets its own words
#: arrive.
REGISTER_SECONDS = 12.0

#: A subchannel of its own per attempt: gRPC shares its reconnection back-off, a second and more,
#: between channels.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # A peer that answers every stream with GOAWAY would be tried again without a pause, and each
    # attempt keeps its memory.
    ("grpc.enable_retries", 0),
)

#: (kubelet's socket, resource, name of our socket, whether that is served) → registered, or
#: KubeletError.
Register = Callable[[Path, str, str, Callable[[], bool]], Awaitable[None]]


async def register(
    kubelet_socket: Path, resource: str, endpoint: str, is_served: Callable[[], bool]
) -> None:
    """Register `resource`, served on the socket called `endpoint` beside kubelet's.

    `is_served` is asked once the connection stands: a kubelet deletes every socket before it
    listens, so one that is there then will stay, while an endpoint that is gone would make kubelet
    dial it for 10 s. Raises
    :class:`KubeletError` with kubelet's words.
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
    """Wait for the connection, or for the first failure to make or to keep one."""
    state = channel.get_state(try_to_connect=True)
    try:
        async with asyncio.timeout(REGISTER_SECONDS):
            await channel.wait_for_state_change(state)
            # Idle again is a failure, too: a peer that sends everybody away at once would be
            # dialled again and again.
            while (state := channel.get_state()) is grpc.ChannelConnectivity.CONNECTING:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise KubeletError(f"what listens at {socket} does not answer") from None
    if state is not grpc.ChannelConnectivity.READY:
        raise KubeletError(f"nothing listens at {socket}")
