"""A gRPC server of the DevicePlugin service on its own socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import grpc

from plugin.api.deviceplugin_v1beta1_pb2_grpc import add_DevicePluginServicer_to_server
from plugin.kubelet.deviceplugin.servicer import ResourceServicer


class Server(Protocol):
    async def stop(self, grace: float | None, /) -> None: ...


#: Starts a server on a path that does not exist yet. Raises OSError.
Serve = Callable[[ResourceServicer, Path], Awaitable[Server]]


async def serve(servicer: ResourceServicer, path: Path) -> Server:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_DevicePluginServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise OSError(
            f"cannot serve on {path}: {error}; is the directory there and writable?"
        ) from error
    await server.start()
    return server
