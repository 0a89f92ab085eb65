"""A gRPC server in Python that answers every call with nothing: what Allocate would cost if it did
nothing.

``python -m tests.benchmarks.empty_server SOCKET`` serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

import grpc


class Everything(grpc.GenericRpcHandler):
    """Takes every method; messages are bytes on both sides."""

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(_answer)


async def _answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    del request, context
    return b"\0"


async def serve(path: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Everything(),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
