"""The stand-in kubelet's connections: a client per plugin, and servers that leave their socket."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import grpc

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.errors import KubeletError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable
    from pathlib import Path
    from typing import TypeVar

    from plugin.api.deviceplugin_v1beta1_pb2_grpc import DevicePluginAsyncStub

    Answer = TypeVar("Answer")

#: Time limit of PreStartContainer in seconds; Allocate has none.
PRE_START_TIMEOUT_S = 30.0

_CHANNEL_OPTIONS = (
    # Separate connections for two registrations of one socket, as in kubelet.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class PluginConnection:
    """One dialled plugin. Every failed call is a :class:`KubeletError` with the plugin's
    message.
    """

    def __init__(self, resource: str, endpoint: str, path: Path) -> None:
        self.resource = resource
        self.endpoint = endpoint
        self._channel = grpc.aio.insecure_channel(f"unix:{path}", options=_CHANNEL_OPTIONS)
        self._stub: DevicePluginAsyncStub = pb_grpc.DevicePluginStub(self._channel)

    async def options(self, timeout_s: float) -> pb.DevicePluginOptions:
        """Dial and ask for the options; a dead socket takes the whole ``timeout_s``."""
        call = self._stub.GetDevicePluginOptions(pb.Empty(), timeout=timeout_s, wait_for_ready=True)
        return await self._answer("GetDevicePluginOptions", call)

    async def prefer(self, available: list[str], size: int) -> list[str]:
        request = pb.PreferredAllocationRequest(
            container_requests=[
                pb.ContainerPreferredAllocationRequest(
                    available_deviceIDs=available, allocation_size=size
                )
            ]
        )
        response = await self._answer(
            "GetPreferredAllocation", self._stub.GetPreferredAllocation(request)
        )
        return (
            list(response.container_responses[0].deviceIDs) if response.container_responses else []
        )

    async def allocate(self, ids: list[str]) -> pb.AllocateResponse:
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)]
        )
        return await self._answer("Allocate", self._stub.Allocate(request))

    async def pre_start(self, ids: list[str]) -> None:
        request = pb.PreStartContainerRequest(devices_ids=ids)
        await self._answer(
            "PreStartContainer", self._stub.PreStartContainer(request, timeout=PRE_START_TIMEOUT_S)
        )

    async def lists(self) -> AsyncGenerator[pb.ListAndWatchResponse, None]:
        """Open ListAndWatch and yield its messages until the stream ends for any reason."""
        call = self._stub.ListAndWatch(pb.Empty())
        while True:
            try:
                message = await self._answer("ListAndWatch", call.read())
            except KubeletError:
                return
            if not isinstance(message, pb.ListAndWatchResponse):  # end of stream
                return
            yield message

    async def close(self) -> None:
        await self._channel.close()

    async def _answer(self, method: str, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            raise KubeletError(f"{method} on {self.endpoint}: {code}: {error.details()}") from error
        except asyncio.CancelledError:
            # Closing the channel cancels its calls, which must not look like a cancellation of this
            # task.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise KubeletError(f"{method} on {self.endpoint}: the connection was closed") from None


class SocketServer:
    """A gRPC server on ``directory/name`` whose socket file remains, as after a killed process.

    gRPC unlinks its path when it stops. This path goes through a descriptor of the directory that
    points elsewhere by then, so nothing is unlinked. ``bind`` still creates the file in its final
    place, as watchers expect.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._fd = -1
        self.server = grpc.aio.server()

    async def start(self) -> None:
        self._fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.server.add_insecure_port(f"unix:/proc/self/fd/{self._fd}/{self._name}")
            await self.server.start()
        except RuntimeError as error:
            os.close(self._fd)
            raise KubeletError(
                f"cannot listen on {self._directory / self._name}: {error}"
            ) from error

    async def stop(self) -> None:
        """Drop every connection at once."""
        nowhere = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nowhere, self._fd, inheritable=False)
        os.close(nowhere)
        await self.server.stop(None)
        os.close(self._fd)
