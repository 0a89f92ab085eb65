"""Telling kubelet that a resource is served."""

from __future__ import annotations

from pathlib import Path

import grpc

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.errors import KubeletError
from plugin.kubelet.wire import VERSION

#: Kubelet dials back inside the call and gives up after 10 s; a little longer lets its own words arrive.
REGISTER_SECONDS = 12.0

#: A subchannel of its own per attempt: gRPC shares its reconnection back-off, a second and more, between channels.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def register(kubelet_socket: Path, resource: str, endpoint: str) -> None:
    """Register `resource`, served on the socket called `endpoint` beside kubelet's.

    Raises :class:`KubeletError` with kubelet's words.
    """
    request = pb.RegisterRequest(
        version=VERSION,
        endpoint=endpoint,
        resource_name=resource,
        options=pb.DevicePluginOptions(get_preferred_allocation_available=True),
    )
    try:
        async with grpc.aio.insecure_channel(f"unix:{kubelet_socket}", options=_OPTIONS) as channel:
            await pb_grpc.RegistrationStub(channel).Register(request, timeout=REGISTER_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise KubeletError(
            f"kubelet did not accept the registration of {resource} at {kubelet_socket}: "
            f"{error.code().name}: {error.details()}"
        ) from error
