"""A peer that answers every call with GOAWAY, as an HTTP/2 server may that takes no streams."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS, _GOAWAY = 1, 4, 7


class GoAway:
    """``calls`` counts the streams that were opened. With `at_once` it does not wait for one."""

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self.connections = 0
        self.calls = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(len(_PREFACE))
            self.connections += 1
            writer.write(_frame(_SETTINGS))
            if self._at_once:
                writer.write(_frame(_GOAWAY, struct.pack(">II", 0, 0)))
            while not self._at_once:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == _SETTINGS and not head[4]:
                    writer.write(_frame(_SETTINGS, flags=1))
                if head[3] == _HEADERS:
                    self.calls += 1
                    # The last stream that was taken is 0: whatever was asked may be asked again.
                    writer.write(_frame(_GOAWAY, struct.pack(">II", 0, 0)))
                    break
            await writer.drain()
        writer.close()


def _frame(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    return len(body).to_bytes(3) + bytes([kind, flags]) + bytes(4) + body


@asynccontextmanager
async def goaway(path: Path, *, at_once: bool = False) -> AsyncIterator[GoAway]:
    peer = GoAway(at_once=at_once)
    server = await asyncio.start_unix_server(peer.handle, path)
    try:
        yield peer
    finally:
        server.close()
        for writer in peer.writers:
            writer.close()
