"""A gRPC server of the DevicePlugin service on its own socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import grpc

from plugin.api.deviceplugin_v1beta1_pb2_grpc import add_DevicePluginServicer_to_server
from plugin.core.denial import explained
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
        raise OSError(why_not(path, str(error))) from error
    try:
        await server.start()
    except BaseException:
        # Cancelled after it has begun: nobody else would ever stop it.
        await server.stop(None)
        raise
    return server


def why_not(path: Path, otherwise: str) -> str:
    """Why nothing can listen on `path`. gRPC names no reason, so this binds a socket itself;
    `otherwise` is what gRPC said, should that succeed.
    """
    # Each attempt has another name; with it, each would be a new reason, and a new line of the log.
    what = f"cannot serve in {path.parent}"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(path))
        except OSError as error:
            return explained(what, error, user=os.geteuid())
    path.unlink(missing_ok=True)
    return f"{what}: {otherwise}"
