"""A gRPC client that costs next to nothing: frames made beforehand, a blocking socket, no decoding.

A Python gRPC client spends more on a call than the daemon does, so what it measures is mostly
itself.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from pathlib import Path
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = (
    0x0,
    0x1,
    0x3,
    0x4,
    0x6,
    0x7,
    0x8,
)
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4

_INITIAL_WINDOW_SIZE = 0x4
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535

#: HPACK's static table: ``:authority``, ``:method POST``, ``:path``, ``:scheme http``.
_AUTHORITY, _POST, _PATH, _HTTP = 1, 0x83, 4, 0x86

#: No answer for this long means that something is broken, not slow.
_SECONDS = 10.0


class Connection:
    """One connection that makes one kind of unary call, over and over. It gives up a window of 2
    GiB of answers.
    """

    def __init__(self, path: Path, method: str, request: bytes) -> None:
        """`method` is ``/package.Service/Method``; `request` is the encoded message."""
        self._headers = _headers(method)
        self._body = struct.pack(">BI", 0, len(request)) + request
        self._stream = 1
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SECONDS)
        self._socket.connect(str(path))
        self._socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW))
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def call(self) -> bytes:
        """One call; returns the encoded answer."""
        self._send()
        data = b""
        while True:
            kind, flags, _, payload = self._receive()
            if kind == _DATA:
                data += payload
            elif kind == _HEADERS and flags & _END_STREAM:
                if not data:
                    raise ConnectionError(f"the call was refused: {payload!r}")
                return data[5:]

    def measure(self, count: int, outstanding: int) -> tuple[float, ...]:
        """Make `count` calls with `outstanding` of them on the way; each one's microseconds until
        its trailers.
        """
        sent: dict[int, int] = {}
        answered: set[int] = set()
        took: deque[float] = deque()
        left = count
        while len(took) < count:
            while left and len(sent) < outstanding:
                stream = self._send()
                sent[stream] = time.perf_counter_ns()
                left -= 1
            kind, flags, stream, _ = self._receive()
            if kind == _DATA:
                answered.add(stream)
            elif kind == _HEADERS and flags & _END_STREAM:
                took.append((time.perf_counter_ns() - sent.pop(stream)) / 1000)
                if stream not in answered:
                    raise ConnectionError("a call was refused")
                answered.discard(stream)
        return tuple(took)

    def _send(self) -> int:
        stream = self._stream
        self._stream += 2
        self._socket.sendall(
            _frame(_HEADERS, _END_HEADERS, stream, self._headers)
            + _frame(_DATA, _END_STREAM, stream, self._body)
        )
        return stream

    def _receive(self) -> tuple[int, int, int, bytes]:
        """The next frame that concerns a stream: ``(type, flags, stream, payload)``."""
        while True:
            high, low, kind, flags, stream = struct.unpack(">BHBBI", self._read(9))
            payload = self._read(high << 16 | low)
            if kind == _SETTINGS and not flags & _ACK:
                self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self._socket.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind in {_RST_STREAM, _GOAWAY}:
                raise ConnectionError(f"the server ended it: frame {kind}, {payload!r}")
            elif stream:
                return kind, flags, stream, payload

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            more = self._socket.recv(1 << 16)
            if not more:
                raise ConnectionError("the server closed the connection")
            self._buffer += more
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _headers(method: str) -> bytes:
    """A request's header block: literals without indexing or compression, so that every call has
    the same bytes.
    """
    return (
        bytes([_POST, _HTTP])
        + bytes([_PATH])
        + _text(method)
        + bytes([_AUTHORITY])
        + _text("localhost")
        + b"".join(
            b"\0" + _text(name) + _text(value)
            for name, value in (("te", "trailers"), ("content-type", "application/grpc"))
        )
    )


def _text(text: str) -> bytes:
    """HPACK's string; short ones only, as longer lengths take several bytes."""
    raw = text.encode("ascii")
    if len(raw) >= 127:  # seven bits, of which all ones means that more bytes come
        raise ValueError(f"too long for one byte of length: {text}")
    return bytes([len(raw)]) + raw
