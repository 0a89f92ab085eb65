"""Another vendor's plugin for a resource, as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc


async def start(
    directory: Path, socket: str, resource: str, *ids: str
) -> asyncio.subprocess.Process:
    """Serve and register `resource` with these devices; killed, it leaves its socket behind."""
    arguments = (str(directory), socket, resource, *ids)
    return await asyncio.create_subprocess_exec(sys.executable, __file__, *arguments)


async def _options(request: pb.Empty, context: object) -> pb.DevicePluginOptions:
    del request, context
    return pb.DevicePluginOptions()


async def _run(directory: Path, socket: str, resource: str, ids: list[str]) -> None:
    async def lists(request: pb.Empty, context: object) -> AsyncIterator[pb.ListAndWatchResponse]:
        del request, context
        yield pb.ListAndWatchResponse(
            devices=[pb.Device(ID=name, health="Healthy") for name in ids]
        )
        await asyncio.Event().wait()

    options: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        _options,
        request_deserializer=pb.Empty.FromString,
        response_serializer=pb.DevicePluginOptions.SerializeToString,
    )
    watch: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
        lists,
        request_deserializer=pb.Empty.FromString,
        response_serializer=pb.ListAndWatchResponse.SerializeToString,
    )
    methods = {"GetDevicePluginOptions": options, "ListAndWatch": watch}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", methods)]
    )
    server.add_insecure_port(f"unix:{directory / socket}")
    await server.start()
    request = pb.RegisterRequest(version="v1beta1", endpoint=socket, resource_name=resource)
    async with grpc.aio.insecure_channel(f"unix:{directory / 'kubelet.sock'}") as channel:
        await pb_grpc.RegistrationStub(channel).Register(request)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
